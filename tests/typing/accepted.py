"""What must type-check, and as what. Each function or class is a case."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Generic, Literal, ParamSpec, TypedDict, TypeVar

from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteStream
from anyio.streams.tls import TLSAttribute, TLSStream
from hypothesis import strategies
from typing_extensions import assert_type

from pea2pea import (
    Address,
    AlreadyConnectedError,
    Codec,
    Config,
    Connection,
    ConnectionLimitError,
    Decoder,
    DeliveryError,
    DisconnectOrigin,
    Encoder,
    Frame,
    FrameError,
    Handshake,
    HandshakeError,
    HandshakeTimeoutError,
    Heuristics,
    Listener,
    Node,
    NodeClosedError,
    NodeError,
    NotConnectedError,
    OnConnect,
    OnDisconnect,
    Outbox,
    Peer,
    QueueFullError,
    Reading,
    SelfConnectionError,
    Side,
    Stats,
    TCPTransport,
    Transport,
    Writing,
)
from pea2pea.codecs import (
    BytesCodec,
    DelimitedCodec,
    HeaderCodec,
    LengthDelimitedCodec,
    LinesCodec,
    VarintDelimitedCodec,
    batched,
    mapped,
)
from pea2pea.handshakes import MessageStream, TLSHandshake
from pea2pea.testing import Strategy, check_codec, wait_until
from pea2pea.topology import connect_nodes, grid, line, mesh, random, ring, star, tree

M = TypeVar("M")
P = ParamSpec("P")


def use(*values: object) -> None:
    """What was made is good for something."""


# Messages of every kind


@dataclass
class Ping:
    number: int


@dataclass
class Pong:
    number: int


class Score(TypedDict):
    player: str
    points: int


class PingCodec:
    """A codec of the user's own: structural, with other names for the parameters."""

    def decode(self, chunk: bytes, /) -> Iterator[Ping]:
        yield Ping(len(chunk))

    def encode(self, ping: Ping, /) -> bytes:
        return bytes(ping.number)


class GenericCodec(Generic[M]):
    def __init__(self, message: M) -> None:
        self.message = message

    def decode(self, data: bytes, /) -> list[M]:
        return [self.message] * len(data)

    def encode(self, message: M, /) -> tuple[bytes, memoryview]:
        return b"", memoryview(repr(message).encode())


class InAndOut:
    """Takes pongs in and sends pings."""

    def decode(self, data: bytes) -> Sequence[Pong]:
        return [Pong(len(data))]

    def encode(self, message: Ping) -> bytearray:
        return bytearray(message.number)


class TakesMore:
    """An encoder that takes more than it must."""

    def encode(self, message: object) -> bytes:
        return repr(message).encode()


class NominalDecoder(Decoder[Ping]):
    def decode(self, data: bytes, /) -> Iterable[Ping]:
        return [Ping(len(data))]


class NominalEncoder(Encoder[Ping]):
    def encode(self, message: Ping, /) -> Frame:
        return bytes(message.number)


class PingOrPongCodec:
    """Of two types of messages, structural."""

    def decode(self, data: bytes) -> Iterator[Ping | Pong]:
        yield from (Ping(1), Pong(2))

    def encode(self, message: Ping | Pong) -> bytes:
        return b"ping" if isinstance(message, Ping) else b"pong"


class NominalCodec(Codec[Pong]):
    def decode(self, data: bytes, /) -> Iterable[Pong]:
        return [Pong(len(data))]

    def encode(self, message: Pong, /) -> Frame:
        return bytes(message.number)


# Structural implementations


class Structural:
    """All five protocols, structurally, with names of the user's own."""

    async def perform_handshake(self, link: Connection, raw: ByteStream) -> ByteStream:
        assert_type(link.addr, tuple[str, int])
        assert_type(link.side, Side)
        return raw

    def decoder(self, peer: Connection) -> PingCodec:
        return PingCodec()

    def encoder(self, peer: Connection) -> PingCodec:
        return PingCodec()

    async def process_message(self, peer: Connection, ping: Ping) -> None:
        assert_type(ping.number, int)

    async def on_connect(self, peer: Connection) -> None: ...

    async def on_disconnect(self, peer: Connection, why: DisconnectOrigin) -> None: ...


