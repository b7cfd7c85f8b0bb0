"""What the command line reads and shows: input to messages, bytes to messages, messages to lines.

Framing, Tap        the codec that was chosen; what it makes of input, and of a peer's bytes
fit, reason_of      text that is fit for a terminal
Peer, Screen        whom a message is from; standard output, standard error, and the record
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from importlib import import_module
from pathlib import Path
from select import select
from typing import IO, Any, TypeAlias, cast
from unicodedata import east_asian_width

import anyio
from anyio import BrokenResourceError, Event, current_time
from anyio.abc import ByteStream

from ._address import show
from ._text import describe, printable
from .codecs import BytesCodec, Codec, DelimitedCodec, LengthDelimitedCodec, LinesCodec, VarintDelimitedCodec
from .connection import Connection, Side
from .errors import FrameError, NodeError

PIECE = 4096  # bytes that a writable pipe takes without making anybody wait (PIPE_BUF, pipe(7))
WIDTH = 160  # columns where there is no terminal
LARGE = 4096  # bytes: a piece above it is not cut up bytewise to find out where a message ends
TOGETHER = 64  # messages of one chunk that are shown with one write, at most
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


class Failure(Exception):  # noqa: N818  # the end of a run, mostly not an error of the program's
    """What the user is told in one line, and the exit code that goes with it."""

    def __init__(self, line: str, code: int = 1) -> None:
        super().__init__(line)
        self.code = code


@dataclass(frozen=True)
class Framing:
    """What `--frame` says.

    end: the last byte of every frame, if they have one. classes: of the package of a codec of one's own, those that a
    line of input may call; None: the codec is one of the library's.
    """

    name: str
    make: Callable[[], Codec[Any]]
    end: bytes = b""
    classes: Mapping[str, type[Any]] | None = None

    def encode(self, codec: Codec[Any], data: bytes) -> tuple[object, bytes]:
        """Make a message of input, and return it with its frame; `ValueError` if the codec takes no such thing."""
        message: object = data.decode() if self.name == "lines" else data
        try:
            try:
                frame = codec.encode(message)
            except Exception:
                if self.classes is None:
                    raise
                frame = codec.encode(message := self._evaluate(ast.parse(data.decode().strip(), mode="eval").body))
        except Exception as error:  # a codec may refuse a message with any exception
            raise ValueError(f"{type(error).__name__}: {error}") from error
        return message, b"".join(frame if isinstance(frame, tuple) else (frame,))

    def _evaluate(self, node: ast.expr) -> object:
        """The value of a Python literal, or of a call of one of the classes with such values."""
        classes = self.classes or {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in classes:
            named = {str(each.arg): self._evaluate(each.value) for each in node.keywords}
            return classes[node.func.id](*map(self._evaluate, node.args), **named)
        with suppress(ValueError):
            return ast.literal_eval(node)
        raise ValueError(f"no Python literal, nor a call of a class of the codec's ({', '.join(classes) or 'none'})")

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


def framing(text: str) -> Framing:
    """The type of `--frame`."""
    name, _, rest = text.partition(":")
    if text in BUILT_IN:
        return Framing(text, BUILT_IN[text], b"\n" if text == "lines" else b"")
    try:
        if name == "delimiter":
            DelimitedCodec(delimiter := bytes.fromhex(rest))  # says if that is none
            return Framing(name, partial(DelimitedCodec, delimiter), delimiter[-1:])
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
    kinds = {key: kind for key, kind in vars(module).items() if isinstance(kind, type)}
    package = name.partition(".")[0]
    return Framing(name, factory, b"", {k: v for k, v in kinds.items() if v.__module__.partition(".")[0] == package})


Item: TypeAlias = tuple[str, object, bytes]
"""A "message" and its frame; "bytes" that are none; a "note" of what is wrong with them; a "chunk" to hand on."""


class Tap:
    """A decoder that tells of which bytes it made a message: the codec is fed so that it is known where one ends.

    What comes out is lists of items, so that those of one chunk are shown together. A "chunk" is the last of its list.

    exact: also for large pieces of a stream. forward: hand on each piece behind its messages; bytes that are no valid
    frame are told, and from there on they are taken as they come.
    """

    def __init__(self, framing: Framing, *, exact: bool, forward: bool) -> None:
        self._codec, self._end, self._exact, self._forward = framing.make(), framing.end, exact, forward
        self._pending = bytearray()  # of which no message was made yet

    def decode(self, data: bytes, /) -> Iterator[list[Item]]:
        """See `Decoder.decode`."""
        items: list[Item] = []
        refusal = None
        try:
            for item in self._items(data):
                items.append(item)
                if len(items) >= TOGETHER:
                    yield items
                    items = []
        except FrameError as error:  # behind the items that came before
            refusal = error
        if items:
            yield items
        if refusal is not None:
            raise refusal

    def _items(self, data: bytes) -> Iterator[Item]:
        position, refusal = 0, None
        while refusal is None:
            piece = data[position : position + self._step(data, position)]
            self._pending += piece if self._exact or len(data) <= LARGE else b""
            position += len(piece)
            try:
                for message in self._codec.decode(piece):
                    yield "message", message, bytes(self._pending)
                    self._pending.clear()
            except FrameError as error:
                refusal = error
            except Exception as error:  # noqa: BLE001  # what is wrong with a codec of the user's is told in one line
                place = traceback.extract_tb(error.__traceback__)[-1]
                refusal = FrameError(f"{type(error).__name__}: {error} ({place.filename}:{place.lineno})")
            if position >= len(data):
                break
        if (rest := bytes(self._pending) + data[position:]) and (refusal is not None or not data):
            yield "bytes", None, rest
            self._pending.clear()
        if refusal is not None and not self._forward:
            raise refusal
        if refusal is not None:
            self._codec = BytesCodec()
            yield "note", f"no valid frame: {refusal}; its bytes are shown as they come from now on", b""
        if self._forward and data:
            yield "chunk", None, data

    def _step(self, data: bytes, position: int) -> int:
        if isinstance(self._codec, BytesCodec) or (len(data) > LARGE and not self._exact):
            return len(data)
        if self._end:
            return (data.find(self._end, position) + 1 or len(data)) - position
        return int(getattr(self._codec, "missing", 0)) or (1 if len(data) <= LARGE else len(data))


@lru_cache(1024)
def cell(character: str) -> tuple[str, int]:
    """A character as it is shown, and its columns."""
    part = character if character.isprintable() else ascii(character)[1:-1]
    return part, 2 if east_asian_width(character) in "WF" else len(part)


def fit(text: str, columns: int) -> str:
    """`text` in one line: what cannot be printed is escaped, and what is wider than `columns` is cut."""
    if text.isascii() and text.isprintable():
        return text if len(text) <= columns else f"{text[: columns - 1]}…"
    parts: list[str] = []
    width = fitting = 0
    for character in text:
        part, wide = cell(character)
        parts.append(part)
        width += wide
        fitting += width < columns
        if width > columns:
            return f"{''.join(parts[:fitting])}…"
    return "".join(parts)


def text_of(payload: bytes, columns: int) -> str:
    """What `fit` needs of the text that the bytes are; bytes that are none, which take long, are mostly too wide."""
    text = payload[:columns].decode("utf-8", "backslashreplace")
    # a character that was cut off at the end is three escaped bytes at most
    if len(payload) <= columns or len(text) > columns + 12:
        return text
    return payload[: columns * 4].decode("utf-8", "backslashreplace")


def represent(message: object) -> str:
    """The `repr` of what a codec of the user's made."""
    try:
        return repr(message)
    except Exception:  # noqa: BLE001  # it may be broken
        return describe(message)


