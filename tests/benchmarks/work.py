"""What is to be done in one run, and what its two processes know of each other."""

from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

Kind: TypeAlias = Literal[
    "throughput",  # messages of one size, one way, as fast as they go; an empty one says that it was the last
    "roundtrip",  # messages that are echoed
    "setup",  # connections that are set up and then idle
    "broadcast",  # a message to every connection, whenever one of them asks for it
    "scaling",  # one message in flight on each connection, echoed
    "disconnect",  # end every connection when one of them asks for it
    "shutdown",  # ... or everything
    "beside",  # round trips of an honest peer beside one who floods
]
Figures: TypeAlias = dict[str, float]

HOST = "127.0.0.1"
PREFIX = struct.Struct(">I")
STAMP = struct.Struct(">d")
READ = 256 * 1024
READ_OF_MANY = 16 * 1024  # a read for each of many connections is small, and not worth a large buffer
SMALL = 32  # the size of the messages that are echoed; an echo server swallows all others
MESSAGE = bytes(SMALL)
FRAME = PREFIX.pack(SMALL) + MESSAGE
DIALLERS = 10  # set-ups at a time
BACKLOG = 1_024
PATIENCE = 120.0  # seconds that one run may take


@dataclasses.dataclass(frozen=True)
class Work:
    kind: Kind
    size: int = SMALL
    seconds: float = 0.5
    connections: int = 1
    in_flight: int = 1

    @property
    def burst(self) -> int:
        """So many messages are sent between two looks at the clock."""
        return max(1, 65_536 // (self.size + PREFIX.size))


class Tell:
    """What a server has to say: where it listens and, for some kinds of work, what it measured."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def listening(self, port: int) -> None:
        self._pipe.send(port)

    def figures(self, **figures: float) -> None:
        self._pipe.send(figures)


class Server:
    """The server's process, as the client sees it."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self._proc = Path("/proc", str(pid))
        self._descriptors_at_first = self._descriptors()

    def cpu(self) -> float:
        """Seconds of processor time that all its threads took."""
        threads = (self._proc / "task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9

    def memory(self) -> int:
        """Bytes of resident memory, without code and other files."""
        status = (self._proc / "status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) * 1024

    def wait_accepted(self, connections: int) -> None:
        """Return as soon as it holds that many descriptors more than at first."""
        deadline = perf_counter() + PATIENCE
        while self._descriptors() < self._descriptors_at_first + connections:
            if perf_counter() > deadline:
                raise TimeoutError(f"the server accepted fewer than {connections} connections")
            os.sched_yield()

    def _descriptors(self) -> int:
        return len(os.listdir(self._proc / "fd"))  # noqa: PTH208  # ten thousand Path objects are not needed


class Contestant:
    """`serve` and `call` run in processes of their own; a server may go on forever, it gets killed."""

    def __init__(self, serve: Callable[[Work, Tell], object], call: Callable[[Work, Server], Figures]) -> None:
        self.serve = serve
        self.call = call


class RoundTrips:
    """Times the messages of a client that keeps some in flight."""

    def __init__(self, work: Work) -> None:
        self._sent: list[float] = []
        self._took: list[float] = []
        self._deadline = perf_counter() + work.seconds

    def sent(self) -> None:
        self._sent.append(perf_counter())

    def answered(self) -> bool:
        """Note the answer to the oldest message in flight; whether it is time to go on."""
        now = perf_counter()
        self._took.append(now - self._sent[len(self._took)])
        return now < self._deadline

    def figures(self) -> Figures:
        """Median and 99th percentile in microseconds, and messages a second, after a tenth for warming up."""
        warm = len(self._took) // 10
        measured = sorted(self._took[warm:])
        p50, p99 = (measured[len(measured) * percent // 100] * 1e6 for percent in (50, 99))
        span = self._sent[len(self._took) - 1] + self._took[-1] - self._sent[warm]
        return {"p50": p50, "p99": p99, "rate": len(measured) / span}
