"""asyncio's own `Task.cancel` of a task of a node that has not begun: what it served ends, in order, and no more."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import pytest

from pea2pea import Address, Connection, DisconnectOrigin, NodeError
from tests.conftest import LOOPS

from ..helpers import RawPeer, User, connect, frame, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator

Act: TypeAlias = "Callable[[User, RawPeer], Awaitable[None]]"
BOTH = pytest.mark.parametrize("count", [1, 2], ids=["once", "twice in a row"])


@pytest.fixture(params=["asyncio", *(["uvloop"] if "uvloop" in LOOPS else [])])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return LOOPS[request.param]


@contextmanager
def cancelled_at_birth(name: str, count: int = 1) -> Generator[list[str]]:
    """Cancel the next so many tasks whose names begin so, before they have begun. Yields their names."""
    cancelled: list[str] = []

    class Born(asyncio.Task[Any]):
        def set_name(self, value: object, /) -> None:
            super().set_name(value)
            self.named()

        def named(self) -> None:
            if self.get_name().startswith(name) and len(cancelled) < count:
                cancelled.append(self.get_name())
                self.cancel()

    def factory(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> Born:
        task = Born(coro, loop=loop, **options)
        task.named()
        return task

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)  # type: ignore[arg-type]  # generators are not at issue here
    try:
        yield cancelled
    finally:
        loop.set_task_factory(None)
    assert len(cancelled) == count


@asynccontextmanager
async def with_bystander(user: User) -> AsyncGenerator[None]:
    """Run a user's node with a peer that has nothing to do with what happens, and is served afterwards as before."""
    bystander = User()
    async with user.node as node, bystander.node:
        ours, theirs = await connect(bystander, user)
        await wait_until(lambda: user.connected)
        yield
        used = time.process_time()
        await asyncio.sleep(0.3)  # nobody is busy: that takes time to see
        assert time.process_time() - used < 0.1
        bystander.outbox.send_nowait(ours, b"still there?")
        for number in range(100):
            user.outbox.send_nowait(theirs, b"%d" % number)
        await wait_until(lambda: b"still there?" in user.received and len(bystander.received) == 100)
        assert theirs.addr in node.connections
        assert not node.connecting
    assert bystander.origins in ([DisconnectOrigin.READING], [DisconnectOrigin.SHUTDOWN])
    assert sorted(user.connected) == sorted(addr for addr, _ in user.ended)


@BOTH
async def test_the_task_of_a_dialled_connection(count: int) -> None:
    user, peer = User(), User()
    async with peer.node, with_bystander(user):
        addr = await peer.node.start_listening()
        with cancelled_at_birth(f"pea2pea {user.node.name} ", count):
            for _ in range(count):
                with pytest.raises(NodeError, match="cancelled before it began"):
                    await user.node.connect(addr)
                assert len(user.connected) == 1
        await user.node.connect(addr)
    assert user.node.heuristics.hook_errors == count


@BOTH
async def test_the_task_of_an_inbound_connection(count: int) -> None:
    user = User()
    async with with_bystander(user):
        assert user.node.listening_addr is not None
        with cancelled_at_birth(f"pea2pea {user.node.name} ", count):
            for _ in range(count):
                with await RawPeer.dial(user.node.listening_addr) as peer:
                    assert await peer.is_refused()
        with await RawPeer.dial(user.node.listening_addr):
            await wait_until(lambda: len(user.connected) == 2)
    assert user.node.heuristics.hook_errors == count


def is_free(addr: Address) -> bool:
    try:
        socket.create_connection(addr).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it is closed in this moment
        pass
    return False


@BOTH
async def test_the_listeners_task(count: int) -> None:
    user = User()
    async with with_bystander(user):
        node = user.node
        await node.stop_listening()
        with cancelled_at_birth("pea2pea listener", count):  # twice: also the task that frees the port
            addr = await node.start_listening()
            await wait_until(lambda: node.listening_addr is None)
            await wait_until(lambda: is_free(addr))
        with await RawPeer.dial(await node.start_listening()):
            await wait_until(lambda: len(user.connected) == 2)


