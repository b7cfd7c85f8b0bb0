"""One connection, as a user sees it: what ended it, that it has ended, and its text."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import ByteStream

from pea2pea import Config, Connection, DisconnectOrigin, HandshakeError, NodeClosedError, NodeError, Side

from ..helpers import LOCALHOST, RawListener, RawPeer, User, memory_pair, turns, two_nodes, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine


class Watch:
    """A task that waits for the end of a connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.scope = anyio.CancelScope()
        self.closed = anyio.Event()

    async def __call__(self) -> None:
        with self.scope:
            await self.connection.wait_closed()
            self.closed.set()


# `origin`, and `wait_closed` of an established connection


def fail(*_: object) -> None:
    raise ZeroDivisionError


async def fail_in_on_connect(_: Connection) -> None:
    fail()


ENDS: dict[DisconnectOrigin, Callable[[User, User], Coroutine[Any, Any, object]]] = {
    DisconnectOrigin.USER: lambda user, peer: user.node.disconnect(user.only),
    DisconnectOrigin.SHUTDOWN: lambda user, peer: user.node.shut_down(),
    DisconnectOrigin.READING: lambda user, peer: peer.node.shut_down(),
}


@pytest.mark.parametrize(("origin", "end"), ENDS.items(), ids=[origin.name for origin in ENDS])
async def test_the_origin_is_known_from_the_beginning_of_the_end_on(
    origin: DisconnectOrigin, end: Callable[[User, User], Coroutine[Any, Any, object]]
) -> None:
    user, peer = User(), User()
    in_hook: list[object] = []

    async def part(connection: Connection, origin: DisconnectOrigin) -> None:
        in_hook.append(connection.origin)
        assert connection.origin is origin
        await turns()
        in_hook.append([watch.closed.is_set() for watch in watches])

    user.part = part
    async with two_nodes(user, peer) as (connection, _), anyio.create_task_group() as tasks:
        assert connection.origin is None
        watches = [Watch(connection), Watch(connection)]
        for watch in watches:
            tasks.start_soon(watch)
        await turns()
        assert not any(watch.closed.is_set() for watch in watches)
        tasks.start_soon(end, user, peer)
        for watch in watches:
            await watch.closed.wait()
        assert connection.addr not in user.node.connections
        assert connection.origin is origin
        await connection.wait_closed()
    assert in_hook == [origin, [False, False]]


@pytest.mark.parametrize("origin", [DisconnectOrigin.ON_CONNECT, DisconnectOrigin.WRITING])
async def test_the_origin_of_what_ends_at_once_is_kept(origin: DisconnectOrigin) -> None:
    user, peer = User(enable={"handshake", "writing", "on_connect", "on_disconnect"}), User()
    if origin is DisconnectOrigin.ON_CONNECT:
        user.greet = fail_in_on_connect
    else:
        user.codec = fail  # type: ignore[assignment]  # a bug
    async with user.node as node, peer.node:
        connection = await node.connect(await peer.node.start_listening())
        await connection.wait_closed()
        assert connection.origin is origin
        assert not node.connections
    assert user.origins == [origin]


async def test_cancelling_the_wait_changes_nothing() -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (connection, _), anyio.create_task_group() as tasks:
        cancelled, other = Watch(connection), Watch(connection)
        tasks.start_soon(cancelled)
        tasks.start_soon(other)
        await turns()
        cancelled.scope.cancel()
        await wait_until(lambda: cancelled.scope.cancelled_caught)
        assert not other.closed.is_set()
        assert dialler.only is connection
        await dialler.node.disconnect(connection)
        await other.closed.wait()


# `wait_closed` of what is still being set up


@pytest.mark.parametrize(
    ("way", "end"),
    [
        (way, end)
        for way in ("inbound", "outbound", "adopted")
        for end in ("the handshake fails", "the handshake times out", "shut down", "cancelled", "a dial takes its slot")
        if (way != "inbound" or end != "cancelled") and (way == "inbound" or end != "a dial takes its slot")
    ],
)
async def test_a_set_up_that_comes_to_nothing_wakes_who_waits(way: str, end: str) -> None:
    user = User(Config(max_connections=1), enable={"on_disconnect"})
    user.node.enable_handshake(user, timeout=0.05 if end == "the handshake times out" else 60)
    fails, begun, scope = anyio.Event(), anyio.Event(), anyio.CancelScope()

    async def shake_hands(_: Connection, stream: ByteStream) -> ByteStream:
        begun.set()
        await fails.wait()
        raise PermissionError

    async def run(call: Callable[[], Awaitable[object]]) -> None:
        with scope, suppress(HandshakeError, NodeClosedError):
            await call()

    user.shake_hands = shake_hands
    ours, theirs = memory_pair()
    with RawListener.open() as listener:
        async with theirs, ours, user.node as node, anyio.create_task_group() as tasks:
            with await RawPeer.dial(await node.start_listening()) if way == "inbound" else nullcontext():
                if way == "outbound":
                    tasks.start_soon(run, partial(node.connect, listener.addr))
                elif way == "adopted":
                    tasks.start_soon(run, partial(node.adopt, ours, ("memory", 1), Side.RESPONDER))
                await begun.wait()
                (connection,) = user.shaken
                watches = [Watch(connection), Watch(connection)]
                for watch in watches:
                    tasks.start_soon(watch)
                if end == "shut down":
                    tasks.start_soon(node.shut_down)
                elif end == "cancelled":
                    scope.cancel()
                elif end == "the handshake fails":
                    await turns()
                    assert not any(watch.closed.is_set() for watch in watches)
                    fails.set()
                elif end == "a dial takes its slot":
                    user.shake_hands = keep
                    await node.connect(listener.addr)
                for watch in watches:
                    await watch.closed.wait()
                assert connection not in node.connections.values()
                assert connection.addr not in node.connecting
                assert connection.origin is None
                await connection.wait_closed()
    assert connection.addr not in [addr for addr, _ in user.ended]


