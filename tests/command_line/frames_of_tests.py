"""Codecs that the tests name as `--frame frames_of_tests:...`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pea2pea.codecs import Codec, DelimitedCodec, LinesCodec, mapped


@dataclass
class Point:
    x: int
    y: int


def objects() -> Codec[Any]:
    return mapped(LinesCodec(), decode=json.loads, encode=json.dumps)


def points() -> Codec[Point]:
    def decode(line: str) -> Point:
        x, y = line.split()
        return Point(int(x), int(y))

    return mapped(LinesCodec(), decode=decode, encode=lambda point: f"{point.x} {point.y}")


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError("not today")


def unprintable() -> Codec[Unprintable]:
    return mapped(LinesCodec(), decode=lambda _: Unprintable(), encode=str)


def upper() -> Codec[str]:
    return mapped(LinesCodec(), decode=str.lower, encode=lambda text: text.upper())


def own_bytes() -> Codec[bytes]:
    return DelimitedCodec(b".")


class Faulty:
    """Its author has not thought of that."""

    def __init__(self) -> None:
        self.lines = LinesCodec()

    def decode(self, data: bytes) -> list[str]:
        known: dict[str, str] = {}
        return [known[line] for line in self.lines.decode(data)]

    def encode(self, message: str) -> bytes:
        return message.encode()


def faulty() -> Faulty:
    return Faulty()


def no_codec() -> object:
    return object()


def raises() -> object:
    raise RuntimeError("not today")