@BOTH
async def test_the_flushers_task(count: int) -> None:
    """It is started again."""
    user = User()
    with cancelled_at_birth(f"pea2pea flusher {user.node.name}", count):
        async with with_bystander(user):
            pass


@BOTH
async def test_the_task_of_the_idle_watch(count: int) -> None:
    """It is started again."""
    user = User(enable={"on_disconnect"})
    user.node.enable_reading(user, idle_timeout=0.1)
    with cancelled_at_birth(f"pea2pea idle watch {user.node.name}", count):
        async with user.node as node:
            for _ in range(2):
                with await RawPeer.dial(await node.start_listening()) as silent:
                    assert await silent.is_refused()
                await node.stop_listening()
            assert node.heuristics.idle_timeouts == 2


@BOTH
async def test_a_background_task_of_the_node(count: int) -> None:
    user = User()
    ran: list[int] = []

    async def background(number: int) -> None:
        ran.append(number)

    async with with_bystander(user):
        with cancelled_at_birth("mine", count):
            for number in range(count + 1):
                user.node.start_soon(background, number, name="mine")
        await wait_until(lambda: ran == [count])
        await wait_until(lambda: user.node.heuristics.hook_errors == count)


async def read_beside_a_busy_handler(user: User, victim: RawPeer) -> None:
    async def handle(source: Connection, _: bytes) -> None:
        if source.addr == victim.addr:
            await anyio.sleep_forever()

    user.handle = handle
    await victim.send(frame(b"keep the handler busy"))


async def fill_the_socket(user: User, victim: RawPeer) -> None:
    user.outbox.send_nowait(victim.addr, bytes(8_000_000))


async def start_a_task(user: User, victim: RawPeer) -> None:
    user.node.connections[victim.addr].start_soon(anyio.sleep_forever, name="mine")


async def disconnect(user: User, victim: RawPeer) -> None:
    user.outbox.send_nowait(victim.addr, b"accepted")
    await user.node.disconnect(victim.addr)


async def nothing(*_: object) -> None:
    pass


@BOTH
@pytest.mark.parametrize(
    ("name", "origin", "act"),
    [
        ("pea2pea on_connect", DisconnectOrigin.READING, nothing),
        ("pea2pea reader", DisconnectOrigin.READING, read_beside_a_busy_handler),
        ("pea2pea writer", DisconnectOrigin.READING, fill_the_socket),
        ("pea2pea discarder", DisconnectOrigin.USER, disconnect),
        ("mine", DisconnectOrigin.READING, start_a_task),
    ],
)
async def test_a_task_of_a_connection(name: str, origin: DisconnectOrigin, act: Act, count: int) -> None:
    """It ends, with both its hooks; an orderly end stays one."""
    user = User()
    async with with_bystander(user):
        assert user.node.listening_addr is not None
        with cancelled_at_birth(name, count):
            for number in range(1, count + 1):
                with await RawPeer.dial(user.node.listening_addr, receive_buffer=4096) as victim:
                    if act is not nothing:
                        await wait_until(lambda victim=victim: victim.addr in user.connected)  # type: ignore[misc]  # mypy #4226
                        await act(user, victim)
                    if origin is DisconnectOrigin.USER:
                        assert await victim.receive_all() == frame(b"accepted")
                    await wait_until(lambda number=number: len(user.ended) == number)  # type: ignore[misc]  # mypy #4226
                    assert user.ended[-1] == (victim.addr, origin)
                    await wait_until(lambda: len(user.node.connections) == 1)


async def test_the_nodes_own_task() -> None:
    """The block is not entered."""
    user = User()
    with cancelled_at_birth(f"pea2pea node {user.node.name}"), pytest.raises(RuntimeError, match="before it began"):
        async with user.node:
            pytest.fail("the block was entered")
    await user.node.wait_closed()
