"""A duel at dawn: a handshake with rules and timing, then messages that all have the same length.

Shows a handshake that is a small protocol (the duellists count ten paces in turn, each in its turn and not too fast,
within the handshake's timeout; a peer that breaks the rules is refused) and a codec written by hand: frames of a fixed
length need neither a prefix nor a delimiter. A shot is checked before it is answered: its number must be the next one.
Run `python examples/fixed_length.py` (also with `--backend trio` or `--backend uvloop`; `--seed 7` lets the same shots
hit). You will see three challengers refused, and a fourth one and the champion shoot until one of them is hit.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import hypot, inf
from random import Random
from struct import Struct
from typing import NamedTuple
from weakref import WeakKeyDictionary

import anyio
from anyio.abc import ByteStream

from _common import command_line, run
from pea2pea import Config, Connection, DisconnectOrigin, FrameError, HandshakeError, Node, Side
from pea2pea.codecs import Codec

PACES = 10
PACE = 0.02  # seconds: nobody walks faster
PATIENCE = 2.0  # seconds that the walk may take
MAX_SHOTS = 1000  # of both together
AIM, BODY = 60, 25  # centimetres: how far a shot strays, and what it must come within to hit


class Shot(NamedTuple):
    """Where a bullet goes, in centimetres from the opponent's heart."""

    number: int
    right: int
    up: int

    @property
    def hits(self) -> bool:
        return hypot(self.right, self.up) < BODY


class ShotCodec:
    """Six bytes each: a number, and two signed distances, in network order."""

    LAYOUT = Struct(">Hhh")

    def __init__(self) -> None:
        self._rest = b""

    def decode(self, data: bytes) -> Iterator[Shot]:
        if not data and self._rest:
            raise FrameError("the stream ends within a shot")
        data = self._rest + data
        whole = len(data) - len(data) % self.LAYOUT.size
        self._rest = data[whole:]
        yield from map(Shot._make, self.LAYOUT.iter_unpack(data[:whole]))

    def encode(self, shot: Shot) -> bytes:
        return self.LAYOUT.pack(*shot)


class BadMannersError(Exception):
    """The opponent has broken the rules of the walk."""


class Duellist:
    """Walks ten paces, one after the other's, then shoots back until somebody falls."""

    def __init__(
        self, name: str, chance: Random, *, turns_after: int = PACES, pace: float = PACE, patience: float = PATIENCE
    ) -> None:
        self.chance = chance
        self.shots: WeakKeyDictionary[Connection, int] = WeakKeyDictionary()  # how many were fired
        self.turns_after = turns_after
        self.pace = pace
        self.is_over = anyio.Event()
        self.node = Node(Config(name=name))
        self.node.enable_handshake(self, timeout=patience)
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)
        self.node.enable_on_disconnect(self)

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        """The challenger (the initiator) counts the odd paces, the champion the even ones."""
        own_turn = 1 if connection.side is Side.INITIATOR else 0
        last = -inf  # the time of our own last pace
        for number in range(1, PACES + 1):
            if number % 2 == own_turn:
                await anyio.sleep(self.pace)
                last = anyio.current_time()
                await stream.send(bytes([number if number <= self.turns_after else 0]))
                continue
            (counted,) = await stream.receive(1)
            if counted != number:
                raise BadMannersError(f"turned round after {number - 1} paces")
            if anyio.current_time() - last < PACE / 2:  # half of it, since no clock is exact
                raise BadMannersError(f"was running at pace {number}")
        return stream

    def decoder(self, _connection: Connection) -> Codec[Shot]:
        return ShotCodec()

    encoder = decoder

    async def process_message(self, source: Connection, message: Shot) -> None:
        if message.number != self.shots.get(source, 0) + 1 or message.number >= MAX_SHOTS:
            print(f"{self.node.name} walks away: shot {message.number} is out of turn.")
            await self.node.disconnect(source)  # from inside of a hook this only starts the end
        elif message.hits:
            print(f"{self.node.name} is hit by shot {message.number}, and falls.")
            await self.node.disconnect(source)
        else:
            await self.shoot(source, message.number + 1)

    async def shoot(self, opponent: Connection, number: int) -> None:
        self.shots[opponent] = number
        shot = Shot(number, self.chance.randint(-AIM, AIM), self.chance.randint(-AIM, AIM))
        print(f"{self.node.name} fires shot {number}: {shot.right:+} cm, {shot.up:+} cm")
        await self.outbox.send(opponent, shot)

    async def on_disconnect(self, _connection: Connection, origin: DisconnectOrigin) -> None:
        if origin is DisconnectOrigin.READING:
            print(f"{self.node.name} is the last one standing.")
        self.is_over.set()


class Champion(Duellist):
    """Prints what others have done wrong."""

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        try:
            return await super().perform_handshake(connection, stream)
        except BadMannersError as offence:
            print(f"{self.node.name} refuses: the opponent {offence}.")
            raise


async def main(seed: int | None) -> None:
    chance = Random(seed)  # noqa: S311  # it keeps no secret
    champion = Champion("The champion", chance)
    challengers = [
        Duellist("The hothead", chance, turns_after=6),
        Duellist("The runner", chance, pace=0),
        Duellist("The dawdler", chance, pace=2 * PATIENCE, patience=10 * PATIENCE),
        Duellist("The gentleman", chance),
    ]
    async with champion.node:
        field = await champion.node.start_listening()
        for challenger in challengers:
            async with challenger.node:
                try:
                    connection = await challenger.node.connect(field)
                except HandshakeError:
                    print(f"{challenger.node.name} is sent home.")
                    continue
                print(f"{challenger.node.name} has walked {PACES} paces, and turns round.")
                await challenger.shoot(connection, 1)
                await champion.is_over.wait()
                await challenger.is_over.wait()
    refused, late = champion.node.heuristics.handshake_failures, champion.node.heuristics.handshake_timeouts
    print(f"{refused} challengers were refused, {late} of them since the walk took too long.")


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    run(options, main, options.seed)
