"""What is measured for whom, and what this library is to reach."""

from __future__ import annotations

import dataclasses
import math
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeAlias

from tests.benchmarks.work import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOPS = ("asyncio", "uvloop", "trio")
MORE_LOOPS = tuple(loop for loop in ("rloop", "zuvloop") if find_spec(loop) is not None)  # where they are installed
OURS = tuple(f"pea2pea, {loop}" for loop in (*LOOPS, *MORE_LOOPS))
BATCHED = ("pea2pea batched, asyncio", "pea2pea batched, uvloop", "pea2pea batched, trio")
ANYIO = ("anyio, asyncio", "anyio, uvloop", "anyio, trio")
ASYNCIO = ("asyncio streams", "asyncio streams, uvloop")
ZMQ = ("pyzmq, asyncio", "pyzmq, blocking")
LIBP2P = ("py-libp2p",)
PROGRAMS = {
    "of_pea2pea": (*OURS, *BATCHED),
    "of_anyio": ANYIO,
    "of_asyncio": ASYNCIO,
    "of_twisted": ("twisted",),
    "of_zmq": ZMQ,
    "of_libp2p": LIBP2P,
    "of_bare": ("ceiling", "floor"),
}
STREAMS = (*OURS, *ANYIO, *ASYNCIO, "twisted", "ceiling")
EVERYBODY = (*STREAMS, *ZMQ, *LIBP2P)
ROWS = (*OURS, *BATCHED, *(who for who in EVERYBODY if who not in OURS), "floor")
NOTES = """\
- The ceiling is framed messages on blocking sockets in batches of 64 KiB, and with many connections one loop
  around epoll; the floor is bytes without frames, read into one buffer.
- Batched: the same messages and bytes, with a codec of lists at both ends; a list of up to 64 is one call.
- A column with a thousand connections or more, or a flood, has the same clients for everybody: bare sockets.
- py-libp2p encrypts and multiplexes, which nobody else here does. A message of 16 MiB gets stuck in its flow
  control.
- pyzmq has a thread for input and output, which shares the core of the process it belongs to.
- AnyIO's own accepted streams on asyncio and uvloop buffer what nobody reads, without a bound.
- Memory is what the accepting process keeps for an idle connection, without the kernel's buffers."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """Some work, whose it is, and whose in the short run."""

    work: Work
    who: tuple[str, ...]
    quick: tuple[str, ...] = ()
    repeats: int = 7

    def shortened(self) -> Work:
        """The work in the short run."""
        connections = min(self.work.connections, 300) if self.work.kind == "setup" else self.work.connections
        return dataclasses.replace(self.work, seconds=min(self.work.seconds, 0.15), connections=connections)


ONE_WAY = {"32 B": 32, "1 KiB": 1 << 10, "64 KiB": 1 << 16, "1 MiB": 1 << 20, "16 MiB": 1 << 24}
FEW = 3  # repeats of what takes long
SCALES = (1, 10, 100, 1_000, 10_000)


def _trials() -> Iterator[tuple[str, Trial]]:
    rivals = (*OURS, *ANYIO, "ceiling")
    for name, size in ONE_WAY.items():
        work = Work("throughput", size, 0.3)
        if size < ONE_WAY["64 KiB"]:
            quick = (*OURS, *BATCHED, "asyncio streams", "twisted", "ceiling")
            yield name, Trial(work, (*EVERYBODY, *BATCHED), quick)
        elif size < ONE_WAY["1 MiB"]:
            yield name, Trial(work, EVERYBODY, (*OURS, "asyncio streams", "twisted", "pyzmq, blocking", "ceiling"))
        elif size < ONE_WAY["16 MiB"]:
            yield name, Trial(work, (*EVERYBODY, "floor"), (*OURS, "ceiling", "floor"))
        else:
            yield name, Trial(work, (*STREAMS, *ZMQ, "floor"), repeats=FEW)
    yield "one", Trial(Work("roundtrip", seconds=0.4), EVERYBODY, rivals)
    yield "many", Trial(Work("roundtrip", seconds=0.4, in_flight=64), EVERYBODY)
    yield "setup", Trial(Work("setup", connections=1_000), STREAMS, rivals)
    yield "broadcast", Trial(Work("broadcast", 1 << 10, connections=1_000), STREAMS, (*OURS, "ceiling"))
    yield "disconnect", Trial(Work("disconnect", connections=1_000), STREAMS, repeats=FEW)
    yield "shutdown", Trial(Work("shutdown", connections=1_000), OURS, repeats=FEW)
    flooded = (*OURS, *ANYIO, *ASYNCIO, "twisted")
    yield "empty", Trial(Work("beside", 0, 1.0), flooded, OURS, FEW)
    yield "large", Trial(Work("beside", 1 << 20, 1.0), flooded, OURS, FEW)
    for connections in SCALES:
        work = Work("scaling", seconds=0.3, connections=connections)
        few = (*OURS, "asyncio streams", "twisted", "ceiling")
        yield (
            f"{connections:,}",
            Trial(work, STREAMS, OURS if connections in {10, 1_000} else ())
            if connections < SCALES[-1]
            else Trial(work, few, repeats=FEW),
        )


TRIALS = dict(_trials())
IMPORTS = ("import anyio", "import pea2pea", "from pea2pea import Node")


@dataclasses.dataclass(frozen=True)
class Column:
    trial: str
    figure: str
    title: str


TABLES = {
    "Messages a second, one way, over one connection": tuple(Column(name, "rate", name) for name in ONE_WAY),
    "Round trips of 32 B, one at a time and 64 in flight": (
        Column("one", "p50", "median, µs"),
        Column("one", "p99", "p99, µs"),
        Column("many", "rate", "64: messages a second"),
        Column("empty", "p99", "p99 beside a flood of empty messages, µs"),
        Column("large", "p99", "p99 beside a flood of 1 MiB, µs"),
    ),
    "A thousand connections": (
        Column("setup", "rate", "set up, a second"),
        Column("setup", "rss", "bytes, idle, each"),
        Column("disconnect", "ms", "disconnected, ms"),
        Column("shutdown", "ms", "shut down, ms"),
        Column("broadcast", "ms", "1 KiB to all, ms"),
        Column("broadcast", "cpu", "... CPU µs, each"),
    ),
    "CPU of an echo, µs, one message of 32 B in flight on each of so many connections": tuple(
        Column(f"{connections:,}", "cpu", f"{connections:,}") for connections in SCALES
    ),
}

Median: TypeAlias = "Callable[[str, str, str], float]"
"""Of a trial, a contestant and a figure."""


@dataclasses.dataclass(frozen=True)
class Bar:
    """A figure that this library is to reach on each loop, most often as a share of somebody else's."""

    what: str
    value: Callable[[Median, str], float]
    least: float = float("-inf")
    most: float = float("inf")
    on: tuple[str, ...] = LOOPS

    def reached(self, value: float) -> bool:
        return self.least <= value <= self.most

    @property
    def wanted(self) -> str:
        return f"≤ {self.most:g}" if math.isfinite(self.most) else f"≥ {self.least:g}"


