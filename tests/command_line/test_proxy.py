"""A proxy between two programs: byte for byte, message for message, and with the same ends."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
import pytest

from pea2pea import _screen

from ..helpers import LOCALHOST, RawListener, RawPeer, wait_until
from .program import Program, running, show

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


@asynccontextmanager
async def proxied(*arguments: str, target: RawListener) -> AsyncGenerator[tuple[Program, RawPeer, RawPeer]]:
    """A running proxy, and the ends of one connection through it: who has dialled, and the target."""
    async with running("proxy", ":0", show(target.addr), *arguments) as program:
        host, port = (await program.address()).rsplit(":", 1)
        with await RawPeer.dial((host, int(port))) as client, await target.accept() as server:
            yield program, client, server


async def test_both_directions() -> None:
    """Both directions are shown as messages and handed on as bytes."""
    with RawListener.open() as target:
        async with proxied(target=target) as (program, client, server):
            await client.send(b"one\r\ntw")
            assert await server.receive_exactly(7) == b"one\r\ntw"
            await program.shows(f"-> 1 {show(client.addr)} +3  6f6e65  one$")
            await server.send(b"answer\n")
            assert await client.receive() == b"answer\n"
            await program.shows(f"<- 1 {show(client.addr)} +6  [0-9a-f]+  answer$")
            await client.send(b"o\n")
            assert await server.receive() == b"o\n"
            await program.shows("-> 1 .* two$")
    await program.shows(r"^-- connections: 1, messages received: 3, messages sent: 3, bytes received: 16, ", aside=True)
    assert program.code == 0


async def test_the_messages_of_one_chunk_are_written_together_before_it_is_handed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writes: list[bytes] = []

    def write(file: int, data: bytes) -> bytes:
        writes.append(data)
        return original(file, data)

    original = _screen.write
    with RawListener.open() as target:
        async with proxied(target=target) as (_, client, server):
            monkeypatch.setattr(_screen, "write", write)
            await client.send(b"line\n" * 50)
            assert await server.receive_exactly(250) == b"line\n" * 50
            assert [each.count(b"  line\n") for each in writes if b" -> " in each] == [50]


@pytest.mark.parametrize("first", ["client", "server"])
async def test_a_half_close_is_handed_on_and_the_other_direction_goes_on(first: str) -> None:
    with RawListener.open() as target:
        async with proxied(target=target) as (program, client, server):
            near, far = (client, server) if first == "client" else (server, client)
            await near.send(b"question\n")
            near.half_close()
            assert await far.receive_all() == b"question\n"
            for _ in range(3):
                await far.send(b"x" * 99_999 + b"\n")
                assert await near.receive_exactly(100_000)
            far.close()
            assert await near.receive_all() == b""
            await wait_until(lambda: program.err.count(b"has ended: the peer has closed it") == 2)


@pytest.mark.parametrize("first", ["client", "server"])
async def test_a_reset_is_handed_on_as_a_reset(first: str) -> None:
    with RawListener.open() as target:
        async with proxied(target=target) as (program, client, server):
            near, far = (client, server) if first == "client" else (server, client)
            await near.send(b"a\n")
            assert await far.receive() == b"a\n"
            near.reset()
            with pytest.raises(ConnectionResetError):
                await far.receive_all()
            await program.shows("has ended: Connection reset by peer", aside=True)
            await program.shows("has ended: the connection that it belongs to has ended", aside=True)


async def test_bytes_that_are_no_frame_go_through_and_are_told() -> None:
    with RawListener.open() as target:
        async with proxied("--frame", "varint", target=target) as (program, client, server):
            data = b"\1a" + b"\xff" * 12 + b"rest"
            await client.send(data)
            assert await server.receive_exactly(len(data)) == data
            await program.shows("-> 1 .*  61  a$")
            await program.shows(r"-> 1 .*  ffff")
            await program.shows("^-- 1 .*: no valid frame: .*; its bytes are shown as they come", aside=True)
            await client.send(b"\1b")
            assert await server.receive() == b"\1b"
            await program.shows("-> 1 .*  0162  ")
            await server.send(b"\1c")
            assert await client.receive() == b"\1c"
            await program.shows("<- 1 .*  63  c$")


async def test_memory_is_bounded_while_the_target_does_not_read() -> None:
    with RawListener.open(receive_buffer=4096) as target:
        async with proxied("--frame", "u32be", target=target) as (program, client, _):
            sent = 0
            message = (65_536).to_bytes(4, "big") + bytes(65_536)
            with suppress(TimeoutError):
                while True:
                    with anyio.fail_after(0.3):  # nothing tells that a socket takes no more, but time
                        await client.send(message)
                    sent += 1
            # what the kernel holds of two connections (tcp_wmem, tcp_rmem), and little more
            assert sent * len(message) < 40_000_000
            proxy = program.session
            assert sum(proxy.outbox.pending(each) for each in proxy.node.connections.values()) < 10
            client.reset()


async def test_a_target_that_refuses_is_told_and_the_proxy_goes_on() -> None:
    with RawListener.open() as unused:
        nobody = show(unused.addr)
    async with running("proxy", ":0", nobody) as program:
        host, port = (await program.address()).rsplit(":", 1)
        for _ in range(2):
            with await RawPeer.dial((host, int(port))) as client:
                assert await client.is_refused()
        await program.shows(f"was refused: cannot connect to {nobody}: Connection refused; start what", aside=True)
    assert program.code == 0


@pytest.mark.parametrize("host", [LOCALHOST, "localhost"])
async def test_a_proxy_of_itself_is_refused(host: str) -> None:
    with RawListener.open() as free:
        port = free.addr[1]
    async with running("proxy", f"{LOCALHOST}:{port}", f"{host}:{port}") as program:
        await program.address()
        with await RawPeer.dial((LOCALHOST, port)) as client:
            assert await client.is_refused()
        await program.shows(f"was refused: cannot connect to {host}:{port}: .* is this very node$", aside=True)
    assert program.session.numbers < 10


async def test_a_target_that_speaks_first() -> None:
    with RawListener.open() as target:
        async with running("proxy", ":0", show(target.addr)) as program:
            host, port = (await program.address()).rsplit(":", 1)
            async with anyio.create_task_group() as tasks:

                async def greet() -> None:
                    with await target.accept() as server:
                        await server.send(b"welcome\n")
                        assert await server.receive() == b"thanks\n"

                tasks.start_soon(greet)
                with await RawPeer.dial((host, int(port))) as client:
                    assert await client.receive() == b"welcome\n"
                    await client.send(b"thanks\n")
                    assert await client.receive_all() == b""
            await program.shows("<- 1 .* welcome\n.* -> 1 .* thanks$")


async def test_two_conversations_are_kept_apart() -> None:
    with RawListener.open() as target:
        async with proxied(target=target) as (program, one, server_one):
            host, port = (await program.address()).rsplit(":", 1)
            with await RawPeer.dial((host, int(port))) as two, await target.accept() as server_two:
                await one.send(b"from one\n")
                await two.send(b"from two\n")
                assert await server_one.receive() == b"from one\n"
                assert await server_two.receive() == b"from two\n"
                await program.shows("-> 1 .* from one$")
                await program.shows("-> 2 .* from two$")


async def test_leaving_ends_both_sides_in_order() -> None:
    with RawListener.open() as target:
        async with proxied(target=target) as (program, client, server):
            await client.send(b"a\n")
            assert await server.receive() == b"a\n"
            program.leave()
            assert await server.receive_all() == b""
            assert await client.receive_all() == b""
            client.close()
            server.close()
            await program.finished.wait()
            assert program.err.count(b"this side has left") == 2
    assert program.code == 0


async def test_a_client_that_has_gone_stops_a_target_that_goes_on_and_on() -> None:
    with RawListener.open() as target:
        async with proxied("--frame", "raw", target=target) as (program, client, server):
            await client.send(b"go on\n")
            assert await server.receive() == b"go on\n"
            client.close()
            assert await server.receive_all() == b""
            with suppress(ConnectionError):
                while True:
                    await server.send(bytes(65_536))
            await wait_until(lambda: program.err.count(b" has ended: ") == 2)
            assert not program.session.peers


@pytest.mark.parametrize("says", [b"", b"busy\n"])
async def test_a_target_that_closes_at_once_is_handed_on(says: bytes) -> None:
    with RawListener.open() as target:
        async with running("proxy", ":0", show(target.addr)) as program:
            host, port = (await program.address()).rsplit(":", 1)
            async with anyio.create_task_group() as tasks:

                async def close_at_once() -> None:
                    with await target.accept() as server:
                        await server.send(says)

                tasks.start_soon(close_at_once)
                with await RawPeer.dial((host, int(port))) as client:
                    assert await client.receive_all() == says
            await wait_until(lambda: program.err.count(b" has ended: ") == 2)
            assert not program.session.peers
