"""Streams of the user's own making, between the node and what it has dialled, accepted or adopted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from anyio import ClosedResourceError, EndOfStream, TypedAttributeLookupError, create_task_group
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.buffered import BufferedByteStream

from pea2pea import Config, Connection, DisconnectOrigin, FrameError, Side

from ..helpers import ALL, RawPeer, User, above_info, frame, frames, memory_pair, two_nodes, wait_until
from .stuck import SMALL_BUFFER
from .tls import SecureUser, wrap

MANY = [bytes(1000) + b"%d" % number for number in range(1000)]
PATIENT = Config(grace_period=1000.0)

Wrapper = Callable[[ByteStream], ByteStream]


class Plain(ByteStream):
    """A stream without attributes, and without an end of one direction."""

    def __init__(self, inner: ByteStream) -> None:
        self.inner = inner

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        return await self.inner.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self.inner.send(item)

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await self.inner.aclose()


class Duck:
    """Something that can be used as a stream, and is nothing more."""

    def __init__(self, inner: ByteStream) -> None:
        self.receive = inner.receive
        self.send = inner.send
        self.aclose = inner.aclose


class Unclosable(Plain):
    """A stream that cannot be closed without trouble."""

    async def aclose(self) -> None:
        await super().aclose()
        raise ValueError("trouble")


class Morsels(Plain):
    """A stream from which nothing comes but a few bytes at a time."""

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        return await self.inner.receive(min(100, max_bytes))


def duck(inner: ByteStream) -> ByteStream:
    return Duck(inner)  # type: ignore[return-value]  # it is none by its type


def wrapped(wrapper: Wrapper, config: Config = PATIENT, *, kind: type[User] = User) -> User:
    """A user that makes such a stream of every one."""
    user = kind(config, enable=ALL)

    async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
        return wrapper(stream)

    user.shake_hands = shake_hands
    return user


any_wrapper = pytest.mark.parametrize("wrapper", [BufferedByteStream, Plain, duck, Unclosable, Morsels])


@any_wrapper
async def test_both_ways_before_an_orderly_end(wrapper: Wrapper) -> None:
    """Messages go both ways and all arrive before an orderly end."""
    one, other = wrapped(wrapper), wrapped(wrapper)
    async with two_nodes(one, other) as (ours, theirs):
        await other.outbox.send(theirs, b"welcome")
        await wait_until(lambda: one.received == [b"welcome"])
        for message in MANY:
            await one.outbox.send(ours, message)
        assert await one.node.disconnect(ours)
        await wait_until(lambda: other.ended, timeout=30)
    assert other.received == MANY
    assert one.origins == [DisconnectOrigin.USER]
    assert other.origins == [DisconnectOrigin.READING]


@any_wrapper
async def test_all_arrives_at_a_peer_that_sends_without_end(wrapper: Wrapper) -> None:
    user = wrapped(wrapper)
    async with user.node as node, create_task_group() as group:
        with await RawPeer.dial(await node.start_listening(), receive_buffer=SMALL_BUFFER) as peer:

            async def chatter() -> None:
                with suppress(OSError, ClosedResourceError):
                    while True:
                        await peer.send(frame(bytes(1000)))

            async def leave() -> None:
                connection = user.only
                for message in MANY:
                    await user.outbox.send(connection, message)
                await node.disconnect(connection)

            await wait_until(lambda: user.connected)
            group.start_soon(chatter)
            group.start_soon(leave)
            data = await peer.receive_exactly(sum(len(frame(message)) for message in MANY))
            assert await peer.receive() == b""
            group.cancel_scope.cancel()
            peer.close()
    assert frames(data) == MANY


async def test_a_stream_without_attributes_has_none() -> None:
    for wrapper in (Plain, duck):
        user = wrapped(wrapper)
        async with user.node as node:
            with await RawPeer.dial(await node.start_listening()):
                await wait_until(lambda: user.connected)  # noqa: B023
                assert user.only.extra(SocketAttribute.raw_socket, None) is None
                with pytest.raises(TypedAttributeLookupError):
                    user.only.extra(SocketAttribute.raw_socket)


class Odd(Plain):
    """A stream that raises what it likes."""

    def __init__(self, inner: ByteStream, receiving: Exception | None, sending: Exception | None) -> None:
        super().__init__(inner)
        self.receiving = receiving
        self.sending = sending

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        data = await super().receive(max_bytes)
        if self.receiving is not None:
            raise self.receiving
        return data

    async def send(self, item: bytes) -> None:
        if self.sending is not None:
            raise self.sending
        await super().send(item)


@pytest.mark.parametrize("error", [ValueError("odd"), LookupError(), OSError(5, "odd"), StopAsyncIteration()])
@pytest.mark.parametrize("doing", ["receiving", "sending"])
async def test_errors_of_streams(error: Exception, doing: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a stream raises ends its connection alone and is no bug."""
    receiving, sending = (error, None) if doing == "receiving" else (None, error)
    user = wrapped(lambda inner: Odd(inner, receiving, sending) if not user.shaken[1:] else inner)
    async with user.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as peer, await RawPeer.dial(addr) as other:
            await wait_until(lambda: len(user.connected) == 2)
            connection = user.shaken[0]
            if doing == "receiving":
                await (peer if connection.addr == peer.addr else other).send(frame(b"hello"))
            else:
                user.outbox.send_nowait(connection, b"hello")
            await wait_until(lambda: user.ended and len(node.connections) == 1)
            expected = DisconnectOrigin.READING if doing == "receiving" else DisconnectOrigin.WRITING
            assert user.ended == [(connection.addr, expected)]
            assert connection.cause is error
            user.outbox.send_nowait(user.only, b"hello")
            assert await (other if connection.addr == peer.addr else peer).receive_message() == b"hello"
        assert node.heuristics.hook_errors == 0
    assert not above_info(caplog)


