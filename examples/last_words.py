"""Last words: what a node still sends to a peer while their connection ends, and when the peer does not get it.

Shows `on_disconnect`: it runs once for every connection, is told what ended it, and may still send. An orderly end, by
a disconnect or a shutdown, delivers what it sends; a ban (`abort=True`) closes the socket at once; and a peer that has
left reads nothing any more. Run `python examples/last_words.py` (also with `--backend trio` or `--backend uvloop`). You
will see an old king part from each of his four heirs, and what they have heard of it.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from weakref import WeakKeyDictionary

import anyio
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteStream

from _common import command_line, run, shown
from pea2pea import Config, Connection, DisconnectOrigin, Node, NotConnectedError
from pea2pea.codecs import LinesCodec
from pea2pea.topology import connect_nodes, star

OURS = (DisconnectOrigin.USER, DisconnectOrigin.SHUTDOWN)  # this side has ended it, not the peer
NAME_LENGTH = 16  # bytes, filled up with blanks


class Noble:
    """Has something to say at the very end."""

    def __init__(self, name: str, last_words: str) -> None:
        self.last_words = last_words
        self.names: WeakKeyDictionary[Connection, str] = WeakKeyDictionary()
        self.was_left = anyio.Event()
        self.node = Node(Config(name=name))
        self.node.enable_handshake(self)
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)
        self.node.enable_on_disconnect(self, timeout=1.0)

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        """Exchange names. Nothing is read beyond them, so that the bare stream can be returned."""
        await stream.send(self.node.name.ljust(NAME_LENGTH).encode())
        name = (await BufferedByteStream(stream).receive_exactly(NAME_LENGTH)).decode().strip()
        if name in self.peers:
            raise ValueError("that name is taken")
        self.names[connection] = name
        return stream

    @property
    def peers(self) -> dict[str, Connection]:
        """The connections by the peers' names, made of `Node.connections`: an entry goes with its connection."""
        return {self.names[connection]: connection for connection in self.node.connections.values()}

    def decoder(self, _connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=1024)

    def encoder(self, _connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=1024)

    async def process_message(self, source: Connection, message: str) -> None:
        print(f"{self.node.name} hears {shown(self.names[source])}: {shown(message)}")

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        """The peer is still among the connections, and last words, if any can be sent, still go out to it."""
        name = shown(self.names[connection])
        print(f"{self.node.name} and {name} part: {origin.name}")
        if origin in OURS:
            try:
                await self.outbox.send(connection, self.last_words)
            except NotConnectedError:
                print(f"{self.node.name} has no word for {name}")
        self.was_left.set()


async def main() -> None:
    king = Noble("The King", "The crown is yours.")
    heirs = [Noble(name, f"{name} never wanted it.") for name in ("Regan", "Goneril", "Cordelia", "Edmund")]
    regan, goneril, cordelia, edmund = heirs
    async with AsyncExitStack() as stack:
        for heir in heirs:
            await stack.enter_async_context(heir.node)
        async with king.node:
            await king.node.start_listening()
            await connect_nodes([king.node, *(heir.node for heir in heirs)], star(5))

            print("The King sends Regan away.")
            await king.node.disconnect(king.peers["Regan"])
            await regan.was_left.wait()

            print("The King bans Goneril.")
            await king.node.disconnect(king.peers["Goneril"], abort=True)
            await goneril.was_left.wait()

            print("Cordelia leaves.")
            king.was_left = anyio.Event()
            await cordelia.node.shut_down()
            await king.was_left.wait()

            print("The King dies.")
        await edmund.was_left.wait()


if __name__ == "__main__":
    run(command_line(__doc__).parse_args(), main)
