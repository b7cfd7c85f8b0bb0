"""Nodes that do everything at random, on a network where everything happens; an account of each end of a connection.

`nox -s chaos -- --seeds 1-2000 --backend trio` simulates these seeds on one event loop (else it is both), and goes on
after a failure; with `--digests` two runs can be compared. A seed decides how many nodes there are, how often they do
what, and what the network is like. A seed divisible by 3 has a calm network, without crashes, cuts and losses: there a
message that does not arrive has no excuse. `nox -s chaos -- --mutants` puts bugs into the library, one at a time, and
says which seed finds each.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from itertools import product
from math import inf
from random import Random
from unittest.mock import patch

import anyio
from anyio import current_time
from anyio.abc import ByteStream

from pea2pea import (
    Address,
    Config,
    Connection,
    ConnectionLimitError,
    DisconnectOrigin,
    HandshakeError,
    Node,
    NodeError,
    QueueFullError,
    Side,
)
from pea2pea._report import Reporter
from pea2pea._session import Session
from pea2pea.protocols.writing import Writer
from pea2pea.testing import Host, Link, Simulation, simulate
from tests.ends import NAME, ORDERLY, Planted
from tests.ends import End as AnyEnd
from tests.helpers import Opaque
from tests.simulation.mutants import FOUND_BY, MUTANTS
from tests.simulation.streams import Foreign, Wrapped

ACTIONS = 600
PORT = 4000
RUNNING = anyio.TaskHandle.Status.PENDING
GRACE, HANDSHAKE, WRITE, HOOK, DIAL, IDLE = 5.0, 4.0, 10.0, 3.0, 3.0, 20.0


class End(AnyEnd):
    """One end of a connection, and when what happened there."""

    def __init__(self, life: Life, connection: Connection) -> None:
        super().__init__(connection, life.world.take_name())
        self.life = life
        self.asked = inf  # when this end began to end, or earlier
        self.closed = inf  # when it was removed
        self.gave_up: set[str] = set()  # something queued ("unsent"), or something received ("unprocessed")
        self.greeting_since = inf  # when `on_connect` has begun, while it runs
        self.busy_until = 0.0  # `process_message` runs (inf), or when it last did
        self.busy_since = inf  # when it began
        self.is_unwanted = False  # somebody here wants it to end

    def complain(self, name: int) -> None:
        self.life.fault("a message of another connection", self, name)

    @property
    def is_excused(self) -> bool:
        """Whether what was on its way from or to this end may be lost."""
        return self.aborted or self.life.is_doomed

    @property
    def was_in_time(self) -> bool:
        """Whether its orderly end was over before the grace period was."""
        return self.closed < min(self.asked, self.life.closing) + self.life.grace - 0.01

    def __repr__(self) -> str:
        connection = self.connection
        return f"<end {self.name} of {self.life.name}: {connection}, {connection.origin}, {connection.cause!r}>"


class Life:
    """One life of a node: its hooks and its actions, which take their time, and go wrong now and then."""

    def __init__(self, world: World, ip: str) -> None:
        self.world, self.ip = world, ip
        self.name = f"{ip}/{world.count_life(ip)}"
        self.rng = rng = Random(f"{world.sim.seed} {self.name}")
        rough = not world.is_calm
        self.grace = rng.choice([0, 0.3, 2, GRACE]) if rough else rng.choice([0.5, GRACE, GRACE])
        self.handshake = rng.choice([0.3, HANDSHAKE]) if rough else HANDSHAKE
        self.wrap = rng.choice([None, None, Wrapped, Opaque])
        self.slowness = rng.choice([0, 0, 0.2, 0.8])  # the probability that a message takes a while
        self.is_silent = rng.random() < 0.2  # it sends nothing
        self.scopes: dict[anyio.CancelScope, None] = {}  # around what it is doing
        self.is_doomed = False  # crashed, killed, or ended by SystemExit
        self.closing = inf  # when it was told to end
        self.planted = self.calls = 0
        self.ends: dict[Connection, End] = {}
        self.node = Node(
            Config(
                name=self.name, listener_addr=(ip, PORT), max_connections=rng.choice([4, 7, 20]),
                max_inbound=rng.choice([None, 3, 5]), max_connecting=rng.choice([1, 3, 20]),
                max_connections_per_ip=rng.choice([1, 2, 8]), grace_period=self.grace, connection_timeout=DIAL,
                listener_backlog=rng.choice([1, 128]),
            )
        )  # fmt: skip
        self.node.enable_handshake(self, timeout=self.handshake)
        self.node.enable_reading(self, idle_timeout=IDLE if rough else None, drop_beyond=None)
        self.outbox = self.node.enable_writing(
            self, queue_depth=rng.choice([5, 50, 1024]), queue_bytes=rng.choice([20_000, 262_144]),
            timeout=rng.choice([1, WRITE]) if rough else 100,
        )  # fmt: skip
        self.node.enable_on_connect(self, abortable=rng.random() < 0.5)
        self.node.enable_on_disconnect(self, timeout=HOOK)
        self.actions: dict[str, Callable[[], Awaitable[object]]] = {
            "connect": self.connect, "adopt": self.adopt, "disconnect": self.disconnect, "say": self.say_much,
            "farewell": self.farewell,
            "send": self.send, "deliver": self.deliver, "drain": self.drain, "broadcast": self.broadcast,
            "listen": self.listen, "pause": self.pause, "task": self.start_task, "shut_down": self.shut_down,
        }  # fmt: skip

    # What goes wrong

    def fault(self, *what: object) -> None:
        self.world.fault(self.name, *what)

    async def dawdle(self, probability: float = 0.3, rate: float = 5) -> None:
        if self.rng.random() < probability:
            await anyio.sleep(min(self.rng.expovariate(rate), 1))

    def plant(self, probability: float = 0.003) -> None:
        if self.rng.random() < probability:
            self.planted += 1
            raise Planted

    # The hooks

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        end = self.ends[connection] = End(self, connection)
        await self.dawdle()
        await end.exchange_names(stream)
        if self.rng.random() < 0.05:
            raise ValueError("not today")
        if self.rng.random() < 0.05:
            for scope in list(self.scopes):  # whoever waits for this very handshake is among them
                scope.cancel()
        return stream if self.wrap is None else self.wrap(stream)

    def encoder(self, connection: Connection) -> End:
        end = self.ends[connection]
        end.events.append("established")
        end.busy_until = current_time()
        self.world.note(self, "established", connection, connection.side.name)
        self.check_limits()
        return end

    def decoder(self, connection: Connection) -> End:
        return self.ends[connection]

    async def process_message(self, source: Connection, message: int) -> None:
        end = self.ends[source]
        self.calls += 1
        self.world.note(self, "message", message, source)
        if message != end.got:
            self.fault("order", end, message, "in place of", end.got)
        if "on_disconnect" in end.events:
            self.fault("a message after on_disconnect", end)
        end.got = message + 1
        if end.busy_until == inf:
            self.fault("two messages at once", end)
        end.busy_since, end.busy_until = current_time(), inf
        try:
            await self.handle(source)
        finally:
            if self.rng.random() < 0.1:
                with anyio.CancelScope(shield=True):  # it takes a while to leave, cancelled or not
                    await anyio.sleep(self.rng.random() / 100)
            end.busy_until = current_time()
            if "on_disconnect" in end.events:
                self.fault("on_disconnect during process_message", end)

    async def handle(self, source: Connection) -> None:
        await self.dawdle(self.slowness, 3)
        self.plant()
        if self.rng.random() < 0.15:
            self.say(source)
        elif self.rng.random() < 0.02:
            await self.end(source)
        elif self.slowness and not self.is_silent and self.rng.random() < 0.02:
            await self.outbox.send(source, self.a_size())
        await self.misbehave(source)

    async def on_connect(self, connection: Connection) -> None:
        end = self.ends[connection]
        end.events.append("on_connect")
        end.greeting_since = current_time()
        try:
            await self.dawdle()
            self.say(connection)
            await self.dawdle(0.2, 1)
            self.plant()
            await self.misbehave(connection)
        finally:
            end.greeting_since = inf

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        end = self.ends[connection]
        end.events.append("on_disconnect")
        end.origin = origin
        if current_time() < min(end.greeting_since, end.asked, self.closing) + self.grace and end.greeting_since < inf:
            # else it may have been given up
            self.fault("on_disconnect during on_connect", end)
        if isinstance(connection.cause, RuntimeError) and "SystemExit" not in str(connection.cause):
            self.fault("a task of the library's was cancelled", end)
        self.world.note(self, "on_disconnect", connection, origin.name, connection.cause)
        self.say(connection)
        await self.dawdle()
        self.plant()
        await self.misbehave(connection)

    async def misbehave(self, connection: Connection) -> None:
        """Do what a hook had better not do."""
        dice = self.rng.random() * 12
        with suppress(OSError, NodeError):
            if dice < 0.02:
                await self.node.connect(self.world.an_address(self.rng))
            elif dice < 0.04:
                await self.node.connect(connection.addr)
            elif dice < 0.06:
                await self.end(self.rng.choice([connection, *self.node.connections.values()]))
            elif dice < 0.08:
                await self.start_task()
            elif dice < 0.085:
                await self.shut_down()
            elif dice < 0.09:
                await self.node.stop_listening()
            elif dice < 0.091 and not self.world.is_calm:
                self.is_doomed = True
                self.closing = min(self.closing, current_time())
                raise SystemExit(3)

    # The actions

    async def act(self) -> None:
        names = [name for name in self.actions if not (self.is_silent and name in {"send", "deliver", "broadcast"})]
        (name,) = self.rng.choices(names, [self.world.weights[name] for name in names])
        if name == "shut_down" and self.rng.random() < 0.9:
            return
        self.world.done[name] += 1
        in_time = inf if self.rng.random() < 0.7 else self.rng.expovariate(1)
        try:
            with anyio.move_on_after(in_time) as scope:
                self.scopes[scope] = None
                try:
                    await self.actions[name]()
                finally:
                    del self.scopes[scope]
            if scope.cancelled_caught:
                self.world.done["cancelled"] += 1
        except (OSError, NodeError, HandshakeError) as error:
            self.world.note(self, name, repr(error))

    def a_size(self) -> int:
        return min(int(self.rng.paretovariate(0.7) * 20), self.world.largest)

    def a_connection(self) -> Connection | None:
        connections = list(self.node.connections.values())
        return self.rng.choice(connections) if connections else None

    def say(self, connection: Connection) -> None:
        if not self.is_silent:
            with suppress(NodeError):
                self.outbox.send_nowait(connection, self.a_size())

    async def connect(self) -> None:
        with self.limited("connect", DIAL + HANDSHAKE + 2 * GRACE + HOOK + 1):
            await self.node.connect(self.world.an_address(self.rng))

    async def adopt(self) -> None:
        addr = self.world.an_address(self.rng)
        with anyio.fail_after(DIAL):
            stream = await self.world.sim.host(self.ip).dial(addr)
        with self.limited("adopt", HANDSHAKE + 1):
            await self.node.adopt(Foreign(stream) if self.rng.random() < 0.5 else stream, addr, Side.INITIATOR)

    async def end(self, connection: Connection, *, abort: bool = False) -> None:
        end = self.ends[connection]
        if connection.origin is None:
            end.asked = min(end.asked, current_time())
        end.is_unwanted, end.aborted = True, end.aborted or abort
        await self.node.disconnect(connection, abort=abort)

    async def farewell(self) -> None:
        """Say much to a peer that may be talking, too, and disconnect it at once."""
        if (connection := self.a_connection()) is not None:
            for _ in range(self.rng.randrange(1, 100)):
                self.say(connection)
            with self.limited("farewell", 2 * GRACE + HOOK + 1):
                await self.end(connection)

    async def disconnect(self) -> None:
        if (connection := self.a_connection()) is not None:
            with self.limited("disconnect", 2 * GRACE + HOOK + 1):
                await self.end(connection, abort=self.rng.random() < 0.3)

    async def say_much(self) -> None:
        if (connection := self.a_connection()) is not None:
            for _ in range(self.rng.randrange(1, 20)):
                self.say(connection)

    async def send(self) -> None:
        if (connection := self.a_connection()) is not None:
            for _ in range(self.rng.randrange(1, 20)):
                await self.outbox.send(connection, self.a_size())

    async def deliver(self) -> None:
        if (connection := self.a_connection()) is not None:
            await self.outbox.deliver(connection, self.a_size())
            if connection.origin is None and self.outbox.pending(connection) and self.rng.random() < 0.5:
                await self.outbox.drain(connection)

    async def drain(self) -> None:
        if (connection := self.a_connection()) is not None:
            below = self.rng.choice([1, 1000, 100_000])
            await self.outbox.drain(connection, below=below)

    async def broadcast(self) -> None:
        connections = list(self.node.connections.values())
        but = self.rng.sample(connections, self.rng.randrange(len(connections) + 1)) if self.rng.random() < 0.3 else []
        failed = self.outbox.broadcast(self.a_size(), exclude=but)
        if not all(isinstance(error, QueueFullError) for error in failed.values()):
            self.fault("broadcast", failed)

    async def listen(self) -> None:
        if self.node.listening_addr is not None:
            await self.node.stop_listening()
            await self.pause()
        with suppress(RuntimeError):  # another one was faster
            await self.node.start_listening()

    async def pause(self) -> None:
        await anyio.sleep(self.rng.expovariate(2))

    async def start_task(self) -> None:
        async def task() -> None:
            await self.dawdle(0.5, 0.5)
            if (connection := self.a_connection()) is not None:
                self.say(connection)
            self.plant(0.1)

        connection = self.a_connection()
        (self.node if connection is None or self.rng.random() < 0.5 else connection).start_soon(task)

    async def shut_down(self) -> None:
        self.closing = min(self.closing, current_time())
        with self.limited("shut_down", self.leaving):
            await self.node.shut_down()

    # Its program

    @property
    def leaving(self) -> float:
        """Seconds that it may take to leave the block, at the most."""
        return self.grace + HOOK + 1

    @contextmanager
    def limited(self, what: str, limit: float) -> Generator[None]:
        began = current_time()
        try:
            yield
        finally:
            if (took := current_time() - began) > limit:
                self.fault(what, "took", took)

    async def run(self) -> None:
        left = inf
        try:
            async with self.node as node:
                try:
                    await node.start_listening()
                    async with anyio.create_task_group() as workers:
                        for _ in range(2):
                            workers.start_soon(self.work)
                        await node.wait_closed()
                        workers.cancel_scope.cancel()
                except NodeError:
                    pass  # it was shut down before it listened
                finally:
                    left = current_time()
                    self.closing = min(self.closing, left)
        finally:
            if current_time() - left > self.leaving:
                self.fault("leaving took", current_time() - left)
            self.check_what_is_left()

    async def work(self) -> None:
        while not self.world.is_over:
            if self.world.take_action():
                await self.act()
            await self.pause()
        await anyio.sleep_forever()

    # The account

    def check_limits(self) -> None:
        node, config = self.node, self.node.config
        if len(node.connections) + len(node.connecting) > config.max_connections:
            self.fault("max_connections")
        inbound = sum(connection.side is Side.RESPONDER for connection in node.connections.values())
        if config.max_inbound is not None and inbound > config.max_inbound:
            self.fault("max_inbound")
        for connection in node.connections.values() if not self.world.is_calm else ():
            if connection.origin is None and current_time() - self.ends[connection].busy_until > 1.1 * IDLE:
                self.fault("idle for too long", self.ends[connection])
        for ip, count in Counter(addr[0] for addr in [*node.connections, *node.connecting]).items():
            if count > config.max_connections_per_ip:
                self.fault("max_connections_per_ip", ip, count)

    def check_what_is_left(self) -> None:
        node = self.node
        if node.connections or node.connecting:
            self.fault("left", list(node.connections), list(node.connecting))
        if loops := node._shared.mirror._dialled:
            self.fault("names left", loops)
        if any(any(counts.values()) for counts in counters(node)):
            self.fault("slots left", counters(node))
        if node.heuristics.hook_errors != self.planted:
            self.fault("hook_errors", node.heuristics.hook_errors, "planted", self.planted)
        if node.stats.messages_received != self.calls:
            self.fault("messages_received", node.stats.messages_received, "calls", self.calls)
        for field in ("messages_sent", "messages_received", "bytes_sent", "bytes_received"):
            total = sum(getattr(connection.stats, field) for connection in self.ends)
            if getattr(node.stats, field) != total:
                self.fault(field, getattr(node.stats, field), "of all connections", total)
        for end in self.ends.values():
            events = [event for event in end.events if event != "established"]
            if end.events and events != ["on_connect", "on_disconnect"]:
                self.fault("hooks", end.events, end)
        if (host := self.world.sim.host(self.ip)).sockets and not self.is_doomed:
            self.fault("sockets left", list(host.sockets))


def counters(node: Node) -> list[dict[object, object]]:
    """What the node's limits count, which is nothing at the end."""
    return [value for value in vars(node._admission).values() if isinstance(value, dict)]


