"""The ready-made codecs: what is on the wire, what is refused on either side, and what is kept in between."""

from __future__ import annotations

import ast
import encodings.aliases
import gc
import json
import sys
import tracemalloc
import weakref
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pea2pea import FrameError, codecs
from pea2pea.codecs import (
    BytesCodec,
    Codec,
    DelimitedCodec,
    Frame,
    HeaderCodec,
    LengthDelimitedCodec,
    LinesCodec,
    VarintDelimitedCodec,
    batched,
    mapped,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pea2pea.codecs import Decoder

M = TypeVar("M")

FRAMED: dict[str, Callable[[], Codec[bytes]]] = {
    "length": LengthDelimitedCodec,
    "length-1": lambda: LengthDelimitedCodec(prefix=1),
    "length-2-little": lambda: LengthDelimitedCodec(prefix=2, byteorder="little"),
    "length-3-included": lambda: LengthDelimitedCodec(prefix=3, prefix_included=True),
    "length-8": lambda: LengthDelimitedCodec(prefix=8),
    "varint": VarintDelimitedCodec,
    "delimited": lambda: DelimitedCodec(b"\0"),
    "delimited-long": lambda: DelimitedCodec(b"\r\n\r\n"),
}
framed = pytest.mark.parametrize("make", FRAMED.values(), ids=tuple(FRAMED))


def http2(header: bytes) -> int:
    """The payload's length in the header of an HTTP/2 frame (RFC 9113 section 4.1)."""
    return int.from_bytes(header[:3], "big")


def of_payloads() -> Codec[bytes]:
    return mapped(
        HeaderCodec(9, http2),
        decode=lambda message: message[1],
        encode=lambda payload: (len(payload).to_bytes(3, "big") + b"ABCDEF", payload),
    )


def one_at_a_time(codec: Codec[M]) -> Codec[M]:
    return mapped(batched(codec, at_most=1), decode=lambda batch: batch[0], encode=lambda message: [message])


WRAPPED: dict[str, Callable[[], Codec[bytes]]] = {
    "header": of_payloads,
    "batched-length": lambda: one_at_a_time(LengthDelimitedCodec()),
    "batched-delimited": lambda: one_at_a_time(DelimitedCodec(b"\r\n\r\n")),
    "batched-header": lambda: one_at_a_time(of_payloads()),
}
every = pytest.mark.parametrize("make", [*FRAMED.values(), *WRAPPED.values()], ids=[*FRAMED, *WRAPPED])


def whole(frame: Frame) -> bytes:
    return b"".join(frame) if isinstance(frame, tuple) else bytes(frame)


def decoded(decoder: Decoder[M], *pieces: bytes) -> list[M]:
    return [message for piece in pieces for message in decoder.decode(piece)]


def until_refused(decoder: Decoder[M], *pieces: bytes) -> tuple[list[M], str]:
    """The messages before the error, and what the error says."""
    got: list[M] = []
    try:
        for piece in pieces:
            for message in decoder.decode(piece):
                got.append(message)  # noqa: PERF402  # those before the error count
    except FrameError as error:
        return got, str(error)
    pytest.fail(f"{decoder} refuses nothing, and makes {got}")


def split(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    return [piece for a, b in pairwise([0, *sorted(cuts), None]) if (piece := stream[a:b])]


# ---- what is on the wire


@pytest.mark.parametrize("prefix", range(1, 9))
@pytest.mark.parametrize("included", [False, True])
def test_length_is_written_in_the_order_and_the_width_asked_for(prefix: int, included: bool) -> None:
    size = 5 + prefix * included
    for byteorder in ("big", "little"):
        codec = LengthDelimitedCodec(prefix=prefix, byteorder=byteorder, prefix_included=included)
        assert codec.encode(b"hello") == size.to_bytes(prefix, byteorder) + b"hello"
        assert decoded(codec, size.to_bytes(prefix, byteorder) + b"hello", b"") == [b"hello"]


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (0, b"\x00"),
        (1, b"\x01"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (255, b"\xff\x01"),
        (300, b"\xac\x02"),
        (16_383, b"\xff\x7f"),
        (16_384, b"\x80\x80\x01"),
        (2_097_151, b"\xff\xff\x7f"),
        (2_097_152, b"\x80\x80\x80\x01"),
    ],
)
def test_varints_are_those_of_multiformats(size: int, header: bytes) -> None:
    codec, message = VarintDelimitedCodec(), bytes(size)
    assert whole(codec.encode(message)) == header + message
    assert decoded(codec, header + message, b"") == [message]
    assert decoded(codec, *split(header + message, range(len(header) + 1)), b"") == [message]


def test_delimited_and_lines_on_the_wire() -> None:
    assert DelimitedCodec(b"--").encode(b"a-b") == b"a-b--"
    assert LinesCodec().encode("wörld") == "wörld\n".encode()
    assert LinesCodec("latin-1").encode("wörld") == b"w\xf6rld\n"


@every
def test_short_frames_are_joined_and_long_payloads_are_not_copied(make: Callable[[], Codec[bytes]]) -> None:
    assert isinstance(make().encode(b"x" * 200), bytes)
    message = b"x" * 60_000
    if isinstance(make(), LengthDelimitedCodec) and getattr(make(), "max_length") < len(message):  # noqa: B009
        return
    parts = make().encode(message)
    assert isinstance(parts, tuple)
    assert sum(part is message for part in parts) == 1
    assert decoded(make(), whole(parts), b"") == [message]


# ---- what comes out


@every
@given(data=st.data())
def test_what_went_in_comes_out_whatever_the_cuts(make: Callable[[], Codec[bytes]], data: st.DataObject) -> None:
    message = st.binary(max_size=200)
    if "Delimited" in repr(make()) and "\\" in repr(make()):
        message = st.text("ab-", max_size=200).map(str.encode)
    messages = data.draw(st.lists(message, max_size=8))
    encoder = make()
    stream = b"".join(whole(encoder.encode(message)) for message in messages)
    cuts = data.draw(st.sets(st.integers(0, len(stream)), max_size=20))
    assert decoded(make(), *split(stream, cuts), b"") == messages


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"))), st.data())
def test_lines_come_out_whatever_the_cuts(lines: list[str], data: st.DataObject) -> None:
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    stream = "".join(line + end for line in lines).encode()
    cuts = data.draw(st.sets(st.integers(0, len(stream)), max_size=20))
    assert decoded(LinesCodec(), *split(stream, cuts), b"") == lines


@every
@pytest.mark.parametrize("kind", [bytearray, memoryview, lambda data: memoryview(bytearray(data))])
def test_any_bytes_like_object_is_taken_and_bytes_come_out(
    make: Callable[[], Codec[bytes]], kind: Callable[[bytes], bytes]
) -> None:
    stream = whole(make().encode(b"one")) + whole(make().encode(b"two"))
    for cut in range(len(stream)):
        got = decoded(make(), *map(kind, split(stream, [cut])), kind(b""))
        assert got == [b"one", b"two"]
        assert {type(message) for message in got} == {bytes}


def test_wider_items_of_a_memoryview_count_as_their_bytes() -> None:
    stream = whole(LengthDelimitedCodec().encode(b"four"))
    assert decoded(LengthDelimitedCodec(), memoryview(stream).cast("I")) == [b"four"]  # type: ignore[arg-type]  # not bytes


@pytest.mark.parametrize("wrong", ["text", "", 5, None, [1, 2]])
def test_what_is_not_bytes_like_is_a_type_error(wrong: Any) -> None:
    for codec in (LengthDelimitedCodec(), BytesCodec()):
        with pytest.raises(TypeError):
            codec.decode(wrong)


@every
def test_messages_that_were_not_iterated_over_come_next_time(make: Callable[[], Codec[bytes]]) -> None:
    frames = [whole(make().encode(b"%d" % number)) for number in range(4)]
    codec = make()
    codec.decode(frames[0] + frames[1])
    some = iter(codec.decode(frames[2] + frames[3][:1]))
    assert next(some) == b"0"
    del some
    assert decoded(codec, frames[3][1:], b"") == [b"1", b"2", b"3"]


@every
def test_an_iteration_stopped_after_a_frame_of_many_pieces_goes_on(make: Callable[[], Codec[bytes]]) -> None:
    first, second = whole(make().encode(b"first")), whole(make().encode(b"second"))
    codec = make()
    assert decoded(codec, first[:3]) == []
    some = iter(codec.decode(first[3:] + second))
    assert next(some) == b"first"
    del some
    assert decoded(codec, b"") == [b"second"]


@every
def test_one_codec_encodes_while_it_decodes(make: Callable[[], Codec[bytes]]) -> None:
    frame, codec = whole(make().encode(b"message")), make()
    got = decoded(codec, frame[:5])
    assert whole(codec.encode(b"message")) == frame
    assert got + decoded(codec, frame[5:], b"") == [b"message"]


@every
def test_a_codec_goes_away_with_its_last_reference(make: Callable[[], Codec[bytes]]) -> None:
    codec = make()
    decoded(codec, whole(codec.encode(b"message"))[:-1])
    gone = weakref.ref(codec)
    del codec
    assert gone() is None


# ---- a header of one's own


@pytest.mark.parametrize(
    ("make", "stream", "messages"),
    [
        (
            lambda: HeaderCodec(24, lambda header: int.from_bytes(header[16:20], "little"), 4_000_000),
            b"\xf9\xbe\xb4\xd9verack\0\0\0\0\0\0\0\0\0\0\x5d\xf6\xe0\xe2",
            [(b"\xf9\xbe\xb4\xd9verack\0\0\0\0\0\0\0\0\0\0\x5d\xf6\xe0\xe2", b"")],
        ),
        (
            lambda: HeaderCodec(5, lambda header: int.from_bytes(header[1:], "big") - 4),
            b"Q\0\0\0\x0dSELECT 1\0X\0\0\0\x04",
            [(b"Q\0\0\0\x0d", b"SELECT 1\0"), (b"X\0\0\0\x04", b"")],
        ),
        (
            lambda: HeaderCodec(9, http2, 16_384),
            b"\0\0\x08\x06\0\0\0\0\0pingpong\0\0\0\x04\x01\0\0\0\0",
            [(b"\0\0\x08\x06\0\0\0\0\0", b"pingpong"), (b"\0\0\0\x04\x01\0\0\0\0", b"")],
        ),
        (
            lambda: HeaderCodec(1, lambda header: header[0], 3),
            b"\x03abc\0\x01d",
            [(b"\x03", b"abc"), (b"\0", b""), (b"\x01", b"d")],
        ),
    ],
    ids=["Bitcoin", "PostgreSQL", "HTTP/2", "one byte"],
)
def test_a_header_tells_the_length_of_its_payload(
    make: Callable[[], HeaderCodec], stream: bytes, messages: list[tuple[bytes, bytes]]
) -> None:
    for cuts in ([], range(len(stream)), *([cut] for cut in range(len(stream)))):
        assert decoded(make(), *split(stream, cuts), b"") == messages
    assert b"".join(whole(make().encode(message)) for message in messages) == stream


def checked(header: bytes) -> int:
    """The length in the third byte of a header that begins with AB; above 127 it is negative."""
    if header[:2] != b"AB":
        raise ValueError(f"no magic: {header!r}")
    return int.from_bytes(header[2:], "big", signed=True)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"AX\x01", r"a header is refused: ValueError: no magic: b'AX\x01'"),
        (b"\0\0\0", "a header is refused: ValueError: no magic"),
        (b"AB\x15", "a frame of 21 bytes was announced, max_length is 20"),
        (b"AB\x7f", "a frame of 127 bytes was announced, max_length is 20"),
        (b"AB\xff", "a header announces a payload of -1 bytes"),
        (b"AB\x80", "a header announces a payload of -128 bytes"),
    ],
)
def test_a_bad_header_is_refused_with_its_last_byte(header: bytes, said: str) -> None:
    good = [(b"AB\x02", b"xy"), (b"AB\0", b"")]
    codec = HeaderCodec(3, checked, 20)
    stream = b"".join(whole(codec.encode(message)) for message in good)
    assert decoded(codec, stream + header[:-1]) == good
    got, why = until_refused(codec, header[-1:])
    assert (got, said in why) == ([], True)
    assert until_refused(codec, b"more") == ([], why)
    assert until_refused(HeaderCodec(3, checked, 20), stream + header + bytes(200)) == (good, why)


