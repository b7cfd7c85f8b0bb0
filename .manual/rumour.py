"""Draws how a rumour spreads: `examples/gossip.py`, unmodified, on sixty simulated hosts."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from unittest.mock import patch

import anyio

from pea2pea import Config, Connection
from pea2pea.testing import Link, Simulation, simulate
from pea2pea.topology import random

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import gossip

HOSTS, DEGREE, RUNS, PORT = 60, 5, 5, 4000
LATENCY = (0.02, 0.2)  # seconds
FANOUTS = {1: "one neighbour", 2: "two", 4: "four", HOSTS: "all"}
COLOURS = ("#b65708", "#8250df", "#0a7a4b", "#0969da")
SECONDS = 1.25  # of the horizontal axis
LEFT, TOP, WIDTH, HEIGHT, RIGHT, BOTTOM = 56, 40, 540, 260, 190, 40


class Listener(gossip.Gossip):
    """A node that notes when it has heard of a rumour."""

    def __init__(self, name: str, randomness: Random, heard: list[float]) -> None:
        super().__init__(name, randomness)
        self.heard = heard

    def tell(self, rumour: gossip.Rumour, but: Connection | None = None) -> None:
        """Note the time, and pass the rumour on."""
        self.heard.append(anyio.current_time())
        super().tell(rumour, but)


@dataclass
class Spread:
    """What came of a fan-out, in all runs."""

    times: list[float] = field(default_factory=list)
    """After how many seconds each of the nodes has heard."""
    messages: int = 0


async def tell(sim: Simulation, spreads: dict[int, Spread]) -> None:
    """Let one node tell a rumour for each fan-out."""
    sim.network.link = Link(latency=LATENCY)
    heard: list[float] = []
    nodes: dict[str, Listener] = {}

    async def program(ip: str) -> None:
        nodes[ip] = Listener(ip, Random(f"{sim.seed} {ip}"), heard)  # noqa: S311  # no secret
        async with nodes[ip].node as node:
            await node.start_listening()
            await node.wait_closed()

    ips = [f"10.0.0.{number}" for number in range(1, HOSTS + 1)]
    with patch.object(gossip, "Config", partial(Config, listener_addr=("0.0.0.0", PORT))):  # noqa: S104  # simulated
        sim.start(*(sim.host(ip, program, ip) for ip in ips))
        await anyio.sleep(1)
    async with anyio.create_task_group() as dials:
        for number, other in random(HOSTS, DEGREE, sim.seed):
            dials.start_soon(nodes[ips[number]].node.connect, (ips[other], PORT))
    for rumour, (fanout, spread) in enumerate(spreads.items()):
        heard.clear()
        for node in nodes.values():
            node.fanout, node.sent = fanout, 0
        nodes[ips[0]].tell(gossip.Rumour(rumour, 0, "have you heard?"))
        await anyio.sleep(5)
        spread.times += [moment - heard[0] for moment in heard]
        spread.messages += sum(node.sent for node in nodes.values())


def text(x: float, y: float, what: str, *, anchor: str = "start", colour: str = "#57606a") -> str:
    """A word or a line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{what}</text>'


def draw() -> str:
    """The picture, as SVG."""
    width, height = LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM
    about = "The share of nodes that have heard a rumour, over time, for four fan-outs"
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    style = 'font-family="sans-serif" font-size="13" role="img"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style} aria-label="{about}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        text(LEFT, 20, f"How many of {HOSTS} nodes have heard a rumour, by how many neighbours each node tells it to"),
    ]
    for percent in range(0, 101, 25):
        y = TOP + HEIGHT * (1 - percent / 100)
        parts.append(f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="#d0d7de"/>')
        parts.append(text(LEFT - 8, y + 4, f"{percent} %", anchor="end"))
    for quarter in range(int(SECONDS * 4) + 1):
        x = LEFT + WIDTH * quarter / 4 / SECONDS
        parts.append(text(x, TOP + HEIGHT + 20, f"{quarter / 4:g} s", anchor="middle"))
    labels: list[tuple[float, str, str]] = []
    spreads = {fanout: Spread() for fanout in FANOUTS}
    simulate(tell, spreads, seeds=RUNS)
    for (fanout, name), colour in zip(FANOUTS.items(), COLOURS, strict=True):
        spread = spreads[fanout]
        path, reached = f"M{LEFT} {TOP + HEIGHT}", 0.0
        for moment in sorted(spread.times):
            if moment <= SECONDS:
                reached += 1 / RUNS / HOSTS
                path += f"H{LEFT + WIDTH * moment / SECONDS:.1f}V{TOP + HEIGHT * (1 - reached):.1f}"
        parts.append(f'<path d="{path}H{LEFT + WIDTH}" fill="none" stroke="{colour}" stroke-width="2"/>')
        labels.append((TOP + HEIGHT * (1 - reached), f"{name}, {spread.messages / RUNS:.0f} messages", colour))
    labels.sort()
    places = [labels[0][0]]
    for y, _, _ in labels[1:]:
        places.append(max(y, places[-1] + 16))
    for place, (_, name, colour) in zip(places, labels, strict=True):
        parts.append(text(LEFT + WIDTH + 8, place + 4, name, colour=colour))
    return "\n".join([*parts, "</svg>", ""])
