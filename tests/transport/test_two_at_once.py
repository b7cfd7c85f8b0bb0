"""Two tasks at one stream: bytes of two sends are never mixed, and nobody reads what another one waits for."""

from __future__ import annotations

import ssl
import sys
from itertools import groupby
from typing import TYPE_CHECKING

import anyio
import pytest
import trustme
from anyio import BusyResourceError, ClosedResourceError
from anyio.streams.tls import TLSStream

from ..helpers import RawPeer, wait_until
from .streams import FAMILIES, wrapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from pea2pea.transport import TCPStream

LARGE = 50_000


def runs(data: bytes) -> list[tuple[str, int]]:
    """Which bytes follow each other, and how many of each."""
    return [(chr(byte), len(list(same))) for byte, same in groupby(data)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("count", [2, 5])
async def test_order_of_sends_at_once(family: str, count: int) -> None:
    """Sends at once go out one after the other in the order of the calls."""
    called = []
    with wrapped(family, buffer=4096) as (stream, peer):

        async def send(byte: bytes) -> None:
            called.append(byte.decode())
            await stream.send(byte * LARGE)

        async with anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(send, b"%c" % (65 + number))
            await anyio.wait_all_tasks_blocked()
            assert len(called) == count
            received = await peer.receive_exactly(count * LARGE)
    assert runs(received) == [(byte, LARGE) for byte in called]


async def test_small_sends_of_many_tasks_keep_the_order_of_the_calls() -> None:
    """As the records of TLS must, which are encrypted in the order of the calls."""
    called: list[bytes] = []
    with wrapped() as (stream, peer):

        async def send(number: int) -> None:
            called.append(b"%03d" % number)
            await stream.send(called[-1])

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(send, number)
        assert await peer.receive_exactly(600) == b"".join(called)


async def test_cancelled_second_send() -> None:
    """A send that is cancelled while it waits for another sends nothing."""
    with wrapped(buffer=4096) as (stream, peer):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, b"A" * LARGE)
            await anyio.wait_all_tasks_blocked()
            async with anyio.create_task_group() as cancelled:
                for _ in range(3):
                    cancelled.start_soon(stream.send, b"B" * LARGE)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(stream.send, b"C" * LARGE)
                await anyio.wait_all_tasks_blocked()
                cancelled.cancel_scope.cancel()
            received = await peer.receive_exactly(2 * LARGE)
    assert runs(received) == [("A", LARGE), ("C", LARGE)]


async def test_a_send_that_is_cancelled_lets_the_next_one_go_on() -> None:
    with wrapped(buffer=4096) as (stream, peer):
        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as cancelled:
                cancelled.start_soon(stream.send, b"A" * LARGE)
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(stream.send, b"B" * LARGE)
                await anyio.wait_all_tasks_blocked()
                cancelled.cancel_scope.cancel()
            received = b""
            while received.count(b"B") < LARGE:
                received += await peer.receive()
    assert [byte for byte, _ in runs(received)] == ["A", "B"]


async def test_closing_ends_all_sends() -> None:
    failed = []
    with wrapped(buffer=4096) as (stream, _):

        async def send() -> None:
            with pytest.raises(ClosedResourceError):
                await stream.send(bytes(LARGE))
            failed.append(1)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            await stream.aclose()
    assert len(failed) == 3


async def test_nothing_of_the_nodes_gets_into_a_send() -> None:
    with wrapped(buffer=4096) as (stream, peer):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, b"A" * LARGE)
            await anyio.wait_all_tasks_blocked()
            while len(await peer.receive()) < 1000:
                pass  # so that there is room
            for attempt in nowait_attempts(stream):
                with pytest.raises(BusyResourceError):
                    attempt()
            with pytest.raises(BusyResourceError):
                await stream.send_eof()
            received = b""
            while stream._senders:
                received += await peer.receive()
        await stream.send_eof()
        received += await peer.receive_all()
    assert set(received) == {65}


