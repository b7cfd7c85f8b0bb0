"""What the outbox promises those who send."""

from __future__ import annotations

import pytest
from anyio import CancelScope, Event, create_task_group
from anyio.lowlevel import checkpoint

from pea2pea import DeliveryError, NotConnectedError, QueueFullError

from ..helpers import User, connect, turns, two_nodes, wait_until
from .outgoing import Sender, crowd
from .stuck import CLOG, stuck_peer

MUCH = 1 << 30
either_way = pytest.mark.parametrize("over", ["socket", "memory"])


# Whom to send to


async def test_a_message_to_somebody_unknown_is_refused() -> None:
    sender = Sender()
    nobody = ("192.0.2.1", 1)
    async with sender.node:
        with pytest.raises(NotConnectedError) as refusal:
            sender.outbox.send_nowait(nobody, b"hello")
        assert refusal.value.addr == nobody
        with pytest.raises(NotConnectedError):
            await sender.outbox.send(nobody, b"hello")
        with pytest.raises(NotConnectedError):
            await sender.outbox.deliver(nobody, b"hello")
        with pytest.raises(NotConnectedError):
            sender.outbox.pending(nobody)
        assert sender.outbox.broadcast(b"hello") == {}
    assert not sender.encoded


async def test_a_message_to_a_connection_that_has_ended_is_refused() -> None:
    sender = Sender()
    async with two_nodes(sender, User()) as (connection, _):
        await sender.node.disconnect(connection)
        with pytest.raises(NotConnectedError) as refusal:
            sender.outbox.send_nowait(connection, b"hello")
        assert refusal.value.addr == connection.addr


async def test_a_connection_is_not_taken_for_its_successor() -> None:
    sender, receiver = Sender(), User()
    async with two_nodes(sender, receiver) as (first, _):
        await sender.node.disconnect(first)
        second, _ = await connect(sender, receiver)
        assert second.addr == first.addr
        with pytest.raises(NotConnectedError):
            sender.outbox.send_nowait(first, b"to the first")
        sender.outbox.send_nowait(second, b"to the second")
        sender.outbox.send_nowait(first.addr, b"to whoever is there")
        await wait_until(lambda: receiver.received == [b"to the second", b"to whoever is there"])


async def test_an_address_is_taken_in_any_form() -> None:
    sender, receiver = Sender(), User()
    async with two_nodes(sender, receiver) as (connection, _):
        host, port = connection.addr
        sender.outbox.send_nowait((f"::ffff:{host}", port), b"hello")
        await wait_until(lambda: receiver.received == [b"hello"])
        assert sender.outbox.pending((f"::ffff:{host}", port)) == 0


# The queue


@either_way
async def test_queue_depth(over: str) -> None:
    """A queue takes its depth and refuses what comes on top unencoded."""
    sender = Sender(queue_depth=3, queue_bytes=MUCH)
    async with stuck_peer(sender, over) as peer:
        sender.outbox.send_nowait(peer.connection, b"second")
        sender.outbox.send_nowait(peer.connection, b"third")
        assert sender.outbox.pending(peer.connection) == 3
        with pytest.raises(QueueFullError):
            sender.outbox.send_nowait(peer.connection, b"fourth")
        assert sender.outbox.pending(peer.connection) == 3
        assert sender.encoded == [CLOG, b"second", b"third"]
        assert [await peer.read() for _ in range(3)] == [CLOG, b"second", b"third"]
        await wait_until(lambda: sender.outbox.pending(peer.connection) == 0)
        sender.outbox.send_nowait(peer.connection, b"fourth")
        assert await peer.read() == b"fourth"


@either_way
async def test_a_queue_is_full_once_its_bytes_have_reached_their_limit(over: str) -> None:
    sender = Sender(queue_bytes=4 + len(CLOG) + 14)
    async with stuck_peer(sender, over) as peer:
        sender.outbox.send_nowait(peer.connection, b"123456789")  # and 4 bytes of length: one less than the limit
        sender.outbox.send_nowait(peer.connection, bytes(100))
        with pytest.raises(QueueFullError):
            sender.outbox.send_nowait(peer.connection, b"")


