"""What a node says, and how often.

Rule 1: no peer can cause a record above INFO. Rule 2: no peer can cause more than a few a second, so every kind of
record goes out at most once a second; the next one says how many were left out. Rule 3: a bug of the user's is an
ERROR with its traceback, at most once a second for the same place and exception type, and is counted every time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterator
from time import monotonic
from typing import TYPE_CHECKING

from anyio import current_effective_deadline, get_cancelled_exc_class
from typing_extensions import TypeVarTuple, Unpack

from .errors import DeliveryError, NodeClosedError, NotConnectedError

if TYPE_CHECKING:
    from ._address import Address
    from .stats import Heuristics

Ts = TypeVarTuple("Ts")

logger = logging.getLogger("pea2pea")


def _short(detail: object) -> str:
    if isinstance(detail, str):
        return detail
    try:
        return f"{detail!r:.200}"
    except Exception as error:  # noqa: BLE001  # an exception of the user's may have a broken repr
        return f"<{type(detail).__name__} whose repr raises {type(error).__name__}>"


def background_task(func: object) -> str:
    """What a user's background task is called."""
    return f"background task {getattr(func, '__qualname__', type(func).__qualname__)}"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """What an exception group is made of in the end; an exception that is none, itself."""
    inner: tuple[BaseException, ...] | None = getattr(error, "exceptions", None)
    if isinstance(inner, tuple):
        for part in inner:
            yield from _leaves(part)
    else:
        yield error


def says_gone(error: BaseException, peer: Address) -> bool:
    """Whether it says nothing but that this very peer is gone."""
    return all(isinstance(leaf, (NotConnectedError, DeliveryError)) and leaf.addr == peer for leaf in _leaves(error))


def interruption(error: BaseException) -> BaseException | None:
    """What is neither an error nor a cancellation, and so must go through: the first one in an exception group."""
    return next((leaf for leaf in _leaves(error) if isinstance(leaf, (KeyboardInterrupt, SystemExit))), None)


def parted(error: BaseException, kind: type[BaseException]) -> tuple[BaseException | None, BaseException | None]:
    """What of `error` is of that kind, and the rest; exception groups are taken apart."""
    if isinstance(error, kind):
        return error, None
    split: Callable[[type[BaseException]], tuple[BaseException | None, BaseException | None]] | None
    split = getattr(error, "split", None)
    return (None, error) if split is None else split(kind)


class Reporter:
    """A node's voice."""

    def __init__(self, node: str, heuristics: Heuristics, give_up: Callable[[BaseException], None]) -> None:
        self.node = node
        self.heuristics = heuristics
        self.give_up = give_up  # for what must go through: KeyboardInterrupt, SystemExit
        self.closing = False
        self._last: dict[object, tuple[float, int]] = {}

    def debug(self, message: str, peer: Address | None = None, detail: object = None) -> None:
        """The ordinary course of things."""
        self._emit(logging.DEBUG, message, message, peer, detail)

    def info(self, message: str, peer: Address | None = None, detail: object = None) -> None:
        """Something a peer did, or the machine. `message` is the kind of it; what varies belongs into `detail`."""
        self._emit(logging.INFO, message, message, peer, detail)

    def unsent(self, message: str, peer: Address, count: int) -> None:
        """Messages that were accepted, or were to be broadcast, and will not be sent."""
        self.heuristics.unsent_messages += count
        self.info(message, peer, f"{count} of them")

    async def call(
        self,
        place: str,
        func: Callable[[Unpack[Ts]], Awaitable[object]],
        *args: Unpack[Ts],
        peer: Address | None = None,
    ) -> Exception | None:
        """Await a piece of the user's, and judge and return what it raises; a cancellation of ours goes through."""
        try:
            await func(*args)
        except BaseException as error:  # noqa: BLE001  # whatever a user's code raises is told, and harms nobody
            return self.judge(place, error, peer)
        return None

    def judge(self, place: str, error: BaseException, peer: Address | None = None) -> Exception:
        """Tell what left a piece of the user's, as the peer's doing or as a bug; a cancellation of ours goes through.

        It may come in a group: on trio, what is raised during a cancellation comes together with that. A cancellation
        that AnyIO did not ask for (of a future, on asyncio) is a bug. What must go through ends the node.
        """
        if isinstance(error, GeneratorExit):  # the coroutine is thrown away, maybe after the event loop has ended
            raise error
        trace = error.__traceback__
        if isinstance(error, TypeError) and trace and not trace.tb_next and "await" in str(error):  # raised by ours
            error.args = (f"{place} must be async: {error}",)
        told, rest = parted(error, Exception)
        cancelled, fatal = (None, None) if rest is None else parted(rest, get_cancelled_exc_class())
        if fatal is not None:
            self.give_up(next(_leaves(fatal)))
            told = cancelled = None
        elif cancelled is not None and current_effective_deadline() != -math.inf:
            told, cancelled = error, None
        if told is not None:
            self._tell(place, told, peer)
        if cancelled is not None:
            try:
                raise cancelled
            finally:  # this frame is in its traceback now, and must not keep it
                del error, trace, told, rest, cancelled, fatal
        return error if isinstance(error, Exception) else RuntimeError(f"{place} met {_short(error)}")

    def _tell(self, place: str, error: BaseException, peer: Address | None) -> None:
        """A bug, unless it only says that this very peer, or the node itself, is gone."""
        if peer is not None and says_gone(error, peer):
            self.info(f"{place} met the end of its connection", peer, error)
        elif self.closing and all(isinstance(leaf, NodeClosedError) for leaf in _leaves(error)):
            self.info(f"{place} met the end of the node", peer, error)
        else:
            self.bug(place, error, peer)

    def bug(self, place: str, error: BaseException, peer: Address | None = None) -> None:
        """An exception that the user's code should not have raised, with its traceback."""
        self.heuristics.hook_errors += 1
        self._emit(logging.ERROR, (place, type(error)), f"{place} raised", peer, error, traceback=error)

    def _emit(
        self,
        level: int,
        kind: object,
        message: str,
        peer: Address | None,
        detail: object = None,
        *,
        traceback: BaseException | None = None,
    ) -> None:
        if not logger.isEnabledFor(level):
            return
        now = monotonic()
        last, left_out = self._last.get(kind, (-1.0, 0))
        if 0 <= last > now - 1:
            self._last[kind] = (last, left_out + 1)
            return
        self._last[kind] = (now, 0)
        text = f"node {self.node}: {message}"
        if peer is not None:
            text += f" (peer {peer[0]}:{peer[1]})"
        if detail is not None:
            text += f": {_short(detail)}"
        if left_out:
            text += f" [{left_out} like it were left out]"
        logger.log(level, "%s", text, exc_info=traceback, extra={"node": self.node, "peer": peer})
