"""What is kept of an end: `Connection.cause` holds no message alive, and logs show 200 printable characters of it."""

from __future__ import annotations

import gc
import json
import logging
import sys
import types
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pea2pea import Connection, DisconnectOrigin, FrameError, Node
from pea2pea.codecs import LengthDelimitedCodec, LinesCodec, mapped

from ..helpers import RawPeer, frame, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pea2pea.codecs import Chunk, Decoder

HUGE = 1_000_000  # characters
ATTACK = "\x1b[2J\x07" + "all is lost\r"


class BadChecksumError(FrameError):
    """An error of a user's that has more to tell than its text."""

    def __init__(self, message: bytes) -> None:
        super().__init__(message)
        self.message = message
        self.code = 7


class Suspicious(LengthDelimitedCodec):
    def decode(self, data: Chunk, /) -> Iterator[bytes]:
        for message in super().decode(data):
            raise BadChecksumError(message)
            yield message


def as_json() -> Decoder[object]:
    return mapped(LinesCodec(), decode=json.loads, encode=json.dumps)


def as_number() -> Decoder[int]:
    return mapped(LinesCodec(), decode=lambda text: int(text, 16), encode=str)


def as_key() -> Decoder[int]:
    return mapped(LinesCodec(), decode=lambda text: {"a": 1}[text], encode=str)


def as_text() -> Decoder[str]:
    return mapped(LengthDelimitedCodec(), decode=bytes.decode, encode=str.encode)


def read_key(message: Any) -> None:
    raise KeyError(message)


def read_json(message: Any) -> None:
    json.loads(message)


def read_text(message: Any) -> None:
    message.encode().join([b"\xff"] * 2).decode()


def read_and_tell(message: Any) -> None:
    try:
        read_key(message)
    except KeyError as error:
        raise RuntimeError(f"what is {message}?") from error


async def read_in_groups(message: Any) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 0)
        read_key(message)


LINE = (ATTACK.replace("\r", "") + "x" * HUGE + "\n").encode()


class Receiver:
    """A user whose peers send what it cannot read."""

    def __init__(self, make_decoder: Callable[[], Decoder[Any]], read: Callable[[Any], Any] = lambda _: None) -> None:
        self.node = Node()
        self.make_decoder = make_decoder
        self.read = read
        self.node.enable_reading(self)

    def decoder(self, connection: Connection) -> Decoder[Any]:
        return self.make_decoder()

    async def process_message(self, source: Connection, message: Any) -> None:
        result = self.read(message)
        if result is not None:
            await result


async def ended_by(receiver: Receiver, data: bytes) -> Connection:
    """The connection of a peer that sent this."""
    async with receiver.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections)
            (connection,) = node.connections.values()
            await peer.send(data)
            await connection.wait_closed()
    assert connection.origin is DisconnectOrigin.READING
    return connection


def kept_by(error: object) -> int:
    """How many bytes of text and data can be reached from it."""
    seen: dict[int, object] = {}
    rest: list[object] = [error]
    while rest:
        value = rest.pop()
        if id(value) not in seen and not isinstance(value, (type, types.ModuleType, types.FunctionType)):
            seen[id(value)] = value
            rest += gc.get_referents(value)
    return sum(sys.getsizeof(value) for value in seen.values() if isinstance(value, (str, bytes, bytearray)))


def assert_bounded(text: str) -> None:
    assert text.replace("\n", "").isprintable()
    assert max(map(len, text.split("\n"))) < 500
    assert len(text) < 20_000


BY_DECODERS = {
    "lines": (LinesCodec, b"a" * HUGE + b"\xff\n"),
    "lines without an end": (lambda: LinesCodec(max_length=100), LINE),
    "text": (as_text, frame(b"a" * HUGE + b"\xff")),
    "json": (as_json, LINE),
    "number": (as_number, LINE),
    "key": (as_key, LINE),
    "a user's": (Suspicious, frame(LINE)),
}
BY_HANDLERS = {
    "key": read_key,
    "json": read_json,
    "text": read_text,
    "a chain": read_and_tell,
    "a group": read_in_groups,
}


@pytest.mark.parametrize("what", BY_DECODERS)
async def test_what_a_decoder_raises_keeps_nothing_of_the_message(what: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "pea2pea")
    connection = await ended_by(Receiver(*BY_DECODERS[what][:1]), BY_DECODERS[what][1])
    assert isinstance(connection.cause, FrameError)
    assert kept_by(connection.cause) < 10_000
    for record in caplog.records:
        assert record.levelno <= logging.INFO
        assert_bounded(logging.Formatter().format(record))
    if what == "a user's":
        assert isinstance(connection.cause, BadChecksumError)
        assert connection.cause.code == 7
    else:
        assert_bounded(str(connection.cause))


@pytest.mark.parametrize("what", BY_HANDLERS)
async def test_what_a_handler_raises_keeps_nothing_of_the_message(what: str, caplog: pytest.LogCaptureFixture) -> None:
    connection = await ended_by(Receiver(LinesCodec, BY_HANDLERS[what]), LINE)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert_bounded(record.getMessage())
    assert_bounded(logging.Formatter().format(record))
    caplog.clear()
    del record
    assert connection.cause is not None
    assert kept_by(connection.cause) < 10_000


@pytest.mark.parametrize("length", [100, 200, 201, HUGE])
async def test_shown_text_is_cut_and_escaped(length: int, caplog: pytest.LogCaptureFixture) -> None:
    """What is shown is cut at two hundred characters and escaped."""
    caplog.set_level("INFO", "pea2pea")

    def read(message: Any) -> None:
        raise ValueError(message)

    connection = await ended_by(
        Receiver(lambda: mapped(LinesCodec(), decode=read, encode=str)), (ATTACK[:4] + "x" * length + "\n").encode()
    )
    text = str(connection.cause)
    assert r"\x1b[2J" in text
    assert text.count("x" * 50)
    assert len(text) < 300
    assert any(r"\x1b[2J" in record.getMessage() for record in caplog.records)
    assert ("..." in text) is (length >= 200)
