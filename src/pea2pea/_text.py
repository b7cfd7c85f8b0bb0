"""What a peer sent, in errors and logs: it is cut, and escaped where it is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

E = TypeVar("E", bound=BaseException)

MAX_TEXT = 200  # characters
MAX_KEPT = 1000  # characters or bytes, of each text that an error carries


def printable(text: str) -> str:
    """Escape the characters that are not printable, and cut the result at 200 characters."""
    start = text[: MAX_TEXT + 1]
    if not start.isprintable():
        start = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in start)
    return start if len(start) <= MAX_TEXT else f"{start[: MAX_TEXT - 3]}..."


def describe(value: object, convert: Callable[[object], str] = repr) -> str:
    """Return what `convert`, `repr` or `str`, makes of a value, as `printable` shows it; the value may be broken."""
    try:
        return printable(convert(value))
    except Exception as error:  # noqa: BLE001  # a user's class may raise anything
        return f"<{type(value).__name__} whose {convert.__name__} raises {type(error).__name__}>"


def copy_error(error: BaseException) -> BaseException | None:
    """Return an error of the same type with the same text, bounded, and nothing else: no traceback, no attributes.

    The original may keep a whole message alive (`UnicodeDecodeError.object`, `JSONDecodeError.doc`, the locals of its
    frames). Returns None where its type cannot be made so.
    """
    kind = type(error)
    try:
        made = kind.__new__(kind)
    except Exception:  # noqa: BLE001  # a user's class may raise anything
        return None
    made.args = (describe(error, str),)
    return made


def strip_error(error: E) -> E:
    """Let an error keep nothing of what its raiser had at hand, and of a text or bytes only the beginning.

    Tracebacks and contexts go, causes are copied; what else an error of a user's class has stays. Returns the error.
    """
    error.__cause__ = None if error.__cause__ is None else copy_error(error.__cause__)
    error.__context__ = None
    error.args = tuple(map(_cut, error.args))
    for name, value in vars(error).items():
        vars(error)[name] = _cut(value)
    if isinstance(error, (UnicodeDecodeError, UnicodeEncodeError)):
        setattr(error, "object", _cut(error.object))  # noqa: B010  # it is bytes or text
    for part in getattr(error, "exceptions", ()):
        if isinstance(part, BaseException):  # of a group
            strip_error(part)
    return error.with_traceback(None)


def _cut(value: object) -> object:
    return value[:MAX_KEPT] if isinstance(value, (str, bytes, bytearray)) else value
