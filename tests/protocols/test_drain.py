"""Waiting for the outgoing queue to drain."""

from __future__ import annotations

import pytest
from anyio import CancelScope, Event, create_task_group

from pea2pea import NotConnectedError, QueueFullError

from ..helpers import User, turns, two_nodes, wait_until
from .outgoing import Sender
from .stuck import CLOG, StuckPeer, stuck_peer

MUCH = 1 << 30
either_way = pytest.mark.parametrize("over", ["socket", "memory"])


class Drain:
    """A task that waits in `drain`."""

    def __init__(self, sender: Sender, peer: StuckPeer, below: int = 1) -> None:
        self.scope = CancelScope()
        self.done = Event()
        self.error: NotConnectedError | None = None
        self._call = sender.outbox.drain(peer.connection, below=below)

    async def __call__(self) -> None:
        with self.scope:
            try:
                await self._call
            except NotConnectedError as error:
                self.error = error
            self.done.set()


async def test_with_an_empty_queue_nothing_is_waited_for() -> None:
    sender, receiver = Sender(), User()
    async with two_nodes(sender, receiver) as (connection, _):
        await sender.outbox.drain(connection)
        await sender.outbox.deliver(connection, b"hello")
        await sender.outbox.drain(connection.addr, below=1)


@either_way
async def test_with_fewer_bytes_queued_nothing_is_waited_for(over: str) -> None:
    sender = Sender()
    async with stuck_peer(sender, over) as peer:
        await sender.outbox.drain(peer.connection, below=len(CLOG) + 5)
        assert sender.outbox.pending(peer.connection) == 1


@either_way
async def test_it_waits_until_all_is_written(over: str) -> None:
    sender = Sender(queue_bytes=MUCH)
    async with stuck_peer(sender, over) as peer, create_task_group() as group:
        sender.outbox.send_nowait(peer.connection, CLOG)
        drain = Drain(sender, peer)
        group.start_soon(drain)
        await turns()
        assert await peer.read() == CLOG
        assert not drain.done.is_set()
        assert await peer.read() == CLOG
        await drain.done.wait()
        assert drain.error is None
        assert sender.outbox.pending(peer.connection) == 0


@either_way
async def test_it_wakes_as_soon_as_fewer_than_so_many_bytes_are_queued(over: str) -> None:
    sender = Sender(queue_bytes=MUCH)
    async with stuck_peer(sender, over) as peer, create_task_group() as group:
        sender.outbox.send_nowait(peer.connection, CLOG)
        some, most = Drain(sender, peer), Drain(sender, peer, below=len(CLOG) + 5)
        group.start_soon(some)
        group.start_soon(most)
        await turns()
        assert not most.done.is_set()
        assert await peer.read() == CLOG
        await most.done.wait()
        assert not some.done.is_set()
        assert sender.outbox.pending(peer.connection) == 1
        assert await peer.read() == CLOG
        await some.done.wait()


@either_way
@pytest.mark.parametrize("end", ["disconnect", "abort", "reset", "shut down"])
async def test_the_end_of_the_connection_is_raised(over: str, end: str) -> None:
    sender = Sender()
    async with stuck_peer(sender, over) as peer, create_task_group() as group:
        waiting = [Drain(sender, peer) for _ in range(3)]
        for drain in waiting:
            group.start_soon(drain)
        await turns()
        if end == "reset":
            await peer.leave()
        elif end == "shut down":
            group.start_soon(sender.node.shut_down)
        else:
            group.start_soon(lambda: sender.node.disconnect(peer.connection, abort=end == "abort"))
        for drain in waiting:
            await drain.done.wait()
            assert drain.error is not None
            assert drain.error.addr == peer.connection.addr


async def test_nobody_is_waited_for_where_nobody_is_connected() -> None:
    sender, receiver = Sender(), User()
    async with two_nodes(sender, receiver) as (connection, _):
        with pytest.raises(NotConnectedError):
            await sender.outbox.drain(("192.0.2.1", 1))
        await sender.node.disconnect(connection)
        with pytest.raises(NotConnectedError):
            await sender.outbox.drain(connection)


@pytest.mark.parametrize("below", [0, -1])
async def test_fewer_than_no_bytes_are_never_queued(below: int) -> None:
    sender, receiver = Sender(), User()
    async with two_nodes(sender, receiver) as (connection, _):
        with pytest.raises(ValueError, match="below"):
            await sender.outbox.drain(connection, below=below)


@either_way
async def test_cancelling_it_changes_nothing(over: str) -> None:
    sender = Sender(queue_bytes=MUCH)
    async with stuck_peer(sender, over) as peer, create_task_group() as group:
        cancelled, other = Drain(sender, peer), Drain(sender, peer)
        group.start_soon(cancelled)
        group.start_soon(other)
        await turns()
        cancelled.scope.cancel()
        await turns()
        assert cancelled.scope.cancelled_caught
        sender.outbox.send_nowait(peer.connection, b"and more")
        assert [await peer.read() for _ in range(2)] == [CLOG, b"and more"]
        await other.done.wait()
        assert other.error is None


@either_way
@pytest.mark.parametrize("size", [3000, 20_000])
@pytest.mark.parametrize("polite", [True, False])
async def test_a_bulk_sender_that_drains_leaves_room_for_urgent_messages(over: str, size: int, polite: bool) -> None:
    """One that does not keeps the queue full: `send_nowait` is refused."""
    sender, refused = Sender(queue_depth=4), 0
    async with stuck_peer(sender, over) as peer, create_task_group() as group:

        async def send_bulk() -> None:
            while True:
                if polite:
                    await sender.outbox.drain(peer.connection, below=2 * size)
                await sender.outbox.send(peer.connection, bytes(size))

        group.start_soon(send_bulk)
        assert await peer.read() == CLOG
        for _ in range(20):
            await turns()
            try:
                sender.outbox.send_nowait(peer.connection, b"urgent")
            except QueueFullError:
                refused += 1
                await peer.read()
            else:
                while await peer.read() != b"urgent":
                    pass
        group.cancel_scope.cancel()
    assert bool(refused) is not polite


async def test_a_full_socket_is_tried_at_once() -> None:
    """What is queued behind a burst goes out in the call, not when the event loop gets its turn."""
    sender, receiver = Sender(), User()
    async with two_nodes(sender, receiver) as (connection, _):
        for _ in range(100):
            sender.outbox.send_nowait(connection, b"burst")
        assert sender.outbox.pending(connection)
        await sender.outbox.drain(connection)
        assert sender.outbox.pending(connection) == 0
        await wait_until(lambda: receiver.received == [b"burst"] * 100)
