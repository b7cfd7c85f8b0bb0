"""A codec of the protocol of Redis (RESP2), as a user would write one: commands are lists, answers are values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from pea2pea import FrameError

Value: TypeAlias = "str | int | bytes | list[Value] | Fault | None"


class Fault(str):
    """An error that the server answers with."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Fault({str(self)!r})"


class Resp:
    """Keeps what has come until a value is whole."""

    def __init__(self) -> None:
        self.data = b""

    def decode(self, data: bytes) -> Iterator[Value]:
        self.data += data
        while (found := self.parse(0)) is not None:
            value, end = found
            self.data = self.data[end:]
            yield value
        if not data and self.data:
            raise FrameError("the stream ended within a value")

    def parse(self, start: int) -> tuple[Value, int] | None:
        """A value and where it ends; None if it is not whole."""
        line_end = self.data.find(b"\r\n", start)
        if line_end < 0:
            return None
        kind, text, end = self.data[start : start + 1], self.data[start + 1 : line_end].decode(), line_end + 2
        if kind in (b"+", b"-"):
            return (text if kind == b"+" else Fault(text)), end
        if kind == b":":
            return int(text), end
        if kind == b"$":
            size = int(text)
            if size < 0:
                return None, end
            return (self.data[end : end + size], end + size + 2) if len(self.data) >= end + size + 2 else None
        if kind == b"*":
            values: list[Value] = []
            for _ in range(int(text)):
                found = self.parse(end)
                if found is None:
                    return None
                value, end = found
                values.append(value)
            return values, end
        raise FrameError(f"{kind!r} begins no value")

    def encode(self, message: list[object]) -> bytes:
        if not isinstance(message, list):
            raise TypeError("a command is a list: ['PING']")
        parts = [str(each).encode() for each in message]
        return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(each), each) for each in parts)


def codec() -> Resp:
    return Resp()
