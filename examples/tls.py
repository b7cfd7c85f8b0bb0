"""Mutual TLS: peers that know each other by the certificates of a private authority, and refuse everybody else.

Shows `TLSHandshake`, which compares the name that was dialled with the one in the peer's certificate, and how that name
is read from the connection afterwards. It needs `trustme`, which makes real certificates on the spot. Run
`python examples/tls.py`. You will see Alice and Bob talk, each sure of the other's name; then peers with no
certificate, an expired one and one of a foreign authority refused, whoever dials, and one that answers in Bob's place
with a valid certificate of its own name.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta, timezone

import anyio
import trustme
from anyio.streams.tls import TLSAttribute

from _common import command_line, run, shown
from pea2pea import Address, Config, Connection, HandshakeError, Node, TCPTransport
from pea2pea.codecs import LinesCodec
from pea2pea.handshakes import TLSHandshake


class Names(TCPTransport):
    """Says where the peers' names lead, as a name server would: to this machine, whoever answers there."""

    async def resolve(self, addr: Address, /) -> Sequence[Address]:
        return [("127.0.0.1", addr[1])]


def mutual_tls(trusted: trustme.CA, certificate: trustme.LeafCert | None) -> TLSHandshake:
    """TLS, both ways: whoever has no valid certificate of the authority `trusted` is refused."""
    # contexts of their own, since `ssl.create_default_context` trusts all the world's authorities, too
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it compares the name that was dialled
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.verify_mode = ssl.CERT_REQUIRED
    for context in (client, server):
        trusted.configure_trust(context)
        if certificate is not None:
            certificate.configure_cert(context)
    return TLSHandshake(client=client, server=server)


def name_of(connection: Connection) -> str:
    """The name for which the authority has issued the peer's certificate, which may be for an address alone."""
    certificate = connection.extra(TLSAttribute.peer_certificate)
    assert certificate is not None  # for both contexts require one
    names = [entry[1] for entry in certificate.get("subjectAltName", ()) if entry[0] == "DNS"]
    return shown(names[0]) if names else "somebody without a name"


class Peer:
    """Says who says what."""

    def __init__(self, name: str, tls: TLSHandshake) -> None:
        self.heard = anyio.Event()
        self.node = Node(Config(name=name), transport=Names())
        self.node.enable_handshake(tls)
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)

    @property
    def port(self) -> int:
        assert self.node.listening_addr is not None
        return self.node.listening_addr[1]

    def decoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=1000)

    def encoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=1000)

    async def process_message(self, source: Connection, message: str) -> None:
        version = source.extra(TLSAttribute.tls_version)
        print(f"{self.node.name} hears {name_of(source)} say {message!r} over {version}")
        self.heard.set()


async def attempt(dialling: Peer, name: str, answering: Peer) -> None:
    """Dial a name, where that peer answers; it is not to succeed."""
    try:
        await dialling.node.connect((name, answering.port))
    except HandshakeError as error:
        cause = error.__cause__
        assert isinstance(cause, ssl.SSLError)  # what was wrong, or the alert by which the other side has said so
        why = getattr(cause, "verify_message", None) or getattr(cause, "reason", None) or cause  # not all have them
        print(f"  {dialling.node.name} dials {name}, {answering.node.name} answers: {why}")
    else:
        raise AssertionError(f"{dialling.node.name} is connected")


async def main() -> None:
    authority, foreign = trustme.CA(), trustme.CA()
    now = datetime.now(timezone.utc)
    expired = authority.issue_cert(
        "carol.example", not_before=now - timedelta(days=2), not_after=now - timedelta(days=1)
    )
    alice = Peer("alice", mutual_tls(authority, authority.issue_cert("alice.example")))
    bob = Peer("bob", mutual_tls(authority, authority.issue_cert("bob.example")))
    dave = Peer("dave", mutual_tls(authority, authority.issue_cert("dave.example")))
    strangers = {
        "no certificate": Peer("oscar", mutual_tls(authority, None)),
        "an expired certificate": Peer("carol", mutual_tls(authority, expired)),
        "a foreign certificate": Peer("mallory", mutual_tls(authority, foreign.issue_cert("mallory.example"))),
    }
    async with AsyncExitStack() as stack:
        for peer in (alice, bob, dave, *strangers.values()):
            await stack.enter_async_context(peer.node)
            await peer.node.start_listening()

        connection = await alice.node.connect(("bob.example", bob.port))
        print(f"alice has dialled {name_of(connection)}")
        await alice.outbox.send(connection, "is that you?")
        await bob.heard.wait()

        for what, stranger in strangers.items():
            print(f"{stranger.node.name} has {what}")
            await attempt(alice, f"{stranger.node.name}.example", stranger)
            await attempt(stranger, "alice.example", alice)
        print("dave has a certificate, of another name")
        await attempt(alice, "bob.example", dave)
        print(f"alice counts {alice.node.heuristics.handshake_failures} failed handshakes")


if __name__ == "__main__":
    run(command_line(__doc__).parse_args(), main)
