"""The node: its public face, the block that owns all tasks, and the shutdown.

    Node.__asynccontextmanager__        the block: a task group that holds one task, `_manage`
      _manage                           three groups, ended from the inside out
        services                        accept loop, flusher, idle watch, poller
          background                    what users start
            connections                 one task a connection, see `_connecting` and `_life`

Rule 1: whatever is done to a connection is done by its own task; everybody else only sets it going (`Session.end`).
Rule 2: what waits for a task waits for the task itself, or for an event that is set whichever way the task ends.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from itertools import count, cycle
from typing import Any, Final, cast

import anyio
from anyio import CancelScope, Event, current_effective_deadline, current_time, get_cancelled_exc_class
from anyio.abc import ByteStream, TaskGroup
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint
from typing_extensions import TypeVar, TypeVarTuple, Unpack

from ._address import Address, checked, show
from ._admission import Admission, ConnectingView, ConnectionsView
from ._closing import close_stream
from ._connecting import Acceptor, Connector, Shared
from ._dialling import Dialler
from ._life import Protocols
from ._poller import HAS_EPOLL, Poller
from ._report import Reporter, find_interrupt, name_background_task
from ._session import Session, State
from ._tasks import Tasks, call_at_end
from .config import Config, at_least_one, needs, seconds
from .connection import Connection, DisconnectOrigin, Peer, Side, address_of
from .errors import NodeClosedError, NodeError
from .protocols.handshake import Handshake
from .protocols.on_connect import OnConnect
from .protocols.on_disconnect import OnDisconnect
from .protocols.reading import JUST_NOW, Activity, Reader, Reading
from .protocols.writing import Flusher, Outbox, Writer, Writing
from .stats import Heuristics, Stats
from .transport import TCPTransport, Transport, default_transport, is_stream

# The names are for those who read a type checker's message; with a default, it names the method at fault, too.
Made_by_decoder_and_taken_by_process_message = TypeVar("Made_by_decoder_and_taken_by_process_message", default=Any)
Taken_by_encoder = TypeVar("Taken_by_encoder", default=Any)
Ts = TypeVarTuple("Ts")

_POLL = 0.05  # seconds between two looks at what was cancelled, once something was


node_numbers: ContextVar[Iterator[int]] = ContextVar("pea2pea_node_numbers", default=count())  # noqa: B039  # shared on purpose
"""The numbers of nodes without a name. A simulation counts its own, so that a run does not depend on those before."""


class Node(anyio.AsyncContextManagerMixin):
    """A peer-to-peer node: starts, ends and maintains connections; what they say is up to the enabled protocols.

    It is used once, as `async with node:`, which owns every task of the node: leaving the block shuts the node down
    gracefully, and what was raised in the block comes out as it is. The block is entered and left in one task.
    Nothing here is thread-safe.

    A `SystemExit` or `KeyboardInterrupt`, raised in the block or in a hook, a codec or a background task, shuts the
    node down gracefully, too, a second one at once. It comes out of `async with`, in place of anything else; the
    block itself is cancelled. So a hook may end the program with `sys.exit()`. The same holds for any other exception
    that is neither an `Exception` nor a cancellation: what `pytest.fail` raises, for example, fails the test also from
    a hook. An `Exception` of a hook harms its own connection at the most. (Raised in a task that is not the node's,
    asyncio lets a `SystemExit` or `KeyboardInterrupt` out of its event loop, and cancels all tasks, also the node's:
    then the sockets are closed, but not every hook is called.)

    `transport` is where byte streams come from; TCP by default.
    """

    def __init__(self, config: Config = Config(), *, transport: Transport | None = None) -> None:  # noqa: B008  # frozen
        if not isinstance(cast("object", config), Config):
            raise TypeError(f"config must be a Config, not {config!r}")
        self.config: Final[Config] = config
        """What it was made with; it does not change."""
        self.name: Final[str] = str(next(node_numbers.get())) if config.name is None else config.name
        """The name given in the config, or a number of its own."""
        self.stats: Final[Stats] = Stats()
        """What went over all its connections, past ones included."""
        self.heuristics: Final[Heuristics] = Heuristics()
        """Counters of what the application cannot see."""
        self._admission = Admission(config)
        self.connections: Final[Mapping[Address, Connection]] = ConnectionsView(self._admission)
        """The established connections by the peers' addresses: a live, read-only view.

        It iterates over a snapshot, so that a loop over it may await.
        """
        self.connecting: Final[AbstractSet[Address]] = ConnectingView(self._admission)
        """The addresses of connections that are being set up: a live, read-only view, likewise over a snapshot."""
        self._report = Reporter(self.name, self.heuristics, self._on_interrupt)
        self._protocols = Protocols()
        transport = transport or default_transport.get() or TCPTransport()
        context = copy_context()
        self._shared = Shared(config, self._report, self._admission, self.stats, self._protocols, transport, context)
        self._flusher = Flusher()
        self._run: _Run | None = None

    # What there is to see

    @property
    def listening_addr(self) -> Address | None:
        """Where it listens; None while it does not."""
        return None if self._run is None else self._run.acceptor.addr

    def __repr__(self) -> str:
        run = self._run
        state = "new" if run is None else "closed" if run.closed.is_set() else "closing" if run.closing else "running"
        where = self.listening_addr
        listening = "" if where is None else f", listening at {show(where)}"
        size = len(self.connections)
        return f"<Node {self.name}, {state}{listening}, {size} connection{'s' * (size != 1)}>"

    # The protocols

    def enable_handshake(self, handshake: Handshake, *, timeout: float = 5.0) -> None:
        """Let `handshake` decide about every connection from now on, within `timeout` seconds."""
        _check_enabling("handshake", self._protocols.handshake, handshake, "perform_handshake")
        seconds("timeout", timeout)
        self._protocols.handshake = handshake, timeout

    def enable_reading(
        self,
        reading: Reading[Made_by_decoder_and_taken_by_process_message],
        *,
        drop_beyond: int | None = None,
        idle_timeout: float | None = 60.0,
    ) -> None:
        """Let `reading` decode and process what peers send, on every connection from now on.

        While `process_message` is busy, a peer is slowed down by TCP. With `drop_beyond`, reading goes on instead, and
        so many messages wait at the most; what comes on top is dropped, counted in `Heuristics.dropped_messages`, and
        logged. A connection ends when no complete message has come for `idle_timeout` seconds while no handler was
        busy; None: it may be silent for ever (SO_KEEPALIVE is set anyway).
        """
        _check_enabling("reading", self._protocols.reading, reading, "decoder", "process_message")
        at_least_one("drop_beyond", drop_beyond, or_none=True)
        seconds("idle_timeout", idle_timeout, or_none=True)
        activity = None
        if idle_timeout is not None:
            activity = Activity()
            self._protocols.idle = idle_timeout, activity
        self._protocols.reading = lambda session: Reader(session, reading, drop_beyond, activity)

    def enable_writing(
        self,
        writing: Writing[Taken_by_encoder],
        *,
        queue_depth: int = 1024,
        queue_bytes: int = 262_144,
        timeout: float = 10.0,
    ) -> Outbox[Taken_by_encoder]:
        """Let messages be sent, on every connection from now on; the outbox is what to send them with.

        A peer's queue is full at `queue_depth` messages or `queue_bytes` bytes, whichever comes first. Each 64 KiB, or
        what is left, must be taken by the peer within `timeout` seconds, or the connection ends.
        """
        _check_enabling("writing", self._protocols.writing, writing, "encoder")
        at_least_one("queue_depth", queue_depth)
        at_least_one("queue_bytes", queue_bytes)
        seconds("timeout", timeout)
        writers: dict[Peer, Writer[Taken_by_encoder]] = {}

        def writer(session: Session) -> Writer[Taken_by_encoder]:
            encoder = writing.encoder(session.connection)
            return Writer(session, encoder, self._flusher, writers, queue_depth, queue_bytes, timeout)

        self._protocols.writing = writer
        return Outbox(writers, self.connecting)

    def enable_on_connect(self, hook: OnConnect, *, abortable: bool = True) -> None:
        """Call `hook` for every connection that is established from now on.

        It is cancelled when the connection ends; with `abortable=False` the end waits for it, within the grace period.
        """
        _check_enabling("on_connect", self._protocols.on_connect, hook, "on_connect")
        self._protocols.on_connect = hook, abortable

    def enable_on_disconnect(self, hook: OnDisconnect, *, timeout: float = 3.0) -> None:
        """Call `hook` when a connection ends that is established from now on, for `timeout` seconds at the most."""
        _check_enabling("on_disconnect", self._protocols.on_disconnect, hook, "on_disconnect")
        seconds("timeout", timeout)
        self._protocols.on_disconnect = hook, timeout

    # Connections

    async def start_listening(self) -> Address:
        """Listen at `Config.listener_addr`, and return the address that was bound.

        Raises `OSError` if that fails, `RuntimeError` without an address or when it listens already. When it
        is cancelled, the node does not listen.
        """
        run = self._require_running()
        return await run.acceptor.start(run.services)

    async def stop_listening(self) -> None:
        """Accept nobody any more, and free the port. Connections, and those being set up, are left alone.

        It does nothing if the node does not listen. Cancelling it does not keep it from being done.
        """
        await (checkpoint() if self._run is None else self._run.acceptor.stop_and_close())

    async def connect(
        self, addr: Address, *, timeout: float | None = None, local_addr: Address | None = None
    ) -> Connection:
        """Connect to an address, shake hands, and return the established connection.

        The host may be a name; then its addresses are tried in the system's order, and the connection's address is
        the one that answered. `timeout` stands in for `Config.connection_timeout`, in seconds. The dialling socket is
        bound to `local_addr` (port 0: any free one). A connection to the address that is just ending is waited for.
        That it returns means that this side is done; the other one may still refuse, then the connection ends with
        READING.

        Raises `OSError` (of the last address tried; `TimeoutError` after `Config.connection_timeout`),
        `HandshakeError`, `AlreadyConnectedError`, `ConnectionLimitError`, `SelfConnectionError` or `NodeClosedError`.

        When it is cancelled, what was begun is undone before it ends; a connection that was established in the very
        moment stays.
        """
        run = self._require_running()
        patience = self.config.connection_timeout if timeout is None else timeout
        seconds("timeout", patience)
        local_addr = None if local_addr is None else checked(local_addr, "local_addr")
        return await run.dialler.connect(checked(addr), patience, local_addr)

    async def adopt(self, stream: ByteStream, addr: Address, side: Side) -> Connection:
        """Make a connection of a byte stream from anywhere, shake hands, and return the established connection.

        `addr` is the peer's, under which the connection is known; its host may be anything. The stream is the node's
        from here on: it is closed if the connection is not to be. For a TCP socket use `TCPTransport.wrap`; AnyIO's own
        TCP streams read ahead without a bound on asyncio. Where a stream gives no `SocketAttribute.raw_socket`, nothing
        tells whether the peer has everything: unless the peer closes it, its orderly end takes, and holds its slot for,
        the whole grace period.

        Raises what `connect` raises, and is cancelled like it.
        """
        try:
            run = self._require_running()
            if side not in list(Side):
                raise TypeError(f"side must be a Side, not {side!r}")
            if not is_stream(stream):
                raise TypeError(f"adopt needs a byte stream, not {stream!r}; TCPTransport.wrap makes one of a socket")
            addr = checked(addr)
        except BaseException:
            with CancelScope(shield=True):
                await close_stream(stream, self._report)
            raise
        return await run.connector.adopt(stream, addr, side, self.listening_addr)

    async def disconnect(self, peer: Peer, *, abort: bool = False) -> bool:
        """Disconnect a peer; says whether this was what ended the connection.

        Returns once the connection is closed and removed: after its hook, and after all that was accepted for sending
        has been written, within the grace period. With `abort` the socket is closed at once, without flush or
        goodbye (a ban), and then the hook runs. Called from inside the connection's own hooks it only starts the end,
        which cancels `process_message`, and an abortable `on_connect`, at the next `await`. False, if there is no such
        connection or something else has ended it before. A host name finds nothing: connections are known by the IP
        address.

        Cancelling it only stops the waiting.
        """
        session = self._admission.established.get(address_of(peer))
        if session is None or (isinstance(peer, Connection) and session.connection is not peer):
            await checkpoint()
            return False
        caused = session.end(DisconnectOrigin.USER)
        if abort:
            session.abort()
        if self._shared.current_session() is session:
            await cancel_shielded_checkpoint()  # as in `shut_down`
        else:
            await session.wait_closed()
        return caused

    def start_soon(
        self, func: Callable[[Unpack[Ts]], Awaitable[object]], *args: Unpack[Ts], name: object = None
    ) -> None:
        """Run `func(*args)` in the background until it is done or the node has disconnected everybody.

        An exception is logged and counted in `Heuristics.hook_errors`. Raises `NodeClosedError`.
        """
        run, place = self._require_running(), name_background_task(func)
        run.start_background(lambda: self._report.call(place, func, *args), name or place)

    # The end

    async def shut_down(self) -> None:
        """Shut down gracefully: stop listening, disconnect everybody (origin SHUTDOWN), end the background tasks.

        Returns when that is done, within the grace period as far as user code can be cancelled; called from inside
        a connection's hooks it only starts it. It may be called again, and from several tasks: they wait for the same
        shutdown. Cancelling it only stops the waiting. The block itself goes on; leaving it does the same.
        """
        if self._run is None:
            raise RuntimeError(f"{self!r} was never entered: there is nothing to shut down")
        self._run.close()
        if self._shared.current_session() is not None:
            await cancel_shielded_checkpoint()  # which may be cancelled by now: the caller has its answer first
        else:
            await self._run.closed.wait()

    async def wait_closed(self) -> None:
        """Wait until the node has shut down, whoever asked for that. Cancelling it changes nothing."""
        if self._run is None:
            raise RuntimeError(f"{self!r} was never entered")
        await self._run.closed.wait()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Node, None]:
        if self._run is not None:
            raise RuntimeError(f"{self!r} was entered before; a node is used once, make a new one")
        self.stats.created = current_time()
        self._shared.context = copy_context()
        self._run = _Run(self._shared, self._flusher)
        async with self._run.block():
            yield self

    def _require_running(self) -> _Run:
        run = self._run
        if run is None or not run.running:
            raise RuntimeError(f"{self!r} is not running: use it inside of `async with node:`")
        if run.closing:
            raise NodeClosedError(f"{self!r} has shut down, or is about to")
        return run

    def _on_interrupt(self, error: BaseException) -> None:
        """Shut down on KeyboardInterrupt, SystemExit and their like, and re-raise it from `async with`."""
        assert self._run is not None
        self._run.interrupt(error)


def _check_enabling(what: str, already: object, given: object, *methods: str) -> None:
    if already is not None:
        raise RuntimeError(f"{what} is enabled already; a node has one of each protocol")
    needs(f"enable_{what} needs", given, *methods)


class _Run:
    """A node from the moment when its block is entered: its tasks, its services, its end."""

    def __init__(self, shared: Shared, flusher: Flusher) -> None:
        self.running = False  # it can be used
        self.closing = False
        self.closed = Event()
        self.services = Tasks()
        self.connector = Connector(shared)
        self.acceptor = Acceptor(shared, self.connector)
        self.dialler = Dialler(shared, self.connector, self.acceptor)
        self._background = Tasks()
        self._shared = shared
        self._report = shared.report
        self._flusher = flusher
        self._started: set[str] = set()  # services
        self._stop = Event()
        self._all_told = False  # what is to end has been set going
        self._deadline = math.inf  # when the shutdown gives up
        self._interrupted = False
        self._fatal: BaseException | None = None  # what comes out of the block, and was not raised in it
        self._block = CancelScope()  # which the block replaces by its own
        shared.protocols.start_services = self._start_services
        if HAS_EPOLL:
            shared.protocols.poller = poller = Poller()
            poller.start = lambda: self._start_service("poller", poller.run)

    # The block

    @asynccontextmanager
    async def block(self) -> AsyncGenerator[None]:
        """Own all tasks of the node; what the body raises comes out as it is."""
        body_error: BaseException | None = None
        manage = self._manage()
        try:
            async with anyio.create_task_group() as group:
                self._block = group.cancel_scope
                manager = group.create_task(manage, name=f"pea2pea node {self._report.node}")
                try:
                    while not self.running:
                        await cancel_shielded_checkpoint()
                        if self._block.cancel_called:
                            raise RuntimeError("the node's task was cancelled before it began")
                    yield
                except BaseException as error:  # noqa: BLE001  # it is raised again, outside of the group
                    body_error = error
                    if find_interrupt(error) is not None:
                        self.interrupt(None)
                try:
                    self.close()
                    with CancelScope(shield=True):
                        if self.running:
                            await manager.wait()
                except BaseException:
                    self.connector.abandon()
                    raise
        except BaseException as error:
            # Trio raises KeyboardInterrupt wherever the program happens to be, also where `interrupt` is not at hand
            self._fatal = self._fatal or find_interrupt(error)
            if body_error is None and self._fatal is None:
                raise
        finally:
            manage.close()  # if it was cancelled before it began
            await self._finish()
        if self._fatal is not None:
            raise self._fatal
        if body_error is not None:
            raise body_error

    async def _manage(self) -> None:
        try:
            async with self.services.group:
                with call_at_end(self.services.cancel):
                    async with self._background.group:
                        with call_at_end(self._background.cancel), call_at_end(self.connector.wake_callers):
                            async with anyio.create_task_group() as connections:
                                with call_at_end(self.close):
                                    self.connector.open(connections)
                                    self.running = True
                                    await self._wait_for_stop(connections)
        except get_cancelled_exc_class():
            if current_effective_deadline() == -math.inf:
                raise  # from outside (asyncio), it ends the node, but not the block
        finally:
            with call_at_end(self.connector.abandon):
                self.close()
            try:
                await self._finish()
            except get_cancelled_exc_class():  # likewise; whoever leaves the block finishes what is left
                if current_effective_deadline() == -math.inf:
                    raise

    async def _wait_for_stop(self, connections: TaskGroup) -> None:
        """Wait until the node is to end.

        A task that was cancelled from outside before it began cancels its group (asyncio), and harms nobody here. What
        else cancels a group, or the block, ends the node: an exception that has left a task.
        """
        scopes = [self.services.group.cancel_scope, self._background.group.cancel_scope, connections.cancel_scope]
        pause = math.inf
        while not self._stop.is_set():
            try:
                with CancelScope(shield=pause != math.inf, deadline=current_time() + pause):
                    await self._stop.wait()
            except get_cancelled_exc_class():
                if current_effective_deadline() != -math.inf:  # from outside (asyncio)
                    return
            pause = _POLL
            if self._is_cancelled():
                return
            lost = [await each.drop_lost() for each in (self.services, self._background, self.connector)]
            cancelled = [scope for scope in scopes if scope.cancel_called]
            if self._is_cancelled() or (cancelled and not any(lost)):
                return
            scopes = [scope for scope in scopes if scope not in cancelled]

    def _is_cancelled(self) -> bool:
        return self._block.cancel_called

    # Its services

    def start_background(self, func: Callable[[], Coroutine[Any, Any, object]], name: object) -> None:
        """Start a task of the user's; it ends when all connections have ended."""
        lost = NodeError(f"{name} was cancelled before it began")
        self._background.start(func, name, self._shared.context.copy(), lambda: self._report.bug(str(name), lost))

    def _start_services(self) -> None:
        """Start what the enabled protocols need."""
        protocols, started = self._shared.protocols, self._started
        if "flusher" not in started and protocols.writing is not None:
            self._start_service("flusher", self._flusher.run)
        if "idle watch" not in started and protocols.idle is not None:
            self._start_service("idle watch", partial(self._watch_idle, *protocols.idle))

    def _start_service(self, name: str, func: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if name not in self._started:
            self._started.add(name)
            self._run_service(name, func)

    def _run_service(self, name: str, func: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def keep_running() -> None:
            """Run the service again when something from outside has ended it."""
            steps: list[Callable[[], Awaitable[None]]] = [func, partial(anyio.sleep, _POLL)]
            for step in cycle(steps):
                try:
                    await step()
                except BaseException as error:  # noqa: BLE001  # a cancellation from outside, an interrupt, our own bug
                    await self._report.classify_soon(f"the {name}'s task", error)

        task, context = f"pea2pea {name} {self._report.node}", self._shared.context.copy()
        self.services.start(keep_running, task, context, lambda: self._run_service(name, func))

    async def _watch_idle(self, timeout: float, activity: Activity) -> None:
        """End the connections on which nothing complete has come for too long.

        It ticks only while messages come: silent connections cost one timer.
        """
        tick = timeout / 128
        while True:
            due = self._end_idle(timeout)
            activity.seen, activity.noted = False, Event()
            with anyio.move_on_after(max(due - current_time(), tick)):
                await activity.noted.wait()
                await anyio.sleep(tick)

    def _end_idle(self, timeout: float) -> float:
        """End those that are due; return when the next one will be."""
        now = current_time()
        earliest = now + timeout
        for session in list(self._shared.admission.established.values()):
            reader = session.reader
            if reader is None or session.state is not State.OPEN:
                continue
            if reader.quiet_since == JUST_NOW:
                reader.quiet_since = now  # late by a tick at the most, and never too early, however late this is called
            due = reader.quiet_since + timeout
            if due <= now:
                self._report.heuristics.idle_timeouts += 1
                self._report.info("a peer was silent for too long", session.addr)
                error = TimeoutError(f"no complete message from {show(session.addr)} for {timeout} s")
                session.end(DisconnectOrigin.READING, error, broken=True)
            earliest = min(earliest, due)
        return earliest

    # Its end

    def close(self) -> None:
        """Begin to shut down. Called again, it does what was left undone by a call that was interrupted."""
        if self._all_told:
            return
        self._stop.set()
        self._deadline = min(self._deadline, current_time() + self._shared.config.grace_period)
        self.closing = self._report.closing = True
        self.acceptor.cancel()
        self.dialler.cancel()
        self.connector.end_all(self._deadline)
        self._all_told = True

    def interrupt(self, error: BaseException | None) -> None:
        """Shut down gracefully, a second time at once; raise the first error from the block, and cancel its body."""
        if self._interrupted:
            self.connector.abandon()
        else:
            self._interrupted = True
            self._fatal = error
            self.close()
        self._block.cancel()

    async def _finish(self) -> None:
        """Release what is left, after all tasks have ended, or were to."""
        if not self.closed.is_set():
            with CancelScope(shield=True):
                await self.acceptor.stop_and_close()
                await self.connector.finish_all()
            self.services.finish()
            self._background.finish()
            self.closed.set()
