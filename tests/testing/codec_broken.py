"""Codecs as a user might write them, and what can be wrong with such. None of them is the library's."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pea2pea.errors import FrameError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LIMIT = 1_000_000


class Good:
    """Two bytes of magic, four of length, the payload; declares no limit, but has one."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def encode(self, message: bytes) -> bytes:
        if len(message) > LIMIT:
            raise ValueError("too long")
        return b"PP" + struct.pack(">I", len(message)) + message

    def decode(self, data: bytes) -> Iterable[bytes]:
        if not data and self.buffer:
            raise FrameError("truncated")
        self.buffer += data
        return self.frames()

    def frames(self) -> Iterator[bytes]:
        while (size := self.size()) is not None and self.complete(size):
            message = bytes(self.buffer[6 : 6 + size])
            del self.buffer[: 6 + size]
            yield message

    def complete(self, size: int) -> bool:
        return len(self.buffer) >= 6 + size

    def size(self) -> int | None:
        if not b"PP".startswith(self.buffer[:2]):
            raise FrameError("no frame")
        if len(self.buffer) < 6:
            return None
        size = int.from_bytes(self.buffer[2:6], "big")
        self.check(size)
        return size

    def check(self, size: int) -> None:
        if size > LIMIT:
            raise FrameError("too long")


class GoodLines:
    """Lines of text, of at most `max_length` bytes."""

    max_length = 10_000

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.kept = 0

    def encode(self, message: str) -> tuple[bytes, bytes]:
        line = message.encode()
        if "\n" in message or len(line) > self.max_length:
            raise ValueError("not one line, or too long")
        return line, b"\n"

    def decode(self, data: bytes) -> Iterator[str]:
        if not data and self.kept:
            raise FrameError("the last line has no end")
        *lines, rest = data.split(b"\n")
        for line in lines:
            whole = b"".join([*self.parts, line])
            self.parts, self.kept = [], 0
            yield self.text(whole)
        self.keep(rest)

    def keep(self, rest: bytes) -> None:
        self.parts.append(rest)
        self.kept += len(rest)
        if self.kept > self.max_length:
            raise FrameError("a line is too long")

    def text(self, line: bytes) -> str:
        if len(line) > self.max_length:
            raise FrameError("a line is too long")
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            raise FrameError("no UTF-8") from error


