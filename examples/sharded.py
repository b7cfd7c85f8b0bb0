"""Beyond one node's limit: several nodes, each in a process of its own, listen at the same port.

One node is one event loop: one core, and one table of descriptors. With `Config(reuse_listener_port=True)` any number
of nodes share a port, and the kernel deals new connections out to them. It deals by a hash, so that the shards get
about equally many, and not exactly so: a client of a full one is rejected, tries again, and reaches another one.
Run `python examples/sharded.py` (also with `--backend trio` or `--backend uvloop`; `--shards 3 --connections 600`).
You will see the connections come up, and a table of what each shard held, turned away and answered. Linux only:
other systems let nodes share a port, too, but do not deal fairly.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass
from subprocess import PIPE

import anyio
from anyio import to_process, to_thread
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from _common import command_line, run
from _stress import Echo, ask_crowd, dial_crowd, dismiss_crowd, need_descriptors, progress, resident, show
from pea2pea import Config

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Status:
    """What a shard tells about itself."""

    port: int
    held: int
    turned_away: int
    echoes: int
    resident: int


async def serve(port: int, limit: int) -> None:
    """Be a shard: each line on standard input asks for its status, and where they end, so does the shard."""
    server = Echo(Config(listener_addr=(HOST, port), reuse_listener_port=True, max_connections=limit))
    async with server.node as node:
        _, port = await node.start_listening()
        while await to_thread.run_sync(sys.stdin.readline):
            away, echoes = node.heuristics.inbound_rejections, node.stats.messages_sent
            answer = json.dumps(asdict(Status(port, len(node.connections), away, echoes, resident())))
            with suppress(BrokenPipeError):  # the process that asked was interrupted
                os.write(sys.stdout.fileno(), f"{answer}\n".encode())


class Shard:
    """A shard seen from outside."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._questions = process.stdin
        self._answers = BufferedByteReceiveStream(process.stdout)
        self.status = Status(0, 0, 0, 0, 0)

    async def ask(self) -> Status:
        with anyio.CancelScope(shield=True):  # no answer is left unread for the next question
            await self._questions.send(b"status\n")
            answer = await self._answers.receive_until(b"\n", 1024)
        self.status = Status(**json.loads(answer))
        return self.status

    async def watch(self) -> None:
        while True:
            await self.ask()
            await anyio.sleep(0.1)

    async def end(self) -> None:
        await self._questions.aclose()
        await self._process.wait()


async def main(backend: str, shard_count: int, count: int, limit: int) -> None:
    need_descriptors(count, f"a process of {count} connections")
    async with AsyncExitStack() as stack:
        shards: list[Shard] = []
        port = 0  # the first one chooses it
        for _ in range(shard_count):
            arguments = "--backend", backend, "--limit", str(limit), "--serve", str(port)
            process = await anyio.open_process(
                [sys.executable, __file__, *arguments],
                stdin=PIPE,
                stdout=PIPE,
                stderr=None,
                start_new_session=True,  # Ctrl-C is for this process; the end of their input is for the shards
            )
            shards.append(Shard(await stack.enter_async_context(process)))
            port = (await shards[-1].ask()).port

        async with progress("connected", count, lambda: sum(shard.status.held for shard in shards)):
            async with anyio.create_task_group() as watchers:
                for shard in shards:
                    watchers.start_soon(shard.watch)
                seconds, _ = await to_process.run_sync(dial_crowd, (HOST, port), count, 8, cancellable=True)
                watchers.cancel_scope.cancel()
            found = [await shard.ask() for shard in shards]

        _, answered = await to_process.run_sync(ask_crowd, cancellable=True)
        async with anyio.create_task_group() as tasks:
            for shard in shards:
                tasks.start_soon(shard.end)
            clean = await to_process.run_sync(dismiss_crowd, cancellable=True)

    rows = [("shard", "held", "turned away", "RSS")]
    for number, status in enumerate(found, start=1):
        rows.append((f"{number}", f"{status.held}", f"{status.turned_away}", f"{status.resident / 1e6:.1f} MB"))
    held, away = sum(status.held for status in found), sum(status.turned_away for status in found)
    rows.append(("all", f"{held}", f"{away}", f"{sum(status.resident for status in found) / 1e6:.1f} MB"))
    show(f"{shard_count} nodes at port {port}, each with at most {limit} connections", rows)
    print(f"{count / seconds:,.0f} connections a second; {answered} answered an echo, {clean} ended cleanly.")


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--connections", type=int, default=16_000)
    parser.add_argument("--limit", type=int, help="connections of one shard; a fair share and a quarter by default")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    limit = options.limit or math.ceil(options.connections / options.shards * 1.25)
    if options.serve is not None:
        run(options, serve, options.serve, limit)
    elif limit * options.shards < options.connections:
        parser.error(f"{options.shards} shards of {limit} connections cannot hold {options.connections}")
    else:
        run(options, main, options.backend, options.shards, options.connections, limit)
