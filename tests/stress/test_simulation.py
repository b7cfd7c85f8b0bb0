"""What a simulation of many nodes costs: floods of messages among a hundred and a thousand of them."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from pea2pea import Config, Connection, Node, NodeError, QueueFullError
from pea2pea.codecs import LengthDelimitedCodec
from pea2pea.testing import Link, Simulation, simulate
from pea2pea.topology import random

NUMBER = struct.Struct(">Q")
SECONDS = 60


class Flooder:
    """Tells each message that it has not seen before to all its other peers."""

    def __init__(self, sim: Simulation, ip: str) -> None:
        self.node = Node(Config(listener_addr=(ip, 4000), name=ip), transport=sim.host(ip))
        self.node.enable_reading(self, idle_timeout=None)
        self.outbox = self.node.enable_writing(self)
        self.seen: set[int] = set()
        self.received = 0

    def decoder(self, _: Connection) -> LengthDelimitedCodec:
        return LengthDelimitedCodec(max_length=1_000)

    encoder = decoder

    async def process_message(self, source: Connection, message: bytes) -> None:
        self.received += 1
        if NUMBER.unpack_from(message)[0] not in self.seen:
            self.tell(message, source)

    def tell(self, message: bytes, source: Connection | None = None) -> None:
        self.seen.add(NUMBER.unpack_from(message)[0])
        for connection in self.node.connections.values():
            if connection is not source:
                with suppress(QueueFullError, NodeError):
                    self.outbox.send_nowait(connection, message)


async def flood(sim: Simulation, count: int, found: dict[str, float]) -> None:
    sim.network.link = Link(latency=0.05, jitter=0.02, bandwidth=1.25e6)
    sim.network.tick = 0.001
    ips = [f"10.0.{number // 250}.{number % 250 + 1}" for number in range(count)]
    peers = [Flooder(sim, ip) for ip in ips]
    async with sim.running(peer.node for peer in peers):
        for one, other in random(count, 4, 1):
            await peers[one].node.connect((ips[other], 4000))
        began = time.process_time()
        for number in range(SECONDS):
            sim.random.choice(peers).tell(NUMBER.pack(number) + bytes(92))
            await sim.until(lambda number=number: all(number in peer.seen for peer in peers), within=10)  # type: ignore[misc]
        found["seconds"] = time.process_time() - began
        found["connections"] = sum(len(peer.node.connections) for peer in peers)
        found["messages"] = sum(peer.received for peer in peers)


def measure(count: int, backend: str) -> dict[str, float]:
    """What it costs in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, str(count), backend]
    folder = Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)  # noqa: S603
    found: dict[str, float] = json.loads(ended.stdout)
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("backend", "most"), [("asyncio", 60), ("trio", 90)])
def test_a_thousand_nodes_cost_ten_times_as_much_as_a_hundred(
    backend: str, most: float, capsys: pytest.CaptureFixture[str]
) -> None:
    few, many = measure(100, backend), measure(1000, backend)
    with capsys.disabled():
        print(f"\n{backend}: {few}, {many}")  # noqa: T201  # figures
    assert many["connections"] > 7_500
    assert many["messages"] > 400_000
    assert many["seconds"] < most
    assert many["megabytes"] < 300
    assert many["seconds"] / many["messages"] < 1.5 * few["seconds"] / few["messages"]


if __name__ == "__main__":
    figures: dict[str, float] = {}
    simulate(flood, int(sys.argv[1]), figures, backend=sys.argv[2], limit=1e6)
    # not `ru_maxrss`, which begins with what the process that has forked this one had
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    figures["megabytes"] = int(peak[1]) * 1024 / 1e6
    sys.stdout.write(json.dumps(figures))