@either_way
async def test_an_empty_queue_takes_a_message_of_any_size(over: str) -> None:
    sender = Sender(queue_bytes=1)
    async with stuck_peer(sender, over) as peer:
        with pytest.raises(QueueFullError):
            sender.outbox.send_nowait(peer.connection, b"")
        assert await peer.read() == CLOG
        await wait_until(lambda: sender.outbox.pending(peer.connection) == 0)
        sender.outbox.send_nowait(peer.connection, CLOG)
        assert await peer.read() == CLOG


async def test_a_burst_is_queued_and_written_in_order() -> None:
    sender, receiver = Sender(), User()
    messages = [b"%d" % number for number in range(1000)]
    async with two_nodes(sender, receiver) as (connection, _):
        for message in messages:
            sender.outbox.send_nowait(connection, message)
        await wait_until(lambda: receiver.received == messages)
        assert sender.outbox.pending(connection) == 0
        assert connection.stats.messages_sent == 1000


# Waiting for room


async def test_send_with_room_is_no_checkpoint() -> None:
    sender = Sender()
    async with two_nodes(sender, User()) as (connection, _):
        with CancelScope() as scope:
            scope.cancel()
            for _ in range(10):
                await sender.outbox.send(connection, b"hello")
        assert not scope.cancelled_caught
    assert len(sender.encoded) == 10


@either_way
async def test_send_waits_for_room(over: str) -> None:
    sender = Sender()
    async with stuck_peer(sender, over) as peer, create_task_group() as group:
        group.start_soon(sender.outbox.send, peer.connection, b"hello")
        await turns()
        assert sender.outbox.pending(peer.connection) == 1
        assert sender.encoded == [CLOG]
        assert [await peer.read(), await peer.read()] == [CLOG, b"hello"]


@either_way
@pytest.mark.parametrize("limits", [{"queue_depth": 1}, {"queue_depth": 3, "queue_bytes": MUCH}, {"queue_bytes": 1}])
async def test_waiting_senders_are_served_in_order(over: str, limits: dict[str, int]) -> None:
    sender = Sender(**limits)
    messages = [b"%d" % number * 200 for number in range(10, 40)]
    async with stuck_peer(sender, over) as peer, create_task_group() as group:
        for _ in range(limits.get("queue_depth", 1) - 1):
            sender.outbox.send_nowait(peer.connection, b"")
        for message in messages:
            group.start_soon(sender.outbox.send, peer.connection, message)
            await turns()
        assert await peer.read() == CLOG
        read: list[bytes] = []
        while len(read) < len(messages):
            if message := await peer.read():
                read.append(message)
        assert read == messages


@either_way
async def test_senders_keep_their_order(over: str) -> None:
    """A sender that has just come does not overtake one that waits."""
    sender = Sender(queue_depth=1)

    async def come_late() -> None:
        while sender.outbox.pending(peer.connection):
            await checkpoint()
        await sender.outbox.send(peer.connection, b"late")

    async with stuck_peer(sender, over) as peer:
        for _ in range(8):
            async with create_task_group() as group:
                group.start_soon(sender.outbox.send, peer.connection, b"early")
                await turns()
                group.start_soon(come_late)
                assert [await peer.read() for _ in range(3)] == [CLOG, b"early", b"late"]
                await wait_until(lambda: not sender.outbox.pending(peer.connection))
                sender.outbox.send_nowait(peer.connection, CLOG)


@either_way
async def test_who_does_not_wait_cannot_take_the_room_of_those_who_do(over: str) -> None:
    sender = Sender(queue_depth=1)
    async with stuck_peer(sender, over) as peer, create_task_group() as group:
        sent = Event()

        async def wait() -> None:
            await sender.outbox.send(peer.connection, b"patient")
            sent.set()

        async def push() -> None:
            while not sent.is_set():
                with pytest.raises(QueueFullError):
                    sender.outbox.send_nowait(peer.connection, b"pushy")
                assert list(sender.outbox.broadcast(b"pushy")) == [peer.connection]
                await checkpoint()

        group.start_soon(wait)
        await turns()
        group.start_soon(push)
        assert [await peer.read() for _ in range(2)] == [CLOG, b"patient"]
    assert sender.encoded == [CLOG, b"patient"]


