"""examples/noise.py against two other implementations of Noise: dissononce, and noise-c in WebAssembly."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.to_thread import run_sync
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from examples.noise import NoiseAttribute, NoiseHandshake
from pea2pea import Connection, Node, Side
from pea2pea.codecs import BytesCodec
from pea2pea.testing import wait_until

if TYPE_CHECKING:
    from .conftest import Peer

SIZE = 300_000  # several messages of the greatest length


class Collector:
    """A node that collects what comes back."""

    def __init__(self, key: X25519PrivateKey, known: bytes) -> None:
        self.received = bytearray()
        self.complete = anyio.Event()
        self.node = Node()
        self.node.enable_handshake(NoiseHandshake(key, {known}))
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)

    def decoder(self, connection: Connection) -> BytesCodec:
        return BytesCodec()

    def encoder(self, connection: Connection) -> BytesCodec:
        return BytesCodec()

    async def process_message(self, source: Connection, message: bytes) -> None:
        self.received += message
        if len(self.received) >= SIZE:
            self.complete.set()


@pytest.mark.parametrize("side", Side)
async def test_another_implementation_echoes(noise: Peer, side: Side) -> None:
    hello = await run_sync(noise.read)
    assert isinstance(hello, dict)
    key = X25519PrivateKey.generate()
    collector = Collector(key, bytes.fromhex(hello["key"]))
    async with collector.node as node:
        if side is Side.INITIATOR:
            noise.write(None)
            connection = await node.connect(("127.0.0.1", hello["port"]))
        else:
            noise.write((await node.start_listening())[1])
            await wait_until(lambda: bool(node.connections), 10)
            (connection,) = node.connections.values()
        assert connection.side is side
        told = await run_sync(noise.read)
        assert told == {
            "remote": key.public_key().public_bytes_raw().hex(),
            "hash": connection.extra(NoiseAttribute.handshake_hash).hex(),
        }
        sent = random.randbytes(SIZE)
        await collector.outbox.send(connection, b"small")
        await collector.outbox.send(connection, sent[5:])
        await collector.complete.wait()
        assert collector.received == b"small" + sent[5:]
