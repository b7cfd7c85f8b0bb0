"""How many connections there may be, and what happens to those beyond."""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.abc import ByteStream

from pea2pea import Address, Config, Connection, ConnectionLimitError, HandshakeError, Node, Side

from ..helpers import (
    LOCALHOST,
    Echo,
    Gate,
    MemoryNetwork,
    RawListener,
    RawPeer,
    User,
    connect,
    frame,
    memory_pair,
    turns,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


def gated(config: Config) -> tuple[User, Gate]:
    user, gate = User(config, enable={"handshake", "reading", "writing", "on_disconnect"}), Gate()
    user.shake_hands = gate
    return user, gate


@pytest.fixture
async def peers() -> AsyncGenerator[list[RawPeer]]:
    """Raw peers that are closed in the end."""
    found: list[RawPeer] = []
    yield found
    for peer in found:
        peer.close()


async def test_the_diallers_own_limit_raises() -> None:
    dialler = User(Config(max_connections=2))
    responders = [User() for _ in range(3)]
    async with dialler.node, responders[0].node, responders[1].node, responders[2].node:
        first, _ = await connect(dialler, responders[0])
        await connect(dialler, responders[1])
        addr = await responders[2].node.start_listening()
        with pytest.raises(ConnectionLimitError, match="max_connections=2") as caught:
            await dialler.node.connect(addr)
        assert caught.value.limit == "max_connections"
        assert len(dialler.node.connections) == 2
        assert not dialler.node.connecting
        assert dialler.node.heuristics.connect_budget_rejections == 0
        await dialler.node.disconnect(first)
        await dialler.node.connect(addr)


async def test_the_acceptors_limit_closes_the_connection_and_counts_it(
    peers: list[RawPeer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pea2pea")
    user = Echo(Config(max_connections=2))
    async with user.node as node:
        addr = await node.start_listening()
        peers += [await RawPeer.dial(addr) for _ in range(2)]
        await wait_until(lambda: len(node.connections) == 2)
        for _ in range(3):
            peers.append(await RawPeer.dial(addr))
            assert await peers[-1].is_refused()
        assert node.heuristics.inbound_rejections == 3
        for peer in peers[:2]:  # nobody else has noticed
            await peer.send(frame(b"hello"))
            assert await peer.receive_message() == b"hello"
        peers[0].close()
        await wait_until(lambda: len(node.connections) == 1)
        peers.append(await RawPeer.dial(addr))
        await wait_until(lambda: peers[-1].addr in node.connections)
    assert max(record.levelno for record in caplog.records) <= logging.INFO


async def test_established_and_set_up_count_together(peers: list[RawPeer]) -> None:
    user, gate = gated(Config(max_connections=3))
    async with user.node as node:
        addr = await node.start_listening()
        peers += [await RawPeer.dial(addr) for _ in range(2)]
        await wait_until(lambda: len(node.connecting) == 2)
        gate.opened.set()
        await wait_until(lambda: len(node.connections) == 2)
        gate.opened = anyio.Event()
        peers.append(await RawPeer.dial(addr))
        await wait_until(lambda: len(node.connecting) == 1)
        peers.append(await RawPeer.dial(addr))
        assert await peers[-1].is_refused()
        peers[0].close()
        await wait_until(lambda: len(node.connections) == 1)
        with RawListener.open() as listener:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(node.connect, listener.addr)
                await wait_until(lambda: len(node.connecting) == 2)
                peers.append(await RawPeer.dial(addr))
                assert await peers[-1].is_refused()
                gate.opened.set()


async def one_is_in(node: Node, gate: Gate, peers: list[RawPeer]) -> Address:
    """Listen, and shut the gate behind the first peer."""
    addr = await node.start_listening()
    gate.opened.set()
    peers.append(await RawPeer.dial(addr))
    await wait_until(lambda: node.connections)
    gate.opened = anyio.Event()
    return addr


async def test_dial_takes_the_oldest_inbound_slot(peers: list[RawPeer]) -> None:
    """A dial takes the slot of the inbound peer that has been shaking hands for longest."""
    user, gate = gated(Config(max_connections=3))
    async with user.node as node:
        addr = await one_is_in(node, gate, peers)
        for _ in range(2):
            peers.append(await RawPeer.dial(addr))
            await wait_until(lambda: len(node.connecting) == len(peers) - 1)
        oldest = next(iter(node.connecting))
        with RawListener.open() as listener:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(node.connect, listener.addr)
                assert await peers[1].is_refused()
                await wait_until(lambda: listener.addr in node.connecting)
                assert oldest not in node.connecting
                assert len(node.connecting) == 2
                assert node.heuristics.inbound_rejections == 1
                gate.opened.set()
        assert len(node.connections) == 3
        assert len(user.ended) == 0


async def test_dial_from_a_handshake_spares_its_slot() -> None:
    """It calls back to find out whether the peer can be reached."""
    user, peer, other = User(Config(max_connections=1), enable={"handshake"}), User(), User()
    refused: list[ConnectionLimitError] = []
    async with user.node as node, peer.node, other.node:

        async def call_back(_: Connection, stream: ByteStream) -> ByteStream:
            try:
                await node.connect(await other.node.start_listening())
            except ConnectionLimitError as error:
                refused.append(error)
            return stream

        user.shake_hands = call_back
        await peer.node.connect(await node.start_listening())
        await wait_until(lambda: node.connections)
        assert len(refused) == 1


async def test_dial_reuses_a_descriptor_number() -> None:
    """Who waited for the old socket must not take the new one's place with the event loop along."""
    user, other = User(Config(max_connections=1), enable={"handshake"}), User()
    clogged = anyio.Event()

    async def clog(connection: Connection, stream: ByteStream) -> ByteStream:
        if connection.side is Side.RESPONDER:
            clogged.set()
            await stream.send(bytes(50_000_000))
        return stream

    user.shake_hands = clog
    async with user.node as node, other.node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await clogged.wait()
            await turns()
            await node.connect(await other.node.start_listening())
            assert len(node.connections) == 1
            with suppress(ConnectionResetError):
                await peer.receive_all()


async def test_dial_spares_other_slots(peers: list[RawPeer]) -> None:
    """A dial takes no slot of an established connection nor of one of our own making."""
    user, gate = gated(Config(max_connections=2))
    async with user.node as node:
        await one_is_in(node, gate, peers)
        ours, theirs = memory_pair()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(node.adopt, ours, ("a name", 1), Side.RESPONDER)
            await wait_until(lambda: node.connecting)
            with RawListener.open() as listener, pytest.raises(ConnectionLimitError, match="max_connections=2"):
                await node.connect(listener.addr)
            gate.opened.set()
        assert len(node.connections) == 2
        await theirs.aclose()


async def test_max_inbound_keeps_room_for_our_own_dials(peers: list[RawPeer]) -> None:
    user, responder = User(Config(max_connections=3, max_inbound=1)), User()
    async with user.node as node, responder.node:
        addr = await node.start_listening()
        peers.append(await RawPeer.dial(addr))
        await wait_until(lambda: len(node.connections) == 1)
        peers.append(await RawPeer.dial(addr))
        assert await peers[-1].is_refused()
        assert node.heuristics.inbound_rejections == 1
        assert peers[0].addr in node.connections
        await connect(user, responder)
        with RawListener.open() as listener:
            await node.connect(listener.addr)
            assert len(node.connections) == 3
            peers[0].close()
            await wait_until(lambda: len(node.connections) == 2)
            peers.append(await RawPeer.dial(addr))
            await wait_until(lambda: len(node.connections) == 3)


async def test_dials_do_not_count_as_inbound() -> None:
    user = User(Config(max_connections=3, max_inbound=1))
    async with user.node as node:
        addr = await node.start_listening()
        with RawListener.open() as one, RawListener.open() as other:
            await node.connect(one.addr)
            await node.connect(other.addr)
            with await RawPeer.dial(addr):
                await wait_until(lambda: len(node.connections) == 3)


async def adopted(node: Node, host: str, port: int, side: Side = Side.RESPONDER) -> ByteStream:
    """Let the node adopt one end of a stream in memory; returns the other one."""
    ours, theirs = memory_pair()
    await node.adopt(ours, (host, port), side)
    return theirs


@pytest.mark.parametrize(
    ("prefix", "hosts", "other"),
    [
        (64, ["203.0.113.1"] * 3, "203.0.113.2"),
        (64, ["203.0.113.1", "::ffff:203.0.113.1", "::ffff:cb00:7101"], "::ffff:203.0.113.2"),
        (64, ["2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::"], "2001:db8:0:1::1"),
        (32, ["2001:db8::1", "2001:db8:1::", "2001:db8:ffff::"], "2001:db9::"),
        (48, ["2001:db8::1", "2001:db8:0:1::", "2001:db8:0:ffff::"], "2001:db8:1::"),
        (128, ["2001:db8::1", "2001:DB8::1", "2001:db8:0:0::1"], "2001:db8::2"),
    ],
    ids=["IPv4", "IPv4-mapped", "IPv6 by 64 bits", "IPv6 by 32 bits", "IPv6 by 48 bits", "IPv6 by 128 bits"],
)
@pytest.mark.parametrize("sides", list(product(Side, repeat=2)))
async def test_connections_are_limited_per_ip(
    prefix: int, hosts: list[str], other: str, sides: tuple[Side, Side]
) -> None:
    """Both sides count together, and what is given back can be taken again."""
    user = User(Config(max_connections_per_ip=2, ipv6_prefix=prefix, grace_period=0.1))
    async with user.node as node:
        for _ in range(2):
            ends = [await adopted(node, hosts[port - 1], port, sides[port - 1]) for port in (1, 2)]
            refused, _ = memory_pair()
            with pytest.raises(ConnectionLimitError, match="max_connections_per_ip=2") as caught:
                await node.adopt(refused, (hosts[2], 3), sides[0])
            assert caught.value.limit == "max_connections_per_ip"
            assert refused.closed
            ends.append(await adopted(node, other, 4, sides[0]))
            await node.disconnect((hosts[0], 1), abort=True)
            ends.append(await adopted(node, hosts[2], 3, sides[0]))
            assert len(node.connections) == 3
            for end in ends:
                await end.aclose()
            await wait_until(lambda: not node.connections)


@pytest.mark.parametrize(
    "hosts",
    [
        *([host] * 3 for host in (LOCALHOST, "127.9.9.9", "::1", "::ffff:127.0.0.1", "/run/some.socket", "a name")),
        [LOCALHOST, "127.9.9.9", "::1"],
    ],
)
async def test_loopback_and_what_is_no_ip_are_not_limited_per_ip(hosts: list[str]) -> None:
    user = User(Config(max_connections_per_ip=1, grace_period=0.1))
    async with user.node as node:
        for port, host in enumerate(hosts, 1):
            await adopted(node, host, port)
        assert len(node.connections) == 3


async def test_limit_per_ip() -> None:
    """Inbound connections beyond the limit per ip are closed and counted."""
    network = MemoryNetwork()
    user = Echo(Config(max_connections_per_ip=2, grace_period=0.1), transport=network.host("203.0.113.1"))
    async with user.node as node:
        addr = await node.start_listening()
        crowd = network.host("203.0.113.7")
        streams = [await crowd.dial(addr) for _ in range(4)]
        for stream in streams[2:]:
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        assert node.heuristics.inbound_rejections == 2
        await wait_until(lambda: len(node.connections) == 2)
        other = await network.host("203.0.113.8").dial(addr)
        await wait_until(lambda: len(node.connections) == 3)
        assert sorted(host for host, _ in node.connections) == ["203.0.113.7", "203.0.113.7", "203.0.113.8"]
        for stream in *streams[:2], other:
            await stream.send(frame(b"hello"))
            assert await stream.receive() == frame(b"hello")
    assert not any(stream.closed is False for stream in network.streams[1::2])


async def test_our_own_dials_count_per_ip_as_well() -> None:
    network = MemoryNetwork()
    user = User(Config(max_connections_per_ip=1, grace_period=0.1), transport=network.host("203.0.113.1"))
    one, other = (User(Config(grace_period=0.1), transport=network.host("203.0.113.2")) for _ in range(2))
    async with user.node as node, one.node, other.node:
        first, _ = await connect(user, one)
        addr = await other.node.start_listening()
        with pytest.raises(ConnectionLimitError, match="max_connections_per_ip"):
            await node.connect(addr)
        await node.disconnect(first)
        await node.connect(addr)


@pytest.mark.parametrize("limit", ["max_connections", "max_connecting"])
async def test_racing_dials(limit: str) -> None:
    """Twenty racing dials against a limit of five give exactly five."""
    config = Config(max_connections=5) if limit == "max_connections" else Config(max_connecting=5)
    user, gate = gated(config)
    refusals: list[str] = []

    async def dial(addr: Address) -> None:
        try:
            await user.node.connect(addr)
        except ConnectionLimitError as error:
            refusals.append(error.limit)

    with ExitStack() as stack:
        async with user.node as node, anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(dial, stack.enter_context(RawListener.open()).addr)
            await wait_until(lambda: len(refusals) == 15)
            assert len(node.connecting) == 5
            gate.opened.set()
            await wait_until(lambda: len(node.connections) == 5)
            assert not node.connecting
    assert set(refusals) <= {"max_connecting", limit}


async def test_racing_peers(peers: list[RawPeer]) -> None:
    """Twenty racing peers against a limit of five give exactly five."""
    user = User(Config(max_connections=5))
    async with user.node as node:
        addr = await node.start_listening()

        async def dial() -> None:
            peers.append(await RawPeer.dial(addr))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(dial)
        await wait_until(lambda: node.heuristics.inbound_rejections == 15)
        await wait_until(lambda: len(node.connections) == 5)
        assert not node.connecting
        for peer in peers:
            peer.close()
        await wait_until(lambda: not node.connections)


async def test_race_for_the_last_slot() -> None:
    """Whatever the outcome, no slot is lost to it."""
    one, other = User(Config(max_connections=1)), User(Config(max_connections=1))
    async with one.node, other.node:
        ones, others = await one.node.start_listening(), await other.node.start_listening()
        for _ in range(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(try_to_connect, one.node, others)
                tasks.start_soon(try_to_connect, other.node, ones)
            for user in one, other:
                for connection in list(user.node.connections.values()):
                    await user.node.disconnect(connection)
            for user in one, other:
                await wait_until(lambda user=user: not user.node.connections)  # type: ignore[misc]  # mypy #4226
        await connect(one, other)


async def try_to_connect(node: Node, addr: Address) -> None:
    with suppress(ConnectionLimitError, OSError):
        await node.connect(addr)


async def test_outbound_max_connecting() -> None:
    """Set ups beyond max connecting are refused to us and counted."""
    user, gate = gated(Config(max_connecting=2))
    with RawListener.open() as one, RawListener.open() as other, RawListener.open() as third:
        async with user.node as node, anyio.create_task_group() as tasks:
            tasks.start_soon(node.connect, one.addr)
            tasks.start_soon(node.connect, other.addr)
            await wait_until(lambda: len(user.shaken) == 2)
            for count in 1, 2:
                with pytest.raises(ConnectionLimitError, match="max_connecting=2") as caught:
                    await node.connect(third.addr)
                assert caught.value.limit == "max_connecting"
                assert node.heuristics.connect_budget_rejections == count
            gate.opened.set()
            await wait_until(lambda: len(node.connections) == 2)
            await node.connect(third.addr)


async def test_inbound_max_connecting(peers: list[RawPeer]) -> None:
    """Inbound set ups beyond max connecting wait in the accept queue."""
    user = Echo(Config(max_connecting=2), enable={"handshake", "reading", "writing"})

    async def shake_hands(_: Connection, stream: ByteStream) -> ByteStream:
        assert await stream.receive(1) == b"!"
        await stream.send(b"!")
        return stream

    user.shake_hands = shake_hands
    async with user.node as node:
        addr = await node.start_listening()
        peers += [await RawPeer.dial(addr) for _ in range(6)]
        await wait_until(lambda: len(node.connecting) == 2)
        first = [peer for peer in peers if peer.addr in node.connecting]
        for peer in peers:
            if peer not in first:
                await peer.send(b"!")
        await anyio.wait_all_tasks_blocked()
        assert set(node.connecting) == {peer.addr for peer in first}
        assert not node.connections
        for peer in first:
            await peer.send(b"!")
        for peer in peers:
            assert await peer.receive_exactly(1) == b"!"
        await wait_until(lambda: len(node.connections) == 6)
        assert node.heuristics.inbound_rejections == 0


async def test_a_listener_that_sits_idle_takes_no_slot() -> None:
    user = User(Config(max_connecting=1, max_connections=1))
    async with user.node as node:
        await node.start_listening()
        await anyio.wait_all_tasks_blocked()
        assert not node.connecting
        with RawListener.open() as listener:
            await node.connect(listener.addr)


async def test_half_open_peers_do_not_block_our_own_dials(peers: list[RawPeer]) -> None:
    user = User(Config(max_connecting=3), enable={"handshake"})
    responder = User()

    async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
        if connection.side is Side.RESPONDER:
            await stream.receive()
        return stream

    user.shake_hands = shake_hands
    async with user.node as node, responder.node:
        addr = await node.start_listening()
        peers += [await RawPeer.dial(addr) for _ in range(10)]
        await wait_until(lambda: len(node.connecting) == 3)
        await connect(user, responder)
        assert len(node.connecting) == 3


async def test_our_own_dials_do_not_block_peers() -> None:
    user = User(Config(max_connecting=1), enable={"handshake"})

    async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
        if connection.side is Side.INITIATOR:
            await stream.receive()
        return stream

    user.shake_hands = shake_hands
    with RawListener.open() as silent:
        async with user.node as node, anyio.create_task_group() as tasks:
            addr = await node.start_listening()
            tasks.start_soon(partial(ignore_failure, node, silent.addr))
            await wait_until(lambda: silent.addr in node.connecting)
            with await RawPeer.dial(addr) as peer:
                await wait_until(lambda: peer.addr in node.connections)
            tasks.cancel_scope.cancel()


async def ignore_failure(node: Node, addr: Address) -> None:
    with suppress(HandshakeError):
        await node.connect(addr)


async def test_every_failed_set_up_gives_its_slot_to_the_next(peers: list[RawPeer]) -> None:
    """A hundred inbound set-ups through one slot, each of which fails in one of three ways."""
    user = User(Config(max_connecting=1, max_connections=1), enable={"handshake", "reading"})

    async def shake_hands(_: Connection, stream: ByteStream) -> ByteStream:
        if await stream.receive(1) == b"?":
            raise PermissionError("not you")
        return stream

    user.shake_hands = shake_hands
    async with user.node as node:
        addr = await node.start_listening()
        for number in range(100):
            peer = await RawPeer.dial(addr)
            peers.append(peer)
            if number % 3 == 0:
                await peer.send(b"?")
                assert await peer.is_refused()
            elif number % 3 == 1:
                peer.reset()
            else:
                peer.half_close()
                assert await peer.is_refused()
            peer.close()
        await wait_until(lambda: not node.connecting)
        assert node.heuristics.inbound_rejections == 0
        with await RawPeer.dial(addr) as peer:
            await peer.send(b"!")
            await wait_until(lambda: peer.addr in node.connections)
