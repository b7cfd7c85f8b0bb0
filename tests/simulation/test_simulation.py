"""What `simulate` promises, beside that a seed decides everything."""

from __future__ import annotations

import gc
import logging
import random
import re
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import anyio
import pytest
from anyio import current_time

from pea2pea import Config, Connection, DisconnectOrigin, Node, testing
from pea2pea.codecs import LinesCodec
from pea2pea.testing import Simulation, simulate, simulation
from tests.simulation.scenarios import crowd, rumour

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])
A, B = "10.0.0.1", "10.0.0.2"
ROOT = Path(__file__).parents[2]


@BACKENDS
@pytest.mark.parametrize("stall", [0.0, 0.05])
def test_a_rumour_spreads_whatever_happens(backend: str, stall: float) -> None:
    simulate(rumour, seeds=3, backend=backend, stall=stall)


@BACKENDS
def test_seeds_are_counted_or_given(backend: str) -> None:
    found: list[int] = []

    async def scenario(sim: Simulation, word: str) -> None:
        await anyio.sleep(1)
        assert word == "argument"
        found.append(sim.seed)

    simulate(scenario, "argument", seeds=3, backend=backend)
    simulate(scenario, "argument", seeds=[7, 5], backend=backend)
    assert found == [1, 2, 3, 7, 5]


@BACKENDS
def test_time_passes_at_once(backend: str) -> None:
    async def scenario(sim: Simulation) -> None:
        await anyio.sleep(50_000)
        assert current_time() == sim.network.now() == 50_000

    simulate(scenario, limit=2e6, backend=backend)


@BACKENDS
def test_a_hang_is_a_timeout(backend: str) -> None:
    async def scenario(_: Simulation) -> None:
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError):
        simulate(scenario, backend=backend, limit=1e5)


@BACKENDS
def test_a_spinning_task_does_not_stop_time(backend: str) -> None:
    async def spin() -> None:
        while True:
            await anyio.lowlevel.checkpoint()

    async def scenario(_: Simulation) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(spin)
            await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()

    simulate(scenario, backend=backend)


