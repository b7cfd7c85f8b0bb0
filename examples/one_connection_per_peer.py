"""One connection for each pair of peers, also when both of them dial at the same time.

Shows a handshake that tells peers by an id, not by their address, and settles a tie: of each two nodes the one with
the greater id decides which connection is the one, and tells the other, so that they are always of one mind. (The
ids here are claimed, not proven: in the real world they are keys, after a handshake like those of `noise.py` and
`tls.py`.) Run `python examples/one_connection_per_peer.py`. You will see each of eight nodes dial all the others at
once, so twice as many dials as there are pairs, and exactly one connection for each pair come of it.
"""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteStream

from _common import command_line, run
from pea2pea import AlreadyConnectedError, Config, Connection, HandshakeError, Node
from pea2pea.testing import wait_until

if TYPE_CHECKING:
    from anyio.abc import ByteStream

MEMBERS = 8
ID_LENGTH = 16
YES, NO = b"+", b"-"


class DuplicateError(Exception):
    """There is another connection to that peer, or it is this very node."""


class Member:
    """A node with one connection to each of its peers."""

    def __init__(self, name: str) -> None:
        self.id = secrets.token_bytes(ID_LENGTH)
        self.peers: dict[bytes, Connection] = {}  # by their ids; some are about to be established
        self.node = Node(Config(name=name))
        self.node.enable_handshake(self)

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        buffered = BufferedByteStream(stream)
        await stream.send(self.id)
        peer_id = await buffered.receive_exactly(ID_LENGTH)
        if self.id > peer_id:
            is_first = peer_id not in self.peers  # from here until it is noted nothing is awaited: there is no race
        else:
            is_first = peer_id != self.id and await buffered.receive_exactly(1) == YES
        if is_first:
            self.node.start_soon(self.keep, peer_id, connection)
            self.peers[peer_id] = connection
        if self.id > peer_id:
            await stream.send(YES if is_first else NO)
        if not is_first:
            raise DuplicateError(f"{peer_id.hex()} is connected already")
        return buffered

    async def keep(self, peer_id: bytes, connection: Connection) -> None:
        """Remove a peer when its connection ends. `on_disconnect` is not enough: it is not called if the set-up fails
        after this, in the rest of the handshake or behind it (a shutdown, or a dial that needed the slot).
        """
        try:
            await connection.wait_closed()
        finally:
            if self.peers.get(peer_id) is connection:  # the other side may have settled for a later one
                del self.peers[peer_id]


async def dial(member: Member, other: Member) -> bool:
    """Says whether this dial made the connection; if not, there is another one, or there will be in a moment."""
    assert other.node.listening_addr is not None
    try:
        await member.node.connect(other.node.listening_addr)
    except AlreadyConnectedError:  # at that very address: the node itself knows
        return False
    except HandshakeError as error:
        if not isinstance(error.__cause__, DuplicateError):
            raise
        return False
    return True


async def main() -> None:
    members = [Member(f"member {number}") for number in range(MEMBERS)]
    outcomes: list[bool] = []
    async with AsyncExitStack() as stack:
        for member in members:
            await stack.enter_async_context(member.node)
            await member.node.start_listening()

        async def dial_and_tell(member: Member, other: Member) -> None:
            outcomes.append(await dial(member, other))

        async with anyio.create_task_group() as tasks:
            for member in members:
                for other in members:
                    if member is not other:
                        tasks.start_soon(dial_and_tell, member, other)
        await wait_until(lambda: all(len(member.node.connections) == MEMBERS - 1 for member in members))

        pairs = {
            frozenset((connection.addr, connection.extra(SocketAttribute.local_address)))
            for member in members
            for connection in member.node.connections.values()
        }
        print(f"{len(outcomes)} dials, {outcomes.count(False)} of them refused as duplicates")
        print(f"{MEMBERS} members have {len(pairs)} connections, {MEMBERS - 1} each")

        alice, bob = members[:2]
        print(f"a later dial is {'accepted' if await dial(alice, bob) else 'refused'}")
        await alice.node.disconnect(alice.peers[bob.id])
        await wait_until(lambda: alice.id not in bob.peers)
        print(f"after a disconnect it is {'accepted' if await dial(alice, bob) else 'refused'}")


if __name__ == "__main__":
    run(command_line(__doc__).parse_args(), main)
