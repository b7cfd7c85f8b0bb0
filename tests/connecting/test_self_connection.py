"""A node does not connect to itself, whatever address it is told to dial."""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import pytest

from pea2pea import Address, Config, Connection, DisconnectOrigin, Node, SelfConnectionError, Side, TCPTransport

from ..helpers import ALL, LOCALHOST, Echo, MemoryNetwork, RawPeer, User, connect, frame, two_nodes, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import ByteStream

    from pea2pea import Listener

# Linux owns all of 127.0.0.0/8; elsewhere the others have to be configured
OTHER = "127.0.0.2"
needs_another_address = pytest.mark.skipif(sys.platform != "linux", reason=f"needs {OTHER}")


async def refuses(user: User, addr: Address) -> None:
    with pytest.raises(SelfConnectionError, match=str(addr[1])):
        await user.node.connect(addr)
    assert not user.node.connecting
    assert not user.node.connections


async def test_its_own_address_is_refused_at_the_dial() -> None:
    user = User()
    async with user.node as node:
        await refuses(user, await node.start_listening())
    assert not user.connected
    assert node.heuristics.inbound_rejections == 0


async def test_its_own_address_is_refused_in_any_form_of_it() -> None:
    user = User()
    async with user.node as node:
        await refuses(user, ("::ffff:127.0.0.1", (await node.start_listening())[1]))


@pytest.mark.parametrize("name", ["localhost"])
async def test_a_name_of_its_own_address_is_refused(name: str) -> None:
    user = User(Config(listener_addr=(name, 0)))
    async with user.node as node:
        await refuses(user, (name, (await node.start_listening())[1]))


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104  # that is what is tested
async def test_loopback_of_a_wildcard_listener_is_refused(host: str) -> None:
    user = User(Config(listener_addr=(host, 0)))
    async with user.node as node:
        await refuses(user, (LOCALHOST, (await node.start_listening())[1]))


async def test_ipv6_loopback_of_a_wildcard_listener_is_refused() -> None:
    user = User(Config(listener_addr=("::", 0)))
    async with user.node as node:
        await refuses(user, ("::1", (await node.start_listening())[1]))


@pytest.mark.parametrize("dialled", ["itself", pytest.param("another", marks=needs_another_address)])
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104  # that is what is tested
async def test_the_wildcard_itself_is_refused(host: str, dialled: str) -> None:
    """Dialling it means dialling loopback, on systems that allow it; another address of the host is refused, too."""
    user = User(Config(listener_addr=(host, 0)))
    async with user.node as node:
        await refuses(user, (host if dialled == "itself" else OTHER, (await node.start_listening())[1]))


@needs_another_address
async def test_other_node_at_the_same_port() -> None:
    """Another node at the same port of another address is no self."""
    user = User()
    async with user.node as node:
        port = (await node.start_listening())[1]
        responder = Echo(Config(listener_addr=(OTHER, port)))
        async with responder.node:
            ours, _ = await connect(user, responder)
            assert ours.addr == (OTHER, port)
            await user.outbox.send(ours, b"hello")
            await wait_until(lambda: user.received == [b"hello"])


async def test_another_port_of_its_own_address_is_no_self() -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder):
        await dialler.node.start_listening()
        assert len(dialler.node.connections) == 1


