"""What hostile peers attack: an echo with a handshake, beside which an honest peer goes on talking."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pea2pea import Address, Config, Connection
from pea2pea.codecs import LengthDelimitedCodec
from tests.helpers import ALL, Echo, RawPeer, frame, receive_exactly, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import ByteStream

MAGIC = b"pea2pea\n"
NONCE = 8
MAX_LENGTH = 1000


class Target(Echo):
    """Shakes hands by a magic word and the echo of a nonce, and echoes short messages."""

    def __init__(self, config: Config | None = None, *, handshake_timeout: float = 30.0) -> None:
        super().__init__(config, enable=ALL - {"handshake"}, codec=lambda: LengthDelimitedCodec(max_length=MAX_LENGTH))
        self.node.enable_handshake(self, timeout=handshake_timeout)
        self.shake_hands = self.exchange

    @property
    def addr(self) -> Address:
        """Where it listens."""
        assert self.node.listening_addr is not None
        return self.node.listening_addr

    async def exchange(self, _: Connection, stream: ByteStream) -> ByteStream:
        nonce = os.urandom(NONCE)
        await stream.send(MAGIC + nonce)
        if await receive_exactly(stream, len(MAGIC)) != MAGIC:
            raise ValueError("this is no peer of ours")
        await stream.send(await receive_exactly(stream, NONCE))
        if await receive_exactly(stream, NONCE) != nonce:
            raise ValueError("this is not our nonce")
        return stream


async def shake_hands(peer: RawPeer) -> RawPeer:
    """The other side of `Target.exchange`."""
    hello = await peer.receive_exactly(len(MAGIC) + NONCE)
    await peer.send(MAGIC + bytes(NONCE) + hello[len(MAGIC) :])
    await peer.receive_exactly(NONCE)
    return peer


async def join(target: Target) -> RawPeer:
    """An honest peer of a target that listens, established."""
    peer = await shake_hands(await RawPeer.dial(target.addr))
    await wait_until(lambda: peer.addr in target.node.connections)
    return peer


async def is_served(peer: RawPeer, message: bytes = b"still there?") -> bool:
    """Whether the target still answers this peer."""
    await peer.send(frame(message))
    return await peer.receive_message() == message


@asynccontextmanager
async def besieged(target: Target) -> AsyncGenerator[RawPeer]:
    """Run a target with an honest peer, which must be served also at the end, when it is the only one left."""
    async with target.node as node:
        await node.start_listening()
        with await join(target) as honest:
            yield honest
            assert await is_served(honest)
            await wait_until(lambda: list(node.connections) == [honest.addr] and not node.connecting)
    assert node.heuristics.hook_errors == 0
    assert len(target.ended) == len(set(target.ended)) == len(target.shaken) - node.heuristics.handshake_failures
