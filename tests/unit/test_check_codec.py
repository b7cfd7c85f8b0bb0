"""The conformance kit: every fault is found, and named; nothing is found where there is none. And `wait_until`."""

from __future__ import annotations

import functools
import gc
import json
import re
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import strategies as st

from pea2pea import FrameError
from pea2pea.codecs import (
    BytesCodec,
    Codec,
    DelimitedCodec,
    LengthDelimitedCodec,
    LinesCodec,
    VarintDelimitedCodec,
    mapped,
)
from pea2pea.testing import check_codec, wait_until

from . import codec_broken as broken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

BYTES = [b"One", b"", b"two two", b"\0\xff" * 40]
LINES = ["hello", "", "wörld"]
NUMBERS = [[1, 2, 3], [], [4]]


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
    broken.ForgetsPartialFrames: r"is the part before the cut forgotten\?[^$]*fed: cut at byte 1\n",
    broken.ForgetsPartialLines: r"is the part before the cut forgotten\?[^$]*fed: cut at byte 1\n",
    broken.ForgetsAllButTwoPieces: r"is the part before the cut forgotten\?[^$]*fed: in pieces of 1 bytes\n",
    broken.LosesTheHeaderAlone: r"is the part before the cut forgotten\?[^$]*fed: cut at byte 6\n",
    broken.WaitsForOneByteMore: r"does not come out though all its bytes are in: dropped, or off by one\?",
    broken.OneByteShort: r"comes out before its frame is complete[^$]*cut at byte 8\n[^$]*got: \[b'On'\]",
    broken.LimitOffByOne: r"decode refuses what encode made: a line is too long[^$]*10000 times 'w'",
    broken.QuadraticBuffer: r"more than linear time: is what was kept copied",
    broken.QuadraticChunk: r"more than linear time[^$]*of frames in one piece",
    broken.SearchesAgain: r"more than linear time[^$]*searched, again\?[^$]*of a frame in pieces of 64",
    broken.UnboundedFrames: r"keeps \d{8} bytes after \d{8} bytes of a frame that never ends",
    broken.UnboundedLines: r"keeps \d{5} bytes after \d{5} bytes of a frame that never ends\n  declared limit: 10000",
    broken.NeverTrims: r"keeps \d+ bytes after \d+ bytes of frames that are all complete",
    broken.DropsTheLast: r"does not come out though all its bytes are in: dropped",
    broken.KeepsTheLastBack: r"does not come out though all its bytes are in",
    broken.SwallowsTheEnd: r"ends within a frame, and decode does not say so[^$]*ended after: 1\n",
    broken.SwallowsTheLastLine: r"ends within a frame, and decode does not say so[^$]*ended after: 1\n",
    broken.RefusesTheCleanEnd: r"decode refuses the end of a whole stream: the peer has gone\n",
    broken.SharesItsBuffer: r"codecs share state",
    broken.EncodingClearsTheBuffer: r"encoding disturbs decoding",
    broken.EmptiesItsInput: r"decode changes the bytes it is given",
    broken.EmptiesTheMessage: r"encode changes the message it is given[^$]*before: \[1, 2, 3\]\n  after: \[\]",
    broken.ReusesItsFrame: r"encode changes a frame after it has returned it",
    broken.EmitsBeforeComplete: r"comes out before its frame is complete[^$]*cut at byte 7\n",
    broken.WrongOrder: r"in another order[^$]*messages: \[b'One', b'two two'\]",
    broken.WrongEndianness: r"first 2 bytes reversed it is right: do byte orders differ\?",
    broken.WrongEndiannessNoticed: r"decode refuses what encode made[^$]*do byte orders differ\?",
    broken.RefusesAnEmptyMessage: r"encode refuses b'', or",
    broken.SkipsAnEmptyMessage: r"an empty message does not come out",
    broken.LosesWhatCameBeforeAnError: r"messages before a bad frame are lost",
    broken.RaisesSomethingElse: r"raises UnicodeDecodeError[^$]*only FrameError",
    broken.ReturnsNothing: r"'NoneType' object is not iterable",
    broken.NeverStops: r"decode makes messages without end",
    broken.SaysItTwice: r"more messages come out than went in",
    broken.EncodesText: r"encode refuses b'One', or makes no frame of it: TypeError",
    broken.Garbles: r"other messages come out than went in",
}


def messages_for(codec: type[object]) -> list[Any]:
    if issubclass(codec, broken.GoodNumbers):
        return NUMBERS
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
    assert there - {broken.Good, broken.GoodLines, broken.GoodNumbers, broken.Counting} == set(FAULTS)


def test_the_fault_is_shown_with_the_fewest_messages_and_the_earliest_cut() -> None:
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


def test_input_that_is_kept_is_found_where_more_than_bytes_is_promised() -> None:
    with pytest.raises(AssertionError, match=r"overwritten after each call, gives other messages: is it kept\?"):
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
    with pytest.raises(AssertionError, match=r"an empty message does not come out[^$]*see `derive`"):
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


def test_a_codec_instead_of_what_makes_one_is_refused() -> None:
    codec: Any = LinesCodec()
    with pytest.raises(TypeError, match=r"pass a class or a function, not LinesCodec\("):
        check_codec(codec, ["line"])


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
