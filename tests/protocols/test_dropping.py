"""`drop_beyond`: at most so many messages wait while a handler is busy, however they came; the rest is dropped at once.

Each message is either handed to `process_message` or counted in `Heuristics.dropped_messages`.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

import pytest
from anyio import connect_tcp

from pea2pea import Config, Connection, DisconnectOrigin, FrameError, Side, TCPTransport
from pea2pea.codecs import LengthDelimitedCodec
from pea2pea.protocols import reading
from pea2pea.transport import TCPStream

from ..helpers import ALL, Gate, Opaque, RawPeer, User, frame, memory_pair, turns, wait_until
from .tls import SecureUser, wrap

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from anyio.abc import ByteStream

    from pea2pea.codecs import Chunk

COUNT = 1000
FIRST = b"first"
LAST = b"last"

any_way = pytest.mark.parametrize("over", ["socket", "memory", "wrapper", "TLS"])
both_ends = pytest.mark.parametrize("most", [1, 5])


def numbered(dice: Random | None = None) -> list[bytes]:
    """A thousand messages that can be told apart, of one size or of many."""
    sizes = [0 if dice is None else dice.choice((0, 1, 10, 1000, 30_000)) for _ in range(COUNT)]
    return [b"%04d" % number + bytes(size) for number, size in enumerate(sizes)]


def dropping(most: int, *, secure: bool = False, grace_period: float = 5.0) -> User:
    kind = SecureUser if secure else User
    user = kind(Config(grace_period=grace_period), enable=ALL - {"reading"} - (set() if secure else {"handshake"}))
    user.node.enable_reading(user, drop_beyond=most)
    return user


@asynccontextmanager
async def sender_to(user: User, over: str) -> AsyncGenerator[ByteStream]:
    """Enter the user's node, and yield a stream to it, behind which its handler is busy with a first message."""
    async with user.node as node:
        if over in {"memory", "wrapper"}:
            ours, theirs = memory_pair()
            await node.adopt(Opaque(ours) if over == "wrapper" else ours, (over, 1), Side.RESPONDER)
            stream: ByteStream = theirs
        else:
            raw = await RawPeer.dial(await node.start_listening())
            stream = TCPTransport.wrap(raw.sock)
            if over == "TLS":
                stream = await wrap(stream, Side.INITIATOR)
        async with stream:
            await stream.send(frame(FIRST))
            await wait_until(lambda: user.received == [FIRST])
            yield stream


@any_way
@both_ends
async def test_a_thousand_messages_in_one_segment(over: str, most: int) -> None:
    """Of a thousand messages in one segment so many wait and the rest is dropped at once."""
    user, messages = dropping(most, secure=over == "TLS"), numbered()
    user.handle = gate = Gate()
    async with sender_to(user, over) as stream:
        await stream.send(b"".join(map(frame, messages)))
        await wait_until(lambda: user.node.heuristics.dropped_messages == COUNT - most)
        assert user.received == [FIRST]
        gate.opened.set()
        await wait_until(lambda: user.received == [FIRST, *messages[:most]])
        await stream.send(frame(LAST))
        await wait_until(lambda: user.received == [FIRST, *messages[:most], LAST])
        assert user.node.heuristics.dropped_messages == COUNT - most


@any_way
@both_ends
async def test_any_sizes_and_cuts(over: str, most: int) -> None:
    """It does not matter how large they are and how they are cut."""
    user, dice = dropping(most, secure=over == "TLS"), Random(most)
    messages = numbered(dice)
    user.handle = gate = Gate()
    data = b"".join(map(frame, messages))
    async with sender_to(user, over) as stream:
        while data:
            size = dice.choice((1, 3, 100, 5000, 200_000))
            await stream.send(data[:size])
            data = data[size:]
        await wait_until(lambda: user.node.heuristics.dropped_messages == COUNT - most)
        gate.opened.set()
        await wait_until(lambda: user.received == [FIRST, *messages[:most]])


async def test_each_message_may_come_in_a_segment_of_its_own() -> None:
    user, messages = dropping(1), numbered()
    user.handle = gate = Gate()
    async with sender_to(user, "socket") as stream:
        for count, message in enumerate(messages):
            await stream.send(frame(message))
            await wait_until(lambda: user.node.heuristics.dropped_messages == count)  # noqa: B023
        gate.opened.set()
        await wait_until(lambda: user.received == [FIRST, messages[0]])