def structural_implementations_are_protocols(user: Structural, connection: Connection) -> None:
    handshake: Handshake = user
    reading: Reading[Ping] = user
    writing: Writing[Ping] = user
    on_connect: OnConnect = user
    on_disconnect: OnDisconnect = user
    use(handshake, reading, writing, on_connect, on_disconnect)
    assert_type(user.decoder(connection), PingCodec)


def an_outbox_is_inferred_from_the_encoder(node: Node, user: Structural) -> None:
    assert_type(node.enable_writing(user), Outbox[Ping])


def everything_is_enabled_with_its_options(node: Node, user: Structural) -> None:
    assert_type(node.enable_handshake(user, timeout=5.0), None)
    assert_type(node.enable_reading(user, drop_beyond=10, idle_timeout=None), None)
    assert_type(Node().enable_reading(user, drop_beyond=None, idle_timeout=0.5), None)
    outbox = node.enable_writing(user, queue_depth=1, queue_bytes=1, timeout=1.0)
    assert_type(outbox, Outbox[Ping])
    assert_type(node.enable_on_connect(user, abortable=False), None)
    assert_type(node.enable_on_disconnect(user, timeout=3), None)


# Nominal implementations


class NominalReading(Reading[bytes]):
    def decoder(self, connection: Connection, /) -> Decoder[bytes]:
        return LengthDelimitedCodec()

    async def process_message(self, source: Connection, message: bytes, /) -> None:
        assert_type(message, bytes)


class NominalWriting(Writing[str]):
    def encoder(self, connection: Connection, /) -> Encoder[str]:
        return LinesCodec()


class NominalHandshake(Handshake):
    async def perform_handshake(self, connection: Connection, stream: ByteStream, /) -> ByteStream:
        return stream


class NominalHooks(OnConnect, OnDisconnect):
    async def on_connect(self, connection: Connection, /) -> None: ...

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin, /) -> None: ...


class BothWays(Reading[str], Writing[str]):
    """Subclassing works, too."""

    def decoder(self, connection: Connection, /) -> LinesCodec:
        return LinesCodec()

    def encoder(self, connection: Connection, /) -> LinesCodec:
        return LinesCodec()

    async def process_message(self, source: Connection, message: str, /) -> None:
        assert_type(message, str)


def nominal_implementations_are_enabled(node: Node) -> None:
    node.enable_reading(NominalReading())
    assert_type(node.enable_writing(NominalWriting()), Outbox[str])
    node.enable_handshake(NominalHandshake())
    node.enable_on_connect(NominalHooks())
    node.enable_on_disconnect(NominalHooks())
    assert_type(Node().enable_writing(BothWays()), Outbox[str])


# Messages that are unions, dictionaries, None, and what reading and writing may differ in


class Union:
    def decoder(self, connection: Connection) -> Decoder[Ping | Pong]:
        return GenericCodec[Ping | Pong](Ping(1))

    async def process_message(self, source: Connection, message: Ping | Pong) -> None:
        assert_type(message, Ping | Pong)
        if isinstance(message, Ping):
            assert_type(message, Ping)
        else:
            assert_type(message, Pong)


def a_union_of_messages_is_read(node: Node) -> None:
    node.enable_reading(Union())


class Dictionaries:
    def decoder(self, connection: Connection) -> Codec[Score]:
        return scores()

    def encoder(self, connection: Connection) -> Codec[Score]:
        return scores()

    async def process_message(self, source: Connection, message: Score) -> None:
        assert_type(message["points"], int)


def scores() -> Codec[Score]:
    def decode(data: bytes) -> Score:
        found: Score = json.loads(data)
        return found

    return mapped(LengthDelimitedCodec(), decode=decode, encode=lambda score: json.dumps(score).encode())


def typed_dictionaries_are_messages(node: Node, addr: Address) -> None:
    node.enable_reading(Dictionaries())
    outbox = node.enable_writing(Dictionaries())
    assert_type(outbox, Outbox[Score])
    outbox.send_nowait(addr, {"player": "ann", "points": 3})


