"""The node: listens, dials, looks after its connections, and shuts down.

    Node.__asynccontextmanager__        the block: a task group that holds one task, `_manage`, shielded
      _manage                           three groups, ended from the inside out
        services                        accept loop, flusher, idle watch
          background                    what users start
            lives                       one task a connection: `_run` = set up, `_live`, close, remove

Rule 1: whatever is done to a connection is done by its own task; everybody else only sets it going (`Link.end`).
Rule 2: a slot that was reserved is released by the task that runs the connection, in its `finally`.
Rule 3: nothing of the user's runs outside `Reporter.call`, or a place that judges its exceptions the same way.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from contextvars import Context, copy_context
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import anyio
from anyio.abc import SocketAttribute
from anyio.lowlevel import cancel_shielded_checkpoint, checkpoint
from typing_extensions import TypeVar, TypeVarTuple, Unpack

from ._address import Address, canonical, checked, is_local
from ._admission import Admission, ConnectingView, ConnectionsView
from ._report import Reporter, background_task, interruption
from .config import Config, at_least_one, needs, seconds
from .connection import Connection, DisconnectOrigin, Link, Peer, Side, address_of, current_link
from .errors import AlreadyConnectedError, ConnectionLimitError, NodeClosedError, NodeError, SelfConnectionError
from .protocols.handshake import Handshake, shake_hands
from .protocols.on_connect import Greeter, OnConnect
from .protocols.on_disconnect import OnDisconnect, take_leave
from .protocols.reading import Discarder, Reader, Reading, notice_end
from .protocols.writing import Flusher, Outbox, Writer, Writing
from .stats import Heuristics, Stats
from .transport import Listener, TCPStream, TCPTransport, Transport, close_notify, is_stream

if TYPE_CHECKING:
    from anyio.abc import ByteStream, TaskGroup

# The names are for those who read a type checker's message; with a default, it names the method at fault, too.
Made_by_decoder_and_taken_by_process_message = TypeVar("Made_by_decoder_and_taken_by_process_message", default=Any)
Taken_by_encoder = TypeVar("Taken_by_encoder", default=Any)
Ts = TypeVarTuple("Ts")

_numbers = count()
_CLOSING = 0.1  # seconds for closing a stream that is not the library's, after all goodbyes
_BACK_OFF_MIN, _BACK_OFF_MAX = 0.05, 1.0  # seconds between two tries to accept


class _SetUp:
    """A connection that is being set up, and whoever waits for that."""

    def __init__(self, link: Link | None, dialled: Address | None) -> None:
        self.link = link
        self.dialled = dialled
        self.timeout: float = math.inf  # of the dial, for each address
        self.local_addr: Address | None = None  # of the dialling socket
        self.caller = current_link.get()  # in whose hook `connect` was called
        self.scope: anyio.CancelScope | None = None  # of its task, while that sets up
        self.error: Exception | None = None
        self.done: anyio.Event | None = None  # for who waits

    def cancel(self, error: Exception) -> None:
        """Let it come to nothing; the first reason is the one that is told."""
        self.error = self.error or error
        if self.scope is not None:
            self.scope.cancel()


class _Binding(Protocol):
    """A transport that can bind the socket with which it dials."""

    async def dial(self, addr: Address, /, *, local_addr: Address) -> ByteStream: ...


class Node(anyio.AsyncContextManagerMixin):
    """A peer-to-peer node: starts, ends and maintains connections; what they say is up to the enabled protocols.

    It is used once, as `async with node:`, which owns every task of the node: leaving the block shuts the node down
    gracefully, and what was raised in the block comes out as it is. Nothing here is thread-safe.

    A `SystemExit` or `KeyboardInterrupt`, raised in the block or in a hook, a codec or a background task, shuts the
    node down gracefully, too, a second one at once. It comes out of `async with`, in place of anything else; the
    block itself is cancelled. So a hook may end the program with `sys.exit()`. Any other exception of a hook harms
    its own connection at the most. (Raised in a task that is not the node's, asyncio lets such an exception out of
    its event loop, and cancels all tasks, also the node's: then the sockets are closed, but not every hook is
    called.)

    config: what it was made with; it does not change.
    transport (when it is made): where byte streams come from; TCP by default.
    name: the name given in the config, or a number of its own.
    stats: what went over all its connections, past ones included.
    heuristics: counters of what the application cannot see.
    connections: the established connections by the peers' addresses: a live, read-only view, which iterates over a
        snapshot, so that a loop over it may await.
    connecting: the addresses of connections that are being set up: a live, read-only view, likewise.
    """

    def __init__(self, config: Config = Config(), *, transport: Transport | None = None) -> None:  # noqa: B008  # frozen
        if not isinstance(cast("object", config), Config):
            raise TypeError(f"config must be a Config, not {config!r}")
        self.config: Final = config
        self.name: Final = str(next(_numbers)) if config.name is None else config.name
        self.stats: Final = Stats()
        self.heuristics: Final = Heuristics()
        self._admission = Admission(config)
        self.connections: Final[Mapping[Address, Connection]] = ConnectionsView(self._admission)
        self.connecting: Final[AbstractSet[Address]] = ConnectingView(self._admission)
        self._report = Reporter(self.name, self.heuristics, self._give_up)
        self._transport: Transport = TCPTransport() if transport is None else transport
        self._handshake: tuple[Handshake, float] | None = None
        self._reader: Callable[[Link], Reader[Any]] | None = None
        self._idle_timeout: float | None = None
        self._writer: Callable[[Link], Writer[Any]] | None = None
        self._flusher = Flusher()
        self._on_connect: tuple[OnConnect, bool] | None = None
        self._on_disconnect: tuple[OnDisconnect, float] | None = None
        self._services: TaskGroup | None = None
        self._background: TaskGroup | None = None
        self._lives: TaskGroup | None = None
        self._context: Context = copy_context()
        self._entered = False
        self._closing = False
        self._closing_by = math.inf  # when it should be over
        self._interrupted = False
        self._fatal: BaseException | None = None  # what comes out of the block, and was not raised in it
        self._abandon: Callable[[], None] = lambda: None
        self._setups: dict[_SetUp, None] = {}  # in order, so that the oldest can be found
        self._running_services: set[str] = set()
        self._starting = False
        self._listener: Listener | None = None
        self._accepting: anyio.CancelScope | None = None
        self._room: anyio.Event | None = None  # where the accept loop waits for a slot
        self._loops: dict[tuple[Address, Address], Link] = {}  # own dials that might end at our own listener

    # What there is to see

    @property
    def listening_addr(self) -> Address | None:
        """Where it listens; None while it does not."""
        return None if self._listener is None else self._listener.addr

    def __repr__(self) -> str:
        state = (
            "new" if not self._entered else "closed" if self._is_closed else "closing" if self._closing else "running"
        )
        where = self.listening_addr
        listening = "" if where is None else f", listening at {where[0]}:{where[1]}"
        size = len(self.connections)
        return f"<Node {self.name}, {state}{listening}, {size} connection{'s' * (size != 1)}>"

    # The protocols

    def enable_handshake(self, handshake: Handshake, *, timeout: float = 5.0) -> None:
        """Let `handshake` decide about every connection from now on, within `timeout` seconds."""
        self._enabling("handshake", self._handshake, handshake, "perform_handshake")
        seconds("timeout", timeout)
        self._handshake = handshake, timeout

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
        self._enabling("reading", self._reader, reading, "decoder", "process_message")
        if drop_beyond is not None:
            at_least_one("drop_beyond", drop_beyond)
        if idle_timeout is not None:
            seconds("idle_timeout", idle_timeout)
        self._idle_timeout = idle_timeout
        grace = self.config.grace_period
        self._reader = lambda link: Reader(link, reading, drop_beyond=drop_beyond, grace=grace)

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
        self._enabling("writing", self._writer, writing, "encoder")
        at_least_one("queue_depth", queue_depth)
        at_least_one("queue_bytes", queue_bytes)
        seconds("timeout", timeout)
        writers: dict[Peer, Writer[Taken_by_encoder]] = {}

        def writer(link: Link) -> Writer[Taken_by_encoder]:
            encoder = writing.encoder(link)
            return Writer(link, encoder, self._flusher, writers, depth=queue_depth, limit=queue_bytes, timeout=timeout)

        self._writer = writer
        return Outbox(writers)

    def enable_on_connect(self, hook: OnConnect, *, abortable: bool = True) -> None:
        """Call `hook` for every connection that is established from now on.

        It is cancelled when the connection ends; with `abortable=False` the end waits for it, within the grace period.
        """
        self._enabling("on_connect", self._on_connect, hook, "on_connect")
        self._on_connect = hook, abortable

    def enable_on_disconnect(self, hook: OnDisconnect, *, timeout: float = 3.0) -> None:
        """Call `hook` when a connection ends that is established from now on, for `timeout` seconds at the most."""
        self._enabling("on_disconnect", self._on_disconnect, hook, "on_disconnect")
        seconds("timeout", timeout)
        self._on_disconnect = hook, timeout

    def _enabling(self, what: str, already: object, given: object, *methods: str) -> None:
        if already is not None:
            raise RuntimeError(f"{what} is enabled already; a node has one of each protocol")
        needs(f"enable_{what} needs", given, *methods)

    # The block

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Node, None]:
        if self._entered:
            raise RuntimeError(f"{self!r} was entered before; a node is used once, make a new one")
        self._entered = True
        self._context = copy_context()
        self._stop = anyio.Event()
        self._closed = anyio.Event()
        body_error: BaseException | None = None
        try:
            async with anyio.create_task_group() as group:
                self._group = group
                ready = anyio.Event()
                group.start_soon(self._manage, ready, name=f"pea2pea node {self.name}")
                try:
                    with anyio.CancelScope(shield=True):  # `group.start` would wait for ever if it were cancelled
                        await ready.wait()
                    yield self
                except BaseException as error:  # noqa: BLE001  # it is raised again, outside of the group
                    body_error = error
                    if interruption(error) is not None:
                        self._interrupt()
                try:
                    self._begin_to_close()
                    with anyio.CancelScope(shield=True):
                        if ready.is_set():  # else asyncio has cancelled us, and perhaps `_manage` before it began
                            await self._closed.wait()
                except BaseException:
                    self._abandon()
                    raise
        except BaseException as error:
            # Trio raises KeyboardInterrupt wherever the program happens to be, also where `_give_up` is not at hand
            self._fatal = self._fatal or interruption(error)
            if body_error is None and self._fatal is None:
                raise
        finally:
            self._closed.set()
        if self._fatal is not None:
            raise self._fatal
        if body_error is not None:
            raise body_error

    async def _manage(self, ready: anyio.Event) -> None:
        try:
            with anyio.CancelScope(shield=True) as scope:
                self._abandon = scope.cancel
                async with anyio.create_task_group() as self._services:
                    async with anyio.create_task_group() as self._background:
                        async with anyio.create_task_group() as self._lives:
                            ready.set()
                            await self._stop.wait()
                            self._end_all()  # again: who began it may have been interrupted
                        self._background.cancel_scope.cancel()
                    self._services.cancel_scope.cancel()
        finally:
            self._begin_to_close()
            for link in list(self._admission.established.values()):
                link.abort()
            try:
                with anyio.CancelScope(shield=True):  # what is left if asyncio has cancelled tasks before they began
                    await self.stop_listening()
                    for setup in list(self._setups):
                        await self._run(setup)
            finally:
                self._closed.set()

    @property
    def _is_closed(self) -> bool:
        return self._entered and self._closed.is_set()

    def _begin_to_close(self) -> None:
        if not self._closing:
            self._stop.set()
            self._closing_by = anyio.current_time() + self.config.grace_period
            self._closing = self._report.closing = True
            self._end_all()

    def _end_all(self) -> None:
        for setup in self._setups:
            setup.cancel(NodeClosedError(f"{self!r} was shut down meanwhile"))
        for link in list(self._admission.established.values()):
            link.end(DisconnectOrigin.SHUTDOWN)
            link.hurry(self._closing_by)
        if self._accepting is not None:
            self._accepting.cancel()

    def _opened(self) -> None:
        """Refuse what only a running node can do."""
        if not self._entered:
            raise RuntimeError(f"{self!r} is not running: use it inside of `async with node:`")
        if self._closing:
            raise NodeClosedError(f"{self!r} has shut down, or is about to")

    async def shut_down(self) -> None:
        """Shut down gracefully: stop listening, disconnect everybody (origin SHUTDOWN), end the background tasks.

        Returns when that is done, within the grace period as far as user code can be cancelled; called from inside
        a connection's hooks it only starts it. It may be called again, and from several tasks: they wait for the same
        shutdown. Cancelling it only stops the waiting. The block itself goes on; leaving it does the same.
        """
        if not self._entered:
            raise RuntimeError(f"{self!r} was never entered: there is nothing to shut down")
        self._begin_to_close()
        if self._in_own_hook():
            await cancel_shielded_checkpoint()  # which may be cancelled by now: the caller has its answer first
        else:
            await self._closed.wait()

    async def wait_closed(self) -> None:
        """Wait until the node has shut down, whoever asked for that. Cancelling it changes nothing."""
        if not self._entered:
            raise RuntimeError(f"{self!r} was never entered")
        await self._closed.wait()

    def _in_own_hook(self) -> bool:
        link = current_link.get()
        return link is not None and link.report is self._report

    def start_soon(
        self, func: Callable[[Unpack[Ts]], Awaitable[object]], *args: Unpack[Ts], name: object = None
    ) -> None:
        """Run `func(*args)` in the background until it is done or the node has disconnected everybody.

        An exception is logged and counted in `Heuristics.hook_errors`. Raises `NodeClosedError`.
        """
        self._opened()
        assert self._background is not None
        place = background_task(func)
        self._background.create_task(
            self._report.call(place, func, *args), name=name or place, context=self._context.copy()
        )

    def _give_up(self, error: BaseException) -> None:
        """What must go through ends the node, and comes out of the block as it is."""
        if not self._interrupted:
            self._fatal = error
        self._interrupt()

    def _interrupt(self) -> None:
        """End in order; the second time, at once."""
        if self._interrupted:
            self._abandon()
        else:
            self._interrupted = True
            self._begin_to_close()
        self._group.cancel_scope.cancel()

    def _serve(self, name: str, func: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start one of the node's own services, once."""
        if name not in self._running_services and self._services is not None:
            self._running_services.add(name)
            self._services.create_task(func(), name=f"pea2pea {name} {self.name}", context=self._context.copy())

    # Listening

    async def start_listening(self) -> Address:
        """Listen at `Config.listener_addr`, and return the address that was bound.

        Raises `OSError` if that fails, `RuntimeError` without an address or when it listens already. When it
        is cancelled, the node does not listen.
        """
        self._opened()
        config = self.config
        if config.listener_addr is None:
            raise RuntimeError("this node does not listen: Config.listener_addr is None")
        if self._listener is not None or self._starting:
            raise RuntimeError(f"{self!r} is listening already")
        self._starting = True
        try:
            listener = await self._transport.listen(
                config.listener_addr, backlog=config.listener_backlog, reuse_port=config.reuse_listener_port
            )
        finally:
            self._starting = False
        if self._closing or self._services is None:
            await listener.aclose()
            raise NodeClosedError(f"{self!r} was shut down meanwhile")
        self._listener = listener
        self._accepting = anyio.CancelScope()
        self._services.create_task(
            self._accept(listener, self._accepting), name=f"pea2pea listener {self.name}", context=self._context.copy()
        )
        self._report.debug("listening", listener.addr)
        return listener.addr

    async def stop_listening(self) -> None:
        """Accept nobody any more, and free the port. Connections, and those being set up, are left alone.

        It does nothing if the node does not listen. Cancelling it does not keep it from being done.
        """
        listener, self._listener = self._listener, None
        if listener is not None:
            if self._accepting is not None:
                self._accepting.cancel()
            with anyio.CancelScope(shield=True):
                await listener.aclose()
        else:
            await checkpoint()

    async def _accept(self, listener: Listener, scope: anyio.CancelScope) -> None:
        pause = _BACK_OFF_MIN
        try:
            with scope:
                while True:
                    while not self._admission.has_budget(Side.RESPONDER):
                        self._room = anyio.Event()
                        await self._room.wait()
                    try:
                        stream, addr = await listener.accept()
                    except Exception as error:  # noqa: BLE001  # an OSError, or a transport's bug: the node lives
                        if self._listener is not listener:
                            return
                        self.heuristics.accept_errors += 1
                        if isinstance(error, OSError):
                            self._report.info("cannot accept for now", None, error)
                        else:
                            self._report.bug("Listener.accept", error)
                        await anyio.sleep(pause)
                        pause = min(pause * 2, _BACK_OFF_MAX)
                        continue
                    pause = _BACK_OFF_MIN
                    await self._welcome(stream, addr)
                    await checkpoint()  # so that the first to come is the first to be established
        finally:
            if self._listener is listener:
                self._listener = None
                with anyio.CancelScope(shield=True):
                    await listener.aclose()

    async def _welcome(self, stream: ByteStream, addr: Address) -> None:
        try:
            if self._closing:  # it came in the very moment
                raise NodeClosedError(f"{self!r} is about to shut down")
            self._refuse_loop(stream, addr)
            self._admission.reserve(addr, Side.RESPONDER)
        except NodeError as error:
            self.heuristics.inbound_rejections += 1
            self._report.info("turned a peer away", addr, error)
            await self._close(stream)
        else:
            self._launch(_SetUp(self._link(stream, addr, Side.RESPONDER), None))

    def _link(self, stream: ByteStream, addr: Address, side: Side, dialled: Address | None = None) -> Link:
        return Link(addr, side, dialled, stream, self._report, self.stats)

    async def _close(self, stream: ByteStream) -> None:
        """Close a stream now, whatever it is and does."""
        if isinstance(stream, TCPStream):
            stream.close()
            return
        try:
            with suppress(Exception), anyio.move_on_after(_CLOSING):  # closing is all that is wanted
                await stream.aclose()
        except BaseException as error:  # noqa: BLE001  # a cancellation that is not ours, maybe in a group
            self._report.judge("aclose", error)

    # Dialling

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
        self._opened()
        setup = _SetUp(None, checked(addr))
        setup.timeout = self.config.connection_timeout if timeout is None else timeout
        seconds("timeout", setup.timeout)
        setup.local_addr = None if local_addr is None else checked(local_addr, "local_addr")
        return await self._set_up(setup)

    async def adopt(self, stream: ByteStream, addr: Address, side: Side) -> Connection:
        """Make a connection of a byte stream from anywhere, shake hands, and return the established connection.

        `addr` is the peer's, under which the connection is known; its host may be anything. The stream is the node's
        from here on: it is closed if the connection is not to be. For a TCP socket use `TCPTransport.wrap`; AnyIO's own
        TCP streams read ahead without a bound on asyncio. If the peer never closes a stream that is no TCP stream, its
        orderly end takes, and holds its slot for, the whole grace period.

        Raises what `connect` raises, and is cancelled like it.
        """
        try:
            self._opened()
            if side not in list(Side):
                raise TypeError(f"side must be a Side, not {side!r}")
            if not is_stream(stream):
                raise TypeError(f"adopt needs a byte stream, not {stream!r}; TCPTransport.wrap makes one of a socket")
            addr = checked(addr)
            self._admission.reserve(addr, side)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._close(stream)
            raise
        return await self._set_up(_SetUp(self._link(stream, addr, side), None))

    async def _set_up(self, setup: _SetUp) -> Connection:
        done = setup.done = anyio.Event()
        self._launch(setup)
        try:
            await done.wait()
        except BaseException:
            setup.cancel(NodeError("the set-up was cancelled"))
            with anyio.CancelScope(shield=True):
                await done.wait()
            raise
        if setup.error is not None:
            raise setup.error
        assert setup.link is not None
        return setup.link

    def _launch(self, setup: _SetUp) -> None:
        assert self._lives is not None
        self._setups[setup] = None
        peer = setup.dialled if setup.link is None else setup.link.addr
        self._lives.create_task(self._run(setup), name=f"pea2pea {self.name} {peer}", context=self._context.copy())

    async def _dial(self, setup: _SetUp, dialled: Address) -> Link:
        error: OSError | None = None
        for addr in await self._transport.resolve(dialled):
            while (ending := self._admission.established.get(addr)) is not None and ending.origin is not None:
                if ending is setup.caller:
                    where = f"{addr[0]}:{addr[1]}"
                    raise AlreadyConnectedError(f"the connection to {where} ends only when its hook has returned")
                await ending.wait_closed()
            self._refuse_self(addr)
            self._reserve(setup, addr)
            try:
                stream = await self._dial_one(setup, addr)
            except OSError as failure:
                self._admission.release(addr)
                error = failure
            except BaseException:
                self._admission.release(addr)
                raise
            else:
                return self._link(stream, addr, Side.INITIATOR, dialled)
        raise error or OSError(f"{dialled[0]!r} has no address")

    def _reserve(self, dial: _SetUp, addr: Address) -> None:
        """Take a slot for a dial; if there is none, from the oldest inbound peer that is still shaking hands."""
        try:
            self._admission.reserve(addr, Side.INITIATOR)
        except ConnectionLimitError as refusal:
            self.heuristics.connect_budget_rejections += refusal.limit == "max_connecting"
            if refusal.limit != "max_connections":
                raise
            for setup in self._setups:
                link = setup.link
                if setup.done is None and link is not None and link is not dial.caller and not link.gone:
                    break
            else:
                raise
            setup.cancel(refusal)
            self.heuristics.inbound_rejections += 1
            self._report.info("turned a peer away to have room for a dial", link.addr)
            self._remove(link)
            self._admission.reserve(addr, Side.INITIATOR)

    async def _dial_one(self, setup: _SetUp, addr: Address) -> ByteStream:
        with anyio.move_on_after(setup.timeout):
            if setup.local_addr is None:
                return await self._transport.dial(addr)
            return await cast("_Binding", self._transport).dial(addr, local_addr=setup.local_addr)
        raise TimeoutError(f"{addr[0]}:{addr[1]} did not answer within {setup.timeout} s")

    def _refuse_self(self, addr: Address) -> None:
        """An address of this machine, at the port where this node listens, is this node."""
        listening = self.listening_addr
        if listening is None or self.config.reuse_listener_port or addr[1] != listening[1]:
            return
        everywhere = listening[0] == "::" or (listening[0] == "0.0.0.0" and ":" not in addr[0])  # noqa: S104
        if addr == listening or (everywhere and is_local(addr[0])):
            raise SelfConnectionError(f"{addr[0]}:{addr[1]} is this very node")

    def _watch_for_loop(self, link: Link) -> None:
        """Remember a dial that might end at our own listener, and see whether it has."""
        listening = self.listening_addr
        if listening is None or link.side is Side.RESPONDER or link.addr[1] != listening[1]:
            return
        local = _local(link.base)
        if local is None:
            return
        link.names = local, link.addr
        self._loops[link.names] = link
        inbound = [setup.link for setup in self._setups] + [self._admission.established.get(local)]
        for other in inbound:
            if other is not None and not other.gone and other.addr == local and _local(other.base) == link.addr:
                self._drop(other)
                raise SelfConnectionError(f"{link.addr[0]}:{link.addr[1]} is this very node")

    def _refuse_loop(self, stream: ByteStream, addr: Address) -> None:
        """An inbound connection whose names are those of an outbound one, swapped, is our own dial."""
        if not self._loops:
            return
        local = _local(stream)
        link = None if local is None else self._loops.get((addr, local))
        if link is not None:
            self._drop(link)
            raise SelfConnectionError(f"{addr[0]}:{addr[1]} is this very node")

    def _drop(self, link: Link) -> None:
        """End a connection with ourselves, wherever it stands."""
        error = SelfConnectionError(f"{link.addr[0]}:{link.addr[1]} is this very node")
        for setup in self._setups:
            if setup.link is link:
                setup.cancel(error)
        link.end(DisconnectOrigin.READING, error, broken=True)

    # The life of a connection

    async def _run(self, setup: _SetUp) -> None:
        """The connection's task: whatever happens in it, the socket is closed and the slot given back."""
        met: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                setup.scope = tasks.cancel_scope
                link = await self._establish(setup, tasks)
                if link is not None:
                    await self._live(link)
                tasks.cancel_scope.cancel()
        except BaseException as error:  # noqa: BLE001  # of a stream, or our own, or a cancellation from outside
            met = self._report.judge("a connection's task", error, setup.link.addr if setup.link else setup.dialled)
        finally:
            link = setup.link
            try:
                if link is not None and not isinstance(link.base, TCPStream):
                    with anyio.CancelScope(shield=True):
                        await self._close(link.base)
            finally:
                if link is not None and not link.gone:
                    self._remove(link)
                self._settle(setup, met or NodeClosedError(f"{self!r} has shut down"))

    def _settle(self, setup: _SetUp, error: Exception | None) -> None:
        """The set-up is over, for better or worse."""
        if setup in self._setups:
            del self._setups[setup]
            setup.error = setup.error or error
            if setup.done is not None:
                setup.done.set()
            if self._room is not None and self._admission.has_budget(Side.RESPONDER):
                self._room.set()
                self._room = None

    def _remove(self, link: Link) -> None:
        if isinstance(link.base, TCPStream):
            link.base.close()
        if link.writer is not None:
            link.writer.fail()
        if link.names is not None:
            self._loops.pop(link.names, None)
        self._admission.release(link.addr)
        link.remove()

    async def _establish(self, setup: _SetUp, tasks: TaskGroup) -> Link | None:
        """Dial, if that is to be, and shake hands; None if nothing came of it."""
        if setup.error is not None:
            return None
        try:
            if setup.link is None:
                assert setup.dialled is not None
                setup.link = await self._dial(setup, setup.dialled)
            link = setup.link
            current_link.set(link)
            link.tasks, link.context = tasks, copy_context()
            self._watch_for_loop(link)
            if self._handshake is not None:
                link.stream = await shake_hands(link, *self._handshake)
        except Exception as failure:  # noqa: BLE001  # for whoever waits
            if setup.error is None:
                setup.error = failure
        if setup.error is not None:
            return None
        assert setup.link is not None
        setup.scope = None
        self._admission.establish(setup.link)
        self._settle(setup, None)
        return setup.link

    async def _live(self, link: Link) -> None:
        """From established to the last goodbye."""
        if isinstance(link.base, TCPStream):
            link.base.held = True
        leave_taking = self._on_disconnect
        greeter = self._equip(link)
        try:
            if link.reader is not None:
                await link.reader.run()
            elif link.origin is None:
                await notice_end(link)
        except BaseException as error:  # noqa: BLE001  # of a stream, or our own, or a cancellation from outside
            # AnyIO lets its own cancellation out where one from outside was swallowed before (asyncio)
            ours = isinstance(error, anyio.get_cancelled_exc_class()) and link.origin is not None
            if not ours or anyio.current_effective_deadline() == -math.inf:
                met = self._report.judge("a connection's task", error, link.addr)
                link.end(DisconnectOrigin.READING, met, broken=True)

        assert link.origin is not None
        link.hurry(anyio.current_time() + self.config.grace_period)
        self._report.debug(f"a connection ends: {link.origin.name}", link.addr)
        if greeter is not None:
            greeter.part()
        if link.broken and not isinstance(link.base, TCPStream):
            await self._close(link.base)
        if link.broken or link.draining:
            discarder = Discarder(link.stream)
            discarder.skip()
        else:
            discarder = self._discard(link, link.stream)
        if leave_taking is not None:
            await take_leave(link, *leave_taking)
        if greeter is not None:
            with anyio.CancelScope(deadline=link.deadline) as link.hook:
                await greeter.wait_done()
            if link.hook.cancelled_caught:
                self._report.info("on_connect was given up: the grace period is over", link.addr)
        if link.writer is not None:
            link.writer.close()
        if not link.broken:
            with anyio.CancelScope(deadline=link.deadline) as link.goodbye:
                await self._say_goodbye(link, discarder)
        if link.writer is not None and (lost := link.writer.fail()):
            self._report.unsent("queued messages were given up", link.addr, lost)
        link.tasks = None

    def _equip(self, link: Link) -> Greeter | None:
        """Start what the enabled protocols do for a connection; `on_connect` is among it."""
        greeter = None
        try:
            if self._writer is not None:
                self._serve("flusher", self._flusher.run)
                link.writer = self._writer(link)
        except BaseException as error:  # noqa: BLE001  # a user's bug ends its connection alone
            link.end(DisconnectOrigin.WRITING, self._report.judge("encoder", error, link.addr))
        try:
            if self._reader is not None and link.origin is None:
                if self._idle_timeout is not None:
                    self._serve("idle watch", self._watch_idle)
                link.reader = self._reader(link)
        except BaseException as error:  # noqa: BLE001  # likewise
            link.end(DisconnectOrigin.READING, self._report.judge("decoder", error, link.addr))
        if self._on_connect is not None and link.origin is None:
            hook, abortable = self._on_connect
            greeter = Greeter(link, hook, abortable=abortable)
            link.spawn(greeter.run(), f"pea2pea on_connect {link.addr}")
        return greeter

    async def _say_goodbye(self, link: Link, discarder: Discarder) -> None:
        """Flush, end the stream, and let what was sent arrive before the socket is closed."""
        if link.writer is not None:
            await link.writer.wait_flushed()
        stream, base = link.stream, link.base
        try:
            try:
                await stream.send_eof()
            except (NotImplementedError, AttributeError):
                # no half-close (TLS): the wrapper says goodbye, then what it wraps does
                await discarder.stop()
                if not link.draining and close_notify(link):
                    discarder = self._discard(link, stream)
                    await self._linger(link, discarder)
                    await discarder.stop()
                else:
                    with suppress(Exception):  # that it has trouble must not cut off what is on its way
                        await stream.aclose()
                if stream is base or not isinstance(base, TCPStream):
                    return
                await base.send_eof()
                await self._linger(link, self._discard(link, base))
            else:
                await self._linger(link, discarder)
                if stream is not base:
                    await discarder.stop()
                    await stream.aclose()
        except Exception as error:  # noqa: BLE001  # the peer is gone before we are
            self._report.debug("a goodbye was cut short", link.addr, error)

    @staticmethod
    def _discard(link: Link, stream: ByteStream) -> Discarder:
        """Throw away what comes from now on."""
        discarder = Discarder(stream)
        link.spawn(discarder.run(), f"pea2pea discarder {link.addr}")
        return discarder

    async def _linger(self, link: Link, discarder: Discarder) -> None:
        """Until the peer has closed, too, or is silent and has confirmed all that was sent."""
        base = link.base
        quiet = min(_QUIET, self.config.grace_period / 10)
        pause = quiet / 16
        silent = 0.0
        while not discarder.is_done:
            taken = discarder.taken
            with anyio.move_on_after(pause):
                await discarder.wait_done()
            confirmed = isinstance(base, TCPStream) and base.unacknowledged() == 0
            silent = silent + pause if confirmed and discarder.taken == taken else 0.0
            if silent >= quiet:
                return
            pause = min(pause * 2, quiet / 2)

    async def _watch_idle(self) -> None:
        """End the connections on which nothing complete has come for too long."""
        timeout = self._idle_timeout
        assert timeout is not None
        while True:
            due = self._end_idle(timeout)
            await anyio.sleep(max(due - monotonic(), timeout / 64))

    def _end_idle(self, timeout: float) -> float:
        """End those that are due; returns when the next one will be."""
        now = monotonic()
        earliest = now + timeout
        for link in list(self._admission.established.values()):
            if link.reader is None or link.origin is not None:
                continue
            due = link.reader.quiet_since + timeout
            if due <= now:
                self.heuristics.idle_timeouts += 1
                self._report.info("a peer was silent for too long", link.addr)
                error = TimeoutError(f"no complete message from {link.addr[0]}:{link.addr[1]} for {timeout} s")
                link.end(DisconnectOrigin.READING, error, broken=True)
            earliest = min(earliest, due)
        return earliest

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
        link = self._admission.established.get(address_of(peer))
        if link is None or (isinstance(peer, Connection) and link is not peer):
            await checkpoint()
            return False
        caused = link.end(DisconnectOrigin.USER)
        if abort:
            link.abort()
        if current_link.get() is link:
            await cancel_shielded_checkpoint()  # as in `shut_down`
        else:
            await link.wait_closed()
        return caused


_QUIET = 0.2  # seconds of silence after which a peer that has confirmed everything is not waited for any longer


def _local(stream: ByteStream) -> Address | None:
    """The local end of a stream, if it is one of a socket with an IP address."""
    name = stream.extra(SocketAttribute.local_address, None)
    return canonical((name[0], name[1])) if isinstance(name, tuple) else None
