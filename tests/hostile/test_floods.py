"""Peers that come in numbers."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
import pytest

from pea2pea import Config, ConnectionLimitError
from tests.helpers import RawListener, RawPeer, User, frame, wait_until

from .conftest import A_FEW
from .target import MAGIC, Target, besieged, is_served, join, shake_hands

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


PLENTY = 10_000


@asynccontextmanager
async def half_open_flood(target: Target, count: int) -> AsyncGenerator[None]:
    """Keep so many peers waiting there that say half of what they should; who is dropped comes again."""

    async def one(number: int) -> None:
        while True:
            with await RawPeer.dial(target.addr) as peer:
                await peer.send(MAGIC[: number % len(MAGIC)])
                await peer.is_refused()

    async with anyio.create_task_group() as flood:
        for number in range(count):
            flood.start_soon(one, number)
        yield
        flood.cancel_scope.cancel()


async def test_half_open_peers() -> None:
    """A hundred half open peers keep an honest one out for one handshake timeout at most."""
    target = Target(handshake_timeout=1.5)
    with ExitStack() as peers:
        async with target.node as node:
            await node.start_listening()
            for number in range(100):
                peer = peers.enter_context(await RawPeer.dial(target.addr))
                await peer.send(MAGIC[: number % len(MAGIC)])
            await wait_until(lambda: len(node.connecting) == 100)
            with await RawPeer.dial(target.addr) as late:
                assert node.heuristics.handshake_timeouts == 0
                await shake_hands(late)
                assert await is_served(late)
            assert node.heuristics.handshake_timeouts <= 100  # none of them got a second chance before
            assert node.heuristics.inbound_rejections == 0


@pytest.mark.parametrize("config", [Config(), Config(max_connecting=20)], ids=["default", "max_connecting"])
async def test_dials_beside_half_open_peers(config: Config) -> None:
    """Under a sustained flood of half open peers our own dials succeed at once."""
    target = Target(config)
    honest = Target()
    async with target.node as node, honest.node:
        await node.start_listening()
        friend = await honest.node.start_listening()
        async with half_open_flood(target, 3 * config.max_connecting // 2):
            for _ in range(3):
                await wait_until(lambda: len(node.connecting) == config.max_connecting)
                connection = await node.connect(friend)
                assert len(node.connections) + len(node.connecting) <= config.max_connections
                assert node.heuristics.handshake_timeouts == 0
                await node.disconnect(connection)


async def test_max_inbound_beside_half_open_peers() -> None:
    """Max inbound keeps slots for our own dials though each peer may be half open."""
    target, friend = Target(Config(max_connections=40, max_inbound=30)), Target()
    async with target.node as node, friend.node:
        await node.start_listening()
        async with half_open_flood(target, 60):
            await wait_until(lambda: node.heuristics.inbound_rejections)
            assert len(node.connecting) == 30
            await node.connect(await friend.node.start_listening())
            assert node.heuristics.handshake_timeouts == 0


async def test_dropped_peers_that_come_again() -> None:
    """Peers that are always dropped and come again do not keep honest ones out."""
    target = Target(Config(max_connecting=5), handshake_timeout=0.5)
    async with besieged(target) as honest, half_open_flood(target, 10):
        await wait_until(lambda: target.node.heuristics.handshake_timeouts)
        with await join(target) as peer:
            assert await is_served(peer)
            assert await is_served(honest)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_peers_that_come_and_go(how: str) -> None:
    """Connecting and leaving over and over leaves nothing behind."""
    target = Target()
    async with besieged(target) as honest:
        for round_ in range(20):
            with ExitStack() as peers:
                for _ in range(20):
                    peer = peers.enter_context(await RawPeer.dial(target.addr))
                    peer.reset() if how == "reset" else peer.close()
            assert await is_served(honest, b"round %d" % round_)
        await wait_until(lambda: not target.node.connecting)
        assert target.node.heuristics.handshake_failures <= 400
        assert target.ended == []


async def test_a_full_node_turns_a_crowd_away_at_once_and_counts_it() -> None:
    target = Target(Config(max_connections=1))
    async with besieged(target) as honest:
        for _ in range(200):
            with await RawPeer.dial(target.addr) as peer:
                assert await peer.is_refused()
        assert await is_served(honest)
        assert target.node.heuristics.inbound_rejections == 200


async def test_log_of_a_crowd_that_comes_and_goes(caplog: pytest.LogCaptureFixture) -> None:
    """A crowd that shakes hands and leaves over and over is logged a few times only."""
    target = Target()
    began = time.monotonic()
    async with besieged(target):
        for number in range(200):
            with await join(target) as peer:
                if number % 4 == 0:
                    await peer.send(b"\xff\xff\xff\xff")  # oversized
                elif number % 4 == 1:
                    await peer.send(frame(b"cut off")[:-1])
                elif number % 4 == 2:
                    peer.reset()
        await wait_until(lambda: len(target.ended) == 200)
    seconds = time.monotonic() - began
    records = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert len(records) <= A_FEW * (seconds + 1)


async def test_a_flood_of_empty_messages_delays_nobody_for_long() -> None:
    """How long is for the stress session to say; here it is that others are served in between."""
    target = Target()
    async with besieged(target) as honest:
        with await join(target) as peer, anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def flood() -> None:
                    while True:
                        await peer.send(frame(b"") * PLENTY)

                async def throw_away() -> None:
                    while True:
                        await peer.receive()

                tasks.start_soon(flood)
                tasks.start_soon(throw_away)
                for number in range(20):
                    before = len(target.received)
                    await wait_until(lambda: len(target.received) > before)  # noqa: B023  # it is awaited here
                    assert await is_served(honest, b"%d" % number)
                scope.cancel()


async def test_peer_that_asks_and_never_reads() -> None:
    """A peer that asks and never reads is not buffered without bound."""
    target = Target()

    async def ask(peer: RawPeer) -> None:
        with suppress(OSError, anyio.ClosedResourceError):
            while True:
                await peer.send(frame(bytes(900)) * 20)

    async with besieged(target) as honest, anyio.create_task_group() as tasks:
        with await RawPeer.dial(target.addr, receive_buffer=4096) as peer:
            await shake_hands(peer)
            tasks.start_soon(ask, peer)
            await wait_until(lambda: peer.addr in target.node.connections)
            connection = target.node.connections[peer.addr]
            await wait_until(lambda: target.outbox.pending(connection) * 904 > 250_000)
            for _ in range(20):
                assert await is_served(honest)
                assert target.outbox.pending(connection) * 904 < 300_000
            peer.reset()
            await wait_until(lambda: target.ended)
            tasks.cancel_scope.cancel()


async def test_our_own_limit_is_told_to_us_and_costs_nobody_anything() -> None:
    user, peer = User(Config(max_connections=1)), User()
    async with user.node, peer.node:
        addr = await peer.node.start_listening()
        with RawListener.open() as listener:
            await user.node.connect(addr)
            for _ in range(50):
                with pytest.raises(ConnectionLimitError) as caught:
                    await user.node.connect(listener.addr)
                assert caught.value.limit == "max_connections"
        assert list(user.node.connections) == [addr]
