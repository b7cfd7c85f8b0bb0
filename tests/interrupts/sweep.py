"""Send SIGINT at one line of the library after the other: `python -m tests.interrupts.sweep --loop trio --all`.

Every run is a forked child, in which a tracer counts the lines and sends the signal when the scenario reaches the line
for the n-th time. What must hold, wherever that is: the program ends, KeyboardInterrupt comes out of it, no socket is
open, nothing was unraisable, and no record is an ERROR. A run that hangs tells where each of its tasks waits.

With `--random 1000` there is no tracer, and the signal comes at any moment.

A position is written FILE:LINE:N, as in `--at node.py:250:1`, which runs it alone.
"""

from __future__ import annotations

import argparse
import dis
import gc
import json
import logging
import os
import random
import select
import signal
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import anyio
from anyio import get_running_tasks

import pea2pea
from tests.conftest import LOOPS, open_sockets

from .scenario import be_busy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import CodeType, FrameType

ROOT = f"{Path(pea2pea.__file__).parent}{os.sep}"
NOT_SWEPT = ("__init__.py", "topology.py", f"testing{os.sep}", "testing.py")  # no part of a running node
LIMIT = 6.0  # seconds, after which a run hangs; an undisturbed one takes a twentieth
# AnyIO's runner lets the cancellation out that an interrupt has become, where Python lacks `Task.uncancel` (asyncio)
RIGHT = {"KeyboardInterrupt"} if sys.version_info >= (3, 11) else {"KeyboardInterrupt", "CancelledError()"}
TRIES = 3  # for a position that a run did not reach: the kernel decides what happens, too


class Position(NamedTuple):
    """A line of the library, and how many times it was reached."""

    file: str
    line: int
    occurrence: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.occurrence}"

    @classmethod
    def parse(cls, text: str) -> Position:
        file, line, occurrence = text.split(":")
        return cls(file, int(line), int(occurrence))


@cache
def offsets_without_signals(code: CodeType) -> frozenset[int]:
    """Where in some code CPython does not look for signals, though a tracer sees the beginning of a line.

    It looks when a function is called, and when a loop goes round: not at the `try` of a statement, nor between the end
    of a `with` block and the call of `__exit__`, which the exception of a tracer would skip; on Python 3.10 not where
    a `try` or a `with` is entered.
    """
    found = set()
    ops = [(instruction.offset, instruction.opname) for instruction in dis.get_instructions(code)]
    for index, (offset, name) in enumerate(ops):
        following = [name for _, name in ops[index + 1 : index + 4]]
        leaves = name == "LOAD_CONST" and following[:2] in (["LOAD_CONST"] * 2, ["DUP_TOP"] * 2)
        if leaves and "CALL" in following[2]:
            found.add(offset)
            if index and ops[index - 1][1] in {"SWAP", "ROT_TWO"}:
                found.add(ops[index - 1][0])
        if name in {"NOP", "SETUP_FINALLY", "SETUP_WITH", "WITH_EXCEPT_START"} or following[:1] == [
            "WITH_EXCEPT_START"
        ]:
            found.add(offset)
    return frozenset(found)


Target: TypeAlias = Position | float
"""Where a run is interrupted: at a line, or after so many seconds."""
NOWHERE = Position("", 0, 0)  # to see which lines are reached


