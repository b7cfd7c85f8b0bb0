"""Links, hosts and their failures, in virtual time."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable
from typing import cast

import anyio
import pytest
from anyio import BrokenResourceError, EndOfStream, current_time

from pea2pea import Config, Listener, Node
from pea2pea.testing import Host, Link, Network, Packet, Simulation, Verdict, simulate
from pea2pea.transport import TCPStream
from tests.helpers import receive_exactly, wait_until

A, B = "10.0.0.1", "10.0.0.2"


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[Simulation], Awaitable[object]]], None]:
    return lambda scenario: simulate(scenario, backend=request.param)


Run = Callable[[Callable[[Simulation], Awaitable[object]]], None]


async def connected(sim: Simulation) -> tuple[TCPStream, TCPStream]:
    """A stream from host A to host B, and its other end."""
    listener = await listen(sim.host(B))
    dialled = await sim.host(A).dial((B, 4000))
    return cast("TCPStream", dialled), cast("TCPStream", (await listener.accept())[0])


async def listen(host: Host, backlog: int = 8) -> Listener:
    return await host.listen((host.ip, 4000), backlog=backlog, reuse_port=False)


@pytest.mark.parametrize(
    "fields", [{"latency": -1}, {"latency": (2, 1)}, {"jitter": -1}, {"loss": 1}, {"bandwidth": 0}]
)
def test_a_link_that_cannot_be_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="has to be"):
        Link(**fields)


def test_hosts_are_made_once(run: Run) -> None:
    async def scenario(sim: Simulation) -> None:
        assert sim.host(A) is sim.host(A) is sim.network.host("::ffff:10.0.0.1")
        with pytest.raises(ValueError, match="IP address"):
            sim.host("example.org")

    run(scenario)


def test_latency_and_bandwidth_take_their_time(run: Run) -> None:
    async def scenario(sim: Simulation) -> None:
        sim.network.link = Link(latency=0.5, bandwidth=100_000)
        began = current_time()
        a, b = await connected(sim)
        assert 1.0 <= current_time() - began < 1.6
        began = current_time()
        await a.send(bytes(50_000))
        await receive_exactly(b, 50_000)
        assert 1.0 <= current_time() - began < 1.01

    run(scenario)


def test_a_range_of_latencies_gives_each_pair_of_hosts_its_own(run: Run) -> None:
    async def scenario(sim: Simulation) -> None:
        sim.network.link = Link(latency=(0.1, 0.9))
        found = set()
        for number in range(2, 12):
            host = sim.host(f"10.0.0.{number}")
            await listen(host)
            took = set()
            for _ in range(2):
                began = current_time()
                await sim.host(A).dial((host.ip, 4000))
                took.add(round(current_time() - began, 6))
            assert len(took) == 1
            found |= took
        assert len(found) == 10
        assert 0.2 <= min(found) < max(found) <= 1.8

    run(scenario)


def test_no_segment_overtakes_another(run: Run) -> None:
    async def scenario(sim: Simulation) -> None:
        sim.network.link = Link(latency=0.01, jitter=0.5, loss=0.3)
        a, b = await connected(sim)
        sent = b"".join(number.to_bytes(4, "big") for number in range(2_000))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(a.send, sent[:4_000])
            await anyio.sleep(0.1)
            tasks.start_soon(a.send, sent[4_000:])
            assert await receive_exactly(b, len(sent)) == sent

    run(scenario)


@pytest.mark.parametrize("seconds", [0.1, 10, 100])
def test_a_partition_only_delays_what_is_sent(run: Run, seconds: float) -> None:
    async def scenario(sim: Simulation) -> None:
        a, b = await connected(sim)
        sim.network.partition([sim.host(A)], [sim.host(B)])
        await a.send(b"patience")
        with anyio.move_on_after(seconds):
            await b.receive()
            raise AssertionError("it went through")
        sim.network.heal()
        healed = current_time()
        assert await receive_exactly(b, 8) == b"patience"
        assert current_time() - healed <= seconds + 0.5

    run(scenario)


def test_a_cut_is_one_way(run: Run) -> None:
    async def scenario(sim: Simulation) -> None:
        a, b = await connected(sim)
        sim.network.cut(sim.host(A), sim.host(B))
        await b.send(b"heard")
        assert await receive_exactly(a, 5) == b"heard"
        await a.send(b"not heard")
        with anyio.move_on_after(5) as scope:
            await b.receive()
        assert scope.cancelled_caught
        assert b.unacknowledged() == 5

    run(scenario)


def test_who_never_gets_through_is_told_after_a_quarter_of_an_hour(run: Run) -> None:
    async def scenario(sim: Simulation) -> None:
        a, _ = await connected(sim)
        sim.network.partition([sim.host(A)], [sim.host(B)])
        await a.send(b"hello?")
        with pytest.raises(BrokenResourceError) as failure:
            await a.receive()
        assert cast("OSError", failure.value.__cause__).errno == errno.ETIMEDOUT
        assert 600 < current_time() < 1200

    run(scenario)


def test_a_dial_that_nothing_answers_fails_after_two_minutes(run: Run) -> None:
    async def scenario(sim: Simulation) -> None:
        with pytest.raises(TimeoutError):
            await sim.host(A).dial((B, 4000))
        assert 120 < current_time() < 130

    run(scenario)


def test_what_is_held_comes_when_it_is_released_and_in_order(run: Run) -> None:
    async def scenario(sim: Simulation) -> None:
        a, b = await connected(sim)
        held = sim.network.hold(sim.host(A), sim.host(B))
        await a.send(b"one ")
        await anyio.sleep(1)
        await a.send(b"two")
        await anyio.sleep(1)
        assert b.receive_nowait() is None
        await b.send(b"!")
        assert await a.receive() == b"!"
        held.release()
        await a.send(b" three")
        held.release()
        assert await receive_exactly(b, 13) == b"one two three"

    run(scenario)


def test_a_rule_sees_packets_and_delays_or_drops_them(run: Run) -> None:
    async def scenario(sim: Simulation) -> None:
        seen: list[Packet] = []

        def rule(packet: Packet) -> Verdict:
            seen.append(packet)
            if packet.kind == "SYN":
                return Verdict.DROP if len(seen) == 1 else Verdict.PASS
            return Verdict(delay=3.0) if packet.data == b"slow" else Verdict.PASS

        sim.network.rule = rule
        a, b = await connected(sim)
        assert 1.0 <= current_time() < 1.01  # the second SYN
        await a.send(b"slow")
        await receive_exactly(b, 4)
        assert 4.0 <= current_time() < 4.01
        a.close()
        with pytest.raises(EndOfStream):
            await b.receive()
        b.close(reset=True)
        assert [packet.kind for packet in seen if not packet.data] == ["SYN", "SYN", "FIN", "RST"]
        assert {packet.target for packet in seen[:2]} == {(B, 4000)}

    run(scenario)


def test_dropped_data_is_sent_again(run: Run) -> None:
    async def scenario(sim: Simulation) -> None:
        left = 3

        def rule(packet: Packet) -> Verdict:
            nonlocal left
            if packet.kind != "DATA":
                return Verdict.PASS
            left -= 1
            return Verdict(drop=left >= 0)

        a, b = await connected(sim)
        sim.network.rule = rule
        await a.send(b"x")
        assert await b.receive() == b"x"
        assert current_time() == pytest.approx(0.2 + 0.4 + 0.8, abs=0.01)

    run(scenario)


def test_after_a_crash_nobody_is_told_until_the_host_is_back(run: Run) -> None:
    async def scenario(sim: Simulation) -> None:
        a, b = await connected(sim)
        sim.host(B).crash()
        await a.send(b"hello?")
        with anyio.move_on_after(10) as scope:
            await a.receive()
        assert scope.cancelled_caught
        await b.send(b"into the void")
        await b.send_eof()
        with anyio.move_on_after(10) as scope:
            await b.receive()
        assert scope.cancelled_caught
        await sim.host(B).restart()
        with pytest.raises(BrokenResourceError) as failure:  # with the next retransmission
            await a.receive()
        assert cast("OSError", failure.value.__cause__).errno == errno.ECONNRESET
        assert b.unacknowledged() == 0
        b.close()

    run(scenario)


def test_what_is_silent_never_learns_of_a_crash(run: Run) -> None:
    async def scenario(sim: Simulation) -> None:
        a, _ = await connected(sim)
        sim.host(B).crash()
        await sim.host(B).restart()
        with anyio.move_on_after(1000) as scope:
            await a.receive()
        assert scope.cancelled_caught

    run(scenario)


@pytest.mark.parametrize("unread", [False, True])
def test_the_kernel_closes_what_a_killed_program_had(run: Run, unread: bool) -> None:
    async def scenario(sim: Simulation) -> None:
        a, b = await connected(sim)
        await b.send(b"last")
        if unread:
            await a.send(b"never read")
        await anyio.sleep(1)
        sim.host(B).kill()
        assert await receive_exactly(a, 4) == b"last"
        with pytest.raises(BrokenResourceError if unread else EndOfStream):
            await a.receive()
        with pytest.raises(ConnectionRefusedError):
            await sim.host(A).dial((B, 4000))

    run(scenario)


@pytest.mark.parametrize("after", [0.15, 0.25])  # within the second way of the three of a set-up, and within the third
@pytest.mark.parametrize("end", ["close", "kill", "crash"])
def test_a_connection_that_is_set_up_when_its_listener_ends_is_reset(run: Run, end: str, after: float) -> None:
    async def scenario(sim: Simulation) -> None:
        sim.network.link = Link(latency=0.1)
        listener = await listen(sim.host(B))

        async def end_it() -> None:
            await anyio.sleep(after)
            if end == "close":
                await listener.aclose()
            else:
                getattr(sim.host(B), end)()

        async with anyio.create_task_group() as group:
            group.start_soon(end_it)
            stream = await sim.host(A).dial((B, 4000))
            assert current_time() == pytest.approx(0.2)
            with anyio.move_on_after(60) as scope:
                with pytest.raises(BrokenResourceError):
                    await stream.receive()
                assert current_time() == pytest.approx(0.4)
            assert scope.cancelled_caught == (end == "crash")

    run(scenario)


def test_a_program_has_so_many_sockets_and_no_more(run: Run) -> None:
    async def scenario(sim: Simulation) -> None:
        sim.host(B).max_sockets = 2
        listener = await listen(sim.host(B))
        dialled = [await sim.host(A).dial((B, 4000)) for _ in range(3)]
        accepted = [(await listener.accept())[0] for _ in range(2)]
        with pytest.raises(OSError, match="Too many open files"):
            await listener.accept()
        with pytest.raises(OSError, match="Too many open files"):
            await sim.host(B).dial((A, 1))
        await accepted[0].aclose()
        await listener.accept()
        assert len(dialled) == 3

    run(scenario)


def test_a_dial_may_be_bound(run: Run) -> None:
    async def scenario(sim: Simulation) -> None:
        listener = await listen(sim.host(B))
        stream = await sim.host(A).dial((B, 4000), local_addr=(A, 5000))
        assert (await listener.accept())[1] == (A, 5000)
        for taken in ((A, 5000), (B, 0)):
            with pytest.raises(OSError, match=r"connecting to|cannot dial from") as failure:
                await sim.host(A).dial((B, 4000), local_addr=taken)
            assert failure.value.errno == errno.EADDRNOTAVAIL
        await stream.aclose()

    run(scenario)


def test_each_host_has_a_loopback_interface_of_its_own(run: Run) -> None:
    async def scenario(sim: Simulation) -> None:
        for ip in (A, B):
            await sim.host(ip).listen(("127.0.0.1", 80), backlog=1, reuse_port=False)
        await sim.host(A).dial(("127.0.0.1", 80))
        with pytest.raises(ConnectionRefusedError):
            await sim.host(A).dial((B, 80))

    run(scenario)


def test_names_are_resolved(run: Run) -> None:
    async def scenario(sim: Simulation) -> None:
        sim.network.names["seed.example"] = B
        assert await sim.host(A).resolve(("seed.example", 7)) == [(B, 7)]
        assert await sim.host(A).resolve(("localhost", 7)) == [("127.0.0.1", 7)]
        with pytest.raises(OSError, match="no host of this network"):
            await sim.host(A).resolve(("other.example", 7))

    run(scenario)


async def test_a_network_works_without_a_simulation() -> None:
    """Several nodes that wait at the same time, of which some are cancelled while they run the network's events."""
    network = Network(1)
    network.link = Link(latency=0.001)
    nodes = [Node(Config(listener_addr=(f"10.0.0.{n}", 1)), transport=network.host(f"10.0.0.{n}")) for n in range(1, 9)]
    async with anyio.create_task_group() as tasks:

        async def run(node: Node, ready: anyio.Event) -> None:
            async with node:
                await node.start_listening()
                ready.set()
                await node.wait_closed()

        for node in nodes:
            ready = anyio.Event()
            tasks.start_soon(run, node, ready)
            await ready.wait()
        for node in nodes[1:]:
            with anyio.move_on_after(0.0005):
                await nodes[0].connect(("10.0.0.9", 1))
            await node.connect(("10.0.0.1", 1))
        await wait_until(lambda: len(nodes[0].connections) == 7)
        for node in nodes:
            await node.shut_down()
