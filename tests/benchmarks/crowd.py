"""Bare sockets: the clients of all work with many connections, the same for every server."""

from __future__ import annotations

import select
import socket
import statistics
from collections import defaultdict
from time import perf_counter, sleep
from typing import TYPE_CHECKING

from tests.benchmarks.stage import CLIENT_CORE, Role
from tests.benchmarks.work import FRAME, HOST, PREFIX, READ, READ_OF_MANY, STAMP, Figures, RoundTrips, Server, Work

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

SETTLED = 0.1  # seconds after which those are established, in any order, that were accepted together
WAVE = 100  # connections that may wait in the accept queue
FLOOD = 1 << 20


class Frames:
    """Cuts what arrives into messages; a message of many chunks is joined once."""

    def __init__(self) -> None:
        self._prefix = b""
        self._body: list[bytes] = []
        self._missing = 0

    def cut(self, chunk: bytes) -> list[bytes]:
        found: list[bytes] = []
        at = 0
        if self._missing:
            begun = chunk[: self._missing]
            self._body.append(begun)
            self._missing -= len(begun)
            if self._missing:
                return found
            found.append(b"".join(self._body))
            at = len(begun)
        elif self._prefix:
            chunk = self._prefix + chunk
        end, length_at = len(chunk), PREFIX.unpack_from
        while (body := at + PREFIX.size) <= end:
            after = body + length_at(chunk, at)[0]
            if after > end:
                self._body, self._missing, self._prefix = [chunk[body:]], after - end, b""
                return found
            found.append(chunk[body:after])
            at = after
        self._prefix = chunk[at:]
        return found


def dial(port: int) -> socket.socket:
    sock = socket.create_connection((HOST, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def ping(sock: socket.socket, work: Work) -> Figures:
    """Round trips on a blocking socket."""
    trips, frames = RoundTrips(work), Frames()
    for _ in range(work.in_flight):
        trips.sent()
        sock.sendall(FRAME)
    while True:
        for _ in frames.cut(sock.recv(READ)):
            if not trips.answered():
                return trips.figures()
            trips.sent()
            sock.sendall(FRAME)


class Crowd:
    """Many connections, and what arrives on any of them."""

    def __init__(self, work: Work, server: Server) -> None:
        self.sockets: dict[int, socket.socket] = {}
        self._poll = select.epoll()
        for number in range(1, work.connections + 1):
            sock = dial(server.port)
            self.sockets[sock.fileno()] = sock
            self._poll.register(sock, select.EPOLLIN)
            if number % WAVE == 0 or number == work.connections:
                server.wait_accepted(number)
        sleep(SETTLED)
        self.last = sock
        """The last one that was accepted."""

    def arrivals(self) -> Iterator[tuple[int, bytes]]:
        for descriptor, _ in self._poll.poll():
            yield descriptor, self.sockets[descriptor].recv(READ_OF_MANY)


def scaling(work: Work, server: Server) -> Figures:
    """One message in flight on each connection: the server's microseconds of processor time for each."""
    crowd, pending = Crowd(work, server), defaultdict[int, int](int)
    for sock in crowd.sockets.values():
        sock.send(FRAME)
    warm, answered, began, cpu = False, 0, 0.0, 0.0
    while True:
        for descriptor, data in crowd.arrivals():
            pending[descriptor] += len(data)
            if pending[descriptor] == len(FRAME):
                pending[descriptor] = 0
                answered += 1
                crowd.sockets[descriptor].send(FRAME)
        now = perf_counter()
        if not warm and answered >= work.connections:
            warm, answered, began, cpu = True, 0, now, server.cpu()
        elif now - began >= work.seconds and answered >= 2 * work.connections:
            return {"cpu": (server.cpu() - cpu) / answered * 1e6, "rate": answered / (now - began)}


def broadcast(work: Work, server: Server) -> Figures:
    """Ask for a message to everybody, again and again: time until the last has it, processor time a peer."""
    crowd = Crowd(work, server)
    first, deadline, rounds, cpu = crowd.last.fileno(), perf_counter() + work.seconds, list[float](), 0.0
    while len(rounds) < 5 or perf_counter() < deadline:
        if len(rounds) == 1:
            cpu = server.cpu()
        crowd.last.send(FRAME)
        missing, stamped = work.connections * (PREFIX.size + work.size), b""
        while missing:
            for descriptor, data in crowd.arrivals():
                missing -= len(data)
                if descriptor == first:
                    stamped += data
        rounds.append(perf_counter() - STAMP.unpack_from(stamped, PREFIX.size)[0])
    spent = (server.cpu() - cpu) / (len(rounds) - 1)
    return {"ms": statistics.median(rounds[1:]) * 1e3, "cpu": spent / work.connections * 1e6}


def ending(work: Work, server: Server) -> Figures:
    """Ask the server to end every connection; it tells when it has."""
    crowd = Crowd(work, server)
    began = perf_counter()
    crowd.last.send(FRAME)
    left = work.connections
    while left:
        for descriptor, data in crowd.arrivals():
            if not data:
                crowd.sockets.pop(descriptor).close()
                left -= 1
    return {"began": began}


def _flood(port: int, size: int, pipe: Connection) -> None:
    frame = PREFIX.pack(size) + bytes(size)
    block = frame * max(1, FLOOD // len(frame))
    sock = dial(port)
    for number in range(1 << 62):
        sock.sendall(block)
        if number == 8:
            pipe.send("under way")


def beside(work: Work, server: Server) -> Figures:
    """Round trips, while somebody else sends empty or large messages flat out."""
    flood = Role(CLIENT_CORE, lambda pipe: _flood(server.port, work.size, pipe))
    try:
        flood.next()
        with dial(server.port) as sock:
            return ping(sock, work)
    finally:
        flood.end()


CROWDS = {"scaling": scaling, "broadcast": broadcast, "disconnect": ending, "shutdown": ending, "beside": beside}
