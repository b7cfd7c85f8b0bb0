"""What the command line shows and reads: bytes as messages, messages as lines for people or programs; and back.

Framing, Tap        the codec that was chosen; input to messages, bytes to messages
fit, reason_of      text that is fit for a terminal
Peer, Screen        whom a message is from; where it is shown
"""

from __future__ import annotations

import ast
import errno
import json
import math
import os
import ssl
import sys
import time
import traceback
from argparse import ArgumentTypeError, Namespace
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from importlib import import_module
from pathlib import Path
from select import select
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast
from unicodedata import east_asian_width

import anyio
from anyio import BrokenResourceError, Event, current_time
from anyio.abc import SocketAttribute

from ._text import printable
from .codecs import BytesCodec, Codec, DelimitedCodec, LengthDelimitedCodec, LinesCodec, VarintDelimitedCodec
from .connection import Connection, DisconnectOrigin, Side
from .errors import FrameError, NodeError

if TYPE_CHECKING:
    from anyio.abc import ByteStream

PIECE = 4096  # bytes that a writable pipe takes without making anybody wait (PIPE_BUF, pipe(7))
WIDTH = 160  # columns where there is no terminal
LARGE = 4096  # bytes: a piece above it is not cut up to find out where a message ends
BUILT_IN: dict[str, Callable[[], Codec[Any]]] = {
    "lines": LinesCodec,
    "raw": BytesCodec,
    "u16": partial(LengthDelimitedCodec, prefix=2),
    "u32be": LengthDelimitedCodec,
    "u32le": partial(LengthDelimitedCodec, byteorder="little"),
    "varint": VarintDelimitedCodec,
}
REMEDIES: dict[object, str] = {
    errno.ECONNREFUSED: "; start what should listen there, or correct the address",
    errno.EACCES: "; use a port above 1023, or a file that is yours",
    errno.EADDRINUSE: "; use another port, or 0 for a free one",
    errno.EADDRNOTAVAIL: "; use an address of this machine",
    errno.ENOENT: "; correct the path",
}
ESCAPES = {each: ascii(chr(each))[1:-1] for each in range(128) if not chr(each).isprintable()}


class Failure(Exception):  # noqa: N818  # the end of a run, mostly not an error of the program's
    """What the user is told in one line, and the exit code that goes with it."""

    def __init__(self, line: str, code: int = 1) -> None:
        super().__init__(line)
        self.code = code


@dataclass(frozen=True)
class Framing:
    """What `--frame` says.

    end: the last byte of every frame, if they have one. classes: of the module of a codec of one's own, those that a
    line of input may call; None: the codec is one of the library's.
    """

    name: str
    make: Callable[[], Codec[Any]]
    end: bytes = b""
    classes: Mapping[str, type[Any]] | None = None

    def encode(self, codec: Codec[Any], data: bytes) -> tuple[object, bytes]:
        """Make a message of input, and return it with its frame; `ValueError` if the codec takes no such thing."""
        ways: list[Callable[[bytes], object]] = [bytes.decode if self.name == "lines" else bytes]
        if self.classes is not None:
            ways += [self._evaluate, bytes.decode]
        errors: list[str] = []
        for way in ways:
            try:
                message = way(data)
                frame = codec.encode(message)
            except Exception as error:  # noqa: BLE001  # a codec may refuse a message with any exception
                errors.append(f"{type(error).__name__}: {error}")
            else:
                return message, b"".join(frame if isinstance(frame, tuple) else (frame,))
        raise ValueError(errors[min(1, len(errors) - 1)])  # of a codec of one's own, what it says of the literal

    def pieces(self, line: bytes, *, hexadecimal: bool) -> list[bytes]:
        """What a line of input asks to send: itself, or what a file holds; `ValueError` or `OSError` if it cannot."""
        if line.startswith(b"@") and not line.startswith(b"@@"):
            content = Path(os.fsdecode(line[1:])).read_bytes()
            if self.name != "lines":
                return [content]
            return [each.removesuffix(b"\r") for each in content.removesuffix(b"\n").split(b"\n")]
        if hexadecimal:
            return [bytes.fromhex(line.decode())]
        return [line.removeprefix(b"@") + (b"\n" if self.name == "raw" else b"")]

    def _evaluate(self, data: bytes) -> object:
        """The value of a Python literal, in which the classes may be called."""
        classes = self.classes or {}

        def value(node: ast.expr) -> object:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in classes:
                named = {str(each.arg): value(each.value) for each in node.keywords}
                return classes[node.func.id](*map(value, node.args), **named)
            try:
                return ast.literal_eval(node)
            except ValueError:
                known = ", ".join(classes) or "there is none"
                raise ValueError(
                    f"no literal of Python, nor a call of a class of the codec's module ({known})"
                ) from None

        return value(ast.parse(data.decode().strip(), mode="eval").body)


