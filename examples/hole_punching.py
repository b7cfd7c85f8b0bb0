"""Two peers behind NATs, which nobody can dial, connect to each other directly: TCP simultaneous open.

Shows how `Node.adopt` takes sockets that you have made yourself. Both peers register with a rendezvous server, which
tells each of them the address at which it sees the other one. Then both dial that address at the same time, from the
port from which they registered, and the two dials become one connection (RFC 9293, section 3.5, and RFC 5128, section
3.4): for a NAT each dial is an answer to the other. Run `python examples/hole_punching.py`. You will see the server
introduce two peers, each in a process of its own, and the peers greet each other without the server. On three machines:
`--server HOST:PORT` on a public one, and `--peer NAME --rendezvous HOST:PORT` on two others.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from functools import partial
from ipaddress import ip_address

import anyio

from _common import command_line, run, shown
from pea2pea import Address, Config, Connection, DisconnectOrigin, Node, NotConnectedError, Side, TCPTransport
from pea2pea.codecs import LinesCodec

PATIENCE = 30.0  # seconds for getting through
WAIT = 600.0  # seconds that a peer waits for another one, and may be silent
PAUSE = 0.5  # seconds between two tries, where a refusal takes its time


def bound_socket(local: Address) -> socket.socket:
    """A socket at a local address, which it may share with others."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if sys.platform != "linux":  # where it takes both
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(local)
    return sock


async def dial(local: Address, remote: Address) -> socket.socket:
    """Connect from `local`; raises `OSError`."""
    sock = bound_socket(local)
    try:
        sock.connect_ex(remote)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code:
            await anyio.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, f"dialling {remote} from {local} failed")
    except BaseException:
        sock.close()
        raise
    return sock


async def punch(local: Address, remote: Address) -> socket.socket:
    """Dial until the dials meet; raises `TimeoutError`."""
    # A NAT drops what it did not expect, and the system dials again by itself; but on loopback a dial is refused within
    # microseconds, and only one within the same moment at the other end meets it.
    pause = 0 if ip_address(remote[0]).is_loopback else PAUSE
    with anyio.fail_after(PATIENCE):
        while True:
            with suppress(OSError):
                return await dial(local, remote)
            await anyio.sleep(pause)


class Lines:
    """What the server and the peers say is lines of text."""

    def decoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=200)

    def encoder(self, connection: Connection) -> LinesCodec:
        return LinesCodec(max_length=200)


class Rendezvous(Lines):
    """Introduces peers to each other, two by two."""

    def __init__(self, addr: Address = ("127.0.0.1", 0)) -> None:
        self.node = Node(Config(name="rendezvous", listener_addr=addr))
        self.node.enable_reading(self, idle_timeout=WAIT)
        self.node.enable_on_disconnect(self)
        self.outbox = self.node.enable_writing(self)
        self.waiting: dict[Connection, str] = {}

    async def process_message(self, source: Connection, message: str) -> None:
        self.waiting.pop(source, None)  # it registers again: nobody is introduced to itself
        for other, name in list(self.waiting.items()):
            del self.waiting[other]
            try:
                self.outbox.send_nowait(other, "{} {}".format(*source.addr))
            except NotConnectedError:  # it is just leaving
                continue
            await self.outbox.send(source, "{} {}".format(*other.addr))
            print(f"rendezvous: {shown(message)}, meet {shown(name)}", flush=True)
            return
        self.waiting[source] = message

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        self.waiting.pop(connection, None)


class Peer(Lines):
    """Greets the peer that it is introduced to."""

    def __init__(self, name: str) -> None:
        self.node = Node(Config(name=name, listener_addr=None))
        self.node.enable_reading(self, idle_timeout=WAIT)
        self.outbox = self.node.enable_writing(self)
        self.introduced = anyio.Event()
        self.greeted = anyio.Event()

    async def meet(self, rendezvous: Address) -> None:
        """Register, and connect to the peer that the server names."""
        sock = await dial(("0.0.0.0", 0), rendezvous)  # noqa: S104  # any address, for a dial
        local = sock.getsockname()
        self.rendezvous = await self.node.adopt(TCPTransport.wrap(sock), rendezvous, Side.INITIATOR)
        await self.outbox.send(self.rendezvous, self.node.name)
        with anyio.fail_after(WAIT):
            await self.introduced.wait()

        sock = await punch(local, self.other)
        side = Side.INITIATOR if local < self.other else Side.RESPONDER  # both have dialled
        connection = await self.node.adopt(TCPTransport.wrap(sock), self.other, side)
        await self.node.disconnect(self.rendezvous)
        await self.outbox.send(connection, f"{self.node.name} is here")
        with anyio.fail_after(PATIENCE):
            await self.greeted.wait()

    async def process_message(self, source: Connection, message: str) -> None:
        if source is self.rendezvous:
            try:
                self.other = endpoint(message)
            except ValueError:
                print(f"{self.node.name}: the server answers {message!r}", flush=True)
                await self.node.disconnect(source)
                return
            self.introduced.set()
        else:
            print(
                f"{self.node.name}: {message!r}, says {source} directly\n", end="", flush=True
            )  # one write: two processes share the screen
            self.greeted.set()


def endpoint(text: str) -> Address:
    """An IP address and a port; `ValueError` for anything else, since the text comes from a server."""
    host, port = text.split(" ")
    if not 0 < int(port) < 2**16:
        raise ValueError(f"{port} is no port")
    return str(ip_address(host)), int(port)


async def serve(addr: Address) -> None:
    rendezvous = Rendezvous(addr)
    async with rendezvous.node as node:
        print("the server listens at {}:{}".format(*await node.start_listening()), flush=True)
        await anyio.sleep_forever()


async def be_peer(name: str, rendezvous: Address) -> None:
    peer = Peer(name)
    async with peer.node:
        await peer.meet(rendezvous)


async def demonstrate(backend: str) -> None:
    """A server here, and two peers in processes of their own: within one, dials cannot meet."""
    rendezvous = Rendezvous()
    async with rendezvous.node as node, anyio.create_task_group() as tasks:
        host, port = await node.start_listening()
        for name in ("Alice", "Bob"):
            command = [sys.executable, __file__, "--peer", name, "--rendezvous", f"{host}:{port}", "--backend", backend]
            tasks.start_soon(partial(anyio.run_process, command, stdout=None, stderr=None))
    print(f"rendezvous: I have heard {node.stats.messages_received} messages, two registrations")


def address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--server", type=address, metavar="HOST:PORT", help="be the rendezvous server")
    parser.add_argument("--peer", metavar="NAME", help="be a peer")
    parser.add_argument("--rendezvous", type=address, metavar="HOST:PORT", help="where a peer registers")
    options = parser.parse_args()
    if options.server:
        run(options, serve, options.server)
    elif options.peer:
        run(options, be_peer, options.peer, options.rendezvous)
    else:
        run(options, demonstrate, options.backend)
