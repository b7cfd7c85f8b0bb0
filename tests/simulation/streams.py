"""Streams as handshakes return them, and as users bring them."""

from __future__ import annotations

from tests.helpers import Opaque


class Wrapped(Opaque):
    """Passes everything through."""

    async def send_eof(self) -> None:
        await self.stream.send_eof()


class Foreign(Wrapped):
    """What is adopted, and is no TCP stream of the library's."""
