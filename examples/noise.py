"""Encrypt every connection with Noise XX, and talk only to peers whose keys you know.

Shows how a handshake takes the plain stream and returns an encrypted one: `NoiseStream`, to be copied into your own
program, speaks Noise_XX_25519_ChaChaPoly_SHA256, so both ends prove their static keys, and nobody between them can read
or change a byte. It needs `noiseprotocol`. Run `python examples/noise.py [--backend asyncio|uvloop|trio]` to see Alice
and Bob, who know each other's keys, exchange a secret, and Mallory, whose key nobody knows, refused: when she is
dialled, and when she dials. Then it ends by itself.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

if __name__ == "__main__":  # as a script, this very file would be taken for the package `noise`
    sys.path.append(sys.path.pop(0))

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from noise.connection import Keypair, NoiseConnection
from noise.exceptions import NoiseInvalidMessage

from pea2pea import Config, Connection, DisconnectOrigin, FrameError, HandshakeError, Node, Side
from pea2pea.codecs import LinesCodec

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

PROTOCOL = b"Noise_XX_25519_ChaChaPoly_SHA256"
MAX_PLAINTEXT = 65_535 - 16  # a Noise message, its 16-byte tag included, has at most 65,535 bytes (section 3)


class NoiseAttribute(anyio.TypedAttributeSet):
    """What `connection.extra(...)` tells of a connection on a `NoiseStream`."""

    remote_static_key: bytes = anyio.typed_attribute()
    """The 32 bytes of the peer's X25519 public key, which it has proven to own."""
    handshake_hash: bytes = anyio.typed_attribute()
    """The same at both ends and in no other connection: sign it to bind something to this one (section 11.2)."""


class TamperedError(FrameError, anyio.BrokenResourceError):
    """What came is not what the peer has sent."""


class Verify(Protocol):
    """Looks at the peer's static key and the payload that came with it, and raises to refuse them."""

    def __call__(self, remote_static_key: bytes, payload: bytes, /) -> None: ...


class Messages:
    """Noise messages on a byte stream: each after its length, two bytes, big-endian (section 13)."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self._buffer = bytearray()

    async def peek(self) -> bytes:
        """Wait for a whole message, which stays where it is until `drop`; cancelled, it loses nothing.

        Raises EndOfStream only between messages, and TamperedError inside of one.
        """
        await checkpoint()
        while len(self._buffer) < 2 or len(self._buffer) < self._end():
            try:
                self._buffer += await self.stream.receive()
            except anyio.EndOfStream:
                if not self._buffer:
                    raise
                raise TamperedError("the stream ended inside a Noise message") from None
        return bytes(self._buffer[2 : self._end()])

    def drop(self) -> None:
        """Done with the message that `peek` returned."""
        del self._buffer[: self._end()]

    async def receive(self) -> bytes:
        """Wait for a whole message, and take it."""
        message = await self.peek()
        self.drop()
        return message

    async def send(self, message: bytes) -> None:
        """Send a message of at most 65,535 bytes; cancelled, an unknown part of it went out."""
        await self.stream.send(len(message).to_bytes(2, "big") + message)

    def _end(self) -> int:
        return 2 + int.from_bytes(self._buffer[:2], "big")


class NoiseStream(ByteStream):
    """A byte stream on top of another one, encrypted and authenticated with the keys of a finished handshake.

    Writes of any size are cut into Noise messages, each sealed with the next nonce. Nobody can read, change, repeat,
    reorder or drop anything without a TamperedError from `receive`, now and ever after. Not covered: how much is said
    and when, and an end of stream between two messages, which Noise leaves to the protocol above (section 13).

    One task may receive and another one send. A cancelled `receive` loses nothing. A cancelled `send` leaves an unknown
    part of its messages on the wire, so that nothing can be sent afterwards: BrokenResourceError.
    """

    def __init__(self, messages: Messages, noise: NoiseConnection, remote_static_key: bytes) -> None:
        self._messages = messages
        self._noise = noise
        self.attributes: dict[Any, Callable[[], Any]] = {
            NoiseAttribute.remote_static_key: lambda: remote_static_key,
            NoiseAttribute.handshake_hash: noise.get_handshake_hash,
        }
        """What `extra_attributes` adds to those of the stream below; there is room for more."""
        self._plaintext = b""
        self._sending = anyio.ResourceGuard("sending to")
        self._torn = False

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """Wait for something to read: one message's plaintext, or its next `max_bytes` bytes."""
        if self._plaintext:
            await checkpoint()
        while not self._plaintext:  # messages without content are legal
            message = await self._messages.peek()
            try:
                self._plaintext = self._noise.decrypt(message)
            except NoiseInvalidMessage:  # it stays the next one to read, and goes on failing
                raise TamperedError("a Noise message is not what the peer has sent") from None
            self._messages.drop()
        received, self._plaintext = self._plaintext[:max_bytes], self._plaintext[max_bytes:]
        return received

    async def send(self, item: bytes) -> None:
        """Encrypt and send all of `item`."""
        with self._sending:
            if self._torn:
                raise anyio.BrokenResourceError("an earlier send was cut off")
            self._torn = True
            for start in range(0, len(item), MAX_PLAINTEXT):
                await self._messages.send(self._noise.encrypt(bytes(item[start : start + MAX_PLAINTEXT])))
            self._torn = False

    async def send_eof(self) -> None:
        """Half-close the stream below, where it can."""
        await self._messages.stream.send_eof()

    async def aclose(self) -> None:
        """Close the stream below."""
        await self._messages.stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Those of the stream below, and the peer's static key."""
        return {**self._messages.stream.extra_attributes, **self.attributes}


