"""Ten nodes that do everything at random, at once, and an account of each end of each connection.

The seed is printed; `PEA2PEA_SEED=17 nox -s stress -- -k chaos` takes the same decisions again (though the event loop
and the kernel decide, too). `PEA2PEA_ACTIONS=300000` makes it that many actions.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import anyio
import pytest

from pea2pea import Config, Connection, DisconnectOrigin, Node, NodeError, Outbox, Side
from tests.ends import NAME, ORDERLY, End, Planted
from tests.helpers import RawPeer, descriptors, memory_pair, running_tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream

NODES = 10
AGENTS = 20
ACTIONS = int(os.environ.get("PEA2PEA_ACTIONS", "20000"))
WATCHDOG = 60 + ACTIONS / 50  # seconds
CONFIG = Config(max_connections=7, max_inbound=5, max_connecting=3, grace_period=5.0, connection_timeout=1)


class Chaotic:
    """A user whose hooks dawdle, and raise now and then, and who keeps the account."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.node = Node(CONFIG)
        self.node.enable_handshake(self, timeout=2.0)
        self.node.enable_reading(self, idle_timeout=None)
        self.outbox: Outbox[int] = self.node.enable_writing(self, queue_depth=20, queue_bytes=100_000)
        self.node.enable_on_connect(self, abortable=rng.random() < 0.5)
        self.node.enable_on_disconnect(self)
        self.ends: dict[Connection, End] = {}
        self.planted = 0
        self.refused = 0  # messages that a broadcast could not queue

    async def dawdle(self) -> None:
        """Not always, and seldom for long."""
        if self.rng.random() < 0.3:
            await anyio.sleep(self.rng.expovariate(500))

    def plant(self) -> None:
        """Raise, once in a while."""
        if self.rng.random() < 0.002:
            self.planted += 1
            raise Planted

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        end = self.ends[connection] = End(connection, self.rng.getrandbits(8 * NAME))
        await self.dawdle()
        await end.exchange_names(stream)
        if self.rng.random() < 0.05:
            raise ValueError("not today")
        return stream

    def encoder(self, connection: Connection) -> End:
        end = self.ends[connection]
        end.events.append("established")
        return end

    def decoder(self, connection: Connection) -> End:
        return self.ends[connection]

    async def process_message(self, source: Connection, message: int) -> None:
        end = self.ends[source]
        assert end.got == message, f"message {message} came in place of {end.got}"
        end.got += 1
        await self.dawdle()
        self.plant()
        if self.rng.random() < 0.2:
            self.say_something(source)

    async def on_connect(self, connection: Connection) -> None:
        self.ends[connection].events.append("on_connect")
        self.say_something(connection)
        await self.dawdle()
        self.plant()

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        self.ends[connection].events.append("on_disconnect")
        self.ends[connection].origin = origin
        self.say_something(connection)
        await self.dawdle()
        self.plant()

    def a_size(self) -> int:
        return int(self.rng.paretovariate(0.8)) % 60_000

    def say_something(self, connection: Connection) -> None:
        with suppress(NodeError):
            self.outbox.send_nowait(connection, self.a_size())


class Agent:
    """Takes one action after the other; each may fail in any way that a user is told of, and in no other."""

    def __init__(self, users: list[Chaotic], rng: random.Random, done: Counter[str]) -> None:
        self.users = users
        self.rng = rng
        self.done = done
        weighted: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (30, self.connect),
            (6, self.connect_and_think_better_of_it),
            (3, self.adopt),
            (60, self.send),
            (10, self.send_and_wait_for_room),
            (10, self.broadcast),
            (8, self.deliver),
            (3, self.drain),
            (6, self.disconnect),
            (3, self.abort),
            (3, self.disconnect_and_think_better_of_it),
            (3, self.connect_and_reset),
            (2, self.connect_and_send_garbage),
            (2, self.relisten),
        ]
        self.actions = [action for _, action in weighted]
        self.weights = [weight for weight, _ in weighted]

    def anybody(self) -> Chaotic:
        return self.rng.choice(self.users)

    def any_connection(self) -> tuple[Chaotic, Connection] | None:
        user = self.anybody()
        connections = list(user.node.connections.values())
        return (user, self.rng.choice(connections)) if connections else None

    async def act(self) -> None:
        (action,) = self.rng.choices(self.actions, self.weights)
        with suppress(NodeError, OSError):
            await action()
            self.done[action.__name__] += 1

    async def connect(self) -> None:
        addr = self.anybody().node.listening_addr
        if addr is not None:
            await self.anybody().node.connect(addr)

    async def connect_and_think_better_of_it(self) -> None:
        with anyio.move_on_after(self.rng.expovariate(500)):
            await self.connect()

    async def adopt(self) -> None:
        near, far = memory_pair()
        name = f"memory {self.rng.getrandbits(64)}"

        async def adopt(stream: ByteStream, port: int, side: Side) -> None:
            with suppress(NodeError):
                await self.anybody().node.adopt(stream, (name, port), side)

        async with anyio.create_task_group() as both:
            both.start_soon(adopt, near, 1, Side.INITIATOR)
            both.start_soon(adopt, far, 2, Side.RESPONDER)

    async def send(self) -> None:
        if (found := self.any_connection()) is not None:
            found[0].say_something(found[1])

    async def send_and_wait_for_room(self) -> None:
        if (found := self.any_connection()) is not None:
            user, connection = found
            accepted = user.ends[connection].accepted
            with anyio.move_on_after(self.rng.expovariate(500)) as scope:
                for _ in range(self.rng.randrange(1, 30)):
                    await user.outbox.send(connection, user.a_size())
            assert scope.cancelled_caught or user.ends[connection].accepted > accepted

    async def broadcast(self) -> None:
        user = self.anybody()
        user.refused += len(user.outbox.broadcast(user.a_size()))

    async def deliver(self) -> None:
        if (found := self.any_connection()) is not None:
            with anyio.move_on_after(self.rng.expovariate(500)):
                await found[0].outbox.deliver(found[1], found[0].a_size())

    async def drain(self) -> None:
        if (found := self.any_connection()) is not None:
            with anyio.move_on_after(self.rng.expovariate(500)):
                await found[0].outbox.drain(found[1], below=self.rng.randrange(1, 50_000))

    async def disconnect(self) -> None:
        if (found := self.any_connection()) is not None:
            await found[0].node.disconnect(found[1])

    async def abort(self) -> None:
        if (found := self.any_connection()) is not None:
            found[0].ends[found[1]].aborted = True
            await found[0].node.disconnect(found[1], abort=True)

    async def disconnect_and_think_better_of_it(self) -> None:
        with anyio.move_on_after(self.rng.expovariate(500)):
            await self.disconnect()

    async def connect_and_reset(self) -> None:
        addr = self.anybody().node.listening_addr
        if addr is not None:
            with await RawPeer.dial(addr) as peer:
                await peer.send(bytes(self.rng.randrange(NAME + 1)))
                peer.reset()

    async def connect_and_send_garbage(self) -> None:
        addr = self.anybody().node.listening_addr
        if addr is not None:
            with await RawPeer.dial(addr) as peer:
                await peer.send(bytes(NAME) + b"\xff\xff\xff\xff" + self.rng.randbytes(100))
                with anyio.move_on_after(self.rng.expovariate(100)):
                    await peer.receive_all()

    async def relisten(self) -> None:
        user = self.anybody()
        await user.node.stop_listening()
        await anyio.sleep(self.rng.expovariate(500))
        with suppress(RuntimeError):  # somebody else was faster
            await user.node.start_listening()


