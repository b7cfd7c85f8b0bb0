"""A connection: what users see of it, and its state.

Rule 1: it ends once. `Link.end` is the only way to end it; the first cause wins, and is the origin.
Rule 2: whatever ends it, synchronously sets it on its way; the waiting is done by the connection's own task.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import Context, ContextVar
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from anyio import CancelScope, Event, TypedAttributeProvider, current_time
from typing_extensions import TypeVarTuple, Unpack

from ._address import Address, canonical, is_pair, show
from ._report import background_task
from .errors import NotConnectedError
from .stats import Stats
from .transport import TCPStream

if TYPE_CHECKING:
    from anyio.abc import ByteStream, TaskGroup

    from ._report import Reporter
    from .protocols.reading import Reader
    from .protocols.writing import Writer

Ts = TypeVarTuple("Ts")


class Side(Enum):
    """Which part a node plays in a connection; always this node's own. `~side` is the other one.

    INITIATOR: this node has dialled. RESPONDER: it was dialled.
    """

    INITIATOR = "initiator"
    RESPONDER = "responder"

    def __invert__(self) -> Side:
        return Side.RESPONDER if self is Side.INITIATOR else Side.INITIATOR


class DisconnectOrigin(Enum):
    """What ended a connection.

    USER: `Node.disconnect`, at this node.
    SHUTDOWN: this node shuts down.
    READING: the peer closed or broke the connection, sent no valid frame or nothing at all, or `decoder`, `decode` or
        `process_message` raised; `Connection.cause` says which.
    WRITING: a write failed or timed out, or `encoder` raised; likewise.
    ON_CONNECT: `on_connect` raised.
    """

    USER = "user"
    SHUTDOWN = "shutdown"
    READING = "reading"
    WRITING = "writing"
    ON_CONNECT = "on_connect"


class Connection(TypedAttributeProvider):
    """One connection to one peer, read-only.

    It is compared by identity and can be referenced weakly. As a `Peer` it means this very connection, never a
    later one with the same address. `extra(attribute)` reaches the typed attributes of its stream (AnyIO's
    `SocketAttribute`, `TLSAttribute` and so on).

    addr: the peer's address; the key of this connection in `Node.connections`. If the peer has dialled, its port is
        not the one where it listens.
    side: this node's side.
    origin: what ended it; None while it lives.
    dialled: what `Node.connect` was given, in canonical form, host name and all; None if it was not dialled.
    stats: what went over this connection.
    cause: once it ends with READING or WRITING: why; None after the peer's clean close.
    """

    __slots__ = ("addr", "cause", "dialled", "origin", "side", "stats")

    def __init__(self, addr: Address, side: Side, dialled: Address | None) -> None:
        self.addr: Final = addr
        self.side: Final = side
        self.dialled: Final = dialled
        self.stats: Final = Stats()
        self.cause: Exception | None = None
        self.origin: DisconnectOrigin | None = None

    @abstractmethod
    def start_soon(
        self, func: Callable[[Unpack[Ts]], Awaitable[object]], *args: Unpack[Ts], name: object = None
    ) -> None:
        """Run `func(*args)` in the background for as long as the connection lives; then it is cancelled.

        An exception is logged and counted in `Heuristics.hook_errors`, and harms nobody. Raises
        `NotConnectedError` if the connection has ended.
        """

    @abstractmethod
    async def wait_closed(self) -> None:
        """Wait until it is closed and removed, or its set-up came to nothing. Cancelling it changes nothing."""

    def __str__(self) -> str:
        return show(self.addr)


Peer: TypeAlias = Address | Connection


def address_of(peer: Peer) -> Address:
    """A peer's address; `TypeError` for anything else."""
    if isinstance(peer, Connection):
        return peer.addr
    if not is_pair(peer):
        raise TypeError(f"a peer must be a Connection or a tuple (host: str, port: int), not {peer!r}") from None
    return canonical(peer)


current_link: ContextVar[Link | None] = ContextVar("pea2pea_current_link", default=None)
"""The connection in whose hooks or background tasks the code runs."""


