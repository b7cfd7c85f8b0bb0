"""A task group in which a task that is cancelled from outside harms no other.

On asyncio, AnyIO cancels a whole group when a task of it is cancelled natively before it has begun. So each task here
has a shielded scope of its own, by which it is cancelled, and the group is looked through for those that were lost.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import Context
from typing import Any, TypeVar

from anyio import CancelScope, TaskHandle, create_task_group, get_cancelled_exc_class
from anyio.abc import TaskGroup
from anyio.lowlevel import cancel_shielded_checkpoint

T = TypeVar("T")


class Job:
    """A task, from the moment when it is to be started."""

    __slots__ = ("begun", "coro", "on_lost", "scope")

    def __init__(self, on_lost: Callable[[], object]) -> None:
        self.coro: Coroutine[Any, Any, None] | None = None
        self.on_lost = on_lost
        self.scope = CancelScope(shield=True)
        self.begun = False


class Tasks:
    """The tasks, and their group."""

    def __init__(self) -> None:
        self.group: TaskGroup = create_task_group()
        self._jobs: dict[Job, None] = {}
        self._cancelled = False

    def start(
        self,
        func: Callable[[], Coroutine[Any, Any, object]],
        name: object,
        context: Context,
        on_lost: Callable[[], object],
    ) -> CancelScope:
        """Start a task, and return its cancel scope. `on_lost` is called if it was cancelled before it began."""
        job = Job(on_lost)
        if self._cancelled:
            job.scope.cancel()
        self._jobs[job] = None
        coro = start_in(self.group, self._run(job, func), name, context).coro
        if not job.begun:  # no eager task (asyncio)
            job.coro = coro
        return job.scope

    async def _run(self, job: Job, func: Callable[[], Coroutine[Any, Any, object]]) -> None:
        try:
            job.begun, job.coro = True, None
            with job.scope:
                await func()
        except get_cancelled_exc_class():  # one from outside keeps the scope from catching its own (asyncio)
            pass
        finally:
            self._jobs.pop(job, None)

    def cancel(self) -> None:
        """Cancel them all, and those that are started from now on."""
        self._cancelled = True
        for job in list(self._jobs):
            job.scope.cancel()

    def finish(self) -> None:
        """Close, after the group has ended, what was cancelled before it began."""
        for job in self._jobs:
            if job.coro is not None:
                job.coro.close()

    async def drop_lost(self) -> bool:
        """Forget the tasks that were cancelled before they began; return whether there were any."""
        suspects = [job for job in self._jobs if not job.begun]
        for _ in range(3):
            await cancel_shielded_checkpoint()
        lost = [job for job in suspects if not job.begun]
        for job in lost:
            del self._jobs[job]
            if job.coro is not None:
                job.coro.close()
            job.on_lost()
        return bool(lost)


def start_in(group: TaskGroup, coro: Coroutine[Any, Any, T], name: object, context: Context) -> TaskHandle[T]:
    """Start a task; a coroutine that the group does not take is closed."""
    try:
        return group.create_task(coro, name=name, context=context)
    except BaseException:
        coro.close()
        raise


@contextmanager
def call_at_end(func: Callable[[], object]) -> Generator[None]:
    """Call `func` when the block ends, whichever way.

    It is called twice, and so has to be able to bear that: trio raises KeyboardInterrupt in any code, also within one
    of the calls, but not within both.
    """
    try:
        try:
            yield
        finally:
            func()
    finally:
        func()
