"""A peer to which a first message is stuck on its way, as it reads nothing unless it is told to."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from anyio import EndOfStream
from anyio.abc import SocketAttribute

from pea2pea import Side

from ..helpers import RawPeer, memory_pair, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from pea2pea import Connection

    from ..helpers import User

CLOG = bytes(300_000)  # more than the buffers on the way hold, and than an outgoing queue does, by default
SMALL_BUFFER = 4096


class StuckPeer:
    """It is at the other end of a socket or of a stream in memory: what goes through a node takes different ways."""

    def __init__(
        self, connection: Connection, receive: Callable[[int], Awaitable[bytes]], leave: Callable[[], Awaitable[None]]
    ) -> None:
        self.connection = connection
        self.receive = receive
        self._leave = leave
        self._data = bytearray()

    async def read(self) -> bytes:
        """The next message; `EndOfStream` if there is none."""
        while (size := int.from_bytes(self._data[:4], "big")) + 4 > len(self._data) or len(self._data) < 4:
            data = await self.receive(65_536)
            if not data:
                raise EndOfStream
            self._data += data
        message = bytes(self._data[4 : 4 + size])
        del self._data[: 4 + size]
        return message

    async def read_all(self) -> list[bytes]:
        """All messages until the end of the stream."""
        messages = []
        while True:
            try:
                messages.append(await self.read())
            except EndOfStream:
                assert not self._data, "the last message is cut off"
                return messages

    async def leave(self) -> None:
        """Break the connection."""
        await self._leave()


@asynccontextmanager
async def stuck_peer(user: User, over: str) -> AsyncGenerator[StuckPeer]:
    """Enter the user's node, connect it to a peer over a "socket" or "memory", and send `CLOG`, which gets stuck."""
    async with user.node as node:
        if over == "socket":
            with await RawPeer.dial(await node.start_listening(), receive_buffer=SMALL_BUFFER) as raw:
                await wait_until(lambda: node.connections)
                sock = user.only.extra(SocketAttribute.raw_socket)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)

                async def reset() -> None:
                    raw.reset()

                peer = StuckPeer(user.only, raw.receive, reset)
                user.outbox.send_nowait(peer.connection, CLOG)
                yield peer
        else:
            ours, theirs = memory_pair(SMALL_BUFFER)
            connection = await node.adopt(ours, ("memory", 1), Side.RESPONDER)

            async def receive(max_bytes: int) -> bytes:
                try:
                    return await theirs.receive(max_bytes)
                except EndOfStream:
                    return b""

            peer = StuckPeer(connection, receive, theirs.aclose)
            user.outbox.send_nowait(connection, CLOG)
            yield peer
            await theirs.aclose()
