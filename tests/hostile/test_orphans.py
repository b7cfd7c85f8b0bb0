"""Where a queue was given up the close is a reset, so that the kernel keeps nothing for a peer that does not read.

Otherwise each such peer leaves a socket that nobody owns, with megabytes that it did not take, for minutes (tcp(7),
`tcp_orphan_retries`).
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from anyio import connect_tcp, create_task_group
from anyio.abc import SocketAttribute

from pea2pea import Address, Config, Connection, DisconnectOrigin, Node, Side, TCPTransport

from ..helpers import ALL, Opaque, RawListener, RawPeer, User, wait_until
from ..protocols.stuck import SMALL_BUFFER
from ..protocols.tls import SecureUser, wrap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which sockets nobody owns")

LOTS = bytes(8_000_000)  # more than the buffers on the way hold, and no more than a frame does
PEERS = 5
any_end = pytest.mark.parametrize("how", ["a write timeout", "disconnect", "shutdown", "abort"])


def states(connections: Collection[tuple[int, int]]) -> list[str]:
    """The states of the kernel's sockets with these local and remote ports, whether anybody owns them or not."""
    found = []
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        local, remote, state = line.split()[1:4]
        if tuple(int(name.partition(":")[2], 16) for name in (local, remote)) in connections:
            found.append(state)
    return found


def user_for(how: str, kind: type[User] = User) -> User:
    user = kind(Config(grace_period=0.1), enable=ALL - {"writing"} - (set() if kind is SecureUser else {"handshake"}))
    user.outbox = user.node.enable_writing(user, timeout=0.1 if how == "a write timeout" else 1000.0)
    return user


async def end_all(user: User, how: str) -> None:
    """End the connections that way."""
    connections = list(user.node.connections.values())
    if how == "shutdown":
        await user.node.shut_down()
    elif how == "a write timeout":
        await wait_until(lambda: len(user.ended) == PEERS, timeout=30)
        assert set(user.origins) == {DisconnectOrigin.WRITING}
        assert user.node.heuristics.write_timeouts == PEERS
    else:
        async with create_task_group() as tasks:
            for connection in connections:
                tasks.start_soon(partial(user.node.disconnect, connection, abort=how == "abort"))
    for connection in connections:
        await connection.wait_closed()
    assert user.node.heuristics.unsent_messages == PEERS


async def assert_reset(peer: RawPeer) -> None:
    with pytest.raises(ConnectionResetError):
        await peer.receive_all()


@any_end
@pytest.mark.parametrize("kind", [User, SecureUser], ids=["TCP", "TLS"])
async def test_peers_that_never_read_leave_nothing_in_the_kernel(how: str, kind: type[User]) -> None:
    user = user_for(how, kind)
    async with user.node as node:
        addr = await node.start_listening()
        with ExitStack() as stack:
            peers = []
            for _ in range(PEERS):
                peers.append(stack.enter_context(await RawPeer.dial(addr, receive_buffer=SMALL_BUFFER)))
                if kind is SecureUser:
                    await wrap(TCPTransport.wrap(peers[-1].sock), Side.INITIATOR)
            await wait_until(lambda: len(node.connections) == PEERS)
            for connection in node.connections.values():
                user.outbox.send_nowait(connection, LOTS)
            await end_all(user, how)
            assert states([(addr[1], peer.addr[1]) for peer in peers]) == []
            for peer in peers:
                await assert_reset(peer)


async def assert_that_nothing_is_left(how: str, dial: Callable[[Node, Address], Awaitable[Connection]]) -> None:
    user = user_for(how)
    ports: list[tuple[int, int]] = []
    async with user.node as node:
        with ExitStack() as stack:
            peers = []
            for _ in range(PEERS):
                listener = stack.enter_context(RawListener.open(receive_buffer=SMALL_BUFFER))
                connection = await dial(node, listener.addr)
                ports.append((connection.extra(SocketAttribute.local_port), listener.addr[1]))
                user.outbox.send_nowait(connection, LOTS)
                peers.append(stack.enter_context(await listener.accept()))
            await end_all(user, how)
            assert states(ports) == []
            for peer in peers:
                await assert_reset(peer)


@any_end
async def test_dialled_peers_leave_nothing_either(how: str) -> None:
    await assert_that_nothing_is_left(how, lambda node, addr: node.connect(addr))


@any_end
@pytest.mark.parametrize("wrapped", [False, True])
async def test_adopted_foreign_streams(how: str, wrapped: bool) -> None:
    """Streams that are not the library's, whose sockets can be reached, leave nothing either."""

    async def adopt(node: Node, addr: Address) -> Connection:
        stream = await connect_tcp(*addr)
        return await node.adopt(Opaque(stream) if wrapped else stream, addr, Side.INITIATOR)

    await assert_that_nothing_is_left(how, adopt)


@pytest.mark.parametrize("foreign", [False, True])
async def test_abort_with_nothing_queued(foreign: bool) -> None:
    """What the kernel has taken is thrown away, too."""
    user = user_for("abort")
    async with user.node as node:
        with RawListener.open(receive_buffer=SMALL_BUFFER) as listener:
            if foreign:
                connection = await node.adopt(await connect_tcp(*listener.addr), listener.addr, Side.INITIATOR)
            else:
                connection = await node.connect(listener.addr)
            with await listener.accept() as peer:
                await user.outbox.deliver(connection, bytes(100))
                await node.disconnect(connection, abort=True)
                assert node.heuristics.unsent_messages == 0
                await assert_reset(peer)


async def test_no_reset_of_a_peer_that_reads() -> None:
    """A peer that is still reading is not reset by an orderly end."""
    user = User()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening(), receive_buffer=SMALL_BUFFER) as peer:
            await wait_until(lambda: node.connections)
            user.outbox.send_nowait(user.only, LOTS)
            node.start_soon(node.disconnect, user.only)
            assert len(await peer.receive_all()) == 4 + len(LOTS)
    assert node.heuristics.unsent_messages == 0
