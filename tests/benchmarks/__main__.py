"""The driver: everybody takes turns at the same work, again and again, and then the figures are told."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks import plan, report
from tests.benchmarks.stage import CLIENT_CORE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.work import Figures, Work


class Program:
    """A contestant's program, waiting for work."""

    def __init__(self, module: str, python: str) -> None:
        command = [python, "-m", f"tests.benchmarks.{module}"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def play(self, name: str, work: Work) -> Figures:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"name": name, "work": asdict(work)}), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        figures: Figures = answer["figures"]
        return figures

    def end(self) -> None:
        self._process.communicate()


def import_time(statement: str) -> Figures:
    """Milliseconds that a fresh interpreter takes for it."""
    code = f"import time; began = time.perf_counter(); {statement}; print(time.perf_counter() - began)"
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, preexec_fn=pinned)
    return {"ms": float(answer.stdout) * 1e3}


def pinned() -> None:
    os.sched_setaffinity(0, {CLIENT_CORE % (os.cpu_count() or 1)})


def turns(repeats: int | None, *, quick: bool, only: str) -> Iterator[tuple[str, str, Work]]:
    """Everybody's turn at every trial, again and again; nobody is always the first."""
    wanted = {name: repeats or (plan.FEW if quick else trial.repeats) for name, trial in plan.TRIALS.items()}
    for repeat in range(max(wanted.values())):
        for name, trial in plan.TRIALS.items():
            if repeat >= wanted[name]:
                continue
            work = trial.shortened() if quick else trial.work
            who = trial.quick if quick else trial.who
            for position in range(len(who)):
                one = who[(position + repeat) % len(who)]
                if re.search(only, f"{name}: {one}"):
                    yield name, one, work


def say(progress: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{progress}", end="", file=sys.stderr, flush=True)


def measure(results: report.Results, options: argparse.Namespace) -> None:
    pythons = dict.fromkeys(plan.PROGRAMS, sys.executable) | {"of_libp2p": options.libp2p}
    programs: dict[str, Program] = {}
    with ExitStack() as stack:
        for module, names in plan.PROGRAMS.items():
            if pythons[module]:
                program = Program(module, pythons[module])
                stack.callback(program.end)
                programs |= dict.fromkeys(names, program)
        for trial, name, work in turns(options.repeats, quick=options.quick, only=options.only):
            if name in programs:
                say(f"{trial}: {name}")
                try:
                    results.add(trial, name, programs[name].play(name, work))
                except RuntimeError as error:
                    print(f"{trial}: {name} failed: {error}", file=sys.stderr)
    for repeat in range(2 * (options.repeats or plan.FEW)):
        for statement in plan.IMPORTS:
            figures = import_time(statement)
            if repeat:  # the first only warms the system's caches
                results.add("import", statement, figures)
    say("")


def main() -> None:
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, in under a minute")
    parser.add_argument("--only", default="", metavar="REGEX", help='what to measure, like "1 KiB: pea2pea"')
    parser.add_argument("--repeats", type=int, help="how often (7, or 3 of what takes long; --quick: 3)")
    parser.add_argument("--output", type=Path, default=Path("build"), help="a folder for bench.json and .svg")
    parser.add_argument("--libp2p", help="the Python interpreter of an environment that has py-libp2p")
    options = parser.parse_args()
    results = report.Results(quick=options.quick)
    measure(results, options)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "bench.json").write_text(results.json())
    (options.output / "bench.svg").write_text(results.svg())
    print(results.text())


if __name__ == "__main__":
    main()
