"""TLS for tests, with certificates that nobody else trusts."""

from __future__ import annotations

import ssl
from functools import cache
from typing import TYPE_CHECKING

import trustme
from anyio.streams.tls import TLSStream

from pea2pea import Config, Connection, Side

from ..helpers import ALL, User

if TYPE_CHECKING:
    from collections.abc import Collection

    from anyio.abc import ByteStream

HOSTNAME = "peer.example"


@cache
def context(side: Side) -> ssl.SSLContext:
    """Of the side that dials, or of the one that is dialled."""
    server, client = _contexts()
    return client if side is Side.INITIATOR else server


@cache
def _contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for made in (server, client):  # Python lets an end without close_notify pass, unless it is told not to
        made.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", ssl.Options(0))
    authority.issue_cert(HOSTNAME).configure_cert(server)
    authority.configure_trust(client)
    return server, client


async def wrap(stream: ByteStream, side: Side) -> TLSStream:
    """A TLS handshake on that side."""
    return await TLSStream.wrap(
        stream,
        server_side=side is Side.RESPONDER,
        hostname=HOSTNAME if side is Side.INITIATOR else None,
        ssl_context=context(side),
    )


class SecureUser(User):
    """A user that talks TLS."""

    def __init__(self, config: Config | None = None, *, enable: Collection[str] = ALL) -> None:
        super().__init__(config, enable=enable)
        self.shake_hands = self.secure

    @staticmethod
    async def secure(connection: Connection, stream: ByteStream) -> ByteStream:
        return await wrap(stream, connection.side)
