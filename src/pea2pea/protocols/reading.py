"""Reading: from a peer's bytes to `process_message`.

Two readers take turns, so that the end of a connection is noticed also while a handler is busy, and so that the common
case, a handler that does not wait, costs no switching of tasks at all:

Rule 1: one of them has the right to read, one (at most) processes; with nothing to do for the other there is no other.
Rule 2: the reader that has read a chunk processes it. When a handler first waits, the right to read passes on.
Rule 3: a reader that has read a chunk while the other one still processes waits for its turn; nobody reads meanwhile.
Rule 4: after about a millisecond of work the event loop gets its turn, whatever a chunk holds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Coroutine, Iterator
from functools import partial
from itertools import islice
from operator import index
from types import GeneratorType
from typing import Any, Generic, Protocol, TypeVar, cast

from anyio import CancelScope, EndOfStream, Event, TaskHandle
from anyio.lowlevel import checkpoint

from .. import _clock
from .._context import run_in
from .._report import only_peer_gone
from .._session import Session, State
from ..codecs import Decoder
from ..config import needs
from ..connection import Connection, DisconnectOrigin
from ..errors import FrameError
from ..transport import READ_MAX, TAKE_MAX

M = TypeVar("M")

SLICE = 0.001  # seconds of work before the event loop gets its turn
LARGE_CHUNK = 1024  # bytes of a chunk that tell of large frames
PACE_MAX = 1024  # messages between two looks at the clock, at the most
JUST_NOW = -math.inf
OPEN, DRAINING = State.OPEN, State.DRAINING  # an enum's attribute takes long to look up
_END = object()
_NOTHING: Iterator[Any] = iter(())


class Reading(Protocol[M]):
    """Opt in with `Node.enable_reading`."""

    def decoder(self, connection: Connection, /) -> Decoder[M]:
        """The decoder of one connection, which is established by now; each needs a decoder of its own."""
        ...

    def process_message(self, source: Connection, message: M, /) -> Coroutine[Any, Any, None]:
        """Called for one message after the other, in order; while it waits, TCP slows the peer down.

        An exception ends the connection (origin READING). It is cancelled when the connection is disconnected here or
        breaks; of a break behind a chunk that was read meanwhile the node knows only when it reads on, or writes. After
        the peer's clean close it is called for all that was received, with `Config.grace_period` for each message, and
        for the rest as a whole once this node wants the connection to end.

        Awaiting `Outbox.send` here ties reading from a peer to that peer's reading. That is right for a server that
        answers. Two nodes that answer each other with more than they got would wait for each other until the write
        timeout, and a relay would wait for the wrong peer: use `Outbox.send_nowait` there, and decide what to do when
        a queue is full.
        """
        ...


class Backlog(Generic[M]):
    """Under `drop_beyond`: the messages that wait while a handler is busy. What comes on top is dropped."""

    def __init__(self, session: Session, most: int) -> None:
        self._session = session
        self._most = most
        self._waiting: deque[M] = deque()
        self.error: BaseException | None = None
        """What the decoder raised behind the messages that wait."""

    def fill(self, messages: Iterator[M]) -> bool:
        """Decode a slice of `messages`; keep what there is room for, and drop the rest. False: there is more."""
        report, until = self._session.report, _clock.now() + SLICE
        try:
            for message in messages:
                if len(self._waiting) < self._most:
                    self._waiting.append(message)
                else:
                    report.heuristics.dropped_messages += 1
                    report.info("messages were dropped: the handler is too slow", self._session.addr)
                if _clock.now() >= until:
                    return False
        except Exception as error:  # noqa: BLE001  # the decoder's: raised when what waits is processed
            self.error = error
        return True

    def give_up(self) -> int:
        """Drop what waits, since the connection has ended; return how many messages that were."""
        count = len(self._waiting)
        self._session.report.heuristics.dropped_messages += count
        self._waiting.clear()
        return count

    def take(self, fresh: Iterator[M]) -> Iterator[M]:
        """Yield the messages that wait, then those of `fresh`; raise what the decoder raised behind them."""
        while True:
            if self._waiting:
                yield self._waiting.popleft()
            elif self.error is not None:
                error, self.error = self.error, None
                try:
                    raise error
                finally:  # this frame is in its traceback now, and must not keep it
                    del error
            elif (message := next(fresh, _END)) is not _END:
                yield cast("M", message)
            else:
                return


class Activity:
    """Whether a message has come, on any connection, since the idle watch looked last."""

    __slots__ = ("noted", "seen")

    def __init__(self) -> None:
        self.seen: bool = False
        self.noted: Event | None = None
        """Set when `seen` is, while the watch runs."""

    def note(self) -> float:
        """A message has come: `JUST_NOW`."""
        self.seen = True
        if self.noted is not None:
            self.noted.set()
        return JUST_NOW


class Reader(Generic[M]):
    """Reads, decodes and processes for one connection."""

    __slots__ = (
        "_activity", "_ahead", "_asks", "_backlog", "_busy", "_decoder", "_direct", "_in_hand", "_messages", "_pace",
        "_passed_on", "_reading", "_saw_end", "_scope", "_second", "_second_began", "_session", "_stop", "_turn",
        "_until", "_waiting_to_read", "quiet_since",
    )  # fmt: skip

    def __init__(
        self, session: Session, reading: Reading[M], drop_beyond: int | None, activity: Activity | None
    ) -> None:
        decoder = reading.decoder(session.connection)
        needs("decoder must return", decoder, "decode")
        self._session = session
        self._direct = session.direct
        self._decoder = decoder
        self._reading = reading
        self._activity = activity  # None: a peer may be silent for ever
        self._busy = False  # one reader processes
        self._passed_on = False  # ... and the other one has the right to read
        self._asks = False  # frames are so large, or come in such pieces, that the decoder is asked what it lacks
        self._in_hand = 0  # bytes of the chunk in which the decoder may have more messages
        self._ahead = 0  # bytes of the chunk that was read behind it
        self._saw_end = False  # the end of the stream was read
        self._scope: CancelScope | None = None  # around the first reader
        self._second: TaskHandle[None] | None = None  # the other one
        self._second_began = False
        self._turn: Event | None = None  # where one waits for the other to be done processing
        self._waiting_to_read: Event | None = None  # where one waits for the right to read
        self._messages: Iterator[M] = _NOTHING  # what is being decoded
        self._backlog: Backlog[M] | None = None if drop_beyond is None else Backlog(session, drop_beyond)
        self._until = _clock.now() + SLICE  # when the event loop should get its turn
        self._pace = 16  # messages between two looks around
        self._stop = 16  # the count of messages at which to look around next
        self.quiet_since: float = session.stats.created
        """Since when there has been no complete message and no busy handler.

        `JUST_NOW`: since a moment after the idle watch looked last, which looks it up, as that takes a microsecond.
        """

    async def stop(self) -> None:
        """Come after `run`: when this returns, nobody reads or processes any more."""
        if self._second is not None:
            self._second.cancel()
            if self._second_began:
                with CancelScope(shield=True):
                    await self._second.wait()
        self._report_rest()
        messages, self._messages = self._messages, _NOTHING
        if isinstance(messages, GeneratorType):  # Python closes it too, but loses what that raises
            try:
                self._session.context.run(messages.close)
            except FrameError:
                pass  # the peer has no part in it
            except BaseException as error:  # noqa: BLE001  # as of any decoder
                self._session.report.classify("decode", error, self._session.addr, foreign=True)  # nothing waits here

    def _report_rest(self) -> None:
        """Count what was received and not processed; report it unless this node wanted the end."""
        session, rest, waited = self._session, self._in_hand + self._ahead, 0
        if self._backlog is not None:
            waited = self._backlog.give_up()
            if self._backlog.error is not None:
                self._decoder_failed(self._backlog.error)
        session.report.heuristics.unprocessed_bytes += rest
        ours = session.connection.origin in (DisconnectOrigin.USER, DisconnectOrigin.SHUTDOWN)
        unread = session.state is DRAINING and not self._saw_end  # where a write has told that the peer is gone
        if (rest or waited or self._busy or unread) and not ours:
            given_up = f"up to {rest} bytes{' and what was not read yet' * unread}, and {waited} messages that waited"
            session.report.info("what a peer had sent was given up", session.addr, given_up)

    async def _run_second(self) -> None:
        """Be the other reader, which leaves after the first."""
        self._second_began = True
        try:
            await self.run(self._scope)
        finally:
            self._leave()  # if it was cancelled from outside, the first does not go on alone

    def drain(self) -> None:
        """Process what the peer had sent before its clean close, with a grace period for each message."""
        self._session.end(DisconnectOrigin.READING, draining=True)
        self._session.extend_deadline(self._session.grace)
        self.interrupt()

    def interrupt(self) -> None:
        """Look at the session's state after the message at hand."""
        self._stop = 0

    def _leave(self) -> None:
        self._session.attention = True
        if self._scope is not None:
            self._scope.cancel()

    async def run(self, scope: CancelScope | None) -> None:
        """Read until the connection ends, within `scope`."""
        assert scope is not None
        self._scope, session = scope, self._session
        while True:
            fresh: bytes | None
            if self._backlog is None:
                fresh = await self._receive()
                ended = not fresh
            else:
                fresh, ended = await self._next_chunk(self._backlog)
            if self._busy:
                self._turn = Event()
                await self._turn.wait()
                self._turn = None
            if session.attention and scope.cancel_called:  # what was read when the end had begun is not processed
                await Event().wait()  # until it is cancelled
            if not session.task:
                session.runs_user_code()
            self._busy = True
            self._passed_on = False
            while await run_in(
                session.context, partial(self._process_some, fresh), self._pass_read_right, self._restart_slice
            ):
                fresh = None
                await checkpoint()
                self._restart_slice()
            self._busy = False
            fresh = None  # a chunk is not kept while one waits
            if ended:
                if self._second is None:
                    return
                self._leave()
            if session.attention and scope.cancel_called:
                await Event().wait()  # until it is cancelled
            if self._passed_on:
                self._waiting_to_read = event = Event()
                if self._turn is not None:
                    self._turn.set()
                await event.wait()

    async def _next_chunk(self, backlog: Backlog[M]) -> tuple[bytes | None, bool]:
        """Return, under `drop_beyond`, what is to be decoded next, and whether it is the end of the stream.

        None in place of bytes: process what waits, which is what came while a handler was busy.
        """
        ended = False
        while self._busy:
            messages = islice(self._messages, READ_MAX)  # a chunk has no more, unless the decoder never ends
            while not self._session.context.run(backlog.fill, messages):
                await checkpoint()
                if not self._busy:  # what is left of the chunk need not wait, and is not dropped
                    return None, ended
            self._in_hand = 0
            if backlog.error is not None:
                self._session.extend_deadline(self._session.grace)  # for what waits before it
                return None, ended
            if ended:
                return None, True
            data = await self._receive()
            ended = not data
            if not self._busy:
                return data, ended
            self._messages = self._decoded_later(data)
        data = await self._receive()
        return data, not data

    def _restart_slice(self) -> None:
        self._until = _clock.now() + SLICE

    async def _receive(self) -> bytes:
        """Return the next chunk, b"" at the end of the stream; an error ends the connection."""
        session, direct = self._session, self._direct
        data: bytes | None = None
        try:
            if _clock.now() >= self._until:
                await checkpoint()
                self._restart_slice()
            if direct is None:
                data = await session.stream.receive(TAKE_MAX)
            else:
                while (data := direct.receive_nowait()) is None:
                    await (direct.wait_for(self._missing()) if self._asks else direct.readable())
                    self._until = _clock.now() + SLICE
        except EndOfStream:
            data = b""
        except Exception as error:  # noqa: BLE001  # whatever a stream raises: it is lost
            if isinstance(error, FrameError):  # one with frames of its own, like Noise's
                self._decoder_failed(error)
            session.end(DisconnectOrigin.READING, error, broken=True)
            self._leave()
        while data is None:  # until it is cancelled; not within `except`: Python 3.10 gives the error a traceback then
            await Event().wait()
        if not data:
            self._saw_end = True
            self.drain()
        self._ahead = size = len(data)
        if size >= LARGE_CHUNK:
            self._asks = True
        session.stats.bytes_received += size
        session.totals.bytes_received += size
        return data

    def _missing(self) -> int:
        """Return how many bytes the decoder lacks at the least; 0: nobody knows, or somebody decodes."""
        try:
            return 0 if self._busy else index(getattr(self._decoder, "missing", 0))
        except BaseException as error:  # noqa: BLE001  # whatever a decoder raises ends its connection alone
            self._decoder_failed(error)
            return 0

    async def _process_some(self, data: bytes | None) -> bool:
        """Decode `data`, if any, and process what is there; True: there is more, but the event loop has its turn."""
        session, process, source = self._session, self._reading.process_message, self._session.connection
        count, self._stop = 0, self._pace if session.state is OPEN else 0
        looked, messages = _clock.now(), self._messages
        try:
            if data is not None:
                messages = self._messages = self._decoded(data)
            for message in messages if self._backlog is None else self._backlog.take(messages):
                count += 1
                try:
                    await process(source, message)
                except BaseException as error:  # noqa: BLE001  # whatever a handler raises ends its connection alone
                    told = await session.report.classify_soon("process_message", error, session.addr)
                    if not (session.state is DRAINING and only_peer_gone(error, session.addr)):
                        self._fail(told)
                        return False
                if count >= self._stop:
                    if session.state is DRAINING:
                        session.extend_deadline(session.grace)
                    elif session.state is not OPEN:
                        if next(messages, _END) is not _END:
                            return False
                        break
                    now = _clock.now()
                    if now >= self._until:
                        return True
                    self._pace = _next_pace(self._pace, now - looked)
                    looked = now
                    self._stop = count + self._pace if session.state is OPEN else 0
        except BaseException as error:  # noqa: BLE001  # whatever a decoder raises ends its connection alone
            self._decoder_failed(error)
        finally:
            session.stats.messages_received += count
            session.totals.messages_received += count
            self._asks |= not count
            if count and (activity := self._activity) is not None:
                self.quiet_since = JUST_NOW if activity.seen else activity.note()
        if messages is self._messages:  # under `drop_beyond` the other reader may be in the next chunk by now
            self._in_hand = 0
        return False

    def _pass_read_right(self) -> None:
        """Let the other reader read, since a handler waits."""
        self.quiet_since = math.inf
        if self._session.state is DRAINING:  # there is nothing more to read
            return
        self._passed_on = True
        if self._waiting_to_read is not None:
            self._waiting_to_read.set()
            self._waiting_to_read = None  # not by whoever waits there: the other may be waiting there itself by then
        elif self._second is None:
            self._second = self._session.start_task(self._run_second, f"pea2pea reader {self._session.connection}")

    def _decoded_later(self, data: bytes) -> Iterator[M]:
        yield from self._decoded(data)

    def _decoded(self, data: bytes) -> Iterator[M]:
        self._in_hand, self._ahead = self._ahead, 0
        messages = self._decoder.decode(data)
        if not hasattr(messages, "__iter__"):
            raise TypeError(f"decode must return an iterable of messages, not {messages!r}")
        return iter(messages)

    def _decoder_failed(self, error: BaseException) -> None:
        session = self._session
        try:
            if isinstance(error, FrameError):
                session.report.heuristics.decode_errors += 1
                session.report.info("a peer sent no valid frame", session.addr, error)
                self._fail(error, broken=True)
            else:
                self._fail(session.report.classify("decode", error, session.addr))
        finally:  # a cancellation has this frame in its traceback, which must not keep it
            del error

    def _fail(self, error: Exception, *, broken: bool = False) -> None:
        self._session.end(DisconnectOrigin.READING, error, broken=broken)
        self._leave()


def _next_pace(pace: int, seconds: float) -> int:
    """Return how many messages to process before the next look around, if the last `pace` have taken so long."""
    if seconds < SLICE / 8:
        return min(pace * 2, PACE_MAX)
    return max(pace // 2, 1) if seconds > SLICE / 4 else pace
