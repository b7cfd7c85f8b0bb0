"""One wait for many sockets (epoll): nobody depends on it, and nothing that happens to a socket is missed."""

from __future__ import annotations

import math
import os
import select
import socket
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import BusyResourceError, ClosedResourceError
from anyio.abc import SocketAttribute

from pea2pea import Config, DisconnectOrigin
from pea2pea._poller import AT_ONCE, HAS_EPOLL, MANY, WAITS, Poller
from pea2pea.testing import simulate
from pea2pea.transport import TCPStream

from ..helpers import (
    ALL,
    Echo,
    RawPeer,
    User,
    above_info,
    connect,
    descriptors,
    frame,
    running_tasks,
    turns,
    wait_until,
)  # fmt: skip
from ..protocols.tls import SecureUser
from .streams import FAMILIES, wrapped
from .test_forked import child

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import TaskGroup

    from pea2pea import Connection
    from pea2pea.testing import Simulation

pytestmark = pytest.mark.skipif(not HAS_EPOLL, reason="needs epoll")
PEERS = MANY + 2
ROUNDS = 3 * WAITS // MANY


def poller_of(user: User) -> Poller:
    poller = user.node._protocols.poller
    assert poller is not None
    return poller


class Peers:
    """Many peers of a node that echoes."""

    def __init__(self, user: Echo, peers: list[RawPeer]) -> None:
        self.user = user
        self.peers = peers

    async def talk(self, *talking: RawPeer, rounds: int = ROUNDS) -> None:
        """Have messages echoed, in turn."""
        for number in range(rounds):
            for peer in talking or self.peers:
                await peer.send(frame(b"%d" % number))
                assert await peer.receive_message() == b"%d" % number

    async def talk_until_it_is_used(self) -> None:
        while not poller_of(self.user).in_use:
            await self.talk(rounds=1)


@asynccontextmanager
async def many_peers(count: int = PEERS, *, idle_timeout: float | None = 60.0) -> AsyncGenerator[Peers]:
    user = Echo(Config(grace_period=1.0, max_connections_per_ip=count), enable=ALL - {"handshake", "reading"})
    user.node.enable_reading(user, idle_timeout=idle_timeout)
    async with user.node as node:
        addr = await node.start_listening()
        with ExitStack() as stack:
            yield Peers(user, [stack.enter_context(await RawPeer.dial(addr)) for _ in range(count)])


async def wait_for(stream: TCPStream) -> None:
    await stream.readable()


@asynccontextmanager
async def running(poller: Poller) -> AsyncGenerator[TaskGroup]:
    """The poller's task alone; it is in use from the first wait on."""
    async with anyio.create_task_group() as group:
        group.start_soon(poller.run)
        await turns()
        poller.in_use = True
        poller._members = MANY  # as if there were others
        poller._waits = -(10**6)  # no second thoughts
        yield group
        group.cancel_scope.cancel()


# When it is used


async def test_it_is_used_while_many_connections_talk_and_only_then() -> None:
    async with many_peers() as peers:
        poller = poller_of(peers.user)
        await peers.talk(peers.peers[0], rounds=3 * WAITS)
        assert not poller.in_use
        await peers.talk_until_it_is_used()
        await peers.talk()
        assert poller.in_use
        await peers.talk(peers.peers[1], rounds=3 * WAITS)
        assert not poller.in_use
        await peers.talk_until_it_is_used()


async def test_few_connections_never_use_it() -> None:
    async with many_peers(MANY - 1) as peers:
        await peers.talk(rounds=2 * WAITS)
        assert poller_of(peers.user)._epoll is None
        assert not [name for name in running_tasks() if "poller" in name]


async def test_connections_that_follow_each_other_are_few() -> None:
    """Though each has a descriptor of its own; one held open beside makes their numbers differ."""
    user = Echo(enable=ALL)
    async with user.node as node:
        addr = await node.start_listening()
        with ExitStack() as others:
            for number in range(2 * WAITS):
                others.enter_context(socket.socket())
                with await RawPeer.dial(addr) as peer:
                    await peer.send(frame(b"%d" % number))
                    assert await peer.receive_message() == b"%d" % number
                await wait_until(lambda: not node.connections)
                assert not poller_of(user).in_use


