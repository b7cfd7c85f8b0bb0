"""Every timeout is on the event loop's clock: under a mock clock of trio's each takes as long as it says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeAlias

import anyio
import pytest
import trio.testing
from anyio import create_task_group, current_time, sleep, sleep_forever
from anyio.abc import ByteStream

from pea2pea import Address, Config, Connection, DisconnectOrigin, HandshakeTimeoutError, Side, _clock
from tests.helpers import (
    ALL,
    Gate,
    MemoryNetwork,
    MemoryStream,
    MemoryTransport,
    User,
    frame,
    memory_pair,
    turns,
    wait_until,
)

PEER = ("192.0.2.1", 1)
IDLE = 60.0
Behaviour: TypeAlias = Callable[[MemoryStream], Coroutine[Any, Any, None]]


def on_a_mock_clock(scenario: Callable[..., Awaitable[None]], *args: object) -> None:
    """Run it on a clock that jumps to what is waited for next, from a start that no other clock shows."""
    clock = trio.testing.MockClock(autojump_threshold=0)
    clock.jump(1e6)
    anyio.run(scenario, *args, backend="trio", backend_options={"clock": clock})


# Idle peers


async def say_nothing(stream: MemoryStream) -> None:
    await sleep_forever()


async def drip(stream: MemoryStream) -> None:
    with suppress(anyio.BrokenResourceError):  # it has been disconnected
        for byte in frame(bytes(100)):
            await sleep(10)  # no condition: the test is about a clock, which jumps
            await stream.send(bytes([byte]))


async def say_something_twice(stream: MemoryStream) -> None:
    for _ in range(2):
        await sleep(IDLE - 1)  # likewise
        await stream.send(frame(b"still here"))


async def keep_the_handler_busy(stream: MemoryStream) -> None:
    await sleep(IDLE - 1)
    await stream.send(frame(b"this takes a while"))


BEHAVIOURS: dict[Behaviour, float] = {
    say_nothing: IDLE,
    drip: IDLE,
    say_something_twice: 2 * (IDLE - 1) + IDLE,
    keep_the_handler_busy: IDLE - 1 + 300 + IDLE,
}


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_peer_is_idle_by_the_loops_clock(behaviour: Behaviour) -> None:
    async def scenario() -> None:
        user = User(enable={"on_disconnect"})
        user.node.enable_reading(user, idle_timeout=IDLE)

        async def handle(source: Connection, message: bytes) -> None:
            # no condition: a handler that is busy for a time, on a clock that jumps, is what the test is about
            await sleep(300 if message == b"this takes a while" else 0)

        user.handle = handle
        ours, theirs = memory_pair()
        async with user.node as node, create_task_group() as group:
            connection = await node.adopt(ours, PEER, Side.INITIATOR)
            began = current_time()
            assert connection.stats.created == began
            group.start_soon(behaviour, theirs)
            with anyio.fail_after(3600):
                await connection.wait_closed()
            assert isinstance(connection.cause, TimeoutError)
            assert node.heuristics.idle_timeouts == 1
            assert 0 <= current_time() - began - BEHAVIOURS[behaviour] <= IDLE / 4
            group.cancel_scope.cancel()
        await theirs.aclose()

    on_a_mock_clock(scenario)


async def beside_another_peer(text: bytes, pause: float, handle: Callable[[bytes], object]) -> float:
    """Say one thing while another peer says `text` again and again; return for how long one was silent in the end."""
    user = User(enable={"on_disconnect"})
    user.node.enable_reading(user, idle_timeout=IDLE)
    heard = 0.0

    async def note(source: Connection, message: bytes) -> None:
        nonlocal heard
        handle(message)
        if source.addr == PEER:
            heard = current_time()

    user.handle = note
    (ours, theirs), (other_ours, other_theirs) = memory_pair(), memory_pair()
    async with user.node as node, create_task_group() as group:
        connection = await node.adopt(ours, PEER, Side.INITIATOR)
        await node.adopt(other_ours, ("192.0.2.2", 1), Side.INITIATOR)
        await theirs.send(frame(b"early"))
        await turns()

        async def talk() -> None:
            while True:
                await other_theirs.send(frame(text))
                await sleep(pause)

        group.start_soon(talk)
        await turns(1)
        await theirs.send(frame(b"late"))
        with anyio.fail_after(3600):
            await connection.wait_closed()
        silence = current_time() - heard
        group.cancel_scope.cancel()
    await theirs.aclose()
    await other_theirs.aclose()
    return silence


@pytest.mark.parametrize("seconds", [0.3, 5, IDLE / 2])
def test_nobody_is_idle_too_early_because_a_handler_works_for_long(seconds: float) -> None:
    """Neither the idle watch nor anybody else has its turn while a handler works without waiting."""

    async def scenario() -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        jump = clock.jump
        silence = await beside_another_peer(b"work", 1000, lambda message: message == b"work" and jump(seconds))
        assert IDLE <= silence <= IDLE * (1 + 1 / 64) + seconds

    on_a_mock_clock(scenario)


@pytest.mark.parametrize("pause", [IDLE / 512, IDLE / 256, IDLE / 128, IDLE / 64, IDLE / 3])
def test_a_peer_is_idle_also_while_another_one_is_not(pause: float) -> None:
    async def scenario() -> None:
        silence = await beside_another_peer(b"hello", pause, len)
        assert IDLE <= silence <= IDLE * (1 + 1 / 64)

    on_a_mock_clock(scenario)


# The other timeouts


async def stall(_: Connection, stream: ByteStream) -> ByteStream:
    await sleep_forever()
    return stream


class Nowhere(MemoryTransport):
    """A host whose dials are never answered."""

    async def dial(self, addr: Address) -> ByteStream:
        await sleep_forever()
        raise AssertionError


@pytest.mark.parametrize("timeout", [1.0, 500.0])
def test_a_dial_times_out_by_the_loops_clock(timeout: float) -> None:
    async def scenario() -> None:
        user = User(Config(connection_timeout=timeout), transport=Nowhere(MemoryNetwork(), "192.0.2.9"))
        async with user.node as node:
            began = current_time()
            with pytest.raises(TimeoutError):
                await node.connect(PEER)
            assert current_time() - began == pytest.approx(timeout)

    on_a_mock_clock(scenario)


@pytest.mark.parametrize("timeout", [1.0, 500.0])
def test_a_handshake_times_out_by_the_loops_clock(timeout: float) -> None:
    async def scenario() -> None:
        user = User()
        user.shake_hands = stall
        user.node.enable_handshake(user, timeout=timeout)
        ours, theirs = memory_pair()
        async with user.node as node:
            began = current_time()
            with pytest.raises(HandshakeTimeoutError):
                await node.adopt(ours, PEER, Side.INITIATOR)
            assert current_time() - began == pytest.approx(timeout)
        await theirs.aclose()

    on_a_mock_clock(scenario)


@pytest.mark.parametrize("timeout", [1.0, 500.0])
def test_a_write_times_out_by_the_loops_clock(timeout: float) -> None:
    async def scenario() -> None:
        user = User(enable={"on_disconnect"})
        user.outbox = user.node.enable_writing(user, timeout=timeout)
        ours, theirs = memory_pair(10)
        async with user.node as node:
            connection = await node.adopt(ours, PEER, Side.INITIATOR)
            began = current_time()
            user.outbox.send_nowait(connection, bytes(100))
            await wait_until(lambda: user.ended, timeout=1000)
            assert current_time() - began == pytest.approx(timeout, abs=0.1)
            assert user.origins == [DisconnectOrigin.WRITING]
        await theirs.aclose()

    on_a_mock_clock(scenario)


@pytest.mark.parametrize("timeout", [1.0, 500.0])
@pytest.mark.parametrize("what", ["the hook", "the grace period"])
def test_an_end_times_out_by_the_loops_clock(what: str, timeout: float) -> None:
    async def scenario() -> None:
        user = User(
            Config(grace_period=1e5 if what == "the hook" else timeout), enable=ALL - {"on_disconnect", "handshake"}
        )

        async def part(connection: Connection, origin: DisconnectOrigin) -> None:
            await sleep_forever()

        user.part = part
        user.node.enable_on_disconnect(user, timeout=timeout if what == "the hook" else 1e5)
        ours, theirs = memory_pair()
        async with user.node as node:
            connection = await node.adopt(ours, PEER, Side.INITIATOR)
            await theirs.aclose()
            await connection.wait_closed()
            began = connection.stats.created
            assert current_time() - began == pytest.approx(timeout, abs=0.5)

    on_a_mock_clock(scenario)


# On every loop, whatever the other clock says


class OddClock:
    """In place of the clock for slices of work: it leaps at each look, or stands still."""

    def __init__(self, step: float) -> None:
        self.step = step
        self.now = 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


async def test_nothing_times_out_because_another_clock_leaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_clock, "now", OddClock(1000.0))
    user, other = User(enable=ALL), User(enable=ALL - {"handshake"})
    user.handle = gate = Gate()
    async with user.node as node, other.node:
        addr = await node.start_listening()
        connection = await other.node.connect(addr)
        for _ in range(300):
            await other.outbox.send(connection, bytes(1000))
        await wait_until(lambda: user.received)
        await turns(100)
        gate.opened.set()
        await wait_until(lambda: len(user.received) == 300)
        assert not user.ended
        assert not other.ended
        assert not node.heuristics.idle_timeouts


@pytest.mark.parametrize("how", ["silent", "stuck"])
async def test_a_peer_times_out_though_another_clock_stands_still(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_clock, "now", OddClock(0.0))
    user = User(Config(grace_period=0.1), enable={"on_disconnect"})
    user.node.enable_reading(user, idle_timeout=0.2 if how == "silent" else None)
    user.outbox = user.node.enable_writing(user, timeout=0.2)
    ours, theirs = memory_pair(10)
    async with user.node as node:
        connection = await node.adopt(ours, PEER, Side.INITIATOR)
        if how == "stuck":
            user.outbox.send_nowait(connection, bytes(100))
        await connection.wait_closed()
        assert isinstance(connection.cause, TimeoutError)
    with suppress(anyio.BrokenResourceError):
        await theirs.aclose()
