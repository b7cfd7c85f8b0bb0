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

    addr: the peer's address; the key of this connection in `Node.connections`. If the peer has dialled, its port is
        not the one where it listens.
    side: this node's side.
    dialled: what `Node.connect` was given, in canonical form, host name and all; None if it was not dialled.
    stats: what went over this connection.
    origin: what ended it; None while it lives.
    cause: once it ends with READING or WRITING: why; None after the peer's clean close.
    """

    __slots__ = ("_supervisor", "addr", "cause", "dialled", "origin", "side", "stats")

    def __init__(
        self, addr: Address, side: Side, dialled: Address | None, stats: Stats, supervisor: Supervisor
    ) -> None:
        self.addr: Final = addr
        self.side: Final = side
        self.dialled: Final = dialled
        self.stats: Final = stats
        self.origin: DisconnectOrigin | None = None
        self.cause: Exception | None = None
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
        if self._supervisor is None:
            await checkpoint()
        else:
            await self._supervisor.wait_closed()

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
