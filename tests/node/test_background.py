"""Background tasks, of a node and of a connection."""

from __future__ import annotations

import logging

import anyio
import pytest
from anyio.abc import ByteStream

from pea2pea import Config, Connection, DisconnectOrigin, HandshakeError, NodeClosedError, NotConnectedError, Side

from ..helpers import (
    Never,
    RawPeer,
    User,
    connect,
    frame,
    memory_pair,
    running_tasks,
    told_errors,
    turns,
    two_nodes,
    wait_until,
)


async def test_a_task_runs_with_its_arguments() -> None:
    found: list[tuple[int, str]] = []

    async def task(number: int, text: str) -> None:
        found.append((number, text))

    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (ours, _):
        dialler.node.start_soon(task, 7, "of the node")
        ours.start_soon(task, 8, "of the connection")
        await wait_until(lambda: sorted(found) == [(7, "of the node"), (8, "of the connection")])


async def test_a_task_is_named() -> None:
    dialler, responder = User(), User()
    task = Never()
    async with two_nodes(dialler, responder) as (ours, _):
        dialler.node.start_soon(task, name="one of the node")
        ours.start_soon(task, name="one of the connection")
        await wait_until(lambda: {"one of the node", "one of the connection"} <= running_tasks())


@pytest.mark.parametrize("how", ["leaving", "shut_down"])
async def test_a_nodes_task_ends_with_the_node(how: str) -> None:
    task = Never()
    user = User()
    async with user.node as node:
        node.start_soon(task)
        await wait_until(lambda: task.begun)
        if how == "shut_down":
            await node.shut_down()
            assert task.cancelled == 1
    assert task.cancelled == 1


@pytest.mark.parametrize("how", ["disconnect", "abort", "peer", "leaving"])
async def test_a_connections_task_ends_with_the_connection(how: str) -> None:
    task = Never()
    dialler, responder = User(), User()
    async with responder.node:
        async with dialler.node:
            ours, theirs = await connect(dialler, responder)
            ours.start_soon(task)
            await wait_until(lambda: task.begun)
            if how == "peer":
                await responder.node.disconnect(theirs)
                await wait_until(lambda: not dialler.node.connections)
            elif how != "leaving":
                await dialler.node.disconnect(ours, abort=how == "abort")
            if how != "leaving":
                assert task.cancelled == 1
        assert task.cancelled == 1


async def test_a_connections_task_does_not_outlive_it_for_its_successor() -> None:
    task = Never()
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (first, _):
        first.start_soon(task)
        await wait_until(lambda: task.begun)
        await dialler.node.disconnect(first)
        await wait_until(lambda: not responder.node.connections)
        second, _ = await connect(dialler, responder)
        with pytest.raises(NotConnectedError) as caught:
            first.start_soon(task)
        assert caught.value.addr == first.addr
        second.start_soon(task)
        await wait_until(lambda: task.begun == 2)
        assert task.cancelled == 1


async def test_a_task_may_send_until_the_end() -> None:
    """Background tasks of the node outlive its connections."""
    dialler, responder = User(), User()
    order: list[str] = []

    async def task() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            order.append(f"the task, with {len(dialler.node.connections)} connections")

    async def part(*_: object) -> None:
        await turns()
        order.append("the hook")

    dialler.part = part
    async with responder.node, dialler.node as node:
        await connect(dialler, responder)
        node.start_soon(task)
        await turns()
        await node.shut_down()
    assert order == ["the hook", "the task, with 0 connections"]


async def test_what_a_task_raises_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    dialler, responder = User(), User()

    async def fail(error: Exception) -> None:
        raise error

    async with two_nodes(dialler, responder) as (ours, _):
        dialler.node.start_soon(fail, ZeroDivisionError("of the node"))
        ours.start_soon(fail, KeyError("of the connection"))
        await wait_until(lambda: dialler.node.heuristics.hook_errors == 2)
        dialler.outbox.send_nowait(ours, b"still there?")
        await wait_until(lambda: responder.received == [b"still there?"])
        assert dialler.only is ours
    assert sorted(str(error) for error in told_errors(caplog)) == ["'of the connection'", "of the node"]
    assert dialler.origins == [DisconnectOrigin.SHUTDOWN]


async def test_a_task_that_meets_the_end_of_the_node_is_no_bug(caplog: pytest.LogCaptureFixture) -> None:
    dialler, responder = User(), User()

    async def dial() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await dialler.node.connect(("127.0.0.1", 7))

    async with two_nodes(dialler, responder):
        dialler.node.start_soon(dial)
        await turns()
    assert dialler.node.heuristics.hook_errors == 0
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_a_task_may_start_others() -> None:
    found: list[int] = []
    user = User()

    async def task(left: int) -> None:
        found.append(left)
        if left:
            user.node.start_soon(task, left - 1)

    async with user.node as node:
        node.start_soon(task, 5)
        await wait_until(lambda: found == [5, 4, 3, 2, 1, 0])


