"""What contestants have in common whose users send and receive messages one by one."""

from __future__ import annotations

from time import perf_counter, process_time
from typing import TYPE_CHECKING, Protocol, TypeVar

from tests.benchmarks.work import DIALLERS, MESSAGE, PREFIX, SMALL, STAMP, Figures, RoundTrips, Server, Tell, Work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence


class Channel(Protocol):
    """Messages both ways; `receive` raises whatever it likes once there are no more."""

    async def send(self, message: bytes, /) -> None: ...
    async def receive(self) -> bytes: ...


class Stream(Channel, Protocol):
    """A channel made of a byte stream by hand."""

    async def write(self, frame: bytes, /) -> None: ...
    async def aclose(self) -> None: ...


C = TypeVar("C", bound=Channel)


async def source(channel: Channel, work: Work) -> Figures:
    message, sent = bytes(work.size), 0
    deadline = perf_counter() + work.seconds
    while sent < 2 or perf_counter() < deadline:
        for _ in range(work.burst):
            await channel.send(message)
        sent += work.burst
    await channel.send(b"")
    await channel.receive()
    return {"sent": sent}


async def sink(channel: Channel, tell: Tell) -> None:
    received, began, ended = 0, 0.0, 0.0
    while await channel.receive():
        received += 1
        if received == 1:
            began = perf_counter()
    ended = perf_counter()
    await channel.send(b"")
    tell.figures(received=received, rate=(received - 1) / (ended - began))


async def echo(channel: Channel) -> None:
    while True:
        message = await channel.receive()
        if len(message) == SMALL:
            await channel.send(message)


async def ping(channel: Channel, work: Work) -> Figures:
    trips = RoundTrips(work)
    for _ in range(work.in_flight):
        trips.sent()
        await channel.send(MESSAGE)
    while True:
        await channel.receive()
        if not trips.answered():
            return trips.figures()
        trips.sent()
        await channel.send(MESSAGE)


async def set_up(
    dial: Callable[[], Awaitable[C]],
    together: Callable[[Iterable[Awaitable[None]]], Awaitable[object]],
    work: Work,
    server: Server,
) -> Figures:
    """Connections set up, some at a time; the last to be accepted proves by an echo that all have been."""
    channels: list[C] = []

    async def dial_some(how_many: int) -> None:
        for _ in range(how_many):
            channels.append(await dial())  # noqa: PERF401  # in the order of arrival

    async def prove() -> None:
        await channels[-1].send(MESSAGE)
        await channels[-1].receive()

    await dial_some(1)
    await prove()
    memory, cpu, own, began = server.memory(), server.cpu(), process_time(), perf_counter()
    await together(dial_some(work.connections // DIALLERS) for _ in range(DIALLERS))
    await prove()
    took, own, cpu = perf_counter() - began, process_time() - own, server.cpu() - cpu
    return {
        "rate": work.connections / took,
        "rss": (server.memory() - memory) / work.connections,
        "cpu accepting": cpu / work.connections * 1e6,
        "cpu dialling": own / work.connections * 1e6,
    }


async def answer(
    stream: Stream,
    everybody: Sequence[Stream],
    together: Callable[[Iterable[Awaitable[None]]], Awaitable[object]],
    work: Work,
    tell: Tell,
) -> None:
    """What a server made of streams does for one connection."""
    match work.kind:
        case "throughput":
            await sink(stream, tell)
        case "broadcast":
            while await stream.receive():
                frame = PREFIX.pack(work.size) + STAMP.pack(perf_counter()).ljust(work.size, b"\0")
                for other in everybody:
                    await other.write(frame)
        case "disconnect" | "shutdown":
            await stream.receive()
            await together(other.aclose() for other in everybody)
            tell.figures(ended=perf_counter())
        case _:
            await echo(stream)


async def use(channel: Channel, work: Work) -> Figures:
    """What a client does with one connection."""
    return await (source if work.kind == "throughput" else ping)(channel, work)
