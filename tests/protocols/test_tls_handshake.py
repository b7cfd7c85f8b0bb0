"""`TLSHandshake`: whoever refuses whom, for whatever reason, both sides know that there is no connection, and why."""

from __future__ import annotations

import gc
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cache

import pytest
import trustme
from anyio import BrokenResourceError, create_task_group
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSStream

from pea2pea import (
    Address,
    Connection,
    DisconnectOrigin,
    FrameError,
    HandshakeError,
    HandshakeTimeoutError,
    Side,
    TCPTransport,
)
from pea2pea.codecs import LengthDelimitedCodec
from pea2pea.handshakes import MessageStream, TLSHandshake

from ..helpers import ALL, LOCALHOST, RawPeer, User, frame, memory_pair, wait_until

NAME = "peer.example"
OLD, NEW = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
any_version = pytest.mark.parametrize("version", [OLD, NEW], ids=["1.2", "1.3"])


class Names(TCPTransport):
    """Knows some names, all of which stand for this machine."""

    async def resolve(self, addr: Address, /) -> Sequence[Address]:
        return await super().resolve((LOCALHOST, addr[1]) if addr[0].endswith(".example") else addr)


@cache
def authority(which: str) -> trustme.CA:
    return trustme.CA()


@cache
def certificate(of: str, *names: str) -> trustme.LeafCert:
    """A valid one of our authority, an expired one of ours, or one of a foreign authority."""
    if of == "expired":
        now = datetime.now(timezone.utc)
        before, after = now - timedelta(days=2), now - timedelta(days=1)
        return authority("ours").issue_cert(*names, not_before=before, not_after=after)
    return authority(of).issue_cert(*names)


