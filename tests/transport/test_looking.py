"""A stream looks for more behind what it has read, unless such looks have found nothing lately."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pea2pea.transport import LOOK_AGAIN, READ_MIN, VAIN, TCPStream

if TYPE_CHECKING:
    from collections.abc import Generator


class Counted(socket.socket):
    """Counts what the kernel is asked for."""

    reads = 0

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        self.reads += 1
        return super().recv(size, flags)


@contextmanager
def counted() -> Generator[tuple[TCPStream, Counted, socket.socket]]:
    ours, theirs = socket.socketpair()
    with theirs, Counted(fileno=ours.detach()) as sock:
        sock.setblocking(False)
        yield TCPStream(sock), sock, theirs


def looks(stream: TCPStream, sock: Counted, peer: socket.socket) -> bool:
    """Read what has come, and return whether the stream then looks for more."""
    peer.sendall(b"x")
    assert stream.receive_nowait() == b"x"
    before = sock.reads
    assert stream.receive_nowait() is None
    return sock.reads > before


def test_no_look_after_eight_in_vain() -> None:
    with counted() as (stream, sock, peer):
        assert [looks(stream, sock, peer) for _ in range(VAIN)] == [True] * VAIN
        assert not looks(stream, sock, peer)


def test_a_look_now_and_then() -> None:
    """It finds out when looks are worth it again."""
    with counted() as (stream, sock, peer):
        found = [looks(stream, sock, peer) for _ in range(VAIN + 3 * (LOOK_AGAIN - VAIN + 2))]
        assert found[VAIN:].count(True) == 3


def test_a_look_that_finds_something_makes_it_look_again() -> None:
    with counted() as (stream, sock, peer):
        while looks(stream, sock, peer):
            pass
        while not looks(stream, sock, peer):
            pass
        peer.sendall(b"x")
        assert stream.receive_nowait() == b"x"
        for _ in range(LOOK_AGAIN):  # the look that is due finds something
            peer.sendall(b"x")
            if stream.receive_nowait() == b"x":
                break
            assert stream.receive_nowait() == b"x"
        assert stream.receive_nowait() is None
        assert [looks(stream, sock, peer) for _ in range(VAIN - 1)] == [True] * (VAIN - 1)


def test_what_comes_meanwhile_is_read_next() -> None:
    """None says that one has to wait, and the kernel says at once that there is something."""
    with counted() as (stream, sock, peer):
        while looks(stream, sock, peer):
            pass
        peer.sendall(b"a")
        assert stream.receive_nowait() == b"a"
        peer.sendall(b"b")
        assert stream.receive_nowait() is None
        assert stream.receive_nowait() == b"b"


def test_the_end_is_found_behind_a_short_read() -> None:
    with counted() as (stream, sock, peer):
        while looks(stream, sock, peer):
            pass
        peer.sendall(b"last")
        peer.shutdown(socket.SHUT_WR)
        assert stream.receive_nowait() == b"last"
        assert stream.receive_nowait() is None
        assert [stream.receive_nowait() for _ in range(3)] == [b""] * 3


def test_a_full_read_is_always_followed_by_a_look() -> None:
    with counted() as (stream, sock, peer):
        while looks(stream, sock, peer):
            pass
        peer.sendall(bytes(READ_MIN + 1))
        assert len(stream.receive_nowait() or b"") == READ_MIN
        assert stream.receive_nowait() == b"\0"
