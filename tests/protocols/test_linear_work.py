"""Work grows in proportion to what is sent and to how many wait: operations are counted, and no time is measured."""

from __future__ import annotations

import platform
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import CancelScope, create_task_group
from anyio.lowlevel import cancel_shielded_checkpoint

from pea2pea import Config, Connection, NotConnectedError, Side, _queue
from pea2pea._session import Session
from pea2pea.codecs import LengthDelimitedCodec
from pea2pea.protocols import writing
from pea2pea.transport import TCPStream

from ..helpers import LOCALHOST, RawListener, RawPeer, User, frame, memory_pair, wait_until
from .outgoing import Sender
from .stuck import stuck_peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pea2pea.codecs import Chunk

SMALL = b"a" * 100
LARGE = bytes(writing.LARGE)


class CountingStream(TCPStream):
    """A stream that counts the parts of all calls: the list of them is gone through, and copied, in each."""

    __slots__ = ("parts",)

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.parts = 0

    def send_nowait(self, parts: list[Chunk]) -> list[Chunk]:
        self.parts += len(parts)
        return super().send_nowait(parts)


class Parts(LengthDelimitedCodec):
    """Sends messages that are parts joined by nothing, without joining them."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__(max_length=1 << 30)
        self.pieces = tuple(pieces)

    def encode(self, message: Chunk, /) -> tuple[Chunk, ...]:
        return (message, *self.pieces)


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize(
    "pieces", [[SMALL] * 10_000, [SMALL] * 400_000, [SMALL, LARGE] * 100, [b""] * 100_000], ids=len
)
async def test_a_frame_of_many_parts_is_gone_through_once(pieces: list[bytes], queued: bool) -> None:
    user = User(enable=(), codec=lambda: Parts(pieces))
    user.outbox = user.node.enable_writing(user, queue_bytes=1 << 30)
    expected = b"begin" + b"".join(pieces)
    async with user.node as node:
        with RawListener.open() as listener:
            dialled = await RawPeer.dial(listener.addr)
            stream = CountingStream(dialled.sock)
            connection = await node.adopt(stream, listener.addr, Side.INITIATOR)
            with await listener.accept() as peer:
                copies = 2 if queued else 1
                for _ in range(copies):
                    user.outbox.send_nowait(connection, b"begin")
                received = bytearray()
                while len(received) < copies * len(expected):
                    received += await peer.receive(1 << 20)
                assert received == copies * expected
    assert stream.parts < 50 * copies + 5 * copies * pieces.count(LARGE)


class CountingEvent:
    """An event that counts how often any of its kind is used, compared or looked up."""

    used = 0

    def __init__(self) -> None:
        self.event = anyio.Event()

    def count(self) -> None:
        CountingEvent.used += 1

    def set(self) -> None:
        self.count()
        self.event.set()

    async def wait(self) -> None:
        self.count()
        await self.event.wait()

    def __eq__(self, other: object) -> bool:
        self.count()
        return self is other

    def __hash__(self) -> int:
        self.count()
        return id(self)


async def end_by_abort(sender: Sender, connection: Connection, _: list[CancelScope]) -> None:
    await sender.node.disconnect(connection, abort=True)


async def cancel_the_last_first(_: Sender, __: Connection, scopes: list[CancelScope]) -> None:
    for scope in reversed(scopes):
        scope.cancel()
        await cancel_shielded_checkpoint()


async def cancel_in_any_order(_: Sender, __: Connection, scopes: list[CancelScope]) -> None:
    for scope in Random(0).sample(scopes, len(scopes)):
        scope.cancel()


@pytest.mark.parametrize("end", [end_by_abort, cancel_the_last_first, cancel_in_any_order])
@pytest.mark.parametrize("count", [500, 4000])
async def test_many_waiting_senders_are_let_go_one_by_one(
    count: int, end: Callable[[Sender, Connection, list[CancelScope]], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, scopes, waiting = Sender(queue_depth=1), [CancelScope() for _ in range(count)], 0

    async def send(scope: CancelScope) -> None:
        nonlocal waiting
        waiting += 1
        with scope, suppress(NotConnectedError):
            await sender.outbox.send(connection, b"hello")
        waiting -= 1

    async with stuck_peer(sender, "memory") as peer, create_task_group() as tasks:
        connection = peer.connection
        monkeypatch.setattr(_queue, "Event", CountingEvent)
        CountingEvent.used = 0
        for scope in scopes:
            tasks.start_soon(send, scope)
        await wait_until(lambda: waiting == count and CountingEvent.used >= count)
        await end(sender, connection, scopes)
        await wait_until(lambda: waiting == 0)
        await sender.node.disconnect(connection, abort=True)
    assert CountingEvent.used < 20 * count


@pytest.mark.parametrize("count", [100, 400])
async def test_many_hooks_that_shut_the_node_down(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection is told once, however many ask for that."""
    told = 0

    def end(self: Session, *args: Any, **options: Any) -> bool:
        nonlocal told
        told += 1
        return ended(self, *args, **options)

    async def part(_: Connection, __: object) -> None:
        await user.node.shut_down()

    ended = Session.end
    monkeypatch.setattr(Session, "end", end)
    user = User(Config(max_connections=count), enable={"on_disconnect"})
    user.part = part
    async with user.node as node, AsyncExitStack() as peers:
        for number in range(count):
            ours, theirs = memory_pair()
            await node.adopt(ours, (f"peer {number}", 1), Side.RESPONDER)
            await peers.enter_async_context(theirs)
        await peers.aclose()
        await node.wait_closed()
    assert len(user.ended) == count
    assert told < 5 * count


RECEIVER = """
import resource, sys
import anyio
from pea2pea import Node
from pea2pea.codecs import LengthDelimitedCodec

class Sink:
    count, faults = 0, 0

    def decoder(self, connection):
        return LengthDelimitedCodec()

    async def process_message(self, source, message):
        self.count += 1
        if self.count == 20:
            self.faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    async def on_disconnect(self, connection, origin):
        self.ended.set()

async def main():
    node, sink = Node(), Sink()
    sink.ended = anyio.Event()
    node.enable_reading(sink)
    node.enable_on_disconnect(sink)
    async with node:
        print((await node.start_listening())[1], flush=True)
        await sink.ended.wait()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - sink.faults
        print(sink.count, faults / (sink.count - 20))

anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in their own ways")
@pytest.mark.parametrize("size", [300_000, 1024 * 1024, 2 * 1024 * 1024])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_memory_of_large_frames_is_not_had_anew_for_each(size: int, backend: str) -> None:
    """Or else each 4 KiB of a frame costs a page fault, and a frame takes up to four times as long."""
    command = [sys.executable, "-c", RECEIVER, backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:  # noqa: S603  # our own program
        assert receiver.stdout is not None
        with socket.create_connection((LOCALHOST, int(receiver.stdout.readline()))) as sock:
            for _ in range(220):
                sock.sendall(frame(bytes(size)))
        count, faults = receiver.stdout.readline().split()
    assert int(count) == 220
    assert float(faults) < size / 4096 / 8
