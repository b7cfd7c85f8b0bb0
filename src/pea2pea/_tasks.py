"""A task group in which a task that is cancelled from outside harms no other.

On asyncio, AnyIO cancels a whole group when a task of it is cancelled natively before it has begun. So each task here
has a shielded scope of its own, by which it is cancelled, and the group is looked through for those that were lost.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import Context
from types import TracebackType
from typing import Any

from anyio import CancelScope, create_task_group
from anyio.abc import TaskGroup
from anyio.lowlevel import cancel_shielded_checkpoint


class Job:
    """A task, from the moment when it is to be started."""

    __slots__ = ("begun", "coro", "on_lost", "scope")

    def __init__(self, coro: Coroutine[Any, Any, object], on_lost: Callable[[], object]) -> None:
        self.coro = coro
        self.on_lost = on_lost
        self.scope = CancelScope(shield=True)
        self.begun = False


class Tasks:
    """The tasks, and their group. Leaving its block cancels them."""

    def __init__(self) -> None:
        self.group: TaskGroup = create_task_group()
        self._jobs: dict[Job, None] = {}
        self._cancelled = False

    async def __aenter__(self) -> None:
        await self.group.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self.cancel()
        return await self.group.__aexit__(kind, error, trace)

    def start(
        self, coro: Coroutine[Any, Any, object], name: object, context: Context, on_lost: Callable[[], object]
    ) -> CancelScope:
        """Start a task, and return its cancel scope. `on_lost` is called if it was cancelled before it began."""
        job = Job(coro, on_lost)
        if self._cancelled:
            job.scope.cancel()
        self._jobs[job] = None
        self.group.create_task(self._run(job), name=name, context=context)
        return job.scope

    async def _run(self, job: Job) -> None:
        job.begun = True
        try:
            with job.scope:
                await job.coro
        finally:
            self._jobs.pop(job, None)

    def cancel(self) -> None:
        """Cancel them all, and those that are started from now on."""
        self._cancelled = True
        for job in list(self._jobs):
            job.scope.cancel()

    async def drop_lost(self) -> bool:
        """Forget the tasks that were cancelled before they began; return whether there were any."""
        suspects = [job for job in self._jobs if not job.begun]
        for _ in range(3):
            await cancel_shielded_checkpoint()
        lost = [job for job in suspects if not job.begun]
        for job in lost:
            del self._jobs[job]
            job.coro.close()
            job.on_lost()
        return bool(lost)
