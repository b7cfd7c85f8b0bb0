"""While a frame is incomplete the kernel wakes the reader late (SO_RCVLOWAT), and nobody waits for ever."""

from __future__ import annotations

import logging
import socket
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel
import pytest
from anyio import ClosedResourceError, EndOfStream
from anyio.abc import SocketAttribute

from pea2pea import Config, Connection, DisconnectOrigin, Side, TCPTransport, transport
from pea2pea.codecs import HeaderCodec, LengthDelimitedCodec, VarintDelimitedCodec, batched, mapped
from pea2pea.testing import simulate
from pea2pea.transport import (
    BULK,
    BULK_TIME,
    BULK_TURNS,
    BULK_WAITS,
    READ_MAX,
    READ_MIN,
    RETRY_MAX,
    RETRY_MIN,
    TCPStream,
)

from ..helpers import LOCALHOST, Gate, RawPeer, User, above_info, frame, told_errors, turns, two_nodes, wait_until
from ..protocols.tls import SecureUser
from .streams import FAMILIES, wrapped

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from anyio.abc import ByteStream

    from pea2pea import Codec
    from pea2pea.testing import Simulation
    from pea2pea.testing.network import Host

LARGE = 1_000_000
HEADER = frame(bytes(LARGE))[:4]
marks = pytest.mark.skipif(sys.platform != "linux", reason="low marks are used on Linux alone")


def mark_of(stream: ByteStream | Connection) -> int:
    return stream.extra(SocketAttribute.raw_socket).getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


class Pieces(LengthDelimitedCodec):
    """Counts the pieces that it is handed."""

    count = 0

    def decode(self, data: Any, /) -> Any:
        self.count += 1
        return super().decode(data)


@asynccontextmanager
async def inside_of_a_frame(
    user: User | None = None, *, buffer: int | None = None
) -> AsyncGenerator[tuple[User, Connection, RawPeer]]:
    """A node, and a peer that has sent the beginning of a large frame; the node waits for the rest."""
    user = user or User(Config(grace_period=2.0))
    async with user.node as node:
        with socket.create_server((LOCALHOST, 0)) as listener:
            if buffer is not None:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            sock = socket.create_connection(listener.getsockname())
            accepted, addr = listener.accept()
        connection = await node.adopt(TCPTransport.wrap(accepted), addr, Side.RESPONDER)
        with RawPeer(sock) as peer:
            await peer.send(HEADER + bytes(100))
            await wait_until(lambda: connection.stats.bytes_received == 104)
            await wait_until(lambda: mark_of(connection) > 1 or sys.platform != "linux")
            yield user, connection, peer


# When


@marks
@pytest.mark.parametrize(
    ("size", "sent", "mark"),
    [
        (LARGE, 0, READ_MAX),
        (LARGE, LARGE - READ_MAX, READ_MAX),
        (LARGE, LARGE - 100_000, 100_000),
        (LARGE, LARGE - READ_MIN, READ_MIN),
        (LARGE, LARGE - READ_MIN + 1, 1),
        (READ_MIN - 1, 0, 1),
        (READ_MIN, 0, READ_MIN),
    ],
)
async def test_the_kernel_is_asked_for_what_a_frame_lacks(size: int, sent: int, mark: int) -> None:
    user = User()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            whole = frame(bytes(size))
            await peer.send(whole[: 4 + sent])
            await wait_until(lambda: node.connections and user.only.stats.bytes_received == 4 + sent)
            await turns()
            assert mark_of(user.only) == mark
            await peer.send(whole[4 + sent :])
            await wait_until(lambda: user.received == [bytes(size)])
            await turns()
            assert mark_of(user.only) == 1
            await peer.send(frame(b"small"))
            await wait_until(lambda: len(user.received) == 2)


@marks
@pytest.mark.parametrize("size", [200_000, 3_000_000])
async def test_a_large_frame_in_many_pieces_wakes_the_reader_a_few_times(size: int) -> None:
    codec = Pieces()
    user = User(codec=lambda: codec)
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            whole, step = frame(bytes(size)), size // 100
            for start in range(0, len(whole), step):
                await peer.send(whole[start : start + step])
                await turns(4)
            await wait_until(lambda: user.received == [bytes(size)])
            assert codec.count <= 8 + 2 * size // READ_MAX


