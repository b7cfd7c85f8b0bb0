"""`MessageStream`: typed messages during a handshake, and what was read too far."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Protocol

import pytest
from anyio import BrokenResourceError, CancelScope, ClosedResourceError, EndOfStream, create_task_group
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteStream
from anyio.streams.tls import TLSAttribute, TLSStream

from pea2pea import Connection, FrameError, HandshakeError, Side, TCPTransport
from pea2pea.codecs import BytesCodec, Codec, DelimitedCodec, Frame, LengthDelimitedCodec, VarintDelimitedCodec
from pea2pea.handshakes import MessageStream
from pea2pea.transport import TCPStream

from ..helpers import ALL, Echo, RawPeer, User, frame, memory_pair, turns, two_nodes, wait_until
from .tls import wrap

MESSAGES = [b"hello", b"", b"x", b"me again"]
TAIL = b"\x00\x07 of the connection's\n"


class Telling:
    """A length of two bytes; it says how much it lacks, and takes no byte more."""

    def __init__(self) -> None:
        self.buffer = b""

    @property
    def missing(self) -> int:
        return (2 if len(self.buffer) < 2 else 2 + int.from_bytes(self.buffer[:2], "big")) - len(self.buffer)

    def decode(self, data: bytes, /) -> Iterator[bytes]:
        assert len(data) <= self.missing
        self.buffer += data
        if not data and self.buffer:
            raise FrameError("cut off")
        while len(self.buffer) >= 2 and not self.missing:
            message, self.buffer = self.buffer[2:], b""
            yield message

    def encode(self, message: bytes, /) -> Frame:
        return len(message).to_bytes(2, "big"), message


class Silent:
    """The same, but it says nothing, and would take whatever it gets."""

    def __init__(self) -> None:
        self.buffer = b""

    def decode(self, data: bytes, /) -> list[bytes]:
        self.buffer += data
        if not data and self.buffer:
            raise FrameError("cut off")
        messages = []
        while len(self.buffer) >= 2 and len(self.buffer) >= 2 + self.buffer[1]:
            end = 2 + self.buffer[1]
            messages.append(self.buffer[2:end])
            self.buffer = self.buffer[end:]
        return messages

    def encode(self, message: bytes, /) -> Frame:
        return bytearray(len(message).to_bytes(2, "big") + message)


class Packed:
    """Messages of one byte, two of which come in a byte."""

    def decode(self, data: bytes, /) -> Iterable[bytes]:
        for byte in data:
            yield b"%d" % (byte >> 4)
            if byte & 15 == 15:
                raise FrameError("fifteen")
            yield b"%d" % (byte & 15)

    def encode(self, message: bytes, /) -> Frame:
        return message


CODECS: list[Callable[[], Codec[bytes]]] = [
    Telling, Silent, LengthDelimitedCodec, VarintDelimitedCodec, lambda: DelimitedCodec(b"\r\n"),
]  # fmt: skip
any_codec = pytest.mark.parametrize("make_codec", CODECS, ids=["telling", "silent", "length", "varint", "delimiter"])


def sent_by(codec: Codec[bytes], messages: Iterable[bytes]) -> bytes:
    frames = (codec.encode(message) for message in messages)
    return b"".join(b"".join(made if isinstance(made, tuple) else (made,)) for made in frames)


async def read_rest(stream: ByteStream, count: int) -> bytes:
    """So many bytes, and none more."""
    data = b""
    while len(data) < count:
        data += await stream.receive(5)
    assert len(data) == count
    return data


class Plain(ByteStream):
    """A stream of a user's, without attributes; more may come out of it than was asked for."""

    def __init__(self, inner: ByteStream) -> None:
        self.inner = inner

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        return await self.inner.receive(65_536)

    async def send(self, item: bytes) -> None:
        await self.inner.send(item)

    async def send_eof(self) -> None:
        await self.inner.send_eof()

    async def aclose(self) -> None:
        await self.inner.aclose()


