"""Turn a stream of bytes into messages, and messages into bytes: the interfaces, and six ready-made codecs.

Nothing here does I/O or waits. Every codec in this module keeps these rules:

1. A message comes out as soon as its last byte is in, wherever the stream was cut, and always as `bytes` (or `str`).
2. The messages before a bad frame are delivered, then `FrameError` is raised, and again by every later call.
3. At most `max_length` bytes of an unfinished frame are kept (and its header or delimiter). A length above that is
   refused as soon as it has been read.
4. Every byte is searched, and copied, a fixed number of times, however small the pieces are in which it comes.
5. A message that cannot be sent is a `ValueError` or `TypeError` of `encode`. `encode` changes no state: one instance
   may encode for any number of peers, also while it decodes for one of them.

The input of `decode` may be any bytes-like object. It is taken in at the call; its messages are made as one iterates.
Messages that were not iterated over come out of the next call.

`max_length` bounds the memory that one peer can take: up to twice that for a moment, since the pieces of a frame are
joined when the last one is in. Peers can do this all at once: 90 peers, each with most of an 8 MiB frame sent, take
752 MiB. To bound the sum, pass a smaller `max_length` (the largest message of your protocol), or set
`Config.max_connections`: a node's decoders take at most 2 * `max_length` * `max_connections` bytes.
"""

from __future__ import annotations

import struct
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from io import BytesIO
from itertools import islice
from operator import index
from typing import Any, Final, Generic, Literal, NoReturn, Protocol, TypeAlias, TypeVar, cast

from ._text import copy_error, describe
from .config import at_least_one, needs
from .errors import ONLY_BUGS, FrameError

__all__ = [
    "BytesCodec", "Chunk", "Codec", "Decoder", "DelimitedCodec", "Encoder", "Frame", "HeaderCodec",
    "LengthDelimitedCodec", "LinesCodec", "VarintDelimitedCodec", "batched", "mapped",
]  # fmt: skip

# Type checkers show these names in their messages.
Of_codec = TypeVar("Of_codec")
Made_by_decode_and_taken_by_encode = TypeVar("Made_by_decode_and_taken_by_encode")
B = TypeVar("B")
M = TypeVar("M")
M_co = TypeVar("M_co", covariant=True)
M_contra = TypeVar("M_contra", contravariant=True)

Chunk: TypeAlias = bytes | bytearray | memoryview
Frame: TypeAlias = Chunk | tuple[Chunk, ...]

DEFAULT_MAX_LENGTH = 8 * 1024 * 1024
_JOINED = 8 * 1024  # payloads up to this are joined with their header: cheaper than handing on two parts
_REMEMBERED = 1024  # the headers of payloads up to this are made once
_MAX_HEADER = 4096  # a header that is still arriving is copied with each piece
_FORMATS = {1: "B", 2: "H", 4: "I", 8: "Q"}
_MORE = 0x80  # the bit of a varint's byte that says that another one follows


class Decoder(Protocol[M_co]):
    """Makes messages of the bytes that one peer sends; it serves one connection and owns its buffer.

    A decoder may have an attribute or property `missing: int` as well: how many bytes it lacks, at least, for the next
    message, or 0 when that is unknown. Who reads no more than that reads nothing that belongs to a later message, and
    a node need not be woken before so much is there: where it is too large, a message comes late or never. It counts
    once what `decode` returned has been iterated to its end. The ready-made codecs with a length or a header have it,
    and what is mapped or batched of them.
    """

    def decode(self, data: bytes, /) -> Iterable[M_co]:
        """Returns the messages that `data` completes; it may be a generator.

        `data` is what came next on the stream, cut anywhere. `b""` is passed once, at the end of the stream, and never
        before. What is returned is iterated to its end before the next call, unless the connection ends first.

        Raises `FrameError`, after the messages that came before, for bytes that are no valid frame, also for a frame
        that the end of the stream has cut off. Any other exception counts as a bug in the decoder.
        """
        ...


class Encoder(Protocol[M_contra]):
    """Makes frames of the messages to send."""

    def encode(self, message: M_contra, /) -> Frame:
        """Returns the whole frame: one bytes-like object, or a tuple of them where joining would copy a lot.

        An exception is raised at the call that sends, and nothing is sent.
        """
        ...


