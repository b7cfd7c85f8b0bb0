"""Every public await and the block itself, cancelled at each of the first turns of the event loop."""

from __future__ import annotations

import random

import pytest

from .cancelling import MEDIA, TURNS, Sweep, cancelled_after


@pytest.mark.parametrize("medium", MEDIA)
async def test_a_sample_leaves_nothing_and_everything_works(medium: str) -> None:
    sweep = Sweep(medium)
    await sweep.run(sweep.calls(), sorted(random.sample(range(TURNS // 2), 3)), cancelled_after)


@pytest.mark.stress
@pytest.mark.parametrize("call", Sweep.calls())
@pytest.mark.parametrize("medium", MEDIA)
async def test_every_turn_leaves_nothing_and_everything_works(medium: str, call: str) -> None:
    sweep = Sweep(medium)
    await sweep.run([call], list(range(TURNS)), cancelled_after)
    assert sweep.in_time[call] or call == "stop_listening"  # which is done within a turn
