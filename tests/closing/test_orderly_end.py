"""What was sent arrives, and what was received is processed, when a connection ends in an orderly way."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from anyio import ClosedResourceError, Event, create_task_group, current_time, sleep
from anyio.lowlevel import checkpoint

from pea2pea import Config, Connection, DisconnectOrigin, NotConnectedError

from ..helpers import ALL, Never, RawListener, RawPeer, User, frame, frames, turns, two_nodes, wait_until
from ..protocols.stuck import CLOG, stuck_peer
from ..protocols.tls import SecureUser

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

MANY = [b"%d" % number for number in range(10_000)]
PATIENT = Config(grace_period=30.0)
HASTY = Config(grace_period=0.1)

over_both = pytest.mark.parametrize("kind", [User, SecureUser], ids=["TCP", "TLS"])


def a_user(kind: type[User], config: Config = PATIENT) -> User:
    return kind(config, enable=ALL if kind is SecureUser else ALL - {"handshake"})


async def until_it_breaks(func: Callable[[], Awaitable[None]]) -> None:
    with suppress(OSError, ClosedResourceError):
        await func()


async def send_all(sender: User, messages: list[bytes]) -> None:
    for message in messages:
        await sender.outbox.send(sender.only, message)


@over_both
async def test_what_was_sent_to_a_slow_handler_arrives(kind: type[User]) -> None:
    sender, receiver = a_user(kind), a_user(kind)

    async def handle(source: Connection, message: bytes) -> None:
        await checkpoint()

    receiver.handle = handle
    messages = [bytes(50_000) + b"%d" % number for number in range(200)]
    async with two_nodes(sender, receiver):
        await send_all(sender, messages)
        await sender.node.disconnect(sender.only)
        await wait_until(lambda: receiver.ended, timeout=30)
    assert receiver.received == messages


@over_both
async def test_last_words_arrive(kind: type[User]) -> None:
    sender, receiver = a_user(kind), a_user(kind)

    async def part(connection: Connection, origin: DisconnectOrigin) -> None:
        await sender.outbox.send(connection, b"farewell")

    sender.part = part
    async with two_nodes(sender, receiver):
        await send_all(sender, [b"hello"])
        await sender.node.disconnect(sender.only)
        await wait_until(lambda: receiver.ended, timeout=30)
    assert receiver.received == [b"hello", b"farewell"]


@over_both
@pytest.mark.parametrize("slowly", [False, True])
async def test_end_in_a_mutual_flood(kind: type[User], slowly: bool) -> None:
    """In a mutual flood all that the one who leaves had sent arrives."""
    leaving, staying = a_user(kind), a_user(kind)
    sent = 0
    if slowly:
        staying.handle = lambda source, message: checkpoint()

    async def flood(user: User) -> None:
        nonlocal sent
        connection = user.only
        with suppress(NotConnectedError):
            while True:
                await user.outbox.send(connection, bytes(4000))
                sent += user is leaving

    async with two_nodes(leaving, staying), create_task_group() as group:
        group.start_soon(flood, leaving)
        group.start_soon(flood, staying)
        await wait_until(lambda: min(len(staying.received), len(leaving.received)) > 300)
        assert await leaving.node.disconnect(leaving.only)
        await wait_until(lambda: staying.ended, timeout=30)
    assert len(staying.received) == sent
    assert staying.origins == [DisconnectOrigin.READING]


# A peer that closes cleanly


async def test_a_half_closed_peer_still_gets_its_answers() -> None:
    user = User(PATIENT)

    async def answer(source: Connection, message: bytes) -> None:
        await turns(3)
        await user.outbox.send(source, message)

    user.handle = answer
    messages = MANY[:1000]
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"".join(map(frame, messages)))
            peer.half_close()
            assert frames(await peer.receive_all()) == messages
            await wait_until(lambda: user.origins == [DisconnectOrigin.READING])


@over_both
async def test_drained_before_the_hook(kind: type[User]) -> None:
    """What came before a clean close is processed before the hook."""
    sender, receiver = a_user(kind), a_user(kind)
    processed_before_the_hook = []

    async def handle(source: Connection, message: bytes) -> None:
        await turns(3)

    async def part(connection: Connection, origin: DisconnectOrigin) -> None:
        processed_before_the_hook.extend(receiver.received)

    receiver.handle, receiver.part = handle, part
    async with two_nodes(sender, receiver):
        await send_all(sender, MANY[:1000])
        await sender.node.disconnect(sender.only)
        await wait_until(lambda: receiver.ended, timeout=30)
    assert processed_before_the_hook == MANY[:1000]
    assert receiver.origins == [DisconnectOrigin.READING]


async def test_peer_that_leaves_without_reading() -> None:
    """A peer that leaves without reading its answers had its messages processed."""
    user = User(PATIENT)

    async def answer(source: Connection, message: bytes) -> None:
        await user.outbox.send(source, message)
        await checkpoint()

    user.handle = answer
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"".join(map(frame, MANY)))
        await wait_until(lambda: user.ended, timeout=30)
        assert node.heuristics.hook_errors == 0
    assert user.received == MANY


async def test_each_message_that_is_drained_has_a_grace_of_its_own() -> None:
    user = User(Config(grace_period=0.6))

    async def handle(source: Connection, message: bytes) -> None:
        await sleep(0.1)  # no condition: it is about handlers that take so long, in sum longer than the grace

    user.handle = handle
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"".join(map(frame, MANY[:9])))
        await wait_until(lambda: user.ended, timeout=30)
    assert user.received == MANY[:9]


@pytest.mark.parametrize("count", [60, 500])
@pytest.mark.parametrize("how", ["disconnect", "disconnect by address", "disconnect, again and again"])
async def test_one_grace_for_what_is_drained(how: str, count: int) -> None:
    """The messages of a peer that has closed cleanly have a grace period each only until then."""
    user = User(Config(grace_period=0.3))

    async def handle(source: Connection, message: bytes) -> None:
        await sleep(0.05)  # no condition: it is about handlers that take so long, far longer than the grace

    user.handle = handle
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"".join(map(frame, MANY[:count])))
        await wait_until(lambda: node.connections and user.only.origin is DisconnectOrigin.READING)
        connection, before = user.only, current_time()
        if how.endswith("again"):
            async with create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(node.disconnect, connection)
                    seen = len(user.received)  # a later call must not begin the grace period anew
                    await wait_until(lambda seen=seen: len(user.received) > seen + 1 or not node.connections)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        else:
            assert not await node.disconnect(connection.addr if how.endswith("address") else connection)
        assert current_time() - before < 1.5
        assert not node.connections
    assert user.received == MANY[: len(user.received)]
    assert len(user.received) < count
    assert user.origins == [DisconnectOrigin.READING]


async def test_connect_while_draining() -> None:
    """It does not cut the draining short; a `disconnect` does, and then it goes on."""
    user = User(Config(grace_period=0.3))
    busy = Event()

    async def handle(source: Connection, message: bytes) -> None:
        busy.set()
        await sleep(0.05)  # no condition: a thousand of these take far longer than the grace, which is a time

    user.handle = handle
    async with user.node as node:
        with RawListener.open() as listener:
            first = await node.connect(listener.addr)
            with await listener.accept() as peer:
                await peer.send(b"".join(map(frame, MANY[:1000])))
            await wait_until(lambda: first.origin is DisconnectOrigin.READING)
            await busy.wait()
            found: list[Connection] = []

            async def connect_anew() -> None:
                found.append(await node.connect(listener.addr))

            async with create_task_group() as tasks:
                tasks.start_soon(connect_anew)
                before = current_time()
                await node.disconnect(first)
            assert current_time() - before < 1.5
            assert found == [user.only]
            assert found != [first]
            (await listener.accept()).close()


async def test_grace_of_a_handler(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that does not return is given up when the grace is over."""
    caplog.set_level("INFO", "pea2pea")
    user = User(HASTY)
    user.handle = never = Never()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"first") + frame(b"second"))
            peer.half_close()
            await wait_until(lambda: user.ended, timeout=30)
            assert never.cancelled == 1
            assert await peer.receive_all() == b""
    assert user.received == [b"first"]
    assert "given up" in caplog.text


