"""examples/noise.py: the stream, what it refuses, and the program."""

from __future__ import annotations

import hashlib
import random
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest

pytest.importorskip("noise", reason="the examples' dependencies are not installed")

from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from examples.noise import MAX_PLAINTEXT, NoiseAttribute, NoiseHandshake, NoiseStream, TamperedError, noise_xx
from pea2pea import Address, Config, Connection, DisconnectOrigin, HandshakeError, Node, Outbox, Side, TCPTransport
from pea2pea.codecs import LinesCodec
from pea2pea.testing import wait_until
from tests.helpers import memory_pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pea2pea import Listener

    from .conftest import Example

FIRST, THIRD = 2 + 32, 2 + 48 + 16  # bytes of the initiator's messages in the handshake: -> e and -> s, se


class Recorder(ByteStream):
    """Passes everything on to another stream, and can keep a copy of, or change, what is sent."""

    def __init__(self, stream: ByteStream, flip: int | None = None) -> None:
        self.stream = stream
        self.flip = flip  # the bit to flip, counted from the first one sent
        self.sent = b""

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        return await self.stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        passed_on = bytearray(item)
        if self.flip is not None and 0 <= self.flip - 8 * len(self.sent) < 8 * len(item):
            at, bit = divmod(self.flip - 8 * len(self.sent), 8)
            passed_on[at] ^= 1 << bit
        self.sent += passed_on
        await self.stream.send(bytes(passed_on))

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()

    @property
    def extra_attributes(self) -> Any:
        return self.stream.extra_attributes


