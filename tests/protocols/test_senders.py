"""Many senders at a time: whatever they do, what was encoded arrives, in that order and once.

Each round is a connection whose senders, limits and end are drawn from a seed.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
from anyio import CancelScope, create_task_group

from pea2pea import DeliveryError, NotConnectedError, QueueFullError

from ..helpers import turns
from .outgoing import Sender
from .stuck import CLOG, stuck_peer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .stuck import StuckPeer

either_way = pytest.mark.parametrize("over", ["socket", "memory"])


def rounds() -> Iterator[Random]:
    for seed in range(60):
        print(f"seed {seed}")  # noqa: T201  # pytest shows it with a failure
        yield Random(seed)


class Crowd:
    """Senders that send a few messages each, in one way or the other, and are cancelled now and then."""

    def __init__(self, sender: Sender, peer: StuckPeer, dice: Random) -> None:
        self.sender = sender
        self.peer = peer
        self.dice = dice
        self.delivered: list[bytes] = []
        self.refused: list[bytes] = []

    async def run(self) -> None:
        async with create_task_group() as group:
            for name in range(self.dice.randrange(1, 12)):
                group.start_soon(self.send_some, name)
                await turns(self.dice.choice((0, 3)))

    async def send_some(self, name: int) -> None:
        for number in range(self.dice.randrange(10)):
            message = b"%d.%d " % (name, number) * self.dice.choice((1, 1, 100, 5000))
            with CancelScope() as scope:
                if self.dice.random() < 0.2:
                    self.sender.node.start_soon(self.cancel_soon, scope)
                try:
                    await self.send(message)
                except (NotConnectedError, DeliveryError):
                    return
            await turns(self.dice.choice((0, 0, 1, 3)))

    async def send(self, message: bytes) -> None:
        outbox, connection = self.sender.outbox, self.peer.connection
        way = self.dice.randrange(3)
        if way == 0:
            try:
                outbox.send_nowait(connection, message)
            except QueueFullError:
                self.refused.append(message)
        elif way == 1:
            try:
                await outbox.send(connection, message)
            except BaseException:
                self.refused.append(message)
                raise
        else:
            await outbox.deliver(connection, message)
            self.delivered.append(message)

    async def cancel_soon(self, scope: CancelScope) -> None:
        await turns(self.dice.randrange(8))
        scope.cancel()


def a_sender(dice: Random) -> Sender:
    return Sender(queue_depth=dice.choice((1, 2, 10)), queue_bytes=dice.choice((1, 1000, 100_000)), grace_period=30.0)


@either_way
async def test_what_was_encoded_arrives_in_that_order_and_nothing_else(over: str) -> None:
    for dice in rounds():
        sender = a_sender(dice)
        async with stuck_peer(sender, over) as peer, create_task_group() as group:
            crowd = Crowd(sender, peer, dice)

            async def send_and_leave() -> None:
                await crowd.run()  # noqa: B023
                await sender.node.disconnect(peer.connection)  # noqa: B023

            group.start_soon(send_and_leave)
            received = await peer.read_all()
            await peer.leave()
        assert received == sender.encoded
        assert received[0] == CLOG
        assert set(crowd.delivered) <= set(received)
        assert not set(crowd.refused) & set(received)


@either_way
@pytest.mark.parametrize("abort", [False, True])
async def test_nobody_waits_for_ever_when_the_connection_ends_meanwhile(over: str, abort: bool) -> None:
    for dice in rounds():
        sender = a_sender(dice)
        async with stuck_peer(sender, over) as peer, create_task_group() as group:
            crowd = Crowd(sender, peer, dice)
            group.start_soon(crowd.run)
            received: list[bytes] = []
            for _ in range(dice.randrange(8)):
                await turns(dice.randrange(20))
                if len(sender.encoded) > len(received):
                    received.append(await peer.read())
            if abort:
                await sender.node.disconnect(peer.connection, abort=True)
            else:
                group.start_soon(sender.node.disconnect, peer.connection)
                received += await peer.read_all()
                await peer.leave()
        assert received == sender.encoded[: len(received)]
        assert not set(crowd.refused) & set(received)
        if not abort:
            assert received == sender.encoded
            assert set(crowd.delivered) <= set(received)
