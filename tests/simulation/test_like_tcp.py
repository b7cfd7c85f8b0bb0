"""The simulated network behaves as the kernel's TCP: each test runs on either, and what it expects is the kernel's."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import AsyncGenerator, Callable
from typing import cast

import anyio
import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from anyio.abc import SocketAttribute

from pea2pea import Address, Listener, Transport
from pea2pea.testing.network import Network
from pea2pea.transport import TCPStream, TCPTransport
from tests.helpers import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the semantics are those of Linux")


ANY = "0.0.0.0"  # noqa: S104  # for a moment


class World:
    """A transport, with an address to listen at; streams of it are closed at the end."""

    def __init__(self, transport: Transport, ip: str) -> None:
        self.transport = transport
        self.ip = ip
        self.streams: list[TCPStream] = []
        self.listeners: list[Listener] = []

    async def listen(self, *, port: int = 0, backlog: int = 8, reuse_port: bool = False) -> Listener:
        listener = await self.transport.listen((self.ip, port), backlog=backlog, reuse_port=reuse_port)
        self.listeners.append(listener)
        return listener

    async def dial(self, addr: Address) -> TCPStream:
        stream = cast("TCPStream", await self.transport.dial(addr))
        self.streams.append(stream)
        return stream

    async def accept(self, listener: Listener) -> TCPStream:
        stream, _ = await listener.accept()
        self.streams.append(cast("TCPStream", stream))
        return self.streams[-1]

    async def pair(self) -> tuple[TCPStream, TCPStream]:
        """A stream that has dialled, and the one that was accepted."""
        listener = await self.listen()
        dialled = await self.dial(listener.addr)
        return dialled, await self.accept(listener)


@pytest.fixture(params=["kernel", "network"])
async def world(request: pytest.FixtureRequest) -> AsyncGenerator[World]:
    made = (
        World(TCPTransport(), "127.0.0.1")
        if request.param == "kernel"
        else World(Network(1).host("10.0.0.1"), "10.0.0.1")
    )
    yield made
    for stream in made.streams:
        stream.close()
    for listener in made.listeners:
        await listener.aclose()


def told(func: Callable[..., object], *args: object) -> object:
    """What a call that does not wait returns, or the name of the error it raises."""
    try:
        return func(*args)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


async def receive_all(stream: TCPStream, received: bytearray) -> None:
    """Receive into `received` until that raises."""
    while True:
        received += await stream.receive()


async def settle() -> None:
    """Let everything that is under way arrive: what does NOT come has no event to wait for."""
    await anyio.sleep(0.02)


async def test_bytes_arrive_in_order_and_whole(world: World) -> None:
    a, b = await world.pair()
    sent = b"".join(number.to_bytes(4, "big") for number in range(100_000))
    received = bytearray()

    async def receive() -> None:
        while len(received) < len(sent):
            received.extend(await b.receive())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await a.send(sent)
    assert received == sent


async def test_nothing_to_receive_is_no_end(world: World) -> None:
    a, _ = await world.pair()
    assert a.receive_nowait() is None


async def test_a_clean_close_is_an_end_behind_the_data(world: World) -> None:
    a, b = await world.pair()
    a.send_some(b"last words")
    a.close()
    assert await b.receive() == b"last words"
    with pytest.raises(EndOfStream):
        await b.receive()
    assert b.receive_nowait() == b""


async def test_writing_to_who_has_closed_works_once_and_then_is_epipe(world: World) -> None:
    a, b = await world.pair()
    a.close()
    with pytest.raises(EndOfStream):
        await b.receive()
    assert told(b.send_some, b"1") == 1
    await settle()
    assert b.receive_nowait() == b""
    assert told(b.send_some, b"2") == "EPIPE"
    assert told(b.send_some, b"3") == "EPIPE"


@pytest.mark.parametrize("reads", [True, False])
async def test_a_reset_behind_a_clean_end_is_epipe_and_keeps_the_data(world: World, reads: bool) -> None:
    a, b = await world.pair()
    a.send_some(b"last")
    a.close()
    await settle()
    assert told(b.send_some, b"x") == 1
    await settle()
    if not reads:
        assert told(b.send_some, b"y") == "EPIPE"
    assert told(b.receive_nowait) == b"last"
    assert told(b.receive_nowait) == b""
    assert told(b.receive_nowait) == b""
    if reads:
        assert told(b.send_some, b"y") == "EPIPE"


async def test_close_with_unread_data(world: World) -> None:
    """Closing with unread data is a reset that keeps what had come."""
    a, b = await world.pair()
    b.send_some(b"never read")
    a.send_some(b"yx")
    await settle()
    a.close()
    await settle()
    assert told(b.receive_nowait) == b"yx"
    assert told(b.receive_nowait) == "ECONNRESET"
    assert told(b.receive_nowait) == b""
    assert told(b.send_some, b"3") == "EPIPE"


async def test_such_a_reset_is_told_once_to_who_writes(world: World) -> None:
    a, b = await world.pair()
    b.send_some(b"never read")
    await settle()
    a.close()
    await settle()
    assert told(b.send_some, b"3") == "ECONNRESET"
    assert told(b.receive_nowait) == b""
    assert told(b.send_some, b"3") == "EPIPE"


@pytest.mark.parametrize("unread", [False, True])
async def test_an_abort_is_told_once_to_who_writes(world: World, unread: bool) -> None:
    a, b = await world.pair()
    if unread:
        b.send_some(b"never read")
        await settle()
    a.close(reset=True)
    await settle()
    assert told(b.send_some, b"3") == "ECONNRESET"
    assert told(b.receive_nowait) == b""
    assert told(b.send_some, b"3") == "EPIPE"


async def test_an_abort_is_a_reset(world: World) -> None:
    a, b = await world.pair()
    a.send_some(b"z")
    await settle()
    a.close(reset=True)
    await settle()
    assert [told(b.receive_nowait) for _ in range(3)] == [b"z", "ECONNRESET", b""]


async def test_a_half_close_leaves_the_other_way_open(world: World) -> None:
    a, b = await world.pair()
    await a.send_eof()
    with pytest.raises(EndOfStream):
        await b.receive()
    await b.send(b"still here")
    assert await a.receive() == b"still here"
    assert told(a.send_some, b"no") == "EPIPE"
    b.close()
    with pytest.raises(EndOfStream):
        await a.receive()


async def test_ending_twice_is_no_error_until_the_peer_has_ended_too(world: World) -> None:
    a, b = await world.pair()
    await a.send_eof()
    await a.send_eof()
    b.close()
    with pytest.raises(EndOfStream):
        await a.receive()
    await settle()
    with pytest.raises(BrokenResourceError):
        await a.send_eof()


async def test_both_may_end_at_once(world: World) -> None:
    a, b = await world.pair()
    await a.send_eof()
    await b.send_eof()
    for stream in (a, b):
        with pytest.raises(EndOfStream):
            await stream.receive()
        await wait_until(lambda stream=stream: not stream.unacknowledged())  # type: ignore[misc]  # bound at once


async def test_a_close_while_sending_sends_the_rest(world: World) -> None:
    a, b = await world.pair()
    sent = 0
    while taken := a.send_some(bytes(2**20)):
        sent += taken
    a.close()
    received = bytearray()
    with pytest.raises(EndOfStream):
        await receive_all(b, received)
    assert len(received) == sent


async def test_an_abort_while_sending_gives_the_rest_up(world: World) -> None:
    a, b = await world.pair()
    sent = 0
    while taken := a.send_some(bytes(2**20)):
        sent += taken
        await settle()
    a.close(reset=True)
    received = bytearray()
    with pytest.raises(BrokenResourceError):
        await receive_all(b, received)
    assert len(received) < sent


async def test_who_does_not_read_stops_who_writes(world: World) -> None:
    a, b = await world.pair()
    sent = 0
    while taken := a.send_some(bytes(2**20)):
        sent += taken
        await settle()
    assert sent >= 65_536
    assert a.unacknowledged()
    with anyio.move_on_after(0.05) as scope:
        await a.writable()
    assert scope.cancelled_caught
    received = 0
    while received < sent:
        received += len(await b.receive())
    await a.writable()
    await wait_until(lambda: a.unacknowledged() == 0)
    assert a.send_some(b"more") == 4


async def test_reads_may_be_as_small_as_one_likes(world: World) -> None:
    a, b = await world.pair()
    await a.send(b"abcdef")
    assert [await b.receive(1) for _ in range(6)] == [b"a", b"b", b"c", b"d", b"e", b"f"]


async def test_parts_are_sent_in_one_call(world: World) -> None:
    a, b = await world.pair()
    assert a.send_nowait([b"ab", memoryview(b"cd"), bytearray(b"ef")]) == []
    received = b""
    while len(received) < 6:
        received += await b.receive()
    assert received == b"abcdef"


async def test_a_dial_where_nobody_listens_is_refused(world: World) -> None:
    listener = await world.listen()
    await listener.aclose()
    with pytest.raises(ConnectionRefusedError):
        await world.dial(listener.addr)


async def test_an_address_is_listened_at_once(world: World) -> None:
    listener = await world.listen()
    with pytest.raises(OSError, match="cannot ") as failure:
        await world.listen(port=listener.addr[1])
    assert failure.value.errno == errno.EADDRINUSE


async def test_an_address_can_be_shared(world: World) -> None:
    first = await world.listen(reuse_port=True)
    second = await world.listen(port=first.addr[1], reuse_port=True)
    assert first.addr == second.addr


async def test_only_own_addresses_can_be_listened_at(world: World) -> None:
    with pytest.raises(OSError, match="cannot ") as failure:
        await world.transport.listen(("203.0.113.1", 0), backlog=1, reuse_port=False)
    assert failure.value.errno == errno.EADDRNOTAVAIL


async def test_a_dial_comes_from_the_address_or_the_port_that_it_is_told(world: World) -> None:
    listener = await world.listen()
    with pytest.raises(OSError, match="cannot dial from") as failure:
        await world.transport.dial(listener.addr, local_addr=("::1", 0))  # type: ignore[call-arg]  # of both transports
    assert failure.value.errno == errno.EAFNOSUPPORT
    shared = await world.listen(reuse_port=True)
    stream = await world.transport.dial(listener.addr, local_addr=shared.addr)  # type: ignore[call-arg]  # likewise
    world.streams.append(cast("TCPStream", stream))
    accepted = await world.accept(listener)
    assert accepted.extra(SocketAttribute.remote_address) == shared.addr
    with pytest.raises(OSError, match="connecting to") as failure:
        await world.transport.dial(listener.addr, local_addr=shared.addr)  # type: ignore[call-arg]  # likewise
    assert failure.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize(
    ("place", "target", "source"),
    [("127.0.0.5", "127.0.0.5", "127.0.0.1"), (ANY, ANY, "127.0.0.1"), ("::", "::", "::1")],
)
async def test_loopback_is_dialled_from_loopback(world: World, place: str, target: str, source: str) -> None:
    listener = await world.transport.listen((place, 0), backlog=1, reuse_port=False)
    world.listeners.append(listener)
    (addr,) = await world.transport.resolve((target, listener.addr[1]))
    await world.dial(addr)
    stream, peer = await listener.accept()
    world.streams.append(cast("TCPStream", stream))
    assert peer[0] == source
    assert stream.extra(SocketAttribute.family) == (socket.AF_INET6 if ":" in source else socket.AF_INET)


async def test_a_wildcard_takes_its_own_family_and_ipv6_takes_both(world: World) -> None:
    old = await world.transport.listen((ANY, 0), backlog=1, reuse_port=False)
    both = await world.transport.listen(("::", 0), backlog=1, reuse_port=False)
    world.listeners += [old, both]
    with pytest.raises(ConnectionRefusedError):
        await world.dial(("::1", old.addr[1]))
    await world.dial(("127.0.0.1", both.addr[1]))
    assert (await world.accept(both)).extra(SocketAttribute.remote_address)[0] in {"127.0.0.1", "::ffff:127.0.0.1"}


async def test_a_listener_can_be_opened_again_at_once(world: World) -> None:
    listener = await world.listen()
    stream = await world.dial(listener.addr)
    accepted = await world.accept(listener)
    accepted.close()
    await listener.aclose()
    assert (await world.listen(port=listener.addr[1])).addr == listener.addr
    stream.close()


async def test_a_closed_listener_resets_who_was_in_its_queue(world: World) -> None:
    listener = await world.listen()
    a = await world.dial(listener.addr)
    a.send_some(b"early")
    await settle()
    await listener.aclose()
    await settle()
    assert told(a.receive_nowait) == "ECONNRESET"
    assert told(a.send_some, b"1") == "EPIPE"


async def test_what_came_before_the_accept_is_there(world: World) -> None:
    listener = await world.listen()
    a = await world.dial(listener.addr)
    a.send_some(b"early")
    a.close()
    b = await world.accept(listener)
    assert await b.receive() == b"early"
    with pytest.raises(EndOfStream):
        await b.receive()


@pytest.mark.parametrize("backlog", [1, 3])
async def test_an_accept_queue_takes_one_more_than_its_backlog(world: World, backlog: int) -> None:
    listener = await world.listen(backlog=backlog)
    connected = 0
    for _ in range(backlog + 3):
        with anyio.move_on_after(0.1):
            await world.dial(listener.addr)
            connected += 1
    assert connected == backlog + 1
    await world.accept(listener)
    await world.dial(listener.addr)


async def test_own_closing_is_told_to_who_waits(world: World) -> None:
    a, _ = await world.pair()

    async def receive() -> None:
        with pytest.raises(ClosedResourceError):
            await a.receive()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await settle()
        a.close()
    assert told(a.receive_nowait) == "EBADF"
    assert told(a.send_some, b"1") == "EBADF"


async def test_a_reset_is_told_to_who_waits(world: World) -> None:
    a, b = await world.pair()

    async def receive() -> None:
        with pytest.raises(BrokenResourceError):
            await a.receive()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await settle()
        b.close(reset=True)


async def test_a_closing_listener_is_told_to_who_waits(world: World) -> None:
    listener = await world.listen()

    async def accept() -> None:
        with pytest.raises(ClosedResourceError):
            await listener.accept()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(accept)
        await settle()
        await listener.aclose()


async def test_a_cancelled_accept_loses_nobody(world: World) -> None:
    listener = await world.listen()
    with anyio.move_on_after(0.01) as scope:
        await listener.accept()
    assert scope.cancelled_caught
    a = await world.dial(listener.addr)
    b = await world.accept(listener)
    await a.send(b"x")
    assert await b.receive() == b"x"


async def test_a_cancelled_receive_loses_nothing(world: World) -> None:
    a, b = await world.pair()
    with anyio.move_on_after(0.01) as scope:
        await b.receive()
    assert scope.cancelled_caught
    await a.send(b"x")
    assert await b.receive() == b"x"


async def test_names_are_mirrored(world: World) -> None:
    a, b = await world.pair()
    local, remote = a.extra(SocketAttribute.local_address), a.extra(SocketAttribute.remote_address)
    assert (b.extra(SocketAttribute.remote_address), b.extra(SocketAttribute.local_address)) == (local, remote)
    assert a.extra(SocketAttribute.family) == socket.AF_INET
    assert a.extra(SocketAttribute.remote_port) == b.extra(SocketAttribute.local_port)


async def test_a_host_that_does_not_exist_never_answers() -> None:
    """The kernel's answer depends on the machine's routes; so this is told of the network alone."""
    with anyio.move_on_after(0.05) as scope:
        await Network(1).host("10.0.0.1").dial(("10.0.0.2", 1))
    assert scope.cancelled_caught
