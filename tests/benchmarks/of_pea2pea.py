"""This library, with its default options: only the limits are raised to what the work needs."""

from __future__ import annotations

import gc
import socket
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import anyio

from pea2pea import Config, Connection, Node, Side, TCPTransport
from pea2pea.codecs import Codec, LengthDelimitedCodec, batched
from tests.benchmarks import channels
from tests.benchmarks.of_anyio import LOOPS, on, together
from tests.benchmarks.program import take_turns
from tests.benchmarks.work import BACKLOG, HOST, MESSAGE, SMALL, STAMP, Figures, RoundTrips, Server, Tell, Work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.abc import TaskStatus


class Peer:
    """A node that reads and writes messages with a length prefix; subclasses say what to do with them."""

    def __init__(self, work: Work, *, listening: bool) -> None:
        self.work = work
        self.codec = self.make_codec()
        self.node = Node(
            Config(
                listener_addr=(HOST, 0) if listening else None,
                listener_backlog=BACKLOG,
                max_connections=work.connections + 100,
            )
        )
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)

    def make_codec(self) -> Codec[Any]:
        return LengthDelimitedCodec(max_length=max(8 << 20, self.work.size))

    def decoder(self, connection: Connection) -> Codec[Any]:
        return self.make_codec()

    def encoder(self, connection: Connection) -> Codec[Any]:
        return self.codec

    async def process_message(self, source: Connection, message: Any) -> None:
        raise NotImplementedError


class Echo(Peer):
    async def process_message(self, source: Connection, message: bytes) -> None:
        if len(message) == SMALL:
            await self.outbox.send(source, message)


class Serving(Peer):
    def __init__(self, work: Work, tell: Tell) -> None:
        super().__init__(work, listening=True)
        self.tell = tell


class Sink(Serving):
    def __init__(self, work: Work, tell: Tell) -> None:
        super().__init__(work, tell)
        self.received = 0  # not of the class: since Python 3.12 a counter there would cost half of the speed
        self.first = 0  # messages that came before the clock
        self.began = 0.0

    async def process_message(self, source: Connection, message: Any) -> None:
        if message:
            self.received += 1
            if self.received == 1:
                self.first, self.began = 1, perf_counter()
        else:
            await self.finish(source, b"")

    async def finish(self, source: Connection, last_word: object) -> None:
        took = perf_counter() - self.began
        self.tell.figures(received=self.received, rate=(self.received - self.first) / took)
        await self.outbox.send(source, last_word)


class BatchedSink(Sink):
    """As a codec of lists makes it: one call for all messages of a chunk."""

    def make_codec(self) -> Codec[Any]:
        return batched(super().make_codec())

    async def process_message(self, source: Connection, message: list[bytes]) -> None:
        self.received += len(message)
        if not self.first:
            self.first, self.began = self.received, perf_counter()
        if not message[-1]:
            self.received -= 1
            await self.finish(source, [b""])


class Broadcaster(Serving):
    async def process_message(self, source: Connection, message: bytes) -> None:
        self.outbox.broadcast(STAMP.pack(perf_counter()).ljust(self.work.size, b"\0"))


class Disconnecter(Serving):
    async def process_message(self, source: Connection, message: bytes) -> None:
        self.node.start_soon(self.disconnect_all)

    async def disconnect_all(self) -> None:
        async with anyio.create_task_group() as tasks:
            for addr in self.node.connections:
                tasks.start_soon(self.node.disconnect, addr)
        self.tell.figures(ended=perf_counter())


class Closer(Serving):
    async def process_message(self, source: Connection, message: bytes) -> None:
        await self.node.shut_down()


async def serve(work: Work, tell: Tell, *, in_batches: bool = False) -> None:
    peer: Peer
    match work.kind:
        case "throughput":
            peer = BatchedSink(work, tell) if in_batches else Sink(work, tell)
        case "broadcast":
            peer = Broadcaster(work, tell)
        case "disconnect":
            peer = Disconnecter(work, tell)
        case "shutdown":
            peer = Closer(work, tell)
        case _:
            peer = Echo(work, listening=True)
    async with peer.node as node:
        _, port = await node.start_listening()
        tell.listening(port)
        await node.wait_closed()
    tell.figures(ended=perf_counter())