class Replay(ByteStream):
    """Delivers chunks, then ends."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = [chunk for chunk in chunks if chunk]

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        await checkpoint()
        if not self.chunks:
            raise anyio.EndOfStream
        chunk, self.chunks[0] = self.chunks[0][:max_bytes], self.chunks[0][max_bytes:]
        if not self.chunks[0]:
            del self.chunks[0]
        return chunk

    async def send(self, item: bytes) -> None:
        raise AssertionError("nothing is to be sent")

    async def send_eof(self) -> None:
        raise AssertionError("nothing is to be sent")

    async def aclose(self) -> None:
        await checkpoint()


def accept_all(remote_static_key: bytes, payload: bytes) -> None:
    pass


async def shake_hands(initiator: ByteStream, responder: ByteStream) -> tuple[NoiseStream, NoiseStream]:
    streams: dict[Side, NoiseStream] = {}

    async def one(stream: ByteStream, side: Side) -> None:
        streams[side] = await noise_xx(stream, side, X25519PrivateKey.generate(), accept_all)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one, initiator, Side.INITIATOR)
        tasks.start_soon(one, responder, Side.RESPONDER)
    return streams[Side.INITIATOR], streams[Side.RESPONDER]


def replaying(stream: NoiseStream, *chunks: bytes) -> NoiseStream:
    """A stream with the keys of `stream`, as they stand, that receives `chunks`."""
    stream._messages.stream = Replay(*chunks)
    stream._messages._buffer.clear()
    stream._plaintext = b""
    return stream


async def test_a_hundred_mebibytes_intact() -> None:
    initiator, responder = await shake_hands(*memory_pair(1 << 20))
    sizes = (1, MAX_PLAINTEXT, MAX_PLAINTEXT + 1, 1 << 20, 3 << 20)
    sent, received = hashlib.sha256(), hashlib.sha256()
    total = 0

    async def send() -> None:
        left = 100 << 20
        block = random.randbytes(4 << 20)
        for number in range(sys.maxsize):
            part = block[number : number + min(sizes[number % len(sizes)], left)]
            await initiator.send(part)
            sent.update(part)
            left -= len(part)
            if not left:
                await initiator.send_eof()
                return

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        async for chunk in responder:
            received.update(chunk)
            total += len(chunk)
    assert total == 100 << 20
    assert sent.digest() == received.digest()


async def test_flipped_bit_anywhere() -> None:
    """A flipped bit anywhere is refused and goes on being refused."""
    a, b = memory_pair()
    recorder = Recorder(a)
    initiator, responder = await shake_hands(recorder, b)
    recorder.sent = b""
    await initiator.send(b"a message")
    wire = recorder.sent
    assert len(wire) == 2 + len(b"a message") + 16
    for bit in range(8 * len(wire)):
        tampered = bytearray(wire)
        tampered[bit // 8] ^= 1 << bit % 8
        stream = replaying(responder, bytes(tampered))
        for _ in range(2):
            with pytest.raises(TamperedError):
                await stream.receive()
    assert await replaying(responder, wire).receive() == b"a message"


async def test_messages_before_the_tampered_one_arrive() -> None:
    a, b = memory_pair()
    recorder = Recorder(a)
    initiator, responder = await shake_hands(recorder, b)
    recorder.sent = b""
    await initiator.send(b"first")
    await initiator.send(b"second")
    recorder.sent = recorder.sent[:-1] + bytes([recorder.sent[-1] ^ 1])
    stream = replaying(responder, recorder.sent)
    assert await stream.receive() == b"first"
    with pytest.raises(TamperedError):
        await stream.receive()


@pytest.mark.parametrize("order", [(0, 0), (1,), (1, 0), (0, 2)], ids=["repeated", "dropped", "swapped", "skipped"])
async def test_every_message_has_its_place(order: Sequence[int]) -> None:
    a, b = memory_pair()
    recorder = Recorder(a)
    initiator, responder = await shake_hands(recorder, b)
    wire = []
    for _ in range(3):
        recorder.sent = b""
        await initiator.send(b"the same")
        wire.append(recorder.sent)
    assert len(set(wire)) == 3  # no nonce serves twice
    stream = replaying(responder, *(wire[number] for number in order))
    with pytest.raises(TamperedError):  # noqa: PT012  # at the latest with the last one
        for _ in order:
            assert await stream.receive() == b"the same"


async def test_the_end_is_clean_between_messages_only() -> None:
    a, b = memory_pair()
    recorder = Recorder(a)
    initiator, responder = await shake_hands(recorder, b)
    recorder.sent = b""
    await initiator.send(b"whole")
    for end in range(1, len(recorder.sent)):
        with pytest.raises(TamperedError, match="inside"):
            await replaying(responder, recorder.sent[:end]).receive()
    stream = replaying(responder, recorder.sent)
    assert await stream.receive() == b"whole"
    with pytest.raises(anyio.EndOfStream):
        await stream.receive()


async def test_what_was_read_ahead_of_the_handshake_is_kept() -> None:
    a, b = memory_pair()
    initiator_key = X25519PrivateKey.generate()
    responder: list[NoiseStream] = []

    async def respond() -> None:
        responder.append(await noise_xx(b, Side.RESPONDER, X25519PrivateKey.generate(), accept_all))

    class Delayed(Recorder):
        """Keeps what is sent, from the last message of the handshake on, to send it in one piece."""

        kept = b""

        async def send(self, item: bytes) -> None:
            if len(item) == FIRST:
                await self.stream.send(item)
            else:
                self.kept += item

    delayed = Delayed(a)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(respond)
        initiator = await noise_xx(delayed, Side.INITIATOR, initiator_key, accept_all)
        await initiator.send(b"early")
        await a.send(delayed.kept)
    assert await responder[0].receive() == b"early"
    assert responder[0].extra(NoiseAttribute.remote_static_key) == initiator_key.public_key().public_bytes_raw()


async def test_messages_without_content_are_passed_over() -> None:
    initiator, responder = await shake_hands(*memory_pair())
    await initiator._messages.send(initiator._noise.encrypt(b""))
    await initiator.send(b"content")
    assert await responder.receive(3) == b"con"
    assert await responder.receive() == b"tent"


async def test_a_cancelled_receive_loses_nothing() -> None:
    a, b = memory_pair()
    recorder = Recorder(a)
    initiator, responder = await shake_hands(recorder, b)
    recorder.sent = b""
    recorder.stream = memory_pair()[0]
    await initiator.send(b"in pieces")
    for start, end in ((0, 1), (1, 2), (2, 20), (20, len(recorder.sent) - 1)):
        await a.send(recorder.sent[start:end])
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(responder.receive)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
    await a.send(recorder.sent[-1:])
    assert await responder.receive() == b"in pieces"


async def test_after_a_cancelled_send_nothing_is_sent() -> None:
    initiator, _ = await shake_hands(*memory_pair(1000))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(initiator.send, bytes(10_000))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await initiator.send(b"beside")
        tasks.cancel_scope.cancel()
    with pytest.raises(anyio.BrokenResourceError):
        await initiator.send(b"after")


async def test_both_ends_know_the_same_handshake() -> None:
    initiator, responder = await shake_hands(*memory_pair())
    assert initiator.extra(NoiseAttribute.handshake_hash) == responder.extra(NoiseAttribute.handshake_hash)


class Talker:
    """A node that notes what it hears, and what its connections end of."""

    def __init__(self, transport: Mischief | None = None) -> None:
        self.key = X25519PrivateKey.generate()
        self.known: set[bytes] = set()
        self.heard: list[str] = []
        self.from_whom: set[bytes] = set()
        self.causes: list[Exception | None] = []
        self.node = Node(Config(), transport=transport)
        self.node.enable_handshake(NoiseHandshake(self.key, self.known))
        self.node.enable_reading(self)
        self.outbox: Outbox[str] = self.node.enable_writing(self)
        self.node.enable_on_disconnect(self)

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes_raw()

    def decoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec()

    def encoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec()

    async def process_message(self, source: Connection, message: str) -> None:
        self.heard.append(message)
        self.from_whom.add(source.extra(NoiseAttribute.remote_static_key))

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        self.causes.append(connection.cause)


class Mischief(TCPTransport):
    """TCP, with one bit flipped on the way out."""

    def __init__(self, flip: int | None) -> None:
        self.flip = flip

    async def dial(self, addr: Address, /, *, local_addr: Address | None = None) -> ByteStream:
        return Recorder(await super().dial(addr, local_addr=local_addr), self.flip)

    async def listen(self, addr: Address, /, *, backlog: int, reuse_port: bool) -> Listener:
        raise NotImplementedError


async def converse(flip: int | None, *, acquainted: bool = True) -> tuple[Talker, Talker]:
    """Alice dials Bob, says two things, and hangs up; what she says is tampered with."""
    alice, bob = Talker(Mischief(flip)), Talker()
    alice.known.add(bob.public_key)
    if acquainted:
        bob.known.add(alice.public_key)
    async with alice.node, bob.node:
        with suppress(HandshakeError):
            connection = await alice.node.connect(await bob.node.start_listening())
            for message in ("one", "two"):
                await alice.outbox.send(connection, message)
            await alice.node.disconnect(connection)
        await wait_until(lambda: bool(bob.causes or bob.node.heuristics.handshake_failures), 10)
    return alice, bob


async def test_nodes_know_each_other_by_their_keys() -> None:
    alice, bob = await converse(None)
    assert bob.heard == ["one", "two"]
    assert bob.from_whom == {alice.public_key}
    assert bob.causes == [None]
    assert bob.node.heuristics.handshake_failures == 0


@pytest.mark.parametrize("bit", [16, 8 * FIRST - 1, 8 * FIRST + 16, 8 * FIRST + 500, 8 * (FIRST + THIRD) - 1])
async def test_a_flipped_bit_in_the_handshake_fails_it_and_is_counted(bit: int) -> None:
    _, bob = await converse(bit)
    assert bob.node.heuristics.handshake_failures == 1
    assert not bob.heard


@pytest.mark.parametrize("byte", [0, 1, 2, 5, 6, 21])
async def test_flipped_bit_after_the_handshake(byte: int) -> None:
    """A flipped bit afterwards ends the connection and is counted."""
    _, bob = await converse(8 * (FIRST + THIRD + byte))
    assert bob.node.heuristics.handshake_failures == 0
    assert not bob.heard
    assert len(bob.causes) == 1
    assert isinstance(bob.causes[0], TamperedError)
    assert bob.node.heuristics.decode_errors == 1


async def test_strangers_are_refused() -> None:
    _, bob = await converse(None, acquainted=False)
    assert bob.node.heuristics.handshake_failures == 1
    assert not bob.heard


def test_the_program(example: Example) -> None:
    first, second, third = example("noise.py")
    assert first.startswith("Alice hears Bob (")
    assert first.endswith("say: 'the key is under the mat'")
    assert second.startswith("Alice hangs up on Mallory: a stranger")
    assert third == "Mallory is hung up on by Alice, who has refused 2 peers"
