"""Two readers take turns: whatever handlers do, and however a connection ends, messages come in order and once.

Each round is a connection whose messages, pieces, handlers and end are drawn from a seed.
"""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

import pytest
from anyio import BrokenResourceError, Event, create_task_group
from anyio.lowlevel import checkpoint

from pea2pea import Config, Connection, DisconnectOrigin, Side
from pea2pea.codecs import LengthDelimitedCodec
from pea2pea.protocols import reading

from ..helpers import RawPeer, User, memory_pair, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator


class Subject(User):
    """Its handlers wait, or don't, as the dice say."""

    def __init__(self, dice: Random, *, drop_beyond: int | None = None, grace_period: float = 5.0) -> None:
        super().__init__(
            Config(grace_period=grace_period), enable={"on_disconnect"}, codec=lambda: LengthDelimitedCodec(prefix=1)
        )
        self.node.enable_reading(self, drop_beyond=drop_beyond)
        self.dice = dice
        self.patience = dice.choice((0.0, 0.1, 0.5, 1.0))
        self.busy = 0

    async def process_message(self, source: Connection, message: bytes) -> None:
        assert not self.busy, "two handlers at a time"
        self.busy += 1
        try:
            self.received.append(message)
            if self.dice.random() < self.patience:
                await self.dice.choice((checkpoint, self.some_turns, self.an_event))()
        finally:
            self.busy -= 1

    async def some_turns(self) -> None:
        for _ in range(self.dice.randrange(8)):
            await checkpoint()

    async def an_event(self) -> None:
        event = Event()
        self.node.start_soon(self.set_later, event)
        await event.wait()

    async def set_later(self, event: Event) -> None:
        await self.some_turns()
        event.set()


class Peer:
    """What is at the other end: a socket, or a stream in memory, so that both ways to read are taken."""

    def __init__(
        self, send: Callable[[bytes], Awaitable[None]], end: Callable[[], object], reset: Callable[[], object]
    ) -> None:
        self.send = send
        self.end = end
        self.reset = reset

    @classmethod
    async def of(cls, subject: User, *, in_memory: bool) -> Peer:
        if not in_memory:
            raw = await RawPeer.dial(await subject.node.start_listening())
            await wait_until(lambda: subject.node.connections)
            return cls(raw.send, raw.close, raw.reset)
        ours, theirs = memory_pair(capacity=512)
        await subject.node.adopt(ours, ("memory", 1), Side.RESPONDER)

        def end() -> None:
            theirs._out.ended = True
            theirs._out.change()

        def reset() -> None:
            ours.closed = True
            theirs._out.chunks.clear()
            theirs._out.change()

        return cls(theirs.send, end, reset)

    async def play(self, dice: Random, messages: list[bytes]) -> None:
        """Send the messages in pieces, with pauses, as the dice say."""
        stream = b"".join(bytes([len(message)]) + message for message in messages)
        most = dice.choice((1, 7, 64, 4096))
        with suppress(OSError, BrokenResourceError):
            while stream:
                size = dice.randint(1, most)
                await self.send(stream[:size])
                stream = stream[size:]
                for _ in range(dice.choice((0, 0, 1, 5))):
                    await checkpoint()


def some_messages(dice: Random) -> list[bytes]:
    return [index.to_bytes(2, "big") * dice.randrange(1, 4) for index in range(dice.randrange(300))]


def is_in_order(received: list[bytes], sent: list[bytes]) -> bool:
    """Whether nothing but omissions makes the one of the other."""
    rest = iter(sent)
    return all(message in rest for message in received)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> Iterator[Random]:
    """The dice of one round after the other; in half of them the event loop gets its turn after each message."""
    usual = reading.SLICE

    def throw() -> Iterator[Random]:
        for seed in range(30):
            print(f"seed {seed}")  # noqa: T201  # pytest shows it with a failure
            monkeypatch.setattr(reading, "SLICE", usual if seed % 2 else 0.0)
            yield Random(seed)

    return throw()


async def test_before_an_end_of_stream_nothing_is_lost(rounds: Iterator[Random]) -> None:
    for dice in rounds:
        subject, messages = Subject(dice), some_messages(dice)
        async with subject.node:
            peer = await Peer.of(subject, in_memory=dice.random() < 0.5)
            await peer.play(dice, messages)
            peer.end()
            await wait_until(lambda: subject.ended)  # noqa: B023  # it is called in this very round
        assert subject.received == messages
        assert subject.origins == [DisconnectOrigin.READING]


async def test_what_is_not_processed_was_counted_as_dropped(rounds: Iterator[Random]) -> None:
    for dice in rounds:
        subject, messages = Subject(dice, drop_beyond=dice.choice((1, 3, 100))), some_messages(dice)
        async with subject.node as node:
            peer = await Peer.of(subject, in_memory=dice.random() < 0.5)
            await peer.play(dice, messages)
            peer.end()
            await wait_until(lambda: subject.ended)  # noqa: B023
            assert len(subject.received) + node.heuristics.dropped_messages == len(messages)
        assert is_in_order(subject.received, messages)
        assert subject.origins == [DisconnectOrigin.READING]


@pytest.mark.parametrize("drop_beyond", [None, 2])
async def test_a_reset_at_any_moment_ends_it_all(rounds: Iterator[Random], drop_beyond: int | None) -> None:
    for dice in rounds:
        subject, messages = Subject(dice, drop_beyond=drop_beyond), some_messages(dice)
        async with subject.node as node:
            peer = await Peer.of(subject, in_memory=dice.random() < 0.5)
            await peer.play(dice, messages)
            peer.reset()
            await wait_until(lambda: subject.ended and not node.connections)  # noqa: B023
            assert not subject.busy
        assert is_in_order(subject.received, messages)
        assert drop_beyond or subject.received == messages[: len(subject.received)]
        assert subject.origins == [DisconnectOrigin.READING]


@pytest.mark.parametrize("drop_beyond", [None, 2])
async def test_disconnecting_at_any_moment_ends_it_all(rounds: Iterator[Random], drop_beyond: int | None) -> None:
    for dice in rounds:
        subject, messages = Subject(dice, drop_beyond=drop_beyond, grace_period=0.05), some_messages(dice)
        async with subject.node as node, create_task_group() as group:
            peer = await Peer.of(subject, in_memory=dice.random() < 0.5)
            group.start_soon(peer.play, dice, messages)
            for _ in range(dice.randrange(60)):
                await checkpoint()
            assert await node.disconnect(subject.only, abort=dice.random() < 0.5)
            processed = list(subject.received)
            assert not subject.busy
            group.cancel_scope.cancel()
        peer.reset()
        assert subject.received == processed
        assert is_in_order(processed, messages)
        assert drop_beyond or processed == messages[: len(processed)]
        assert subject.origins == [DisconnectOrigin.USER]