class Pair(Protocol):
    """Makes both ends of a stream."""

    def __call__(self) -> Awaitable[tuple[ByteStream, ByteStream]]: ...


async def tcp() -> tuple[ByteStream, ByteStream]:
    ours, theirs = socket.socketpair()
    return TCPTransport.wrap(ours), TCPTransport.wrap(theirs)


async def in_memory() -> tuple[ByteStream, ByteStream]:
    return memory_pair()


async def of_a_user() -> tuple[ByteStream, ByteStream]:
    ours, theirs = memory_pair()
    return Plain(ours), Plain(theirs)


async def tls() -> tuple[ByteStream, ByteStream]:
    ours, theirs = memory_pair()
    wrapped: dict[Side, TLSStream] = {}

    async def shake_hands(stream: ByteStream, side: Side) -> None:
        wrapped[side] = await wrap(stream, side)

    async with create_task_group() as group:
        group.start_soon(shake_hands, ours, Side.INITIATOR)
        group.start_soon(shake_hands, theirs, Side.RESPONDER)
    return wrapped[Side.INITIATOR], wrapped[Side.RESPONDER]


@asynccontextmanager
async def both_ends(pair: Pair) -> AsyncGenerator[tuple[ByteStream, ByteStream]]:
    ours, theirs = await pair()
    try:
        yield ours, theirs
    finally:
        for stream in (ours, theirs):
            await (stream.transport_stream if isinstance(stream, TLSStream) else stream).aclose()


any_pair = pytest.mark.parametrize("pair", [tcp, tls, in_memory, of_a_user])


# Messages


@any_codec
@any_pair
async def test_messages_go_both_ways(pair: Pair, make_codec: Callable[[], Codec[bytes]]) -> None:
    async with both_ends(pair) as (ours, theirs):
        one, other = MessageStream(ours, make_codec()), MessageStream(theirs, make_codec())
        for message in MESSAGES:
            await one.send(message)
            assert await other.receive() == message
            await other.send(message[::-1])
            assert await one.receive() == message[::-1]
        assert (one.detach(), other.detach()) == (ours, theirs)


@any_codec
@any_pair
async def test_any_cut_any_rest(pair: Pair, make_codec: Callable[[], Codec[bytes]]) -> None:
    """Wherever it is cut and whatever follows all comes out in order."""
    data = sent_by(make_codec(), MESSAGES) + TAIL
    for cut in range(len(data) + 1):
        async with both_ends(pair) as (ours, theirs):
            messages = MessageStream(ours, make_codec())

            async def send(stream: ByteStream, *parts: bytes) -> None:
                for part in filter(None, parts):
                    await stream.send(part)
                    await turns(3)

            async with create_task_group() as group:
                group.start_soon(send, theirs, data[:cut], data[cut:])
                assert [await messages.receive() for _ in MESSAGES] == MESSAGES
                stream = messages.detach()
                assert await read_rest(stream, len(TAIL)) == TAIL
            await send(theirs, b"and more")
            assert await read_rest(stream, 8) == b"and more"
            await stream.send(b"back")
            assert await read_rest(theirs, 4) == b"back"


@any_codec
async def test_what_a_decoder_says_is_missing_is_all_that_is_read(make_codec: Callable[[], Codec[bytes]]) -> None:
    """Then another stream than TCP needs no wrapper."""
    async with both_ends(in_memory) as (ours, theirs):
        messages = MessageStream(ours, make_codec())
        await theirs.send(sent_by(make_codec(), [b"hello"]) + TAIL)
        assert await messages.receive() == b"hello"
        exact = hasattr(make_codec(), "missing")
        stream = messages.detach()
        assert (stream is ours) == exact
        assert isinstance(stream, BufferedByteStream) != exact
        assert await read_rest(stream, len(TAIL)) == TAIL