def framing(text: str) -> Framing:
    """The type of `--frame`."""
    name, _, rest = text.partition(":")
    if text in BUILT_IN:
        return Framing(text, BUILT_IN[text], b"\n" if text == "lines" else b"")
    try:
        if name == "delimiter":
            made: Codec[Any] = DelimitedCodec(bytes.fromhex(rest))
            return Framing(name, partial(DelimitedCodec, bytes.fromhex(rest)), bytes.fromhex(rest)[-1:])
        sys.path.insert(0, str(Path.cwd()))
        module = import_module(name)
        factory: Callable[[], Codec[Any]] = reduce(getattr, rest.split("."), cast("Any", module))
        made = factory()
        _ = made.decode, made.encode
    except Exception as error:  # also what is wrong with the module
        raise ArgumentTypeError(
            f"{text!r} is no frame ({printable(f'{type(error).__name__}: {error}')}); use {', '.join(BUILT_IN)}, "
            "delimiter:HEX, or PACKAGE.MODULE:FACTORY, a function without parameters that returns a codec"
        ) from error
    classes = {
        each: kind
        for each, kind in vars(module).items()
        if isinstance(kind, type) and kind.__module__.partition(".")[0] not in (*sys.stdlib_module_names, "pea2pea")
    }
    return Framing(name, factory, b"", classes)


class Item(NamedTuple):
    """What a `Tap` makes of a peer's bytes: a "message"; "bytes" that are none; a "chunk" to hand on."""

    event: str
    message: object
    wire: bytes  # what it was made of


class Tap:
    """A decoder that tells of which bytes it made a message: the codec is fed so that it is known where one ends.

    exact: also for large pieces of a stream. forward: hand on each piece behind its messages; bytes that are no valid
    frame are told, and from there on they are taken as they come.
    """

    def __init__(self, framing: Framing, *, exact: bool, forward: bool) -> None:
        self._codec, self._end, self._exact, self._forward = framing.make(), framing.end, exact, forward
        self._pending = bytearray()  # of which no message was made yet

    def decode(self, data: bytes, /) -> Iterator[Item]:
        """See `Decoder.decode`."""
        position, refusal = 0, None
        while refusal is None:
            piece = data[position : position + self._step(data, position)]
            position += len(piece)
            self._pending += piece if self._exact or len(data) <= LARGE else b""
            try:
                for message in self._codec.decode(piece):
                    yield Item("message", message, bytes(self._pending))
                    self._pending.clear()
            except FrameError as error:
                refusal = error
            except Exception as error:  # noqa: BLE001  # what is wrong with a codec of the user's is told in one line
                place = traceback.extract_tb(error.__traceback__)[-1]
                refusal = FrameError(f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})")
            if position >= len(data):
                break
        rest = bytes(self._pending) + data[position:]
        if rest and (refusal is not None or not data):
            self._pending.clear()
            yield Item("bytes", rest, rest)
        if refusal is not None and not self._forward:
            raise refusal
        if refusal is not None:
            self._codec = BytesCodec()
            yield Item("note", f"no valid frame: {refusal}; its bytes are shown as they come from now on", b"")
        if self._forward and data:
            yield Item("chunk", None, data)

    def _step(self, data: bytes, position: int) -> int:
        if len(data) > LARGE and not self._exact:
            return len(data)
        if self._end:
            return (data.find(self._end, position) + 1 or len(data)) - position
        if isinstance(self._codec, BytesCodec):
            return len(data)
        return int(getattr(self._codec, "missing", 0)) or (1 if len(data) <= LARGE else len(data))


def fit(text: str, columns: int) -> str:
    """`text` in one line: what cannot be printed is escaped, and what is wider than `columns` is cut (0: nothing)."""
    if text.isascii():
        text = text.translate(ESCAPES)
        return f"{text[: columns - 1]}…" if 0 < columns < len(text) else text
    parts: list[str] = []
    width = fitting = 0
    for character in text:
        parts.append(character if character.isprintable() else ascii(character)[1:-1])
        width += 2 if east_asian_width(character) in "WF" else len(parts[-1])
        fitting += width < columns
        if width > columns > 0:
            return f"{''.join(parts[:fitting])}…"
    return "".join(parts)


def readable(message: object, own: bool, most: int = 0) -> str:
    """A message as text, one of a codec of one's own as its `repr`; of a long text only `most` characters or more."""
    if not own and isinstance(message, bytes):
        return (message[: most * 4] if most else message).decode("utf-8", "backslashreplace")
    if not own and isinstance(message, str):
        return message[:most] if most else message
    try:
        return repr(message)
    except Exception as error:  # noqa: BLE001  # a class of the user's may have a broken repr
        return f"<{type(message).__name__} whose repr raises {type(error).__name__}>"


