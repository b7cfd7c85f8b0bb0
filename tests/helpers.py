"""What several tests need: users that write down what happens to them, and peers that know nothing of the library."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections import deque
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, cast

import anyio
from anyio import (
    BrokenResourceError,
    ClosedResourceError,
    EndOfStream,
    Event,
    get_running_tasks,
    notify_closing,
    wait_readable,
    wait_writable,
)
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint
from typing_extensions import Self

from pea2pea import Address, Config, Connection, DisconnectOrigin, Node, Outbox, Transport
from pea2pea.codecs import Codec, LengthDelimitedCodec
from pea2pea.testing import Host, wait_until
from pea2pea.testing.network import _Listener, _Socket, _Stream
from pea2pea.transport import default_transport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Mapping, Sequence

    import pytest

    from pea2pea import Listener

__all__ = [
    "ALL",
    "LOCALHOST",
    "Echo",
    "Gate",
    "MemoryNetwork",
    "MemoryStream",
    "Never",
    "Opaque",
    "RawListener",
    "RawPeer",
    "User",
    "above_info",
    "connect",
    "descriptors",
    "frame",
    "frames",
    "memory_pair",
    "receive_exactly",
    "running_tasks",
    "start_poller",
    "told_errors",
    "turns",
    "two_nodes",
    "wait_until",
]

LOCALHOST = "127.0.0.1"
ALL = frozenset({"handshake", "reading", "writing", "on_connect", "on_disconnect"})


async def _nothing(*_: object) -> None:
    pass


async def _accept_anybody(_: Connection, stream: ByteStream) -> ByteStream:
    return stream


class User:
    """A user of the library: a node, the protocols named in `enable`, and notes of what happened.

    To make it do more, assign to `shake_hands`, `handle`, `greet` and `part`; they are called after the note is taken.
    A protocol that is to have other than the default tunables is left out of `enable`, and enabled by the test:
    `user.outbox = user.node.enable_writing(user, queue_depth=3)`.
    """

    outbox: Outbox[bytes]

    def __init__(
        self,
        config: Config | None = None,
        *,
        enable: Collection[str] = ALL - {"handshake"},
        codec: Callable[[], Codec[bytes]] = LengthDelimitedCodec,
        transport: Transport | None = None,
    ) -> None:
        assert ALL.issuperset(enable), f"no such protocol among {sorted(enable)}"
        self.node = Node(Config() if config is None else config, transport=transport)
        self.codec = codec
        self.shaken: list[Connection] = []
        self.received: list[bytes] = []
        self.sources: list[Address] = []
        self.connected: list[Address] = []
        self.ended: list[tuple[Address, DisconnectOrigin]] = []
        self.shake_hands: Callable[[Connection, ByteStream], Awaitable[ByteStream]] = _accept_anybody
        self.handle: Callable[[Connection, bytes], Awaitable[object]] = _nothing
        self.greet: Callable[[Connection], Awaitable[object]] = _nothing
        self.part: Callable[[Connection, DisconnectOrigin], Awaitable[object]] = _nothing
        if "handshake" in enable:
            self.node.enable_handshake(self)
        if "reading" in enable:
            self.node.enable_reading(self)
        if "writing" in enable:
            self.outbox = self.node.enable_writing(self)
        if "on_connect" in enable:
            self.node.enable_on_connect(self)
        if "on_disconnect" in enable:
            self.node.enable_on_disconnect(self)

    @property
    def origins(self) -> list[DisconnectOrigin]:
        """Why its connections have ended, in that order."""
        return [origin for _, origin in self.ended]

    @property
    def only(self) -> Connection:
        """Its one connection."""
        (connection,) = self.node.connections.values()
        return connection

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        self.shaken.append(connection)
        return await self.shake_hands(connection, stream)

    def decoder(self, connection: Connection) -> Codec[bytes]:
        return self.codec()

    def encoder(self, connection: Connection) -> Codec[bytes]:
        return self.codec()

    async def process_message(self, source: Connection, message: bytes) -> None:
        self.sources.append(source.addr)
        self.received.append(message)
        await self.handle(source, message)

    async def on_connect(self, connection: Connection) -> None:
        self.connected.append(connection.addr)
        await self.greet(connection)

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        self.ended.append((connection.addr, origin))
        await self.part(connection, origin)


class Echo(User):
    """A user that sends back whatever it gets."""

    async def process_message(self, source: Connection, message: bytes) -> None:
        await super().process_message(source, message)
        await self.outbox.send(source, message)


class Gate:
    """A hook of any kind that waits until the test opens the gate; a handshake then returns its stream."""

    def __init__(self) -> None:
        self.opened = Event()
        self.begun = self.done = 0

    async def __call__(self, *args: Any) -> Any:
        self.begun += 1
        if not self.opened.is_set():  # else there is no reason to wait, not even a turn
            await self.opened.wait()
        self.done += 1
        return args[-1] if args else None


class Never:
    """A hook of any kind, or a task, that does not return; it says whether it was cancelled."""

    def __init__(self) -> None:
        self.begun = self.cancelled = 0

    async def __call__(self, *_: object) -> Any:
        self.begun += 1
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.cancelled += 1
            raise


async def connect(dialler: User, responder: User) -> tuple[Connection, Connection]:
    """Connect two running nodes; returns either end's connection once both have established it."""
    if responder.node.listening_addr is None:
        await responder.node.start_listening()
    assert responder.node.listening_addr is not None
    before = set(responder.node.connections.values())
    ours = await dialler.node.connect(responder.node.listening_addr)
    await wait_until(lambda: set(responder.node.connections.values()) - before)
    (theirs,) = set(responder.node.connections.values()) - before
    return ours, theirs


