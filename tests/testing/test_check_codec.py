"""The conformance kit: every fault is found, and named; nothing is found where there is none. And `wait_until`."""

from __future__ import annotations

import functools
import gc
import json
import re
import subprocess
import sys
import tracemalloc
import zlib
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import strategies as st

from pea2pea import FrameError
from pea2pea.codecs import (
    BytesCodec,
    Codec,
    DelimitedCodec,
    HeaderCodec,
    LengthDelimitedCodec,
    LinesCodec,
    VarintDelimitedCodec,
    batched,
    mapped,
)
from pea2pea.testing import check_codec, wait_until

from . import codec_broken as broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

BYTES = [b"One", b"", b"two two", b"\0\xff" * 40]
LINES = ["hello", "", "wörld"]
NUMBERS = [[1, 2, 3], [], [4]]


def of_all(batches: list[list[Any]]) -> list[Any]:
    return [*chain(*batches)]


def json_lines() -> Codec[object]:
    return mapped(LinesCodec(), decode=json.loads, encode=json.dumps)


GOOD: dict[str, tuple[Callable[[], Codec[Any]], list[Any], dict[str, Any]]] = {
    "length": (LengthDelimitedCodec, BYTES, {"bytes_like": True, "strategy": st.binary()}),
    "length, large": (LengthDelimitedCodec, [b"x" * size for size in (0, 1, 70_000, 1 << 20)], {"bytes_like": True}),
    "length, many": (LengthDelimitedCodec, [b"%d" % number for number in range(2000)], {"bytes_like": True}),
    "length, one": (LengthDelimitedCodec, [b"a"], {}),
    "length of 1": (lambda: LengthDelimitedCodec(prefix=1), BYTES, {"bytes_like": True}),
    "length of 3, little, included": (
        lambda: LengthDelimitedCodec(prefix=3, byteorder="little", prefix_included=True, max_length=1000),
        BYTES,
        {"bytes_like": True},
    ),
    "length of 8": (lambda: LengthDelimitedCodec(prefix=8, max_length=100_000), BYTES, {"bytes_like": True}),
    "varint": (VarintDelimitedCodec, BYTES, {"bytes_like": True, "strategy": st.binary()}),
    "varint, short": (lambda: VarintDelimitedCodec(max_length=200), BYTES, {"bytes_like": True}),
    "delimited": (lambda: DelimitedCodec(b"|"), BYTES, {"bytes_like": True}),
    "delimited, overlapping": (lambda: DelimitedCodec(b"aab", 500), BYTES, {"bytes_like": True}),
    "lines": (
        LinesCodec,
        LINES,
        {"bytes_like": True, "strategy": st.text(st.characters(exclude_characters="\r\n", codec="utf-8"))},
    ),
    "lines, latin-1": (lambda: LinesCodec("latin-1", 100), LINES, {"bytes_like": True}),
    "bytes": (BytesCodec, [b"abc", b"d", b""], {"bytes_like": True, "join": b"".join}),
    "mapped": (json_lines, [{"a": 1}, [1, 2], None, "x", 12], {"bytes_like": True, "strategy": st.integers()}),
    "header": (
        lambda: HeaderCodec(3, lambda header: int.from_bytes(header[:2], "big"), 20_000),
        [(b"\0\0a", b""), (b"\0\x03b", b"abc"), (b"\x03\xe8\n", bytes(1000)), (b"\0\x01c", b"d")],
        {"bytes_like": True},
    ),
    "batched": (
        lambda: batched(LinesCodec()),
        [["a", "bc"], [], ["d"], ["e"] * 70],
        {"bytes_like": True, "join": of_all},
    ),
    "batched, few": (
        lambda: batched(json_lines(), at_most=2),
        [[1, {"a": 2}, None], ["x"]],
        {"join": of_all, "strategy": st.lists(st.integers())},
    ),
    "batched, of the user's": (lambda: batched(broken.Good()), [BYTES, BYTES[:1]], {"join": of_all}),
    "a user's": (broken.Good, BYTES, {}),
    "a user's lines": (broken.GoodLines, LINES, {}),
    "a user's numbers": (broken.GoodNumbers, NUMBERS, {"strategy": st.lists(st.integers(0, 255), max_size=255)}),
    "a user's, each in its turn": (broken.Counting, NUMBERS, {}),
}


