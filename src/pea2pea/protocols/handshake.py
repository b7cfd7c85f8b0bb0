"""Handshake: whether a connection comes to be, and over which stream."""

from __future__ import annotations

from collections.abc import Coroutine
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Protocol

from anyio import CancelScope, current_time

from .._report import interruption, parted
from ..errors import HandshakeError, HandshakeTimeoutError
from ..transport import is_stream

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from ..connection import Connection, Link


class Handshake(Protocol):
    """Opt in with `Node.enable_handshake`."""

    def perform_handshake(self, connection: Connection, stream: ByteStream, /) -> Coroutine[Any, Any, ByteStream]:
        """Say, on both sides, whatever it takes to become peers.

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
        start a task of the node's (`Node.start_soon`) that awaits `connection.wait_closed()` and takes the entry
        back: it returns at the end of the connection, and also where the connection was not established. A
        task of `Connection.start_soon` is cancelled by then.
        """
        ...


async def shake_hands(link: Link, handshake: Handshake, timeout: float) -> ByteStream:
    """Run the handshake of one connection; raises `HandshakeError`, and nothing else but what is not ours."""
    heuristics = link.report.heuristics
    place = "perform_handshake"
    peer = f"{link.addr[0]}:{link.addr[1]}"
    stream: ByteStream | None = None
    scope = CancelScope(deadline=current_time() + timeout)
    try:
        with scope:
            shaking = handshake.perform_handshake(link, link.base)
            if isawaitable(shaking):
                stream = await shaking
    except BaseException as raised:  # on trio, what is raised during a cancellation comes in a group with that
        error, _ = parted(raised, Exception)
        if error is None or interruption(raised) is not None:
            error = link.report.judge(place, raised, link.addr)
        elif scope.cancel_called:
            raise _timed_out(link, timeout) from raised
        heuristics.handshake_failures += 1
        link.report.info("a handshake failed", link.addr, error)
        raise HandshakeError(f"the handshake with {peer} failed: {error!r}") from raised
    if scope.cancelled_caught:
        raise _timed_out(link, timeout)
    try:
        return _checked(stream)
    except TypeError as wrong:
        heuristics.handshake_failures += 1
        link.report.bug(place, wrong, link.addr)
        raise HandshakeError(str(wrong)) from wrong


def _checked(stream: ByteStream | None) -> ByteStream:
    if stream is None or not is_stream(stream):
        raise TypeError(f"perform_handshake must be async, and return a byte stream, not {stream!r}")
    return stream


def _timed_out(link: Link, timeout: float) -> HandshakeTimeoutError:
    link.report.heuristics.handshake_failures += 1
    link.report.heuristics.handshake_timeouts += 1
    link.report.info("a handshake took too long", link.addr)
    return HandshakeTimeoutError(f"no handshake with {link.addr[0]}:{link.addr[1]} within {timeout} s")
