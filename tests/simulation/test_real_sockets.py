"""What `--simulated` leaves out is there, so that the list shrinks with the reasons."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real_sockets import REASONS, is_simulated

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("prefix", [prefix for prefixes in REASONS.values() for prefix in prefixes])
def test_what_is_left_out_exists(prefix: str) -> None:
    file, _, name = prefix.partition("::")
    assert not name or f"def {name}(" in (TESTS / file).read_text()
    assert (TESTS / file).exists()
    assert not is_simulated(f"{prefix}[asyncio]")


def test_most_is_simulated() -> None:
    assert is_simulated("protocols/test_hooks.py::test_a_hook[trio]")
    assert not is_simulated("transport/test_addresses.py::test_an_address")