async def test_messages_that_come_in_one_byte_come_out_in_order() -> None:
    async with both_ends(in_memory) as (ours, theirs):
        messages = MessageStream(ours, Packed())
        await theirs.send(b"\x12\x34\x5f\x67")
        for expected in (b"1", b"2", b"3", b"4", b"5"):
            assert await messages.receive() == expected
        with pytest.raises(FrameError, match="fifteen"):
            await messages.receive()
        assert await messages.receive() == b"6"
        with pytest.raises(FrameError, match="more messages than its handshake has"):
            messages.detach()


async def test_a_codec_without_frames_makes_a_message_of_each_byte() -> None:
    async with both_ends(in_memory) as (ours, theirs):
        messages = MessageStream(ours, BytesCodec())
        await theirs.send(b"abc")
        assert [await messages.receive(), await messages.receive()] == [b"a", b"b"]
        assert await read_rest(messages.detach(), 1) == b"c"


async def test_large_messages_go_both_ways() -> None:
    large = bytes(range(256)) * 1000
    async with both_ends(tcp) as (ours, theirs), create_task_group() as group:
        for codec in (Silent, LengthDelimitedCodec):
            size = 255 if codec is Silent else len(large)
            one, other = MessageStream(ours, codec()), MessageStream(theirs, codec())
            group.start_soon(one.send, large[:size])
            assert await other.receive() == large[:size]
            other.detach()


async def test_a_message_that_cannot_be_encoded_is_not_sent() -> None:
    async with both_ends(in_memory) as (ours, theirs):
        one, other = MessageStream(ours, LengthDelimitedCodec(max_length=3)), MessageStream(theirs, Silent())
        with pytest.raises(ValueError, match="longer than max_length"):
            await one.send(b"four")
        await MessageStream(ours, Silent()).send(b"on")
        assert await other.receive() == b"on"


# The end, and what is wrong


@any_codec
@any_pair
async def test_the_end_of_the_stream_is_told(pair: Pair, make_codec: Callable[[], Codec[bytes]]) -> None:
    async with both_ends(pair) as (ours, theirs):
        one, other = MessageStream(ours, make_codec()), MessageStream(theirs, make_codec())
        await one.send(b"hello")
        async with create_task_group() as group:
            group.start_soon(ours.aclose if pair is tls else ours.send_eof)
            assert await other.receive() == b"hello"
            for _ in range(2):
                with pytest.raises(EndOfStream):
                    await other.receive()
            if pair is tls:
                await theirs.aclose()


@any_codec
async def test_an_end_within_a_frame_is_told(make_codec: Callable[[], Codec[bytes]]) -> None:
    data = sent_by(make_codec(), [b"hello"])
    for cut in range(1, len(data)):
        async with both_ends(in_memory) as (ours, theirs):
            messages = MessageStream(ours, make_codec())
            await theirs.send(data[:cut])
            await theirs.send_eof()
            with pytest.raises(FrameError):
                await messages.receive()
            with pytest.raises(EndOfStream):
                await messages.receive()


async def test_an_end_that_is_told_by_no_bytes_is_one() -> None:
    class Quiet(Plain):
        async def receive(self, max_bytes: int = 65_536) -> bytes:
            return b""

    messages = MessageStream(Quiet(memory_pair()[0]), LengthDelimitedCodec())
    with pytest.raises(EndOfStream):
        await messages.receive()


@pytest.mark.parametrize("too_long", [b"\x00\x00\x00\x09", b"\xff\xff\xff\xff and more"])
async def test_no_valid_frame_is_told_behind_the_messages_before_it(too_long: bytes) -> None:
    async with both_ends(tcp) as (ours, theirs):
        messages = MessageStream(ours, LengthDelimitedCodec(max_length=8))
        await theirs.send(frame(b"hello") + too_long)
        assert await messages.receive() == b"hello"
        with pytest.raises(FrameError, match="max_length is 8"):
            await messages.receive()


async def test_what_a_stream_raises_comes_out() -> None:
    async with both_ends(in_memory) as (ours, theirs):
        messages = MessageStream(ours, LengthDelimitedCodec())
        await theirs.aclose()
        with pytest.raises(BrokenResourceError):
            await messages.send(b"hello")
        await ours.aclose()
        with pytest.raises((ClosedResourceError, EndOfStream)):
            await messages.receive()


