"""Two nodes on one machine: a handshake that exchanges names, typed messages both ways, and a goodbye.

Run `python examples/hello.py` (or with `--backend trio`, `--backend uvloop`). You will see both nodes introduce
themselves, Alice's greeting come back in capitals, and each of them notice that the other one has gone.
"""

from __future__ import annotations

import argparse
from weakref import WeakKeyDictionary

import anyio
from anyio.abc import ByteStream

from pea2pea import Config, Connection, DisconnectOrigin, Node, Side
from pea2pea.codecs import LinesCodec
from pea2pea.handshakes import MessageStream


class Greeter:
    """A node that knows its peers' names and answers every greeting in capitals."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.names: WeakKeyDictionary[Connection, str] = WeakKeyDictionary()
        self.answered = anyio.Event()
        self.left = anyio.Event()
        self.node = Node(Config(name=name))
        self.node.enable_handshake(self)
        self.node.enable_reading(self)
        self.outbox = self.node.enable_writing(self)  # an Outbox[str], by what `encoder` returns
        self.node.enable_on_disconnect(self)

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        """Both sides say their names; what was read too far stays in the stream that is returned.

        An exception refuses the peer. The responder has the last word, so the initiator hears whether it did.
        """
        messages = MessageStream(stream, LinesCodec(max_length=32))
        await messages.send(self.name)
        name = await messages.receive()
        if not name.isprintable():  # it could do what it likes to the screen
            raise ValueError(f"{name!r} is no name")
        if connection.side is Side.RESPONDER:
            await messages.send("welcome")
        else:
            await messages.receive()
        self.names[connection] = name
        print(f"{self.name}: {connection.side.value} of a connection with {name}")
        return messages.detach()

    def decoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=1000)  # a small one: a peer can make the node hold twice as much

    def encoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec()

    async def process_message(self, source: Connection, message: str) -> None:
        print(f"{self.name}: {self.names[source]} says {message!r}")
        if message.isupper():
            self.answered.set()
        else:
            await self.outbox.send(source, message.upper())

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        print(f"{self.name}: {self.names[connection]} is gone ({origin.name})")
        self.left.set()


async def main() -> None:
    alice, bob = Greeter("Alice"), Greeter("Bob")
    async with alice.node, bob.node:
        connection = await alice.node.connect(await bob.node.start_listening())
        await alice.outbox.send(connection, f"hello, {alice.names[connection]}")
        await alice.answered.wait()
        await alice.node.disconnect(connection)
        await bob.left.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["asyncio", "uvloop", "trio"], default="asyncio")
    backend = parser.parse_args().backend
    if backend == "uvloop":
        anyio.run(main, backend_options={"use_uvloop": True})
    else:
        anyio.run(main, backend=backend)
