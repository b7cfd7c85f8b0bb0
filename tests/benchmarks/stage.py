"""The processes of a run: forked off a contestant's program, and pinned to a core each."""

from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING

from tests.benchmarks.work import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

SERVER_CORE, CLIENT_CORE = 0, 1
FORK = multiprocessing.get_context("fork")


class Role:
    """A forked process pinned to a core, and what it has to say."""

    def __init__(self, core: int, play: Callable[[Connection], object]) -> None:
        self._pipe, theirs = FORK.Pipe(duplex=False)
        self._process = FORK.Process(target=self._run, args=(core, play, theirs))
        self._process.start()
        theirs.close()

    @staticmethod
    def _run(core: int, play: Callable[[Connection], object], pipe: Connection) -> None:
        os.sched_setaffinity(0, {core % (os.cpu_count() or 1)})
        play(pipe)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def next(self) -> object:
        if not self._pipe.poll(PATIENCE):
            raise TimeoutError("a run took too long")
        try:
            return self._pipe.recv()
        except EOFError:
            raise RuntimeError("a process of the run died; its traceback is above") from None

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()