def context(
    side: Side, version: ssl.TLSVersion = NEW, own: trustme.LeafCert | None = None, *, mutual: bool = False
) -> ssl.SSLContext:
    """Trusts our authority, and asks for a certificate on the initiator's side, or on both."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if side is Side.INITIATOR else ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = made.maximum_version = version
    authority("ours").configure_trust(made)
    if own is not None:
        own.configure_cert(made)
    if mutual:
        made.verify_mode = ssl.CERT_REQUIRED
    return made


class Secure(User):
    """A user that knows some names and talks TLS; it writes down what its handshakes raise."""

    def __init__(self, *, client: ssl.SSLContext | None = None, server: ssl.SSLContext | None = None) -> None:
        super().__init__(enable=ALL - {"handshake"}, transport=Names())
        self.node.enable_handshake(self, timeout=30.0)
        self.tls = TLSHandshake(client=client, server=server)
        self.errors: list[Exception] = []
        self.shake_hands = self.secure

    async def secure(self, connection: Connection, stream: ByteStream) -> ByteStream:
        try:
            return await self.tls.perform_handshake(connection, stream)
        except Exception as error:
            self.errors.append(error)
            raise


def a_pair(
    version: ssl.TLSVersion,
    client: trustme.LeafCert | None = None,
    server: trustme.LeafCert | None = None,
    *,
    mutual: bool = True,
) -> tuple[Secure, Secure]:
    """One that dials, and one that is dialled, with these certificates."""
    server = server or certificate("ours", NAME)
    return (
        Secure(client=context(Side.INITIATOR, version, client)),
        Secure(server=context(Side.RESPONDER, version, server, mutual=mutual)),
    )


async def dial(dialler: Secure, responder: Secure, host: str = NAME) -> Connection:
    addr = responder.node.listening_addr or await responder.node.start_listening()
    return await dialler.node.connect((host, addr[1]))


# Accepted


@pytest.mark.parametrize("mutual", [False, True])
@any_version
async def test_messages_go_both_ways(version: ssl.TLSVersion, mutual: bool) -> None:
    client = certificate("ours", "dialler.example") if mutual else None
    dialler, responder = a_pair(version, client, mutual=mutual)
    large = bytes(range(256)) * 1000
    async with dialler.node, responder.node:
        ours = await dial(dialler, responder)
        await wait_until(lambda: responder.node.connections)
        theirs = responder.only
        for message in (b"hello", large):
            await dialler.outbox.send(ours, message)
            await responder.outbox.send(theirs, message[::-1])
        await wait_until(lambda: responder.received == [b"hello", large])
        await wait_until(lambda: dialler.received == [b"olleh", large[::-1]])
        assert ours.extra(TLSAttribute.tls_version) == ("TLSv1.3" if version is NEW else "TLSv1.2")
        assert ours.extra(TLSAttribute.peer_certificate_binary)
        assert (theirs.extra(TLSAttribute.peer_certificate_binary) is not None) == mutual
        assert ours.extra(SocketAttribute.remote_port) == ours.addr[1]
        assert await dialler.node.disconnect(ours)
        await wait_until(lambda: responder.origins == [DisconnectOrigin.READING])
        assert theirs.cause is None
    assert not dialler.errors
    assert not responder.errors


@pytest.mark.parametrize("host", [LOCALHOST, "::ffff:127.0.0.1", "localhost"])
async def test_the_name_that_was_dialled_is_compared_be_it_an_address(host: str) -> None:
    responder = Secure(server=context(Side.RESPONDER, own=certificate("ours", LOCALHOST, "localhost")))
    dialler = Secure(client=context(Side.INITIATOR))
    async with dialler.node, responder.node:
        await dial(dialler, responder, host)


async def test_the_name_of_an_adopted_stream_is_its_addresss() -> None:
    contexts = context(Side.INITIATOR), context(Side.RESPONDER, own=certificate("ours", NAME))
    dialler, responder = Secure(client=contexts[0]), Secure(server=contexts[1])
    async with dialler.node, responder.node, create_task_group() as group:
        for name in (NAME, "other.example"):
            ours, theirs = memory_pair()

            async def adopt() -> None:
                with suppress(HandshakeError):
                    await responder.node.adopt(theirs, (name, 2), Side.RESPONDER)  # noqa: B023

            group.start_soon(adopt)
            if name == NAME:
                connection = await dialler.node.adopt(ours, (name, 1), Side.INITIATOR)
                await dialler.outbox.send(connection, b"hello")
                await wait_until(lambda: responder.received == [b"hello"])
            else:
                with pytest.raises(HandshakeError, match="Hostname mismatch"):
                    await dialler.node.adopt(ours, (name, 1), Side.INITIATOR)


async def test_without_check_hostname_any_name_will_do() -> None:
    client = context(Side.INITIATOR)
    client.check_hostname = False
    dialler = Secure(client=client)
    responder = Secure(server=context(Side.RESPONDER, own=certificate("ours", "other.example")))
    async with dialler.node, responder.node:
        await dial(dialler, responder)


async def test_what_is_sent_at_once_comes_behind_the_confirmation() -> None:
    dialler, responder = a_pair(NEW, certificate("ours", NAME))

    async def greet(connection: Connection) -> None:
        for number in range(20):
            await responder.outbox.send(connection, b"%d" % number)

    responder.greet = greet
    async with dialler.node, responder.node:
        await dial(dialler, responder)
        await wait_until(lambda: dialler.received == [b"%d" % number for number in range(20)])


async def test_a_handshake_of_ones_own_goes_on_over_tls() -> None:
    users = a_pair(NEW, certificate("ours", NAME))

    async def introduce(connection: Connection, stream: ByteStream) -> ByteStream:
        user = users[connection.side is Side.RESPONDER]
        messages = MessageStream(await user.tls.perform_handshake(connection, stream), LengthDelimitedCodec())
        await messages.send(connection.side.name.encode())
        assert await messages.receive() == (~connection.side).name.encode()
        return messages.detach()

    dialler, responder = users
    dialler.shake_hands = responder.shake_hands = introduce
    async with dialler.node, responder.node:
        await dialler.outbox.send(await dial(dialler, responder), b"hello")
        await wait_until(lambda: responder.received == [b"hello"])


async def test_an_end_that_somebody_cut_off_is_no_clean_one() -> None:
    dialler, responder = a_pair(NEW, mutual=False)
    async with responder.node:
        addr = await responder.node.start_listening()
        with await RawPeer.dial(addr) as raw:
            link = FakeConnection(Side.INITIATOR, (NAME, addr[1]))
            tls = await dialler.tls.perform_handshake(link.as_connection(), TCPTransport.wrap(raw.sock))
            await wait_until(lambda: responder.node.connections)
            connection = responder.only
            await tls.send(frame(b"hello"))
            await wait_until(lambda: responder.received == [b"hello"])
            raw.half_close()
            await wait_until(lambda: responder.origins == [DisconnectOrigin.READING])
            assert isinstance(connection.cause, BrokenResourceError)


@dataclass
class FakeConnection:
    """What a handshake outside of a node is told."""

    side: Side
    dialled: Address | None
    addr: Address = field(default=(LOCALHOST, 1))

    def as_connection(self) -> Connection:
        return self  # type: ignore[return-value]  # it has what the handshake asks for


# Refused


@dataclass
class Refusal:
    """Who has which certificate, and what each side says of it."""

    client: Callable[[], trustme.LeafCert | None]
    server: Callable[[], trustme.LeafCert]
    refuses: Side
    reason: str
    alert: str
    host: str = NAME


def valid() -> trustme.LeafCert:
    return certificate("ours", NAME)


MISSING = "peer did not return a certificate"
REFUSALS = {
    "expired server": Refusal(
        valid, lambda: certificate("expired", NAME), Side.INITIATOR, "certificate has expired", "certificate expired"
    ),
    "foreign server": Refusal(
        valid, lambda: certificate("theirs", NAME), Side.INITIATOR, "unable to get local issuer", "unknown ca"
    ),
    "server of another name": Refusal(
        valid, lambda: certificate("ours", "other.example"), Side.INITIATOR, f"not valid for '{NAME}'", "certificate"
    ),
    "server at another address": Refusal(
        valid, valid, Side.INITIATOR, f"not valid for '{LOCALHOST}'", "certificate", host=LOCALHOST
    ),
    "no client certificate": Refusal(
        lambda: None, valid, Side.RESPONDER, MISSING, "(certificate required|handshake failure)"
    ),
    "expired client": Refusal(
        lambda: certificate("expired", NAME), valid, Side.RESPONDER, "certificate has expired", "certificate expired"
    ),
    "foreign client": Refusal(
        lambda: certificate("theirs", NAME), valid, Side.RESPONDER, "unable to get local issuer", "unknown ca"
    ),
}


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=tuple(REFUSALS))
@any_version
async def test_both_sides_know_that_there_is_no_connection_and_why(version: ssl.TLSVersion, refusal: Refusal) -> None:
    dialler, responder = a_pair(version, refusal.client(), refusal.server())
    async with dialler.node, responder.node:
        for attempt in (1, 2):
            with pytest.raises(HandshakeError) as caught:
                await dial(dialler, responder, refusal.host)
            assert caught.value.__cause__ is dialler.errors[-1]
            assert str(dialler.errors[-1]) in str(caught.value).replace("\\'", "'")
            await wait_until(lambda: responder.node.heuristics.handshake_failures == attempt)  # noqa: B023
        (refuses, refused) = (dialler, responder) if refusal.refuses is Side.INITIATOR else (responder, dialler)
        for user, reason in ((refuses, refusal.reason), (refused, f"alert .*{refusal.alert}")):
            assert len(user.errors) == 2
            for error in user.errors:
                assert isinstance(error, ssl.SSLError)
                with pytest.raises(ssl.SSLError, match=reason):
                    raise error
            assert not user.connected
            assert not user.node.connections
            await wait_until(lambda: not user.node.connecting)  # noqa: B023
            assert (user.node.heuristics.handshake_failures, user.node.heuristics.hook_errors) == (2, 0)


@pytest.mark.parametrize("side", Side)
async def test_a_side_without_a_context_is_refused(side: Side) -> None:
    server = context(Side.RESPONDER, own=valid())
    dialler, responder = Secure(client=context(Side.INITIATOR)), Secure(server=server)
    if side is Side.INITIATOR:
        dialler = Secure(server=server)
    else:
        responder = Secure(client=context(Side.INITIATOR))
    async with dialler.node, responder.node:
        with pytest.raises(HandshakeError):
            await dial(dialler, responder)
        user, kind = (dialler, "client") if side is Side.INITIATOR else (responder, "server")
        await wait_until(lambda: user.errors)
        assert f"TLSHandshake has no {kind} context" in str(user.errors[0])
        assert not dialler.connected
        assert not responder.connected


@pytest.mark.parametrize(
    "words", [b"GET / HTTP/1.1\r\nHost: peer\r\n\r\n", frame(b"hello"), b"\x16\x03\x01\x00\x05junk!"]
)
async def test_a_peer_that_talks_no_tls_is_refused(words: bytes) -> None:
    _, responder = a_pair(NEW)
    async with responder.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(words)
            with suppress(ConnectionResetError):
                await peer.receive_all()
        await wait_until(lambda: node.heuristics.handshake_failures == 1)
        assert isinstance(responder.errors[0], ssl.SSLError)
        assert not responder.connected


@any_version
@pytest.mark.parametrize("leaves", ["at once", "within a record"])
async def test_a_peer_that_leaves_without_a_word_is_told_as_that(version: ssl.TLSVersion, leaves: str) -> None:
    _, responder = a_pair(version)
    async with responder.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(b"" if leaves == "at once" else b"\x16\x03\x01\x02\x00")
            peer.half_close()
            with suppress(ConnectionResetError):
                await peer.receive_all()
        await wait_until(lambda: node.heuristics.handshake_failures == 1)
        assert "left during the TLS handshake without a word" in str(responder.errors[0])
        assert not responder.connected


@any_version
async def test_a_server_that_does_not_confirm_is_refused(version: ssl.TLSVersion) -> None:
    """It is another program's: the first that it says is not the confirmation."""
    dialler, responder = a_pair(version, mutual=False)

    async def only_tls(connection: Connection, stream: ByteStream) -> ByteStream:
        server = context(Side.RESPONDER, version, valid())
        tls = await TLSStream.wrap(stream, server_side=True, ssl_context=server, standard_compatible=False)
        await tls.send(b"220 welcome")
        return tls

    responder.shake_hands = only_tls
    async with dialler.node, responder.node:
        with pytest.raises(HandshakeError, match="b'2' in place of the confirmation") as caught:
            await dial(dialler, responder)
        assert isinstance(caught.value.__cause__, FrameError)
        assert not dialler.connected


