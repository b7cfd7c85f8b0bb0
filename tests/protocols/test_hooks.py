"""`on_connect` and `on_disconnect`: when they run, how often, and what they may do."""

from __future__ import annotations

from contextlib import suppress
from contextvars import ContextVar

import anyio
import pytest
from anyio.abc import ByteStream

from pea2pea import Address, Config, Connection, DisconnectOrigin, NotConnectedError, Peer, Side
from pea2pea.codecs import Codec

from ..helpers import (
    Echo,
    Gate,
    Never,
    RawListener,
    RawPeer,
    User,
    connect,
    frame,
    frames,
    memory_pair,
    turns,
    two_nodes,
    wait_until,
)

ORDERLY = {"reading", "writing", "on_connect"}


# on_connect


async def test_on_connect_may_send_at_once() -> None:
    dialler, responder = User(), User()

    async def greet(connection: Connection) -> None:
        assert connection.addr in dialler.node.connections
        dialler.outbox.send_nowait(connection, b"welcome")

    dialler.greet = greet
    async with two_nodes(dialler, responder) as (ours, theirs):
        await wait_until(lambda: responder.received == [b"welcome"])
        assert dialler.connected == [ours.addr]
        await wait_until(lambda: responder.connected == [theirs.addr])  # beside reading: either may come first


async def test_connect_does_not_wait_for_on_connect() -> None:
    dialler, responder = User(), User()
    dialler.greet = responder.greet = gate = Gate()
    async with two_nodes(dialler, responder) as (ours, _):
        dialler.outbox.send_nowait(ours, b"hello")
        await wait_until(lambda: responder.received == [b"hello"])
        assert gate.done == 0
        gate.opened.set()
        await wait_until(lambda: gate.done == 2)


async def test_reading_goes_on_beside_on_connect() -> None:
    """The hook of either end waits for the other end's message."""
    dialler, responder = User(), User()

    async def greet(user: User, connection: Connection) -> None:
        user.outbox.send_nowait(connection, b"hello")
        await wait_until(lambda: user.received == [b"hello"])

    dialler.greet = lambda connection: greet(dialler, connection)
    responder.greet = lambda connection: greet(responder, connection)
    async with two_nodes(dialler, responder):
        await wait_until(lambda: dialler.received == responder.received == [b"hello"])


@pytest.mark.parametrize("how", ["disconnect", "abort", "peer", "shut_down"])
async def test_abortable_on_connect(how: str) -> None:
    """An abortable on connect is cancelled when the connection ends."""
    dialler, responder = User(), User()
    dialler.greet = never = Never()
    cancelled: list[int] = []

    async def part(*_: object) -> None:
        await turns()
        cancelled.append(never.cancelled)

    dialler.part = part
    async with two_nodes(dialler, responder) as (ours, theirs):
        await wait_until(lambda: never.begun)
        await end(dialler, ours, responder, theirs, how)
    assert cancelled == [1]
    assert (never.begun, never.cancelled) == (1, 1)
    assert len(dialler.ended) == 1


async def end(user: User, ours: Connection, other: User, theirs: Connection, how: str) -> None:
    """End a connection in one of several ways, and wait for it."""
    if how == "disconnect":
        await user.node.disconnect(ours)
    elif how == "abort":
        await user.node.disconnect(ours, abort=True)
    elif how == "peer":
        await other.node.disconnect(theirs)
        await wait_until(lambda: not user.node.connections)
    else:
        await user.node.shut_down()


@pytest.mark.parametrize("how", ["disconnect", "abort", "peer", "shut_down"])
async def test_a_non_abortable_on_connect_runs_to_its_end(how: str) -> None:
    dialler, responder = User(enable={"reading", "writing", "on_disconnect"}), User()
    dialler.node.enable_on_connect(dialler, abortable=False)
    dialler.greet = gate = Gate()
    async with two_nodes(dialler, responder) as (ours, theirs), anyio.create_task_group() as tasks:
        await wait_until(lambda: gate.begun)
        tasks.start_soon(end, dialler, ours, responder, theirs, how)
        await wait_until(lambda: ours.origin is not None)
        await turns()
        assert dialler.node.connections
        assert not dialler.ended
        gate.opened.set()
        await wait_until(lambda: not dialler.node.connections)
    assert (gate.begun, gate.done) == (1, 1)