async def test_a_stream_that_says_nothing_in_place_of_its_end_has_ended() -> None:
    class Silent(Plain):
        async def receive(self, max_bytes: int = 65_536) -> bytes:
            try:
                return await super().receive(max_bytes)
            except EndOfStream:
                return b""

    user = wrapped(Silent)
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: user.connected)
            connection = user.only
            await peer.send(frame(b"hello"))
            peer.half_close()
            await wait_until(lambda: user.origins == [DisconnectOrigin.READING])
            assert user.received == [b"hello"]
            assert connection.cause is None


async def test_a_frame_error_of_a_streams_is_the_peers_nonsense() -> None:
    """A stream may have frames of its own, encrypted ones for instance."""
    error = FrameError("tampered with")
    user = wrapped(lambda inner: Odd(inner, error, None))
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: user.connected)
            connection = user.only
            await peer.send(b"hello")
            await wait_until(lambda: user.origins == [DisconnectOrigin.READING])
            assert connection.cause is error
            assert node.heuristics.decode_errors == 1
            assert node.heuristics.hook_errors == 0


async def test_tls_over_a_stream_in_memory_ends_in_an_orderly_way() -> None:
    user = SecureUser(PATIENT)
    ours, theirs = memory_pair(SMALL_BUFFER)
    async with user.node as node, create_task_group() as group:

        async def talk() -> None:
            connection = await node.adopt(ours, ("memory", 1), Side.RESPONDER)
            for message in MANY:
                await user.outbox.send(connection, message)
            await node.disconnect(connection)

        group.start_soon(talk)
        peer = await wrap(theirs, Side.INITIATOR)
        data = b""
        while len(data) < sum(len(frame(message)) for message in MANY):
            data += await peer.receive()
        with pytest.raises(EndOfStream):
            await peer.receive()
        await peer.aclose()
    assert frames(data) == MANY
    assert user.origins == [DisconnectOrigin.USER]
