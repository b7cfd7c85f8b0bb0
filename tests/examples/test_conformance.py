"""The example of a test of a protocol passes, and fails with a node that is broken in the ways that it suggests."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import EXAMPLES
from .test_my_codec import outcome

EXAMPLE = EXAMPLES / "test_conformance.py"


def test_it_passes_as_it_is(tmp_path: Path) -> None:
    assert outcome(tmp_path, EXAMPLE.read_text())[0] == 0


@pytest.mark.parametrize(
    ("part", "broken", "told"),
    [
        (", exclude=[source])", ")", "there was to be no Say, but this came: Say(text='good morning')"),
        ('raise ValueError("another version")', "pass", "test_who_says_something_else_is_turned_away"),
    ],
    ids=["exclude", "raise"],
)
def test_it_fails_when_the_node_is_broken(part: str, broken: str, told: str, tmp_path: Path) -> None:
    program = EXAMPLE.read_text()
    assert program.count(part) == 1
    code, output = outcome(tmp_path, program.replace(part, broken))
    assert code == 1
    assert told in output
