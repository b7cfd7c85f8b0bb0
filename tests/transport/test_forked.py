"""A forked child has every socket of its parent's, too; that hides no end from a peer."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from anyio import EndOfStream
from anyio.abc import SocketAttribute

from pea2pea import Config, TCPTransport

from ..helpers import LOCALHOST, RawListener, RawPeer, User, wait_until
from .streams import wrapped

if TYPE_CHECKING:
    from collections.abc import Generator

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),  # the child only waits
]


@contextmanager
def child() -> Generator[None]:
    """A process that has all sockets of this one, and does nothing."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(write)
        os.read(read, 1)  # until the parent closes the other end
        os._exit(0)
    os.close(read)
    try:
        yield
    finally:
        os.close(write)
        os.waitpid(pid, 0)


async def how_it_ended(peer: RawPeer) -> str:
    try:
        return "end" if not await peer.receive_all() else "data"
    except ConnectionResetError:
        return "reset"


@pytest.mark.parametrize("reset", [False, True])
async def test_a_peer_sees_the_end_of_a_stream_that_a_child_has_too(reset: bool) -> None:  # a parameter
    with wrapped() as (stream, peer), child():
        stream.close(reset=reset)
        assert await how_it_ended(peer) == ("reset" if reset and sys.platform == "linux" else "end")


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("theirs", [True, False])
async def test_only_a_direction_that_has_not_ended_is_shut_down(
    ours: bool, theirs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = list[int]()
    with wrapped() as (stream, peer), child():
        if theirs:
            peer.half_close()
            with pytest.raises(EndOfStream):
                await stream.receive()
        if ours:
            await stream.send_eof()
        monkeypatch.setattr(socket.socket, "shutdown", lambda _, how: called.append(how))
        stream.close()
        assert called == ([] if ours and theirs else [socket.SHUT_RDWR])
        monkeypatch.undo()
        assert not theirs or not ours or await how_it_ended(peer) == "end"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it waits for the child")
async def test_unread_data_beside_a_child() -> None:
    """What nobody has received makes it a reset though a child has it too."""
    with wrapped() as (stream, peer), child():
        await peer.send(b"nobody reads this")
        await stream.readable()
        stream.close()
        assert await how_it_ended(peer) == "reset"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it waits for the child")
async def test_reset_beside_a_child() -> None:
    """Else the kernel would keep it, megabytes for each peer that never reads, for as long as the child lives."""
    with wrapped(buffer=4096) as (stream, peer), child():
        while stream.send_some(bytes(65_536)):
            pass
        duplicate = stream.extra(SocketAttribute.raw_socket).dup()
        with duplicate:
            stream.close(reset=True)
            assert duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x07"  # TCP_CLOSE
        with pytest.raises(ConnectionResetError):
            await peer.receive_all()


@pytest.mark.parametrize("how", ["disconnect", "abort", "bad frame", "idle", "shut down"])
async def test_peers_see_how_a_node_ends_them_while_a_child_lives(how: str) -> None:
    user = User(Config(grace_period=0.5), enable={"writing", "on_disconnect"})
    user.node.enable_reading(user, idle_timeout=0.05 if how == "idle" else None)
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer, child():
            await wait_until(lambda: node.connections or user.ended)
            if how == "bad frame":
                await peer.send(b"\xff" * 16)
            elif how == "shut down":
                await node.shut_down()
            elif how != "idle":
                await node.disconnect(peer.addr, abort=how == "abort")
            assert await how_it_ended(peer) in {"end", "reset"}
            await wait_until(lambda: user.ended)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the port is the child's, too")
async def test_listener_in_a_child() -> None:
    """A node that has stopped listening accepts nobody through a child and can listen again."""
    user = User()
    async with user.node as node:
        addr = await node.start_listening()
        with child():
            await node.stop_listening()
            with pytest.raises(ConnectionRefusedError):
                await RawPeer.dial(addr)
            again = await TCPTransport().listen(addr, backlog=1, reuse_port=False)
            with await RawPeer.dial(addr):
                await again.aclose()


async def test_a_refused_peer_sees_that_while_a_child_lives() -> None:
    user = User(Config(max_connections=1))
    async with user.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr), RawListener.open(LOCALHOST):
            await wait_until(lambda: node.connections)
            with child(), await RawPeer.dial(addr) as peer:
                assert await how_it_ended(peer) in {"end", "reset"}
