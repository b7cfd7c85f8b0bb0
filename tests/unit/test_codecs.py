"""The ready-made codecs: what is on the wire, what is refused on either side, and what is kept in between."""

from __future__ import annotations

import ast
import encodings.aliases
import json
import sys
import tracemalloc
import weakref
from itertools import pairwise
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
    LengthDelimitedCodec,
    LinesCodec,
    VarintDelimitedCodec,
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


@framed
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


@framed
@given(data=st.data())
def test_what_went_in_comes_out_whatever_the_cuts(make: Callable[[], Codec[bytes]], data: st.DataObject) -> None:
    message = st.binary(max_size=200)
    if isinstance(make(), DelimitedCodec):
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


@framed
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


@framed
def test_messages_that_were_not_iterated_over_come_next_time(make: Callable[[], Codec[bytes]]) -> None:
    frames = [whole(make().encode(b"%d" % number)) for number in range(4)]
    codec = make()
    codec.decode(frames[0] + frames[1])
    some = iter(codec.decode(frames[2] + frames[3][:1]))
    assert next(some) == b"0"
    del some
    assert decoded(codec, frames[3][1:], b"") == [b"1", b"2", b"3"]


@framed
def test_an_iteration_stopped_after_a_frame_of_many_pieces_goes_on(make: Callable[[], Codec[bytes]]) -> None:
    first, second = whole(make().encode(b"first")), whole(make().encode(b"second"))
    codec = make()
    assert decoded(codec, first[:3]) == []
    some = iter(codec.decode(first[3:] + second))
    assert next(some) == b"first"
    del some
    assert decoded(codec, b"") == [b"second"]


@framed
def test_one_codec_encodes_while_it_decodes(make: Callable[[], Codec[bytes]]) -> None:
    frame, codec = whole(make().encode(b"message")), make()
    got = decoded(codec, frame[:5])
    assert whole(codec.encode(b"message")) == frame
    assert got + decoded(codec, frame[5:], b"") == [b"message"]


@framed
def test_a_codec_goes_away_with_its_last_reference(make: Callable[[], Codec[bytes]]) -> None:
    codec = make()
    decoded(codec, whole(codec.encode(b"message"))[:-1])
    gone = weakref.ref(codec)
    del codec
    assert gone() is None


# ---- what is refused of a peer


@framed
def test_a_stream_may_end_between_frames_and_nowhere_else(make: Callable[[], Codec[bytes]]) -> None:
    frame = whole(make().encode(b"message"))
    assert decoded(make(), b"") == []
    assert decoded(make(), frame, b"") == [b"message"]
    for cut in range(1, len(frame)):
        got, why = until_refused(make(), frame + frame[:cut], b"")
        assert got == [b"message"]
        assert "ended" in why


@framed
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
    ],
)
def test_a_wrong_argument_is_named(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make()


def test_a_delimiter_is_bytes() -> None:
    with pytest.raises(TypeError, match="delimiter must be bytes, not str"):
        DelimitedCodec("x")  # type: ignore[arg-type]  # for those without a checker


def test_a_prefix_limits_the_length_too() -> None:
    assert LengthDelimitedCodec().max_length == 8 * 1024 * 1024
    assert LengthDelimitedCodec(prefix=1).max_length == 255
    assert LengthDelimitedCodec(prefix=1, prefix_included=True).max_length == 254
    assert LengthDelimitedCodec(prefix=2, max_length=1_000_000).max_length == 65_535
    assert LengthDelimitedCodec(prefix=2, max_length=1000).max_length == 1000
    assert VarintDelimitedCodec(max_length=2**70).max_length == 2**63 - 1
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
def test_an_unfinished_frame_takes_little_more_memory_than_its_bytes(make: Callable[[], Codec[Any]], size: int) -> None:
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


def test_there_is_no_io_in_the_codecs() -> None:
    tree = ast.parse(Path(codecs.__file__).read_text(encoding="utf-8"))
    waiting = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, waiting)]
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name for name in modules if name not in sys.stdlib_module_names} <= {"errors", "collections.abc"}
