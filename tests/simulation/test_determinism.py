"""The same seed is the same run: in another process, with other addresses and other hashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.scenarios import digests, rumour

BACKENDS = ["asyncio", "trio"]


def run_elsewhere(backend: str, seeds: str, scenario: str, count: int) -> list[list[str]]:
    """The digests that so many processes find."""
    command = [sys.executable, "-m", "tests.simulation.scenarios", backend, seeds, scenario]
    programs = [
        subprocess.Popen(  # noqa: S603  # our own program
            command,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
        )
        for seed in range(1, count + 1)
    ]
    found = [program.communicate()[0].decode().split() for program in programs]
    assert all(program.returncode == 0 for program in programs)
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("scenario", "seeds", "count"),
    [
        ("rumour", "1-10", 3),
        ("crowd", "1-5", 3),
        pytest.param("rumour", "1-50", 5, marks=[pytest.mark.stress, pytest.mark.timeout(300)]),
    ],
)
def test_each_process_finds_the_same_digests(backend: str, scenario: str, seeds: str, count: int) -> None:
    first, *others = run_elsewhere(backend, seeds, scenario, count)
    assert len(set(first)) == len(first) > 1
    assert all(other == first for other in others)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_does_not_depend_on_those_before_it(backend: str) -> None:
    assert digests(rumour, backend, range(3, 4)) == digests(rumour, backend, range(1, 4))[2:]


@pytest.mark.parametrize(
    ("backend", "scenario"),
    [
        *((backend, "ordered_by_address") for backend in BACKENDS),
        *((backend, "ordered_by_hash") for backend in BACKENDS),
        *((backend, "timed_by_the_system") for backend in BACKENDS),
        ("asyncio", "tasks_without_numbers"),
    ],
)
def test_what_does_not_follow_from_the_seed_shows(backend: str, scenario: str) -> None:
    first, *others = run_elsewhere(backend, "1-3", scenario, 2)
    assert any(other != first for other in others)
