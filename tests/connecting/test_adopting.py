"""Streams from elsewhere, brought in with `adopt`."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import EndOfStream
from anyio.abc import ByteReceiveStream, ByteSendStream, ByteStream, SocketAttribute
from anyio.streams.stapled import StapledByteStream

from pea2pea import (
    AlreadyConnectedError,
    Config,
    Connection,
    ConnectionLimitError,
    DisconnectOrigin,
    HandshakeError,
    NodeClosedError,
    Side,
    TCPTransport,
)

from ..helpers import LOCALHOST, Echo, MemoryStream, Opaque, RawPeer, User, frame, frames, memory_pair, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ADDR = ("a name of our own", 1)

Ends = tuple[ByteStream, ByteStream]


def socket_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server((LOCALHOST, 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        return one, listener.accept()[0]


async def wrapped_sockets() -> Ends:
    one, other = socket_pair()
    return TCPTransport.wrap(one), TCPTransport.wrap(other)


async def anyio_sockets() -> Ends:
    one, other = socket_pair()
    one.setblocking(False)
    other.setblocking(False)
    return await anyio.abc.SocketStream.from_socket(one), await anyio.abc.SocketStream.from_socket(other)


async def unix_sockets() -> Ends:
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    return await anyio.abc.UNIXSocketStream.from_socket(one), await anyio.abc.UNIXSocketStream.from_socket(other)


async def wrapped_unix_sockets() -> Ends:
    one, other = socket.socketpair()
    return TCPTransport.wrap(one), TCPTransport.wrap(other)


async def memory_streams() -> Ends:
    return memory_pair()


class Sending(ByteSendStream):
    """The sending half of a stream in memory."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream

    async def send(self, item: bytes) -> None:
        await self.stream.send(item)

    async def aclose(self) -> None:
        await self.stream.send_eof()


