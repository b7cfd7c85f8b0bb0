"""Whatever a system call raises ends one stream, and its connection alone."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import BrokenResourceError, ClosedResourceError
from anyio.abc import SocketAttribute

from pea2pea import Address, Config, Connection, DisconnectOrigin, Side, TCPTransport, transport
from pea2pea.transport import TAKE_MAX, TCPStream

from ..helpers import LOCALHOST, Echo, RawPeer, User, connect, two_nodes, wait_until
from .streams import wrapped

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from anyio.abc import ByteStream


class TransportSocket:
    """What asyncio gives out in place of a socket: like one, but it cannot be closed."""

    type = socket.SOCK_STREAM

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def fileno(self) -> int:
        return self.sock.fileno()

    def getpeername(self) -> object:
        return self.sock.getpeername()

    def setblocking(self, flag: bool) -> None:  # as it is called
        self.sock.setblocking(flag)


def close_behind_its_back(stream: ByteStream | Connection) -> None:
    """Close a descriptor as somebody else's bug does."""
    os.close(stream.extra(SocketAttribute.raw_socket).fileno())


# wrap


@pytest.mark.parametrize("wrong", [None, 7, "socket", object()])
def test_only_a_socket_can_be_wrapped(wrong: socket.socket) -> None:
    with pytest.raises(TypeError, match=r"a plain socket\.socket is needed, not "):
        TCPTransport.wrap(wrong)


def test_what_is_like_a_socket_is_none() -> None:
    one, other = socket.socketpair()
    with one, other, pytest.raises(TypeError, match="TransportSocket"):
        TCPTransport.wrap(TransportSocket(one))  # type: ignore[arg-type]  # that is the point


def test_the_socket_of_a_tls_connection_cannot_be_wrapped() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    one, other = socket.socketpair()
    with other, context.wrap_socket(one, do_handshake_on_connect=False) as secure:
        with pytest.raises(TypeError, match=r"SSLSocket.*handshake"):
            TCPTransport.wrap(secure)
        assert secure.fileno() >= 0


# Closing


@pytest.mark.parametrize("reset", [False, True])
async def test_close_never_raises(reset: bool) -> None:  # a parameter of the test
    with wrapped() as (stream, _):
        close_behind_its_back(stream)
        stream.close(reset=reset)
        stream.close(reset=reset)
        with pytest.raises(ClosedResourceError):
            await stream.receive()
        with pytest.raises(ClosedResourceError):
            await stream.send(b"too late")


@pytest.mark.parametrize("reset", [False, True])
async def test_waiting_at_a_foreign_close(
    reset: bool,  # a parameter of the test
) -> None:
    """Whoever waits is woken when a stream is closed that somebody else has closed."""
    woken = []
    with wrapped(buffer=4096) as (stream, _):

        async def wait(name: str, call: Callable[..., Awaitable[object]], *args: object) -> None:
            with pytest.raises((ClosedResourceError, BrokenResourceError)):
                await call(*args)
            woken.append(name)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, "receive", stream.receive)
            tasks.start_soon(wait, "send", stream.send, bytes(300_000))
            await anyio.wait_all_tasks_blocked()
            close_behind_its_back(stream)
            stream.close(reset=reset)
    assert sorted(woken) == ["receive", "send"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "no"), RuntimeError("no"), ValueError("no")])