@marks
@pytest.mark.parametrize(
    "make",
    [
        lambda: mapped(LengthDelimitedCodec(), decode=bytes, encode=bytes),
        lambda: mapped(batched(LengthDelimitedCodec()), decode=b"".join, encode=lambda message: [message]),
        VarintDelimitedCodec,
        lambda: mapped(
            HeaderCodec(4, lambda header: int.from_bytes(header, "big")),
            decode=lambda pair: pair[1],
            encode=lambda message: (len(message).to_bytes(4, "big"), message),
        ),
    ],
    ids=["mapped", "batched", "varint", "header"],
)
async def test_all_codecs_that_know_a_length_tell_it(make: Callable[[], Codec[bytes]]) -> None:
    user, message = User(codec=make), bytes(LARGE)
    encoded = make().encode(message)
    whole = b"".join(encoded if isinstance(encoded, tuple) else [encoded])
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(whole[:50])
            await wait_until(lambda: node.connections and mark_of(user.only) == READ_MAX)
            await peer.send(whole[50:])
            await wait_until(lambda: user.received == [message])


# How it ends


@pytest.mark.parametrize("how", ["idle", "disconnect", "abort", "shut down", "close", "reset", "half-close"])
@pytest.mark.parametrize("more", [0, 3000])
async def test_a_peer_that_stops_inside_of_a_frame_is_ended_as_ever(how: str, more: int) -> None:
    user = User(Config(grace_period=2.0), enable={"writing", "on_disconnect"})
    user.node.enable_reading(user, idle_timeout=0.3 if how == "idle" else None)
    async with inside_of_a_frame(user) as (_, connection, peer):
        await peer.send(bytes(more))  # too little to wake anybody
        if how in {"disconnect", "abort"}:
            assert await user.node.disconnect(connection, abort=how == "abort")
        elif how == "shut down":
            await user.node.shut_down()
        elif how == "close":
            peer.close()
        elif how == "reset":
            peer.reset()
        elif how == "half-close":
            peer.half_close()
        with anyio.fail_after(5):
            await connection.wait_closed()
        origins = {
            "disconnect": DisconnectOrigin.USER,
            "abort": DisconnectOrigin.USER,
            "shut down": DisconnectOrigin.SHUTDOWN,
        }
        assert user.origins == [origins.get(how, DisconnectOrigin.READING)]
        was_read = how in {"close", "half-close", "reset"}
        assert connection.stats.bytes_received == 104 + (more if was_read else 0)
    assert user.node.heuristics.decode_errors == (how in {"close", "half-close"})
    assert user.node.heuristics.idle_timeouts == (how == "idle")


@pytest.mark.parametrize("size", [1, 100, 20_000])
async def test_what_comes_during_an_orderly_end_is_thrown_away_and_resets_nothing(size: int) -> None:
    """The peer has not read yet what it is to get, and goes on sending: little, so that a mark would not be reached."""
    async with inside_of_a_frame() as (user, connection, peer):
        for _ in range(12):
            user.outbox.send_nowait(connection, bytes(20_000))
        async with anyio.create_task_group() as group:
            group.start_soon(user.node.disconnect, connection)
            await wait_until(lambda: connection.origin is not None)
            for _ in range(5):
                await peer.send(bytes(size))
                await turns()
            assert len(await peer.receive_all()) == 12 * 20_004
            peer.close()
    assert user.origins == [DisconnectOrigin.USER]


@marks
async def test_who_throws_away_is_woken_by_any_byte() -> None:
    async with inside_of_a_frame() as (user, connection, peer):
        raw = connection.extra(SocketAttribute.raw_socket)
        async with anyio.create_task_group() as group:
            group.start_soon(user.node.disconnect, connection)
            await wait_until(lambda: raw.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1)
            peer.close()


# Bulk: where each of the last waits has brought much, a reader waits for more, for a millisecond at the most


class Taking:
    """Receives all that comes, as a reader of large messages does."""

    def __init__(self, stream: TCPStream) -> None:
        self.stream = stream
        self.received = 0

    async def run(self) -> None:
        while data := self.stream.receive_nowait() or await self.wait():
            self.received += len(data)

    async def wait(self) -> bytes:
        while (data := self.stream.receive_nowait()) is None:
            await self.stream.wait_for(0)
        return data


