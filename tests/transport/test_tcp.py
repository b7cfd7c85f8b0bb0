"""TCP: dialling by name and by address, and the stream itself."""

from __future__ import annotations

import errno
import socket
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import SocketAttribute

from pea2pea import Address, AlreadyConnectedError, Config, NodeClosedError, TCPTransport
from pea2pea.transport import TCPListener

from ..helpers import LOCALHOST, Echo, MemoryNetwork, RawListener, RawPeer, User, connect, two_nodes, wait_until
from .streams import FAMILIES, wrapped

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from anyio.abc import ByteStream


@contextmanager
def deaf_listener() -> Generator[Address]:
    """An address whose accept queue is full: dials to it get no answer."""
    with RawListener.open(backlog=0) as listener, ExitStack() as stack:
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.addr)
        yield listener.addr


class Names(TCPTransport):
    """Resolves `some.name` to what it is told."""

    def __init__(self, *found: Address) -> None:
        self.found = found
        self.dialled: list[Address] = []

    async def resolve(self, addr: Address) -> Sequence[Address]:
        return self.found if addr[0] == "some.name" else await super().resolve(addr)

    async def dial(self, addr: Address, /, *, local_addr: Address | None = None) -> ByteStream:
        self.dialled.append(addr)
        return await super().dial(addr, local_addr=local_addr)


# Dialling


async def test_a_port_where_nobody_listens_refuses() -> None:
    with RawListener.open() as listener:
        nobody = listener.addr
    async with User().node as node:
        with pytest.raises(ConnectionRefusedError) as caught:
            await node.connect(nobody)
        assert caught.value.errno == errno.ECONNREFUSED


@pytest.mark.skipif(sys.platform != "linux", reason="other systems answer when the accept queue is full")
async def test_a_dial_that_gets_no_answer_times_out() -> None:
    with deaf_listener() as addr:
        async with User(Config(connection_timeout=0.05)).node as node:
            with pytest.raises(TimeoutError, match=rf"127.0.0.1:{addr[1]} did not answer within 0.05 s"):
                await node.connect(addr)
            assert not node.connecting


@pytest.mark.skipif(sys.platform != "linux", reason="other systems answer when the accept queue is full")
async def test_a_dial_that_gets_no_answer_can_be_cancelled() -> None:
    with deaf_listener() as addr:
        async with User(Config(connection_timeout=100)).node as node, anyio.create_task_group() as tasks:
            tasks.start_soon(node.connect, addr)
            await wait_until(lambda: addr in node.connecting)
            tasks.cancel_scope.cancel()
        assert not node.connecting


@pytest.mark.parametrize("host", ["x" * 64, "two..dots", "-", "ü..ü", "nul\0"])
async def test_a_name_that_stands_for_nothing_is_an_os_error(host: str) -> None:
    async with User().node as node:
        with pytest.raises(socket.gaierror):
            await node.connect((host, 80))
        assert not node.connecting


async def test_a_host_may_be_a_name() -> None:
    dialler, responder = User(), User()
    async with dialler.node as node, responder.node:
        addr = await responder.node.start_listening()
        connection = await node.connect(("localhost", addr[1]))
        assert connection.addr == addr
        assert connection.dialled == ("localhost", addr[1])
        assert dict(node.connections) == {addr: connection}
        for again in ("localhost", addr[1]), addr:
            with pytest.raises(AlreadyConnectedError):
                await node.connect(again)


async def test_the_addresses_of_a_name_are_tried_in_order() -> None:
    with RawListener.open() as one, RawListener.open() as other:
        nobody = one.addr
        one.sock.close()
        transport = Names(nobody, other.addr)
        async with User(transport=transport).node as node:
            connection = await node.connect(("some.name", 80))
            assert connection.addr == other.addr
            assert connection.dialled == ("some.name", 80)
            assert transport.dialled == [nobody, other.addr]
            assert not node.connecting


async def test_last_error_of_a_name() -> None:
    """When no address of a name answers the last error is raised."""
    with RawListener.open() as one, RawListener.open() as other:
        transport = Names(one.addr, other.addr)
    async with User(Config(max_connections=1), transport=transport).node as node:
        with pytest.raises(ConnectionRefusedError, match=str(other.addr[1])):
            await node.connect(("some.name", 80))
        assert not node.connecting