class Codec(Decoder[M], Encoder[M], Protocol[M]):
    """A decoder and an encoder of the same messages in one object."""


class _Incremental(ABC, Generic[M]):
    """What the decoders share: what was not decoded yet, and the error that ended it."""

    _rest = b""  # the input that was not decoded yet
    _size = 0  # bytes of the frame that is still arriving,
    _partial: BytesIO | None = None  # ... and what has come of it
    _refused: str | None = None

    def __init__(self, max_length: int, most: int = sys.maxsize) -> None:
        at_least_one("max_length", max_length)
        self.max_length: Final[int] = min(max_length, most)
        """The most bytes that a message may have."""

    def decode(self, data: Chunk, /) -> Iterator[M]:
        """Returns an iterator over the messages that `data` completes.

        `data` is any bytes-like object; `b""` is the end of the stream. Raises `FrameError`, while one iterates, for
        what is no valid frame, and again from then on.
        """
        if self._refused is not None:
            raise FrameError(self._refused)
        piece = data if type(data) is bytes else _as_bytes(data)
        self._rest = self._rest + piece if self._rest else piece
        return self._messages(ended=not piece)

    @abstractmethod
    def _messages(self, ended: bool) -> Iterator[M]:
        """Make messages of `_rest`, and leave there what was not decoded, also when the iterator is closed early."""

    def _keep(self, piece: Chunk) -> None:
        """Add a piece to the frame that is still arriving."""
        if self._partial is None:
            self._partial = BytesIO()
        self._size += self._partial.write(piece)

    def _whole(self, piece: Chunk) -> bytes:
        """Return the whole frame, of which `piece` is the end, and forget it."""
        partial, self._partial, self._size = self._partial or BytesIO(), None, 0
        partial.write(piece)
        return partial.getvalue()  # its buffer, not a copy

    def _refuse(self, why: str, cause: BaseException | None = None) -> NoReturn:
        self._refused, self._partial, self._size = why, None, 0
        raise FrameError(why) from cause


class _Prefixed(_Incremental[M]):
    """Frames that begin with their length, or with a header that tells it."""

    _missing = 0  # bytes of the payload that is still arriving

    def __init__(self, header: int, max_length: int, most: int = sys.maxsize) -> None:
        super().__init__(max_length, most)
        self._joined = min(self.max_length, _JOINED)
        self._least = header  # bytes that a header has at least

    @property
    def missing(self) -> int:
        """The least number of bytes that the next message lacks: of its payload, or of its header."""
        return self._missing or max(self._least - len(self._rest), 1)

    def _payloads(self, read: Callable[[bytes, int], tuple[int]], ended: bool) -> Iterator[bytes]:
        """Make payloads of `_rest`, behind headers of a fixed size; see `_messages`.

        `read` is given the input and the position of a header, and returns the length of the payload behind it.
        """
        header, limit = self._least, self.max_length
        data, position, end = self._rest, 0, len(self._rest)
        try:
            if self._missing > end:
                self._keep(data)
                position, self._missing = end, self._missing - end
            elif self._missing:
                position, self._missing = self._missing, 0
                yield self._whole(memoryview(data)[:position])
            start = position + header
            while start <= end:
                (size,) = read(data, position)
                if size > limit:
                    self._refuse_length(size)
                stop = start + size
                if stop > end:
                    self._keep(memoryview(data)[start:])
                    position, self._missing = end, stop - end
                    break
                position = stop
                yield data[start:stop]
                start = position + header
            if ended:
                self._check_end(end - position)
        finally:
            self._rest = data[position:]

    def _refuse_length(self, size: int) -> NoReturn:
        self._refuse(f"a frame of {describe(size)} bytes was announced, max_length is {self.max_length}")

    def _check_end(self, unread: int) -> None:
        missing, self._missing = self._missing, 0
        if missing:
            self._refuse(f"the stream ended within a frame, {missing} bytes of it are missing")
        if unread:
            self._refuse(f"the stream ended within the header of a frame, after {unread} bytes of that")


