"""What was queued before an orderly end arrives, and what had arrived before one is processed: all, every time."""

from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
import pytest
from anyio.lowlevel import checkpoint

from pea2pea import Config, Connection, DisconnectOrigin

from ..helpers import ALL, RawPeer, User, connect, frame, frames, two_nodes, wait_until
from ..protocols.tls import SecureUser

MANY = [b"%d" % number for number in range(10_000)]
PATIENT = Config(grace_period=50)


def a_sender() -> User:
    """Whose queue takes them all at once, so that the end begins with a full queue."""
    user = User(PATIENT, enable={"reading", "on_connect", "on_disconnect"})
    user.outbox = user.node.enable_writing(user, queue_depth=len(MANY), queue_bytes=10_000_000)
    return user


async def end(user: User, connection: Connection, how: str) -> None:
    """In an orderly way; leaving the block is up to the caller."""
    if how == "disconnect":
        await user.node.disconnect(connection)
    elif how == "shut_down":
        await user.node.shut_down()
    elif how == "shut_down in the background":
        user.node.start_soon(user.node.shut_down)


ENDS = ["disconnect", "leaving", "shut_down", "shut_down in the background"]


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("dialling", [True, False], ids=["dialler", "dialled"])
@pytest.mark.parametrize(
    ("kind", "queued"),
    [(User, True), (User, False), (SecureUser, False)],
    ids=["TCP, all queued", "TCP, as there is room", "TLS, as there is room"],
)
async def test_ten_thousand_messages_arrive(kind: type[User], queued: bool, how: str, dialling: bool) -> None:
    sender, receiver = a_sender() if queued else kind(PATIENT, enable=ALL), kind(PATIENT, enable=ALL)
    async with receiver.node:
        async with sender.node:
            if dialling:
                ours, _ = await connect(sender, receiver)
            else:
                _, ours = await connect(receiver, sender)
            for message in MANY:
                if queued:
                    sender.outbox.send_nowait(ours, message)
                else:
                    await sender.outbox.send(ours, message)
            await end(sender, ours, how)
        await wait_until(lambda: receiver.ended, 50)
    assert receiver.received == MANY
    assert receiver.origins == [DisconnectOrigin.READING]
    assert sender.origins == [DisconnectOrigin.USER if how == "disconnect" else DisconnectOrigin.SHUTDOWN]


@pytest.mark.parametrize("how", ENDS)
async def test_a_receiver_that_has_to_wait_for_its_handler_gets_them_all(how: str) -> None:
    sender, receiver = a_sender(), User(PATIENT)

    async def handle(_: Connection, message: bytes) -> None:
        if int(message) % 100 == 0:
            await checkpoint()

    receiver.handle = handle
    async with receiver.node:
        async with sender.node:
            ours, _ = await connect(sender, receiver)
            for message in MANY:
                sender.outbox.send_nowait(ours, message)
            await end(sender, ours, how)
        await wait_until(lambda: receiver.ended, 50)
    assert receiver.received == MANY


async def test_large_messages_arrive_as_well() -> None:
    """More than the sockets hold, to a peer that begins to read when the end is under way."""
    sender = a_sender()
    message = bytes(range(256)) * 4096
    async with sender.node as node:
        with await RawPeer.dial(await node.start_listening(), receive_buffer=4096) as peer:
            await wait_until(lambda: node.connections)
            for _ in range(9):
                sender.outbox.send_nowait(peer.addr, message)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(node.disconnect, peer.addr)
                await wait_until(lambda: sender.ended)
                assert frames(await peer.receive_all()) == [message] * 9
                peer.close()


async def test_every_peer_gets_everything() -> None:
    sender, receivers = a_sender(), [User(PATIENT) for _ in range(10)]
    async with AsyncExitStack() as stack:
        for receiver in receivers:
            await stack.enter_async_context(receiver.node)
        async with sender.node:
            for receiver in receivers:
                await connect(sender, receiver)
            for message in MANY[:1000]:
                assert not sender.outbox.broadcast(message)
        await wait_until(lambda: all(receiver.ended for receiver in receivers), 50)
    for receiver in receivers:
        assert receiver.received == MANY[:1000]


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("how", ["close", "half-close"])
async def test_messages_before_a_clean_close(how: str, slow: bool) -> None:
    """Two hundred messages just before a clean close are all processed."""
    messages = MANY[:200]
    user = User(PATIENT)
    unprocessed: list[int] = []

    async def handle(*_: object) -> None:
        if slow:
            await checkpoint()
            await checkpoint()

    async def part(*_: object) -> None:
        unprocessed.append(len(messages) - len(user.received))

    user.handle, user.part = handle, part
    async with user.node as node:
        addr = await node.start_listening()
        for _ in range(20):
            user.received.clear()
            with await RawPeer.dial(addr) as peer:
                await peer.send(b"".join(map(frame, messages)))
                if how == "half-close":
                    peer.half_close()
                    assert await peer.receive_all() == b""
            await wait_until(lambda: user.received == messages)
            await wait_until(lambda: not node.connections)
    assert unprocessed == [0] * 20


async def test_messages_of_a_node_that_leaves() -> None:
    """Two hundred messages of a node that leaves are all processed."""
    messages = MANY[:200]
    receiver = User(PATIENT)
    async with receiver.node:
        for _ in range(20):
            receiver.received.clear()
            sender = User(PATIENT)
            async with sender.node:
                ours, _ = await connect(sender, receiver)
                for message in messages:
                    sender.outbox.send_nowait(ours, message)
            await wait_until(lambda: not receiver.node.connections)
            assert receiver.received == messages


async def test_messages_that_cross_at_the_end_do_not_hold_up_the_others() -> None:
    """Both say goodbye at once, with much to say: each has everything that the other one had queued, or the end came
    before it was read; but nothing is cut in the middle, and neither waits for the grace period."""
    for _ in range(10):
        one, other = a_sender(), a_sender()
        async with two_nodes(one, other) as (ours, theirs):
            for message in MANY[:1000]:
                one.outbox.send_nowait(ours, message)
                other.outbox.send_nowait(theirs, message)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.node.disconnect, ours)
                tasks.start_soon(other.node.disconnect, theirs)
        for user in one, other:
            assert user.received == MANY[: len(user.received)]
            assert user.node.heuristics.decode_errors == 0
            assert user.node.stats.messages_sent == 1000


async def test_what_was_delivered_has_been_written() -> None:
    sender, receiver = User(), User()
    async with two_nodes(sender, receiver) as (ours, _):
        for number in range(200):
            await sender.outbox.deliver(ours, b"%d" % number)
            assert sender.outbox.pending(ours) == 0
        await sender.node.disconnect(ours, abort=False)
        await wait_until(lambda: receiver.ended)
    assert len(receiver.received) == 200