async def test_a_non_abortable_on_connect_may_still_send() -> None:
    dialler, responder = User(enable={"reading"}), User()
    dialler.outbox = dialler.node.enable_writing(dialler)
    dialler.node.enable_on_connect(dialler, abortable=False)
    gate = Gate()

    async def greet(connection: Connection) -> None:
        await gate()
        dialler.outbox.send_nowait(connection, b"after all")

    dialler.greet = greet
    async with two_nodes(dialler, responder) as (ours, _), anyio.create_task_group() as tasks:
        tasks.start_soon(dialler.node.disconnect, ours)
        await turns()
        gate.opened.set()
        await wait_until(lambda: responder.received == [b"after all"])


async def test_a_non_abortable_on_connect_is_bounded_by_the_grace_period() -> None:
    dialler, responder = User(Config(grace_period=0.05), enable=set()), User()
    dialler.node.enable_on_connect(dialler, abortable=False)
    dialler.greet = never = Never()
    async with two_nodes(dialler, responder) as (ours, _):
        await wait_until(lambda: never.begun)
        await dialler.node.disconnect(ours)
    assert never.cancelled == 1


async def test_on_disconnect_begins_when_on_connect_has_returned() -> None:
    user = User(enable={"on_disconnect"})
    user.node.enable_on_connect(user, abortable=False)
    order: list[str] = []
    gate = Gate()

    async def greet(_: Connection) -> None:
        await gate()
        order.append("on_connect has returned")

    async def part(*_: object) -> None:
        order.append("on_disconnect")

    user.greet, user.part = greet, part
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()):
            await wait_until(lambda: gate.begun)
            (connection,) = node.connections.values()
        await wait_until(lambda: connection.origin is not None)
        await turns()
        gate.opened.set()
        await wait_until(lambda: not node.connections)
    assert order == ["on_connect has returned", "on_disconnect"]


async def test_an_on_connect_that_raises_ends_the_connection() -> None:
    dialler, responder = User(), User()

    async def greet(_: Connection) -> None:
        raise ZeroDivisionError("a bug")

    dialler.greet = greet
    async with responder.node, dialler.node:
        await dialler.node.connect(await responder.node.start_listening())
        await wait_until(lambda: dialler.ended and responder.ended)
        await wait_until(lambda: not dialler.node.connections)
    assert dialler.origins == [DisconnectOrigin.ON_CONNECT]
    assert dialler.node.heuristics.hook_errors == 1


# Visibility


async def test_every_hook_finds_its_connection_established() -> None:
    """But the handshake, which comes before."""

    class Watching(User):
        def __init__(self) -> None:
            super().__init__(enable={"handshake", "reading", "writing", "on_connect", "on_disconnect"})
            self.seen: dict[str, bool] = {}

        def note(self, place: str, addr: Address) -> None:
            self.seen[place] = addr in self.node.connections and addr not in self.node.connecting

        async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
            self.note("perform_handshake", connection.addr)
            return stream

        def decoder(self, connection: Connection) -> Codec[bytes]:
            self.note("decoder", connection.addr)
            return super().decoder(connection)

        def encoder(self, connection: Connection) -> Codec[bytes]:
            self.note("encoder", connection.addr)
            return super().encoder(connection)

        async def process_message(self, source: Connection, message: bytes) -> None:
            self.note("process_message", source.addr)

        async def on_connect(self, connection: Connection) -> None:
            self.note("on_connect", connection.addr)
            self.outbox.send_nowait(connection, b"hello")

        async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
            self.note("on_disconnect", connection.addr)

    dialler, responder = Watching(), Watching()
    async with two_nodes(dialler, responder) as (ours, _):
        await wait_until(lambda: "process_message" in dialler.seen and "process_message" in responder.seen)
        await dialler.node.disconnect(ours)
        await wait_until(lambda: not responder.node.connections)
    hooks = ("decoder", "encoder", "process_message", "on_connect", "on_disconnect")
    assert dialler.seen == responder.seen == {"perform_handshake": False, **dict.fromkeys(hooks, True)}


