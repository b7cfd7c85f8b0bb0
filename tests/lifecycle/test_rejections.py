"""What `Heuristics.inbound_rejections` counts."""

from __future__ import annotations

from contextlib import suppress

import pytest

from pea2pea import Address, Config, Listener, SelfConnectionError, TCPTransport

from ..helpers import LOCALHOST, MemoryStream, RawPeer, User, memory_pair, wait_until


class Twice:
    """A listener to whom the same peer comes twice."""

    addr = (LOCALHOST, 7)

    def __init__(self) -> None:
        self.streams = [memory_pair()[0] for _ in range(2)]
        self.left = list(self.streams)

    async def accept(self) -> tuple[MemoryStream, Address]:
        if not self.left:
            await wait_until(lambda: False, 3600)
        return self.left.pop(), (LOCALHOST, 1)

    async def aclose(self) -> None:
        pass


class DuplicatePeers(TCPTransport):
    def __init__(self) -> None:
        self.listener = Twice()

    async def listen(self, addr: Address, /, *, backlog: int, reuse_port: bool) -> Listener:
        return self.listener


async def test_a_limit_is_counted() -> None:
    async with User(Config(max_connections=1)).node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr), await RawPeer.dial(addr) as surplus:
            assert await surplus.is_refused()
            assert node.heuristics.inbound_rejections == 1


async def test_an_address_that_is_connected_already_is_counted() -> None:
    transport = DuplicatePeers()
    async with User(Config(grace_period=0), transport=transport).node as node:
        await node.start_listening()
        await wait_until(lambda: node.heuristics.inbound_rejections == 1)
        assert sum(stream.closed for stream in transport.listener.streams) == 1


@pytest.mark.parametrize("host", [LOCALHOST, "localhost"])
async def test_a_loop_is_counted(host: str) -> None:
    async with User(Config(reuse_listener_port=True)).node as node:
        addr = await node.start_listening()
        with suppress(SelfConnectionError):
            await node.connect((host, addr[1]))
        await wait_until(lambda: node.heuristics.inbound_rejections == 1 or not node.connections)
        assert node.heuristics.inbound_rejections <= 1
        await wait_until(lambda: not node.connections)
