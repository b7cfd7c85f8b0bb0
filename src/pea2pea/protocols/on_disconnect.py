"""OnDisconnect: what a node does last with a peer."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from .._context import run_in
from .._session import Session
from ..connection import Connection, DisconnectOrigin


class OnDisconnect(Protocol):
    """Opt in with `Node.enable_on_disconnect`."""

    def on_disconnect(self, connection: Connection, origin: DisconnectOrigin, /) -> Coroutine[Any, Any, None]:
        """Called exactly once for each connection that was established, while it still is in `Node.connections`.

        It begins when `on_connect` has ended. After an orderly end it may send last words; `Node.disconnect` returns
        after it. It is cancelled at the timeout given to `enable_on_disconnect` or when the grace period is over. An
        exception is logged.
        """
        ...


async def run_on_disconnect(session: Session, hook: OnDisconnect, timeout: float) -> None:
    """Run the hook for one connection."""
    place, connection, call = "on_disconnect", session.connection, session.report.call
    origin = connection.origin
    assert origin is not None
    session.runs_user_code()
    with session.begin_phase(timeout) as scope:
        run = lambda: call(place, hook.on_disconnect, connection, origin, peer=session.addr)  # noqa: E731
        await run_in(session.context, run)
    if scope.cancelled_caught:
        session.report.info(f"{place} was given up: it took too long", session.addr)