async def test_message_with_the_handshake() -> None:
    """A message that came with the handshake finds its peer connected."""
    user = Echo(enable={"handshake", "reading", "writing"})

    async def shake_hands(_: Connection, stream: ByteStream) -> ByteStream:
        await stream.receive(1)
        return stream

    user.shake_hands = shake_hands
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"?" + frame(b"hello"))
            assert await peer.receive_message() == b"hello"


# on_disconnect


async def test_the_origin_tells_who_ended_it() -> None:
    dialler, responder = User(), User()
    async with responder.node:
        async with dialler.node:
            ours, theirs = await connect(dialler, responder)
            await dialler.node.disconnect(ours)
            await wait_until(lambda: not responder.node.connections)
            ours, theirs = await connect(dialler, responder)
            await responder.node.disconnect(theirs)
            await wait_until(lambda: not dialler.node.connections)
            await connect(dialler, responder)
        await wait_until(lambda: not responder.node.connections)
    user, shutdown, reading = DisconnectOrigin.USER, DisconnectOrigin.SHUTDOWN, DisconnectOrigin.READING
    assert dialler.origins == [user, reading, shutdown]
    assert responder.origins == [reading, user, reading]


async def test_the_origin_of_a_failed_write_is_writing() -> None:
    user = User(enable={"reading", "on_disconnect"})
    user.outbox = user.node.enable_writing(user, timeout=0.05)
    with RawListener.open(receive_buffer=4096) as listener:
        async with user.node as node:
            connection = await node.connect(listener.addr)
            user.outbox.send_nowait(connection, bytes(8_000_000))
            await wait_until(lambda: not node.connections)
            assert isinstance(connection.cause, TimeoutError)
            assert node.heuristics.write_timeouts == 1
    assert user.origins == [DisconnectOrigin.WRITING]


async def test_the_last_words_arrive() -> None:
    dialler, responder = User(), User()

    async def part(connection: Connection, _: DisconnectOrigin) -> None:
        for number in range(100):
            await dialler.outbox.send(connection, b"%d" % number)

    dialler.part = part
    async with two_nodes(dialler, responder) as (ours, _):
        await dialler.node.disconnect(ours)
        await wait_until(lambda: len(responder.received) == 100)
    assert responder.received == [b"%d" % number for number in range(100)]


async def test_the_last_words_to_a_peer_that_has_half_closed_arrive() -> None:
    user = User()

    async def part(connection: Connection, _: DisconnectOrigin) -> None:
        user.outbox.send_nowait(connection, b"goodbye")

    user.part = part
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            peer.half_close()
            assert frames(await peer.receive_all()) == [b"goodbye"]


async def test_a_slow_on_disconnect_is_cut_at_its_timeout() -> None:
    dialler, responder = User(enable=ORDERLY), User()
    dialler.node.enable_on_disconnect(dialler, timeout=0.05)
    dialler.part = never = Never()
    async with two_nodes(dialler, responder) as (ours, _):
        dialler.outbox.send_nowait(ours, b"not lost by that")
        assert await dialler.node.disconnect(ours)
        assert (never.begun, never.cancelled) == (1, 1)
        await wait_until(lambda: responder.received == [b"not lost by that"])