@asynccontextmanager
async def taking(family: str = "TCP") -> AsyncGenerator[tuple[TCPStream, Callable[[int], Awaitable[None]]]]:
    """A stream that is received from, and a function that sends so much, and returns once that is received."""
    with wrapped(family) as (stream, peer):
        reader = Taking(stream)

        async def bring(size: int) -> None:
            wanted = reader.received + size
            await peer.send(bytes(size))
            await wait_until(lambda: reader.received == wanted)
            await turns(2 * BULK_TURNS)

        async with anyio.create_task_group() as group:
            group.start_soon(reader.run)
            yield stream, bring
            group.cancel_scope.cancel()


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait for much lasts so long that it can be looked at."""
    monkeypatch.setattr(transport, "BULK_TIME", 60.0)


async def into_bulk(stream: TCPStream, bring: Callable[[int], Awaitable[None]]) -> int:
    """Bring much at a time until so much is waited for; return how many times that was."""
    for count in range(1, RETRY_MAX):
        await bring(READ_MIN)
        if mark_of(stream) == BULK:
            return count
    raise AssertionError


@marks
@pytest.mark.usefixtures("long")
@pytest.mark.parametrize("family", FAMILIES)
async def test_after_many_waits_that_brought_much_one_waits_for_more(family: str) -> None:
    async with taking(family) as (stream, bring):
        assert await into_bulk(stream, bring) == BULK_WAITS
        await bring(2 * BULK)


@marks
@pytest.mark.usefixtures("long")
@pytest.mark.parametrize("much", [True, False])
async def test_one_wait_that_brought_little_begins_anew(much: bool) -> None:
    async with taking() as (stream, bring):
        for _ in range(BULK_WAITS - 1):
            await bring(READ_MIN)
        await bring(READ_MIN if much else READ_MIN - 1)
        assert mark_of(stream) == (BULK if much else 1)
        if not much:
            assert await into_bulk(stream, bring) == BULK_WAITS


@marks
async def test_what_is_less_is_received_a_moment_later_and_then_one_waits_for_any_byte() -> None:
    async with taking() as (stream, bring):
        for _ in range(BULK_WAITS):
            await bring(READ_MIN)
        with anyio.fail_after(5):
            await bring(1)
            await wait_until(lambda: mark_of(stream) == 1)


@marks
async def test_in_vain_it_is_tried_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "BULK_TIME", 0.0)
    async with taking() as (stream, bring):
        counts = list[int]()
        for _ in range(4):
            before, count = stream._retry, 0
            while stream._retry == before:
                await bring(READ_MIN)
                count += 1
            counts.append(count - BULK_WAITS)
        assert counts == [0, RETRY_MIN, RETRY_MIN * 2, RETRY_MIN * 4]
        monkeypatch.setattr(transport, "BULK_TIME", 60.0)
        await into_bulk(stream, bring)
        await bring(2 * BULK)  # it was worth it
        assert stream._retry == RETRY_MIN * 8


@marks
@pytest.mark.usefixtures("long")
async def test_a_plain_receive_ends_it() -> None:
    with wrapped() as (stream, peer):
        reader = Taking(stream)
        async with anyio.create_task_group() as group:
            group.start_soon(reader.run)
            for number in range(1, BULK_WAITS + 1):
                await peer.send(bytes(READ_MIN))
                await wait_until(lambda: reader.received == number * READ_MIN)  # noqa: B023
            await wait_until(lambda: mark_of(stream) == BULK)
            group.cancel_scope.cancel()
        async with anyio.create_task_group() as group:
            group.start_soon(stream.receive)
            await wait_until(lambda: mark_of(stream) == 1)
            await peer.send(b"x")


@marks
@pytest.mark.usefixtures("long")
@pytest.mark.parametrize("how", ["idle", "disconnect", "abort", "shut down", "close", "reset", "half-close"])
async def test_every_end_in_a_wait_for_bulk_is_as_ever(how: str) -> None:
    """What has come before the peer's end is processed, though it is less than what is waited for."""
    user = User(Config(grace_period=2.0), enable={"writing", "on_disconnect"})
    user.node.enable_reading(user, idle_timeout=0.3 if how == "idle" else None)
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            whole = frame(bytes(READ_MIN))
            for number in range(BULK_WAITS):
                await peer.send(whole)
                await wait_until(lambda: len(user.received) > number)  # noqa: B023
            connection = user.only
            await wait_until(lambda: mark_of(connection) == BULK)
            await peer.send(whole)
            await turns(2 * BULK_TURNS)
            assert len(user.received) == BULK_WAITS
            if how in {"disconnect", "abort"}:
                assert await node.disconnect(connection, abort=how == "abort")
            elif how == "shut down":
                await node.shut_down()
            elif how == "close":
                peer.close()
            elif how == "reset":
                peer.reset()
            elif how == "half-close":
                peer.half_close()
            with anyio.fail_after(5):
                await connection.wait_closed()
    by_user = dict.fromkeys(("disconnect", "abort"), DisconnectOrigin.USER)
    ours = by_user | {"shut down": DisconnectOrigin.SHUTDOWN}
    assert user.origins == [ours.get(how, DisconnectOrigin.READING)]
    assert len(user.received) == BULK_WAITS + (how in {"close", "half-close", "reset"})
    assert user.node.heuristics.idle_timeouts == (how == "idle")


