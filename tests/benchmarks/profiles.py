"""Where the time goes: a sampling profile of both ends, for messages of 32 B one way and for round trips.

A timer of processor time interrupts the process every few milliseconds and notes the line that is being executed;
what is done in C counts for the line that called it. So the program runs as fast as it does without.
"""

from __future__ import annotations

import argparse
import signal
from collections import Counter
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from tests.benchmarks.of_anyio import LOOPS, on
from tests.benchmarks.of_pea2pea import call, serve
from tests.benchmarks.program import play
from tests.benchmarks.work import Contestant, Figures, Server, Tell, Work

if TYPE_CHECKING:
    from types import FrameType

INTERVAL = 0.001  # seconds; the kernel rounds it up
SECONDS = 6.0
SHOWN = 20
ALWAYS = 0.95  # what is on the stack nearly always is what started the program
WORKS = {
    "one way, 32 B": Work("throughput", seconds=SECONDS),
    "one way, 1 KiB": Work("throughput", 1 << 10, seconds=SECONDS),
    "one way, 64 KiB": Work("throughput", 1 << 16, seconds=SECONDS),
    "round trip": Work("roundtrip", seconds=SECONDS),
    "broadcast": Work("broadcast", 1 << 10, SECONDS, connections=1_000),
    "scaling": Work("scaling", seconds=SECONDS, connections=1_000),
}


class Sampler:
    """Notes what the process is doing, for a while, and prints it."""

    def __init__(self, title: str, seconds: float) -> None:
        self._title, self._end = title, perf_counter() + seconds
        self._lines: Counter[str] = Counter()
        self._functions: Counter[str] = Counter()
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)

    def _sample(self, _: int, frame: FrameType | None) -> None:
        if perf_counter() > self._end:
            signal.setitimer(signal.ITIMER_PROF, 0)
            print(self._report(), flush=True)
            return
        if frame is not None:
            code = frame.f_code
            self._lines[f"{where(code.co_filename)}:{frame.f_lineno} {code.co_name}"] += 1
        seen = set()
        while frame is not None:
            code = frame.f_code
            seen.add(f"{where(code.co_filename)} {code.co_name}")
            frame = frame.f_back
        self._functions.update(seen)

    def _report(self) -> str:
        total = self._lines.total()
        rows = [f"\n{self._title}: {total} samples"]
        for title, counter in (("lines", self._lines), ("functions, with what they call", self._functions)):
            found = [one for one in counter.most_common() if one[1] < ALWAYS * total]
            rows.append(f"   {title}")
            rows += [f"{count / total:7.1%}  {name}" for name, count in found[:SHOWN]]
        return "\n".join(rows)


def where(filename: str) -> str:
    return "/".join(Path(filename).parts[-2:])


def profiled(loop: str, title: str) -> Contestant:
    """This library on one of the loops, watched."""

    async def watched_serve(work: Work, tell: Tell) -> None:
        Sampler(f"{title}, accepting side", 0.9 * work.seconds)
        await serve(work, tell)

    async def watched_call(work: Work, server: Server) -> Figures:
        Sampler(f"{title}, dialling side", 0.9 * work.seconds)
        return await call(work, server)

    return on(loop, watched_serve, watched_call)


def main() -> None:
    parser = argparse.ArgumentParser(prog="nox -s profile --", description=__doc__)
    parser.add_argument("--loop", choices=LOOPS, default="asyncio")
    parser.add_argument("--work", choices=WORKS, action="append", help="one way, 32 B and round trip unless given")
    options = parser.parse_args()
    for name in options.work or ("one way, 32 B", "round trip"):
        figures = play(profiled(options.loop, f"{name}, {options.loop}"), WORKS[name])
        print({figure: round(value, 1) for figure, value in figures.items()}, flush=True)


if __name__ == "__main__":
    main()