@any_codec
@any_pair
async def test_a_cancelled_receive_loses_nothing(pair: Pair, make_codec: Callable[[], Codec[bytes]]) -> None:
    data = sent_by(make_codec(), [b"hello", b"again"])
    async with both_ends(pair) as (ours, theirs):
        messages = MessageStream(ours, make_codec())
        found: list[bytes] = []
        for byte in data:
            async with create_task_group() as group:

                async def receive() -> None:
                    found.append(await messages.receive())

                group.start_soon(receive)
                await theirs.send(bytes([byte]))
                await turns(4)
                group.cancel_scope.cancel()
        while len(found) < 2:
            found.append(await messages.receive())
        assert found == [b"hello", b"again"]
        assert messages.detach() is ours


@any_codec
@any_pair
async def test_the_beginning_of_a_message_belongs_to_whoever_goes_on(
    pair: Pair, make_codec: Callable[[], Codec[bytes]]
) -> None:
    data = sent_by(make_codec(), [b"hello", b"again"])
    async with both_ends(pair) as (ours, theirs):
        messages = MessageStream(ours, make_codec())
        await theirs.send(data[:-2])
        assert await messages.receive() == b"hello"
        with CancelScope() as scope:
            async with create_task_group() as group:
                group.start_soon(messages.receive)
                await turns(10)
                scope.cancel()
        second = MessageStream(messages.detach(), make_codec())
        await theirs.send(data[-2:] + TAIL)
        assert await second.receive() == b"again"
        assert await read_rest(second.detach(), len(TAIL)) == TAIL


# The stream that is given back


async def test_a_detached_stream_is_the_connections() -> None:
    async with both_ends(in_memory) as (ours, _):
        messages = MessageStream(ours, LengthDelimitedCodec())
        assert messages.detach() is ours
        with pytest.raises(RuntimeError, match="detached"):
            await messages.send(b"hello")
        with pytest.raises(RuntimeError, match="detached"):
            await messages.receive()
        with pytest.raises(RuntimeError, match="detached"):
            messages.detach()


@any_pair
async def test_a_detached_stream_has_its_attributes_and_its_end(pair: Pair) -> None:
    async with both_ends(pair) as (ours, theirs):
        messages = MessageStream(ours, Silent())
        await theirs.send(b"\x00\x01x" + TAIL)
        assert await messages.receive() == b"x"
        stream = messages.detach()
        if pair is tcp:
            assert stream.extra(SocketAttribute.raw_socket) is ours.extra(SocketAttribute.raw_socket)
        if pair is tls:
            assert stream.extra(TLSAttribute.tls_version) == "TLSv1.3"
            with pytest.raises(NotImplementedError):
                await stream.send_eof()
            return
        await stream.send_eof()
        with pytest.raises(EndOfStream):
            await theirs.receive()
        await theirs.send(b"!")
        assert await read_rest(stream, len(TAIL) + 1) == TAIL + b"!"
        await stream.aclose()


async def test_what_was_put_back_comes_first_and_without_waiting() -> None:
    async with both_ends(tcp) as (ours, theirs):
        assert isinstance(ours, TCPStream)
        await theirs.send(b"three")
        ours.put_back(b"two")
        ours.put_back(b"one")
        await ours.readable()
        assert ours.receive_nowait(4) == b"onet"
        await ours.readable()
        assert await ours.receive() == b"wo"
        await ours.readable()
        assert ours.receive_nowait() == b"three"
        assert ours.receive_nowait() is None
        ours.put_back(bytes(300_000))
        assert len(ours.receive_nowait() or b"") < 300_000
        assert len(await ours.receive(7)) == 7
        await ours.aclose()
        with pytest.raises(ClosedResourceError):
            await ours.receive()


# Within a node