@pytest.mark.parametrize(("make", "messages", "options"), GOOD.values(), ids=tuple(GOOD))
def test_nothing_is_found_in_good_codecs(
    make: Callable[[], Codec[Any]], messages: list[Any], options: dict[str, Any]
) -> None:
    check_codec(make, messages, **options)


FAULTS: dict[type[Codec[Any]], str] = {
    # what is wrong: what is said about it
    broken.ForgetsPartialFrames: r"decode refuses what encode made: no frame[^$]*fed: cut at byte 1\n",
    broken.ForgetsPartialLines: r"other messages come out[^$]*fed: cut at byte 1\n[^$]*got: \['örld'\]",
    broken.ForgetsAllButTwoPieces: r"other messages come out[^$]*fed: in pieces of 1 bytes\n[^$]*got: \['d'\]",
    broken.LosesTheHeaderAlone: r"decode refuses what encode made: no frame[^$]*fed: cut at byte 6\n",
    broken.WaitsForOneByteMore: r"does not come out though all its bytes are in[^$]*in one piece",
    broken.OneByteShort: r"too early, or once too often[^$]*cut at byte 8\n[^$]*got: \[b'On'\]",
    broken.LimitOffByOne: r"decode refuses what encode made: a line is too long[^$]*10000 times 'w'",
    broken.QuadraticBuffer: r"decode copies the rest of a chunk, with each message\n  bytes in all: \d+\n  pieces: 1$",
    broken.QuadraticChunk: r"decode copies the rest of a chunk, with each message\n  bytes in all: \d+\n  pieces: 1$",
    broken.TellsTooMuch: r"missing is \d+, which is no number that the next message lacks[^$]*at byte 1\n",
    broken.TellsNoNumber: r"missing is None, which is no number that the next message lacks",
    broken.UnboundedFrames: r"keeps \d{8} bytes after \d{8} bytes of a frame that never ends",
    broken.UnboundedLines: r"keeps \d{5} bytes after \d{5} bytes of a frame that never ends\n  declared limit: 10000",
    broken.NeverTrims: r"keeps \d+ bytes after \d+ bytes of frames that are all complete",
    broken.DropsTheLast: r"does not come out though all its bytes are in[^$]*in one piece",
    broken.KeepsTheLastBack: r"does not come out though all its bytes are in",
    broken.SwallowsTheEnd: r"ends within a frame, and decode does not say so[^$]*ended after: 1\n",
    broken.SwallowsTheLastLine: r"ends within a frame, and decode does not say so[^$]*ended after: 1\n",
    broken.RefusesTheCleanEnd: r"decode refuses the end of a whole stream: the peer has gone\n",
    broken.SharesItsBuffer: r"codecs share state",
    broken.EncodingClearsTheBuffer: r"encoding disturbs decoding",
    broken.EmptiesItsInput: r"decode changes the bytes it is given",
    broken.EmptiesTheMessage: r"encode changes the message it is given[^$]*before: \[1, 2, 3\]\n  after: \[\]",
    broken.ReusesItsFrame: r"encode changes a frame after it has returned it",
    broken.EmitsBeforeComplete: r"too early, or once too often[^$]*cut at byte 7\n",
    broken.WrongOrder: r"other messages come out[^$]*messages: \[b'One', b'two two'\]",
    broken.WrongEndianness: r"does not come out though all its bytes are in[^$]*messages: \[\[1, 2, 3\]\]",
    broken.WrongEndiannessNoticed: r"decode refuses what encode made: more than 255 numbers",
    broken.RefusesAnEmptyMessage: r"encode refuses b'', or",
    broken.SkipsAnEmptyMessage: r"does not come out though all its bytes are in[^$]*messages: \[b''\]",
    broken.LosesWhatCameBeforeAnError: r"messages before a bad frame are lost",
    broken.RaisesSomethingElse: r"raises UnicodeDecodeError[^$]*only FrameError",
    broken.ReturnsNothing: r"'NoneType' object is not iterable",
    broken.NeverStops: r"decode makes messages without end",
    broken.SaysItTwice: r"too early, or once too often[^$]*got: \[b'One', b'One'\]",
    broken.EncodesText: r"encode refuses b'One', or makes no frame of it: TypeError",
    broken.Garbles: r"other messages come out than went in",
}
NOT_FOUND = {broken.SearchesAgain}  # costs time and nothing else, which a test does not measure


