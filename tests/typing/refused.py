"""What must not type-check. Each mistake carries mypy's code for it, and then the words its message must have.

The words before the bar are mypy's, those behind it pyright's, if they differ.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from anyio.abc import ByteStream

from pea2pea import (
    Address,
    Codec,
    Config,
    Connection,
    Decoder,
    DisconnectOrigin,
    Encoder,
    Frame,
    Handshake,
    Listener,
    Node,
    OnConnect,
    OnDisconnect,
    Outbox,
    Peer,
    Reading,
    Side,
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


@dataclass
class Ping:
    number: int


# Hooks that don't fit


class Disagreeing:
    """The decoder makes text, the handler takes bytes."""

    def decoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec()

    async def process_message(self, source: Connection, message: bytes) -> None: ...


Node().enable_reading(Disagreeing())  # type: ignore[misc]  # says: Made_by_decoder_and_taken_by_process_message | process_message


class DisagreeingByName(Reading[str]):
    """So that the message is at the method."""

    def decoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec()

    async def process_message(self, source: Connection, message: bytes) -> None: ...  # type: ignore[override]  # says: "process_message", Reading, "str" | "process_message"


class SyncHandler:
    def decoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec()

    def process_message(self, source: Connection, message: str) -> None: ...


Node().enable_reading(SyncHandler())  # type: ignore[arg-type]  # says: process_message


class NoHandler:
    def decoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec()


Node().enable_reading(NoHandler())  # type: ignore[arg-type]  # says: process_message


class NoDecoder:
    async def process_message(self, source: Connection, message: str) -> None: ...


Node().enable_reading(NoDecoder())  # type: ignore[arg-type]  # says: decoder


class AsyncDecoder:
    async def decoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec()

    async def process_message(self, source: Connection, message: str) -> None: ...


Node().enable_reading(AsyncDecoder())  # type: ignore[arg-type]  # says: decoder


class ForgetfulHandshake:
    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> None: ...


Node().enable_handshake(ForgetfulHandshake())  # type: ignore[arg-type]  # says: perform_handshake


class SwappedHandshake:
    async def perform_handshake(self, stream: ByteStream, connection: Connection) -> ByteStream:
        return stream


Node().enable_handshake(SwappedHandshake())  # type: ignore[arg-type]  # says: perform_handshake


class SyncHandshake:
    def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        return stream


Node().enable_handshake(SyncHandshake())  # type: ignore[arg-type]  # says: perform_handshake


class SyncGreeting:
    def on_connect(self, connection: Connection) -> None: ...


Node().enable_on_connect(SyncGreeting())  # type: ignore[arg-type]  # says: on_connect


class WantsMore:
    async def on_connect(self, connection: Connection, side: Side) -> None: ...


Node().enable_on_connect(WantsMore())  # type: ignore[arg-type]  # says: on_connect


class OldGoodbye:
    """Without the origin."""

    async def on_disconnect(self, connection: Connection) -> None: ...


Node().enable_on_disconnect(OldGoodbye())  # type: ignore[arg-type]  # says: on_disconnect


class SwappedGoodbye:
    async def on_disconnect(self, origin: DisconnectOrigin, connection: Connection) -> None: ...


Node().enable_on_disconnect(SwappedGoodbye())  # type: ignore[arg-type]  # says: on_disconnect


class MisspelledGoodbye:
    async def on_disconect(self, connection: Connection, origin: DisconnectOrigin) -> None: ...


Node().enable_on_disconnect(MisspelledGoodbye())  # type: ignore[arg-type]  # says: on_disconnect


class EncoderOfTwo:
    def encoder(self, connection: Connection, side: Side) -> LinesCodec:
        return LinesCodec()


Node().enable_writing(EncoderOfTwo())  # type: ignore[arg-type]  # says: encoder


class EncoderOfNothing:
    def encoder(self, connection: Connection) -> None: ...


Node().enable_writing(EncoderOfNothing())  # type: ignore[arg-type]  # says: encoder


class TakesAddresses:
    """As the hooks of version 0.1 did."""

    async def perform_handshake(self, connection: Address, stream: ByteStream) -> ByteStream:
        return stream

    def decoder(self, addr: Address) -> LinesCodec:
        return LinesCodec()

    async def process_message(self, source: Connection, message: str) -> None: ...

    def encoder(self, addr: Address) -> LinesCodec:
        return LinesCodec()

    async def on_connect(self, addr: Address) -> None: ...

    async def on_disconnect(self, addr: Address, origin: DisconnectOrigin) -> None: ...


Node().enable_handshake(TakesAddresses())  # type: ignore[arg-type]  # says: perform_handshake
Node().enable_reading(TakesAddresses())  # type: ignore[arg-type]  # says: decoder
Node().enable_writing(TakesAddresses())  # type: ignore[arg-type]  # says: encoder
Node().enable_on_connect(TakesAddresses())  # type: ignore[arg-type]  # says: on_connect
Node().enable_on_disconnect(TakesAddresses())  # type: ignore[arg-type]  # says: on_disconnect


class OriginAsText:
    """Takes names for members of enumerations, and raw sockets for streams."""

    async def perform_handshake(self, connection: Connection, stream: socket.socket) -> ByteStream:
        raise OSError

    async def on_disconnect(self, connection: Connection, origin: str) -> None: ...


Node().enable_handshake(OriginAsText())  # type: ignore[arg-type]  # says: perform_handshake
Node().enable_on_disconnect(OriginAsText())  # type: ignore[arg-type]  # says: on_disconnect


class SourceAsAddress:
    def decoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec()

    async def process_message(self, source: Address, message: str) -> None: ...


Node().enable_reading(SourceAsAddress())  # type: ignore[arg-type]  # says: process_message


class All:
    """All five protocols, as they should be."""

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        return stream

    def decoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec()

    async def process_message(self, source: Connection, message: str) -> None: ...

    def encoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec()

    async def on_connect(self, connection: Connection) -> None: ...

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None: ...


def wrong_options(node: Node, user: All) -> None:
    node.enable_handshake(user, timeout="5")  # type: ignore[arg-type]  # says: "timeout"
    node.enable_reading(user, drop_beyond=1.5)  # type: ignore[arg-type]  # says: "drop_beyond"
    node.enable_reading(user, idle_timeout="60")  # type: ignore[arg-type]  # says: "idle_timeout"
    node.enable_writing(user, queue_depth=None)  # type: ignore[arg-type]  # says: "queue_depth"
    node.enable_writing(user, queue_bytes=1e6)  # type: ignore[arg-type]  # says: "queue_bytes"
    node.enable_writing(user, timeout=None)  # type: ignore[arg-type]  # says: "timeout"
    node.enable_on_connect(user, abortable="no")  # type: ignore[arg-type]  # says: "abortable"
    node.enable_on_disconnect(user, timeout=None)  # type: ignore[arg-type]  # says: "timeout"


def options_without_their_names(node: Node, user: All) -> None:
    node.enable_handshake(user, 5.0)  # type: ignore[call-arg]  # says: "enable_handshake" | positional
    node.enable_reading(user, 10)  # type: ignore[call-arg]  # says: "enable_reading" | positional
    node.enable_writing(user, 10)  # type: ignore[call-arg]  # says: "enable_writing" | positional
    node.enable_on_connect(user, False)  # type: ignore[call-arg]  # says: "enable_on_connect" | positional
    node.enable_on_disconnect(user, 3.0)  # type: ignore[call-arg]  # says: "enable_on_disconnect" | positional


async def names_that_are_the_implementers(
    handshake: Handshake, hooks: Hooks, reading: Reading[str], writing: Writing[str], stream: ByteStream, it: Connection
) -> None:
    await handshake.perform_handshake(connection=it, stream=stream)  # type: ignore[call-arg]  # says: "connection" | positional
    await hooks[0].on_connect(connection=it)  # type: ignore[call-arg]  # says: "connection" | positional
    await hooks[1].on_disconnect(connection=it, origin=DisconnectOrigin.USER)  # type: ignore[call-arg]  # says: "connection" | positional
    reading.decoder(connection=it)  # type: ignore[call-arg]  # says: "connection" | positional
    await reading.process_message(source=it, message="")  # type: ignore[call-arg]  # says: "source" | positional
    writing.encoder(connection=it).encode("")  # type: ignore[call-arg]  # says: "connection" | positional


Hooks: TypeAlias = tuple[OnConnect, OnDisconnect]


# Messages of the wrong type


def sending_the_wrong_type(outbox: Outbox[Ping], addr: Address) -> None:
    outbox.send_nowait(addr, "ping")  # type: ignore[arg-type]  # says: "send_nowait", "Ping" | "message", "Ping"
    outbox.broadcast(b"ping")  # type: ignore[arg-type]  # says: "broadcast", "Ping" | "message", "Ping"


async def sending_the_wrong_type_slowly(outbox: Outbox[Ping], addr: Address) -> None:
    await outbox.send(addr, 1)  # type: ignore[arg-type]  # says: "send", "Ping" | "message", "Ping"
    await outbox.deliver(addr, None)  # type: ignore[arg-type]  # says: "deliver", "None" | "None", "Ping"


def an_inferred_outbox_is_strict(node: Node, lines: Encoders, addr: Address) -> None:
    node.enable_writing(lines).send_nowait(addr, b"bytes")  # type: ignore[arg-type]  # says: "send_nowait", "str" | "message", "str"


class Encoders:
    def encoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec()


def swapped_arguments(outbox: Outbox[str], addr: Address) -> None:
    outbox.send_nowait("hello", addr)  # type: ignore[arg-type]  # says: "send_nowait" | "peer"


async def sending_to_nobody(outbox: Outbox[str], name: str) -> None:
    outbox.send_nowait(name, "hello")  # type: ignore[arg-type]  # says: "send_nowait" | "peer"
    await outbox.send(name, "hello")  # type: ignore[arg-type]  # says: "send" | "peer"
    await outbox.deliver(name, "hello")  # type: ignore[arg-type]  # says: "deliver" | "peer"
    await outbox.drain(name)  # type: ignore[arg-type]  # says: "drain" | "peer"
    outbox.broadcast("hello", exclude=[name])  # type: ignore[list-item]  # says: "str", Connection | "exclude"
    outbox.pending(name)  # type: ignore[arg-type]  # says: "pending" | "peer"


def nobody_is_a_peer(name: str) -> Peer:
    return name  # type: ignore[return-value]  # says: "str"


def an_outbox_of_less_is_none_of_more(outbox: Outbox[Ping]) -> Outbox[Ping | str]:
    return outbox  # type: ignore[return-value]  # says: Outbox


async def wrong_options_of_an_outbox(outbox: Outbox[str], addr: Address) -> None:
    outbox.broadcast("hello", exclude=addr)  # type: ignore[arg-type]  # says: "exclude" | "exclude"
    outbox.broadcast("hello", [addr])  # type: ignore[call-arg]  # says: "broadcast" | positional
    await outbox.drain(addr, below=1e6)  # type: ignore[arg-type]  # says: "below"
    await outbox.drain(addr, 1000)  # type: ignore[call-arg]  # says: "drain" | positional


async def forgetting_to_await(outbox: Outbox[str], addr: Address) -> None:
    outbox.send(addr, "hello")  # type: ignore[unused-coroutine]  # says: await


# Codecs


class WrongYield:
    """Says that it makes pings, and makes text."""

    def decode(self, data: bytes) -> Iterator[Ping]:
        yield data.decode()  # type: ignore[misc]  # says: "str", "Ping"

    def encode(self, message: Ping) -> bytes:
        return b""


class TextFrames:
    def decode(self, data: bytes) -> Iterator[str]:
        yield data.decode()

    def encode(self, message: str) -> str:
        return message


text_frames: Codec[str] = TextFrames()  # type: ignore[assignment]  # says: encode


class NoEncode:
    def decode(self, data: bytes) -> Iterator[str]:
        yield data.decode()


no_encode: Codec[str] = NoEncode()  # type: ignore[assignment]  # says: encode


class DecodesText:
    def decode(self, data: str) -> Iterator[str]:
        yield data

    def encode(self, message: str) -> bytes:
        return message.encode()


decodes_text: Codec[str] = DecodesText()  # type: ignore[assignment]  # says: decode
lists_of_parts: Frame = [b"header", b"payload"]  # type: ignore[assignment]  # says: list
of_other_messages: Encoder[bytes] = LinesCodec()  # type: ignore[assignment]  # says: encode
mapped_wrongly: Codec[Ping] = mapped(LinesCodec(), decode=Ping, encode=lambda ping: "")  # type: ignore[arg-type]  # says: decode | decode
mapped(LinesCodec(), decode=int, encode=bytes.decode)  # type: ignore[misc]  # says: Made_by_decode_and_taken_by_encode | decode
mapped(LinesCodec(), decode=int, encode=int.bit_length)  # type: ignore[arg-type]  # says: "encode"
mapped(LinesCodec(), int, str)  # type: ignore[call-arg]  # says: "mapped" | positional
parts_of_text: Frame = ("header", b"payload")  # type: ignore[assignment]  # says: tuple[str, bytes] | 'header'
HeaderCodec("5", len)  # type: ignore[arg-type]  # says: "HeaderCodec", "int" | "size"
HeaderCodec(5, 5)  # type: ignore[arg-type]  # says: "HeaderCodec" | "length_of"
HeaderCodec(5, str.encode)  # type: ignore[arg-type]  # says: "HeaderCodec" | "length_of"
HeaderCodec(5, len, max_length=1e6)  # type: ignore[arg-type]  # says: "max_length"
HeaderCodec(5)  # type: ignore[call-arg]  # says: "length_of"
HeaderCodec(5, len).encode(b"bytes")  # type: ignore[arg-type]  # says: "encode", "bytes" | "bytes"
HeaderCodec(5, len).encode((b"header", "text"))  # type: ignore[arg-type]  # says: "encode", "tuple[bytes, str]" | "encode", "bytes"
HeaderCodec(5, len).decode("text")  # type: ignore[arg-type]  # says: "decode" | "decode"
batched(LinesCodec(), 64)  # type: ignore[call-arg]  # says: "batched" | positional
batched(LinesCodec(), at_most="64")  # type: ignore[arg-type]  # says: "at_most"
batched_wrongly: Codec[str] = batched(LinesCodec())  # type: ignore[assignment]  # says: Codec[list[str]] | Codec[list[str]]
batched(LinesCodec()).encode("line")  # type: ignore[arg-type]  # says: "encode", "str" | "encode", "list[str]"
batched(LinesCodec()).encode([b"line"])  # type: ignore[list-item]  # says: "bytes" | "encode", "list[bytes]"
LengthDelimitedCodec(prefix="4")  # type: ignore[arg-type]  # says: "prefix"
LengthDelimitedCodec(max_length=1e6)  # type: ignore[arg-type]  # says: "max_length"
LengthDelimitedCodec(prefix_included="yes")  # type: ignore[arg-type]  # says: "prefix_included"
VarintDelimitedCodec(max_length=1e6)  # type: ignore[arg-type]  # says: "max_length"
VarintDelimitedCodec(1000)  # type: ignore[call-arg]  # says: "VarintDelimitedCodec" | positional
DelimitedCodec(";")  # type: ignore[arg-type]  # says: "DelimitedCodec", "bytes" | "delimiter"
DelimitedCodec(b";", max_length=1e6)  # type: ignore[arg-type]  # says: "max_length"
LinesCodec(encoding=None)  # type: ignore[arg-type]  # says: "encoding"
LinesCodec(max_length=1e6)  # type: ignore[arg-type]  # says: "max_length"
LinesCodec().encode(message="line")  # type: ignore[call-arg]  # says: "message" | positional
LinesCodec().encode(b"line")  # type: ignore[arg-type]  # says: "encode", "str" | "str"
LinesCodec().decode("line")  # type: ignore[arg-type]  # says: "decode" | "data"
LinesCodec().decode(data=b"line")  # type: ignore[call-arg]  # says: "data" | positional
LengthDelimitedCodec().encode("text")  # type: ignore[arg-type]  # says: "encode", "bytes" | "bytes"
LengthDelimitedCodec().encode(message=b"")  # type: ignore[call-arg]  # says: "message" | positional
DelimitedCodec(b";").encode("text")  # type: ignore[arg-type]  # says: "encode", "bytes" | "bytes"
DelimitedCodec(b";").encode(message=b"")  # type: ignore[call-arg]  # says: "message" | positional
BytesCodec().encode("text")  # type: ignore[arg-type]  # says: "encode", "bytes" | "bytes"
BytesCodec().encode(message=b"")  # type: ignore[call-arg]  # says: "message" | positional
BytesCodec().decode("text")  # type: ignore[arg-type]  # says: "decode" | "data"
BytesCodec().decode(data=b"")  # type: ignore[call-arg]  # says: "data" | positional


def names_that_are_the_codecs(decoder: Decoder[str], encoder: Encoder[str]) -> None:
    decoder.decode(data=b"")  # type: ignore[call-arg]  # says: "data" | positional
    encoder.encode(message="")  # type: ignore[call-arg]  # says: "message" | positional


LengthDelimitedCodec(byteorder="middle")  # type: ignore[arg-type]  # says: "byteorder"
LengthDelimitedCodec(4)  # type: ignore[call-arg]  # says: positional
check_codec(LinesCodec, [b"bytes"])  # type: ignore[arg-type]  # says: check_codec, Codec[bytes] | "str"


# Handshakes


async def the_wrong_messages_in_a_handshake(stream: ByteStream, messages: MessageStream[Ping]) -> None:
    await messages.send("ping")  # type: ignore[arg-type]  # says: "send", "Ping" | "message", "Ping"
    _text: str = await messages.receive()  # type: ignore[assignment]  # says: "Ping"
    _other: MessageStream[object] = messages  # type: ignore[assignment]  # says: "MessageStream[Ping]" | "MessageStream[Ping]"
    await MessageStream(stream, LinesCodec()).send(b"ping")  # type: ignore[arg-type]  # says: "send", "str" | "message", "str"
    MessageStream(stream)  # type: ignore[call-arg]  # says: "codec"
    MessageStream(LinesCodec(), LinesCodec())  # type: ignore[arg-type]  # says: "ByteStream"


async def tls_for_nobody(node: Node, context: ssl.SSLContext, stream: ByteStream, it: Connection) -> None:
    tls = TLSHandshake(context)  # type: ignore[call-arg]  # says: "TLSHandshake" | positional
    TLSHandshake(client="tls")  # type: ignore[arg-type]  # says: "client"
    TLSHandshake(server=True)  # type: ignore[arg-type]  # says: "server"
    node.enable_handshake(TLSHandshake)  # type: ignore[arg-type]  # says: "enable_handshake" | "handshake"
    await tls.perform_handshake(stream, stream)  # type: ignore[arg-type]  # says: "Connection"
    await tls.perform_handshake(it, it)  # type: ignore[arg-type]  # says: "ByteStream"
    await tls.perform_handshake(connection=it, stream=stream)  # type: ignore[call-arg]  # says: "connection" | positional


# Nodes and connections


async def wrong_uses_of_a_node(node: Node, stream: ByteStream) -> None:
    await node.connect("127.0.0.1:80")  # type: ignore[arg-type]  # says: "connect" | "addr"
    await node.connect(("127.0.0.1", "80"))  # type: ignore[arg-type]  # says: "connect" | "addr"
    await node.connect(("127.0.0.1", 80), timeout="1")  # type: ignore[arg-type]  # says: "timeout"
    await node.connect(("127.0.0.1", 80), local_addr="127.0.0.1")  # type: ignore[arg-type]  # says: "local_addr"
    await node.connect(("127.0.0.1", 80), 1.0)  # type: ignore[call-arg]  # says: "connect" | positional
    await node.adopt(stream, ("memory", 0))  # type: ignore[call-arg]  # says: "side"
    await node.adopt(stream, ("memory", 0), "initiator")  # type: ignore[arg-type]  # says: "adopt" | "side"
    await node.disconnect(("127.0.0.1", 80), True)  # type: ignore[call-arg]  # says: positional
    await node.disconnect("127.0.0.1")  # type: ignore[arg-type]  # says: "disconnect" | "peer"
    await node.disconnect(("127.0.0.1", 80), abort="now")  # type: ignore[arg-type]  # says: "abort"
    await node.adopt("stream", ("memory", 0), Side.INITIATOR)  # type: ignore[arg-type]  # says: "adopt" | "stream"
    await node.adopt(stream, "memory", Side.INITIATOR)  # type: ignore[arg-type]  # says: "adopt" | "addr"
    node.start_soon(background, "one")  # type: ignore[arg-type]  # says: "start_soon" | "start_soon"
    node.start_soon(print, "one")  # type: ignore[arg-type]  # says: "start_soon" | "func"
    node.name = "ann"  # type: ignore[misc]  # says: "name"
    node.stats = node.stats  # type: ignore[misc]  # says: "stats"
    node.heuristics = node.heuristics  # type: ignore[misc]  # says: "heuristics"
    node.connections = node.connections  # type: ignore[misc]  # says: "connections"
    node.connecting = node.connecting  # type: ignore[misc]  # says: "connecting"
    node.listening_addr = ("127.0.0.1", 80)  # type: ignore[misc]  # says: "listening_addr"
    node.config = Config()  # type: ignore[misc]  # says: "config"
    node.config.max_connections = 5  # type: ignore[misc]  # says: "max_connections"
    node.connections["127.0.0.1", 80] = await node.connect(("127.0.0.1", 80))  # type: ignore[index]  # says: assignment | __setitem__
    node.connecting.add(("127.0.0.1", 80))  # type: ignore[attr-defined]  # says: "add"
    with node:  # type: ignore[attr-defined]  # says: __enter__
        pass


def wrong_settings() -> None:
    Config(max_conections=5)  # type: ignore[call-arg]  # says: "max_conections"
    Config("name")  # type: ignore[call-arg]  # says: positional
    Config(listener_addr="127.0.0.1:80")  # type: ignore[arg-type]  # says: "listener_addr"
    Node("name")  # type: ignore[arg-type]  # says: "Node" | "config"
    Node(Config(), None)  # type: ignore[call-arg]  # says: "Node" | positional
    Node(transport=Ping(1))  # type: ignore[arg-type]  # says: "transport"
    grid(3)  # type: ignore[call-arg]  # says: "height"


def wrong_uses_of_a_connection(connection: Connection) -> None:
    connection.addr = ("127.0.0.1", 80)  # type: ignore[misc]  # says: "addr"
    connection.side = Side.INITIATOR  # type: ignore[misc]  # says: "side"
    connection.dialled = None  # type: ignore[misc]  # says: "dialled"
    connection.stats = connection.stats  # type: ignore[misc]  # says: "stats"
    connection.start_soon(print, "one")  # type: ignore[arg-type]  # says: "start_soon" | "func"
    connection.start_soon(background, "one")  # type: ignore[arg-type]  # says: "start_soon"


async def background(number: int) -> None: ...


# Transports


async def wrong_uses_of_a_transport(transport: Transport, name: str, addr: Address) -> None:
    await transport.resolve(name)  # type: ignore[arg-type]  # says: "resolve" | "resolve"
    await transport.dial(name)  # type: ignore[arg-type]  # says: "dial" | "dial"
    await transport.listen(name, backlog=1, reuse_port=True)  # type: ignore[arg-type]  # says: "listen" | "listen"
    await transport.listen(addr, backlog="1", reuse_port=True)  # type: ignore[arg-type]  # says: "backlog"
    await transport.listen(addr, backlog=1, reuse_port="no")  # type: ignore[arg-type]  # says: "reuse_port"
    await transport.listen(addr, 1, True)  # type: ignore[call-arg]  # says: "listen" | positional
    await transport.resolve(addr=addr)  # type: ignore[call-arg]  # says: "addr" | positional
    await transport.dial(addr=addr)  # type: ignore[call-arg]  # says: "addr" | positional
    await transport.listen(addr=addr, backlog=1, reuse_port=True)  # type: ignore[call-arg]  # says: "addr" | positional


async def wrong_uses_of_tcp(transport: TCPTransport, name: str, addr: Address) -> None:
    await transport.resolve(name)  # type: ignore[arg-type]  # says: "resolve" | "resolve"
    await transport.dial(name)  # type: ignore[arg-type]  # says: "dial" | "dial"
    await transport.listen(name, backlog=1, reuse_port=True)  # type: ignore[arg-type]  # says: "listen" | "listen"
    await transport.listen(addr, backlog="1", reuse_port=True)  # type: ignore[arg-type]  # says: "backlog"
    await transport.listen(addr, backlog=1, reuse_port="no")  # type: ignore[arg-type]  # says: "reuse_port"
    await transport.listen(addr, 1, True)  # type: ignore[call-arg]  # says: "listen" | positional
    await transport.resolve(addr=addr)  # type: ignore[call-arg]  # says: "addr" | positional
    await transport.dial(addr=addr)  # type: ignore[call-arg]  # says: "addr" | positional
    await transport.listen(addr=addr, backlog=1, reuse_port=True)  # type: ignore[call-arg]  # says: "addr" | positional
    TCPTransport.wrap(name)  # type: ignore[arg-type]  # says: "wrap" | "wrap"


class DialsNames:
    async def resolve(self, addr: Address) -> list[str]:
        return [addr[0]]

    async def listen(self, addr: Address, *, backlog: int, reuse_port: bool) -> Listener:
        raise OSError

    async def dial(self, addr: Address) -> ByteStream:
        raise OSError


Node(transport=DialsNames())  # type: ignore[arg-type]  # says: resolve


# Helpers


async def wrong_uses_of_topologies(nodes: list[Node]) -> None:
    line("3")  # type: ignore[arg-type]  # says: "line"
    ring("3")  # type: ignore[arg-type]  # says: "ring"
    mesh("3")  # type: ignore[arg-type]  # says: "mesh"
    star("3")  # type: ignore[arg-type]  # says: "star"
    tree("3")  # type: ignore[arg-type]  # says: "tree"
    grid("3", 3)  # type: ignore[arg-type]  # says: "grid"
    grid(3, "3")  # type: ignore[arg-type]  # says: "grid"
    random("3", 1, 1)  # type: ignore[arg-type]  # says: "random"
    random(3, "1", 1)  # type: ignore[arg-type]  # says: "random"
    random(3, 1, "seed")  # type: ignore[arg-type]  # says: "random"
    await connect_nodes([Ping(1)], ring(1))  # type: ignore[list-item]  # says: "Node" | "nodes"
    await connect_nodes(nodes, 3)  # type: ignore[arg-type]  # says: "connect_nodes"
    await connect_nodes(nodes, [("0", 1)])  # type: ignore[list-item]  # says: "tuple[int, int]" | "edges"
    await connect_nodes(nodes, [(0, "1")])  # type: ignore[list-item]  # says: "tuple[int, int]" | "edges"


class Half:
    """A decoder and nothing more."""

    def decode(self, data: bytes) -> list[str]:
        return [data.decode()]


async def wrong_uses_of_tests(strategy: Strategy[bytes]) -> None:
    check_codec(LinesCodec, ["line"], strategy=strategy)  # type: ignore[arg-type]  # says: "check_codec" | "strategy"
    check_codec(LinesCodec, ["line"], None)  # type: ignore[call-overload]  # says: "check_codec" | "check_codec"
    check_codec(LinesCodec, ["line"], max_length=1e6)  # type: ignore[call-overload]  # says: "check_codec", "float" | "max_length"
    check_codec(LinesCodec, ["line"], bytes_like="yes")  # type: ignore[call-overload]  # says: "check_codec", "str" | "bytes_like"
    check_codec(LinesCodec, ["line"], derive="no")  # type: ignore[call-overload]  # says: "check_codec", "str" | "derive"
    check_codec(LinesCodec, ["line"], join=b"".join)  # type: ignore[arg-type]  # says: "join"
    check_codec(LinesCodec, ["line"], reseal=str.upper)  # type: ignore[arg-type]  # says: "reseal"
    check_codec(Half, ["line"])  # type: ignore[arg-type]  # says: Half, Codec[str] | "encode" is not present
    check_codec(Half, ["line"], make_encoder=Half)  # type: ignore[arg-type]  # says: "make_encoder"
    check_codec(Half, ["line"], make_encoder=LengthDelimitedCodec)  # type: ignore[arg-type]  # says: "make_encoder"
    check_codec(Half, [b"line"], make_encoder=LinesCodec)  # type: ignore[arg-type]  # says: "make_encoder"
    check_codec(Half, [b"line"], make_encoder=LengthDelimitedCodec)  # type: ignore[arg-type]  # says: "check_codec" | "check_codec"
    check_codec(Half(), ["line"], make_encoder=LinesCodec)  # type: ignore[call-overload]  # says: "Half" | "make_codec"
    check_codec(Half, ["line"], make_encoder=LinesCodec())  # type: ignore[call-overload]  # says: "LinesCodec"
    check_codec(Half, ["line"], make_encoder=LinesCodec, max_length=1e6)  # type: ignore[call-overload]  # says: "float"
    check_codec(Half, ["line"], make_encoder=LinesCodec, strategy=strategy)  # type: ignore[arg-type]  # says: Sequence | "strategy"
    check_codec(Half, ["line"], make_encoder=LinesCodec, join=b"".join)  # type: ignore[arg-type]  # says: "join"
    check_codec(Half, ["line"], make_encoder=LinesCodec, bytes_like="y")  # type: ignore[call-overload]  # says: "str" | bool
    check_codec(Half, ["line"], make_encoder=LinesCodec, derive="no")  # type: ignore[call-overload]  # says: "str" | bool
    check_codec(Half, ["line"], make_encoder=LinesCodec, reseal=str.upper)  # type: ignore[arg-type]  # says: "reseal"
    await wait_until(True)  # type: ignore[arg-type]  # says: "wait_until"
    await wait_until(list, "1")  # type: ignore[arg-type]  # says: "wait_until"
