"""Hot potato, on a mesh of nodes: the player who catches the potato throws it to another one, and everybody watches.

Shows a handshake in which the players learn each other's names, a message type of your own, and broadcasts: a throw is
sent to all players, and the player named in it catches. There is no order between two connections, so players may hear
of two throws in the wrong order: each throw is numbered, and the highest number counts. A throw at nobody is refused,
and a repeated one is ignored. Run `python examples/hot_potato.py` (also with `--backend trio` or `--backend uvloop`;
`--throws 500`; `--seed 7` plays the same game again). You will see every throw, then how often each player was hit, and
that all of them agree who holds it at the end.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from random import Random
from typing import NamedTuple
from weakref import WeakKeyDictionary

import anyio
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteStream

from _common import command_line, run
from pea2pea import Codec, Config, Connection, Node
from pea2pea.codecs import LinesCodec, mapped
from pea2pea.topology import connect_nodes, mesh

NAMES = ["Anna", "Bert", "Cleo", "Dora", "Emil", "Fritz", "Gina", "Hugo", "Ines", "Jan"]
NAME_LENGTH = 8  # bytes, filled up with blanks
MAX_THROWS = 1_000_000


class Throw(NamedTuple):
    """The potato flies."""

    number: int
    target: str


def parse(line: str) -> Throw:
    number, target = line.split(" ")
    if target not in NAMES or not 0 < int(number) <= MAX_THROWS:
        raise ValueError("not a throw of this game")
    return Throw(int(number), target)


class Player:
    """Knows all others by name; throws the potato on until it has been thrown often enough."""

    def __init__(self, name: str, throws: int, chance: Random) -> None:
        self.throws = throws
        self.chance = chance
        self.names: WeakKeyDictionary[Connection, str] = WeakKeyDictionary()
        self.catches = 0
        self.last_seen = Throw(0, "")
        self.is_over = anyio.Event()
        self.node = Node(Config(name=name))
        self.node.enable_handshake(self)
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        """Exchange names. Nothing is read beyond them, so that the bare stream can be returned."""
        await stream.send(self.node.name.ljust(NAME_LENGTH).encode())
        name = (await BufferedByteStream(stream).receive_exactly(NAME_LENGTH)).decode().strip()
        if name not in NAMES or name in (self.node.name, *self.others):
            raise ValueError("no player of that name is missing")
        self.names[connection] = name
        return stream

    @property
    def others(self) -> list[str]:
        """The names of the players who are connected now."""
        return sorted(self.names[connection] for connection in self.node.connections.values())

    def decoder(self, _connection: Connection) -> Codec[Throw]:
        return mapped(LinesCodec(max_length=100), decode=parse, encode=lambda throw: f"{throw.number} {throw.target}")

    encoder = decoder

    async def process_message(self, _source: Connection, message: Throw) -> None:
        is_news = message.number > self.last_seen.number
        self.watch(message)
        if is_news and message.target == self.node.name:
            self.catches += 1
            if message.number < self.throws:
                self.throw(message.number + 1)

    def throw(self, number: int) -> None:
        throw = Throw(number, self.chance.choice(self.others))
        print(f"{number:>4}: {self.node.name} throws it at {throw.target}")
        self.watch(throw)
        for peer, error in self.outbox.broadcast(throw).items():
            print(f"{peer} has not seen that: {error}")

    def watch(self, throw: Throw) -> None:
        self.last_seen = max(self.last_seen, throw)
        if self.last_seen.number >= self.throws:
            self.is_over.set()


async def main(throws: int, seed: int | None) -> None:
    chance = Random(seed)  # noqa: S311  # it keeps no secret
    players = [Player(name, throws, chance) for name in NAMES]
    async with AsyncExitStack() as stack:
        for player in players:
            await stack.enter_async_context(player.node)
            await player.node.start_listening()
        await connect_nodes([player.node for player in players], mesh(len(players)))

        chance.choice(players).throw(1)
        for player in players:
            await player.is_over.wait()

    for player in players:
        print(f"{player.node.name:>5} {player.catches:>3} {'#' * player.catches}")
    holders = {player.last_seen.target for player in players}
    print(f"{sum(player.catches for player in players)} catches; all agree that it burns in the hands of", *holders)


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--throws", type=int, default=50)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    run(options, main, options.throws, options.seed)
