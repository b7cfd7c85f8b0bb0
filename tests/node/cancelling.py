"""Every public await, to be cancelled at one turn of the event loop after the other, and what must hold afterwards."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
from anyio import Event
from anyio.abc import SocketAttribute

from pea2pea import Config, Connection, Side, TCPTransport
from tests.conftest import open_sockets

from ..helpers import ALL, Opaque, User, descriptors, running_tasks, start_poller, turns, wait_until
from ..protocols.tls import wrap

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from pea2pea import Address

Call: TypeAlias = Callable[[], Awaitable[object]]
Cancelled: TypeAlias = Callable[[Call], Awaitable[bool]]
"""Makes a call and cancels it; says whether that came before the call's end."""

LIMITS = Config(max_connections=1, max_connecting=1, grace_period=2.0)  # a slot that leaks is missed at once
TURNS = 80
BUFFER = 4096  # bytes that a socket takes, which the kernel doubles
LARGE = bytes(200_000)  # more than both ends' sockets take


async def keep(_: Connection, stream: ByteStream) -> ByteStream:
    return stream


async def make_opaque(_: Connection, stream: ByteStream) -> ByteStream:
    return Opaque(stream)


async def secure(connection: Connection, stream: ByteStream) -> ByteStream:
    return await wrap(stream, connection.side)


MEDIA: dict[str, Callable[[Connection, ByteStream], Awaitable[ByteStream]]] = {
    "plain": keep,
    "wrapped": make_opaque,
    "TLS": secure,
}