async def noise_xx(
    stream: ByteStream, side: Side, static_key: X25519PrivateKey, verify: Verify, *, payload: bytes = b""
) -> NoiseStream:
    """Perform the handshake XX (section 7.5) over `stream`, and return the encrypted one.

    `verify` is called with the peer's static key, once the peer has proven it, and the payload of the message it came
    in; `payload` goes out with our own. The initiator sees the responder's key before it shows its own. What the
    peer gets wrong is an exception, and so is what `verify` raises. The initiator has nobody's word yet that the
    responder accepted it: that shows when the first answer arrives, or an end of stream instead.
    """
    noise = NoiseConnection.from_name(PROTOCOL)
    noise.set_keypair_from_private_bytes(Keypair.STATIC, static_key.private_bytes_raw())
    noise.set_as_initiator() if side is Side.INITIATOR else noise.set_as_responder()
    noise.start_handshake()
    state = noise.noise_protocol.handshake_state  # which the package forgets when the handshake is over
    messages = Messages(stream)
    if side is Side.INITIATOR:
        await messages.send(bytes(noise.write_message()))  # -> e
        theirs = bytes(noise.read_message(await messages.receive()))  # <- e, ee, s, es
        verify(state.rs.public_bytes, theirs)
        await messages.send(bytes(noise.write_message(payload)))  # -> s, se
    else:
        noise.read_message(await messages.receive())
        await messages.send(bytes(noise.write_message(payload)))
        theirs = bytes(noise.read_message(await messages.receive()))
        verify(state.rs.public_bytes, theirs)
    return NoiseStream(messages, noise, state.rs.public_bytes)


class NoiseHandshake:
    """For `node.enable_handshake`: encrypts every connection, and refuses peers whose static key is not `known`."""

    def __init__(self, static_key: X25519PrivateKey, known: Container[bytes]) -> None:
        self._static_key = static_key
        self._known = known

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> NoiseStream:
        """From here on everything that the node sends and receives goes through the stream returned."""
        return await noise_xx(stream, connection.side, self._static_key, self._verify)

    def _verify(self, remote_static_key: bytes, _payload: bytes) -> None:
        if remote_static_key not in self._known:
            raise PermissionError(f"a stranger, with the key {remote_static_key.hex()[:16]}")


class Friend:
    """Says hello to those it knows; messages are lines of text: the codec knows nothing of the encryption."""

    def __init__(self, name: str) -> None:
        self.key = X25519PrivateKey.generate()
        self.public_key = self.key.public_key().public_bytes_raw()
        self.known: dict[bytes, str] = {}
        self.heard, self.left = anyio.Event(), anyio.Event()
        self.node = Node(Config(name=name, listener_addr=("127.0.0.1", 0)))
        self.node.enable_handshake(NoiseHandshake(self.key, self.known))
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)
        self.node.enable_on_disconnect(self)

    def meet(self, other: Friend) -> None:
        """Remember the other one's key, learned in some other way: from a file, a name server, a QR code."""
        self.known[other.public_key] = other.node.name

    def decoder(self, _connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=1024)

    def encoder(self, _connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=1024)

    async def process_message(self, source: Connection, message: str) -> None:
        key = source.extra(NoiseAttribute.remote_static_key)
        print(f"{self.node.name} hears {self.known[key]} ({key.hex()[:16]}) say: {message!r:.200}")
        self.heard.set()

    async def on_disconnect(self, _connection: Connection, _origin: DisconnectOrigin) -> None:
        self.left.set()


async def main() -> None:
    alice, bob, mallory = Friend("Alice"), Friend("Bob"), Friend("Mallory")
    alice.meet(bob)
    bob.meet(alice)
    mallory.meet(alice)  # which does not help, since Alice does not know her
    async with alice.node, bob.node, mallory.node:
        addresses = {friend: await friend.node.start_listening() for friend in (alice, mallory)}

        connection = await bob.node.connect(addresses[alice])
        await bob.outbox.send(connection, "the key is under the mat")
        await alice.heard.wait()

        try:
            await alice.node.connect(addresses[mallory])
        except HandshakeError as error:
            print(f"Alice hangs up on Mallory: {error.__cause__}")

        await mallory.node.connect(addresses[alice])  # her side is done, and nothing comes any more
        await mallory.left.wait()
        print(f"Mallory is hung up on by Alice, who has refused {alice.node.heuristics.handshake_failures} peers")


if __name__ == "__main__":
    from _common import command_line, run

    run(command_line(__doc__).parse_args(), main)
