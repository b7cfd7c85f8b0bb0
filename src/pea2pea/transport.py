"""Where byte streams come from: the `Transport` interface, and TCP.

The TCP stream works on a non-blocking socket and AnyIO's readiness calls, and so is the same on every event loop.
Its one rule: nothing is read from the kernel before somebody asks for it, and nothing is kept that the kernel did
not take, so that a peer is slowed down by TCP itself and never buffered. (AnyIO's own TCP streams read ahead without
a bound on asyncio.)
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import cache
from typing import Any, Protocol, cast

from anyio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    EndOfStream,
    Event,
    TypedAttributeProvider,
    getaddrinfo,
    move_on_after,
    notify_closing,
    wait_readable,
    wait_writable,
)
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint

from ._address import Address, canonical, from_sockaddr, is_local, literal, reachable, show, sockaddr
from ._poller import Poller
from .codecs import Chunk

if sys.platform != "win32":
    import fcntl
    import termios

READ_MIN, READ_MAX = 16 * 1024, 256 * 1024
TAKE_MAX = 65_536  # what one unspecified `receive` takes, as AnyIO's streams do
VAIN, LOOK_AGAIN = 8, 64  # so many looks for more in vain, and one only waits; after so many, one looks again
BULK = 512 * 1024  # bytes for which a reader waits in a bulk transfer,
BULK_TIME = 0.001  # ... for so many seconds at most,
BULK_WAITS = 16  # ... after so many waits in a row that brought READ_MIN bytes or more each,
BULK_TURNS = 2  # ... and after so many turns of the event loop
RETRY_MIN, RETRY_MAX = 64, 4096  # after a wait for BULK in vain so many are ordinary ones: at first, and at the most
KEPT = 8 * 1024 * 1024  # the memory of frames up to this size is kept when they are done
PARTS_MAX = 512  # parts of one sendmsg, below every system's IOV_MAX
POLL = 0.25  # seconds after which a full socket is tried again: Linux says "writable" only when a third of it is free


class Listener(Protocol):
    """Accepts byte streams at one address."""

    @property
    def addr(self) -> Address:
        """Where it listens, with the port that was really bound."""
        ...

    async def accept(self) -> tuple[ByteStream, Address]:
        """The next stream and its peer's address.

        Raises `OSError` for want of something that may come back (descriptors, memory): the node backs off and tries
        again. May be cancelled; then no stream is lost.
        """
        ...

    async def aclose(self) -> None:
        """Stop listening; streams that were accepted live on."""
        ...


class Transport(Protocol):
    """Where a node's byte streams come from.

    `dial` may take the keyword `local_addr: Address | None = None` too, which `Node.connect(local_addr=...)` needs.
    With a method `is_local(host: str, /) -> bool`, which says whether an address is this host's, a node that listens
    at a wildcard address refuses to dial itself; without one no address is.
    """

    async def resolve(self, addr: Address, /) -> Sequence[Address]:
        """The canonical addresses that `addr` may stand for, in the order to try them; `OSError` if there is none.

        The time that it takes is not the dial's, unless it returns `addr` itself.
        """
        ...

    async def listen(self, addr: Address, /, *, backlog: int, reuse_port: bool) -> Listener:
        """Bind and listen; `OSError` if that fails."""
        ...

    async def dial(self, addr: Address, /) -> ByteStream:
        """A stream to one of the addresses that `resolve` returned; `OSError` if that fails."""
        ...


def is_stream(given: object) -> bool:
    """Whether it can be used as a byte stream."""
    return all(callable(getattr(given, name, None)) for name in ("receive", "send", "aclose"))


def unacknowledged(sock: socket.socket) -> int | None:
    """Bytes that a socket's peer has not acknowledged; None: this system, or this socket, does not tell."""
    if sys.platform != "linux":
        return None
    try:
        answer = fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ has its number (tcp(7))
    except (OSError, ValueError):  # ValueError: it is closed
        return None
    return int.from_bytes(answer, sys.byteorder)


