"""Where byte streams come from: the `Transport` interface, and TCP.

The TCP stream works on a non-blocking socket and AnyIO's readiness calls, and so is the same on every event loop.
Its one rule: nothing is read from the kernel before somebody asks for it, and nothing is kept that the kernel did
not take, so that a peer is slowed down by TCP itself and never buffered. (AnyIO's own TCP streams read ahead without
a bound on asyncio.)
"""

from __future__ import annotations

import errno
import socket
import ssl
import struct
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Any, Protocol, cast

from anyio import (
    BrokenResourceError,
    ClosedResourceError,
    EndOfStream,
    TypedAttributeProvider,
    getaddrinfo,
    notify_closing,
    wait_readable,
    wait_writable,
)
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint
from anyio.streams.tls import TLSAttribute

from ._address import Address, canonical, literal
from .codecs import Chunk

if sys.platform == "linux":
    import fcntl
    import termios

READ_MIN, READ_MAX = 16 * 1024, 256 * 1024
TAKE_MAX = 65_536  # what one unspecified `receive` takes, as AnyIO's streams do
PARTS_MAX = 512  # parts of one sendmsg, below every system's IOV_MAX


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
    """Where a node's byte streams come from."""

    async def resolve(self, addr: Address, /) -> Sequence[Address]:
        """The canonical addresses that `addr` may stand for, in the order to try them; `OSError` if there is none."""
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


def close_notify(stream: TypedAttributeProvider) -> bool:
    """Let TLS say that nothing more will come (RFC 8446, section 6.1), with the next `receive`; False if it cannot.

    `TLSStream.aclose` would give up, and might not even say it, when a record comes that it does not expect: from a
    peer that has not had its say yet. What was received from it is thrown away.
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


class TCPTransport:
    """TCP, over IPv4 and IPv6: the transport a node has by default."""

    async def resolve(self, addr: Address, /) -> Sequence[Address]:
        """The addresses of a host name, in the order of the system's resolver; of an IP literal, itself."""
        if literal(addr[0]) is not None:
            return [canonical(addr)]
        try:
            found = await getaddrinfo(*addr, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # no name of hosts can be written so (RFC 5891)
            raise socket.gaierror(socket.EAI_NONAME, f"{addr[0]!r} is no host name: {error}") from error
        return list(dict.fromkeys(canonical((info[4][0], info[4][1])) for info in found))

    async def listen(self, addr: Address, /, *, backlog: int, reuse_port: bool) -> Listener:
        """Listens at an IP literal or a host name; '::' takes IPv4 peers, too, where the system can."""
        await checkpoint()
        return TCPListener((await self.resolve(addr))[0], backlog, reuse_port=reuse_port)

    async def dial(self, addr: Address, /) -> ByteStream:
        """Connects to an IP literal. Raises the plain `OSError` of the failure; cancelling it closes the socket."""
        family, sockaddr = _sockaddr(addr)
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            await checkpoint()  # who waited for a socket of the same number, just closed, must have let go of it
            code = sock.connect_ex(sockaddr)
            if code == errno.EINPROGRESS:
                await wait_writable(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, f"connecting to {addr[0]}:{addr[1]} failed: {errno.errorcode.get(code, code)}")
            if sock.getsockname() == sock.getpeername():
                # TCP's simultaneous open with oneself (RFC 9293, section 3.5): nobody listens there
                raise ConnectionRefusedError(errno.ECONNREFUSED, f"connecting to {addr[0]}:{addr[1]} was refused")
            return TCPStream(sock)
        except BaseException:
            sock.close()
            raise

    @staticmethod
    def wrap(sock: socket.socket) -> ByteStream:
        """A stream of a connected TCP socket, for `Node.adopt`; the stream takes the socket over.

        Raises `OSError` if the socket is not connected, `ValueError` if it is no stream socket.
        """
        if sock.type != socket.SOCK_STREAM:
            raise ValueError(f"a connected stream socket is needed, not {sock!r}")
        sock.getpeername()
        sock.setblocking(False)
        return TCPStream(sock)

    def __repr__(self) -> str:
        return "TCPTransport()"


class TCPListener:
    """A listening TCP socket."""

    def __init__(self, addr: Address, backlog: int, *, reuse_port: bool) -> None:
        family, sockaddr = _sockaddr(addr)
        self._sock = sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if sys.platform != "win32":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, addr[0] != "::")
            sock.bind(sockaddr)
            sock.listen(backlog)
            name = sock.getsockname()
        except OSError as error:
            sock.close()
            raise OSError(error.errno, f"cannot listen at {addr[0]}:{addr[1]}: {error.strerror}") from error
        self.addr: Address = canonical((name[0], name[1]))

    async def accept(self) -> tuple[ByteStream, Address]:
        """See `Listener.accept`. A connection that its peer aborted before it was accepted is passed over."""
        while True:
            try:
                sock, name = self._sock.accept()
            except BlockingIOError:
                await wait_readable(self._sock)
            except OSError as error:
                if error.errno not in _ABORTED:
                    raise
                await checkpoint()
            else:
                sock.setblocking(False)
                return TCPStream(sock), canonical((name[0], name[1]))

    async def aclose(self) -> None:
        """Closes the socket; an `accept` that waits raises `ClosedResourceError`."""
        notify_closing(self._sock)
        self._sock.close()
        await checkpoint()

    def __repr__(self) -> str:
        state = ", closed" if self._sock.fileno() < 0 else ""
        return f"<TCPListener at {self.addr[0]}:{self.addr[1]}{state}>"


