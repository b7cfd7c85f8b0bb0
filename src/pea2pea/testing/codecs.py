"""A conformance kit for codecs.

Every check is deterministic: none measures time. Memory is measured by `tracemalloc`.
"""

from __future__ import annotations

import reprlib
import tracemalloc
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from itertools import accumulate, chain, islice, pairwise, product
from math import inf
from typing import Any, Generic, NoReturn, Protocol, TypeVar, cast, overload

from typing_extensions import TypedDict, Unpack

from ..codecs import Chunk, Codec, Decoder, Encoder
from ..errors import FrameError

__all__ = ["Strategy", "check_codec"]

M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)

_CUTS = 1024  # how many cuts of one stream are tried, ...
_GENERATED_CUTS = 48  # ... of a generated one, ...
_CUT_BYTES = 8 * 1024 * 1024  # ... how many bytes they may make to decode, ...
_CUT_MESSAGES = 200_000  # ... and how many messages
_WINDOWS = 24  # how many messages are checked alone and in pairs, how many bytes of a frame are altered
_KIB_4, _KIB_64, _MIB = 4096, 65_536, 1_048_576
_UNDECLARED = 16 * _MIB  # what a codec that declares no limit may keep
_MANY = 50_000  # messages in a long stream
_PIECES = 64  # of a large frame
_COPIES = 16  # how often a large part of the input may be copied
_SHORTENED = reprlib.Repr()
_SHORTENED.maxother = _SHORTENED.maxstring = 72


class Strategy(Protocol[M_co]):
    """What `check_codec` takes for a Hypothesis strategy; any `hypothesis.strategies.SearchStrategy` is one."""

    def example(self) -> M_co:
        """Returns one value."""
        ...


class _Options(TypedDict, Generic[M], total=False):
    strategy: Strategy[M] | None
    max_length: int | None
    bytes_like: bool
    derive: bool
    join: Callable[[list[M]], object] | None
    reseal: Callable[[bytes], bytes] | None