class BytesOrText:
    def encoder(self, connection: Connection) -> Encoder[bytes | str]:
        return TakesMore()


def bytes_or_text_are_messages(node: Node, addr: Address) -> None:
    outbox = node.enable_writing(BytesOrText())
    assert_type(outbox, Outbox[bytes | str])
    outbox.send_nowait(addr, "text")
    outbox.send_nowait(addr, b"bytes")


class Nothing:
    def decoder(self, connection: Connection) -> GenericCodec[None]:
        return GenericCodec(None)

    def encoder(self, connection: Connection) -> GenericCodec[None]:
        return GenericCodec(None)

    async def process_message(self, source: Connection, message: None) -> None: ...


def none_is_a_message(node: Node, addr: Address) -> None:
    node.enable_reading(Nothing())
    outbox = node.enable_writing(Nothing())
    assert_type(outbox, Outbox[None])
    outbox.send_nowait(addr, None)


class DifferentTypes:
    def decoder(self, connection: Connection) -> InAndOut:
        return InAndOut()

    def encoder(self, connection: Connection) -> InAndOut:
        return InAndOut()

    async def process_message(self, source: Connection, message: Pong) -> None:
        assert_type(message, Pong)


def a_codec_may_take_in_and_send_different_types(node: Node) -> None:
    node.enable_reading(DifferentTypes())
    assert_type(node.enable_writing(DifferentTypes()), Outbox[Ping])


class GenericUser(Generic[M]):
    def __init__(self, codec: Codec[M]) -> None:
        self.codec = codec
        self.node = Node()
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)

    def decoder(self, connection: Connection) -> Codec[M]:
        return self.codec

    def encoder(self, connection: Connection) -> Codec[M]:
        return self.codec

    async def process_message(self, source: Connection, message: M) -> None:
        await self.outbox.send(source, message)


def a_user_may_be_generic() -> None:
    assert_type(GenericUser(LinesCodec()).outbox, Outbox[str])
    assert_type(GenericUser[Ping](PingCodec()).outbox, Outbox[Ping])


class WiderHandler:
    """A handler may take more than its decoder makes."""

    def decoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec()

    async def process_message(self, source: Connection, message: str | bytes) -> None: ...


def a_handler_may_take_more_than_its_decoder_makes(node: Node) -> None:
    node.enable_reading(WiderHandler())


class DefaultedParameters:
    async def on_connect(self, connection: Connection, note: str = "") -> None: ...

    async def on_disconnect(self, *args: object) -> None: ...


def hooks_may_have_parameters_of_their_own(node: Node) -> None:
    node.enable_on_connect(DefaultedParameters())
    node.enable_on_disconnect(DefaultedParameters())


def traced(hook: Callable[P, Awaitable[M]]) -> Callable[P, Coroutine[Any, Any, M]]:
    """A decorator, typed as most are."""

    async def call(*args: P.args, **kwargs: P.kwargs) -> M:
        return await hook(*args, **kwargs)

    return call


class Decorated:
    @traced
    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> TLSStream:
        raise OSError

    def decoder(self, connection: Connection) -> PingCodec:
        return PingCodec()

    @traced
    async def process_message(self, source: Connection, message: Ping) -> None: ...

    @traced
    async def on_connect(self, connection: Connection) -> None: ...

    @traced
    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None: ...


def hooks_may_have_a_decorator_that_makes_coroutines(node: Node) -> None:
    node.enable_handshake(Decorated())
    node.enable_reading(Decorated())
    node.enable_on_connect(Decorated())
    node.enable_on_disconnect(Decorated())


async def the_protocols_are_called_by_hand(user: All, connection: Connection, stream: ByteStream) -> None:
    """As somebody does who wraps one."""
    assert_type(await user.handshake.perform_handshake(connection, stream), ByteStream)
    assert_type(user.reading.decoder(connection), Decoder[Ping])
    assert_type(await user.reading.process_message(connection, Ping(1)), None)
    assert_type(user.writing.encoder(connection), Encoder[Ping])
    assert_type(await user.on_connect.on_connect(connection), None)
    assert_type(await user.on_disconnect.on_disconnect(connection, DisconnectOrigin.USER), None)


