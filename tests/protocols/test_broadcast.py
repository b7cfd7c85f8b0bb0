"""Broadcasting: who gets the message, who does not, and who is told of that."""

from __future__ import annotations

import logging
import re
from itertools import cycle
from time import monotonic
from typing import TYPE_CHECKING, cast

import pytest

from pea2pea import Connection, QueueFullError

from ..helpers import RawPeer, User, two_nodes, wait_until
from .outgoing import CountingCodec, Sender, crowd
from .stuck import CLOG, stuck_peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from pea2pea import Frame, Peer

either_way = pytest.mark.parametrize("over", ["socket", "memory"])


class Unable(CountingCodec):
    tried = 0

    def encode(self, message: bytes, /) -> Frame:
        self.tried += 1
        raise NotImplementedError


class Unfit(CountingCodec):
    tried = 0

    def encode(self, message: bytes, /) -> Frame:
        self.tried += 1
        return cast("Frame", "a string")


async def test_a_broadcast_reaches_everybody_in_order() -> None:
    sender = Sender()
    async with crowd(sender) as peers:
        assert sender.outbox.broadcast(b"first") == {}
        assert sender.outbox.broadcast(b"second") == {}
        for peer in peers:
            assert await peer.receive_message() == b"first"
            assert await peer.receive_message() == b"second"
    assert len(sender.encoded) == 40


@pytest.mark.parametrize("distinct", [1, 2])
async def test_a_broadcast_is_encoded_once_for_each_distinct_encoder(distinct: int) -> None:
    sender = Sender()
    codecs = cycle([CountingCodec(sender) for _ in range(distinct)])
    sender.codec = lambda: next(codecs)
    async with crowd(sender) as peers:
        assert sender.outbox.broadcast(b"hello") == {}
        assert [await peer.receive_message() for peer in peers] == [b"hello"] * 20
    assert sender.encoded == [b"hello"] * distinct


# Whom it leaves out


NAMES: dict[str, Callable[[Connection], Peer]] = {
    "addresses": lambda connection: connection.addr,
    "connections": lambda connection: connection,
    "other forms of an address": lambda connection: (f"::ffff:{connection.addr[0]}", connection.addr[1]),
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
async def test_excluded_peers_get_nothing(name: Callable[[Connection], Peer]) -> None:
    sender = Sender()
    async with crowd(sender, 5) as peers:
        excluded = [name(sender.node.connections[peer.addr]) for peer in peers[:2]]
        assert sender.outbox.broadcast(b"not for all", exclude=excluded) == {}
        assert sender.outbox.broadcast(b"for all", exclude=set()) == {}
        assert [await peer.receive_message() for peer in peers[:2]] == [b"for all"] * 2
        for peer in peers[2:]:
            assert [await peer.receive_message() for _ in range(2)] == [b"not for all", b"for all"]
        assert sender.node.heuristics.unsent_messages == 0
    assert len(sender.encoded) == 3 + 5


@either_way
async def test_an_excluded_peer_whose_queue_is_full_is_no_loss(over: str) -> None:
    sender = Sender()
    async with stuck_peer(sender, over) as peer:
        assert sender.outbox.broadcast(b"hello", exclude=[peer.connection]) == {}
        assert sender.outbox.broadcast(b"hello", exclude={peer.connection.addr}) == {}
        assert sender.node.heuristics.unsent_messages == 0


async def test_excluding_a_connection_does_not_exclude_its_successor() -> None:
    sender, receiver = Sender(), User()
    async with two_nodes(sender, receiver) as (first, _):
        await sender.node.disconnect(first)
        await wait_until(lambda: not receiver.node.connections)
        await sender.node.connect(first.addr)
        assert sender.outbox.broadcast(b"hello", exclude=[first, ("192.0.2.1", 1)]) == {}
        await wait_until(lambda: receiver.received == [b"hello"])


@pytest.mark.parametrize("wrong", [[1], ["127.0.0.1:80"], ("127.0.0.1", 80)], ids=str)
async def test_what_is_no_peer_cannot_be_excluded(wrong: list[Peer]) -> None:
    sender = Sender()
    async with crowd(sender, 1):
        with pytest.raises(TypeError, match="peer"):
            sender.outbox.broadcast(b"hello", exclude=wrong)
    assert sender.encoded == []


# What is lost


@either_way
async def test_a_broadcast_tells_who_was_full_and_reaches_the_others(over: str) -> None:
    sender = Sender()
    async with stuck_peer(sender, over) as stuck:
        if sender.node.listening_addr is None:
            await sender.node.start_listening()
        assert sender.node.listening_addr is not None
        with await RawPeer.dial(sender.node.listening_addr) as peer:
            await wait_until(lambda: len(sender.node.connections) == 2)
            failed = sender.outbox.broadcast(b"hello")
            assert await peer.receive_message() == b"hello"
        assert list(failed) == [stuck.connection]
        assert isinstance(failed[stuck.connection], QueueFullError)
        assert sender.encoded == [CLOG, b"hello"]
        assert sender.node.heuristics.unsent_messages == 1


async def test_broadcast_beside_a_failing_encoder() -> None:
    """A broadcast tells whose encoder raised and reaches the others."""
    sender = Sender()
    good, bad, worse = CountingCodec(sender), Unable(sender), Unfit(sender)
    codecs = cycle([good, bad, worse])
    sender.codec = lambda: next(codecs)
    async with crowd(sender, 6) as peers:
        failed = sender.outbox.broadcast(b"hello")
        assert len(failed) == 4
        assert {type(error) for error in failed.values()} == {NotImplementedError, TypeError}
        assert bad.tried == worse.tried == 1
        for peer in peers:
            if sender.node.connections[peer.addr] not in failed:
                assert await peer.receive_message() == b"hello"
        assert len(sender.node.connections) == 6
        assert sender.node.heuristics.unsent_messages == 4


@pytest.mark.parametrize(("count", "size"), [(1000, 100_000), (300, 10)])
async def test_broadcasts_into_full_queues(count: int, size: int, caplog: pytest.LogCaptureFixture) -> None:
    """The caller ignores what `broadcast` returns."""
    caplog.set_level(logging.INFO, "pea2pea")
    sender, receivers = Sender(queue_depth=10, grace_period=5.0), [User(), User()]
    async with receivers[0].node, receivers[1].node, sender.node as node:
        for receiver in receivers:
            await node.connect(await receiver.node.start_listening())
        for _ in range(count):
            sender.outbox.broadcast(bytes(size))
        lost = node.heuristics.unsent_messages
        assert lost
        await wait_until(lambda: sum(len(receiver.received) for receiver in receivers) == 2 * count - lost)
        assert node.heuristics.unsent_messages == lost
    (record, *_) = [record for record in caplog.records if "broadcast" in record.getMessage()]
    assert record.levelno == logging.INFO
    assert re.search(r"did not reach a peer \(peer 127\.0\.0\.1:\d+\)", record.getMessage())


async def test_only_a_record_a_second_tells_of_lost_broadcasts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pea2pea")
    sender = Sender()
    async with stuck_peer(sender, "socket"):
        began = monotonic()
        for _ in range(1000):
            sender.outbox.broadcast(b"hello")
        assert sender.node.heuristics.unsent_messages == 1000
    told = [record for record in caplog.records if "broadcast" in record.getMessage()]
    assert 1 <= len(told) <= 1 + (monotonic() - began)