async def test_a_node_that_does_not_listen_any_more_is_refused_by_nobody() -> None:
    """Its old port may be somebody else's."""
    user = User()
    async with user.node as node:
        addr = await node.start_listening()
        await node.stop_listening()
        responder = User(Config(listener_addr=addr))
        async with responder.node:
            await connect(user, responder)


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")
async def test_a_dial_to_a_shared_port_may_reach_another_node() -> None:
    """Whom the kernel picks is not known before: by the names of the socket it is recognised whom it was."""
    user = User(Config(reuse_listener_port=True))
    async with user.node as node:
        addr = await node.start_listening()
        other = User(Config(reuse_listener_port=True, listener_addr=addr))
        async with other.node:
            await other.node.start_listening()
            reached = dropped = 0
            while not (reached and dropped):
                with suppress(SelfConnectionError):
                    await node.connect(addr)
                await wait_until(lambda: other.node.connections or not node.connections)
                reached += bool(other.node.connections)
                dropped += not other.node.connections
                await node.disconnect(addr)
                await wait_until(lambda: not other.node.connections)


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")
async def test_a_dial_that_loops_back_is_dropped_at_both_ends() -> None:
    """`connect` says so, unless it has returned before the connection was accepted."""
    user = User(Config(reuse_listener_port=True))
    async with user.node as node:
        addr = await node.start_listening()
        for _ in range(20):
            with suppress(SelfConnectionError):
                connection = await node.connect(addr)
                await wait_until(lambda: not node.connections)
                assert isinstance(connection.cause, SelfConnectionError)
            await wait_until(lambda: not node.connections and not node.connecting)
        with await RawPeer.dial(addr) as peer:  # somebody else still gets in
            await wait_until(lambda: peer.addr in node.connections)
    assert len(user.connected) <= len(user.ended)
    assert set(user.origins) <= {DisconnectOrigin.READING, DisconnectOrigin.SHUTDOWN}


class LateListener:
    """A listener that accepts nobody before it is told to."""

    def __init__(self, inner: Listener, go_on: anyio.Event) -> None:
        self.inner = inner
        self.go_on = go_on
        self.addr = inner.addr

    async def accept(self) -> tuple[ByteStream, Address]:
        await self.go_on.wait()
        return await self.inner.accept()

    async def aclose(self) -> None:
        await self.inner.aclose()


class LateTransport(TCPTransport):
    def __init__(self) -> None:
        self.go_on = anyio.Event()

    async def listen(self, addr: Address, /, *, backlog: int, reuse_port: bool) -> Listener:
        return LateListener(await super().listen(addr, backlog=backlog, reuse_port=reuse_port), self.go_on)


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")
@pytest.mark.parametrize("shaking", [False, True])
async def test_a_loop_whose_other_end_is_accepted_late(shaking: bool) -> None:
    """The dialled end is established, or shakes hands, by then: it is dropped, and so is the other end."""
    transport = LateTransport()
    user = User(Config(reuse_listener_port=True), enable=ALL if shaking else ALL - {"handshake"}, transport=transport)
    established: list[Connection] = []

    async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
        transport.go_on.set()
        await anyio.sleep_forever()
        return stream

    async def dial(addr: Address) -> None:
        with suppress(SelfConnectionError):
            established.append(await user.node.connect(addr))
            transport.go_on.set()

    user.shake_hands = shake_hands
    async with user.node as node:
        await dial(await node.start_listening())
        await wait_until(lambda: node.heuristics.inbound_rejections == 1)
        await wait_until(lambda: not node.connections and not node.connecting)
        assert len(established) == (not shaking)
        assert [type(connection.cause) for connection in established] == [SelfConnectionError] * (not shaking)
        assert len(user.ended) == (not shaking)


async def test_a_handshake_cannot_hide_a_loop() -> None:
    """The node does not wait for what the handshake says, on either end."""
    user = User(Config(reuse_listener_port=True), enable={"handshake", "on_disconnect"})

    async def shake_hands(_: object, stream: ByteStream) -> ByteStream:
        await stream.send(b"?")
        await stream.receive()
        return stream

    user.shake_hands = shake_hands
    async with user.node as node:
        addr = await node.start_listening()
        for _ in range(10):
            with pytest.raises(SelfConnectionError):
                await node.connect(addr)
            await wait_until(lambda: not node.connecting and not node.connections)


async def test_streams_without_socket_names_are_nobodys_loop() -> None:
    network = MemoryNetwork()
    one, other = Echo(transport=network.host("203.0.113.1")), User(transport=network.host("203.0.113.2"))
    async with two_nodes(other, one) as (ours, _):
        await other.outbox.send(ours, b"hello")
        await wait_until(lambda: other.received == [b"hello"])


async def test_another_host_at_the_port_where_it_listens_is_no_self() -> None:
    network = MemoryNetwork()
    one, other = (
        User(Config(listener_addr=("0.0.0.0", 4000)), transport=network.host(f"203.0.113.{number}"))  # noqa: S104
        for number in (1, 2)
    )
    async with one.node, other.node:
        await one.node.start_listening()
        await connect(one, other)


