"""What a connection leaves behind, however it ended, and what a set-up that failed: nothing for the cycle collector."""

from __future__ import annotations

import gc
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from weakref import ref

import pytest
from anyio import CancelScope, EndOfStream, create_task_group, sleep_forever
from anyio.abc import ByteStream

import pea2pea
from pea2pea import Config, Connection, DisconnectOrigin, NodeError, Side
from pea2pea.codecs import LengthDelimitedCodec
from tests.helpers import ALL, RawListener, RawPeer, User, frame, memory_pair, turns, two_nodes, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from pea2pea import Address

LIBRARY = str(Path(pea2pea.__file__).parent)
TIMES = 3


@pytest.fixture(autouse=True)
def _no_cycle_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("enabled", [ALL, ALL - {"handshake"}, frozenset({"writing"}), frozenset()], ids=len)
async def test_no_cycles_of_an_ended_connection(enabled: frozenset[str]) -> None:
    """A connection that has ended needs no cycle collector to be freed."""
    dialler, responder = User(enable=enabled), User(enable=enabled)
    async with two_nodes(dialler, responder) as (ours, theirs):
        if "reading" in enabled:
            await dialler.outbox.deliver(ours, b"a message")
            await wait_until(lambda: responder.received)
        ends = ref(ours), ref(theirs)
        await dialler.node.disconnect(ours)
        await wait_until(lambda: not responder.node.connections)
        dialler.shaken.clear()
        responder.shaken.clear()
        del ours, theirs
        await wait_until(lambda: all(end() is None for end in ends))


def garbage() -> list[str]:
    """What of the library only the cycle collector can free."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return [f"{type(each).__name__}: {each!r:.150}" for each in gc.garbage if _is_telling(each)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def _is_telling(item: object) -> bool:
    if isinstance(item, FrameType):
        return item.f_code.co_filename.startswith(LIBRARY)
    return isinstance(item, Connection)


# What a user does, and what its peer does


class Case:
    """A user, and peers that come and go."""

    def __init__(self, *, idle_timeout: float | None = 0.2) -> None:
        self.user = User(Config(grace_period=0.1, max_connections_per_ip=1), enable={"on_connect", "on_disconnect"})
        self.user.codec = lambda: LengthDelimitedCodec(max_length=10_000)
        self.user.node.enable_reading(self.user, idle_timeout=idle_timeout)
        self.user.outbox = self.user.node.enable_writing(self.user, timeout=0.2)

    def shake_hands_by(self, shake_hands: Callable[[Connection, ByteStream], Awaitable[ByteStream]]) -> None:
        self.user.node.enable_handshake(self.user, timeout=0.1)
        self.user.shake_hands = shake_hands

    async def play(self, meet: Callable[[Address], Awaitable[None]]) -> None:
        """Let so many peers meet the user, and see what stays."""
        user = self.user
        async with user.node as node:
            addr = await node.start_listening()
            for _ in range(TIMES):
                await meet(addr)
                await wait_until(lambda: not node.connections and not node.connecting)
                user.shaken.clear()
            await turns()
            assert garbage() == []


async def refuse(_: Connection, stream: ByteStream) -> ByteStream:
    await stream.receive(1)
    raise ValueError(bytes(1000))


async def mistype(_: Connection, stream: ByteStream) -> ByteStream:
    await stream.receive(1)
    raise NameError("a bug")


async def return_nothing(_: Connection, stream: ByteStream) -> ByteStream:
    return None  # type: ignore[return-value]  # a user's bug


async def stall(_: Connection, stream: ByteStream) -> ByteStream:
    await sleep_forever()
    return stream


async def fail_when_cancelled(_: Connection, stream: ByteStream) -> ByteStream:
    try:
        await sleep_forever()
    finally:
        raise ValueError("cancelled")


async def receive_one(_: Connection, stream: ByteStream) -> ByteStream:
    await stream.receive(1)
    return stream


HANDSHAKES = (refuse, mistype, return_nothing, stall, fail_when_cancelled, receive_one)


@pytest.mark.parametrize("how", ["says a byte", "resets"])
@pytest.mark.parametrize("handshake", HANDSHAKES)
async def test_an_inbound_handshake(
    handshake: Callable[[Connection, ByteStream], Awaitable[ByteStream]], how: str
) -> None:
    case = Case()
    case.shake_hands_by(handshake)

    async def meet(addr: Address) -> None:
        with await RawPeer.dial(addr) as peer:
            if how == "resets":
                await wait_until(lambda: case.user.node.connecting or case.user.shaken)
                peer.reset()
            else:
                await peer.send(b"x")
                with suppress(OSError):
                    await peer.receive_all()

    await case.play(meet)


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("handshake", [*HANDSHAKES, None])
async def test_a_dial(
    handshake: Callable[[Connection, ByteStream], Awaitable[ByteStream]] | None, cancelled: bool
) -> None:
    """What `connect` raises is the caller's; it keeps nothing else alive, and nothing keeps it."""
    case = Case()
    if handshake is not None:
        case.shake_hands_by(handshake)
    with RawListener.open() as listener:

        async def meet(_: Address) -> None:
            scope = CancelScope()

            async def dial() -> None:
                with scope, suppress(NodeError):
                    await case.user.node.connect(listener.addr)

            async with create_task_group() as group:
                group.start_soon(dial)
                with await listener.accept() as peer:
                    if cancelled:
                        scope.cancel()
                    with suppress(OSError):
                        await peer.send(b"x")
                        peer.half_close()
                        await peer.receive_all()

        await case.play(meet)


