"""Handshakes: whether a connection comes to be, and over which stream."""

from __future__ import annotations

import socket
from contextlib import suppress
from secrets import token_bytes

import pytest
from anyio import CancelScope, Event, create_task_group, sleep_forever
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteStream

from pea2pea import (
    Address,
    Config,
    Connection,
    HandshakeError,
    HandshakeTimeoutError,
    NodeClosedError,
    NotConnectedError,
    Side,
)

from ..helpers import ALL, Echo, RawPeer, User, frame, receive_exactly, told_errors, turns, two_nodes, wait_until

NONCE = 8


class Greeted(User):
    """Both sides say a nonce of their own, and then that of the other one."""

    def __init__(self, config: Config | None = None, *, timeout: float = 30.0, honest: bool = True) -> None:
        super().__init__(config, enable=ALL - {"handshake"})
        self.node.enable_handshake(self, timeout=timeout)
        self.honest = honest
        self.nonces: dict[Address, tuple[bytes, bytes]] = {}
        self.shake_hands = self.exchange_nonces

    async def exchange_nonces(self, connection: Connection, stream: ByteStream) -> ByteStream:
        ours = token_bytes(NONCE)
        await stream.send(ours)
        theirs = await receive_exactly(stream, NONCE)
        await stream.send(theirs if self.honest else bytes(NONCE))
        if await receive_exactly(stream, NONCE) != ours:
            raise PermissionError("not our nonce")
        self.nonces[connection.addr] = ours, theirs
        return stream


def is_untouched(user: User) -> bool:
    """Whether nothing is left, and nothing has come, of any connection."""
    return not (user.node.connections or user.node.connecting or user.connected or user.ended or user.received)


async def test_what_both_sides_have_said_can_be_used_afterwards() -> None:
    one, other = Greeted(), Greeted()
    async with two_nodes(one, other) as (ours, theirs):
        assert one.nonces[ours.addr] == other.nonces[theirs.addr][::-1]
        assert (one.shaken, other.shaken) == ([ours], [theirs])
        await one.outbox.send(ours, b"hello")
        await wait_until(lambda: other.received == [b"hello"])


async def test_a_connection_is_not_there_before_its_handshake_is_over() -> None:
    one, other = Greeted(), Greeted()
    seen: list[tuple[int, int]] = []

    async def look(connection: Connection, stream: ByteStream) -> ByteStream:
        seen.append((len(one.node.connections), connection.addr in one.node.connecting))
        with pytest.raises(NotConnectedError):
            one.outbox.send_nowait(connection, b"too early")
        return await one.exchange_nonces(connection, stream)

    one.shake_hands = look
    async with two_nodes(one, other) as (ours, _):
        assert seen == [(0, True)]
        assert ours.side is Side.INITIATOR


@pytest.mark.parametrize("dialler_is_honest", [True, False])
async def test_if_one_side_refuses_neither_is_connected(dialler_is_honest: bool) -> None:
    dialler, responder = Greeted(honest=dialler_is_honest), Greeted(honest=not dialler_is_honest)
    betrayed = responder if not dialler_is_honest else dialler
    async with responder.node, dialler.node:
        addr = await responder.node.start_listening()
        if dialler_is_honest:
            with pytest.raises(HandshakeError) as failure:
                await dialler.node.connect(addr)
            assert isinstance(failure.value.__cause__, PermissionError)
        else:
            await dialler.node.connect(addr)  # it has had its proof, and finds out afterwards
        await wait_until(lambda: betrayed.node.heuristics.handshake_failures == 1)
        await wait_until(lambda: not dialler.node.connections and not responder.node.connections)
        assert is_untouched(betrayed)
        assert betrayed.node.heuristics.handshake_timeouts == 0
        assert betrayed.node.heuristics.hook_errors == 0


