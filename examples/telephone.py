"""The telephone game, on a line of nodes: each one whispers to the next what it has understood, more or less.

Shows a topology made real, and forwarding: a player passes on what it hears to every peer but its source.
Run `python examples/telephone.py` (also with `--backend trio` or `--backend uvloop`; `--players 20`; `--seed 7`
plays the same game again). You will see what each player has understood, one after the other, and at the end what
has become of the sentence.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from random import Random
from string import ascii_lowercase

import anyio

from _common import command_line, run, shown
from pea2pea import Config, Connection, Node
from pea2pea.codecs import LinesCodec
from pea2pea.topology import connect_nodes, line

SENTENCE = "when we cannot think for ourselves, we can always quote"


class Player:
    """Hears something, mishears it every other time, and whispers it on."""

    def __init__(self, number: int, chance: Random) -> None:
        self.chance = chance
        self.understood: str | None = None
        self.is_over = anyio.Event()
        self.node = Node(Config(name=f"player {number}"))
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)

    def decoder(self, _connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=1024)

    def encoder(self, _connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=1024)

    async def process_message(self, source: Connection, message: str) -> None:
        self.understood = self.mishear(message)
        print(f"{self.node.name:>9} understands: {shown(self.understood)}")
        self.outbox.broadcast(self.understood, exclude=[source])
        if len(self.node.connections) == 1:  # nobody is left to tell
            self.is_over.set()

    def mishear(self, sentence: str) -> str:
        if not sentence or self.chance.random() < 0.5:
            return sentence
        at = self.chance.randrange(len(sentence))
        return sentence[:at] + self.chance.choice(ascii_lowercase) + sentence[at + 1 :]


async def main(count: int, seed: int | None) -> None:
    chance = Random(seed)  # noqa: S311  # it keeps no secret
    players = [Player(number, chance) for number in range(1, count + 1)]
    async with AsyncExitStack() as stack:
        for player in players:
            await stack.enter_async_context(player.node)
            await player.node.start_listening()
        await connect_nodes([player.node for player in players], line(count))

        first, last = players[0], players[-1]
        print(f"{first.node.name:>9} whispers: {SENTENCE}")
        first.outbox.broadcast(SENTENCE)  # it has one peer
        await last.is_over.wait()
    print(f"From {SENTENCE!r}\n  to {shown(repr(last.understood))}, through {count - 1} connections.")


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--players", type=int, default=10)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    run(options, main, options.players, options.seed)