def names_of(stream: TypedAttributeProvider) -> tuple[Address, Address] | None:
    """The local and the remote address of a stream's socket; None if it has none, is closed, or cannot tell."""
    try:
        names = [stream.extra(SocketAttribute.local_address, None), stream.extra(SocketAttribute.remote_address, None)]
        found = [canonical((name[0], name[1])) for name in names if isinstance(name, tuple)]
    except Exception:  # noqa: BLE001  # an OSError; uvloop's ValueError for a closed descriptor; of a user's stream, any
        return None
    return (found[0], found[1]) if len(found) == 2 else None


class TCPTransport:
    """TCP, over IPv4 and IPv6: the transport a node has by default."""

    async def resolve(self, addr: Address, /) -> Sequence[Address]:
        """The addresses of a host name, in the order of the system's resolver; of an IP literal, itself.

        The unspecified address ("0.0.0.0", "::", and what the system takes for it) is loopback, as it is when dialled.
        """
        found = await self._look_up(addr)
        return [reachable(found[0])] if len(found) == 1 else list(dict.fromkeys(map(reachable, found)))

    async def _look_up(self, addr: Address) -> list[Address]:
        if "%" in addr[0]:  # no name has a zone
            sockaddr(addr)  # refuses one that there is not
            return [canonical(addr)]
        if literal(addr[0]) is not None:
            return [canonical(addr)]
        try:
            found = await getaddrinfo(*addr, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # no name of hosts can be written so (RFC 5891)
            raise socket.gaierror(socket.EAI_NONAME, f"{show(addr)} has no host name: {error!s:.100}") from error
        return [from_sockaddr(info[4]) for info in found]

    async def listen(self, addr: Address, /, *, backlog: int, reuse_port: bool) -> Listener:
        """Listens at an IP literal or a host name; '::' takes IPv4 peers, too, where the system can."""
        await checkpoint()
        return TCPListener((await self._look_up(addr))[0], backlog, reuse_port=reuse_port)

    async def dial(self, addr: Address, /, *, local_addr: Address | None = None) -> ByteStream:
        """Connects to an IP literal, from `local_addr` if that is given (port 0: any free one).

        A port of `local_addr` may be one where this process listens with SO_REUSEPORT.
        Raises the plain `OSError` of the failure; cancelling it closes the socket.
        """
        family, name = sockaddr(addr)
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if local_addr is not None:
                _bind(sock, local_addr)
            await checkpoint()  # who waited for a socket of the same number, just closed, must have let go of it
            code = sock.connect_ex(name)
            if code == errno.EINPROGRESS:
                await _ready(wait_writable, sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, f"connecting to {show(addr)} failed: {os.strerror(code)}")
            if sock.getsockname() == sock.getpeername():
                # TCP's simultaneous open with oneself (RFC 9293, section 3.5): nobody listens there
                raise ConnectionRefusedError(errno.ECONNREFUSED, f"connecting to {show(addr)} was refused")
            return TCPStream(sock)
        except BaseException:
            sock.close()
            raise

    @staticmethod
    def is_local(host: str, /) -> bool:
        """Whether this machine owns the IP address."""
        return is_local(host)

    @staticmethod
    def wrap(sock: socket.socket) -> ByteStream:
        """A stream of a connected TCP socket, for `Node.adopt`; the stream takes the socket over.

        Raises `OSError` if the socket is not connected, `ValueError` if it is no stream socket, and `TypeError` for
        anything that is no plain socket: nobody else may read or write on it, as `ssl.SSLSocket` and asyncio do.
        """
        if not isinstance(cast("object", sock), socket.socket) or isinstance(sock, ssl.SSLSocket):
            raise TypeError(f"a plain socket.socket is needed, not {sock!r:.200}; for TLS use a handshake")
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"a connected stream socket is needed, not {sock!r}")
        sock.getpeername()
        sock.setblocking(False)
        return TCPStream(sock)

    def __repr__(self) -> str:
        return "TCPTransport()"


