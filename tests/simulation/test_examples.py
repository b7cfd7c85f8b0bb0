"""Examples on a network with crashes and partitions: what they show holds there, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from typing import Any
from unittest.mock import patch

import anyio
import gossip
import kademlia
import one_connection_per_peer
import pytest
import reconnect

from pea2pea import Config, Node, NodeError
from pea2pea.testing import Link, Simulation, simulate

PORT = 4000
BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
SEEDS = pytest.mark.parametrize("seeds", [range(1, 3), pytest.param(range(3, 11), marks=pytest.mark.stress)])


@pytest.fixture(autouse=True)
def reachable() -> Iterator[None]:
    """The examples listen at 127.0.0.1; here they have a host each, and listen at its address."""

    def config(**fields: Any) -> Config:
        return Config(**{"listener_addr": ("::", PORT), **fields})

    modules = (gossip, kademlia, one_connection_per_peer, reconnect)
    patches = [patch.object(module, "Config", config) for module in modules]
    for each in patches:
        each.start()
    yield
    for each in patches:
        each.stop()


async def keep_dialling(node: Node, ips: list[str], own: str, dial: Callable[[str], Any]) -> None:
    """Try again and again to be connected with each of these."""
    while True:
        for ip in ips:
            if ip != own and all(connection.addr[0] != ip for connection in node.connections.values()):
                with suppress(OSError, NodeError):
                    await dial(ip)
        await anyio.sleep(1)


@BACKENDS
@SEEDS
def test_a_rumour_reaches_all_who_are_left(backend: str, seeds: range) -> None:
    async def scenario(sim: Simulation) -> None:
        sim.network.link = Link(latency=(0.01, 0.1), loss=0.01)
        ips = [f"10.0.0.{number}" for number in range(1, 16)]
        users: dict[str, gossip.Gossip] = {}

        async def program(ip: str) -> None:
            user = users[ip] = gossip.Gossip(ip, Random(f"{sim.seed} {ip}"))
            user.fanout = len(ips)
            neighbours = Random(ip).sample(ips, 4)
            async with user.node as node:
                await node.start_listening()
                await keep_dialling(node, neighbours, ip, lambda peer: node.connect((peer, PORT)))

        hosts = [sim.host(ip, program, ip) for ip in ips]
        sim.start(*hosts)
        await anyio.sleep(5)
        sim.network.partition(hosts[:7], hosts[7:])
        users[ips[0]].tell(gossip.Rumour(1, 0, "told in a part"))
        await anyio.sleep(10)
        assert sum(1 in user.hops for user in users.values()) <= 7
        for host in hosts[3:6]:
            host.crash()
        sim.network.heal()
        left = [user for ip, user in users.items() if ip not in ips[3:6]]
        await sim.until(lambda: all(1 in user.hops for user in left), within=60)
        for host in hosts[3:6]:
            await host.restart()
        await anyio.sleep(70)  # until those that are half open have been silent for too long
        users[ips[14]].tell(gossip.Rumour(2, 0, "told to all"))
        await sim.until(lambda: all(2 in user.hops for user in users.values()), within=60)

    simulate(scenario, seeds=seeds, backend=backend)


@BACKENDS
@SEEDS
def test_values_are_found_after_crashes(backend: str, seeds: range) -> None:
    async def scenario(sim: Simulation) -> None:
        sim.network.link = Link(latency=(0.01, 0.1))
        ips = [f"10.0.0.{number}" for number in range(1, 13)]
        peers: dict[str, kademlia.Peer] = {}

        async def program(ip: str) -> None:
            peer = peers[ip] = kademlia.Peer(Random(ip).getrandbits(kademlia.ID_BITS))
            async with peer.node as node:
                await node.start_listening()
                while ip != ips[0] and not list(peer.buckets):
                    with suppress(OSError, NodeError):
                        await peer.join((ips[0], PORT))
                    await anyio.sleep(1)
                await node.wait_closed()

        hosts = [sim.host(ip, program, ip) for ip in ips]
        for host in hosts:
            sim.start(host)
            await anyio.sleep(1)
        keys = [await peers[ips[number]].put(f"text {number}") for number in range(6)]
        sim.network.partition(hosts[:4], hosts[4:])
        await anyio.sleep(20)
        sim.network.heal()
        for host in hosts[7:9]:
            host.crash()
        await anyio.sleep(30)
        for number, key in enumerate(keys):
            assert (await peers[ips[-1 - number % 3]].get(key))[0] == f"text {number}"

    simulate(scenario, seeds=seeds, backend=backend)


@BACKENDS
@SEEDS
def test_there_is_one_connection_for_each_pair(backend: str, seeds: range) -> None:
    async def scenario(sim: Simulation) -> None:
        sim.network.link = Link(latency=(0.01, 0.2), jitter=0.05)
        ips = [f"10.0.0.{number}" for number in range(1, 7)]
        members: dict[str, one_connection_per_peer.Member] = {}

        async def program(ip: str) -> None:
            member = members[ip] = one_connection_per_peer.Member(ip)
            member.id = Random(f"{ip} {sim.network.now()}").randbytes(one_connection_per_peer.ID_LENGTH)
            async with member.node as node:
                await node.start_listening()
                await keep_dialling(node, ips, ip, lambda peer: node.connect((peer, PORT)))

        def are_all_connected() -> bool:
            return all(
                sorted(connection.addr[0] for connection in member.node.connections.values())
                == [other for other in ips if other != ip]
                for ip, member in members.items()
            )

        hosts = [sim.host(ip, program, ip) for ip in ips]
        sim.start(*hosts)
        await anyio.sleep(1)
        await sim.until(are_all_connected, within=60)
        hosts[2].kill()
        await hosts[2].restart()
        await sim.until(are_all_connected, within=60)

    simulate(scenario, seeds=seeds, backend=backend)


@BACKENDS
@SEEDS
def test_a_peer_that_comes_back_is_connected_again(backend: str, seeds: range) -> None:
    async def scenario(sim: Simulation) -> None:
        sim.network.link = Link(latency=0.05)
        ips = [f"10.0.0.{number}" for number in range(1, 5)]
        nodes: dict[str, Node] = {}

        async def keep() -> None:
            node = reconnect.new_node("keeper")
            keeper = reconnect.Keeper(node, {(ip, PORT): ip for ip in ips[1:]})
            nodes[ips[0]] = node
            async with node:
                keeper.start()
                await node.wait_closed()

        async def serve(ip: str) -> None:
            async with reconnect.new_node(ip, addr=("::", PORT)) as node:
                nodes[ip] = node
                await node.start_listening()
                await node.wait_closed()

        hosts = [sim.host(ips[0], keep), *(sim.host(ip, serve, ip) for ip in ips[1:])]
        sim.start(*hosts)
        await anyio.sleep(1)
        await sim.until(lambda: len(nodes[ips[0]].connections) == 3, within=10)
        hosts[1].kill()
        hosts[2].crash()
        await anyio.sleep(5)
        await hosts[1].restart()
        await hosts[2].restart()
        await sim.until(lambda: all(nodes[ip].connections for ip in ips[1:]), within=60)

    simulate(scenario, seeds=seeds, backend=backend)