def test_a_length_of_any_size_is_refused() -> None:
    for base in (10, -10):
        _, why = until_refused(HeaderCodec(2, lambda header: base ** (int.from_bytes(header, "big") | 1)), b"\xff\xff")  # noqa: B023
        assert len(why) < 300


@pytest.mark.parametrize("error", [KeyError(b"x"), NameError("typo"), RuntimeError("bug"), TypeError("None")])
def test_what_else_length_of_raises_is_a_bug(error: Exception) -> None:
    def fail(header: bytes) -> int:
        raise error

    with pytest.raises(type(error)) as caught:
        list(HeaderCodec(2, fail).decode(b"abc"))
    assert caught.value is error


@pytest.mark.parametrize("wrong", [None, "1", 1.0])
def test_a_length_is_an_int(wrong: Any) -> None:
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        list(HeaderCodec(2, lambda header: wrong).decode(b"abc"))


def test_an_error_of_ones_own_for_a_header_stays_as_it_is() -> None:
    wrong = FrameError("not in our protocol")

    def refuse(header: bytes) -> int:
        raise wrong

    codec = HeaderCodec(2, refuse)
    for data in (b"abc", b"d"):
        with pytest.raises(FrameError) as caught:
            list(codec.decode(data))
        assert caught.value is wrong