async def test_a_silent_peer_is_cut_off_at_the_nodes_timeout() -> None:
    dialler = User(enable=ALL - {"handshake"})
    dialler.node.enable_handshake(TLSHandshake(client=context(Side.INITIATOR)), timeout=0.1)
    silent = User(enable=())
    async with silent.node as node, dialler.node:
        with pytest.raises(HandshakeTimeoutError):
            await dialler.node.connect(await node.start_listening())
        assert not dialler.node.connecting


async def test_a_peer_that_does_not_take_the_alert_hides_no_reason() -> None:
    """The reason is told although the alert that says it cannot be sent."""

    class Deaf(ByteStream):
        """Takes the first words, and none after them."""

        def __init__(self, inner: ByteStream) -> None:
            self.inner = inner
            self.sent = 0

        async def receive(self, max_bytes: int = 65_536) -> bytes:
            return await self.inner.receive(max_bytes)

        async def send(self, item: bytes) -> None:
            self.sent += 1
            if self.sent > 1:
                raise BrokenResourceError
            await self.inner.send(item)

        async def send_eof(self) -> None:
            raise NotImplementedError

        async def aclose(self) -> None:
            await self.inner.aclose()

    dialler, responder = a_pair(NEW, server=certificate("expired", NAME))

    async def secure(connection: Connection, stream: ByteStream) -> ByteStream:
        return await dialler.tls.perform_handshake(connection, Deaf(stream))

    dialler.shake_hands = secure
    async with dialler.node, responder.node:
        with pytest.raises(HandshakeError, match="certificate has expired"):
            await dial(dialler, responder)
        await wait_until(lambda: responder.errors)
        assert isinstance(responder.errors[0], BrokenResourceError)