@pytest.mark.parametrize("abort", [False, True])
async def test_disconnect_returns_after_the_hook(abort: bool) -> None:
    dialler, responder = User(), User()
    dialler.part = gate = Gate()
    async with two_nodes(dialler, responder) as (ours, _), anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: dialler.node.disconnect(ours, abort=abort))
        await wait_until(lambda: gate.begun)
        await turns()
        assert dialler.only is ours
        gate.opened.set()
        await wait_until(lambda: not dialler.node.connections)
        assert gate.done == 1


async def test_every_one_who_disconnects_waits_for_the_end() -> None:
    dialler, responder = User(), User()
    dialler.part = gate = Gate()
    answers: list[bool] = []

    async def disconnect() -> None:
        answers.append(await dialler.node.disconnect(ours))
        assert not dialler.node.connections

    async with two_nodes(dialler, responder) as (ours, _), anyio.create_task_group() as tasks:
        tasks.start_soon(disconnect)
        await wait_until(lambda: gate.begun)
        tasks.start_soon(disconnect)
        await turns()
        assert not answers
        gate.opened.set()
        await wait_until(lambda: len(answers) == 2)
        assert sorted(answers) == [False, True]


async def test_the_first_cause_wins() -> None:
    """The peer closes while our own end is under way, and the other way round."""
    for first, origin in ("we", DisconnectOrigin.USER), ("peer", DisconnectOrigin.READING):
        user = User()
        user.part = gate = Gate()
        async with user.node as node, anyio.create_task_group() as tasks:
            with await RawPeer.dial(await node.start_listening()) as peer:
                await wait_until(lambda node=node: node.connections)  # type: ignore[misc]  # mypy #4226
                if first == "we":
                    tasks.start_soon(node.disconnect, peer.addr)
                    await wait_until(lambda gate=gate: gate.begun)  # type: ignore[misc]  # mypy #4226
                    peer.close()
                else:
                    peer.close()
                    await wait_until(lambda gate=gate: gate.begun)  # type: ignore[misc]  # mypy #4226
                    tasks.start_soon(node.disconnect, peer.addr)
                await turns()
                gate.opened.set()
        assert user.origins == [origin]


async def test_abort_closes_first() -> None:
    """An abort closes the socket before the hook and flushes nothing."""
    user = User()
    states: list[object] = []

    async def part(connection: Connection, _: DisconnectOrigin) -> None:
        states.append(await peer.is_refused())
        with pytest.raises(NotConnectedError):
            user.outbox.send_nowait(connection, b"too late")
        states.append(connection.addr in user.node.connections)

    user.part = part
    with RawListener.open() as listener:
        async with user.node as node:
            connection = await node.connect(listener.addr)
            with await listener.accept() as peer:
                assert await node.disconnect(connection, abort=True)
                assert not node.connections
    assert states == [True, True]
    assert user.origins == [DisconnectOrigin.USER]


async def test_an_abort_throws_away_what_is_queued() -> None:
    user = User(Config(grace_period=60))
    with RawListener.open(receive_buffer=4096) as listener:
        async with user.node as node:
            connection = await node.connect(listener.addr)
            with await listener.accept() as peer:
                user.outbox.send_nowait(connection, bytes(8_000_000))
                assert await node.disconnect(connection, abort=True)
                with pytest.raises(ConnectionResetError):
                    await peer.receive_all()


async def test_an_abort_cuts_an_orderly_end_short_but_is_not_its_cause() -> None:
    user = User(Config(grace_period=60))
    answers: list[bool] = []
    with RawListener.open(receive_buffer=4096) as listener:
        async with user.node as node, anyio.create_task_group() as tasks:
            connection = await node.connect(listener.addr)
            user.outbox.send_nowait(connection, bytes(8_000_000))

            async def disconnect() -> None:
                answers.append(await node.disconnect(connection))

            tasks.start_soon(disconnect)
            await wait_until(lambda: user.ended)
            await turns()
            assert node.connections
            assert await node.disconnect(connection, abort=True) is False
            assert not node.connections
            await wait_until(lambda: answers == [True])
    assert len(user.ended) == 1


