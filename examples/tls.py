"""Mutual TLS: peers that know each other by the certificates of a private authority, and refuse everybody else.

Shows a handshake that returns AnyIO's `TLSStream` in place of the plain one, and how the name in a peer's certificate
is read from the connection afterwards. It needs `trustme`, which makes real certificates on the spot. Run
`python examples/tls.py`. You will see Alice and Bob talk, each sure of the other's name; then peers with no
certificate, an expired one and one of a foreign authority refused, whoever dials.
"""

from __future__ import annotations

import ssl
from contextlib import AsyncExitStack
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import anyio
import trustme
from anyio.streams.tls import TLSAttribute, TLSStream
from cryptography import x509

from _common import command_line, run
from pea2pea import Config, Connection, HandshakeError, Node, Side
from pea2pea.codecs import LinesCodec

if TYPE_CHECKING:
    from anyio.abc import ByteStream

CONFIRMED = b"+"


class TLSHandshake:
    """TLS, both ways: whoever has no valid certificate of the authority `trusted` is refused."""

    def __init__(self, trusted: trustme.CA, certificate: trustme.LeafCert | None) -> None:
        # contexts of their own, since `ssl.create_default_context` trusts all the world's authorities, too
        self.dialling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.dialling.check_hostname = False  # a peer is known by its name, not by the address it was dialled at
        self.dialled = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.dialled.verify_mode = ssl.CERT_REQUIRED
        for context in (self.dialling, self.dialled):
            trusted.configure_trust(context)
            if certificate is not None:
                certificate.configure_cert(context)

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        initiator = connection.side is Side.INITIATOR
        tls = await TLSStream.wrap(
            stream, server_side=not initiator, ssl_context=self.dialling if initiator else self.dialled
        )
        # In TLS 1.3 the client is done before the server has looked at its certificate (RFC 8446, section 2):
        # the server's confirmation lets both sides agree on whether there is a connection.
        if initiator:
            await tls.receive(len(CONFIRMED))
        else:
            await tls.send(CONFIRMED)
        return tls


def name_of(connection: Connection) -> str:
    """The name for which the authority has issued the peer's certificate."""
    der = connection.extra(TLSAttribute.peer_certificate_binary)
    assert der is not None  # for both contexts require one
    names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.DNSName)[0]


class Peer:
    """Says who says what, and whom it refuses."""

    def __init__(self, name: str, tls: TLSHandshake) -> None:
        self.tls = tls
        self.heard = anyio.Event()
        self.node = Node(Config(name=name))
        self.node.enable_handshake(self)
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        try:
            return await self.tls.perform_handshake(connection, stream)
        except ssl.SSLError as error:
            why = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else error.reason
            print(f"  {self.node.name} refuses the other one: {why}")
            raise

    def decoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec()

    def encoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec()

    async def process_message(self, source: Connection, message: str) -> None:
        version = source.extra(TLSAttribute.tls_version)
        print(f"{self.node.name} hears {name_of(source)} say {message!r} over {version}")
        self.heard.set()


async def attempt(dialling: Node, dialled: Node) -> None:
    """One node dials another one, which is not to succeed."""
    assert dialled.listening_addr is not None
    print(f"{dialling.name} dials {dialled.name}")
    try:
        await dialling.connect(dialled.listening_addr)
    except HandshakeError as error:
        print(f"  {dialling.name} is not connected: {type(error.__cause__).__name__}")
    else:
        raise AssertionError(f"{dialling.name} was let in")


async def main() -> None:
    authority, foreign = trustme.CA(), trustme.CA()
    now = datetime.now(timezone.utc)
    expired = authority.issue_cert(
        "carol.example", not_before=now - timedelta(days=2), not_after=now - timedelta(days=1)
    )
    alice = Peer("alice", TLSHandshake(authority, authority.issue_cert("alice.example")))
    bob = Peer("bob", TLSHandshake(authority, authority.issue_cert("bob.example")))
    strangers = {
        "no certificate": Peer("nobody", TLSHandshake(authority, None)),
        "an expired certificate": Peer("carol", TLSHandshake(authority, expired)),
        "a foreign certificate": Peer("mallory", TLSHandshake(authority, foreign.issue_cert("bob.example"))),
    }
    async with AsyncExitStack() as stack:
        for peer in (alice, bob, *strangers.values()):
            await stack.enter_async_context(peer.node)
            await peer.node.start_listening()

        assert bob.node.listening_addr is not None
        connection = await alice.node.connect(bob.node.listening_addr)
        print(f"alice has dialled {name_of(connection)}")
        await alice.outbox.send(connection, "is that you?")
        await bob.heard.wait()

        for what, stranger in strangers.items():
            print(f"{stranger.node.name} has {what}")
            await attempt(alice.node, stranger.node)
            await attempt(stranger.node, alice.node)
        print(f"alice counts {alice.node.heuristics.handshake_failures} failed handshakes")


if __name__ == "__main__":
    run(command_line(__doc__).parse_args(), main)