@dataclass
class All:
    handshake: Handshake
    reading: Reading[Ping]
    writing: Writing[Ping]
    on_connect: OnConnect
    on_disconnect: OnDisconnect


# Handshakes


class OverTLS:
    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> TLSStream:
        server = connection.side is Side.RESPONDER
        return await TLSStream.wrap(stream, server_side=server, ssl_context=self.context)


class Buffered:
    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> BufferedByteStream:
        return BufferedByteStream(stream)


class OverTLSAndWithMessages:
    def __init__(self, tls: TLSHandshake, codec: Codec[Ping | Pong]) -> None:
        self.tls = tls
        self.codec = codec

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        secure = await self.tls.perform_handshake(connection, stream)
        assert_type(secure, TLSStream)
        messages = MessageStream(secure, self.codec)
        assert_type(messages, MessageStream[Ping | Pong])
        assert_type(await messages.send(Ping(1)), None)
        assert_type(await messages.receive(), Ping | Pong)
        assert_type(messages.detach(), ByteStream)
        return messages.detach()


async def messages_of_a_handshake_are_those_of_its_codec(stream: ByteStream, tls: TLSStream) -> None:
    assert_type(MessageStream(stream, LinesCodec()), MessageStream[str])
    assert_type(await MessageStream(tls, PingCodec()).receive(), Ping)
    numbers: Codec[int] = mapped(LinesCodec(), decode=int, encode=str)
    assert_type(await MessageStream(stream, numbers).receive(), int)


def tls_goes_one_way_or_both(node: Node, context: ssl.SSLContext, codec: Codec[Ping | Pong]) -> None:
    both = TLSHandshake(client=context, server=context)
    node.enable_handshake(both)
    Node().enable_handshake(TLSHandshake(client=context), timeout=1.0)
    Node().enable_handshake(TLSHandshake(server=context))
    Node().enable_handshake(TLSHandshake(client=None, server=context))
    Node().enable_handshake(TLSHandshake(client=context, server=None))
    Node().enable_handshake(OverTLSAndWithMessages(both, codec))
    handshake: Handshake = both
    use(handshake)


def a_handshake_may_return_a_stream_of_its_own(node: Node, context: ssl.SSLContext) -> None:
    node.enable_handshake(OverTLS(context))
    Node().enable_handshake(Buffered())


# Outboxes and peers


async def every_way_to_send(outbox: Outbox[Ping], addr: Address, connection: Connection) -> None:
    assert_type(outbox.send_nowait(addr, Ping(1)), None)
    assert_type(await outbox.send(connection, Ping(1)), None)
    assert_type(await outbox.deliver(addr, Ping(1)), None)
    assert_type(outbox.broadcast(Ping(1)), dict[Connection, Exception])
    assert_type(outbox.broadcast(Ping(1), exclude=[addr, connection]), dict[Connection, Exception])
    outbox.broadcast(Ping(1), exclude={connection})
    assert_type(await outbox.drain(addr), None)
    await outbox.drain(connection, below=1000)
    assert_type(outbox.pending(connection), int)


def an_outbox_of_more_is_an_outbox_of_less(outbox: Outbox[Ping | Pong], addr: Address) -> Outbox[Ping]:
    assert_type(outbox.broadcast(Ping(1)), dict[Connection, Exception])
    assert_type(outbox.pending(addr), int)
    return outbox


def an_encoder_of_more_is_an_encoder_of_less(encoder: Encoder[Ping | Pong]) -> Encoder[Ping]:
    return encoder


def a_decoder_of_less_is_a_decoder_of_more(decoder: Decoder[Ping]) -> Decoder[Ping | Pong]:
    return decoder


def a_peer_is_an_address_or_a_connection(addr: Address, connection: Connection) -> list[Peer]:
    peers: list[Peer] = [addr, connection]
    assert_type(peers, list[tuple[str, int] | Connection])
    return peers


# Codecs


def decoded(decoder: Decoder[M]) -> Iterable[M]:
    return decoder.decode(b"")


