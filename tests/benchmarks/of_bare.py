"""The yardsticks: what plain sockets do in Python.

The ceiling is framed messages on blocking sockets, in large batches, cut and counted one by one; for work
with many connections it is one loop around epoll that sends without waiting. The floor is bytes alone.
"""

from __future__ import annotations

import select
import socket
from contextlib import suppress
from time import perf_counter

from tests.benchmarks.crowd import Frames, dial, ping
from tests.benchmarks.program import take_turns
from tests.benchmarks.work import (
    BACKLOG,
    FRAME,
    HOST,
    PREFIX,
    READ,
    READ_OF_MANY,
    SMALL,
    STAMP,
    Contestant,
    Figures,
    Server,
    Tell,
    Work,
)

BATCH = 64 * 1024
BLOCK = 1 << 20


def listen(tell: Tell) -> socket.socket:
    listener = socket.create_server((HOST, 0), backlog=BACKLOG)
    tell.listening(listener.getsockname()[1])
    return listener


def accept(listener: socket.socket) -> socket.socket:
    sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def source(work: Work, server: Server) -> Figures:
    message, prefix, sent = bytes(work.size), PREFIX.pack(work.size), 0
    deadline = perf_counter() + work.seconds
    with dial(server.port) as sock:
        while sent < 2 or perf_counter() < deadline:
            batch: list[bytes] = []
            queued = 0
            while queued < BATCH:
                batch += (prefix, message)
                queued += len(prefix) + len(message)
                sent += 1
            sock.sendall(b"".join(batch))
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)
    return {"sent": sent}


def sink(tell: Tell) -> None:
    frames, received, began = Frames(), 0, 0.0
    with listen(tell) as listener, accept(listener) as sock:
        while chunk := sock.recv(READ):
            for _ in frames.cut(chunk):
                received += 1
                if received == 1:
                    began = perf_counter()
        tell.figures(received=received, rate=(received - 1) / (perf_counter() - began))


def raw_source(work: Work, server: Server) -> Figures:
    block, sent = bytes(BLOCK), 0
    deadline = perf_counter() + work.seconds
    with dial(server.port) as sock:
        while perf_counter() < deadline:
            sock.sendall(block)
            sent += BLOCK
        sock.shutdown(socket.SHUT_WR)
        sock.recv(1)
    return {"sent": sent}


def raw_sink(work: Work, tell: Tell) -> None:
    buffer = bytearray(BLOCK)
    with listen(tell) as listener, accept(listener) as sock:
        received = first = sock.recv_into(buffer)
        began = perf_counter()
        while got := sock.recv_into(buffer):
            received += got
        rate = (received - first) / (perf_counter() - began) / work.size
        tell.figures(received=received, rate=rate)


def echo(tell: Tell) -> None:
    frames = Frames()
    with listen(tell) as listener, accept(listener) as sock, suppress(ConnectionError):
        while chunk := sock.recv(READ):
            for message in frames.cut(chunk):
                sock.sendall(PREFIX.pack(len(message)) + message)


class Loop:
    """One loop for all connections, that never waits for any of them."""

    def __init__(self, work: Work, tell: Tell) -> None:
        self._work, self._tell = work, tell
        self._listener = listen(tell)
        self._sockets: dict[int, tuple[socket.socket, Frames]] = {}
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)

    def run(self) -> None:
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == self._listener.fileno():
                    sock = accept(self._listener)
                    sock.setblocking(False)
                    self._sockets[sock.fileno()] = sock, Frames()
                    self._poll.register(sock, select.EPOLLIN)
                else:
                    self._hear(*self._sockets[descriptor])

    def _hear(self, sock: socket.socket, frames: Frames) -> None:
        try:
            chunk = sock.recv(READ_OF_MANY)
        except ConnectionError:
            chunk = b""
        if not chunk:
            self._poll.unregister(sock)
            del self._sockets[sock.fileno()]
            sock.close()
        for message in frames.cut(chunk):
            if self._work.kind == "broadcast":
                frame = PREFIX.pack(self._work.size) + STAMP.pack(perf_counter()).ljust(self._work.size, b"\0")
                for peer, _ in self._sockets.values():
                    peer.send(frame)
            elif self._work.kind in {"disconnect", "shutdown"}:
                for peer, _ in self._sockets.values():
                    self._poll.unregister(peer)
                    peer.close()
                self._tell.figures(ended=perf_counter())
            elif len(message) == SMALL:
                sock.send(PREFIX.pack(len(message)) + message)


def serve(work: Work, tell: Tell) -> None:
    match work.kind:
        case "throughput":
            sink(tell)
        case "roundtrip":
            echo(tell)
        case _:
            Loop(work, tell).run()


def call(work: Work, server: Server) -> Figures:
    match work.kind:
        case "throughput":
            return source(work, server)
        case "roundtrip":
            with dial(server.port) as sock:
                return ping(sock, work)
        case _:
            return set_up(work, server)


def set_up(work: Work, server: Server) -> Figures:
    before, began = server.memory(), perf_counter()
    sockets = [dial(server.port) for _ in range(work.connections)]
    sockets[-1].sendall(FRAME)
    sockets[-1].recv(READ)
    took = perf_counter() - began
    return {"rate": work.connections / took, "rss": (server.memory() - before) / work.connections}


if __name__ == "__main__":
    take_turns({"ceiling": Contestant(serve, call), "floor": Contestant(raw_sink, raw_source)})
