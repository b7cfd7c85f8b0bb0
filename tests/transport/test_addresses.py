"""Addresses on their way to the system and back: zones, the unspecified address, where a dial comes from."""

from __future__ import annotations

import errno
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from anyio.abc import SocketAttribute

from pea2pea import Address, AlreadyConnectedError, Config, Node, SelfConnectionError, TCPTransport, transport
from pea2pea.transport import names_of

from ..helpers import LOCALHOST, Echo, RawListener, User, connect, memory_pair, two_nodes, wait_until
from .streams import wrapped

INDEX, NAME = socket.if_nameindex()[0]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs 127.0.0.2")
reuse_port = pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")


def link_local() -> tuple[str, str] | None:
    """A link-local address of this machine's, and the name of its interface."""
    with suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            ip, _, _, _, flags, name = line.split()
            if ip.startswith("fe80") and not int(flags, 16) & 0x40:  # of use, that is: not tentative
                return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(ip)), name
    return None


LINK_LOCAL = link_local()
needs_link_local = pytest.mark.skipif(LINK_LOCAL is None, reason="this machine has no link-local address")


def spellings() -> list[str]:
    """All ways to write it."""
    assert LINK_LOCAL is not None
    ip, name = LINK_LOCAL
    return [f"{ip}%{name}", f"{ip}%{socket.if_nametoindex(name)}", f"{ip.upper()}%0{socket.if_nametoindex(name)}"]


# Zones


@needs_link_local
@pytest.mark.parametrize("spelling", [0, 1, 2])
async def test_a_link_local_address_keeps_its_zone_all_the_way(spelling: int) -> None:
    host = spellings()[0]
    dialler, responder = User(), Echo(Config(listener_addr=(spellings()[spelling], 0)))
    async with dialler.node, responder.node:
        addr = await responder.node.start_listening()
        assert addr[0] == host
        assert responder.node.listening_addr == addr
        ours, theirs = await connect(dialler, responder)
        assert ours.addr == addr
        assert theirs.addr[0] == host
        assert names_of(ours) == (theirs.addr, addr)
        assert ours.extra(SocketAttribute.remote_address)[0] == spellings()[1]
        for other in spellings():
            with pytest.raises(AlreadyConnectedError):
                await dialler.node.connect((other, addr[1]))
            assert dialler.node.connections[other, addr[1]] is ours
        await dialler.outbox.send(ours, b"hello")
        await wait_until(lambda: dialler.received == [b"hello"])


@needs_link_local
@pytest.mark.parametrize("listen", ["link-local", "::"])
async def test_an_own_link_local_address_is_no_peer_in_any_spelling(listen: str) -> None:
    user = User(Config(listener_addr=(spellings()[0] if listen == "link-local" else "::", 0)))
    async with user.node as node:
        port = (await node.start_listening())[1]
        for host in spellings():
            with pytest.raises(SelfConnectionError):
                await node.connect((host, port))
        assert not node.connections


@needs_link_local
async def test_another_zone_is_another_place() -> None:
    assert LINK_LOCAL is not None
    ip, name = LINK_LOCAL
    user = Echo(Config(listener_addr=(f"{ip}%{name}", 0)))
    async with user.node, User().node as node:
        port = (await user.node.start_listening())[1]
        for zone in (other for _, other in socket.if_nameindex() if other != name):
            with pytest.raises((OSError, TimeoutError)):
                await node.connect((f"{ip}%{zone}", port), timeout=0.2)


@pytest.mark.parametrize("zone", ["1", NAME, "2", "0"])
async def test_an_address_that_needs_no_zone_is_one_peer_with_any(zone: str) -> None:
    dialler, responder = User(), Echo(Config(listener_addr=("::1", 0)))
    async with two_nodes(dialler, responder) as (ours, _):
        assert ours.addr[0] == "::1"
        with pytest.raises(AlreadyConnectedError):
            await dialler.node.connect((f"::1%{zone}", ours.addr[1]))
        assert dialler.node.connections[f"::1%{zone}", ours.addr[1]] is ours
        with pytest.raises(SelfConnectionError):
            await responder.node.connect((f"::1%{zone}", ours.addr[1]))


async def test_a_listener_at_an_address_with_a_zone_it_does_not_need() -> None:
    async with User(Config(listener_addr=(f"::1%{NAME}", 0))).node as node:
        assert (await node.start_listening())[0] == "::1"


