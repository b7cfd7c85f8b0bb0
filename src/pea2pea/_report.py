"""What a node says, and how often.

Rule 1: no peer can cause a record above INFO. Rule 2: no peer can cause more than a few a second, so every kind of
record goes out at most once a second; the next one says how many were left out. Rule 3: a bug of the user's is an
ERROR with its traceback, at most once a second for the same place and exception type, and is counted every time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
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


class Reporter:
    """A node's voice."""

    def __init__(self, node: str, heuristics: Heuristics) -> None:
        self.node = node
        self.heuristics = heuristics
        self.closing = False
        self._last: dict[object, tuple[float, int]] = {}

    def debug(self, message: str, peer: Address | None = None, detail: object = None) -> None:
        """The ordinary course of things."""
        self._emit(logging.DEBUG, message, message, peer, detail)

    def info(self, message: str, peer: Address | None = None, detail: object = None) -> None:
        """Something a peer did, or the machine. `message` is the kind of it; what varies belongs into `detail`."""
        self._emit(logging.INFO, message, message, peer, detail)

    async def call(
        self,
        place: str,
        func: Callable[[Unpack[Ts]], Awaitable[object]],
        *args: Unpack[Ts],
        peer: Address | None = None,
    ) -> BaseException | None:
        """Await a piece of the user's, and judge and return what it raises; a cancellation of ours goes through."""
        try:
            await func(*args)
        except Exception as error:  # noqa: BLE001  # whatever a user's code raises is told, and harms nobody
            self.judge(place, error, peer)
            return error
        except get_cancelled_exc_class() as error:
            self.foreign(place, error, peer)
            return error
        return None

    def foreign(self, place: str, error: BaseException, peer: Address | None = None) -> None:
        """Let a cancellation through that AnyIO asked for; any other (of a future, on asyncio) is a bug."""
        if current_effective_deadline() == -math.inf:
            raise error
        self.bug(place, error, peer)

    def judge(self, place: str, error: Exception, peer: Address | None) -> None:
        """A bug, unless it only says that this very peer, or the node itself, is gone."""
        if isinstance(error, (NotConnectedError, DeliveryError)) and peer is not None and error.addr == peer:
            self.info(f"{place} met the end of its connection", peer, error)
        elif isinstance(error, NodeClosedError) and self.closing:
            self.info(f"{place} met the end of the node", peer, error)
        else:
            self.bug(place, error, peer)

    def bug(self, place: str, error: BaseException, peer: Address | None = None) -> None:
        """An exception that the user's code should not have raised, with its traceback."""
        self.heuristics.hook_errors += 1
        self._emit(logging.ERROR, (place, type(error)), f"{place} raised", peer, error, traceback=True)

    def _emit(
        self,
        level: int,
        kind: object,
        message: str,
        peer: Address | None,
        detail: object = None,
        *,
        traceback: bool = False,
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
        logger.log(
            level,
            "%s",
            text,
            exc_info=detail if traceback and isinstance(detail, BaseException) else None,
            extra={"node": self.node, "peer": peer},
        )
