"""What `Heuristics.inbound_rejections` counts."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest
from anyio import CancelScope, Event, create_task_group, sleep_forever

from pea2pea import Address, Config, Connection, Listener, NodeClosedError, SelfConnectionError, TCPTransport

from ..helpers import ALL, LOCALHOST, MemoryStream, RawListener, RawPeer, User, memory_pair, turns, wait_until

if TYPE_CHECKING:
    from anyio.abc import ByteStream


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
@pytest.mark.parametrize("shaking", [False, True])
async def test_a_loop_is_counted_unless_it_was_established(host: str, shaking: bool) -> None:
    """Either end may find it; what was established is no rejection."""
    user = User(Config(reuse_listener_port=True), enable=ALL if shaking else ALL - {"handshake"})
    user.shake_hands = shake_hands_for_ever
    async with user.node as node:
        addr = await node.start_listening()
        with suppress(SelfConnectionError):
            await node.connect((host, addr[1]))
        await wait_until(lambda: not node.connections and not node.connecting)
        await wait_until(lambda: node.heuristics.inbound_rejections + len(user.ended) >= 1)
        inbound = [ended for ended in user.ended if ended[0] != addr]
        assert node.heuristics.inbound_rejections == 1 - len(inbound)
        assert not shaking or not inbound


async def shake_hands_for_ever(connection: Connection, stream: ByteStream) -> ByteStream:
    await sleep_forever()
    raise AssertionError


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("by", ["shut_down", "leaving"])
async def test_inbound_set_ups_that_a_shutdown_drops_are_counted(count: int, by: str) -> None:
    user = User(enable=ALL)
    user.shake_hands = shake_hands_for_ever
    with ExitStack() as stack:
        async with user.node as node:
            addr = await node.start_listening()
            peers = [stack.enter_context(await RawPeer.dial(addr)) for _ in range(count)]
            await wait_until(lambda: len(user.shaken) == count)
            assert node.heuristics.inbound_rejections == 0
            if by == "shut_down":
                await node.shut_down()
        assert node.heuristics.inbound_rejections == count
        assert node.heuristics.handshake_failures == 0
        for peer in peers:
            assert await peer.is_refused()


async def test_outbound_set_ups_that_a_shutdown_drops_are_not() -> None:
    user = User(enable=ALL)
    user.shake_hands = shake_hands_for_ever

    async def dial(addr: Address) -> None:
        with pytest.raises(NodeClosedError):
            await user.node.connect(addr)

    with RawListener.open() as listener:
        async with user.node as node, create_task_group() as tasks:
            tasks.start_soon(dial, listener.addr)
            (await listener.accept()).close()
            await wait_until(lambda: user.shaken)
            await node.shut_down()
    assert user.node.heuristics.inbound_rejections == 0


class TooLate(TCPTransport):
    """A transport whose listener hands over a stream, or two, when it was told to stop."""

    addr = (LOCALHOST, 7)

    def __init__(self) -> None:
        self.streams: list[MemoryStream] = []
        self.told = Event()

    async def listen(self, addr: Address, /, *, backlog: int, reuse_port: bool) -> Listener:
        return self

    async def accept(self) -> tuple[MemoryStream, Address]:
        with CancelScope(shield=True):
            await self.told.wait()
        self.streams.append(memory_pair()[0])
        return self.streams[-1], (LOCALHOST, 1)

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("by", ["shut_down", "leaving"])
async def test_who_comes_when_the_node_is_closing_is_counted(by: str) -> None:
    transport = TooLate()
    user = User(enable=ALL, transport=transport)
    node = user.node

    async with node:
        await node.start_listening()

        async def tell_at_the_end() -> None:
            try:
                await sleep_forever()
            finally:
                transport.told.set()

        node.start_soon(tell_at_the_end)
        await turns()
        if by == "shut_down":
            await node.shut_down()
    assert node.heuristics.inbound_rejections == 1
    assert [stream.closed for stream in transport.streams] == [True]
    assert not node.connecting
    assert not user.shaken
