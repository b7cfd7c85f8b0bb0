"""A user whose code fails at one place, and what makes it do so."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from anyio.abc import ByteStream

from pea2pea import Address, Config, Connection, DisconnectOrigin
from pea2pea.codecs import LengthDelimitedCodec
from tests.helpers import ALL, Echo, RawPeer, frame, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

    from pea2pea.codecs import Chunk, Codec, Frame

ORIGINS = {
    "decoder": DisconnectOrigin.READING,
    "decode": DisconnectOrigin.READING,
    "process_message": DisconnectOrigin.READING,
    "encoder": DisconnectOrigin.WRITING,
    "on_connect": DisconnectOrigin.ON_CONNECT,
}
"""The places where a bug ends the connection, and with which origin."""
HARMLESS = ("on_disconnect", "background task of the node", "background task of a connection")
PLACES = (*ORIGINS, *HARMLESS)
"""The places where an exception is a bug of the user's."""
ASYNC = ("process_message", "on_connect", *HARMLESS)


class FlawedCodec(LengthDelimitedCodec):
    def __init__(self, user: Flawed) -> None:
        super().__init__()
        self.user = user

    def decode(self, data: Chunk, /) -> Iterator[bytes]:
        self.user.trip("decode")
        return super().decode(data)

    def encode(self, message: bytes, /) -> Frame:
        self.user.trip("encode")
        return super().encode(message)


class Flawed(Echo):
    """An echo that calls `fail`, or awaits `stall`, at `place`, from when it is armed."""

    def __init__(
        self,
        place: str,
        fail: Callable[[], object] = lambda: None,
        *,
        stall: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(Config(grace_period=1), enable=ALL)
        self.place = place
        self.fail = fail
        self.stall = stall
        self.armed = False
        self.victim: Address = ("nobody", 0)
        self.codec = lambda: FlawedCodec(self)

    def trip(self, place: str) -> None:
        if self.armed and self.place == place:
            self.fail()

    async def atrip(self, place: str) -> None:
        self.trip(place)
        if self.stall is not None and self.armed and self.place == place:
            await self.stall()

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        await self.atrip("perform_handshake")
        return await super().perform_handshake(connection, stream)

    def decoder(self, connection: Connection) -> Codec[bytes]:
        self.trip("decoder")
        return super().decoder(connection)

    def encoder(self, connection: Connection) -> Codec[bytes]:
        self.trip("encoder")
        return super().encoder(connection)

    async def process_message(self, source: Connection, message: bytes) -> None:
        self.victim = source.addr
        await self.atrip("process_message")
        await super().process_message(source, message)

    async def on_connect(self, connection: Connection) -> None:
        self.victim = connection.addr
        await super().on_connect(connection)
        await self.atrip("on_connect")

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        self.victim = connection.addr
        await super().on_disconnect(connection, origin)
        await self.atrip("on_disconnect")

    async def of_the_node(self) -> None:
        await self.atrip("background task of the node")

    async def of_a_connection(self) -> None:
        await self.atrip("background task of a connection")

    async def provoke(self, victim: RawPeer) -> None:
        """Come by the place, because of this peer."""
        if self.place == "on_disconnect":
            await wait_until(lambda: victim.addr in self.connected)
            victim.close()
        elif self.place == "background task of the node":
            self.node.start_soon(self.of_the_node)
        elif self.place == "background task of a connection":
            await wait_until(lambda: victim.addr in self.connected)
            self.node.connections[victim.addr].start_soon(self.of_a_connection)
        else:
            with suppress(ConnectionError):  # it may be too late for that
                await victim.send(frame(b"provoke"))


@asynccontextmanager
async def provoked(user: Flawed) -> AsyncGenerator[tuple[RawPeer, RawPeer]]:
    """Run a flawed user's node with an honest peer connected, and provoke it by another one. Yields both."""
    async with user.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as honest:
            await wait_until(lambda: honest.addr in user.connected)
            user.armed = True
            with await RawPeer.dial(addr) as victim:
                await user.provoke(victim)
                yield honest, victim


async def is_served(user: Flawed, peer: RawPeer) -> bool:
    """Whether the node, without its flaw, still answers this peer."""
    user.armed = False
    await peer.send(frame(b"still there?"))
    return await peer.receive_message() == b"still there?"


class Spoiled(ByteStream):
    """A stream that has a bug, or belongs to a peer that makes it raise: one of its methods does."""

    def __init__(self, stream: ByteStream, error: BaseException, *, where: str) -> None:
        self.stream = stream
        self.error = error
        self.where = where

    def meet(self, where: str) -> None:
        if where == self.where:
            raise self.error

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        data = await self.stream.receive(max_bytes)
        self.meet("receive")
        return data

    async def send(self, item: bytes) -> None:
        self.meet("send")
        await self.stream.send(item)

    async def send_eof(self) -> None:
        self.meet("send_eof")
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()
        self.meet("aclose")