@pytest.mark.parametrize(
    ("message", "error", "said"),
    [
        ((b"AB\x02x", b"xy"), ValueError, "a header must have 3 bytes, not 4"),
        ((b"AB", b"xy"), ValueError, "a header must have 3 bytes, not 2"),
        ((b"AB\x03", b"xy"), ValueError, "the header announces 3 bytes, the payload has 2"),
        ((b"AB\xff", b"xy"), ValueError, "the header announces -1 bytes, the payload has 2"),
        ((b"AX\x02", b"xy"), ValueError, "no magic"),
        ((b"AB\x15", bytes(21)), ValueError, "a message of 21 bytes is longer than max_length=20"),
        (b"AB\x02xy", TypeError, "a message must be tuple, not bytes"),
        ([b"AB\x02", b"xy"], TypeError, "a message must be tuple, not list"),
        ((b"AB\x02xy",), TypeError, r"a message must be \(header, payload\), not a tuple of 1"),
        ((bytearray(b"AB\x02"), b"xy"), TypeError, "a header must be bytes, not bytearray"),
        ((b"AB\x02", "xy"), TypeError, "a payload must be bytes, not str"),
    ],
)
def test_a_header_must_fit_what_is_sent(message: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        HeaderCodec(3, checked, 20).encode(message)


def test_a_large_payload_is_not_copied_behind_its_header() -> None:
    header, payload = (60_000).to_bytes(3, "big") + bytes(6), bytes(60_000)
    frame = HeaderCodec(9, http2).encode((header, payload))
    assert isinstance(frame, tuple)
    assert frame[0] is header
    assert frame[1] is payload


# ---- what a decoder lacks


@pytest.mark.parametrize(
    ("make", "stream", "missing"),
    [
        (LengthDelimitedCodec, b"\0\0\0\x05hello", [4, 3, 2, 1, 5, 4, 3, 2, 1, 4]),
        (lambda: LengthDelimitedCodec(prefix=1), b"\x02hi\0", [1, 2, 1, 1, 1]),
        (VarintDelimitedCodec, b"\x03abc\x80\x81\x01", [1, 3, 2, 1, 1, 1, 1, 16512]),
        (lambda: HeaderCodec(3, checked), b"AB\x02xyA", [3, 2, 1, 2, 1, 3, 2]),
        (of_payloads, b"\0\0\x02123456xy", [9, 8, 7, 6, 5, 4, 3, 2, 1, 2, 1, 9]),
        (lambda: batched(LengthDelimitedCodec(prefix=1)), b"\x02hi\x01", [1, 2, 1, 1, 1]),
        (
            lambda: batched(mapped(VarintDelimitedCodec(), decode=bytes.hex, encode=bytes.fromhex)),
            b"\x01a\x02",
            [1, 1, 1, 2],
        ),
        (lambda: batched(LinesCodec()), b"ab\n", [0, 0, 0, 0]),
        (lambda: mapped(DelimitedCodec(b"--"), decode=bytes.hex, encode=bytes.fromhex), b"ab--", [0, 0, 0, 0, 0]),
    ],
)
def test_a_decoder_tells_how_many_bytes_it_lacks_at_least(
    make: Callable[[], Any], stream: bytes, missing: list[int]
) -> None:
    codec = make()
    told = [codec.missing]
    for piece in split(stream, range(len(stream))):
        list(codec.decode(piece))
        told.append(codec.missing)
    assert told == missing


@every
def test_who_reads_no_more_than_a_decoder_lacks_reads_one_message(make: Callable[[], Any]) -> None:
    stream = whole(make().encode(b"first")) + whole(make().encode(b"x" * 200))
    codec, at, ends = make(), 0, list[int]()
    while at < len(stream):
        size = getattr(codec, "missing", 0) or 1
        got = list(codec.decode(stream[at : at + size]))
        at += size
        assert len(got) <= 1
        ends += [at] * len(got)
    assert ends == [len(whole(make().encode(b"first"))), len(stream)]


# ---- many messages at a time


def test_a_batch_is_what_a_chunk_completes_up_to_a_limit() -> None:
    frames = [whole(LengthDelimitedCodec().encode(b"%d" % number)) for number in range(8)]
    codec = batched(LengthDelimitedCodec(), at_most=3)
    assert decoded(codec, b"".join(frames[:7]) + frames[7][:2]) == [[b"0", b"1", b"2"], [b"3", b"4", b"5"], [b"6"]]
    assert decoded(codec, frames[7][2:3]) == []
    assert decoded(codec, frames[7][3:]) == [[b"7"]]
    assert decoded(codec, b"".join(frames[:3])) == [[b"0", b"1", b"2"]]
    assert decoded(codec, b"") == []
    assert decoded(batched(LinesCodec()), b"x\n" * 130) == [["x"] * 64, ["x"] * 64, ["x"] * 2]
    assert decoded(batched(LinesCodec()), b"last", b"") == [["last"]]


@given(st.lists(st.text("ab", max_size=5), max_size=30), st.integers(1, 5), st.data())
def test_batches_hold_all_messages_in_order(lines: list[str], at_most: int, data: st.DataObject) -> None:
    stream = b"".join(whole(LinesCodec().encode(line)) for line in lines)
    assert whole(batched(LinesCodec()).encode(lines)) == stream
    cuts = data.draw(st.sets(st.integers(0, len(stream)), max_size=5))
    batches = decoded(batched(LinesCodec(), at_most=at_most), *split(stream, cuts), b"")
    assert [line for batch in batches for line in batch] == lines
    assert all(0 < len(batch) <= at_most for batch in batches)


@pytest.mark.parametrize("at_most", [1, 2, 3, 64])
def test_messages_before_a_bad_frame_come_out_in_a_batch(at_most: int) -> None:
    bad = b"\x01a\x01b\x01c\x80\x00"
    batches, why = until_refused(batched(VarintDelimitedCodec(), at_most=at_most), bad)
    assert [message for batch in batches for message in batch] == [b"a", b"b", b"c"]
    assert "shortest" in why
    codec = batched(mapped(LinesCodec(), decode=int, encode=str), at_most=at_most)
    batches_of_ints, why = until_refused(codec, b"1\n2\n3\nx\n4\n")
    assert [number for batch in batches_of_ints for number in batch] == [1, 2, 3]
    assert "invalid literal" in why


@pytest.mark.parametrize("at_most", [1, 2, 64])
def test_a_batch_belongs_to_the_one_who_takes_it(at_most: int) -> None:
    taken = list[str]()
    for batch in batched(LinesCodec(), at_most=at_most).decode(b"a\nb\nc\nd\ne\n"):
        while batch:
            taken.append(batch.pop(0))
    assert taken == ["a", "b", "c", "d", "e"]


def test_batches_that_were_not_iterated_over_come_next_time() -> None:
    codec = batched(LinesCodec(), at_most=2)
    codec.decode(b"a\nb\n")
    some = iter(codec.decode(b"c\nd\ne\nf"))
    assert next(some) == ["a", "b"]
    del some
    assert decoded(codec, b"g\n", b"") == [["c", "d"], ["e", "fg"]]


def test_parts_of_a_batch() -> None:
    """What is small is joined in the frames of a batch and what is large is not copied."""
    codec = batched(LengthDelimitedCodec())
    assert codec.encode([]) == b""
    assert codec.encode([b"a", b"bc"]) == b"\0\0\0\x01a\0\0\0\x02bc"
    large, other = b"x" * 50_000, b"y" * 60_000
    frame = codec.encode([b"a", large, b"b", b"c", other, b"d"])
    assert isinstance(frame, tuple)
    assert [part is large or part is other for part in frame] == [False, True, False, True, False]
    assert [message for batch in decoded(codec, whole(frame)) for message in batch] == [
        b"a",
        large,
        b"b",
        b"c",
        other,
        b"d",
    ]
    as_they_are = batched(BytesCodec()).encode([large, other])
    assert isinstance(as_they_are, tuple)
    assert as_they_are[0] is large
    assert as_they_are[1] is other


@pytest.mark.parametrize("make", [LengthDelimitedCodec, VarintDelimitedCodec])
@pytest.mark.parametrize("lengths", [[0, 1, 5, 1024, 1025], [8192, 8193], [20_000, 3], [3, 20_000, 0, 200_000]])
def test_a_batch_with_length_prefixes_is_its_frames_in_a_row(
    make: Callable[..., Codec[bytes]], lengths: list[int]
) -> None:
    codec = make(max_length=200_000)
    messages = [bytes([index]) * length for index, length in enumerate(lengths)]
    assert whole(batched(codec).encode(messages)) == b"".join(whole(codec.encode(message)) for message in messages)
    for wrong, error in ((bytes(200_001), ValueError), ("text", TypeError), (bytearray(3), TypeError)):
        with pytest.raises(error):
            batched(codec).encode([*messages, wrong])  # type: ignore[list-item]  # for those without a checker


def test_a_codec_that_encodes_in_its_own_way_does_so_in_a_batch() -> None:
    class Reversed(LengthDelimitedCodec):
        def encode(self, message: bytes, /) -> Frame:
            return super().encode(message[::-1])

    replaced = VarintDelimitedCodec()
    replaced.encode = lambda message, /: message[::-1]  # type: ignore[method-assign]  # as a test's double does
    assert batched(Reversed()).encode([b"ab", b"cd"]) == b"\0\0\0\x02ba\0\0\0\x02dc"
    assert batched(replaced).encode([b"ab", b"cd"]) == b"badc"


def test_only_lists_of_messages_are_sent_as_batches() -> None:
    for wrong in ("text", ("a", "b"), None, iter(["a"])):
        with pytest.raises(TypeError, match=f"a message must be list, not {type(wrong).__name__}"):
            batched(LinesCodec()).encode(wrong)  # type: ignore[arg-type]  # for those without a checker
    with pytest.raises(ValueError, match="LF"):
        batched(LinesCodec()).encode(["fine", "a\nb"])


# ---- what is refused of a peer


@every
def test_a_stream_may_end_between_frames_and_nowhere_else(make: Callable[[], Codec[bytes]]) -> None:
    frame = whole(make().encode(b"message"))
    assert decoded(make(), b"") == []
    assert decoded(make(), frame, b"") == [b"message"]
    for cut in range(1, len(frame)):
        got, why = until_refused(make(), frame + frame[:cut], b"")
        assert got == [b"message"]
        assert "ended" in why


@every
def test_after_an_error_there_are_only_errors(make: Callable[[], Codec[bytes]]) -> None:
    codec = make()
    frame = whole(codec.encode(b"message"))
    _, why = until_refused(codec, frame[:-1], b"")
    for data in (frame, b""):
        assert until_refused(codec, data) == ([], why)


def test_a_truncated_frame_says_how_much_is_missing() -> None:
    assert "3 bytes of it are missing" in until_refused(LengthDelimitedCodec(), b"\0\0\0\x05he", b"")[1]
    assert "after 2 bytes of that" in until_refused(LengthDelimitedCodec(), b"\0\0", b"")[1]
    assert "5 bytes of it are missing" in until_refused(VarintDelimitedCodec(), b"\x05", b"")[1]
    assert "after 1 bytes of that" in until_refused(VarintDelimitedCodec(), b"\x80", b"")[1]
    assert "4 bytes after the last b'--'" in until_refused(DelimitedCodec(b"--"), b"x--rest", b"")[1]
    assert "1 bytes after the last b'--'" in until_refused(DelimitedCodec(b"--"), b"-", b"")[1]


@pytest.mark.parametrize(
    ("make", "good", "header"),
    [
        (lambda: LengthDelimitedCodec(max_length=100), b"\0\0\0\x01a", b"\0\0\0\x65"),
        (lambda: LengthDelimitedCodec(max_length=100, byteorder="little"), b"\x01\0\0\0a", b"\x65\0\0\0"),
        (lambda: LengthDelimitedCodec(max_length=100, prefix=3), b"\0\0\x01a", b"\xff\xff\xff"),
        (lambda: LengthDelimitedCodec(max_length=100, prefix=8), b"\0\0\0\0\0\0\0\x01a", b"\xff" * 8),
        (lambda: LengthDelimitedCodec(max_length=100, prefix_included=True), b"\0\0\0\x05a", b"\0\0\0\x69"),
        (lambda: VarintDelimitedCodec(max_length=100), b"\x01a", b"\x65"),
        (lambda: VarintDelimitedCodec(max_length=100), b"\x01a", b"\xff\xff\xff\x7f"),
        (lambda: VarintDelimitedCodec(max_length=100), b"\x01a", b"\xff" * 8 + b"\x7f"),
    ],
)
def test_a_length_that_is_too_large_is_refused_with_its_last_byte(
    make: Callable[[], Codec[bytes]], good: bytes, header: bytes
) -> None:
    assert decoded(make(), good + header[:-1]) == [b"a"]
    got, why = until_refused(make(), good + header)
    assert got == [b"a"]
    assert "max_length is 100" in why
    assert until_refused(make(), *split(good + header, range(99))) == (got, why)
    # also where all of the frame is there already
    assert until_refused(make(), good + header + bytes(200))[0] == [b"a"]


@pytest.mark.parametrize("make", [lambda: DelimitedCodec(b"--", 5), lambda: DelimitedCodec(b"-", 5)])
def test_frames_with_a_delimiter_are_refused_beyond_max_length(make: Callable[[], DelimitedCodec]) -> None:
    delimiter = whole(make().encode(b""))
    for cuts in (range(0), range(99)):
        assert decoded(make(), *split(b"12345" + delimiter, cuts)) == [b"12345"]
        got, why = until_refused(make(), *split(b"a" + delimiter + b"123456" + delimiter, cuts))
        assert (got, "max_length is 5" in why) == ([b"a"], True)
        assert until_refused(make(), *split(b"1" * 5 + b"x" * len(delimiter), cuts))[0] == []


@pytest.mark.parametrize("header", [b"\x80\x00", b"\x81\x00", b"\xff\xff\x00", b"\x80\x80\x80\x80\x00"], ids=bytes.hex)
def test_varints_must_be_the_shortest(header: bytes) -> None:
    for cuts in (range(0), range(99)):
        got, why = until_refused(VarintDelimitedCodec(), *split(b"\x01a" + header, cuts))
        assert (got, "shortest" in why) == ([b"a"], True)


def test_varints_have_nine_bytes_at_most() -> None:
    for cuts in (range(0), range(99)):
        got, why = until_refused(VarintDelimitedCodec(), *split(b"\x01a" + b"\x80" * 9, cuts))
        assert (got, "nine bytes" in why) == ([b"a"], True)
        assert until_refused(VarintDelimitedCodec(), *split(b"\x01a" + b"\x80" * 9 + b"\x01", cuts)) == (got, why)
        assert decoded(VarintDelimitedCodec(), *split(b"\x01a" + b"\x80" * 8, cuts)) == [b"a"]


@pytest.mark.parametrize("prefix", range(1, 9))
def test_a_length_that_includes_itself_covers_itself(prefix: int) -> None:
    good = (prefix + 1).to_bytes(prefix, "big") + b"a"
    codec = LengthDelimitedCodec(prefix=prefix, prefix_included=True)
    assert decoded(codec, prefix.to_bytes(prefix, "big")) == [b""]
    for short in range(prefix):
        bad = short.to_bytes(prefix, "big")
        codec = LengthDelimitedCodec(prefix=prefix, prefix_included=True)
        got, why = until_refused(codec, good + bad + good)
        assert (got, "does not cover itself" in why) == ([b"a"], True)


# ---- what is refused of the user


@framed
@pytest.mark.parametrize("wrong", ["text", bytearray(b"x"), memoryview(b"x"), None, 3])
def test_only_bytes_are_encoded(make: Callable[[], Codec[bytes]], wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"must be bytes, not {type(wrong).__name__}"):
        make().encode(wrong)


class Name(bytes):
    pass


@framed
def test_subclasses_of_bytes_are_bytes(make: Callable[[], Codec[bytes]]) -> None:
    assert whole(make().encode(Name(b"x"))) == whole(make().encode(b"x"))


@pytest.mark.parametrize("wrong", [b"bytes", None, 3])
def test_only_text_is_a_line(wrong: Any) -> None:
    with pytest.raises(TypeError, match="must be str"):
        LinesCodec().encode(wrong)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LengthDelimitedCodec(max_length=100),
        lambda: LengthDelimitedCodec(max_length=100, prefix=1, prefix_included=True),
        lambda: VarintDelimitedCodec(max_length=100),
        lambda: DelimitedCodec(b"--", 100),
        lambda: mapped(LinesCodec("ascii", 100), decode=str.encode, encode=bytes.decode),
    ],
)
def test_a_message_may_be_as_long_as_max_length_and_no_longer(make: Callable[[], Codec[bytes]]) -> None:
    frame = whole(make().encode(b"x" * 100))
    for cuts in (range(0), range(200)):
        assert decoded(make(), *split(frame, cuts), b"") == [b"x" * 100]
    with pytest.raises(ValueError, match="101 bytes is longer than max_length=100"):
        make().encode(b"x" * 101)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: LengthDelimitedCodec(prefix=0), "prefix"),
        (lambda: LengthDelimitedCodec(prefix=9), "prefix"),
        (lambda: LengthDelimitedCodec(byteorder="middle"), "byteorder"),  # type: ignore[arg-type]  # for those without a checker
        (lambda: LengthDelimitedCodec(max_length=0), "max_length"),
        (lambda: VarintDelimitedCodec(max_length=-1), "max_length"),
        (lambda: DelimitedCodec(b""), "delimiter"),
        (lambda: DelimitedCodec(b"x", 0), "max_length"),
        (lambda: LinesCodec(max_length=0), "max_length"),
        (lambda: LinesCodec("utf-16"), "encoding.*utf-16"),
        (lambda: LinesCodec("utf-16-le"), "encoding.*utf-16-le"),
        (lambda: LinesCodec("utf-32"), "encoding.*utf-32"),
        (lambda: LinesCodec("utf-8-sig"), "encoding.*utf-8-sig"),
        (lambda: LinesCodec("cp500"), "encoding.*cp500"),
        (lambda: LinesCodec("rot13"), "encoding.*rot13"),
        (lambda: LinesCodec("klingon"), "encoding.*klingon"),
        (lambda: LinesCodec("utf-8\0"), "encoding.*utf-8"),
        (lambda: LinesCodec("\ud800"), "encoding.*ud800"),
        (lambda: LengthDelimitedCodec(prefix=2**20_000), "prefix"),
        (lambda: HeaderCodec(0, len), "size"),
        (lambda: HeaderCodec(5000, len), "size"),
        (lambda: HeaderCodec(2**20_000, len), "size"),
        (lambda: HeaderCodec(5, len, 0), "max_length"),
        (lambda: LengthDelimitedCodec(max_length=2**70), "max_length"),
        (lambda: VarintDelimitedCodec(max_length=10**5000), "max_length"),
        (lambda: LinesCodec(max_length=2**63), "max_length"),
        (lambda: batched(BytesCodec(), at_most=0), "at_most"),
        (lambda: batched(BytesCodec(), at_most=2**70), "at_most"),
    ],
)
def test_a_wrong_argument_is_named(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()


NO_INT: list[Any] = [1.5, 100.0, True, "1", None, b"1"]


@pytest.mark.parametrize("wrong", NO_INT)
@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda wrong: LengthDelimitedCodec(max_length=wrong), "max_length"),
        (lambda wrong: LengthDelimitedCodec(prefix=wrong), "prefix"),
        (lambda wrong: VarintDelimitedCodec(max_length=wrong), "max_length"),
        (lambda wrong: DelimitedCodec(b"x", wrong), "max_length"),
        (lambda wrong: LinesCodec(max_length=wrong), "max_length"),
        (lambda wrong: HeaderCodec(wrong, len), "size"),
        (lambda wrong: HeaderCodec(5, len, wrong), "max_length"),
        (lambda wrong: batched(BytesCodec(), at_most=wrong), "at_most"),
    ],
)
def test_a_number_is_an_int(make: Callable[[Any], object], named: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"{named} must be an int"):
        make(wrong)