@asynccontextmanager
async def two_nodes(dialler: User, responder: User) -> AsyncGenerator[tuple[Connection, Connection]]:
    """Run two users' nodes, connected: the first has dialled the second. Yields either end's connection."""
    async with responder.node, dialler.node:
        yield await connect(dialler, responder)


def frame(message: bytes) -> bytes:
    """What `User` sends for a message, unless it has another codec: a 4-byte length, big-endian, and the message."""
    return len(message).to_bytes(4, "big") + message


def frames(data: bytes) -> list[bytes]:
    """The messages in what a `User` has sent; all of them have to be whole."""
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        assert len(data) >= 4 + size, "the last message is cut off"
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found


async def receive_exactly(stream: ByteStream, count: int) -> bytes:
    """So many bytes, and none more."""
    data = b""
    while len(data) < count:
        data += await stream.receive(count - len(data))
    return data


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))  # noqa: PTH112, PTH208


def running_tasks() -> set[str]:
    """The names of all tasks of the event loop but the one that asks."""
    me = anyio.get_current_task().id
    return {str(task.name) for task in get_running_tasks() if task.id != me}


def above_info(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What the library has logged that says of a user's bug."""
    return [record for record in caplog.records if record.name == "pea2pea" and record.levelno > logging.INFO]


def told_errors(caplog: pytest.LogCaptureFixture) -> list[BaseException]:
    """The exceptions in these records; all of them have to come with a traceback."""
    found = []
    for record in above_info(caplog):
        assert record.exc_info is not None, record.getMessage()
        _, error, traceback = record.exc_info
        assert error is not None
        assert traceback is not None
        found.append(error)
    return found


def start_poller(node: Node) -> None:
    """Start the service that otherwise begins once many connections read in turn: it has a task and a descriptor."""
    poller = node._protocols.poller
    if poller is not None:
        poller.start()


async def turns(count: int = 10) -> None:
    """Let every other task go on, that often: in a few turns a task starts, and meets what it waits for."""
    for _ in range(count):
        await checkpoint()


def simulated_host() -> Host | None:
    """Where the test runs, under `--simulated`."""
    host = default_transport.get()
    return host if isinstance(host, Host) else None


def plain_socket(stream: ByteStream) -> socket.socket:
    """The socket of a stream on the simulated network."""
    return cast("socket.socket", cast("_Stream", stream)._simulated)


class RawPeer:
    """A peer without the library: a plain socket, which reads nothing unless it is told to.

    Under `--simulated` it is a socket of the simulated network.
    """

    def __init__(self, sock: socket.socket) -> None:
        if not isinstance(cast("object", sock), _Socket):
            sock.setblocking(False)
        self.sock = sock
        self.addr: Address = sock.getsockname()[:2]
        """Under which a node that it has dialled knows it."""

    @classmethod
    async def dial(cls, addr: Address, *, receive_buffer: int | None = None, bind: str | None = None) -> RawPeer:
        """Connect to a node; to have little room for what it sends, with a small receive buffer."""
        if (host := simulated_host()) is not None:
            stream = await host.dial(addr, local_addr=None if bind is None else (bind, 0))
            return cls(plain_socket(stream))
        sock = socket.socket(socket.AF_INET6 if ":" in addr[0] else socket.AF_INET)
        try:
            sock.setblocking(False)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if bind is not None:
                sock.bind((bind, 0))
            with suppress(BlockingIOError):
                sock.connect(addr)
            await wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            return cls(sock)
        except BaseException:
            sock.close()
            raise

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self.sock.send(rest) :]
            except BlockingIOError:
                await self.ready("writer")

    async def ready(self, which: Literal["reader", "writer"]) -> None:
        """Wait until something can be received, or sent."""
        if isinstance(sock := cast("object", self.sock), _Socket):
            await sock.wait(which, sock.is_readable if which == "reader" else sock.is_writable)
        else:
            await (wait_readable if which == "reader" else wait_writable)(self.sock)

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """Some bytes; b"" at the end of the stream."""
        while True:
            try:
                return self.sock.recv(max_bytes)
            except BlockingIOError:
                await self.ready("reader")

    async def receive_exactly(self, count: int) -> bytes:
        """So many bytes; `EndOfStream` if the stream ends before."""
        data = bytearray()
        while len(data) < count:
            some = await self.receive(count - len(data))
            if not some:
                raise EndOfStream
            data += some
        return bytes(data)

    async def receive_message(self) -> bytes:
        """One message of a `User`."""
        return await self.receive_exactly(int.from_bytes(await self.receive_exactly(4), "big"))

    async def receive_all(self) -> bytes:
        """Whatever comes until the end of the stream."""
        parts = []
        while part := await self.receive():
            parts.append(part)
        return b"".join(parts)

    async def is_refused(self) -> bool:
        """Wait for the end; whether nothing came before it."""
        try:
            return not await self.receive_all()
        except ConnectionResetError:
            return True

    def half_close(self) -> None:
        """Say that nothing more will come."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close without a goodbye: the node gets a reset."""
        if isinstance(sock := cast("object", self.sock), _Socket):
            sock.close(reset=True)
        else:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close()

    def close(self) -> None:
        """Close, as a program does that has read all."""
        if self.sock.fileno() >= 0:
            if not isinstance(cast("object", self.sock), _Socket):
                notify_closing(self.sock)
            self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RawListener:
    """A peer without the library that is dialled. The kernel completes dials also when nobody accepts them."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.addr: Address = sock.getsockname()[:2]

    @classmethod
    @contextmanager
    def open(
        cls, host: str = LOCALHOST, *, backlog: int = 128, receive_buffer: int | None = None
    ) -> Generator[RawListener]:
        """Listen at a free port."""
        if (simulated := simulated_host()) is not None:
            listener = SimulatedListener(simulated, host, backlog)
            try:
                yield listener
            finally:
                listener.listener.close()
            return
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            sock.setblocking(False)
            if receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.bind((host, 0))
            sock.listen(backlog)
            yield cls(sock)

    async def accept(self) -> RawPeer:
        """The next one that dials."""
        while True:
            try:
                return RawPeer(self.sock.accept()[0])
            except BlockingIOError:
                await wait_readable(self.sock)


class SimulatedListener(RawListener):
    """The same, on the simulated network."""

    def __init__(self, host: Host, ip: str, backlog: int) -> None:
        self.listener = _Listener(host, host._bind((ip, 0), "listen at", reuse_port=False), backlog, reuse_port=False)
        host.listeners[self.listener] = None
        self.addr = self.listener.addr

    async def accept(self) -> RawPeer:
        return RawPeer(plain_socket((await self.listener.accept())[0]))


class _Pipe:
    """One direction of a stream in memory."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.chunks: deque[bytes] = deque()
        self.size = 0
        self.ended = False  # the sender will send no more
        self.broken = False  # the receiver has gone
        self.changed = Event()

    def change(self) -> None:
        self.changed.set()
        self.changed = Event()


