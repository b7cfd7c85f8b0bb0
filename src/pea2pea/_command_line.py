r"""See what your protocol says: `nc` for people who write protocols.

    pea2pea listen ADDR              accept peers, and send them the lines of standard input
    pea2pea connect ADDR...          connect to peers, and send them the lines of standard input
    pea2pea proxy LISTEN TARGET      accept peers, connect each to TARGET, and show what both sides say
    pea2pea replay FILE ADDR         send the bytes of a record once more

`python -m pea2pea` is the same program. An address is HOST:PORT, [IPV6]:PORT, or :PORT for 127.0.0.1. `listen` and
`proxy` print the address that they have bound as their first line; with port 0 the system chooses a free port.

Frames (--frame): how bytes become messages, and back.
    lines                   text in UTF-8; each message ends with a line feed (the default)
    raw                     bytes as they come, without frames
    u16, u32be, u32le       bytes behind their length: 2 bytes big-endian, 4 big-endian, 4 little-endian
    varint                  bytes behind their length as a varint (LEB128, as in Protocol Buffers)
    delimiter:HEX           bytes, each message followed by the delimiter: delimiter:0d0a
    PACKAGE.MODULE:FACTORY  your own codec: what FACTORY() returns. The module is looked for in this directory first.

Input: one line is one message, sent to every peer. Peers are numbered as they come.
    @2 text                 send to peer 2 only
    @FILE                   send what the file holds (with the frame `lines`: each of its lines)
    @@text                  send a text that begins with @
With --hex a line holds bytes in hexadecimal. A codec of your own is given the bytes of the line; if it takes none, the
Python literal that the line is, in which classes that are in the codec's module may be called: Bid(amount=30); if it
takes that neither, the text. With the frame `raw`, a line is sent with its line feed, and input that comes from a file
or a pipe is sent as it is, without looking for @.

Output: one line is one message: time, direction (-> to the peer, <- from it; of a proxy: -> to TARGET, <- from
it), number and address of the peer, length in bytes, bytes in hexadecimal, and the text (or the repr of what your
codec makes). Characters that a terminal would obey are escaped. The line is cut at --width. What is no message goes
to standard error: who comes, why each connection ended, the statistics. With --json each line of standard output is
a JSON object. Colours are for terminals alone, and not where NO_COLOR is set.

The end: `connect` leaves when all its peers have closed. At the end of the input from a file or a pipe, the
connections are half-closed (TLS cannot do that), and the program leaves when all peers have closed, or none has sent
anything for --timeout seconds. Input that is empty (< /dev/null) ends nothing. At a terminal, Ctrl-D leaves at once.
Ctrl-C and SIGTERM leave in order, which takes 5 seconds at most; a second one leaves at once. A proxy hands on the
end of a stream as it is: a half-close as a half-close, a reset as a reset.

Exit codes: 0 an orderly end; 1 the network failed (refused, reset, no answer in time, no valid frame); 2 a wrong call;
130, 143 a second Ctrl-C, SIGTERM.

A record (--record FILE) and --json have one JSON object a line, with `time` (seconds since 1970), `event`, and for an
event of a connection its number `connection` and the peer's address `peer`:
    listening               address
    connected
    message                 direction ("->" or "<-"), sender ("initiator" or "responder": who has dialled, or not),
                            length, hex and text, or repr; wire: the frame in hexadecimal, where it differs from hex.
                            Of a large piece that your codec makes several messages of, the first one has all the bytes,
                            unless the codec has an attribute `missing` (see `pea2pea.Decoder`).
    bytes                   as message: bytes that are no message
    disconnected            why
    statistics              connections, and messages and bytes in either direction
`replay` sends the `wire` of everything that the initiator has sent, a connection for each in the record, with the
record's pauses (--speed 10: ten times as fast; --speed 0: none).

Examples, each a line for a shell:
    pea2pea listen 127.0.0.1:4000
    echo hello | pea2pea connect 127.0.0.1:4000
    echo hello | pea2pea connect 127.0.0.1:4000 --one --timeout 2
    printf 'GET / HTTP/1.0\r\n\r\n' | pea2pea connect 127.0.0.1:4000 --frame raw
    echo '68 65 6c 6c 6f' | pea2pea connect 127.0.0.1:4000 --frame u32be --hex
    pea2pea proxy 127.0.0.1:4001 127.0.0.1:4000 --record talk.jsonl
    pea2pea replay talk.jsonl 127.0.0.1:4000 --speed 10
    echo '{"bid": 30}' | pea2pea connect 127.0.0.1:4000 --frame my_codec:make --json
    pea2pea listen 127.0.0.1:4002 --tls --cert node.pem --key node.key
    echo hello | pea2pea connect localhost:4002 --tls --ca ca.pem --timeout 1
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import anyio
from anyio import BrokenResourceError, CancelScope, ClosedResourceError, Event, current_time
from anyio.streams.tls import TLSStream

from ._address import Address, show
from ._arguments import call, prepare_tls
from ._screen import Failure, Framing, Item, Peer, Screen, Tap, read, read_record, reason_of, why_ended
from .codecs import BytesCodec, LinesCodec
from .config import Config
from .connection import Connection, DisconnectOrigin, Side
from .errors import FrameError, NodeError, NotConnectedError, SelfConnectionError
from .node import Node
from .transport import TCPTransport, Transport

if TYPE_CHECKING:
    from anyio.abc import ByteStream, TaskGroup

PATIENCE = 7 * 24 * 3600.0  # seconds for what the user alone ends
GRACE = 5.0  # seconds that leaving may take after Ctrl-C


async def dial_any(transport: Transport, candidates: Sequence[Address]) -> tuple[ByteStream, Address]:
    """Connect to the first of these addresses that answers; if none does, raise what the last one raises."""
    for addr in candidates[:-1]:
        with suppress(OSError):
            return await transport.dial(addr), addr
    return await transport.dial(candidates[-1]), candidates[-1]


class Peers:
    """The node, its hooks, and who is there."""

    def __init__(self, options: argparse.Namespace, screen: Screen, tasks: TaskGroup) -> None:
        self.options, self.screen, self.tasks = options, screen, tasks
        self.framing: Framing = options.framing
        self.all: dict[Connection, Peer] = {}
        self.fresh: dict[Connection, Peer] = {}  # for who is dialling
        self.numbered: dict[int, Peer] = {}  # without a proxy's connections to the target
        self.numbers = self.dialled = self.received = 0
        self.host = ""  # that is dialled
        self.arrived = Event()  # there is, or was, a peer
        self.finishing = False  # the program leaves when it has no peers
        self.node = node = Node(
            Config(
                name=options.command, listener_addr=options.listen, connection_timeout=options.timeout,
                max_connections=1024, max_connections_per_ip=1024, grace_period=PATIENCE,
            )
        )  # fmt: skip
        node.enable_handshake(self, timeout=options.timeout * 3)  # that of a proxy includes the one with the target
        node.enable_reading(self, idle_timeout=None)
        node.enable_on_connect(self)
        node.enable_on_disconnect(self, timeout=PATIENCE)
        self.outbox = node.enable_writing(self, timeout=PATIENCE)

    def counted(self) -> dict[str, int]:
        """The statistics."""
        stats, heuristics = self.node.stats, self.node.heuristics
        sent = self.received if self.options.command == "proxy" else stats.messages_sent
        counted = {"connections": self.numbers, "messages_received": self.received, "messages_sent": sent}
        counted |= {"bytes_received": stats.bytes_received, "bytes_sent": stats.bytes_sent}
        return counted | {key: value for key, value in asdict(heuristics).items() if value}

    async def dial(self, addr: Address) -> Peer:
        """Connect to `addr`, also if there is a connection to it already; `Failure` says why that cannot be."""
        self.host, transport = addr[0], TCPTransport()
        try:
            with anyio.fail_after(self.options.timeout):
                stream, found = await dial_any(transport, await transport.resolve(addr))
            if found in self.node.connections or found in self.node.connecting:
                self.dialled += 1
                found = (f"{found[0]}#{self.dialled}", found[1])
            return self.fresh.pop(await self.node.adopt(stream, found, Side.INITIATOR))
        except SelfConnectionError as error:
            failure = Failure(f"{show(addr)} leads back to this proxy; correct one of them", 2)
            await self.screen.fail(failure)
            raise failure from error
        except (OSError, NodeError) as error:
            raise Failure(f"cannot connect to {show(addr)}: {reason_of(error)}") from error

    async def send(self, peer: Peer, message: object, wire: bytes) -> None:
        """Send a message, and show it; raises `NotConnectedError`."""
        await self.outbox.send(peer.connection, wire)
        await self.screen.show(peer, Item("message", message, wire), "->")

    async def half_close(self, peer: Peer) -> bool:
        """Let a peer know that nothing more will come; False if it cannot be told while it may still answer."""
        try:
            await self.outbox.drain(peer.connection)
            await peer.stream.send_eof()
        except NotImplementedError:  # TLS
            return False
        except (NotConnectedError, BrokenResourceError, ClosedResourceError):  # that is told when it ends
            pass
        return True

    async def wait_silent(self, peers: Collection[Peer], over: Event) -> None:
        """Wait until none of the peers has said anything for `--timeout` seconds, or for `over`."""
        began, timeout = current_time(), self.options.timeout
        while not over.is_set():
            left = max([began, *(peer.heard for peer in peers)]) + timeout - current_time()
            if left <= 0:
                break
            with anyio.move_on_after(left):
                await over.wait()

    async def leave_alone(self) -> None:
        """Leave if there is nobody left to wait for."""
        if self.finishing and not self.numbered and not self.screen.leaving.is_set():
            self.screen.leaving.set()
            if self.options.one:
                await self.screen.fail(Failure("no answer: the connection has ended"))

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        """TLS, if that is asked for. A proxy dials before it accepts a peer."""
        options, inbound = self.options, connection.side is Side.RESPONDER
        context = options.contexts.get(connection.side)
        try:
            if context is not None and options.confirm:
                stream = await options.tls_handshake.perform_handshake(connection, stream)
            elif context is not None:
                host = None if inbound else self.host.partition("%")[0]
                stream = await TLSStream.wrap(stream, server_side=inbound, hostname=host, ssl_context=context)
            self.all[connection] = peer = Peer(connection, stream, self.framing.make())
            if not inbound:
                self.fresh[connection] = peer
            elif options.command == "proxy":
                peer.other = await self.dial(options.dial[0])
                peer.other.other = peer
        except Exception as error:
            if inbound:
                await self.screen.note(f"{connection} was refused: {reason_of(error)}")
            raise
        return stream

    def decoder(self, _: Connection) -> Tap:
        """See `Reading`."""
        exact = self.screen.record is not None or self.options.json or self.framing.classes is not None
        return Tap(self.framing, exact=exact, forward=self.options.command == "proxy")

    def encoder(self, _: Connection) -> BytesCodec:
        """See `Writing`: what is queued is frames already."""
        return BytesCodec()

    async def on_connect(self, connection: Connection) -> None:
        """Welcome a peer, unless it has come and gone already."""
        if connection in self.all:
            await self._welcome(self.all[connection])

    async def _welcome(self, peer: Peer) -> None:
        """Give a peer its number, once; a proxy's connection to the target is given that of the other one."""
        if peer.number or (self.options.command == "proxy" and peer.connection.side is Side.INITIATOR):
            return
        self.numbers += 1
        self.numbered[self.numbers] = peer
        for each in (peer, peer.other):
            if each is not None:
                each.number, each.name = self.numbers, str(peer.connection)
                each.ready.set()
        self.arrived.set()
        await self.screen.tell("connected", peer)
        await self.screen.note(f"{peer.number} {peer.connection} is connected")

    async def process_message(self, source: Connection, item: Item) -> None:
        """Show a message, or hand a chunk on."""
        peer = self.all[source]
        if not peer.ready.is_set():
            await peer.ready.wait()
        if item.event == "note":
            await self.screen.note(f"{peer.number} {source}: {item.message}")
        elif item.event != "chunk":
            peer.received += item.event == "message"
            self.received += item.event == "message"
            peer.heard = current_time()
            if not (self.options.one and self.screen.leaving.is_set()):
                await self.screen.show(peer, item, peer.arrow)
            if self.options.one:
                self.screen.leaving.set()
        elif peer.other is not None:
            try:
                await self.outbox.send(peer.other.connection, item.wire)
            except NotConnectedError:  # nobody is there to take it
                self._abort(source)

    def _abort(self, connection: Connection) -> None:
        """Reset a connection, from any hook: none of them may wait for another one's end."""
        self.tasks.start_soon(partial(self.node.disconnect, connection, abort=True))

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        """Tell why; a proxy hands on the end of the stream, and waits for that of the other one."""
        peer, cause, stats = self.all[connection], connection.cause, connection.stats
        peer.over.set()
        await self._welcome(peer)
        while self.options.command == "proxy" and not (peer.ready.is_set() or self.screen.leaving.is_set()):
            with anyio.move_on_after(0.1):  # the one that it belongs to is not established yet
                await peer.ready.wait()
        if self.numbered.get(peer.number) is peer:
            del self.numbered[peer.number]
        why = why_ended(connection)
        if cause is not None and self.options.listen is None and not self.screen.leaving.is_set():
            self.screen.code = 1
        sent = stats.messages_sent if peer.other is None else peer.other.received
        await self.screen.tell("disconnected", peer, why=why)
        await self.screen.note(
            f"{peer.number} {connection} has ended: {why}; from it {peer.received} messages, "
            f"{stats.bytes_received} bytes; to it {sent} messages, {stats.bytes_sent} bytes"
        )
        await self.leave_alone()
        del self.all[connection]
        if peer.other is not None and origin is not DisconnectOrigin.SHUTDOWN:
            await self._end_other(peer.other, clean=origin is DisconnectOrigin.READING and cause is None)

    async def _end_other(self, other: Peer, *, clean: bool) -> None:
        """Hand on the end of one of a proxy's two connections."""
        if not clean:
            self._abort(other.connection)
        elif await self.half_close(other):
            await other.over.wait()
        else:
            await self.wait_silent([other], other.over)
            self.tasks.start_soon(self.node.disconnect, other.connection)


