"""OnDisconnect: what a node does last with a peer."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from anyio import current_time, move_on_at

if TYPE_CHECKING:
    from ..connection import Connection, DisconnectOrigin, Link


class OnDisconnect(Protocol):
    """Opt in with `Node.enable_on_disconnect`."""

    def on_disconnect(self, connection: Connection, origin: DisconnectOrigin, /) -> Coroutine[Any, Any, None]:
        """Called exactly once for each connection that was established, while it still is in `Node.connections`.

        After an orderly end it may send last words; `Node.disconnect` returns after it. It is cancelled at the
        timeout given to `enable_on_disconnect` or when the grace period is over. An exception is logged.
        """
        ...


async def take_leave(link: Link, hook: OnDisconnect, timeout: float) -> None:
    """Run the hook of one connection."""
    assert link.origin is not None
    place = "on_disconnect"
    with move_on_at(min(current_time() + timeout, link.deadline)) as link.hook:
        await link.report.call(place, hook.on_disconnect, link, link.origin, peer=link.addr)
    if link.hook.cancelled_caught:
        link.report.info(f"{place} was given up: it took too long", link.addr)
