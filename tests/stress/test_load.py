"""Nodes under as much load as there can be, for longer than the other tests take."""

from __future__ import annotations

import random

import anyio
import pytest
from anyio.lowlevel import checkpoint

from pea2pea import QueueFullError
from pea2pea.topology import connect_nodes, mesh
from tests.helpers import User, descriptors, running_tasks, wait_until

MESSAGES = 20_000


@pytest.mark.parametrize("size", [0, 32, 4096])
async def test_talking_mesh(size: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A mesh whose members all talk to each other stays live and loses nothing it has taken."""
    tasks, open_before = running_tasks(), descriptors()
    users = [User() for _ in range(5)]
    nodes = [user.node for user in users]
    refused = 0

    async def talk(user: User) -> None:
        nonlocal refused
        message = bytes(size)
        for number in range(MESSAGES):
            for addr in user.node.connections:
                try:
                    user.outbox.send_nowait(addr, message)
                except QueueFullError:
                    refused += 1
            if number % 100 == 0:
                await checkpoint()

    async with nodes[0], nodes[1], nodes[2], nodes[3], nodes[4]:
        for node in nodes:
            await node.start_listening()
        await connect_nodes(nodes, mesh(5))
        async with anyio.create_task_group() as talkers:
            for user in users:
                talkers.start_soon(talk, user)
        taken = 5 * 4 * MESSAGES - refused
        await wait_until(lambda: sum(len(user.received) for user in users) == taken, 120)
        assert all(len(user.node.connections) == 4 for user in users)
    assert running_tasks() == tasks
    assert descriptors() == open_before
    assert all(user.node.heuristics.hook_errors == 0 for user in users)
    with capsys.disabled():
        print(f"\n{size} bytes: {taken} messages taken and received, {refused} refused")  # noqa: T201  # a figure


async def test_connects_and_disconnects_at_a_time() -> None:
    """A thousand connects and disconnects at a time leave nothing."""
    rng = random.Random(1)
    tasks, open_before = running_tasks(), descriptors()
    hub = User()
    async with hub.node:
        addr = await hub.node.start_listening()

        async def come_and_go() -> None:
            for _ in range(50):
                user = User()
                async with user.node:
                    connection = await user.node.connect(addr)
                    for _ in range(rng.randrange(5)):
                        await user.outbox.send(connection, rng.randbytes(rng.randrange(2000)))
                    if rng.random() < 0.5:
                        await user.node.disconnect(connection, abort=rng.random() < 0.3)

        async with anyio.create_task_group() as visitors:
            for _ in range(20):
                visitors.start_soon(come_and_go)
        await wait_until(lambda: not hub.node.connections and not hub.node.connecting)
        assert len(hub.ended) == len(hub.connected)
    assert running_tasks() == tasks
    assert descriptors() == open_before