WRONG: Any = 5
NO_INSTANCE: Any = LinesCodec


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: DelimitedCodec("x"), "delimiter must be bytes, not str"),  # type: ignore[arg-type]  # no checker
        (lambda: DelimitedCodec(WRONG), "delimiter must be bytes, not int"),
        (lambda: LengthDelimitedCodec(byteorder=WRONG), "byteorder must be str, not int"),
        (lambda: LengthDelimitedCodec(prefix_included=WRONG), "prefix_included must be bool, not int"),
        (lambda: LinesCodec(WRONG), "encoding must be str, not int"),
        (lambda: HeaderCodec(5, WRONG), "length_of must be callable, not 5"),
        (lambda: mapped(WRONG, decode=str, encode=str), "codec must be an instance with a method decode, not 5"),
        (lambda: mapped(NO_INSTANCE, decode=str, encode=str), "codec must be an instance with a method decode"),
        (lambda: mapped(LinesCodec(), decode=WRONG, encode=str), "decode must be callable, not 5"),
        (lambda: mapped(LinesCodec(), decode=str, encode=WRONG), "encode must be callable, not 5"),
        (lambda: batched(NO_INSTANCE), "codec must be an instance with a method decode"),
    ],
)
def test_an_argument_of_the_wrong_type_is_named(make: Callable[[], object], named: str) -> None:
    with pytest.raises(TypeError, match=named):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: LengthDelimitedCodec(max_length=sys.maxsize),
        lambda: LengthDelimitedCodec(prefix=8, max_length=sys.maxsize),
        lambda: VarintDelimitedCodec(max_length=sys.maxsize),
        lambda: DelimitedCodec(b"|", sys.maxsize),
    ],
)
def test_a_limit_may_be_any_size_there_is(make: Callable[[], Codec[bytes]]) -> None:
    assert decoded(make(), whole(make().encode(b"x")), b"") == [b"x"]


