"""examples/libp2p.py against itself: what no well-behaved peer of another implementation would do, and the program."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

pytest.importorskip("noise", reason="the examples' dependencies are not installed")

from anyio.lowlevel import checkpoint
from anyio.streams.buffered import BufferedByteStream

from examples.libp2p import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    MAX_STREAMS,
    PING,
    RST,
    SYN,
    WINDOW,
    WINDOW_UPDATE,
    Frame,
    Host,
    ProtocolError,
    Session,
    Stream,
    YamuxCodec,
    parse_multiaddr,
    parse_protobuf,
    peer_id,
    protobuf,
    receive_prefixed,
    session_of,
    uvarint,
)
from pea2pea import Connection, FrameError, HandshakeError, NotConnectedError, Side
from pea2pea.testing import check_codec, wait_until
from tests.helpers import memory_pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .conftest import Example

ECHO, HOLD = "/echo/1.0.0", "/hold/1.0.0"


class Server(Host):
    """Serves an echo, and a protocol that lets a test hold the other end of a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[BufferedByteStream] = []
        self.let_go = anyio.Event()
        self.handlers |= {ECHO: self.echo, HOLD: self.hold}

    async def echo(self, _session: Session, stream: BufferedByteStream) -> None:
        async for data in stream:
            await stream.send(data)

    async def hold(self, _session: Session, stream: BufferedByteStream) -> None:
        self.held.append(stream)
        await self.let_go.wait()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Server, Session]]:
    """A server, and a client's session with it."""
    server, client = Server(), Host()
    async with server.node, client.node:
        session = await client.dial(await server.listen())
        await wait_until(lambda: bool(server.node.connections), 10)
        yield server, session
        server.let_go.set()


async def held(server: Server, session: Session) -> tuple[BufferedByteStream, BufferedByteStream]:
    """Both ends of a stream: the client's, and the server's."""
    ours = await session.open(HOLD)
    await wait_until(lambda: bool(server.held), 10)
    return ours, server.held.pop()


def server_session(server: Server) -> Session:
    return session_of(next(iter(server.node.connections.values())))


# ---- bytes


def test_the_codec_does_not_care_where_the_stream_is_cut() -> None:
    check_codec(
        YamuxCodec,
        [
            Frame(WINDOW_UPDATE, SYN, 1, 0),
            Frame(DATA, 0, 1, 0, b"some data"),
            Frame(PING, SYN, 0, 7),
            Frame(DATA, FIN, 1, 0, b"\x00" * 100),
            Frame(GO_AWAY, 0, 0, 1),
        ],
    )


@pytest.mark.parametrize(
    "header",
    ["010000000000000100000000", "000400000000000100000000", "000000000000000100040001"],
    ids=["version", "type", "longer than any window"],
)
def test_nonsense_is_no_frame(header: str) -> None:
    with pytest.raises(FrameError):
        list(YamuxCodec().decode(bytes.fromhex(header)))


def test_an_end_inside_a_frame_is_an_error() -> None:
    codec = YamuxCodec()
    assert list(codec.decode(b"\x00")) == []
    with pytest.raises(FrameError):
        list(codec.decode(b""))


def test_peer_ids_are_those_of_the_specification() -> None:
    # libp2p's specs/peer-ids, the test vector of Ed25519
    key = bytes.fromhex("080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e")
    assert peer_id(key) == "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"
    with pytest.raises(ProtocolError):
        peer_id(b"\x08\x02" + key[2:])


@pytest.mark.parametrize("data", ["0a", "0a05", "0aff", "08", "ffffffffffffffffffff01", "0801"])
def test_a_protobuf_message_cut_short_is_a_protocol_error(data: str) -> None:
    with pytest.raises(ProtocolError):
        parse_protobuf(bytes.fromhex(data))


def test_protobuf_there_and_back() -> None:
    message = protobuf((1, b"one"), (3, b"x" * 300), (3, b""), (8, b"eight"))
    assert parse_protobuf(message) == {1: [b"one"], 3: [b"x" * 300, b""], 8: [b"eight"]}


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300, 1024])
async def test_what_is_prefixed_arrives(size: int) -> None:
    ours, theirs = memory_pair()
    await ours.send(uvarint(size) + b"x" * size)
    assert await receive_prefixed(BufferedByteStream(theirs), 1024) == b"x" * size


