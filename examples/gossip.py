"""Gossip: a rumour reaches everybody, though each node tells it to a few neighbours only.

Shows an epidemic broadcast with de-duplication over a random graph, with `send_nowait` in `process_message`: a relay
must not wait for one peer while another one talks to it. Where a queue is full, it drops the rumour and relies on the
other neighbours. Run `python examples/gossip.py` (`--nodes`, `--degree`, `--seed`). You will see, for each fan-out, how
many nodes a rumour reached, how many hops it took, and how many messages were useless: with a fan-out of four or five
almost everybody is reached, for a fraction of the messages that flooding (the last line) costs.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from random import Random
from statistics import mean
from struct import Struct

from _common import command_line, run
from pea2pea import Config, Connection, Node, NotConnectedError, QueueFullError
from pea2pea.codecs import Codec, LengthDelimitedCodec, mapped
from pea2pea.testing import wait_until
from pea2pea.topology import connect_nodes, random

HEADER = Struct("!QB")
MAX_HOPS = 30
RUMOURS = 10
REMEMBERED = 10_000  # rumours


@dataclass(frozen=True)
class Rumour:
    """What is passed on: `hops` counts how often that happened."""

    number: int
    hops: int
    text: str


def encode(rumour: Rumour) -> bytes:
    return HEADER.pack(rumour.number, rumour.hops) + rumour.text.encode()


def decode(data: bytes) -> Rumour:
    number, hops = HEADER.unpack_from(data)
    if hops > MAX_HOPS:
        raise ValueError(f"{hops} hops are too many")
    return Rumour(number, hops, data[HEADER.size :].decode())


class Gossip:
    """A node that passes each rumour on once, to `fanout` of its neighbours."""

    def __init__(self, name: str, randomness: Random) -> None:
        self.fanout = 1
        self.hops: dict[int, int] = {}  # how far the rumours that were heard had come, by their numbers
        self.sent = self.received = 0
        self.random = randomness
        self.node = Node(Config(name=name))
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)

    def decoder(self, connection: Connection) -> Codec[Rumour]:
        return mapped(LengthDelimitedCodec(prefix=2), decode=decode, encode=encode)

    encoder = decoder

    async def process_message(self, source: Connection, message: Rumour) -> None:
        self.received += 1
        if message.number not in self.hops:
            self.tell(message, but=source)

    def tell(self, rumour: Rumour, but: Connection | None = None) -> None:
        self.hops[rumour.number] = rumour.hops
        if len(self.hops) > REMEMBERED:
            del self.hops[next(iter(self.hops))]  # the oldest
        neighbours = [peer for peer in self.node.connections.values() if peer is not but]
        if rumour.hops < MAX_HOPS:
            for peer in self.random.sample(neighbours, min(self.fanout, len(neighbours))):
                with suppress(QueueFullError, NotConnectedError):  # it is slow, or just leaving
                    self.outbox.send_nowait(peer, Rumour(rumour.number, rumour.hops + 1, rumour.text))
                    self.sent += 1


async def spread(nodes: list[Gossip], fanout: int, rumours: int) -> str:
    """Start `rumours` at random nodes, and tell how they did."""
    numbers = range(fanout * rumours, (fanout + 1) * rumours)
    for node in nodes:
        node.fanout = fanout
        node.sent = node.received = 0
    for number in numbers:
        origin = nodes[number % len(nodes)]
        origin.tell(Rumour(number, 0, "have you heard?"))
        await wait_until(lambda: sum(node.sent for node in nodes) == sum(node.received for node in nodes), timeout=30)
    hops = [node.hops[number] for node in nodes for number in numbers if number in node.hops]
    reached = len(hops) / rumours / len(nodes)
    messages = sum(node.sent for node in nodes) / rumours
    useless = messages - (len(hops) / rumours - 1)
    how_many = "all" if fanout >= len(nodes) else fanout
    return f"{how_many:>8}{reached:11.1%}{mean(hops):11.1f}{max(hops):9}{messages:11.0f}{useless:10.0f}"


async def main(count: int, degree: int, seed: int) -> None:
    nodes = [Gossip(f"node {number}", Random(seed + number)) for number in range(count)]  # noqa: S311  # no secret
    async with AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(node.node)
            await node.node.start_listening()
        await connect_nodes([node.node for node in nodes], random(count, degree, seed))
        neighbours = mean(len(node.node.connections) for node in nodes)
        print(f"{count} nodes with {neighbours:.0f} neighbours on average; each line is the mean of {RUMOURS} rumours")
        print(" fan-out    reached  hops mean  hops max   messages   useless")
        for fanout in (1, 2, 3, 4, 5, count):
            print(await spread(nodes, fanout, RUMOURS))


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--nodes", type=int, default=60)
    parser.add_argument("--degree", type=int, default=5, help="how many others each node dials")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    run(options, main, options.nodes, options.degree, options.seed)