@BACKENDS
def test_a_failure_says_how_to_see_it_again(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(sim: Simulation, least: int) -> None:
        async def program() -> None:
            await anyio.sleep(1)
            sim.log("a program's entry")

        sim.start(sim.host(A, program))
        sim.log("alike")
        await anyio.sleep(2)
        sim.log("small" if sim.seed < least else "large")
        await anyio.sleep(3)
        assert sim.seed < least, "too large"

    with pytest.raises(AssertionError, match="too large"):
        simulate(scenario, 3, seeds=5, backend=backend)
    told = capsys.readouterr().err
    assert "seed 3 failed at 5.000: AssertionError('too large" in told
    assert f"scenario, 3, seeds=[3], backend='{backend}', limit=3600.0, stall=0.0)" in told
    assert "  1.000000 10.0.0.1 a program's entry\n" in told
    assert "  2.000000 scenario large\n" in told
    differs = (
        r"event number 4 is the first that differs from seed ([12]), which passed:\n"
        r"  seed 3: scenario large\n  seed \1: scenario small\n"
    )
    assert re.search(differs, told)


@BACKENDS
def test_the_first_failure_is_told_without_a_difference(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(_: Simulation) -> None:
        await anyio.sleep(1)
        raise ValueError("always")

    with pytest.raises(ValueError, match="always"):
        simulate(scenario, seeds=[9], backend=backend)
    assert "differs" not in capsys.readouterr().err


@BACKENDS
@pytest.mark.parametrize("events", [0, 2])
def test_runs_of_the_same_events_have_no_difference(
    backend: str, events: int, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario(sim: Simulation) -> None:
        for _ in range(events):
            sim.log("alike")
        assert sim.seed < 3

    with pytest.raises(AssertionError):
        simulate(scenario, seeds=5, backend=backend)
    assert "differs" not in capsys.readouterr().err


@BACKENDS
def test_until_says_what_was_waited_for(backend: str) -> None:
    async def scenario(sim: Simulation) -> None:
        await sim.until(lambda: current_time() >= 5, within=6)
        assert 5 <= current_time() < 5.1
        sim.log("what happened last")
        await sim.until(lambda: False, within=1)

    with pytest.raises(TimeoutError, match=r"within 1 s, at 6\.\d+: .*lambda: False.*what happened last"):
        simulate(scenario, backend=backend)


@BACKENDS
def test_until_says_what_happened_last_however_much_happened_before(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation, "LINES", 3)

    async def scenario(sim: Simulation) -> None:
        for number in range(5):
            sim.log("event", number)
        with pytest.raises(TimeoutError, match=r"last: scenario event 4$"):
            await sim.until(lambda: False, within=1)

    simulate(scenario, backend=backend)


@BACKENDS
def test_until_refuses_an_async_predicate(backend: str) -> None:
    async def never() -> bool:
        return False

    async def scenario(sim: Simulation) -> None:
        await sim.until(never, within=1)

    with pytest.raises(TypeError, match=r"plain function, not async: .*never"):
        simulate(scenario, backend=backend)


@BACKENDS
def test_what_a_program_raises_comes_out(backend: str) -> None:
    async def program() -> NoReturn:
        await anyio.sleep(1)
        raise LookupError("of the program")

    async def scenario(sim: Simulation) -> None:
        sim.start(sim.host(A, program))
        await anyio.sleep(10)

    with pytest.raises(LookupError, match="of the program"):
        simulate(scenario, backend=backend)


@BACKENDS
def test_a_program_may_exit(backend: str) -> None:
    async def program() -> NoReturn:
        await anyio.sleep(1)
        raise SystemExit(3)

    async def scenario(sim: Simulation) -> None:
        sim.start(sim.host(A, program))
        await anyio.sleep(10)

    simulate(scenario, backend=backend)


@BACKENDS
@pytest.mark.parametrize("end", ["crash", "kill"])
def test_a_host_that_restarts_runs_its_program_anew(backend: str, end: str) -> None:
    lives: list[str] = []

    async def program(word: str) -> None:
        lives.append(word)
        try:
            await anyio.sleep_forever()
        finally:
            lives.append("ended")
            raise LookupError("nobody hears of it")

    async def scenario(sim: Simulation) -> None:
        host = sim.host(A, program, "began")
        sim.start(host)
        await anyio.sleep(1)
        getattr(host, end)()
        await host.restart()
        await anyio.sleep(1)
        assert lives == ["began", "ended", "began"]

    with suppress(LookupError):  # of the second life, which is cancelled at the end of the simulation
        simulate(scenario, backend=backend)
    assert lives == ["began", "ended", "began", "ended"]


@BACKENDS
def test_a_node_is_on_the_host_of_its_program(backend: str) -> None:
    async def listen() -> None:
        async with Node(Config(listener_addr=("::", 4000))) as node:
            await node.start_listening()
            await node.wait_closed()

    async def scenario(sim: Simulation) -> None:
        host = sim.host(A, listen)
        sim.start(host)
        await anyio.sleep(1)
        async with Node(transport=sim.host(B)) as node:
            connection = await node.connect((A, 4000))
            host.kill()
            await connection.wait_closed()
            assert connection.origin is DisconnectOrigin.READING
            await host.restart()
            await anyio.sleep(1)
            await node.connect((A, 4000))

    simulate(scenario, backend=backend)


@BACKENDS
def test_a_node_that_winds_down_on_a_crashed_host_reaches_nobody(backend: str) -> None:
    class Clinging:
        def __init__(self) -> None:
            self.node = Node(Config(listener_addr=(A, 4000)))
            self.outbox = self.node.enable_writing(self)
            self.node.enable_on_disconnect(self)

        def encoder(self, _: Connection) -> LinesCodec:
            return LinesCodec()

        async def on_disconnect(self, connection: Connection, _: DisconnectOrigin) -> None:
            self.outbox.send_nowait(connection, "last words")

        async def run(self) -> None:
            async with self.node as node:
                await node.start_listening()
                await node.wait_closed()

    async def scenario(sim: Simulation) -> None:
        host = sim.host(A, lambda: Clinging().run())
        sim.start(host)
        await anyio.sleep(1)
        stream = await sim.host(B).dial((A, 4000))
        await anyio.sleep(1)
        host.crash()
        with anyio.move_on_after(60) as scope:
            await stream.receive()
        assert scope.cancelled_caught

    simulate(scenario, backend=backend)


@BACKENDS
def test_nodes_run_in_a_block(backend: str) -> None:
    async def scenario(sim: Simulation) -> None:
        nodes = [Node(Config(listener_addr=(ip, 4000)), transport=sim.host(ip)) for ip in (A, B)]
        async with sim.running(nodes):
            await nodes[0].connect((B, 4000))
            await sim.until(lambda: nodes[1].connections, within=1)
        assert not nodes[0].connections

    simulate(scenario, backend=backend)


@BACKENDS
def test_a_node_without_a_host_is_told_so(backend: str) -> None:
    async def scenario(_: Simulation) -> None:
        async with Node() as node:
            with pytest.raises(RuntimeError, match="needs a host"):
                await node.connect((A, 1))
            await node.start_listening()

    with pytest.raises(RuntimeError, match="needs a host"):
        simulate(scenario, backend=backend)


@BACKENDS
def test_threads_are_refused(backend: str) -> None:
    async def scenario(_: Simulation) -> None:
        threading.Thread(target=print).start()

    with pytest.raises(RuntimeError, match="thread"):
        simulate(scenario, backend=backend)


@BACKENDS
def test_everything_is_left_as_it_was(backend: str) -> None:
    logger, state = logging.getLogger("pea2pea"), random.getstate()
    before = logger.level, list(logger.handlers), logging.getLogRecordFactory(), threading.Thread.start
    simulate(crowd, seeds=2, backend=backend)
    assert (logger.level, list(logger.handlers), logging.getLogRecordFactory(), threading.Thread.start) == before
    assert random.getstate() == state
    assert gc.isenabled()


@BACKENDS
def test_log_records_carry_virtual_time(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(_: Simulation) -> None:
        await anyio.sleep(1000)
        logging.getLogger("pea2pea").warning("now")

    simulate(scenario, backend=backend)
    assert [record.created for record in caplog.records] == [1000]


@BACKENDS
@pytest.mark.parametrize("scenario", ["clinging_for_ever", "clinging_for_long"])
def test_what_never_ends_is_a_failure(backend: str, scenario: str) -> None:
    """In a process of its own, since what is left of it cannot be cleaned up."""
    command = [sys.executable, "-m", "tests.simulation.scenarios", backend, "1", scenario]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    assert ended.returncode != 0
    assert "TimeoutError: what the scenario has started does not end when it is cancelled" in ended.stderr


def test_the_example_of_the_package_runs() -> None:
    assert testing.__doc__ is not None
    example = "async def scenario" + testing.__doc__.partition("async def scenario")[2].partition("\n\nWhat must")[0]
    seen: list[str] = []

    async def program(ip: str) -> None:
        async with Node(Config(listener_addr=(ip, 4000))) as node:
            await node.start_listening()
            seen.append(ip)
            await node.wait_closed()

    names = {**vars(testing), "anyio": anyio, "program": program, "all_have_recovered": lambda: len(seen) % 6 == 0}
    exec(textwrap.dedent("    " + example).replace("seeds=200", "seeds=2"), names)  # noqa: S102  # our own
    assert len(seen) == 12
