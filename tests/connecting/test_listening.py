"""The listener: where it listens, when it does not, and what happens when it cannot accept."""

from __future__ import annotations

import errno
import logging
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

from pea2pea import Address, Config, Listener, NodeClosedError, TCPTransport

from ..helpers import LOCALHOST, Echo, Gate, RawPeer, User, connect, frame, two_nodes, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence


async def test_it_says_where_it_listens() -> None:
    async with User().node as node:
        assert node.listening_addr is None
        addr = await node.start_listening()
        assert addr == node.listening_addr
        assert addr[0] == LOCALHOST
        assert addr[1] != 0
        await node.stop_listening()
        assert node.listening_addr is None
    assert node.listening_addr is None


async def test_it_listens_at_the_port_it_is_given() -> None:
    with socket.socket() as sock:
        sock.bind((LOCALHOST, 0))
        free = sock.getsockname()
    async with User(Config(listener_addr=free)).node as node:
        assert await node.start_listening() == free


async def test_it_stops_and_starts_again() -> None:
    user = Echo()
    async with user.node as node:
        for _ in range(3):
            addr = await node.start_listening()
            with await RawPeer.dial(addr) as peer:
                await peer.send(frame(b"hello"))
                assert await peer.receive_message() == b"hello"
            await node.stop_listening()
            with pytest.raises(ConnectionRefusedError):
                await RawPeer.dial(addr)


async def test_listen_again_at_the_same_port() -> None:
    """It can listen at the same port again beside connections of before."""
    with socket.socket() as sock:
        sock.bind((LOCALHOST, 0))
        free = sock.getsockname()
    async with User(Config(listener_addr=free)).node as node:
        with await RawPeer.dial(await node.start_listening()):
            await wait_until(lambda: node.connections)
            await node.stop_listening()
            assert await node.start_listening() == free
            with await RawPeer.dial(free):
                await wait_until(lambda: len(node.connections) == 2)


async def test_stopping_leaves_established_connections_alone() -> None:
    dialler, responder = User(), Echo()
    async with two_nodes(dialler, responder) as (ours, _):
        await responder.node.stop_listening()
        await dialler.outbox.send(ours, b"still there?")
        await wait_until(lambda: dialler.received == [b"still there?"])


async def test_stopping_leaves_set_ups_in_progress_alone() -> None:
    user = User(enable={"handshake", "on_disconnect"})
    user.shake_hands = gate = Gate()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: peer.addr in node.connecting)
            await node.stop_listening()
            assert peer.addr in node.connecting
            gate.opened.set()
            await wait_until(lambda: peer.addr in node.connections)


async def test_stopping_when_it_does_not_listen_does_nothing() -> None:
    async with User().node as node:
        await node.stop_listening()
        await node.start_listening()
        await node.stop_listening()
        await node.stop_listening()
        assert node.listening_addr is None


async def test_listening_twice_is_refused() -> None:
    async with User().node as node:
        addr = await node.start_listening()
        with pytest.raises(RuntimeError, match="listening already"):
            await node.start_listening()
        assert node.listening_addr == addr


async def test_listening_twice_at_once_is_refused() -> None:
    user = User()
    refusals: list[RuntimeError] = []

    async def start() -> None:
        try:
            await user.node.start_listening()
        except RuntimeError as error:
            refusals.append(error)

    async with user.node:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(start)
        assert len(refusals) == 2
        assert user.node.listening_addr is not None


async def test_a_node_without_an_address_does_not_listen() -> None:
    async with User(Config(listener_addr=None)).node as node:
        with pytest.raises(RuntimeError, match="listener_addr is None"):
            await node.start_listening()


async def test_a_port_in_use_is_a_clear_error() -> None:
    async with User().node as first:
        addr = await first.start_listening()
        async with User(Config(listener_addr=addr)).node as second:
            with pytest.raises(OSError, match=f"cannot listen at 127.0.0.1:{addr[1]}") as caught:
                await second.start_listening()
            assert caught.value.errno == errno.EADDRINUSE
            assert second.listening_addr is None
            await first.stop_listening()
            assert await second.start_listening() == addr


async def test_an_address_of_somebody_else_is_a_clear_error() -> None:
    async with User(Config(listener_addr=("192.0.2.200", 0))).node as node:
        with pytest.raises(OSError, match=r"cannot listen at 192\.0\.2\.200:0") as caught:
            await node.start_listening()
        assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")
