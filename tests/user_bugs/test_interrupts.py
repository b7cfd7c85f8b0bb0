"""KeyboardInterrupt and SystemExit, raised anywhere in a user's code, come out of the block when all is closed."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import pytest
from anyio.lowlevel import checkpoint

from pea2pea import Config, Connection, DisconnectOrigin, Node, Side, TCPTransport
from pea2pea.transport import TCPStream
from tests.helpers import (
    MemoryStream,
    RawPeer,
    User,
    above_info,
    descriptors,
    frame,
    frames,
    memory_pair,
    turns,
    wait_until,
)

from .flawed import ASYNC, PLACES, Flawed, provoked

if TYPE_CHECKING:
    from collections.abc import Callable

    from pea2pea import Address, Listener
    from pea2pea.codecs import Chunk

Backend = tuple[str, dict[str, Any]]


def ends_the_block(backend: Backend, user: Flawed, expected: BaseException) -> None:
    """Run a program in which `user` is provoked; the exception has to come out of the block, and of nothing else."""

    async def main() -> None:
        before = descriptors()
        with pytest.raises(type(expected)) as caught:
            async with provoked(user):
                await anyio.sleep_forever()
        assert caught.value is expected
        assert descriptors() == before
        assert not user.node.connections
        assert not user.node.connecting

    anyio.run(main, backend=backend[0], backend_options=backend[1])


class Outcome(BaseException):
    """Neither an `Exception` nor an interrupt, like the outcomes of pytest's and others' test runners."""


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Outcome, pytest.fail.Exception])
@pytest.mark.parametrize("place", ["perform_handshake", *PLACES])
def test_it_comes_out_of_the_block_as_it_is(
    anyio_backend: Backend, place: str, kind: Callable[[], BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    error = kind()

    def fail() -> None:
        raise error

    ends_the_block(anyio_backend, Flawed(place, fail), error)
    assert not above_info(caplog)


@pytest.mark.parametrize("place", ["perform_handshake", *ASYNC])
def test_it_comes_out_of_a_hook_that_waits(anyio_backend: Backend, place: str) -> None:
    error = KeyboardInterrupt()

    async def stall() -> None:
        await checkpoint()
        raise error

    ends_the_block(anyio_backend, Flawed(place, stall=stall), error)


def test_interrupt_in_the_second_reader(anyio_backend: Backend) -> None:
    """It comes out of a handler that the second reader has called."""
    error = KeyboardInterrupt()
    victims: list[RawPeer] = []

    async def stall() -> None:
        if len(victims) == 2:
            raise error
        victims.append(victims[0])
        await victims[0].send(frame(b"read by the other one, while this one is busy"))
        stats = user.node.connections[victims[0].addr].stats
        received = stats.bytes_received
        await wait_until(lambda: stats.bytes_received > received)

    user = Flawed("process_message", stall=stall)

    async def main() -> None:
        with pytest.raises(KeyboardInterrupt) as caught:  # noqa: PT012  # it is the block that raises
            async with provoked(user) as (_, victim):
                victims.append(victim)
                await anyio.sleep_forever()
        assert caught.value is error

    anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])


@pytest.mark.parametrize("kind", [KeyboardInterrupt, Outcome])
@pytest.mark.parametrize("place", ["perform_handshake", *ASYNC])
def test_it_comes_out_of_an_exception_group(
    anyio_backend: Backend, place: str, kind: Callable[[], BaseException]
) -> None:
    error = kind()

    async def fail() -> None:
        raise ZeroDivisionError

    async def stall() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            async with anyio.create_task_group():
                raise error

    ends_the_block(anyio_backend, Flawed(place, stall=stall), error)


@pytest.mark.parametrize("place", ["perform_handshake", *PLACES])
def test_the_node_ends_in_order(anyio_backend: Backend, place: str) -> None:
    """An honest peer gets what was sent to it before, and every connection has its `on_disconnect`."""

    def fail() -> None:
        user.armed = False
        user.outbox.send_nowait(user.connected[0], b"sent before")
        raise SystemExit

    async def part(connection: Connection, _: DisconnectOrigin) -> None:
        if connection.addr == user.connected[0]:
            await turns()
            user.outbox.send_nowait(connection, b"last words")

    async def main() -> list[bytes]:
        with pytest.raises(SystemExit):  # noqa: PT012  # it is the block that raises
            async with user.node:
                addr = await user.node.start_listening()
                honest = await RawPeer.dial(addr)
                await wait_until(lambda: user.connected)
                user.armed = True
                victim = await RawPeer.dial(addr)
                await user.provoke(victim)
                await anyio.sleep_forever()
        with honest, victim:
            assert user.ended.count((honest.addr, DisconnectOrigin.SHUTDOWN)) == 1
            return frames(await honest.receive_all())

    user = Flawed(place, fail)
    user.part = part
    told = anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
    assert told == [b"sent before", b"last words"]
    ended = [addr for addr, _ in user.ended]
    assert len(ended) == len(set(ended))
    assert set(user.connected) <= set(ended)


@pytest.mark.parametrize("places", ["hook hook", "hook body", "body hook"])
def test_the_second_one_ends_it_at_once(anyio_backend: Backend, places: str) -> None:
    first, second = SystemExit(1), SystemExit(2)
    parting: list[Address] = []

    async def greet(connection: Connection) -> None:
        await wait_until(lambda: len(user.node.connections) == 2)
        if connection.addr == user.connected[0] and places.startswith("hook"):
            raise first

    async def part(connection: Connection, _: DisconnectOrigin) -> None:
        parting.append(connection.addr)
        if len(parting) == 2 and places.endswith("hook"):
            raise second
        await anyio.sleep_forever()

    async def main() -> None:
        before = descriptors()
        peers: list[RawPeer] = []
        with pytest.raises(SystemExit) as caught:  # noqa: PT012  # it is the block that raises
            async with user.node:
                addr = await user.node.start_listening()
                peers.extend([await RawPeer.dial(addr), await RawPeer.dial(addr)])
                await wait_until(lambda: len(user.connected) == 2)
                if places.startswith("body"):
                    raise first
                try:
                    await anyio.sleep_forever()
                finally:
                    if places.endswith("body"):
                        raise second
        assert caught.value is first
        for peer in peers:
            peer.close()
        assert descriptors() == before

    user = User(Config(grace_period=3600))
    user.greet, user.part = greet, part
    anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])


class InterruptedStream(MemoryStream):
    """Where the program happens to be when somebody presses Ctrl-C, or a stream that exits."""

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        return self.met(await super().receive(max_bytes))

    async def send(self, item: bytes) -> None:
        await super().send(self.met(item))

    def met(self, data: bytes) -> bytes:
        for kind in (KeyboardInterrupt, SystemExit):
            if kind.__name__.encode() in data:
                raise kind
        return data


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["a reader", "the other reader", "the writer"])
def test_a_connection_whose_own_task_was_met_ends_in_order(
    anyio_backend: Backend, where: str, kind: type[BaseException]
) -> None:
    """Trio raises KeyboardInterrupt wherever the program is."""
    user = User(Config(grace_period=0.1))
    what = kind.__name__.encode()

    async def main() -> None:
        near, far = memory_pair()
        near.__class__ = InterruptedStream
        async with far:
            with pytest.raises(kind):  # noqa: PT012  # it is the block that raises
                async with user.node:
                    await user.node.adopt(near, ("near", 1), Side.INITIATOR)
                    if where == "the other reader":
                        await far.send(frame(b"keep one reader busy"))
                        await wait_until(lambda: user.received)
                    if where == "the writer":
                        await user.outbox.send(("near", 1), what)
                    else:
                        await far.send(what)
                    await anyio.sleep_forever()

    async def stall(*_: object) -> None:
        await anyio.sleep_forever()

    user.handle = user.greet = stall
    anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
    assert user.origins == [DisconnectOrigin.SHUTDOWN]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupt_of_a_closing_connection(anyio_backend: Backend, kind: type[BaseException]) -> None:
    """What it still receives is read by a task of its own, and thrown away."""
    user = User(Config(grace_period=0.3))
    hooks_returned: list[Address] = []

    async def main() -> None:
        near, far = memory_pair()
        near.__class__ = InterruptedStream
        other, others_far = memory_pair()

        async def part(connection: Connection, _: DisconnectOrigin) -> None:
            if connection.addr == ("near", 1):
                await far.send(kind.__name__.encode())
                await wait_until(lambda: len(user.origins) == 2)
            await checkpoint()
            hooks_returned.append(connection.addr)

        user.part = part
        async with far, others_far:
            with pytest.raises(kind):  # noqa: PT012  # it is the block that raises
                async with user.node:
                    await user.node.adopt(near, ("near", 1), Side.INITIATOR)
                    await user.node.adopt(other, ("other", 1), Side.INITIATOR)
                    await user.node.disconnect(("near", 1))
                    await anyio.sleep_forever()

    anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
    assert user.origins == [DisconnectOrigin.USER, DisconnectOrigin.SHUTDOWN]
    assert sorted(hooks_returned) == [("near", 1), ("other", 1)]


def test_a_node_whose_flusher_was_met_ends_in_order(anyio_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is met at one peer's queue; another peer still gets its messages."""
    send_nowait = TCPStream.send_nowait
    met: list[object] = []

    def interrupted(self: TCPStream, parts: list[Chunk]) -> list[Chunk]:
        if not met:
            met.append(self)
            raise KeyboardInterrupt
        return send_nowait(self, parts)

    async def main() -> list[int]:
        """How many messages of each peer's were lost."""
        peers: list[RawPeer] = []
        sent: list[int] = []
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  # it is the block that raises
            async with user.node:
                addr = await user.node.start_listening()
                peers.extend([await RawPeer.dial(addr), await RawPeer.dial(addr)])
                await wait_until(lambda: len(user.connected) == 2)
                monkeypatch.setattr(TCPStream, "send_nowait", interrupted)
                for peer in peers:
                    sent.append(0)
                    while not user.outbox.pending(peer.addr):  # the first ones go out at once
                        user.outbox.send_nowait(peer.addr, b"")
                        sent[-1] += 1
                await anyio.sleep_forever()
        with peers[0], peers[1]:
            return [count - len(frames(await peer.receive_all())) for count, peer in zip(sent, peers, strict=True)]

    user = User()
    lost = anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
    assert lost == [1, 0]
    assert user.origins == [DisconnectOrigin.SHUTDOWN] * 2


class InterruptedTransport(TCPTransport):
    """Its listener is where the program happens to be when somebody presses Ctrl-C."""

    async def listen(self, addr: Address, /, *, backlog: int, reuse_port: bool) -> Listener:
        listener = await super().listen(addr, backlog=backlog, reuse_port=reuse_port)

        async def accept() -> NoReturn:
            await checkpoint()
            raise KeyboardInterrupt

        listener.accept = accept  # type: ignore[method-assign]  # for the test
        return listener


def test_it_comes_out_of_what_is_no_code_of_a_user_s(anyio_backend: Backend) -> None:
    async def main() -> None:
        async with Node(transport=InterruptedTransport()) as node:
            await node.start_listening()
            await anyio.sleep_forever()

    before = descriptors()
    with pytest.raises(KeyboardInterrupt):
        anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
    assert descriptors() == before


def test_it_leaves_the_loop_usable(anyio_backend: Backend) -> None:
    user = Flawed("on_connect")

    def fail() -> None:
        raise SystemExit

    user.fail = fail

    async def main() -> str:
        with suppress(SystemExit):
            async with provoked(user):
                await anyio.sleep_forever()
        await checkpoint()
        return "lives on"

    assert anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1]) == "lives on"
