"""A node in a process of its own, `python -m tests.stress.program LOOP`, which echoes all but empty messages.

Prints the port it listens at. To each line on standard input, "CONNECTIONS MESSAGES", it answers once it has so many
and has received so many, with one line of JSON: bytes of resident memory, and seconds of processor time spent so far.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import anyio
import anyio.to_thread

from pea2pea import Config, Connection, Node
from pea2pea.codecs import LengthDelimitedCodec
from pea2pea.testing import wait_until
from tests.conftest import LOOPS

CONFIG = Config(max_connections=10_000, max_connecting=1000, listener_backlog=1000)


class Echo:
    def __init__(self) -> None:
        self.node = Node(CONFIG)
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)

    def decoder(self, *_: object) -> LengthDelimitedCodec:
        return LengthDelimitedCodec()

    encoder = decoder

    async def process_message(self, source: Connection, message: bytes) -> None:
        if message:
            await self.outbox.send(source, message)


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def main() -> None:
    async with Echo().node as node:
        _, port = await node.start_listening()
        print(port, flush=True)  # noqa: T201  # for whoever has started it
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            connections, messages = map(int, line.split())
            await wait_until(lambda: len(node.connections) == connections, 60)  # noqa: B023  # it is awaited here
            await wait_until(lambda: node.stats.messages_received >= messages, 60)  # noqa: B023  # likewise
            figures = {"resident": resident(), "spent": time.process_time()}
            print(json.dumps(figures), flush=True)  # noqa: T201  # as above


if __name__ == "__main__":
    backend, options = LOOPS[sys.argv[1]]
    anyio.run(main, backend=backend, backend_options=options)
