"""A short program in which nodes do everything that a node does: what the sweep interrupts."""

from __future__ import annotations

import socket
from contextlib import suppress

import anyio
from anyio.abc import ByteStream

from pea2pea import Address, Config, Connection, DisconnectOrigin, Node, NodeError, Side
from pea2pea.codecs import LengthDelimitedCodec
from pea2pea.testing import wait_until
from tests.helpers import LOCALHOST, Opaque, RawPeer, frame, memory_pair

HELLO = b"H"
ANSWER = b"a"  # what begins with it is answered
PAUSE = 0.0005  # seconds that a hook waits: it stands for the user's work, so there is no condition
WITHIN = 1.0  # seconds for anything the scenario waits for


class Busy:
    """A user with all protocols, whose hooks wait now and then, and whose queue is short."""

    def __init__(self, *, drop_beyond: int | None = None, idle_timeout: float = 60.0) -> None:
        self.node = Node(Config(grace_period=0.3, connection_timeout=WITHIN))
        self.node.enable_handshake(self, timeout=WITHIN)
        self.node.enable_reading(self, drop_beyond=drop_beyond, idle_timeout=idle_timeout)
        self.outbox = self.node.enable_writing(self, queue_depth=2, queue_bytes=50_000, timeout=WITHIN)
        self.node.enable_on_connect(self, abortable=drop_beyond is not None)
        self.node.enable_on_disconnect(self)
        self.idle_timeout = idle_timeout
        self.opaque = False
        self.received = 0
        self.delivered = 0

    @property
    def done(self) -> int:
        """The messages that were processed or dropped."""
        return self.received + self.node.heuristics.dropped_messages

    def decoder(self, connection: Connection) -> LengthDelimitedCodec:
        return LengthDelimitedCodec()

    encoder = decoder

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        await stream.send(HELLO)
        await stream.receive(len(HELLO))
        return Opaque(stream) if self.opaque else stream

    async def process_message(self, source: Connection, message: bytes) -> None:
        self.received += 1
        await anyio.sleep(PAUSE)
        if message.startswith(ANSWER):
            with suppress(NodeError):
                await self.outbox.send(source, message[1:])

    async def on_connect(self, connection: Connection) -> None:
        await anyio.sleep(PAUSE)

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        await anyio.sleep(PAUSE)
        with suppress(NodeError):
            self.outbox.send_nowait(connection, b"bye")

    async def deliver(self, connection: Connection, message: bytes) -> None:
        with suppress(NodeError):
            await self.outbox.deliver(connection, message)
        self.delivered += 1

    async def adopt(self, stream: ByteStream) -> None:
        with suppress(NodeError):
            await self.node.adopt(stream, ("near", 1), Side.INITIATOR)


async def be_busy() -> None:
    """Everything once; three nodes, one after the other of which shuts down."""
    dialler, responder, dropper = Busy(), Busy(), Busy(drop_beyond=1, idle_timeout=0.02)
    async with dropper.node, responder.node, dialler.node:
        addr = await responder.node.start_listening()
        await dialler.node.start_listening()
        await fill_a_queue(dialler, responder, addr)
        await end_in_every_way(dialler, responder, addr)
        await fail_to_connect(dialler, addr)
        await adopt_a_stream(dialler, responder)
        await meet_strangers(responder, addr)
        await meet_strangers(dropper, await dropper.node.start_listening())
        connection = await dialler.node.connect(addr)
        await dialler.outbox.send(connection, ANSWER)
        await wait_until(lambda: len(responder.node.connections) == 1, WITHIN)
        await responder.node.stop_listening()
        await responder.node.shut_down()
        await wait_until(lambda: not dialler.node.connections, WITHIN)


async def fill_a_queue(dialler: Busy, responder: Busy, addr: Address) -> None:
    connection = await dialler.node.connect(addr)
    for _ in range(5):
        await dialler.outbox.send(connection, ANSWER + bytes(20_000))
    for _ in range(3):
        dialler.node.start_soon(dialler.deliver, connection, ANSWER + bytes(300_000))
    dialler.outbox.broadcast(ANSWER)
    await dialler.outbox.drain(connection, below=300_000)
    connection.start_soon(anyio.sleep, PAUSE)
    await wait_until(lambda: dialler.delivered == 3, WITHIN)
    await dialler.node.disconnect(connection)


async def end_in_every_way(dialler: Busy, responder: Busy, addr: Address) -> None:
    connection = await dialler.node.connect(addr)
    await dialler.outbox.deliver(connection, ANSWER)
    await dialler.node.disconnect(connection, abort=True)
    connection = await dialler.node.connect(addr)
    with suppress(NodeError):
        await dialler.node.connect(addr)
    await dialler.node.disconnect(connection)
    dialler.opaque = responder.opaque = True
    connection = await dialler.node.connect(addr)
    for _ in range(3):
        await dialler.outbox.send(connection, ANSWER + bytes(20_000))
    await dialler.node.disconnect(connection)
    dialler.opaque = responder.opaque = False


async def give_up_a_dial(dialler: Busy, addr: Address) -> None:
    with anyio.move_on_after(0.0005), suppress(NodeError):
        await dialler.node.connect(addr)


async def fail_to_connect(dialler: Busy, addr: Address) -> None:
    # not in the main task: Python 3.10 loses an interrupt of a task in whose turn a scope of that task is cancelled
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(give_up_a_dial, dialler, addr)
    for connection in dialler.node.connections.values():
        await dialler.node.disconnect(connection)
    with socket.socket() as sock:
        sock.bind((LOCALHOST, 0))
        with suppress(OSError):
            await dialler.node.connect(sock.getsockname())
    with suppress(NodeError):
        await dialler.node.connect(dialler.node.listening_addr or addr)


async def adopt_a_stream(dialler: Busy, responder: Busy) -> None:
    near, far = memory_pair()
    dialler.node.start_soon(dialler.adopt, near)
    connection = await responder.node.adopt(far, ("far", 1), Side.RESPONDER)
    await responder.outbox.deliver(connection, ANSWER + bytes(1000))
    await wait_until(lambda: ("near", 1) in dialler.node.connections, WITHIN)
    await dialler.node.disconnect(("near", 1))


async def meet_strangers(user: Busy, addr: Address) -> None:
    done = user.done
    with await RawPeer.dial(addr) as peer, suppress(ConnectionResetError):
        await peer.send(HELLO + frame(b"x") * 10)
        await peer.receive_exactly(len(HELLO))
        await wait_until(lambda: user.done >= done + 10 or not user.node.connections, WITHIN)
        await peer.send(b"\xff" * 10)
        await peer.receive_all()
    with await RawPeer.dial(addr) as peer, suppress(ConnectionResetError):
        await peer.send(HELLO)
        await peer.receive_exactly(len(HELLO))
        peer.half_close()
        await peer.receive_all()
    with await RawPeer.dial(addr) as peer:
        peer.reset()
    with await RawPeer.dial(addr) as peer, suppress(ConnectionResetError):
        await peer.send(HELLO)
        await peer.receive_exactly(len(HELLO))
        if user.idle_timeout < WITHIN:
            await peer.receive_all()  # which silence ends
    await wait_until(lambda: not user.node.connecting, WITHIN)
