"""Reading: from a peer's bytes to `process_message`.

Two readers take turns, so that the end of a connection is noticed also while a handler is busy, and so that the common
case, a handler that does not wait, costs no switching of tasks at all:

Rule 1: one of them has the right to read, one (at most) processes; with nothing to do for the other there is no other.
Rule 2: who has read a chunk processes it. When a handler first waits for something, the right to read passes on.
Rule 3: who has read a chunk while the other still processes waits for its turn, and nobody reads meanwhile.
Rule 4: after about a millisecond of work the event loop gets its turn, whatever a chunk holds.
"""

from __future__ import annotations

import math
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Iterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from anyio import CancelScope, EndOfStream, Event
from anyio.lowlevel import checkpoint

from .._report import says_gone
from ..config import needs
from ..connection import DisconnectOrigin, Link
from ..errors import FrameError
from ..transport import TAKE_MAX

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from ..codecs import Decoder
    from ..connection import Connection

M = TypeVar("M")

SLICE = 0.001  # seconds of work before the event loop gets its turn
PACE_MAX = 1024  # messages between two looks at the clock, at the most
_NOTHING: deque[Any] = deque(maxlen=0)


class Reading(Protocol[M]):
    """Opt in with `Node.enable_reading`."""

    def decoder(self, connection: Connection, /) -> Decoder[M]:
        """The decoder of one connection, which is established by now; each needs a decoder of its own."""
        ...

    def process_message(self, source: Connection, message: M, /) -> Coroutine[Any, Any, None]:
        """Called for one message after the other, in order; while it waits, TCP slows the peer down.

        An exception ends the connection (origin READING). It is cancelled when the connection is disconnected here or
        breaks; after the peer's clean close it is called for all that was received, with `Config.grace_period` for
        each message.

        Awaiting `Outbox.send` here ties reading from a peer to that peer's reading. That is right for a server that
        answers. Two nodes that answer each other with more than they got would wait for each other until the write
        timeout, and a relay would wait for the wrong peer: use `Outbox.send_nowait` there, and decide what to do when
        a queue is full.
        """
        ...