async def test_foreign_address_at_a_wildcards_port() -> None:
    """A foreign address at the port of a wildcard listener is no self."""

    class Refusing(TCPTransport):
        async def dial(self, addr: Address, /, *, local_addr: Address | None = None) -> ByteStream:
            raise ConnectionRefusedError(f"as if from {addr[0]}")

    async with User(Config(listener_addr=("0.0.0.0", 0)), transport=Refusing()).node as node:  # noqa: S104
        port = (await node.start_listening())[1]
        for host in "192.0.2.200", "2001:db8::1":
            with pytest.raises(ConnectionRefusedError, match=f"as if from {host}"):
                await node.connect((host, port))


class Names(TCPTransport):
    """Resolves one name to several addresses."""

    def __init__(self, *found: Address) -> None:
        self.found = found

    async def resolve(self, addr: Address) -> Sequence[Address]:
        return self.found if addr[0] == "some.name" else await super().resolve(addr)


async def test_a_name_whose_first_address_is_its_own_is_refused() -> None:
    transport = Names()
    user = User(transport=transport)
    async with user.node as node:
        addr = await node.start_listening()
        transport.found = (addr,)
        with pytest.raises(SelfConnectionError):
            await node.connect(("some.name", addr[1]))
        with await RawPeer.dial(addr) as peer:
            await peer.send(frame(b"hello"))
            await wait_until(lambda: user.received == [b"hello"])


async def test_stop_listening_during_a_self_dial() -> None:
    """A node that stops listening while it dials itself stays usable."""
    user = User(Config(reuse_listener_port=True))
    async with user.node as node:
        addr = await node.start_listening()
        for after in range(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(dial, node, addr)
                for _ in range(after):
                    await anyio.lowlevel.checkpoint()
                await node.stop_listening()
            for other in list(node.connections.values()):
                await node.disconnect(other, abort=True)
            await wait_until(lambda: not node.connecting and not node.connections)
            addr = await node.start_listening()


async def dial(node: Node, addr: Address) -> None:
    with suppress(OSError, SelfConnectionError):
        await node.connect(addr)


@pytest.mark.parametrize("known_as", ["its address", "a name"])
async def test_an_adopted_stream_that_leads_back_is_refused(known_as: str) -> None:
    user = User()
    async with user.node as node:
        addr = await node.start_listening()
        stream = await TCPTransport().dial(addr)
        known = addr if known_as == "its address" else ("a name", 1)
        with pytest.raises(SelfConnectionError):
            await node.adopt(stream, known, Side.INITIATOR)
        await wait_until(lambda: not node.connections and not node.connecting)


def addresses_of_this_host() -> list[str]:
    """Loopback and, on Linux, one more of its addresses; the others are up to the machine."""
    found = [LOCALHOST, "::1", *([OTHER] if sys.platform == "linux" else [])]
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.255", 9))  # it sends nothing
        found.append(probe.getsockname()[0])
    return found


HERE = addresses_of_this_host()
WRITTEN = ("0.0.0.0", "0", "::", "::ffff:0.0.0.0", "127.1", "2130706433", "::ffff:127.0.0.1", "localhost")  # noqa: S104


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("listen", ["0.0.0.0", "::", *HERE])  # noqa: S104  # that is what is tested
async def test_no_way_to_write_its_own_address_leads_to_itself(listen: str, reuse: bool) -> None:  # parameters
    user = User(Config(listener_addr=(listen, 0), reuse_listener_port=reuse))
    refused = 0
    async with user.node as node:
        addr = await node.start_listening()
        for host in (*WRITTEN, *HERE):
            (found,) = {each[0] for each in (await TCPTransport().resolve((host, addr[1])))[:1]}
            if listen not in ("::", found) and (listen != "0.0.0.0" or ":" in found):  # noqa: S104
                continue  # somebody else may listen there, at the same port
            try:
                await node.connect((host, addr[1]))
            except SelfConnectionError:
                refused += 1
            await wait_until(lambda: not node.connections and not node.connecting)
    assert refused or reuse