async def test_two_nodes_can_share_a_port_if_both_want_to() -> None:
    async with User(Config(reuse_listener_port=True)).node as first:
        addr = await first.start_listening()
        async with (
            User(Config(listener_addr=addr, reuse_listener_port=True)).node as second,
            User(Config(listener_addr=addr)).node as third,
        ):
            assert await second.start_listening() == addr
            with pytest.raises(OSError, match="cannot listen"):
                await third.start_listening()
            peers: list[RawPeer] = []
            try:
                # which of them is served by which node is the kernel's choice
                while not (first.connections and second.connections):
                    peers.append(await RawPeer.dial(addr))
                    await wait_until(lambda: len(first.connections) + len(second.connections) == len(peers))
            finally:
                for peer in peers:
                    peer.close()


async def test_the_backlog_is_the_kernels_to_keep() -> None:
    """Who is in the accept queue when listening stops is reset; who is established stays."""
    user = User(Config(listener_backlog=1))
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()):
            await wait_until(lambda: node.connections)
            await node.stop_listening()
            assert len(node.connections) == 1


@pytest.mark.parametrize("host", ["::1", "::"])
async def test_it_listens_with_ipv6(host: str) -> None:
    user = Echo(Config(listener_addr=(host, 0)))
    async with user.node as node:
        addr = await node.start_listening()
        assert addr[0] == host
        with await RawPeer.dial(("::1", addr[1])) as peer:
            await peer.send(frame(b"hello"))
            assert await peer.receive_message() == b"hello"
            assert list(node.connections) == [peer.addr]


async def test_dual_stack_listener() -> None:
    """A listener at all ipv6 addresses takes ipv4 peers by their ipv4 address."""
    user = Echo(Config(listener_addr=("::", 0)))
    async with user.node as node:
        port = (await node.start_listening())[1]
        with await RawPeer.dial((LOCALHOST, port)) as peer:
            await peer.send(frame(b"hello"))
            assert await peer.receive_message() == b"hello"
            assert list(node.connections) == [peer.addr]
            assert peer.addr[0] == LOCALHOST


async def test_a_listener_at_one_ipv6_address_takes_no_ipv4_peers() -> None:
    async with User(Config(listener_addr=("::1", 0))).node as node:
        port = (await node.start_listening())[1]
        with pytest.raises(ConnectionRefusedError):
            await RawPeer.dial((LOCALHOST, port))


async def test_it_listens_at_a_host_name() -> None:
    async with User(Config(listener_addr=("localhost", 0))).node as node:
        addr = await node.start_listening()
        assert addr[0] in (LOCALHOST, "::1")
        with await RawPeer.dial(addr):
            await wait_until(lambda: node.connections)


async def test_a_node_that_only_dials_needs_no_listener() -> None:
    dialler, responder = User(Config(listener_addr=None)), Echo()
    async with two_nodes(dialler, responder) as (ours, _):
        await dialler.outbox.send(ours, b"hello")
        await wait_until(lambda: dialler.received == [b"hello"])


async def test_peers_that_abort_before_they_are_accepted_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pea2pea")
    user = Echo(Config(max_connecting=1), enable={"handshake", "reading", "writing"})
    user.shake_hands = gate = Gate()
    async with user.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as first:
            await wait_until(lambda: len(node.connecting) == 1)  # nobody else is accepted from now on
            for _ in range(5):
                (await RawPeer.dial(addr)).reset()
            with await RawPeer.dial(addr) as last:
                gate.opened.set()
                for peer in first, last:
                    await peer.send(frame(b"hello"))
                    assert await peer.receive_message() == b"hello"
                await wait_until(lambda: set(node.connections) == {first.addr, last.addr})
    assert node.heuristics.accept_errors == 0


class Failing(TCPTransport):
    """Its listener's first calls of `accept` raise what it was given."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def listen(self, addr: Address, *, backlog: int, reuse_port: bool) -> Listener:
        return FailingListener(await super().listen(addr, backlog=backlog, reuse_port=reuse_port), self.errors)


class FailingListener:
    def __init__(self, inner: Listener, errors: list[Exception]) -> None:
        self.inner = inner
        self.errors = errors
        self.addr = inner.addr

    async def accept(self) -> tuple[ByteStream, Address]:
        if self.errors:
            raise self.errors.pop(0)
        return await self.inner.accept()

    async def aclose(self) -> None:
        await self.inner.aclose()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_it_recovers_when_it_cannot_accept_for_a_while(code: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pea2pea")
    user = Echo(transport=Failing(OSError(code, "first"), OSError(code, "second")))
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"hello"))
            assert await peer.receive_message() == b"hello"
            assert node.heuristics.accept_errors == 2
            assert node.heuristics.hook_errors == 0
    (record,) = [record for record in caplog.records if "cannot accept" in record.message]
    assert record.levelno == logging.INFO


async def test_a_bug_in_a_listener_is_reported_and_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    user = Echo(transport=Failing(ZeroDivisionError("a bug")))
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"hello"))
            assert await peer.receive_message() == b"hello"
            assert node.heuristics.accept_errors == 1
            assert node.heuristics.hook_errors == 1
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_it_can_stop_while_it_cannot_accept() -> None:
    user = User(transport=Failing(*[OSError(errno.EMFILE, "no descriptors")] * 100))
    async with user.node as node:
        addr = await node.start_listening()
        await wait_until(lambda: node.heuristics.accept_errors)
        await node.stop_listening()
        with pytest.raises(ConnectionRefusedError):
            await RawPeer.dial(addr)


STARVING = """
import resource, socket, sys
import anyio
from pea2pea import Config, Node
from pea2pea.testing import wait_until

