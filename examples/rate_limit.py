"""Rate limits: a peer that sends too much is warned, then banned, and the ban list keeps it out from then on.

Shows a token bucket for each host in `process_message`, a ban by `disconnect(..., abort=True)`, which neither flushes
nor waits for a goodbye, and a handshake that turns banned hosts away. (To slow a peer down instead of banning it,
`await anyio.sleep(...)` in `process_message`: TCP does the rest.) The clients dial from loopback addresses of their
own, by a transport of a few lines; Linux has these, other systems may have to be told (`ifconfig lo0 alias`). Run
`python examples/rate_limit.py`. You will see a calm client heard to its end, and a noisy one warned, banned, and
turned away when it comes back.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

import anyio

from _common import command_line, run
from pea2pea import (
    Address,
    Config,
    Connection,
    DisconnectOrigin,
    HandshakeError,
    Node,
    NotConnectedError,
    QueueFullError,
    TCPTransport,
)
from pea2pea.codecs import LinesCodec

if TYPE_CHECKING:
    from anyio.abc import ByteStream

RATE = 50  # messages a second that a host may send,
BURST = 20  # ... and so many at once after a silence
STRIKES = 100  # messages beyond that, until it is banned
BAN = 600.0  # seconds
WELCOME = b"+"


class BannedError(Exception):
    """The host is on the ban list."""


@dataclass
class Bucket:
    """Tokens that come at a constant rate, and go with each message."""

    tokens: float = BURST
    strikes: int = 0
    filled: float = field(default_factory=anyio.current_time)

    def fill(self) -> float:
        now = anyio.current_time()
        self.tokens = min(BURST, self.tokens + (now - self.filled) * RATE)
        self.filled = now
        return self.tokens

    def take(self) -> bool:
        """Whether one more message is all right."""
        if self.fill() < 1:
            self.strikes += 1
            return False
        self.tokens -= 1
        return True


def host_of(connection: Connection) -> str:
    """Whom a limit is for: an IPv4 address, or the /64 network of an IPv6 address, all of which one host may have."""
    ip = ip_address(connection.addr[0])
    return str(ip) if ip.version == 4 else str(ip_network((int(ip), 64), strict=False))


class Server:
    """Acknowledges every message within the limit."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}  # by host: reconnecting is no way to get a fresh one
        self.banned: dict[str, float] = {}  # until when
        self.node = Node(Config(name="server"))
        self.node.enable_handshake(self)
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)
        self.node.enable_on_disconnect(self)

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        host = host_of(connection)
        if self.is_banned(host):
            print(f"server: {host} is turned away")
            raise BannedError(host)
        await stream.send(WELCOME)
        return stream

    def decoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=1024)

    def encoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=16_384)

    async def process_message(self, source: Connection, message: str) -> None:
        host = host_of(source)
        if self.is_banned(host):
            return  # what had arrived before the ban
        bucket = self.buckets.setdefault(host, Bucket())
        if bucket.take():
            await self.outbox.send(source, f"heard {message!r}")
        elif bucket.strikes == 1:
            print(f"server: {host} is warned")
            with suppress(QueueFullError):
                self.outbox.send_nowait(source, "slow down")
        elif bucket.strikes == STRIKES:
            print(f"server: {host} is banned")
            self.ban(host)
            self.node.start_soon(self.drop, host)  # in the background, as the end of `source` cancels what runs here

    def is_banned(self, host: str) -> bool:
        return self.banned.get(host, 0) > anyio.current_time()

    def ban(self, host: str) -> None:
        del self.buckets[host]
        now = anyio.current_time()
        self.banned = {other: until for other, until in self.banned.items() if until > now}
        self.banned[host] = now + BAN

    async def drop(self, host: str) -> None:
        for connection in self.node.connections.values():
            if host_of(connection) == host:
                await self.node.disconnect(connection, abort=True)

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        self.buckets = {host: bucket for host, bucket in self.buckets.items() if bucket.fill() < BURST}


class FromHost(TCPTransport):
    """TCP that dials from one of this machine's addresses."""

    def __init__(self, host: str) -> None:
        self.host = host

    async def dial(self, addr: Address, /, *, local_addr: Address | None = None) -> ByteStream:
        return await super().dial(addr, local_addr=local_addr or (self.host, 0))


class Client:
    """Counts the replies it gets."""

    def __init__(self, name: str, host: str) -> None:
        self.replies: Counter[str] = Counter()
        self.replied = anyio.Event()
        self.node = Node(Config(name=name, listener_addr=None), transport=FromHost(host))
        self.node.enable_handshake(self)
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        await stream.receive(len(WELCOME))
        return stream

    def decoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=16_384)

    def encoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=16_384)

    async def process_message(self, source: Connection, message: str) -> None:
        self.replies[message] += 1
        self.replied.set()
        self.replied = anyio.Event()


async def main() -> None:
    server, calm, noisy = Server(), Client("calm", "127.0.0.2"), Client("noisy", "127.0.0.3")
    async with server.node, calm.node, noisy.node:
        addr = await server.node.start_listening()
        talk = await calm.node.connect(addr)
        noise = await noisy.node.connect(addr)

        for _ in range(3 * BURST):
            await noisy.outbox.send(noise, "noise")
        while not noisy.replies["slow down"]:
            await noisy.replied.wait()
        print("noisy: I have been warned, and do not care")
        with suppress(NotConnectedError):
            while True:
                await noisy.outbox.send(noise, "noise")
        print("noisy: I have been thrown out")
        try:
            await noisy.node.connect(addr)
        except HandshakeError:
            print("noisy: I am not let in again")

        for number in range(2 * BURST):
            await anyio.sleep(1 / RATE)
            await calm.outbox.send(talk, f"word {number}")
            while not calm.replies[f"heard 'word {number}'"]:
                await calm.replied.wait()
        print(f"calm: I was heard {calm.replies.total()} times")


if __name__ == "__main__":
    run(command_line(__doc__).parse_args(), main)
