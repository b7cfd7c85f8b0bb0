"""`Heuristics.unprocessed_bytes`: what was received and given up, in whole chunks, whatever ended the connection."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from anyio import Event, sleep_forever
from anyio.lowlevel import checkpoint

from pea2pea import Config, Connection, DisconnectOrigin, FrameError, NotConnectedError, Side, TCPTransport
from pea2pea.transport import TCPStream

from ..helpers import Opaque, RawPeer, User, frame, memory_pair, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import ByteStream

FIRST = frame(b"one") + frame(b"two") + frame(b"three")
SECOND = frame(b"four") + frame(bytes(1000))
THIRD = frame(b"six")

over_any = pytest.mark.parametrize("over", ["socket", "memory", "wrapper"])


class Blocked(User):
    """A user whose handler waits for ever at a certain message, and takes the others as they come."""

    def __init__(self, at: bytes = b"", *, grace_period: float = 5.0) -> None:
        super().__init__(Config(grace_period=grace_period))
        self.at = at
        self.blocked = Event()
        self.handle = self.block

    async def block(self, source: Connection, message: bytes) -> None:
        if message == self.at:
            self.blocked.set()
            await sleep_forever()


@asynccontextmanager
async def connected(user: User, over: str) -> AsyncGenerator[tuple[Connection, ByteStream]]:
    """Enter the user's node, and connect it to the other end of a stream."""
    async with user.node as node:
        if over == "socket":
            raw = await RawPeer.dial(await node.start_listening())
            await wait_until(lambda: node.connections)
            theirs: ByteStream = TCPTransport.wrap(raw.sock)
        else:
            ours, theirs = memory_pair()
            await node.adopt(Opaque(ours) if over == "wrapper" else ours, (over, 1), Side.RESPONDER)
        async with theirs:
            yield user.only, theirs


async def send_chunks(connection: Connection, stream: ByteStream, *chunks: bytes) -> None:
    """Send each chunk when the one before has been received, so that it is read by itself."""
    for chunk in chunks:
        expected = connection.stats.bytes_received + len(chunk)
        await stream.send(chunk)
        await wait_until(lambda: connection.stats.bytes_received == expected)  # noqa: B023


@over_any
@pytest.mark.parametrize("how", ["disconnect", "abort", "a clean close"])
async def test_where_everything_was_processed_it_is_zero(over: str, how: str) -> None:
    user = User(Config(grace_period=0.1))
    async with connected(user, over) as (connection, stream):
        await send_chunks(connection, stream, FIRST, SECOND, THIRD)
        await wait_until(lambda: len(user.received) == 6)
        if how == "a clean close":
            await stream.aclose()
        else:
            await user.node.disconnect(connection, abort=how == "abort")
        await connection.wait_closed()
    assert user.node.heuristics.unprocessed_bytes == 0


