"""Stay connected to a set of peers: dial again after growing, random pauses, and give up on those that are no peers.

Shows how `on_disconnect` starts the next dial in the background, what tells a peer that is down for now (`OSError`)
from one that can never be a peer (the handshake's own error), which ends were intended (the origins USER and
SHUTDOWN), and how heartbeats notice a peer whose machine has lost its power. `Keeper` and `Heartbeat` can be copied
into your own program. Run `python examples/reconnect.py`. You will see two peers connected and a third one banned,
since it belongs to another network; then one of the two goes down, is dialled a few times without success, and is
connected again soon after it has come back.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from random import uniform
from typing import TYPE_CHECKING

import anyio
from anyio.streams.buffered import BufferedByteStream

from _common import command_line, run
from pea2pea import (
    Address,
    AlreadyConnectedError,
    Config,
    Connection,
    ConnectionLimitError,
    DisconnectOrigin,
    HandshakeError,
    Node,
)
from pea2pea.codecs import BytesCodec
from pea2pea.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anyio.abc import ByteStream


class ForeignNetworkError(Exception):
    """The peer belongs to another network."""


class Keeper:
    """Keeps a node connected to `peers` (their names, by address), with pauses of at most `longest` seconds."""

    def __init__(self, node: Node, peers: Mapping[Address, str], *, shortest: float = 0.05, longest: float = 1) -> None:
        self.peers = dict(peers)
        self.tries: Counter[Address] = Counter()
        self._node = node
        self._shortest = shortest
        self._longest = longest
        node.enable_on_disconnect(self)

    def start(self) -> None:
        for addr in self.peers:
            self._node.start_soon(self._dial, addr)

    async def ban(self, addr: Address, why: str) -> None:
        """Dial it no more, and leave it if it is connected."""
        print(f"{self.peers.pop(addr)} is banned: {why}")
        for connection in self._node.connections.values():
            if connection.dialled == addr:
                await self._node.disconnect(connection, abort=True)

    async def _dial(self, addr: Address) -> None:
        while name := self.peers.get(addr):
            if tries := self.tries[addr]:
                # the whole pause is random, or all that lost the same peer would dial at the same time
                await anyio.sleep(uniform(0, min(self._shortest * 2**tries, self._longest)))  # noqa: S311  # no secret
            self.tries[addr] += 1
            try:
                connection = await self._node.connect(addr)
            except AlreadyConnectedError:
                return  # somebody else has dialled it; when that ends, it is our turn again
            except (OSError, ConnectionLimitError) as error:
                print(f"{name} is not there: {type(error).__name__}")
            except HandshakeError as error:
                if isinstance(error.__cause__, ForeignNetworkError):
                    await self.ban(addr, str(error.__cause__))
                else:  # this may pass: a peer whose limits are reached hangs up, too
                    print(f"{name} has hung up")
            else:
                print(f"{name} is connected")
                if addr not in self.peers:  # it was banned meanwhile
                    await self._node.disconnect(connection, abort=True)
                return

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        if connection.dialled in self.peers and origin not in (DisconnectOrigin.USER, DisconnectOrigin.SHUTDOWN):
            print(f"{self.peers[connection.dialled]} is lost")
            if anyio.current_time() - connection.stats.created > self._longest:
                self.tries[connection.dialled] = 0  # it was there for long enough to be trusted again
            self._node.start_soon(self._dial, connection.dialled)


class Heartbeat:
    """Sends a byte to each peer every `pause` seconds, and ends a connection from which nothing comes for 3 of them.

    Without it a peer that has crashed, or that cannot be reached any more, stays connected: TCP sends nothing where
    there is nothing to send, and so finds out nothing.
    """

    def __init__(self, node: Node, pause: float = 5) -> None:
        self._pause = pause
        node.enable_reading(self, idle_timeout=3 * pause)
        self._outbox = node.enable_writing(self)
        node.enable_on_connect(self)

    def decoder(self, connection: Connection) -> BytesCodec:
        return BytesCodec()

    encoder = decoder

    async def process_message(self, source: Connection, message: bytes) -> None:
        """That something has come is all."""

    async def on_connect(self, connection: Connection) -> None:
        while True:  # it is cancelled when the connection ends
            await self._outbox.send(connection, b"\0")
            await anyio.sleep(self._pause)


class Hello:
    """A handshake that tells one network from another."""

    def __init__(self, network: str) -> None:
        self.network = network

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        buffered = BufferedByteStream(stream)
        await stream.send(self.network.encode() + b"\n")
        network = (await buffered.receive_until(b"\n", max_bytes=100)).decode()
        if network != self.network:
            raise ForeignNetworkError(f"its network is {network!r}")
        return buffered


def new_node(name: str, network: str = "tea", addr: Address = ("127.0.0.1", 0)) -> Node:
    node = Node(Config(name=name, listener_addr=addr))
    node.enable_handshake(Hello(network))
    Heartbeat(node)
    return node


async def main() -> None:
    node = new_node("keeper")
    async with AsyncExitStack() as stack:
        peers = {}
        for peer in (new_node("first"), second := new_node("second"), new_node("third", "coffee")):
            await stack.enter_async_context(peer)
            peers[await peer.start_listening()] = peer.name
        address = second.listening_addr
        assert address is not None
        await stack.enter_async_context(node)
        keeper = Keeper(node, peers)
        keeper.start()
        await wait_until(lambda: len(node.connections) == len(keeper.peers) == 2)

        await second.shut_down()
        before = keeper.tries[address]
        await wait_until(lambda: keeper.tries[address] > before + 3, timeout=30)

        print("second comes back")
        async with new_node("second", addr=address) as again:
            await again.start_listening()
            await wait_until(lambda: again.connections, timeout=30)
            print(f"{keeper.tries[address]} dials, all in all")


if __name__ == "__main__":
    run(command_line(__doc__).parse_args(), main)