@pytest.mark.parametrize("why", ["nobody listens", "itself", "no room"])
async def test_a_dial_that_fails(why: str) -> None:
    case = Case()
    with RawListener.open() as listener:
        nobody = listener.addr

    async def meet(addr: Address) -> None:
        node = case.user.node
        if why == "no room":
            ours, theirs = memory_pair()
            connection = await node.adopt(ours, ("192.0.2.1", 1), Side.INITIATOR)
            other, _ = memory_pair()
            with suppress(NodeError):
                await node.adopt(other, ("192.0.2.1", 2), Side.INITIATOR)
            await node.disconnect(connection)
            await theirs.aclose()
        else:
            with suppress(OSError, NodeError):
                await node.connect(addr if why == "itself" else nobody)

    await case.play(meet)


async def wait_a_while(source: Connection, message: bytes) -> None:
    await turns(20)


async def wait_for_ever(source: Connection, message: bytes) -> None:
    await sleep_forever()


async def fail(source: Connection, message: bytes) -> None:
    raise ValueError(message)


async def wait_and_fail(source: Connection, message: bytes) -> None:
    await turns(5)
    raise ValueError(message)


HANDLERS = (wait_a_while, wait_for_ever, fail, wait_and_fail)
BYTES = {
    "messages": frame(b"hello") * 5,
    "a bad frame": frame(b"hello") + b"\xff" * 10,
    "half a frame": frame(b"hello")[:6],
}


@pytest.mark.parametrize("leave", ["closes", "half-closes", "resets", "stays"])
@pytest.mark.parametrize("data", BYTES)
@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_peer_that_sends(
    handler: Callable[[Connection, bytes], Awaitable[object]], data: str, leave: str
) -> None:
    case = Case()
    case.user.handle = handler

    async def meet(addr: Address) -> None:
        with await RawPeer.dial(addr) as peer:
            await peer.send(BYTES[data])
            await wait_until(lambda: case.user.connected)
            case.user.connected.clear()
            if leave == "half-closes":
                peer.half_close()
            elif leave == "resets":
                peer.reset()
            elif leave == "stays":
                for each in case.user.node.connections if handler is wait_for_ever else ():  # else it is idle
                    await case.user.node.disconnect(each)
            if leave in {"half-closes", "stays"}:
                with suppress(OSError):
                    await peer.receive_all()

    await case.play(meet)


@pytest.mark.parametrize("how", ["disconnect", "abort", "in the handler", "in on_connect", "in the background"])
async def test_a_disconnect(how: str) -> None:
    case = Case()
    user = case.user

    async def disconnect(connection: Connection, *_: object) -> None:
        await user.node.disconnect(connection, abort=how == "abort")

    async def greet(connection: Connection) -> None:
        connection.start_soon(sleep_forever)
        if how == "in on_connect":
            await disconnect(connection)
        elif how == "in the background":
            connection.start_soon(disconnect, connection)
        elif how != "in the handler":
            user.node.start_soon(disconnect, connection)
        await sleep_forever()

    user.greet = greet
    if how == "in the handler":
        user.handle = disconnect

    async def meet(addr: Address) -> None:
        with await RawPeer.dial(addr) as peer, suppress(OSError):
            await peer.send(frame(b"hello") * 3)
            await peer.receive_all()

    await case.play(meet)


@pytest.mark.parametrize("place", ["decoder", "encoder", "on_connect", "on_disconnect"])
async def test_a_hook_that_raises(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case()

    def fail_at_once(*_: object) -> None:
        raise ValueError(place)

    async def fail_later(*_: object) -> None:
        await turns(2)
        raise ValueError(place)

    monkeypatch.setattr(case.user, place, fail_later if place.startswith("on_") else fail_at_once)

    async def meet(addr: Address) -> None:
        with await RawPeer.dial(addr) as peer:
            peer.half_close()
            with suppress(OSError):
                await peer.receive_all()

    await case.play(meet)


@pytest.mark.parametrize("over", ["socket", "memory"])
async def test_a_write_that_times_out(over: str) -> None:
    case = Case(idle_timeout=None)
    user = case.user

    async def greet(connection: Connection) -> None:
        while True:
            await user.outbox.send(connection, bytes(9000))

    user.greet = greet

    async def meet(addr: Address) -> None:
        if over == "memory":
            ours, theirs = memory_pair()
            connection = await user.node.adopt(ours, ("192.0.2.1", 1), Side.INITIATOR)
            await connection.wait_closed()
            await theirs.aclose()
        else:
            with await RawPeer.dial(addr, receive_buffer=4096):
                await wait_until(lambda: len(user.ended) > 0)
                user.ended.clear()

    await case.play(meet)
    assert user.node.heuristics.write_timeouts == TIMES


async def test_streams_in_memory() -> None:
    case = Case()

    async def meet(_: Address) -> None:
        ours, theirs = memory_pair()
        await case.user.node.adopt(ours, ("192.0.2.1", 1), Side.INITIATOR)
        await theirs.send(frame(b"hello"))
        await theirs.send_eof()
        with suppress(EndOfStream):
            await theirs.receive()
        await theirs.aclose()

    await case.play(meet)
    assert [origin for _, origin in case.user.ended] == [DisconnectOrigin.READING] * TIMES