@pytest.mark.parametrize("size", [1, 300_000])
async def test_all_that_many_peers_send_at_once_comes_back(size: int) -> None:
    async with many_peers() as peers:
        await peers.talk_until_it_is_used()

        async def talk(peer: RawPeer, byte: int) -> None:
            message = bytes([byte]) * size
            for _ in range(5):
                async with anyio.create_task_group() as group:
                    group.start_soon(peer.send, frame(message))
                    assert await peer.receive_message() == message

        async with anyio.create_task_group() as group:
            for number, peer in enumerate(peers.peers):
                group.start_soon(talk, peer, number)


async def test_peers_that_stop_inside_of_a_frame_go_on_later() -> None:
    async with many_peers() as peers:
        await peers.talk_until_it_is_used()
        whole = frame(bytes(200_000))
        for end in (100, 20_000, 20_001, len(whole)):
            for peer in peers.peers:
                await peer.send(whole[{100: 0, 20_000: 100, 20_001: 20_000}.get(end, 20_001) : end])
            await turns()
        for peer in peers.peers:
            assert await peer.receive_message() == bytes(200_000)


async def test_connections_over_tls_use_it_too() -> None:
    responder = SecureUser(Config(max_connections_per_ip=PEERS), enable=ALL - {"on_disconnect"})

    async def answer(source: Connection, message: bytes) -> None:
        await responder.outbox.send(source, message)

    responder.handle = answer
    dialler = [SecureUser(enable=ALL - {"on_disconnect"}) for _ in range(PEERS)]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(responder.node)
        for user in dialler:
            await stack.enter_async_context(user.node)
        ours = [(await connect(user, responder))[0] for user in dialler]
        for number in range(ROUNDS):
            for user, connection in zip(dialler, ours, strict=True):
                await user.outbox.send(connection, b"x")
                await wait_until(lambda user=user, number=number: len(user.received) == number + 1)  # type: ignore[misc]
        assert poller_of(responder).in_use


# How connections end


@pytest.mark.parametrize("how", ["close", "reset", "half-close", "disconnect", "abort", "shut down"])
async def test_every_end_is_noticed(how: str) -> None:
    async with many_peers() as peers:
        node, user = peers.user.node, peers.user
        await peers.talk_until_it_is_used()
        await turns()
        for peer in peers.peers[1:]:
            if how == "close":
                peer.close()
            elif how == "reset":
                peer.reset()
            elif how == "half-close":
                peer.half_close()
            elif how != "shut down":
                await node.disconnect(peer.addr, abort=how == "abort")
        if how == "shut down":
            await node.shut_down()
            assert len(user.ended) == PEERS
        else:
            await wait_until(lambda: len(user.ended) == PEERS - 1)
            await peers.talk(peers.peers[0], rounds=2)
    assert set(user.origins[: PEERS - 1]) == {
        {
            "disconnect": DisconnectOrigin.USER,
            "abort": DisconnectOrigin.USER,
            "shut down": DisconnectOrigin.SHUTDOWN,
        }.get(how, DisconnectOrigin.READING)
    }


async def test_who_ends_does_not_wake_it() -> None:
    """An orderly end waits once or twice: for that, its socket leaves the poller before the peer closes."""
    async with many_peers() as peers, anyio.create_task_group() as group:
        await peers.talk_until_it_is_used()
        await peers.talk(rounds=1)
        await turns()
        epoll = poller_of(peers.user)._epoll
        assert epoll is not None
        connection = next(iter(peers.user.node.connections.values()))
        number = connection.extra(SocketAttribute.raw_socket).fileno()
        epoll.modify(number, 0)  # it was there
        group.start_soon(peers.user.node.disconnect, connection)
        await wait_until(lambda: connection.origin is not None)
        await turns()
        with pytest.raises(FileNotFoundError):
            epoll.modify(number, 0)


