"""Streams of the library's on sockets, and their other ends."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pea2pea import TCPTransport
from pea2pea.transport import TCPStream

from ..helpers import LOCALHOST, RawPeer

if TYPE_CHECKING:
    from collections.abc import Generator

FAMILIES = ["TCP", "Unix"] if hasattr(socket, "AF_UNIX") else ["TCP"]


@contextmanager
def wrapped(family: str = "TCP", *, buffer: int | None = None) -> Generator[tuple[TCPStream, RawPeer]]:
    """A stream of a connected socket, and the socket's other end."""
    if family == "TCP":
        with socket.create_server((LOCALHOST, 0)) as listener:
            if buffer is not None:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            one = socket.create_connection(listener.getsockname())
            other, _ = listener.accept()
    else:
        one, other = socket.socketpair()
    if buffer is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    with one, RawPeer(other) as peer:
        stream = TCPTransport.wrap(one)
        assert isinstance(stream, TCPStream)
        yield stream, peer