async def test_a_name_without_addresses_is_an_os_error() -> None:
    async with User(transport=Names()).node as node:
        with pytest.raises(OSError, match=r"some\.name"):
            await node.connect(("some.name", 80))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems answer when the accept queue is full")
async def test_each_address_of_a_name_has_the_timeout_for_itself() -> None:
    with deaf_listener() as deaf, RawListener.open() as listener:
        async with User(Config(connection_timeout=0.05), transport=Names(deaf, listener.addr)).node as node:
            connection = await node.connect(("some.name", 80))
            assert connection.addr == listener.addr


class Slow(Names):
    """Takes its time to look a name up."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = anyio.Event()

    async def resolve(self, addr: Address) -> Sequence[Address]:
        await self.go_on.wait()
        return [addr]


async def test_looking_a_name_up_can_be_cancelled() -> None:
    async with User(transport=Slow()).node as node:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(node.connect, (LOCALHOST, 80))
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        assert not node.connecting


async def test_a_shutdown_ends_a_look_up() -> None:
    async with User(transport=Slow()).node as node, anyio.create_task_group() as tasks:

        async def dial() -> None:
            with pytest.raises(NodeClosedError):
                await node.connect((LOCALHOST, 80))

        tasks.start_soon(dial)
        await anyio.wait_all_tasks_blocked()
        await node.shut_down()


async def test_ipv6_works_both_ways() -> None:
    dialler, responder = User(), Echo(Config(listener_addr=("::1", 0)))
    async with two_nodes(dialler, responder) as (ours, theirs):
        assert ours.addr[0] == theirs.addr[0] == "::1"
        assert ours.extra(SocketAttribute.family) is socket.AF_INET6
        assert ours.extra(SocketAttribute.remote_address) == ours.addr
        await dialler.outbox.send(ours, b"hello")
        await wait_until(lambda: dialler.received == [b"hello"])


async def test_a_dual_stack_listener_is_reached_both_ways() -> None:
    responder, four, six = Echo(Config(listener_addr=("::", 0))), User(), User()
    async with responder.node, four.node, six.node:
        port = (await responder.node.start_listening())[1]
        for user, host in (four, LOCALHOST), (six, "::1"):
            connection = await user.node.connect((host, port))
            await user.outbox.send(connection, b"hello")
        await wait_until(lambda: four.received == six.received == [b"hello"])
        assert {addr[0] for addr in responder.node.connections} == {LOCALHOST, "::1"}


async def test_tcp_self_connect_without_listener() -> None:
    """A port that dials its own number is connected with itself by TCP (RFC 9293, section 3.5)."""
    transport = SamePort()
    async with User(transport=transport).node as node:
        with socket.socket() as sock:
            sock.bind((LOCALHOST, 0))
            addr = sock.getsockname()
        with pytest.raises(ConnectionRefusedError):
            await node.connect(addr)
        assert transport.attempts == 1


class SamePort(TCPTransport):
    """Dials from the port it dials to."""

    attempts = 0

    async def dial(self, addr: Address, /, *, local_addr: Address | None = None) -> ByteStream:
        self.attempts += 1
        real = socket.socket.connect_ex

        def connect_ex(sock: socket.socket, to: Address) -> int:
            sock.bind(to)
            return real(sock, to)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket.socket, "connect_ex", connect_ex)
            return await super().dial(addr, local_addr=local_addr)


async def test_any_transport_will_do() -> None:
    network = MemoryNetwork()
    dialler = User(transport=network.host("203.0.113.1"))
    responder = Echo(transport=network.host("203.0.113.2"))
    async with two_nodes(dialler, responder) as (ours, theirs):
        assert ours.addr[0] == "203.0.113.2"
        assert theirs.addr[0] == "203.0.113.1"
        assert ours.extra(SocketAttribute.raw_socket, None) is None
        for number in range(100):
            await dialler.outbox.send(ours, b"%d" % number * 1000)
        await wait_until(lambda: len(dialler.received) == 100)
        assert dialler.received == [b"%d" % number * 1000 for number in range(100)]
    assert network.open_streams == 0


async def test_what_a_transport_raises_at_a_dial_comes_out_of_connect() -> None:
    class Broken(TCPTransport):
        async def dial(self, addr: Address, /, *, local_addr: Address | None = None) -> ByteStream:
            raise ZeroDivisionError("a bug")

    async with User(Config(max_connections=1), transport=Broken()).node as node:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError, match="a bug"):
                await node.connect((LOCALHOST, 80))
            assert not node.connecting


# The stream


@pytest.mark.parametrize("family", FAMILIES)
async def test_bytes_go_both_ways(family: str) -> None:
    with wrapped(family) as (stream, peer):
        await stream.send(b"there")
        assert await peer.receive() == b"there"
        await peer.send(b"and back")
        assert await stream.receive() == b"and back"
        await peer.send(b"in two pieces")
        assert await stream.receive(6) == b"in two"
        assert await stream.receive() == b" pieces"


@pytest.mark.parametrize("family", FAMILIES)
async def test_each_direction_ends_by_itself(family: str) -> None:
    with wrapped(family) as (stream, peer):
        await stream.send(b"last words")
        await stream.send_eof()
        assert await peer.receive_all() == b"last words"
        await peer.send(b"an answer")
        assert await stream.receive() == b"an answer"
        peer.half_close()
        for _ in range(2):
            with pytest.raises(EndOfStream):
                await stream.receive()


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_closed_stream_says_that_it_is_closed(family: str) -> None:
    with wrapped(family) as (stream, _):
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(ClosedResourceError):
            await stream.receive()
        with pytest.raises(ClosedResourceError):
            await stream.send(b"too late")
        with pytest.raises(ClosedResourceError):
            await stream.send_eof()
        assert "closed" in repr(stream)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("doing", ["receive", "send"])
async def test_closing_wakes_who_waits(family: str, doing: str) -> None:
    woken = []
    with wrapped(family, buffer=4096) as (stream, _):

        async def wait() -> None:
            with pytest.raises(ClosedResourceError):
                await (stream.receive() if doing == "receive" else stream.send(bytes(10_000_000)))
            woken.append(doing)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await stream.aclose()
    assert woken == [doing]


async def test_a_reset_is_a_broken_stream() -> None:
    with wrapped() as (stream, peer):
        peer.reset()
        with pytest.raises(BrokenResourceError) as caught:
            await stream.receive()
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        with pytest.raises(BrokenResourceError):
            await stream.send(b"is there anybody?")


async def test_sending_waits_for_room_and_loses_nothing() -> None:
    data = bytes(range(256)) * 20_000
    with wrapped(buffer=4096) as (stream, peer):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, data)
            await anyio.wait_all_tasks_blocked()
            assert await peer.receive_exactly(len(data)) == data


async def test_a_cancelled_receive_loses_nothing() -> None:
    with wrapped() as (stream, peer):
        for _ in range(10):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(stream.receive)
                    await anyio.lowlevel.checkpoint()
                    await anyio.lowlevel.checkpoint()
                    scope.cancel()
        await peer.send(b"hello")
        assert await stream.receive() == b"hello"


async def test_receiving_and_sending_nothing_much_are_checkpoints() -> None:
    """So that a busy peer cannot starve the event loop."""
    with wrapped() as (stream, peer):
        await peer.send(b"hello")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stream.receive()
        assert scope.cancelled_caught
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stream.send(b"hello")
        assert scope.cancelled_caught
        assert await stream.receive() == b"hello"
        await stream.send(b"")
        await stream.send_eof()
        assert await peer.receive_all() == b""


async def test_nothing_is_read_before_somebody_asks() -> None:
    """The kernel's buffers alone hold what comes: a peer that sends is stopped by TCP."""
    data = bytes(range(256)) * 16_384
    with wrapped() as (stream, peer):
        stream.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        sent = received = 0
        async with anyio.create_task_group() as tasks:

            async def send() -> None:
                nonlocal sent
                while sent < len(data):
                    await anyio.wait_writable(peer.sock)
                    sent += peer.sock.send(data[sent : sent + 65_536])
                peer.half_close()

            tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            assert sent < len(data) / 4
            async for some in stream:
                assert some == data[received : received + len(some)]
                received += len(some)
        assert received == sent


