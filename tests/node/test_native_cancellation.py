"""asyncio's own `Task.cancel`, which knows no shields: once and twice, at many moments, it leaves nothing open.

The one file that is about one backend: no other has such a thing.
"""

from __future__ import annotations

import asyncio
import gc
import math
import random
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pea2pea import Config, DisconnectOrigin, Node, NotConnectedError
from pea2pea.protocols import writing
from tests.conftest import LOOPS, open_sockets

from ..helpers import ALL, RawListener, RawPeer, User, above_info, connect, frame, two_nodes, wait_until
from ..transport.test_poller import many_peers
from .cancelling import MEDIA, TURNS, Call, Cancelled, Sweep

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from pea2pea import Address, Connection

MOMENTS = 80  # turns of the event loop: the life below takes 71


@pytest.fixture(params=["asyncio", *(["uvloop"] if "uvloop" in LOOPS else [])])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return LOOPS[request.param]


def a_user(grace_period: float = 5.0) -> User:
    user = User(
        Config(grace_period=grace_period), enable={"handshake", "reading", "writing", "on_connect", "on_disconnect"}
    )

    async def shake_hands(_: Connection, stream: ByteStream) -> ByteStream:
        await stream.send(b"?")
        await stream.receive(1)
        return stream

    async def part(*_: object) -> None:
        await turns(3)

    user.shake_hands = shake_hands
    user.part = part
    return user


async def life(user: User, peer: Address) -> None:
    """All that a node does."""
    async with user.node as node:
        await node.start_listening()
        connection = await node.connect(peer)
        await user.outbox.deliver(connection, b"hello")
        await node.disconnect(connection)
        connection = await node.connect(peer)
        await user.outbox.send(connection, b"hello again")
        await node.stop_listening()
        await node.start_listening()


async def ended(task: asyncio.Task[None]) -> str:
    with suppress(asyncio.CancelledError):
        await task
        return "done"
    return "cancelled"


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def nothing_is_left(user: User, before: set[asyncio.Task[Any]]) -> None:
    assert not user.node.connections
    assert not user.node.connecting
    assert user.node.listening_addr is None
    left = asyncio.all_tasks() - before
    assert not [task for task in left if "pea2pea" in task.get_name() and task.get_name().split()[-1] == user.node.name]


@pytest.mark.parametrize("again_after", [None, 0, 1, 2, 5, 13])
async def test_a_cancelled_block_leaves_nothing_open(again_after: int | None) -> None:
    peer = a_user()
    outcomes = set()
    async with peer.node:
        addr = await peer.node.start_listening()
        await turns(5)
        before, sockets = asyncio.all_tasks(), open_sockets()
        for moment in range(MOMENTS):
            user = a_user()
            task = asyncio.create_task(life(user, addr))
            await turns(moment)
            task.cancel()
            if again_after is not None:
                await turns(again_after)
                task.cancel()
            outcomes.add(await ended(task))
            nothing_is_left(user, before)
            await wait_until(lambda: not peer.node.connections and not peer.node.connecting)
            assert open_sockets() == sockets
    assert "cancelled" in outcomes


async def test_one_cancellation_is_an_orderly_end() -> None:
    user, peer = User(), User()
    async with peer.node:
        addr = await peer.node.start_listening()

        async def run() -> None:
            async with user.node as node:
                connection = await node.connect(addr)
                for number in range(1000):
                    user.outbox.send_nowait(connection, b"%d" % number)
                sent.set()
                await asyncio.sleep(3600)

        sent = asyncio.Event()
        task = asyncio.create_task(run())
        await sent.wait()
        task.cancel()
        assert await ended(task) == "cancelled"
        assert user.origins == [DisconnectOrigin.SHUTDOWN]
        await wait_until(lambda: peer.ended)
    assert peer.received == [b"%d" % number for number in range(1000)]


async def test_a_second_cancellation_gives_up_the_grace() -> None:
    user = User(Config(grace_period=3600), enable={"writing"})
    user.node.enable_on_disconnect(user, timeout=3600)
    sockets = open_sockets()

    async def part(*_: object) -> None:
        await anyio.sleep_forever()

    user.part = part
    with RawListener.open() as listener:

        async def run() -> None:
            async with user.node as node:
                await node.connect(listener.addr)
                await node.start_listening()
                await asyncio.sleep(3600)

        task = asyncio.create_task(run())
        await wait_until(lambda: user.node.listening_addr)
        task.cancel()
        await wait_until(lambda: user.ended)
        task.cancel()
        assert await ended(task) == "cancelled"
        assert not user.node.connections
        listener.sock.close()
        assert open_sockets() <= sockets


