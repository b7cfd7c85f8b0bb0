"""Users and scenarios that several tests simulate, and a program that prints their digests.

`python -m tests.simulation.scenarios asyncio 1-50 rumour` prints a digest for each seed; each process has a heap of its
own, so that whatever follows from addresses shows.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import sys
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any
from unittest.mock import patch

import anyio

from pea2pea import Config, Connection, DisconnectOrigin, Node, NodeError, QueueFullError
from pea2pea.codecs import Codec, LinesCodec
from pea2pea.testing import Link, Simulation, simulate
from pea2pea.testing.simulation import _Task

PORT = 4000
Scenario = Callable[[Simulation], Coroutine[Any, Any, object]]


class Gossip:
    """Tells each line that it has not heard before to all its other peers."""

    def __init__(self, sim: Simulation, ip: str) -> None:
        self.sim = sim
        self.ip = ip
        self.heard: list[str] = []
        self.node = Node(Config(name=ip, listener_addr=(ip, PORT), grace_period=1))
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)
        self.node.enable_on_disconnect(self)

    def decoder(self, _: Connection) -> Codec[str]:
        return LinesCodec()

    encoder = decoder

    async def process_message(self, source: Connection, message: str) -> None:
        if message not in self.heard:
            self.sim.log("heard", message, "from", source)
            self.tell(message, source)

    def tell(self, message: str, *but: Connection) -> None:
        self.heard.append(message)
        self.outbox.broadcast(message, exclude=but)

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        self.sim.log("disconnected", connection, origin.name)
        with suppress(NodeError, QueueFullError):
            self.outbox.send_nowait(connection, "farewell")

    async def run(self, others: list[str]) -> None:
        """A host's program: stay connected with these."""
        async with self.node as node:
            await node.start_listening()
            while True:
                for ip in others:
                    if all(connection.dialled != (ip, PORT) for connection in node.connections.values()):
                        with suppress(OSError, NodeError):
                            await node.connect((ip, PORT))
                await anyio.sleep(1)


async def rumour(sim: Simulation, count: int = 4) -> None:
    """Hosts that crash, are killed and cut off, on links that lose and reorder; what is told is heard in the end."""
    sim.network.link = Link(latency=(0.001, 0.05), bandwidth=100_000, jitter=0.02, loss=0.02)
    ips = [f"10.0.0.{number}" for number in range(1, count + 1)]
    users: dict[str, Gossip] = {}

    async def program(ip: str) -> None:
        users[ip] = Gossip(sim, ip)
        await users[ip].run(sim.random.sample([other for other in ips if other != ip], 2))

    hosts = [sim.host(ip, program, ip) for ip in ips]
    sim.start(*hosts)
    await anyio.sleep(3)
    for number in range(3):
        happens = sim.random.random()
        victim, *others = sim.random.sample(hosts, count)
        if happens < 0.3:
            sim.network.partition(others[: count // 2], [victim, *others[count // 2 :]])
        elif happens < 0.6:
            victim.crash() if happens < 0.45 else victim.kill()
            await victim.restart()
        users[sim.random.choice(ips)].tell(f"rumour {number}")
        await anyio.sleep(sim.random.random() * 5)
        sim.network.heal()
    await anyio.sleep(2)
    users[ips[0]].tell("all is well")
    await sim.until(lambda: all("all is well" in user.heard for user in users.values()), within=60)


async def crowd(sim: Simulation) -> None:
    """Many tasks that are cancelled at once, and log in which order they are."""

    async def wait(number: int) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            sim.log("cancelled", number)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(wait, number)
        await anyio.sleep(random.random())
        tasks.cancel_scope.cancel()


async def ordered_by_address(sim: Simulation) -> None:
    """What a program must not do: objects in a set have the order of their addresses."""
    await anyio.sleep(1)
    numbers = {object(): number for number in range(20)}
    sim.log(*(numbers[each] for each in set(numbers)))


async def ordered_by_hash(sim: Simulation) -> None:
    """Likewise: strings in a set."""
    await anyio.sleep(1)
    sim.log(*{str(number) for number in range(20)})


async def timed_by_the_system(sim: Simulation) -> None:
    """Likewise: the system's clock."""
    await anyio.sleep(1)
    sim.log(time.monotonic())


async def tasks_without_numbers(sim: Simulation) -> None:
    """What asyncio's own tasks would do: in a set they have the order of their addresses."""

    async def wait() -> None:
        await asyncio.sleep(sim.random.randrange(2))

    with patch.object(_Task, "__hash__", object.__hash__):
        done, _ = await asyncio.wait([asyncio.create_task(wait(), name=str(number)) for number in range(20)])
        sim.log(*(task.get_name() for task in done))


async def clinging_for_ever(sim: Simulation) -> None:
    """A program that cannot be ended, and waits for nothing."""
    sim.start(sim.host("10.0.0.1", cling, math.inf))
    await anyio.sleep(1)


async def clinging_for_long(sim: Simulation) -> None:
    """Likewise, and time passes."""
    sim.start(sim.host("10.0.0.1", cling, 100.0))
    await anyio.sleep(1)


async def cling(seconds: float) -> None:
    with anyio.CancelScope(shield=True):
        while True:  # noqa: ASYNC110  # that is the point
            await anyio.sleep(seconds)


def fill_the_heap() -> list[object]:
    """A heap that no other process has."""
    odd = random.Random(os.urandom(8))
    held: list[object] = [bytearray(odd.randrange(1, 480)) for _ in range(odd.randrange(20_000))]
    held += [object() for _ in range(odd.randrange(20_000))]
    odd.shuffle(held)
    del held[: len(held) // 2]
    return held


def digests(scenario: Scenario, backend: str, seeds: range) -> list[str]:
    runs: list[Simulation] = []

    async def noted(sim: Simulation) -> None:
        runs.append(sim)
        await scenario(sim)

    simulate(noted, seeds=seeds, backend=backend)
    return [sim.digest for sim in runs]


if __name__ == "__main__":
    heap = fill_the_heap()
    first, _, last = sys.argv[2].partition("-")
    chosen: Scenario = globals()[sys.argv[3]]
    sys.stdout.write("\n".join(digests(chosen, sys.argv[1], range(int(first), int(last or first) + 1))))