def shaking(user: User, codec: Callable[[], Codec[bytes]], wrapper: Callable[[ByteStream], ByteStream]) -> None:
    """Let the user expect a message, and answer it."""

    async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
        messages = MessageStream(wrapper(stream), codec())
        assert await messages.receive() == b"greetings"
        await messages.send(b"welcome")
        return messages.detach()

    user.shake_hands = shake_hands


@pytest.mark.parametrize("wrapper", [lambda stream: stream, Plain, BufferedByteStream])
@pytest.mark.parametrize("how_much", [0, 1, 5, len(frame(b"hello")), 30_000, 200_000])
@pytest.mark.parametrize("codec", [Telling, Silent])
async def test_what_was_read_too_far_is_decoded_first(
    codec: Callable[[], Codec[bytes]], how_much: int, wrapper: Callable[[ByteStream], ByteStream]
) -> None:
    responder = Echo(enable=ALL)
    shaking(responder, codec, wrapper)
    messages = [b"hello", b"again"] * (1 + how_much // 10)
    stream = b"".join(map(frame, messages))
    async with responder.node as node, create_task_group() as group:
        with await RawPeer.dial(await node.start_listening()) as peer:

            async def send() -> None:
                await peer.send(sent_by(codec(), [b"greetings"]) + stream[:how_much])
                await turns()
                await peer.send(stream[how_much:])

            group.start_soon(send)
            assert await peer.receive_exactly(9) == sent_by(codec(), [b"welcome"])
            assert [await peer.receive_message() for _ in messages] == messages
            assert responder.received == messages
            assert responder.only.stats.bytes_received == len(stream)


@pytest.mark.parametrize("early", [0, 1, 100])
async def test_a_detached_tcp_stream_is_the_bare_one(early: int) -> None:
    """So messages are sent directly, and read without a wrapper, also when some were there too early."""
    one, other = User(enable=ALL), User(enable=ALL)
    given: list[bool] = []
    messages = [b"%d" % number for number in range(early)]

    async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
        await stream.send(sent_by(Silent(), [b"hello"]) + b"".join(map(frame, messages)))
        hellos = MessageStream(stream, Silent())
        assert await hellos.receive() == b"hello"
        detached = hellos.detach()
        given.append(detached is stream)
        return detached

    one.shake_hands = other.shake_hands = shake_hands
    async with two_nodes(one, other) as (ours, _):
        assert given == [True, True]
        await one.outbox.send(ours, b"hello")
        await wait_until(lambda: other.received == [*messages, b"hello"])
        await wait_until(lambda: one.received == messages)


@pytest.mark.parametrize("nonsense", [b"\x00\x02hi", b"\x00", b""])
async def test_a_peer_that_says_nonsense_in_its_handshake_is_refused(nonsense: bytes) -> None:
    responder = User(enable=ALL)

    async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
        messages = MessageStream(stream, Telling())
        if await messages.receive() != b"greetings":
            raise PermissionError("not a greeting")
        return messages.detach()

    responder.shake_hands = shake_hands
    async with responder.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(nonsense)
            peer.half_close()
            assert await peer.is_refused()
        await wait_until(lambda: node.heuristics.handshake_failures == 1)
        assert node.heuristics.hook_errors == 0
        assert not responder.connected


async def test_a_frame_error_is_the_cause_of_the_failed_handshake() -> None:
    dialler, responder = User(enable=ALL), User(enable=ALL)

    async def receive(connection: Connection, stream: ByteStream) -> ByteStream:
        messages = MessageStream(stream, LengthDelimitedCodec(max_length=8))
        await messages.receive()
        return messages.detach()

    async def send(connection: Connection, stream: ByteStream) -> ByteStream:
        await MessageStream(stream, LengthDelimitedCodec()).send(b"more than eight")
        return stream

    dialler.shake_hands, responder.shake_hands = receive, send
    async with responder.node as node, dialler.node:
        with pytest.raises(HandshakeError, match="15 bytes was announced") as caught:
            await dialler.node.connect(await node.start_listening())
        assert isinstance(caught.value.__cause__, FrameError)