@pytest.mark.parametrize("peers", [1, 6])
async def test_a_flood_of_large_messages_comes_whole_and_in_order(peers: int) -> None:
    """Also where one epoll of the node's waits for several of them."""
    sender, sink = User(), User()
    async with sink.node as node, sender.node:
        addr = await node.start_listening()
        flooders = [User(Config(listener_addr=None)) for _ in range(peers)]
        count, size = 300, 40_000

        async def flood(user: User) -> None:
            async with user.node:
                connection = await user.node.connect(addr)
                for number in range(count):
                    await user.outbox.send(connection, number.to_bytes(4, "big") + bytes(size))

        async with anyio.create_task_group() as group:
            for user in flooders:
                group.start_soon(flood, user)
        await wait_until(lambda: len(sink.received) == peers * count, timeout=20)
        numbers = [int.from_bytes(message[:4], "big") for message in sink.received]
        assert sorted(numbers) == sorted(list(range(count)) * peers)
        assert peers > 1 or numbers == list(range(count))


def test_in_virtual_time_a_message_in_bulk_is_late_by_a_millisecond_at_most() -> None:
    async def bulk(sim: Simulation) -> None:
        late = list[float]()
        sink = User(Config(listener_addr=("10.0.0.1", 1)), transport=sim.host("10.0.0.1"))
        sender = User(Config(listener_addr=None), transport=sim.host("10.0.0.2"))

        async def note(_: object, message: bytes) -> None:
            late.append(anyio.current_time() - float(message[:20]))

        sink.handle = note
        async with sim.running([sink.node, sender.node]):
            connection = await sender.node.connect(("10.0.0.1", 1))
            for _ in range(1000):
                sender.outbox.send_nowait(connection, f"{anyio.current_time():020.9f}".encode() + bytes(READ_MIN))
                await anyio.sleep(0.0006)  # so that a wait ends too late for the first of two messages
            await sim.until(lambda: len(late) == 1000, within=1)
        assert max(late) <= BULK_TIME + 1e-9
        assert 1 <= sum(moment > 1e-6 for moment in late) <= 6

    for backend in ("asyncio", "trio"):
        simulate(bulk, backend=backend)


# Buffers, wrappers, and other sockets


@pytest.mark.parametrize("buffer", [1, 4096, 65_536])
@pytest.mark.parametrize("step", [100, 20_000, LARGE])
async def test_a_mark_above_what_the_buffer_holds_is_no_deadlock(buffer: int, step: int) -> None:
    async with inside_of_a_frame(buffer=buffer) as (user, _, peer):
        rest = frame(bytes(LARGE))[104:]
        with anyio.fail_after(30):
            for start in range(0, len(rest), step):
                await peer.send(rest[start : start + step])
            await wait_until(lambda: user.received == [bytes(LARGE)], timeout=20)


@marks
async def test_below_a_wrapper_there_is_no_mark() -> None:
    """What TLS lacks for its next record is nobody's to know."""
    dialler, responder = SecureUser(), SecureUser()
    async with two_nodes(dialler, responder) as (ours, theirs):
        seen = set[int]()

        async def look(*_: object) -> None:
            seen.add(mark_of(theirs))

        responder.handle = look
        for size in (LARGE, 1):
            await dialler.outbox.deliver(ours, bytes(size))
            seen.add(mark_of(theirs))
        await wait_until(lambda: len(responder.received) == 2, timeout=10)
        assert seen == {1}


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_socket_of_either_family_can_be_adopted(family: str) -> None:
    user = User(Config(grace_period=0.5))
    async with user.node as node:
        with wrapped(family) as (stream, peer):
            connection = await node.adopt(stream, ("somebody", 1), Side.RESPONDER)
            whole = frame(bytes(LARGE))
            await peer.send(whole[:30_000])
            await wait_until(lambda: connection.stats.bytes_received == 30_000)
            async with anyio.create_task_group() as group:
                group.start_soon(peer.send, whole[30_000:])
                await wait_until(lambda: user.received == [bytes(LARGE)])
            await peer.send(whole[:30_000])
            await wait_until(lambda: connection.stats.bytes_received == len(whole) + 30_000)
            peer.close()
            await wait_until(lambda: user.origins == [DisconnectOrigin.READING])


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_plain_receive_is_woken_by_one_byte_whatever_was_expected_before(family: str) -> None:
    with wrapped(family) as (stream, peer):
        for missing in (LARGE, 1 << 80, 20_000, -1):
            with anyio.move_on_after(0):
                await stream.wait_for(missing)
            async with anyio.create_task_group() as group:

                async def send() -> None:
                    await turns()
                    await peer.send(b"x")

                group.start_soon(send)
                assert await stream.receive() == b"x"
        with anyio.move_on_after(0):
            await stream.wait_for(LARGE)
        peer.half_close()
        with pytest.raises(EndOfStream):
            await stream.receive()