@pytest.mark.parametrize("family", [4, 2])  # AnyIO makes two parts of the system's four
async def test_a_name_of_a_link_local_address_keeps_its_zone(family: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [("fe80::b", 4140, 0, INDEX), ("fe80::b", 4140, 0, INDEX), ("2001:db8::b", 4140, 0, INDEX)]

    async def getaddrinfo(host: str, port: int, **_: object) -> list[Any]:
        assert (host, port) == ("box.local", 4140)
        names = [name if family == 4 else (f"{name[0]}%{name[3]}", name[1]) for name in found]
        return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", name) for name in names]

    monkeypatch.setattr(transport, "getaddrinfo", getaddrinfo)
    assert await TCPTransport().resolve(("box.local", 4140)) == [(f"fe80::b%{NAME}", 4140), ("2001:db8::b", 4140)]


HOSTS = [
    "::1%a..b", "::1%no-such", "fe80::1%no-such", "fe80::1%" + "x" * 200, "fe80::1%\0", "::1%\ud800", "::1%", "%", "%%",
    "::1%2147483648", "fe80::1", "\ud800", "a\0b", "\0", "a" * 64, "ü..ü", "127.0.0.1 ", "[::1]", "::ffff:127.0.0.1%no",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS, ids=ascii)
async def test_whatever_is_no_host_is_an_os_error(host: str) -> None:
    async with Node(Config(connection_timeout=1)) as node:
        with pytest.raises(OSError, match=r".") as caught:
            await node.connect((host, 9))
        assert len(str(caught.value)) < 500
        assert str(caught.value).isprintable()
        assert not node.connecting
    async with Node(Config(listener_addr=(host, 0))) as node:
        with pytest.raises(OSError, match=r"."):
            await node.start_listening()


@pytest.mark.parametrize("host", ["x" * 256, "fe80::1%" + "x" * 10**6, "\ud800" * 1000])
async def test_a_host_that_is_too_long_is_refused_at_the_call(host: str) -> None:
    async with Node() as node:
        with pytest.raises(ValueError, match=r"at most 255") as caught:
            await node.connect((host, 9))
        assert len(str(caught.value)) < 500
        assert str(caught.value).isprintable()
        assert not await node.disconnect((host, 9))


# The unspecified address

ZEROS = ["0.0.0.0", "0", "::", "::ffff:0.0.0.0", "0x0", "0.0"]  # noqa: S104  # they are dialled


@pytest.mark.parametrize(("listen", "dials"), [(LOCALHOST, ZEROS[:2] + ZEROS[3:]), ("::1", ["::", "0::0"])])
async def test_the_unspecified_address_of_an_own_listener_is_oneself(listen: str, dials: list[str]) -> None:
    user = User(Config(listener_addr=(listen, 0)))
    async with user.node as node:
        port = (await node.start_listening())[1]
        for host in dials:
            with pytest.raises(SelfConnectionError):
                await node.connect((host, port))
        assert not node.connections
        assert not node.connecting
    assert not user.connected


@reuse_port
@pytest.mark.parametrize("listen", ["0.0.0.0", "::"])  # noqa: S104  # that is what is tested
@pytest.mark.parametrize("host", [*ZEROS, LOCALHOST, "127.1", "::1", "127.0.0.2"])
async def test_dial_through_a_shared_wildcard(listen: str, host: str) -> None:
    """A dial that comes back through a shared wildcard is dropped."""
    user = User(Config(listener_addr=(listen, 0), reuse_listener_port=True))
    async with user.node as node:
        port = (await node.start_listening())[1]
        with suppress(SelfConnectionError, OSError):  # OSError: IPv6 where only IPv4 listens
            connection = await node.connect((host, port))
            await connection.wait_closed()
            assert isinstance(connection.cause, SelfConnectionError)
        await wait_until(lambda: not node.connections and not node.connecting)


@pytest.mark.parametrize("host", ["0.0.0.0", "0", "127.1", "0x7f.1", "2130706433", "::ffff:127.0.0.1"])  # noqa: S104
async def test_all_ways_to_write_loopback_are_one_peer(host: str) -> None:
    dialler, responder = User(), Echo()
    async with two_nodes(dialler, responder) as (ours, _):
        assert ours.addr[0] == LOCALHOST
        with pytest.raises(AlreadyConnectedError):
            await dialler.node.connect((host, ours.addr[1]))
        assert list(dialler.node.connections) == [ours.addr]


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104  # that is what is tested
async def test_a_listener_keeps_the_unspecified_address(host: str) -> None:
    listener = await TCPTransport().listen((host, 0), backlog=1, reuse_port=False)
    assert listener.addr[0] == host
    assert await TCPTransport().resolve((host, 80)) == [("127.0.0.1" if host == "0.0.0.0" else "::1", 80)]  # noqa: S104
    await listener.aclose()


def test_a_transport_says_which_addresses_are_its_hosts() -> None:
    assert TCPTransport().is_local(LOCALHOST)
    assert not TCPTransport().is_local("203.0.113.1")


# Where a dial comes from


@linux_only
@pytest.mark.parametrize("port", [0, 1])
async def test_a_dial_comes_from_where_it_is_told(port: int) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.2", 0))
        free = sock.getsockname()[1] if port else 0
    with RawListener.open() as listener:
        stream = await TCPTransport().dial(listener.addr, local_addr=("127.0.0.2", free))
        with await listener.accept() as peer:
            host, found = peer.sock.getpeername()
            assert host == "127.0.0.2"
            assert found == free or not free
            await stream.aclose()


@linux_only
async def test_a_nodes_dial_comes_from_where_it_is_told() -> None:
    dialler, responder = User(), Echo()
    async with responder.node, dialler.node as node:
        addr = await responder.node.start_listening()
        connection = await node.connect(addr, local_addr=("127.0.0.2", 0))
        await wait_until(lambda: responder.node.connections)
        assert responder.only.addr[0] == "127.0.0.2"
        assert names_of(connection) == (responder.only.addr, addr)


@reuse_port
async def test_a_dial_may_come_from_the_port_of_a_shared_listener() -> None:
    """As it must to open a way through a peer's firewall."""
    dialler, responder = User(Config(reuse_listener_port=True)), Echo()
    async with responder.node, dialler.node as node:
        addr = await responder.node.start_listening()
        mine = await node.start_listening()
        for _ in range(3):
            connection = await node.connect(addr, local_addr=mine)
            await wait_until(lambda: mine in responder.node.connections)
            await node.disconnect(connection)
            await wait_until(lambda: not responder.node.connections)


@pytest.mark.parametrize(
    ("to", "local", "why"),
    [
        ((LOCALHOST, 9), ("::1", 0), errno.EAFNOSUPPORT),
        (("::1", 9), (LOCALHOST, 0), errno.EAFNOSUPPORT),
        ((LOCALHOST, 9), ("203.0.113.1", 0), errno.EADDRNOTAVAIL),
        ((LOCALHOST, 9), ("a.name.example", 0), socket.EAI_NONAME),
        ((LOCALHOST, 9), ("::1%a..b", 0), socket.EAI_NONAME),
    ],
)
async def test_a_dial_from_where_it_cannot_come_is_an_os_error(to: Address, local: Address, why: int) -> None:
    with pytest.raises(OSError, match=re.escape(local[0])) as caught:
        await TCPTransport().dial(to, local_addr=local)
    assert caught.value.errno == why


async def test_a_port_that_is_taken_cannot_be_dialled_from() -> None:
    with RawListener.open() as listener, pytest.raises(OSError, match=r"cannot dial from 127\.0\.0\.1:") as caught:
        await TCPTransport().dial(listener.addr, local_addr=listener.addr)
    assert caught.value.errno in {errno.EADDRINUSE, errno.EADDRNOTAVAIL}


# What is told


@pytest.mark.parametrize(("host", "shown"), [(LOCALHOST, LOCALHOST), ("::1", "[::1]")])
async def test_errors_are_told_in_words(host: str, shown: str) -> None:
    with RawListener.open(host) as listener:
        addr = listener.addr
        where = re.escape(f"{shown}:{addr[1]}")
        with pytest.raises(OSError, match=rf"cannot listen at {where}: Address already in use") as caught:
            await TCPTransport().listen(addr, backlog=1, reuse_port=False)
        assert caught.value.errno == errno.EADDRINUSE
    with pytest.raises(ConnectionRefusedError, match=rf"connecting to {where} failed: Connection refused"):
        await TCPTransport().dial(addr)
    again = await TCPTransport().listen(addr, backlog=1, reuse_port=False)
    assert repr(again) == f"<TCPListener at {shown}:{addr[1]}>"
    await again.aclose()


# Names of sockets


async def test_the_names_of_a_stream_are_those_of_its_socket() -> None:
    with wrapped() as (stream, peer):
        assert names_of(stream) == (peer.sock.getpeername(), peer.addr)
        stream.close()
        assert names_of(stream) is None


async def test_streams_without_addresses_have_no_names() -> None:
    ours, theirs = memory_pair()
    assert names_of(ours) is names_of(theirs) is None
    if hasattr(socket, "AF_UNIX"):
        with wrapped("Unix") as (stream, _):
            assert names_of(stream) is None


async def test_the_names_of_mapped_addresses_are_plain() -> None:
    listener = await TCPTransport().listen(("::", 0), backlog=1, reuse_port=False)
    stream = await TCPTransport().dial((LOCALHOST, listener.addr[1]))
    accepted, addr = await listener.accept()
    assert names_of(accepted) == ((LOCALHOST, listener.addr[1]), addr)
    names = names_of(stream)
    assert names is not None
    assert names[::-1] == names_of(accepted)
    for each in stream, accepted, listener:
        await each.aclose()
