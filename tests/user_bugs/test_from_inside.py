"""`disconnect` and `shut_down` out of a connection's own hooks: they start the end, and return at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias

import anyio
import anyio.lowlevel
import pytest

from pea2pea import AlreadyConnectedError, Connection, DisconnectOrigin, Node, NodeClosedError, Side
from tests.helpers import ALL, Opaque, User, connect, frame, memory_pair, told_errors, turns, two_nodes, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import ByteStream

Act: TypeAlias = Callable[[Node, Connection], Awaitable[object]]
HOOKS = ("process_message", "on_connect", "on_disconnect", "background task")


class Insider(User):
    """Calls `act` in one of its hooks, once, and notes what that returned."""

    def __init__(self, hook: str, act: Act) -> None:
        super().__init__(enable=ALL - {"on_connect"})
        hook, _, how = hook.partition(", ")
        self.node.enable_on_connect(self, abortable=how != "not abortable")
        self.hook = hook
        self.act = act
        self.returned: list[object] = []
        if hook == "process_message":
            self.handle = self.inside
        elif hook == "on_connect":
            self.greet = self.inside
        elif hook == "on_disconnect":
            self.part = self.inside
        else:
            self.greet = self.start

    async def inside(self, connection: Connection, *_: object) -> None:
        self.returned.append(await self.act(self.node, connection))

    async def start(self, connection: Connection) -> None:
        connection.start_soon(self.inside, connection)


async def disconnect(node: Node, connection: Connection) -> object:
    return await node.disconnect(connection)


async def disconnect_by_address(node: Node, connection: Connection) -> object:
    return await node.disconnect(connection.addr)


async def ban(node: Node, connection: Connection) -> object:
    return await node.disconnect(connection, abort=True)


async def shut_down(node: Node, _: Connection) -> object:
    await node.shut_down()
    return "going on"


@asynccontextmanager
async def provoked(insider: Insider) -> AsyncGenerator[User]:
    """Run the insider's node and a peer's, which says something, and leaves if that is what it takes."""
    peer = User(enable=["writing", "reading", "on_disconnect"])
    async with insider.node, peer.node:
        connection = await peer.node.connect(await insider.node.start_listening())
        if insider.hook == "on_disconnect":
            await peer.node.disconnect(connection)
        elif insider.hook == "process_message":
            peer.outbox.send_nowait(connection, b"hello")
        await wait_until(lambda: insider.returned and not insider.node.connections)
        yield peer


@pytest.mark.parametrize("act", [disconnect, disconnect_by_address, ban])
@pytest.mark.parametrize("hook", HOOKS)
async def test_disconnect_says_that_it_was_the_cause(hook: str, act: Act) -> None:
    insider = Insider(hook, act)
    async with provoked(insider):
        assert insider.returned == [hook != "on_disconnect"]
        origin = DisconnectOrigin.READING if hook == "on_disconnect" else DisconnectOrigin.USER
        assert insider.origins == [origin]
        assert not insider.node.connections


@pytest.mark.parametrize("hook", HOOKS)
async def test_shut_down_returns_at_once_and_the_node_concludes(hook: str) -> None:
    insider = Insider(hook, shut_down)
    async with provoked(insider):
        await insider.node.wait_closed()
        assert insider.returned == ["going on"]
        origin = DisconnectOrigin.READING if hook == "on_disconnect" else DisconnectOrigin.SHUTDOWN
        assert insider.origins == [origin]
        with pytest.raises(NodeClosedError):
            await insider.node.connect(("127.0.0.1", 1))


@pytest.mark.parametrize("act", [disconnect, shut_down])
@pytest.mark.parametrize("hook", HOOKS)
async def test_a_hook_that_ends_its_connection_may_still_send_last_words(hook: str, act: Act) -> None:
    async def act_and_speak(node: Node, connection: Connection) -> object:
        answer = await act(node, connection)
        insider.outbox.send_nowait(connection, b"and one more thing")
        return answer

    insider = Insider(hook, act_and_speak)
    async with provoked(insider) as peer:
        if hook != "on_disconnect":  # there the peer has left
            await wait_until(lambda: peer.received)
            assert peer.received == [b"and one more thing"]
    assert insider.node.heuristics.hook_errors == 0


@pytest.mark.parametrize("act", [disconnect, ban, shut_down])
async def test_an_abortable_hook_is_cancelled_once_it_has_its_answer(act: Act) -> None:
    cancelled = anyio.Event()

    async def act_and_stay(node: Node, connection: Connection) -> object:
        insider.returned.append(await act(node, connection))
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        return None

    insider = Insider("process_message", act_and_stay)
    async with provoked(insider):
        await cancelled.wait()
        assert len(insider.returned) == 1


async def test_not_abortable_hook_that_disconnects() -> None:
    """A hook that is not abortable goes on after it has ended its connection."""

    async def act_and_go_on(node: Node, connection: Connection) -> object:
        answer = await node.disconnect(connection)
        await anyio.lowlevel.checkpoint()
        assert not insider.ended, "on_disconnect begins when on_connect has ended"
        return answer

    insider = Insider("on_connect, not abortable", act_and_go_on)
    async with provoked(insider):
        assert insider.returned == [True]


async def test_a_handshake_may_shut_the_node_down() -> None:
    async def shake_hands(_: Connection, stream: ByteStream) -> ByteStream:
        await user.node.shut_down()
        notes.append("went on")
        return stream

    notes: list[str] = []
    user, peer = User(enable=ALL), User()
    user.shake_hands = shake_hands
    async with user.node, peer.node:
        with pytest.raises(NodeClosedError):
            await connect(user, peer)
        await user.node.wait_closed()
    assert notes == ["went on"]
    assert not user.connected
    assert not user.ended


async def test_a_handshake_has_no_connection_to_disconnect() -> None:
    async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
        notes.append(await user.node.disconnect(connection))
        return stream

    notes: list[bool] = []
    user, peer = User(enable=ALL), User()
    user.shake_hands = shake_hands
    async with two_nodes(user, peer):
        assert notes == [False]


class Wary(Opaque):
    """A stream that calls `act` once in one of its methods."""

    def __init__(self, stream: ByteStream, act: Callable[[], Awaitable[object]]) -> None:
        super().__init__(stream)
        self.act = act
        self.place = ""
        self.returned: list[object] = []

    async def look(self, place: str) -> None:
        if place == self.place:
            self.place = ""
            self.returned.append(await self.act())

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        data = await super().receive(max_bytes)
        await self.look("receive")
        return data

    async def send(self, item: bytes) -> None:
        await self.look("send")
        await super().send(item)

    async def send_eof(self) -> None:
        await self.look("send_eof")
        await self.stream.send_eof()


@pytest.mark.parametrize("act", [disconnect, ban, shut_down])
@pytest.mark.parametrize("place", ["receive", "receive, ending", "send", "send, ending", "send_eof, ending"])
@pytest.mark.parametrize("how", ["adopted", "adopted, without reading", "wrapped", "wrapped, without reading"])
async def test_a_users_stream_is_inside_of_its_connection(how: str, place: str, act: Act) -> None:
    """Whichever task uses the stream, one that was adopted or that a handshake returned."""

    async def shake_hands(_: Connection, stream: ByteStream) -> ByteStream:
        streams.append(Wary(stream, lambda: act(user.node, user.only)))
        return streams[0]

    async def part(connection: Connection, _: DisconnectOrigin) -> None:
        streams[0].place = place
        user.outbox.send_nowait(connection, b"goodbye")
        await peer.send(frame(b"goodbye"))
        await turns()

    async def answer_the_end() -> None:
        with suppress(anyio.EndOfStream):
            while True:
                await peer.receive()
        await peer.aclose()

    streams: list[Wary] = []
    way, _, without = how.partition(", ")
    place, _, ending = place.partition(", ")
    user = User(enable={"writing", "on_disconnect"} | (ALL - {"on_connect"} if not without else set()) - {"handshake"})
    if way == "wrapped":
        user.node.enable_handshake(user)
    user.shake_hands = shake_hands
    ours, peer = memory_pair()
    async with user.node as node, peer, anyio.create_task_group() as group:
        group.start_soon(answer_the_end)
        stream: ByteStream = ours
        if way == "adopted":
            streams.append(Wary(ours, lambda: act(node, user.only)))
            stream = streams[0]
        connection = await node.adopt(stream, ("192.0.2.1", 1), Side.RESPONDER)
        if ending:
            user.part = part
            await node.disconnect(connection)
        else:
            streams[0].place = place
            user.outbox.send_nowait(connection, b"hello")
            await peer.send(frame(b"hello"))
            await peer.send_eof()
            await connection.wait_closed()
        assert streams[0].returned == ["going on" if act is shut_down else not ending]


async def test_shutdown_from_a_background_task() -> None:
    """A background task of the node that shuts it down ends with it."""
    node, ended = Node(), anyio.Event()

    async def background() -> None:
        try:
            await node.shut_down()
        finally:
            ended.set()

    async with node:
        node.start_soon(background)
        await node.wait_closed()
        assert ended.is_set()
    assert node.heuristics.hook_errors == 0


async def test_reconnect_from_the_ending_hook() -> None:
    """Connecting anew from the hook of the connection that ends is refused."""

    async def reconnect(connection: Connection, _: DisconnectOrigin) -> None:
        try:
            await user.node.connect(connection.addr)
        except AlreadyConnectedError:
            refused.set()

    refused = anyio.Event()
    user, peer = User(), User()
    user.part = reconnect
    async with two_nodes(user, peer) as (connection, _):
        assert await user.node.disconnect(connection)
        assert refused.is_set()


async def test_two_hooks_that_wait_for_each_other_to_end_are_cut_off() -> None:
    async def end_the_other(connection: Connection, _: DisconnectOrigin) -> None:
        (other,) = set(user.node.connections) - {connection.addr}
        await user.node.disconnect(other)

    user, left, right = User(enable=ALL - {"handshake", "on_disconnect"}), User(), User()
    user.node.enable_on_disconnect(user, timeout=0.05)
    user.part = end_the_other
    async with two_nodes(left, user) as (_, inner), right.node:
        await connect(right, user)
        assert await user.node.disconnect(inner)
        await wait_until(lambda: not user.node.connections)
        assert user.origins == [DisconnectOrigin.USER] * 2


async def test_an_exception_after_disconnect_is_still_told(caplog: pytest.LogCaptureFixture) -> None:
    error = ZeroDivisionError()

    async def act_and_raise(node: Node, connection: Connection) -> object:
        insider.returned.append(await node.disconnect(connection))
        raise error

    insider = Insider("process_message", act_and_raise)
    async with provoked(insider):
        assert insider.origins == [DisconnectOrigin.USER]
    assert told_errors(caplog) == [error]
