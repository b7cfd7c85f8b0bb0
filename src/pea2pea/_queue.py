"""The limits of one connection's outgoing queue, and the tasks that wait for it.

Rule: what writes the queue tells how much of it was written, and who waits is woken here: in order, and at the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Any

from anyio import Event
from anyio.lowlevel import checkpoint

from . import _clock
from ._address import Address, show
from ._session import Session
from .connection import Peer
from .errors import DeliveryError, NotConnectedError, QueueFullError


class Queue(ABC):
    """What is queued for one peer, by number and size; who waits for room, for a write, or for the end of all."""

    __slots__ = (
        "_active", "_closed", "_deliveries", "_depth", "_drained", "_last", "_limit", "_progress", "_registry", "_size",
        "_written", "addr", "full", "pending", "session", "waiting",
    )  # fmt: skip

    def __init__(self, session: Session, registry: dict[Peer, Any], depth: int, limit: int) -> None:
        self.addr: Address = session.addr
        self.session: Session = session
        self.full: bool = False  # judged on what is queued already: a message of any size fits an empty queue
        self.pending: int = 0  # messages queued or in hand
        self.waiting: OrderedDict[Event, None] | None = None  # senders, for room
        self._registry = registry
        self._depth = depth
        self._limit = limit
        self._size = 0  # bytes queued or in hand
        self._active = False  # somebody is going to write what is queued
        self._last = 0.0  # when something was sent directly, or somebody waited for room
        self._written = 0  # messages that were queued, and then written
        self._deliveries: list[tuple[int, Event]] | None = None  # what `_written` must reach, and who waits for that
        self._drained: Event | None = None  # of those who wait until all is written
        self._progress: Event | None = None  # of those who wait in `drain`
        self._closed = False

    def _register(self) -> None:
        """Let `Outbox` find it, which it must not before it is whole: an interrupt may come at any line (trio)."""
        self._registry[self.addr] = self._registry[self.session.connection] = self

    @abstractmethod
    def flush(self) -> None:
        """Write what can be written without waiting."""

    def full_error(self) -> QueueFullError:
        """What is raised when it is."""
        peer = show(self.addr)
        if not self.full:
            return QueueFullError(f"{len(self.waiting or ())} senders wait for room in the queue for {peer}")
        return QueueFullError(
            f"{self.pending} messages of {self._size} bytes are queued for {peer}; "
            f"the limits are {self._depth} messages and {self._limit} bytes"
        )

    def _count(self, messages: int, size: int) -> None:
        """So much more, or less, is queued or in hand."""
        self.pending += messages
        self._size += size
        self.full = self._size >= self._limit or self.pending >= self._depth

    def _remove(self, messages: int, size: int) -> None:
        """So much was written."""
        self._count(-messages, -size)
        self._wake_waiting()
        self._wake_drainers()
        self._written += messages
        while self._deliveries and self._deliveries[0][0] <= self._written:
            self._deliveries.pop(0)[1].set()

    def _clear(self) -> None:
        """Nothing of what is queued will be written."""
        self._count(-self.pending, -self._size)
        while self._deliveries:
            self._deliveries.pop()[1].set()
        self._rest()

    async def wait_for_room(self) -> None:
        """Wait until there is room; raise `NotConnectedError` when there will be none.

        A sender that waits keeps its place until it has its turn, so that nobody overtakes it.
        """
        event = Event()
        waiting = self.waiting = OrderedDict() if self.waiting is None else self.waiting
        waiting[event] = None
        try:
            while True:
                if self.full:
                    self._last = _clock.now()  # a burst, which goes on
                    self.flush()  # sooner than the flusher would
                await event.wait()
                if self._closed or not self.full:
                    break
                del waiting[event]
                event = Event()
                waiting[event] = None
                waiting.move_to_end(event, last=False)
        finally:
            del waiting[event]
            self._wake_waiting()  # it looks for room when this one has queued its message
            if not waiting:
                self.waiting = None
        if self._closed:
            raise NotConnectedError(f"the connection to {show(self.addr)} has ended", self.addr)

    async def wait_written(self) -> None:
        """Until all is written that is queued now; raises `DeliveryError` if it will not be."""
        lost = self._closed
        if self.pending:
            ticket, event = self._written + self.pending, Event()
            if self._deliveries is None:
                self._deliveries = []
            self._deliveries.append((ticket, event))
            await event.wait()
            lost = self._written < ticket
        if lost:
            raise DeliveryError(f"the connection to {show(self.addr)} ended before the write", self.addr)

    async def wait_flushed(self) -> None:
        """Until all that was queued is written, or given up."""
        if self._active:
            self._drained = Event()
            await self._drained.wait()

    async def wait_below(self, size: int) -> None:
        """Until fewer than so many bytes are queued; raises `NotConnectedError` if the connection ends before."""
        while self._size >= size and not self._closed:
            self.flush()
            if self._size < size:
                break
            if self._progress is None:
                self._progress = Event()
            await self._progress.wait()
        if self._closed:
            raise NotConnectedError(f"the connection to {show(self.addr)} has ended", self.addr)
        await checkpoint()

    def close(self) -> None:
        """Take no more; what is queued is still written."""
        if not self._closed:
            self._closed = True
            del self._registry[self.addr], self._registry[self.session.connection]
            self._wake_waiting()
            self._wake_drainers()

    def _wake_waiting(self) -> None:
        """Wake the first sender waiting for room; it wakes the next."""
        if self.waiting and (self._closed or not self.full):
            next(iter(self.waiting)).set()

    def _wake_drainers(self) -> None:
        if self._progress is not None:
            self._progress.set()
            self._progress = None

    def _rest(self) -> None:
        """Nobody has anything to write."""
        self._active = False
        if self._drained is not None:
            self._drained.set()
