"""Batches and headers between a node and a peer: what a list counts as, and what a bad frame or a bug ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from anyio import Event

from pea2pea import Config, Connection, DisconnectOrigin, FrameError, Node
from pea2pea.codecs import Codec, HeaderCodec, LinesCodec, batched, mapped
from pea2pea.testing import wait_until

from ..helpers import RawPeer

if TYPE_CHECKING:
    from collections.abc import Callable


class Receiver:
    """Keeps what a decoder makes of a peer's bytes; its handler can be held up."""

    def __init__(self, make_codec: Callable[[], Codec[Any]], *, drop_beyond: int | None = None) -> None:
        self.make_codec = make_codec
        self.received: list[Any] = []
        self.ended: list[tuple[DisconnectOrigin, Exception | None]] = []
        self.go_on = Event()
        self.go_on.set()
        self.node = Node(Config(grace_period=1.0))
        self.node.enable_reading(self, drop_beyond=drop_beyond)
        self.outbox = self.node.enable_writing(self)
        self.node.enable_on_disconnect(self)

    def decoder(self, connection: Connection) -> Codec[Any]:
        return self.make_codec()

    encoder = decoder

    async def process_message(self, source: Connection, message: Any) -> None:
        self.received.append(message)
        await self.go_on.wait()

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        self.ended.append((origin, connection.cause))


def batches_of_lines() -> Codec[list[str]]:
    return batched(LinesCodec(), at_most=3)


async def test_a_batch_is_one_message_and_is_sent_as_its_frames() -> None:
    user = Receiver(batches_of_lines)
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"a\nb\nc\nd\n")
            await wait_until(lambda: user.received == [["a", "b", "c"], ["d"]])
            await wait_until(lambda: node.stats.messages_received == 2)
            (connection,) = node.connections.values()
            await user.outbox.deliver(connection, ["x", "y" * 20_000, "z"])
            assert await peer.receive_exactly(20_005) == b"x\n" + b"y" * 20_000 + b"\nz\n"
            await wait_until(lambda: node.stats.messages_sent == 1)


@pytest.mark.parametrize("in_one_chunk", [True, False])
async def test_batches_beyond_the_limit_are_dropped_and_counted(in_one_chunk: bool) -> None:
    user = Receiver(batches_of_lines, drop_beyond=2)
    user.go_on = Event()
    batch = b"a\nb\nc\n"
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(batch)
            await wait_until(lambda: user.received)
            for chunk in [batch * 5] if in_one_chunk else [batch] * 5:
                await peer.send(chunk)
            await wait_until(lambda: node.heuristics.dropped_messages >= 3)
            user.go_on.set()
            await wait_until(lambda: len(user.received) == 3)
            await peer.send(b"last\n")
            await wait_until(lambda: user.received[-1] == ["last"])
            lines = [line for received in user.received for line in received]
            assert lines == ["a", "b", "c"] * 3 + ["last"]
            assert node.heuristics.dropped_messages == 3


@pytest.mark.parametrize("bad", [b"x\n", b"\xff\n"])
async def test_the_batch_before_a_bad_frame_is_processed(bad: bytes) -> None:
    user = Receiver(lambda: batched(mapped(LinesCodec(), decode=int, encode=str)))
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"1\n2\n" + bad + b"3\n")
            await wait_until(lambda: user.ended)
        assert user.received == [[1, 2]]
        ((origin, cause),) = user.ended
        assert origin is DisconnectOrigin.READING
        assert isinstance(cause, FrameError)
        assert (node.heuristics.decode_errors, node.heuristics.hook_errors) == (1, 0)


@pytest.mark.parametrize("bug", [NameError("typo"), AttributeError("typo"), NotImplementedError("later")])
async def test_a_bug_in_a_mapped_function_is_told_as_one(bug: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def fail(line: str) -> str:
        raise bug

    user = Receiver(lambda: mapped(LinesCodec(), decode=fail, encode=str))
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"1\n")
            await wait_until(lambda: user.ended)
        assert (node.heuristics.decode_errors, node.heuristics.hook_errors) == (0, 1)
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert repr(bug) in record.getMessage()


@pytest.mark.parametrize("bad", [b"AX\x01", b"AB\xff"])
async def test_headers_good_and_bad(bad: bytes) -> None:
    """A bad header ends the connection and a good one comes with its payload."""

    def length(header: bytes) -> int:
        if not header.startswith(b"AB"):
            raise ValueError("no magic")
        return int.from_bytes(header[2:], "big", signed=True)

    user = Receiver(lambda: HeaderCodec(3, length))
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"AB\x02x")
            await peer.send(b"yAB\0" + bad)
            await wait_until(lambda: user.ended)
        assert user.received == [(b"AB\x02", b"xy"), (b"AB\0", b"")]
        assert user.ended[0][0] is DisconnectOrigin.READING
        assert node.heuristics.decode_errors == 1