async def test_who_waits_for_what_is_missing_of_a_closed_stream_is_told() -> None:
    with wrapped() as (stream, _):
        stream.close()
        with pytest.raises((ClosedResourceError, OSError)):
            await stream.wait_for(LARGE)


async def test_a_node_without_reading_reads_ahead_as_it_comes() -> None:
    user = User(enable={"writing", "on_disconnect"})
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(HEADER + bytes(READ_MIN * 2))
            await wait_until(lambda: node.connections)
            await turns()
            assert mark_of(user.only) == 1
            peer.reset()
            await wait_until(lambda: user.origins == [DisconnectOrigin.READING])


# Decoders


@pytest.mark.parametrize("busy", [True, False])
async def test_while_a_handler_is_busy_nobody_waits_for_a_part_of_a_frame(busy: bool) -> None:  # a parameter
    """What a decoder says counts only when it is done: a generator of the user's may update it at its end."""

    class Late(LengthDelimitedCodec):
        """Says before a message what holds after it."""

        missing = 0

        def decode(self, data: Any, /) -> Any:
            self.missing = 50_000
            yield from super().decode(data)
            self.missing = 0

    user, gate = User(codec=Late), Gate()
    if busy:
        user.handle = gate
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"first"))
            await wait_until(lambda: user.received)
            await peer.send(frame(b"second"))
            await wait_until(lambda: user.only.stats.bytes_received == 9 + 10)
            gate.opened.set()
            await wait_until(lambda: user.received == [b"first", b"second"])


@pytest.mark.parametrize("told", [None, "much", 20_000.0, {1, 2}])
async def test_a_decoder_that_tells_nonsense_is_a_bug_of_the_users(
    told: object, caplog: pytest.LogCaptureFixture
) -> None:
    class Wrong:
        missing = told

        def decode(self, data: bytes, /) -> Iterable[bytes]:
            return [data] if data else []

        def encode(self, message: bytes, /) -> bytes:
            return message

    user = User(codec=cast("Any", Wrong))
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(bytes(2048))  # it is not asked while little comes at once
            assert await peer.receive_all() == b""
        await wait_until(lambda: user.origins == [DisconnectOrigin.READING])
    assert [type(error) for error in told_errors(caplog)] == [TypeError]
    assert user.node.heuristics.hook_errors == 1


@pytest.mark.parametrize("told", [-5, 0, 3, True])
async def test_a_decoder_may_know_nothing(told: int, caplog: pytest.LogCaptureFixture) -> None:
    class Knowing(Pieces):
        missing = told

    user = User(codec=Knowing)
    caplog.set_level(logging.INFO)
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(HEADER + bytes(LARGE - 1))
            await wait_until(lambda: node.connections and user.only.stats.bytes_received == LARGE + 3)
            await peer.send(b"\0" + frame(b"x"))
            await wait_until(lambda: user.received == [bytes(LARGE), b"x"])
    assert not above_info(caplog)


# The simulated network


@pytest.mark.parametrize("how", ["whole", "stops", "crash"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_simulated_sockets_have_marks_too(how: str, backend: str) -> None:
    async def scenario(sim: Simulation) -> None:
        hosts: list[Host] = [sim.host(f"10.0.0.{number}") for number in (1, 2)]
        responder = User(Config(listener_addr=("10.0.0.2", 4000)), transport=hosts[1], enable={"on_disconnect"})
        responder.node.enable_reading(responder, idle_timeout=20.0)
        async with responder.node as node:
            stream = await hosts[0].dial(await node.start_listening())
            sent = len(HEADER) + (LARGE if how == "whole" else 100_000)
            await stream.send((HEADER + bytes(LARGE))[:sent])
            if how == "crash":
                hosts[0].crash()
            await sim.until(lambda: responder.received or responder.ended, within=30)
            assert responder.received == ([bytes(LARGE)] if how == "whole" else [])
            assert responder.node.heuristics.idle_timeouts == (how != "whole")
            with suppress(Exception):
                await stream.aclose()

    simulate(scenario, seeds=5, backend=backend)
