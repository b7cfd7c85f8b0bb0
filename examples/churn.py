"""Churn: many clients connect, send a ping, wait for the pong and disconnect, again and again.

Shows what a connection costs from beginning to end, both ends counted: dial, accept, one message each way, and an
orderly goodbye. And it shows that nothing is left behind: descriptors and memory are compared before and after. Run
`python examples/churn.py` (also with `--backend trio` or `--backend uvloop`; `--cycles 20000 --clients 200`). You will
see the cycles being done, and a table of their rate, how long they took, and what was left over.
"""

from __future__ import annotations

import gc
from contextlib import AsyncExitStack
from statistics import quantiles
from time import perf_counter, process_time

import anyio

from _common import command_line, run
from _stress import Echo, need_descriptors, open_descriptors, progress, resident, show
from pea2pea import Address, Config, Connection, Node
from pea2pea.codecs import LinesCodec
from pea2pea.testing import wait_until

PATIENCE = 30.0  # seconds for one cycle


class Client:
    """Goes through one cycle after the other."""

    def __init__(self) -> None:
        self.pong = anyio.Event()
        self.node = Node(Config(listener_addr=None))
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)

    def decoder(self, _connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=1024)

    def encoder(self, _connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=1024)

    async def process_message(self, _source: Connection, _message: str) -> None:
        self.pong.set()

    async def cycle(self, addr: Address) -> None:
        self.pong = anyio.Event()
        connection = await self.node.connect(addr)
        await self.outbox.send(connection, "ping")
        await self.pong.wait()
        await self.node.disconnect(connection)


async def churn(clients: list[Client], addr: Address, cycles: int, durations: list[float]) -> None:
    """Let the clients do so many cycles between them, and note how long each one took."""
    numbers = iter(range(cycles))

    async def work(client: Client) -> None:
        for _ in numbers:
            began = perf_counter()
            with anyio.fail_after(PATIENCE):
                await client.cycle(addr)
            durations.append(perf_counter() - began)

    async with anyio.create_task_group() as tasks:
        for client in clients:
            tasks.start_soon(work, client)


async def footprint(server: Node) -> tuple[int, int]:
    """Once the server has noticed that all are gone: the descriptors that are open, and the memory in use."""
    await wait_until(lambda: not server.connections, PATIENCE)
    gc.collect()
    return open_descriptors(), resident()


async def main(client_count: int, cycles: int) -> None:
    need_descriptors(4 * client_count, f"{client_count} clients and their server")
    server = Echo(Config(name="server", max_connections=2 * client_count))  # an old one may still be ending
    clients = [Client() for _ in range(client_count)]
    durations: list[float] = []
    async with AsyncExitStack() as stack:
        for node in (server.node, *(client.node for client in clients)):
            await stack.enter_async_context(node)
        addr = await server.node.start_listening()
        await churn(clients, addr, cycles // 4, [])  # what is allocated once is allocated then

        descriptors, memory = await footprint(server.node)
        began, worked = perf_counter(), process_time()
        async with progress("cycles", cycles, lambda: len(durations)):
            await churn(clients, addr, cycles, durations)
        seconds, worked = perf_counter() - began, process_time() - worked
        descriptors_after, memory_after = await footprint(server.node)

    percentiles = quantiles(durations, n=100)
    show(
        "Churn",
        [
            ("measured", f"{client_count} clients"),
            ("cycles", f"{len(durations)}"),
            ("cycles a second", f"{cycles / seconds:,.0f}"),
            ("processor time of a cycle", f"{worked / cycles * 1e6:.0f} µs"),
            ("duration, median", f"{percentiles[49] * 1e3:.1f} ms"),
            ("duration, 99th percentile", f"{percentiles[98] * 1e3:.1f} ms"),
            ("descriptors before and after", f"{descriptors}, {descriptors_after}"),
            ("RSS before and after", f"{memory / 1e6:.1f} MB, {memory_after / 1e6:.1f} MB"),
        ],
    )


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--cycles", type=int, default=5_000)
    options = parser.parse_args()
    run(options, main, options.clients, options.cycles)
