"""From an address or a host name to a connection: resolve it, dial, and go on to the next address.

Rule: a slot is reserved for each dial under way, and released here by a dial that fails or comes too late; the set-up
of the connection takes it over from the dial that succeeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from anyio import CancelScope, Event, create_task_group, current_time, move_on_after
from anyio.abc import ByteStream

from ._address import Address, show
from ._closing import close_stream
from ._connecting import Acceptor, Caller, Connector, Shared
from ._report import find_interrupt
from ._self_connection import self_connection
from .connection import Connection, Side
from .errors import AlreadyConnectedError, ConnectionLimitError, NodeClosedError, NodeError

T = TypeVar("T")

_STAGGER = 0.25  # seconds after which the next address of a name is dialled, too (RFC 8305, section 5)


class _Binding(Protocol):
    """A transport that can bind the socket with which it dials."""

    async def dial(self, addr: Address, /, *, local_addr: Address) -> ByteStream: ...


@dataclass(slots=True)
class _Limit:
    """How long one step of a dial may take."""

    scope: CancelScope
    timeout: float
    fresh: bool = True  # no time has passed since it began
    dialling: Address | None = None  # what it is about by now; None: still the name

    def begin(self, addr: Address) -> None:
        """Begin to dial that address, with the whole time."""
        self.dialling = addr
        if not self.fresh:
            self.scope.deadline = current_time() + self.timeout

    def stop(self) -> None:
        self.fresh = False
        self.scope.deadline = math.inf


class Dialler:
    """Dials addresses, and has the connections set up."""

    def __init__(self, shared: Shared, connector: Connector, acceptor: Acceptor) -> None:
        self._shared = shared
        self._connector = connector
        self._acceptor = acceptor
        self._scopes: dict[CancelScope, None] = {}

    async def connect(self, dialled: Address, timeout: float, local_addr: Address | None) -> Connection:
        """Dial an address, and set the connection up; see `Node.connect`."""
        candidates: list[Address] = []
        failure: Exception | None = None
        while candidates or failure is None:
            try:
                reach = partial(self._reach, dialled if failure is None else None, candidates, local_addr)
                stream, addr = await self._within(timeout, reach, dialled)
                return await self._connector.set_up(stream, addr, Side.INITIATOR, dialled, self._acceptor.addr)
            except NodeClosedError:
                raise
            except (OSError, NodeError) as error:
                failure = error
        try:
            raise failure
        finally:  # its traceback has this frame, which must not keep it
            del failure

    def cancel(self) -> None:
        """Abort all dials, since the node shuts down."""
        for scope in list(self._scopes):
            scope.cancel()

    async def _within(self, timeout: float, step: Callable[[_Limit], Coroutine[Any, Any, T]], dialled: Address) -> T:
        """Await a step; `NodeClosedError` if the node shuts down meanwhile, `TimeoutError` if it takes too long."""
        limit = _Limit(scope := move_on_after(timeout), timeout)
        try:
            with scope:
                self._scopes[scope] = None
                return await step(limit)
        finally:
            self._scopes.pop(scope, None)
        if self._shared.report.closing:
            raise NodeClosedError("the node was shut down meanwhile")
        what = f"{show(limit.dialling)} did not answer" if limit.dialling else f"{dialled[0]!r} was not resolved"
        raise TimeoutError(f"{what} within {timeout} s")

    async def _reach(
        self, dialled: Address | None, candidates: list[Address], local_addr: Address | None, limit: _Limit
    ) -> tuple[ByteStream, Address]:
        """Dial the candidates, those of `dialled` first, in one scope: one more costs as much as the dial itself."""
        if dialled is not None:
            candidates += await self._resolve(dialled)
            limit.fresh = candidates == [dialled]  # there was nothing to look up
        if len(candidates) == 1:
            addr = candidates.pop()
            return await self._dial(addr, self._shared.current_session, local_addr, limit), addr
        limit.stop()
        return await self._race(candidates, limit.timeout, local_addr)

    async def _resolve(self, dialled: Address) -> list[Address]:
        candidates = list(dict.fromkeys(await self._shared.transport.resolve(dialled)))
        if not candidates:
            raise OSError(f"{dialled[0]!r} has no address")
        return candidates

    async def _race(
        self, candidates: list[Address], timeout: float, local_addr: Address | None
    ) -> tuple[ByteStream, Address]:
        caller = self._shared.current_session()

        async def dial(addr: Address) -> ByteStream:
            return await self._within(timeout, lambda limit: self._dial(addr, lambda: caller, local_addr, limit), addr)

        return await _Race(candidates, dial, self._give_back).run()

    async def _dial(self, addr: Address, caller: Caller, local_addr: Address | None, limit: _Limit) -> ByteStream:
        """Dial one address, with a slot reserved for it."""
        transport = self._shared.transport
        if addr in self._shared.admission.established:
            await self._wait_for_ending(addr, caller, limit)
        self._refuse_self(addr)
        self._connector.reserve(addr, caller)
        try:
            self._shared.report.debug("dialling", addr)
            limit.begin(addr)
            if local_addr is None:
                return await transport.dial(addr)
            return await cast("_Binding", transport).dial(addr, local_addr=local_addr)
        except BaseException:
            self._shared.admission.release(addr)
            raise

    async def _wait_for_ending(self, addr: Address, caller: Caller, limit: _Limit) -> None:
        """Wait while a connection to that address ends."""
        established = self._shared.admission.established
        while (ending := established.get(addr)) is not None and ending.connection.origin is not None:
            if ending is caller():
                raise AlreadyConnectedError(f"the connection to {show(addr)} ends only when its hook has returned")
            limit.stop()
            await ending.wait_closed()

    def _refuse_self(self, addr: Address) -> None:
        """Refuse an address of this machine at the port where this node listens."""
        listening = self._acceptor.addr
        if listening is None or self._shared.config.reuse_listener_port or addr[1] != listening[1]:
            return
        everywhere = listening[0] == "::" or (listening[0] == "0.0.0.0" and ":" not in addr[0])  # noqa: S104
        is_local: Callable[[str], bool] | None = getattr(self._shared.transport, "is_local", None)
        if addr == listening or (everywhere and is_local is not None and is_local(addr[0])):
            raise self_connection(addr)

    async def _give_back(self, stream: ByteStream, addr: Address) -> None:
        """Close a stream that came too late, and release its slot."""
        try:
            with CancelScope(shield=True):
                await close_stream(stream, self._shared.report)
        finally:
            self._shared.admission.release(addr)


class _Race:
    """Dials of several addresses, of which the first to connect wins (RFC 8305, section 5).

    The next address is dialled when one has failed, or when none has answered for a while.
    """

    def __init__(
        self,
        candidates: list[Address],
        dial: Callable[[Address], Coroutine[Any, Any, ByteStream]],
        give_back: Callable[[ByteStream, Address], Coroutine[Any, Any, None]],
    ) -> None:
        self._candidates = candidates
        self._dial = dial
        self._give_back = give_back
        self._under_way: dict[Address, None] = {}
        self._is_full = False  # another dial would lack a slot until one of those under way has ended
        self._connected: list[tuple[ByteStream, Address]] = []
        self._failures: list[Exception] = []
        self._ended = Event()  # one more dial

    async def run(self) -> tuple[ByteStream, Address]:
        """Return the winner; in `candidates` are left those that have neither won nor failed."""
        kept = 0
        try:
            async with create_task_group() as tasks:
                while not self._connected and (self._candidates or self._under_way):
                    ended = self._ended
                    if self._candidates and not self._is_full:
                        addr = self._candidates.pop(0)
                        self._under_way[addr] = None
                        tasks.start_soon(self._attempt, addr, tasks.cancel_scope, name=f"pea2pea dial {show(addr)}")
                    with move_on_after(_STAGGER if self._candidates and not self._is_full else math.inf):
                        await ended.wait()
            kept = 1
        except BaseException as error:
            interrupt = find_interrupt(error)
            if interrupt is not None:  # on trio it comes in a group
                raise interrupt from None
            raise
        finally:
            for stream, addr in self._connected[kept:]:
                await self._give_back(stream, addr)
        if not self._connected:
            self._raise_last_failure()
        winner = self._connected[0]
        self._candidates[:0] = [addr for addr in self._under_way if addr != winner[1]]
        return winner

    async def _attempt(self, addr: Address, scope: CancelScope) -> None:
        is_full = False
        try:
            self._connected.append((await self._dial(addr), addr))
            scope.cancel()
        except Exception as error:  # noqa: BLE001  # whatever it is, the next address may do better
            del self._under_way[addr]
            is_full = isinstance(error, ConnectionLimitError) and bool(self._under_way)
            if is_full:
                self._candidates.insert(0, addr)
            else:
                self._failures.append(error)
        finally:
            self._is_full = is_full
            self._ended.set()
            self._ended = Event()

    def _raise_last_failure(self) -> None:
        if not self._failures:
            raise NodeError("the task of a dial was cancelled from outside")
        failure = self._failures.pop()
        self._failures.clear()
        try:
            raise failure
        finally:  # likewise
            del failure
