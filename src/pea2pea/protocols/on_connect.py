"""OnConnect: what a node does first with a new peer."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from anyio import CancelScope, Event

from ..connection import DisconnectOrigin

if TYPE_CHECKING:
    from ..connection import Connection, Link


class OnConnect(Protocol):
    """Opt in with `Node.enable_on_connect`."""

    def on_connect(self, connection: Connection, /) -> Coroutine[Any, Any, None]:
        """Called once the connection is in `Node.connections`, beside reading; it may send at once.

        An exception ends the connection (origin ON_CONNECT). It is cancelled when the connection ends, unless it was
        enabled with `abortable=False`: then the end waits for it, within the grace period.
        """
        ...


class Greeter:
    """Runs the hook of one connection."""

    def __init__(self, link: Link, hook: OnConnect, *, abortable: bool) -> None:
        self._link = link
        self._hook = hook
        self._abortable = abortable
        self._scope = CancelScope()
        self._done = Event()

    async def run(self) -> None:
        """The task."""
        try:
            with self._scope:
                link = self._link
                error = await link.report.call("on_connect", self._hook.on_connect, link, peer=link.addr)
                if error is not None:
                    link.end(DisconnectOrigin.ON_CONNECT)
        finally:
            self._done.set()

    def part(self) -> None:
        """The connection ends: so does an abortable hook."""
        if self._abortable:
            self._scope.cancel()

    async def wait_done(self) -> None:
        """Until the hook has returned."""
        await self._done.wait()
