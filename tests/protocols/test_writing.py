"""From the outgoing queue to the socket: frames of every kind, and peers that take too little."""

from __future__ import annotations

from array import array
from random import Random
from typing import TYPE_CHECKING

import pytest
from anyio import EndOfStream, Event, create_task_group, sleep
from anyio.abc import ByteStream

from pea2pea import Address, Config, Connection, DisconnectOrigin, NotConnectedError, Side

from ..helpers import MemoryStream, RawPeer, User, memory_pair, receive_exactly, turns, wait_until
from .stuck import stuck_peer

if TYPE_CHECKING:
    from pea2pea import Frame

either_way = pytest.mark.parametrize("over", ["socket", "memory"])


class Bytes(bytes):
    """Bytes of the user's own kind."""


NOISE = Random(0).randbytes(1 << 24)
FRAMES: dict[str, tuple[Frame, bytes]] = {
    "nothing": (b"", b""),
    "bytes": (b"hello", b"hello"),
    "many bytes": (NOISE[:100_000], NOISE[:100_000]),
    "very many bytes": (NOISE, NOISE),
    "bytes of one's own": (Bytes(b"hello"), b"hello"),
    "bytearray": (bytearray(b"hello"), b"hello"),
    "no bytearray": (bytearray(), b""),
    "many in a bytearray": (bytearray(NOISE[:100_000]), NOISE[:100_000]),
    "view": (memoryview(b"hello"), b"hello"),
    "view of a part": (memoryview(b"hello")[1:4], b"ell"),
    "view of nothing": (memoryview(b""), b""),
    "view of numbers": (memoryview(array("I", range(1000))), array("I", range(1000)).tobytes()),
    "view of many numbers": (memoryview(array("Q", range(20_000))), array("Q", range(20_000)).tobytes()),
    "view of no numbers": (memoryview(array("I")), b""),
    "view of a matrix": (memoryview(b"abcdef").cast("B", (2, 3)), b"abcdef"),
    "view of fractions": (memoryview(array("d", [0.5, 1.5])), array("d", [0.5, 1.5]).tobytes()),
    "no part": ((), b""),
    "empty parts": ((b"", bytearray(), memoryview(b"")), b""),
    "parts": ((b"he", bytearray(b"l"), memoryview(b"lo")), b"hello"),
    "a large part between small ones": ((b"<", NOISE[:70_000], b">"), b"<" + NOISE[:70_000] + b">"),
    "large parts": ((NOISE[:70_000], memoryview(NOISE)[:90_000]), NOISE[:70_000] + NOISE[:90_000]),
    "more parts than fit one write": (tuple([NOISE[:20_000]] * 600), NOISE[:20_000] * 600),
    "more small parts": (tuple(bytes([part % 256]) for part in range(5000)), bytes(part % 256 for part in range(5000))),
    "parts of numbers": ((memoryview(array("H", [1, 2])), b"end"), array("H", [1, 2]).tobytes() + b"end"),
}


class Verbatim(User):
    """A user whose messages are frames."""

    def __init__(self, *, timeout: float = 30.0, grace_period: float = 0.1) -> None:
        super().__init__(Config(grace_period=grace_period), enable={"on_disconnect"})
        self.frames = self.node.enable_writing(Frames(), queue_bytes=1 << 30, timeout=timeout)


class Frames:
    def encoder(self, connection: Connection) -> Frames:
        return self

    def encode(self, message: Frame, /) -> Frame:
        return message


# Frames


@pytest.mark.parametrize("name", FRAMES)
async def test_a_frame_goes_out_as_it_is_whatever_way_it_takes(name: str) -> None:
    """By itself, in a burst, and through a stream that has to be waited for."""
    user = Verbatim()
    frame, expected = FRAMES[name]
    async with user.node as node, create_task_group() as group:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections)
            connection = user.only
            for times in (1, 3):
                for _ in range(times):
                    user.frames.send_nowait(connection, frame)
                assert await peer.receive_exactly(times * len(expected)) == times * expected
            await user.frames.deliver(connection, b"end")
            assert await peer.receive_exactly(3) == b"end"
            assert connection.stats.bytes_sent == 4 * len(expected) + 3
            assert connection.stats.messages_sent == 5
        ours, theirs = memory_pair()
        adopted = await node.adopt(ours, ("memory", 1), Side.INITIATOR)
        for _ in range(2):
            user.frames.send_nowait(adopted, frame)
        group.start_soon(user.frames.deliver, adopted, b"end")
        assert await receive_exactly(theirs, 2 * len(expected) + 3) == 2 * expected + b"end"
        await theirs.aclose()


async def test_frames_of_all_kinds_keep_their_order() -> None:
    user, dice = Verbatim(), Random(1)
    some = [dice.choice([pair for pair in FRAMES.values() if len(pair[1]) < 1 << 20]) for _ in range(200)]
    async with user.node as node, create_task_group() as group:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections)

            async def send() -> None:
                for frame, _ in some:
                    await user.frames.send(user.only, frame)
                    if dice.random() < 0.1:
                        await turns(2)

            group.start_soon(send)
            expected = b"".join(stretch for _, stretch in some)
            assert await peer.receive_exactly(len(expected)) == expected


@pytest.mark.parametrize("scattered", [memoryview(b"abcdef")[::2], (b"ab", memoryview(b"abcdef")[::-1])])
async def test_a_view_that_is_not_contiguous_is_refused_at_the_call(scattered: Frame) -> None:
    user = Verbatim()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections)
            with pytest.raises(TypeError):
                user.frames.send_nowait(user.only, scattered)
            user.frames.send_nowait(user.only, b"hello")
            assert await peer.receive_exactly(5) == b"hello"