def ready_made_codecs_are_codecs() -> None:
    of_bytes: list[Codec[bytes]] = [
        LengthDelimitedCodec(prefix=2, byteorder="little", max_length=1000, prefix_included=True),
        VarintDelimitedCodec(max_length=1000),
        LengthDelimitedCodec(byteorder="big"),
        DelimitedCodec(b"\0", max_length=1000),
        BytesCodec(),
    ]
    of_text: Codec[str] = LinesCodec(encoding="ascii", max_length=100)
    assert_type(decoded(LinesCodec()), Iterable[str])
    for codec in of_bytes:
        assert_type(decoded(codec), Iterable[bytes])
        assert_type(codec.encode(b""), Frame)
    use(of_text)


def own_codecs_are_codecs() -> None:
    structural: Codec[Ping] = PingCodec()
    generic: Codec[int] = GenericCodec(1)
    nominal: Codec[Pong] = NominalCodec()
    halves: tuple[Decoder[Ping], Encoder[Ping]] = (NominalDecoder(), NominalEncoder())
    different: tuple[Decoder[Pong], Encoder[Ping]] = (InAndOut(), InAndOut())
    use(structural, generic, nominal, halves, different)
    assert_type(decoded(PingCodec()), Iterable[Ping])
    assert_type(decoded(GenericCodec(1)), Iterable[int])
    assert_type(decoded(NominalCodec()), Iterable[Pong])
    assert_type(decoded(InAndOut()), Iterable[Pong])


def messages_come_out_of_a_codec_typed(data: bytes) -> None:
    assert_type(list(LinesCodec().decode(data)), list[str])
    assert_type(list(VarintDelimitedCodec().decode(data)), list[bytes])
    for message in NominalCodec().decode(data):
        assert_type(message, Pong)


def a_mapped_codec_has_the_type_of_its_functions() -> None:
    def read(text: str) -> int:
        return int(text)

    def write(number: int) -> str:
        return str(number)

    numbers = mapped(LinesCodec(), decode=read, encode=write)
    as_codec: Codec[int] = numbers
    assert_type(list(numbers.decode(b"1\n")), list[int])
    twice: Codec[Ping] = mapped(numbers, decode=Ping, encode=lambda ping: ping.number)
    use(as_codec, twice)


def _number(ping: Ping) -> int:
    return ping.number


def a_users_codec_is_mapped(codec: Codec[Ping]) -> Codec[int]:
    made = mapped(codec, decode=_number, encode=Ping)
    assert_type(made, Codec[int])
    return made


def _length(header: bytes) -> int:
    return header[0]


def a_codec_with_headers_has_tuples(data: memoryview) -> None:
    codec: Codec[tuple[bytes, bytes]] = HeaderCodec(1, _length)
    assert_type(list(HeaderCodec(size=1, length_of=_length, max_length=100).decode(data)), list[tuple[bytes, bytes]])
    assert_type(list(codec.decode(b"")), list[tuple[bytes, bytes]])
    assert_type(HeaderCodec(1, _length, 100).encode((b"\1", b"a")), Frame)
    assert_type(HeaderCodec(1, lambda header: header[0]).max_length, int)


def a_batched_codec_has_lists(ours: Codec[Ping]) -> None:
    lines: Codec[list[str]] = batched(LinesCodec(), at_most=8)
    assert_type(list(lines.decode(b"")), list[list[str]])
    assert_type(batched(LengthDelimitedCodec()), Codec[list[bytes]])
    assert_type(batched(ours).encode([Ping(1)]), Frame)
    assert_type(mapped(batched(ours), decode=len, encode=lambda count: [Ping(1)] * count), Codec[int])


def a_decoder_may_tell_what_it_lacks() -> None:
    assert_type(LengthDelimitedCodec().missing + VarintDelimitedCodec().missing, int)
    assert_type(HeaderCodec(1, _length).missing, int)