def check_limits(user: Chaotic) -> None:
    established, connecting = list(user.node.connections.values()), len(user.node.connecting)
    assert len(established) + connecting <= CONFIG.max_connections
    assert connecting <= 2 * CONFIG.max_connecting
    assert sum(connection.side is Side.RESPONDER for connection in established) <= (CONFIG.max_inbound or 0)


def check_the_account(users: list[Chaotic]) -> Counter[str]:
    """Every end of every connection; what was found, and how often."""
    found: Counter[str] = Counter()
    ends = {end.name: end for user in users for end in user.ends.values() if end.events}
    for end in ends.values():
        found["connections"] += 1
        assert end.origin is not None
        assert end.events == ["established", "on_connect", "on_disconnect"]
        found[end.origin.name] += 1
        stats, peer = end.connection.stats, ends.get(end.peer)
        assert stats.messages_received == end.got
        assert stats.messages_sent <= end.accepted
        if peer is None:  # a stranger, or it said "not today"
            continue
        assert end.got <= peer.accepted
        if peer.origin in ORDERLY and not peer.aborted and not end.aborted:
            found["orderly ends"] += 1
            assert peer.connection.stats.messages_sent == peer.accepted
            if end.origin not in ORDERLY:
                assert end.connection.cause is None or isinstance(end.connection.cause, Planted)
            if end.origin is DisconnectOrigin.READING and end.connection.cause is None:
                found["ends without a loss"] += 1
                found["messages in them"] += end.got
                assert end.got == peer.accepted, f"{peer.accepted - end.got} of {peer.accepted} messages are lost"
    return found


def check_what_is_left(user: Chaotic) -> None:
    """No connection, and the node's counters are the sums of the connections'."""
    node = user.node
    assert not node.connections
    assert not node.connecting
    assert node.heuristics.hook_errors == user.planted
    assert node.heuristics.accept_errors == 0
    ends = user.ends.values()
    given_up = sum(end.accepted - end.connection.stats.messages_sent for end in ends)
    assert node.heuristics.unsent_messages == given_up + user.refused
    for name in ("messages_sent", "bytes_sent", "messages_received", "bytes_received"):
        assert getattr(node.stats, name) == sum(getattr(end.connection.stats, name) for end in ends), name


@pytest.mark.timeout(2 * WATCHDOG)
async def test_chaos(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    seed = os.environ.get("PEA2PEA_SEED", str(time.time_ns() % 1_000_000))
    with capsys.disabled():
        print(f"\nchaos: PEA2PEA_SEED={seed}", end=" ")  # noqa: T201  # to do it again
    caplog.set_level(logging.ERROR)
    tasks, open_before = running_tasks(), descriptors()
    users = [Chaotic(random.Random(f"{seed}, user {number}")) for number in range(NODES)]
    done: Counter[str] = Counter()
    left = ACTIONS

    async def run(agent: Agent) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await agent.act()
            check_limits(agent.anybody())

    began = time.monotonic()
    with anyio.fail_after(WATCHDOG):
        async with AsyncExitStack() as stack:
            for user in users:
                await stack.enter_async_context(user.node)
                await user.node.start_listening()
            async with anyio.create_task_group() as agents:
                for number in range(AGENTS):
                    agents.start_soon(run, Agent(users, random.Random(f"{seed}, agent {number}"), done))
    rate = ACTIONS / (time.monotonic() - began)
    found = check_the_account(users)
    for user in users:
        check_what_is_left(user)
    assert running_tasks() == tasks
    assert descriptors() == open_before
    assert all(record.exc_info and record.exc_info[0] is Planted for record in caplog.records)
    with capsys.disabled():
        print(f"{rate:,.0f} actions a second", dict(found), dict(done))  # noqa: T201  # figures
    assert set(found) >= {"USER", "SHUTDOWN", "READING"}
    assert found["ends without a loss"] > ACTIONS / 200
