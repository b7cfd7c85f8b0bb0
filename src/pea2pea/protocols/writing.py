"""Writing: from `Outbox.send` and its kin to the socket.

Rule 1: a frame goes out directly if nothing is queued, the stream is the bare socket, and it is no burst.
Rule 2: else it is queued, and the node's one `Flusher` writes what is queued once the event loop gets its turn: all of
it at once, and without a task for the connection. A sender that must wait for room writes what is queued at once.
Rule 3: only a stream that must be waited for (a full socket, or TLS) gets a writer task.
Rule 4: a write that was cut off ends the connection, since nobody knows how much of it went out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Container, Iterable
from typing import Any, Generic, Protocol, TypeVar, cast

from anyio import Event, current_time, move_on_after
from anyio.lowlevel import checkpoint

from .. import _clock
from .._address import Address, literal, show
from .._queue import Queue
from .._session import Session
from ..codecs import Chunk, Encoder, Frame
from ..config import at_least_one, needs
from ..connection import Connection, DisconnectOrigin, Peer, address_of
from ..errors import NotConnectedError
from ..transport import POLL, TCPStream

M_contra = TypeVar("M_contra", contravariant=True)

BURST = 30e-6  # seconds: what comes sooner after a direct send, or a wait for room, is part of a burst, and queued
BATCH = 256 * 1024  # bytes of one write
LARGE = 16 * 1024  # parts from this size on are not copied
PARTS = 16  # a frame of more parts than these has its small ones joined before it is sent
QUANTUM = 64 * 1024  # bytes that must get through within the write timeout
_NOTHING: list[Chunk] = []  # one for all that write nothing; nobody adds to it
SLICE = 0.001  # seconds of flushing before the event loop gets its turn


class Writing(Protocol[M_contra]):
    """Opt in with `Node.enable_writing`, which returns the `Outbox` to send with."""

    def encoder(self, connection: Connection, /) -> Encoder[M_contra]:
        """The encoder of one connection, which is established by now.

        It may be the same for all, if stateless: then a broadcast is encoded once.
        """
        ...


class Outbox(Generic[M_contra]):
    """The sending end of a node, typed by its encoder.

    Messages to one peer are encoded and sent in the order in which they were queued. A `Peer` that is an address means
    whoever is connected there; a `Connection` means just that one. What an encoder raises comes out of the call:
    nothing was sent, and the connection lives.
    """

    def __init__(self, writers: dict[Peer, Writer[M_contra]], connecting: Container[Address]) -> None:
        self._writers = writers
        self._connecting = connecting

    def send_nowait(self, peer: Peer, message: M_contra) -> None:
        """Queue a message, or send it at once if nothing is queued.

        Raises `QueueFullError` (the message was not even encoded), also when others wait for room, or
        `NotConnectedError`.
        """
        try:
            writer = self._writers[peer]
        except (KeyError, TypeError):
            writer = self._find(peer)
        if writer.full or writer.waiting:
            raise writer.full_error()
        writer.put(writer.encode(message))

    async def send(self, peer: Peer, message: M_contra) -> None:
        """Queue a message, waiting for room; those who wait are served in order.

        If there is room, it does not yield to other tasks. Returning says nothing about delivery. Raises
        `NotConnectedError`, also when the connection ends while it waits. Cancelling it while it waits queues nothing.
        """
        try:
            writer = self._writers[peer]
        except (KeyError, TypeError):
            writer = self._find(peer)
        if writer.full or writer.waiting:
            await writer.wait_for_room()
        encode = writer.encode  # CPython looks a slot up faster than a method that is a slot
        writer.put(encode(message))

    async def deliver(self, peer: Peer, message: M_contra) -> None:
        """Queue a message as `send` does, and return once it is in the operating system's socket buffer.

        Raises `NotConnectedError` if it could not be queued, `DeliveryError` if the connection ended before it was
        written. Cancelling it after the message was queued only stops the waiting.
        """
        writer = self._find(peer)
        await self.send(peer, message)
        await writer.wait_written()

    def broadcast(self, message: M_contra, *, exclude: Collection[Peer] = ()) -> dict[Connection, Exception]:
        """Queue a message for every peer, and return those that it could not be queued for, with the reason.

        The message is encoded once for each distinct encoder object. `exclude` names peers that are left out.
        `Heuristics.unsent_messages` counts the messages that could not be queued, and the log tells of them (INFO).
        """
        failed: dict[Connection, Exception] = {}
        left_out = {self._writers.get(peer if isinstance(peer, Connection) else address_of(peer)) for peer in exclude}
        made: dict[int, tuple[Frame, Exception | None]] = {}
        encoder: object = None
        frame: Frame = b""
        error: Exception | None = None
        now = _clock.now()
        for writer in list(self._writers.values())[::2]:  # it has each twice in a row, by address and by connection
            if writer in left_out:
                continue
            if writer.full or writer.waiting:
                failed[writer.session.connection] = writer.full_error()
            else:
                if writer.encoder is not encoder:
                    encoder = writer.encoder
                    if id(encoder) not in made:
                        made[id(encoder)] = writer.try_encode(message)
                    frame, error = made[id(encoder)]
                if error is None:
                    writer.put(frame, now)
                    continue
                failed[writer.session.connection] = error
            writer.session.report.unsent("a broadcast did not reach a peer", writer.addr, 1)
        return failed

    async def drain(self, peer: Peer, *, below: int = 1) -> None:
        """Wait until fewer than `below` bytes are queued for a peer.

        A bulk sender that waits for it before each message leaves room in the queue for urgent ones. Raises
        `NotConnectedError` if there is no such connection, also when it ends meanwhile. Cancelling it changes nothing.
        """
        at_least_one("below", below)
        await self._find(peer).wait_below(below)

    def pending(self, peer: Peer) -> int:
        """How many messages to that peer are queued and not yet written. Raises `NotConnectedError`."""
        return self._find(peer).pending

    def _find(self, peer: Peer) -> Writer[M_contra]:
        addr = address_of(peer)
        try:
            return self._writers[peer if isinstance(peer, Connection) else addr]
        except KeyError:
            raise NotConnectedError(self._why_not(addr), addr) from None

    def _why_not(self, addr: Address) -> str:
        if addr in self._connecting:
            return f"the connection to {show(addr)} is still shaking hands: use the stream"
        why = f"there is no connection to {show(addr)}, or it has ended"
        if literal(addr[0]) is None:
            why += "; a dialled connection is known by its IP address: use the Connection that `connect` returned"
        return why

    def __repr__(self) -> str:
        count = len(self._writers) // 2
        return f"<Outbox to {count} peer{'s' * (count != 1)}>"


class Writer(Queue, Generic[M_contra]):
    """Encodes, queues and writes the messages of one connection."""

    __slots__ = (
        "_batch", "_batch_count", "_batch_size", "_direct", "_flusher", "_large", "_queue", "_stats", "_task",
        "_timeout", "_totals", "_wakeup", "encode", "encoder",
    )  # fmt: skip

    def __init__(
        self,
        session: Session,
        encoder: Encoder[M_contra],
        flusher: Flusher,
        registry: dict[Peer, Writer[M_contra]],
        depth: int,
        limit: int,
        timeout: float,
    ) -> None:
        needs("encoder must return", encoder, "encode")
        super().__init__(session, registry, depth, limit)
        self.encoder: Encoder[M_contra] = encoder
        self.encode: Callable[[M_contra], Frame] = encoder.encode
        self._stats = session.stats
        self._totals = session.totals
        self._direct = session.direct
        self._flusher = flusher
        self._timeout = timeout
        self._queue: list[Frame] = []
        self._large = False  # there may be more in the queue than small bytes
        self._batch: list[Chunk] = _NOTHING  # what is being written,
        self._batch_count = 0  # ... its messages,
        self._batch_size = 0  # ... and their bytes
        self._task = False
        self._wakeup: Event | None = None  # of the task
        self._register()

    def try_encode(self, message: M_contra) -> tuple[Frame, Exception | None]:
        """A frame that `put` takes, or why there is none."""
        try:
            frame = self.encode(message)
            return frame if type(frame) is bytes else _parts(frame), None
        except Exception as error:  # noqa: BLE001  # the encoder's, for the caller
            return b"", error

    def put(self, frame: Frame, now: float = 0.0) -> None:
        """Queue a frame, or send it directly; `now` is the time if that is known."""
        ready: bytes | tuple[Chunk, ...]
        if type(frame) is bytes:
            ready = frame
            size = len(frame)
            if self._active and size < LARGE:  # the common case of what follows, for the sake of speed
                self._queue.append(frame)
                self.pending = count = self.pending + 1
                self._size = size = self._size + size
                if size >= self._limit or count >= self._depth:
                    self.full = True
                return
            large = size >= LARGE
        else:
            ready = _parts(frame)
            size = sum(map(len, ready))
            large = True
        if not self._active:
            if self._direct is not None:
                now = now or _clock.now()
                if now - self._last > BURST:
                    self._last = now
                    self._send_directly(self._direct, ready, size)
                    return
                self._flusher.schedule(self)
            else:
                self._wake_task()
            self._active = True
        self._queue.append(ready)
        self._large = self._large or large
        self._count(1, size)

    def _send_directly(self, direct: TCPStream, frame: bytes | tuple[Chunk, ...], size: int) -> None:
        rest: list[Chunk] = []
        try:
            if isinstance(frame, bytes):
                if (sent := direct.send_some(frame)) < size:
                    rest = [memoryview(frame)[sent:]]
            else:
                rest = direct.send_nowait(list(frame))
        except OSError as error:
            self._break(error, lost=1)
            return
        if rest:
            self._batch, self._batch_count, self._batch_size = rest, 1, size
            self._count(1, size)
            self._active = True
            self._wake_task()
        else:
            self._sent(1, size)

    def flush(self) -> None:
        """Write what the socket takes, unless the task is at it; the rest is the task's."""
        if self._direct is None or self._batch:
            return
        try:
            while self._queue:
                self._take()
                self._batch = self._direct.send_nowait(self._batch)
                if self._batch:
                    self._wake_task()
                    return
                self._wrote()
        except OSError as error:
            self._break(error)
        except (KeyboardInterrupt, SystemExit) as error:
            self._on_interrupt(error)
        self._rest()

    async def run(self) -> None:
        """The task: writes what cannot be written without waiting."""
        try:
            while True:
                self.flush()  # first what can be written without waiting: to wait takes longer than to write
                if not self._batch:
                    if not self._queue:
                        self._rest()
                        self._wakeup = Event()
                        await self._wakeup.wait()
                        continue
                    self._take()
                if self._direct is not None:
                    await self._write_directly(self._direct)
                else:
                    await self._write_through()
                self._wrote()
        except Exception as error:  # noqa: BLE001  # whatever a stream raises: the connection is lost
            self._break(error)
        except (KeyboardInterrupt, SystemExit) as error:
            self._on_interrupt(error)
        except BaseException:  # cancelled: at the end of the connection, or from outside (asyncio)
            self.give_up()
            raise

    async def _write_directly(self, direct: TCPStream) -> None:
        """Write the batch as the kernel takes it.

        Linux says "writable" only when a third of the send buffer is free, which may be a megabyte. What counts is
        what the kernel takes when asked, or what the peer has acknowledged.
        """
        pause = min(POLL, self._timeout / 16)
        due, taken, unacknowledged = current_time() + self._timeout, 0, direct.unacknowledged() or 0
        while self._batch:
            with move_on_after(pause) as scope:
                await direct.writable()
            before = sum(map(len, self._batch))
            if not before:  # given up meanwhile
                self._batch = _NOTHING
                return
            self._batch = direct.send_nowait(self._batch)
            taken += before - sum(map(len, self._batch))
            acknowledged = 0
            if scope.cancelled_caught:
                acknowledged = unacknowledged + taken - (direct.unacknowledged() or 0)
            if max(taken, acknowledged) >= QUANTUM:
                due, taken, unacknowledged = current_time() + self._timeout, 0, direct.unacknowledged() or 0
            elif self._batch and scope.cancelled_caught and current_time() >= due:
                raise self._timed_out()

    async def _write_through(self) -> None:
        data = b"".join(self._batch)
        for start in range(0, len(data), QUANTUM):
            with move_on_after(self._timeout) as scope:
                await self.session.stream.send(data[start : start + QUANTUM])
            if scope.cancelled_caught:
                raise self._timed_out()
        self._batch = _NOTHING

    def _timed_out(self) -> TimeoutError:
        self.session.report.heuristics.write_timeouts += 1
        peer = show(self.addr)
        return TimeoutError(f"{peer} did not take {QUANTUM} bytes, or what was left, within {self._timeout} s")

    def _take(self) -> None:
        """Take in hand as much as should go out in one write: small parts joined, large ones as they are."""
        queue = self._queue
        if not self._large and self._size <= 2 * BATCH:
            data = b"".join(cast("list[bytes]", queue))  # nothing in it is large
            self._batch_count, self._batch_size = len(queue), len(data)
            self._batch = [data]
            queue.clear()
            return
        parts: list[Chunk] = []
        count = size = 0
        for frame in queue:
            if size >= BATCH or count >= self._depth:
                break
            count += 1
            for part in frame if isinstance(frame, tuple) else (frame,):
                size += len(part)
                parts.append(part)
        del queue[:count]
        self._batch, self._batch_count, self._batch_size = _join_small(parts), count, size
        self._large = bool(queue)

    def _wrote(self) -> None:
        """What was in hand is with the operating system."""
        count, size = self._batch_count, self._batch_size
        self._batch_count = self._batch_size = 0
        self._sent(count, size)
        self._remove(count, size)

    def _sent(self, count: int, size: int) -> None:
        stats, totals = self._stats, self._totals
        stats.messages_sent += count
        stats.bytes_sent += size
        totals.messages_sent += count
        totals.bytes_sent += size

    def fail(self) -> int:
        """Fail what is queued; return how many messages that were."""
        self.close()
        lost = self.pending
        self._queue.clear()
        self._batch = _NOTHING
        self._batch_count = self._batch_size = 0
        self._clear()
        return lost

    def give_up(self, lost: int = 0) -> None:
        """Give up what is queued, count it and report it; `lost` messages were lost before."""
        lost += self.fail()
        if lost:
            self.session.reset = True
            self.session.report.unsent("queued messages were given up", self.addr, lost)

    def _break(self, error: Exception, lost: int = 0) -> None:
        """End the connection, since a write failed. If the peer has closed cleanly before, only the queue is lost."""
        session = self.session
        self.give_up(lost)
        if session.reader is not None and isinstance(error.__cause__ or error, BrokenPipeError):
            session.reader.drain()  # EPIPE: the end of the peer's stream is there, behind what it had sent
        else:
            session.reset = session.reset or isinstance(error, TimeoutError)
            session.end(DisconnectOrigin.WRITING, error, broken=True)

    def _on_interrupt(self, error: BaseException) -> None:
        """End the connection: trio raises KeyboardInterrupt anywhere, so nobody knows how much was written."""
        self._break(self.session.report.classify("a connection's task", error, self.addr))

    def _wake_task(self) -> None:
        if not self._task:
            self._task = True
            self.session.start_task(self.run, f"pea2pea writer {show(self.addr)}", DisconnectOrigin.WRITING)
        elif self._wakeup is not None:
            self._wakeup.set()
            self._wakeup = None


