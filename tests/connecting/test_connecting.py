"""Connecting and disconnecting, as either end sees it."""

from __future__ import annotations

import weakref

import anyio
import pytest

from pea2pea import (
    AlreadyConnectedError,
    Config,
    Connection,
    DisconnectOrigin,
    HandshakeError,
    Node,
    NodeClosedError,
    NotConnectedError,
    Side,
)

from ..helpers import LOCALHOST, Echo, Gate, RawListener, RawPeer, User, connect, frame, two_nodes, wait_until


async def test_both_ends_see_a_connection_and_its_end() -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (ours, theirs):
        assert dict(dialler.node.connections) == {responder.node.listening_addr: ours}
        assert dict(responder.node.connections) == {theirs.addr: theirs}
        assert await dialler.node.disconnect(ours.addr) is True
        assert not dialler.node.connections
        await wait_until(lambda: not responder.node.connections)
    assert dialler.ended == [(ours.addr, DisconnectOrigin.USER)]
    assert responder.ended == [(theirs.addr, DisconnectOrigin.READING)]


async def test_the_responder_may_disconnect_as_well() -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (_, theirs):
        assert await responder.node.disconnect(theirs) is True
        await wait_until(lambda: not dialler.node.connections)
    assert dialler.origins == [DisconnectOrigin.READING]
    assert responder.origins == [DisconnectOrigin.USER]


async def test_each_end_knows_its_side_and_the_others_address() -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (ours, theirs):
        assert ours.side is Side.INITIATOR
        assert theirs.side is Side.RESPONDER
        assert ~ours.side is theirs.side
        assert ~theirs.side is ours.side
        assert ours.addr == responder.node.listening_addr
        assert theirs.addr[0] == LOCALHOST
        assert ours.dialled == ours.addr
        assert theirs.dialled is None


async def test_disconnecting_an_unknown_address_is_false() -> None:
    async with User().node as node:
        assert await node.disconnect((LOCALHOST, 1)) is False
        assert await node.disconnect((LOCALHOST, 1), abort=True) is False


async def test_a_connection_that_has_ended_is_disconnected_no_more() -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (ours, _):
        assert await dialler.node.disconnect(ours) is True
        assert await dialler.node.disconnect(ours) is False
    assert len(dialler.ended) == 1


async def test_disconnecting_one_peer_leaves_the_others() -> None:
    middle, left, right = Echo(), User(), User()
    async with middle.node, left.node, right.node:
        await connect(left, middle)
        ours, _ = await connect(right, middle)
        await left.node.disconnect(next(iter(left.node.connections)))
        await wait_until(lambda: len(middle.node.connections) == 1)
        await right.outbox.send(ours, b"still there?")
        await wait_until(lambda: right.received == [b"still there?"])


async def test_a_peer_without_the_library_is_served_as_well() -> None:
    echo = Echo()
    async with echo.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: list(node.connections) == [peer.addr])
            await peer.send(frame(b"hello"))
            assert await peer.receive_message() == b"hello"


async def test_a_second_connect_to_an_established_address_is_refused() -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (ours, _):
        with pytest.raises(AlreadyConnectedError, match=str(ours.addr[1])):
            await dialler.node.connect(ours.addr)
        assert dialler.node.connections[ours.addr] is ours
    assert len(responder.ended) == 1


async def test_a_second_connect_to_an_address_being_set_up_is_refused() -> None:
    dialler, responder = User(enable={"handshake"}), User()
    dialler.shake_hands = gate = Gate()
    async with responder.node, dialler.node, anyio.create_task_group() as tasks:
        addr = await responder.node.start_listening()
        tasks.start_soon(dialler.node.connect, addr)
        await wait_until(lambda: dialler.shaken)
        assert set(dialler.node.connecting) == {addr}
        assert not dialler.node.connections
        with pytest.raises(AlreadyConnectedError, match="being set up"):
            await dialler.node.connect(addr)
        gate.opened.set()
        await wait_until(lambda: list(dialler.node.connections) == [addr])
        assert not dialler.node.connecting


async def test_simultaneous_dials() -> None:
    """Two nodes that dial each other at once get two connections."""
    one, other = User(), User()
    async with one.node, other.node:
        ones, others = await one.node.start_listening(), await other.node.start_listening()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.node.connect, others)
            tasks.start_soon(other.node.connect, ones)
        await wait_until(lambda: len(one.node.connections) == len(other.node.connections) == 2)
        for user in one, other:
            assert {connection.side for connection in user.node.connections.values()} == set(Side)