def test_a_prefix_limits_the_length_too() -> None:
    assert LengthDelimitedCodec().max_length == 8 * 1024 * 1024
    assert LengthDelimitedCodec(prefix=1).max_length == 255
    assert LengthDelimitedCodec(prefix=1, prefix_included=True).max_length == 254
    assert LengthDelimitedCodec(prefix=2, max_length=1_000_000).max_length == 65_535
    assert LengthDelimitedCodec(prefix=2, max_length=1000).max_length == 1000
    assert VarintDelimitedCodec(max_length=sys.maxsize).max_length == sys.maxsize
    codec = LengthDelimitedCodec(prefix=1, prefix_included=True)
    assert decoded(codec, whole(codec.encode(b"x" * 254))) == [b"x" * 254]
    with pytest.raises(ValueError, match="255 bytes"):
        codec.encode(b"x" * 255)


# ---- delimiters


@pytest.mark.parametrize(
    ("delimiter", "stream", "messages"),
    [
        (b"aab", b"aaab", [b"a"]),
        (b"aab", b"aaaabaab", [b"aa", b""]),
        (b"\r\n", b"x\r\r\ny\n\r\n", [b"x\r", b"y\n"]),
        (b"abab", b"xabaabab", [b"xaba"]),
        (b"aa", b"aaaab aa", [b"", b"", b"b "]),
    ],
)
def test_delimiters_that_overlap_or_straddle(delimiter: bytes, stream: bytes, messages: list[bytes]) -> None:
    for cut in range(len(stream)):
        assert decoded(DelimitedCodec(delimiter), *split(stream, [cut]), b"") == messages
    assert decoded(DelimitedCodec(delimiter), *split(stream, range(len(stream))), b"") == messages