async def main():
    async with Node(Config(max_connections=1000)) as node:
        addr = await node.start_listening()
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        hoard, peers = [], []
        try:
            while True:
                hoard.append(socket.socket())
        except OSError:
            hoard.pop().close()
        peers.append(hoard.pop())  # dialled with the last descriptor but one
        peers[0].connect(addr)
        hoard.append(socket.socket())  # from now on there is none
        await wait_until(lambda: node.heuristics.accept_errors >= 2)
        assert not node.connections
        for sock in hoard:
            sock.close()
        await wait_until(lambda: len(node.connections) == 1)
        peers[0].close()
        await wait_until(lambda: not node.connections)
        print("recovered")

anyio.run(main, backend=sys.argv[1], backend_options={"use_uvloop": True} if sys.argv[2:] else None)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_NOFILE")
@pytest.mark.parametrize("arguments", [("asyncio",), ("asyncio", "uvloop"), ("trio",)], ids=" ".join)
def test_it_recovers_when_there_really_are_no_descriptors(arguments: Sequence[str]) -> None:
    done = subprocess.run(  # noqa: S603  # our own program
        [sys.executable, "-W", "error", "-c", STARVING, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("recovered\n", "", 0)


async def test_listening_that_is_cancelled_leaves_no_socket() -> None:
    """`nothing_left_open` sees to the socket."""
    user = User(Config(listener_addr=("localhost", 0)))
    async with user.node as node:
        for after in range(10):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:

                    async def cancel(after: int = after, scope: anyio.CancelScope = scope) -> None:
                        for _ in range(after):
                            await anyio.lowlevel.checkpoint()
                        scope.cancel()

                    tasks.start_soon(cancel)
                    await node.start_listening()
            if node.listening_addr is not None:
                await node.stop_listening()
        await node.start_listening()


async def test_a_shutdown_while_it_begins_to_listen_closes_the_listener() -> None:
    class Slow(TCPTransport):
        begun = anyio.Event()
        go_on = anyio.Event()

        async def listen(self, addr: Address, *, backlog: int, reuse_port: bool) -> Listener:
            self.begun.set()
            await self.go_on.wait()
            return await super().listen(addr, backlog=backlog, reuse_port=reuse_port)

    transport = Slow()
    async with User(transport=transport).node as node, anyio.create_task_group() as tasks:

        async def start() -> None:
            with pytest.raises(NodeClosedError):
                await node.start_listening()

        tasks.start_soon(start)
        await transport.begun.wait()
        await node.shut_down()
        transport.go_on.set()
    assert node.listening_addr is None


async def test_socket_attributes_of_an_inbound_connection_are_reachable() -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (ours, theirs):
        assert theirs.extra(SocketAttribute.remote_address) == theirs.addr
        assert theirs.extra(SocketAttribute.local_address) == ours.addr
        assert ours.extra(SocketAttribute.local_port) == theirs.addr[1]
        assert ours.extra(SocketAttribute.remote_port) == ours.addr[1]
        assert ours.extra(SocketAttribute.family) is socket.AF_INET
        raw = ours.extra(SocketAttribute.raw_socket)
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


async def test_an_ended_connection_has_no_socket_any_more() -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (ours, _):
        raw = ours.extra(SocketAttribute.raw_socket)
        await dialler.node.disconnect(ours)
        assert raw.fileno() == -1


async def test_the_port_is_free_after_a_shutdown() -> None:
    dialler, responder = User(), User()
    async with responder.node, dialler.node:
        await connect(dialler, responder)
        addr = responder.node.listening_addr
        assert addr is not None
        await responder.node.shut_down()
        assert responder.node.listening_addr is None
        async with User(Config(listener_addr=addr)).node as successor:
            assert await successor.start_listening() == addr
