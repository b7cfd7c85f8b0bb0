"""What is the peer's doing, and what is a bug of the user's."""

from __future__ import annotations

import logging

import anyio
import anyio.lowlevel
import pytest

from pea2pea import (
    Address,
    Connection,
    DeliveryError,
    DisconnectOrigin,
    FrameError,
    Node,
    NodeClosedError,
    NotConnectedError,
    QueueFullError,
)
from tests.helpers import User, above_info, connect, told_errors, two_nodes, wait_until

from .flawed import ASYNC, PLACES, Flawed, is_served, provoked

SOMEBODY = ("203.0.113.7", 4711)


def about(addr: Address) -> list[Exception]:
    """What tells that the connection to an address is gone."""
    return [NotConnectedError("gone", addr), DeliveryError("lost", addr)]


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("place", [place for place in ASYNC if place != "background task of the node"])
async def test_that_the_peer_itself_is_gone_is_no_bug(place: str, index: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pea2pea")
    user = Flawed(place)

    def fail() -> None:
        raise about(user.victim)[index]

    user.fail = fail
    async with provoked(user) as (honest, _):
        await wait_until(lambda: "met the end of its connection" in caplog.text)
        assert await is_served(user, honest)
    assert user.node.heuristics.hook_errors == 0
    assert not above_info(caplog)


@pytest.mark.parametrize("place", [place for place in ASYNC if place != "background task of the node"])
async def test_that_the_peer_itself_is_gone_is_no_bug_in_a_group_either(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pea2pea")
    user = Flawed(place)

    async def stall() -> None:
        async with anyio.create_task_group():
            raise about(user.victim)[0]

    user.stall = stall
    async with provoked(user):
        await wait_until(lambda: "met the end of its connection" in caplog.text)
    assert user.node.heuristics.hook_errors == 0
    assert not above_info(caplog)


async def test_a_bug_beside_the_news_that_the_peer_is_gone_is_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    user = Flawed("on_connect")

    async def fail() -> None:
        raise ZeroDivisionError

    async def stall() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            raise about(user.victim)[0]

    user.stall = stall
    async with provoked(user):
        await wait_until(lambda: user.node.heuristics.hook_errors)
    assert len(told_errors(caplog)) == 1


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("place", PLACES)
async def test_that_somebody_else_is_gone_is_a_bug_of_the_hook(
    place: str, index: int, caplog: pytest.LogCaptureFixture
) -> None:
    user = Flawed(place)
    error = about(SOMEBODY)[index]

    def fail() -> None:
        raise error

    user.fail = fail
    async with provoked(user):
        await wait_until(lambda: user.node.heuristics.hook_errors)
    assert told_errors(caplog) == [error]


@pytest.mark.parametrize("error", [QueueFullError(), NodeClosedError(), FrameError()])
@pytest.mark.parametrize("place", ASYNC)
async def test_other_errors_are_bugs(place: str, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Anything else that the library or the system raises is a bug of the hook."""

    def fail() -> None:
        raise error

    async with provoked(Flawed(place, fail)):
        await wait_until(lambda: above_info(caplog))
    assert told_errors(caplog) == [error]


async def test_the_real_news_that_a_peer_is_gone_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pea2pea")
    user, peer = User(), User()

    async def send_to_one_that_left(connection: Connection, _: DisconnectOrigin) -> None:
        user.outbox.send_nowait(connection, b"are you still there?")

    user.part = send_to_one_that_left
    async with two_nodes(peer, user) as (_, connection):
        await user.node.disconnect(connection, abort=True)
        assert user.origins == [DisconnectOrigin.USER]
    assert user.node.heuristics.hook_errors == 0
    assert "on_disconnect met the end of its connection" in caplog.text


async def test_a_relay_whose_destination_has_left_has_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    relay, source, destination = User(), User(), User()

    async def pass_on(_: Connection, message: bytes) -> None:
        relay.outbox.send_nowait(to_destination, message)

    relay.handle = pass_on
    async with two_nodes(source, relay) as (to_relay, _), destination.node:
        to_destination, _ = await connect(relay, destination)
        assert await relay.node.disconnect(to_destination)
        source.outbox.send_nowait(to_relay, b"pass it on")
        await wait_until(lambda: relay.node.heuristics.hook_errors)
    (error,) = told_errors(caplog)
    assert isinstance(error, NotConnectedError)


async def test_that_the_node_is_closing_is_no_bug_of_a_background_task(caplog: pytest.LogCaptureFixture) -> None:
    async def background() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            node.start_soon(anyio.sleep_forever)

    node = Node()
    async with node:
        node.start_soon(background)
        await anyio.lowlevel.checkpoint()
    assert node.heuristics.hook_errors == 0
    assert not above_info(caplog)


async def test_that_the_node_is_closing_is_no_bug_of_a_hook_either(caplog: pytest.LogCaptureFixture) -> None:
    async def connect_anew(_: Connection, __: DisconnectOrigin) -> None:
        await user.node.connect(SOMEBODY)

    user, peer = User(), User()
    user.part = connect_anew
    async with two_nodes(peer, user):
        await user.node.shut_down()
    assert user.origins == [DisconnectOrigin.SHUTDOWN]
    assert user.node.heuristics.hook_errors == 0
    assert not above_info(caplog)


async def test_a_frame_error_of_the_decoder_is_the_peers_doing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pea2pea")
    error = FrameError("nonsense")
    causes: list[Exception | None] = []

    def fail() -> None:
        raise error

    async def note(connection: Connection, _: DisconnectOrigin) -> None:
        causes.append(connection.cause)

    user = Flawed("decode", fail)
    user.part = note
    async with provoked(user) as (honest, victim):
        await wait_until(lambda: user.node.heuristics.decode_errors)
        assert await victim.is_refused()
        assert user.ended == [(victim.addr, DisconnectOrigin.READING)]
        assert causes == [error]
        assert await is_served(user, honest)
    assert user.node.heuristics.hook_errors == 0
    assert not above_info(caplog)
    assert "nonsense" in caplog.text


async def test_a_peer_that_vanishes_while_a_handler_answers_it_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    async def answer_for_ever(source: Connection, message: bytes) -> None:
        answering.set()
        while True:
            await user.outbox.send(source, message * 1000)
            await anyio.lowlevel.checkpoint()

    answering = anyio.Event()
    user, peer = User(), User()
    user.handle = answer_for_ever
    async with two_nodes(peer, user) as (connection, inner):
        peer.outbox.send_nowait(connection, b"talk to me")
        await answering.wait()
        await peer.node.disconnect(connection, abort=True)
        await wait_until(lambda: user.ended)
        assert isinstance(inner.cause, OSError | anyio.BrokenResourceError)
    assert user.node.heuristics.hook_errors == 0
    assert not above_info(caplog)