@pytest.mark.parametrize("prefix", [uvarint(1025), b"\xff\xff\xff\xff\xff\x01"])
async def test_what_is_too_long_is_not_waited_for(prefix: bytes) -> None:
    ours, theirs = memory_pair()
    await ours.send(prefix)
    with pytest.raises(ProtocolError):
        await receive_prefixed(BufferedByteStream(theirs), 1024)


def test_multiaddrs() -> None:
    assert parse_multiaddr("/ip4/127.0.0.1/tcp/4001") == (("127.0.0.1", 4001), None)
    assert parse_multiaddr("/ip6/::1/tcp/1/p2p/12D3") == (("::1", 1), "12D3")
    assert parse_multiaddr("/dns/localhost/tcp/1") == (("localhost", 1), None)
    for nonsense in ("", "localhost:1", "/ip4/127.0.0.1/udp/4001/quic", "/ip4/127.0.0.1/tcp/1/ws"):
        with pytest.raises(ValueError, match="multiaddr"):
            parse_multiaddr(nonsense)


# ---- streams


async def test_a_stream_half_closed_still_receives() -> None:
    async with connected() as (server, session):
        ours, theirs = await held(server, session)
        await ours.send_eof()
        with pytest.raises(anyio.EndOfStream):
            await theirs.receive()
        await theirs.send(b"an answer")
        assert await ours.receive() == b"an answer"
        with pytest.raises(anyio.ClosedResourceError):
            await ours.send(b"too late")
        await theirs.aclose()
        with pytest.raises(anyio.EndOfStream):
            await ours.receive()
        assert not session.streams
        await wait_until(lambda: not server_session(server).streams, 10)


async def test_a_reset_ends_both_ends() -> None:
    async with connected() as (server, session):
        ours, theirs = await held(server, session)
        await theirs.send(b"never read")
        assert isinstance(ours._stream, Stream)
        ours._stream.reset()
        for stream in (ours, theirs):
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await stream.send(b"no more")
        assert len(await session.ping()) == 1


async def test_a_window_is_all_that_is_sent_to_who_does_not_read() -> None:
    async with connected() as (server, session):
        ours, theirs = await held(server, session)
        assert isinstance(theirs._stream, Stream)
        waiting = theirs._stream
        sent = bytes(2 * WINDOW)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ours.send, sent)
            await wait_until(lambda: waiting._may_receive == 0, 10)
            await session.ping()  # the connection is not held up by it
            assert WINDOW - 100 < len(waiting._received) < WINDOW  # the negotiation took some of it
            assert await theirs.receive_exactly(len(sent)) == sent


async def test_more_than_the_window_ends_the_connection() -> None:
    async with connected() as (server, session):
        stream, _ = await held(server, session)
        assert isinstance(stream._stream, Stream)
        stream._stream._may_send = 2 * WINDOW
        with pytest.raises(anyio.BrokenResourceError):  # noqa: PT012  # sooner or later
            await stream.send(bytes(2 * WINDOW))
            await stream.receive()
        await wait_until(lambda: not session.host.node.connections, 10)
        assert session.going_away


@pytest.mark.parametrize("stream_id", [0, 2, 1], ids=["none", "the other's", "one in use"])
async def test_foreign_stream_id(stream_id: int) -> None:
    """A stream that is not the peer's to open ends the connection."""
    async with connected() as (server, session):
        await held(server, session)
        session.control(Frame(WINDOW_UPDATE, SYN, stream_id))
        await wait_until(lambda: not server.node.connections, 10)
        assert server.node.heuristics.hook_errors == 0


async def test_streams_beyond_the_limit_are_reset() -> None:
    async with connected() as (server, session):
        for number in range(MAX_STREAMS):
            session.control(Frame(WINDOW_UPDATE, SYN, 1001 + 2 * number))
        with pytest.raises(anyio.BrokenResourceError):
            await session.open(ECHO)
        session.control(Frame(WINDOW_UPDATE, RST, 1001))
        assert len(await session.ping()) == 1
        assert server.node.heuristics.hook_errors == 0


