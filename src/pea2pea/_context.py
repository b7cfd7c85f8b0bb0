"""Runs a coroutine in a given context (PEP 567), whichever task it runs in.

A task of AnyIO's has a copy of a context. What several tasks of one connection run in turn shares one context only if
each step of it is taken in that context.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


@types.coroutine
def run_in(
    context: Context,
    func: Callable[[], Coroutine[Any, Any, T]],
    on_wait: Callable[[], object] | None = None,
    on_resume: Callable[[], object] | None = None,
) -> Generator[Any, Any, T]:
    """Await `func()`, each step of it in `context`.

    `on_wait` is called when it first waits for something, `on_resume` each time when it goes on. What is raised here,
    between two steps (KeyboardInterrupt, by trio), goes on in the coroutine: nobody else could end what it has begun.
    """
    coro: Coroutine[Any, Any, T] | None = None
    pending: list[Any] = [None]  # what to resume with; a local variable would keep an exception in its own traceback
    try:
        coro = func()
        resume: Callable[[Any], Any] = coro.send
        while True:
            try:
                while True:
                    waits_for = context.run(resume, pending.pop())
                    if on_wait is not None:
                        on_wait()
                        on_wait = None
                    pending.append((yield waits_for))
                    resume = coro.send
                    if on_resume is not None:
                        on_resume()
            except StopIteration as result:
                # an error may be the result: a local variable would keep it, as above
                return result.value  # type: ignore[no-any-return]  # StopIteration has no type for it
            except GeneratorExit:
                raise
            except BaseException as error:
                if getattr(coro, "cr_frame", None) is None:
                    raise
                resume = coro.throw
                pending[:] = [error]
    finally:
        if coro is not None:
            coro.close()
