"""Streams as handshakes return them, and as users bring them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from anyio.abc import ByteStream


class Wrapped(ByteStream):
    """Passes everything through."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        return await self.stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self.stream.send(item)

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return self.stream.extra_attributes


class NoEof(Wrapped):
    """Has no half-close, as TLS."""

    async def send_eof(self) -> NoReturn:
        raise NotImplementedError


class Foreign(Wrapped):
    """What is adopted, and is no TCP stream of the library's."""