class _LengthPrefixed(_Prefixed[bytes]):
    """Frames that begin with their length."""

    _headers: Mapping[int, bytes]

    def encode(self, message: bytes, /) -> Frame:
        """Returns the frame of `message`: joined if it is short, otherwise header and payload as two parts.

        Raises `ValueError` if it is longer than `max_length`, `TypeError` if it is not `bytes`: any other bytes-like
        object could be changed before it has been sent.
        """
        if type(message) is not bytes:
            _require(bytes, message)
        size = len(message)
        if size <= self._joined:
            return self._headers[size] + message
        if size > self.max_length:
            raise _too_long(size, self.max_length)
        return self._headers[size], message

    def _encode_short(self, messages: list[bytes]) -> bytes | None:
        """Return the frames of messages that are all short, joined; None if one is not, or is none."""
        if set(map(type, messages)) != {bytes} or max(map(len, messages)) > self._joined:
            return None
        parts = [b""] * (2 * len(messages))
        parts[::2] = map(self._headers.__getitem__, map(len, messages))
        parts[1::2] = messages
        return b"".join(parts)


class LengthDelimitedCodec(_LengthPrefixed):
    """Messages of bytes behind a length of fixed width.

    `prefix` is the width of the length in bytes, 1 to 8; `byteorder` is "big" (the network's) or "little". With
    `prefix_included` the length counts itself, too. `max_length` is the most bytes a message may have, 8 MiB by
    default, and at most what the prefix can express: the attribute `max_length` has the limit that holds. A peer can
    take twice that much memory (see the module).

    Raises `ValueError` or `TypeError` naming the argument that is wrong.
    """

    def __init__(
        self,
        *,
        prefix: int = 4,
        byteorder: Literal["big", "little"] = "big",
        max_length: int = DEFAULT_MAX_LENGTH,
        prefix_included: bool = False,
    ) -> None:
        at_least_one("prefix", prefix, 8)
        _require(bool, prefix_included, "prefix_included")
        if byteorder not in ("big", "little"):
            _require(str, byteorder, "byteorder")
            raise ValueError(f'byteorder must be "big" or "little", not {byteorder!r}')
        self._byteorder: Literal["big", "little"] = byteorder
        self._included = included = prefix if prefix_included else 0
        self._unpack, self._headers = _fixed_width(prefix, byteorder, included)
        super().__init__(prefix, max_length, 256**prefix - 1 - included)

    def __repr__(self) -> str:
        return (
            f"LengthDelimitedCodec(prefix={self._least}, byteorder={self._byteorder!r}, "
            f"max_length={self.max_length}, prefix_included={bool(self._included)})"
        )

    def _read(self, data: bytes, position: int) -> tuple[int]:
        size = int.from_bytes(data[position : position + self._least], self._byteorder) - self._included
        if size < 0:
            self._refuse(f"a length of {size + self._included} was announced, which does not cover itself")
        return (size,)

    def _messages(self, ended: bool) -> Iterator[bytes]:
        return self._payloads(self._unpack or self._read, ended)


class VarintDelimitedCodec(_LengthPrefixed):
    """Messages of bytes behind an unsigned LEB128 length, as in protobuf's delimited streams and multiformats.

    Follows the unsigned-varint specification of multiformats: seven bits a byte, the least significant ones first, at
    most nine bytes, and only the shortest encoding of a number is accepted. `max_length` is the most bytes a message
    may have, 8 MiB by default; a peer can take twice that much memory (see the module).

    Raises `ValueError` or `TypeError` if `max_length` is no positive int.
    """

    def __init__(self, *, max_length: int = DEFAULT_MAX_LENGTH) -> None:
        self._headers = _varints
        super().__init__(1, max_length)

    def __repr__(self) -> str:
        return f"VarintDelimitedCodec(max_length={self.max_length})"

    def _messages(self, ended: bool) -> Iterator[bytes]:
        data, position, end, limit = self._rest, 0, len(self._rest), self.max_length
        try:
            if self._missing > end:
                self._keep(data)
                position, self._missing = end, self._missing - end
            elif self._missing:
                position, self._missing = self._missing, 0
                yield self._whole(memoryview(data)[:position])
            while position < end:
                size = data[position]
                start = position + 1
                if size >= _MORE:
                    size, shift, byte = size & 127, 7, 0
                    for byte in data[start : position + 9]:
                        start += 1
                        size |= (byte & 127) << shift
                        shift += 7
                        if byte < _MORE:
                            break
                    else:
                        if start == position + 9:
                            self._refuse("the length of a frame goes on beyond nine bytes")
                        break
                    if not byte:
                        self._refuse(f"the length {size} of a frame was not written in its shortest form")
                if size > limit:
                    self._refuse_length(size)
                stop = start + size
                if stop > end:
                    self._keep(memoryview(data)[start:])
                    position, self._missing = end, stop - end
                    break
                position = stop
                yield data[start:stop]
            if ended:
                self._check_end(end - position)
        finally:
            self._rest = data[position:]