async def test_a_connect_to_an_address_being_torn_down_waits_for_that() -> None:
    dialler, responder = User(), User()
    parting, go_on = anyio.Event(), anyio.Event()
    states: list[str] = []

    async def part(*_: object) -> None:
        if not parting.is_set():
            parting.set()
            await go_on.wait()
            states.append("parted")

    async def connect_again() -> None:
        again = await dialler.node.connect(ours.addr)
        states.append("connected again")
        assert again is dialler.node.connections[ours.addr]
        assert again is not ours

    dialler.part = part
    async with two_nodes(dialler, responder) as (ours, _), anyio.create_task_group() as tasks:
        tasks.start_soon(dialler.node.disconnect, ours)
        await parting.wait()
        tasks.start_soon(connect_again)
        await anyio.wait_all_tasks_blocked()
        assert not states
        assert dialler.node.connections[ours.addr] is ours
        go_on.set()
        await wait_until(lambda: len(states) == 2)
    assert states == ["parted", "connected again"]


async def test_connect_from_the_ending_connections_hook() -> None:
    """A connect from the hook of the connection that ends is refused."""
    dialler, responder = User(), User()
    refusals: list[Exception] = []

    async def part(connection: Connection, _: DisconnectOrigin) -> None:
        try:
            await dialler.node.connect(connection.addr)
        except AlreadyConnectedError as error:
            refusals.append(error)

    dialler.part = part
    async with two_nodes(dialler, responder) as (ours, _):
        await dialler.node.disconnect(ours)
    assert len(refusals) == 1


async def test_a_connection_never_stands_for_its_successor() -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (first, _):
        await dialler.node.disconnect(first)
        await wait_until(lambda: not responder.node.connections)
        second, _ = await connect(dialler, responder)
        assert second.addr == first.addr
        await first.wait_closed()
        assert (first.origin, second.origin) == (DisconnectOrigin.USER, None)
        assert await dialler.node.disconnect(first) is False
        assert await dialler.node.disconnect(first, abort=True) is False
        with pytest.raises(NotConnectedError):
            dialler.outbox.send_nowait(first, b"for the first")
        with pytest.raises(NotConnectedError):
            first.start_soon(anyio.sleep, 0)
        assert dict(dialler.node.connections) == {second.addr: second}
        dialler.outbox.send_nowait(second, b"for the second")
        await wait_until(lambda: responder.received == [b"for the second"])


async def test_an_address_is_accepted_in_any_of_its_forms() -> None:
    dialler, responder = User(), User()
    async with responder.node, dialler.node:
        port = (await responder.node.start_listening())[1]
        mapped = "::ffff:127.0.0.1", port
        connection = await dialler.node.connect(mapped)
        assert connection.addr == (LOCALHOST, port)
        assert dialler.node.connections[mapped] is connection
        assert mapped in dialler.node.connections
        dialler.outbox.send_nowait(mapped, b"hello")
        assert dialler.outbox.pending(mapped) == 0
        with pytest.raises(AlreadyConnectedError):
            await dialler.node.connect(mapped)
        assert await dialler.node.disconnect(mapped) is True


@pytest.mark.parametrize(
    "addr", ["localhost", ("127.0.0.1",), ("127.0.0.1", "80"), ("127.0.0.1", -1), ("127.0.0.1", 65_536), ("", 80)]
)
async def test_what_is_no_address_is_refused(addr: tuple[str, int]) -> None:
    async with User().node as node:
        with pytest.raises(ValueError, match="the address") as caught:
            await node.connect(addr)
        assert repr(addr) in str(caught.value)
        assert not node.connecting


async def test_a_refused_dial_is_a_plain_error_and_gives_its_slot_back() -> None:
    with RawListener.open() as listener:
        free = listener.addr
    async with User(Config(max_connections=1)).node as node:
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError, match=str(free[1])):
                await node.connect(free)
            assert not node.connecting


async def test_a_handshake_that_fails_gives_its_slot_back() -> None:
    dialler, responder = User(Config(max_connections=1), enable={"handshake", "reading", "on_disconnect"}), User()

    async def refuse(_: Connection, stream: anyio.abc.ByteStream) -> anyio.abc.ByteStream:
        raise PermissionError("not you")

    dialler.shake_hands = refuse
    async with responder.node, dialler.node:
        addr = await responder.node.start_listening()
        for _ in range(3):
            with pytest.raises(HandshakeError) as caught:
                await dialler.node.connect(addr)
            assert isinstance(caught.value.__cause__, PermissionError)
            assert not dialler.node.connecting
            assert not dialler.node.connections
        assert dialler.node.heuristics.handshake_failures == 3
    assert not dialler.ended