async def test_abort_cuts_a_flush() -> None:
    """An abort cuts the flush of a stream without a socket short."""
    user = User(Config(grace_period=60))
    async with user.node as node, anyio.create_task_group() as tasks:
        ours, _theirs = memory_pair(capacity=16)
        connection = await node.adopt(ours, ("a name", 1), Side.INITIATOR)
        user.outbox.send_nowait(connection, bytes(1000))
        tasks.start_soon(node.disconnect, connection)
        await wait_until(lambda: user.ended)
        await turns()
        assert await node.disconnect(connection, abort=True) is False
        assert not node.connections


async def test_abort_cancels_a_draining_handler() -> None:
    """An abort cuts a handler short that still works on what a peer had sent."""
    user = User(Config(grace_period=60))
    user.handle = never = Never()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"hello"))
            await wait_until(lambda: never.begun)
            peer.half_close()
            connection = user.only
            await wait_until(lambda: "READING" in repr(connection))
            assert await node.disconnect(connection, abort=True) is False
            assert never.cancelled == 1
            assert not node.connections
    assert user.origins == [DisconnectOrigin.READING]


@pytest.mark.parametrize("abort", [False, True])
@pytest.mark.parametrize("hook", ["process_message", "on_connect", "on_disconnect", "Connection.start_soon"])
async def test_disconnect_from_inside_only_starts_the_end(hook: str, abort: bool) -> None:
    user = User()
    answers: list[bool] = []
    present: list[bool] = []

    async def disconnect(connection: Connection, *_: object) -> None:
        answers.append(await user.node.disconnect(connection, abort=abort))
        present.append(connection.addr in user.node.connections)

    if hook == "process_message":
        user.handle = disconnect
    elif hook == "on_connect":
        user.greet = disconnect
    elif hook == "on_disconnect":
        user.part = disconnect
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections or user.ended)
            if hook == "Connection.start_soon":
                user.only.start_soon(disconnect, user.only)
            elif hook == "process_message":
                await peer.send(frame(b"disconnect me"))
            elif hook == "on_disconnect":
                peer.half_close()
            assert await peer.is_refused()
            await wait_until(lambda: not node.connections)
    caused = hook != "on_disconnect"
    assert answers == [caused]
    assert present == [True]
    assert user.origins == [DisconnectOrigin.USER if caused else DisconnectOrigin.READING]
    assert node.heuristics.hook_errors == 0


async def test_disconnecting_another_peer_from_a_hook_waits_for_its_end() -> None:
    user = User()
    gone: list[bool] = []

    async def handle(source: Connection, _: bytes) -> None:
        (other,) = set(user.node.connections) - {source.addr}
        assert await user.node.disconnect(other)
        gone.append(other not in user.node.connections)

    user.handle = handle
    async with user.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as one, await RawPeer.dial(addr) as other:
            await wait_until(lambda: len(node.connections) == 2)
            await one.send(frame(b"disconnect the other one"))
            assert await other.receive_all() == b""
            other.close()
            await wait_until(lambda: gone == [True])
            assert set(node.connections) == {one.addr}


async def test_hooks_that_wait_for_each_other() -> None:
    """Hooks that wait for each other's end are cut at their timeout."""
    user = User(enable={"reading"})
    user.node.enable_on_disconnect(user, timeout=0.05)

    async def part(connection: Connection, _: DisconnectOrigin) -> None:
        (other,) = set(user.node.connections) - {connection.addr}
        await user.node.disconnect(other)

    user.part = part
    async with user.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as one, await RawPeer.dial(addr) as other:
            await wait_until(lambda: len(node.connections) == 2)
            one.half_close()
            other.half_close()
            await wait_until(lambda: not node.connections)
    assert len(user.ended) == 2