class Calling(Peer):
    """Waits for a last word of the server's."""

    def __init__(self, work: Work) -> None:
        super().__init__(work, listening=False)
        self.done = anyio.Event()

    async def process_message(self, source: Connection, message: bytes) -> None:
        self.done.set()

    @asynccontextmanager
    async def connected(self, server: Server) -> AsyncIterator[Connection]:
        async with self.node as node:
            yield await node.connect((HOST, server.port))


class BatchedSource(Calling):
    def make_codec(self) -> Codec[Any]:
        return batched(super().make_codec())


class Pinger(Calling):
    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self.trips = RoundTrips(work)

    async def process_message(self, source: Connection, message: bytes) -> None:
        if self.trips.answered():
            await self.ping(source)
        else:
            self.done.set()

    async def ping(self, peer: Connection) -> None:
        self.trips.sent()
        await self.outbox.send(peer, MESSAGE)


async def source(work: Work, server: Server) -> Figures:
    peer, message, sent = Calling(work), bytes(work.size), 0
    async with peer.connected(server) as connection:
        send, addr = peer.outbox.send, connection.addr
        deadline = perf_counter() + work.seconds
        while sent < 2 or perf_counter() < deadline:
            for _ in range(work.burst):
                await send(addr, message)
            sent += work.burst
        await send(addr, b"")
        await peer.done.wait()
    return {"sent": sent}


async def source_of_batches(work: Work, server: Server) -> Figures:
    peer, sent = BatchedSource(work), 0
    batch = [bytes(work.size)] * min(64, work.burst)
    async with peer.connected(server) as connection:
        send, addr = peer.outbox.send, connection.addr
        deadline = perf_counter() + work.seconds
        while perf_counter() < deadline:
            for _ in range(work.burst // len(batch)):
                await send(addr, batch)
                sent += len(batch)
        await send(addr, [b""])
        await peer.done.wait()
    return {"sent": sent}


async def ping(work: Work, server: Server) -> Figures:
    peer = Pinger(work)
    async with peer.connected(server) as connection:
        for _ in range(work.in_flight):
            await peer.ping(connection)
        await peer.done.wait()
    return peer.trips.figures()


class Dialled:
    """A connection whose answers are told from each other by nothing: one at a time."""

    def __init__(self, peer: Calling, connection: Connection) -> None:
        self._peer, self._connection = peer, connection

    async def send(self, message: bytes) -> None:
        self._peer.done = anyio.Event()
        await self._peer.outbox.send(self._connection, message)

    async def receive(self) -> bytes:
        await self._peer.done.wait()
        return MESSAGE


async def set_up(work: Work, server: Server) -> Figures:
    """A node connects to an address once, so each connection is one of another node's, which waits for its turn."""
    peers = [Calling(work) for _ in range(work.connections + 1)]

    async def live(peer: Calling, *, task_status: TaskStatus[None]) -> None:
        async with peer.node as node:  # in a task of its own: AnyIO walks over all scopes that are nested
            near, far = socket.socketpair()
            far.close()
            await node.adopt(TCPTransport.wrap(near), ("the first", 0), Side.INITIATOR)
            task_status.started()
            await node.wait_closed()

    async with anyio.create_task_group() as tasks:
        for peer in peers:
            await tasks.start(live, peer)
        gc.collect()
        gc.freeze()  # that there are so many nodes, and what each starts just once, is this program's affair
        turn = iter(peers)

        async def dial() -> Dialled:
            peer = next(turn)
            connection = await peer.node.connect((HOST, server.port))
            return Dialled(peer, connection)

        figures = await channels.set_up(dial, together, work, server)
        await together(peer.node.shut_down() for peer in peers)
    return figures


async def call(work: Work, server: Server) -> Figures:
    match work.kind:
        case "throughput":
            return await source(work, server)
        case "setup":
            return await set_up(work, server)
        case _:
            return await ping(work, server)


if __name__ == "__main__":
    serve_batches = partial(serve, in_batches=True)
    take_turns(
        {f"pea2pea, {loop}": on(loop, serve, call) for loop in LOOPS}
        | {f"pea2pea batched, {loop}": on(loop, serve_batches, source_of_batches) for loop in LOOPS}
    )