class TCPStream(ByteStream):
    """A connected stream socket: bounded memory, TCP_NODELAY, SO_KEEPALIVE.

    Beside AnyIO's interface it has one for the node that does not wait: `receive_nowait`, `send_nowait`, `close`.
    One task may receive while another one sends.
    """

    __slots__ = ("_back", "_size", "_sock", "held")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._size = READ_MIN
        self._back = b""  # what was put back
        self.held: bool = False
        """While it is set, `aclose` does nothing: a wrapper's (TLS) must not cut off what is still under way."""
        with suppress(OSError):  # a Unix socket has none of these
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def receive_nowait(self, max_bytes: int = 0) -> bytes | None:
        """What is there, b"" at the end of the stream, None if there is nothing yet; `OSError` as the system says.

        Without `max_bytes` the size of a read follows what comes.
        """
        size = max_bytes or self._size
        if self._back:
            data, self._back = self._back[:size], self._back[size:]
            return data
        try:
            data = self._sock.recv(size)
        except (BlockingIOError, InterruptedError):
            return None
        if not max_bytes:
            if len(data) == size:
                self._size = min(size * 4, READ_MAX)
            elif len(data) < size // 8:
                self._size = max(size // 4, READ_MIN)
        return data

    def put_back(self, data: bytes) -> None:
        """Make what was received too far the next that is received, before anything from the kernel."""
        self._back = data + self._back

    def send_some(self, part: Chunk) -> int:
        """Hand over as much as the kernel takes now, and say how many bytes that were; `OSError` as the system says."""
        try:
            return self._sock.send(part)
        except (BlockingIOError, InterruptedError):
            return 0

    def send_nowait(self, parts: list[Chunk]) -> list[Chunk]:
        """Hand over what the kernel takes now, and return the rest; `OSError` as the system says."""
        if len(parts) == 1 or not _SENDMSG:
            sent = self.send_some(parts[0])
        else:
            try:
                sent = self._sock.sendmsg(parts[:PARTS_MAX])
            except (BlockingIOError, InterruptedError):
                return parts
        for index, part in enumerate(parts):
            if sent < len(part):
                return [memoryview(part)[sent:] if sent else part, *parts[index + 1 :]]
            sent -= len(part)
        return []

    def readable(self) -> Awaitable[None]:
        """Wait until there is something to receive."""
        return checkpoint() if self._back else wait_readable(self._sock)

    def writable(self) -> Awaitable[None]:
        """Wait until the kernel takes more."""
        return wait_writable(self._sock)

    async def receive(self, max_bytes: int = TAKE_MAX) -> bytes:
        """As AnyIO's `ByteReceiveStream.receive`. Cancelling it loses nothing."""
        await checkpoint()
        try:
            while (data := self.receive_nowait(max_bytes)) is None:
                await wait_readable(self._sock)
        except OSError as error:
            raise self._gone() from error
        if not data:
            raise EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """As AnyIO's `ByteSendStream.send`. Cancelling it leaves an unknown part sent."""
        await checkpoint()
        rest: list[Chunk] = [item]
        try:
            while item and (rest := self.send_nowait(rest)):
                await wait_writable(self._sock)
        except OSError as error:
            raise self._gone() from error

    async def send_eof(self) -> None:
        """Half-close: the peer finds the end of the stream behind all that was sent (RFC 9293, section 3.6)."""
        await checkpoint()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._gone() from error

    async def aclose(self) -> None:
        """Close the socket, unless the node holds it."""
        if not self.held:
            self.close()
        await checkpoint()

    def close(self, *, reset: bool = False) -> None:
        """Close the socket now; whoever waits for it meets `ClosedResourceError`.

        With `reset` what the kernel still holds for the peer is thrown away, and the peer sees a reset.
        """
        self._back = b""
        if self._sock.fileno() >= 0:
            if reset:
                with suppress(OSError):
                    self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            notify_closing(self._sock)
            self._sock.close()

    def unacknowledged(self) -> int | None:
        """Bytes sent, the end of the stream included, that the peer's kernel has not confirmed; None: unknown."""
        if sys.platform != "linux":
            return None
        try:
            answer = fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ has its number (tcp(7))
        except OSError:
            return None
        return int.from_bytes(answer, sys.byteorder)

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


_SENDMSG = hasattr(socket.socket, "sendmsg")
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time
# errors of connections that ended before they were accepted (accept(2), "Error handling")
_ABORTED = {
    errno.ECONNABORTED, errno.EINTR, errno.EPROTO, errno.ENETDOWN, errno.ENOPROTOOPT, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EPERM,
}  # fmt: skip


def _sockaddr(addr: Address) -> tuple[int, Any]:
    """The family and the system's form of an IP literal; `socket.gaierror` for anything else."""
    ip = literal(addr[0])
    if isinstance(ip, IPv4Address) and 0 <= addr[1] <= 65535:  # the system does the same, but takes its time
        return socket.AF_INET, (str(ip), addr[1])
    info = socket.getaddrinfo(*addr, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)[0]
    return info[0], info[4]


def _name(name: Any) -> str | tuple[str, int]:
    """A socket's name as AnyIO gives it: IPv6 without flow and scope."""
    return cast("str | tuple[str, int]", name[:2] if isinstance(name, tuple) else name)