class MemoryStream(ByteStream):
    """One end of a stream in memory, without socket attributes; made by `memory_pair`."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._in = incoming
        self._out = outgoing
        self.closed = False

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        await checkpoint()
        while not self._in.chunks:
            if self.closed:
                raise ClosedResourceError
            if self._in.ended:
                raise EndOfStream
            await self._in.changed.wait()
        data = self._in.chunks.popleft()
        if len(data) > max_bytes:
            self._in.chunks.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        self._in.size -= len(data)
        self._in.change()
        return data

    async def send(self, item: bytes) -> None:
        await checkpoint()
        while item:
            if self.closed or self._out.ended:
                raise ClosedResourceError
            if self._out.broken:
                raise BrokenResourceError
            room = self._out.capacity - self._out.size
            if room:
                self._out.chunks.append(bytes(item[:room]))
                self._out.size += len(item[:room])
                item = item[room:]
                self._out.change()
            else:
                await self._out.changed.wait()

    async def send_eof(self) -> None:
        await checkpoint()
        self._out.ended = True
        self._out.change()

    async def aclose(self) -> None:
        self.closed = True
        self._out.ended = self._in.broken = True
        self._in.change()
        self._out.change()
        await checkpoint()


def memory_pair(capacity: int = 65_536) -> tuple[MemoryStream, MemoryStream]:
    """The two ends of a stream in memory, each direction of which holds so many bytes."""
    there, back = _Pipe(capacity), _Pipe(capacity)
    return MemoryStream(back, there), MemoryStream(there, back)


class Opaque(ByteStream):
    """A stream without half-close around another one, as TLS is."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self.stream.extra_attributes

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        return await self.stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self.stream.send(item)

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await self.stream.aclose()


