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
Python literal that the line is, or a call of a class of the codec's package with such values: Bid(amount=30). With the
frame `raw`, a line is sent with its line feed, and input that comes from a file or a pipe is sent as it is, without
looking for @.

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
                            length, hex and text, or repr; wire: the frame in hexadecimal.
                            Of a large piece that your codec makes several messages of, the first one has all the bytes,
                            unless the codec has an attribute `missing` (see `pea2pea.Decoder`).
    bytes                   as message: bytes that are no message
    note                    text: who was refused and why, or what is wrong with bytes
    disconnected            why
    statistics              connections, messages_received, messages_sent, bytes_received, bytes_sent; of what
                            `pea2pea.Heuristics` counts that which is not 0
`replay` sends the `wire` of everything that the initiator has sent, a connection for each in the record, with the
record's pauses (--speed 10: ten times as fast).

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
import json
import math
import os
import re
import signal
import ssl
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import anyio
from anyio import BrokenResourceError, CancelScope, ClosedResourceError, Event, current_time
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from ._address import Address, checked, show
from ._screen import Failure, Framing, Item, Peer, Screen, Tap, framing, read, reason_of
from .codecs import BytesCodec, LinesCodec
from .config import Config
from .connection import Connection, DisconnectOrigin, Side
from .errors import FrameError, NodeError, NotConnectedError
from .node import Node
from .transport import TCPTransport

PATIENCE = 7 * 24 * 3600.0  # seconds for what the user alone ends
GRACE = 5.0  # seconds that leaving may take after Ctrl-C
ENDED = {
    DisconnectOrigin.SHUTDOWN: "this side has left",
    DisconnectOrigin.USER: "the connection that it belongs to has ended",
}


def address(text: str) -> Address:
    """The type of arguments that are addresses."""
    host, _, port = text.rpartition(":")
    bracketed = host[:1] + host[-1:] == "[]"
    with suppress(ValueError):
        if bracketed or ":" not in host:
            return checked(((host[1:-1] if bracketed else host) or "127.0.0.1", int(port)))
    raise ArgumentTypeError(f"{text!r} has no port from 0 to 65535; write HOST:PORT or [IPV6]:PORT")