class World:
    """The lives, the weather, strangers, and the account of all ends."""

    def __init__(self, sim: Simulation) -> None:
        self.sim, self.rng = sim, sim.random
        self.is_calm = sim.seed % 3 == 0
        self.is_over = False
        self.actions_left = ACTIONS
        self.faults: list[str] = []
        self.done: Counter[str] = Counter()
        self.lives: list[Life] = []
        self.errors = ErrorRecords()
        self._lives: Counter[str] = Counter()
        self._names = 0
        count = self.rng.choice([2, 3, 5, 8, 8, 16, 32])
        self.hosts = [sim.host(f"10.0.0.{number}", self.live, f"10.0.0.{number}") for number in range(1, count + 1)]
        kinds = ["connect", "adopt", "disconnect", "farewell", "say", "send", "deliver", "drain", "broadcast", "listen"]
        self.weights = {kind: self.rng.random() ** 2 for kind in [*kinds, "pause", "task", "shut_down"]}
        self.weights["connect"] += 0.5
        buffers = [300, 5_000, 65_536] if not self.is_calm else [300, 65_536]
        sim.network.send_buffer, sim.network.receive_buffer = self.rng.choice(buffers), self.rng.choice(buffers)
        self.largest = 50 * min(sim.network.send_buffer, sim.network.receive_buffer)
        for host in self.hosts if not self.is_calm else ():
            host.max_sockets = self.rng.choice([1_000_000, 1_000_000, 1_000_000, 6])

    def fault(self, *what: object) -> None:
        self.faults.append(f"{current_time():.3f} " + " ".join(map(str, what)))
        self.sim.log("FAULT", *what)

    def note(self, life: Life, *what: object) -> None:
        self.sim.log(life.name, *what)

    def take_name(self) -> int:
        self._names += 1
        return self._names

    def count_life(self, ip: str) -> int:
        self._lives[ip] += 1
        return self._lives[ip]

    def take_action(self) -> bool:
        self.actions_left -= 1
        return self.actions_left >= 0

    def an_address(self, rng: Random) -> Address:
        return rng.choice(self.hosts).ip, rng.choice([PORT] * 9 + [PORT + 1])

    async def live(self, ip: str) -> None:
        life = Life(self, ip)
        self.lives.append(life)
        await life.run()

    def living(self, host: Host) -> Life | None:
        """The present life on a host."""
        lives = [life for life in self.lives if life.ip == host.ip]
        return lives[-1] if lives and self.sim._runs[host].status is RUNNING else None

    # The weather

    async def run(self) -> None:
        weather = [self.relink, self.stop, self.spawn, self.visit, self.visit, self.hold]
        if not self.is_calm:
            weather += [self.partition, self.partition, self.cut, self.heal, self.heal, self.crash, self.kill]
        weights = [self.rng.random() ** 2 for _ in weather]
        self.relink()
        self.sim.start(*self.hosts)
        async with anyio.create_task_group() as strangers:
            self.strangers = strangers
            while self.actions_left > 0:
                await anyio.sleep(self.rng.expovariate(1))
                self.actions_left -= 1
                (happens,) = self.rng.choices(weather, weights)
                self.done[happens.__name__] += 1
                result = happens()
                if result is not None:
                    await result
            self.is_over = True
            self.heal()
            self.sim.network.link = Link(latency=0.01)
            await anyio.sleep(HANDSHAKE + 2)
            self.check_waiting()
            async with anyio.create_task_group() as tasks:
                for host in self.hosts:
                    tasks.start_soon(self.end, host)
            strangers.cancel_scope.cancel()
        await anyio.sleep(10)
        self.check()

    def relink(self) -> None:
        choose, latencies = self.rng.choice, list[float | tuple[float, float]]([0.0005, 0.02, 0.2, (0.001, 0.3)])
        if self.is_calm:
            latency, jitter, bandwidth = choose([0.0005, 0.02]), choose([0, 0.05]), choose([1e5, 1e7])
            self.sim.network.link = Link(latency=latency, jitter=jitter, bandwidth=bandwidth)
        else:
            self.sim.network.link = Link(
                latency=choose(latencies), jitter=choose([0, 0.05]),
                bandwidth=choose([1e4, 1e6, None]), loss=choose([0, 0, 0.02, 0.2]),
            )  # fmt: skip

    def partition(self) -> None:
        hosts = self.rng.sample(self.hosts, len(self.hosts))
        size = self.rng.randrange(1, len(hosts))
        self.sim.network.partition(hosts[:size], hosts[size:])

    def cut(self) -> None:
        self.sim.network.cut(self.rng.choice(self.hosts), self.rng.choice(self.hosts))

    def heal(self) -> None:
        self.sim.network.heal()

    def hold(self) -> None:
        held = self.sim.network.hold(self.rng.choice(self.hosts), self.rng.choice(self.hosts))

        async def release(after: float) -> None:
            try:
                await anyio.sleep(after)
            finally:
                held.release()

        self.strangers.start_soon(release, self.rng.random() * 0.5)

    async def stop(self) -> None:
        """End a program in order, by one way or another."""
        await self.end(self.rng.choice(self.hosts))

    async def end(self, host: Host) -> None:
        life = self.living(host)
        if life is not None:
            if self.rng.random() < 0.5:
                with anyio.move_on_after(30):
                    await life.shut_down()
            life.closing = min(life.closing, current_time())
            host.end_program()
        with anyio.move_on_after(30) as scope:
            await self.sim._runs[host].wait()
        if scope.cancelled_caught:
            self.fault(host.ip, "did not end")

    async def spawn(self) -> None:
        for host in self.hosts:
            if self.living(host) is None:
                await host.restart()

    async def crash(self) -> None:
        await self.strike(self.rng.choice(self.hosts), Host.crash)

    async def kill(self) -> None:
        await self.strike(self.rng.choice(self.hosts), Host.kill)

    async def strike(self, host: Host, how: Callable[[Host], None]) -> None:
        if (life := self.living(host)) is not None:
            life.is_doomed = True
            life.closing = min(life.closing, current_time())
        how(host)
        await anyio.sleep(self.rng.expovariate(0.3))
        await host.restart()

    # Strangers

    def visit(self) -> None:
        """Somebody who does not know how to behave."""
        guest = self.rng.choice([self.knock, self.stall, self.drip, self.babble])
        self.strangers.start_soon(self.meet, guest, Random(f"{self.sim.seed} {self.actions_left}"))

    async def meet(self, guest: Callable[[ByteStream, Random], Awaitable[None]], rng: Random) -> None:
        stranger = self.sim.host(f"10.0.1.{rng.randrange(1, 9)}")
        with suppress(OSError, anyio.BrokenResourceError, anyio.EndOfStream):
            stream = await stranger.dial(self.an_address(rng))
            try:
                await guest(stream, rng)
            finally:
                if rng.random() < 0.5:
                    stream.close(reset=True)  # type: ignore[attr-defined]  # a TCPStream
                await anyio.aclose_forcefully(stream)

    async def knock(self, stream: ByteStream, rng: Random) -> None:
        """A part of the handshake, and away."""
        await stream.send(bytes(rng.randrange(1, NAME + 1)))

    async def stall(self, stream: ByteStream, rng: Random) -> None:
        """Never read."""
        await stream.send(bytes(NAME))
        await anyio.sleep(rng.expovariate(0.05))

    async def drip(self, stream: ByteStream, rng: Random) -> None:
        """A byte at a time."""
        for byte in bytes(NAME) + (1000).to_bytes(4, "big") + bytes(200):
            await stream.send(bytes([byte]))
            await anyio.sleep(rng.expovariate(5))

    async def babble(self, stream: ByteStream, rng: Random) -> None:
        """No valid frame."""
        await stream.send(bytes(NAME) + b"\xff\xff\xff\xff" + rng.randbytes(100))
        while await stream.receive():
            pass

    # The account

    def check_waiting(self) -> None:
        """Nobody waits any more for what is there: to be accepted, or for room in a queue."""
        for life in filter(None, map(self.living, self.hosts)):
            for session in life.node._admission.established.values():
                writer = session.writer
                if isinstance(writer, Writer) and writer.waiting and not writer.full:
                    self.fault("a sender was not woken", life.ends[session.connection])
        for host in self.hosts:
            if host.max_sockets > 1000 and any(listener._queue for listener in host.listeners):
                self.fault(host.ip, "does not accept any more")

    def check(self) -> None:
        ends = {end.name: end for life in self.lives for end in life.ends.values() if end.events}
        for end in ends.values():
            if (peer := ends.get(end.peer)) is not None and peer.peer == end.name:
                self.check_received(end, peer)
        names = [str(task.name) for task in anyio.get_running_tasks()]
        if left := [name for name in names if "pea2pea" in name]:
            self.fault("tasks left", left)
        for host in self.hosts:
            if host.sockets or host.listeners:
                self.fault(host.ip, "has left", list(host.sockets), host.listeners)
        for record in self.errors.records:
            if not record.exc_info or record.exc_info[0] is not Planted:
                self.fault(record.getMessage(), record.exc_info and record.exc_info[1])
        self.done["lives"] += len(self.lives)
        self.done["messages"] += sum(life.calls for life in self.lives)

    def check_received(self, end: End, peer: End) -> None:
        """What came at `end` of what `peer` had accepted."""
        if end.got > peer.accepted:
            self.fault("more has come than was sent", end, peer)
        if peer.origin not in ORDERLY or peer.is_excused or end.is_excused:
            return
        if "unsent" in peer.gave_up or "unprocessed" in end.gave_up:
            return
        self.done["orderly"] += 1
        if peer.connection.stats.messages_sent != peer.accepted:
            self.fault("sent", peer.connection.stats.messages_sent, "of", peer.accepted, peer)
        if end.origin is DisconnectOrigin.READING and end.connection.cause is None:
            self.done["complete"] += 1
            if end.got != peer.accepted:
                self.fault("lost:", peer.accepted - end.got, "of", peer.accepted, "from", peer, "to", end)
        elif (
            self.is_calm
            and (peer.was_in_time or not end.accepted)  # else it had to reset what came later
            and end.origin in (DisconnectOrigin.READING, DisconnectOrigin.WRITING)
            and not isinstance(end.connection.cause, Planted)
        ):
            self.fault("an orderly end broke the other end", peer, end)

    def note_loss(self, name: str, addr: Address | None, what: str) -> None:
        """Something was given up. In calm weather that has to have a reason."""
        life = next((life for life in self.lives if life.name == name), None)
        if life is None:
            return
        connection = None if addr is None else life.node.connections.get(addr)
        if connection is not None:
            end = life.ends[connection]
            end.gave_up.add(what)
            if self.is_calm and what == "unsent" and connection.origin in ORDERLY and not end.aborted:
                self.check_excuse(end, min(end.asked, life.closing))
            if (
                self.is_calm
                and what == "unprocessed"
                and connection.origin is DisconnectOrigin.READING
                and connection.cause is None
                and not (end.is_unwanted or life.closing < inf or life.is_doomed)
                and current_time() - end.busy_since < life.grace - 0.01  # that a handler has for each message
            ):
                self.fault("gave up what the peer had sent before its clean close", end)

    def note_closed(self, connection: Connection) -> None:
        for life in self.lives:
            if connection in life.ends:
                life.ends[connection].closed = current_time()

    def check_excuse(self, end: End, since: float) -> None:
        others = [
            other for life in self.lives for other in life.ends.values() if other.name == end.peer and other.events
        ]
        if (
            others
            and current_time() < since + end.life.grace - 0.01
            and all(
                other.connection.origin in (None, DisconnectOrigin.READING)
                and other.connection.cause is None
                and not other.aborted
                for other in others
            )
        ):
            self.fault("gave up before its time", end, others)