small = st.text("ab", max_size=6).map(str.encode)


@given(small.filter(bool), st.lists(small, max_size=5), st.data())
def test_what_a_delimiter_would_cut_is_refused_and_nothing_else(
    delimiter: bytes, messages: list[bytes], data: st.DataObject
) -> None:
    codec, sent, stream = DelimitedCodec(delimiter), list[bytes](), b""
    for message in messages:
        if (message + delimiter).find(delimiter) < len(message):
            with pytest.raises(ValueError, match="before the message's end"):
                codec.encode(message)
        else:
            sent.append(message)
            stream += whole(codec.encode(message))
    cuts = data.draw(st.sets(st.integers(0, len(stream))))
    assert decoded(codec, *split(stream, cuts), b"") == sent


# ---- lines


@pytest.mark.parametrize(
    ("stream", "lines"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\r\r\n", ["a\r"]),
        (b"a\rb\n\rc\n", ["a\rb", "\rc"]),
        (b"\n\r\n\n", ["", "", ""]),
        (b"a\nrest", ["a", "rest"]),
        (b"a\nrest\r", ["a", "rest"]),
        ("zwölf\n€".encode(), ["zwölf", "€"]),
        ("a\u2028b\x0bc\x85\n".encode(), ["a\u2028b\x0bc\x85"]),
    ],
)
def test_lines(stream: bytes, lines: list[str]) -> None:
    for cut in range(len(stream)):
        assert decoded(LinesCodec(), *split(stream, [cut]), b"") == lines
    assert decoded(LinesCodec(), *split(stream, range(len(stream))), b"") == lines


@pytest.mark.parametrize("wrong", ["a\nb", "a\n", "\n", "a\r", "\ud800"])
def test_lines_that_would_not_come_out_are_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"LF|surrogates"):
        LinesCodec().encode(wrong)


def test_the_end_of_a_line_does_not_count() -> None:
    for end in (b"\n", b"\r\n", b""):
        for cut in range(7):
            assert decoded(LinesCodec(max_length=5), *split(b"12345" + end, [cut]), b"") == ["12345"]
            got, why = until_refused(LinesCodec(max_length=5), *split(b"a\n123456" + end, [cut + 2]), b"")
            assert (got, "max_length is 5" in why) == (["a"], True)
    assert until_refused(LinesCodec(max_length=5), b"1234567")[0] == []


