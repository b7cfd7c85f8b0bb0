"""What the examples share: the choice of an event loop, the log, Ctrl-C, and text that is safe to print."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from typing import TYPE_CHECKING

import anyio
from typing_extensions import TypeVarTuple, Unpack

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

Ts = TypeVarTuple("Ts")


def command_line(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every example has; `doc` is what `--help` says."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["asyncio", "uvloop", "trio"], default="asyncio", help="the event loop")
    parser.add_argument("--log", choices=["error", "info", "debug"], default="error", help="how much the library tells")
    return parser


def event_loop(options: argparse.Namespace) -> tuple[str, dict[str, bool]]:
    """What AnyIO calls `backend` and `backend_options`."""
    if options.backend == "uvloop":
        return "asyncio", {"use_uvloop": True}
    return options.backend, {}


def run(options: argparse.Namespace, main: Callable[[Unpack[Ts]], Awaitable[object]], *args: Unpack[Ts]) -> None:
    """Run `main(*args)` on the event loop that was asked for; Ctrl-C ends it, with all nodes closed."""
    logging.basicConfig(level=options.log.upper(), format="%(levelname)s %(name)s: %(message)s")
    backend, backend_options = event_loop(options)
    try:
        anyio.run(main, *args, backend=backend, backend_options=backend_options)
    except asyncio.CancelledError:  # so AnyIO tells of Ctrl-C on asyncio before Python 3.11
        sys.exit(130)
    except BaseException as error:
        if not _is_interrupt(error):
            raise
        sys.exit(130)


def shown(text: object, most: int = 200) -> str:
    """Return text from a peer as it may be printed: escaped where it is not printable, at most `most` characters.

    Without this a peer could clear the screen, rename the window, or fake a line of yours.
    """
    start = str(text)[: most + 1]
    start = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in start)
    return start if len(start) <= most else f"{start[: most - 3]}..."


def _is_interrupt(error: BaseException) -> bool:
    """Ctrl-C: as it is, as what broke a worker process, or in the exception group of a task group."""
    inner: Sequence[BaseException] | None = getattr(error, "exceptions", None)
    if inner is not None:
        return all(map(_is_interrupt, inner))
    return isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt)