class HeaderCodec(_Prefixed[tuple[bytes, bytes]]):
    """Messages `(header, payload)`: a header of `size` bytes, which tells the length of the payload behind it.

        HeaderCodec(24, lambda header: int.from_bytes(header[16:20], "little"), 4_000_000)  # Bitcoin
        HeaderCodec(5, lambda header: int.from_bytes(header[1:], "big") - 4)  # PostgreSQL: the length counts itself
        HeaderCodec(9, lambda header: int.from_bytes(header[:3], "big"), 16_384)  # HTTP/2, RFC 9113 section 4.1

    `size` is 1 to 4,096 bytes. `length_of` is called with each header that is received or sent, and returns the number
    of bytes of the payload alone. It may check the rest of the header, too: a `ValueError` that it raises is a
    `FrameError`, as is a length that is negative or above `max_length`, all of them as soon as the header is in. Any
    other exception is a bug. `max_length` is the most bytes a payload may have, 8 MiB by default; a peer can take twice
    that much memory (see the module).

    Raises `ValueError` or `TypeError` naming the argument that is wrong.
    """

    def __init__(self, size: int, length_of: Callable[[bytes], int], max_length: int = DEFAULT_MAX_LENGTH) -> None:
        at_least_one("size", size, _MAX_HEADER)
        _require_callable(length_of, "length_of")
        super().__init__(size, max_length)
        self._length_of = length_of
        self._header = b""

    def __repr__(self) -> str:
        return f"HeaderCodec({self._least}, {self._length_of!r}, max_length={self.max_length})"

    def encode(self, message: tuple[bytes, bytes], /) -> Frame:
        """Returns header and payload: joined if the payload is short, otherwise as two parts.

        Raises `ValueError` if the header has not `size` bytes or does not announce the length of the payload, or if
        the payload is longer than `max_length`; `TypeError` if the message is no tuple of two `bytes`; and what
        `length_of` raises.
        """
        _require(tuple, message)
        if len(message) != 2:
            raise TypeError(f"a message must be (header, payload), not a tuple of {len(message)}")
        header, payload = message
        _require(bytes, header, "a header")
        _require(bytes, payload, "a payload")
        if len(header) != self._least:
            raise ValueError(f"a header must have {self._least} bytes, not {len(header)}")
        if len(payload) > self.max_length:
            raise _too_long(len(payload), self.max_length)
        announced = self._length_of(header)
        if announced != len(payload):
            raise ValueError(f"the header announces {describe(announced)} bytes, the payload has {len(payload)}")
        return header + payload if len(payload) <= self._joined else (header, payload)

    def _messages(self, ended: bool) -> Iterator[tuple[bytes, bytes]]:
        for payload in self._payloads(self._read, ended):
            yield self._header, payload

    def _read(self, data: bytes, position: int) -> tuple[int]:
        self._header = data[position : position + self._least]
        try:
            length = index(self._length_of(self._header))
        except FrameError:
            raise
        except ValueError as error:
            refused = _refusal("a header", error)
        else:
            if length >= 0:
                return (length,)
            refused = f"a header announces a payload of {describe(length)} bytes", None
        return self._refuse(*refused)


