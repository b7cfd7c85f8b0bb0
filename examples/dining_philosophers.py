"""The dining philosophers, on a ring of nodes: between each two neighbours lies one fork, and eating takes both.

Shows state that belongs to connections, and a protocol between equals without anybody in charge, which neither
deadlocks nor lets anybody starve: "The Drinking Philosophers Problem" by Chandy and Misra (1984). A fork is dirty
once it was eaten with. Asked for a dirty one, a philosopher cleans it and gives it away; a clean one is kept until he
has eaten. Run `python examples/dining_philosophers.py` (also with `--backend trio` or `--backend uvloop`;
`--meals 10`). You will see who begins and ends eating, never two neighbours at a time, until everybody has had all
of his meals.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import Enum
from functools import partial
from random import Random
from weakref import WeakKeyDictionary

import anyio
from anyio.abc import ByteStream

from _common import command_line, run
from pea2pea import Codec, Config, Connection, DisconnectOrigin, Node, NotConnectedError, QueueFullError
from pea2pea.codecs import LinesCodec, mapped
from pea2pea.topology import connect_nodes, ring

NAMES = ["Socrates", "Diogenes", "Kant", "Nietzsche", "Wittgenstein"]
LONGEST = 0.02  # seconds of a meal, or a thought


class Message(Enum):
    """What neighbours say to each other."""

    PLEASE = "May I have the fork?"
    HERE = "Here it is."


@dataclass
class Fork:
    """The one that is shared with one neighbour."""

    is_here: bool
    is_clean: bool = False
    is_asked_for: bool = False


class Philosopher:
    """Thinks, gets hungry, asks for the forks that are not here, and eats once he has both."""

    def __init__(self, seat: int, chance: Random) -> None:
        self.seat = seat
        self.chance = chance
        self.forks: WeakKeyDictionary[Connection, Fork] = WeakKeyDictionary()
        self.is_hungry = False
        self.may_eat = anyio.Event()
        self.meals = 0
        self.node = Node(Config(name=NAMES[seat]))
        self.node.enable_handshake(self)
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)
        self.node.enable_on_disconnect(self)

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        """Exchange seats: the lower one begins with the fork. (If all began with their left one, they could starve.)"""
        await stream.send(bytes([self.seat]))
        (seat,) = await stream.receive(1)
        if (seat - self.seat) % len(NAMES) not in (1, len(NAMES) - 1):
            raise ValueError(f"nobody at seat {seat} shares a fork with seat {self.seat}")
        self.forks[connection] = Fork(is_here=self.seat < seat)
        return stream

    def decoder(self, _connection: Connection) -> Codec[Message]:
        return mapped(LinesCodec(max_length=100), decode=Message, encode=lambda message: message.value)

    encoder = decoder

    async def process_message(self, source: Connection, message: Message) -> None:
        fork = self.forks[source]
        if fork.is_here == (message is Message.HERE):  # there is one fork, and it is at one of us
            print(f"{self.node.name} leaves a neighbour who does not know where the fork is")
            await self.node.disconnect(source)
        elif message is Message.HERE:
            fork.is_here = fork.is_clean = True
            self.look_at_forks()
        elif fork.is_clean:
            fork.is_asked_for = True
        else:
            self.give(source, fork)
            if self.is_hungry:
                self.say(source, Message.PLEASE)

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        del self.forks[connection]  # no other philosopher shares it now
        self.look_at_forks()

    def give(self, neighbour: Connection, fork: Fork) -> None:
        fork.is_here = fork.is_clean = fork.is_asked_for = False
        self.say(neighbour, Message.HERE)

    def say(self, neighbour: Connection, message: Message) -> None:
        """Send without waiting, so that no neighbour holds up the others; disconnect one that does not read."""
        try:
            self.outbox.send_nowait(neighbour, message)
        except QueueFullError:
            self.node.start_soon(partial(self.node.disconnect, neighbour, abort=True))
        except NotConnectedError:
            pass  # it is just leaving: `on_disconnect` removes the fork

    def look_at_forks(self) -> None:
        if self.is_hungry and all(fork.is_here for fork in self.forks.values()):
            self.is_hungry = False
            for fork in self.forks.values():
                fork.is_clean = True  # it is kept until he has eaten
            self.may_eat.set()

    async def live(self, meals: int) -> None:
        while self.meals < meals:
            await anyio.sleep(self.chance.uniform(0, LONGEST))
            self.is_hungry, self.may_eat = True, anyio.Event()
            for neighbour, fork in self.forks.items():
                if not fork.is_here:
                    self.say(neighbour, Message.PLEASE)
            self.look_at_forks()
            await self.may_eat.wait()

            self.meals += 1
            print(f"{self.node.name} begins to eat ({self.meals} of {meals})")
            await anyio.sleep(self.chance.uniform(0, LONGEST))
            print(f"{self.node.name} ends eating")
            for neighbour, fork in self.forks.items():
                fork.is_clean = False
                if fork.is_asked_for:
                    self.give(neighbour, fork)


async def main(meals: int) -> None:
    chance = Random()  # noqa: S311  # it keeps no secret
    philosophers = [Philosopher(seat, chance) for seat in range(len(NAMES))]
    async with AsyncExitStack() as stack:
        for philosopher in philosophers:
            await stack.enter_async_context(philosopher.node)
            await philosopher.node.start_listening()
        await connect_nodes([philosopher.node for philosopher in philosophers], ring(len(philosophers)))

        async with anyio.create_task_group() as table:
            for philosopher in philosophers:
                table.start_soon(philosopher.live, meals)
    print(f"Everybody has had {meals} meals.")


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--meals", type=int, default=5)
    options = parser.parse_args()
    run(options, main, options.meals)
