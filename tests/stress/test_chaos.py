"""Ten nodes that do everything at random, at once; what must hold, holds at any time and at the end.

The seed is printed; `PEA2PEA_SEED=17 nox -s stress -- -k chaos` takes the same decisions again (though the event loop
and the kernel decide, too).
"""

from __future__ import annotations

import os
import random
import struct
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import anyio
import pytest

from pea2pea import Config, Connection, DisconnectOrigin, NodeError, Outbox
from pea2pea.codecs import LengthDelimitedCodec
from tests.helpers import RawPeer, User, descriptors, running_tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream

    from pea2pea import Address
    from pea2pea.codecs import Codec

NODES = 10
OPERATIONS = 20_000
WATCHDOG = 300  # seconds
HEADER = struct.Struct(">QI")
CONFIG = Config(max_connections=7, max_inbound=5, max_connecting=3, grace_period=0.5, connection_timeout=1)


class Chaotic(User):
    """A user whose hooks dawdle, and who checks that nothing is lost, doubled or out of order."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        super().__init__(CONFIG, enable=())
        self.node.enable_handshake(self, timeout=0.5)
        self.node.enable_reading(self, idle_timeout=None)
        self.outbox: Outbox[bytes] = self.node.enable_writing(self, queue_depth=20, queue_bytes=100_000, timeout=1)
        self.node.enable_on_connect(self, abortable=rng.random() < 0.5)
        self.node.enable_on_disconnect(self, timeout=0.3)
        self.began: list[Address] = []  # connections that were established
        self.sent: dict[Connection, tuple[int, int]] = {}  # our name for a connection, and messages sent so far
        self.got: Counter[int] = Counter()  # messages received, by the sender's name for the connection

    async def dawdle(self) -> None:
        """Not always, and seldom for long."""
        if self.rng.random() < 0.3:
            await anyio.sleep(self.rng.expovariate(200))

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        await self.dawdle()
        await stream.send(b"hello")
        received = b""
        while len(received) < 5:
            received += await stream.receive(5 - len(received))
        if self.rng.random() < 0.05:
            raise ValueError("not today")
        return stream

    def encoder(self, connection: Connection) -> Codec[bytes]:
        self.began.append(connection.addr)
        return LengthDelimitedCodec()

    async def process_message(self, source: Connection, message: bytes) -> None:
        name, number = HEADER.unpack_from(message)
        assert self.got[name] == number, f"message {number} came in place of {self.got[name]}"
        self.got[name] += 1
        await self.dawdle()
        if self.rng.random() < 0.2:
            self.say_something(source)

    async def on_connect(self, connection: Connection) -> None:
        await super().on_connect(connection)
        self.say_something(connection)
        await self.dawdle()

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        await super().on_disconnect(connection, origin)
        self.say_something(connection)
        await self.dawdle()

    def compose(self, connection: Connection) -> bytes:
        name, number = self.sent.setdefault(connection, (self.rng.getrandbits(64), 0))
        return HEADER.pack(name, number) + bytes(int(self.rng.paretovariate(0.8)) % 60_000)

    def note(self, connection: Connection) -> None:
        name, number = self.sent[connection]
        self.sent[connection] = name, number + 1

    def say_something(self, connection: Connection) -> None:
        with suppress(NodeError):
            self.outbox.send_nowait(connection, self.compose(connection))
            self.note(connection)


class Chaos:
    """The operations; each may fail in any way that a user is told of, and in no other."""

    def __init__(self, users: list[Chaotic], rng: random.Random) -> None:
        self.users = users
        self.rng = rng
        self.done: Counter[str] = Counter()
        self.operations: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (30, self.connect),
            (6, self.connect_and_think_better_of_it),
            (60, self.send),
            (10, self.broadcast),
            (8, self.deliver),
            (6, self.disconnect),
            (3, self.abort),
            (3, self.disconnect_and_think_better_of_it),
            (3, self.connect_and_reset),
            (2, self.connect_and_send_garbage),
            (2, self.relisten),
        ]

    def anybody(self) -> Chaotic:
        return self.rng.choice(self.users)

    def any_connection(self) -> tuple[Chaotic, Connection] | None:
        user = self.anybody()
        connections = list(user.node.connections.values())
        return (user, self.rng.choice(connections)) if connections else None

    async def one(self) -> None:
        (operation,) = self.rng.choices([op for _, op in self.operations], [weight for weight, _ in self.operations])
        name = getattr(operation, "__name__", "")
        with suppress(NodeError, OSError):
            await operation()
            self.done[name] += 1

    async def connect(self) -> None:
        addr = self.anybody().node.listening_addr
        if addr is not None:
            await self.anybody().node.connect(addr)

    async def connect_and_think_better_of_it(self) -> None:
        with anyio.move_on_after(self.rng.expovariate(500)):
            await self.connect()

    async def send(self) -> None:
        if (found := self.any_connection()) is not None:
            found[0].say_something(found[1])

    async def broadcast(self) -> None:
        """One message, numbered for one of its receivers, would be out of order for the others: so one for each."""
        user = self.anybody()
        for connection in user.node.connections.values():
            user.say_something(connection)

    async def deliver(self) -> None:
        if (found := self.any_connection()) is None:
            return
        user, connection = found
        before = user.sent.get(connection)
        message = user.compose(connection)
        if user.outbox.pending(connection) < 10:  # with room it is queued, whatever happens then
            user.note(connection)
            with anyio.move_on_after(self.rng.expovariate(500)):
                await user.outbox.deliver(connection, message)
        elif before is None:
            del user.sent[connection]

    async def disconnect(self) -> None:
        if (found := self.any_connection()) is not None:
            await found[0].node.disconnect(found[1])

    async def abort(self) -> None:
        if (found := self.any_connection()) is not None:
            await found[0].node.disconnect(found[1], abort=True)

    async def disconnect_and_think_better_of_it(self) -> None:
        with anyio.move_on_after(self.rng.expovariate(500)):
            await self.disconnect()

    async def connect_and_reset(self) -> None:
        addr = self.anybody().node.listening_addr
        if addr is not None:
            with await RawPeer.dial(addr) as peer:
                await peer.send(b"hello"[: self.rng.randrange(6)])
                peer.reset()

    async def connect_and_send_garbage(self) -> None:
        addr = self.anybody().node.listening_addr
        if addr is not None:
            with await RawPeer.dial(addr) as peer:
                await peer.send(b"hello\xff\xff\xff\xff" + self.rng.randbytes(100))
                with anyio.move_on_after(self.rng.expovariate(100)):
                    await peer.receive_all()

    async def relisten(self) -> None:
        user = self.anybody()
        await user.node.stop_listening()
        await anyio.sleep(self.rng.expovariate(500))
        with suppress(RuntimeError):  # somebody else was faster
            await user.node.start_listening()


def check_limits(user: Chaotic) -> None:
    admission = user.node._admission
    assert len(admission.established) + len(admission.connecting) <= CONFIG.max_connections
    sides = list(admission.connecting.values())
    assert all(sides.count(side) <= CONFIG.max_connecting for side in sides)


def check_what_is_left(user: Chaotic) -> None:
    """Every connection that was established has ended once, and its slot is free."""
    node, admission = user.node, user.node._admission
    assert Counter(user.began) == Counter(addr for addr, _ in user.ended)
    assert not node.connections
    assert not node.connecting
    assert not +admission._of_side
    assert not +admission._of_group
    assert not +admission._setting_up
    assert not node._setups
    assert not node._loops
    assert node.heuristics.hook_errors == 0
    assert node.heuristics.accept_errors == 0


async def test_chaos(capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("PEA2PEA_SEED", time.time_ns() % 1_000_000))
    with capsys.disabled():
        print(f"\nchaos: PEA2PEA_SEED={seed}", end=" ")  # noqa: T201  # to do it again
    rng = random.Random(seed)
    tasks, open_before = running_tasks(), descriptors()
    users = [Chaotic(random.Random(rng.random())) for _ in range(NODES)]
    chaos = Chaos(users, rng)
    left = OPERATIONS

    async def agent() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await chaos.one()
            for user in users:
                check_limits(user)

    with anyio.fail_after(WATCHDOG):
        async with AsyncExitStack() as stack:
            for user in users:
                await stack.enter_async_context(user.node)
                await user.node.start_listening()
            async with anyio.create_task_group() as agents:
                for _ in range(20):
                    agents.start_soon(agent)
    for user in users:
        check_what_is_left(user)
    assert running_tasks() == tasks
    assert descriptors() == open_before
    origins = Counter(origin.name for user in users for origin in user.origins)
    with capsys.disabled():
        received = sum(user.got.total() for user in users)
        print(f"{sum(origins.values())} connections {dict(origins)}, {received} messages", dict(chaos.done))  # noqa: T201
    assert set(origins) >= {"USER", "SHUTDOWN", "READING"}
    assert received > OPERATIONS / 10