async def test_a_refused_peer_leaves_its_slot_to_the_next() -> None:
    responder = Greeted(Config(max_connections=1))
    async with responder.node as node:
        addr = await node.start_listening()
        for round_ in range(1, 5):
            with await RawPeer.dial(addr) as peer:
                await peer.send(bytes(2 * NONCE))
                assert len(await peer.receive_exactly(NONCE)) == NONCE
                await wait_until(lambda: node.heuristics.handshake_failures == round_)  # noqa: B023
        assert is_untouched(responder)
        honest = Greeted()
        async with honest.node:
            await honest.node.connect(addr)


async def test_refused_peer() -> None:
    """A refused peer is closed and none of its messages is processed."""
    responder = Greeted()

    async def refuse(connection: Connection, stream: ByteStream) -> ByteStream:
        assert await stream.receive()
        raise PermissionError

    responder.shake_hands = refuse
    async with responder.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"hello"))
            assert await peer.is_refused()
            await wait_until(lambda: not node.connecting)
            assert is_untouched(responder)


async def test_a_handshake_that_takes_too_long_is_cut_off_and_counted() -> None:
    responder = Greeted(timeout=0.1)
    async with responder.node as node:
        with await RawPeer.dial(await node.start_listening()) as silent:
            assert len(await silent.receive_all()) == NONCE
        await wait_until(lambda: not node.connecting)
        assert (node.heuristics.handshake_timeouts, node.heuristics.handshake_failures) == (1, 1)
        assert is_untouched(responder)


async def test_a_dialler_learns_that_the_handshake_took_too_long() -> None:
    dialler, responder = Greeted(timeout=0.1), User(enable=())
    async with responder.node as node, dialler.node:
        with pytest.raises(HandshakeTimeoutError) as failure:
            await dialler.node.connect(await node.start_listening())
        assert isinstance(failure.value, TimeoutError)
        assert dialler.node.heuristics.handshake_timeouts == 1
        assert is_untouched(dialler)


async def test_a_timeout_of_the_handshakes_own_is_not_ours() -> None:
    dialler, responder = Greeted(), Greeted()

    async def give_up(connection: Connection, stream: ByteStream) -> ByteStream:
        raise TimeoutError("mine")

    dialler.shake_hands = give_up
    async with responder.node as node, dialler.node:
        with pytest.raises(HandshakeError) as failure:
            await dialler.node.connect(await node.start_listening())
        assert not isinstance(failure.value, HandshakeTimeoutError)
        heuristics = dialler.node.heuristics
        assert (heuristics.handshake_timeouts, heuristics.handshake_failures) == (0, 1)


@pytest.mark.parametrize("half_speaking", [False, True])
async def test_a_hundred_unfinished_handshakes(half_speaking: bool) -> None:
    """A hundred that say too little keep an honest one out for one timeout only."""
    responder, honest = Greeted(Config(max_connecting=100, max_connections=150), timeout=0.5), Greeted()
    async with responder.node as node, honest.node:
        addr = await node.start_listening()
        silent = [await RawPeer.dial(addr) for _ in range(100)]
        try:
            if half_speaking:
                for peer in silent:
                    await peer.send(bytes(NONCE - 1))
            await wait_until(lambda: len(node.connecting) == 100)
            connection = await honest.node.connect(addr)
            await honest.outbox.send(connection, b"hello")
            await wait_until(lambda: responder.received == [b"hello"])
            await wait_until(lambda: node.heuristics.handshake_timeouts == 100)
            assert node.heuristics.inbound_rejections == 0
        finally:
            for peer in silent:
                peer.close()


async def test_cancelling_connect_cancels_the_handshake() -> None:
    dialler, responder = Greeted(), User(enable=())
    begun, cancelled = Event(), Event()

    async def dawdle(connection: Connection, stream: ByteStream) -> ByteStream:
        begun.set()
        try:
            await sleep_forever()
            return stream
        finally:
            cancelled.set()

    dialler.shake_hands = dawdle
    async with responder.node as node, dialler.node, create_task_group() as group:
        scope = CancelScope()

        async def connect() -> None:
            with scope:
                await dialler.node.connect(addr)

        addr = await node.start_listening()
        group.start_soon(connect)
        await begun.wait()
        scope.cancel()
        await cancelled.wait()
        await wait_until(lambda: not dialler.node.connecting)
        assert is_untouched(dialler)
        await wait_until(lambda: not node.connections)


