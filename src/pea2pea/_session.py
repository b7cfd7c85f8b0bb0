"""A connection from inside: the only module that assigns its state.

    OPENING ──> OPEN ──> ENDING ──> FLUSHING ──> CLOSED
       │          │         ^                      ^
       │          └> DRAINING                      │
       └───────────────────────────────────────────┘

    OPENING     the handshake is under way
    OPEN        the connection is in `Node.connections`
    DRAINING    the peer has closed cleanly; handlers work on what it had sent
    ENDING      the hooks run; the last messages may be queued
    FLUSHING    what is queued is written; then the end of the stream
    CLOSED      removed

Rule 1: a connection ends once. `Session.end` is the only way to end it; the first cause wins, and is the origin.
Rule 2: whatever ends it only sets the end going, without waiting; the connection's own task does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from contextvars import Context
from enum import Enum
from typing import Any, Final, Protocol

from anyio import CancelScope, Event, TaskHandle, current_time, get_cancelled_exc_class, get_current_task, move_on_at
from anyio.abc import ByteStream, TaskGroup
from typing_extensions import TypeVarTuple, Unpack

from ._address import Address, show
from ._report import Reporter, name_background_task
from ._tasks import start_in
from ._text import strip_error
from .connection import Connection, DisconnectOrigin, Side
from .errors import NotConnectedError
from .stats import Stats
from .transport import TCPStream

Ts = TypeVarTuple("Ts")


class State(Enum):
    """Where a connection stands in its life."""

    OPENING = "opening"
    OPEN = "open"
    DRAINING = "draining"
    ENDING = "ending"
    FLUSHING = "flushing"
    CLOSED = "closed"


class ReaderOfSession(Protocol):
    """What a session asks of its reader."""

    quiet_since: float

    def interrupt(self) -> None:
        """Look at the session's state after the message at hand."""
        ...

    def drain(self) -> None:
        """Process what the peer had sent before its clean close."""
        ...


class WriterOfSession(Protocol):
    """What a session asks of its writer."""

    def close(self) -> None:
        """Take no more messages."""
        ...

    def give_up(self) -> None:
        """Give up what is queued, and report it."""
        ...


