"""Peers that send what they should not, or stop sending it."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from pea2pea import DisconnectOrigin
from tests.helpers import RawPeer, frame, turns, wait_until

from .target import MAGIC, MAX_LENGTH, NONCE, Target, besieged, is_served, join

if TYPE_CHECKING:
    from collections.abc import Callable

LEAVE: dict[str, Callable[[RawPeer], None]] = {
    "close": RawPeer.close,
    "reset": RawPeer.reset,
    "half_close": RawPeer.half_close,
}
OVERSIZED = (MAX_LENGTH + 1).to_bytes(4, "big")


async def is_dropped(peer: RawPeer) -> bool:
    """Whether the node ends the connection, whatever it has said before."""
    with suppress(ConnectionResetError):
        await peer.receive_all()
    return True


@pytest.mark.parametrize("seed", range(5))
async def test_garbage_in_place_of_a_handshake_is_refused(seed: int) -> None:
    target = Target()
    async with besieged(target):
        for size in (1, 7, 8, 16, 24, 100, 10_000):
            with await RawPeer.dial(target.addr) as peer:
                await peer.send(random.Random(seed).randbytes(size))
                peer.half_close()
                assert await is_dropped(peer)
        assert target.node.heuristics.handshake_failures == 7
        assert target.ended == []


@pytest.mark.parametrize("seed", range(5))
async def test_garbage_in_place_of_messages_ends_the_connection(seed: int) -> None:
    target = Target()
    async with besieged(target):
        for size in (1, 2, 5, 100, 10_000, 300_000):
            with await join(target) as peer:
                with suppress(ConnectionError):  # it need not read all of it
                    await peer.send(b"\xff" + random.Random(seed).randbytes(size))
                    peer.half_close()
                assert await is_dropped(peer)
        await wait_until(lambda: len(target.ended) == 6)
        assert set(target.origins) == {DisconnectOrigin.READING}
        assert target.node.heuristics.decode_errors == 6


async def test_an_oversized_frame_is_refused_before_it_is_received() -> None:
    target = Target()
    async with besieged(target):
        with await join(target) as peer:
            connection = target.node.connections[peer.addr]
            await peer.send(OVERSIZED)
            assert await is_dropped(peer)
            assert connection.stats.bytes_received == len(OVERSIZED)
        assert target.node.heuristics.decode_errors == 1


async def test_messages_before_an_oversized_frame() -> None:
    """Messages before an oversized frame are answered or lost but nothing else."""
    target = Target()
    async with besieged(target):
        with await join(target) as peer:
            await peer.send(frame(b"one") + frame(b"two") + OVERSIZED + bytes(MAX_LENGTH))
            assert await is_dropped(peer)
        assert target.received[:2] == [b"one", b"two"]
        assert target.origins == [DisconnectOrigin.READING]


@pytest.mark.parametrize("leave", ["close", "half_close"])
@pytest.mark.parametrize("cut", range(1, 8))
async def test_frame_cut_off_by_the_end(cut: int, leave: str) -> None:
    """A frame that the end of the stream cuts off is a decode error."""
    target = Target()
    async with besieged(target):
        with await join(target) as peer:
            await peer.send(frame(b"whole") + frame(b"half")[:cut])
            LEAVE[leave](peer)
            await wait_until(lambda: target.ended)
        assert target.received == [b"whole"]
        assert target.origins == [DisconnectOrigin.READING]
        assert target.node.heuristics.decode_errors == 1


async def test_a_peer_that_sends_a_byte_at_a_time_is_served() -> None:
    target = Target()
    async with besieged(target):
        with await RawPeer.dial(target.addr) as peer:
            peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            hello = await peer.receive_exactly(len(MAGIC) + NONCE)
            for byte in MAGIC + bytes(NONCE) + hello[len(MAGIC) :]:
                await peer.send(bytes([byte]))
                await turns()
            await peer.receive_exactly(NONCE)
            await wait_until(lambda: peer.addr in target.node.connections)
            stats = target.node.connections[peer.addr].stats
            for count, byte in enumerate(frame(b"slow but honest"), 1):
                await peer.send(bytes([byte]))
                await wait_until(lambda: stats.bytes_received == count)  # noqa: B023  # it is awaited here
            assert await peer.receive_message() == b"slow but honest"


async def test_everything_at_once_is_served_as_well() -> None:
    target = Target()
    async with besieged(target):
        with await RawPeer.dial(target.addr) as peer:
            hello = await peer.receive_exactly(len(MAGIC) + NONCE)
            await peer.send(MAGIC + bytes(NONCE) + hello[len(MAGIC) :] + frame(b"one") + frame(b"two"))
            await peer.receive_exactly(NONCE)
            assert await peer.receive_message() == b"one"
            assert await peer.receive_message() == b"two"


@pytest.mark.parametrize("how", LEAVE)
async def test_end_at_every_byte_of_the_handshake(how: str) -> None:
    """Leaving at every byte of the handshake costs nothing but the attempt."""
    target = Target()
    conversation = len(MAGIC) + 2 * NONCE
    async with besieged(target):
        for count in range(conversation):
            with await RawPeer.dial(target.addr) as peer:
                hello = await peer.receive_exactly(len(MAGIC) + NONCE)
                await peer.send((MAGIC + bytes(NONCE) + hello[len(MAGIC) :])[:count])
                LEAVE[how](peer)
                if how == "half_close":
                    assert await is_dropped(peer)
        await wait_until(lambda: target.node.heuristics.handshake_failures == conversation)
        assert target.node.heuristics.handshake_timeouts == 0
        assert target.ended == []


@pytest.mark.parametrize("how", LEAVE)
async def test_end_before_the_first_word(how: str) -> None:
    """Leaving before the node has said anything costs nothing but the attempt."""
    target = Target()
    async with besieged(target):
        for _ in range(20):
            with await RawPeer.dial(target.addr) as peer:
                LEAVE[how](peer)
                if how == "half_close":
                    assert await is_dropped(peer)
        await wait_until(lambda: not target.node.connecting)
        assert target.ended == []
        assert target.node.heuristics.accept_errors == 0


@pytest.mark.parametrize("how", LEAVE)
async def test_end_at_every_byte_of_a_message(how: str) -> None:
    """Leaving at every byte of a message ends that connection alone."""
    target = Target()
    message = frame(b"message")
    async with besieged(target):
        for count in range(len(message) + 1):
            with await join(target) as peer:
                await peer.send(message[:count])
                LEAVE[how](peer)
                await wait_until(lambda: len(target.ended) == count + 1)  # noqa: B023  # it is awaited here
        assert set(target.origins[:-1]) == {DisconnectOrigin.READING}  # answering the last one may fail first
        cut_off = len(message) - 1
        assert target.node.heuristics.decode_errors == (0 if how == "reset" else cut_off)


async def test_a_peer_that_resets_right_after_the_handshake_is_gone() -> None:
    target = Target()
    async with besieged(target):
        with await RawPeer.dial(target.addr) as peer:
            hello = await peer.receive_exactly(len(MAGIC) + NONCE)
            await peer.send(MAGIC + bytes(NONCE) + hello[len(MAGIC) :])
            peer.reset()
        await wait_until(lambda: not target.node.connecting)


async def test_urgent_data_is_nothing_special() -> None:
    target = Target()
    async with besieged(target):
        with await join(target) as peer:
            peer.sock.send(b"!", socket.MSG_OOB)
            assert await is_served(peer)
