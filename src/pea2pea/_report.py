"""What a node logs, and the classification of what user code raises.

Rule 1: no peer can cause a record above INFO.
Rule 2: a record of one kind goes out at most once a second; the next one says how many were left out. DEBUG has no
limit: it is for those who watch every connection.
Rule 3: a bug of the user's is an ERROR with its traceback, and is counted every time.
Rule 4: text that a peer made is cut and escaped.
"""

from __future__ import annotations

import logging
import math
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator

from anyio import current_effective_deadline, get_cancelled_exc_class
from anyio.lowlevel import cancel_shielded_checkpoint
from typing_extensions import TypeVarTuple, Unpack

from . import _clock
from ._address import Address, show
from ._text import describe, printable
from .errors import DeliveryError, NodeClosedError, NotConnectedError
from .stats import Heuristics

Ts = TypeVarTuple("Ts")

logger = logging.getLogger("pea2pea")

_LINES_MAX = 200  # of a traceback


def name_background_task(func: object) -> str:
    """Return what a user's background task is called."""
    return f"background task {getattr(func, '__qualname__', type(func).__qualname__)}"


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions that an exception group is made of; an exception that is no group yields itself."""
    inner: tuple[BaseException, ...] | None = getattr(error, "exceptions", None)
    if isinstance(inner, tuple):
        for part in inner:
            yield from leaves(part)
    else:
        yield error


def only_peer_gone(error: BaseException, peer: Address) -> bool:
    """Whether an error says nothing but that this very peer is gone."""
    return all(isinstance(leaf, (NotConnectedError, DeliveryError)) and leaf.addr == peer for leaf in leaves(error))


def find_interrupt(error: BaseException) -> BaseException | None:
    """Return the first exception in it that ends the node: no `Exception`, and no cancellation."""
    harmless = (Exception, GeneratorExit, get_cancelled_exc_class())
    return next((leaf for leaf in leaves(error) if not isinstance(leaf, harmless)), None)


def split_by_kind(error: BaseException, kind: type[BaseException]) -> tuple[BaseException | None, BaseException | None]:
    """Return what of an error is of that kind, and the rest; exception groups are taken apart."""
    if isinstance(error, kind):
        return error, None
    split: Callable[[type[BaseException]], tuple[BaseException | None, BaseException | None]] | None
    split = getattr(error, "split", None)
    return (None, error) if split is None else split(kind)


def format_traceback(error: BaseException) -> str:
    """Return the traceback of an error as logging prints it, with each line bounded and escaped."""
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip().split("\n")
    if len(lines) > _LINES_MAX:
        half = _LINES_MAX // 2
        lines = [*lines[:half], f"  [{len(lines) - 2 * half} lines left out]", *lines[-half:]]
    return "\n".join(map(printable, lines))


class Reporter:
    """The logger and the counters of one node."""

    def __init__(self, node: str, heuristics: Heuristics, on_interrupt: Callable[[BaseException], None]) -> None:
        self.node = node
        self.heuristics = heuristics
        self.closing = False
        self._on_interrupt = on_interrupt  # shuts the node down on what must not be swallowed
        self._last: dict[object, tuple[float, int]] = {}

    @property
    def verbose(self) -> bool:
        """Whether anybody reads what `debug` reports."""
        return logger.isEnabledFor(logging.DEBUG)

    def debug(self, message: str, peer: Address | None = None, detail: object = None) -> None:
        """Report the ordinary course of things."""
        if self.verbose:
            self._emit(logging.DEBUG, message, peer, detail)

    def info(self, message: str, peer: Address | None = None, detail: object = None) -> None:
        """Report what a peer or the machine did. `message` names the kind of event; `detail` has what varies."""
        self._emit_limited(logging.INFO, message, message, peer, detail)

    def bug(self, place: str, error: BaseException, peer: Address | None = None) -> None:
        """Report an exception that the user's code should not have raised, with its traceback."""
        self.heuristics.hook_errors += 1
        self._emit_limited(logging.ERROR, (place, type(error)), f"{place} raised", peer, error)

    def unsent(self, message: str, peer: Address, count: int) -> None:
        """Count and report messages that will not be sent."""
        self.heuristics.unsent_messages += count
        self.info(message, peer, f"{count} of them")

    async def call(
        self,
        place: str,
        func: Callable[[Unpack[Ts]], Awaitable[object]],
        *args: Unpack[Ts],
        peer: Address | None = None,
    ) -> Exception | None:
        """Await user code; classify and return what it raises. A cancellation that AnyIO delivers goes through."""
        try:
            await func(*args)
        except BaseException as error:  # noqa: BLE001  # whatever user code raises is reported, and harms nobody else
            return await self.classify_soon(place, error, peer)
        return None

    async def classify_soon(
        self, place: str, error: BaseException, peer: Address | None = None, *, foreign: bool = False
    ) -> Exception:
        """Classify an error; before that, let a cancellation from outside (asyncio) reach the node's other tasks.

        When a program cancels all its tasks, the node may be closing a moment later, and then nothing is a bug.
        """
        if isinstance(error, get_cancelled_exc_class()) and current_effective_deadline() != -math.inf:
            foreign = True
        if foreign and not self.closing:
            try:
                for _ in range(3):
                    await cancel_shielded_checkpoint()
            except get_cancelled_exc_class():  # the next one from outside
                pass
        try:
            return self.classify(place, error, peer, foreign=foreign)
        finally:  # a cancellation has this frame in its traceback, which must not keep it
            del error

    def classify(
        self, place: str, error: BaseException, peer: Address | None = None, *, foreign: bool = False
    ) -> Exception:
        """Report what left user code, as the peer's doing or as a bug, and return it as an `Exception`.

        A cancellation that AnyIO delivers is raised again. It may come in a group: on trio, what is raised during a
        cancellation comes together with it. A cancellation that AnyIO did not ask for (on asyncio: of a future, or of
        the task; `foreign` says that it was found to be one) is a bug, unless the node is closing. What is neither an
        `Exception` nor a cancellation shuts the node down and comes out of its block.
        """
        if isinstance(error, GeneratorExit):  # the coroutine is thrown away, maybe after the event loop has ended
            raise error
        trace = error.__traceback__
        if isinstance(error, TypeError) and trace and not trace.tb_next and "await" in str(error):  # raised by `call`
            error.args = (f"{place} must be async: {error}",)
        told, rest = split_by_kind(error, Exception)
        cancelled, fatal = (None, None) if rest is None else split_by_kind(rest, get_cancelled_exc_class())
        if fatal is not None:
            self._on_interrupt(next(leaves(fatal)))
            told = cancelled = None
        elif cancelled is not None and (foreign or current_effective_deadline() != -math.inf):
            if self.closing:
                self.info(f"{place} was cancelled while the node closes", peer)
            else:
                told = error
            cancelled = None
        if told is not None:
            self._report_error(place, told, peer)
        if cancelled is not None:
            try:
                raise cancelled
            finally:  # this frame is in its traceback now, and must not keep it
                del error, trace, told, rest, cancelled, fatal
        return error if isinstance(error, Exception) else RuntimeError(f"{place} met {describe(error)}")

    def _report_error(self, place: str, error: BaseException, peer: Address | None) -> None:
        """Report a bug, unless the error only says that this very peer, or the node itself, is gone."""
        if peer is not None and only_peer_gone(error, peer):
            self.info(f"{place} met the end of its connection", peer, error)
        elif self.closing and all(isinstance(leaf, NodeClosedError) for leaf in leaves(error)):
            self.info(f"{place} met the end of the node", peer, error)
        else:
            self.bug(place, error, peer)

    def _emit_limited(self, level: int, kind: object, message: str, peer: Address | None, detail: object) -> None:
        if not logger.isEnabledFor(level):
            return
        now = _clock.now()
        last, left_out = self._last.get(kind, (-math.inf, 0))
        if last <= now < last + 1:
            self._last[kind] = (last, left_out + 1)
            return
        self._last[kind] = (now, 0)
        self._emit(level, message, peer, detail, f" [{left_out} like it were left out]" if left_out else "")

    def _emit(self, level: int, message: str, peer: Address | None, detail: object, ending: str = "") -> None:
        whom = "" if peer is None else f" (peer {show(peer)})"
        what = "" if detail is None else f": {describe(detail, str if isinstance(detail, str) else repr)}"
        text = f"node {self.node}: {message}{whom}{what}{ending}"
        extra = {"node": self.node, "peer": peer}
        error = detail if level == logging.ERROR and isinstance(detail, BaseException) else None
        exc_info = None if error is None else (type(error), error, error.__traceback__)
        try:
            record = logger.makeRecord(logger.name, level, __file__, 0, "%s", (text,), exc_info, "_emit", extra)
            if error is not None:
                record.exc_text = format_traceback(error)
            logger.handle(record)
        except Exception:  # noqa: BLE001  # of a filter or handler of the user's: as `logging` treats a handler's
            if logging.raiseExceptions and sys.stderr:
                traceback.print_exc()
