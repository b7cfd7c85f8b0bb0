"""Nodes under load, and nodes among others."""

from __future__ import annotations

from contextlib import suppress
from time import monotonic

import pytest
from anyio import create_task_group
from anyio.lowlevel import checkpoint

from pea2pea import Config
from pea2pea.codecs import LengthDelimitedCodec
from pea2pea.topology import connect_nodes, mesh, ring

from ..helpers import RawPeer, User, above_info, frame, wait_until

HASTY = Config(grace_period=0.1)


async def test_a_view_may_be_iterated_over_while_peers_come_and_go() -> None:
    user = User()
    async with user.node as node, create_task_group() as group:
        addr = await node.start_listening()

        async def come_and_go() -> None:
            while True:
                await checkpoint()  # what never has to wait cannot be cancelled on uvloop
                with suppress(ConnectionResetError), await RawPeer.dial(addr) as peer:
                    await peer.send(frame(b"hello"))

        for _ in range(3):
            group.start_soon(come_and_go)
        await wait_until(lambda: user.ended)
        before = len(user.ended)
        while len(user.ended) < before + 20:
            for view in (node.connections, node.connecting, node.connections.values(), node.connections.items()):
                for _ in view:
                    await checkpoint()
            await checkpoint()
        group.cancel_scope.cancel()


@pytest.mark.parametrize("edges", [ring(5), mesh(5)])
async def test_connect_nodes_returns_once_both_ends_see_each_connection(edges: list[tuple[int, int]]) -> None:
    users = [User(HASTY) for _ in range(5)]
    nodes = [user.node for user in users]
    async with nodes[0], nodes[1], nodes[2], nodes[3], nodes[4]:
        for node in nodes:
            await node.start_listening()
        await connect_nodes(nodes, edges)
        for number, node in enumerate(nodes):
            assert len(node.connections) == sum(number in edge for edge in edges)


async def test_no_peer_causes_a_record_above_info_nor_many_of_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pea2pea")
    user = User(Config(max_connections=5), enable={"handshake", "writing", "on_disconnect"})
    user.codec = lambda: LengthDelimitedCodec(max_length=10)
    user.node.enable_reading(user, drop_beyond=1, idle_timeout=0.1)
    began = monotonic()

    async def misbehave(how: int) -> None:
        with await RawPeer.dial(addr) as peer:
            if how % 5 == 0:
                await peer.send(b"\xff" * 100)
                await peer.is_refused()
            elif how % 5 == 1:
                await peer.send(frame(b"cut")[:-1])
            elif how % 5 == 2:
                await peer.send(frame(b"many") * 1000)
                peer.reset()
            elif how % 5 == 3:
                peer.reset()
            else:
                await peer.is_refused()

    async with user.node as node:
        addr = await node.start_listening()
        for start in range(0, 100, 10):
            async with create_task_group() as group:
                for how in range(start, start + 10):
                    group.start_soon(misbehave, how)
        await wait_until(lambda: not node.connections and not node.connecting)
        assert node.heuristics.decode_errors
        assert node.heuristics.idle_timeouts
    assert not above_info(caplog)
    kinds = {record.getMessage().partition(" (peer")[0] for record in caplog.records}
    assert len(caplog.records) <= len(kinds) * (1 + monotonic() - began)