class MemoryNetwork:
    """Hosts of any address, connected by streams in memory: `Node(transport=network.host("203.0.113.1"))`."""

    def __init__(self) -> None:
        self.listeners: dict[Address, MemoryListener] = {}
        self.port = 40_000
        self.streams: list[MemoryStream] = []

    def host(self, host: str) -> MemoryTransport:
        """The transport of one host."""
        return MemoryTransport(self, host)

    def free_port(self) -> int:
        self.port += 1
        return self.port

    @property
    def open_streams(self) -> int:
        """How many ends of streams are open."""
        return sum(not stream.closed for stream in self.streams)


class MemoryTransport:
    """A `Transport` of `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, host: str) -> None:
        self.network = network
        self.host = host

    async def resolve(self, addr: Address) -> Sequence[Address]:
        return [addr]

    async def listen(self, addr: Address, *, backlog: int, reuse_port: bool) -> Listener:
        listener = MemoryListener(self.network, (self.host, addr[1] or self.network.free_port()))
        self.network.listeners[listener.addr] = listener
        return listener

    async def dial(self, addr: Address) -> ByteStream:
        listener = self.network.listeners.get(addr)
        if listener is None:
            raise ConnectionRefusedError(f"nobody listens at {addr}")
        ours, theirs = memory_pair()
        self.network.streams += [ours, theirs]
        listener.waiting.append((theirs, (self.host, self.network.free_port())))
        listener.arrived.set()
        return ours


class MemoryListener:
    """A `Listener` of `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, addr: Address) -> None:
        self.network = network
        self.addr = addr
        self.waiting: deque[tuple[MemoryStream, Address]] = deque()
        self.arrived = Event()

    async def accept(self) -> tuple[ByteStream, Address]:
        while not self.waiting:
            self.arrived = Event()
            await self.arrived.wait()
        return self.waiting.popleft()

    async def aclose(self) -> None:
        self.network.listeners.pop(self.addr, None)
        while self.waiting:
            await self.waiting.popleft()[0].aclose()
