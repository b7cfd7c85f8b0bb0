"""Bugs that are put into the library, one at a time, to see whether the chaos finds them."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pea2pea import _closing, _life
from pea2pea._admission import Admission
from pea2pea._connecting import Acceptor, Connector
from pea2pea._queue import Queue
from pea2pea._self_connection import Mirror
from pea2pea._session import Session
from pea2pea.protocols.reading import Reader
from pea2pea.protocols.writing import Writer


@dataclass(frozen=True)
class Mutant:
    """A function of the library, a part of its source, and what stands there in its place."""

    func: Any  # a function, whose code is replaced
    old: str
    new: str

    @contextmanager
    def applied(self) -> Generator[None]:
        source = textwrap.dedent(inspect.getsource(self.func))
        assert source.count(self.old) == 1, f"{self.func.__qualname__} has no single {self.old!r}"
        names: dict[str, Any] = dict(self.func.__globals__)
        exec("from __future__ import annotations\n" + source.replace(self.old, self.new), names)  # noqa: S102
        code, self.func.__code__ = self.func.__code__, names[self.func.__name__].__code__
        try:
            yield
        finally:
            self.func.__code__ = code


MUTANTS = {
    # admission
    "no limit for each ip of dials": Mutant(
        Admission.reserve, "if group is not None and self", "if inbound and group is not None and self"
    ),
    "one connection too many": Mutant(
        Admission.reserve, "+ len(self.connecting) >= config", "+ len(self.connecting) > config"
    ),
    "one inbound too many": Mutant(Admission.reserve, "self._of_side[side] >= config", "self._of_side[side] > config"),
    "a side is not counted down": Mutant(Admission.release, "    self._of_side[side] -= 1\n", "    pass\n"),
    "no budget for accepting": Mutant(Acceptor._wait_for_slot, "while not self", "while False and not self"),
    "a free slot is not noticed": Mutant(Connector._finish_setup, "self.on_slot_freed()", "pass"),
    # set-up
    "a failed set-up keeps its slot": Mutant(
        Connector._release,
        "self._shared.admission.release(session.addr)",
        "session.connection.origin is None or self._shared.admission.release(session.addr)",
    ),
    "a wait before the table": Mutant(
        Connector._establish,
        "    self._shared.admission.establish(session)",
        "    with CancelScope(shield=True):\n"
        "        await anyio.sleep(0.001)\n"
        "    self._shared.admission.establish(session)",
    ),
    "names of a loop are kept": Mutant(Mirror.forget, "if session.endpoints is not None", "if False"),
    # turns of reading
    "no turns of processing": Mutant(Reader.run, "await self._turn.wait()", "pass"),
    "the second reader stays": Mutant(Reader.stop, "if self._second_began:", "if False:"),
    "messages are miscounted": Mutant(
        Reader._process_some, "totals.messages_received += count", "totals.messages_received += bool(count)"
    ),
    # writing
    "two who write": Mutant(Writer.flush, "if self._direct is None or self._batch:", "if self._direct is None:"),
    "the rest of a write is lost": Mutant(Writer._send_directly, "if rest:", "if rest and size % 5:"),
    "senders are not woken": Mutant(Queue._remove, "self._wake_waiting()", "pass"),
    "no flush": Mutant(_life._flush, "await writer.wait_flushed()", "pass"),
    "a loss is not reported": Mutant(Writer.give_up, "self.session.report.unsent(", "(lambda *_: None)("),
    # the end
    "no linger": Mutant(_closing._linger, "while not discarder.is_done:", "while False:"),
    "nothing is discarded": Mutant(_life._run_end, "elif not drained:", "elif False:"),
    "no deadline": Mutant(Session.tighten_deadline, "self.deadline = min(self.deadline, deadline)", "return"),
    "no draining": Mutant(Session.end, "if draining:", "if False:"),
    "a reset at the end": Mutant(Connector._release, "reset=session.reset", "reset=True"),
    # hooks and classification
    "on_disconnect twice": Mutant(
        _life._run_hooks,
        "await run_on_disconnect(session, *on_disconnect)",
        "[await run_on_disconnect(session, *on_disconnect) for _ in range(2)]",
    ),
    "on_disconnect does not wait": Mutant(_life._run_hooks, "await greeting.wait_ended()", "pass"),
    "a failed write ends all": Mutant(Writer._break, "isinstance(error.__cause__ or error, BrokenPipeError)", "False"),
}
"""By their names."""

FOUND_BY: dict[str, tuple[int, str]] = {
    "no limit for each ip of dials": (3, "trio"),
    "one connection too many": (9, "asyncio"),
    "one inbound too many": (3, "asyncio"),
    "a side is not counted down": (1, "asyncio"),
    "no budget for accepting": (1, "asyncio"),
    "a free slot is not noticed": (1, "asyncio"),
    "a failed set-up keeps its slot": (1, "asyncio"),
    "a wait before the table": (3, "asyncio"),
    "names of a loop are kept": (1, "asyncio"),
    "no turns of processing": (1, "asyncio"),
    "the second reader stays": (3, "asyncio"),
    "messages are miscounted": (1, "asyncio"),
    "two who write": (6, "trio"),
    "the rest of a write is lost": (4, "asyncio"),
    "senders are not woken": (3, "asyncio"),
    "no flush": (3, "asyncio"),
    "a loss is not reported": (1, "asyncio"),
    "no linger": (3, "asyncio"),
    "nothing is discarded": (3, "asyncio"),
    "no deadline": (1, "asyncio"),
    "no draining": (3, "asyncio"),
    "a reset at the end": (6, "trio"),
    "on_disconnect twice": (1, "asyncio"),
    "on_disconnect does not wait": (1, "asyncio"),
    "a failed write ends all": (192, "asyncio"),
}
"""The seed that finds each, or did before the library changed: then another one is searched for."""
