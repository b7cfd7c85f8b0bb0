"""Connections come to be: accept, adopt, and the set-up that they share with a dial (see `_dialling`).

Rule: a slot that is reserved for a connection is released here, once: by the task that runs the connection, in its
`finally`, or where that task could not be started.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import Any, TypeAlias, cast

import anyio
from anyio import CancelScope, Event, create_task_group, get_cancelled_exc_class, get_current_task
from anyio.abc import ByteStream, TaskGroup
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint

from ._address import Address, checked, show
from ._admission import Admission
from ._closing import close_stream
from ._life import Protocols, run_established
from ._report import Reporter
from ._self_connection import Mirror, self_connection
from ._session import Session, State
from ._tasks import Tasks, start_in
from .config import Config
from .connection import Connection, DisconnectOrigin, Side
from .errors import ConnectionLimitError, NodeClosedError, NodeError
from .protocols.handshake import run_handshake
from .stats import Stats
from .transport import Listener, TCPStream, Transport

_BACK_OFF_MIN, _BACK_OFF_MAX = 0.05, 1.0  # seconds between two tries to accept
_ACCEPTED_AT_ONCE = 8  # connections, before the event loop gets its turn

Caller: TypeAlias = Callable[[], Session | None]
"""Finds the connection in whose hooks `connect` was called; that takes a while, and is seldom needed."""


@dataclass(slots=True)
class Shared:
    """What the parts of a node share."""

    config: Config
    report: Reporter
    admission: Admission
    totals: Stats
    protocols: Protocols
    transport: Transport
    context: Context  # captured when the node was entered
    hook_tasks: dict[int, Session] = field(
        default_factory=dict[int, Session]
    )  # which task runs the hooks of which connection
    mirror: Mirror = field(default_factory=Mirror)

    def current_session(self) -> Session | None:
        """Return the connection in whose hooks the current task is."""
        return self.hook_tasks.get(get_current_task().id)


class Attempt:
    """A connection that is being set up, and the caller that waits for it."""

    __slots__ = ("begun", "coro", "done", "error", "over", "session")

    def __init__(self, session: Session, done: Event | None) -> None:
        self.session = session
        self.done = done  # for the caller; None: a peer has dialled
        self.error: Exception | None = None
        self.begun = False  # its task runs
        self.over = False  # its task only waits for those of the connection, which are cancelled
        self.coro: Coroutine[Any, Any, None] | None = None  # of its task

    def fail(self, error: Exception | None) -> None:
        """Record an error; the first one is the one reported."""
        self.error = self.error or error

    def cancel(self, error: Exception) -> None:
        """Abort the attempt, unless the connection is established by now."""
        if self.session.state is not State.OPENING:
            return
        if self.done is None and self.error is None:
            self.session.report.heuristics.inbound_rejections += 1
        self.fail(error)
        if self.session.tasks is not None:
            self.session.tasks.cancel_scope.cancel()


class Connector:
    """Sets up connections, and runs them: one task each."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._attempts: dict[Attempt, None] = {}  # in order, so that the oldest can be found
        self._tasks: TaskGroup | None = None
        self.on_slot_freed: Callable[[], None] | None = None
        """Called when a set-up has ended."""

    def open(self, tasks: TaskGroup) -> None:
        """Run connections in that task group from now on."""
        self._tasks = tasks

    # Ways in

    async def adopt(self, stream: ByteStream, addr: Address, side: Side, listening: Address | None) -> Connection:
        """Set up a connection of a stream; see `Node.adopt`."""
        try:
            self._shared.admission.reserve(addr, side)
        except NodeError:
            await close_stream(stream, self._shared.report)
            raise
        return await self.set_up(stream, addr, side, None, listening)

    def admit(self, stream: ByteStream, addr: Address) -> None:
        """Set up a connection that a peer has dialled; raise `NodeError` if there is no room for it."""
        shared = self._shared
        if shared.report.closing:
            raise NodeClosedError("the node is about to shut down")
        ours = shared.mirror.other_end(stream)
        if ours is not None:
            self._drop_loop(ours)
            raise self_connection(addr)
        shared.admission.reserve(addr, Side.RESPONDER)
        shared.report.debug("accepted a connection", addr)
        self._launch(Attempt(self._session(stream, addr, Side.RESPONDER, None), None))

    async def set_up(
        self, stream: ByteStream, addr: Address, side: Side, dialled: Address | None, listening: Address | None
    ) -> Connection:
        """Run a connection whose slot is reserved; return it once it is established."""
        session = self._session(stream, addr, side, dialled)
        attempt = Attempt(session, Event())
        assert attempt.done is not None
        try:
            self._watch_for_loop(session, listening)
            self._launch(attempt)
        except Exception:
            self._release(session)
            session.finish()
            await close_stream(session.base, session.report)
            raise
        try:
            await attempt.done.wait()
        except BaseException:
            attempt.cancel(NodeError("the set-up was cancelled"))
            with CancelScope(shield=True):
                await attempt.done.wait()
            attempt.error = None  # its traceback has the attempt
            raise
        error, attempt.error = attempt.error, None
        if error is None:
            return session.connection
        try:
            raise error
        finally:  # its traceback has this frame, which must not keep it
            del error

    # Slots

    def reserve(self, addr: Address, caller: Caller) -> None:
        """Take a slot for a dial; if there is none, from the oldest inbound set-up, but not from `caller`'s."""
        shared = self._shared
        try:
            shared.admission.reserve(addr, Side.INITIATOR)
        except ConnectionLimitError as refusal:
            shared.report.heuristics.connect_budget_rejections += refusal.limit == "max_connecting"
            if refusal.limit != "max_connections":
                raise
            for attempt in self._attempts:
                session = attempt.session
                if attempt.done is None and session is not caller() and not session.released:
                    break
            else:
                raise
            attempt.cancel(NodeError("the slot was needed for a dial"))
            shared.report.info("dropped a pending inbound connection to make room for an outbound one", session.addr)
            self._release(session)
            shared.admission.reserve(addr, Side.INITIATOR)

    # Self-connections

    def _watch_for_loop(self, session: Session, listening: Address | None) -> None:
        """Refuse a dial that has ended at this node's own listener."""
        if listening is None:
            return
        other = self._shared.mirror.watch(session, listening[1], self._find)
        if other is not None:
            self._drop_loop(other)
            raise self_connection(session.addr)

    def _find(self, addr: Address) -> Session | None:
        for attempt in self._attempts:
            if attempt.session.addr == addr:
                return attempt.session
        return self._shared.admission.established.get(addr)

    def _drop_loop(self, session: Session) -> None:
        """End a connection with ourselves, wherever it stands."""
        error = self_connection(session.addr)
        for attempt in self._attempts:
            if attempt.session is session:
                attempt.cancel(error)
                return
        session.end(DisconnectOrigin.READING, error, broken=True)

    # The task of a connection

    def _session(self, stream: ByteStream, addr: Address, side: Side, dialled: Address | None) -> Session:
        shared = self._shared
        return Session(
            (addr, side, dialled),
            stream,
            shared.report,
            shared.totals,
            shared.context.copy(),
            shared.hook_tasks,
            shared.config.grace_period,
        )

    def _launch(self, attempt: Attempt) -> None:
        session = attempt.session
        if self._shared.report.closing or self._tasks is None:
            raise NodeClosedError("the node was shut down meanwhile")
        self._attempts[attempt] = None
        name = f"pea2pea {self._shared.report.node} {show(session.addr)}"
        coro = start_in(self._tasks, self._run(attempt), name, session.context).coro
        if not attempt.begun:  # no eager task (asyncio)
            attempt.coro = coro

    async def _run(self, attempt: Attempt) -> None:
        """Be the connection's task: whatever happens in it, the socket is closed and the slot released."""
        try:  # at once: trio raises KeyboardInterrupt anywhere
            attempt.begun, attempt.coro = True, None
            session = attempt.session
            if not isinstance(session.base, TCPStream):  # a user's
                session.runs_user_code()
            async with create_task_group() as tasks:
                tasks.cancel_scope.shield = True  # what cancels the other connections does not reach this one
                session.tasks = tasks
                try:
                    if await self._establish(attempt):
                        await run_established(session, self._shared.protocols)
                    attempt.over = True
                finally:
                    session.tasks = None  # nobody may start a task while the group is left, which still takes a turn
                if session.others:
                    tasks.cancel_scope.cancel()
        except BaseException as error:  # noqa: BLE001  # of a stream, or our own, or a cancellation from outside
            # A hook's use of `Task.cancel` keeps the group from catching its own cancellation (asyncio).
            if not attempt.over or not isinstance(error, get_cancelled_exc_class()):
                met = await self._shared.report.classify_soon("a connection's task", error, attempt.session.addr)
                if attempt in self._attempts and not self._shared.report.closing:
                    attempt.fail(met)
                del met
        finally:
            try:
                self._shared.hook_tasks.pop(attempt.session.task, None)
                if not isinstance(attempt.session.base, TCPStream):
                    await close_stream(attempt.session.base, self._shared.report, reset=attempt.session.reset)
            finally:
                try:
                    self._end_run(attempt)
                finally:  # as `call_at_end` does it, which costs more
                    self._end_run(attempt)

    def _end_run(self, attempt: Attempt) -> None:
        if attempt.session.state is not State.CLOSED:
            self._release(attempt.session)
            self._finish_setup(attempt, NodeClosedError("the node has shut down"))
            attempt.session.finish()

    async def _establish(self, attempt: Attempt) -> bool:
        """Shake hands; return whether the connection is established."""
        session, handshake = attempt.session, self._shared.protocols.handshake
        if attempt.error is not None:
            return False
        try:
            if handshake is not None:
                session.wrap(await run_handshake(session, *handshake))
        except Exception as failure:  # noqa: BLE001  # for the caller
            attempt.fail(failure)
        if attempt.error is not None:
            return False
        session.stats.created = anyio.current_time()
        self._shared.admission.establish(session)
        session.set_state(State.OPEN)
        self._finish_setup(attempt, None)
        return True

    def _finish_setup(self, attempt: Attempt, error: Exception | None) -> None:
        """Record the attempt's outcome and wake its caller."""
        if attempt not in self._attempts:
            return
        if attempt.done is None:
            attempt.error = None  # its traceback has the attempt
        else:
            attempt.fail(error)
            attempt.done.set()
        self._attempts.pop(attempt, None)
        if self.on_slot_freed is not None:
            self.on_slot_freed()

    def _release(self, session: Session) -> None:
        """Close the socket, and release the slot, if that is not done yet."""
        if session.released:
            return
        if session.writer is not None:
            session.writer.give_up()
        if isinstance(session.base, TCPStream):
            session.base.close(reset=session.reset)
        self._shared.mirror.forget(session)
        self._shared.admission.release(session.addr)
        session.released = True

    # Shutdown

    def end_all(self, deadline: float) -> None:
        """Abort all set-ups, and end all connections with origin SHUTDOWN."""
        for attempt in list(self._attempts):
            attempt.cancel(NodeClosedError("the node was shut down meanwhile"))
        for session in list(self._shared.admission.established.values()):
            session.end(DisconnectOrigin.SHUTDOWN)
            session.tighten_deadline(deadline)

    def abandon(self) -> None:
        """Close all connections at once, and cancel their hooks."""
        for session in self._sessions():
            session.abandon()

    def wake_callers(self) -> None:
        """Let those return that wait for a set-up, since no task is left that could end it."""
        for attempt in list(self._attempts):
            if attempt.done is not None:
                attempt.fail(NodeClosedError("the node has shut down"))
                attempt.done.set()

    async def drop_lost(self) -> bool:
        """Finish what a task was to run that was cancelled before it began (asyncio); return whether there was any."""
        suspects = [attempt for attempt in self._attempts if not attempt.begun]
        for _ in range(3):
            await cancel_shielded_checkpoint()
        lost = [attempt for attempt in suspects if not attempt.begun and attempt in self._attempts]
        for attempt in lost:
            await self._finish_lost(attempt)
        return bool(lost)

    async def _finish_lost(self, attempt: Attempt) -> None:
        session = attempt.session
        if attempt.coro is not None:
            attempt.coro.close()
        error = NodeError(f"the task of the connection with {show(session.addr)} was cancelled before it began")
        if not self._shared.report.closing:
            self._shared.report.bug("a connection's task", error, session.addr)
        await close_stream(session.base, session.report)
        self._release(session)
        session.finish()
        self._finish_setup(attempt, error)

    async def finish_all(self) -> None:
        """Release whatever is left, after all tasks have ended."""
        for attempt in list(self._attempts):
            await self._finish_lost(attempt)
        for session in self._sessions():
            self._release(session)
            session.finish()

    def _sessions(self) -> list[Session]:
        return [*(attempt.session for attempt in self._attempts), *self._shared.admission.established.values()]