async def test_what_comes_with_the_message_that_is_processed_counts_too() -> None:
    """The first message and the thousand others are one segment, which comes before anything was read."""
    user, messages = dropping(2), numbered()
    user.handle = gate = Gate()
    async with user.node as node:
        stream = await connect_tcp(*await node.start_listening())
        async with stream:
            await stream.send(b"".join(map(frame, [FIRST, *messages])))
            await wait_until(lambda: node.heuristics.dropped_messages == COUNT - 2)
            assert user.received == [FIRST]
            gate.opened.set()
            await wait_until(lambda: user.received == [FIRST, *messages[:2]])


class Laborious(LengthDelimitedCodec):
    """A codec that opens a gate at the second message of many, and takes long to decode it and the next two."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self.gate = gate

    def decode(self, data: Chunk, /) -> Iterator[bytes]:
        for message in super().decode(data):
            if message in {b"0001", b"0002", b"0003"}:
                self.gate.opened.set()
                time.sleep(2 * reading.SLICE)  # work, after which the event loop has its turn
            yield message


@pytest.mark.parametrize("most", [1, 5, 2000])
@pytest.mark.parametrize("end", [False, True])
async def test_handler_that_catches_up_within_a_chunk(most: int, end: bool) -> None:
    """Nothing waits for a handler that has caught up in the middle of a chunk."""
    user, messages = dropping(most), numbered()
    heuristics = user.node.heuristics
    user.handle = gate = Gate()
    user.codec = lambda: Laborious(gate)
    async with sender_to(user, "memory") as stream:
        await stream.send(b"".join(map(frame, messages)))
        if end:
            await stream.send_eof()
        await wait_until(lambda: len(user.received) - 1 + heuristics.dropped_messages == COUNT, timeout=10)
        assert user.received[1:] == sorted(set(user.received[1:]))
        assert most < COUNT or heuristics.dropped_messages == 0


# Behind the messages that wait


BAD = b"\xff" * 4


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("over", ["socket", "memory"])
async def test_the_valid_messages_before_a_bad_frame_are_processed(count: int, together: bool, over: str) -> None:
    user, messages = dropping(100), numbered()[:count]
    user.handle = gate = Gate()
    async with sender_to(user, over) as stream:
        parts = [b"".join(map(frame, messages)), BAD]
        for part in [b"".join(parts)] if together else parts:
            await stream.send(part)
            await turns(20)
        (connection,) = user.node.connections.values()
        assert connection.origin is None
        gate.opened.set()
        await wait_until(lambda: user.origins == [DisconnectOrigin.READING])
        assert user.received == [FIRST, *messages]
        assert isinstance(connection.cause, FrameError)
        assert user.node.heuristics.decode_errors == 1
        assert user.node.heuristics.dropped_messages == 0


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("grace_period", [0.0, 0.1])
async def test_count_before_a_bad_frame(count: int, grace_period: float, caplog: pytest.LogCaptureFixture) -> None:
    """Those that a busy handler does not come to before a bad frame are counted."""
    caplog.set_level("INFO", "pea2pea")
    user, messages = dropping(3, grace_period=grace_period), numbered()[:count]
    user.handle = Gate()
    async with sender_to(user, "socket") as stream:
        (connection,) = user.node.connections.values()
        await stream.send(b"".join(map(frame, messages)) + BAD)
        await connection.wait_closed()
        assert user.received == [FIRST]
        assert isinstance(connection.cause, FrameError)
        assert user.node.heuristics.dropped_messages == count
        assert user.node.heuristics.unprocessed_bytes == 0
    assert "what a peer had sent was given up" in caplog.text


@pytest.mark.parametrize("how", ["disconnect", "abort", "reset", "a handler that raises", "a clean close"])
async def test_those_that_wait_when_the_connection_ends_are_counted(how: str) -> None:
    user, messages = dropping(3, grace_period=0.1), numbered()[:10]
    user.handle = gate = Gate()

    async def fail(source: Connection, message: bytes) -> None:
        await gate.opened.wait()
        raise ValueError("a bug")

    if how == "a handler that raises":
        user.handle = fail
    async with sender_to(user, "memory" if how == "a clean close" else "socket") as stream:
        (connection,) = user.node.connections.values()
        await stream.send(b"".join(map(frame, messages)))
        await wait_until(lambda: user.node.heuristics.dropped_messages == 7)
        if how == "a handler that raises":
            gate.opened.set()
        elif how == "a clean close":
            await stream.send_eof()
        elif how == "reset":
            assert isinstance(stream, TCPStream)
            stream.close(reset=True)
        else:
            await user.node.disconnect(connection, abort=how == "abort")
        await connection.wait_closed()
        assert user.received == [FIRST]
        assert user.node.heuristics.dropped_messages == 10
        assert user.node.heuristics.unprocessed_bytes == 0
