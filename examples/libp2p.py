"""Talk to libp2p: multistream-select, Noise, yamux, ping and identify, dialling and listening.

Shows a protocol stack on one node: the handshake negotiates Noise and verifies the peer's PeerId, yamux frames are the
codec, and each yamux stream is an AnyIO ByteStream with flow control. Real peers understand it: tests/interop runs it
against py-libp2p and js-libp2p. It needs `noiseprotocol`. Run `python examples/libp2p.py` to see two nodes identify and
ping each other, and refuse a false PeerId; with `--listen [HOST:PORT]` it serves until Ctrl-C, after printing the
address to dial; with `--dial /ip4/127.0.0.1/tcp/4001/p2p/12D3...` it identifies and pings that peer.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

if __name__ == "__main__":  # as a script: noise.py beside this file is `examples.noise`, since `noise` is the package
    sys.path[:] = [f"{sys.path[0]}/..", *sys.path[1:], sys.path[0]]

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint
from anyio.streams.buffered import BufferedByteStream
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from examples.noise import MAX_PLAINTEXT, noise_xx
from pea2pea import Address, Config, Connection, Node, Side, errors

MULTISTREAM, NOISE, YAMUX = "/multistream/1.0.0", "/noise", "/yamux/1.0.0"
PING_ID, IDENTIFY_ID = "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0"
ED25519 = bytes.fromhex("08011220")  # the protobuf PublicKey, but for the 32 bytes of an Ed25519 key at its end
STATIC_KEY = b"noise-libp2p-static-key:"
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
NEGOTIATION_TIMEOUT, KEEPALIVE = 10.0, 30.0  # seconds


class ProtocolError(Exception):
    """The peer doesn't speak the protocol asked for, or speaks it wrongly."""


# ---- Bytes: varints, protobuf, PeerIds, multiaddrs, and multistream-select 1.0 on TCP, on Noise, and on yamux


def uvarint(number: int) -> bytes:
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + uvarint(number >> 7)


def take_uvarint(data: bytes) -> tuple[int, bytes]:
    """Split the number at the beginning off."""
    number = 0
    for at, byte in enumerate(data[:9]):
        number |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            return number, data[at + 1 :]
    raise ProtocolError("no varint")


async def receive_prefixed(stream: BufferedByteStream, maximum: int) -> bytes:
    """Receive what follows its length, a varint of one or two bytes."""
    if (size := (await stream.receive_exactly(1))[0]) >= 0x80:
        size += ((await stream.receive_exactly(1))[0] - 1) << 7
    if size > maximum:
        raise ProtocolError(f"{size} bytes, where {maximum} are the most")
    return await stream.receive_exactly(size)


def protobuf(*fields: tuple[int, bytes]) -> bytes:
    """Encode a message all of whose fields are strings, bytes or messages; there are no others here."""
    return b"".join(uvarint(number << 3 | 2) + uvarint(len(value)) + value for number, value in fields)


def parse_protobuf(data: bytes) -> dict[int, list[bytes]]:
    fields: dict[int, list[bytes]] = {}
    while data:
        tag, data = take_uvarint(data)
        size, data = take_uvarint(data)
        if tag & 7 != 2 or size > len(data):
            raise ProtocolError("no such protobuf message")
        fields.setdefault(tag >> 3, []).append(data[:size])
        data = data[size:]
    return fields


