"""Helpers for tests: a conformance kit for codecs, a network in one process, and waiting for a condition.

    check_codec     whether a codec of yours keeps what the interface promises, however its stream is cut
    simulate        programs on hosts of their own, over a network that fails, in virtual time; a seed replays it
    Network         such a network by itself, in real time: `Node(config, transport=network.host("10.0.0.1"))`
    ScriptedPeer    a peer that does what a test says, for conformance tests of any node
    wait_until      waits for a condition, in real time, in place of a fixed sleep

How to test a protocol under failures. `program` runs a node until it is cancelled, and knows nothing of the simulation:

    async def scenario(sim: Simulation) -> None:
        sim.network.link = Link(latency=(0.01, 0.1), loss=0.01)
        hosts = [sim.host(f"10.0.0.{n}", program, f"10.0.0.{n}") for n in range(1, 6)]
        sim.start(*hosts)
        await anyio.sleep(5)                                # of virtual time
        sim.network.partition(hosts[:2], hosts[2:])
        hosts[4].crash()
        await anyio.sleep(60)
        sim.network.heal()
        await hosts[4].restart()                            # its program runs anew
        await sim.until(lambda: all_have_recovered(), within=60)

    simulate(scenario, seeds=200, backend="trio")           # in a plain test function, which is not async

What must never happen is an `assert` in a predicate of `sim.until`, which is asked every 10 ms of virtual time. Call
`sim.log` where your program decides something: a failure shows the last entries of each host. A node notices a peer
that is cut off by its timeouts alone (`enable_reading(idle_timeout=...)`), as over a real network.
"""

from __future__ import annotations

from .codecs import Strategy, check_codec
from .network import Held, Host, Link, Network, Packet, Verdict
from .peer import ScriptedPeer
from .simulation import Simulation, simulate, wait_until

__all__ = [
    "Held", "Host", "Link", "Network", "Packet", "ScriptedPeer", "Simulation", "Strategy", "Verdict", "check_codec",
    "simulate", "wait_until",
]  # fmt: skip
