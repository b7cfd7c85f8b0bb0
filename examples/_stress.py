"""What the stress examples share: descriptors, memory, a crowd of clients, progress and a table."""

from __future__ import annotations

import resource
import socket
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import anyio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pea2pea import Address, Config, Connection, Node
from pea2pea.codecs import LinesCodec

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

SPARE = 64  # descriptors for everything but connections
WAVE = 100  # connections that the crowd dials before it makes sure that they were accepted


class Echo:
    """A node that answers every line with itself."""

    def __init__(self, config: Config) -> None:
        self.node = Node(config)
        self.node.enable_reading(self, idle_timeout=None)  # these peers may be silent
        self.outbox = self.node.enable_writing(self)

    def decoder(self, _connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=1024)

    def encoder(self, _connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=1024)

    async def process_message(self, source: Connection, message: str) -> None:
        await self.outbox.send(source, message)


# ---- The machine


def need_descriptors(connections: int, what: str) -> None:
    """Raise the limit of this process, and of those it starts, as far as needed; exit if it is too low."""
    needed = connections + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        sys.exit(
            f"{what} takes {needed} descriptors, and {hard} are allowed: run `ulimit -n {needed}` first "
            "(as root, or with a higher hard limit in /etc/security/limits.conf)"
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


def resident() -> int:
    """The bytes of memory that this process has in use; where /proc is missing, the most it ever had."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


# ---- A crowd of plain sockets, in a process of its own: `anyio.to_process.run_sync(dial_crowd, ...)`

crowd: list[socket.socket] = []  # one call's, kept for the next one: a worker process is used again


def dial_crowd(addr: Address, count: int, sources: int) -> tuple[float, int]:
    """Connect `count` clients from so many loopback addresses, and see that each is answered.

    A client that is rejected tries again. Returns the seconds that took, and the number of rejections.
    """
    began, refused, number = perf_counter(), 0, 0
    while len(crowd) < count:
        wave = []
        for _ in range(min(WAVE, count - len(crowd))):
            number += 1
            source = f"127.0.0.{1 + number % sources}", 0
            wave.append(socket.create_connection(addr, timeout=30, source_address=source))
        answered = [client for client, is_answered in zip(wave, _ask(wave), strict=True) if is_answered]
        refused += len(wave) - len(answered)
        crowd.extend(answered)
    return perf_counter() - began, refused


def ask_crowd() -> tuple[float, int]:
    """Let every client send something of its own; returns seconds, and how many got the same back."""
    began = perf_counter()
    answered = sum(_ask(crowd))
    return perf_counter() - began, answered


def dismiss_crowd() -> int:
    """Wait until the node has closed every connection; returns how many of them were closed cleanly."""
    clean = 0
    for client in crowd:
        with client, suppress(ConnectionResetError):
            clean += client.recv(1) == b""
    crowd.clear()
    return clean


def _ask(clients: list[socket.socket]) -> list[bool]:
    questions = [b"this is number %d\n" % number for number in range(len(clients))]
    answers = []
    for client, question in zip(clients, questions, strict=True):
        with suppress(ConnectionError):
            client.sendall(question)
    for client, question in zip(clients, questions, strict=True):
        answer = b""
        with suppress(ConnectionError):
            while not answer.endswith(b"\n") and (data := client.recv(1024)):
                answer += data
        answers.append(answer == question)
    return answers


# ---- The screen

console = Console(highlight=False)


@asynccontextmanager
async def progress(what: str, total: int, count: Callable[[], int]) -> AsyncGenerator[None, None]:
    """Show how far something is, for as long as the block lasts; `count` is asked again and again."""
    columns = TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, auto_refresh=False) as bar:
        task = bar.add_task(what, total=total)

        async def watch() -> None:
            while True:
                bar.update(task, completed=count(), refresh=True)
                await anyio.sleep(0.1)

        async with anyio.create_task_group() as watchers:
            watchers.start_soon(watch)
            yield
            watchers.cancel_scope.cancel()
        bar.update(task, completed=count(), refresh=True)


def show(title: str, rows: Sequence[Sequence[str]]) -> None:
    """Print a small table of what was measured; the first row has the headings."""
    table = Table(*rows[0])
    for row in rows[1:]:
        table.add_row(*row)
    console.print(title, table, sep="\n")