class Session:
    """The state of one connection, and its tasks."""

    __slots__ = (
        "_closed", "addr", "attention", "base", "broken", "connection", "context", "deadline", "direct", "endpoints",
        "grace", "hook_tasks", "others", "reader", "released", "report", "reset", "scope", "side", "state", "stats",
        "stream", "task", "tasks", "totals", "unbegun", "writer",
    )  # fmt: skip

    def __init__(
        self,
        connection_of: tuple[Address, Side, Address | None],
        base: ByteStream,
        report: Reporter,
        totals: Stats,
        context: Context,
        hook_tasks: dict[int, Session],
        grace: float,
    ) -> None:
        addr, side, dialled = connection_of
        self.addr: Final = addr
        self.side: Final = side
        self.stats: Final = Stats()
        self.connection: Final = Connection(addr, side, dialled, self.stats, self)
        self.base: Final = base  # as it was accepted, dialled or adopted
        self.stream: ByteStream = base  # as the handshake returned it
        self.direct: TCPStream | None = base if isinstance(base, TCPStream) else None  # ... if that is the bare socket
        self.report: Final = report
        self.totals: Final = totals  # of the node
        self.context: Final = context  # in which all user code for this connection runs
        self.hook_tasks: Final = hook_tasks  # of the node: which task runs the hooks of which connection
        self.grace: Final = grace
        self.state: State = State.OPENING
        self.tasks: TaskGroup | None = None
        self.task: int = 0  # the id of its own task, once that runs user code
        self.reader: ReaderOfSession | None = None
        self.writer: WriterOfSession | None = None
        self.scope: CancelScope | None = None  # around the phase that its own task is in
        self.deadline: float = math.inf  # when an orderly end gives up
        self.broken: bool = False  # nothing more can, or shall, be sent
        self.attention: bool = False  # what has happened may have cancelled `scope`, which takes longer to look up
        self.reset: bool = False  # what the kernel still holds for the peer shall be thrown away
        self.endpoints: tuple[Address, Address] | None = None  # of the socket, if it might lead back to this node
        self.unbegun: dict[object, Coroutine[Any, Any, None] | None] | None = None  # of tasks that are to begin
        self.others: int = 0  # tasks beside its own
        self.released: bool = False  # the socket is closed, and the slot is free
        self._closed: Event | None = None

    def set_state(self, state: State) -> None:
        """Enter a state."""
        self.state = state
        if not self.report.verbose:
            return
        what = f"connection is {state.name}"
        if state is State.OPEN:
            what = f"connection is OPEN, side {self.side.name}"
        elif self.connection.origin is not None and state is not State.CLOSED:
            what += f", origin {self.connection.origin.name}"
        self.report.debug(what, self.addr)

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The typed attributes of the stream that the handshake returned."""
        return getattr(self.stream, "extra_attributes", {})

    def wrap(self, stream: ByteStream) -> None:
        """Go on with the stream that the handshake has returned."""
        self.stream = stream
        if stream is not self.base:
            self.direct = None

    # Its tasks

    def runs_user_code(self) -> None:
        """Note that its own task, which is the current one, runs user code from now on: hooks, or a user's stream.

        It is not noted before, since looking up a task's id takes a while.
        """
        if not self.task:
            self.task = get_current_task().id
            self.hook_tasks[self.task] = self

    def start_soon(
        self, func: Callable[[Unpack[Ts]], Awaitable[object]], *args: Unpack[Ts], name: object = None
    ) -> None:
        """See `Connection.start_soon`."""
        if self.tasks is None:
            raise NotConnectedError(f"the connection to {show(self.addr)} has ended", self.addr)
        place = name_background_task(func)

        async def background() -> None:
            await self.report.call(place, func, *args, peer=self.addr)

        self.start_task(background, name or place)

    def start_task(
        self,
        func: Callable[[], Coroutine[Any, Any, None]],
        name: object,
        origin: DisconnectOrigin = DisconnectOrigin.READING,
        *,
        runs_hooks: bool = True,
    ) -> TaskHandle[None]:
        """Start a task of this connection's; an exception that leaves it ends the connection with `origin`.

        With `runs_hooks` user code runs in it: what that calls is called from inside of the connection's hooks.
        """
        assert self.tasks is not None
        key = object()
        unbegun = self.unbegun = {} if self.unbegun is None else self.unbegun
        unbegun[key] = None
        self.others += 1
        context = self.context.copy()
        # in one line: an interrupt between two lines would find a coroutine that nobody closes
        handle = start_in(self.tasks, self._supervise(func, origin, key, runs_hooks), name, context)
        if key in unbegun:  # no eager task (asyncio)
            unbegun[key] = handle.coro
        return handle

    async def _supervise(
        self, func: Callable[[], Coroutine[Any, Any, None]], origin: DisconnectOrigin, key: object, runs_hooks: bool
    ) -> None:
        try:  # at once: trio raises KeyboardInterrupt anywhere
            task = 0
            try:
                if self.unbegun:
                    self.unbegun.pop(key, None)
                if runs_hooks:
                    task = get_current_task().id
                    self.hook_tasks[task] = self
                await func()
            finally:
                self.hook_tasks.pop(task, None)
                self.others -= 1
        except BaseException as error:  # noqa: BLE001  # mostly a cancellation from outside
            # AnyIO's own ends here: the task's handle would keep it, and with it all frames of its traceback.
            with suppress(get_cancelled_exc_class()):
                self.end(origin, await self.report.classify_soon("a connection's task", error, self.addr), broken=True)

    # Its end

    def end(
        self, origin: DisconnectOrigin, cause: Exception | None = None, *, broken: bool = False, draining: bool = False
    ) -> bool:
        """Set the end going, if nothing else has; return whether this was the cause.

        `broken`: nothing more can be sent. `draining`: the peer has closed cleanly, so the readers end by themselves
        once what was received is processed.
        """
        connection = self.connection
        if connection.origin is not None:
            if self.state is State.DRAINING:
                if origin is connection.origin and connection.cause is None:
                    connection.cause = cause and strip_error(cause)
                elif origin in (DisconnectOrigin.USER, DisconnectOrigin.SHUTDOWN):
                    self.tighten_deadline(current_time() + self.grace)
            return False
        connection.origin = origin
        self.attention = True
        if origin in (DisconnectOrigin.READING, DisconnectOrigin.WRITING):
            connection.cause = cause and strip_error(cause)
        self.broken = broken
        if self.reader is not None:
            self.reader.interrupt()
        if draining:
            self.set_state(State.DRAINING)
        else:
            self.set_state(State.ENDING)
            if self.scope is not None:
                self.scope.cancel()
        return True

    def abort(self) -> None:
        """Fail what is queued, close the socket, and cut short whatever the end is waiting for, but no hook."""
        self.broken = self.reset = self.attention = True
        if self.writer is not None:
            self.writer.give_up()
        if isinstance(self.base, TCPStream):
            self.base.close(reset=True)
        if self.state in (State.DRAINING, State.FLUSHING) and self.scope is not None:
            self.scope.cancel()

    def abandon(self) -> None:
        """Abort, and cancel the hooks, too."""
        self.abort()
        self.deadline = -math.inf
        if self.scope is not None:
            self.scope.cancel()
        if self.tasks is not None:
            self.tasks.cancel_scope.cancel()

    def begin_phase(self, timeout: float | None = None, *, shield: bool = True) -> CancelScope:
        """Return the cancel scope of the next part of the connection's life."""
        deadline = self.deadline if timeout is None else min(self.deadline, current_time() + timeout)
        self.scope = move_on_at(deadline, shield=shield)  # faster than to call CancelScope, which is initialised twice
        return self.scope

    def tighten_deadline(self, deadline: float) -> None:
        """Let the end be over by then."""
        self.deadline = min(self.deadline, deadline)
        if self.scope is not None:
            self.scope.deadline = min(self.scope.deadline, deadline)

    def extend_deadline(self, grace: float) -> None:
        """Give a handler `grace` seconds for the message at hand, while what was received is drained."""
        if self.scope is not None:
            self.scope.deadline = min(self.deadline, current_time() + grace)

    def finish(self) -> None:
        """Wake those who wait for its end, and drop all references, so that it needs no cycle collector."""
        self.reader = self.writer = self.tasks = self.scope = None
        for coro in (self.unbegun or {}).values():  # cancelled from outside before they began (asyncio)
            if coro is not None:
                coro.close()
        # so that a connection that a user keeps holds nothing
        self.connection._supervisor = None  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # users see no such name
        if self._closed is not None:
            self._closed.set()
        if self.state is not State.CLOSED:
            self.set_state(State.CLOSED)

    async def wait_closed(self) -> None:
        """Wait until it is closed and removed."""
        if self.state is not State.CLOSED:
            if self._closed is None:
                self._closed = Event()
            await self._closed.wait()

    def describe(self) -> str:
        """See `Supervisor.describe`."""
        return "being set up" if self.state is State.OPENING else "established"

    def __repr__(self) -> str:
        return f"<Session {self.side.value} {show(self.addr)}, {self.state.value}>"