class _Terminated(_Incremental[M]):
    """Frames that end with a delimiter."""

    def __init__(self, delimiter: bytes, max_length: int, slack: int = 0) -> None:
        super().__init__(max_length)
        self._delimiter = delimiter
        self._most = max_length + slack

    def _messages(self, ended: bool) -> Iterator[Any]:
        """Make frames of `_rest`, as bytes, without their delimiters."""
        data, position, most, delimiter = self._rest, 0, self._most, self._delimiter
        width = len(delimiter)
        try:
            while (stop := data.find(delimiter, position)) >= 0:
                if self._size or stop - position > most:
                    self._check_length(self._size + stop - position)
                start, position = position, stop + width
                yield self._whole(data[start:stop]) if self._size else data[start:stop]
            # what may be the beginning of a delimiter is searched again, all before it is not
            keep = len(data) if ended else max(position, len(data) - width + 1)
            self._check_length(self._size + keep - position)
            self._keep(data[position:keep])
            position = keep
            if ended and self._size:
                self._refuse(f"the stream ended {self._size} bytes after the last {delimiter!r}")
        finally:
            self._rest = data[position:]

    def _check_length(self, size: int) -> None:
        if size > self._most:
            self._refuse(f"{size} bytes came without a delimiter, max_length is {self.max_length}")

    def _terminate(self, message: bytes) -> Frame:
        if len(message) > self.max_length:
            raise _too_long(len(message), self.max_length)
        return message + self._delimiter if len(message) <= _JOINED else (message, self._delimiter)


class DelimitedCodec(_Terminated[bytes]):
    """Messages of bytes, each followed by `delimiter`: one or more bytes that no message contains.

    `max_length` is the most bytes a message may have, without the delimiter, 8 MiB by default; a peer can take twice
    that much memory (see the module). What follows the last delimiter when the stream ends is a frame cut off: a
    `FrameError`.

    Raises `ValueError` for an empty delimiter or a `max_length` that is not positive, `TypeError` for one of another
    type.
    """

    def __init__(self, delimiter: bytes, max_length: int = DEFAULT_MAX_LENGTH) -> None:
        _require(bytes, delimiter, "delimiter")
        if not delimiter:
            raise ValueError("delimiter must be at least one byte, not b''")
        super().__init__(delimiter, max_length)
        # behind a message that ends like this the delimiter would be found too early
        self._early = tuple(delimiter[:i] for i in range(1, len(delimiter)) if delimiter.startswith(delimiter[i:]))

    def __repr__(self) -> str:
        return f"DelimitedCodec({self._delimiter!r}, max_length={self.max_length})"

    def encode(self, message: bytes, /) -> Frame:
        """Returns `message` and the delimiter, joined if that is short, otherwise as two parts.

        Raises `ValueError` if the message is longer than `max_length`, or if the delimiter would be found too early:
        within the message, or because the message ends like the delimiter begins (`b"a"` before `b"aa"`); `TypeError`
        if it is not `bytes`.
        """
        if type(message) is not bytes:
            _require(bytes, message)
        if self._delimiter in message or (self._early and message.endswith(self._early)):
            raise ValueError(f"the delimiter {self._delimiter!r} would be found before the message's end")
        return self._terminate(message)


class LinesCodec(_Terminated[str]):
    """Lines of text, ended by LF or CRLF; written with LF.

    `encoding` is any of Python's in which line ends are the bytes of ASCII (not UTF-16, for one). `max_length` is the
    most bytes a line may have, encoded and without its end, 8 MiB by default; a peer can take several times that much
    memory, as text is wider than bytes (see the module). When the stream ends, what follows the last LF is delivered
    as a line, too.

    Raises `ValueError` for an encoding that is unknown or unfit, or a `max_length` that is not positive, `TypeError`
    for one of another type.
    """

    def __init__(self, encoding: str = "utf-8", max_length: int = DEFAULT_MAX_LENGTH) -> None:
        _require(str, encoding, "encoding")
        try:
            unfit = "\r\n".encode(encoding) != b"\r\n"
        except (LookupError, ValueError) as error:  # a name that Python does not know, or one that no encoding can have
            raise ValueError(f"encoding must be one for text that Python knows, not {encoding!r}") from error
        if unfit:
            raise ValueError(f"encoding must write line ends as ASCII does, unlike {encoding!r}")
        super().__init__(b"\n", max_length, slack=1)  # the CR before the LF, which does not count
        self.encoding: Final[str] = encoding
        """The name of the encoding, as it was given."""

    def __repr__(self) -> str:
        return f"LinesCodec({self.encoding!r}, max_length={self.max_length})"

    def encode(self, message: str, /) -> Frame:
        """Returns the line `message` with its LF.

        Raises `ValueError` if it is longer than `max_length`, contains LF, ends in CR (which would be lost), or
        cannot be encoded; `TypeError` if it is not a `str`.
        """
        if type(message) is not str:
            _require(str, message)
        line = message.encode(self.encoding)
        if b"\n" in line or line[-1:] == b"\r":
            raise ValueError("a line must not contain LF, nor end in CR")
        return self._terminate(line)

    def _messages(self, ended: bool) -> Iterator[str]:
        encoding, limit = self.encoding, self.max_length
        if ended and (self._rest or self._size) and self._rest[-1:] != b"\n":
            self._rest += b"\n"
        for line in super()._messages(ended):
            text = line[:-1] if line[-1:] == b"\r" else line
            if len(text) > limit:
                self._check_length(len(text) + 1)
            try:
                message = text.decode(encoding)
            except UnicodeError as error:
                refused = _refusal(f"a line that is no {encoding}", error)
            else:
                yield message
                continue
            self._refuse(*refused)