@overload
def check_codec(make_codec: Callable[[], Codec[M]], messages: Iterable[M], **options: Unpack[_Options[M]]) -> None: ...
@overload
def check_codec(
    make_codec: Callable[[], Decoder[M]],
    messages: Iterable[M],
    *,
    make_encoder: Callable[[], Encoder[M]],
    **options: Unpack[_Options[M]],
) -> None: ...
def check_codec(
    make_codec: Callable[[], Decoder[M]],
    messages: Iterable[M],
    *,
    make_encoder: Callable[[], Encoder[M]] | None = None,
    strategy: Strategy[M] | None = None,
    max_length: int | None = None,
    bytes_like: bool = False,
    derive: bool = True,
    join: Callable[[list[M]], object] | None = None,
    reseal: Callable[[bytes], bytes] | None = None,
) -> None:
    """Check that a codec keeps what `Decoder` and `Encoder` promise; for use in tests, under any test runner.

    `make_codec` makes a new codec at each call, `messages` are one or more that it must carry. What is checked:

    - Each message comes out, equal and in order, as soon as the last byte of its frame is in: from a stream in one
      piece, cut in two at every byte, and byte by byte.
    - The end of the stream does nothing after a whole frame; within one it gives a `FrameError`, or the rest.
    - The attribute `missing`, if there is one, never exceeds what the next message lacks.
    - Altered frames raise nothing but `FrameError`, and the messages before them are delivered.
    - Codecs do not share state, and do not change what is passed to them, or what they have returned.
    - Memory is bounded while a frame never ends, and while a great many frames go by.
    - No large part of the input is copied with each piece or message: neither what has arrived of a large frame, with
      each piece, nor the rest of a chunk, with each message that a generator makes of it. What takes time alone is not
      noticed, such as a search that begins again with each piece.

    `make_encoder`: where one object does not do both, `make_codec` makes decoders, and this makes encoders.
    `strategy`: a Hypothesis strategy; lists of what it generates are checked, too. Only this needs Hypothesis.
    `max_length`: the most bytes that the codec keeps of an unfinished frame; by default its attribute of that name, or
    16 MiB if it has none. It may take twice as much memory, and 64 KiB.
    `bytes_like`: check as well that decode takes `bytearray` and `memoryview`, and does not keep hold of them.
    `derive`: if all messages are `bytes`, or all `str`, check others made of them, too: the empty one, some with
    lengths on the edge of a byte or of `max_length`, and a large one for what is copied. For other messages, this is
    checked only if one of them makes a frame of 256 KiB.
    `join`: for codecs that keep no boundaries between messages: what makes one of many. Then only what it returns is
    compared. `b"".join` for `BytesCodec`; `lambda lists: [*itertools.chain(*lists)]` for a codec that is `batched`.
    `reseal`: for frames with a checksum: repairs it in a frame that was altered, so that altered frames get past it.

    The effort is bounded: of a stream above 1 KiB not every cut is tried, but those beside the ends of frames and
    others at equal distances; above 64 KiB the smallest pieces have more than one byte; and only the first 24 messages
    are checked alone and in pairs, then all together.

    For messages of several types mypy wants a declaration: `MESSAGES: list[Ping | Pong] = [Ping(1), Pong(2)]`.

    Raises `AssertionError` that names the fault and shows the smallest case: the fewest messages, then the earliest
    cut; `ValueError` if there are no messages, `TypeError` if `make_codec` or `make_encoder` cannot be called.
    """
    encoder = cast("Callable[[], Encoder[M]]", make_codec) if make_encoder is None else make_encoder
    for make in (make_codec, encoder):
        if not callable(make):
            raise TypeError(f"it has to make a new one at each call: pass a class or a function, not {make!r}")
    given = list(messages)
    if not given:
        raise ValueError("check_codec needs at least one message")
    declared = getattr(make_codec(), "max_length", None) if max_length is None else max_length
    limit = declared if isinstance(declared, int) else None
    kit = _Kit(make_codec, encoder, make_encoder is None, limit, join)
    kit.check_alone(given[:_WINDOWS])
    for window in (*([one] for one in given[:_WINDOWS]), *map(list, pairwise(given[:_WINDOWS])), given):
        kit.check_cuts(window, _CUTS)
    large = kit.check_derived(given) if derive else []
    kit.check_inputs(given, promised=bytes_like)
    kit.check_bad_frames(given, reseal)
    kit.check_costs(given, large)
    if strategy is not None:
        _check_generated(kit, strategy)


def _check_generated(kit: _Kit[M], strategy: Strategy[M]) -> None:
    from hypothesis import given, settings, strategies  # noqa: PLC0415  # needed by those who pass a strategy

    @settings(deadline=None)
    @given(strategies.lists(cast("Any", strategy), min_size=1, max_size=4))
    def generated(messages: list[M]) -> None:
        kit.check_cuts(messages, _GENERATED_CUTS)

    generated()