async def test_frames_of_streams_unknown_are_passed_over() -> None:
    async with connected() as (_, session):
        for frame in (Frame(DATA, 0, 99, 0, b"?"), Frame(WINDOW_UPDATE, FIN | ACK, 99), Frame(PING, ACK, 0, 99)):
            session.control(frame)
        assert len(await session.ping()) == 1


class Deaf(Host):
    """Reads no more than the first frame."""

    async def process_message(self, source: Connection, message: Frame) -> None:
        await anyio.sleep_forever()


async def test_a_peer_that_asks_and_does_not_read_is_cut_off() -> None:
    server, client = Server(), Deaf()
    ours, theirs = memory_pair(4096)  # a socket holds megabytes
    async with server.node, client.node:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.node.adopt, theirs, ("client", 1), Side.RESPONDER)
            connection = await client.node.adopt(ours, ("server", 1), Side.INITIATOR)
        with pytest.raises(NotConnectedError):  # noqa: PT012  # sooner or later
            while True:
                await client.outbox.send(connection, Frame(PING, SYN, 0, 1))
                await checkpoint()
        await wait_until(lambda: not server.node.connections, 10)
        assert server.node.heuristics.hook_errors == 0
        assert server.node.heuristics.write_timeouts == 0


async def test_the_end_of_the_connection_is_the_end_of_its_streams() -> None:
    async with connected() as (server, session):
        ours, theirs = await held(server, session)
        await session.host.node.disconnect(session.connection)
        for stream in (ours, theirs):
            with pytest.raises(anyio.BrokenResourceError):
                await stream.receive()
        with pytest.raises(anyio.BrokenResourceError):
            await session.open(ECHO)
        assert server.node.heuristics.hook_errors == 0


async def test_a_stream_without_a_protocol_is_reset() -> None:
    async with connected() as (server, session):
        stream = session.streams[101] = Stream(session, 101)
        session.control(Frame(WINDOW_UPDATE, SYN, 101))
        await stream.send(uvarint(2) + b"?\n")
        with pytest.raises(anyio.BrokenResourceError):
            await stream.receive()
        assert server.node.heuristics.hook_errors == 0


# ---- identities


async def test_a_key_signed_by_nobody_is_refused() -> None:
    server, client = Server(), Host()
    client._payload = protobuf((1, client._identity_key), (2, bytes(64)))
    async with server.node, client.node:
        address = await server.listen()
        with pytest.raises(HandshakeError):
            await client.dial(address)
        await wait_until(lambda: server.node.heuristics.handshake_failures == 1, 10)
        assert not server.node.connections


async def test_a_signature_of_another_static_key_is_refused() -> None:
    server, client, other = Server(), Host(), Host()
    client._payload, client._identity_key = other._payload, other._identity_key  # copied off a wire
    async with server.node, client.node:
        with pytest.raises(HandshakeError):
            await client.dial(await server.listen())
        await wait_until(lambda: server.node.heuristics.handshake_failures == 1, 10)


async def test_one_address_is_dialled_for_one_peer_id_at_a_time() -> None:
    server, client = Server(), Host()
    async with server.node, client.node, anyio.create_task_group() as tasks:
        address = await server.listen()
        tasks.start_soon(client.dial, address)
        await wait_until(lambda: bool(client._expected), 10)
        with pytest.raises(RuntimeError, match="already"):
            await client.dial(address)


def test_the_program(example: Example) -> None:
    listening, identified, pings, refused = example("libp2p.py")
    assert listening.startswith("listening on /ip4/127.0.0.1/tcp/")
    name = listening.rpartition("/")[2]
    assert identified == f"{name} is 'pea2pea-example/1.0' and speaks '/ipfs/id/1.0.0', '/ipfs/ping/1.0.0'"
    assert pings.count(" ms") == 5
    assert refused.startswith("a false PeerId is refused: dialled 12D3")
    assert refused.endswith(f"but {name} has answered")
