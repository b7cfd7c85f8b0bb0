"""Text that a peer made: bounded and printable; and errors that keep nothing of it alive."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from typing_extensions import Self

from pea2pea._text import MAX_KEPT, MAX_TEXT, copy_error, describe, printable, strip_error


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain wörld", "plain wörld"),
        ("\x1b[2J\r\n\0", r"\x1b[2J\r\n\x00"),
        ("\x9b\u202e\u2028\ud800", r"\x9b\u202e\u2028\ud800"),
        ("x" * MAX_TEXT, "x" * MAX_TEXT),
        ("x" * 4_000_000, "x" * (MAX_TEXT - 3) + "..."),
        ("\n" * 4_000_000, (r"\n" * MAX_TEXT)[: MAX_TEXT - 3] + "..."),
    ],
)
def test_text_is_printable_and_bounded(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert shown.isprintable()
    assert len(shown) <= MAX_TEXT


def test_a_value_is_described_even_if_it_is_broken() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    assert describe(["a\n"]) == r"['a\n']"
    assert describe(KeyError("k"), str) == "'k'"
    assert describe(BrokenError(), str) == "<BrokenError whose str raises ZeroDivisionError>"


def raised_by(text: bytes) -> Exception:
    try:
        json.loads(text)
    except ValueError as error:
        return error
    pytest.fail("no error")


@pytest.mark.parametrize(
    "error", [raised_by(b"\xff" * 1000), raised_by(b"[" + b"1," * 1000), KeyError("k" * 1000), OSError(1, "x" * 1000)]
)
def test_a_copy_of_an_error_keeps_nothing_but_its_type_and_text(error: Exception) -> None:
    copy = copy_error(error)
    assert type(copy) is type(error)
    assert copy.args == (describe(error, str),)
    assert (copy.__traceback__, copy.__context__, vars(copy)) == (None, None, {})
    assert len(logging.Formatter().formatException((type(copy), copy, None))) < 2 * MAX_TEXT


def test_an_error_that_cannot_be_copied_is_left_out() -> None:
    class PickyError(Exception):
        def __new__(cls, *args: Any) -> Self:
            return super().__new__(cls, args[0])

    assert copy_error(PickyError("x")) is None


def test_a_stripped_error_keeps_what_is_no_text() -> None:
    class RichError(Exception):
        exceptions = "not those of a group"

    error = RichError("x" * 4000, b"y" * 4000, ["z"], 7)
    error.args[2].append(error)
    vars(error).update(code=7, data=bytearray(4000))
    error.__cause__, error.__context__ = KeyError("k" * 4000), KeyError()
    assert strip_error(error) is error
    assert error.args == ("x" * MAX_KEPT, b"y" * MAX_KEPT, ["z", error], 7)
    assert vars(error) == {"code": 7, "data": bytearray(MAX_KEPT)}
    assert len(str(error.__cause__)) <= MAX_TEXT + 2
    assert error.__context__ is None