class Acceptor:
    """Listens, and admits the peers that dial."""

    def __init__(self, shared: Shared, connector: Connector) -> None:
        self._shared = shared
        self._connector = connector
        self._starting = False
        self._listener: Listener | None = None
        self._scope: CancelScope | None = None
        self._slot_freed: Event | None = None
        connector.on_slot_freed = self._on_slot_freed

    @property
    def addr(self) -> Address | None:
        """Where it listens; None while it does not."""
        return None if self._listener is None else self._listener.addr

    async def start(self, tasks: Tasks) -> Address:
        """Listen; see `Node.start_listening`."""
        config, report = self._shared.config, self._shared.report
        if config.listener_addr is None:
            raise RuntimeError("this node does not listen: Config.listener_addr is None")
        if self._listener is not None or self._starting:
            raise RuntimeError(f"node {report.node} is listening already, or about to")
        self._starting = True
        try:
            listener = await self._shared.transport.listen(
                config.listener_addr, backlog=config.listener_backlog, reuse_port=config.reuse_listener_port
            )
        finally:
            self._starting = False
        if report.closing:
            await self._close(listener)
            raise NodeClosedError("the node was shut down meanwhile")
        self._listener = listener
        name, context = f"pea2pea listener {report.node}", self._shared.context.copy()

        def lost() -> None:
            if self._listener is listener:
                self._listener = None
            tasks.start(partial(self._close, listener), name, context, lost)

        self._scope = tasks.start(partial(self._accept, listener), name, context, lost)
        report.debug(f"listening at {show(listener.addr)}")
        return listener.addr

    def cancel(self) -> None:
        """Stop accepting connections; the accept loop frees the port."""
        if self._scope is not None:
            self._scope.cancel()

    async def stop_and_close(self) -> None:
        """Stop accepting connections, and free the port."""
        self.cancel()
        listener, self._listener = self._listener, None
        if listener is not None:
            await self._close(listener)
        else:
            await checkpoint()

    async def _close(self, listener: Listener) -> None:
        with CancelScope(
            shield=True, deadline=anyio.current_time() + max(self._shared.config.grace_period, 0.1)
        ) as scope:
            try:
                await listener.aclose()
            except Exception as error:  # noqa: BLE001  # a transport's bug
                self._shared.report.bug("Listener.aclose", error)
        if scope.cancelled_caught:
            self._shared.report.info("closing the listener took too long")

    async def _accept(self, listener: Listener) -> None:
        report = self._shared.report
        pause, turn = _BACK_OFF_MIN, cycle(range(_ACCEPTED_AT_ONCE))
        try:
            while True:
                await self._wait_for_slot()
                try:
                    accepted = await listener.accept()
                except Exception as error:  # noqa: BLE001  # an OSError, or a transport's bug: the node lives
                    if self._listener is not listener:
                        return
                    report.heuristics.accept_errors += 1
                    if isinstance(error, OSError):
                        report.info("cannot accept for now", None, error)
                    else:
                        report.bug("Listener.accept", error)
                    await anyio.sleep(pause)
                    pause = min(pause * 2, _BACK_OFF_MAX)
                    continue
                pause = _BACK_OFF_MIN
                await self._admit(accepted)
                if not next(turn):
                    await checkpoint()
        except BaseException as error:  # noqa: BLE001  # mostly a cancellation from outside (asyncio)
            await report.classify_soon("the listener's task", error)
        finally:
            if self._listener is listener:
                self._listener = None
                await self._close(listener)

    async def _admit(self, accepted: tuple[ByteStream, Address]) -> None:
        report = self._shared.report
        stream: object = accepted
        addr: Address | None = None
        try:
            stream, addr = accepted
            self._connector.admit(stream, checked(addr, "the peer's address"))
        except NodeError as error:
            report.heuristics.inbound_rejections += 1
            report.info("rejected an inbound connection", addr, error)
        except Exception as error:  # noqa: BLE001  # a transport's bug harms this one connection
            report.bug("Listener.accept", error)
        else:
            return
        await close_stream(cast("ByteStream", stream), report)

    async def _wait_for_slot(self) -> None:
        while not self._shared.admission.has_budget(Side.RESPONDER):
            self._slot_freed = Event()
            await self._slot_freed.wait()

    def _on_slot_freed(self) -> None:
        if self._slot_freed is not None and self._shared.admission.has_budget(Side.RESPONDER):
            self._slot_freed.set()
            self._slot_freed = None
