"""Connections over TLS: what differs from TCP, above all how they end (RFC 8446, section 6.1)."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, create_task_group
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSStream

from pea2pea import Config, Connection, DisconnectOrigin, HandshakeError, Side, TCPTransport

from ..helpers import RawPeer, User, frame, frames, turns, two_nodes, wait_until
from ..protocols.stuck import SMALL_BUFFER
from ..protocols.tls import SecureUser, wrap

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import ByteStream

MANY = [b"%d" % number for number in range(1000)]


@asynccontextmanager
async def a_peer(user: User) -> AsyncGenerator[TLSStream]:
    """Enter the user's node, and dial it; without the library, and with little room for what comes."""
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening(), receive_buffer=SMALL_BUFFER) as raw:
            stream = await wrap(TCPTransport.wrap(raw.sock), Side.INITIATOR)
            await wait_until(lambda: node.connections)
            yield stream


async def read_all(stream: TLSStream) -> list[bytes]:
    """All messages until the peer's goodbye; an end without one is an error."""
    data = b""
    while True:
        try:
            data += await stream.receive()
        except EndOfStream:
            return frames(data)


async def test_messages_go_both_ways() -> None:
    one, other = SecureUser(), SecureUser()
    async with two_nodes(one, other) as (ours, theirs):
        for number in range(100):
            one.outbox.send_nowait(ours, b"%d" % number)
            other.outbox.send_nowait(theirs, b"%d" % number)
        expected = [b"%d" % number for number in range(100)]
        await wait_until(lambda: one.received == other.received == expected)
        assert ours.stats.bytes_sent == sum(len(frame(message)) for message in expected)
        assert theirs.stats.bytes_received == ours.stats.bytes_sent


async def test_a_message_of_many_records_arrives() -> None:
    one, other = SecureUser(), SecureUser()
    message = bytes(range(256)) * 16_384
    async with two_nodes(one, other) as (ours, _):
        await one.outbox.deliver(ours, message)
        await wait_until(lambda: other.received == [message])


async def test_attributes_through_tls() -> None:
    """The attributes of the session and of the socket can be reached."""
    one, other = SecureUser(), SecureUser()
    async with two_nodes(one, other) as (ours, theirs):
        assert ours.extra(TLSAttribute.tls_version) == "TLSv1.3"
        assert ours.extra(TLSAttribute.peer_certificate) is not None
        assert theirs.extra(TLSAttribute.server_side)
        assert ours.extra(SocketAttribute.remote_address) == ours.addr


async def test_a_certificate_that_is_not_trusted_connects_nobody() -> None:
    distrustful, other = SecureUser(), SecureUser()

    async def check(connection: Connection, stream: ByteStream) -> ByteStream:
        return await TLSStream.wrap(stream, server_side=False, hostname="peer.example")

    distrustful.shake_hands = check
    async with other.node, distrustful.node:
        with pytest.raises(HandshakeError) as failure:
            await distrustful.node.connect(await other.node.start_listening())
        assert isinstance(failure.value.__cause__, ssl.SSLCertVerificationError)
        await wait_until(lambda: other.node.heuristics.handshake_failures)
        await wait_until(lambda: not other.node.connecting)
        assert not other.connected
        assert not distrustful.connected
        assert distrustful.node.heuristics.handshake_failures == 1
        assert not distrustful.node.connections
        assert not other.node.connections


async def test_a_goodbye_is_said_and_answered() -> None:
    user = SecureUser(Config(grace_period=1000.0))
    async with a_peer(user) as stream, create_task_group() as group:
        for message in MANY:
            await user.outbox.send(user.only, message)
        group.start_soon(user.node.disconnect, user.only)
        assert await read_all(stream) == MANY
        await stream.aclose()
    assert user.origins == [DisconnectOrigin.USER]


async def test_unanswered_goodbye() -> None:
    """A goodbye that is never answered is given up when the grace is over."""
    user = SecureUser(Config(grace_period=0.3))
    async with a_peer(user) as stream:
        for message in MANY:
            await user.outbox.send(user.only, message)
        assert await user.node.disconnect(user.only)
        assert not user.node.connections
        assert await read_all(stream) == MANY


async def test_all_arrives_at_a_peer_that_sends_without_end() -> None:
    user = SecureUser(Config(grace_period=1000.0))
    messages = [bytes(1000) + message for message in MANY]
    async with a_peer(user) as stream, create_task_group() as group:

        async def chatter() -> None:
            with suppress(BrokenResourceError, ClosedResourceError):
                while True:
                    await stream.send(frame(bytes(1000)))

        async def leave() -> None:
            for message in messages:
                await user.outbox.send(connection, message)
            await user.node.disconnect(connection)

        connection = user.only
        group.start_soon(chatter)
        group.start_soon(leave)
        assert await read_all(stream) == messages
        await stream.transport_stream.aclose()


async def test_a_goodbye_is_a_clean_close() -> None:
    user = SecureUser()
    async with a_peer(user) as stream:
        connection = user.only
        await stream.send(frame(b"hello"))
        await stream.aclose()
        await wait_until(lambda: user.origins == [DisconnectOrigin.READING])
        assert user.received == [b"hello"]
        assert connection.cause is None


async def test_an_end_without_goodbye_is_a_reset() -> None:
    user = SecureUser()
    async with a_peer(user) as stream:
        connection = user.only
        await stream.send(frame(b"hello"))
        await wait_until(lambda: user.received == [b"hello"])
        await stream.transport_stream.aclose()
        await wait_until(lambda: user.origins == [DisconnectOrigin.READING])
        assert isinstance(connection.cause, BrokenResourceError)


async def test_records_that_were_tampered_with_end_the_connection() -> None:
    user = SecureUser()
    async with a_peer(user) as stream:
        connection = user.only
        await stream.transport_stream.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        await wait_until(lambda: user.origins == [DisconnectOrigin.READING])
        assert isinstance(connection.cause, ssl.SSLError)
        assert user.node.heuristics.hook_errors == 0


async def test_what_a_peer_sent_before_its_goodbye_is_processed() -> None:
    user = SecureUser(Config(grace_period=1000.0))

    async def take_a_while(source: Connection, message: bytes) -> None:
        await turns(3)

    user.handle = take_a_while
    async with a_peer(user) as stream:
        await stream.send(b"".join(map(frame, MANY)))
        await stream.aclose()
        await wait_until(lambda: user.ended)
    assert user.received == MANY
