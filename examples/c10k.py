"""C10k: one node holds ten thousand connections, and answers every one of them.

Shows what a node's limits are for, and what a connection costs. The clients are plain sockets in a second process,
each with a port of one of a few loopback addresses, so that it is the node alone that is measured; on macOS
these addresses must be added first (`sudo ifconfig lo0 alias 127.0.0.2`, or use `--sources 1`). Run
`python examples/c10k.py` (also with `--backend trio` or `--backend uvloop`, or with fewer `--connections`). You will
see the connections come up, each of them answer an echo at the end, and a table of the time and memory it took.
"""

from __future__ import annotations

import gc
from time import perf_counter, process_time

import anyio
from anyio import to_process

from _common import command_line, run
from _stress import Echo, ask_crowd, dial_crowd, dismiss_crowd, need_descriptors, progress, resident, show
from pea2pea import Config


async def main(count: int, sources: int) -> None:
    need_descriptors(count, f"each of the two processes of {count} connections")
    gc.set_threshold(50_000)  # ten thousand connections are a million objects: look through them less often
    server = Echo(Config(name="server", max_connections=count))
    node = server.node
    async with node:
        addr = await node.start_listening()
        before, worked = resident(), process_time()
        async with progress("connected", count, lambda: len(node.connections)):
            connecting, _ = await to_process.run_sync(dial_crowd, addr, count, sources, cancellable=True)
        worked = process_time() - worked
        held, taken = len(node.connections), resident() - before

        async with progress("answered", count, lambda: node.stats.messages_sent - held):
            echoing, answered = await to_process.run_sync(ask_crowd, cancellable=True)

        began = perf_counter()
        async with progress("ended", count, lambda: held - len(node.connections)), anyio.create_task_group() as tasks:
            tasks.start_soon(node.shut_down)
            clean = await to_process.run_sync(dismiss_crowd, cancellable=True)
        ending = perf_counter() - began

    show(
        "One node",
        [
            ("measured", f"{count} connections"),
            ("held", f"{held}"),
            ("echoes answered at the end", f"{answered}"),
            ("clean goodbyes", f"{clean}"),
            ("seconds to connect, with a first echo", f"{connecting:.2f} ({count / connecting:,.0f} a second)"),
            ("of these, processor time of the node", f"{worked:.2f} ({worked / count * 1e6:.0f} µs a connection)"),
            ("seconds for an echo of each", f"{echoing:.2f}"),
            ("seconds to shut down", f"{ending:.2f}"),
            ("RSS before", f"{before / 1e6:.1f} MB"),
            ("RSS per connection", f"{taken / count / 1e3:.1f} kB"),
        ],
    )


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--sources", type=int, default=8, help="loopback addresses to connect from")
    options = parser.parse_args()
    run(options, main, options.connections, options.sources)