@over_any
@pytest.mark.parametrize("at", [b"one", b"three"])
async def test_chunk_of_a_busy_handler(over: str, at: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A grace period that is over gives up the chunk of the busy handler."""
    caplog.set_level("INFO", "pea2pea")
    user = Blocked(at, grace_period=0.1)
    async with connected(user, over) as (connection, stream):
        await send_chunks(connection, stream, SECOND, FIRST)
        await user.blocked.wait()
        await stream.aclose()
        await connection.wait_closed()
    assert connection.origin is DisconnectOrigin.READING
    assert connection.cause is None
    assert user.received[2:] == [b"one", b"two", b"three"][: len(user.received) - 2]
    assert user.node.heuristics.unprocessed_bytes == len(FIRST)
    assert f"what a peer had sent was given up (peer {connection}): up to {len(FIRST)} bytes" in caplog.text


@over_any
@pytest.mark.parametrize("how", ["disconnect", "abort", "shutdown", "raising"])
@pytest.mark.parametrize("at", [b"one", b"three"])
async def test_any_other_end(over: str, how: str, at: bytes) -> None:
    """Any other end gives up the chunk that was read behind it too."""
    user, go_on = Blocked(at, grace_period=0.1), Event()

    async def fail(source: Connection, message: bytes) -> None:
        if message == at:
            user.blocked.set()
            await go_on.wait()
            raise KeyError(message)

    if how == "raising":
        user.handle = fail
    async with connected(user, over) as (connection, stream):
        await send_chunks(connection, stream, THIRD, FIRST)
        await user.blocked.wait()
        await send_chunks(connection, stream, SECOND)
        await stream.send(THIRD)  # stays where it is, since there is one read ahead
        if how == "shutdown":
            await user.node.shut_down()
        elif how == "raising":
            go_on.set()
        else:
            await user.node.disconnect(connection, abort=how == "abort")
        await connection.wait_closed()
    assert user.received[-1] == at
    assert user.node.heuristics.unprocessed_bytes == len(FIRST) + len(SECOND)


@pytest.mark.parametrize("at", [b"one", b"three"])
async def test_a_reset_gives_up_the_chunk_of_the_busy_handler(at: bytes) -> None:
    user = Blocked(at)
    async with connected(user, "socket") as (connection, stream):
        await send_chunks(connection, stream, THIRD, FIRST)
        await user.blocked.wait()
        assert isinstance(stream, TCPStream)
        stream.close(reset=True)
        await connection.wait_closed()
    assert isinstance(connection.cause, ConnectionResetError)
    assert user.node.heuristics.unprocessed_bytes == len(FIRST)


@over_any
@pytest.mark.parametrize("abort", [False, True])
@pytest.mark.parametrize(("at", "lost"), [(b"two", len(FIRST)), (b"three", 0), (b"six", 0)])
async def test_end_by_a_handler(over: str, at: bytes, lost: int, abort: bool) -> None:
    """A handler that ends its connection gives up what is behind its message."""
    user = User(Config(grace_period=0.1))

    async def leave(source: Connection, message: bytes) -> None:
        if message == at:
            await user.node.disconnect(source, abort=abort)

    user.handle = leave
    async with connected(user, over) as (connection, stream):
        await send_chunks(connection, stream, FIRST)
        if at == b"six":
            await send_chunks(connection, stream, THIRD)
        await connection.wait_closed()
    assert user.received[-1] == at
    assert user.node.heuristics.unprocessed_bytes == lost


@over_any
async def test_invalid_and_incomplete_frames(over: str) -> None:
    """What is no valid frame and what is incomplete are not counted."""
    bad, half = User(), User()
    async with connected(bad, over) as (connection, stream):
        await send_chunks(connection, stream, FIRST + b"\xff" * 100)
        await connection.wait_closed()
        assert isinstance(connection.cause, FrameError)
    async with connected(half, over) as (connection, stream):
        await send_chunks(connection, stream, FIRST + SECOND[:20])
        await stream.aclose()
        await connection.wait_closed()
        assert isinstance(connection.cause, FrameError)
    for user in (bad, half):
        assert user.received[:3] == [b"one", b"two", b"three"]
        assert user.node.heuristics.unprocessed_bytes == 0
        assert user.node.heuristics.decode_errors == 1


async def test_what_arrives_after_the_end_has_begun_is_not_counted() -> None:
    user, parting = User(), Event()

    async def part(connection: Connection, origin: DisconnectOrigin) -> None:
        parting.set()
        await wait_until(lambda: discarded)

    discarded: list[int] = []
    user.part = part
    async with connected(user, "memory") as (connection, stream):
        await send_chunks(connection, stream, FIRST)
        await wait_until(lambda: len(user.received) == 3)
        user.node.start_soon(user.node.disconnect, connection)
        await parting.wait()
        await stream.send(SECOND)
        discarded.append(len(SECOND))
        await stream.aclose()
        await connection.wait_closed()
    assert len(user.received) == 3
    assert user.node.heuristics.unprocessed_bytes == 0


@pytest.mark.parametrize("size", [500, 10_000])
async def test_what_was_not_read_when_a_write_fails_is_reported(size: int, caplog: pytest.LogCaptureFixture) -> None:
    """The peer has closed cleanly, a write tells so before the reader does, and there is no grace period."""
    user, closed = User(Config(grace_period=0)), Event()
    count = 110_000 // size  # more than is read ahead, and less than the kernel takes

    async def answer(source: Connection, _: bytes) -> None:
        await closed.wait()
        with suppress(NotConnectedError):
            while True:
                user.outbox.send_nowait(source, b"answer")
                await checkpoint()

    user.handle = answer
    caplog.set_level(logging.INFO, "pea2pea")
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections)
            connection = user.only
            await peer.send(frame(bytes(size)) * count)
            await wait_until(lambda: user.received)
        closed.set()
        await connection.wait_closed()
    assert connection.origin is DisconnectOrigin.READING
    assert connection.cause is None
    assert len(user.received) < count
    (told,) = [record.getMessage() for record in caplog.records if "had sent was given up" in record.getMessage()]
    assert "what was not read yet" in told