class Reader(Generic[M]):
    """Reads, decodes and processes for one connection."""

    __slots__ = (
        "_backlog", "_busy", "_decode", "_direct", "_drained", "_grace", "_left", "_lent", "_limit", "_link",
        "_messages", "_pace", "_process", "_scope", "_second", "_standby", "_stop", "_turn", "_until", "quiet_since",
    )  # fmt: skip

    def __init__(self, link: Link, reading: Reading[M], *, drop_beyond: int | None, grace: float) -> None:
        self._link = link
        self._direct = link.direct
        decoder = reading.decoder(link)
        needs("decoder must return", decoder, "decode")
        self._decode = decoder.decode
        self._process = reading.process_message
        self._limit = drop_beyond
        self._grace = grace
        self._busy = False  # one reader processes
        self._lent = False  # ... and the other one has the right to read
        self._drained = False  # all that was received is processed
        self._scope = CancelScope()  # around the first reader
        self._second: CancelScope | None = None  # around the other one
        self._left: Event | None = None  # the other one, if it has begun, has left
        self._turn: Event | None = None  # where one waits for the other to be done processing
        self._standby: Event | None = None  # where one waits for the right to read
        self._messages: Iterator[M] = iter(())  # what is being decoded
        # under `drop_beyond`: messages that came while a handler was busy
        self._backlog: deque[M] = _NOTHING if drop_beyond is None else deque()
        self._until = monotonic() + SLICE  # when the event loop should get its turn
        self._pace = 16  # messages between two looks around
        self._stop = 16  # the count of messages at which to look around next
        self.quiet_since: float = monotonic()
        """Since when there has been no complete message and no busy handler."""

    async def run(self) -> None:
        """Until the connection ends; whoever reads or processes has left when this returns."""
        self._link.reading = self._scope
        try:
            with self._scope:
                await self._take_turns()
        finally:
            if self._second is not None:
                self._second.cancel()
                if self._left is not None:
                    with CancelScope(shield=True):
                        await self._left.wait()
            self._link.reading = None
        if self._link.draining and not self._drained:
            self._link.report.info("what a peer had sent was given up: the grace period is over", self._link.addr)

    async def _run_second(self, scope: CancelScope) -> None:
        """The other reader, which leaves after the first."""
        if scope.cancel_called:  # the first has left, and does not wait for what has not begun
            return
        self._left = left = Event()
        try:
            with scope:
                await self._take_turns()
        finally:
            self._scope.cancel()  # if it was cancelled from outside, the first does not go on alone
            left.set()

    def drain(self) -> None:
        """The peer has closed cleanly: process what it had sent, with a grace period for each message."""
        self._link.end(DisconnectOrigin.READING, draining=True)
        self._link.grant(self._grace)
        self.interrupt()

    def interrupt(self) -> None:
        """Look around after the message at hand."""
        self._stop = 0

    async def _take_turns(self) -> None:
        while True:
            data = await self._receive()
            fresh: bytes | None = data  # what is yet to be decoded
            if self._busy and self._limit is not None:
                fresh = None
                if await self._keep(data) and data:
                    continue
            if self._busy:
                self._turn = Event()
                await self._turn.wait()
                self._turn = None
            self._busy = True
            self._lent = False
            while await self._watched(self._process_some(fresh)):
                fresh = None
                await checkpoint()
                self._until = monotonic() + SLICE
            self._busy = False
            if not data:
                self._drained = True
                self._scope.cancel()
            if self._scope.cancel_called:
                await Event().wait()  # until it is cancelled
            if self._lent:
                self._standby = standby = Event()
                if self._turn is not None:
                    self._turn.set()
                await standby.wait()

    async def _receive(self) -> bytes:
        """The next chunk, b"" at the end of the stream; an error ends the connection."""
        link, direct = self._link, self._direct
        try:
            if monotonic() >= self._until:
                await checkpoint()
                self._until = monotonic() + SLICE
            if direct is None:
                data = await link.stream.receive(TAKE_MAX)
            else:
                while (received := direct.receive_nowait()) is None:
                    await direct.readable()
                    self._until = monotonic() + SLICE
                data = received
        except EndOfStream:
            data = b""
        except Exception as error:  # whatever a stream raises: it is lost
            if isinstance(error, FrameError):  # one with frames of its own, like Noise's
                self._decoder_failed(error)
            link.end(DisconnectOrigin.READING, error, broken=True)
            self._scope.cancel()
            await Event().wait()  # until it is cancelled
            raise
        if not data:
            self.drain()
        link.stats.bytes_received += len(data)
        link.totals.bytes_received += len(data)
        return data

    async def _process_some(self, data: bytes | None) -> bool:
        """Decode `data`, if any, and process what is there; True: there is more, but the event loop has its turn."""
        link, process = self._link, self._process
        count = 0
        self._stop = self._pace if link.origin is None else 0
        looked = monotonic()
        try:
            if data is not None:
                self._messages = self._decoded(data)
            for message in self._messages if self._limit is None else self._kept_first():
                count += 1
                try:
                    await process(link, message)
                except BaseException as error:  # noqa: BLE001  # whatever a handler raises ends its connection alone
                    told = link.report.judge("process_message", error, link.addr)
                    if not (link.draining and says_gone(error, link.addr)):
                        self._fail(told)
                        return False
                if count >= self._stop:
                    if link.origin is not None:
                        if not link.draining:
                            return False
                        link.grant(self._grace)
                    now = monotonic()
                    if now >= self._until:
                        return True
                    if now - looked < SLICE / 8:
                        self._pace = min(self._pace * 2, PACE_MAX)
                    elif now - looked > SLICE / 4:
                        self._pace = max(self._pace // 2, 1)
                    looked = now
                    self._stop = count + self._pace if link.origin is None else 0
        except BaseException as error:  # noqa: BLE001  # whatever a decoder raises ends its connection alone
            self._decoder_failed(error)
            return False
        finally:
            link.stats.messages_received += count
            link.totals.messages_received += count
            if count:
                self.quiet_since = monotonic()
        return False

    @types.coroutine
    def _watched(self, coro: Coroutine[Any, Any, bool]) -> Generator[Any, Any, bool]:
        """Await `coro`, and pass the right to read on when it first waits for something."""
        resume: Callable[[Any], Any] = coro.send
        value: Any = None
        first = True
        while True:
            try:
                waits_for = resume(value)
            except StopIteration as result:
                return bool(result.value)
            if first:
                first = False
                self._lend()
            try:
                value = yield waits_for
                resume = coro.send
            except GeneratorExit:
                coro.close()
                raise
            except BaseException as error:  # noqa: BLE001  # on to where it belongs
                resume, value = coro.throw, error
            self._until = monotonic() + SLICE

    def _lend(self) -> None:
        self.quiet_since = math.inf
        if self._link.draining:  # there is nothing more to read
            return
        self._lent = True
        if self._standby is not None:
            self._standby.set()
            self._standby = None  # not by whoever waits there: the other may be waiting there itself by then
        elif self._second is None:
            self._second = CancelScope()
            self._link.spawn(self._run_second(self._second), f"pea2pea reader {self._link.addr}")

    def _kept_first(self) -> Iterator[M]:
        """Under `drop_beyond`: the messages that wait, then those that are not decoded yet."""
        nothing = object()
        while True:
            if self._backlog:
                yield self._backlog.popleft()
            else:
                message = next(self._messages, nothing)
                if message is nothing:
                    return
                yield cast("M", message)

    async def _keep(self, data: bytes) -> bool:
        """Under `drop_beyond`, while a handler is busy: keep so many messages, and drop the rest.

        Says whether the handler is still busy.
        """
        heuristics = self._link.report.heuristics
        self._messages = self._then(self._messages, data)
        try:
            for message in self._messages:
                if len(self._backlog) < (self._limit or 0):
                    self._backlog.append(message)
                else:
                    heuristics.dropped_messages += 1
                    self._link.report.info("messages were dropped: the handler is too slow", self._link.addr)
                if monotonic() >= self._until:
                    await checkpoint()
                    self._until = monotonic() + SLICE
        except BaseException as error:  # noqa: BLE001  # as in `_process_some`
            self._decoder_failed(error)
        return self._busy

    def _then(self, messages: Iterator[M], data: bytes) -> Iterator[M]:
        yield from messages
        yield from self._decoded(data)

    def _decoded(self, data: bytes) -> Iterator[M]:
        messages = self._decode(data)
        if not hasattr(messages, "__iter__"):
            raise TypeError(f"decode must return an iterable of messages, not {messages!r}")
        return iter(messages)

    def _decoder_failed(self, error: BaseException) -> None:
        link = self._link
        if isinstance(error, FrameError):
            link.report.heuristics.decode_errors += 1
            link.report.info("a peer sent no valid frame", link.addr, error)
            self._fail(error, broken=True)
        else:
            self._fail(link.report.judge("decode", error, link.addr))

    def _fail(self, error: Exception, *, broken: bool = False) -> None:
        self._link.end(DisconnectOrigin.READING, error, broken=broken)
        self._scope.cancel()


class Discarder:
    """Throws away what a peer sends, so that what is under way to it is not lost in a reset."""

    def __init__(self, stream: ByteStream, limit: float = math.inf) -> None:
        self._stream = stream
        self._limit = limit
        self._scope = CancelScope()
        self._done = Event()
        self.taken: int = 0
        """How many bytes it has thrown away."""
        self.error: Exception | None = None
        """What broke the stream; None if it ended cleanly."""

    async def run(self) -> None:
        """Until the end of the stream. Beyond the limit it takes no more, and waits to be cancelled."""
        try:
            with self._scope:
                while self.taken < self._limit:
                    data = await self._stream.receive(TAKE_MAX)
                    if not data:  # some streams end like this
                        return
                    self.taken += len(data)
                await Event().wait()  # until it is cancelled
        except EndOfStream:
            pass
        except Exception as error:  # noqa: BLE001  # whatever a stream raises: it is lost
            self.error = error
        finally:
            self._done.set()

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to come."""
        return self._done.is_set()

    async def wait_done(self) -> None:
        """Until the stream has ended."""
        await self._done.wait()

    def skip(self) -> None:
        """There is nothing to throw away."""
        self._done.set()

    async def stop(self) -> None:
        """Let go of the stream."""
        self._scope.cancel()
        await self._done.wait()


async def notice_end(link: Link) -> None:
    """What a node without Reading does: read ahead as far as Reading would, and no further, to notice the end."""
    discarder = Discarder(link.stream, TAKE_MAX)
    with CancelScope() as link.reading:
        await discarder.run()
        error = discarder.error
        link.end(DisconnectOrigin.READING, error, broken=error is not None, draining=error is None)
    link.reading = None