class Tracer:
    """Counts the lines of the library as they are executed, and sends SIGINT at one of them."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.counts: Counter[tuple[str, int]] = Counter()
        self.fired = False

    def __call__(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        file = frame.f_code.co_filename
        if not file.startswith(ROOT) or file[len(ROOT) :].startswith(NOT_SWEPT):
            return None
        return self.trace

    def trace(self, frame: FrameType, event: str, arg: object) -> Callable[..., Any]:
        if event == "line" and frame.f_lasti not in offsets_without_signals(frame.f_code):
            key = frame.f_code.co_filename[len(ROOT) :], frame.f_lineno
            self.counts[key] += 1
            if self.target == (*key, self.counts[key]):
                self.fired = True
                sys.settrace(None)  # which the exception does, too
                signal.raise_signal(signal.SIGINT)
        return self.trace


@dataclass
class Outcome:
    """What became of one run."""

    raised: str = ""  # what came out, "nothing" without an exception
    fired: bool = False
    sockets: int = 0  # left open
    told: list[str] = field(default_factory=list)  # what was unraisable or logged as an error
    hangs: list[str] = field(default_factory=list)  # where each task waits
    seconds: float = 0.0
    counts: list[tuple[str, int, int]] = field(default_factory=list)  # of the lines, where that is asked for

    def __str__(self) -> str:
        if self.hangs:
            return "hangs: " + "".join(f"\n      {task}" for task in self.hangs)
        left = f", leaves {self.sockets} sockets open" if self.sockets else ""
        return f"{self.raised} comes out{left}" + "".join(f"\n      {told}" for told in self.told)

    @property
    def is_right(self) -> bool:
        return self.raised in RIGHT and not (self.sockets or self.told or self.hangs)


class Errors(logging.Handler):
    """Collects the records of errors, of any library."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.found = found

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.found.append(f"{record.levelname} {record.name}: {record.getMessage():.300} {error!r}")


def where_tasks_wait() -> Iterator[str]:
    """The innermost two frames of this project of each task."""
    for task in get_running_tasks():
        coro: Any = task.coro
        frames: list[str] = []
        while coro is not None:
            for kind in ("cr", "gi", "ag"):
                if (frame := getattr(coro, f"{kind}_frame", None)) is not None:
                    path = frame.f_code.co_filename
                    if path.startswith(ROOT) or "interrupts" in path:
                        frames.append(f"{path.rpartition(os.sep)[2]}:{frame.f_lineno} {frame.f_code.co_name}")
                    coro = getattr(coro, f"{kind}_await" if kind != "gi" else "gi_yieldfrom", None)
                    break
            else:
                coro = None
        if frames:
            yield f"{task.name}: {' > '.join(frames[-3:])}"


def note_unraisable(told: list[str], unraisable: sys.UnraisableHookArgs) -> None:
    # between the return of `accept` and the assignment of its socket there is nobody who could close it; the end of
    # the last reference does
    if not isinstance(unraisable.exc_value, ResourceWarning):
        told.append(f"unraisable {unraisable.exc_value!r} in {unraisable.object!r}")


def run(loop: str, target: Target, report: Callable[[Outcome], None]) -> None:
    """Run the scenario in this very process, and report what became of it."""
    outcome = Outcome()
    tracer = Tracer(target)

    def alarm(*_: object) -> None:
        if isinstance(target, float) and not tracer.fired:
            tracer.fired = True
            signal.setitimer(signal.ITIMER_REAL, LIMIT)
            signal.raise_signal(signal.SIGINT)
            return
        sys.settrace(None)
        outcome.hangs = list(where_tasks_wait()) or ["in no task"]
        outcome.fired = tracer.fired
        report(outcome)
        os._exit(1)

    logging.basicConfig(handlers=[Errors(outcome.told)], level=logging.WARNING, force=True)
    warnings.simplefilter("error")
    sys.unraisablehook = partial(note_unraisable, outcome.told)
    signal.signal(signal.SIGALRM, alarm)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    backend, options = LOOPS[loop]
    before = open_sockets()
    began = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, target if isinstance(target, float) else LIMIT)
        if isinstance(target, Position):
            sys.settrace(tracer)
        anyio.run(be_busy, backend=backend, backend_options=options)
        outcome.raised = "nothing"
    except BaseException as error:  # noqa: BLE001  # which is what this is about
        outcome.raised = type(error).__name__ if isinstance(error, KeyboardInterrupt) else f"{error!r:.500}"
    finally:
        sys.settrace(None)
    signal.setitimer(signal.ITIMER_REAL, 0)
    outcome.seconds = time.monotonic() - began
    gc.collect()
    outcome.sockets = len(open_sockets() - before)
    outcome.fired = tracer.fired
    outcome.counts = [(*key, count) for key, count in tracer.counts.items()] if target == NOWHERE else []
    report(outcome)