async def test_connecting_shows_inbound_connections_too() -> None:
    responder = User(enable={"handshake"})
    responder.shake_hands = gate = Gate()
    async with responder.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: set(node.connecting) == {peer.addr})
            assert peer.addr in node.connecting
            assert len(node.connecting) == 1
            gate.opened.set()
            await wait_until(lambda: peer.addr in node.connections)
            assert peer.addr not in node.connecting


async def test_the_views_iterate_over_a_snapshot() -> None:
    middle, others = User(), [User() for _ in range(5)]
    async with middle.node, anyio.create_task_group() as tasks:
        for user in others:
            await tasks.start(run, user.node)
            await connect(user, middle)
        seen = []
        for addr in middle.node.connections:
            await middle.node.disconnect(addr)
            seen.append(addr)
        assert len(seen) == 5
        for user in others:
            await wait_until(lambda user=user: not user.node.connections)  # type: ignore[misc]  # mypy #4226
            await connect(user, middle)
        for connection in middle.node.connections.values():
            await middle.node.disconnect(connection)
        assert not middle.node.connections
        for user in others:
            await wait_until(lambda user=user: not user.node.connections)  # type: ignore[misc]  # mypy #4226
            await connect(user, middle)
        for addr, connection in middle.node.connections.items():
            assert connection.addr == addr
            await middle.node.disconnect(connection)
        assert not middle.node.connections
        tasks.cancel_scope.cancel()


