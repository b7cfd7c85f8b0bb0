"""What one peer can make a node keep in memory, whatever it sends, and whatever it does not read."""

from __future__ import annotations

import gc
import socket
import tracemalloc
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from anyio import current_time, move_on_after, wait_writable
from anyio.abc import ByteStream, SocketAttribute

from pea2pea import Config, Connection, QueueFullError, Side, TCPTransport
from pea2pea.codecs import LengthDelimitedCodec
from pea2pea.transport import READ_MAX

from ..helpers import Never, RawPeer, User, frame, wait_until
from .stuck import stuck_peer
from .tls import wrap

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

MIB = 1024 * 1024
POURED = 64 * MIB
MOST = 16 * MIB
BUFFER = 256 * 1024
PATIENCE = 0.7  # seconds without progress after which a peer is taken to be stopped

TINY = frame(b"ab") * 10_000
LARGE = frame(bytes(MIB))


class Bounded(User):
    """A user whose sockets have buffers of a known size."""

    def __init__(self, *enable: str) -> None:
        super().__init__(Config(grace_period=0.1), enable={*enable, "handshake"})
        self.shake_hands = self.set_buffers

    async def set_buffers(self, connection: Connection, stream: ByteStream) -> ByteStream:
        sock = stream.extra(SocketAttribute.raw_socket)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        return stream


@asynccontextmanager
async def a_peer(user: User) -> AsyncGenerator[RawPeer]:
    """Enter the user's node, and dial it."""
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening(), receive_buffer=BUFFER) as peer:
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            await wait_until(lambda: node.connections)
            yield peer


async def pour(peer: RawPeer, block: bytes) -> int:
    """Send the block again and again, until it is 64 MiB, or the peer is stopped; says how much has gone."""
    gone = 0
    while gone < POURED:
        try:
            gone += peer.sock.send(block[gone % len(block) :])
        except BlockingIOError:
            with move_on_after(PATIENCE) as scope:
                await wait_writable(peer.sock)
            if scope.cancelled_caught:
                break
    return gone


@contextmanager
def growth_below(most: int) -> Iterator[None]:
    """What Python has allocated must not grow by more, at any time."""
    gc.collect()
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < most, f"{peak} bytes at the peak"


@pytest.mark.parametrize("block", [TINY, LARGE], ids=["tiny", "large"])
@pytest.mark.parametrize("reading", [False, True])
async def test_a_peer_that_nobody_reads_from_is_stopped(block: bytes, reading: bool) -> None:
    user = Bounded("reading") if reading else Bounded()
    user.handle = Never()
    async with a_peer(user) as peer:
        assert await pour(peer, block) < MOST
        assert len(user.received) <= reading


async def test_a_peer_that_nobody_reads_from_is_stopped_over_tls() -> None:
    user = Bounded("reading")
    user.handle = Never()

    async def secure(connection: Connection, stream: ByteStream) -> ByteStream:
        return await wrap(await user.set_buffers(connection, stream), Side.RESPONDER)

    user.shake_hands = secure
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as raw:
            raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            stream = await wrap(TCPTransport.wrap(raw.sock), Side.INITIATOR)
            gone = 0
            with move_on_after(PATIENCE) as scope:
                while gone < POURED:
                    await stream.send(TINY)
                    gone += len(TINY)
                    scope.deadline = current_time() + PATIENCE
            assert gone < MOST


async def test_endless_frame() -> None:
    """A frame that never ends is kept up to the codec's limit at the most."""
    user = Bounded("reading", "on_disconnect")
    user.codec = lambda: LengthDelimitedCodec(max_length=2 * MIB)
    async with a_peer(user) as peer:
        with growth_below(2 * 2 * MIB + MIB):
            await peer.send((2 * MIB).to_bytes(4, "big") + bytes(2 * MIB - 1))
            # the rest is left to the kernel until nothing of the frame is missing
            await wait_until(lambda: user.only.stats.bytes_received >= 2 * MIB + 3 - READ_MAX)
            await peer.send(b"\0")
            await wait_until(lambda: user.received)
            user.received.clear()
            await peer.send((2 * MIB + 1).to_bytes(4, "big"))
            await wait_until(lambda: user.ended)


async def test_messages_beyond_the_limit_do_not_pile_up() -> None:
    user = Bounded()
    user.node.enable_reading(user, drop_beyond=100)
    user.handle = Never()
    count = 0
    async with a_peer(user) as peer:
        with growth_below(2 * MIB):
            while count < 150_000:
                await peer.send(TINY)
                count += 10_000
            await wait_until(lambda: user.only.stats.bytes_received == len(TINY) // 10_000 * count, timeout=30)
            await wait_until(lambda: user.node.heuristics.dropped_messages >= count - 100 - 1, timeout=30)
            assert user.node.heuristics.dropped_messages == count - 100 - 1


async def test_answers_to_a_peer_that_does_not_read() -> None:
    """What a flood of handlers sends to a peer that does not read is bounded."""
    user = Bounded("reading", "writing")

    async def answer_twice(source: Connection, message: bytes) -> None:
        await user.outbox.send(source, bytes(1000))
        await user.outbox.send(source, bytes(1000))

    user.handle = answer_twice
    async with a_peer(user) as peer:
        with growth_below(8 * MIB):
            assert await pour(peer, TINY) < MOST
            assert user.outbox.pending(user.only) <= 1024


@pytest.mark.parametrize("over", ["socket", "memory"])
async def test_queue_of_tiny_frames(over: str) -> None:
    """An outgoing queue of tiny frames is bounded by their number."""
    user = User(enable={"on_disconnect"})
    user.outbox = user.node.enable_writing(user, queue_bytes=1 << 30)
    async with stuck_peer(user, over) as peer:
        with growth_below(MIB), suppress(QueueFullError):
            for _ in range(1_000_000):
                user.outbox.send_nowait(peer.connection, b"")
        assert user.outbox.pending(peer.connection) == 1024