class GoodNumbers:
    """Up to 255 numbers below 256, behind their count."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def encode(self, message: list[int]) -> bytes:
        return bytes([len(message), *message])

    def decode(self, data: bytes) -> Iterator[list[int]]:
        self.buffer += data
        while self.buffer and len(self.buffer) > self.buffer[0]:
            end = 1 + self.buffer[0]
            numbers = list(self.buffer[1:end])
            del self.buffer[:end]
            yield numbers
        if not data and self.buffer:
            raise FrameError("truncated")


class ForgetsPartialFrames(Good):
    def decode(self, data: bytes) -> Iterable[bytes]:
        self.buffer.clear()
        return super().decode(data)


class ForgetsPartialLines(GoodLines):
    def keep(self, rest: bytes) -> None:
        pass


class ForgetsAllButTwoPieces(GoodLines):
    def keep(self, rest: bytes) -> None:
        super().keep(rest)
        self.parts = self.parts[-1:] if rest else self.parts


class WaitsForOneByteMore(Good):
    def complete(self, size: int) -> bool:
        return len(self.buffer) > 6 + size


class OneByteShort(Good):
    def complete(self, size: int) -> bool:
        return len(self.buffer) >= 6 + size - 1


class LimitOffByOne(GoodLines):
    def text(self, line: bytes) -> str:
        if len(line) >= self.max_length:
            raise FrameError("a line is too long")
        return super().text(line)


class LosesTheHeaderAlone(Good):
    """A cut right behind the header."""

    def decode(self, data: bytes) -> Iterable[bytes]:
        if len(self.buffer) == 6:
            self.buffer.clear()
        return super().decode(data)


class QuadraticBuffer(Good):
    def __init__(self) -> None:
        super().__init__()
        self.kept = b""

    def decode(self, data: bytes) -> Iterable[bytes]:
        self.kept = self.kept + data  # copies all that there is with each piece
        self.buffer = bytearray(self.kept[:6])
        while (size := self.size()) is not None and len(self.kept) >= 6 + size:
            message = self.kept[6 : 6 + size]
            self.kept = self.kept[6 + size :]
            self.buffer = bytearray(self.kept[:6])
            yield message
        if not data and self.kept:
            raise FrameError("truncated")


class QuadraticChunk(Good):
    """Keeps pieces of large frames as they are, but copies the rest of the chunk for each message."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = b""
        self.pieces: list[bytes] = []
        self.missing = 0

    def decode(self, data: bytes) -> Iterable[bytes]:
        if not data and (self.kept or self.missing):
            raise FrameError("truncated")
        if len(data) < self.missing:
            self.pieces.append(data)
            self.missing -= len(data)
            return
        if self.missing:
            pieces, missing = [*self.pieces, data[: self.missing]], self.missing
            self.pieces, self.missing = [], 0
            yield b"".join(pieces)
            data = data[missing:]
        data, self.kept = self.kept + data, b""
        while data:
            self.buffer = bytearray(data[:6])
            if (size := self.size()) is None:
                self.kept = data
                return
            if len(data) < 6 + size:
                self.pieces, self.missing = [data[6:]], 6 + size - len(data)
                return
            yield data[6 : 6 + size]
            data = data[6 + size :]


class TellsTooMuch(Good):
    """Counts the header of the next frame among what is missing."""

    @property
    def missing(self) -> int:
        return max(6 + (self.size() or 0) - len(self.buffer), 0) + 6


class TellsNoNumber(Good):
    missing = None


class SearchesAgain(GoodLines):
    max_length = 2_000_000

    def __init__(self) -> None:
        super().__init__()
        self.buffer = bytearray()

    def decode(self, data: bytes) -> Iterator[str]:
        if not data and self.buffer:
            raise FrameError("the last line has no end")
        self.buffer += data
        while (end := self.buffer.find(b"\n")) >= 0:  # from the beginning, with each piece
            line = bytes(self.buffer[:end])
            del self.buffer[: end + 1]
            yield self.text(line)
        if len(self.buffer) > self.max_length:
            raise FrameError("a line is too long")


class UnboundedFrames(Good):
    def check(self, size: int) -> None:
        pass


class UnboundedLines(GoodLines):
    def keep(self, rest: bytes) -> None:
        self.parts.append(rest)
        self.kept += len(rest)


class NeverTrims(Good):
    def __init__(self) -> None:
        super().__init__()
        self.all: list[bytes] = []

    def decode(self, data: bytes) -> Iterable[bytes]:
        self.all.append(data)
        return super().decode(data)


class DropsTheLast(Good):
    def frames(self) -> Iterator[bytes]:
        return iter(list(super().frames())[:-1])


class KeepsTheLastBack(Good):
    def __init__(self) -> None:
        super().__init__()
        self.held: list[bytes] = []

    def decode(self, data: bytes) -> Iterable[bytes]:
        self.held += super().decode(data)
        ready, self.held = (self.held[:-1], self.held[-1:]) if data else (self.held, [])
        return ready


class SwallowsTheEnd(Good):
    def decode(self, data: bytes) -> Iterable[bytes]:
        return super().decode(data) if data else ()


class SwallowsTheLastLine(GoodLines):
    def decode(self, data: bytes) -> Iterator[str]:
        return super().decode(data) if data else iter(())


class RefusesTheCleanEnd(Good):
    def decode(self, data: bytes) -> Iterable[bytes]:
        if not data:
            raise FrameError("the peer has gone")
        return super().decode(data)