def frames_come_out_of_a_codec(node_of: Codec[Ping]) -> None:
    assert_type(node_of.encode(Ping(1)), Frame)
    assert_type(LinesCodec().encode("line"), Frame)
    assert_type(LengthDelimitedCodec().encode(b"bytes"), Frame)
    assert_type(VarintDelimitedCodec().encode(b"bytes"), Frame)
    assert_type(DelimitedCodec(b";").encode(b"bytes"), Frame)
    assert_type(BytesCodec().encode(b"bytes"), Frame)


def ready_made_codecs_take_in_what_is_like_bytes(view: memoryview) -> None:
    assert_type(list(LinesCodec().decode(view)), list[str])
    assert_type(list(LengthDelimitedCodec().decode(bytearray(4))), list[bytes])
    assert_type(list(DelimitedCodec(b";").decode(view)), list[bytes])
    assert_type(BytesCodec().decode(view), Iterable[bytes])
    assert_type(list(BytesCodec().decode(bytearray(4))), list[bytes])


def codecs_show_their_settings() -> None:
    assert_type(LinesCodec().encoding, str)
    assert_type(LinesCodec().max_length + LengthDelimitedCodec().max_length, int)
    assert_type(DelimitedCodec(b";").max_length + VarintDelimitedCodec().max_length, int)


def frames_are_bytes_or_parts(view: memoryview) -> list[Frame]:
    frames: list[Frame] = [b"bytes", bytearray(b"array"), view, (b"header", view), (b"one",), ()]
    assert_type(frames, list[bytes | bytearray | memoryview | tuple[bytes | bytearray | memoryview, ...]])
    return frames


# Nodes


async def a_node_in_its_block(node: Node, addr: Address) -> None:
    async with node as entered:
        assert_type(entered, Node)
        assert_type(await node.start_listening(), tuple[str, int])
        assert_type(await node.stop_listening(), None)
        assert_type(await node.connect(addr), Connection)
        assert_type(await node.connect(addr, timeout=1, local_addr=("127.0.0.1", 0)), Connection)
        await node.connect(addr, timeout=None, local_addr=None)
        assert_type(await node.disconnect(addr), bool)
        assert_type(await node.disconnect(await node.connect(addr), abort=True), bool)
        assert_type(await node.shut_down(), None)
        assert_type(await node.wait_closed(), None)


def what_a_node_shows(node: Node) -> None:
    assert_type(node.name, str)
    assert_type(node.config, Config)
    assert_type(node.stats, Stats)
    assert_type(node.heuristics, Heuristics)
    assert_type(node.listening_addr, tuple[str, int] | None)
    connections: Mapping[Address, Connection] = node.connections
    connecting: AbstractSet[Address] = node.connecting
    for addr, connection in node.connections.items():
        assert_type(addr, tuple[str, int])
        assert_type(connection, Connection)
    assert_type(list(node.connecting), list[tuple[str, int]])
    use(connections, connecting)


def every_setting_has_its_type() -> None:
    config = Config(
        name="ann",
        listener_addr=("::", 0),
        listener_backlog=1,
        reuse_listener_port=True,
        max_connections=1,
        max_inbound=1,
        max_connections_per_ip=1,
        ipv6_prefix=48,
        max_connecting=1,
        connection_timeout=1,
        grace_period=0,
    )
    assert_type(config.name, str | None)
    assert_type(config.listener_addr, tuple[str, int] | None)
    assert_type(config.listener_backlog, int)
    assert_type(config.reuse_listener_port, bool)
    assert_type(config.max_connections, int)
    assert_type(config.max_inbound, int | None)
    assert_type(config.max_connections_per_ip, int)
    assert_type(config.ipv6_prefix, int)
    assert_type(config.max_connecting, int)
    assert_type(config.connection_timeout, float)
    assert_type(config.grace_period, float)
    Node(config)
    Node(config, transport=TCPTransport())
    Node(config, transport=None)


def what_is_counted(stats: Stats, heuristics: Heuristics) -> None:
    assert_type(stats.created, float)
    assert_type(stats.messages_sent + stats.messages_received, int)
    assert_type(stats.bytes_sent + stats.bytes_received, int)
    assert_type(heuristics.connect_budget_rejections + heuristics.inbound_rejections, int)
    assert_type(heuristics.accept_errors + heuristics.handshake_failures + heuristics.handshake_timeouts, int)
    assert_type(heuristics.idle_timeouts + heuristics.write_timeouts + heuristics.decode_errors, int)
    assert_type(heuristics.dropped_messages + heuristics.hook_errors, int)
    assert_type(heuristics.unsent_messages + heuristics.unprocessed_bytes, int)


