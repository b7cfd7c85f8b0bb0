"""What both kinds of chaos account for, simulated and over sockets: the ends of connections, and what came of them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pea2pea import Connection, DisconnectOrigin
from pea2pea.codecs import LengthDelimitedCodec

from .helpers import receive_exactly

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anyio.abc import ByteStream

NAME = 8  # bytes of an end's name, which each end tells the other in the handshake
HEADER = struct.Struct(">QI")
LARGEST = 200_000  # bytes of a message
ORDERLY = {DisconnectOrigin.USER, DisconnectOrigin.SHUTDOWN}


class Planted(Exception):  # noqa: N818  # no error of the library's
    """A bug of the user's."""


class End:
    """One end of a connection, and what happened there. It is the codec of it, too: messages are sizes.

    A message is accepted when it is encoded, and then numbered; so nothing but what was accepted has a number.
    """

    def __init__(self, connection: Connection, name: int) -> None:
        self.connection = connection
        self.name = name
        self.peer = 0  # the other end's name
        self.framing = LengthDelimitedCodec(max_length=LARGEST)
        self.accepted = self.got = 0
        self.events: list[str] = []
        self.origin: DisconnectOrigin | None = None
        self.aborted = False

    async def exchange_names(self, stream: ByteStream) -> None:
        await stream.send(self.name.to_bytes(NAME, "big"))
        self.peer = int.from_bytes(await receive_exactly(stream, NAME), "big")

    def encode(self, size: int) -> bytes:
        frame = self.framing.encode(HEADER.pack(self.name, self.accepted) + bytes(min(size, LARGEST // 2)))
        self.accepted += 1
        return b"".join(frame) if isinstance(frame, tuple) else bytes(frame)

    def decode(self, data: bytes) -> Iterable[int]:
        for message in self.framing.decode(data):
            name, number = HEADER.unpack_from(message)
            if name != self.peer:
                self.complain(name)
            yield number

    def complain(self, name: int) -> None:
        raise AssertionError(f"a message of {name}, another connection")