class Receiving(ByteReceiveStream):
    """The receiving half of a stream in memory."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        return await self.stream.receive(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


async def stapled_streams() -> Ends:
    one, other = memory_pair()
    return StapledByteStream(Sending(one), Receiving(one)), StapledByteStream(Sending(other), Receiving(other))


async def streams_without_eof() -> Ends:
    one, other = memory_pair()
    return Opaque(one), Opaque(other)


KINDS = [
    wrapped_sockets,
    anyio_sockets,
    memory_streams,
    stapled_streams,
    streams_without_eof,
    *([unix_sockets, wrapped_unix_sockets] if hasattr(socket, "AF_UNIX") else []),
]
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@kinds
async def test_two_nodes_talk_over_adopted_streams(kind: Callable[[], Awaitable[Ends]]) -> None:
    one, other = User(Config(listener_addr=None)), Echo(Config(listener_addr=None))
    messages = [b"%d" % number * number for number in range(200)]
    async with one.node, other.node:
        ones, others = await kind()
        ours = await one.node.adopt(ones, ("other", 7), Side.INITIATOR)
        theirs = await other.node.adopt(others, ("one", 8), Side.RESPONDER)
        assert dict(one.node.connections) == {("other", 7): ours}
        assert dict(other.node.connections) == {("one", 8): theirs}
        assert (ours.side, theirs.side) == (Side.INITIATOR, Side.RESPONDER)
        assert ours.dialled is theirs.dialled is None
        for message in messages:
            await one.outbox.send(ours, message)
        await wait_until(lambda: len(one.received) == len(messages))
        assert one.received == messages
        assert other.sources == [("one", 8)] * len(messages)
        assert await one.node.disconnect(ours)
        await wait_until(lambda: not other.node.connections)
    assert one.origins == [DisconnectOrigin.USER]
    assert other.origins == [DisconnectOrigin.READING]


@kinds
async def test_all_that_was_sent_before_an_orderly_end_arrives(kind: Callable[[], Awaitable[Ends]]) -> None:
    one, other = User(enable={"reading"}), User()
    one.outbox = one.node.enable_writing(one, queue_depth=10_000, queue_bytes=10_000_000)
    async with one.node, other.node:
        ones, others = await kind()
        ours = await one.node.adopt(ones, ("other", 7), Side.INITIATOR)
        await other.node.adopt(others, ("one", 8), Side.RESPONDER)
        for number in range(5000):
            one.outbox.send_nowait(ours, b"%d" % number)
        await one.node.disconnect(ours)
        await wait_until(lambda: not other.node.connections)
    assert other.received == [b"%d" % number for number in range(5000)]


@kinds
async def test_an_abort_is_noticed_at_the_other_end(kind: Callable[[], Awaitable[Ends]]) -> None:
    one, other = User(), User()
    async with one.node, other.node:
        ones, others = await kind()
        ours = await one.node.adopt(ones, ("other", 7), Side.INITIATOR)
        await other.node.adopt(others, ("one", 8), Side.RESPONDER)
        assert await one.node.disconnect(ours, abort=True)
        await wait_until(lambda: not other.node.connections)
    assert other.origins == [DisconnectOrigin.READING]


@kinds
async def test_the_stream_is_closed_when_the_peer_has_closed(kind: Callable[[], Awaitable[Ends]]) -> None:
    user = User()
    async with user.node as node:
        ours, theirs = await kind()
        await node.adopt(ours, ADDR, Side.RESPONDER)
        await theirs.send(frame(b"hello"))
        await theirs.aclose()
        await wait_until(lambda: not node.connections)
        with pytest.raises((anyio.ClosedResourceError, anyio.BrokenResourceError)):
            await ours.send(b"is it closed?")
    assert user.received == [b"hello"]


async def test_a_half_closed_stream_still_gets_its_answers() -> None:
    user = Echo()
    async with user.node as node:
        ours, theirs = memory_pair()
        await node.adopt(ours, ADDR, Side.RESPONDER)
        await theirs.send(frame(b"one") + frame(b"two"))
        await theirs.send_eof()
        data = b""
        async for some in theirs:
            data += some
        assert frames(data) == [b"one", b"two"]


async def test_adopting_shakes_hands_as_any_connection() -> None:
    user = User(enable={"handshake", "reading", "writing", "on_connect"})

    async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
        assert connection.addr == ADDR
        assert connection.side is Side.RESPONDER
        assert set(user.node.connecting) == {ADDR}
        assert await stream.receive(1) == b"?"
        await stream.send(b"!")
        return stream

    user.shake_hands = shake_hands
    async with user.node as node:
        ours, theirs = memory_pair()
        await theirs.send(b"?" + frame(b"hello"))
        connection = await node.adopt(ours, ADDR, Side.RESPONDER)
        assert await theirs.receive(1) == b"!"
        assert node.connections[ADDR] is connection
        await wait_until(lambda: user.received == [b"hello"] and user.connected == [ADDR])
        await theirs.aclose()


async def is_closed(stream: MemoryStream) -> bool:
    """Whether the other end was closed."""
    try:
        await stream.receive()
    except EndOfStream:
        return True
    return False


async def test_a_failed_handshake_closes_the_stream() -> None:
    user = User(enable={"handshake"})

    async def refuse(_: Connection, __: ByteStream) -> ByteStream:
        raise PermissionError("not you")

    user.shake_hands = refuse
    async with user.node as node:
        ours, theirs = memory_pair()
        with pytest.raises(HandshakeError):
            await node.adopt(ours, ADDR, Side.RESPONDER)
        assert ours.closed
        assert await is_closed(theirs)
        assert not node.connecting


async def test_a_cancelled_handshake_closes_the_stream() -> None:
    user = User(enable={"handshake"})

    async def shake_hands(_: Connection, stream: ByteStream) -> ByteStream:
        await stream.receive()
        return stream

    user.shake_hands = shake_hands
    async with user.node as node:
        ours, theirs = memory_pair()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node.adopt, ours, ADDR, Side.RESPONDER)
            await wait_until(lambda: user.shaken)
            tasks.cancel_scope.cancel()
        assert ours.closed
        assert await is_closed(theirs)
        assert not node.connecting
        assert not node.connections


async def test_a_taken_address_closes_the_stream() -> None:
    user = User()
    async with user.node as node:
        first, _first = memory_pair()
        connection = await node.adopt(first, ADDR, Side.RESPONDER)
        second, other = memory_pair()
        with pytest.raises(AlreadyConnectedError):
            await node.adopt(second, ADDR, Side.INITIATOR)
        assert second.closed
        assert await is_closed(other)
        assert not first.closed
        assert node.connections[ADDR] is connection
        await node.disconnect(connection, abort=True)


async def test_a_limit_closes_the_stream() -> None:
    user = User(Config(max_connections=1))
    async with user.node as node:
        first, _first = memory_pair()
        connection = await node.adopt(first, ADDR, Side.RESPONDER)
        second, other = memory_pair()
        with pytest.raises(ConnectionLimitError):
            await node.adopt(second, (LOCALHOST, 7), Side.RESPONDER)
        assert await is_closed(other)
        await node.disconnect(connection, abort=True)


@pytest.mark.parametrize("addr", ["localhost", ("a",), ("", 1), ("a", 70_000), (1, 2)])
async def test_what_is_no_address_closes_the_stream(addr: tuple[str, int]) -> None:
    async with User().node as node:
        ours, theirs = memory_pair()
        with pytest.raises(ValueError, match="the address"):
            await node.adopt(ours, addr, Side.RESPONDER)
        assert await is_closed(theirs)


async def test_what_is_no_side_closes_the_stream() -> None:
    async with User().node as node:
        ours, theirs = memory_pair()
        with pytest.raises(TypeError, match="side must be a Side, not 'initiator'"):
            await node.adopt(ours, ADDR, "initiator")  # type: ignore[arg-type]  # that is the point
        assert await is_closed(theirs)


@pytest.mark.parametrize("what", [None, 7, b"bytes"])
async def test_what_is_no_stream_is_refused(what: ByteStream) -> None:
    user = User()
    async with user.node as node:
        with pytest.raises(TypeError, match="stream"):
            await node.adopt(what, ADDR, Side.RESPONDER)
        assert not node.connecting
        assert not node.connections
    assert not user.connected


async def test_a_bare_socket_is_refused_with_the_remedy() -> None:
    one, other = socket_pair()
    with one, other:
        async with User().node as node:
            with pytest.raises(TypeError, match=r"TCPTransport\.wrap"):
                await node.adopt(one, ADDR, Side.RESPONDER)  # type: ignore[arg-type]  # that is the point


async def test_a_node_that_does_not_run_closes_the_stream() -> None:
    node = User().node
    ours, theirs = memory_pair()
    with pytest.raises(RuntimeError, match="async with"):
        await node.adopt(ours, ADDR, Side.RESPONDER)
    assert await is_closed(theirs)
    async with node:
        pass
    ours, theirs = memory_pair()
    with pytest.raises(NodeClosedError):
        await node.adopt(ours, ADDR, Side.RESPONDER)
    assert await is_closed(theirs)


async def test_a_stream_whose_close_fails_is_closed_all_the_same() -> None:
    class Stubborn(MemoryStream):
        async def aclose(self) -> None:
            await super().aclose()
            raise OSError("closing has failed")

    user = User()
    async with user.node as node:
        _, theirs = memory_pair()
        ours = Stubborn(theirs._out, theirs._in)
        connection = await node.adopt(ours, ADDR, Side.RESPONDER)
        await node.disconnect(connection, abort=True)
        assert await is_closed(theirs)
    assert user.origins == [DisconnectOrigin.USER]


async def test_a_stream_whose_close_never_ends_does_not_hold_the_node_up() -> None:
    class Stubborn(MemoryStream):
        async def aclose(self) -> None:
            await super().aclose()
            await anyio.sleep_forever()

    user = User(Config(grace_period=0.1))
    async with user.node as node:
        _, theirs = memory_pair()
        await node.adopt(Stubborn(theirs._out, theirs._in), ADDR, Side.RESPONDER)
    assert user.origins == [DisconnectOrigin.SHUTDOWN]


async def test_what_a_stream_raises_ends_its_connection_and_is_the_cause() -> None:
    class Broken(MemoryStream):
        async def receive(self, max_bytes: int = 65_536) -> bytes:
            raise ZeroDivisionError("not quite a stream's error")

    user = User()
    async with user.node as node:
        _, theirs = memory_pair()
        connection = await node.adopt(Broken(theirs._out, theirs._in), ADDR, Side.RESPONDER)
        await wait_until(lambda: not node.connections)
        assert isinstance(connection.cause, ZeroDivisionError)
        assert await is_closed(theirs)
        assert node.heuristics.hook_errors == 0
    assert user.origins == [DisconnectOrigin.READING]


async def test_an_aborted_stream_is_closed_before_the_hook_runs() -> None:
    user = User()
    closed: list[bool] = []

    async def part(*_: object) -> None:
        closed.append(ours.closed)

    user.part = part
    async with user.node as node:
        ours, _theirs = memory_pair()
        await node.disconnect(await node.adopt(ours, ADDR, Side.RESPONDER), abort=True)
    assert closed == [True]


async def test_the_stream_is_closed_when_disconnect_returns() -> None:
    class Slow(MemoryStream):
        async def aclose(self) -> None:
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            await super().aclose()

    user = User()
    async with user.node as node:
        _, theirs = memory_pair()
        ours = Slow(theirs._out, theirs._in)
        connection = await node.adopt(ours, ADDR, Side.RESPONDER)
        await theirs.aclose()
        await node.disconnect(connection)
        assert ours.closed


async def test_a_socket_bound_by_hand_is_adopted() -> None:
    user = Echo()
    async with user.node as node:
        one, other = socket_pair()
        with RawPeer(other) as peer:
            connection = await node.adopt(TCPTransport.wrap(one), peer.addr, Side.RESPONDER)
            assert connection.extra(SocketAttribute.remote_address) == peer.addr
            await peer.send(frame(b"hello"))
            assert await peer.receive_message() == b"hello"


async def test_the_adopted_address_is_made_canonical() -> None:
    user = User()
    async with user.node as node:
        ours, _theirs = memory_pair()
        connection = await node.adopt(ours, ("::FFFF:192.0.2.1", 7), Side.RESPONDER)
        assert connection.addr == ("192.0.2.1", 7)
        await node.disconnect(("::ffff:192.0.2.1", 7), abort=True)
        assert not node.connections
