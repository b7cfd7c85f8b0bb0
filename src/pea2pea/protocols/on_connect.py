"""OnConnect: what a node does first with a new peer."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from anyio import CancelScope, Event, TaskHandle
from anyio.lowlevel import checkpoint

from .._context import run_in
from .._session import Session
from ..connection import Connection, DisconnectOrigin


class OnConnect(Protocol):
    """Opt in with `Node.enable_on_connect`."""

    def on_connect(self, connection: Connection, /) -> Coroutine[Any, Any, None]:
        """Called once the connection is in `Node.connections`, maybe after `Node.connect` has returned.

        No message is processed before it waits for something or returns, so what it has sent until then goes out
        before any answer. From there on it runs beside reading.

        An exception ends the connection (origin ON_CONNECT). The end of the connection cancels it, unless it was
        enabled with `abortable=False`: then the end waits for it, within the grace period. `on_disconnect` begins when
        it has ended. It is called also if the connection ends at once; then the first wait is cancelled.
        """
        ...


class Greeting:
    """The run of `on_connect` for one connection."""

    def __init__(self, session: Session, hook: OnConnect, *, abortable: bool) -> None:
        self._session = session
        self._hook = hook
        self._abortable = abortable
        self._first_wait = Event()
        self._task: TaskHandle[None] = session.start_task(self._run, f"pea2pea on_connect {session.connection}")

    async def _run(self) -> None:
        session = self._session
        try:
            call, hook, connection = session.report.call, self._hook.on_connect, session.connection
            run = lambda: call("on_connect", hook, connection, peer=session.addr)  # noqa: E731
            if await run_in(session.context, run, self._first_wait.set) is not None:
                session.end(DisconnectOrigin.ON_CONNECT)
        finally:
            self._first_wait.set()

    async def wait_begun(self) -> None:
        """Wait until the hook has run to its first wait, or has ended."""
        await self._first_wait.wait()

    def cancel_if_abortable(self) -> None:
        """Cancel the hook, since the connection ends."""
        if self._abortable:
            self._task.cancel()

    async def wait_ended(self) -> None:
        """Wait until the hook has ended."""
        for _ in range(3):
            if self._first_wait.is_set():
                await self._task.wait()
                return
            await checkpoint()
        with CancelScope() as scope:  # its task was cancelled before it began, and never ends (asyncio)
            if self._abortable:
                scope.cancel()
            await self._run()

    def give_up(self) -> None:
        """Cancel the hook, since the grace period is over."""
        self._task.cancel()
        self._session.report.info("on_connect was given up: the grace period is over", self._session.addr)