async def test_socket_attributes_of_a_stream() -> None:
    with wrapped() as (stream, peer):
        assert stream.extra(SocketAttribute.family) is socket.AF_INET
        assert stream.extra(SocketAttribute.local_address) == peer.sock.getpeername()
        assert stream.extra(SocketAttribute.remote_address) == peer.addr
        assert stream.extra(SocketAttribute.local_port) == peer.sock.getpeername()[1]
        assert stream.extra(SocketAttribute.remote_port) == peer.addr[1]
        raw = stream.extra(SocketAttribute.raw_socket)
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert not raw.getblocking()
        assert str(peer.addr[1]) in repr(stream)


@pytest.mark.skipif(len(FAMILIES) < 2, reason="needs Unix sockets")
async def test_a_unix_socket_has_no_ports() -> None:
    with wrapped("Unix") as (stream, _):
        assert stream.extra(SocketAttribute.family) is socket.AF_UNIX
        assert stream.extra(SocketAttribute.local_port, None) is None
        assert stream.extra(SocketAttribute.remote_port, None) is None
        assert stream.extra(SocketAttribute.local_address) == ""
        assert stream.extra(SocketAttribute.remote_address) == ""


def test_the_transport_tells_what_it_is() -> None:
    assert repr(TCPTransport()) == "TCPTransport()"


