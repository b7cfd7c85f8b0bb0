"""What the command line costs: `python -m tests.benchmarks.command_line` takes half a minute.

Messages of 64 KiB a second between two nodes, directly and through a proxy that shows them; the proxy's processor time
for a message; seconds until `listen` has written its first line. Medians of interleaved runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, cast

from tests.benchmarks.of_anyio import on
from tests.benchmarks.of_pea2pea import call, serve
from tests.benchmarks.stage import CLIENT_CORE, SERVER_CORE, Role
from tests.benchmarks.work import HOST, Figures, Server, Tell, Work

if TYPE_CHECKING:
    from collections.abc import Generator

REPEATS = 7
WORK = Work("throughput", size=65_536, seconds=0.5)
COMMAND = [sys.executable, "-m", "pea2pea"]


@contextmanager
def program(*arguments: str) -> Generator[tuple[str, int, Figures]]:
    """The program, with a file behind its output: its first line and its process; once it has left, what it took."""
    figures: Figures = {}
    with tempfile.TemporaryFile() as output:
        began = perf_counter()
        started = subprocess.Popen(
            [*COMMAND, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output
        )
        assert started.stdout is not None
        line = started.stdout.readline().decode().strip()
        figures["wall"] = perf_counter() - began
        reader = subprocess.Popen(["/bin/cat"], stdin=started.stdout, stdout=output)
        started.stdout.close()
        try:
            yield line, started.pid, figures
        finally:
            started.terminate()
            _, _, usage = os.wait4(started.pid, 0)
            started.returncode = 0  # it has been waited for
            figures["processor"] = usage.ru_utime + usage.ru_stime
            reader.wait()


def throughput(loop: str, *, proxied: bool) -> Figures:
    """Messages a second; processor time for one of them, of the node that receives, or of the proxy."""
    contestant = on(loop, serve, call)
    roles = [server := Role(SERVER_CORE, lambda pipe: contestant.serve(WORK, Tell(pipe)))]

    def run(port: int, measured: int) -> Figures:
        place, watched = Server(port, server.pid), Server(port, measured)
        before = watched.cpu()
        roles.append(client := Role(CLIENT_CORE, lambda pipe: pipe.send(contestant.call(WORK, place))))
        figures = cast("Figures", client.next()) | cast("Figures", server.next())
        return figures | {"cost": (watched.cpu() - before) / figures["sent"]}

    try:
        port = cast("int", server.next())
        if not proxied:
            return run(port, server.pid)
        arguments = ("proxy", f"{HOST}:0", f"{HOST}:{port}", "--frame", "u32be", "--loop", loop)
        with program(*arguments) as (line, pid, _):
            return run(int(line.rpartition(":")[2]), pid)
    finally:
        for role in roles:
            role.end()


def first_line(loop: str) -> Figures:
    """Seconds until it listens; the processor time includes that for leaving."""
    with program("listen", f"{HOST}:0", "--loop", loop) as (_, _, used):
        pass
    return used


def main() -> None:
    """Print a line for each loop, or for those that are named."""
    for loop in sys.argv[1:] or ("asyncio", "trio"):
        runs = [(throughput(loop, proxied=False), throughput(loop, proxied=True)) for _ in range(REPEATS)]
        starts = [first_line(loop) for _ in range(REPEATS)]
        direct, proxied = (median(run[which]["rate"] for run in runs) for which in (0, 1))
        ratios = [run[1]["rate"] / run[0]["rate"] for run in runs]
        costs = [median(run[which]["cost"] for run in runs) * 1e6 for which in (0, 1)]
        wall, processor = (median(start[which] for start in starts) for which in ("wall", "processor"))
        print(
            f"{loop}: {direct:,.0f} messages a second directly, {proxied:,.0f} through a proxy, "
            f"ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); processor time for one: "
            f"{costs[0]:.0f} µs of the node that receives, {costs[1]:.0f} µs of the proxy; "
            f"first line after {wall:.3f} s, {processor:.3f} s of processor to the end"
        )


if __name__ == "__main__":
    main()