async def test_a_second_cancellation_gives_up_a_flush() -> None:
    user = User(Config(grace_period=3600))
    with RawListener.open(receive_buffer=4096) as listener:

        async def run() -> None:
            async with user.node as node:
                user.outbox.send_nowait(await node.connect(listener.addr), bytes(8_000_000))
                sent.set()
                await asyncio.sleep(3600)

        sent = asyncio.Event()
        task = asyncio.create_task(run())
        await sent.wait()
        task.cancel()
        await wait_until(lambda: user.ended)
        await turns(5)
        assert not task.done()
        task.cancel()
        assert await ended(task) == "cancelled"
        assert not user.node.connections


async def test_exception_of_the_body_beside_a_cancellation() -> None:
    """As in a `finally` of one's own, what comes last comes out; nothing stays open either way."""
    user, peer = a_user(), a_user()
    async with peer.node:
        addr = await peer.node.start_listening()
        for moment in range(20):
            user = a_user()

            async def run(user: User = user) -> None:
                async with user.node as node:
                    await node.connect(addr)
                    raise ZeroDivisionError("the body's own")

            task = asyncio.create_task(run())
            await wait_until(lambda user=user: user.ended or user.node.connections)  # type: ignore[misc]  # mypy #4226
            await turns(moment)
            task.cancel()
            with pytest.raises((ZeroDivisionError, asyncio.CancelledError)):
                await task
            assert not user.node.connections
            await wait_until(lambda: not peer.node.connections)


async def calls(user: User, peer: Address, what: str) -> None:
    """What a task that shares the node with others may be doing."""
    node = user.node
    if what == "connect":
        await node.connect(peer)
    elif what == "connect and disconnect":
        await node.disconnect(await node.connect(peer))
    elif what == "connect and deliver":
        await user.outbox.deliver(await node.connect(peer), bytes(100_000))
    elif what == "connect and send":
        connection = await node.connect(peer)
        for _ in range(100):
            await user.outbox.send(connection, bytes(100_000))
    elif what == "listen":
        await node.start_listening()
        await node.stop_listening()


@pytest.mark.parametrize("again_after", [None, 0, 1, 4])
@pytest.mark.parametrize(
    ("what", "moments"),
    [
        ("connect", 12),
        ("connect and disconnect", 35),
        ("connect and deliver", 12),
        ("connect and send", 40),
        ("listen", 5),
    ],
)
async def test_a_cancelled_call_leaves_the_node_as_it_was(what: str, moments: int, again_after: int | None) -> None:
    user, peer = a_user(), a_user()
    async with peer.node, user.node as node:
        addr = await peer.node.start_listening()
        await turns(5)
        sockets = open_sockets()
        for moment in range(moments):
            task = asyncio.create_task(calls(user, addr, what))
            await turns(moment)
            task.cancel()
            if again_after is not None:
                await turns(again_after)
                task.cancel()
            await ended(task)
            await node.disconnect(addr, abort=True)
            await node.stop_listening()
            await wait_until(lambda: not node.connecting and not node.connections)
            await wait_until(lambda: not peer.node.connections and not peer.node.connecting)
            assert open_sockets() == sockets
        await node.connect(addr)


async def test_a_cancelled_shut_down_goes_on() -> None:
    for moment in range(20):
        user, peer = a_user(), a_user()
        async with two_nodes(user, peer):
            task = asyncio.create_task(user.node.shut_down())
            await turns(moment)
            task.cancel()
            await ended(task)
            if moment:
                await user.node.wait_closed()
                assert not user.node.connections