async def test_a_listener_tells_where_it_listens() -> None:
    listener = await TCPTransport().listen((LOCALHOST, 0), backlog=1, reuse_port=False)
    where = f"{LOCALHOST}:{listener.addr[1]}"
    assert repr(listener) == f"<TCPListener at {where}>"
    await listener.aclose()
    assert repr(listener) == f"<TCPListener at {where}, closed>"


@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM])
async def test_end_before_accept(code: int) -> None:
    """Linux hands such connections out and lets the first read fail; other systems say so at once (accept(2))."""

    class Aborting:
        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock
            self.aborted = 0

        def accept(self) -> object:
            if self.aborted < 3:
                self.aborted += 1
                raise OSError(code, "aborted")
            return self.sock.accept()

        def fileno(self) -> int:
            return self.sock.fileno()

        def shutdown(self, how: int) -> None:
            self.sock.shutdown(how)

        def close(self) -> None:
            self.sock.close()

    listener = await TCPTransport().listen((LOCALHOST, 0), backlog=1, reuse_port=False)
    assert isinstance(listener, TCPListener)
    aborting = Aborting(listener._sock)
    listener._sock = aborting  # type: ignore[assignment]  # a stand-in
    with await RawPeer.dial(listener.addr) as peer:
        stream, addr = await listener.accept()
        assert addr == peer.addr
        assert aborting.aborted == 3
        await stream.aclose()
    await listener.aclose()


def test_only_a_connected_stream_socket_can_be_wrapped() -> None:
    with socket.socket() as sock, pytest.raises(OSError, match=r"."):
        TCPTransport.wrap(sock)
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(ValueError, match="stream socket"):
        TCPTransport.wrap(sock)


async def test_a_refused_socket_is_still_the_callers() -> None:
    with socket.socket() as sock:
        with pytest.raises(OSError, match=r"."):
            TCPTransport.wrap(sock)
        assert sock.fileno() >= 0
        assert sock.getblocking()


async def test_dialling_leaves_no_socket_wherever_it_is_cancelled() -> None:
    """`nothing_left_open` sees to the sockets."""
    responder, dialler = User(), User()
    async with responder.node, dialler.node:
        await connect(dialler, responder)
        await dialler.node.disconnect(dialler.only)
        addr = responder.node.listening_addr
        assert addr is not None
        for after in range(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(dialler.node.connect, addr)
                for _ in range(after):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            assert not dialler.node.connecting
            await dialler.node.disconnect(addr, abort=True)
        await wait_until(lambda: not responder.node.connections and not responder.node.connecting)