def _bind(sock: socket.socket, addr: Address) -> None:
    """Bind a socket that will dial; `OSError` as the system says, or if the families differ."""
    family, name = sockaddr(addr)
    if family != sock.family:
        raise OSError(
            errno.EAFNOSUPPORT, f"cannot dial from {show(addr)}: the peer's address is of the other IP family"
        )
    if addr[1]:
        for option in ("SO_REUSEADDR", "SO_REUSEPORT"):
            if hasattr(socket, option):
                sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
    elif sys.platform == "linux":
        with suppress(OSError):  # so that a port is chosen for the peer at hand, and may serve for others (ip(7))
            sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
    try:
        sock.bind(name)
    except OSError as error:
        raise OSError(error.errno, f"cannot dial from {show(addr)}: {error.strerror}") from error


async def _ready(wait: Callable[[socket.socket], Awaitable[None]], sock: socket.socket) -> None:
    """Wait for a socket, and raise what the event loops raise for a useless one as one kind of error, `OSError`."""
    try:
        await wait(sock)
    except (ValueError, RuntimeError) as error:  # a closed descriptor; one that a transport of asyncio's uses
        raise OSError(errno.EBADF, f"the socket cannot be waited for: {error}") from error


def _forget(sock: socket.socket) -> None:
    """Wake those who wait for a socket that is about to be closed, and close it; never raises."""
    for _ in range(2):  # if somebody else has closed it, asyncio may fail to wake the writer, and only then the reader
        try:
            notify_closing(sock)
            break
        except (OSError, ValueError, RuntimeError):
            pass
    try:
        sock.close()
    except OSError:
        pass


