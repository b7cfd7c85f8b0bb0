"""Recipes that cancel every task of the event loop: on asyncio that is an orderly end, and nobody's bug."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import pytest

from pea2pea import Config, NodeError
from tests.conftest import LOOPS, open_sockets

from ..helpers import ALL, User, above_info, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream

    from pea2pea import Address, Connection

Backend: TypeAlias = tuple[str, dict[str, Any]]
HOOKS = ("perform_handshake", "process_message", "on_connect", "on_disconnect", "background tasks")


@pytest.fixture(params=["asyncio", *(["uvloop"] if "uvloop" in LOOPS else [])])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return LOOPS[request.param]


class Program:
    """Two connected nodes; one of them is in a hook that does not return, or in none."""

    def __init__(self, under_way: str) -> None:
        self.under_way = under_way
        self.ready = asyncio.Event()
        self.peer = User(Config(grace_period=1.0))
        self.user = User(Config(grace_period=1.0), enable=ALL)
        self.user.shake_hands = self.shake_hands
        self.user.handle = self.stall_in("process_message")
        self.user.greet = self.stall_in("on_connect")
        self.user.part = self.stall_in("on_disconnect")

    def stall_in(self, hook: str) -> Callable[..., Awaitable[None]]:
        async def stall(*_: object) -> None:
            if hook == self.under_way:
                self.ready.set()
                await anyio.sleep_forever()

        return stall

    async def shake_hands(self, _: Connection, stream: ByteStream) -> ByteStream:
        await self.stall_in("perform_handshake")()
        return stream

    async def run(self) -> None:
        async with self.peer.node, self.user.node as node:
            provoking = asyncio.create_task(self.provoke(await node.start_listening()))
            await asyncio.sleep(3600)
            await provoking

    async def provoke(self, addr: Address) -> None:
        with suppress(NodeError, OSError):
            ours = await self.peer.node.connect(addr)
            await wait_until(lambda: self.user.connected)
            await self.peer.outbox.deliver(ours, b"hello")
            self.user.node.start_soon(self.stall_in("background tasks"))
            self.user.only.start_soon(self.stall_in("background tasks"))
            if self.under_way == "on_disconnect":
                await self.peer.node.disconnect(ours)
            if self.under_way == "nothing":
                self.ready.set()

    def check(self, caplog: pytest.LogCaptureFixture) -> None:
        """Check that all ended in order, and that nobody was accused."""
        for user in (self.user, self.peer):
            assert not user.node.connections
            assert not user.node.connecting
            assert user.node.heuristics.hook_errors == 0
            assert user.connected == [addr for addr, _ in user.ended]
        assert not above_info(caplog)


@pytest.mark.parametrize("kept", ["the main task goes on", "with the main task"])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("under_way", ["nothing", *HOOKS])
def test_cancelling_every_task_is_an_orderly_end(
    anyio_backend: Backend, under_way: str, times: int, kept: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As the handler of a signal often does it, once or again and again."""
    sockets = open_sockets()

    async def main() -> None:
        program = Program(under_way)
        running = asyncio.create_task(program.run())
        await program.ready.wait()
        spared = {asyncio.current_task(), *([running] if kept == "the main task goes on" else [])}
        for _ in range(times):
            tasks = asyncio.all_tasks() - spared
            for task in tasks:
                task.cancel()
            await asyncio.sleep(0.01)  # as the recipes do
        await asyncio.gather(*tasks, return_exceptions=True)
        if kept == "the main task goes on":
            await program.user.node.wait_closed()
            assert not running.done()
            running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        program.check(caplog)

    anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
    assert open_sockets() == sockets


@pytest.mark.parametrize("under_way", ["nothing", *HOOKS])
def test_a_main_that_just_returns_is_an_orderly_end(
    anyio_backend: Backend, under_way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The event loop cancels the tasks that are left."""
    sockets = open_sockets()
    programs: list[Program] = []

    async def main() -> None:
        programs.append(Program(under_way))
        running = asyncio.create_task(programs[0].run())
        await programs[0].ready.wait()
        assert not running.done()

    anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
    programs[0].check(caplog)
    assert open_sockets() == sockets