@pytest.mark.parametrize("end", ["cancel", "shut down", "time out"])
async def test_what_a_cancelled_handshake_raises_harms_nobody(end: str) -> None:
    dialler = Greeted(timeout=0.01 if end == "time out" else 1000.0)

    async def fail(connection: Connection, stream: ByteStream) -> ByteStream:
        async with create_task_group() as tasks:
            tasks.start_soon(sleep_forever)
            try:
                await sleep_forever()
            finally:
                raise ValueError("while it was cleaning up")
        return stream

    dialler.shake_hands = fail
    responder = User(enable=())
    async with responder.node as node:
        addr = await node.start_listening()
        async with dialler.node:
            async with create_task_group() as group:

                async def connect() -> None:
                    with suppress(NodeClosedError, HandshakeTimeoutError):
                        await dialler.node.connect(addr)

                group.start_soon(connect)
                await wait_until(lambda: dialler.shaken)
                if end == "cancel":
                    group.cancel_scope.cancel()
                elif end == "shut down":
                    await dialler.node.shut_down()
            assert not dialler.node.connecting
            assert dialler.node.heuristics.handshake_timeouts == (end == "time out")
            assert dialler.node.heuristics.hook_errors == 0
            dialler.shake_hands = User().shake_hands
            if end != "shut down":
                await dialler.node.connect(addr)


async def test_shutting_down_cancels_the_handshake() -> None:
    dialler, responder = Greeted(timeout=1000.0), User(enable=())
    async with responder.node as node, dialler.node, create_task_group() as group:

        async def connect() -> None:
            with pytest.raises(NodeClosedError):
                await dialler.node.connect(addr)

        addr = await node.start_listening()
        group.start_soon(connect)
        await wait_until(lambda: dialler.shaken)
        await dialler.node.shut_down()
    assert is_untouched(dialler)


# The stream that is returned