def test_the_length_of_a_line_is_counted_in_bytes() -> None:
    LinesCodec(max_length=4).encode("öö")
    with pytest.raises(ValueError, match="5 bytes is longer"):
        LinesCodec(max_length=4).encode("ööx")


@pytest.mark.parametrize("bad", [b"\xff\n", "ö".encode()[:1] + b"\n"])
def test_a_line_that_is_no_text_is_refused_after_those_before(bad: bytes) -> None:
    assert until_refused(LinesCodec(), b"one\ntwo\n" + bad + b"three\n")[0] == ["one", "two"]
    with pytest.raises(FrameError, match="no utf-8") as caught:
        list(LinesCodec().decode(bad))
    assert isinstance(caught.value.__cause__, UnicodeDecodeError)
    assert until_refused(LinesCodec(), b"one\n" + bad[:-1], b"")[0] == ["one"]


def test_in_encodings_for_lines_only_a_line_end_has_its_byte() -> None:
    every = "".join(map(chr, [*range(10), *range(11, 0xD800), *range(0xE000, 0x11000)]))
    taken = set()
    for encoding in sorted(set(encodings.aliases.aliases.values())):
        try:
            LinesCodec(encoding)
        except ValueError:
            continue
        if encoding not in ("idna", "raw_unicode_escape"):  # which are for other purposes
            taken.add(encoding)
            assert b"\n" not in every.encode(encoding, "ignore"), encoding
    assert {"utf_8", "ascii", "latin_1", "cp1252", "shift_jis", "gb18030", "big5", "euc_jp"} <= taken


# ---- bytes as they come, and messages of one's own


def test_bytes_come_out_as_they_came() -> None:
    codec = BytesCodec()
    assert decoded(codec, b"ab", bytearray(b"c"), memoryview(b"d"), b"") == [b"ab", b"c", b"d"]  # type: ignore[arg-type]  # bytes-like
    assert codec.encode(b"any") == b"any"
    with pytest.raises(TypeError, match="must be bytes, not str"):
        codec.encode("text")  # type: ignore[arg-type]  # for those without a checker


def test_mapped_makes_messages_of_ones_own() -> None:
    codec: Codec[object] = mapped(LinesCodec(), decode=json.loads, encode=json.dumps)
    stream = b"".join(whole(codec.encode(message)) for message in ({"a": [1]}, None, "x"))
    for cut in range(len(stream)):
        codec = mapped(LinesCodec(), decode=json.loads, encode=json.dumps)
        assert decoded(codec, *split(stream, [cut]), b"") == [{"a": [1]}, None, "x"]


def test_what_the_decoding_function_raises_is_the_peers_doing() -> None:
    codec: Codec[int] = mapped(LinesCodec(), decode=int, encode=str)
    assert until_refused(codec, b"1\n2\nthree\n4\n")[0] == [1, 2]
    with pytest.raises(FrameError, match="ValueError: invalid literal") as caught:
        list(mapped(LinesCodec(), decode=int, encode=str).decode(b"three\n"))
    assert isinstance(caught.value.__cause__, ValueError)


class TypoError(NotImplementedError):
    pass


@pytest.mark.parametrize(
    "bug",
    [
        NameError("typo"),
        UnboundLocalError("early"),
        AttributeError("typo"),
        ImportError("gone"),
        ModuleNotFoundError("gone"),
        AssertionError("never"),
        NotImplementedError("later"),
        TypoError("later"),
    ],
    ids=lambda bug: type(bug).__name__,
)
def test_what_only_a_bug_raises_is_not_the_peers_doing(bug: Exception) -> None:
    def fail(line: str) -> str:
        if line == "three":
            raise bug
        return line

    codec = mapped(LinesCodec(), decode=fail, encode=str)
    for outer in (codec, one_at_a_time(codec)):
        messages = iter(outer.decode(b"one\ntwo\nthree\n"))
        assert list(islice(messages, 2)) == ["one", "two"]
        with pytest.raises(type(bug)) as caught:
            next(messages)
        assert caught.value is bug


