"""A peer that sends flat out does not keep the event loop from others.

What is counted is how much happens between two turns of the loop. A chunk from a socket holds up to a quarter of a
million of these frames, so that it is far more than a few thousand if the node does not yield.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING

import pytest
from anyio import create_task_group, sleep_forever
from anyio.lowlevel import checkpoint

from pea2pea import Config, Connection, Side, TCPTransport
from pea2pea.codecs import LengthDelimitedCodec

from ..helpers import RawPeer, User, frame, memory_pair, wait_until
from .tls import SecureUser, wrap

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from pea2pea import Node

EMPTY = bytes(1 << 18)  # as many empty frames with one byte of length
MOST = len(EMPTY) // 4
HASTY = Config(grace_period=0.1)


class Busy(User):
    """A user whose peers' frames have one byte of length."""

    def __init__(self, *, drop_beyond: int | None = None) -> None:
        super().__init__(HASTY, enable=(), codec=lambda: LengthDelimitedCodec(prefix=1))
        self.node.enable_reading(self, drop_beyond=drop_beyond)


class Clock:
    """Counts the turns of the event loop, and something that goes on meanwhile."""

    def __init__(self) -> None:
        self.turn = 0
        self.happened: Counter[int] = Counter()

    async def run(self) -> None:
        for self.turn in count():
            await checkpoint()

    def happens(self, times: int = 1) -> None:
        self.happened[self.turn] += times


@pytest.mark.parametrize("waits", [False, True])
async def test_a_chunk_of_empty_frames_leaves_the_loop_its_turns(waits: bool) -> None:
    user, clock = Busy(), Clock()

    async def handle(source: Connection, message: bytes) -> None:
        clock.happens()
        if waits and len(user.received) == 1:
            await checkpoint()

    user.handle = handle
    async with user.node as node, create_task_group() as group:
        with await RawPeer.dial(await node.start_listening()) as peer:
            group.start_soon(clock.run)
            await peer.send(EMPTY)
            await wait_until(lambda: len(user.received) == len(EMPTY), timeout=30)
            group.cancel_scope.cancel()
    assert max(clock.happened.values()) < MOST


async def test_dropping_yields() -> None:
    """Dropping a chunk of empty frames leaves the loop its turns."""
    user, clock = Busy(drop_beyond=1), Clock()
    dropped = 0

    async def handle(source: Connection, message: bytes) -> None:
        await sleep_forever()

    async def watch(node: Node) -> None:
        nonlocal dropped
        while True:
            clock.happens(node.heuristics.dropped_messages - dropped)
            dropped = node.heuristics.dropped_messages
            clock.turn += 1
            await checkpoint()

    user.handle = handle
    async with user.node as node, create_task_group() as group:
        with await RawPeer.dial(await node.start_listening()) as peer:
            group.start_soon(watch, node)
            await peer.send(b"\0")
            await wait_until(lambda: user.received)
            await peer.send(EMPTY)
            await wait_until(lambda: dropped == len(EMPTY) - 1, timeout=30)
            group.cancel_scope.cancel()
    assert max(clock.happened.values()) < MOST


@pytest.mark.parametrize("over", ["socket", "memory", "TLS"])
async def test_others_beside_a_flood(over: str) -> None:
    """Messages of others get through while a peer sends flat out."""
    user = SecureUser(HASTY) if over == "TLS" else User(HASTY)

    async def answer(source: Connection, message: bytes) -> None:
        if message:
            user.received.clear()
            await user.outbox.send(source, message)

    async def dial(stack: ExitStack, name: str) -> ByteStream:
        if over == "memory":
            ours, theirs = memory_pair()
            await user.node.adopt(ours, (name, 1), Side.RESPONDER)
            return theirs
        raw = stack.enter_context(await RawPeer.dial(addr))
        stream = TCPTransport.wrap(raw.sock)
        return stream if over == "socket" else await wrap(stream, Side.INITIATOR)

    async def flood(stream: ByteStream) -> None:
        while True:
            await stream.send(bytes(65_536))

    user.handle = answer
    async with user.node as node, create_task_group() as group:
        addr = await node.start_listening()
        with ExitStack() as stack:
            other = await dial(stack, "other")
            group.start_soon(flood, await dial(stack, "flat out"))
            await wait_until(lambda: len(user.received) > 100_000)
            for number in range(20):
                message = frame(b"%d" % number)
                await other.send(message)
                assert await other.receive() == message
            group.cancel_scope.cancel()
            await other.aclose()
