"""Recognises a connection of a node with itself.

The two ends of a loop have mirrored names: the one's `(local, remote)` is the other's `(remote, local)`. Names are
compared as the sockets have them, since the system rewrites what was dialled (0.0.0.0 is 127.0.0.1).
"""

from __future__ import annotations

from collections.abc import Callable

from anyio.abc import ByteStream

from ._address import Address, show
from ._session import Session
from .connection import Side
from .errors import SelfConnectionError
from .transport import names_of

Endpoints = tuple[Address, Address]


def self_connection(addr: Address) -> SelfConnectionError:
    """Return the error that says so."""
    return SelfConnectionError(f"{show(addr)} is this very node")


class Mirror:
    """The connections that might be one end of a loop: dialled ones to the port where the node listens."""

    def __init__(self) -> None:
        self._dialled: dict[Endpoints, Session] = {}

    def watch(self, session: Session, port: int, find: Callable[[Address], Session | None]) -> Session | None:
        """Remember a dialled connection that might be a loop; return its other end, if that is here already.

        `port` is where the node listens; `find` returns the session of an address.
        """
        if session.side is not Side.INITIATOR:
            return None
        endpoints = names_of(session.base)
        if endpoints is None or endpoints[1][1] != port:
            return None
        session.endpoints = endpoints
        self._dialled[endpoints] = session
        local, remote = endpoints
        other = find(local)
        if other is not None and other.side is Side.RESPONDER and names_of(other.base) == (remote, local):
            return other
        return None

    def other_end(self, stream: ByteStream) -> Session | None:
        """Return the dialled connection that an inbound stream is the other end of."""
        if not self._dialled:
            return None
        endpoints = names_of(stream)
        return None if endpoints is None else self._dialled.get((endpoints[1], endpoints[0]))

    def forget(self, session: Session) -> None:
        """Drop a connection that has ended."""
        if session.endpoints is not None:
            self._dialled.pop(session.endpoints, None)