def positive(text: str) -> float:
    """The type of arguments that are numbers."""
    with suppress(ValueError):
        if 0 < float(text) <= 1e6:
            return float(text)
    raise ArgumentTypeError(f"{text!r} is no number above 0, and at most a million; write 5 or 0.5")


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def make_parser() -> Parser:
    """The parser of the arguments."""
    shared, sending = Parser(add_help=False), Parser(add_help=False)
    option = shared.add_argument
    option("--frame", dest="framing", metavar="FRAME", type=framing, default="lines", help="how bytes become messages")
    option("--width", type=int, metavar="N", help="columns of a line; 0: all of it (default: the terminal's, or 160)")
    option("--json", action="store_true", help="write a JSON object for each event")
    option("--timeout", type=positive, default=5.0, metavar="S", help="seconds for a dial, an answer, a silence (5)")
    option("--record", metavar="FILE", help="write all events to this file, too, as JSON lines")
    option("--loop", choices=["asyncio", "trio"], default="asyncio", help="the event loop")
    option("--tls", action="store_true", help="use TLS (a proxy: with the target and, given --cert, with its peers)")
    option("--cert", metavar="FILE", help="this side's certificate, PEM")
    option("--key", metavar="FILE", help="its key, PEM, unless --cert has it")
    option("--ca", metavar="FILE", help="who must have signed a peer's certificate, PEM; to listen: require one")
    option("--insecure", action="store_true", help="accept any certificate")
    sending.add_argument("--hex", action="store_true", help="input is bytes in hexadecimal")
    sending.add_argument("--one", action="store_true", help="send the input, print one answer and nothing else, leave")
    parser = Parser(prog="pea2pea", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(listen=None, hex=False, one=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listen = commands.add_parser("listen", parents=[shared, sending], help="accept peers")
    connect = commands.add_parser("connect", parents=[shared, sending], help="connect to peers")
    proxy = commands.add_parser("proxy", parents=[shared], help="show what two programs say to each other")
    replay = commands.add_parser("replay", parents=[shared], help="send the bytes of a record once more")
    for command in (listen, proxy):
        command.add_argument("listen", type=address, metavar="LISTEN", help="where to listen")
    replay.add_argument("file", metavar="FILE", help="what --record has written")
    replay.add_argument("--speed", type=positive, default=1.0, metavar="N", help="N times as fast")
    for command, count in ((connect, "+"), (proxy, 1), (replay, 1)):
        command.add_argument("dial", type=address, nargs=count, metavar="ADDR", help="to whom to connect")
    return parser


def make_contexts(options: argparse.Namespace) -> dict[Side, ssl.SSLContext]:
    """The contexts for TLS with those that this side dials, and that it accepts; `Failure` says what is wrong."""
    given = " ".join(f"--{flag} {getattr(options, flag)}" for flag in ("cert", "key", "ca") if getattr(options, flag))
    if not options.tls:
        if given or options.insecure:
            raise Failure(f"{given or '--insecure'} is for TLS; give --tls, too", 2)
        return {}
    listening, serving = options.command == "listen", options.listen is not None and options.cert
    if listening and not serving:
        raise Failure("to listen with --tls takes a certificate; give --cert and --key", 2)
    client, server = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        if options.cert:
            (server if serving else client).load_cert_chain(options.cert, options.key)
        if options.ca:
            (server if listening else client).load_verify_locations(options.ca)
            server.verify_mode = ssl.CERT_REQUIRED if listening else ssl.CERT_NONE
    except OSError as error:
        raise Failure(f"{given}: {reason_of(error)}; give PEM files that fit together", 2) from error
    if options.insecure:
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    return {Side.INITIATOR: client} | ({Side.RESPONDER: server} if serving else {})


def read_record(path: str) -> Iterator[tuple[float, str, bytes]]:
    """What the initiators have sent: seconds since the first of it, the connection's number, and the bytes."""
    began, number = math.inf, 0
    try:
        with Path(path).open(encoding="utf-8") as record:
            for number, line in enumerate(record, 1):  # noqa: B007  # for the error
                entry: dict[str, Any] = json.loads(line)
                if entry.get("sender") == "initiator":
                    moment = float(entry["time"])
                    began = min(began, moment)
                    if not moment - began < 1e9:  # nor is it one where it is no number
                        raise ValueError
                    yield moment - began, str(entry["connection"]), bytes.fromhex(entry["wire"])
    except OSError as error:
        raise Failure(f"cannot read {path}: {reason_of(error)}", 2) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{path}, line {number}: no line of a record; use a file that --record has written", 2) from error
    if began == math.inf:
        raise Failure(f"{path} has nothing that an initiator said; use a record that has", 2)


class Dialling(TCPTransport):
    """Dials HOST#NUMBER: any number of connections to one address, since a node has one for each."""

    async def resolve(self, addr: Address, /) -> Sequence[Address]:
        """The addresses of the host, with the number."""
        host, _, number = addr[0].rpartition("#")
        return [(f"{ip}#{number}", port) for ip, port in await super().resolve((host, addr[1]))]

    async def dial(self, addr: Address, /, *, local_addr: Address | None = None) -> ByteStream:
        """Connect to what is before the number."""
        return await super().dial((addr[0].rpartition("#")[0], addr[1]), local_addr=local_addr)


class Session:
    """One run of the program: the node, its hooks, and what the command asks for.

    Rule 1: whatever ends it sets `screen.leaving`; what that takes is done by `run` alone.
    Rule 2: a peer has its number, and a proxy's two connections know each other, before either of them is read from.
    """

    def __init__(self, options: argparse.Namespace, stdin: int | None, screen: Screen) -> None:
        self.options, self.stdin, self.screen = options, stdin, screen
        self.framing: Framing = options.framing
        self.typing = stdin is not None and os.isatty(stdin)
        self.proxying = options.command == "proxy"
        self.peers: dict[Connection, Peer] = {}
        self.numbers = self.received = self.signals = 0
        self.arrived = Event()  # there is, or was, a peer
        self.finishing = False  # the program leaves when it has no peers
        self.ending = CancelScope()  # of the node
        config = Config(
            name=options.command, listener_addr=options.listen, connection_timeout=options.timeout,
            max_connections=1024, max_connections_per_ip=1024, grace_period=PATIENCE,
        )  # fmt: skip
        self.node = node = Node(config, transport=Dialling())
        node.enable_handshake(self, timeout=options.timeout * 3)  # that of a proxy includes the one with the target
        node.enable_reading(self, idle_timeout=None)
        node.enable_on_connect(self)
        node.enable_on_disconnect(self, timeout=PATIENCE)
        self.outbox = node.enable_writing(self, timeout=PATIENCE)

    async def run(self) -> int:
        """Until it is left; returns the exit code."""
        screen = self.screen
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_signals)
            async with self.node as node:
                async with anyio.create_task_group() as script:
                    script.start_soon(self._follow)
                    await screen.leaving.wait()
                    script.cancel_scope.cancel()
                if self.options.one and not self.received and not screen.failed:
                    await screen.fail(Failure(f"no answer within {self.options.timeout:g} seconds; raise --timeout"))
                with self.ending:
                    await node.shut_down()
                for connection in node.connections.values():
                    await node.disconnect(connection, abort=True)
            sent = self.received if self.proxying else node.stats.messages_sent
            counted = {"connections": self.numbers, "messages_received": self.received, "messages_sent": sent}
            counted |= {"bytes_received": node.stats.bytes_received, "bytes_sent": node.stats.bytes_sent}
            counted |= {key: value for key, value in asdict(node.heuristics).items() if value}
            text = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in counted.items())
            await screen.tell("statistics", None, "" if screen.failed else text, counted)
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

    # What the command asks for

    async def _follow(self) -> None:
        options = self.options
        try:
            if options.listen is not None:
                await self._listen()
            if options.command == "connect":
                for addr in options.dial:
                    await self._dial(addr)
                self.finishing = True
                self._leave_alone()
            if options.command == "replay":
                await self._replay()
            elif not self.proxying:
                await self._send_input()
        except Failure as failure:
            await self.screen.fail(failure)

    async def _listen(self) -> None:
        try:
            addr = show(await self.node.start_listening())
        except OSError as error:
            raise Failure(f"cannot listen at {show(self.options.listen)}: {reason_of(error)}") from error
        await self.screen.tell("listening", None, addr, {"address": addr}, aside=False)

    async def _dial(self, addr: Address, number: int = 0) -> Connection:
        """Connect to `addr`, for a proxy's peer of that number; `Failure` says why that cannot be."""
        self.numbers += not number
        try:
            return await self.node.connect((f"{addr[0]}#{number or self.numbers}", addr[1]))
        except (OSError, NodeError) as error:
            raise Failure(f"cannot connect to {show(addr)}: {reason_of(error)}") from error

    async def _replay(self) -> None:
        replayed, began, addr = dict[str, Connection](), current_time(), self.options.dial[0]
        for moment, number, wire in read_record(self.options.file):
            await anyio.sleep_until(began + moment / self.options.speed)
            if number not in replayed:
                replayed[number] = await self._dial(addr)
            try:
                await self._say(self.peers[replayed[number]], wire, wire)
            except (KeyError, NotConnectedError):
                raise Failure(f"{show(addr)} has left before all was replayed") from None
        await self._finish()

    async def _send_input(self) -> None:
        options, begun, data = self.options, False, b"-"
        verbatim = self.framing.name == "raw" and not (options.hex or self.typing)
        splitter = BytesCodec() if verbatim else LinesCodec("latin-1")  # a character for each byte
        if not self.typing:
            await self.arrived.wait()
        while data and not (options.one and self.typing and begun):
            data = await read(self.stdin)
            try:
                for line in splitter.decode(data):
                    begun = True
                    await (self._broadcast([line]) if isinstance(line, bytes) else self._obey(line.encode("latin-1")))
            except FrameError as error:
                raise Failure(f"the input has a line that is too long ({error}); send it as @FILE", 2) from error
        if options.one:
            await self.arrived.wait()
            await anyio.sleep(options.timeout)
        if self.typing or options.one:
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
            failure = Failure(f"not sent: {line[:40]!r}: {reason_of(error)}", 2)
            if self.options.one:
                raise failure from error
            self.screen.code = self.screen.code if self.typing else 2
            await self.screen.put(f"pea2pea: {failure}", aside=True)

    async def _broadcast(self, pieces: list[bytes], only: int = 0) -> None:
        there = [self.peers[each] for each in self.node.connections.values() if each in self.peers]
        peers = [peer for peer in there if only in (0, peer.number)]
        if not peers:
            known = ", ".join(str(peer.number) for peer in there) or "none"
            raise ValueError(f"there is no peer{f' {only}' if only else ''}; the peers are {known}")
        for peer in peers:
            for piece in pieces:
                with suppress(NotConnectedError):  # that is told when it ends
                    await self._say(peer, *self.framing.encode(peer.codec, piece))

    async def _say(self, peer: Peer, message: object, wire: bytes) -> None:
        """Send a message, and show it; raises `NotConnectedError`."""
        await self.outbox.send(peer.connection, wire)
        await self.screen.show(peer, [("message", message, wire)], heard=False)

    async def _finish(self) -> None:
        """The end of the input: half-close, and leave when all peers have closed, or none says anything any more."""
        self.finishing = True
        self._leave_alone()
        async with anyio.create_task_group() as ends:
            for peer in self.peers.values():
                ends.start_soon(self._half_close, peer)
        await self._wait_silent(None, self.screen.leaving)
        self.screen.leaving.set()

    async def _half_close(self, peer: Peer) -> bool:
        """Let a peer know that nothing more will come; False if it cannot be told while it may still answer."""
        try:
            await self.outbox.drain(peer.connection)
            await peer.stream.send_eof()
        except NotImplementedError:  # TLS
            return False
        except (NotConnectedError, BrokenResourceError, ClosedResourceError):  # that is told when it ends
            pass
        return True

    async def _wait_silent(self, peer: Peer | None, over: Event) -> None:
        """Wait until a peer, or all, have said nothing for `--timeout` seconds, or for `over`."""
        heard = current_time()
        while not over.is_set() and heard + self.options.timeout > current_time():
            with anyio.move_on_at(heard + self.options.timeout):
                await over.wait()
            heard = max([heard, *(each.heard for each in self.peers.values() if peer in (None, each))])

    def _leave_alone(self) -> None:
        """Leave if there is nobody left to wait for."""
        if self.finishing and not self.peers:
            self.screen.leaving.set()

    # The node's hooks

    async def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        """TLS, if that is asked for; a number. A proxy dials before it accepts a peer."""
        peer = self.peers[connection] = Peer(connection, stream, self.framing.make())
        context, inbound = self.options.contexts.get(connection.side), connection.dialled is None
        host, _, number = connection.dialled[0].rpartition("#") if connection.dialled is not None else ("", "", "")
        try:
            if context is not None:
                name = None if inbound else host.partition("%")[0]
                peer.stream = await TLSStream.wrap(stream, server_side=inbound, hostname=name, ssl_context=context)
            self.numbers += inbound
            peer.number = self.numbers if inbound else int(number)
            if self.proxying and inbound:
                await self._dial(self.options.dial[0], peer.number)
            else:
                if self.proxying:
                    peer.other = next(each for each in self.peers.values() if each.number == peer.number)
                    peer.other.other, peer.name = peer, peer.other.name
                await self.screen.tell("connected", peer.other or peer, f"{peer.number} {peer.name} is connected", {})
        except BaseException as error:
            del self.peers[connection]
            peer.ready.set()
            if inbound and isinstance(error, Exception):
                text = f"{connection} was refused: {reason_of(error)}"
                await self.screen.tell("note", peer, text, {"text": text})
            raise
        return peer.stream

    def decoder(self, _: Connection) -> Tap:
        """See `Reading`."""
        exact = self.screen.record is not None or self.options.json or self.framing.classes is not None
        return Tap(self.framing, exact=exact, forward=self.proxying)

    def encoder(self, _: Connection) -> BytesCodec:
        """See `Writing`: what is queued is frames already."""
        return BytesCodec()

    async def on_connect(self, connection: Connection) -> None:
        """Let those go on who wait for the peer."""
        self.peers[connection].ready.set()
        self.arrived.set()

    async def process_message(self, source: Connection, items: list[Item]) -> None:
        """Show messages, or what else there is, and hand a chunk on."""
        peer = self.peers[source]
        said = [item for item in items if item[0] in ("message", "bytes")]
        if self.options.one:
            said = [] if self.screen.leaving.is_set() else said[:1]
        if said:
            count = sum(event == "message" for event, _, _ in said)
            peer.received += count
            self.received += count
            peer.heard = current_time()
            await self.screen.show(peer, said, heard=True)
            if self.options.one:
                self.screen.leaving.set()
        for event, message, wire in items[-2:]:  # nothing but a chunk comes behind a note, and nothing behind a chunk
            if event == "note":
                await self.screen.tell("note", peer, f"{peer.number} {peer.address}: {message}", {"text": message})
            elif event == "chunk" and peer.other is not None:
                await self._hand_on(source, peer.other, wire)

    async def _hand_on(self, source: Connection, other: Peer, chunk: bytes) -> None:
        if not other.ready.is_set():  # the target speaks first
            await other.ready.wait()
        try:
            await self.outbox.send(other.connection, chunk)
        except NotConnectedError:  # nobody is there to take it
            self._abort(source)

    def _abort(self, connection: Connection) -> None:
        """Reset a connection, from any hook: none of them may wait for another one's end."""
        self.node.start_soon(partial(self.node.disconnect, connection, abort=True))

    async def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        """Tell why; a proxy hands on the end of the stream, and waits for that of the other one."""
        peer, cause, stats = self.peers.pop(connection), connection.cause, connection.stats
        peer.over.set()
        why = ENDED.get(origin) or ("the peer has closed it" if cause is None else reason_of(cause))
        if cause is not None and self.options.listen is None and not self.screen.leaving.is_set():
            self.screen.code = 1
        sent = stats.messages_sent if peer.other is None else peer.other.received
        text = (
            f"{peer.number} {peer.address} has ended: {why}; from it {peer.received} messages, "
            f"{stats.bytes_received} bytes; to it {sent} messages, {stats.bytes_sent} bytes"
        )
        await self.screen.tell("disconnected", peer, text, {"why": why})
        self._leave_alone()
        if peer.other is not None and origin is not DisconnectOrigin.SHUTDOWN:
            await self._end_other(peer.other, clean=origin is DisconnectOrigin.READING and cause is None)

    async def _end_other(self, other: Peer, *, clean: bool) -> None:
        """Hand on the end of one of a proxy's two connections."""
        await other.ready.wait()
        if not clean:
            self._abort(other.connection)
        elif not await self._half_close(other):
            await self._wait_silent(other, other.over)
            self.node.start_soon(self.node.disconnect, other.connection)
        elif other.connection in self.peers:
            await other.over.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    stdin, stdout, stderr = (None if file is None else file.fileno() for file in (sys.stdin, sys.stdout, sys.stderr))
    try:
        options.contexts = make_contexts(options)
        import_module(options.loop)
        record = Path(options.record).open("wb", buffering=0) if options.record else None  # noqa: SIM115  # see below
    except ImportError:
        parser.error("--loop trio needs trio, which is not installed; install it, or leave the option out")
    except OSError as error:
        parser.error(f"cannot write to {options.record}: {reason_of(error)}")
    except Failure as failure:
        parser.error(str(failure))

    async def run() -> int:
        return await Session(options, stdin, Screen(options, stdout, stderr, record)).run()

    try:
        with record or nullcontext():
            return anyio.run(run, backend=options.loop)
    except KeyboardInterrupt:  # before there was anything to end
        return 130