class Session:
    """One run of the program. Rule: whatever ends it sets `screen.leaving`; what that takes is done by `run` alone."""

    peers: Peers

    def __init__(self, options: argparse.Namespace, stdin: int | None, screen: Screen) -> None:
        self.options, self.stdin, self.screen = options, stdin, screen
        self.framing: Framing = options.framing
        self.typing = stdin is not None and os.isatty(stdin)
        self.ending = CancelScope()  # of the node
        self.signals = 0

    async def run(self) -> int:
        """Until it is left; returns the exit code."""
        screen = self.screen
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(screen.run)
            tasks.start_soon(self._watch_signals)
            self.peers = Peers(self.options, screen, tasks)
            async with self.peers.node as node:
                async with anyio.create_task_group() as script:
                    script.start_soon(self._follow)
                    await screen.leaving.wait()
                    script.cancel_scope.cancel()
                with self.ending:
                    await node.shut_down()
                for connection in node.connections.values():
                    await node.disconnect(connection, abort=True)
            counted = self.peers.counted()
            await screen.tell("statistics", None, **counted)
            if self.peers.numbers or not screen.code:
                await screen.note(", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in counted.items()))
            await screen.flush()
            tasks.cancel_scope.cancel()
        return screen.code

    async def _watch_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                self.signals += 1
                self.screen.leaving.set()
                self.screen.leave_by = self.ending.deadline = current_time() + (GRACE if self.signals == 1 else 0)
                if self.signals > 1:
                    self.screen.code = 128 + number

    async def _follow(self) -> None:
        """Do what the command says."""
        command, peers = self.options.command, self.peers
        try:
            if self.options.listen is not None:
                await self._listen()
            if command == "connect":
                for addr in self.options.dial:
                    await (await peers.dial(addr)).ready.wait()
                peers.finishing = True
                await peers.leave_alone()
            if command == "replay":
                await self._replay()
            elif command != "proxy":
                await self._send_input()
        except Failure as failure:
            await self.screen.fail(failure)

    async def _listen(self) -> None:
        try:
            addr = await self.peers.node.start_listening()
        except OSError as error:
            raise Failure(f"cannot listen at {show(self.options.listen)}: {reason_of(error)}") from error
        await self.screen.welcome(show(addr))

    async def _replay(self) -> None:
        replayed: dict[object, Peer] = {}
        speed, began = self.options.speed, current_time()
        for moment, connection, wire in read_record(self.options.file):
            if speed:
                await anyio.sleep_until(began + moment / speed)
            if connection not in replayed:
                replayed[connection] = await self.peers.dial(self.options.dial[0])
                await replayed[connection].ready.wait()
            try:
                await self.peers.send(replayed[connection], wire, wire)
            except NotConnectedError:
                raise Failure(f"{replayed[connection].connection} has left before all was replayed") from None
        if not replayed:
            raise Failure(f"{self.options.file} has nothing that an initiator said; use a record that has", 2)
        await self._finish()

    async def _send_input(self) -> None:
        options, begun, data = self.options, False, b"-"
        verbatim = self.framing.name == "raw" and not (options.hex or self.typing)
        splitter = BytesCodec() if verbatim else LinesCodec("latin-1")  # a character for each byte
        if not self.typing:
            await self.peers.arrived.wait()
        while data and not (options.one and self.typing and begun):
            data = await read(self.stdin)
            try:
                for line in splitter.decode(data):
                    begun = True
                    await (self._broadcast([line]) if isinstance(line, bytes) else self._obey(line.encode("latin-1")))
            except FrameError as error:
                raise Failure(f"the input has a line that is too long ({error}); send it as @FILE", 2) from error
        if options.one:
            await self.peers.arrived.wait()
            await anyio.sleep(options.timeout)
            raise Failure(f"no answer within {options.timeout:g} seconds; raise --timeout")
        if self.typing:
            self.screen.leaving.set()
        elif begun:
            await self._finish()

    async def _obey(self, line: bytes) -> None:
        """Send what a line of input asks for."""
        only, rest = 0, line
        if match := re.fullmatch(rb"@(\d{1,9}) (.*)", line, re.DOTALL):
            only, rest = int(match[1]), match[2]
        try:
            await self._broadcast(self.framing.pieces(rest, hexadecimal=self.options.hex), only)
        except (OSError, ValueError) as error:
            told = f"not sent: {line[:40]!r}: {reason_of(error)}"
            if self.options.one:
                raise Failure(told, 2) from error
            await self.screen.complain(told, code=0 if self.typing else 2)

    async def _broadcast(self, pieces: list[bytes], only: int = 0) -> None:
        peers = [peer for number, peer in self.peers.numbered.items() if only in (0, number)]
        if not peers:
            there = ", ".join(map(str, self.peers.numbered)) or "none"
            raise ValueError(f"there is no peer{f' {only}' if only else ''}; the peers are {there}")
        for peer in peers:
            for piece in pieces:
                with suppress(NotConnectedError):  # that is told when it ends
                    await self.peers.send(peer, *self.framing.encode(peer.codec, piece))

    async def _finish(self) -> None:
        """The end of the input: half-close, and leave when all peers have closed, or none says anything any more."""
        self.peers.finishing = True
        await self.peers.leave_alone()
        async with anyio.create_task_group() as ends:
            for peer in self.peers.numbered.values():
                ends.start_soon(self.peers.half_close, peer)
        await self.peers.wait_silent(self.peers.numbered.values(), self.screen.leaving)
        self.screen.leaving.set()


async def serve(options: argparse.Namespace, stdin: int | None, stdout: int | None, stderr: int | None) -> int:
    """Run a session with these files in place of standard input, output and error; returns the exit code."""
    if not options.record:
        return await Session(options, stdin, Screen(options, stdout, stderr, None)).run()
    try:
        record = open(options.record, "wb", buffering=0)  # noqa: ASYNC230, PTH123, SIM115  # it is the only one
    except OSError as error:
        raise Failure(f"cannot write to {options.record}: {reason_of(error)}", 2) from error
    with record:
        return await Session(options, stdin, Screen(options, stdout, stderr, record)).run()


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    options = call(__doc__).parse_args(arguments)
    stdin, stdout, stderr = (None if file is None else file.fileno() for file in (sys.stdin, sys.stdout, sys.stderr))
    try:
        prepare_tls(options)
        if options.loop == "trio" and find_spec("trio") is None:
            raise Failure("--loop trio needs trio, which is not installed; install it, or leave the option out", 2)
        return anyio.run(serve, options, stdin, stdout, stderr, backend=options.loop)
    except Failure as failure:
        sys.stderr.write(f"pea2pea: {failure}\n")
        return failure.code
    except KeyboardInterrupt:  # before there was anything to end
        return 130