async def what_a_connection_shows(connection: Connection) -> None:
    assert_type(connection.origin, DisconnectOrigin | None)
    assert_type(await connection.wait_closed(), None)
    assert_type(str(connection), str)
    assert_type(connection.dialled, tuple[str, int] | None)
    assert_type(connection.cause, Exception | None)
    assert_type(connection.stats, Stats)
    assert_type(connection.extra(SocketAttribute.raw_socket), socket.socket)
    assert_type(connection.extra(TLSAttribute.alpn_protocol, None), str | None)


async def work(times: int, what: str) -> int:
    return times * len(what)


def background_tasks_take_their_arguments(node: Node, connection: Connection) -> None:
    assert_type(node.start_soon(work, 1, "one", name="worker"), None)
    assert_type(connection.start_soon(work, 1, "one", name="worker"), None)
    node.start_soon(node.shut_down)
    connection.start_soon(node.wait_closed)


def sides_have_another_side(side: Side) -> None:
    assert_type(~side, Side)
    assert_type(Side.INITIATOR, Literal[Side.INITIATOR])
    assert_type(Side.RESPONDER, Literal[Side.RESPONDER])


def every_origin_is_told_apart(origin: DisconnectOrigin) -> str:
    if origin is DisconnectOrigin.USER or origin is DisconnectOrigin.SHUTDOWN:
        return "we"
    if origin is DisconnectOrigin.READING or origin is DisconnectOrigin.WRITING:
        return "the wire"
    assert_type(origin, Literal[DisconnectOrigin.ON_CONNECT])
    return "the hook"


# Transports and streams


class OwnListener:
    @property
    def addr(self) -> Address:
        return "memory", 0

    async def accept(self) -> tuple[ByteStream, Address]:
        raise OSError

    async def aclose(self) -> None: ...


class OwnTransport:
    async def resolve(self, addr: Address) -> list[Address]:
        return [addr]

    async def listen(self, addr: Address, *, backlog: int, reuse_port: bool) -> OwnListener:
        return OwnListener()

    async def dial(self, addr: Address) -> ByteStream:
        raise OSError


def a_transport_of_ones_own() -> Node:
    transport: Transport = OwnTransport()
    listener: Listener = OwnListener()
    use(listener)
    return Node(transport=transport)


async def the_default_transport_by_hand(transport: TCPTransport, addr: Address) -> None:
    assert_type(await transport.resolve(addr), Sequence[tuple[str, int]])
    listener = await transport.listen(addr, backlog=1, reuse_port=False)
    assert_type(listener, Listener)
    assert_type(listener.addr, tuple[str, int])
    assert_type(await listener.accept(), tuple[ByteStream, tuple[str, int]])
    assert_type(await listener.aclose(), None)
    assert_type(await transport.dial(addr), ByteStream)


async def any_transport_by_hand(transport: Transport, addr: Address) -> None:
    assert_type(await transport.resolve(addr), Sequence[tuple[str, int]])
    assert_type(await transport.listen(addr, backlog=1, reuse_port=True), Listener)
    assert_type(await transport.dial(addr), ByteStream)


def a_socket_is_made_a_stream(transport: TCPTransport, sock: socket.socket) -> None:
    assert_type(TCPTransport.wrap(sock), ByteStream)
    assert_type(transport.wrap(sock), ByteStream)


async def streams_are_adopted(node: Node, sock: socket.socket, stream: TLSStream) -> None:
    assert_type(await node.adopt(TCPTransport.wrap(sock), ("10.0.0.1", 1), Side.INITIATOR), Connection)
    assert_type(await node.adopt(stream, ("memory", 0), Side.RESPONDER), Connection)


# Errors


def names(kind: type[NodeError]) -> str:
    return kind.__name__


