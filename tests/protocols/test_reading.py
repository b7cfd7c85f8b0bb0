"""From a peer's bytes to `process_message`."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from time import monotonic
from typing import TYPE_CHECKING

import pytest
from anyio import CancelScope, Event, current_time
from anyio.lowlevel import checkpoint

from pea2pea import Address, Config, Connection, DisconnectOrigin, FrameError, Side
from pea2pea.codecs import LengthDelimitedCodec, LinesCodec

from ..helpers import Echo, Gate, Never, RawPeer, User, above_info, frame, turns, two_nodes, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SOME = [b"", b"one", b"another", bytes(70_000), b"the last"]


class Reader(User):
    """A user that reads with other than the default tunables."""

    def __init__(
        self, *, drop_beyond: int | None = None, idle_timeout: float | None = 60.0, grace_period: float = 5.0
    ) -> None:
        super().__init__(Config(grace_period=grace_period), enable={"on_disconnect"})
        self.node.enable_reading(self, drop_beyond=drop_beyond, idle_timeout=idle_timeout)


# Messages


@pytest.mark.parametrize("size", [1, 3, 4, 5, 1000, 65_536, 1_000_000])
async def test_messages_arrive_whole_and_in_order_however_they_are_cut(size: int) -> None:
    user = User()
    messages = [message for message in SOME if size >= 1000 or len(message) < 1000]
    stream = b"".join(map(frame, messages))
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            for start in range(0, len(stream), size):
                await peer.send(stream[start : start + size])
                await checkpoint()
            await wait_until(lambda: user.received == messages)


async def test_a_huge_message_arrives() -> None:
    one, other = User(), User()
    for user in (one, other):
        user.codec = lambda: LengthDelimitedCodec(max_length=1 << 25)
    message = Random(0).randbytes(1 << 24)
    async with two_nodes(one, other) as (ours, theirs):
        await one.outbox.deliver(ours, message)
        await wait_until(lambda: other.received, timeout=30)
        assert other.received == [message]
        assert theirs.stats.bytes_received == ours.stats.bytes_sent == 4 + len(message)


async def test_the_source_of_a_message_is_the_connections_address() -> None:
    user = User()
    async with user.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as one, await RawPeer.dial(addr) as other:
            await one.send(frame(b"one"))
            await wait_until(lambda: len(user.received) == 1)
            await other.send(frame(b"other"))
            await wait_until(lambda: len(user.received) == 2)
            assert user.sources == [one.addr, other.addr]


async def test_what_was_received_is_counted() -> None:
    user = User()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"".join(map(frame, SOME)))
            await wait_until(lambda: user.received == SOME)
            await turns()
            for stats in (node.stats, user.only.stats):
                assert stats.messages_received == len(SOME)
                assert stats.bytes_received == sum(4 + len(message) for message in SOME)


async def test_one_decoder_a_connection() -> None:
    """A decoder is made for each connection with its address and side."""
    dialler, responder = User(), User()
    made: list[tuple[Address, Side]] = []

    def decoder(connection: Connection) -> LengthDelimitedCodec:
        made.append((connection.addr, connection.side))
        return LengthDelimitedCodec()

    responder.decoder = dialler.decoder = decoder  # type: ignore[method-assign]
    async with two_nodes(dialler, responder) as (ours, theirs):
        assert sorted(made) == sorted([(ours.addr, Side.INITIATOR), (theirs.addr, Side.RESPONDER)])


# The end of the stream


class Recorder:
    """A decoder that makes a message of each chunk, and of the end."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    def decode(self, data: bytes, /) -> Iterable[bytes]:
        self.chunks.append(data)
        return [data]


@pytest.mark.parametrize(
    ("leave", "told"), [(RawPeer.half_close, [b"hello", b""]), (RawPeer.reset, [b"hello"])], ids=["close", "reset"]
)
async def test_the_decoder_is_told_of_the_end_of_the_stream_once(
    leave: Callable[[RawPeer], None], told: list[bytes]
) -> None:
    """It is not told of an end that is none."""
    user, recorder = User(), Recorder()
    user.decoder = lambda connection: recorder  # type: ignore[method-assign,assignment,return-value]
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"hello")
            await wait_until(lambda: user.received)
            leave(peer)
            await wait_until(lambda: user.ended)
    assert recorder.chunks == user.received == told


async def test_an_unterminated_last_line_is_processed() -> None:
    lines: list[str] = []

    class Lines:
        def decoder(self, connection: Connection) -> LinesCodec:
            return LinesCodec()

        async def process_message(self, source: Connection, message: str) -> None:
            lines.append(message)

    user = User(enable={"on_disconnect"})
    user.node.enable_reading(Lines())
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"first\nlast")
            peer.half_close()
            await wait_until(lambda: user.ended)
    assert lines == ["first", "last"]


async def test_a_truncated_last_frame_is_reported() -> None:
    user = User()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections)
            connection = user.only
            await peer.send(frame(b"hello") + frame(b"cut off")[:-1])
            peer.half_close()
            await wait_until(lambda: user.ended)
        assert user.received == [b"hello"]
        assert user.origins == [DisconnectOrigin.READING]
        assert isinstance(connection.cause, FrameError)
        assert node.heuristics.decode_errors == 1