def reason_of(error: BaseException) -> str:
    """Why something failed, in one line, with a remedy where there is one."""
    while isinstance(error, (NodeError, BrokenResourceError)) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{error.verify_message}; give the authority of its certificate with --ca, or use --insecure"
    if isinstance(error, ssl.SSLEOFError):
        return "the TLS stream ended without a goodbye (close_notify)"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason}; see that both sides use it, and their certificates"
    if isinstance(error, TimeoutError) and not error.errno:
        return "no answer in time; raise --timeout"
    if isinstance(error, OSError) and error.errno:
        return f"{os.strerror(error.errno) if error.errno > 0 else error.strerror}{REMEDIES.get(error.errno, '')}"
    return printable(str(error) or type(error).__name__)


def why_ended(connection: Connection) -> str:
    """Why a connection has ended, in one line."""
    if connection.origin is DisconnectOrigin.SHUTDOWN:
        return "this side has left"
    if connection.origin is DisconnectOrigin.USER:
        return "the connection that it belongs to has ended"
    return "the peer has closed it" if connection.cause is None else reason_of(connection.cause)


def read_record(path: str) -> Iterator[tuple[float, object, bytes]]:
    """What the initiators have sent: seconds since the first of it, the connection's number, and the bytes."""
    began, number = 0.0, 0
    try:
        with Path(path).open(encoding="utf-8") as record:
            for number, line in enumerate(record, 1):  # noqa: B007  # for the error
                entry: dict[str, Any] = json.loads(line)
                if entry.get("sender") == "initiator":
                    began = began or entry["time"]
                    yield entry["time"] - began, entry["connection"], bytes.fromhex(entry["wire"])
    except OSError as error:
        raise Failure(f"cannot read {path}: {reason_of(error)}", 2) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{path}, line {number}: no line of a record; use a file that --record has written", 2) from error


async def read(file: int | None) -> bytes:
    """Some input; b"" at its end. To `select` a file is always readable; epoll(7) does not know about files."""
    try:
        while file is not None:
            if not select([file], [], [], 0)[0]:
                await anyio.wait_readable(file)
            with suppress(BlockingIOError):
                return os.read(file, 65_536)
    except OSError:  # the terminal is gone
        pass
    return b""


@lru_cache(1)
def of_day(second: int) -> str:
    """The local time of day: the system's way to it is long."""
    return time.strftime("%H:%M:%S", time.localtime(second))


class Peer:
    """One connection."""

    def __init__(self, connection: Connection, stream: ByteStream, codec: Codec[Any]) -> None:
        self.connection, self.stream = connection, stream
        self.codec = codec  # for what is sent
        self.local: object = stream.extra(SocketAttribute.local_address, None)
        self.number = 0
        self.name = str(connection)  # of a proxy's two connections both have that of the one who has dialled
        self.other: Peer | None = None  # to which a proxy hands on
        self.ready, self.over = Event(), Event()  # it has its number; it has ended, or says no more
        self.received = 0  # messages
        self.heard = current_time()  # when it said something

    @property
    def arrow(self) -> str:
        """The direction of what it says."""
        return "<-" if self.other is None or self.connection.side is Side.INITIATOR else "->"