@pytest.mark.parametrize(
    "error",
    [
        ValueError("\x1b[2J" + "x" * 4_000_000),
        KeyError("k\n" * 1_000_000),
        ZeroDivisionError(),
        TypeError("list indices must be integers"),
        RecursionError("too deep"),
        LookupError(*range(100_000)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_error_for_a_refused_message_is_short_and_printable(error: Exception) -> None:
    def fail(_: str) -> str:
        raise error

    with pytest.raises(FrameError) as caught:
        list(mapped(LinesCodec(), decode=fail, encode=str).decode(b"x\n"))
    text = str(caught.value)
    assert text.startswith(f"a message is refused: {type(error).__name__}: ")
    assert text.isprintable()
    assert len(text) < 300
    assert type(caught.value.__cause__) is type(error)
    assert caught.value.__cause__ is not error
    assert len(str(caught.value.__cause__)) <= 410  # a KeyError shows its text escaped once more


class Message:
    pass


def chained(message: Message) -> Exception:
    error = ValueError("no")
    error.__cause__ = KeyError(message)
    error.__dict__["message"] = message
    return error


@pytest.mark.parametrize("make_error", [ValueError, KeyError, chained], ids=["args", "key", "chained"])
def test_the_cause_of_a_refusal_keeps_no_message_alive(make_error: Callable[[Message], Exception]) -> None:
    seen = list[weakref.ref[Message]]()

    def fail(line: str) -> Message:
        message = Message()
        seen.append(weakref.ref(message))
        raise make_error(message)

    def refused() -> FrameError:
        with pytest.raises(FrameError) as caught:
            list(mapped(LinesCodec(), decode=fail, encode=str).decode(b"x\n"))
        return caught.value

    error = refused()
    assert error.__context__ is None
    cause = error.__cause__
    assert cause is not None
    assert (cause.__traceback__, cause.__cause__, cause.__context__) == (None, None, None)
    del error
    gc.collect()
    assert [ref() for ref in seen] == [None]


@pytest.mark.parametrize(
    "make",
    [
        lambda: LinesCodec("ascii"),
        lambda: mapped(LinesCodec("latin-1"), decode=json.loads, encode=str),
        lambda: mapped(DelimitedCodec(b"\n"), decode=lambda line: line.decode("ascii"), encode=str.encode),
        lambda: HeaderCodec(4000, lambda header: int(header.decode("ascii"))),
    ],
    ids=["lines", "json", "unicode", "header"],
)
def test_a_refusal_keeps_little_memory(make: Callable[[], Codec[Any]]) -> None:
    codec = make()
    stream = b"\xff" * 1_000_000 + b"\n"

    def refused() -> FrameError:
        try:
            list(codec.decode(stream))
        except FrameError as error:
            return error.with_traceback(None)
        pytest.fail("nothing is refused")

    refused()
    codec = make()
    tracemalloc.start()
    try:
        error = refused()
        codec = make()
        assert tracemalloc.get_traced_memory()[0] < 50_000
    finally:
        tracemalloc.stop()
    assert error.__cause__ is not None
    assert error.__context__ is None
    assert len(str(error)) < 300


def test_end_of_stream_is_passed_on() -> None:
    """The end of the stream is passed on and nothing else is empty."""
    fed = list[bytes]()

    class Noting(BytesCodec):
        def decode(self, data: Any, /) -> Iterable[bytes]:
            fed.append(data)
            return super().decode(data)

    for wrap in (batched, lambda codec: mapped(codec, decode=bytes.hex, encode=bytes.fromhex)):
        fed.clear()
        codec: Codec[Any] = wrap(Noting())
        decoded(codec, b"a", b"b", b"")
        assert fed == [b"a", b"b", b""]


def test_an_error_of_ones_own_for_a_frame_stays_as_it_is() -> None:
    wrong = FrameError("not in our protocol")

    def refuse(_: str) -> str:
        raise wrong

    with pytest.raises(FrameError) as caught:
        list(mapped(LinesCodec(), decode=refuse, encode=str).decode(b"x\n"))
    assert caught.value is wrong


def test_what_the_encoding_function_raises_goes_to_the_sender() -> None:
    codec: Codec[object] = mapped(LinesCodec(), decode=json.loads, encode=json.dumps)
    with pytest.raises(TypeError, match="not JSON serializable"):
        codec.encode(object())
    with pytest.raises(ValueError, match="LF"):
        mapped(LinesCodec(), decode=str, encode=str).encode("a\nb")


def test_mapped_is_as_lazy_as_what_it_maps() -> None:
    made = list[str]()

    def note(line: str) -> str:
        made.append(line)
        return line

    codec = mapped(LinesCodec(), decode=note, encode=str)
    some = iter(codec.decode(b"a\nb\nc\n"))
    assert next(some) == "a"
    assert made == ["a"]
    del some
    codec.decode(b"d\n")
    assert decoded(codec, b"") == ["b", "c", "d"]


# ---- what they cost


@pytest.mark.parametrize("size", [1, 1000, 20_000])
@pytest.mark.parametrize(
    "make", [LengthDelimitedCodec, VarintDelimitedCodec, lambda: DelimitedCodec(b"\r\n"), LinesCodec]
)
def test_memory_of_an_unfinished_frame(make: Callable[[], Codec[Any]], size: int) -> None:
    """An unfinished frame takes little more memory than its bytes."""
    length = 50_000 if size == 1 else 4_000_000
    message: Any = "x" * length if isinstance(make(), LinesCodec) else b"x" * length
    stream = whole(make().encode(message))
    last = len(stream) - 10
    codec = make()
    tracemalloc.start()
    try:
        for at in range(0, last, size):
            assert not list(codec.decode(stream[at : min(at + size, last)]))
        kept, peak = tracemalloc.get_traced_memory()
        assert length - 100 < kept < 1.2 * length + 10_000
        assert peak < 1.2 * length + 100_000
        tracemalloc.reset_peak()
        (got,) = codec.decode(stream[last:])
        assert tracemalloc.get_traced_memory()[1] < (3.3 if isinstance(got, str) else 2.3) * length
    finally:
        tracemalloc.stop()
    assert got == message


def test_nothing_is_kept_once_all_is_delivered() -> None:
    codec = LengthDelimitedCodec()
    stream = whole(codec.encode(b"x" * 100)) * 1000
    tracemalloc.start()
    try:
        for at in range(0, len(stream), 4096):
            list(codec.decode(stream[at : at + 4096]))
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()


@framed
def test_a_message_is_not_held_while_those_after_it_are_decoded(make: Callable[[], Codec[bytes]]) -> None:
    codec = make()
    size = min(getattr(codec, "max_length"), 100_000)  # noqa: B009  # not every `Codec` has one
    large, small = whole(codec.encode(b"x" * size)), whole(codec.encode(b"y"))
    assert decoded(codec, large[:-1]) == []
    for message in codec.decode(large[-1:] + small):
        assert sys.getrefcount(message) <= 2 if len(message) == size else message == b"y"


@pytest.mark.parametrize("make", [LengthDelimitedCodec, lambda: DelimitedCodec(b"\r\n")])
def test_nothing_is_kept_after_an_error(make: Callable[[], Codec[bytes]]) -> None:
    codec = make()
    stream = whole(codec.encode(b"x" * 1_000_000))[:-2]
    tracemalloc.start()
    try:
        for at in range(0, len(stream), 50_000):
            list(codec.decode(stream[at : at + 50_000]))
        assert tracemalloc.get_traced_memory()[0] > 900_000
        until_refused(codec, b"")
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


# ---- and of themselves


@pytest.mark.parametrize(
    ("codec", "said"),
    [
        (
            LengthDelimitedCodec(prefix=2, byteorder="little", prefix_included=True),
            "LengthDelimitedCodec(prefix=2, byteorder='little', max_length=65533, prefix_included=True)",
        ),
        (VarintDelimitedCodec(), "VarintDelimitedCodec(max_length=8388608)"),
        (DelimitedCodec(b"\0", 10), "DelimitedCodec(b'\\x00', max_length=10)"),
        (LinesCodec("latin-1", 10), "LinesCodec('latin-1', max_length=10)"),
        (BytesCodec(), "BytesCodec()"),
    ],
)
def test_a_codec_says_what_it_is(codec: object, said: str) -> None:
    assert repr(codec) == said
    assert repr(eval(said, vars(codecs))) == said  # noqa: S307


def test_a_mapped_codec_says_what_it_is() -> None:
    said = repr(mapped(BytesCodec(), decode=bytes.hex, encode=bytes.fromhex))
    assert said.startswith("mapped(BytesCodec(), decode=<method 'hex'")


def test_a_batched_and_a_header_codec_say_what_they_are() -> None:
    assert repr(batched(BytesCodec(), at_most=3)) == "batched(BytesCodec(), at_most=3)"
    assert repr(HeaderCodec(9, len, 10)) == "HeaderCodec(9, <built-in function len>, max_length=10)"


def test_there_is_no_io_in_the_codecs() -> None:
    tree = ast.parse(Path(codecs.__file__).read_text(encoding="utf-8"))
    waiting = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, waiting)]
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    allowed = {"errors", "_text", "config", "collections.abc"}
    assert {name for name in modules if name not in sys.stdlib_module_names} <= allowed
