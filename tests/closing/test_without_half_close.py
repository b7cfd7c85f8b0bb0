"""An orderly end over an adopted stream that has no half-close and is not the library's own.

The peer cannot be told of the end before all has arrived. It reads slowly and answers meanwhile: an answer that meets a
closed socket is a reset, which destroys what the peer has not read yet.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from anyio import connect_tcp, create_task_group, sleep_forever
from anyio.streams.tls import TLSStream

from pea2pea import Config, Connection, DisconnectOrigin, NodeError, Side
from pea2pea.testing import wait_until

from ..helpers import ALL, LOCALHOST, Opaque, RawListener, User, frame, turns
from ..protocols.test_streams import Plain
from ..protocols.tls import HOSTNAME, context

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from pea2pea import Address

MANY = [b"%04d" % number + bytes(4092) for number in range(1000)]
PATIENT = Config(grace_period=1000.0)
HASTY = Config(grace_period=0.2)

LOTS = 20_000_000  # bytes, more than the buffers on the way hold

any_kind = pytest.mark.parametrize("kind", ["TLS", "a socket that can be reached", "a hidden socket"])


class Answering(User):
    """A slow user that answers each message, and ends a connection that needs it after the last one."""

    def __init__(self, kind: str) -> None:
        super().__init__(PATIENT, enable=ALL if kind == "TLS" else ALL - {"handshake"})
        self.kind = kind
        self.handle = self.answer
        self.shake_hands = secure

    async def answer(self, source: Connection, message: bytes) -> None:
        await turns(5)
        with suppress(NodeError):
            self.outbox.send_nowait(source, b"an answer")
        if message == MANY[-1] and self.kind == "a hidden socket":
            await self.node.disconnect(source)


async def secure(connection: Connection, stream: ByteStream) -> ByteStream:
    return await TLSStream.wrap(
        stream, server_side=True, ssl_context=context(Side.RESPONDER), standard_compatible=False
    )


async def dial(kind: str, addr: Address) -> ByteStream:
    """A stream of AnyIO's without half-close, of that kind."""
    stream = await connect_tcp(*addr)
    if kind == "TLS":
        return await TLSStream.wrap(
            stream, hostname=HOSTNAME, ssl_context=context(Side.INITIATOR), standard_compatible=False
        )
    return Plain(stream) if kind == "a hidden socket" else Opaque(stream)


@any_kind
@pytest.mark.parametrize("leaving", ["disconnect", "shutdown"])
async def test_all_that_was_sent_arrives(kind: str, leaving: str) -> None:
    sender, receiver = User(PATIENT), Answering(kind)
    async with receiver.node, sender.node as node:
        connection = await node.adopt(
            await dial(kind, await receiver.node.start_listening()), (kind, 1), Side.INITIATOR
        )
        for message in MANY:
            await sender.outbox.send(connection, message)
        assert len(receiver.received) < len(MANY)
        if leaving == "disconnect":
            assert await node.disconnect(connection)
        else:
            await node.shut_down()
        await wait_until(lambda: receiver.ended, timeout=30)
        assert receiver.received == MANY
        assert connection.stats.messages_sent == len(MANY)
        assert node.heuristics.unsent_messages == 0
        assert receiver.node.heuristics.unprocessed_bytes == 0
    assert sender.origins == [DisconnectOrigin.USER if leaving == "disconnect" else DisconnectOrigin.SHUTDOWN]


@any_kind
@pytest.mark.parametrize("size", [1000, 100_000])
async def test_peer_that_reads_nothing(kind: str, size: int, caplog: pytest.LogCaptureFixture) -> None:
    """What a peer that reads nothing does not take is counted and told."""
    caplog.set_level("INFO", "pea2pea")
    sender, receiver = User(HASTY, enable=()), Answering(kind)
    outbox = sender.node.enable_writing(sender, queue_bytes=2 * LOTS, queue_depth=LOTS)

    async def wait(source: Connection, message: bytes) -> None:
        await sleep_forever()

    receiver.handle = wait
    async with receiver.node, sender.node as node:
        stream = await dial(kind, await receiver.node.start_listening())
        connection = await node.adopt(stream, (kind, 1), Side.INITIATOR)
        accepted = LOTS // size
        for _ in range(accepted):
            outbox.send_nowait(connection, bytes(size))
        assert await node.disconnect(connection)
        lost = accepted - connection.stats.messages_sent
        assert lost > 0
        assert node.heuristics.unsent_messages == lost
        (record,) = [record for record in caplog.records if "queued messages were given up" in record.getMessage()]
        assert record.getMessage().endswith(f"{lost} of them")
        await receiver.node.disconnect(receiver.only, abort=True)


@pytest.mark.parametrize("kind", ["TLS", "a socket that can be reached"])
async def test_a_silent_peer_does_not_hold_its_slot_for_the_whole_grace(kind: str) -> None:
    sender, receiver = User(PATIENT), Answering(kind)
    async with receiver.node, sender.node as node:
        connection = await node.adopt(
            await dial(kind, await receiver.node.start_listening()), (kind, 1), Side.INITIATOR
        )
        await sender.outbox.deliver(connection, MANY[0])
        await wait_until(lambda: sender.received)
        assert await node.disconnect(connection)
        assert not node.connections


async def test_hidden_socket() -> None:
    """Nothing tells whether the peer has read what was sent, so nothing but its end tells that it may be closed."""
    sender, receiver = User(HASTY), Answering("a silent peer")
    async with receiver.node, sender.node as node, create_task_group() as tasks:
        addr = await receiver.node.start_listening()
        for by_peer in (False, True):
            connection = await node.adopt(await dial("a hidden socket", addr), (LOCALHOST, 1), Side.INITIATOR)
            await sender.outbox.deliver(connection, MANY[0])
            await wait_until(lambda: sender.received)
            if by_peer:
                tasks.start_soon(receiver.node.disconnect, receiver.only)
            assert await node.disconnect(connection) or by_peer
            sender.received.clear()
            await wait_until(lambda: not receiver.node.connections)
    assert receiver.received == [MANY[0]] * 2


@pytest.mark.parametrize("size", [1, 50_000])
async def test_end_below_the_wrapper(size: int) -> None:
    """The peer is told of the end before the close, and may answer that: no reset destroys what it has not read."""
    user = User(PATIENT)
    async with user.node as node:
        with RawListener.open() as listener:
            connection = await node.adopt(Opaque(await connect_tcp(*listener.addr)), listener.addr, Side.INITIATOR)
            with await listener.accept() as peer:
                await user.outbox.send(connection, b"the last word")
                node.start_soon(node.disconnect, connection)
                assert await peer.receive_all() == frame(b"the last word")
                for _ in range(10):
                    await peer.send(bytes(size))
                    await turns()
                assert connection in node.connections.values()
            await connection.wait_closed()