@any_version
async def test_a_refusal_leaves_nothing_to_the_collector(version: ssl.TLSVersion) -> None:
    tls = TLSHandshake(client=context(Side.INITIATOR, version))
    server = TLSHandshake(server=context(Side.RESPONDER, version, certificate("expired", NAME)))
    ours, theirs = memory_pair()

    refused: list[Side] = []

    async def fail(handshake: TLSHandshake, side: Side, stream: ByteStream) -> None:
        try:
            await handshake.perform_handshake(FakeConnection(side, (NAME, 1)).as_connection(), stream)
        except ssl.SSLError:
            refused.append(side)

    gc.collect()
    gc.disable()
    try:
        async with create_task_group() as group:
            group.start_soon(fail, server, Side.RESPONDER, theirs)
            await fail(tls, Side.INITIATOR, ours)
        assert refused == [Side.INITIATOR, Side.RESPONDER]
        assert not [found for found in gc.get_objects() if isinstance(found, ssl.SSLObject)]
    finally:
        gc.enable()


# What it is made of


def test_what_is_wrong_with_a_context_is_said_at_once() -> None:
    client, server = context(Side.INITIATOR), context(Side.RESPONDER)
    with pytest.raises(ValueError, match="a client context, a server context, or both"):
        TLSHandshake()
    with pytest.raises(ValueError, match="the client context is one for servers"):
        TLSHandshake(client=server)
    with pytest.raises(ValueError, match="the server context is one for clients"):
        TLSHandshake(server=client)


