"""A test of a protocol of one's own: a scripted peer says what it likes, also what no node would, and sees what comes.

Shows `ScriptedPeer` against a small chat node: typed messages, bytes by hand, silence that is expected, and what a
connection ended with. The node is on a simulated network; over TCP the same cases pass with `TCPTransport()` in place
of `Network().host(IP)`, and against nodes in other languages, too. Run `python -m pytest examples/test_conformance.py`
(pytest must be there). You will see them pass on each event loop. Then break the node, and see what is said of it: take
out the `exclude`, or the `raise` in the handshake.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager as Block
from dataclasses import asdict, dataclass

import anyio
import pytest
from anyio.abc import ByteStream

from pea2pea import Config, Connection, Node
from pea2pea.codecs import Codec, LinesCodec, mapped
from pea2pea.handshakes import MessageStream
from pea2pea.testing import Network, ScriptedPeer

pytestmark = pytest.mark.anyio
IP, VERSION = "10.0.0.1", 2


@dataclass(frozen=True)
class Hello:
    """What both sides say first."""

    version: int


@dataclass(frozen=True)
class Ping:
    """A question."""

    number: int


@dataclass(frozen=True)
class Pong:
    """Its answer."""

    number: int


@dataclass(frozen=True)
class Say:
    """What somebody says to all others."""

    text: str


Message = Hello | Ping | Pong | Say
KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in (Hello, Ping, Pong, Say)}


def decode(line: str) -> Message:
    kind, fields = json.loads(line)
    return KINDS[kind](**fields)


def encode(message: Message) -> str:
    return json.dumps([type(message).__name__, asdict(message)])


def make_codec() -> Codec[Message]:
    return mapped(LinesCodec(max_length=100), decode=decode, encode=encode)


class Chat:
    """The node under test: versions have to agree, pings are answered, and what one says, all others hear."""

    def __init__(self) -> None:
        self.host = Network().host(IP)
        self.node = Node(Config(listener_addr=(IP, 4000), max_connections_per_ip=99), transport=self.host)
        self.node.enable_handshake(self)
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        messages = MessageStream(stream, make_codec())
        await messages.send(Hello(VERSION))
        if await messages.receive() != Hello(VERSION):
            raise ValueError("another version")
        return messages.detach()

    def decoder(self, connection: Connection) -> Codec[Message]:
        return make_codec()

    encoder = decoder

    async def process_message(self, source: Connection, message: Message) -> None:
        if isinstance(message, Ping):
            await self.outbox.send(source, Pong(message.number))
        elif isinstance(message, Say):
            self.outbox.broadcast(message, exclude=[source])

    def meet(self) -> Block[ScriptedPeer[Message]]:
        return ScriptedPeer.dial((IP, 4000), make_codec(), transport=self.host)


@pytest.fixture
async def chat() -> AsyncGenerator[Chat]:
    chat = Chat()
    async with chat.node as node:
        await node.start_listening()
        yield chat


@pytest.fixture
async def peer(chat: Chat) -> AsyncGenerator[ScriptedPeer[Message]]:
    async with chat.meet() as peer:
        await peer.send(Hello(VERSION))
        await peer.expect(Hello)
        yield peer


async def test_it_says_hello_first(chat: Chat) -> None:
    async with chat.meet() as peer:
        assert await peer.expect(Hello) == Hello(VERSION)


@pytest.mark.parametrize("first", [Hello(1), Ping(1)])
async def test_who_says_something_else_is_turned_away(chat: Chat, first: Message) -> None:
    async with chat.meet() as peer:
        await peer.send(first)
        assert await peer.wait_closed() is None
        assert not chat.node.connections


async def test_a_ping_is_answered_with_its_number(peer: ScriptedPeer[Message]) -> None:
    assert await peer.barrier(Ping(7), Pong) == Pong(7)


async def test_answers_have_the_order_of_the_questions(peer: ScriptedPeer[Message]) -> None:
    await peer.send(*map(Ping, range(50)))
    assert [await peer.expect(Pong) for _ in range(50)] == list(map(Pong, range(50)))


async def test_what_one_says_the_others_hear(chat: Chat, peer: ScriptedPeer[Message]) -> None:
    async with chat.meet() as other:
        await other.send(Hello(VERSION))
        await other.barrier(Ping(1), Pong)
        await peer.send(Say("good morning"))
        assert await other.expect(Say) == Say("good morning")
        await peer.expect_nothing(Say, within=0.05)


async def test_a_message_may_come_in_pieces(peer: ScriptedPeer[Message]) -> None:
    frame = (encode(Ping(3)) + "\n").encode()
    await peer.send_raw(frame[:9])
    await peer.expect_nothing(Pong, within=0.05)
    await peer.send_raw(frame[9:])
    assert await peer.expect(Pong) == Pong(3)


@pytest.mark.parametrize("nonsense", [b"{}\n", b"x" * 1000])
async def test_nonsense_ends_the_connection(peer: ScriptedPeer[Message], nonsense: bytes) -> None:
    await peer.send_raw(nonsense)
    await peer.wait_closed()


async def test_who_has_ended_is_still_answered(peer: ScriptedPeer[Message]) -> None:
    await peer.send(Ping(1))
    await peer.end()
    assert await peer.expect(Pong) == Pong(1)
    assert await peer.wait_closed() is None


async def test_a_peer_that_breaks_off_harms_no_other(chat: Chat, peer: ScriptedPeer[Message]) -> None:
    async with chat.meet() as other:
        await other.send(Hello(VERSION), Say("and"))
        await other.reset()
    with anyio.fail_after(1):
        assert await peer.barrier(Ping(1), Pong) == Pong(1)
