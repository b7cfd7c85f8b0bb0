"""What a node may be made with, and what it says to what it may not."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pea2pea import Config, Node

from ..helpers import Echo, User, two_nodes

if TYPE_CHECKING:
    from collections.abc import Callable

WHOLE_NUMBERS = (
    "listener_backlog",
    "max_connections",
    "max_inbound",
    "max_connections_per_ip",
    "ipv6_prefix",
    "max_connecting",
)
SECONDS = ("connection_timeout", "grace_period")
IDS: Callable[[object], str] = "{0.__class__.__name__}".format  # a huge value has no text


def make(field: str, value: object) -> Config:
    settings: dict[str, Any] = {field: value}
    return Config(**settings)


@pytest.mark.parametrize("field", WHOLE_NUMBERS)
@pytest.mark.parametrize("value", [0, -1, -100])
def test_a_limit_below_one_is_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"{field}.*{value}"):
        make(field, value)


@pytest.mark.parametrize("field", WHOLE_NUMBERS)
@pytest.mark.parametrize("value", [1.5, "3", True])
def test_a_limit_that_is_no_whole_number_is_refused(field: str, value: object) -> None:
    with pytest.raises(TypeError, match=rf"{field}.*{value!r}"):
        make(field, value)


@pytest.mark.parametrize("field", [*WHOLE_NUMBERS, *SECONDS])
def test_none_is_a_limit_for_max_inbound_alone(field: str) -> None:
    if field == "max_inbound":
        assert make(field, None).max_inbound is None
    else:
        with pytest.raises(TypeError, match=rf"{field}.*None"):
            make(field, None)


@pytest.mark.parametrize("field", SECONDS)
@pytest.mark.parametrize("value", [-1, -0.001, math.inf, -math.inf, math.nan])
def test_a_time_that_is_negative_or_not_finite_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{field}.*{value}"):
        make(field, value)


@pytest.mark.parametrize("field", SECONDS)
@pytest.mark.parametrize("value", ["3", True])
def test_a_time_that_is_no_number_is_refused(field: str, value: object) -> None:
    with pytest.raises(TypeError, match=rf"{field}.*{value!r}"):
        make(field, value)


@pytest.mark.parametrize("field", SECONDS)
@pytest.mark.parametrize("value", [1e300, 10**400, 10**5000, -(10**5000), 1_000_000_001], ids=IDS)
def test_a_time_beyond_what_a_timer_takes_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field} must be .*1000000000") as caught:
        make(field, value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("field", WHOLE_NUMBERS)
@pytest.mark.parametrize("value", [2**64, 10**400, 10**5000, -(10**5000)], ids=IDS)
def test_a_limit_beyond_what_the_system_counts_is_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{field} must be at (least|most) \d+") as caught:
        make(field, value)
    assert len(str(caught.value)) < 400


def test_limits_may_be_so_large_that_there_are_none() -> None:
    assert Config(max_connections=sys.maxsize).max_connections == sys.maxsize
    assert Config(grace_period=1e9).grace_period == 1e9


async def test_the_longest_times_and_the_largest_limits_work() -> None:
    most = sys.maxsize
    config = Config(
        listener_backlog=2**31 - 1, max_connections=most, max_inbound=most, max_connections_per_ip=most,
        max_connecting=most, connection_timeout=1e9, grace_period=1e9,
    )  # fmt: skip
    async with two_nodes(User(config), Echo(config)) as (ours, theirs):
        assert ours.side is ~theirs.side


async def test_backlog_beyond_the_system() -> None:
    """A backlog beyond what the system takes is refused before it listens."""
    with pytest.raises(ValueError, match="listener_backlog must be at most 2147483647"):
        Config(listener_backlog=2**40)
    with pytest.raises(ValueError, match="listener_backlog"):
        Config(listener_backlog=2**31)


@pytest.mark.parametrize("name", [5, b"alice", ("alice",), False])
def test_a_name_that_is_no_text_is_refused(name: object) -> None:
    with pytest.raises(TypeError, match=r"^name must be a str or None, not "):
        make("name", name)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ValueError, match="name must not be empty"):
        Config(name="")


@pytest.mark.parametrize("value", [1, "no", None])
def test_a_switch_is_on_or_off(value: object) -> None:
    with pytest.raises(TypeError, match=r"^reuse_listener_port must be a bool"):
        make("reuse_listener_port", value)


def test_a_dial_needs_some_time_but_an_end_does_not() -> None:
    with pytest.raises(ValueError, match=r"connection_timeout.*0"):
        Config(connection_timeout=0)
    assert Config(grace_period=0).grace_period == 0
    with pytest.raises(TypeError, match=r"grace_period.*False"):
        Config(grace_period=False)


@pytest.mark.parametrize(
    "value",
    [
        "localhost",
        ("127.0.0.1",),
        ("127.0.0.1", 1, 2),
        ["127.0.0.1", 1],
        7,
        ("127.0.0.1", "80"),
        (127, 80),
        (None, 80),
        ("127.0.0.1", True),
    ],
)
def test_an_address_that_is_no_pair_of_host_and_port_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="listener_addr must be a pair") as caught:
        make("listener_addr", value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "value", [("127.0.0.1", 10**400), ("127.0.0.1", 10**5000), ("x" * 256, 80), ("::1%" + "1" * 10**6, 80)]
)
def test_an_address_of_any_size_is_refused_in_few_words(value: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match="listener_addr") as caught:
        Config(listener_addr=value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("value", [("127.0.0.1", -1), ("127.0.0.1", 65_536), ("", 80)])
def test_an_address_that_cannot_be_is_refused(value: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match="listener_addr") as caught:
        Config(listener_addr=value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "canonical"),
    [("::ffff:192.0.2.1", "192.0.2.1"), ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"), ("a-name.example", "a-name.example")],
)
def test_the_address_is_made_canonical(given: str, canonical: str) -> None:
    assert Config(listener_addr=(given, 80)).listener_addr == (canonical, 80)


def test_an_ipv6_prefix_has_at_most_128_bits() -> None:
    with pytest.raises(ValueError, match=r"ipv6_prefix.*129"):
        Config(ipv6_prefix=129)
    assert Config(ipv6_prefix=128).ipv6_prefix == 128


def test_max_connecting_is_at_most_max_connections() -> None:
    assert Config(max_connections=7).max_connecting == 7
    assert Config(max_connections=7, max_connecting=3).max_connecting == 3


@pytest.mark.parametrize(
    "copied",
    [lambda config: config, copy.copy, copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))],  # noqa: S301  # our own
)
def test_max_connecting_after_replace(copied: Callable[[Config], Config]) -> None:
    """Max connecting is as given where replacing makes room for it."""
    small = copied(Config(max_connections=10))
    assert dataclasses.replace(small, max_connections=500).max_connecting == 100
    assert dataclasses.replace(small, max_connections=50).max_connecting == 50
    assert dataclasses.replace(small, max_connections=500, max_connecting=7).max_connecting == 7
    narrow = dataclasses.replace(dataclasses.replace(small, max_connecting=300), max_connections=20)
    assert narrow.max_connecting == 20
    assert dataclasses.replace(narrow, max_connections=1000).max_connecting == 300


def test_it_does_not_change() -> None:
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.max_connections = 7  # type: ignore[misc]  # that is the point


def test_a_node_has_the_name_it_was_given() -> None:
    assert Node(Config(name="alice")).name == "alice"


def test_a_node_without_a_name_gets_a_number_of_its_own() -> None:
    names = [Node().name for _ in range(5)]
    assert len(set(names)) == 5
    assert names == sorted(names, key=int)


def test_a_node_has_its_config() -> None:
    config = Config(max_connections=7)
    assert Node(config).config is config
