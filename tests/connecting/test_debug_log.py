"""What the log says of a connection's beginning, at DEBUG: all of it, without a limit."""

from __future__ import annotations

import logging

import pytest

from ..helpers import ALL, User, connect, wait_until


@pytest.mark.parametrize("count", [1, 5])
async def test_each_beginning_is_logged_at_both_ends(count: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pea2pea")
    dialler, responder = User(enable=ALL), User(enable=ALL)
    async with responder.node, dialler.node:
        for _ in range(count):
            ours, _ = await connect(dialler, responder)
            await dialler.node.disconnect(ours)
            await wait_until(lambda: not responder.node.connections)
    for user, words, side in (
        (dialler, ["dialling", "handshake done", "connection is OPEN"], "INITIATOR"),
        (responder, ["accepted a connection", "handshake done", "connection is OPEN"], "RESPONDER"),
    ):
        records = [each for each in caplog.records if f"node {user.node.name}: " in each.getMessage()]
        for word in words:
            found = [each for each in records if word in each.getMessage()]
            assert len(found) == count, word
            assert all(each.levelno == logging.DEBUG and "(peer 127.0.0.1:" in each.getMessage() for each in found)
        assert sum(f"side {side}" in each.getMessage() for each in records) == count


async def test_where_a_node_listens_is_not_called_a_peer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "pea2pea")
    async with User().node as node:
        host, port = await node.start_listening()
    (record,) = [each for each in caplog.records if "listening" in each.getMessage()]
    assert record.getMessage() == f"node {node.name}: listening at {host}:{port}"
    assert vars(record)["peer"] is None
