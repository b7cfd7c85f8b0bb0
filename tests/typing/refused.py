"""What must not type-check. Each mistake carries mypy's code for it, and then the words its message must have.

The words before the bar are mypy's, those behind it pyright's, if they differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from anyio.abc import ByteStream

from pea2pea import Address, Codec, Config, Connection, DisconnectOrigin, Encoder, Frame, Node, Outbox, Side
from pea2pea.codecs import LengthDelimitedCodec, LinesCodec, mapped
from pea2pea.testing import check_codec
from pea2pea.topology import grid


@dataclass
class Ping:
    number: int


# Hooks that don't fit


class Disagreeing:
    """The decoder makes text, the handler takes bytes."""

    def decoder(self, addr: Address, side: Side) -> LinesCodec:
        return LinesCodec()

    async def process_message(self, source: Address, message: bytes) -> None: ...


Node().enable_reading(Disagreeing())  # type: ignore[misc]  # says: process_message


class SyncHandler:
    def decoder(self, addr: Address, side: Side) -> LinesCodec:
        return LinesCodec()

    def process_message(self, source: Address, message: str) -> None: ...


Node().enable_reading(SyncHandler())  # type: ignore[arg-type]  # says: process_message


class NoHandler:
    def decoder(self, addr: Address, side: Side) -> LinesCodec:
        return LinesCodec()


Node().enable_reading(NoHandler())  # type: ignore[arg-type]  # says: process_message


class NoDecoder:
    async def process_message(self, source: Address, message: str) -> None: ...


Node().enable_reading(NoDecoder())  # type: ignore[arg-type]  # says: decoder


class AsyncDecoder:
    async def decoder(self, addr: Address, side: Side) -> LinesCodec:
        return LinesCodec()

    async def process_message(self, source: Address, message: str) -> None: ...


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
    def on_connect(self, addr: Address) -> None: ...


Node().enable_on_connect(SyncGreeting())  # type: ignore[arg-type]  # says: on_connect


class WantsMore:
    async def on_connect(self, addr: Address, side: Side) -> None: ...


Node().enable_on_connect(WantsMore())  # type: ignore[arg-type]  # says: on_connect


class OldGoodbye:
    """Without the origin."""

    async def on_disconnect(self, addr: Address) -> None: ...


Node().enable_on_disconnect(OldGoodbye())  # type: ignore[arg-type]  # says: on_disconnect


class SwappedGoodbye:
    async def on_disconnect(self, origin: DisconnectOrigin, addr: Address) -> None: ...


Node().enable_on_disconnect(SwappedGoodbye())  # type: ignore[arg-type]  # says: on_disconnect


class MisspelledGoodbye:
    async def on_disconect(self, addr: Address, origin: DisconnectOrigin) -> None: ...


Node().enable_on_disconnect(MisspelledGoodbye())  # type: ignore[arg-type]  # says: on_disconnect


class EncoderWithoutSide:
    def encoder(self, addr: Address) -> LinesCodec:
        return LinesCodec()


Node().enable_writing(EncoderWithoutSide())  # type: ignore[arg-type]  # says: encoder


class EncoderOfNothing:
    def encoder(self, addr: Address, side: Side) -> None: ...


Node().enable_writing(EncoderOfNothing())  # type: ignore[arg-type]  # says: encoder


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
    def encoder(self, addr: Address, side: Side) -> LinesCodec:
        return LinesCodec()


def swapped_arguments(outbox: Outbox[str], addr: Address) -> None:
    outbox.send_nowait("hello", addr)  # type: ignore[arg-type]  # says: "send_nowait" | "peer"


def an_outbox_of_less_is_none_of_more(outbox: Outbox[Ping]) -> Outbox[Ping | str]:
    return outbox  # type: ignore[return-value]  # says: Outbox


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
LengthDelimitedCodec(byteorder="middle")  # type: ignore[arg-type]  # says: "byteorder"
LengthDelimitedCodec(4)  # type: ignore[call-arg]  # says: positional
check_codec(LinesCodec, [b"bytes"])  # type: ignore[arg-type]  # says: check_codec, Codec[bytes] | "str"


# Nodes and connections


async def wrong_uses_of_a_node(node: Node, stream: ByteStream) -> None:
    await node.connect("127.0.0.1:80")  # type: ignore[arg-type]  # says: "connect" | "addr"
    await node.connect(("127.0.0.1", "80"))  # type: ignore[arg-type]  # says: "connect" | "addr"
    await node.adopt(stream, ("memory", 0))  # type: ignore[call-arg]  # says: "side"
    await node.adopt(stream, ("memory", 0), "initiator")  # type: ignore[arg-type]  # says: "adopt" | "side"
    await node.disconnect(("127.0.0.1", 80), True)  # type: ignore[call-arg]  # says: positional
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
    Node(transport=Ping(1))  # type: ignore[arg-type]  # says: "transport"
    grid(3)  # type: ignore[call-arg]  # says: "height"


def wrong_uses_of_a_connection(connection: Connection) -> None:
    connection.addr = ("127.0.0.1", 80)  # type: ignore[misc]  # says: "addr"
    connection.start_soon(background, "one")  # type: ignore[arg-type]  # says: "start_soon"


async def background(number: int) -> None: ...
