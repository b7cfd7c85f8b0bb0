"""What a peer sent, in errors and logs: nothing here returns more than 200 characters, or one that is not printable."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_TEXT = 200  # characters


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