def reason_of(error: BaseException) -> str:
    """Why something failed, in one line, with a remedy where there is one."""
    while isinstance(error, (NodeError, BrokenResourceError)) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{error.verify_message}; give the authority of its certificate with --ca, or use --insecure"
    if isinstance(error, ssl.SSLError):
        why = getattr(error, "reason", None) or printable(str(error))  # an SSLEOFError has no reason
        return f"TLS failed: {why}; see that both sides use it, and their certificates"
    if isinstance(error, TimeoutError) and not error.errno:
        return "no answer in time; raise --timeout"
    if isinstance(error, OSError) and error.errno:
        return f"{os.strerror(error.errno) if error.errno > 0 else error.strerror}{REMEDIES.get(error.errno, '')}"
    return printable(str(error) or type(error).__name__)


async def read(file: int | None) -> bytes:
    """Some input; b"" at its end. To `select` a file is always readable; epoll(7) does not know about files."""
    with suppress(OSError):  # the terminal is gone
        while file is not None:
            if not select([file], [], [], 0)[0]:
                await anyio.wait_readable(file)
            with suppress(BlockingIOError):
                return os.read(file, 65_536)
    return b""


def write(file: int, data: bytes) -> bytes:
    """Write what can be written without waiting; return the rest."""
    while data and select([], [file], [], 0)[1]:
        data = data[os.write(file, data[:PIECE]) :]
    return data