# Peers that take too little


@either_way
async def test_a_peer_that_stops_reading_is_disconnected(over: str) -> None:
    user = User(Config(grace_period=0.1), enable={"on_disconnect"})
    user.outbox = user.node.enable_writing(user, timeout=0.3)
    told = Event()
    async with stuck_peer(user, over) as peer, create_task_group() as group:

        async def wait_for_room() -> None:
            with pytest.raises(NotConnectedError):
                await user.outbox.send(peer.connection, b"hello")
            told.set()

        group.start_soon(wait_for_room)
        await told.wait()
        await wait_until(lambda: user.origins == [DisconnectOrigin.WRITING])
        assert user.node.heuristics.write_timeouts == 1
        assert isinstance(peer.connection.cause, TimeoutError)
        assert peer.connection.stats.messages_sent == 0


@either_way
async def test_a_peer_that_sips_is_disconnected(over: str) -> None:
    """It takes a few bytes in time, again and again, but never as much as it has to."""
    user = User(Config(grace_period=0.1), enable={"on_disconnect"})
    user.outbox = user.node.enable_writing(user, timeout=0.5)
    async with stuck_peer(user, over) as peer, create_task_group() as group:

        async def sip() -> None:
            while True:
                await peer.receive(256)
                await sleep(0.02)  # a sip long before the timeout is over, which is a time, again and again

        group.start_soon(sip)
        await wait_until(lambda: user.origins == [DisconnectOrigin.WRITING])
        assert user.node.heuristics.write_timeouts == 1
        group.cancel_scope.cancel()


class SlowStream(ByteStream):
    """A stream that takes its time for what is sent, and has nothing to be received."""

    def __init__(self, inner: MemoryStream, pause: float) -> None:
        self.inner = inner
        self.pause = pause
        self.sent = bytearray()

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        return await self.inner.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await sleep(self.pause)
        self.sent += item

    async def send_eof(self) -> None:
        await self.inner.send_eof()

    async def aclose(self) -> None:
        await self.inner.aclose()


async def test_a_slow_link_lives_as_long_as_each_64_kib_get_through() -> None:
    user = Verbatim(timeout=0.5)
    ours, theirs = memory_pair()
    stream = SlowStream(ours, 0.06)
    message = NOISE[: 64 * 1024 * 12]
    async with user.node as node:
        connection = await node.adopt(stream, ("slow", 1), Side.INITIATOR)
        await user.frames.deliver(connection, message)
        assert stream.sent == message
        assert node.heuristics.write_timeouts == 0
        await theirs.aclose()


async def test_after_a_write_that_was_cut_off_nothing_more_is_sent() -> None:
    """Nobody can know how much of it went out: what came behind it would be taken for its rest."""
    user = User(Config(grace_period=0.1), enable={"on_disconnect"})
    user.outbox = user.node.enable_writing(user, timeout=0.2, queue_bytes=1 << 30)

    async def last_words(connection: Connection, origin: DisconnectOrigin) -> None:
        with pytest.raises(NotConnectedError):
            user.outbox.send_nowait(connection, b"farewell")

    user.part = last_words
    async with stuck_peer(user, "socket") as peer:
        user.outbox.send_nowait(peer.connection, b"hello")
        await wait_until(lambda: user.origins == [DisconnectOrigin.WRITING] and not user.node.connections)
        with pytest.raises((EndOfStream, ConnectionResetError)):
            await peer.read()
        assert user.node.heuristics.hook_errors == 0


async def test_a_reset_during_a_write_ends_the_connection() -> None:
    user = User(Config(grace_period=0.1), enable={"on_disconnect"})
    user.outbox = user.node.enable_writing(user)
    async with stuck_peer(user, "socket") as peer:
        await peer.leave()
        await wait_until(lambda: user.ended)
        assert user.node.heuristics.write_timeouts == 0
        assert user.node.heuristics.hook_errors == 0
        assert peer.connection.cause is not None


async def test_a_peer_to_which_nothing_is_sent_need_not_read() -> None:
    """Two peers that don't take what is sent to them are parted from meanwhile, one after the other."""
    user = Verbatim(timeout=0.1)
    stuck: list[Address] = []

    async def outlast_a_timeout(addr: Address) -> None:
        with await RawPeer.dial(addr, receive_buffer=4096) as other:
            stuck.append(other.addr)
            await wait_until(lambda: other.addr in user.node.connections)
            user.frames.send_nowait(other.addr, bytes(8_000_000))
            await wait_until(lambda: other.addr in dict(user.ended))

    async with user.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as peer:
            await wait_until(lambda: node.connections)
            for word in (b"one", b"two"):
                await user.frames.deliver(peer.addr, word)
                await outlast_a_timeout(addr)
            assert await peer.receive_exactly(6) == b"onetwo"
            assert user.ended == [(addr, DisconnectOrigin.WRITING) for addr in stuck]
            await wait_until(lambda: list(node.connections) == [peer.addr])  # the hook comes before the removal


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize("queued", [0, 2])
async def test_direct_send_to_a_broken_socket(size: int, queued: int) -> None:
    """A message that goes straight to a broken socket is counted as unsent."""
    user = User()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections)
            peer.reset()  # which the node has not noticed when it sends
            connection = user.only
            user.outbox.send_nowait(connection, bytes(size))
            for _ in range(queued):
                with pytest.raises(NotConnectedError):
                    user.outbox.send_nowait(connection, bytes(size))
            assert node.heuristics.unsent_messages == 1
            await connection.wait_closed()
            assert connection.stats.messages_sent == 0
        assert node.heuristics.unsent_messages == 1
