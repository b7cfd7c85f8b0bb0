"""A peer that takes little at a time lives, though no socket is "writable"; one that takes too little does not."""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from anyio import create_task_group, current_time, sleep

from pea2pea import Config, Connection, DisconnectOrigin, NodeError, Side, TCPTransport
from tests.helpers import RawListener, User, wait_until

from .tls import SecureUser, context

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from tests.helpers import RawPeer

TIMEOUT = 1.5  # seconds for each 64 KiB
OVER = ("TCP", "TLS", "wrap")


class TLSPeer:
    """The peer's end of TLS, by hand: it takes from the socket only what it is told to."""

    def __init__(self, raw: RawPeer) -> None:
        self.raw = raw
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context(Side.RESPONDER).wrap_bio(self.incoming, self.outgoing, server_side=True)

    async def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                self.incoming.write(await self.raw.receive())
            else:
                await self._flush()
                return

    async def _flush(self) -> None:
        if data := self.outgoing.read():
            await self.raw.send(data)


@asynccontextmanager
async def sending(over: str) -> AsyncGenerator[tuple[User, Connection, RawPeer]]:
    """A user that sends to a peer as much as it can, over a socket with buffers of the usual size."""
    user: User = (SecureUser if over == "TLS" else User)(
        Config(grace_period=0.1), enable={"on_disconnect", "handshake"} if over == "TLS" else {"on_disconnect"}
    )
    user.outbox = user.node.enable_writing(user, timeout=TIMEOUT)

    async def send() -> None:
        with suppress(NodeError):
            while True:
                await user.outbox.send(connection, bytes(20_000))

    with RawListener.open() as listener:
        async with user.node as node, create_task_group() as group:
            peers: list[RawPeer] = []

            async def accept() -> None:
                peer = await listener.accept()
                if over == "TLS":
                    await TLSPeer(peer).shake_hands()
                peers.append(peer)

            group.start_soon(accept)
            if over == "wrap":
                sock = socket.create_connection(listener.addr)
                connection = await node.adopt(TCPTransport.wrap(sock), listener.addr, Side.INITIATOR)
            else:
                connection = await node.connect(listener.addr)
            await wait_until(lambda: peers)
            group.start_soon(send)
            with peers[0] as peer:
                yield user, connection, peer
            group.cancel_scope.cancel()


@pytest.mark.parametrize("over", OVER)
async def test_a_peer_that_takes_little_at_a_time_lives(over: str) -> None:
    async with sending(over) as (user, connection, peer):
        await wait_until(lambda: connection.stats.bytes_sent > 200_000)
        until = current_time() + 3 * TIMEOUT
        while current_time() < until:
            await peer.receive(40_000)
            await sleep(0.1)  # that it is slow is what it is about: a third of the buffers takes several seconds
        assert not user.ended
        assert user.node.heuristics.write_timeouts == 0


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("sip", [0, 1])
async def test_a_peer_that_takes_next_to_nothing_is_disconnected(sip: int, over: str) -> None:
    async with sending(over) as (user, connection, peer), create_task_group() as group:

        async def drink() -> None:
            while sip:
                await peer.receive(sip)
                await sleep(TIMEOUT / 10)  # a sip long before the timeout is over, again and again

        group.start_soon(drink)
        await wait_until(lambda: user.origins == [DisconnectOrigin.WRITING], timeout=10)
        assert isinstance(connection.cause, TimeoutError)
        assert user.node.heuristics.write_timeouts == 1
        group.cancel_scope.cancel()


@pytest.mark.parametrize("over", ["TCP", "TLS"])
async def test_a_slow_handler_gets_all_that_a_faster_sender_sends(over: str) -> None:
    """Two nodes: the receiver's handler takes its time for each message, so TCP slows the sender down."""
    kind = SecureUser if over == "TLS" else User
    enable = {"on_disconnect", "handshake"} if over == "TLS" else {"on_disconnect"}
    sender, receiver = kind(Config(grace_period=10), enable=enable), kind(enable=enable)
    sender.outbox = sender.node.enable_writing(sender, timeout=TIMEOUT)
    receiver.node.enable_reading(receiver)

    async def handle(source: Connection, message: bytes) -> None:
        await sleep(0.025)  # 800 kB a second: a chunk of 256 KiB takes a fifth of the timeout

    receiver.handle = handle
    async with receiver.node as node, sender.node:
        connection = await sender.node.connect(await node.start_listening())
        until = current_time() + 3 * TIMEOUT
        while current_time() < until:
            await sender.outbox.send(connection, bytes(20_000))
        assert not sender.ended
        assert sender.node.heuristics.write_timeouts == 0
        await sender.node.disconnect(connection, abort=True)
