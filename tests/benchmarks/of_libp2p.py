"""py-libp2p: hosts with Noise and Yamux, messages with a length prefix on one stream.

It encrypts and multiplexes, which nobody else here does: its figures say what that costs, too. It runs in an
environment of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import multiaddr
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.io.utils import read_exactly
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import PeerInfo

from tests.benchmarks import channels
from tests.benchmarks.program import take_turns
from tests.benchmarks.work import HOST, PREFIX, Contestant, Figures, Server, Tell, Work

if TYPE_CHECKING:
    from libp2p.abc import INetStream

KEYS = create_new_key_pair(bytes(32))
PROTOCOL = TProtocol("/benchmark/1.0.0")


class Channel:
    def __init__(self, stream: INetStream) -> None:
        self._stream = stream

    async def send(self, message: bytes) -> None:
        await self._stream.write(PREFIX.pack(len(message)) + message)

    async def receive(self) -> bytes:
        (length,) = PREFIX.unpack(await read_exactly(self._stream, PREFIX.size))
        return await read_exactly(self._stream, length) if length else b""


async def serve(work: Work, tell: Tell) -> None:
    async def handle(stream: INetStream) -> None:
        channel = Channel(stream)
        if work.kind == "throughput":
            await channels.sink(channel, tell)
        await channels.echo(channel)

    listen = [multiaddr.Multiaddr(f"/ip4/{HOST}/tcp/0")]
    host = new_host(KEYS, muxer_preference="YAMUX", listen_addrs=listen)
    async with host.run(listen):
        host.set_stream_handler(PROTOCOL, handle)
        tell.listening(int(host.get_addrs()[0].value_for_protocol("tcp")))
        await trio.sleep_forever()


async def call(work: Work, server: Server) -> Figures:
    host = new_host(muxer_preference="YAMUX")
    async with host.run([]):
        peer = ID.from_pubkey(KEYS.public_key)
        await host.connect(PeerInfo(peer, [multiaddr.Multiaddr(f"/ip4/{HOST}/tcp/{server.port}")]))
        return await channels.use(Channel(await host.new_stream(peer, [PROTOCOL])), work)


if __name__ == "__main__":
    take_turns(
        {
            "py-libp2p": Contestant(
                lambda work, tell: trio.run(serve, work, tell), lambda work, server: trio.run(call, work, server)
            )
        }
    )
