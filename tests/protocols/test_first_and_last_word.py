"""`on_connect` comes before the first message, and ends before `on_disconnect` begins, however short the connection."""

from __future__ import annotations

import socket
from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING

import pytest
from anyio.lowlevel import checkpoint
from anyio.streams.buffered import BufferedByteStream

from pea2pea import Config, Connection, DisconnectOrigin, Node, Side

from ..helpers import ALL, RawListener, RawPeer, User, connect, frame, memory_pair, wait_until
from .tls import SecureUser

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream

LIMITS = Config(max_connections=1000, max_connecting=1000)
COMPLETE = ["on_connect begins", "on_connect ends", "on_disconnect begins", "on_disconnect ends"]
either = pytest.mark.parametrize("abortable", [True, False], ids=["abortable", "not abortable"])


class Registry(User):
    """Knows who is online by its two hooks, and notes the order of what happens on each connection."""

    def __init__(self, *, abortable: bool) -> None:
        super().__init__(LIMITS, enable={"reading", "writing", "on_disconnect"})
        self.node.enable_on_connect(self, abortable=abortable)
        self.online: set[Connection] = set()
        self.notes: dict[Connection, list[str]] = defaultdict(list)
        self.greet = self.appear
        self.part = self.disappear

    async def appear(self, connection: Connection) -> None:
        self.online.add(connection)
        await self.note("on_connect", connection)

    async def disappear(self, connection: Connection, _: DisconnectOrigin) -> None:
        self.online.discard(connection)
        await self.note("on_disconnect", connection)

    async def note(self, hook: str, connection: Connection) -> None:
        self.notes[connection].append(f"{hook} begins")
        try:
            await checkpoint()
        finally:
            self.notes[connection].append(f"{hook} ends")


async def peers_that_dial_and_close(user: User) -> None:
    addr = await user.node.start_listening()
    for _ in range(100):
        socket.create_connection(addr).close()  # as a port scanner or a health check does


async def peers_that_are_dialled_and_close(user: User) -> None:
    for _ in range(100):
        with RawListener.open() as listener:
            await user.node.connect(listener.addr)
            (await listener.accept()).close()


async def a_node_that_disconnects_at_once(user: User) -> None:
    async with Node(LIMITS) as peer:
        addr = await peer.start_listening()
        for _ in range(100):
            await user.node.disconnect(await user.node.connect(addr))


async def a_node_that_aborts_at_once(user: User) -> None:
    with RawListener.open() as listener:
        for _ in range(100):
            await user.node.disconnect(await user.node.connect(listener.addr), abort=True)
            (await listener.accept()).close()


@either
@pytest.mark.parametrize(
    "scene",
    [
        peers_that_dial_and_close,
        peers_that_are_dialled_and_close,
        a_node_that_disconnects_at_once,
        a_node_that_aborts_at_once,
    ],
)
async def test_connections_that_end_at_once_leave_nobody_online(
    scene: Callable[[User], Awaitable[None]], abortable: bool
) -> None:
    user = Registry(abortable=abortable)
    async with user.node as node:
        await scene(user)
        await wait_until(lambda: len(user.ended) == 100 and not node.connections)
        assert not user.online
        assert list(user.notes.values()) == [COMPLETE] * 100
    assert node.heuristics.hook_errors == 0


@either
async def test_a_decoder_that_raises_leaves_nobody_online(abortable: bool) -> None:
    """The connection ends before any hook has begun."""

    def fail() -> None:
        raise ZeroDivisionError

    user = Registry(abortable=abortable)
    user.codec = fail  # type: ignore[assignment]  # on purpose
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()):
            await wait_until(lambda: user.ended and not node.connections)
    assert not user.online
    assert list(user.notes.values()) == [COMPLETE]


class Server(User):
    """Sends a banner first, and answers each message."""

    async def on_connect(self, connection: Connection) -> None:
        self.outbox.send_nowait(connection, b"banner")

    async def process_message(self, source: Connection, message: bytes) -> None:
        self.outbox.send_nowait(source, b"answer to " + message)


async def test_a_banner_comes_before_the_first_answer() -> None:
    """The first message is there as soon as the connection."""
    server = Server()
    async with server.node as node:
        addr = await node.start_listening()
        for _ in range(40):
            with socket.create_connection(addr) as eager:
                eager.sendall(frame(b"hello"))
                eager.setblocking(False)
                peer = RawPeer(eager)
                assert await peer.receive_message() == b"banner"
                assert await peer.receive_message() == b"answer to hello"


async def test_banner_before_the_first_answer() -> None:
    """The handshake has read the first message."""
    server = Server(enable=ALL)

    async def shake_hands(_: Connection, stream: ByteStream) -> ByteStream:
        buffered = BufferedByteStream(stream)
        await buffered.receive_until(b"\n", 10)
        return buffered

    server.shake_hands = shake_hands
    async with server.node as node:
        addr = await node.start_listening()
        for _ in range(40):
            with await RawPeer.dial(addr) as peer:
                await peer.send(b"hello\n" + frame(b"hello"))
                assert await peer.receive_message() == b"banner"
                assert await peer.receive_message() == b"answer to hello"


class SecureServer(SecureUser, Server):
    """The same over TLS."""


async def test_a_banner_comes_first_over_tls() -> None:
    server, client = SecureServer(), SecureUser()
    client.greet = lambda connection: client.outbox.send(connection, b"hello")
    async with server.node, client.node:
        for _ in range(10):
            client.received.clear()
            ours, _theirs = await connect(client, server)
            await wait_until(lambda: len(client.received) == 2)
            assert client.received == [b"banner", b"answer to hello"]
            await client.node.disconnect(ours)


@pytest.mark.parametrize("side", Side)
async def test_a_banner_comes_first_over_an_adopted_stream(side: Side) -> None:
    server = Server()
    async with server.node as node:
        for number in range(1, 41):
            near, far = memory_pair()
            async with far:
                await far.send(frame(b"hello"))
                await node.adopt(near, ("in memory", number), side)
                whole = BufferedByteStream(far)
                for expected in (b"banner", b"answer to hello"):
                    assert await whole.receive_exactly(4 + len(expected)) == frame(expected)


async def test_messages_are_processed_beside_an_on_connect_that_waits() -> None:
    user = User()
    notes: list[str] = []

    async def note(what: str, *_: object) -> None:
        notes.append(what)

    async def greet(_: Connection) -> None:
        notes.append("on_connect")
        await wait_until(lambda: len(notes) == 2)

    user.greet = greet
    user.handle = partial(note, "process_message")
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"hello"))
            await wait_until(lambda: notes == ["on_connect", "process_message"])