async def keep(_: Connection, stream: ByteStream) -> ByteStream:
    return stream


@pytest.mark.parametrize("lag", range(6))
@pytest.mark.parametrize("end", ["shut down", "a dial takes its slot"])
async def test_outcome_of_a_returned_handshake(lag: int, end: str) -> None:
    """Whatever the handshake has noted down under its connection can be taken back."""
    user = User(Config(max_connections=1), enable={"handshake", "on_disconnect"})
    go_on = anyio.Event()
    known: set[Connection] = set()

    async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
        if connection.side is Side.RESPONDER:
            await go_on.wait()
            known.add(connection)
        return stream

    user.shake_hands = shake_hands
    with RawListener.open() as listener:
        async with user.node as node, anyio.create_task_group() as tasks:
            with await RawPeer.dial(await node.start_listening()):
                await wait_until(lambda: user.shaken)
                connection = user.shaken[0]

                async def forget() -> None:
                    await connection.wait_closed()
                    known.discard(connection)

                async def dial() -> None:
                    with suppress(NodeError):
                        await node.connect(listener.addr)

                tasks.start_soon(forget)
                tasks.start_soon(dial if end == "a dial takes its slot" else node.shut_down)
                await turns(lag)
                go_on.set()
                await turns()
                await node.shut_down()
    assert not known
    assert connection.origin in (None, DisconnectOrigin.SHUTDOWN)
    assert (connection.origin is None) is (connection.addr not in [addr for addr, _ in user.ended])


# `str`


@pytest.mark.parametrize(
    ("addr", "text"),
    [
        (("192.0.2.1", 80), "192.0.2.1:80"),
        (("2001:DB8::0:1", 80), "[2001:db8::1]:80"),
        (("::ffff:192.0.2.1", 80), "192.0.2.1:80"),
        (("a name", 0), "a name:0"),
    ],
)
async def test_as_text_it_is_the_peers_address(addr: tuple[str, int], text: str) -> None:
    ours, theirs = memory_pair()
    async with theirs, User(enable=set()).node as node:
        connection = await node.adopt(ours, addr, Side.INITIATOR)
        assert f"{connection}" == str(connection) == text
        await node.disconnect(connection, abort=True)
        assert str(connection) == text


async def test_the_text_of_a_dialled_connection_is_what_was_dialled() -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (ours, theirs):
        assert responder.node.listening_addr is not None
        assert str(ours) == f"{LOCALHOST}:{responder.node.listening_addr[1]}"
        assert str(theirs) == f"{LOCALHOST}:{theirs.addr[1]}"


@pytest.mark.parametrize("end", ["shut down", "a dial takes its slot"])
async def test_it_is_not_closed_before_its_handshake_has_ended(end: str) -> None:
    """A handshake that is cancelled may still clean up behind itself."""
    user = User(Config(max_connections=1), enable={"handshake"})
    cleaning, go_on, order = anyio.Event(), anyio.Event(), list[str]()

    async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
        if connection.side is Side.INITIATOR:
            return stream
        try:
            await anyio.sleep_forever()
        finally:
            cleaning.set()
            with anyio.CancelScope(shield=True):
                await go_on.wait()
            order.append("handshake")
        return stream

    async def watch() -> None:
        with anyio.CancelScope(shield=True):
            await user.shaken[0].wait_closed()
        order.append("closed")

    user.shake_hands = shake_hands
    with RawListener.open() as listener:
        async with user.node as node, anyio.create_task_group() as tasks:
            with await RawPeer.dial(await node.start_listening()):
                await wait_until(lambda: user.shaken)
                tasks.start_soon(watch)
                await turns()
                if end == "shut down":
                    tasks.start_soon(node.shut_down)
                else:
                    tasks.start_soon(node.connect, listener.addr)
                await cleaning.wait()
                await turns()
                assert not order
                go_on.set()
                await wait_until(lambda: order == ["handshake", "closed"])
