"""What an ended connection leaves behind: nothing."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING
from weakref import ref

import pytest

from tests.helpers import ALL, User, two_nodes, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _no_cycle_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("enabled", [ALL, ALL - {"handshake"}, frozenset({"writing"}), frozenset()], ids=len)
async def test_a_connection_that_has_ended_needs_no_cycle_collector_to_be_freed(enabled: frozenset[str]) -> None:
    dialler, responder = User(enable=enabled), User(enable=enabled)
    async with two_nodes(dialler, responder) as (ours, theirs):
        if "reading" in enabled:
            await dialler.outbox.deliver(ours, b"a message")
            await wait_until(lambda: responder.received)
        ends = ref(ours), ref(theirs)
        await dialler.node.disconnect(ours)
        await wait_until(lambda: not responder.node.connections)
        dialler.shaken.clear()
        responder.shaken.clear()
        del ours, theirs
        await wait_until(lambda: all(end() is None for end in ends))
