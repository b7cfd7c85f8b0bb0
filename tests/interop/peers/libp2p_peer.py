"""A py-libp2p peer: does what it is told, one JSON value a line, until its standard input ends.

It lives in an environment of its own, since py-libp2p installs top-level packages called examples, docs and stubs.
The first thing it prints is where it listens.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import TYPE_CHECKING

import trio
from libp2p import new_host
from libp2p.custom_types import TProtocol
from libp2p.host.ping import ID as PING
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import parse_identify_response
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

if TYPE_CHECKING:
    from libp2p.abc import IHost, INetStream

ECHO = TProtocol("/echo/1.0.0")


async def read(stream: INetStream) -> bytes:
    """Some bytes, or none at the end of the stream."""
    try:
        return await stream.read(65_536)
    except StreamEOF:
        return b""


async def answer_echo(stream: INetStream) -> None:
    while data := await read(stream):
        await stream.write(data)
    await stream.close()


class Peer:
    def __init__(self, host: IHost) -> None:
        self.host = host
        self.ping_service = PingService(host)
        host.set_stream_handler(ECHO, answer_echo)
        host.set_stream_handler(PING, self.ping_service.handle_ping)

    async def dial(self, address: str) -> None:
        await self.host.connect(info_from_p2p_addr(Multiaddr(address)))

    async def ping(self, remote: str, count: int) -> int:
        return len(await self.ping_service.ping(ID.from_string(remote), count))

    async def identify(self, remote: str) -> dict[str, object]:
        stream = await self.host.new_stream(ID.from_string(remote), [IDENTIFY])
        received = b""
        while data := await read(stream):
            received += data
        await stream.close()
        message = parse_identify_response(received)
        return {
            "agent": message.agent_version,
            "protocols": list(message.protocols),
            "observed": str(Multiaddr(message.observed_addr)),
            "listening": [str(Multiaddr(addr)) for addr in message.listen_addrs],
        }

    async def echo(self, remote: str, size: int) -> bool:
        stream = await self.host.new_stream(ID.from_string(remote), [ECHO])
        sent, received = os.urandom(size), hashlib.sha256()

        async def send() -> None:
            await stream.write(sent)
            await stream.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while data := await read(stream):
                received.update(data)
        return received.digest() == hashlib.sha256(sent).digest()

    async def echoes(self, remote: str, count: int, size: int) -> int:
        intact = []

        async def one() -> None:
            intact.append(await self.echo(remote, size))

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
        return sum(intact)


async def main() -> None:
    anywhere = [Multiaddr("/ip4/127.0.0.1/tcp/0")]
    host = new_host(listen_addrs=anywhere, muxer_preference="YAMUX")
    async with host.run(listen_addrs=anywhere):
        peer = Peer(host)
        print(json.dumps(str(host.get_addrs()[0])), flush=True)
        while command := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            name, arguments = json.loads(command)
            try:
                answer = {"result": await getattr(peer, name)(*arguments)}
            except Exception as error:  # noqa: BLE001  # whoever asked will look at it
                answer = {"error": repr(error)}
            print(json.dumps(answer), flush=True)


trio.run(main)
