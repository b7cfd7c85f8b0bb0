from __future__ import annotations

import gc
import logging
import weakref
from typing import TYPE_CHECKING

import anyio
import pytest

from pea2pea import DeliveryError, Heuristics, NodeClosedError, NotConnectedError, _clock
from pea2pea._report import Reporter, name_background_task
from tests.helpers import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

PEER = ("203.0.113.1", 4711)
OTHER = ("203.0.113.2", 4711)


class Clock:
    """Stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_clock, "now", clock)
    return clock


@pytest.fixture
def fatal() -> list[BaseException]:
    return []


@pytest.fixture
def reporter(caplog: pytest.LogCaptureFixture, fatal: list[BaseException]) -> Reporter:
    caplog.set_level(logging.DEBUG, "pea2pea")
    return Reporter("the node's name", Heuristics(), fatal.append)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_record_names_the_node_and_the_peer(reporter: Reporter, caplog: pytest.LogCaptureFixture) -> None:
    reporter.info("something happened", PEER, ValueError("why"))
    (record,) = caplog.records
    assert record.name == "pea2pea"
    assert record.levelno == logging.INFO
    assert record.getMessage() == (
        "node the node's name: something happened (peer 203.0.113.1:4711): ValueError('why')"
    )
    assert record.__dict__["node"] == "the node's name"
    assert record.__dict__["peer"] == PEER
    assert record.exc_info is None


def test_a_record_about_nobody_has_no_peer(reporter: Reporter, caplog: pytest.LogCaptureFixture) -> None:
    reporter.debug("something happened")
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.getMessage() == "node the node's name: something happened"
    assert record.__dict__["peer"] is None


def test_percent_signs_are_only_that(reporter: Reporter, caplog: pytest.LogCaptureFixture) -> None:
    reporter.info("100 %s", PEER, "%d")
    assert lines(caplog) == ["node the node's name: 100 %s (peer 203.0.113.1:4711): %d"]


def test_a_long_detail_is_cut(reporter: Reporter, caplog: pytest.LogCaptureFixture) -> None:
    reporter.info("too much", PEER, ValueError("x" * 10_000))
    assert len(lines(caplog)[0]) < 400


def test_one_record_a_second(reporter: Reporter, caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    """A kind is told once a second and how often it was left out."""
    for _ in range(1000):
        reporter.info("a peer sent no valid frame", PEER)
    clock.now += 0.9
    reporter.info("a peer sent no valid frame", OTHER)
    assert len(lines(caplog)) == 1
    clock.now += 0.2
    reporter.info("a peer sent no valid frame", PEER)
    clock.now += 1.1
    reporter.info("a peer sent no valid frame", PEER)
    assert len(lines(caplog)) == 3
    assert "1000 like it" in lines(caplog)[1]
    assert "like it" not in lines(caplog)[2]


def test_kinds_do_not_silence_each_other(reporter: Reporter, caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    reporter.info("one kind", PEER)
    reporter.info("another kind", PEER)
    assert len(lines(caplog)) == 2


def test_nodes_do_not_silence_each_other(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    caplog.set_level(logging.INFO, "pea2pea")
    for name in ("one", "another"):
        Reporter(name, Heuristics(), lambda _: None).info("the same", PEER)
    assert len(lines(caplog)) == 2


def test_what_differs_from_peer_to_peer_makes_no_kind_of_its_own(
    reporter: Reporter, caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    for port in range(1, 1001):
        reporter.info("turned a peer away", ("203.0.113.1", port), ValueError(port))
    assert len(lines(caplog)) == 1
    assert len(reporter._last) == 1


def test_a_level_that_nobody_listens_to_costs_no_memory(reporter: Reporter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "pea2pea")
    reporter.info("unheard", PEER)
    reporter.debug("unheard", PEER)
    assert not caplog.records
    assert not reporter._last


def test_a_bug_is_an_error_with_its_traceback(reporter: Reporter, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        raise ZeroDivisionError("oh")
    expected = caught.value
    assert reporter.classify("on_connect", expected, PEER) is expected
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info == (ZeroDivisionError, expected, expected.__traceback__)
    assert "on_connect raised (peer 203.0.113.1:4711)" in record.getMessage()
    assert reporter.heuristics.hook_errors == 1


def test_bugs_are_kept_apart_by_place_and_type_and_all_counted(
    reporter: Reporter, caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    for _ in range(10):
        for place in ("on_connect", "on_disconnect"):
            for error in (ValueError(), KeyError()):
                reporter.classify(place, error, PEER)
    assert len(caplog.records) == 4
    assert reporter.heuristics.hook_errors == 40


def test_bugs_are_counted_though_nobody_listens(reporter: Reporter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "pea2pea")
    reporter.classify("on_connect", ValueError(), PEER)
    assert reporter.heuristics.hook_errors == 1


@pytest.mark.parametrize("kind", [NotConnectedError, DeliveryError])
def test_news_of_the_peer_itself_is_no_bug_but_of_another_it_is(
    reporter: Reporter, kind: Callable[..., Exception]
) -> None:
    reporter.classify("process_message", kind("gone", PEER), PEER)
    assert reporter.heuristics.hook_errors == 0
    reporter.classify("process_message", kind("gone", OTHER), PEER)
    reporter.classify("process_message", kind("gone"), PEER)
    reporter.classify("a background task of the node", kind("gone", PEER), None)
    reporter.classify("a background task of the node", kind("gone"), None)
    assert reporter.heuristics.hook_errors == 4


def test_that_the_node_is_closing_is_no_bug_once_it_is(reporter: Reporter) -> None:
    reporter.classify("a background task", NodeClosedError("closed"))
    assert reporter.heuristics.hook_errors == 1
    reporter.closing = True
    reporter.classify("a background task", NodeClosedError("closed"))
    assert reporter.heuristics.hook_errors == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
async def test_what_must_go_through_is_handed_on_and_not_logged(
    reporter: Reporter, caplog: pytest.LogCaptureFixture, fatal: list[BaseException], kind: Callable[[], BaseException]
) -> None:
    error = kind()
    assert isinstance(reporter.classify("on_connect", error, PEER), RuntimeError)
    assert fatal == [error]
    assert not caplog.records
    assert reporter.heuristics.hook_errors == 0


def test_a_coroutine_that_is_thrown_away_is_nobodys_fault(
    reporter: Reporter, caplog: pytest.LogCaptureFixture, fatal: list[BaseException]
) -> None:
    with pytest.raises(GeneratorExit):
        reporter.classify("on_connect", GeneratorExit(), PEER)
    assert not fatal
    assert not caplog.records


async def test_a_call_returns_nothing_if_all_is_well(reporter: Reporter) -> None:
    called: list[tuple[int, str]] = []

    async def hook(number: int, text: str) -> str:
        called.append((number, text))
        return "ignored"

    assert await reporter.call("a hook", hook, 1, "one", peer=PEER) is None
    assert called == [(1, "one")]


async def test_a_call_lets_our_cancellation_through(reporter: Reporter, caplog: pytest.LogCaptureFixture) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await reporter.call("a hook", anyio.sleep_forever, peer=PEER)
        pytest.fail("the cancellation was swallowed")
    assert scope.cancelled_caught
    assert not caplog.records


async def test_error_during_our_cancellation(reporter: Reporter, caplog: pytest.LogCaptureFixture) -> None:
    """A call tells what is raised during our cancellation and lets that through."""

    async def fail_at_the_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async def hook() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail_at_the_end)
            await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: reporter.call("a hook", hook, peer=PEER))
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancel_called
    assert reporter.heuristics.hook_errors == 1
    assert len(caplog.records) == 1


def test_a_name_background_task_is_called_after_its_function() -> None:
    class Runner:
        async def __call__(self) -> None: ...

        async def run(self) -> None: ...

    assert name_background_task(Runner().run).endswith("Runner.run")
    assert name_background_task(Runner()).endswith("Runner")


async def test_a_judged_cancellation_keeps_no_more_alive_than_any_other(reporter: Reporter) -> None:
    """Event loops and AnyIO keep some themselves until the cycle collector comes."""

    async def cancelled(*, judged: bool) -> bool:
        async def wait() -> None:
            on_the_stack = Clock()
            kept.append(weakref.ref(on_the_stack))
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class() as error:
                if judged:
                    reporter.classify("somewhere", error, PEER)
                raise

        kept: list[weakref.ref[Clock]] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await wait_until(lambda: kept)
            tasks.cancel_scope.cancel()
        return kept[0]() is not None

    gc.disable()
    try:
        assert await cancelled(judged=True) <= await cancelled(judged=False)
    finally:
        gc.enable()
