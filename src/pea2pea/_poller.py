"""One wait of the event loop's for many sockets: where each of them has its own, that costs more than what it reads.

Rule 1: it is used only while many sockets wait in turn; for a few it would be a detour.
Rule 2: nobody depends on it. When its task ends, all who wait are woken, look, and wait in the event loop's way. Being
woken for nothing is therefore usual.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from anyio import BusyResourceError, ClosedResourceError, Event, sleep, wait_readable
from anyio.lowlevel import checkpoint

HAS_EPOLL = hasattr(select, "epoll")  # on Linux, that is
WAITS, MANY = 16, 4  # it is used if so many waits in a row were those of so many sockets
AT_ONCE = 32  # readers woken in one turn of the event loop: what they work with stays in the cache
_PAUSE = 1.0  # seconds until the next try if there is no descriptor that can be waited for


class Poller:
    """Waits until sockets are readable, with an epoll of its own, for which one task waits.

    `start` starts that task, `run`, if it is not running.
    """

    def __init__(self) -> None:
        self.start: Callable[[], object] = lambda: None
        self._epoll: select.epoll | None = None  # while the task runs
        self._waiting: dict[int, Event] = {}  # by descriptor
        self._make_event: Callable[[], Event] = Event
        self._members = 0  # sockets that may wait here
        self._recent: set[int] = set()  # who has waited lately,
        self._waits = 0  # ... and how often that was
        self.many: bool = False
        """Whether there are enough sockets for it."""
        self.in_use: bool = False
        """Whether it waits for all that wait from now on."""

    def join(self) -> None:
        """Take note of a socket that may wait here until it is forgotten."""
        self._members += 1
        self.many = self._members >= MANY

    def count(self, sock: socket.socket) -> bool:
        """Take note of a socket that is to be waited for, while there are `many`; return whether to do that here."""
        self._recent.add(sock.fileno())
        self._waits += 1
        if self._waits == WAITS:
            many = len(self._recent) >= MANY
            self._recent.clear()
            self._waits = 0
            if many and self._epoll is None:
                self.start()
            self.in_use = many and self._epoll is not None
        return self.in_use

    def wait(self, sock: socket.socket) -> Awaitable[None]:
        """As AnyIO's `wait_readable`, but it may return too early, and does so where the socket is closed meanwhile."""
        number, epoll = sock.fileno(), self._epoll
        assert epoll is not None
        if number < 0:
            raise ClosedResourceError
        if number in self._waiting and self._waiting[number].statistics().tasks_waiting:
            raise BusyResourceError("reading from")
        try:
            epoll.modify(number, _ONCE)  # which tells at once if there is something already
        except FileNotFoundError:
            epoll.register(number, _ONCE)
        self._waiting[number] = event = self._make_event()  # a waiter that is cancelled leaves it there
        return event.wait()

    def forget(self, sock: socket.socket) -> None:
        """Wake who waits for a socket that is about to be closed."""
        number = sock.fileno()
        self._members -= 1
        self.many = self._members >= MANY
        self._recent.discard(number)  # many that come and go are not many that wait
        if self._epoll is not None:
            try:
                self._epoll.unregister(number)  # closing it does not do that where a forked child has it, too
            except (OSError, ValueError):
                pass
        if number in self._waiting:
            self._waiting.pop(number).set()

    async def run(self) -> None:
        """Be the task."""
        try:
            self._make_event = type(Event())  # of the event loop at hand, which `Event` itself looks up each time
            epoll = self._epoll = select.epoll()
            await checkpoint()  # who waited for a descriptor of the same number, just closed, must have let go of it
            while True:
                found = epoll.poll(0, AT_ONCE)
                for number, _ in found:
                    if (event := self._waiting.pop(number, None)) is not None:
                        event.set()
                await (checkpoint() if found else wait_readable(epoll))
        except (OSError, BusyResourceError, ClosedResourceError):
            pass  # no descriptor, or one with the number of a socket that others closed, and that is still in use here
        finally:
            self.in_use = False
            if self._epoll is not None:
                with suppress(OSError):
                    self._epoll.close()
                self._epoll = None
            while self._waiting:
                self._waiting.popitem()[1].set()
        await sleep(_PAUSE)


_ONCE = select.EPOLLIN | select.EPOLLONESHOT if HAS_EPOLL else 0