def peer_id(identity_key: bytes) -> str:
    """Derive the PeerId: the identity multihash of the public key, in base58."""
    if len(identity_key) != 36 or not identity_key.startswith(ED25519):
        raise ProtocolError("the peer's identity key is none of Ed25519")
    number, digits = int.from_bytes(b"\x00\x24" + identity_key, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = BASE58[digit] + digits
    return "1" + digits  # for the multihash's leading zero


def parse_multiaddr(text: str) -> tuple[Address, str | None]:
    """Split `/ip4/HOST/tcp/PORT/p2p/PEERID` (or ip6 or dns; with or without a PeerId)."""
    match text.split("/"):
        case ["", "ip4" | "ip6" | "dns", host, "tcp", port, *rest] if rest[:1] in ([], ["p2p"]):
            return (host, int(port)), rest[1] if rest else None
    raise ValueError(f"{text} is no multiaddr of TCP")


def multiaddr(addr: Address) -> bytes:
    ip = ip_address(addr[0])
    return (b"\x04" if ip.version == 4 else b"\x29") + ip.packed + b"\x06" + addr[1].to_bytes(2, "big")


def line(text: str) -> bytes:
    return uvarint(len(text) + 1) + text.encode() + b"\n"


async def receive_line(stream: BufferedByteStream) -> str:
    return (await receive_prefixed(stream, 1024)).decode(errors="replace").removesuffix("\n")


async def propose(stream: BufferedByteStream, protocol: str, /) -> None:
    """Agree on `protocol`, in one round trip."""
    await stream.send(line(MULTISTREAM) + line(protocol))
    for expected in (MULTISTREAM, protocol):
        if (answer := await receive_line(stream)) != expected:
            raise ProtocolError(f"the peer answers {answer!r} to {expected}")


async def accept(stream: BufferedByteStream, /, *protocols: str) -> str:
    """Wait for the peer to propose one of `protocols`."""
    if await receive_line(stream) != MULTISTREAM:
        raise ProtocolError("the peer does not speak multistream-select")
    await stream.send(line(MULTISTREAM))
    while (proposal := await receive_line(stream)) not in protocols:
        await stream.send(line("na"))
    await stream.send(line(proposal))
    return proposal


# ---- yamux (hashicorp/yamux, spec.md): frames, sans-I/O

HEADER = struct.Struct(">BBHII")
WINDOW = 256 * 1024  # of each stream; ours never grows
MAX_DATA = MAX_PLAINTEXT - HEADER.size  # so that a frame fits into one Noise message
MAX_STREAMS = 64  # that a peer may have open: with their windows, 16 MiB
DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8


@dataclass(frozen=True)
class Frame:
    """What goes over the connection."""

    kind: int
    flags: int
    stream_id: int
    value: int = 0  # by how much the window grows, a ping's number, a reason to go away
    data: bytes | memoryview = b""


class YamuxCodec:
    """Bytes to frames, and back."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def decode(self, data: bytes) -> Iterator[Frame]:
        if not data and self._buffer:
            raise errors.FrameError("the stream ends inside a frame")
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            version, kind, flags, stream_id, value = HEADER.unpack_from(self._buffer)
            if version != 0 or kind > GO_AWAY or (kind == DATA and value > WINDOW):
                raise errors.FrameError("no frame of yamux, or one that fits no window")
            end = HEADER.size + (value if kind == DATA else 0)
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield Frame(kind, flags, stream_id, 0 if payload else value, payload)

    def encode(self, frame: Frame) -> tuple[bytes, bytes | memoryview]:
        length = frame.value or len(frame.data)
        return HEADER.pack(0, frame.kind, frame.flags, frame.stream_id, length), frame.data


class Stream(ByteStream):
    """One stream of a session; cancelling `receive` loses nothing, a cancelled `send` has sent an unknown part."""

    def __init__(self, session: Session, stream_id: int) -> None:
        self._session, self._id = session, stream_id
        self._received = bytearray()
        self._may_receive = self._may_send = WINDOW
        self._consumed = 0  # of what was received, and not yet granted anew
        self._ended = self._finished = False  # FIN received, FIN sent
        self._failure: Exception | None = None
        self._changed = anyio.Event()

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        await checkpoint()
        while not self._received:
            if self._failure or self._ended:
                raise self._failure or anyio.EndOfStream
            await self._changed.wait()
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        self._consumed += len(data)
        if self._consumed >= WINDOW // 2 and not self._ended:
            self._session.control(Frame(WINDOW_UPDATE, 0, self._id, self._consumed))
            self._may_receive += self._consumed
            self._consumed = 0
        return data

    async def send(self, item: bytes) -> None:
        rest = memoryview(bytes(item))
        while rest:
            async with self._session.sending:
                if self._failure or self._finished:
                    raise self._failure or anyio.ClosedResourceError
                changed, part = self._changed, rest[: min(self._may_send, MAX_DATA)]
                if part:
                    self._may_send -= len(part)
                    frame = Frame(DATA, 0, self._id, data=part)
                    try:
                        await self._session.host.outbox.deliver(self._session.connection, frame)
                    except (errors.DeliveryError, errors.NotConnectedError) as error:
                        raise anyio.BrokenResourceError("the connection has ended") from error
                    rest = rest[len(part) :]
            if not part:
                await changed.wait()

    async def send_eof(self) -> None:
        await checkpoint()
        if not self._finished and not self._failure:
            self._finished = True
            self._session.control(Frame(WINDOW_UPDATE, FIN, self._id))
            self.update()

    async def aclose(self) -> None:
        """Finish sending, and throw away what the peer still sends."""
        await self.send_eof()
        self.update(self._failure or anyio.ClosedResourceError())

    def reset(self) -> None:
        """End both directions at once."""
        if self._id in self._session.streams:
            self._session.control(Frame(WINDOW_UPDATE, RST, self._id))
        self.update(anyio.BrokenResourceError("the stream was reset"))

    def handle(self, frame: Frame) -> None:
        if frame.kind == DATA:
            self._received += frame.data
            self._may_receive -= len(frame.data)
            if self._may_receive < 0:
                raise ProtocolError("the peer sends more than its window")
        else:
            self._may_send += frame.value
        self._ended |= bool(frame.flags & FIN)
        self.update(anyio.BrokenResourceError("reset by the peer") if frame.flags & RST else None)

    def update(self, failure: Exception | None = None) -> None:
        """Wake who waits for something to change, and forget a stream that is over."""
        self._failure = failure or self._failure
        if self._failure:
            self._received.clear()
        if isinstance(self._failure, anyio.BrokenResourceError) or (self._ended and self._finished):
            self._session.streams.pop(self._id, None)
        self._changed.set()
        self._changed = anyio.Event()


class Session:
    """One peer, and the streams to it."""

    def __init__(self, host: Host, connection: Connection, remote: str) -> None:
        self.host, self.connection, self.peer_id = host, connection, remote
        self.streams: dict[int, Stream] = {}
        # Whoever sends data holds this until it is in the socket. So at most one DATA frame is in the node's queue, and
        # there is always room for control frames, which come from where nothing may wait: the handler of messages.
        self.sending = anyio.Lock()
        self._next_id = 1 if connection.side is Side.INITIATOR else 2
        self.going_away = False

    async def open(self, protocol: str) -> BufferedByteStream:
        """Open a stream for `protocol`; ProtocolError if the peer does not speak it."""
        if self.going_away:
            raise anyio.BrokenResourceError("the peer takes no more streams")
        stream = self.streams[self._next_id] = Stream(self, self._next_id)
        self.control(Frame(WINDOW_UPDATE, SYN, self._next_id))
        self._next_id += 2
        try:
            with anyio.fail_after(NEGOTIATION_TIMEOUT):
                await propose(buffered := BufferedByteStream(stream), protocol)
        except BaseException:
            stream.reset()
            raise
        return buffered

    async def ping(self, count: int = 1) -> list[float]:
        """Time round trips over /ipfs/ping/1.0.0, in seconds."""
        times = []
        async with await self.open(PING_ID) as stream:
            for _ in range(count):
                payload, start = os.urandom(32), time.perf_counter()
                await stream.send(payload)
                if await stream.receive_exactly(32) != payload:
                    raise ProtocolError("the pong is not the ping")
                times.append(time.perf_counter() - start)
        return times

    async def identify(self) -> tuple[str, list[str]]:
        """Ask the peer for its agent and protocols; it has to be the one that it was in the handshake."""
        async with await self.open(IDENTIFY_ID) as stream:
            fields = parse_protobuf(await receive_prefixed(stream, 8192))
        if peer_id(fields.get(1, [b""])[0]) != self.peer_id:
            raise ProtocolError("the peer identifies as another one")
        protocols = [name.decode(errors="replace") for name in fields.get(3, [])]
        return fields.get(6, [b"?"])[0].decode(errors="replace"), protocols

    def handle(self, frame: Frame) -> None:
        """Take a frame from the peer, without ever waiting: that would hold up all streams for one."""
        if frame.kind == GO_AWAY:
            self.going_away = True
        elif frame.kind == PING and frame.flags & SYN:
            self.control(Frame(PING, ACK, 0, frame.value))
        elif frame.kind != PING:
            if frame.flags & SYN:
                self._accept(frame.stream_id)
            if stream := self.streams.get(frame.stream_id):
                stream.handle(frame)

    def control(self, frame: Frame) -> None:
        """Queue a frame without data; a peer that makes us say more than it reads is cut off."""
        try:
            self.host.outbox.send_nowait(self.connection, frame)
        except errors.QueueFullError:
            self.host.node.start_soon(lambda: self.host.node.disconnect(self.connection, abort=True))
        except errors.NotConnectedError:
            pass  # which `on_disconnect` sees to

    def _accept(self, stream_id: int) -> None:
        if stream_id in self.streams or stream_id == 0 or stream_id % 2 == self._next_id % 2:
            raise ProtocolError("the peer opens a stream that is not its to open")
        if sum(number % 2 == stream_id % 2 for number in self.streams) >= MAX_STREAMS:
            return self.control(Frame(WINDOW_UPDATE, RST, stream_id))
        stream = self.streams[stream_id] = Stream(self, stream_id)
        self.control(Frame(WINDOW_UPDATE, ACK, stream_id))
        return self.connection.start_soon(self.host.serve, self, stream)


# ---- the node


class _Attribute(anyio.TypedAttributeSet):
    session: Session = anyio.typed_attribute()


def session_of(connection: Connection) -> Session:
    return connection.extra(_Attribute.session)


class Host:
    """A node that speaks libp2p; `handlers` are the protocols that peers may open streams for."""

    def __init__(self, listener_addr: Address = ("127.0.0.1", 0)) -> None:
        identity, self._static_key = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
        self._identity_key = ED25519 + identity.public_key().public_bytes_raw()
        signature = identity.sign(STATIC_KEY + self._static_key.public_key().public_bytes_raw())
        self._payload = protobuf((1, self._identity_key), (2, signature))
        self._expected: dict[Address | None, str | None] = {}  # who shall answer where we are dialling
        self.peer_id = peer_id(self._identity_key)
        self.handlers: dict[str, Callable[[Session, BufferedByteStream], Awaitable[None]]] = {}
        self.handlers |= {PING_ID: self._answer_pings, IDENTIFY_ID: self._answer_identify}
        self.node = Node(Config(listener_addr=listener_addr))
        self.node.enable_handshake(self)
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)
        self.node.enable_on_connect(self)
        self.node.enable_on_disconnect(self)

    async def listen(self) -> str:
        addr = await self.node.start_listening()
        return f"/ip{ip_address(addr[0]).version}/{addr[0]}/tcp/{addr[1]}/p2p/{self.peer_id}"

    async def dial(self, address: str) -> Session:
        """Connect to a multiaddr; a HandshakeError, too, if somebody else than its PeerId answers."""
        addr, expected = parse_multiaddr(address)
        if addr in self._expected:
            raise RuntimeError(f"{addr} is being dialled already")
        self._expected[addr] = expected
        try:
            return session_of(await self.node.connect(addr))
        finally:
            del self._expected[addr]

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        """Negotiate Noise on TCP, verify the peer, and negotiate yamux on Noise."""
        remote = ""

        def verify(static_key: bytes, payload: bytes) -> None:
            nonlocal remote
            fields = parse_protobuf(payload)
            identity_key, signature = fields.get(1, [b""])[0], fields.get(2, [b""])[0]
            remote = peer_id(identity_key)
            Ed25519PublicKey.from_public_bytes(identity_key[4:]).verify(signature, STATIC_KEY + static_key)
            if (expected := self._expected.get(connection.dialled)) not in (None, remote):
                raise ProtocolError(f"dialled {expected}, but {remote} has answered")

        negotiate = propose if connection.side is Side.INITIATOR else accept
        await negotiate(plain := BufferedByteStream(stream), NOISE)
        noise = await noise_xx(plain, connection.side, self._static_key, verify, payload=self._payload)
        session = Session(self, connection, remote)
        noise.attributes[_Attribute.session] = lambda: session
        await negotiate(secured := BufferedByteStream(noise), YAMUX)
        return secured

    def decoder(self, _connection: Connection) -> YamuxCodec:
        return YamuxCodec()

    encoder = decoder

    async def process_message(self, source: Connection, message: Frame) -> None:
        session = session_of(source)
        try:
            session.handle(message)
        except ProtocolError:
            session.control(Frame(GO_AWAY, 0, 0, 1))
            await self.node.disconnect(session.connection)

    async def on_connect(self, connection: Connection) -> None:
        while True:
            session_of(connection).control(Frame(PING, SYN, 0))  # the answer keeps the connection from being idle
            await anyio.sleep(KEEPALIVE)

    async def on_disconnect(self, connection: Connection, _origin: object) -> None:
        session = session_of(connection)
        session.control(Frame(GO_AWAY, 0, 0, 0))
        session.going_away = True
        for stream in list(session.streams.values()):
            stream.update(anyio.BrokenResourceError("the connection has ended"))

    async def serve(self, session: Session, stream: Stream) -> None:
        """Find out what the peer has opened a stream for, and see to it."""
        try:
            with anyio.fail_after(NEGOTIATION_TIMEOUT):
                protocol = await accept(buffered := BufferedByteStream(stream), *self.handlers)
            await self.handlers[protocol](session, buffered)
            await buffered.aclose()
        except (anyio.BrokenResourceError, anyio.IncompleteRead, ProtocolError, TimeoutError):
            stream.reset()  # the peer's doing
        except BaseException:
            stream.reset()
            raise

    async def _answer_pings(self, _session: Session, stream: BufferedByteStream) -> None:
        async for ping in stream:
            await stream.send(ping)

    async def _answer_identify(self, session: Session, stream: BufferedByteStream) -> None:
        message = protobuf((1, self._identity_key), (5, b"ipfs/0.1.0"), (6, b"pea2pea-example/1.0"))
        message += protobuf(*((3, protocol.encode()) for protocol in self.handlers))
        message += protobuf((4, multiaddr(session.connection.addr)))
        if addr := self.node.listening_addr:
            message += protobuf((2, multiaddr(addr)))
        await stream.send(uvarint(len(message)) + message)


async def visit(host: Host, address: str) -> None:
    session = await host.dial(address)
    agent, protocols = await session.identify()
    print(f"{session.peer_id} is {agent!r:.100} and speaks {', '.join(map(repr, sorted(protocols)))}")
    print("pings took", ", ".join(f"{seconds * 1e3:.2f} ms" for seconds in await session.ping(5)))
    await host.node.disconnect(session.connection)


async def main(listen: str | None, dial: str | None) -> None:
    name, _, port = (listen or "127.0.0.1:0").rpartition(":")
    host, other = Host((name, int(port))), Host()
    async with host.node, other.node:
        if dial:
            return await visit(other, dial)
        print(f"listening on {(address := await host.listen())}", flush=True)
        if listen:
            await host.node.wait_closed()
        await visit(other, address)
        try:
            await other.dial(address.replace(host.peer_id, other.peer_id))
        except errors.HandshakeError as error:
            print(f"a false PeerId is refused: {error.__cause__}")


if __name__ == "__main__":
    from _common import command_line, run

    parser = command_line(__doc__)
    parser.add_argument("--listen", nargs="?", const="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--dial", metavar="MULTIADDR")
    options = parser.parse_args()
    run(options, main, options.listen, options.dial)