async def run(node: Node, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    async with node:
        task_status.started()
        await anyio.sleep_forever()


async def test_the_view_of_what_is_being_set_up_iterates_over_a_snapshot() -> None:
    responder = User(enable={"handshake"})

    async def shake_hands(_: Connection, stream: anyio.abc.ByteStream) -> anyio.abc.ByteStream:
        await stream.receive()
        return stream

    responder.shake_hands = shake_hands
    async with responder.node as node:
        addr = await node.start_listening()
        peers = {peer.addr: peer for peer in [await RawPeer.dial(addr) for _ in range(5)]}
        await wait_until(lambda: set(node.connecting) == set(peers))
        seen = 0
        for addr in node.connecting:
            peers[addr].close()
            await wait_until(lambda addr=addr: addr not in node.connecting)  # type: ignore[misc]  # mypy #4226
            seen += 1
        assert seen == 5


async def test_the_views_cannot_be_changed() -> None:
    node = Node()
    for name in "__setitem__", "__delitem__", "pop", "clear", "add", "discard":
        assert not hasattr(node.connections, name)
        assert not hasattr(node.connecting, name)


async def test_both_ends_count_what_went_over_the_connection() -> None:
    dialler, responder = User(), Echo()
    async with two_nodes(dialler, responder) as (ours, theirs):
        for _ in range(3):
            await dialler.outbox.send(ours, b"0123456789")
        await wait_until(lambda: len(dialler.received) == 3)
        await wait_until(lambda: ours.stats.messages_received == theirs.stats.messages_received == 3)
        for stats in ours.stats, theirs.stats, dialler.node.stats, responder.node.stats:
            assert (stats.messages_sent, stats.bytes_sent) == (3, 42)
            assert (stats.messages_received, stats.bytes_received) == (3, 42)
            assert 0 <= anyio.current_time() - stats.created < 60


async def test_a_nodes_stats_survive_a_disconnect() -> None:
    dialler, responder = User(), Echo()
    async with two_nodes(dialler, responder) as (first, _):
        await dialler.outbox.send(first, b"0123456789")
        await wait_until(lambda: dialler.received)
        await dialler.node.disconnect(first)
        await wait_until(lambda: not responder.node.connections)
        second, _ = await connect(dialler, responder)
        await dialler.outbox.send(second, b"0123456789")
        await wait_until(lambda: len(dialler.received) == 2)
        await wait_until(lambda: dialler.node.stats.messages_received == 2)
        assert dialler.node.stats.bytes_sent == dialler.node.stats.bytes_received == 28
        assert first.stats.bytes_sent == second.stats.bytes_sent == 14


async def test_identity_of_connections() -> None:
    """Connections are compared by identity and weakly referenceable."""
    dialler, responder = User(), User()
    notes: weakref.WeakKeyDictionary[Connection, str] = weakref.WeakKeyDictionary()
    async with two_nodes(dialler, responder) as (ours, theirs):
        notes[ours], notes[theirs] = "ours", "theirs"
        assert notes[dialler.only] == "ours"
        assert ours != theirs
        assert len({ours, theirs, dialler.only}) == 2


async def test_a_connection_tells_what_it_is() -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (ours, _):
        assert str(ours.addr[1]) in repr(ours)
        assert "initiator" in repr(ours)
        assert "established" in repr(ours)
        await dialler.node.disconnect(ours)
        assert "USER" in repr(ours)


async def test_the_views_tell_what_is_in_them() -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (ours, _):
        assert repr(dialler.node.connections) == f"<connections {[ours.addr]}>"
        assert repr(dialler.node.connecting) == "<connecting []>"


async def test_the_view_of_what_is_being_set_up_is_a_set() -> None:
    dialler = User(enable={"handshake"})

    async def shake_hands(_: Connection, stream: anyio.abc.ByteStream) -> anyio.abc.ByteStream:
        assert dialler.node.connecting & {addr, (LOCALHOST, 1)} == {addr}
        assert dialler.node.connecting | {(LOCALHOST, 1)} == {addr, (LOCALHOST, 1)}
        assert dialler.node.connecting == {addr}
        assert not dialler.node.connecting - {addr}
        return stream

    dialler.shake_hands = shake_hands
    with RawListener.open() as listener:
        addr = listener.addr
        async with dialler.node as node:
            await node.connect(addr)


async def test_a_node_that_is_closing_says_so() -> None:
    dialler, responder = User(), User()
    seen: list[str] = []

    async def part(*_: object) -> None:
        seen.append(repr(dialler.node))

    dialler.part = part
    async with responder.node, dialler.node as node:
        await connect(dialler, responder)
    assert seen == [f"<Node {node.name}, closing, 1 connection>"]


async def test_a_node_tells_what_it_is() -> None:
    node = Node(Config(name="alice"))
    assert repr(node) == "<Node alice, new, 0 connections>"
    async with node:
        port = (await node.start_listening())[1]
        assert repr(node) == f"<Node alice, running, listening at 127.0.0.1:{port}, 0 connections>"
    assert repr(node) == "<Node alice, closed, 0 connections>"


async def test_why_a_connection_has_ended_is_its_cause() -> None:
    user = User()
    async with user.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as peer:
            await wait_until(lambda: node.connections)
            clean = user.only
            assert clean.cause is None
            peer.close()
            await wait_until(lambda: not node.connections)
            assert clean.cause is None
        with await RawPeer.dial(addr) as peer:
            await wait_until(lambda: node.connections)
            broken = user.only
            peer.reset()
            await wait_until(lambda: not node.connections)
            assert isinstance(broken.cause, ConnectionResetError)
    assert user.origins == [DisconnectOrigin.READING] * 2


@pytest.mark.parametrize("abort", [False, True])
async def test_disconnects_at_once_have_one_cause(abort: bool) -> None:
    dialler, responder = User(), User()
    answers: list[bool] = []

    async def disconnect() -> None:
        answers.append(await dialler.node.disconnect(ours, abort=abort))
        assert not dialler.node.connections

    async with two_nodes(dialler, responder) as (ours, _):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(disconnect)
        assert sorted(answers) == [False] * 4 + [True]
    assert dialler.origins == [DisconnectOrigin.USER]


async def test_a_node_that_is_not_running_connects_to_nobody() -> None:
    node = Node()
    for use in (node.connect((LOCALHOST, 1)), node.start_listening(), node.shut_down(), node.wait_closed()):
        with pytest.raises(RuntimeError, match=r"async with|never entered"):
            await use
    with pytest.raises(RuntimeError, match="async with"):
        node.start_soon(anyio.sleep, 0)
    async with node:
        pass
    for use in (node.connect((LOCALHOST, 1)), node.start_listening()):
        with pytest.raises(NodeClosedError, match="shut down"):
            await use
    with pytest.raises(NodeClosedError):
        node.start_soon(anyio.sleep, 0)
    assert await node.disconnect((LOCALHOST, 1)) is False
    await node.shut_down()
    await node.wait_closed()