class ErrorRecords(logging.Handler):
    """What was logged above INFO."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def observed(world: World) -> Generator[None]:
    """See what the library reports before limits leave out any of it."""
    report_unsent, report_info, session_finish = Reporter.unsent, Reporter.info, Session.finish

    def note_unsent(self: Reporter, message: str, peer: Address, count: int) -> None:
        if "broadcast" not in message:
            world.note_loss(self.node, peer, "unsent")
        report_unsent(self, message, peer, count)

    def note_info(self: Reporter, message: str, peer: Address | None = None, detail: object = None) -> None:
        if "what a peer had sent" in message:
            world.note_loss(self.node, peer, "unprocessed")
        if "rejected" in message and isinstance(detail, ConnectionLimitError) and detail.limit == "max_connecting":
            world.fault(self.node, "has accepted beyond max_connecting")
        report_info(self, message, peer, detail)

    def finish(self: Session) -> None:
        world.note_closed(self.connection)
        session_finish(self)

    loggers = [logging.getLogger(name) for name in ("pea2pea", "asyncio")]
    with ExitStack() as stack:
        stack.enter_context(patch.object(Reporter, "unsent", note_unsent))
        stack.enter_context(patch.object(Reporter, "info", note_info))
        stack.enter_context(patch.object(Session, "finish", finish))
        for logger in loggers:
            logger.addHandler(world.errors)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(world.errors)


def run(seed: int, backend: str) -> tuple[Counter[str], str]:
    """Simulate one seed; what was done, and the digest. `AssertionError` lists what is wrong."""
    runs: list[tuple[World, Simulation]] = []

    async def chaos(sim: Simulation) -> None:
        world = World(sim)
        runs.append((world, sim))
        with observed(world):
            await world.run()
        assert not world.faults, "\n".join(world.faults[:10])

    simulate(chaos, seeds=[seed], backend=backend, limit=100_000, stall=[0.0, 0.0, 0.01][seed % 5 % 3])
    ((world, sim),) = runs
    return world.done, sim.digest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["asyncio", "trio"], action="append")
    parser.add_argument("--seeds", default="1-100", help="one, or from-to")
    parser.add_argument(
        "--mutants", action="store_true", help="put bugs into the library, and see which seed finds each"
    )
    parser.add_argument("--digests", action="store_true", help="print the digest of each seed, to compare runs")
    parser.add_argument("names", nargs="*", help="of mutants; all of them by default")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    backends = options.backend or ["asyncio", "trio"]
    if options.mutants:
        return sum(find_mutant(name, seeds, backends) is None for name in options.names or MUTANTS)
    return sum(run_all(seeds, backend, tell=options.digests) for backend in backends)


def run_all(seeds: range, backend: str, *, tell: bool) -> int:
    """Simulate all these seeds; how many failed."""
    done: Counter[str] = Counter()
    failed, began = 0, time.perf_counter()
    for seed in seeds:
        try:
            more, digest = run(seed, backend)
            done += more
            if tell:
                sys.stdout.write(f"{seed} {backend} {digest}\n")
                sys.stdout.flush()
        except Exception:  # noqa: BLE001  # told, and the next seed is simulated
            failed += 1
            traceback.print_exc(limit=-1)
    sys.stdout.write(f"{backend}: {time.perf_counter() - began:.1f} s, {failed} failed, {dict(done)}\n")
    return failed


def find_mutant(name: str, seeds: range, backends: list[str]) -> tuple[int, str] | None:
    """The seed that fails with a bug put in, and on which event loop: the known one, or the first of these."""
    began = time.perf_counter()
    known = [FOUND_BY[name]] if name in FOUND_BY else []
    for seed, backend in [*known, *product(seeds, backends)]:
        with MUTANTS[name].applied(), open(os.devnull, "w") as quiet, redirect_stderr(quiet):  # noqa: PTH123  # no file
            try:
                run(seed, backend)
            except Exception as error:  # noqa: BLE001  # whatever a bug makes of it
                fault = str(error).partition("\n")[0]
                seconds = time.perf_counter() - began
                sys.stdout.write(f"{name}: seed {seed} on {backend}, {seconds:.0f} s: {fault:.100}\n")
                sys.stdout.flush()
                return seed, backend
    sys.stdout.write(f"{name}: NOT FOUND\n")
    return None


if __name__ == "__main__":
    sys.exit(main() > 0)