@dataclass
class _Kit(Generic[M]):
    """The checks; each raises an `AssertionError` for a fault."""

    make: Callable[[], Decoder[M]]
    make_encoder: Callable[[], Encoder[M]]
    both: bool  # whether one object does both
    limit: int | None  # that is declared
    join: Callable[[list[M]], object] | None

    def same(self, got: list[M], want: list[M]) -> bool:
        return got == want if self.join is None else self.join(got) == self.join(want)

    def encode(self, messages: list[M], codec: object = None) -> list[bytes]:
        """The frames that `codec`, or else a new encoder, makes."""
        encoder = self.make_encoder() if codec is None else cast("Encoder[M]", codec)
        returned, frames = list[tuple[Chunk, ...]](), list[bytes]()
        for message in messages:
            before = None if isinstance(message, (bytes, str)) else repr(message)
            try:
                frame = encoder.encode(message)
                returned.append(frame if isinstance(frame, tuple) else (frame,))
                frames.append(b"".join(returned[-1]))
            except Exception as error:  # noqa: BLE001  # whatever it is
                _fail(f"encode refuses {_SHORTENED.repr(message)}, or makes no frame of it: {error!r}", error)
            if before not in (None, repr(message)):
                _fail("encode changes the message it is given", before=before, after=message)
        if list(map(b"".join, returned)) != frames:
            _fail("encode changes a frame after it has returned it", messages=messages)
        return frames

    def feed(self, codec: Decoder[M], data: Chunk) -> tuple[list[M], FrameError | None]:
        """What decoding `data` gives, and the error that ended it."""
        got, most = list[M](), len(data) + _KIB_64
        try:
            for message in islice(codec.decode(cast("bytes", data)), most):
                got.append(message)  # what came before an error is wanted, too
        except FrameError as error:
            return got, error
        except Exception as error:  # noqa: BLE001  # whatever it is
            _fail(f"decode raises {error!r}; only FrameError may come of what a peer sends", error, data=data)
        if len(got) == most:
            _fail("decode makes messages without end", data=data)
        return got, None

    def check_stream(self, messages: list[M], frames: list[bytes], cuts: Iterable[int] = (), note: str = "") -> None:
        """Decode a stream that is cut there, and its end; each message is due with the last byte of its frame."""
        codec, new, done, fed = self.make(), list[M](), 0, 0
        stream, ends = b"".join(frames), list(accumulate(map(len, frames)))
        bounds = {0, *ends}
        pieces = [stream[start:end] for start, end in pairwise([0, *cuts, len(stream)])]
        for piece in [*pieces, b""]:
            more, error = self.feed(codec, piece)
            new, fed = new + more, fed + len(piece)
            due = messages[done : bisect_right(ends, fed)]
            if error is None and self.join is not None and fed not in bounds:
                continue
            if error is None and self.same(new, due):
                new, done = [], done + len(due)
                told: object = getattr(codec, "missing", 0)
                if done == len(ends) or (isinstance(told, int) and 0 <= told <= ends[done] - fed):
                    continue
                fault = f"missing is {told!r}, which is no number that the next message lacks at the least"
                due = messages[done : done + 1]
            elif error is not None:
                fault = f"decode refuses {'what encode made' if piece else 'the end of a whole stream'}: {error}"
            elif new == due[: len(new)]:
                fault = "a message does not come out though all its bytes are in"
            elif new[: len(due)] == due:
                fault = "a message comes out too early, or once too often"
            else:
                fault = "other messages come out than went in"
            cut = {1: "in one piece", 2: f"cut at byte {len(pieces[0])}"}
            how = cut.get(len(pieces), f"in pieces of {len(pieces[0])} bytes") + note
            after = f"{fed} bytes{'' if piece else ' and the end'}"
            _fail(fault, messages=messages, stream=stream, fed=how, after=after, expected=due, got=new)

    def check_alone(self, messages: list[M]) -> None:
        """One frame in two pieces, between which something else is done, which must not matter."""
        stream = b"".join(self.encode(messages))
        for message in messages:
            (frame,) = self.encode([message])
            if not self.survives(message, frame, lambda _: None):
                continue  # which `check_cuts` will find with the smallest cut
            if not self.survives(message, frame, lambda _: self.feed(self.make(), stream)):
                _fail("codecs share state: one loses its unfinished frame while another decodes", frame=frame)
            if self.both and not self.survives(message, frame, lambda codec: self.encode(messages, codec)):
                _fail("encoding disturbs decoding by the same codec", frame=frame)

    def survives(self, message: M, frame: bytes, between: Callable[[Decoder[M]], object]) -> bool:
        codec, half = self.make(), len(frame) // 2
        got = self.feed(codec, frame[:half])[0] if half else []
        between(codec)
        return self.same(got + self.feed(codec, frame[half:])[0], [message])

    def check_cuts(self, messages: list[M], most: int) -> None:
        """The stream in one piece, in two pieces, byte by byte, and with its end cut off."""
        frames = self.encode(messages)
        stream, ends = b"".join(frames), list(accumulate(map(len, frames)))
        cuts, step = _cuts(ends, most), len(stream) // _KIB_64 + 1
        for places in ((), *((cut,) for cut in cuts), range(step, len(stream), step)):
            self.check_stream(messages, frames, places)
        for cut in cuts if self.join is None else ():
            codec = self.make()
            got, error = self.feed(codec, stream[:cut])
            rest, error = self.feed(codec, b"") if error is None else ([], error)
            if error is None and cut not in ends and len(got + rest) <= bisect_right(ends, cut):
                fault = "the stream ends within a frame, and decode does not say so: FrameError is due, or the rest"
                _fail(fault, messages=messages, stream=stream, ended_after=cut, got=got + rest)

    def check_derived(self, messages: list[M]) -> list[bytes]:
        """Messages made of the given `bytes` or `str`; returns the frame of a large one, if there can be one."""
        kinds = {type(message) for message in messages}
        if kinds not in ({bytes}, {str}):
            return []
        longest = max(cast("list[bytes]", messages), key=len)  # or `str`: only what both can do is done
        unit = longest[:1] or cast("bytes", b"x" if kinds == {bytes} else "x")
        edges = [0, 127, 128, 255, 256, *([] if self.limit is None else [self.limit - 1, self.limit])]
        for size in edges if self.join is None else edges[1:]:
            message = cast("M", unit * size)
            if size == 0 or (size <= _UNDECLARED and self.takes(message)):
                (frame,) = self.encode([message])
                for cut in {0, 1, len(frame) // 2, len(frame) - 1} - {len(frame)}:
                    note = f"; {size} times {unit!r} (see `derive`)"
                    self.check_stream([message], [frame], (cut,) if cut else (), note)
        sizes = (min(size, self.limit or size) for size in (_MIB, 1_000_000, _MIB // 4, _KIB_64))
        large = (cast("M", text * (size // max(len(text), 1))) for size, text in product(sizes, (longest, unit)))
        return self.encode(next(([message] for message in large if self.takes(message)), list[M]()))

    def takes(self, message: M) -> bool:
        with suppress(AssertionError):  # a message that was made up may be refused, with anything
            return bool(self.encode([message]))
        return False

    def check_inputs(self, messages: list[M], *, promised: bool) -> None:
        """Other bytes-like objects, with which the caller goes on to do as he likes."""
        stream = b"".join(self.encode(messages))
        data = bytearray(stream)
        with nullcontext() if promised else suppress(AssertionError):
            self.feed(self.make(), data)
        if bytes(data) != stream:
            _fail("decode changes the bytes it is given", before=stream, after=data)
        steps = (len(stream) // _KIB_64 + 1, len(stream) // 7 + 1, len(stream) or 1)
        for kind, step in product((bytearray, memoryview) if promised else (), steps):
            codec, got = self.make(), list[M]()
            for piece in _split(stream, step):
                data = bytearray(piece)
                got += self.feed(codec, kind(data))[0]
                data[:] = bytes(len(piece))
            if not self.same(got, messages):
                fault = f"{kind.__name__} input, overwritten after each call, gives other messages"
                _fail(fault, stream=stream, in_pieces_of=step, expected=messages, got=got)

    def check_bad_frames(self, messages: list[M], reseal: Callable[[bytes], bytes] | None) -> None:
        """Altered frames raise nothing but `FrameError`, and the messages before one of them are delivered."""
        frames = self.encode(messages)
        for frame in sorted(frames, key=len)[:_WINDOWS]:
            refused: list[bytes] = []
            places = {*range(min(len(frame), _WINDOWS)), *range(0, len(frame), len(frame) // _WINDOWS + 1)}
            for at, byte in product(sorted(places), b"\xff\x00"):
                altered = frame[:at] + bytes([byte]) + frame[at + 1 :]
                for bad in (altered,) if reseal is None else (altered, reseal(altered)):
                    before, error = self.feed(self.make(), bad)
                    if error is not None and not before:
                        refused.append(bad)
            for bad in refused[:1] if self.join is None else ():
                got, error = self.feed(self.make(), b"".join(frames) + bad)
                if error is not None and got != messages:
                    fault = "messages before a bad frame are lost: decode must deliver them before it raises"
                    _fail(fault, stream=b"".join(frames), then=bad, expected=messages, got=got)

    def check_costs(self, messages: list[M], large: list[bytes]) -> None:
        """What memory is taken by a great many frames, by one without end, and by a large one in pieces."""
        once, twice = self.encode(messages), self.encode(messages * 2)
        times = min(_MIB // max(sum(map(len, once)), 1), _MANY // len(messages)) + 1
        long = once * times if once * 2 == twice else self.encode(messages * times)
        longest = max([*large, *(self.encode([message])[0] for message in messages)], key=len)
        pieces = list(_split(longest, len(longest) // _PIECES + 1))
        with ExitStack() as stack:
            if not tracemalloc.is_tracing():
                stack.callback(tracemalloc.stop)
            tracemalloc.start()
            self.check_memory(long)
            self.check_copies([b"".join(long)], max(self.peaks(once)), "the rest of a chunk, with each message")
            self.check_copies(pieces, _KIB_64, "what has arrived of a frame, with each piece")

    def check_memory(self, frames: list[bytes]) -> None:
        """What is kept of frames that never end, and of those that have ended."""
        most = 2 * (_UNDECLARED if self.limit is None else self.limit) + _KIB_64
        size = _KIB_4 if most < _MIB else 4 * _KIB_64
        for cut, filler in product(range(min(len(frames[0]), 9)), (b"\xff", b"a", b"\0")):
            head = frames[0][:cut]
            sizes = [_KIB_4, *[size] * (most // size + 2)]
            pieces = chain([head] if head else [], (filler * size for size in sizes))
            facts = {"declared_limit": self.limit, "stream": head, "then_without_end": filler}
            self.check_kept(pieces, most + size, "a frame that never ends", _WINDOWS, **facts)
        stream, longest = b"".join(frames), max(map(len, frames))
        most = max(len(stream) // 2, 2 * longest + _KIB_64)
        self.check_kept(_split(stream, longest + _KIB_4), most, "frames that are all complete")

    def check_kept(self, pieces: Iterable[bytes], most: int, what: str, enough: float = inf, **facts: object) -> None:
        """Until an error, or until `enough` messages have come, a codec keeps at most so many bytes of these pieces."""
        codec, fed, seen = self.make(), 0, 0
        before, _ = tracemalloc.get_traced_memory()
        for piece in pieces:
            got, error = self.feed(codec, piece)
            fed, seen, refused = fed + len(piece), seen + len(got), error is not None
            del piece, got, error  # the error's traceback would keep the codec, until the collector finds that
            if refused or seen >= enough:
                return
            if (kept := tracemalloc.get_traced_memory()[0] - before) > most:
                _fail(f"decode keeps {kept} bytes after {fed} bytes of {what}", **facts)

    def check_copies(self, pieces: list[bytes], ordinary: int, what: str) -> None:
        """Few steps take more memory for a moment than is `ordinary` and a quarter of the input."""
        size = sum(map(len, pieces))
        copies = (peak for peak in self.peaks(pieces) if peak > ordinary + size // 4)
        if len(list(islice(copies, _COPIES))) == _COPIES:
            _fail(f"decode copies {what}", bytes_in_all=size, pieces=len(pieces))

    def peaks(self, pieces: Iterable[bytes]) -> Iterator[int]:
        """For each message, and for each piece: how much memory was taken for a moment to decode it."""
        codec, done = self.make(), object()
        steps = chain.from_iterable(chain(codec.decode(piece), (None,)) for piece in pieces)
        while True:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            if next(steps, done) is done:
                return
            yield tracemalloc.get_traced_memory()[1] - before


def _split(stream: bytes, step: int) -> Iterator[bytes]:
    """Pieces that are made one at a time, so that the memory of those that are kept counts."""
    return (stream[at : at + step] for at in range(0, len(stream), step))


def _cuts(ends: list[int], most: int) -> list[int]:
    """Where to cut a stream of frames that end there: everywhere, if that is not too often."""
    total = ends[-1]
    most = max(16, min(most, _CUT_BYTES // max(total, 1), _CUT_MESSAGES // len(ends)))
    if total <= most:
        return list(range(1, total))
    beside = sorted({end + offset for end in [0, *ends] for offset in range(-2, 9)})
    return sorted({cut for cut in [*beside[:most], *range(0, total, total // most + 1)] if 0 < cut < total})


def _fail(fault: str, cause: Exception | None = None, /, **facts: object) -> NoReturn:
    for name, value in facts.items():
        fault += f"\n  {name.replace('_', ' ')}: {value if isinstance(value, str) else _SHORTENED.repr(value)}"
    raise AssertionError(fault) from cause
