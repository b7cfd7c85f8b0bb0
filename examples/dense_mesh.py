"""A dense mesh: many nodes in one process, each connected to all others, and what that takes in memory.

Shows `pea2pea.topology` at its most demanding, and that a node is small: first the nodes are started, then connected,
then every one of them broadcasts to all others. Both ends of each connection are in this process. Run
`python examples/dense_mesh.py` (also with `--backend trio` or `--backend uvloop`; with fewer or more `--nodes`; the
descriptors grow with their square). You will see each step, and a table of the time and memory it took.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import pairwise
from time import perf_counter

import anyio

from _common import command_line, run
from _stress import need_descriptors, progress, resident, show
from pea2pea import Config, Connection, Node
from pea2pea.codecs import LengthDelimitedCodec
from pea2pea.topology import connect_nodes, mesh

MESSAGE = bytes(1024)


class Member:
    """Counts what it receives, and encodes a broadcast once for all its peers."""

    codec = LengthDelimitedCodec(
        max_length=len(MESSAGE)
    )  # encoding touches no state: one may serve all; each decoder is one connection's

    def __init__(self, size: int) -> None:
        self.node = Node(Config(max_connections=size))
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)
        self.heard = 0
        self.has_heard_all = anyio.Event()
        self.others = size - 1

    def decoder(self, _connection: Connection) -> LengthDelimitedCodec:
        return LengthDelimitedCodec(max_length=len(MESSAGE))

    def encoder(self, _connection: Connection) -> LengthDelimitedCodec:
        return self.codec

    async def process_message(self, _source: Connection, _message: bytes) -> None:
        self.heard += 1
        if self.heard == self.others:
            self.has_heard_all.set()


async def main(count: int) -> None:
    edges = mesh(count)
    ends = 2 * len(edges)  # of connections; each is a node's, and has a descriptor
    need_descriptors(count + ends, f"a mesh of {count} nodes")
    members = [Member(count) for _ in range(count)]
    nodes = [member.node for member in members]
    times, sizes = [perf_counter()], [resident()]

    def mark() -> None:
        times.append(perf_counter())
        sizes.append(resident())

    async with AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node)
            await node.start_listening()
        mark()
        async with progress("ends of connections", ends, lambda: sum(len(node.connections) for node in nodes)):
            await connect_nodes(nodes, edges)
        mark()
        async with progress("messages", ends, lambda: sum(member.heard for member in members)):
            for member in members:
                for error in member.outbox.broadcast(MESSAGE).values():
                    raise error
            for member in members:
                await member.has_heard_all.wait()
        mark()
    mark()

    starting, connecting, talking, ending = (after - before for before, after in pairwise(times))
    per_node, per_end = (sizes[1] - sizes[0]) / count, (sizes[2] - sizes[1]) / ends
    show(
        "A mesh",
        [
            ("measured", f"{count} nodes"),
            ("connections, each with two ends here", f"{len(edges)}"),
            ("messages received", f"{sum(member.heard for member in members)}"),
            ("seconds to start", f"{starting:.2f}"),
            ("seconds to connect", f"{connecting:.2f} ({len(edges) / connecting:,.0f} connections a second)"),
            ("seconds to talk", f"{talking:.2f} ({ends / talking:,.0f} messages a second)"),
            ("seconds to shut down", f"{ending:.2f}"),
            ("RSS per node", f"{per_node / 1e3:.1f} kB"),
            ("RSS per end of a connection", f"{per_end / 1e3:.1f} kB"),
            ("RSS before, and after the talk", f"{sizes[0] / 1e6:.1f} MB, {sizes[3] / 1e6:.1f} MB"),
        ],
    )


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--nodes", type=int, default=80)
    options = parser.parse_args()
    run(options, main, options.nodes)