def errors_are_node_errors() -> None:
    use(names(NodeClosedError), names(SelfConnectionError), names(AlreadyConnectedError), names(ConnectionLimitError))
    use(names(HandshakeError), names(HandshakeTimeoutError))
    use(names(NotConnectedError), names(QueueFullError), names(DeliveryError))


def some_errors_are_something_else_too() -> tuple[type[TimeoutError], type[ValueError]]:
    return HandshakeTimeoutError, FrameError


def an_error_tells_whom_it_is_about(absent: NotConnectedError, undelivered: DeliveryError) -> None:
    assert_type(absent.addr, tuple[str, int] | None)
    assert_type(undelivered.addr, tuple[str, int] | None)


def errors_are_caught(outbox: Outbox[Ping], addr: Address) -> str:
    try:
        outbox.send_nowait(addr, Ping(1))
    except ConnectionLimitError as error:
        assert_type(error.limit, str)
        return error.limit
    except HandshakeTimeoutError as error:
        timeout: TimeoutError = error
        handshake: HandshakeError = error
        use(timeout, handshake)
    except NodeError as error:
        exception: Exception = error
        use(exception)
    raise FrameError("nonsense")


def a_limit_names_its_field(error: ConnectionLimitError) -> None:
    assert_type(error.limit, str)


# Helpers


async def topologies_are_edges(nodes: list[Node]) -> None:
    assert_type(line(3) + ring(3) + mesh(3) + star(3), list[tuple[int, int]])
    assert_type(grid(2, 3) + tree(3) + random(4, 2, 1), list[tuple[int, int]])
    assert_type(await connect_nodes(nodes, ring(3)), None)
    await connect_nodes(tuple(nodes), {(0, 1)})


class Pings:
    """A strategy, structurally."""

    def example(self) -> Ping:
        return Ping(1)


def codecs_are_tested() -> None:
    assert_type(check_codec(LinesCodec, ["one", "two"]), None)
    check_codec(PingCodec, [Ping(1)], strategy=Pings(), max_length=None, join=None)
    check_codec(PingCodec, (Ping(1),), strategy=None, max_length=100, bytes_like=True, derive=False)
    check_codec(lambda: DelimitedCodec(b";"), [b"one"], strategy=strategies.binary())
    check_codec(BytesCodec, [b"one"], join=b"".join)
    check_codec(PingCodec, [Ping(1)], reseal=bytes.upper)
    check_codec(PingCodec, [Ping(1)], reseal=None)


def _first(pings: list[Ping]) -> Ping:
    return pings[0]


def a_decoder_and_an_encoder_are_tested() -> None:
    assert_type(check_codec(NominalDecoder, [Ping(1)], make_encoder=NominalEncoder), None)
    check_codec(NominalDecoder, (Ping(1),), make_encoder=PingCodec, strategy=Pings(), max_length=100, join=_first)
    check_codec(
        PingCodec, iter([Ping(1)]), make_encoder=NominalEncoder, bytes_like=True, derive=False, reseal=bytes.upper
    )
    check_codec(
        lambda: LinesCodec("ascii"), ["one"], make_encoder=lambda: LinesCodec("ascii"), strategy=strategies.text()
    )
    check_codec(
        NominalDecoder, [Ping(1)], make_encoder=NominalEncoder, strategy=None, max_length=None, join=None, reseal=None
    )


def messages_of_several_types_are_tested() -> None:
    messages: list[Ping | Pong] = [Ping(1), Pong(2)]
    check_codec(lambda: GenericCodec[Ping | Pong](Ping(1)), messages)
    check_codec(PingOrPongCodec, messages)
    check_codec(PingOrPongCodec, messages, make_encoder=PingOrPongCodec)


def a_strategy_of_less_is_a_strategy_of_more(strategy: Strategy[Ping]) -> Strategy[Ping | Pong]:
    assert_type(strategy.example(), Ping)
    return strategy


async def tests_wait_for_conditions(done: list[int]) -> None:
    assert_type(await wait_until(lambda: True, 1), None)
    await wait_until(lambda: done, timeout=1.5)
    await wait_until(lambda: len(done))