class Upside(ByteStream):
    """A stream that turns every bit around."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.ended = self.closed = False

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        return bytes(byte ^ 0xFF for byte in await self.stream.receive(max_bytes))

    async def send(self, item: bytes) -> None:
        await self.stream.send(bytes(byte ^ 0xFF for byte in item))

    async def send_eof(self) -> None:
        self.ended = True
        await self.stream.send_eof()

    async def aclose(self) -> None:
        self.closed = True
        await self.stream.aclose()


async def test_the_returned_stream_is_used_from_then_on() -> None:
    responder = Echo(enable=ALL)
    made: list[Upside] = []

    async def turn(connection: Connection, stream: ByteStream) -> ByteStream:
        made.append(Upside(stream))
        return made[0]

    responder.shake_hands = turn
    async with responder.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(bytes(byte ^ 0xFF for byte in frame(b"hello")))
            answer = await peer.receive_exactly(len(frame(b"hello")))
            assert bytes(byte ^ 0xFF for byte in answer) == frame(b"hello")
            assert responder.received == [b"hello"]
            assert await node.disconnect(responder.only)
            assert await peer.receive_all() == b""
    assert made[0].ended
    assert made[0].closed


@pytest.mark.parametrize("how_much", [1, 5, len(frame(b"hello")), 200_000])
async def test_what_was_read_too_far_is_not_lost(how_much: int) -> None:
    """The greeting and the first messages come together; what is buffered with it belongs to the messages."""
    responder = Echo(enable=ALL)

    async def read_line(connection: Connection, stream: ByteStream) -> ByteStream:
        buffered = BufferedByteStream(stream)
        assert await buffered.receive_until(b"\n", 100) == b"greetings"
        return buffered

    responder.shake_hands = read_line
    messages = [b"hello", b"again"] * (1 + how_much // 1000)
    stream = b"".join(map(frame, messages))
    async with responder.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"greetings\n" + stream[:how_much])
            await turns()
            await peer.send(stream[how_much:])
            assert [await peer.receive_message() for _ in messages] == messages
            assert responder.received == messages


async def test_the_sockets_options_are_within_reach() -> None:
    responder = Greeted()

    async def set_buffer(connection: Connection, stream: ByteStream) -> ByteStream:
        for reachable in (connection, stream):
            sock = reachable.extra(SocketAttribute.raw_socket)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        return stream

    responder.shake_hands = set_buffer
    async with responder.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: responder.connected)
            sock = responder.only.extra(SocketAttribute.raw_socket)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) in (100_000, 200_000)
            assert responder.only.extra(SocketAttribute.remote_address) == peer.addr


@pytest.mark.parametrize("wrong", [None, b"bytes", object()])
async def test_returning_no_stream_is_a_bug_and_connects_nobody(
    wrong: object, caplog: pytest.LogCaptureFixture
) -> None:
    dialler, responder = User(enable=ALL), User(enable=ALL)

    async def forget(connection: Connection, stream: ByteStream) -> ByteStream:
        return wrong  # type: ignore[return-value]  # what a user without a type checker does

    dialler.shake_hands = forget
    async with responder.node as node, dialler.node:
        with pytest.raises(HandshakeError) as failure:
            await dialler.node.connect(await node.start_listening())
        assert isinstance(failure.value.__cause__, TypeError)
        assert dialler.node.heuristics.hook_errors == 1
        assert is_untouched(dialler)
    assert [type(error) for error in told_errors(caplog)] == [TypeError]
    caplog.clear()


async def test_a_peer_that_leaves_during_the_handshake_is_no_bug() -> None:
    responder = Greeted()
    async with responder.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            peer.half_close()
            assert len(await peer.receive_all()) == NONCE
        await wait_until(lambda: node.heuristics.handshake_failures == 1)
        await wait_until(lambda: not node.connecting)
        assert node.heuristics.hook_errors == 0
        assert is_untouched(responder)


# What a handshake registers


class Registrar(User):
    """Registers its inbound peers in the handshake, and takes them back as `Handshake` says."""

    def __init__(self) -> None:
        super().__init__(Config(max_connections=1), enable=ALL)
        self.registered: set[Connection] = set()
        self.taken_back: list[Connection] = []
        self.begun, self.go_on = Event(), Event()
        self.shake_hands = self.register

    async def register(self, connection: Connection, stream: ByteStream) -> ByteStream:
        if connection.side is Side.RESPONDER:
            self.begun.set()
            with CancelScope(shield=True):  # so that it returns although its slot was taken meanwhile
                await self.go_on.wait()
            self.node.start_soon(self.take_back, connection)
            self.registered.add(connection)
        return stream

    async def take_back(self, connection: Connection) -> None:
        await connection.wait_closed()
        self.registered.remove(connection)
        self.taken_back.append(connection)


@pytest.mark.parametrize("end", ["before it is established", "after it was established"])
async def test_registration_in_a_handshake(end: str) -> None:
    """Before it is established: a dial has taken its slot when the handshake returns."""
    user, other = Registrar(), User(enable=())
    async with other.node, user.node, create_task_group() as group:
        with await RawPeer.dial(await user.node.start_listening()) as peer:
            await user.begun.wait()
            if end.startswith("before"):
                group.start_soon(user.node.connect, await other.node.start_listening())
                await wait_until(lambda: user.node.heuristics.inbound_rejections)
                user.go_on.set()
                assert await peer.is_refused()
            else:
                user.go_on.set()
                await wait_until(lambda: user.connected)
                assert user.registered == set(user.node.connections.values())
        await wait_until(lambda: user.taken_back)
        assert not user.registered
        assert user.taken_back == user.shaken[:1]
        assert bool(user.ended) == end.startswith("after")