async def test_an_end_after_a_whole_frame_has_no_cause() -> None:
    user = User()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections)
            connection = user.only
            await peer.send(frame(b"hello"))
            peer.half_close()
            await wait_until(lambda: user.ended)
        assert user.origins == [DisconnectOrigin.READING]
        assert connection.cause is None
        assert node.heuristics.decode_errors == 0


async def test_invalid_message() -> None:
    """An invalid message ends the connection after those before it."""
    user = User()
    user.codec = lambda: LengthDelimitedCodec(max_length=10)
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections)
            connection = user.only
            await peer.send(frame(b"one") + frame(b"two") + frame(bytes(11)) + frame(b"three"))
            await wait_until(lambda: user.ended)
            assert isinstance(connection.cause, FrameError)
        assert user.received == [b"one", b"two"]
        assert user.origins == [DisconnectOrigin.READING]
        assert node.heuristics.decode_errors == 1
        assert node.heuristics.hook_errors == 0


async def test_a_reset_ends_the_connection() -> None:
    user = User()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections)
            connection = user.only
            peer.reset()
            await wait_until(lambda: user.ended)
        assert user.origins == [DisconnectOrigin.READING]
        assert isinstance(connection.cause, ConnectionResetError)


# Without Reading


async def test_end_without_reading() -> None:
    """Without reading nothing is processed and an end is noticed."""
    user = User(enable={"on_disconnect"})
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"hello"))
            await wait_until(lambda: node.connections)
            peer.half_close()
            await wait_until(lambda: user.origins == [DisconnectOrigin.READING])
            assert await peer.receive_all() == b""
        assert node.stats.messages_received == 0


async def test_without_reading_a_reset_is_noticed() -> None:
    user = User(enable={"on_disconnect"})
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections)
            connection = user.only
            peer.reset()
            await wait_until(lambda: user.origins == [DisconnectOrigin.READING])
            assert connection.cause is not None


# Silence


async def test_a_silent_peer_is_disconnected() -> None:
    user = Reader(idle_timeout=0.1)
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections)
            connection = user.only
            assert await peer.is_refused()
            await wait_until(lambda: user.ended)
            assert node.heuristics.idle_timeouts == 1
            assert isinstance(connection.cause, TimeoutError)
            assert user.origins == [DisconnectOrigin.READING]


async def test_a_peer_that_drips_is_disconnected() -> None:
    user = Reader(idle_timeout=0.3)
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections)
            with suppress(OSError):
                await peer.send((1_000_000).to_bytes(4, "big"))
                while not user.ended:
                    await peer.send(b"\0")
                    await turns()
            await wait_until(lambda: user.ended)
            assert node.heuristics.idle_timeouts == 1
            assert not user.received


async def test_a_peer_that_sends_messages_is_not_disconnected() -> None:
    """Another one, which comes later and is silent, is."""
    user = Reader(idle_timeout=1.0)
    async with user.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as peer:
            await wait_until(lambda: node.connections)
            with await RawPeer.dial(addr) as silent:
                sent = 0
                while not user.ended:
                    await peer.send(frame(b"hello"))
                    sent += 1
                    await turns()
                assert [source for source, _ in user.ended] == [silent.addr]
            await wait_until(lambda: len(user.received) == sent)
            await wait_until(lambda: list(node.connections) == [peer.addr])  # the hook comes before the removal
            assert node.heuristics.idle_timeouts == 1


async def test_a_peer_is_not_silent_while_its_message_is_processed() -> None:
    user = Reader(idle_timeout=0.1)

    async def handle(source: Connection, message: bytes) -> None:
        with await RawPeer.dial(addr) as silent:  # a whole timeout, by the node's own clock
            assert await silent.is_refused()

    user.handle = handle
    async with user.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as peer:
            await peer.send(frame(b"one") + frame(b"two"))
            await wait_until(lambda: peer.addr in dict(user.ended))
            assert user.received == [b"one", b"two"]
            assert node.heuristics.idle_timeouts == 3
            assert user.ended[-1][0] == peer.addr


async def test_without_an_idle_timeout_a_peer_may_be_silent() -> None:
    quiet, impatient = Reader(idle_timeout=None), Reader(idle_timeout=0.1)
    async with quiet.node as node, impatient.node as other:
        with (
            await RawPeer.dial(await other.start_listening()) as first,
            await RawPeer.dial(await node.start_listening()) as peer,
        ):
            await wait_until(lambda: node.connections)
            for _ in range(3):
                with await RawPeer.dial(other.listening_addr or first.addr) as measure:
                    assert await measure.is_refused()
            await peer.send(frame(b"hello"))
            await wait_until(lambda: quiet.received)
            assert node.heuristics.idle_timeouts == 0


# A busy handler


