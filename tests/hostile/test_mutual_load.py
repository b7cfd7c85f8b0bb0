"""Two nodes that answer each other with more than they got."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pea2pea import Config, Connection, DisconnectOrigin, QueueFullError
from tests.helpers import ALL, User, two_nodes, wait_until

if TYPE_CHECKING:
    from pea2pea import Address

PLENTY = 5_000


class Chatterbox(User):
    """Answers each message with two, and drops what does not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.dropped = 0

    async def process_message(self, source: Connection, message: bytes) -> None:
        self.received.append(message[:1])
        for _ in range(2):
            try:
                self.outbox.send_nowait(source, message)
            except QueueFullError:
                self.dropped += 1


async def test_with_send_nowait_they_stay_live() -> None:
    one, other = Chatterbox(), Chatterbox()
    async with two_nodes(one, other) as (connection, _):
        one.outbox.send_nowait(connection, bytes(1000))
        await wait_until(lambda: len(one.received) > PLENTY and len(other.received) > PLENTY, 30)
        await wait_until(lambda: one.dropped and other.dropped, 30)  # the queues were full
        assert await one.node.disconnect(connection)
        await wait_until(lambda: other.ended)
        assert one.origins == [DisconnectOrigin.USER]
        assert not one.node.connections
    assert one.node.heuristics.hook_errors == other.node.heuristics.hook_errors == 0


async def test_mutual_load_with_send() -> None:
    """With send they wait for each other until the write timeout."""

    async def answer_twice(user: User, source: Address, message: bytes) -> None:
        await user.outbox.send(source, message)
        await user.outbox.send(source, message)

    one, other = (User(Config(grace_period=1), enable=ALL - {"handshake", "writing"}) for _ in range(2))
    for user in (one, other):
        user.outbox = user.node.enable_writing(user, timeout=0.2, queue_depth=4)
        user.handle = lambda source, message, user=user: answer_twice(user, source, message)  # type: ignore[misc]  # a default binds it
    async with two_nodes(one, other) as (connection, _):
        one.outbox.send_nowait(connection, bytes(100_000))
        await wait_until(lambda: one.ended and other.ended, 30)
        assert DisconnectOrigin.WRITING in (*one.origins, *other.origins)
        assert one.node.heuristics.write_timeouts + other.node.heuristics.write_timeouts >= 1
    assert one.node.heuristics.hook_errors == other.node.heuristics.hook_errors == 0
