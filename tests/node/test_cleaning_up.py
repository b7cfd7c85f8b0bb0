"""Hundreds of connections later, everything is as it was: tasks, descriptors, memory."""

from __future__ import annotations

import gc
import logging
import tracemalloc
from typing import TYPE_CHECKING

import anyio
import pytest

from pea2pea import Config, HandshakeError, Side

from ..helpers import (
    ALL,
    Echo,
    RawPeer,
    User,
    descriptors,
    frame,
    memory_pair,
    running_tasks,
    start_poller,
    turns,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from anyio.abc import ByteStream

    from pea2pea import Address, Connection, Node

WARMING = 60
SLACK = 100_000  # bytes; one connection that is kept has five thousand at least


class Scene:
    """A node, and one that dials it."""

    def __init__(self) -> None:
        self.user, self.peer = Echo(enable=ALL), User(enable=ALL)
        self.addr: Address = ("", 0)
        self.count = 0

    @property
    def nodes(self) -> list[Node]:
        return [self.user.node, self.peer.node]

    async def connected(self) -> Connection:
        connection = await self.peer.node.connect(self.addr)
        self.peer.outbox.send_nowait(connection, b"hello")
        return connection

    async def all_gone(self) -> None:
        await wait_until(lambda: not any(node.connections or node.connecting for node in self.nodes))
        for user in self.user, self.peer:  # their notes are no leaks
            for notes in user.shaken, user.received, user.sources, user.connected, user.ended:
                notes.clear()

    async def the_dialler_leaves(self) -> None:
        await self.peer.node.disconnect(await self.connected())

    async def the_dialled_leaves(self) -> None:
        await self.connected()
        await wait_until(lambda: self.user.node.connections)
        await self.user.node.disconnect(self.user.only)

    async def the_dialler_aborts(self) -> None:
        await self.peer.node.disconnect(await self.connected(), abort=True)

    async def a_raw_peer_closes(self) -> None:
        with await RawPeer.dial(self.addr) as peer:
            await peer.send(frame(b"hello"))
            assert await peer.receive_message() == b"hello"

    async def a_raw_peer_resets(self) -> None:
        with await RawPeer.dial(self.addr) as peer:
            await peer.send(frame(b"hello") + frame(b"half of this")[:8])
            await wait_until(lambda: self.user.received)
            peer.reset()

    async def a_raw_peer_sends_nonsense(self) -> None:
        with await RawPeer.dial(self.addr) as peer:
            await peer.send(b"\xff" * 100)
            assert await peer.is_refused()

    async def a_handler_fails(self) -> None:
        async def fail(*_: object) -> None:
            raise ZeroDivisionError("a bug")

        self.user.handle = fail
        await self.connected()
        await wait_until(lambda: self.user.ended)
        self.user.handle = User().handle

    async def a_handshake_fails(self) -> None:
        accept = self.peer.shake_hands

        async def refuse(*_: object) -> ByteStream:
            raise PermissionError("not you")

        self.peer.shake_hands = refuse
        with pytest.raises(HandshakeError):
            await self.peer.node.connect(self.addr)
        self.peer.shake_hands = accept

    async def nobody_listens(self) -> None:
        with pytest.raises(ConnectionRefusedError):
            await self.peer.node.connect((self.addr[0], 1))

    async def a_stream_is_adopted(self) -> None:
        ours, theirs = memory_pair()
        connection = await self.user.node.adopt(ours, ("a name", 7), Side.RESPONDER)
        await theirs.send(frame(b"hello"))
        assert await theirs.receive() == frame(b"hello")
        await theirs.aclose()
        await self.user.node.disconnect(connection)

    async def it_stops_listening_and_starts_again(self) -> None:
        await self.user.node.stop_listening()
        self.addr = await self.user.node.start_listening()


WAYS = [
    Scene.the_dialler_leaves,
    Scene.the_dialled_leaves,
    Scene.the_dialler_aborts,
    Scene.a_raw_peer_closes,
    Scene.a_raw_peer_resets,
    Scene.a_raw_peer_sends_nonsense,
    Scene.a_handler_fails,
    Scene.a_handshake_fails,
    Scene.nobody_listens,
    Scene.a_stream_is_adopted,
    Scene.it_stops_listening_and_starts_again,
]


@pytest.fixture
async def scene(caplog: pytest.LogCaptureFixture) -> AsyncGenerator[Scene]:
    caplog.set_level(logging.CRITICAL, "pea2pea")  # captured records keep tracebacks
    scene = Scene()
    async with scene.user.node, scene.peer.node:
        scene.addr = await scene.user.node.start_listening()
        for node in (scene.user.node, scene.peer.node):
            start_poller(node)
        yield scene


async def leaves_nothing(scene: Scene, ways: Sequence[Callable[[Scene], Awaitable[None]]], count: int) -> None:
    async def repeat(times: int) -> tuple[set[str], int, int]:
        memory: list[int] = []
        for number in range(times):
            await ways[number % len(ways)](scene)
            await scene.all_gone()
            if number % 5 == 0 and number > 0.7 * times:
                gc.collect()
                memory.append(tracemalloc.get_traced_memory()[0])
        await turns()
        # the least, since trio keeps a thousand deadlines that were called off before it lets go of them all at once
        return running_tasks(), descriptors(), min(memory)

    tracemalloc.start()
    try:
        tasks, files, memory = await repeat(WARMING)
        found = await repeat(count)
    finally:
        tracemalloc.stop()
    assert found[0] == tasks
    assert found[1] == files
    assert found[2] - memory < SLACK


async def test_hundreds_of_connections_leave_nothing(scene: Scene) -> None:
    await leaves_nothing(scene, WAYS, 220)


@pytest.mark.stress
async def test_a_thousand_connections_leave_nothing(scene: Scene) -> None:
    await leaves_nothing(scene, WAYS, 1000)


@pytest.mark.stress
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_thousands_of_connections_of_one_kind_leave_nothing(
    scene: Scene, way: Callable[[Scene], Awaitable[None]]
) -> None:
    await leaves_nothing(scene, [way], 5000)


async def test_a_hundred_nodes_leave_nothing() -> None:
    async def live() -> None:
        user, peer = User(Config(max_connections=3)), User()
        async with user.node, peer.node:
            connection = await peer.node.connect(await user.node.start_listening())
            await peer.outbox.deliver(connection, b"hello")

    async def repeat(times: int) -> tuple[set[str], int, int]:
        for _ in range(times):
            await live()
        await anyio.lowlevel.checkpoint()
        gc.collect()
        return running_tasks(), descriptors(), tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        tasks, files, memory = await repeat(20)
        found = await repeat(100)
    finally:
        tracemalloc.stop()
    assert found[:2] == (tasks, files)
    assert found[2] - memory < SLACK
