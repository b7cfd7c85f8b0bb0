"""Two nodes that answer each other with more than they got."""

from __future__ import annotations

import pytest

from pea2pea import Config, Connection, DisconnectOrigin, QueueFullError
from tests.helpers import User, connect, two_nodes, wait_until


class Twice(User):
    """Answers each message with two, as far as there is room, or waits for room."""

    def __init__(self, *, wait: bool, timeout: float = 30.0, queue_depth: int = 1024) -> None:
        super().__init__(Config(grace_period=0.1), enable={"reading", "on_connect", "on_disconnect"})
        self.outbox = self.node.enable_writing(self, timeout=timeout, queue_depth=queue_depth)
        self.wait = wait
        self.count = self.left_out = 0

    async def process_message(self, source: Connection, message: bytes) -> None:
        self.count += 1
        for _ in range(2):
            try:
                self.outbox.send_nowait(source, message)
            except QueueFullError:
                if self.wait:
                    await self.outbox.send(source, message)
                else:
                    self.left_out += 1


async def test_with_send_nowait_they_stay_live() -> None:
    """They leave out what does not fit, and go on."""
    one, other = Twice(wait=False), Twice(wait=False)
    async with two_nodes(one, other) as (connection, _):
        one.outbox.send_nowait(connection, bytes(1000))
        for some in (10_000, 20_000):
            await wait_until(lambda: min(one.count, other.count) > some, timeout=30)  # noqa: B023
        await wait_until(lambda: one.left_out and other.left_out, timeout=30)  # the queues were full
        assert not one.ended
        assert not other.ended
        assert await one.node.disconnect(connection)
        await wait_until(lambda: other.ended)
        assert one.origins == [DisconnectOrigin.USER]
        assert not one.node.connections
    assert one.node.heuristics.hook_errors == other.node.heuristics.hook_errors == 0


@pytest.mark.parametrize("timeouts", [(0.5, 1000.0), (0.2, 0.2)])
@pytest.mark.parametrize(("queue_depth", "size"), [(1024, 10_000), (4, 100_000)])
async def test_with_send_they_are_parted_by_the_write_timeout(
    timeouts: tuple[float, float], queue_depth: int, size: int
) -> None:
    """They wait for each other until the first one gives up."""
    one, other = (Twice(wait=True, timeout=timeout, queue_depth=queue_depth) for timeout in timeouts)
    async with two_nodes(one, other) as (connection, _):
        one.outbox.send_nowait(connection, bytes(size))
        await wait_until(lambda: one.ended and other.ended, timeout=30)
        assert DisconnectOrigin.WRITING in (*one.origins, *other.origins)
        assert one.node.heuristics.write_timeouts + other.node.heuristics.write_timeouts >= 1
        if timeouts[0] < timeouts[1]:
            assert one.origins == [DisconnectOrigin.WRITING]
            assert (one.node.heuristics.write_timeouts, other.node.heuristics.write_timeouts) == (1, 0)
            assert isinstance(connection.cause, TimeoutError)
        again, _ = await connect(one, other)
        assert again.addr in one.node.connections
    assert one.node.heuristics.hook_errors == other.node.heuristics.hook_errors == 0
