"""Ten seeds of the chaos, and a few of the bugs that it has to find."""

from __future__ import annotations

import pytest

from tests.simulation import chaos
from tests.simulation.mutants import FOUND_BY, MUTANTS

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@BACKENDS
@pytest.mark.parametrize("seed", range(1, 11))
def test_nothing_goes_wrong(seed: int, backend: str) -> None:
    done, _ = chaos.run(seed, backend)
    assert done["messages"] > 0


@pytest.mark.parametrize(
    ("seed", "backend"), [(67, "trio")]
)  # an end that gave up what nobody had read, and did not say so
def test_what_went_wrong_once(seed: int, backend: str) -> None:
    chaos.run(seed, backend)


def test_a_seed_is_the_same_again() -> None:
    assert chaos.run(4, "trio") == chaos.run(4, "trio")
    assert chaos.run(5, "asyncio") == chaos.run(5, "asyncio")


@pytest.mark.parametrize(
    "name",
    ["a free slot is not noticed", "no turns of processing", "messages are miscounted", "a wait before the table"],
)
def test_a_bug_is_found(name: str) -> None:
    assert chaos.find_mutant(name, range(1, 13), ["asyncio"]) is not None


def test_each_bug_can_be_put_in() -> None:
    assert set(MUTANTS) == set(FOUND_BY)
    for mutant in MUTANTS.values():
        with mutant.applied():
            pass