@either_way
async def test_cancelled_sender(over: str) -> None:
    """A cancelled sender queues nothing and the next one gets its turn."""
    sender = Sender(queue_depth=1)
    async with stuck_peer(sender, over) as peer, create_task_group() as group:
        scopes = [CancelScope() for _ in range(3)]

        async def send(scope: CancelScope, message: bytes) -> None:
            with scope:
                await sender.outbox.send(peer.connection, message)

        for scope, message in zip(scopes, (b"first", b"second", b"third"), strict=True):
            group.start_soon(send, scope, message)
            await turns()
        scopes[1].cancel()
        await turns()
        scopes[0].cancel()
        await turns()
        assert [await peer.read(), await peer.read()] == [CLOG, b"third"]
    assert sender.encoded == [CLOG, b"third"]


@either_way
async def test_cancelled_sender_at_its_turn(over: str) -> None:
    """A sender that is cancelled when it is its turn passes the turn on."""
    sender = Sender(queue_depth=1)

    async def send_or_be_cancelled(scope: CancelScope) -> None:
        with scope:
            await sender.outbox.send(peer.connection, b"cancelled")

    async def cancel_in_time(scope: CancelScope) -> None:
        while sender.outbox.pending(peer.connection):
            await checkpoint()
        scope.cancel()

    async with stuck_peer(sender, over) as peer:
        for _ in range(8):
            async with create_task_group() as group:
                scope = CancelScope()
                group.start_soon(send_or_be_cancelled, scope)
                await turns()
                group.start_soon(sender.outbox.send, peer.connection, b"next")
                await turns()
                group.start_soon(cancel_in_time, scope)
                assert await peer.read() == CLOG
                message = await peer.read()
                if message == b"cancelled":
                    assert not scope.cancelled_caught
                    message = await peer.read()
                assert message == b"next"
            sender.outbox.send_nowait(peer.connection, CLOG)


@either_way
async def test_a_bad_message_of_a_waiting_sender_passes_the_turn_on(over: str) -> None:
    sender = Sender(queue_depth=1)
    async with stuck_peer(sender, over) as peer, create_task_group() as group:

        async def send_bad() -> None:
            with pytest.raises(ArithmeticError):
                await sender.outbox.send(peer.connection, b"bad")

        group.start_soon(send_bad)
        await turns()
        group.start_soon(sender.outbox.send, peer.connection, b"next")
        await turns()
        assert [await peer.read(), await peer.read()] == [CLOG, b"next"]


@either_way
@pytest.mark.parametrize("by", ["disconnect", "abort", "reset"])
async def test_waiting_senders_are_told_when_the_connection_ends(over: str, by: str) -> None:
    sender = Sender(queue_depth=1)
    refusals: list[NotConnectedError] = []
    async with stuck_peer(sender, over) as peer, create_task_group() as group:

        async def send() -> None:
            with pytest.raises(NotConnectedError) as refusal:
                await sender.outbox.send(peer.connection, b"hello")
            refusals.append(refusal.value)

        for _ in range(5):
            group.start_soon(send)
        await turns()
        if by == "reset":
            await peer.leave()
        else:
            assert await sender.node.disconnect(peer.connection, abort=by == "abort")
    assert [refusal.addr for refusal in refusals] == [peer.connection.addr] * 5
    assert sender.encoded == [CLOG]


# Delivering


@either_way
async def test_deliver_returns_once_the_message_is_written(over: str) -> None:
    sender = Sender(queue_bytes=MUCH)
    delivered = Event()
    async with stuck_peer(sender, over) as peer, create_task_group() as group:

        async def deliver() -> None:
            await sender.outbox.deliver(peer.connection, b"hello")
            delivered.set()

        group.start_soon(deliver)
        await turns()
        assert sender.outbox.pending(peer.connection) == 2
        assert not delivered.is_set()
        assert await peer.read() == CLOG
        await delivered.wait()
        assert sender.outbox.pending(peer.connection) == 0
        assert await peer.read() == b"hello"