def messages_for(codec: type[object]) -> list[Any]:
    if issubclass(codec, broken.GoodNumbers):
        return [list(numbers) for numbers in NUMBERS]  # since one of them empties those that it is given
    return ["wörld", "hello"] if issubclass(codec, broken.GoodLines) else [b"One", b"two two", b"three"]


@pytest.mark.parametrize(("codec", "said"), FAULTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_every_fault_is_found_and_named(codec: type[Codec[Any]], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_codec(codec, messages_for(codec))


def test_what_is_kept_is_found_whenever_garbage_is_collected() -> None:
    """What was tried before must have been freed by then: freed while it is measured, it would hide what is kept."""

    class Collects(broken.NeverTrims):
        def decode(self, data: bytes) -> Iterable[bytes]:
            if tracemalloc.is_tracing() and b"One" in data:
                gc.collect()
            return super().decode(data)

    gc.disable()
    try:
        with pytest.raises(AssertionError, match=FAULTS[broken.NeverTrims]):
            check_codec(Collects, messages_for(Collects))
    finally:
        gc.enable()


def test_every_broken_codec_is_tried() -> None:
    there = {
        value for value in vars(broken).values() if isinstance(value, type) and value.__module__ == broken.__name__
    }
    good = {broken.Good, broken.GoodLines, broken.GoodNumbers, broken.Counting}
    assert there - good - NOT_FOUND == set(FAULTS)


def test_smallest_case() -> None:
    """The fault is shown with the fewest messages and the earliest cut."""

    class LosesTheThirdByteOfTwo(broken.Good):
        """Only if the first chunk ends behind the second byte of a second frame."""

        def decode(self, data: bytes) -> Iterator[bytes]:
            yield from super().decode(data)
            if bytes(self.buffer) == b"PP" and len(data) > 2:
                self.buffer.clear()

    with pytest.raises(AssertionError) as caught:
        check_codec(LosesTheThirdByteOfTwo, [b"a", b"b", b"c", b"d"])
    assert "messages: [b'a', b'b']\n" in str(caught.value)
    assert "stream: b'PP\\x00\\x00\\x00\\x01aPP\\x00\\x00\\x00\\x01b'\n  fed: cut at byte 9\n" in str(caught.value)


def test_kept_input() -> None:
    """Input that is kept is found where more than bytes is promised."""
    with pytest.raises(AssertionError, match=r"overwritten after each call, gives other messages"):
        check_codec(KeepsPieces, [b"one", b"two"], bytes_like=True)


class KeepsPieces(broken.Good):
    """Takes any bytes-like object, but keeps hold of it."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []

    def decode(self, data: bytes) -> Iterator[bytes]:
        if data:
            self.pieces.append(data)
        self.buffer = bytearray(b"".join(self.pieces))
        for message in self.frames():
            self.pieces = [bytes(self.buffer)]
            yield message
        if not data and self.buffer:
            raise FrameError("truncated")


def test_bytes_like_input_must_be_taken_where_it_is_promised() -> None:
    class BytesOnly(broken.Good):
        def decode(self, data: bytes) -> Iterable[bytes]:
            if not isinstance(data, bytes):
                raise ZeroDivisionError
            return super().decode(data)

    check_codec(BytesOnly, [b"one"])
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        check_codec(BytesOnly, [b"one"], bytes_like=True)
    with pytest.raises(AssertionError, match="memoryview"):
        check_codec(broken.GoodLines, LINES, bytes_like=True)


def test_generated_messages_are_checked_and_the_least_is_shown() -> None:
    class ShortOnly(broken.Good):
        def frames(self) -> Iterator[bytes]:
            return (message for message in super().frames() if len(message) < 3)

    check_codec(ShortOnly, [b"a"], derive=False)
    with pytest.raises(AssertionError, match=r"messages: \[b'\\x00\\x00\\x00'\]"):
        check_codec(ShortOnly, [b"a"], derive=False, strategy=st.binary())


def test_a_declared_limit_is_what_counts() -> None:
    check_codec(LargeLines, ["a"])
    with pytest.raises(AssertionError, match=r"never ends\n  declared limit: 1000"):
        check_codec(LargeLines, ["a"], max_length=1000)


class LargeLines(broken.GoodLines):
    max_length = 500_000


def test_messages_made_up_can_be_left_out() -> None:
    class Sized(broken.Good):
        def frames(self) -> Iterator[bytes]:
            return (message for message in super().frames() if 0 < len(message) < 200)

    check_codec(Sized, [b"a", b"b"], derive=False)
    with pytest.raises(AssertionError, match=r"does not come out[^$]*messages: \[b''\][^$]*see `derive`"):
        check_codec(Sized, [b"a", b"b"])


def test_codecs_without_boundaries_are_checked_as_a_whole() -> None:
    class DropsOne(BytesCodec):
        def decode(self, data: Any) -> Any:
            return [bytes(data).replace(b"x", b"")]

    with pytest.raises(AssertionError, match="messages"):
        check_codec(BytesCodec, [b"abc", b"d"])
    with pytest.raises(AssertionError, match="messages"):
        check_codec(DropsOne, [b"axc", b"d"], join=b"".join)
    check_codec(BytesCodec, [b""], join=b"".join)


def test_codec_without_boundaries() -> None:
    """A codec without boundaries must have delivered all at the end of each frame."""

    class KeepsTheLast(BytesCodec):
        def __init__(self) -> None:
            self.last = b""

        def decode(self, data: Any) -> Any:
            data = self.last + bytes(data)
            self.last = b"" if not data else data[-1:] if self.last != data else b""
            return [data[: len(data) - len(self.last)]]

    with pytest.raises(AssertionError, match=r"other messages come out[^$]*after: 3 bytes\n[^$]*got: \[b'ab'\]"):
        check_codec(KeepsTheLast, [b"abc", b"d"], join=b"".join)
    with pytest.raises(AssertionError, match="messages"):
        check_codec(lambda: batched(LinesCodec()), [["a", "b"], ["c"]])


@pytest.mark.parametrize("at_most", [1, 2, 64])
def test_batches_that_lose_a_message_are_found(at_most: int) -> None:
    class LosesTheThird:
        def __init__(self) -> None:
            self.codec = batched(LinesCodec(), at_most=at_most)

        def decode(self, data: bytes) -> Iterator[list[str]]:
            for number, lines in enumerate(self.codec.decode(data)):
                yield lines[:2] if number * at_most < 3 else lines[1:]

        def encode(self, message: list[str]) -> Any:
            return self.codec.encode(message)

    with pytest.raises(AssertionError, match=r"messages: .*'c'"):
        check_codec(LosesTheThird, [["a"], ["b", "c", "d", "e", "f"]], join=of_all)


def test_a_codec_instead_of_what_makes_one_is_refused() -> None:
    codec: Any = LinesCodec()
    with pytest.raises(TypeError, match=r"pass a class or a function, not LinesCodec\("):
        check_codec(codec, ["line"])
    with pytest.raises(TypeError, match=r"pass a class or a function, not LinesCodec\("):
        check_codec(LinesCodec, ["line"], make_encoder=codec)


# ---- decoders and encoders in two objects


class GoodDecoder:
    """Half of `Good`."""

    def __init__(self) -> None:
        self.inner = broken.Good()

    def decode(self, data: bytes) -> Iterable[bytes]:
        return self.inner.decode(data)


class GoodEncoder:
    """The other half."""

    def encode(self, message: bytes) -> bytes:
        return broken.Good().encode(message)


class ForgetfulDecoder(GoodDecoder):
    def decode(self, data: bytes) -> Iterable[bytes]:
        self.inner.buffer.clear()
        return super().decode(data)


class CarelessDecoder(GoodDecoder):
    def decode(self, data: bytes) -> Iterable[bytes]:
        return [] if data[:3] == b"PP\xff" and len(data) > 8 and data[8:9] == b"x" else list(super().decode(data))


class WrongEncoder(GoodEncoder):
    def encode(self, message: bytes) -> bytes:
        return super().encode(message.lower())


class ReusingEncoder(GoodEncoder):
    def __init__(self) -> None:
        self.out = bytearray()

    def encode(self, message: bytes) -> Any:
        self.out[:] = super().encode(message)
        return self.out


def test_a_decoder_and_an_encoder_are_checked_with_each_other() -> None:
    check_codec(GoodDecoder, BYTES, make_encoder=GoodEncoder, strategy=st.binary(), bytes_like=True)
    check_codec(VarintDelimitedCodec, BYTES, make_encoder=VarintDelimitedCodec, bytes_like=True)
    check_codec(BytesCodec, BYTES, make_encoder=BytesCodec, join=b"".join)


@pytest.mark.parametrize(
    ("make_decoder", "make_encoder", "said"),
    [
        (ForgetfulDecoder, GoodEncoder, r"decode refuses what encode made: no frame[^$]*fed: cut at byte 1\n"),
        (CarelessDecoder, GoodEncoder, r"messages before a bad frame are lost"),
        (GoodDecoder, WrongEncoder, r"other messages come out than went in"),
        (GoodDecoder, ReusingEncoder, r"encode changes a frame after it has returned it"),
        (LengthDelimitedCodec, GoodEncoder, r"decode refuses what encode made"),
        (GoodDecoder, GoodDecoder, r"encode refuses b'One', or makes no frame of it: AttributeError"),
    ],
)
def test_a_fault_of_either_is_found(make_decoder: Any, make_encoder: Any, said: str) -> None:
    messages = [b"One", b"two two"]
    with pytest.raises(AssertionError, match=said):
        check_codec(make_decoder, messages, make_encoder=make_encoder)


# ---- checksums


class Sealed(broken.Good):
    """A CRC-32 at the end of each frame, and a kind in the first byte of its message."""

    KINDS: ClassVar[dict[int, str]] = {ord("O"): "one", ord("t"): "two"}

    def encode(self, message: bytes) -> bytes:
        return super().encode(message + zlib.crc32(message).to_bytes(4, "big"))

    def frames(self) -> Iterator[bytes]:
        for frame in super().frames():
            message = frame[:-4]
            if len(frame) < 5 or zlib.crc32(message) != int.from_bytes(frame[-4:], "big"):
                raise FrameError("a wrong checksum")
            self.check_kind(message)
            yield message

    def check_kind(self, message: bytes) -> None:
        if message[0] not in self.KINDS:
            raise FrameError("no such kind")


class SealedBySurprise(Sealed):
    def check_kind(self, message: bytes) -> None:
        self.KINDS[message[0]]


class SealedAtTheEnd(Sealed):
    """Is surprised by what comes late in a long message."""

    def check_kind(self, message: bytes) -> None:
        super().check_kind(message)
        if b"\xff" in message[100:]:
            raise ZeroDivisionError


def repair(frame: bytes) -> bytes:
    return frame[:-4] + zlib.crc32(frame[6:-4]).to_bytes(4, "big")


def test_altered_frames_get_past_a_checksum_that_is_repaired() -> None:
    messages = [b"One", b"two" * 100]
    check_codec(Sealed, messages, derive=False, reseal=repair)
    for faulty, error in ((SealedBySurprise, "KeyError"), (SealedAtTheEnd, "ZeroDivisionError")):
        check_codec(faulty, messages, derive=False)
        with pytest.raises(AssertionError, match=f"raises {error}[^$]*only FrameError"):
            check_codec(faulty, messages, derive=False, reseal=repair)


# ---- what is copied


class CopiesEachPiece(broken.Good):
    """Makes `bytes` of all that there is with each piece."""

    def decode(self, data: bytes) -> Iterable[bytes]:
        self.before = len(bytes(self.buffer))
        return super().decode(data)


class CopiesTheChunk(broken.Good):
    """Makes `bytes` of the rest of a chunk with each message."""

    def frames(self) -> Iterator[bytes]:
        for message in super().frames():
            yield message
            self.buffer = bytearray(self.buffer)


def test_what_is_copied_again_and_again_is_found() -> None:
    with pytest.raises(AssertionError, match="decode copies what has arrived of a frame, with each piece"):
        check_codec(CopiesEachPiece, [b"One"], derive=True)
    with pytest.raises(AssertionError, match="decode copies what has arrived of a frame, with each piece"):
        check_codec(CopiesEachPiece, [b"One" * 100_000], derive=False)
    check_codec(CopiesEachPiece, [b"One" * 1000], derive=False)  # is at most copied for so long
    with pytest.raises(AssertionError, match="decode copies the rest of a chunk, with each message"):
        check_codec(CopiesTheChunk, [b"One"])
    with pytest.raises(AssertionError, match="decode copies the rest of a chunk, with each message"):
        check_codec(CopiesTheChunk, [b"One" * 100, b"two"], derive=False)


def test_messages_that_are_larger_than_their_frames_are_no_copies() -> None:
    class Zeros(broken.GoodNumbers):
        """Makes much of little."""

        def encode(self, message: Any) -> bytes:
            return super().encode([len(message) // 1000])

        def decode(self, data: bytes) -> Iterator[Any]:
            return (bytes(numbers[0] * 1000) if numbers else b"" for numbers in super().decode(data))

    check_codec(Zeros, [bytes(60_000), bytes(1000)], derive=False)


def test_without_messages_there_is_nothing_to_check() -> None:
    with pytest.raises(ValueError, match="at least one message"):
        check_codec(LengthDelimitedCodec, [])


def test_memory_that_is_being_traced_goes_on_to_be() -> None:
    tracemalloc.start()
    try:
        check_codec(broken.GoodNumbers, NUMBERS)
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
    check_codec(broken.GoodNumbers, NUMBERS)
    assert not tracemalloc.is_tracing()


def test_neither_pytest_nor_hypothesis_is_needed() -> None:
    program = (
        "import sys; sys.modules['pytest'] = sys.modules['hypothesis'] = None\n"
        "from pea2pea.codecs import LinesCodec; from pea2pea.testing import check_codec\n"
        "check_codec(LinesCodec, ['a']); print('fine')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)  # noqa: S603
    assert (ran.stdout, ran.stderr) == ("fine\n", "")


# ---- wait_until


@pytest.mark.anyio
async def test_waiting_ends_when_it_is_true() -> None:
    seen = list[int]()

    async def grow() -> None:
        for number in range(3):
            await checkpoint()
            seen.append(number)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(grow)
        await wait_until(lambda: len(seen) == 3)
    await wait_until(lambda: seen, timeout=0)


@pytest.mark.anyio
async def test_waiting_in_vain_says_for_what() -> None:
    seen = list[int]()
    with pytest.raises(TimeoutError, match=r"not true within 0\.01 s: .*lambda: len\(seen\) == 3"):
        await wait_until(lambda: len(seen) == 3, timeout=0.01)

    def enough() -> bool:
        return len(seen) == 3

    with pytest.raises(TimeoutError, match=r"enough$"):
        await wait_until(enough, 0.01)
    nameless = eval(compile("lambda: False", "<nowhere>", "eval"))  # noqa: S307  # what `python -c` runs has a source
    with pytest.raises(TimeoutError, match="<lambda>"):
        await wait_until(nameless, 0)
    with pytest.raises(TimeoutError, match=re.escape("functools.partial(<class 'bool'>")):
        await wait_until(functools.partial(bool, 0), 0)


@pytest.mark.anyio
async def test_what_the_predicate_raises_comes_out() -> None:
    with pytest.raises(ZeroDivisionError):
        await wait_until(lambda: 1 / 0)


@pytest.mark.anyio
async def test_an_async_predicate_is_refused() -> None:
    async def never() -> bool:
        return False

    with pytest.raises(TypeError, match=r"plain function, not async: .*never"):
        await wait_until(never)


@pytest.mark.anyio
async def test_waiting_can_be_cancelled() -> None:
    with anyio.move_on_after(0) as scope:
        await wait_until(lambda: False)
    assert scope.cancelled_caught


@pytest.mark.anyio
async def test_what_came_true_with_the_last_moment_counts() -> None:
    answers = iter([False, True])
    await wait_until(lambda: next(answers), timeout=0)