class SharesItsBuffer(Good):
    shared = bytearray()

    def __init__(self) -> None:
        self.buffer = self.shared


class EncodingClearsTheBuffer(Good):
    def encode(self, message: bytes) -> bytes:
        self.buffer.clear()
        return super().encode(message)


class EmptiesItsInput(Good):
    def decode(self, data: bytes) -> Iterable[bytes]:
        found = super().decode(data)
        if isinstance(data, bytearray):
            data.clear()
        return found


class EmptiesTheMessage(GoodNumbers):
    def encode(self, message: list[int]) -> bytes:
        frame = bytearray([len(message)])
        while message:
            frame.append(message.pop(0))
        return bytes(frame)


class ReusesItsFrame(Good):
    def __init__(self) -> None:
        super().__init__()
        self.out = bytearray()

    def encode(self, message: bytes) -> bytearray:  # type: ignore[override]  # one fault at a time, please
        self.out[:] = super().encode(message)
        return self.out


class EmitsBeforeComplete(Good):
    def frames(self) -> Iterator[bytes]:
        yield from super().frames()
        if len(self.buffer) > 6:
            yield bytes(self.buffer[6:])


class WrongOrder(Good):
    def frames(self) -> Iterator[bytes]:
        return iter(list(super().frames())[::-1])


class WrongEndianness(GoodNumbers):
    """Of the count, in two bytes; without a limit that would notice."""

    def encode(self, message: list[int]) -> bytes:
        return struct.pack("<H", len(message)) + bytes(message)

    def decode(self, data: bytes) -> Iterator[list[int]]:
        self.buffer += data
        while len(self.buffer) >= 2 and len(self.buffer) >= (end := 2 + int.from_bytes(self.buffer[:2], "big")):
            numbers = list(self.buffer[2:end])
            del self.buffer[:end]
            yield numbers
        if not data and self.buffer:
            raise FrameError("truncated")


class WrongEndiannessNoticed(WrongEndianness):
    def decode(self, data: bytes) -> Iterator[list[int]]:
        for byte in (self.buffer + data)[:1]:
            if byte:
                raise FrameError("more than 255 numbers")
        return super().decode(data)


class RefusesAnEmptyMessage(Good):
    def encode(self, message: bytes) -> bytes:
        if not message:
            raise ValueError("nothing to send")
        return super().encode(message)


class SkipsAnEmptyMessage(Good):
    def frames(self) -> Iterator[bytes]:
        return filter(None, super().frames())


class LosesWhatCameBeforeAnError(Good):
    def frames(self) -> Iterator[bytes]:
        return iter(list(super().frames()))


class RaisesSomethingElse(GoodLines):
    def text(self, line: bytes) -> str:
        return line.decode()


class ReturnsNothing(Good):
    def decode(self, data: bytes) -> Iterable[bytes]:
        self.buffer += data
        return None  # type: ignore[return-value]  # one fault at a time, please


class NeverStops(Good):
    def decode(self, data: bytes) -> Iterator[bytes]:
        while True:
            yield data


class SaysItTwice(Good):
    def frames(self) -> Iterator[bytes]:
        for message in super().frames():
            yield message
            yield message


class EncodesText(Good):
    def encode(self, message: bytes) -> bytes:
        return str(super().encode(message))  # type: ignore[return-value]  # one fault at a time, please


class Garbles(Good):
    def frames(self) -> Iterator[bytes]:
        return (message.lower() for message in super().frames())


class Counting(GoodNumbers):
    """Numbers its frames, so that each can be decoded in its turn only."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = self.seen = 0

    def encode(self, message: list[int]) -> bytes:
        self.sent += 1
        return super().encode([self.sent % 256, *message])

    def decode(self, data: bytes) -> Iterator[list[int]]:
        for message in super().decode(data):
            self.seen += 1
            if message[:1] != [self.seen % 256]:
                raise FrameError("out of turn")
            yield message[1:]