async def test_a_disconnect_from_a_task_of_nobodys_waits() -> None:
    """A task that a hook has started with `Node.start_soon` is no hook of its connection."""
    user = User()
    present: list[bool] = []

    async def disconnect(connection: Connection) -> None:
        assert await user.node.disconnect(connection)
        present.append(connection.addr in user.node.connections)

    async def handle(source: Connection, _: bytes) -> None:
        user.node.start_soon(disconnect, source)

    user.handle = handle
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"disconnect me"))
            assert await peer.receive_all() == b""
            peer.close()
            await wait_until(lambda: present == [False])


# The context

where: ContextVar[str] = ContextVar("where")


async def test_hooks_run_in_the_context_of_the_entry_whoever_dialled() -> None:
    class Watching(User):
        def __init__(self) -> None:
            super().__init__(enable={"handshake", "reading", "writing", "on_connect", "on_disconnect"})
            self.seen: dict[str, str] = {}

        def note(self, place: str) -> None:
            self.seen[place] = where.get()

        async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
            self.note("perform_handshake")
            connection.start_soon(self.background, "Connection.start_soon in the handshake")
            return stream

        def decoder(self, connection: Connection) -> Codec[bytes]:
            self.note("decoder")
            return super().decoder(connection)

        def encoder(self, connection: Connection) -> Codec[bytes]:
            self.note("encoder")
            return super().encoder(connection)

        async def process_message(self, source: Connection, message: bytes) -> None:
            self.note("process_message")

        async def on_connect(self, connection: Connection) -> None:
            self.note("on_connect")
            self.outbox.send_nowait(connection, b"hello")

        async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
            self.note("on_disconnect")

        async def background(self, place: str) -> None:
            self.note(place)

    dialler, responder = Watching(), Watching()
    where.set("where the responder was entered")
    async with responder.node:
        where.set("where the dialler was entered")
        async with dialler.node:
            where.set("somewhere else")
            ours, _ = await connect(dialler, responder)
            dialler.node.start_soon(dialler.background, "Node.start_soon")
            ours.start_soon(dialler.background, "Connection.start_soon")
            await wait_until(lambda: len(dialler.seen) == 8 and len(responder.seen) == 6)
            await dialler.node.disconnect(ours)
            await wait_until(lambda: not responder.node.connections)
        assert set(dialler.seen.values()) == {"where the dialler was entered"}
        assert len(dialler.seen) == 9
    assert set(responder.seen.values()) == {"where the responder was entered"}
    assert len(responder.seen) == 7
    assert where.get() == "somewhere else"


async def test_the_context_of_one_connection_is_not_that_of_another() -> None:
    user = User()
    seen: list[str] = []

    async def greet(connection: Connection) -> None:
        seen.append(where.get("nowhere"))
        where.set(f"with {connection.addr}")

    user.greet = greet
    async with user.node as node:
        addr = await node.start_listening()
        for count in range(1, 4):
            with await RawPeer.dial(addr):
                await wait_until(lambda count=count: len(seen) == count)  # type: ignore[misc]  # mypy #4226
    assert seen == ["nowhere"] * 3


async def test_node_entered_in_a_hook() -> None:
    """Its hooks are not taken for the other one's."""
    outer, inner, peer = User(), User(), User()
    states: list[str] = []

    async def handle(*_: object) -> None:
        async with inner.node:
            ours, _theirs = await connect(inner, peer)
            assert await inner.node.disconnect(ours)
            assert not inner.node.connections
            await inner.node.shut_down()
            states.append("shut down")

    outer.handle = handle
    async with peer.node, outer.node as node:
        with await RawPeer.dial(await node.start_listening()) as raw:
            await raw.send(frame(b"go"))
            await wait_until(lambda: states == ["shut down"])
    assert inner.origins == [DisconnectOrigin.USER]


# Cancelling