async def test_a_slow_handler_delays_its_own_peer_only() -> None:
    user = Echo()
    release = Event()

    async def handle(source: Connection, message: bytes) -> None:
        if message == b"slow":
            await release.wait()

    user.handle = handle
    async with user.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as slow, await RawPeer.dial(addr) as other:
            await slow.send(frame(b"slow") + frame(b"after"))
            await wait_until(lambda: user.received == [b"slow"])
            for _ in range(10):
                await other.send(frame(b"quick"))
                assert await other.receive_message() == b"quick"
            assert b"after" not in user.received
            release.set()
            assert [await slow.receive_message(), await slow.receive_message()] == [b"slow", b"after"]


async def test_backpressure_slows_the_sender_down_and_loses_nothing() -> None:
    sender, receiver = User(), User()
    receiver.handle = gate = Gate()
    messages = [bytes(200_000) + b"%d" % number for number in range(200)]
    async with two_nodes(sender, receiver) as (ours, _):
        queued = []
        with CancelScope() as patience:
            for message in messages:
                patience.deadline = current_time() + 0.5
                queued.append(message)
                await sender.outbox.deliver(ours, message)
        assert patience.cancelled_caught, "40 MB went to somebody who takes none"
        assert receiver.received == messages[:1]
        gate.opened.set()
        await wait_until(lambda: receiver.received == queued, timeout=30)


CUTS = {
    "disconnect": DisconnectOrigin.USER,
    "abort": DisconnectOrigin.USER,
    "reset": DisconnectOrigin.READING,
    "leaving": DisconnectOrigin.SHUTDOWN,
}


@pytest.mark.parametrize("how", CUTS)
async def test_a_busy_handler_is_cancelled_when_its_connection_is_cut(how: str) -> None:
    user = Reader(grace_period=1000.0)
    user.handle = never = Never()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"hello") + frame(b"again"))
            await wait_until(lambda: user.received)
            connection = user.only
            if how == "reset":
                peer.reset()
            elif how == "leaving":
                await node.shut_down()
            else:
                assert await node.disconnect(connection, abort=how == "abort")
            await wait_until(lambda: never.cancelled)
            await wait_until(lambda: user.ended)
    assert (never.begun, never.cancelled) == (1, 1)
    assert user.received == [b"hello"]
    assert user.origins == [CUTS[how]]
    assert isinstance(connection.cause, ConnectionResetError) is (how == "reset")


# A busy handler that others do not wait for


async def test_messages_beyond_the_limit_are_dropped_and_counted() -> None:
    user = Reader(drop_beyond=3)
    user.handle = gate = Gate()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"0"))
            await wait_until(lambda: user.received)
            for number in range(1, 10):
                await peer.send(frame(b"%d" % number))
            await wait_until(lambda: node.heuristics.dropped_messages == 6)
            gate.opened.set()
            await wait_until(lambda: user.received == [b"0", b"1", b"2", b"3"])
            await peer.send(frame(b"10"))
            await wait_until(lambda: user.received[4:] == [b"10"])
            assert node.heuristics.dropped_messages == 6


async def test_a_handler_that_does_not_wait_drops_nothing() -> None:
    user = Reader(drop_beyond=1)
    messages = [b"%d" % number for number in range(10_000)]
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"".join(map(frame, messages)))
            await wait_until(lambda: user.received == messages)
            assert node.heuristics.dropped_messages == 0


async def test_dropping_is_told_at_most_once_a_second(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "pea2pea")
    user = Reader(drop_beyond=1)
    user.handle = Never()
    began = monotonic()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"hello"))
            await wait_until(lambda: user.received)
            for count in range(1, 11):
                await peer.send(frame(b"hello") * 100)
                await wait_until(lambda: node.heuristics.dropped_messages == count * 100 - 1)  # noqa: B023
    told = [record for record in caplog.records if "dropped" in record.getMessage()]
    assert 1 <= len(told) <= 1 + (monotonic() - began)
    assert not above_info(caplog)


async def test_what_waits_is_processed_after_a_clean_close() -> None:
    user = Reader(drop_beyond=3, grace_period=1000.0)
    user.handle = gate = Gate()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"0"))
            await wait_until(lambda: user.received)
            await peer.send(b"".join(frame(b"%d" % number) for number in range(1, 10)))
            await wait_until(lambda: node.heuristics.dropped_messages == 6)
            peer.half_close()
            await turns()
            assert not user.ended
            gate.opened.set()
            await wait_until(lambda: user.origins == [DisconnectOrigin.READING])
    assert user.received == [b"0", b"1", b"2", b"3"]


async def test_invalid_message_beside_a_busy_handler() -> None:
    """An invalid message beside a busy handler ends within the grace period."""
    user = Reader(drop_beyond=3, grace_period=0.1)
    user.codec = lambda: LengthDelimitedCodec(max_length=10)
    user.handle = Never()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"hello"))
            await wait_until(lambda: user.received)
            connection = user.only
            await peer.send(frame(b"again") + frame(bytes(11)))
            await wait_until(lambda: user.origins == [DisconnectOrigin.READING])
            assert isinstance(connection.cause, FrameError)
            assert node.heuristics.decode_errors == 1