class Child:
    """A forked run."""

    def __init__(self, loop: str, target: Target) -> None:
        self.target = target
        self.loop = loop
        self.pipe, end = os.pipe()
        self.began = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self.pipe)
                run(loop, target, lambda outcome: self.write(end, outcome))
                code = 0
            finally:
                os._exit(code)
        os.close(end)

    @staticmethod
    def write(end: int, outcome: Outcome) -> None:
        with os.fdopen(end, "wb", closefd=False) as file:
            file.write(json.dumps(vars(outcome)).encode())

    def finish(self, *, kill: bool) -> Outcome:
        """Its outcome; for one that has been killed, too."""
        if kill:
            os.kill(self.pid, signal.SIGKILL)
        with os.fdopen(self.pipe, "rb") as file:
            data = file.read()
        os.waitpid(self.pid, 0)
        if not data:
            return Outcome(raised="SIGKILL", fired=True, hangs=["it does not even take a signal"])
        return Outcome(**json.loads(data))


def outcomes(loop: str, targets: Iterable[Target], jobs: int) -> Iterator[tuple[Target, Outcome]]:
    """Run each, so many at a time, each in a child."""
    waiting = list(targets)[::-1]
    running: dict[int, Child] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            child = Child(loop, waiting.pop())
            running[child.pipe] = child
        ready, _, _ = select.select(running, [], [], 1.0)
        for pipe, child in list(running.items()):
            late = time.monotonic() - child.began > 2 * LIMIT
            if pipe in ready or late:
                del running[pipe]
                yield child.target, child.finish(kill=late)


def undisturbed(loop: str, target: Target) -> Outcome:
    """What a run becomes that nothing interrupts; it has to be right."""
    ((_, outcome),) = outcomes(loop, [target], 1)
    if outcome.raised != "nothing" or outcome.sockets or outcome.told or outcome.hangs:
        raise SystemExit(f"the scenario fails undisturbed on {loop}: {outcome}")
    return outcome


def positions(loop: str, *, everything: bool) -> list[Position]:
    """The lines that the scenario reaches undisturbed: each the first, a middle and the last time, or every time."""
    found = []
    for file, line, count in sorted(undisturbed(loop, NOWHERE).counts):
        chosen = range(1, count + 1) if everything else sorted({1, (count + 1) // 2, count})
        found += [Position(file, line, occurrence) for occurrence in chosen]
    return found


def choose(loop: str, options: argparse.Namespace) -> list[Target]:
    """What the options ask for."""
    rng = random.Random(options.seed)
    if options.random is not None:
        seconds = undisturbed(loop, LIMIT).seconds
        return [rng.uniform(0, seconds) for _ in range(options.random)]
    targets = options.at or [p for p in positions(loop, everything=options.all) if options.only in p.file]
    if options.sample is not None:
        targets = rng.sample(targets, min(options.sample, len(targets)))
    return list(targets)


def sweep(loop: str, targets: list[Target], jobs: int) -> tuple[int, int]:
    """How many runs were interrupted, and how many of them were wrong; those are printed."""
    reached = wrong = 0
    for _ in range(TRIES):
        missed: list[Target] = []
        for target, outcome in outcomes(loop, targets, jobs):
            if not outcome.fired and outcome.raised == "nothing":
                missed.append(target)
                continue
            reached += 1
            if not outcome.is_right:
                wrong += 1
                print(f"  {target} {outcome}", flush=True)
        targets = missed
    return reached, wrong


def main(arguments: list[str]) -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loop", choices=LOOPS, action="append", help="which event loop; all, if none is given")
    parser.add_argument("--all", action="store_true", help="each line every time it is reached")
    parser.add_argument("--only", default="", help="lines of files whose name contains this")
    parser.add_argument("--sample", type=int, help="so many positions, at random")
    parser.add_argument("--random", type=int, help="no lines, but so many moments at random, without a tracer")
    parser.add_argument("--seed", type=int, default=0, help="of what is at random")
    parser.add_argument("--at", type=Position.parse, action="append", help="one position: FILE:LINE:N")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    options = parser.parse_args(arguments)
    failed = False
    for loop in options.loop or LOOPS:
        began = time.monotonic()
        targets = choose(loop, options)
        reached, wrong = sweep(loop, targets, options.jobs)
        seconds = time.monotonic() - began
        print(f"{loop}: {len(targets)} chosen, {reached} interrupted, {wrong} wrong, {seconds:.0f} s", flush=True)
        failed = failed or wrong > 0 or not reached
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
