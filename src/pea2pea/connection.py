"""What users see of a connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Any, Final, Protocol, TypeAlias

from anyio import TypedAttributeProvider
from anyio.lowlevel import checkpoint
from typing_extensions import TypeVarTuple, Unpack

from ._address import Address, canonical, is_pair, show
from .errors import NotConnectedError
from .stats import Stats

Ts = TypeVarTuple("Ts")


class Side(Enum):
    """Which part a node plays in a connection; always this node's own. `~side` is the other one."""

    INITIATOR = "initiator"
    """This node has dialled."""
    RESPONDER = "responder"
    """This node was dialled."""

    __hash__ = object.__hash__  # members are unique; Enum's own takes four times as long

    def __invert__(self) -> Side:
        return Side.RESPONDER if self is Side.INITIATOR else Side.INITIATOR


class DisconnectOrigin(Enum):
    """What ended a connection."""

    USER = "user"
    """`Node.disconnect`, at this node."""
    SHUTDOWN = "shutdown"
    """This node shuts down."""
    READING = "reading"
    """The peer closed or broke the connection, sent no valid frame or nothing at all, or a hook of `Reading` raised.

    `Connection.cause` says which.
    """
    WRITING = "writing"
    """A write failed or timed out, or `Writing.encoder` raised; `Connection.cause` says which."""
    ON_CONNECT = "on_connect"
    """`OnConnect.on_connect` raised."""


class Supervisor(Protocol):
    """What a connection asks of the node while it lives."""

    def start_soon(
        self, func: Callable[[Unpack[Ts]], Awaitable[object]], *args: Unpack[Ts], name: object = None
    ) -> None:
        """See `Connection.start_soon`."""
        ...

    async def wait_closed(self) -> None:
        """See `Connection.wait_closed`."""
        ...

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The typed attributes of the connection's stream."""
        ...

    def describe(self) -> str:
        """Say how far the connection has come, in a word or two."""
        ...


class Connection(TypedAttributeProvider):
    """One connection to one peer, read-only. The node makes it.

    It is compared by identity and can be referenced weakly. As a `Peer` it means this very connection, never a
    later one with the same address. `extra(attribute)` reaches the typed attributes of its stream (AnyIO's
    `SocketAttribute`, `TLSAttribute` and so on) until it is closed. `str(connection)` is `host:port`.
    """

    __slots__ = ("_supervisor", "addr", "cause", "dialled", "origin", "side", "stats")

    def __init__(
        self, addr: Address, side: Side, dialled: Address | None, stats: Stats, supervisor: Supervisor
    ) -> None:
        self.addr: Final[Address] = addr
        """The peer's address; the key of this connection in `Node.connections`.

        If the peer has dialled, its port is not the one where it listens.
        """
        self.side: Final[Side] = side
        """This node's side."""
        self.dialled: Final[Address | None] = dialled
        """What `Node.connect` was given, in canonical form, host name and all; None if it was not dialled."""
        self.stats: Final[Stats] = stats
        """What went over this connection."""
        self.origin: DisconnectOrigin | None = None
        """What ended it; None while it lives."""
        self.cause: Exception | None = None
        """Once it ends with READING or WRITING: why; None after the peer's clean close.

        It keeps no traceback, and the first 1,000 characters of each text, or bytes, that it carries.
        """
        self._supervisor: Supervisor | None = supervisor

    def start_soon(
        self, func: Callable[[Unpack[Ts]], Awaitable[object]], *args: Unpack[Ts], name: object = None
    ) -> None:
        """Run `func(*args)` in the background for as long as the connection lives; then it is cancelled.

        It runs in a copy of the connection's context. An exception is logged and counted in
        `Heuristics.hook_errors`, and harms nobody. Raises `NotConnectedError` if the connection has ended.
        """
        if self._supervisor is None:
            raise NotConnectedError(f"the connection to {self} has ended", self.addr)
        self._supervisor.start_soon(func, *args, name=name)

    async def wait_closed(self) -> None:
        """Wait until it is closed and removed, or its set-up came to nothing. Cancelling it changes nothing."""
        await (checkpoint() if self._supervisor is None else self._supervisor.wait_closed())

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The typed attributes of the stream that the handshake returned; none once it is closed."""
        return {} if self._supervisor is None else self._supervisor.extra_attributes

    def __str__(self) -> str:
        return show(self.addr)

    def __repr__(self) -> str:
        state = "not established" if self._supervisor is None else self._supervisor.describe()
        if self.origin is not None:
            state = f"ended by {self.origin.name}"
        return f"<Connection {self.side.value} {self}, {state}>"


Peer: TypeAlias = Address | Connection


def address_of(peer: Peer) -> Address:
    """Return a peer's address; raise `TypeError` for anything else."""
    if isinstance(peer, Connection):
        return peer.addr
    if not is_pair(peer):
        raise TypeError(f"a peer must be a Connection or a tuple (host: str, port: int), not {peer!r}") from None
    return canonical(peer)