async def test_a_node_that_has_shut_down_has_no_descriptor_left() -> None:
    async with many_peers():  # the first one may open what the event loop keeps
        pass
    before = descriptors()
    async with many_peers() as peers:
        await peers.talk_until_it_is_used()
        assert poller_of(peers.user)._epoll is not None
    assert poller_of(peers.user)._epoll is None
    assert descriptors() == before


async def test_connections_that_come_and_go_take_the_numbers_of_others() -> None:
    async with many_peers() as peers:
        addr = peers.user.node.listening_addr
        assert addr is not None
        for number in range(30):
            await peers.talk_until_it_is_used()
            peer = peers.peers.pop(0)
            if number % 2:
                peer.close()
            else:
                await peers.user.node.disconnect(peer.addr, abort=True)
                peer.close()
            peers.peers.append(await RawPeer.dial(addr))
            await peers.talk(peers.peers[-1], rounds=1)
        for peer in peers.peers:
            peer.close()


# Its own end


async def test_all_who_wait_when_it_ends_are_woken_and_wait_in_another_way() -> None:
    poller, received = Poller(), list[bytes]()
    with wrapped() as (one, peer), wrapped() as (two, other):
        async with anyio.create_task_group() as waiting:
            async with running(poller):
                for stream in (one, two):
                    stream.join_poller(poller)

                    async def receive(stream: TCPStream) -> None:
                        received.append(await stream.receive())

                    waiting.start_soon(receive, stream)
                await wait_until(lambda: len(poller._waiting) == 2)
            assert not poller._waiting
            assert not poller.in_use
            await turns()
            assert not received
            await peer.send(b"one")
            await other.send(b"two")
        assert sorted(received) == [b"one", b"two"]