class Screen:
    """Standard output, standard error and the record; and whether the program is to leave, and with which exit code.

    Rule: whoever shows something waits while much is to be written, so a slow reader slows the peers down in the end;
    but nobody waits within `write`, which would keep the program from leaving.
    """

    def __init__(self, options: Namespace, stdout: int | None, stderr: int | None, record: IO[bytes] | None) -> None:
        self.options, self.stdout, self.stderr, self.record = options, stdout, stderr, record
        self.code = 0
        self.leaving = Event()
        self.leave_by = math.inf  # when nobody waits for a slow reader any more
        self._quiet = options.json or options.one
        self._waiting: deque[tuple[int, bytearray]] = deque()  # to be written
        self._wakeup = Event()  # of who writes it
        self._lock = anyio.Lock(fast_acquire=True)
        self._terminal = stdout is not None and os.isatty(stdout)
        self._colours = self._terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    async def fail(self, failure: Failure) -> None:
        """Let the program leave, and tell why."""
        self.leaving.set()
        await self.complain(str(failure), failure.code)

    async def complain(self, text: str, code: int) -> None:
        """Tell what went wrong, of which the exit code will tell, too."""
        self.code = code or self.code
        await self.put(f"pea2pea: {text}", aside=True)

    async def welcome(self, addr: str) -> None:
        """Tell where the node listens."""
        await self.tell("listening", None, address=addr)
        if not self._quiet:
            await self.put(addr)

    async def show(self, peer: Peer, item: Item, arrow: str) -> None:
        """Show and record a message."""
        message, payload = item.message, item.wire
        own = item.event == "message" and self.options.framing.classes is not None
        if not own and isinstance(message, (bytes, str)):
            payload = message if isinstance(message, bytes) else message.encode("utf-8", "surrogatepass")
        if self.record is not None or self.options.json:
            heard = arrow == peer.arrow
            sender = Side.INITIATOR if heard is (peer.connection.side is Side.RESPONDER) else Side.RESPONDER
            about: dict[str, object] = {"direction": arrow, "sender": sender.value, "length": len(payload)}
            if own:
                about["repr"] = readable(message, own)
            else:
                about["hex"] = payload.hex()
                with suppress(UnicodeError):
                    about["text"] = payload.decode()
            await self.tell(item.event, peer, **about, wire=item.wire.hex())
        if not self._quiet:
            await self.put(self._line(peer, arrow, message, payload, own))
        elif self.options.one and arrow == "<-" and not self.options.json:
            await self.put(fit(readable(message, own), 0))

    def _line(self, peer: Peer, arrow: str, message: object, payload: bytes, own: bool) -> str:
        now, width = time.time(), self.options.width
        clock = f"{of_day(int(now))}.{int(now * 1000) % 1000:03}"
        head = f"{peer.number} {peer.name} {len(payload):>5}"
        if width is None:
            width = (self._terminal and os.get_terminal_size(self.stdout or 0).columns) or WIDTH
        room = max(width - len(clock) - len(head) - 8, 24) if width > 0 else 0  # for the bytes and the text
        part = room // 3 if own else room * 2 // 3
        shown = payload.hex() if not room or len(payload) * 2 <= part else f"{payload[: (part - 1) // 2].hex()}…"
        left = room and room - len(shown)
        text = fit(readable(message, own, left and left + 1), left)
        if self._colours:
            arrow = f"\x1b[{32 if arrow == '<-' else 36}m{arrow}\x1b[0m"
            clock, shown = f"\x1b[2m{clock}\x1b[0m", f"\x1b[2m{shown}\x1b[0m"
        return f"{clock} {arrow} {head}  {shown}  {text}"

    async def tell(self, event: str, peer: Peer | None, **about: object) -> None:
        """Put an event into the record and, with `--json`, out."""
        if self.record is None and not self.options.json:
            return
        entry: dict[str, object] = {"time": round(time.time(), 6), "event": event}
        if peer is not None:
            entry |= {"connection": peer.number, "peer": str(peer.connection)}
        line = json.dumps(entry | about)
        try:
            if self.record is not None:
                self.record.write(f"{line}\n".encode())
        except OSError as error:
            self.record = None
            await self.fail(Failure(f"cannot write to {self.options.record}: {reason_of(error)}"))
        if self.options.json and (not self.options.one or about.get("direction") == "<-"):
            await self.put(line)

    async def note(self, text: str) -> None:
        """Tell what is no message."""
        if not self._quiet:
            await self.put(f"\x1b[2m-- {text}\x1b[0m" if self._colours else f"-- {text}", aside=True)

    async def put(self, text: str, *, aside: bool = False) -> None:
        """Write a line to standard output or, aside, to standard error; several at once, if they come at once."""
        file = self.stderr if aside else self.stdout
        if file is None:
            return
        if not self._waiting or self._waiting[-1][0] != file:
            self._waiting.append((file, bytearray()))
        data = self._waiting[-1][1]
        data += f"{text}\n".encode("utf-8", "backslashreplace")
        if len(data) >= PIECE or len(self._waiting) > 8:
            await self.flush()
        else:
            self._wakeup.set()

    async def run(self) -> None:
        """The task that writes what others do not wait for."""
        while True:
            await self._wakeup.wait()
            self._wakeup = Event()
            await self.flush()

    async def flush(self) -> None:
        """Write what waits; a reader that has gone ends the program."""
        file = self.stdout
        try:
            async with self._lock:
                while self._waiting and current_time() < self.leave_by:
                    file, data = self._waiting[0]
                    if not select([], [file], [], 0)[1]:
                        with anyio.move_on_after(0.1):  # and look at `leave_by`
                            await anyio.wait_writable(file)
                        continue
                    del data[: os.write(file, data[:PIECE])]
                    if not data:
                        self._waiting.popleft()
        except OSError as error:
            self._waiting.clear()
            self.leaving.set()
            if file == self.stderr or isinstance(error, BrokenPipeError):
                self.stderr = None
            elif self.stdout is not None:
                self.stdout = None
                await self.fail(Failure(f"cannot write to standard output: {reason_of(error)}"))
            self.stdout = None
