"""Whatever a hostile peer does, the node is quiet about it, and says what it says legibly."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from pea2pea._address import show

if TYPE_CHECKING:
    from collections.abc import Iterator

A_FEW = 6  # records a second, of one node


@pytest.fixture(autouse=True)
def quiet_and_legible(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """After every test: no record above INFO, of INFO no more than a few a second, node and peer in each."""
    caplog.set_level(logging.DEBUG, "pea2pea")
    yield
    seconds: Counter[tuple[str, int]] = Counter()
    for record in caplog.get_records("call"):
        text = record.getMessage()
        assert record.levelno <= logging.INFO, text  # whoever says it: event loops have loggers, too
        if record.name != "pea2pea":
            continue
        node, peer = record.__dict__["node"], record.__dict__["peer"]
        assert f"node {node}: " in text
        assert peer is None or show(peer) in text
        assert len(text) < 500
        if record.levelno == logging.INFO:
            seconds[node, int(record.created)] += 1
    # a second that began within one second of the clock and ended in the next may be counted together
    assert max(seconds.values(), default=0) <= 2 * A_FEW, seconds.most_common(3)