class Sweep:
    """Two nodes, over one kind of stream, and the calls."""

    def __init__(self, medium: str) -> None:
        self.medium = medium
        self.users: list[User] = []
        self.user, self.peer = self.a_user(), self.a_user()
        self.addr: Address = ("", 0)
        self.clogged = False
        self.unclogged = Event()
        self.in_time: Counter[str] = Counter()  # cancellations that came before the call's end, by the call's name
        self.peer.handle = self.handle

    def a_user(self) -> User:
        user = User(LIMITS, enable=ALL - {"writing"})
        user.outbox = user.node.enable_writing(user, queue_bytes=10_000)

        async def shake_hands(connection: Connection, stream: ByteStream) -> ByteStream:
            await turns(2)
            return await MEDIA[self.medium](connection, stream)

        async def dally(*_: object) -> None:
            await turns(1)

        user.shake_hands = shake_hands
        user.greet = user.part = dally
        self.users.append(user)
        return user

    async def handle(self, *_: object) -> None:
        if self.clogged:
            await self.unclogged.wait()

    # The calls

    @classmethod
    def calls(cls) -> list[str]:
        """Their names."""
        found = [
            cls.connect, cls.adopt, cls.disconnect, cls.abort, cls.send, cls.deliver, cls.drain, cls.wait_closed,
            cls.start_listening, cls.stop_listening, cls.shut_down, cls.wait_node_closed, cls.block,
        ]  # fmt: skip
        return [call.__name__ for call in found]

    async def connect(self, cancelled: Cancelled) -> bool:
        return await cancelled(partial(self.user.node.connect, self.addr))

    async def adopt(self, cancelled: Cancelled) -> bool:
        sock = socket.create_connection(self.addr)
        stream = TCPTransport.wrap(sock)
        in_time = await cancelled(partial(self.user.node.adopt, stream, self.addr, Side.INITIATOR))
        assert (sock.fileno() < 0) == (not self.user.node.connections)
        return in_time

    async def disconnect(self, cancelled: Cancelled) -> bool:
        connection = await self.user.node.connect(self.addr)
        self.user.outbox.send_nowait(connection, b"last words")
        return await cancelled(partial(self.user.node.disconnect, connection))

    async def abort(self, cancelled: Cancelled) -> bool:
        connection = await self.user.node.connect(self.addr)
        return await cancelled(partial(self.user.node.disconnect, connection, abort=True))

    async def clog(self) -> Connection:
        """A connection whose queue is full, until the peer goes on after some turns."""
        self.clogged, self.unclogged = True, Event()
        connection = await self.user.node.connect(self.addr)
        sock: Any = connection.extra(SocketAttribute.raw_socket)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self.user.outbox.send_nowait(connection, b"")
        self.user.outbox.send_nowait(connection, LARGE)

        async def unclog() -> None:
            await turns(TURNS // 4)
            self.unclogged.set()

        self.user.node.start_soon(unclog)
        return connection

    async def send(self, cancelled: Cancelled) -> bool:
        return await cancelled(partial(self.user.outbox.send, await self.clog(), b"more"))

    async def deliver(self, cancelled: Cancelled) -> bool:
        return await cancelled(partial(self.user.outbox.deliver, await self.clog(), b"more"))

    async def drain(self, cancelled: Cancelled) -> bool:
        return await cancelled(partial(self.user.outbox.drain, await self.clog()))

    async def wait_closed(self, cancelled: Cancelled) -> bool:
        connection = await self.user.node.connect(self.addr)
        self.user.node.start_soon(self.user.node.disconnect, connection)
        return await cancelled(connection.wait_closed)

    async def start_listening(self, cancelled: Cancelled) -> bool:
        in_time = await cancelled(self.user.node.start_listening)
        assert in_time == (self.user.node.listening_addr is None)
        return in_time

    async def stop_listening(self, cancelled: Cancelled) -> bool:
        await self.user.node.start_listening()
        in_time = await cancelled(self.user.node.stop_listening)
        assert self.user.node.listening_addr is None
        return in_time

    async def shut_down(self, cancelled: Cancelled) -> bool:
        user = self.a_user()
        async with user.node:
            await user.node.connect(self.addr)
            in_time = await cancelled(user.node.shut_down)
            await user.node.shut_down()
        return in_time

    async def wait_node_closed(self, cancelled: Cancelled) -> bool:
        user = self.a_user()
        async with user.node:
            await user.node.connect(self.addr)
            user.node.start_soon(user.node.shut_down)
            return await cancelled(user.node.wait_closed)

    async def block(self, cancelled: Cancelled) -> bool:
        user = self.a_user()

        async def live() -> None:
            async with user.node as node:
                await node.start_listening()
                connection = await node.connect(self.addr)
                await user.outbox.deliver(connection, b"hello")
                await node.disconnect(connection)
                await self.peer_is_free()
                await node.connect(self.addr)

        return await cancelled(live)

    # What must hold

    async def peer_is_free(self) -> None:
        await wait_until(lambda: not self.peer.node.connections and not self.peer.node.connecting)

    async def run(self, calls: list[str], after: list[int], cancel_after: Callable[[int], Cancelled]) -> None:
        """Cancel each of the calls after each of these numbers of turns."""
        async with self.peer.node, self.user.node:
            self.addr = await self.peer.node.start_listening()
            await self.check_that_it_works()  # and the services which start at need are there
            for user in (self.peer, self.user):
                start_poller(user.node)
            await self.settle()
            tasks, sockets, count = running_tasks(), open_sockets(), descriptors()
            for call in calls:
                for number in after:
                    self.in_time[call] += await getattr(self, call)(cancel_after(number))
                    await self.settle()
                    where = f"{call}, cancelled after {number} turns"
                    assert running_tasks() == tasks, where
                    assert open_sockets() == sockets, where
                    assert descriptors() == count, where
                    for user in self.users:
                        assert Counter(user.connected) == Counter(addr for addr, _ in user.ended), where
                        assert user.node.heuristics.hook_errors == 0, where
                    del self.users[2:]
            await self.check_that_it_works()

    async def settle(self) -> None:
        """End what is left; nothing is being set up by now."""
        self.clogged = False
        self.unclogged.set()
        node = self.user.node
        assert not node.connecting
        for connection in node.connections.values():
            await node.disconnect(connection)
        await node.stop_listening()
        await self.peer_is_free()
        await turns(3)  # the names of tasks that have just ended are still there

    async def check_that_it_works(self) -> None:
        self.peer.received.clear()
        connection = await self.user.node.connect(self.addr)
        await self.user.outbox.deliver(connection, b"it works")
        await self.user.node.disconnect(connection)
        await self.peer_is_free()
        assert self.peer.received == [b"it works"]


def cancelled_after(number: int) -> Cancelled:
    """With a cancel scope, after so many turns of the event loop: 0 is before the call."""

    async def cancelled(call: Call) -> bool:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def cancel() -> None:
                    await turns(number)
                    scope.cancel()

                if number:  # else the call may be over first: trio runs tasks in any order
                    tasks.start_soon(cancel)
                else:
                    scope.cancel()
                await call()
                tasks.cancel_scope.cancel()
        return scope.cancelled_caught

    return cancelled