class TCPListener:
    """A listening TCP socket."""

    def __init__(self, addr: Address, backlog: int, *, reuse_port: bool) -> None:
        family, place = sockaddr(addr)
        self._sock = sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if sys.platform != "win32":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, addr[0] != "::")
            sock.bind(place)
            sock.listen(backlog)
            name = sock.getsockname()
        except OSError as error:
            sock.close()
            raise OSError(error.errno, f"cannot listen at {show(addr)}: {error.strerror}") from error
        self.addr: Address = from_sockaddr(name)

    async def accept(self) -> tuple[ByteStream, Address]:
        """See `Listener.accept`. A connection that its peer aborted before it was accepted is passed over."""
        while True:
            try:
                sock, name = self._sock.accept()
            except BlockingIOError:
                await _ready(wait_readable, self._sock)
            except OSError as error:
                if error.errno not in _ABORTED:
                    raise
                await checkpoint()
            else:
                sock.setblocking(False)
                return TCPStream(sock), from_sockaddr(name)

    async def aclose(self) -> None:
        """Closes the socket; an `accept` that waits raises `ClosedResourceError`. Dials are refused from here on."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # also where a forked child has it, too
        _forget(self._sock)
        await checkpoint()

    def __repr__(self) -> str:
        state = ", closed" if self._sock.fileno() < 0 else ""
        return f"<TCPListener at {show(self.addr)}{state}>"


class TCPStream(ByteStream):
    """A connected stream socket: bounded memory, TCP_NODELAY, SO_KEEPALIVE.

    Beside AnyIO's interface it has one for the node that does not wait: `receive_nowait`, `send_nowait`, `close`.
    One task may receive while another one sends. Bytes are never mixed: `send`s that are called while one is under
    way go out after it, in the order of the calls (a TLS wrapper sends from `receive`, too; RFC 8446, section 4.6);
    anything else that would get in between raises `BusyResourceError` before the first byte.

    A subclass for another kind of socket gives it `recv`, `send`, `sendmsg`, `shutdown`, `setsockopt` and `fileno`, and
    overrides `readable`, `writable`, `unacknowledged` and `_release`.
    """

    __slots__ = (
        "_back", "_bulk", "_came", "_ends", "_half_sent", "_mark", "_receiving", "_retry", "_senders", "_short",
        "_size", "_sock", "_turns", "_vain", "held", "poller",
    )  # fmt: skip

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._size = READ_MIN
        self._back = b""  # what was put back
        self._short = False  # the last read has taken all there was
        self._vain = 0  # how many times in a row there was nothing more behind a short read
        self._mark: int = 1  # bytes from which on the kernel calls the socket readable
        self._came = 0  # bytes since the last wait
        self._turns = 0  # of the event loop that it had in place of a wait since the last bytes came
        self._bulk = 0  # waits in a row that brought READ_MIN bytes or more; below 0: so many are not counted
        self._retry = RETRY_MIN  # ... which are so many after the next wait for BULK in vain
        self._ends = 0  # _THEIRS, _OURS: which directions have ended in order
        self._receiving = False  # a `receive` waits
        self._senders: list[Event] | None = None  # the `send`s under way; the first one has its turn
        self._half_sent = False  # the rest of what `send_nowait` was given is still to come
        self.held: bool = False
        """While it is set, `aclose` does nothing: a wrapper's (TLS) must not cut off what is still under way."""
        self.poller: Poller | None = None
        """What may wait for the socket in place of the event loop."""
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except OSError:  # a Unix socket has none of these
            pass

    def receive_nowait(self, max_bytes: int = 0) -> bytes | None:
        """What is there, b"" at the end of the stream, None if there is nothing yet; `OSError` as the system says.

        Without `max_bytes` the size of a read follows what comes. After a read that has taken all there was, None may
        be returned once without a look, where such looks found nothing lately. Raises `BusyResourceError` while a
        `receive` waits.
        """
        if self._receiving:
            raise BusyResourceError("receiving from")
        size = max_bytes or self._size
        if self._back:
            data, self._back = self._back[:size], self._back[size:]
            return data
        looks, self._short = self._short, False
        if looks and (vain := self._vain) >= VAIN:
            self._vain = vain + 1 if vain < LOOK_AGAIN else VAIN - 1
            return None
        try:
            data = self._sock.recv(size)
        except (BlockingIOError, InterruptedError):
            self._vain += 1
            return None
        if looks:
            self._vain = 0
        taken = len(data)
        self._came += taken
        self._turns = 0
        if taken < size:
            if taken:
                self._short = True
            else:
                self._ends |= _THEIRS
            if size > READ_MIN and taken < size // 8 and not max_bytes:
                self._size = max(size // 4, READ_MIN)
        elif not max_bytes:
            self._size = min(size * 4, READ_MAX)
        if taken >= TAKE_MAX:
            _keep_memory()
        return data

    def put_back(self, data: bytes) -> None:
        """Make what was received too far the next that is received, before anything from the kernel."""
        self._back = data + self._back

    def send_some(self, part: Chunk) -> int:
        """As `send_nowait`, for one part; returns how many of its bytes the kernel took."""
        if self._senders:
            raise BusyResourceError("sending to")
        try:
            sent = self._sock.send(part)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent >= TAKE_MAX:
            _keep_memory()
        self._half_sent = sent < len(part)
        return sent

    def send_nowait(self, parts: list[Chunk]) -> list[Chunk]:
        """Hand over what the kernel takes now, and return the rest, which the next call must begin with.

        Raises `OSError` as the system says, and `BusyResourceError` while a `send` is under way.
        """
        if len(parts) == 1 or not _SENDMSG:
            sent = self.send_some(parts[0])
        elif self._senders:
            raise BusyResourceError("sending to")
        else:
            try:
                sent = self._sock.sendmsg(parts[:PARTS_MAX])
            except (BlockingIOError, InterruptedError):
                sent = 0
        for index, part in enumerate(parts):
            if sent < len(part):
                self._half_sent = True
                return [memoryview(part)[sent:] if sent else part, *parts[index + 1 :]]
            sent -= len(part)
        self._half_sent = False
        return []

    def wait_for(self, missing: int) -> Awaitable[None]:
        """Wait as `readable`, but for so many bytes, as nothing can be done before; 0: for any.

        Each time that a reader is woken costs it, and on loopback the sender too. The kernel calls the socket readable
        sooner if its buffer is full, and when the stream ends or breaks (SO_RCVLOWAT, socket(7)). Where each of the
        last waits has brought much, this returns too early twice, after a turn of the event loop, and then waits for
        BULK bytes, or for a millisecond.
        """
        if self._bulk >= BULK_WAITS and self._turns < BULK_TURNS:
            self._turns += 1
            return checkpoint()
        if self._came:
            self._bulk = self._bulk + 1 if self._came >= READ_MIN and _LOW_MARKS else min(self._bulk, 0)
            self._came = 0
        if self._bulk >= BULK_WAITS:
            self._set_mark(BULK)
            return self._bulk_readable()
        self._set_mark(min(missing, READ_MAX) if missing >= READ_MIN and _LOW_MARKS else 1)
        return self.readable()

    def _set_mark(self, mark: int) -> None:
        if mark != self._mark:
            self._mark, self._size = mark, max(min(mark, READ_MAX), self._size)
            with suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)

    async def _bulk_readable(self) -> None:
        with move_on_after(BULK_TIME) as scope:
            await self.readable()
        if scope.cancelled_caught:
            self._bulk, self._retry = -self._retry, min(self._retry * 2, RETRY_MAX)
        else:
            self._retry = max(self._retry // 2, RETRY_MIN)

    def readable(self) -> Awaitable[None]:
        """Wait until there is something to receive; `OSError` if the socket cannot be waited for."""
        if self._back:
            return checkpoint()
        poller = self.poller
        if poller is not None and poller.many and poller.count(self._sock):
            return poller.wait(self._sock)
        return _ready(wait_readable, self._sock)

    def writable(self) -> Awaitable[None]:
        """Wait until the kernel takes more; `OSError` if the socket cannot be waited for."""
        return _ready(wait_writable, self._sock)

    async def receive(self, max_bytes: int = TAKE_MAX) -> bytes:
        """As AnyIO's `ByteReceiveStream.receive`; `BusyResourceError` while another one waits.

        Cancelling it loses nothing.
        """
        await checkpoint()
        try:
            while (data := self.receive_nowait(max_bytes)) is None:
                self._receiving = True
                self._bulk = 0
                self._set_mark(1)
                try:
                    await self.readable()
                finally:
                    self._receiving = False
        except OSError as error:
            raise self._gone() from error
        if not data:
            raise EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """As AnyIO's `ByteSendStream.send`; waits for those that were called before, and keeps their order.

        Raises `BusyResourceError` if the rest of what `send_nowait` was given is still to come. Cancelling it leaves
        an unknown part sent, or nothing while it waits for another one.
        """
        turn = Event()
        senders = self._senders = [] if self._senders is None else self._senders
        senders.append(turn)  # before anything is waited for: the order of the calls is that of TLS records
        try:
            await checkpoint()
            if senders[0] is not turn:
                await turn.wait()
            if self._half_sent:
                raise BusyResourceError("sending to")
            await self._send_all(memoryview(item).cast("B"))
        except OSError as error:
            raise self._gone() from error
        finally:
            was_first = senders[0] is turn
            senders.remove(turn)
            if was_first and senders:
                senders[0].set()

    async def _send_all(self, rest: memoryview) -> None:
        while rest:
            with suppress(BlockingIOError, InterruptedError):
                rest = rest[self._sock.send(rest) :]
            if rest:
                with move_on_after(POLL):
                    await self.writable()

    async def send_eof(self) -> None:
        """Half-close: the peer finds the end of the stream behind all that was sent (RFC 9293, section 3.6).

        Raises `BusyResourceError` while a `send` is under way.
        """
        if self._senders:
            raise BusyResourceError("sending to")
        await checkpoint()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._gone() from error
        self._ends |= _OURS

    async def aclose(self) -> None:
        """Close the socket, unless the node holds it."""
        if not self.held:
            self.close()
        await checkpoint()

    def close(self, *, reset: bool = False) -> None:
        """Close the socket now; never raises. Whoever waits for it meets `ClosedResourceError`.

        The peer sees the end even where a forked child has the socket, too. With `reset` what the kernel still holds
        for the peer is thrown away, and the peer sees a reset; likewise where the peer has sent what nobody has
        received (RFC 2525, section 2.17).
        """
        self._back = b""
        self.leave_poller()
        if self._sock.fileno() >= 0:
            self._release(reset=reset)

    def _release(self, *, reset: bool) -> None:
        sock = self._sock
        try:
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            if reset or (not self._ends & _THEIRS and _has_unread(sock)):
                _disconnect(sock)
            elif self._ends != _THEIRS | _OURS:
                sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        _forget(sock)

    def join_poller(self, poller: Poller | None) -> None:
        """Wait in the poller from now on, while that pays."""
        self.leave_poller()
        self.poller = poller
        if poller is not None:
            poller.join()

    def leave_poller(self) -> None:
        """Wait in the event loop's way from now on: who ends waits once or twice, and shall not wake the poller."""
        if self.poller is not None:
            self.poller.forget(self._sock)
            self.poller = None

    def unacknowledged(self) -> int | None:
        """Bytes sent, the end of the stream included, that the peer's kernel has not acknowledged; None: unknown."""
        return unacknowledged(self._sock)

    def _gone(self) -> BrokenResourceError | ClosedResourceError:
        return ClosedResourceError() if self._sock.fileno() < 0 else BrokenResourceError()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """AnyIO's `SocketAttribute`s."""
        sock = self._sock
        found: dict[Any, Callable[[], Any]] = {
            SocketAttribute.family: lambda: sock.family,
            SocketAttribute.raw_socket: lambda: sock,
            SocketAttribute.local_address: lambda: _name(sock.getsockname()),
            SocketAttribute.remote_address: lambda: _name(sock.getpeername()),
        }
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            found[SocketAttribute.local_port] = lambda: sock.getsockname()[1]
            found[SocketAttribute.remote_port] = lambda: sock.getpeername()[1]
        return found

    def __repr__(self) -> str:
        try:
            return f"<TCPStream {_name(self._sock.getsockname())} to {_name(self._sock.getpeername())}>"
        except OSError:
            return "<TCPStream, closed>"


@cache
def _keep_memory() -> None:
    """Let the C library keep the memory of large frames, in place of giving it back to the system after each of them.

    To get it anew costs a page fault for each 4 KiB, which takes up to three times as long as the frame itself. glibc
    takes a block from its heap if one of that size was freed before, and keeps twice as much free memory at the end of
    the heap (mallopt(3), M_MMAP_THRESHOLD). The block that is made and freed here is never touched, so it costs no
    memory.
    """
    with suppress(MemoryError):
        bytes(KEPT)


_BIND_ADDRESS_NO_PORT = 24  # IP_BIND_ADDRESS_NO_PORT of Linux, which Python knows since version 3.12
_connect: Callable[[int, bytes, int], int] | None = None
if sys.platform == "linux":
    with suppress(ImportError, OSError):  # a Python without ctypes, or without shared libraries
        import ctypes

        _connect = ctypes.CDLL(None).connect
_LOW_MARKS = sys.platform == "linux"  # elsewhere it is not documented that a full buffer wakes the reader
_THEIRS, _OURS = 1, 2
_SENDMSG = hasattr(socket.socket, "sendmsg")
RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time
# errors of connections that ended before they were accepted (accept(2), "Error handling")
_ABORTED = {
    errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EPERM,
}  # fmt: skip


def _has_unread(sock: socket.socket) -> bool:
    if sys.platform == "win32":
        return False
    try:
        return any(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))
    except OSError:
        return False


def _disconnect(sock: socket.socket) -> None:
    """Reset a TCP connection at once, also where a forked child has the socket, too.

    Closing it resets it only when nobody else has it; connecting to AF_UNSPEC does it now (connect(2)), which a
    `socket.socket` cannot. Elsewhere than on Linux nothing is done.
    """
    if _connect is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        _connect(sock.fileno(), bytes(16), 16)


def _name(name: Any) -> str | tuple[str, int]:
    """A socket's name as AnyIO gives it: IPv6 without flow, and its scope, if any, as a zone."""
    if not isinstance(name, tuple):
        return cast("str", name)
    host, port, *more = cast("tuple[str, int, int, int]", name)
    return (f"{host}%{more[1]}" if more and more[1] and "%" not in host else host), port


default_transport: ContextVar[Transport | None] = ContextVar("pea2pea_default_transport", default=None)
"""The transport of a node that is given none; None: TCP. A simulated host sets it for the program that it runs."""