class Link(Connection):
    """A connection as the library sees it."""

    __slots__ = (
        "base", "broken", "context", "deadline", "draining", "ended", "gone", "goodbye", "hook", "names",
        "reader", "reading", "report", "stream", "tasks", "totals", "writer",
    )  # fmt: skip

    def __init__(
        self, addr: Address, side: Side, dialled: Address | None, base: ByteStream, report: Reporter, totals: Stats
    ) -> None:
        super().__init__(addr, side, dialled)
        self.base: ByteStream = base  # as it was accepted, dialled or adopted
        self.stream: ByteStream = base  # as the handshake returned it
        self.report: Reporter = report
        self.totals: Stats = totals  # of the node
        self.context: Context | None = None  # with this connection in `current_link`
        self.tasks: TaskGroup | None = None
        self.reader: Reader[Any] | None = None
        self.reading: CancelScope | None = None  # around the readers, while there are any
        self.hook: CancelScope | None = None  # around the last hooks
        self.goodbye: CancelScope | None = None  # around the flush and what follows
        self.writer: Writer[Any] | None = None
        self.names: tuple[Address, Address] | None = None  # of the socket, if it might lead back to this node
        self.deadline: float = math.inf  # when an orderly end gives up
        self.draining: bool = False  # the peer has closed cleanly; handlers still work on what it sent
        self.broken: bool = False  # nothing more can, or shall, be sent
        self.gone: bool = False
        self.ended: Event | None = None

    @property
    def direct(self) -> TCPStream | None:
        """The socket's stream, if nothing wraps it."""
        return self.stream if self.stream is self.base and isinstance(self.stream, TCPStream) else None

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """Those of the stream that the handshake returned."""
        return getattr(self.stream, "extra_attributes", {})

    def start_soon(
        self, func: Callable[[Unpack[Ts]], Awaitable[object]], *args: Unpack[Ts], name: object = None
    ) -> None:
        """See `Connection`."""
        if self.tasks is None or self.gone:
            raise NotConnectedError(f"the connection to {self.addr[0]}:{self.addr[1]} has ended", self.addr)
        place = background_task(func)

        async def background() -> None:
            await self.report.call(place, func, *args, peer=self.addr)

        self.spawn(background(), name or place)

    def spawn(
        self, coro: Coroutine[Any, Any, None], name: object, origin: DisconnectOrigin = DisconnectOrigin.READING
    ) -> None:
        """Start a task of this connection's; whatever leaves it ends the connection."""
        assert self.tasks is not None
        self.tasks.create_task(self._tend(coro, origin), name=name, context=self.context)

    async def _tend(self, coro: Coroutine[Any, Any, None], origin: DisconnectOrigin) -> None:
        try:
            await coro
        except BaseException as error:  # noqa: BLE001  # mostly a cancellation from outside
            self.end(origin, self.report.judge("a connection's task", error, self.addr), broken=True)

    def end(
        self, origin: DisconnectOrigin, cause: Exception | None = None, *, broken: bool = False, draining: bool = False
    ) -> bool:
        """Set the end going, if nothing else has; says whether this was the cause.

        `broken`: the stream is of no use any more. `draining`: the peer has closed cleanly, so that the readers end
        by themselves, once what was received is processed.
        """
        if self.origin is not None:
            if self.draining and origin is self.origin and self.cause is None:
                self.cause = _bare(cause)
            return False
        self.origin = origin
        self.cause = _bare(cause) if origin in (DisconnectOrigin.READING, DisconnectOrigin.WRITING) else None
        self.broken = broken
        self.draining = draining
        if self.reader is not None:
            self.reader.interrupt()
        if not draining and self.reading is not None:
            self.reading.cancel()
        return True

    def abort(self) -> None:
        """Fail what is queued, close the socket and cut short whatever the end is waiting for, but no hook."""
        self.broken = True
        if self.writer is not None:
            self.writer.fail()
        if isinstance(self.base, TCPStream):
            self.base.close(reset=True)
        for scope in (self.reading, self.goodbye):
            if scope is not None:
                scope.cancel()

    def hurry(self, deadline: float) -> None:
        """Let the end be over by then."""
        self.deadline = min(self.deadline, deadline)
        for scope in (self.reading, self.hook, self.goodbye):
            if scope is not None:
                scope.deadline = min(scope.deadline, deadline)

    def grant(self, grace: float) -> None:
        """Give a handler `grace` seconds for the message at hand, while what was received is drained."""
        if self.reading is not None:
            self.reading.deadline = min(self.deadline, current_time() + grace)

    def remove(self) -> None:
        """Wake those who wait for its end, and let go of all that refers to it, so that it needs no cycle collector."""
        self.gone = True
        self.reader = self.writer = self.tasks = self.context = self.reading = self.hook = self.goodbye = None
        if self.ended is not None:
            self.ended.set()

    async def wait_closed(self) -> None:
        """See `Connection`."""
        if not self.gone:
            if self.ended is None:
                self.ended = Event()
            await self.ended.wait()

    def __repr__(self) -> str:
        state = "established" if self.origin is None else f"ended by {self.origin.name}"
        return f"<Connection {self.side.value} {self.addr[0]}:{self.addr[1]}, {state}>"


def _bare(error: Exception | None) -> Exception | None:
    """Without its traceback, whose frames would keep what was being decoded for as long as the connection is."""
    return None if error is None else error.with_traceback(None)
