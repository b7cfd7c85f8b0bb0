"""What nearly every handshake needs: typed messages before the connection is established, and TLS.

A handshake that uses both:

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        stream = await TLSHandshake(client=CLIENT, server=SERVER).perform_handshake(connection, stream)
        messages = MessageStream(stream, LinesCodec(max_length=64))
        await messages.send("my name")
        self.names[connection] = await messages.receive()
        return messages.detach()

Rule 1: every byte behind the last message that `MessageStream.receive` returned is in the stream that `detach` returns.
Rule 2: after a `TLSHandshake` either both sides have a connection, or neither.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Generic, TypeVar

from anyio import BrokenResourceError, EndOfStream
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteStream
from anyio.streams.tls import TLSStream

from .codecs import Codec
from .connection import Connection, Side
from .errors import FrameError
from .transport import TAKE_MAX, TCPStream

__all__ = ["MessageStream", "TLSHandshake"]

M = TypeVar("M")

_AHEAD = 1024  # bytes to read at a time for a decoder that does not say how many it lacks
_CONFIRMATION = b"+"


class MessageStream(Generic[M]):
    """Sends and receives messages on a stream during a handshake, and then gives the stream back.

    What was received behind a message is kept, and is not lost by `detach`. The codec is for the handshake alone;
    `Reading.decoder` and `Writing.encoder` of the connection may be of any other kind.

    stream: what `perform_handshake` was given, or a stream that wraps it. Until `detach`, nothing else may use it.
    codec: a codec of its own for each handshake. A decoder with an attribute `missing` (the ready-made ones have it
        where they can know it) is fed so many bytes at a time, any other one single bytes, so that it is known where a
        message ends. That is slow for large messages: give it a small `max_length`. `BytesCodec`, which has no frames,
        makes a message of each byte.

    One task may send while another one receives. Time is limited by the timeout given to `Node.enable_handshake`.
    """

    def __init__(self, stream: ByteStream, codec: Codec[M]) -> None:
        self._stream: ByteStream | None = stream
        self._codec = codec
        self._messages: Iterator[M] = iter(())  # what the decoder makes of what it was fed last
        self._data = bytearray()  # what was received behind the last message
        self._fed = 0  # ... of which the decoder has so many bytes
        self._ended = False

    async def send(self, message: M) -> None:
        """Send a message; returns when the stream has taken all of it.

        Raises what the encoder raises, then nothing was sent, or what the stream raises. Cancelling it leaves an
        unknown part sent: the stream is of no use any more, so let the handshake fail.
        """
        stream, frame = self._attached(), self._codec.encode(message)
        await stream.send(b"".join(frame if isinstance(frame, tuple) else (frame,)))

    async def receive(self) -> M:
        """Return the next message.

        Raises `EndOfStream` at the end of the stream, `FrameError` (if the decoder does) where the end has cut off a
        frame or the peer sent no valid one, and what the stream raises. Cancelling it loses nothing.
        """
        while True:
            stream = self._attached()
            for message in self._messages:
                del self._data[: self._fed]
                self._fed = 0
                return message
            if self._ended:
                raise EndOfStream
            missing: int = getattr(self._codec, "missing", 0)
            if self._fed == len(self._data):
                with suppress(EndOfStream):
                    self._data.extend(await stream.receive(min(missing, TAKE_MAX) or _AHEAD))
            piece = bytes(self._data[self._fed : self._fed + (missing or 1)])
            self._fed += len(piece)
            self._ended = not piece
            self._messages = iter(self._codec.decode(piece))

    def detach(self) -> ByteStream:
        """Return the stream for `perform_handshake` to return, in which every byte behind the last message comes next.

        That is the stream itself, so that the connection is as fast as without a handshake: into a TCP stream of the
        library's own the bytes are put back; only another stream, of which too much was read, is wrapped. To send and
        receive messages here is a `RuntimeError` from then on.

        Raises `FrameError` if the decoder has made more messages of the last bytes than were received.
        """
        stream = self._attached()
        for _ in self._messages:
            raise FrameError("the peer sent more messages than its handshake has, and in one piece")
        self._stream = None
        rest = bytes(self._data)
        if rest and isinstance(stream, TCPStream):
            stream.put_back(rest)
        elif rest:
            stream = BufferedByteStream(stream)
            stream.feed_data(rest)
        return stream

    def _attached(self) -> ByteStream:
        if self._stream is None:
            raise RuntimeError(f"{self!r} is detached: the stream is the connection's")
        return self._stream

    def __repr__(self) -> str:
        return f"MessageStream({self._stream!r}, {self._codec!r})"


_failures: ContextVar[list[ssl.SSLError] | None] = ContextVar("pea2pea_tls_failures", default=None)
"""Where a TLS handshake that fails leaves the error; None where no `TLSHandshake` is at work."""


class _Alerting(ssl.SSLObject):
    """Gets its alert sent before its handshake fails (RFC 8446, section 6.2), so that the peer knows the reason.

    AnyIO's `TLSStream` leaves the alert unsent. It sends what there is when it is told that more must be written.
    """

    def do_handshake(self) -> None:
        failures = _failures.get()
        if failures:
            raise failures.pop()
        try:
            super().do_handshake()
        except ssl.SSLError as error:
            if failures is None or isinstance(error, ssl.SSLWantReadError):
                raise
            failures.append(error)
        if failures:  # outside of `except`, so that no error is its own context
            raise ssl.SSLWantWriteError


class TLSHandshake:
    """Makes TLS of a connection, and lets both sides agree on whether there is one.

    Give it to `Node.enable_handshake`, or call its `perform_handshake` in a handshake of your own. Both ends must use
    it: the responder confirms with one byte that it accepts the initiator. (With TLS 1.3 an initiator is done before
    the responder has looked at its certificate: RFC 8446, section 2.)

    client: the context of connections that this node dials. If it has `check_hostname`, which is the default of
        `ssl.PROTOCOL_TLS_CLIENT`, the peer's certificate must be one for the host that `Node.connect` was given (for an
        adopted stream: the host of the address), be it a name or an IP literal.
    server: the context of connections that this node accepts. For TLS both ways it needs `verify_mode`
        `ssl.CERT_REQUIRED`.

    Without one of them, connections of that side are refused with a `RuntimeError`. Both contexts are told to take the
    end of the stream without a goodbye for an error (`ssl.OP_IGNORE_UNEXPECTED_EOF` is cleared), for somebody may have
    cut it off, and, unless they have a `sslobject_class` of your own, to make objects that send their alerts.

    Raises `ValueError` without any context, or for one that is made for the other side only.
    """

    def __init__(self, *, client: ssl.SSLContext | None = None, server: ssl.SSLContext | None = None) -> None:
        if client is None and server is None:
            raise ValueError("TLSHandshake needs a client context, a server context, or both")
        if client is not None and client.protocol is ssl.PROTOCOL_TLS_SERVER:
            raise ValueError("the client context is one for servers: it needs ssl.PROTOCOL_TLS_CLIENT")
        if server is not None and server.protocol is ssl.PROTOCOL_TLS_CLIENT:
            raise ValueError("the server context is one for clients: it needs ssl.PROTOCOL_TLS_SERVER")
        self._contexts = {Side.INITIATOR: client, Side.RESPONDER: server}
        for context in (client, server):
            if context is not None:
                context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", ssl.Options(0))
                if context.sslobject_class is ssl.SSLObject:
                    context.sslobject_class = _Alerting

    async def perform_handshake(self, connection: Connection, stream: ByteStream, /) -> TLSStream:
        """Return the stream to go on with; until then neither side has a connection.

        Raises `ssl.SSLError` with the reason where one side refuses the other: at the side that refuses it is what
        was wrong ("certificate verify failed: certificate has expired"), at the other side the alert that it was sent
        ("tlsv1 alert unknown ca"). Raises `BrokenResourceError` if the peer left without a word, `FrameError` if it
        does not confirm. In any case the stream is of no use any more, nor is it when this was cancelled. Time is
        limited by the timeout given to `Node.enable_handshake`.
        """
        initiator = connection.side is Side.INITIATOR
        context = self._contexts[connection.side]
        if context is None:
            kind = "client" if initiator else "server"
            raise RuntimeError(f"the connection with {connection} is refused: TLSHandshake has no {kind} context")
        host = (connection.dialled or connection.addr)[0].partition("%")[0]  # certificates have no zones
        hostname = host if initiator and context.check_hostname else None
        failures: list[ssl.SSLError] = []
        token = _failures.set(failures)
        try:
            tls = await TLSStream.wrap(stream, server_side=not initiator, hostname=hostname, ssl_context=context)
            if not initiator:
                await tls.send(_CONFIRMATION)
            elif (answer := await tls.receive(len(_CONFIRMATION))) != _CONFIRMATION:
                raise FrameError(f"the peer sent {answer!r} in place of the confirmation: does it use TLSHandshake?")
        except (BrokenResourceError, EndOfStream) as error:
            if failures:  # the peer did not even wait for the alert
                raise failures.pop() from error
            raise BrokenResourceError("the peer left during the TLS handshake without a word") from error
        finally:
            _failures.reset(token)
        return tls
