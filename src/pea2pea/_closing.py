"""The end of a stream: after it the socket may be closed without a reset that destroys what is under way.

Closing a TCP socket that holds unread data resets the connection (RFC 2525, section 2.17), and the reset destroys what
the peer has not read yet. So: go on reading and throw it away, end the stream, and wait until the peer closes, too, or
has acknowledged everything and is silent.
"""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import suppress
from typing import cast

import anyio
from anyio import EndOfStream, TaskHandle, TypedAttributeProvider
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute

from ._report import Reporter
from ._session import Session
from .connection import DisconnectOrigin
from .transport import RESET, TAKE_MAX, TCPStream, unacknowledged

_CLOSING = 0.1  # seconds for closing a stream that is not the library's, after all goodbyes
_QUIET = 0.2  # seconds of silence after which a peer that has acknowledged everything is not waited for any longer


class Discarder:
    """A task that throws away what a peer sends."""

    def __init__(self, session: Session, stream: ByteStream) -> None:
        self.taken: int = 0
        """How many bytes it has thrown away."""
        self.is_done: bool = False
        """Whether the stream has ended, or broken."""
        self._stream = stream
        name = f"pea2pea discarder {session.connection}"
        runs_hooks = not isinstance(stream, TCPStream)  # but a user's stream
        self._task: TaskHandle[None] = session.start_task(self._run, name, runs_hooks=runs_hooks)

    async def _run(self) -> None:
        with suppress(Exception):  # the stream has ended, or broken: either way nothing more comes
            while data := await self._stream.receive(TAKE_MAX):
                self.taken += len(data)
        self.is_done = True

    async def wait(self, seconds: float) -> None:
        """Wait until it is done, or the time has passed."""
        with anyio.move_on_after(seconds):
            await self._task.wait()

    async def stop(self) -> None:
        """Stop reading."""
        self._task.cancel()
        await self._task.wait()


async def watch_for_eof(session: Session) -> None:
    """Do what a node without Reading does: read ahead as far as Reading would, to notice the end, and no further."""
    taken, cause = 0, None
    try:
        with suppress(EndOfStream):
            while data := await session.stream.receive(TAKE_MAX):  # some streams end with b""
                taken += len(data)
                if taken >= TAKE_MAX:
                    await anyio.sleep_forever()  # until it is cancelled
    except Exception as error:  # noqa: BLE001  # whatever a stream raises: it is lost
        cause = error
    session.end(DisconnectOrigin.READING, cause, broken=cause is not None, draining=cause is None)


def close_notify(stream: TypedAttributeProvider) -> bool:
    """Let TLS say that nothing more will come (RFC 8446, section 6.1), with the next `receive`; False if it cannot.

    `TLSStream.aclose` would give up, and might not even say it, when a record comes that it does not expect: from a
    peer that has not ended its own direction yet. What was received from it is thrown away.
    """
    if not stream.extra(TLSAttribute.standard_compatible, False):
        return False
    tls = stream.extra(TLSAttribute.ssl_object)
    with suppress(ssl.SSLWantReadError):
        while tls.read(TAKE_MAX):
            pass
        return False  # the peer has said it before; `aclose` only answers
    with suppress(ssl.SSLWantReadError):
        tls.unwrap()
    return True


async def end_stream(session: Session, discarder: Discarder | None) -> None:
    """End the stream, and wait until what was sent has arrived.

    `discarder` reads the stream meanwhile; None: the peer has ended it.
    """
    stream, base = session.stream, session.base
    try:
        await stream.send_eof()
    except (NotImplementedError, AttributeError):
        await _end_without_half_close(session, discarder)
        return
    if discarder is not None:
        await _linger(session, discarder)
    if stream is not base:
        await stream.aclose()


async def _end_without_half_close(session: Session, discarder: Discarder | None) -> None:
    """End a stream that has no half-close (TLS, most encryption): the wrapper first, then what it wraps."""
    stream, base = session.stream, session.base
    below = base if stream is not base and isinstance(base, TCPStream) else None
    if discarder is not None:
        await discarder.stop()
    if discarder is not None and close_notify(session.connection):
        await _linger(session, Discarder(session, stream))
    elif discarder is None or below is not None:
        with suppress(Exception):  # that it fails must not cut off what is under way
            await stream.aclose()
    else:
        await _linger(session, Discarder(session, stream))
        _end_socket(base)
        await _linger(session, Discarder(session, stream))
    if below is not None:
        await below.send_eof()
        await _linger(session, Discarder(session, below))


async def _linger(session: Session, discarder: Discarder) -> None:
    """Read until the peer has closed, too, or is silent and has acknowledged all that was sent."""
    quiet = min(_QUIET, session.grace / 10)
    pause = quiet / 16
    silent = 0.0
    while not discarder.is_done:
        taken = discarder.taken
        await discarder.wait(pause)
        acknowledged = _unacknowledged(session.base) == 0
        silent = silent + pause if acknowledged and discarder.taken == taken else 0.0
        if silent >= quiet:
            await discarder.stop()
            return
        pause = min(pause * 2, quiet / 2)


def _unacknowledged(stream: ByteStream) -> int | None:
    """Bytes that the peer's kernel has not acknowledged, of any stream with a socket; None: unknown."""
    if isinstance(stream, TCPStream):
        return stream.unacknowledged()
    sock = _socket_of(stream)
    return None if sock is None else unacknowledged(sock)


def _end_socket(stream: ByteStream) -> None:
    """Half-close the socket of a stream that cannot do so itself."""
    sock = _socket_of(stream)
    if sock is not None:
        with suppress(OSError, ValueError), socket.socket(fileno=os.dup(sock.fileno())) as ours:  # uvloop's cannot
            ours.shutdown(socket.SHUT_WR)


def _socket_of(stream: ByteStream) -> socket.socket | None:
    provider = cast("object", stream)  # of a user's, who need not inherit from AnyIO's interface
    return provider.extra(SocketAttribute.raw_socket, None) if isinstance(provider, TypedAttributeProvider) else None


async def close_stream(stream: ByteStream, report: Reporter, *, reset: bool = False) -> None:
    """Close a stream now, whatever it is and does."""
    if isinstance(stream, TCPStream):
        stream.close(reset=reset)
        return
    with suppress(Exception):  # it may be closed, and whatever a user's stream raises
        if reset and (sock := _socket_of(stream)) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    try:
        with suppress(Exception), anyio.CancelScope(deadline=anyio.current_time() + _CLOSING, shield=True):
            await stream.aclose()
    except BaseException as error:  # noqa: BLE001  # a cancellation that is not ours, maybe in a group
        report.classify("aclose", error)