class Own(ssl.SSLObject):
    """A user's."""


async def test_a_users_own_ssl_objects_stay_and_work() -> None:
    dialler, responder = a_pair(NEW, valid())
    contexts = context(Side.INITIATOR, own=valid()), context(Side.RESPONDER, own=valid())
    for made in contexts:
        made.sslobject_class = Own
    dialler, responder = Secure(client=contexts[0]), Secure(server=contexts[1])
    async with dialler.node, responder.node:
        connection = await dial(dialler, responder)
        assert type(connection.extra(TLSAttribute.ssl_object)) is Own


def test_whoever_else_uses_the_context_notices_nothing() -> None:
    client = context(Side.INITIATOR)
    TLSHandshake(client=client)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    other = client.wrap_bio(incoming, outgoing, server_hostname=NAME)
    with pytest.raises(ssl.SSLWantReadError):
        other.do_handshake()
    incoming.write(b"this is no TLS at all")
    with pytest.raises(ssl.SSLError, match=r"(?i)wrong.version.number"):
        other.do_handshake()


async def test_one_object_serves_both_sides_of_many_nodes() -> None:
    tls = TLSHandshake(client=context(Side.INITIATOR), server=context(Side.RESPONDER, own=valid()))
    users = [User(enable=ALL - {"handshake"}, transport=Names()) for _ in range(2)]
    for user in users:
        user.node.enable_handshake(tls)
    one, other = users
    async with one.node, other.node:
        addr = await other.node.start_listening()
        connection = await one.node.connect((NAME, addr[1]))
        await one.outbox.send(connection, b"hello")
        await wait_until(lambda: other.received == [b"hello"])