@lru_cache(1)
def of_day(second: int) -> str:
    """The local time of day; the system's way to it is long."""
    return time.strftime("%H:%M:%S", time.localtime(second))


class Peer:
    """One connection."""

    def __init__(self, connection: Connection, stream: ByteStream, codec: Codec[Any]) -> None:
        self.connection, self.stream = connection, stream
        self.codec = codec  # for what is sent
        self.number = 0
        self.address = show((connection.addr[0].partition("#")[0], connection.addr[1]))
        self.name = self.address  # of a proxy's two connections both have that of the one who has dialled
        self.other: Peer | None = None  # to which a proxy hands on
        self.ready, self.over = Event(), Event()  # it can be sent to, or never will; it says no more
        self.received = 0  # messages
        self.heard = current_time()  # when it said something


class Screen:
    """Standard output, standard error and the record; and whether the program is to leave, and with which exit code.

    Rule: whoever shows something waits for the reader, so that a slow one slows the peers down; a signal ends the wait.
    """

    def __init__(self, options: Namespace, stdout: int | None, stderr: int | None, record: IO[bytes] | None) -> None:
        self.options, self.files, self.record = options, [stdout, stderr], record
        self.code, self.failed, self.leaving = 0, False, Event()
        self.leave_by = math.inf  # when nobody waits for a reader any more
        self._lock = anyio.Lock(fast_acquire=True)
        self._terminal = stdout is not None and os.isatty(stdout)
        self._colours = self._terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    async def fail(self, failure: Failure) -> None:
        """Let the program leave, and tell why."""
        self.code, self.failed = failure.code, True
        self.leaving.set()
        await self.put(f"pea2pea: {failure}", aside=True)

    async def show(self, peer: Peer, items: Sequence[Item], *, heard: bool) -> None:
        """Tell what a peer has said, or what was said to it, with one write."""
        dialled = heard is (peer.connection.side is Side.RESPONDER)  # who says it has dialled
        arrow = "<-" if heard and (peer.other is None or not dialled) else "->"
        texts, entries, layout = list[str](), list[str](), self._layout(peer, arrow)
        for event, message, wire in items:
            own = event == "message" and self.options.framing.classes is not None
            payload = message if isinstance(message, bytes) and not own else wire
            if isinstance(message, str) and not own:
                payload = message.encode("utf-8", "surrogatepass")
            if self._logs:
                about = {"direction": arrow, "sender": "initiator" if dialled else "responder", "length": len(payload)}
                about |= {"repr": represent(message)} if own else {"hex": payload.hex()}
                about["wire"] = wire.hex()
                with suppress(UnicodeError):
                    about |= {} if own else {"text": payload.decode()}
                entries.append(self._entry(event, peer, about))
            if not self.options.json:
                texts.append(layout(payload, represent(message) if own else None))
        await self._tell(entries, texts, aside=False, answer=heard)

    def _layout(self, peer: Peer, arrow: str) -> Callable[[bytes, str | None], str]:
        """Make lines of messages: of the bytes, and the text that is given, or that they are."""
        width = self.options.width
        if width is None:
            width = (self._terminal and os.get_terminal_size(self.files[0] or 0).columns) or WIDTH
        width = sys.maxsize if self.options.one else width or sys.maxsize
        now = time.time()
        clock = f"{of_day(int(now))}.{int(now * 1000) % 1000:03}"
        wide = width - len(clock) - 8
        dim, plain = ("\x1b[2m", "\x1b[0m") if self._colours else ("", "")
        if self._colours:
            arrow = f"\x1b[{32 if arrow == '<-' else 36}m{arrow}{plain}"
        begin = f"{dim}{clock}{plain} {arrow} "

        def line(payload: bytes, text: str | None) -> str:
            head = f"{peer.number} {peer.name} {len(payload):>5}"
            room = max(wide - len(head), 24)  # for the bytes and the text
            part = room * 2 // 3 if text is None else room // 3
            shown = payload.hex() if len(payload) * 2 <= part else f"{payload[: (part - 1) // 2].hex()}…"
            room -= len(shown)
            text = fit(text_of(payload, room) if text is None else text, room)
            return text if self.options.one else f"{begin}{head}  {dim}{shown}{plain}  {text}"

        return line

    @property
    def _logs(self) -> bool:
        return self.record is not None or bool(self.options.json)

    def _entry(self, event: str, peer: Peer | None, about: Mapping[str, object]) -> str:
        """An event as JSON."""
        entry: dict[str, object] = {"time": round(time.time(), 6), "event": event}
        entry |= {} if peer is None else {"connection": peer.number, "peer": peer.address}
        return json.dumps(entry | {**about})

    async def tell(
        self, event: str, peer: Peer | None, text: str, about: Mapping[str, object], *, aside: bool = True
    ) -> None:
        """Record an event, and show it, as JSON or, if there is one, as text; aside is what is no message."""
        entries = [self._entry(event, peer, about)] if self._logs else []
        if aside and text:
            text = f"\x1b[2m-- {text}\x1b[0m" if self._colours else f"-- {text}"
        await self._tell(entries, [text] if text else [], aside=aside, answer=False)

    async def _tell(self, entries: list[str], texts: list[str], *, aside: bool, answer: bool) -> None:
        """Record events, and show them."""
        try:
            if self.record is not None and entries:
                self.record.write("".join([f"{entry}\n" for entry in entries]).encode())
        except OSError as error:
            self.record = None
            await self.fail(Failure(f"cannot write to {self.options.record}: {reason_of(error)}"))
        texts, aside = (entries, False) if self.options.json else (texts, aside)
        if texts and (answer or not self.options.one):
            await self.put("\n".join(texts), aside=aside)

    async def put(self, text: str, *, aside: bool = False) -> None:
        """Write lines to standard output or, aside, to standard error; a reader that has gone ends the program."""
        file, data = self.files[aside], f"{text}\n".encode("utf-8", "backslashreplace")
        if file is None:
            return
        try:
            if not self._lock.locked():  # as it mostly is
                data = write(file, data)
            if data:
                with anyio.CancelScope(shield=True):  # no line is cut off by the end of a connection
                    async with self._lock:
                        while current_time() < self.leave_by and (data := write(file, data)):
                            with anyio.move_on_after(0.1):  # and look at `leave_by`
                                await anyio.wait_writable(file)
        except OSError as error:
            self.leaving.set()
            gone = isinstance(error, BrokenPipeError)
            self.files = [None, None if gone or aside else self.files[1]]
            if not gone:
                await self.fail(Failure(f"cannot write to standard output: {reason_of(error)}"))