class BytesCodec:
    """Bytes without frames: what arrives comes out in chunks as they came, however the peer cut what it sent.

    The end of the stream is never an error, and nothing is kept.
    """

    def __repr__(self) -> str:
        return "BytesCodec()"

    def decode(self, data: Chunk, /) -> Iterable[bytes]:
        """Returns `data`, any bytes-like object, as the one message; none for `b""`."""
        piece = _as_bytes(data)
        return (piece,) if piece else ()

    def encode(self, message: bytes, /) -> Frame:
        """Returns `message` as it is. Raises `TypeError` if it is not `bytes`."""
        if type(message) is not bytes:
            _require(bytes, message)
        return message


class _Wrapped(Generic[M]):
    """What `mapped` and `batched` share."""

    def __init__(self, codec: Codec[M]) -> None:
        needs("codec must be", codec, "decode", "encode")
        self._codec = codec

    @property
    def missing(self) -> int:
        """The least number of bytes that the next message lacks, as the codec within tells; 0 when unknown."""
        return cast("int", getattr(self._codec, "missing", 0))


class _Mapped(_Wrapped[M], Generic[M, B]):
    """What `mapped` returns."""

    def __init__(self, codec: Codec[M], decode: Callable[[M], B], encode: Callable[[B], M]) -> None:
        super().__init__(codec)
        _require_callable(decode, "decode")
        _require_callable(encode, "encode")
        self._decode = decode
        self._encode = encode

    def __repr__(self) -> str:
        return f"mapped({self._codec!r}, decode={self._decode!r}, encode={self._encode!r})"

    def decode(self, data: bytes, /) -> Iterator[B]:
        return self._messages(self._codec.decode(data))

    def encode(self, message: B, /) -> Frame:
        return self._codec.encode(self._encode(message))

    def _messages(self, inner: Iterable[M]) -> Iterator[B]:
        for message in inner:
            try:
                made = self._decode(message)
            except (FrameError, *ONLY_BUGS):
                raise
            except Exception as error:  # noqa: BLE001  # a user's function may raise anything for what a peer sends
                why, cause = _refusal("a message", error)
            else:
                yield made
                continue
            raise FrameError(why) from cause


def mapped(
    codec: Codec[Of_codec],
    *,
    decode: Callable[[Of_codec], Made_by_decode_and_taken_by_encode],
    encode: Callable[[Made_by_decode_and_taken_by_encode], Of_codec],
) -> Codec[Made_by_decode_and_taken_by_encode]:
    """Makes of a codec another one, whose messages are of a type of your own.

        mapped(LinesCodec(), decode=json.loads, encode=json.dumps)

    `decode` makes your message of one of the codec's, `encode` the reverse; the frames are the codec's. What `decode`
    raises is a `FrameError`, since the peer sent what it should not: its text tells the type and the beginning of the
    text of the exception, its cause is a copy without traceback and attributes, which could keep a whole message alive.
    What only a bug raises comes out as it is: `NameError`, `AttributeError`, `ImportError`, `AssertionError` and
    `NotImplementedError`. What `encode` raises is raised where the message is sent.

    Raises `TypeError` naming the argument that is wrong.
    """
    return _Mapped(codec, decode, encode)