async def test_a_cancelled_disconnect_still_tears_down() -> None:
    dialler, responder = User(), User()
    dialler.part = gate = Gate()
    async with two_nodes(dialler, responder) as (ours, _):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dialler.node.disconnect, ours)
            await wait_until(lambda: gate.begun)
            tasks.cancel_scope.cancel()
        assert dialler.node.connections
        gate.opened.set()
        await wait_until(lambda: not dialler.node.connections)
        assert gate.done == 1
    assert dialler.origins == [DisconnectOrigin.USER]


async def test_a_disconnect_under_cancellation_still_tears_down() -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (ours, _):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await dialler.node.disconnect(ours)
        assert scope.cancelled_caught
        await wait_until(lambda: not dialler.node.connections)
    assert dialler.origins == [DisconnectOrigin.USER]


async def test_a_cancelled_connect_rolls_back() -> None:
    dialler, responder = User(enable={"handshake", "on_connect", "on_disconnect"}), User()
    never = Never()

    async def shake_hands(_: Connection, stream: ByteStream) -> ByteStream:
        await never()
        return stream

    dialler.shake_hands = shake_hands
    async with responder.node, dialler.node:
        addr = await responder.node.start_listening()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dialler.node.connect, addr)
            await wait_until(lambda: never.begun)
            tasks.cancel_scope.cancel()
        assert never.cancelled == 1
        assert not dialler.node.connecting
        assert not dialler.node.connections
        await wait_until(lambda: not responder.node.connections)
        dialler.shake_hands = User().shake_hands
        await dialler.node.connect(addr)
    assert dialler.origins == [DisconnectOrigin.SHUTDOWN]


async def test_cancelled_connect() -> None:
    """A connect that is cancelled at any moment is undone or done."""
    dialler, responder = User(), User()
    async with responder.node, dialler.node:
        addr = await responder.node.start_listening()
        outcomes = set()
        for after in range(40):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:

                    async def cancel(after: int = after, scope: anyio.CancelScope = scope) -> None:
                        await turns(after)
                        scope.cancel()

                    tasks.start_soon(cancel)
                    await dialler.node.connect(addr)
            assert not dialler.node.connecting
            outcomes.add(bool(dialler.node.connections))
            await dialler.node.disconnect(addr)
            await wait_until(lambda: not responder.node.connections and not responder.node.connecting)
        assert outcomes == {True, False}
    assert len(dialler.connected) <= len(dialler.ended)
    assert len(responder.ended) >= len(responder.connected)


async def test_hooks_come_in_pairs_however_short_the_connection() -> None:
    """`on_disconnect` runs once for every connection that was established, however it ended."""
    user = User()
    established: set[Address] = set()
    async with user.node as node:
        addr = await node.start_listening()
        for number in range(60):
            peer = await RawPeer.dial(addr)
            if number % 3:
                await wait_until(lambda peer=peer: peer.addr in node.connections)  # type: ignore[misc]  # mypy #4226
                established.add(peer.addr)
            if number % 2:
                peer.reset()
            else:
                peer.close()
            if number % 5 == 0:
                with suppress(KeyError):
                    await node.disconnect(peer.addr, abort=bool(number % 2))
        await wait_until(lambda: not node.connections and not node.connecting)
    ended = [addr for addr, _ in user.ended]
    assert len(set(ended)) == len(ended)
    assert established <= set(ended)
    assert set(user.connected) <= set(ended)


async def test_an_outbox_knows_nobody_after_the_end() -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (ours, _):
        await dialler.node.disconnect(ours)
        outbox = dialler.outbox
        peers: list[Peer] = [ours, ours.addr]
        for peer in peers:
            with pytest.raises(NotConnectedError, match=str(ours.addr[1])):
                outbox.send_nowait(peer, b"hello")
            with pytest.raises(NotConnectedError):
                await outbox.send(peer, b"hello")
            with pytest.raises(NotConnectedError):
                await outbox.deliver(peer, b"hello")
            with pytest.raises(NotConnectedError):
                outbox.pending(peer)
        assert outbox.broadcast(b"hello") == {}