def nowait_attempts(stream: TCPStream) -> list[Callable[[], object]]:
    return [
        lambda: stream.send_nowait([b"B"]),
        lambda: stream.send_nowait([b"B", b"C"]),
        lambda: stream.send_some(b"B"),
    ]


@pytest.mark.parametrize("parts", [1, 3])
async def test_a_send_does_not_get_into_what_the_node_has_half_sent(parts: int) -> None:
    with wrapped(buffer=4096) as (stream, peer):
        rest = stream.send_nowait([b"A" * LARGE] * parts)
        assert rest
        with pytest.raises(BusyResourceError):
            await stream.send(b"B")
        async with anyio.create_task_group() as tasks:

            async def go_on() -> None:
                nonlocal rest
                while rest:
                    await stream.writable()
                    rest = stream.send_nowait(rest)

            tasks.start_soon(go_on)
            assert runs(await peer.receive_exactly(parts * LARGE)) == [("A", parts * LARGE)]
        await stream.send(b"B")
        assert await peer.receive() == b"B"


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_second_receive_is_refused_while_one_waits(family: str) -> None:
    with wrapped(family) as (stream, peer):
        received = []

        async def receive() -> None:
            received.append(await stream.receive())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            for _ in range(2):
                with pytest.raises(BusyResourceError):
                    await stream.receive()
            with pytest.raises(BusyResourceError):
                stream.receive_nowait()
            await peer.send(b"for the first")
        assert received == [b"for the first"]
        await peer.send(b"for the next")
        assert await stream.receive() == b"for the next"


async def test_two_receives_at_once_split_nothing() -> None:
    with wrapped() as (stream, peer):
        outcomes: list[object] = []

        async def receive() -> None:
            try:
                outcomes.append(await stream.receive())
            except BusyResourceError as error:
                outcomes.append(type(error))

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(receive)
            await wait_until(lambda: len(outcomes) == 2)
            await peer.send(b"whole")
        assert outcomes == [BusyResourceError, BusyResourceError, b"whole"]


# TLS 1.3: a receive may have to send (RFC 8446, section 4.6)


class Server:
    """The server's end of a TLS connection, on a plain socket; it reads only when it is told to."""

    def __init__(self, context: ssl.SSLContext, peer: RawPeer) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.peer = peer

    async def flush(self) -> None:
        await self.peer.send(self.outgoing.read())

    async def fill(self) -> None:
        self.incoming.write(await self.peer.receive())

    async def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.flush()
                await self.fill()
            else:
                break
        await self.flush()

    async def receive_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                data += self.tls.read(count - len(data))
            except ssl.SSLWantReadError:
                await self.fill()
        return data


def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's, with a certificate for each."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.minimum_version = client.minimum_version = ssl.TLSVersion.TLSv1_3
    authority.issue_cert("server.example").configure_cert(server)
    authority.issue_cert("client.example").configure_cert(client)
    for context in server, client:
        authority.configure_trust(context)
    client.post_handshake_auth = True
    server.post_handshake_auth = True
    server.verify_mode = ssl.CERT_OPTIONAL
    return server, client


@pytest.mark.skipif(not ssl.HAS_TLSv1_3 or sys.platform == "win32", reason="needs TLS 1.3")
async def test_post_handshake_authentication() -> None:
    """A certificate that is asked for while a send waits breaks no record."""
    for_server, for_client = contexts()
    with wrapped(buffer=4096) as (stream, peer):
        server = Server(for_server, peer)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.shake_hands)
            client = await TLSStream.wrap(stream, server_side=False, hostname="server.example", ssl_context=for_client)
        received = []

        async def receive() -> None:
            received.append(await client.receive())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.send, b"A" * LARGE)
            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            server.tls.verify_client_post_handshake()
            server.tls.write(b"who are you?")
            await server.flush()
            await anyio.wait_all_tasks_blocked()  # the answer waits behind the send
            assert await server.receive_exactly(LARGE) == b"A" * LARGE
        await client.send(b"B")
        assert await server.receive_exactly(1) == b"B"
        assert server.tls.getpeercert()
        assert received == [b"who are you?"]