async def test_no_task_starts_while_the_node_ends() -> None:
    dialler, responder = User(), User()
    refusals: list[type[Exception]] = []
    task = Never()

    async def part(*_: object) -> None:
        try:
            dialler.node.start_soon(task)
        except NodeClosedError as error:
            refusals.append(type(error))

    dialler.part = part
    async with responder.node, dialler.node:
        await connect(dialler, responder)
    assert refusals == [NodeClosedError]
    assert not task.begun


async def test_tasks_started_by_hooks() -> None:
    """A hook may start tasks of its connection even the last one."""
    dialler, responder = User(), User()
    task = Never()

    async def hook(*_: object) -> None:
        ours.start_soon(task)
        await turns()

    async with two_nodes(dialler, responder) as (ours, _):
        dialler.handle = dialler.part = hook
        responder.outbox.broadcast(b"start a task")
        await wait_until(lambda: task.begun == 1)
        await dialler.node.disconnect(ours)
        assert task.begun == task.cancelled == 2


async def test_a_task_started_in_the_handshake_lives_with_the_connection() -> None:
    user = User(enable={"handshake", "reading"})
    task = Never()

    async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
        connection.start_soon(task)
        return stream

    user.shake_hands = shake_hands
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"hello"))
            await wait_until(lambda: user.received and task.begun)
            assert (task.begun, task.cancelled) == (1, 0)
        await wait_until(lambda: not node.connections)
        assert (task.begun, task.cancelled) == (1, 1)


async def test_a_task_started_in_a_handshake_that_fails_is_cancelled() -> None:
    dialler, responder = User(enable={"handshake"}), User()
    task = Never()

    async def shake_hands(connection: Connection, _: ByteStream) -> ByteStream:
        connection.start_soon(task)
        await turns()
        raise PermissionError("not you")

    dialler.shake_hands = shake_hands
    async with responder.node, dialler.node:
        addr = await responder.node.start_listening()
        with pytest.raises(HandshakeError):
            await dialler.node.connect(addr)
        await wait_until(lambda: task.begun == task.cancelled == 1)


async def test_task_of_an_evicted_handshake() -> None:
    """A task started in a handshake that makes room for a dial is cancelled."""
    user, other = User(Config(max_connections=1), enable={"handshake"}), User()
    task = Never()

    async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
        if connection.side is Side.RESPONDER:
            connection.start_soon(task)
            await anyio.sleep_forever()
        return stream

    user.shake_hands = shake_hands
    async with other.node, user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: task.begun)
            await node.connect(await other.node.start_listening())
            assert await peer.is_refused()
            await wait_until(lambda: task.cancelled)


async def test_task_that_ignores_cancellation() -> None:
    """Nothing outlives the block."""
    done: list[str] = []

    async def stubborn() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await turns()
            done.append("done")

    dialler, responder = User(Config(grace_period=0)), User()
    async with responder.node, dialler.node as node:
        ours, _ = await connect(dialler, responder)
        node.start_soon(stubborn)
        ours.start_soon(stubborn)
        await turns()
    assert done == ["done", "done"]


async def test_a_disconnect_by_a_nodes_task_is_waited_for() -> None:
    dialler, responder = User(), User()
    left: list[int] = []

    async def task() -> None:
        await dialler.node.disconnect(ours)
        left.append(len(dialler.node.connections))

    async with two_nodes(dialler, responder) as (ours, _):
        dialler.node.start_soon(task)
        await wait_until(lambda: left == [0])


@pytest.mark.parametrize("how", ["close", "disconnect", "memory"])
async def test_started_in_the_last_turns(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """A task that is started in any turn of a connection's end is cancelled, or `NotConnectedError` is raised."""
    refused = 0
    for number in range(20):
        user, task = User(enable={"reading"}), Never()
        async with user.node as node, anyio.create_task_group() as group:
            if how == "memory":
                ours, theirs = memory_pair()
                connection = await node.adopt(ours, ("somebody", 1), Side.RESPONDER)
                await theirs.aclose()
            else:
                with await RawPeer.dial(await node.start_listening()) as peer:
                    connection = await established(user)
                    if how == "disconnect":
                        group.start_soon(node.disconnect, connection)
                        await turns(number)
                        peer.close()
            await ended(connection)
            await turns(number)
            try:
                connection.start_soon(task)
            except NotConnectedError:
                refused += 1
            with anyio.fail_after(5):
                await connection.wait_closed()
            assert task.begun == task.cancelled
    assert refused
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def established(user: User) -> Connection:
    await wait_until(lambda: user.node.connections)
    return user.only


async def ended(connection: Connection) -> None:
    while connection.origin is None:
        await turns(1)