async def test_without_a_descriptor_for_it_all_goes_on_as_with_few(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = []

    def epoll() -> object:
        asked.append(1)
        raise OSError(24, "Too many open files")

    async with many_peers() as peers:
        monkeypatch.setattr(select, "epoll", epoll)
        await peers.talk()
        await wait_until(lambda: asked)
        await peers.talk()
        assert not poller_of(peers.user).in_use
        monkeypatch.undo()
        assert len(asked) == 1  # it pauses before the next try
    assert not above_info(caplog)


async def test_its_own_number_may_have_been_that_of_a_socket_which_somebody_waited_for() -> None:
    """He is woken only after its task has begun to wait, and must not take that wait away."""
    poller, received = Poller(), list[bytes]()

    async def receive(stream: TCPStream) -> None:
        with suppress(ClosedResourceError):
            received.append(await stream.receive())

    with wrapped() as (stream, peer), wrapped() as (old, _):
        async with anyio.create_task_group() as group:
            group.start_soon(receive, old)
            await turns()
            number = old._sock.fileno()
            gaps = free_descriptors_below(number)
            for descriptor in gaps:
                os.dup2(peer.sock.fileno(), descriptor)
            group.start_soon(poller.run)
            old.close()
            await turns()
            for descriptor in gaps:
                os.close(descriptor)
            assert poller._epoll is not None
            assert poller._epoll.fileno() == number
            poller.in_use = True
            poller._members = MANY  # as if there were others
            stream.join_poller(poller)
            group.start_soon(receive, stream)
            await wait_until(lambda: poller._waiting)
            await peer.send(b"here")
            await wait_until(lambda: received == [b"here"])
            group.cancel_scope.cancel()


@pytest.mark.parametrize("waits", [True, False])
async def test_number_that_others_closed(waits: bool, caplog: pytest.LogCaptureFixture) -> None:  # a parameter
    """Its number is that of a socket of the node that others closed: whatever becomes of it, all others are served."""
    async with many_peers() as peers:
        node, (victim, *others) = peers.user.node, peers.peers
        await wait_until(lambda: len(node.connections) == PEERS)
        connection = node.connections[victim.addr]
        if not waits:

            async def handle(source: Connection, _: bytes) -> None:
                await anyio.sleep(0 if source is not connection else math.inf)

            peers.user.handle = handle
            for count in (1, 2):  # one for the handler, one that is read ahead
                await victim.send(frame(b"x"))
                await wait_until(lambda count=count: connection.stats.bytes_received == count * 5)  # type: ignore[misc]
        await turns()
        number = connection.extra(SocketAttribute.raw_socket).fileno()
        gaps = free_descriptors_below(number)
        for descriptor in gaps:
            os.dup2(others[0].sock.fileno(), descriptor)
        os.close(number)
        poller = poller_of(peers.user)
        await peers.talk(*others, rounds=2 * ROUNDS)
        assert poller.in_use is not waits
        for descriptor in gaps:
            os.close(descriptor)
        await node.disconnect(connection, abort=True)
        with anyio.fail_after(10):
            await peers.talk(*others)
    assert not above_info(caplog)


def free_descriptors_below(number: int) -> list[int]:
    found = []
    for descriptor in range(number):
        try:
            os.fstat(descriptor)
        except OSError:
            found.append(descriptor)
    return found


# One socket, seen by others


@pytest.mark.parametrize("family", FAMILIES)
async def test_two_cannot_wait_for_one_socket(family: str) -> None:
    poller = Poller()
    with wrapped(family) as (stream, peer):
        async with running(poller) as group:
            stream.join_poller(poller)
            group.start_soon(wait_for, stream)
            await wait_until(lambda: poller._waiting)
            with pytest.raises(BusyResourceError):
                await stream.readable()
            await peer.send(b"x")
            await wait_until(lambda: not poller._waiting)
            await stream.readable()
            assert await stream.receive() == b"x"


async def test_none_starves_where_more_are_readable_than_are_woken_at_once() -> None:
    """Each has more to read at any time."""
    poller, counts = Poller(), [0] * (2 * AT_ONCE + 3)

    async def sip(stream: TCPStream, number: int) -> None:
        while True:
            await stream.readable()
            assert stream.receive_nowait(1) == b"x"
            counts[number] += 1

    with ExitStack() as stack:
        async with running(poller) as group:
            for number in range(len(counts)):
                stream, peer = stack.enter_context(wrapped())
                stream.join_poller(poller)
                await peer.send(b"x" * 10_000)
                group.start_soon(sip, stream, number)
            await wait_until(lambda: min(counts) > 0)
            before = counts.copy()  # those that were the first had a start

            def gains() -> list[int]:
                return [count - then for count, then in zip(counts, before, strict=True)]

            await wait_until(lambda: min(gains()) >= 50)
            assert max(gains()) <= 2 * min(gains())
            group.cancel_scope.cancel()


async def test_a_wait_that_is_cancelled_misses_nothing() -> None:
    poller = Poller()

    def somebody_waits() -> bool:
        return any(event.statistics().tasks_waiting for event in poller._waiting.values())

    with wrapped() as (stream, peer):
        async with running(poller):
            stream.join_poller(poller)
            for sent in (b"", b"x"):
                async with anyio.create_task_group() as group:
                    group.start_soon(wait_for, stream)
                    await wait_until(somebody_waits)
                    await peer.send(sent)
                    group.cancel_scope.cancel()
                assert not somebody_waits()
                await turns()
            with anyio.fail_after(5):
                await stream.readable()
            assert stream.receive_nowait() == b"x"
            stream.close()
            assert not poller._waiting


@pytest.mark.parametrize("behind_its_back", [False, True])
async def test_closing_wakes_who_waits(behind_its_back: bool) -> None:  # a parameter
    poller, woken = Poller(), []
    with wrapped() as (stream, _):
        async with running(poller):
            stream.join_poller(poller)

            async def wait() -> None:
                with pytest.raises(ClosedResourceError):
                    await stream.receive()
                woken.append(1)

            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await wait_until(lambda: poller._waiting)
                if behind_its_back:
                    os.close(stream._sock.fileno())
                stream.close()
            assert woken
            with pytest.raises((ClosedResourceError, OSError)):
                await stream.readable()


@pytest.mark.parametrize("with_a_child", [False, True])
async def test_a_number_that_is_used_again_at_once_is_another_socket(with_a_child: bool) -> None:  # a parameter
    """The new one gets what is its own, and is not ended by what becomes of the old one."""
    poller, outcomes = Poller(), list[object]()

    async def receive(stream: TCPStream) -> None:
        try:
            outcomes.append(await stream.receive())
        except ClosedResourceError as error:
            outcomes.append(type(error))

    with wrapped() as (old, old_peer), ExitStack() as stack:
        async with running(poller) as group:
            if with_a_child:
                stack.enter_context(child())
            old.join_poller(poller)
            group.start_soon(receive, old)
            await wait_until(lambda: poller._waiting)
            number = old._sock.fileno()
            old.close()  # who waited has not gone on yet
            one, other = socket.socketpair()
            one.setblocking(False)
            if one.fileno() != number:
                os.dup2(one.fileno(), number)
                one.close()
                one = socket.socket(fileno=number)
                one.setblocking(False)
            new, peer = TCPStream(one), stack.enter_context(RawPeer(other))
            stack.callback(new.close)
            new.join_poller(poller)
            group.start_soon(receive, new)
            await wait_until(lambda: outcomes)
            assert outcomes == [ClosedResourceError]
            await old_peer.send(b"for nobody")
            await turns()
            assert list(poller._waiting) == [number]
            await peer.send(b"for the new one")
            await wait_until(lambda: len(outcomes) == 2)
            assert outcomes[1] == b"for the new one"


async def test_a_child_that_has_all_sockets_too_disturbs_nobody() -> None:
    async with many_peers() as peers:
        await peers.talk_until_it_is_used()
        addr = peers.user.node.listening_addr
        assert addr is not None
        with child():
            for peer in peers.peers[:2]:
                await peers.user.node.disconnect(peer.addr)
                assert await peer.receive_all() == b""
                peer.close()
            peers.peers[:2] = [await RawPeer.dial(addr) for _ in range(2)]
            await peers.talk()
        await peers.talk()
        for peer in peers.peers:
            peer.close()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_simulated_sockets_never_use_it(backend: str) -> None:
    async def scenario(sim: Simulation) -> None:
        host = sim.host("10.0.0.1")
        user = Echo(Config(listener_addr=("10.0.0.1", 4000)), transport=host)
        others = [User(transport=sim.host(f"10.0.0.{number + 2}")) for number in range(PEERS)]
        async with sim.running([user.node, *(other.node for other in others)]):
            for other in others:
                await other.node.connect(("10.0.0.1", 4000))
            for _ in range(ROUNDS):
                for other in others:
                    await other.outbox.send(other.only, b"x")
                await anyio.sleep(1)
            assert [len(other.received) for other in others] == [ROUNDS] * PEERS
            assert poller_of(user)._epoll is None

    simulate(scenario, backend=backend)


def connections_are(user: User, count: int) -> bool:
    return len(user.node.connections) == count


@pytest.mark.parametrize("ending", ["by the peer", "by a reset", "by abort", "behind its back"])
async def test_it_counts_the_sockets_that_may_wait(ending: str) -> None:
    async with many_peers() as peers:
        await peers.talk()
        poller = poller_of(peers.user)
        assert poller.many
        for number, peer in enumerate(peers.peers):
            assert poller._members == PEERS - number
            if ending == "by the peer":
                peer.close()
            elif ending == "by a reset":
                peer.reset()
            else:
                connection = next(iter(peers.user.node.connections.values()))
                if ending == "behind its back":
                    connection.extra(SocketAttribute.raw_socket).close()
                await peers.user.node.disconnect(connection, abort=True)
            await wait_until(partial(connections_are, peers.user, PEERS - number - 1))
        await wait_until(lambda: poller._members == 0)
        assert not poller.many
