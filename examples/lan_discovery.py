"""Peers on a local network find each other without any address being configured.

Shows UDP broadcasts over AnyIO beside a node: each node says again and again where it listens, and of two that hear
each other the one with the lesser name dials, so that there is one connection. Anybody can send a beacon, so dials are
limited, and names prove nothing: for that, see `noise.py`. Run `python examples/lan_discovery.py`.
You will see four nodes find each other on the loopback network, which no packet leaves; then one of them leaves, and
another one comes and is found. On a real network, on each machine, with its broadcast address (see `ip address`):
`python examples/lan_discovery.py --alone --port 5454 --broadcast 192.168.1.255 --listen 0.0.0.0`.
"""

from __future__ import annotations

import re
import secrets
import socket
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

import anyio
from anyio.abc import UDPSocket
from anyio.streams.buffered import BufferedByteStream

from _common import command_line, run
from pea2pea import Address, AlreadyConnectedError, Config, Connection, Node, NodeError
from pea2pea.testing import wait_until

if TYPE_CHECKING:
    from anyio.abc import ByteStream

INTERVAL = 0.5  # seconds between two beacons of a node, and between two dials to one address
MAX_DIALS = 16  # at a time, however many beacons come
NAME_LENGTH = 8
NAME = re.compile(rb"[0-9a-f]{%d}" % NAME_LENGTH)
BEACON = re.compile(rb"pea2pea-lan ([0-9a-f]{%d}) ([0-9]{1,5})" % NAME_LENGTH)


def beacon_socket(broadcast: str, port: int) -> socket.socket:
    """A socket that shares its port with others on this machine, and gets what is sent to the broadcast address."""
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.bind((broadcast, port))
    return sock


class Neighbour:
    """A node that connects to all those whose beacons it hears."""

    def __init__(self, listen: str = "127.0.0.1") -> None:
        self.name = secrets.token_hex(NAME_LENGTH // 2)
        self.peers: dict[str, Connection] = {}  # by their names; some are about to be established
        self.dialling: set[Address] = set()
        self.node = Node(Config(name=self.name, listener_addr=(listen, 0)))
        self.node.enable_handshake(self)

    async def discover(self, sock: socket.socket) -> None:
        """Send and hear beacons, for as long as the node lives."""
        host, port = sock.getsockname()
        _, listening_port = await self.node.start_listening()
        beacon = f"pea2pea-lan {self.name} {listening_port}".encode()

        async def announce() -> None:
            while True:
                await udp.sendto(beacon, host, port)
                await anyio.sleep(INTERVAL)

        async with await UDPSocket.from_socket(sock) as udp, anyio.create_task_group() as tasks:
            tasks.start_soon(announce)
            async for data, (source, _) in udp:
                if found := BEACON.fullmatch(data):
                    name, addr = found[1].decode(), (source, int(found[2]))
                    if self.name < name and name not in self.peers and 0 < addr[1] < 2**16:
                        self.dial_soon(addr)

    def dial_soon(self, addr: Address) -> None:
        if addr not in self.dialling and len(self.dialling) < MAX_DIALS:
            self.dialling.add(addr)
            self.node.start_soon(self.dial, addr)

    async def dial(self, addr: Address) -> None:
        try:
            with suppress(OSError, NodeError):  # another beacon will come
                await self.node.connect(addr)
            await anyio.sleep(INTERVAL)
        finally:
            self.dialling.discard(addr)

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        buffered = BufferedByteStream(stream)
        await stream.send(self.name.encode())
        name = await buffered.receive_exactly(NAME_LENGTH)
        if not NAME.fullmatch(name):
            raise ValueError("that is no name")
        if name.decode() in self.peers:
            raise AlreadyConnectedError(f"{name.decode()} is connected already")
        self.node.start_soon(self.keep, name.decode(), connection)
        self.peers[name.decode()] = connection
        print(f"{self.name} has found {name.decode()}", flush=True)
        return buffered

    async def keep(self, name: str, connection: Connection) -> None:
        """Remove a peer when its connection ends, also if the set-up fails after the handshake."""
        await connection.wait_closed()
        del self.peers[name]


async def demonstrate(broadcast: str, port: int, listen: str) -> None:
    async with AsyncExitStack() as stack:

        async def start() -> Neighbour:
            nonlocal port
            sock = stack.enter_context(beacon_socket(broadcast, port))
            _, port = sock.getsockname()  # the first one may have been given any port
            neighbour = Neighbour(listen)
            await stack.enter_async_context(neighbour.node)
            neighbour.node.start_soon(neighbour.discover, sock)
            return neighbour

        def all_know_each_other() -> bool:
            return all(len(neighbour.node.connections) == len(neighbours) - 1 for neighbour in neighbours)

        neighbours = [await start() for _ in range(4)]
        await wait_until(all_know_each_other, timeout=30)
        print("all four are connected")

        leaving = neighbours.pop()
        await leaving.node.shut_down()
        print(f"{leaving.name} has left, and another one comes")
        neighbours.append(await start())
        await wait_until(all_know_each_other, timeout=30)
        print("all four are connected again")


async def be_alone(broadcast: str, port: int, listen: str) -> None:
    neighbour = Neighbour(listen)
    with beacon_socket(broadcast, port) as sock:
        async with neighbour.node:
            await neighbour.discover(sock)


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--alone", action="store_true", help="be one node, until Ctrl-C")
    parser.add_argument("--broadcast", default="127.255.255.255", help="where beacons are sent")
    parser.add_argument("--port", type=int, default=0, help="... and the port, which must be the same for all")
    parser.add_argument("--listen", default="127.0.0.1", help="the address of this machine that peers connect to")
    options = parser.parse_args()
    run(options, be_alone if options.alone else demonstrate, options.broadcast, options.port, options.listen)
