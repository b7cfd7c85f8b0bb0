"""Handshake: whether a connection comes to be, and over which stream."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from inspect import isawaitable
from typing import Any, Protocol, cast

from anyio import CancelScope, current_time
from anyio.abc import ByteStream

from .._address import show
from .._context import run_in
from .._report import find_interrupt, leaves, split_by_kind
from .._session import Session
from .._text import describe
from ..connection import Connection
from ..errors import ONLY_BUGS, HandshakeError, HandshakeTimeoutError
from ..transport import is_stream


class Handshake(Protocol):
    """Opt in with `Node.enable_handshake`."""

    def perform_handshake(self, connection: Connection, stream: ByteStream, /) -> Coroutine[Any, Any, ByteStream]:
        """Called on both sides, before the connection is established: exchange what each needs to accept the other.

        Returns the stream to go on with: the given one, or one that wraps it (TLS, Noise). Bytes that were read too
        far must be in the returned one. `pea2pea.handshakes` has what nearly every handshake needs: typed messages,
        and TLS.

        Any exception refuses the peer: the stream is closed, and a `connect` or `adopt` of this node that waits for it
        raises `HandshakeError` from it. The other side learns of it only as the end of the stream: if it must know,
        let the responder end the handshake with a confirmation for which the initiator waits.

        It is cancelled at the timeout given to `enable_handshake`, at shutdown, and when the `connect` or `adopt` that
        waits for it is cancelled. The connection is not in `Node.connections` yet.

        After it has returned, the connection may still not be established: a shutdown or a dial that needs the slot
        can come first, and then neither `on_connect` nor `on_disconnect` is called. So keep what the handshake learns
        under the connection in a `WeakKeyDictionary`, and register the peer in `on_connect`, where `on_disconnect`
        is sure to follow. Where the handshake itself must register the peer (to refuse a second connection),
        start a task of the node's (`Node.start_soon`) that awaits `connection.wait_closed()` and, in a `finally`,
        takes the entry back: it returns at the end of the connection, and also where the connection was not
        established; a shutdown may cancel the task. A task of `Connection.start_soon` is cancelled by then.
        """
        ...


async def run_handshake(session: Session, handshake: Handshake, timeout: float) -> ByteStream:
    """Run the handshake of one connection; raise `HandshakeError` if it fails."""
    stream: object = None
    session.runs_user_code()
    scope = CancelScope(deadline=current_time() + timeout)
    try:
        with scope:
            stream = await run_in(session.context, partial(_perform, session, handshake))
    except BaseException as raised:
        raise await _refuse(session, timeout, raised, late=scope.cancel_called) from raised
    if scope.cancelled_caught:
        raise _time_out(session, timeout)
    try:
        if not is_stream(stream):
            raise TypeError(f"perform_handshake must be async, and return a byte stream, not {stream!r:.200}")
    except TypeError as wrong:
        session.report.heuristics.handshake_failures += 1
        session.report.bug("perform_handshake", wrong, session.addr)
        raise HandshakeError(str(wrong)) from wrong
    session.report.debug("handshake done", session.addr)
    return cast("ByteStream", stream)


async def _refuse(session: Session, timeout: float, raised: BaseException, *, late: bool) -> HandshakeError:
    """Report what a handshake raised, and return the error for the caller; a cancellation goes through."""
    try:
        error = split_by_kind(raised, Exception)[0]  # on trio a cancellation comes in a group with what it met
        if error is None or find_interrupt(raised) is not None:
            error = await session.report.classify_soon("perform_handshake", raised, session.addr)
        elif late:
            return _time_out(session, timeout)
        elif any(isinstance(leaf, ONLY_BUGS) for leaf in leaves(error)):
            session.report.bug("perform_handshake", error, session.addr)
        session.report.heuristics.handshake_failures += 1
        session.report.info("a handshake failed", session.addr, error)
        return HandshakeError(f"the handshake with {show(session.addr)} failed: {describe(error)}")
    finally:  # a cancellation has this frame in its traceback, which must not keep it
        del raised


async def _perform(session: Session, handshake: Handshake) -> object:
    call: Callable[[Connection, ByteStream], object] = handshake.perform_handshake
    return await made if isawaitable(made := call(session.connection, session.base)) else None


def _time_out(session: Session, timeout: float) -> HandshakeTimeoutError:
    session.report.heuristics.handshake_failures += 1
    session.report.heuristics.handshake_timeouts += 1
    session.report.info("a handshake took too long", session.addr)
    return HandshakeTimeoutError(f"no handshake with {show(session.addr)} within {timeout} s")