async def test_handler_that_cancels_its_own_task() -> None:
    """A handler that cancels its own task ends no more than its connection."""
    user, peer, other = User(), User(), User()

    async def handle(*_: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(3600)

    user.handle = handle
    async with user.node, peer.node, other.node:
        ours, _ = await connect(peer, user)
        others, _ = await connect(other, user)
        peer.outbox.send_nowait(ours, b"cancel yourself")
        await wait_until(lambda: peer.ended)
        user.handle = User().handle
        other.outbox.send_nowait(others, b"still there?")
        await wait_until(lambda: user.received[-1] == b"still there?")
        assert user.node.heuristics.hook_errors
        assert user.origins == [DisconnectOrigin.READING]


async def test_cancelled_task_of_a_connection() -> None:
    """Its writer, while the peer does not read."""
    user, other = User(), User()
    with RawListener.open(receive_buffer=4096) as listener:
        async with user.node, other.node:
            others, _ = await connect(other, user)
            await user.outbox.send(await user.node.connect(listener.addr), bytes(8_000_000))

            def writers() -> list[asyncio.Task[Any]]:
                return [task for task in asyncio.all_tasks() if task.get_name().startswith("pea2pea writer")]

            await wait_until(writers)
            await turns(3)
            (writer,) = writers()
            writer.cancel()
            await wait_until(lambda: user.ended)
            assert user.origins == [DisconnectOrigin.WRITING]
            await wait_until(lambda: listener.addr not in user.node.connections)
            other.outbox.send_nowait(others, b"still there?")
            await wait_until(lambda: user.received == [b"still there?"])
            assert user.node.heuristics.hook_errors == 1


async def test_task_that_swallows_a_cancellation() -> None:
    """AnyIO leaves a task its own cancellation, too, while asyncio still counts one that came from outside."""
    user, peer, other = User(), User(), User()

    async def swallow() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        await anyio.sleep_forever()

    async with user.node, peer.node, other.node:
        ours, _ = await connect(user, peer)
        others, _ = await connect(other, user)
        ours.start_soon(swallow)
        await turns(3)
        assert await user.node.disconnect(ours)
        other.outbox.send_nowait(others, b"still there?")
        await wait_until(lambda: user.received == [b"still there?"])
        assert user.origins == [DisconnectOrigin.USER]


@pytest.mark.parametrize("still", ["a background task", "the hook"])
async def test_cancelled_task_of_a_closing_connection(still: str) -> None:
    """Something of it does not end yet, so that its task waits."""
    user, peer, other = User(enable={"writing", "on_disconnect"}), User(), User()
    own: list[asyncio.Task[Any]] = []
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                waiting.set()
                await go_on.wait()

    async def part(*_: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        own.append(task)
        if still == "the hook" and len(own) == 1:
            waiting.set()
            await anyio.sleep_forever()

    user.part = part
    async with user.node, peer.node, other.node:
        ours, _ = await connect(user, peer)
        others, _ = await connect(user, other)
        ours.start_soon(wait)
        await turns(3)
        ending = asyncio.create_task(user.node.disconnect(ours))
        await waiting.wait()
        own[0].cancel()
        await turns(10)
        if still == "the hook":
            with pytest.raises(NotConnectedError):
                user.outbox.send_nowait(ours, bytes(8_000_000))
        go_on.set()
        assert await ending
        user.outbox.send_nowait(others, b"still there?")
        await wait_until(lambda: other.received == [b"still there?"])
        assert user.origins == [DisconnectOrigin.USER]


def test_a_program_that_just_ends_leaves_nothing_open(
    anyio_backend: tuple[str, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """`asyncio.run` cancels every task there still is when the main one is done: here, two nodes at all moments."""
    sockets = open_sockets()

    async def both(user: User, peer: User) -> None:
        async with peer.node:
            await life(user, await peer.node.start_listening())

    async def main(user: User, peer: User, moment: int) -> None:
        task = asyncio.create_task(both(user, peer))
        await turns(moment)
        assert not task.done() or not task.exception()

    gc.disable()  # a coroutine that is collected while a named tuple is made cannot say that it was never awaited
    try:
        for moment in range(MOMENTS):
            user, peer = a_user(), a_user()
            anyio.run(main, user, peer, moment, backend=anyio_backend[0], backend_options=anyio_backend[1])
            assert not user.node.connections
            assert not peer.node.connections
            assert open_sockets() == sockets, moment
            assert not above_info(caplog), moment
            gc.collect()
    finally:
        gc.enable()


def test_no_anyio_run_is_needed() -> None:
    """A node works in a program that knows asyncio alone."""
    seen: list[int] = []

    async def main() -> None:
        user, peer = User(), User()
        async with two_nodes(user, peer) as (ours, _):
            await user.outbox.send(ours, b"hello")
            await wait_until(lambda: peer.received == [b"hello"])
            seen.append(len(peer.received))

    asyncio.run(main())
    assert seen == [1]


async def test_an_asyncio_timeout_around_the_block_is_an_orderly_end() -> None:
    user, peer = User(), User()
    async with peer.node:
        addr = await peer.node.start_listening()

        async def run() -> None:
            async with user.node as node:
                await node.connect(addr)
                await asyncio.sleep(3600)

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(run(), 0.05)
        assert user.origins == [DisconnectOrigin.SHUTDOWN]
        assert not user.node.connections


async def test_a_node_never_swallows_a_cancellation() -> None:
    """Whenever the body's task is cancelled, it ends cancelled."""
    for moment in range(30):

        async def run() -> None:
            async with Node() as node:
                await node.start_listening()
                await asyncio.sleep(3600)

        task = asyncio.create_task(run())
        await turns(moment)
        task.cancel()
        assert await ended(task) == "cancelled"


async def test_reader_cancelled_before_it_began() -> None:
    """The task that reads on while a handler waits for something."""
    dialler, responder = User(), User(enable={"reading"})
    cancelled: list[str] = []

    def cancel_readers() -> None:
        for task in asyncio.all_tasks():
            if task.get_name().startswith("pea2pea reader"):
                task.cancel()
                cancelled.append(task.get_name())

    async def handle(*_: object) -> None:
        asyncio.get_running_loop().call_soon(cancel_readers)
        await anyio.sleep_forever()

    responder.handle = handle
    bystander = User()
    async with two_nodes(dialler, responder) as (ours, _), bystander.node:
        await connect(bystander, responder)
        await dialler.outbox.deliver(ours, b"hello")
        await wait_until(lambda: len(responder.node.connections) == 1 and dialler.ended)
        assert not bystander.ended
    assert len(cancelled) == 1
    gc.collect()


@pytest.mark.parametrize("turn", range(4))
async def test_cancelled_after_the_last_message(turn: int) -> None:
    """In the turns in which what the last handler has started may still answer: the hook runs all the same, once."""
    user = User(enable=ALL)

    async def handle(source: Connection, message: bytes) -> None:
        async def cancel() -> None:
            await turns(turn)
            for task in asyncio.all_tasks():
                if task.get_name() == f"pea2pea {user.node.name} {source}":
                    task.cancel()

        user.node.start_soon(cancel)

    user.handle = handle
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"hello"))
            peer.half_close()
            await wait_until(lambda: user.connected and not node.connections)
    assert len(user.ended) == 1


def cancelled_natively_after(number: int) -> Cancelled:
    """With `Task.cancel`, after so many turns of the event loop."""

    async def cancelled(call: Call) -> bool:
        async def run() -> None:
            await call()

        task = asyncio.create_task(run())
        await turns(number + 1)  # one that is cancelled before it begins has not called anything
        task.cancel()
        return await ended(task) == "cancelled"

    return cancelled


@pytest.mark.parametrize("medium", MEDIA)
async def test_a_sample_of_the_sweep_leaves_nothing(medium: str) -> None:
    sweep = Sweep(medium)
    await sweep.run(sweep.calls(), sorted(random.sample(range(TURNS // 2), 3)), cancelled_natively_after)


@pytest.mark.stress
@pytest.mark.parametrize("call", Sweep.calls())
@pytest.mark.parametrize("medium", MEDIA)
async def test_every_call_cancelled_at_every_turn_leaves_nothing(medium: str, call: str) -> None:
    sweep = Sweep(medium)
    await sweep.run([call], list(range(TURNS)), cancelled_natively_after)
    assert sweep.in_time[call] or call == "abort"  # which is done within a turn


async def fail_in_a_task_group() -> None:
    """CPython 3.11 and 3.12 leave the task's `cancelling()` at 1, although the exception was caught."""

    async def fail() -> None:
        raise ZeroDivisionError

    if sys.version_info >= (3, 11):
        with suppress(Exception):  # the ExceptionGroup
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fail())


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.TaskGroup is new in Python 3.11")
@pytest.mark.parametrize("with_task", [False, True], ids=["", "beside a background task"])
@pytest.mark.parametrize("how", ["disconnect", "the peer's close", "leaving the block"])
@pytest.mark.parametrize(
    "place", ["perform_handshake", "on_connect", "process_message", "the other reader", "on_disconnect"]
)
async def test_a_hook_that_caught_the_errors_of_a_task_group_is_no_bug(
    place: str, how: str, with_task: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its connection ends in order afterwards, with all that was sent to the peer."""
    user, peer = User(enable=ALL), User()

    async def shake_hands(_: Connection, stream: ByteStream) -> ByteStream:
        await hook("perform_handshake")
        return stream

    async def hook(here: str) -> None:
        if here == place:
            await fail_in_a_task_group()

    async def handle(_: Connection, message: bytes) -> None:
        if message == b"wait":  # meanwhile the other reader reads the next message, and processes it
            await turns(10)
        else:
            await hook("process_message")
            await hook("the other reader")

    user.shake_hands = shake_hands
    user.greet = lambda _: hook("on_connect")
    user.handle = handle
    user.part = lambda *_: hook("on_disconnect")
    async with user.node as node, peer.node:
        theirs, ours = await connect(peer, user)
        if with_task:
            ours.start_soon(anyio.sleep_forever)
        if place == "the other reader":
            await peer.outbox.deliver(theirs, b"wait")
            await wait_until(lambda: user.received)
        await peer.outbox.deliver(theirs, b"hello")
        await wait_until(lambda: user.connected and user.received and user.received[-1] == b"hello")
        await turns(20)
        for number in range(100):
            user.outbox.send_nowait(ours, b"%d" % number)
        if how == "disconnect":
            assert await node.disconnect(ours)
        elif how == "the peer's close":
            await peer.node.disconnect(theirs)
        else:
            await node.shut_down()
        await wait_until(lambda: not node.connections and not peer.node.connections)
    assert len(user.ended) == 1
    if how != "the peer's close":
        assert peer.received == [b"%d" % number for number in range(100)]
    assert node.heuristics.hook_errors == 0
    assert not above_info(caplog)


async def test_cancelled_poller() -> None:
    """All reading of many connections goes through its task; it goes on without, and then there is a new one."""
    async with many_peers() as peers:
        for _ in range(3):
            await peers.talk_until_it_is_used()
            await turns(10)
            (task,) = [task for task in asyncio.all_tasks() if "poller" in task.get_name()]
            task.cancel()
            await peers.talk(rounds=2)
        assert not peers.user.ended
        assert not task.done()  # it serves again


def task_of(user: User, service: str) -> asyncio.Task[Any]:
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == f"pea2pea {service} {user.node.name}"]
    return task


@pytest.mark.parametrize("pauses", [[0], [10], [10, 0], [10, 10], [10, 1, 2, 3]])
@pytest.mark.parametrize("service", ["flusher", "idle watch", "poller"])
async def test_service_cancelled_again(service: str, pauses: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A service serves again, also if its task is cancelled once more while it pauses."""
    monkeypatch.setattr(writing, "BURST", math.inf)  # nothing is sent directly
    async with many_peers(idle_timeout=0.5 if service == "idle watch" else None) as peers:
        user = peers.user
        await peers.talk_until_it_is_used()
        for count in pauses:
            await turns(count)
            task_of(user, service).cancel()
        await turns(10)
        if service == "poller":
            await peers.talk_until_it_is_used()
        elif service == "flusher":
            for _ in range(5):
                user.outbox.broadcast(b"more")
            for peer in peers.peers:
                assert [await peer.receive_message() for _ in range(5)] == [b"more"] * 5
        else:
            await wait_until(lambda: len(user.ended) == len(peers.peers))
        assert user.node.heuristics.hook_errors <= len(pauses)


async def test_flusher_cancelled_halfway(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is queued for other peers is written, if the flusher's task is cancelled between two of them."""
    monkeypatch.setattr(writing, "SLICE", -1.0)
    monkeypatch.setattr(writing, "BURST", math.inf)
    async with many_peers() as peers:
        user = peers.user
        await peers.talk(rounds=1)
        for number in range(6):
            for _ in range(3):
                user.outbox.broadcast(b"more")
            task = task_of(user, "flusher")
            await turns(number)
            task.cancel()
            for peer in peers.peers:
                assert [await peer.receive_message() for _ in range(3)] == [b"more"] * 3
