"""The clock of short slices of work: the one place that measures the time which the program itself takes.

Timeouts do not use it: they are on the event loop's clock, `anyio.current_time`, which costs a microsecond a call.
Callers look it up anew each time, as `_clock.now()`, so that a simulation can replace it.
"""

from __future__ import annotations

from time import monotonic as now

__all__ = ["now"]
