"""One connection has one context (PEP 567), and only the task that runs a hook is inside of it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

import anyio
import pytest

from pea2pea import Connection, DisconnectOrigin, Side

from ..helpers import ALL, RawPeer, User, connect, frame, turns, two_nodes, wait_until

if TYPE_CHECKING:
    from anyio.abc import ByteStream, TaskGroup

count: ContextVar[int] = ContextVar("count", default=0)
who: ContextVar[str] = ContextVar("who", default="nobody")


class Watching(User):
    """Notes in each hook what the context says, and counts there."""

    def __init__(self) -> None:
        super().__init__(enable=ALL)
        self.seen: list[tuple[str, str, int]] = []
        self.in_background: list[int] = []
        self.shake_hands = self.introduce
        self.handle = self.work
        self.greet = self.welcome
        self.part = self.leave

    def note(self, hook: str) -> None:
        count.set(count.get() + 1)
        self.seen.append((hook, who.get(), count.get()))

    async def introduce(self, connection: Connection, stream: ByteStream) -> ByteStream:
        who.set(f"peer of the {connection.side.value}")
        self.note("perform_handshake")
        return stream

    async def welcome(self, connection: Connection) -> None:
        self.note("on_connect")

    async def work(self, source: Connection, message: bytes) -> None:
        self.note("process_message")
        if message == b"wait":  # the other reader goes on meanwhile
            await turns()
        if message == b"start a task":
            source.start_soon(self.background)

    async def background(self) -> None:
        count.set(count.get() + 100)
        self.in_background.append(count.get())

    async def leave(self, connection: Connection, origin: DisconnectOrigin) -> None:
        self.note("on_disconnect")


@pytest.mark.parametrize("side", Side)
async def test_what_one_hook_sets_the_next_one_sees(side: Side) -> None:
    """Also across handlers that wait, which the two readers call in turn; a background task has a copy."""
    user, peer = Watching(), User(enable=ALL)
    pair = (user, peer) if side is Side.INITIATOR else (peer, user)
    async with two_nodes(*pair) as ends:
        ours, theirs = ends if side is Side.INITIATOR else ends[::-1]
        await wait_until(lambda: user.connected)
        messages = [b"wait", b"plain", b"wait", b"wait", b"start a task", b"plain", b"wait", b"plain"]
        for message in messages:
            await peer.outbox.deliver(theirs, message)
            await turns(4)  # fewer than a handler waits: some come while one does
        await wait_until(lambda: len(user.received) == len(messages) and user.in_background)
        await user.node.disconnect(ours)
    hooks = ["perform_handshake", "on_connect", *["process_message"] * len(messages), "on_disconnect"]
    name = f"peer of the {side.value}"
    assert user.seen == [(hook, name, number) for number, hook in enumerate(hooks, 1)]
    assert user.in_background[0] > 100
    assert (who.get(), count.get()) == ("nobody", 0)


async def test_handlers_that_wait_between_messages_share_the_context() -> None:
    """One chunk after the other, each while a handler waits."""
    user = Watching()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            for number in range(1, 7):
                await peer.send(frame(b"wait"))
                await wait_until(lambda number=number: len(user.received) == number)  # type: ignore[misc]  # mypy #4226
            peer.half_close()
            await peer.receive_all()
        await wait_until(lambda: user.ended)
    assert [number for *_, number in user.seen] == list(range(1, len(user.seen) + 1))


class Starter(User):
    """Starts a task in its user's own task group, in one of its hooks."""

    def __init__(self, hook: str, tasks: TaskGroup) -> None:
        super().__init__()
        self.tasks = tasks
        self.go = anyio.Event()
        self.notes: list[object] = []
        if hook == "process_message":
            self.handle = self.start
        elif hook == "on_connect":
            self.greet = self.start
        else:
            self.part = self.start

    async def start(self, connection: Connection, *_: object) -> None:
        if not self.notes:
            self.notes.append("started")
            self.tasks.start_soon(self.act, connection)

    async def act(self, connection: Connection) -> None:
        raise NotImplementedError


class Disconnecting(Starter):
    async def act(self, connection: Connection) -> None:
        await self.go.wait()
        self.notes.append(await self.node.disconnect(connection))
        self.notes.append(connection.addr in self.node.connections)
        self.notes.append(len(self.ended))


@pytest.mark.parametrize("hook", ["process_message", "on_connect"])
async def test_a_task_that_a_hook_starts_elsewhere_waits_for_the_end(hook: str) -> None:
    async with anyio.create_task_group() as tasks:
        user, peer = Disconnecting(hook, tasks), User()
        async with two_nodes(user, peer) as (_, theirs):
            peer.outbox.send_nowait(theirs, b"hello")
            await wait_until(lambda: user.notes)
            user.go.set()
            await wait_until(lambda: len(user.notes) == 4)
    assert user.notes == ["started", True, False, 1]


class Closing(Starter):
    async def act(self, connection: Connection) -> None:
        await self.go.wait()
        await self.node.shut_down()
        self.notes.append(repr(self.node).count("closed"))
        self.notes.append(len(self.ended))


@pytest.mark.parametrize("hook", ["process_message", "on_connect", "on_disconnect"])
async def test_shutdown_from_a_task_of_a_past_hook(hook: str) -> None:
    """A task of a hook of a past connection waits for the shutdown."""
    async with anyio.create_task_group() as tasks:
        user, peer = Closing(hook, tasks), User()
        async with two_nodes(user, peer) as (ours, theirs):
            peer.outbox.send_nowait(theirs, b"hello")
            await wait_until(lambda: user.received)
            await user.node.disconnect(ours)
            await wait_until(lambda: not peer.node.connections)
            await connect(user, peer)
            user.go.set()
            await wait_until(lambda: len(user.notes) == 3)
    assert user.notes == ["started", 1, 2]


class Redialling(Starter):
    async def act(self, connection: Connection) -> None:
        assert connection.dialled is not None
        self.notes.append(await self.node.connect(connection.dialled))


@pytest.mark.parametrize("hook", ["process_message", "on_disconnect"])
async def test_a_task_that_a_hook_starts_elsewhere_may_connect_anew(hook: str) -> None:
    """It waits until the connection has ended."""
    async with anyio.create_task_group() as tasks:
        user, peer = Redialling(hook, tasks), User()

        async def handle(source: Connection, _: bytes) -> None:
            await user.node.disconnect(source)
            await user.start(source)

        user.handle = handle
        async with two_nodes(user, peer) as (ours, theirs):
            if hook == "process_message":
                peer.outbox.send_nowait(theirs, b"hello")
            else:
                await peer.node.disconnect(theirs)
            await wait_until(lambda: len(user.notes) == 2)
            assert user.notes[1] is user.only
            assert user.only is not ours