async def test_a_loop_that_cannot_wake_anybody_keeps_no_stream_open(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def notify_closing(_: object) -> None:
        raise error

    with wrapped() as (stream, peer):
        monkeypatch.setattr(transport, "notify_closing", notify_closing)
        stream.close()
        assert await peer.receive_all() == b""
    listener = await TCPTransport().listen((LOCALHOST, 0), backlog=1, reuse_port=False)
    await listener.aclose()
    assert "closed" in repr(listener)


async def test_foreign_close_of_a_listener() -> None:
    """A listener that somebody else has closed is closed all the same."""
    listener = await TCPTransport().listen((LOCALHOST, 0), backlog=1, reuse_port=False)
    assert isinstance(listener, transport.TCPListener)
    os.close(listener._sock.fileno())
    with pytest.raises(OSError, match=r"."):
        await listener.accept()
    await listener.aclose()
    await listener.aclose()


async def test_want_of_memory_to_keep_loses_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel has taken counts as sent, and what it has given is received."""
    monkeypatch.setattr(transport, "KEPT", sys.maxsize // 2)
    transport._keep_memory.cache_clear()
    size = 2 * TAKE_MAX
    with wrapped("Unix") as (stream, peer):
        assert stream.send_some(bytes(size)) == size
        transport._keep_memory.cache_clear()
        peer.sock.sendall(bytes(size))
        assert sum(len(stream.receive_nowait() or b"") for _ in range(3)) == size


# Waiting


async def test_a_closed_stream_cannot_be_waited_for() -> None:
    with wrapped() as (stream, _):
        stream.close()
        for wait in stream.readable, stream.writable:
            with pytest.raises(OSError, match="cannot be waited for"):
                await wait()


@pytest.mark.parametrize("error", [RuntimeError("File descriptor 7 is used by transport"), ValueError("Invalid fd")])
async def test_what_a_loop_raises_for_a_socket_is_an_error_of_the_stream(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(_: object) -> None:
        raise error

    with wrapped(buffer=4096) as (stream, _):
        monkeypatch.setattr(transport, "wait_readable", wait)
        monkeypatch.setattr(transport, "wait_writable", wait)
        for call in stream.receive(), stream.send(bytes(300_000)):
            with pytest.raises(BrokenResourceError) as caught:
                await call
            assert isinstance(caught.value.__cause__, OSError)
            assert caught.value.__cause__.__cause__ is error
        with pytest.raises(OSError, match=str(error)):
            await stream.readable()


# Nodes


@pytest.mark.parametrize("abort", [False, True])
async def test_foreign_close_of_a_descriptor(
    abort: bool,  # a parameter of the test
) -> None:
    """A descriptor that somebody else closes ends its connection alone."""
    victim, innocent, responder = User(), User(), Echo(Config(grace_period=0.5))
    async with responder.node, victim.node, innocent.node:
        _, theirs = await connect(victim, responder)
        ours, _ = await connect(innocent, responder)
        await anyio.wait_all_tasks_blocked()
        close_behind_its_back(theirs)
        await responder.node.disconnect(theirs, abort=abort)
        await wait_until(lambda: responder.ended and victim.ended)
        await innocent.outbox.send(ours, b"still there?")
        await wait_until(lambda: innocent.received == [b"still there?"])
        assert not innocent.ended
        assert len(responder.node.connections) == 1
    assert responder.node.heuristics.hook_errors == 0


async def test_a_descriptor_that_somebody_else_closes_harms_no_block() -> None:
    async with two_nodes(User(Config(grace_period=0.5)), Echo(Config(grace_period=0.5))) as (ours, theirs):
        await anyio.wait_all_tasks_blocked()  # libuv ends the process if a descriptor is closed before it has seen it
        close_behind_its_back(ours)
        close_behind_its_back(theirs)


async def test_foreign_use_of_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """As asyncio refuses the descriptor of one of its own transports."""
    user, innocent = User(Config(grace_period=0.5)), User()
    async with user.node as node, innocent.node:
        ours, theirs = await connect(innocent, user)
        real = anyio.wait_readable
        one, other = socket.socketpair()

        async def wait_readable(sock: socket.socket) -> None:
            if sock is one:
                raise RuntimeError(f"File descriptor {sock.fileno()} is used by transport")
            await real(sock)

        monkeypatch.setattr(transport, "wait_readable", wait_readable)
        with RawPeer(other) as peer:
            connection = await node.adopt(TCPTransport.wrap(one), ("somebody", 1), Side.INITIATOR)
            await wait_until(lambda: user.ended)
            assert user.ended == [(("somebody", 1), DisconnectOrigin.READING)]
            assert isinstance(connection.cause, OSError)
            assert await peer.receive_all() == b""
        await innocent.outbox.send(ours, b"still there?")
        await wait_until(lambda: user.received == [b"still there?"])
        assert list(node.connections.values()) == [theirs]


class Failing(TCPTransport):
    """Its streams cannot be closed by a system call that works."""

    async def dial(self, addr: Address, /, *, local_addr: Address | None = None) -> ByteStream:
        stream = await super().dial(addr, local_addr=local_addr)
        assert isinstance(stream, TCPStream)
        close_behind_its_back(stream)
        return stream


async def test_a_dial_whose_socket_is_closed_at_once_harms_nobody() -> None:
    dialler, responder = User(transport=Failing()), Echo()
    async with responder.node, dialler.node as node:
        addr = await responder.node.start_listening()
        for _ in range(3):
            with suppress(OSError):
                await node.connect(addr)
            await wait_until(lambda: not node.connections and not node.connecting)
        await wait_until(lambda: not responder.node.connections)


@pytest.mark.parametrize("direction", ["readable", "writable"])
async def test_a_socket_that_somebody_else_waits_for_holds_no_block_up(direction: str) -> None:
    """It is adopted, and ends, or serves; the block is left in time."""
    one, other = socket.socketpair()
    wait = anyio.wait_readable if direction == "readable" else anyio.wait_writable
    with RawPeer(other), anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            one.setblocking(False)

            async def wait_for_it() -> None:
                with suppress(ClosedResourceError, OSError):
                    await wait(one)

            tasks.start_soon(wait_for_it)
            await anyio.wait_all_tasks_blocked()
            async with User(Config(grace_period=0.5)).node as node:
                await node.adopt(TCPTransport.wrap(one), ("somebody", 1), Side.INITIATOR)
            tasks.cancel_scope.cancel()
    assert one.fileno() == -1
