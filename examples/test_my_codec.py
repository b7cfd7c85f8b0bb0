"""The test of a codec of your own: one call of `check_codec`, which cuts and spoils the stream in every way there is.

Shows a codec written by hand, with a buffer of its own, and all that it takes to test it: a few messages from the edges
of what can be sent, and a Hypothesis strategy for those one does not think of. Run
`python -m pytest examples/test_my_codec.py` (pytest and hypothesis must be there). You will see it pass. Then break the
codec, and see what is said of it: take out the last `if`, the `break` or the `try`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from hypothesis import strategies

from pea2pea import FrameError
from pea2pea.testing import Strategy, check_codec

HEADER = struct.Struct("!BBH")  # row, column, and the length of the comment


@dataclass(frozen=True)
class Move:
    """A move in a board game, and what the player says to it."""

    row: int
    column: int
    comment: str = ""


class MoveCodec:
    """Four bytes (row, column, length of the comment) and the comment in UTF-8."""

    max_length = HEADER.size + 0xFFFF

    def __init__(self) -> None:
        self._buffer = bytearray()

    def decode(self, data: bytes) -> Iterator[Move]:
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            row, column, size = HEADER.unpack_from(self._buffer)
            end = HEADER.size + size
            if len(self._buffer) < end:
                break
            try:
                comment = self._buffer[HEADER.size : end].decode()
            except UnicodeDecodeError as error:
                raise FrameError(f"a comment that is no UTF-8: {error}") from error
            del self._buffer[:end]
            yield Move(row, column, comment)
        if not data and self._buffer:
            raise FrameError(f"the stream ended within a move, after {len(self._buffer)} bytes of it")

    def encode(self, move: Move) -> bytes:
        comment = move.comment.encode()
        if not (0 <= move.row <= 255 and 0 <= move.column <= 255 and len(comment) <= 0xFFFF):
            raise ValueError(f"what the header cannot express: {move!r}")
        return HEADER.pack(move.row, move.column, len(comment)) + comment


MOVES = [Move(0, 0), Move(255, 255, "I win."), Move(1, 2, "é" * 0x7FFF)]
BYTE = strategies.integers(0, 255)
ANY_MOVE: Strategy[Move] = strategies.builds(Move, BYTE, BYTE, strategies.text())


def test_moves_arrive_however_the_stream_is_cut() -> None:
    check_codec(MoveCodec, MOVES, strategy=ANY_MOVE)