async def test_deliver_to_an_idle_peer_returns_with_nothing_pending() -> None:
    sender, receiver = Sender(), User()
    async with two_nodes(sender, receiver) as (connection, _):
        for _ in range(100):
            await sender.outbox.deliver(connection, b"hello")
            assert sender.outbox.pending(connection) == 0
        assert connection.stats.messages_sent == 100
        await wait_until(lambda: len(receiver.received) == 100)


@either_way
async def test_deliver_waits_for_room_first(over: str) -> None:
    sender = Sender(queue_depth=1)
    async with stuck_peer(sender, over) as peer, create_task_group() as group:
        group.start_soon(sender.outbox.deliver, peer.connection, b"first")
        await turns()
        group.start_soon(sender.outbox.deliver, peer.connection, b"second")
        await turns()
        assert sender.encoded == [CLOG]
        assert [await peer.read() for _ in range(3)] == [CLOG, b"first", b"second"]


@either_way
@pytest.mark.parametrize("by", ["abort", "reset"])
async def test_deliver_raises_if_the_connection_ends_before_the_write(over: str, by: str) -> None:
    sender = Sender(queue_bytes=MUCH)
    errors: list[DeliveryError] = []
    async with stuck_peer(sender, over) as peer, create_task_group() as group:

        async def deliver() -> None:
            with pytest.raises(DeliveryError) as error:
                await sender.outbox.deliver(peer.connection, b"hello")
            errors.append(error.value)

        for _ in range(3):
            group.start_soon(deliver)
        await turns()
        assert sender.outbox.pending(peer.connection) == 4
        if by == "reset":
            await peer.leave()
        else:
            await sender.node.disconnect(peer.connection, abort=True)
    assert [error.addr for error in errors] == [peer.connection.addr] * 3


async def test_deliver_meets_a_reset() -> None:
    """Deliver raises if the peer has reset the connection in the very moment."""
    sender = Sender()
    async with crowd(sender, 1) as (peer,):
        assert sender.outbox.pending(peer.addr) == 0
        peer.reset()
        with pytest.raises(DeliveryError) as error:
            await sender.outbox.deliver(peer.addr, b"hello")
        assert error.value.addr == peer.addr


@either_way
async def test_a_cancelled_deliver_takes_nothing_back(over: str) -> None:
    sender = Sender(queue_bytes=MUCH)
    async with stuck_peer(sender, over) as peer, create_task_group() as group:
        scope = CancelScope()

        async def deliver() -> None:
            with scope:
                await sender.outbox.deliver(peer.connection, b"hello")

        group.start_soon(deliver)
        await turns()
        scope.cancel()
        await turns()
        assert scope.cancelled_caught
        await sender.outbox.send(peer.connection, b"and good-bye")
        assert [await peer.read() for _ in range(3)] == [CLOG, b"hello", b"and good-bye"]


@either_way
async def test_what_was_queued_before_an_end_is_still_delivered(over: str) -> None:
    sender = Sender(queue_bytes=MUCH, grace_period=10.0)
    async with stuck_peer(sender, over) as peer, create_task_group() as group:
        group.start_soon(sender.outbox.deliver, peer.connection, b"hello")
        await turns()
        group.start_soon(sender.node.disconnect, peer.connection)
        assert await peer.read_all() == [CLOG, b"hello"]
        await peer.leave()


# Encoders


async def test_what_an_encoder_raises_is_the_callers_and_nothing_is_sent() -> None:
    sender, receiver = Sender(), User()
    async with two_nodes(sender, receiver) as (connection, _):
        with pytest.raises(ArithmeticError):
            sender.outbox.send_nowait(connection, b"bad")
        with pytest.raises(ArithmeticError):
            await sender.outbox.send(connection, b"bad")
        with pytest.raises(ArithmeticError):
            await sender.outbox.deliver(connection, b"bad")
        assert sender.outbox.pending(connection) == 0
        await sender.outbox.deliver(connection, b"good")
        await wait_until(lambda: receiver.received == [b"good"])
        assert connection in sender.node.connections.values()
        assert sender.node.heuristics.hook_errors == 0
        assert connection.stats.messages_sent == 1
