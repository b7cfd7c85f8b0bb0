"""A node that another task uses while its block is being entered: it does not run yet, and says so."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import pytest

from pea2pea import Config, Node, Side, TCPTransport

from ..helpers import RawListener, memory_pair, turns, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

NOBODY = ("127.0.0.1", 1)


async def connect(node: Node) -> None:
    await node.connect(NOBODY)


async def listen(node: Node) -> None:
    await node.start_listening()


async def start_a_task(node: Node) -> None:
    node.start_soon(anyio.sleep_forever)


async def adopt(node: Node) -> None:
    ours, theirs = socket.socketpair()
    stream = TCPTransport.wrap(ours)
    with theirs:
        try:
            await node.adopt(stream, ("a socket", 1), Side.INITIATOR)
        finally:
            assert ours.fileno() == -1 or stream.extra_attributes  # by now it is the node's


async def adopt_refused(node: Node) -> None:
    near, _far = memory_pair()
    try:
        await node.adopt(near, ("in memory", 1), Side.RESPONDER)
    except RuntimeError:
        assert near.closed
        raise


@pytest.mark.parametrize("first", ["the user", "the one who enters"])
@pytest.mark.parametrize("call", [connect, listen, start_a_task, adopt, adopt_refused])
async def test_it_is_not_running_until_it_runs(call: Callable[[Node], Awaitable[None]], first: str) -> None:
    node = Node(Config(max_connections=2, grace_period=0.1))
    met: list[BaseException] = []
    done, entered = anyio.Event(), anyio.Event()

    async def use() -> None:
        while not entered.is_set():
            try:
                await call(node)
            except Exception as error:  # noqa: BLE001  # it is looked at below
                met.append(error)
                await turns(1)
            else:
                break
        done.set()

    async def enter() -> None:
        async with node:
            entered.set()
            await done.wait()
            for connection in node.connections.values():
                await node.disconnect(connection)
            await node.stop_listening()
            assert not node.connecting
            with RawListener.open() as one, RawListener.open() as other:  # no slot is lost
                await node.connect(one.addr)
                await node.connect(other.addr)
                await wait_until(lambda: len(node.connections) == 2)

    async with anyio.create_task_group() as tasks:
        for func in (use, enter) if first == "the user" else (enter, use):
            tasks.start_soon(func)
    refused = [error for error in met if isinstance(error, RuntimeError) and "not running" in str(error)]
    others = [error for error in met if error not in refused]
    assert refused
    assert all(isinstance(error, ConnectionRefusedError) for error in others)
