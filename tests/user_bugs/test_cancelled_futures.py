"""On asyncio a hook can meet a cancellation that AnyIO did not ask for. Trio has nothing like it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pea2pea import Config, DisconnectOrigin, HandshakeError, Side
from pea2pea.codecs import LengthDelimitedCodec
from tests.conftest import LOOPS
from tests.helpers import User, connect, memory_pair, told_errors, two_nodes, wait_until

from .flawed import ASYNC, ORIGINS, PLACES, Flawed, Spoiled, is_served, provoked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from pea2pea.codecs import Chunk

ON_ASYNCIO = {name: loop for name, loop in LOOPS.items() if loop[0] == "asyncio"}


@pytest.fixture(params=ON_ASYNCIO.values(), ids=tuple(ON_ASYNCIO))
def anyio_backend(request: pytest.FixtureRequest) -> object:
    return request.param


async def of_a_future() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def of_a_task() -> None:
    task = asyncio.create_task(asyncio.sleep(3600))
    await asyncio.sleep(0)
    task.cancel()
    await task


async def of_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


def at_once() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("stall", [of_a_future, of_a_task, of_itself])
@pytest.mark.parametrize("place", ASYNC)
async def test_foreign_cancellation(place: str, stall: Awaitable[object], caplog: pytest.LogCaptureFixture) -> None:
    """A cancellation of somebody else's is a logged bug of the hook."""
    user = Flawed(place, stall=stall)  # type: ignore[arg-type]  # mypy takes parametrized functions for awaitables
    async with provoked(user) as (honest, victim):
        await wait_until(lambda: user.node.heuristics.hook_errors)
        if place in ORIGINS:
            await wait_until(lambda: user.ended)
            assert user.ended == [(victim.addr, ORIGINS[place])]
        assert await is_served(user, honest)
    assert user.node.heuristics.hook_errors == 1
    (error,) = told_errors(caplog)
    assert isinstance(error, asyncio.CancelledError)


@pytest.mark.parametrize("place", PLACES)
async def test_raised_cancelled_error(place: str, caplog: pytest.LogCaptureFixture) -> None:
    """A cancelled error that is just raised is a logged bug as well."""
    user = Flawed(place, at_once)
    async with provoked(user) as (honest, victim):
        await wait_until(lambda: user.node.heuristics.hook_errors)
        if place in ORIGINS:
            await wait_until(lambda: user.ended)
            assert user.ended == [(victim.addr, ORIGINS[place])]
        assert await is_served(user, honest)
    assert user.node.heuristics.hook_errors == len(told_errors(caplog)) == 1


async def test_a_handshake_that_meets_it_fails_and_is_a_logged_bug(caplog: pytest.LogCaptureFixture) -> None:
    user, peer = Flawed("perform_handshake", stall=of_a_future), Flawed("nowhere")
    user.armed = True
    async with user.node, peer.node:
        with pytest.raises(HandshakeError):
            await connect(user, peer)
        assert not user.node.connecting
    assert user.node.heuristics.handshake_failures == 1
    assert user.node.heuristics.hook_errors == len(told_errors(caplog)) == 1


@pytest.mark.parametrize(
    ("where", "origin"),
    [
        ("receive", DisconnectOrigin.READING),
        ("send", DisconnectOrigin.WRITING),
        ("send_eof", DisconnectOrigin.USER),
        ("aclose", DisconnectOrigin.USER),
    ],
)
async def test_a_stream_that_meets_it_ends_its_connection_alone(where: str, origin: DisconnectOrigin) -> None:
    user, other = User(Config(grace_period=0.1)), User()
    addr = ("in memory", 1)
    near, far = memory_pair()
    async with far, user.node, other.node:
        ours, _ = await connect(user, other)
        await user.node.adopt(Spoiled(near, asyncio.CancelledError(), where=where), addr, Side.INITIATOR)
        if where == "receive":
            await far.send(b"?")
        elif where == "send":
            user.outbox.send_nowait(addr, b"?")
        else:
            await user.node.disconnect(addr, abort=where == "aclose")
        await wait_until(lambda: addr not in user.node.connections)
        assert user.ended == [(addr, origin)]
        assert near.closed
        user.outbox.send_nowait(ours, b"still there?")
        await wait_until(lambda: other.received == [b"still there?"])
    assert user.node.heuristics.hook_errors == (2 if where == "aclose" else 1)  # what is aborted is closed twice


class LeavesBadly(LengthDelimitedCodec):
    """Raises what the result of a cancelled future raises, when it is closed early."""

    def decode(self, data: Chunk, /) -> Iterator[bytes]:
        try:
            yield from super().decode(data)
        finally:
            at_once()


async def test_raised_where_a_decoders_iterator_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    user, peer = User(), User()
    user.codec = LeavesBadly

    async def fail(*_: object) -> None:
        await asyncio.sleep(0)
        raise LookupError

    user.handle = fail
    async with two_nodes(user, peer) as (_, theirs):
        await peer.outbox.send(theirs, b"one")
        await peer.outbox.send(theirs, b"two")
        await wait_until(lambda: user.ended)
    assert [type(error) for error in told_errors(caplog)] == [LookupError, asyncio.CancelledError]
    assert user.node.heuristics.unprocessed_bytes