def share(trial: str, figure: str, of: str) -> Callable[[Median, str], float]:
    """Our figure, divided by that of another contestant: `{}` in its name stands for the loop."""
    return lambda median, loop: median(trial, f"pea2pea, {loop}", figure) / median(trial, of.format(loop), figure)


def share_of_batches(trial: str, of: str) -> Callable[[Median, str], float]:
    return lambda median, loop: (
        median(trial, f"pea2pea batched, {loop}", "rate") / median(trial, of.format(loop), "rate")
    )


def own(trial: str, figure: str, scale: float = 1.0) -> Callable[[Median, str], float]:
    return lambda median, loop: median(trial, f"pea2pea, {loop}", figure) * scale


def growth(few: str, many: str) -> Callable[[Median, str], float]:
    return lambda median, loop: median(many, f"pea2pea, {loop}", "cpu") / median(few, f"pea2pea, {loop}", "cpu")


NATIVE, TRIO = ("asyncio", "uvloop"), ("trio",)
BARS = (
    *(
        bar
        for size in ("32 B", "1 KiB")
        for bar in (
            Bar(f"{size}: of the ceiling", share(size, "rate", "ceiling"), least=0.4, on=NATIVE),
            Bar(f"{size}: of the ceiling", share(size, "rate", "ceiling"), least=0.3, on=TRIO),
        )
    ),
    Bar("32 B: times asyncio streams", share("32 B", "rate", "asyncio streams"), least=8),
    Bar("32 B: times Twisted", share("32 B", "rate", "twisted"), least=1.3),
    Bar("1 KiB: times asyncio streams", share("1 KiB", "rate", "asyncio streams"), least=5),
    Bar("1 KiB: times Twisted", share("1 KiB", "rate", "twisted"), least=1.6),
    Bar("32 B: batched, of plain", share_of_batches("32 B", "pea2pea, {}"), least=1.8),
    Bar("32 B: batched, of the ceiling", share_of_batches("32 B", "ceiling"), least=1.0),
    Bar("1 KiB: batched, of plain", share_of_batches("1 KiB", "pea2pea, {}"), least=1.4),
    Bar("64 KiB: times pyzmq", share("64 KiB", "rate", "pyzmq, blocking"), least=1.0),
    Bar("64 KiB: of the ceiling", share("64 KiB", "rate", "ceiling"), least=0.9),
    Bar("1 MiB: of the ceiling", share("1 MiB", "rate", "ceiling"), least=0.9),
    Bar("1 MiB: of the floor", share("1 MiB", "rate", "floor"), least=0.75),
    Bar("round trip: of AnyIO's", share("one", "p50", "anyio, {}"), most=1.0, on=("asyncio",)),
    Bar("round trip: of AnyIO's", share("one", "p50", "anyio, {}"), most=1.4, on=("uvloop", "trio")),
    Bar("set-ups: of AnyIO's", share("setup", "rate", "anyio, {}"), least=1.0, on=("asyncio", "trio")),
    Bar("set-ups: of AnyIO's", share("setup", "rate", "anyio, {}"), least=0.7, on=("uvloop",)),
    Bar("idle connection: kB", own("setup", "rss", 1e-3), most=9.8),
    Bar("broadcast: CPU of bare sends", share("broadcast", "cpu", "ceiling"), most=1.3),
    Bar("1,000 connections: CPU of ten", growth("10", "1,000"), most=1.5),
    Bar("10,000 connections: CPU of ten", growth("10", "10,000"), most=1.5),
    Bar("p99 beside empty messages: ms", own("empty", "p99", 1e-3), most=20),
    Bar("p99 beside 1 MiB: ms", own("large", "p99", 1e-3), most=10),
    Bar(
        "import: ms more than AnyIO",
        lambda median, _: median("import", IMPORTS[1], "ms") - median("import", IMPORTS[0], "ms"),
        most=15,
        on=("any",),
    ),
)
