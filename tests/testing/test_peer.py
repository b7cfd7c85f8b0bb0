"""A scripted peer, over TCP and over the simulated network."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import pytest
from anyio import BrokenResourceError, EndOfStream

from pea2pea import Config, Connection, FrameError, Node, Transport
from pea2pea.codecs import Codec, LengthDelimitedCodec, mapped
from pea2pea.testing import Network, ScriptedPeer
from pea2pea.transport import TCPTransport
from tests.helpers import wait_until


@dataclass(frozen=True)
class Ping:
    number: int


@dataclass(frozen=True)
class Pong:
    number: int


def codec() -> Codec[Ping | Pong]:
    def decode(data: bytes) -> Ping | Pong:
        return (Ping if data[:1] == b"?" else Pong)(int(data[1:]))

    def encode(message: Ping | Pong) -> bytes:
        return (b"?" if isinstance(message, Ping) else b"!") + str(message.number).encode()

    return mapped(LengthDelimitedCodec(prefix=1), decode=decode, encode=encode)


class Ponger:
    """Answers a ping, unless its number is negative: then it disconnects."""

    def __init__(self, transport: Transport, ip: str) -> None:
        self.node = Node(Config(listener_addr=(ip, 0)), transport=transport)
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)
        self.seen: list[Ping | Pong] = []

    def decoder(self, _: Connection) -> Codec[Ping | Pong]:
        return codec()

    encoder = decoder

    async def process_message(self, source: Connection, message: Ping | Pong) -> None:
        self.seen.append(message)
        if isinstance(message, Ping):
            if message.number < 0:
                await self.node.disconnect(source, abort=message.number < -1)
                return
            await self.outbox.send(source, Pong(message.number))


@pytest.fixture(params=["kernel", "network"])
def ponger(request: pytest.FixtureRequest) -> Ponger:
    if request.param == "kernel":
        return Ponger(TCPTransport(), "127.0.0.1")
    return Ponger(Network(1).host("10.0.0.1"), "10.0.0.1")


async def test_it_asks_and_is_answered(ponger: Ponger) -> None:
    async with ponger.node as node:
        addr = await node.start_listening()
        async with ScriptedPeer.dial(addr, codec(), transport=node._shared.transport) as peer:
            await peer.send(Ping(1), Ping(2))
            assert await peer.expect(Pong, lambda pong: pong.number == 2) == Pong(2)
            assert await peer.expect(Pong) == Pong(1)
            assert await peer.barrier(Ping(3), Pong) == Pong(3)
            assert peer.received == [Pong(1), Pong(2), Pong(3)]
            await peer.expect_nothing(Pong, within=0.02)


async def test_it_is_dialled_and_answers_by_itself(ponger: Ponger) -> None:
    async with ponger.node as node:
        transport = node._shared.transport
        assert node.config.listener_addr is not None
        listener = await transport.listen(node.config.listener_addr, backlog=1, reuse_port=False)
        connection = await node.connect(listener.addr)
        async with ScriptedPeer.accept(listener, codec()) as peer:
            peer.replies[Ping] = lambda ping: [Pong(ping.number + number) for number in range(2)]
            peer.replies[object] = lambda _: []
            await ponger.outbox.send(connection, Ping(7))
            await wait_until(lambda: ponger.seen == [Pong(7), Pong(8)])
            assert await peer.expect(Ping) == Ping(7)
        await connection.wait_closed()
        await listener.aclose()


async def test_what_does_not_come_is_told_with_what_has_come(ponger: Ponger) -> None:
    async with ponger.node as node:
        addr = await node.start_listening()
        async with ScriptedPeer.dial(addr, codec(), transport=node._shared.transport) as peer:
            await peer.barrier(Ping(1), Pong)
            await peer.send(Ping(5))
            with pytest.raises(TimeoutError, match=r"no Ping .*\[Pong\(number=5\)\]"):
                await peer.expect(Ping, within=0.05)
            with pytest.raises(AssertionError, match=r"no Pong, but .*Pong\(number=5\)"):
                await peer.expect_nothing(Pong, within=0.05)
            with pytest.raises(TimeoutError):
                await peer.wait_closed(within=0.02)


async def test_a_clean_end_has_no_cause(ponger: Ponger) -> None:
    async with ponger.node as node:
        addr = await node.start_listening()
        async with ScriptedPeer.dial(addr, codec(), transport=node._shared.transport) as peer:
            await peer.send(Ping(-1))
            assert await peer.wait_closed() is None
            with pytest.raises(EndOfStream, match="has ended the connection"):
                await peer.expect(Pong)


async def test_a_reset_is_the_cause(ponger: Ponger) -> None:
    async with ponger.node as node:
        addr = await node.start_listening()
        async with ScriptedPeer.dial(addr, codec(), transport=node._shared.transport) as peer:
            await peer.send(Ping(-2))
            assert isinstance(await peer.wait_closed(), BrokenResourceError)
            with pytest.raises(BrokenResourceError):
                await peer.expect(Pong)


@pytest.mark.parametrize("reset", [False, True])
async def test_it_ends_and_resets(ponger: Ponger, reset: bool) -> None:
    async with ponger.node as node:
        addr = await node.start_listening()
        async with ScriptedPeer.dial(addr, codec(), transport=node._shared.transport) as peer:
            await peer.barrier(Ping(1), Pong)
            (connection,) = node.connections.values()
            await peer.send(Ping(2))
            await (peer.reset() if reset else peer.end())
            if not reset:
                await peer.expect(Pong)
            await connection.wait_closed()
            assert isinstance(connection.cause, ConnectionResetError if reset else type(None))


async def test_nonsense_can_be_sent_and_is_told_when_it_comes(ponger: Ponger) -> None:
    async with ponger.node as node:
        addr = await node.start_listening()
        async with ScriptedPeer.dial(addr, codec(), transport=node._shared.transport) as peer:
            await peer.send_raw(b"\x01x")
            await wait_until(lambda: node.heuristics.decode_errors)
        listener = await node._shared.transport.listen((addr[0], 0), backlog=1, reuse_port=False)
        stream = await node._shared.transport.dial(listener.addr)
        async with ScriptedPeer.accept(listener, codec()) as peer:
            await stream.send(b"\x01x")
            assert isinstance(await peer.wait_closed(), FrameError)
        await stream.aclose()
        await listener.aclose()


async def test_what_the_block_raises_comes_out_as_it_is(ponger: Ponger) -> None:
    async with ponger.node as node:
        addr = await node.start_listening()
        with pytest.raises(LookupError, match="the test's own"):
            async with ScriptedPeer.dial(addr, codec(), transport=node._shared.transport):
                raise LookupError("the test's own")
        with anyio.move_on_after(0.02) as scope:
            async with ScriptedPeer.dial(addr, codec(), transport=node._shared.transport):
                await anyio.sleep_forever()
        assert scope.cancelled_caught
