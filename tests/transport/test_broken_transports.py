"""A transport of the user's that raises, or hangs, costs one connection, and never the node."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest
from anyio.abc import SocketAttribute

from pea2pea import Address, Config, Listener, TCPTransport

from ..helpers import Echo, Opaque, RawPeer, frame, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anyio.abc import ByteStream


class Nameless(Opaque):
    """Its socket's names cannot be told."""

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        def fail() -> Any:
            raise ValueError("negative file descriptor")

        return {SocketAttribute.local_address: fail, SocketAttribute.remote_address: fail}


class Broken(TCPTransport):
    """Its listener hands out the first connection as `spoil` makes it."""

    def __init__(self, spoil: Callable[[ByteStream, Address], object], *, hangs: bool = False) -> None:
        self.spoil = spoil
        self.hangs = hangs

    async def listen(self, addr: Address, /, *, backlog: int, reuse_port: bool) -> Listener:
        return BrokenListener(await super().listen(addr, backlog=backlog, reuse_port=reuse_port), self)


class BrokenListener:
    def __init__(self, inner: Listener, transport: Broken) -> None:
        self.inner = inner
        self.addr = inner.addr
        self.transport = transport
        self.count = 0

    async def accept(self) -> tuple[ByteStream, Address]:
        stream, addr = await self.inner.accept()
        self.count += 1
        if self.count > 1:
            return stream, addr
        return cast("tuple[ByteStream, Address]", self.transport.spoil(stream, addr))

    async def aclose(self) -> None:
        await self.inner.aclose()
        if self.transport.hangs:
            await anyio.sleep_forever()


async def answers(addr: Address) -> bool:
    with await RawPeer.dial(addr) as peer:
        await peer.send(frame(b"hello"))
        return await peer.receive_message() == b"hello"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda stream, addr: (stream, list(addr)),
        lambda stream, addr: (stream, (addr[0], "a port")),
        lambda stream, _: (stream, None),
    ],
    ids=["a list", "a port that is a text", "none"],
)
async def test_what_is_no_address_costs_one_connection(spoil: Callable[[ByteStream, Address], object]) -> None:
    echo = Echo(transport=Broken(spoil))
    async with echo.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as peer:
            assert await peer.is_refused()
        assert node.heuristics.hook_errors == 1
        assert await answers(addr)


async def test_stream_without_names(caplog: pytest.LogCaptureFixture) -> None:
    """Also while a dial is watched for a loop."""
    transport = Broken(lambda stream, addr: (Nameless(stream), addr))
    echo = Echo(Config(listener_addr=("127.0.0.1", 0), grace_period=0.1), transport=transport)
    async with echo.node as node:
        addr = await node.start_listening()
        other = Echo(Config(listener_addr=("127.0.0.2", addr[1])))
        async with other.node:
            await node.connect(await other.node.start_listening())  # at the port where it listens itself
            assert await answers(addr)
            assert node.heuristics.hook_errors == 0
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@pytest.mark.parametrize("how", ["stop listening", "leave"])
async def test_listener_whose_close_hangs(how: str) -> None:
    """A listener whose close hangs is bounded by the grace period."""
    echo = Echo(Config(grace_period=0.1), transport=Broken(lambda *accepted: accepted, hangs=True))
    with anyio.fail_after(10):
        async with echo.node as node:
            await node.start_listening()
            if how == "stop listening":
                await node.stop_listening()
                assert node.listening_addr is None


async def test_a_logging_filter_that_raises_harms_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    class Filter(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise RuntimeError("a filter of the user's")

    found, logger = Filter(), logging.getLogger("pea2pea")
    level = logger.level
    logger.addFilter(found)
    logger.setLevel(logging.INFO)
    try:
        echo = Echo(Config(max_connections=1))
        async with echo.node as node:
            addr = await node.start_listening()
            with await RawPeer.dial(addr) as peer:
                await wait_until(lambda: len(node.connections) == 1)
                with await RawPeer.dial(addr) as surplus:
                    assert await surplus.is_refused()
                await peer.send(frame(b"hello"))
                assert await peer.receive_message() == b"hello"
    finally:
        logger.removeFilter(found)
        logger.setLevel(level)
    assert "a filter of the user's" in capsys.readouterr().err