class _Batched(_Wrapped[M]):
    """What `batched` returns."""

    def __init__(self, codec: Codec[M], at_most: int) -> None:
        super().__init__(codec)
        at_least_one("at_most", at_most)
        self._at_most = at_most

    def __repr__(self) -> str:
        return f"batched({self._codec!r}, at_most={self._at_most})"

    def decode(self, data: bytes, /) -> Iterator[list[M]]:
        return self._messages(iter(self._codec.decode(data)))

    def encode(self, message: list[M], /) -> Frame:
        _require(list, message)
        codec = self._codec
        # faster than frame by frame; not where a subclass encodes in its own way. The method is of this module
        if isinstance(codec, _LengthPrefixed) and getattr(codec.encode, "__func__", None) is _LengthPrefixed.encode:
            joined = codec._encode_short(cast("list[bytes]", message))  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            if joined is not None:
                return joined
        frames = list(map(self._codec.encode, message))
        if set(map(type, frames)) == {bytes} and max(map(len, frames)) <= _JOINED:
            return b"".join(cast("list[bytes]", frames))
        parts: list[Chunk] = []
        small: list[Chunk] = []
        for frame in frames:
            for part in frame if isinstance(frame, tuple) else (frame,):
                if len(part) <= _JOINED:
                    small.append(part)
                else:
                    parts += b"".join(small), part
                    small.clear()
        return tuple(filter(None, (*parts, b"".join(small)))) or b""

    def _messages(self, inner: Iterator[M]) -> Iterator[list[M]]:
        full = True
        while full:
            batch: list[M] = []
            try:
                batch.extend(islice(inner, self._at_most))
            finally:  # the messages before an error are in the list
                full = len(batch) == self._at_most
                if batch:
                    yield batch


def batched(codec: Codec[Of_codec], *, at_most: int = 64) -> Codec[list[Of_codec]]:
    """Makes of a codec another one, whose messages are lists of the first one's: all of a chunk, up to `at_most`.

    The bytes on the wire are the same, so the peer need not know. Where messages are small and many, most of what each
    one costs is its call of `process_message` and of `send`; this makes one call for many. A list counts as one
    message: in `Stats`, for `drop_beyond`, `queue_depth` and the idle timeout, and for what is lost if its handler
    raises. No list that comes out is empty; an empty one is sent as nothing. The lists are cut as the chunks are: no
    peer can rely on how many messages come together. The messages before a bad frame come out, in a list, before
    `FrameError` is raised.

    Raises `ValueError` if `at_most` is below 1, `TypeError` naming the argument that is wrong.
    """
    return _Batched(codec, at_most)


@cache
def _fixed_width(
    prefix: int, byteorder: Literal["big", "little"], included: int
) -> tuple[Callable[[bytes, int], tuple[int]] | None, Mapping[int, bytes]]:
    """Return a function that reads a length, if there is a faster one than `_read`, and the headers."""
    if prefix in _FORMATS and not included:
        fixed = struct.Struct(("<" if byteorder == "little" else ">") + _FORMATS[prefix])
        return fixed.unpack_from, _Headers(fixed.pack)
    return None, _Headers(lambda size: (size + included).to_bytes(prefix, byteorder))


class _Headers(dict[int, bytes]):
    """The header for each length; those of short messages are made once."""

    def __init__(self, make: Callable[[int], bytes]) -> None:
        self._make = make

    def __missing__(self, size: int) -> bytes:
        header = self._make(size)
        if size <= _REMEMBERED:
            self[size] = header
        return header


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number >= _MORE:
        digits.append(number & 127 | _MORE)
        number >>= 7
    digits.append(number)
    return bytes(digits)


_varints = _Headers(_varint)


def _as_bytes(data: Chunk) -> bytes:
    return data if type(data) is bytes else bytes(memoryview(data))


def _require(kind: type, value: object, what: str = "a message") -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{what} must be {kind.__name__}, not {type(value).__name__}")


def _require_callable(value: object, what: str) -> None:
    if not callable(value):
        raise TypeError(f"{what} must be callable, not {describe(value)}")


def _refusal(what: str, error: Exception) -> tuple[str, BaseException | None]:
    """Return the text and the cause of the `FrameError` for what a peer sent, to be raised outside of the `except`.

    Otherwise `error`, which may keep the whole message alive, would be its context.
    """
    return f"{what} is refused: {type(error).__name__}: {describe(error, str)}", copy_error(error)


def _too_long(size: int, max_length: int) -> ValueError:
    return ValueError(f"a message of {size} bytes is longer than max_length={max_length}")