# A peer that does not close


async def test_slot_of_a_silent_peer() -> None:
    """A peer that stays silent does not hold its slot for the whole grace."""
    user = User(Config(grace_period=1000.0))
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections)
            await send_all(user, MANY[:100])
            assert await node.disconnect(user.only)
            assert not node.connections
            assert frames(await peer.receive_all()) == MANY[:100]


async def test_grace_of_a_sending_peer() -> None:
    """A peer that goes on sending is given up when the grace is over."""
    user = User(Config(grace_period=0.3))
    async with user.node as node, create_task_group() as group:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections)

            async def chatter() -> None:
                while True:
                    await peer.send(frame(bytes(1000)))

            group.start_soon(until_it_breaks, chatter)
            await send_all(user, MANY[:100])
            assert await node.disconnect(user.only)
            assert not node.connections
            assert frames(await peer.receive_exactly(sum(4 + len(message) for message in MANY[:100]))) == MANY[:100]


async def test_grace_of_a_peer_that_reads_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A peer that reads nothing is given up when the grace is over."""
    caplog.set_level("INFO", "pea2pea")
    sender = User(HASTY)
    async with stuck_peer(sender, "socket") as peer:
        assert await sender.node.disconnect(peer.connection)
        assert not sender.node.connections
    assert "queued messages were given up" in caplog.text
    assert peer.connection.stats.messages_sent == 0


async def test_without_a_grace_period_nothing_is_waited_for() -> None:
    sender = User(Config(grace_period=0))
    async with stuck_peer(sender, "socket") as peer:
        assert await sender.node.disconnect(peer.connection)
        assert not sender.node.connections
    assert sender.origins == [DisconnectOrigin.USER]


async def test_slow_peer_within_the_grace() -> None:
    """A peer that takes its time gets everything within the grace."""
    sender = User(PATIENT)
    async with stuck_peer(sender, "socket") as peer, create_task_group() as group:
        group.start_soon(sender.node.disconnect, peer.connection)
        await turns()
        assert peer.connection in sender.node.connections.values()
        assert await peer.read_all() == [CLOG]


@pytest.mark.parametrize("requests", [1, 30])
@pytest.mark.parametrize("by", ["connection", "node"])
async def test_answer_from_a_task(requests: int, by: str) -> None:
    """A task that a handler has started runs to its first wait also if the peer has closed, so its answer goes out."""
    user = User(enable=ALL)

    async def handle(source: Connection, message: bytes) -> None:
        async def answer() -> None:
            user.outbox.send_nowait(source, message)

        (source if by == "connection" else user.node).start_soon(answer)

    user.handle = handle
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"".join(frame(b"%d" % number) for number in range(requests)))
            peer.half_close()
            answers = [await peer.receive_message() for _ in range(requests)]
            assert sorted(answers, key=int) == [b"%d" % number for number in range(requests)]