class Flusher:
    """Writes, once the event loop gets its turn, what was queued meanwhile at any of a node's connections."""

    def __init__(self) -> None:
        self._dirty: deque[Writer[Any]] = deque()
        self._wakeup: Event | None = None

    def schedule(self, writer: Writer[Any]) -> None:
        """Let `writer.flush` be called soon."""
        self._dirty.append(writer)
        if self._wakeup is not None:
            self._wakeup.set()
            self._wakeup = None

    async def run(self) -> None:
        """The task."""
        while True:
            if not self._dirty:
                self._wakeup = Event()
                await self._wakeup.wait()
            until = _clock.now() + SLICE
            while self._dirty:
                self._dirty.popleft().flush()
                if _clock.now() >= until:
                    await checkpoint()
                    until = _clock.now() + SLICE


def _parts(frame: object) -> tuple[Chunk, ...]:
    """Return a frame as parts whose `len` is their number of bytes; small parts of many are joined."""
    parts: list[Chunk] = []
    for part in cast("tuple[object, ...]", frame) if isinstance(frame, tuple) else (frame,):
        if isinstance(part, memoryview):
            parts.append(part.cast("B"))
        elif isinstance(part, (bytes, bytearray)):
            parts.append(part)
        else:
            raise TypeError(f"an encoder must return bytes-like chunks or a tuple of them, not {part!r:.100}")
    return tuple(parts if len(parts) <= PARTS else _join_small(parts))


def _join_small(parts: Iterable[Chunk]) -> list[Chunk]:
    """Join the small parts that follow one another; leave the large ones as they are."""
    joined: list[Chunk] = []
    small: list[Chunk] = []
    for part in parts:
        if len(part) < LARGE:
            small.append(part)
            continue
        if small:
            joined.append(b"".join(small))
            small = []
        joined.append(part)
    if small:
        joined.append(b"".join(small))
    return joined
