"""Peers that make it hard to part from them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import EndOfStream

from pea2pea import Config, Connection, DisconnectOrigin, Side
from tests.helpers import MemoryStream, RawListener, RawPeer, User, frame, frames, memory_pair, turns, wait_until

from .target import Target, besieged, join, shake_hands

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from pea2pea import Address, Node

GRACE = Config(grace_period=0.3)
END: dict[str, Callable[[Node, Address], Awaitable[object]]] = {
    "disconnect": lambda node, addr: node.disconnect(addr),
    "abort": lambda node, addr: node.disconnect(addr, abort=True),
    "shut_down": lambda node, _: node.shut_down(),
}


async def flood(peer: RawPeer) -> None:
    with suppress(OSError, anyio.ClosedResourceError):
        while True:
            await peer.send(frame(bytes(900)) * 50)


async def drip(peer: RawPeer) -> None:
    with suppress(OSError, anyio.ClosedResourceError):
        while True:
            await peer.send(b"\0")
            await turns()


async def say_nothing(_: RawPeer) -> None:
    pass


async def read_all_and_answer_the_end_with_more(peer: RawPeer) -> None:
    with suppress(OSError):
        await peer.receive_all()
        await flood(peer)


@pytest.mark.parametrize("end", END)
@pytest.mark.parametrize("peers_way", [flood, drip, say_nothing, read_all_and_answer_the_end_with_more])
async def test_end_within_the_grace_period(
    peers_way: Callable[[RawPeer], Coroutine[None, None, None]], end: str
) -> None:
    """A peer that goes its way is parted from within the grace period."""
    target = Target(GRACE)
    async with target.node as node, anyio.create_task_group() as tasks:
        await node.start_listening()
        with await join(target) as peer:
            tasks.start_soon(peers_way, peer)
            await END[end](node, peer.addr)
            assert not node.connections
            assert target.ended == [
                (peer.addr, DisconnectOrigin.SHUTDOWN if end == "shut_down" else DisconnectOrigin.USER)
            ]
            tasks.cancel_scope.cancel()


async def test_flood_during_the_goodbye() -> None:
    """A peer that floods during our goodbye gets all that we sent."""
    target = Target()
    async with target.node as node:
        await node.start_listening()
        with await join(target) as peer:
            for number in range(1000):
                await target.outbox.send(peer.addr, b"%d" % number)
            got: list[bytes] = []
            async with anyio.create_task_group() as tasks:

                async def read() -> None:
                    with suppress(ConnectionResetError):
                        while data := await peer.receive():
                            got.append(data)
                    tasks.cancel_scope.cancel()

                async def flood_with_what_is_no_message() -> None:
                    with suppress(OSError):
                        while True:
                            await peer.send(bytes(100_000))

                tasks.start_soon(flood_with_what_is_no_message)
                tasks.start_soon(node.disconnect, peer.addr)
                tasks.start_soon(read)
            # the empty messages that it sent before the end were echoed
            assert [message for message in frames(b"".join(got)) if message] == [b"%d" % n for n in range(1000)]


async def test_slot_of_a_peer_that_does_not_read() -> None:
    """A peer that does not read cannot hold its slot beyond the grace period."""
    target = Target(Config(grace_period=0.2, max_connections=1))
    async with target.node as node:
        await node.start_listening()
        with await RawPeer.dial(target.addr, receive_buffer=4096) as peer:
            await shake_hands(peer)
            await wait_until(lambda: node.connections)
            target.outbox.send_nowait(peer.addr, bytes(1000))
            while target.outbox.pending(peer.addr) < 100:
                target.outbox.send_nowait(peer.addr, bytes(1000))
            assert await node.disconnect(peer.addr)
            with await join(target) as successor:
                await wait_until(lambda: list(node.connections) == [successor.addr])


async def test_a_peer_that_resets_during_our_goodbye_ends_it() -> None:
    target = Target(Config(grace_period=30))
    resetting = anyio.Event()

    async def hold(_: Connection, __: DisconnectOrigin) -> None:
        peer.reset()
        resetting.set()

    target.part = hold
    async with besieged(target):
        with await join(target) as peer:
            target.outbox.send_nowait(peer.addr, b"farewell")
            assert await target.node.disconnect(peer.addr)
            assert resetting.is_set()
        target.part = User().part


async def test_close_during_disconnect() -> None:
    """A peer that closes while we disconnect it is disconnected once."""
    target = Target()
    async with besieged(target):
        for number in range(20):
            with await join(target) as peer:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(target.node.disconnect, peer.addr)
                    peer.reset() if number % 2 else peer.close()
                assert len(target.ended) == number + 1


async def test_dialled_peer_that_never_speaks() -> None:
    """A dialled peer that never speaks is given up at the handshake timeout."""
    target = Target(handshake_timeout=0.05)
    with RawListener.open() as listener:
        async with target.node as node:
            with pytest.raises(TimeoutError):
                await node.connect(listener.addr)
            assert not node.connecting
    assert target.node.heuristics.handshake_timeouts == 1


async def test_return_from_the_same_port() -> None:
    """A peer that comes back from the same port gets a connection of its own."""
    target = Target()
    async with besieged(target):
        with await join(target) as first:
            connection = target.node.connections[first.addr]
            first.reset()
            await wait_until(lambda: first.addr not in target.node.connections)
        assert not await target.node.disconnect(connection)


class EmptyAtTheEnd(MemoryStream):
    """Says that it has ended as sockets do, not as AnyIO's streams."""

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        try:
            return await super().receive(max_bytes)
        except EndOfStream:
            return b""


@pytest.mark.parametrize("protocols", [[], ["reading"]])
async def test_a_stream_that_ends_with_an_empty_chunk_has_ended(protocols: list[str]) -> None:
    user = User(enable=[*protocols, "on_disconnect"])
    async with user.node as node:
        for end in (node.disconnect, None):
            ours, theirs = memory_pair()
            ours.__class__ = EmptyAtTheEnd
            connection = await node.adopt(ours, ("203.0.113.1", 1), Side.INITIATOR)
            await turns()
            async with anyio.create_task_group() as tasks:
                if end is not None:
                    tasks.start_soon(end, connection)
                    await turns()
                await theirs.send_eof()
                await wait_until(lambda: not node.connections)
    assert user.origins == [DisconnectOrigin.USER, DisconnectOrigin.READING]
