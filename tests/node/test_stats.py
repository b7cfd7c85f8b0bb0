from __future__ import annotations

import dataclasses
import math

import pytest

from pea2pea import Heuristics, Node, Stats

DESCRIBED = {
    "connect_budget_rejections",
    "inbound_rejections",
    "accept_errors",
    "handshake_failures",
    "handshake_timeouts",
    "idle_timeouts",
    "write_timeouts",
    "decode_errors",
    "dropped_messages",
    "unsent_messages",
    "unprocessed_bytes",
    "hook_errors",
}


def test_statistics_begin_now_with_nothing() -> None:
    stats = Stats()
    assert math.isnan(stats.created)
    assert (stats.messages_sent, stats.bytes_sent, stats.messages_received, stats.bytes_received) == (0, 0, 0, 0)


def test_heuristics_count_what_they_say_from_zero() -> None:
    assert {field.name for field in dataclasses.fields(Heuristics)} == DESCRIBED
    assert set(dataclasses.asdict(Heuristics()).values()) == {0}


@pytest.mark.parametrize("kind", [Stats, Heuristics])
def test_what_is_counted_is_compared_by_identity(kind: type[Stats | Heuristics]) -> None:
    assert kind() != kind()
    one = kind()
    assert {one: "usable as a key"}[one]


@pytest.mark.parametrize("kind", [Stats, Heuristics])
def test_their_repr_tells_every_number(kind: type[Stats | Heuristics]) -> None:
    for field in dataclasses.fields(kind):
        assert f"{field.name}=" in repr(kind())


@pytest.mark.parametrize("kind", [Stats, Heuristics])
def test_a_misspelt_counter_is_an_error(kind: type[Stats | Heuristics]) -> None:
    with pytest.raises(AttributeError):
        kind().message_sent = 1  # type: ignore[union-attr]  # that is the point


def test_every_node_counts_for_itself() -> None:
    one, other = Node(), Node()
    assert one.stats is not other.stats
    assert one.heuristics is not other.heuristics
