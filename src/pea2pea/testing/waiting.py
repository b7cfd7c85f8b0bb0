"""Wait for a condition in a test."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import chain, repeat

import anyio

__all__ = ["wait_until"]


async def wait_until(predicate: Callable[[], object], timeout: float = 5.0) -> None:
    """Wait until `predicate()` is true; it is asked at once, and then every 1 to 20 milliseconds.

    Raises `TimeoutError`, which says what was waited for, if it is still false after `timeout` seconds;
    `TypeError` if the predicate is async; and what the predicate raises. Cancelling it only stops the
    waiting.
    """
    answer: object = False
    delays = chain((0.001, 0.002, 0.005, 0.01), repeat(0.02))
    with anyio.move_on_after(timeout):
        while not (answer := predicate()):  # noqa: ASYNC110  # there is no event to wait for
            await anyio.sleep(next(delays))
    if inspect.iscoroutine(answer):
        answer.close()
        raise TypeError(f"the predicate must be a plain function, not async: {described(predicate)}")
    if not answer and not predicate():
        raise TimeoutError(f"not true within {timeout} s: {described(predicate)}")


def described(predicate: Callable[[], object]) -> str:
    """The source of a lambda, or else the predicate's name."""
    name = str(getattr(predicate, "__qualname__", predicate))
    try:
        return " ".join(inspect.getsource(predicate).split()) if name.endswith("<lambda>") else name
    except OSError:  # no source at hand
        return name
