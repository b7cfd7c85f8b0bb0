"""The stress examples hold what they promise, at a small size."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from .conftest import EXAMPLES

if TYPE_CHECKING:
    from .conftest import Example

pytest.importorskip("rich", reason="the examples' dependencies are not installed")


def table(lines: list[str]) -> list[list[str]]:
    """The rows of a table that rich has drawn, without its head."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]


def figures(lines: list[str]) -> dict[str, float]:
    """The first number in each row of a table with two columns."""
    found = {}
    for name, value in table(lines):
        number = re.match(r"-?[\d,.]*\d", value)
        assert number, value
        found[name] = float(number[0].replace(",", ""))
    return found


def refused(name: str, *args: str, under: str = ":") -> tuple[int, str]:
    """The exit code of an example that does not even begin, and what it says on standard error."""
    command = ["sh", "-c", f'{under} && exec "$@"', "sh", sys.executable, str(EXAMPLES / name), *args]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)  # noqa: S603  # our own
    return ended.returncode, ended.stderr


def test_c10k_holds_every_connection_and_each_answers_at_the_end(example: Example) -> None:
    lines = example("c10k.py", "--connections", "300", "--sources", "3")
    assert [line.split()[0] for line in lines[:3]] == ["connected", "answered", "ended"]
    assert all("300/300" in line for line in lines[:3])
    measured = figures(lines)
    assert measured["held"] == measured["echoes answered at the end"] == measured["clean goodbyes"] == 300
    assert 2 < measured["RSS per connection"] < 200  # kB
    assert measured["seconds to connect, with a first echo"] > 0


def test_c10k_names_the_limit_that_is_too_low() -> None:
    code, said = refused("c10k.py", under="ulimit -n 100")
    assert code == 1
    assert "takes 10064 descriptors, and 100 are allowed: run `ulimit -n 10064` first" in said


def test_shards_hold_together_what_none_of_them_may_hold_alone(example: Example) -> None:
    lines = example("sharded.py", "--shards", "3", "--connections", "90", "--limit", "30")
    *shards, everything = table(lines)
    assert [row[:2] for row in shards] == [["1", "30"], ["2", "30"], ["3", "30"]]
    assert everything[:2] == ["all", "90"]
    assert int(everything[2]) == sum(int(row[2]) for row in shards)
    assert lines[-1].endswith("connections a second; 90 answered an echo, 90 ended cleanly.")


def test_shards_that_are_too_small_are_refused() -> None:
    code, said = refused("sharded.py", "--shards", "2", "--connections", "9", "--limit", "4")
    assert code == 2
    assert "2 shards of 4 connections cannot hold 9" in said


def test_churn_leaves_no_descriptor_open(example: Example) -> None:
    lines = example("churn.py", "--clients", "10", "--cycles", "200")
    assert "200/200" in lines[0]
    assert figures(lines)["cycles"] == 200
    (descriptors,) = [row[1] for row in table(lines) if row[0] == "descriptors before and after"]
    before, after = descriptors.split(", ")
    assert before == after


def test_in_a_dense_mesh_everybody_hears_everybody(example: Example) -> None:
    lines = example("dense_mesh.py", "--nodes", "12")
    measured = figures(lines)
    assert measured["connections, each with two ends here"] == 12 * 11 / 2
    assert measured["messages received"] == 12 * 11
    assert measured["RSS per end of a connection"] > 0
