"""Examples are run as their readers do: through the command line, in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Protocol

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES))  # at its end: the package `noise` comes before noise.py


class Example(Protocol):
    def __call__(self, name: str, *args: str, timeout: float = 40) -> list[str]:
        """Run `examples/name` to its end, and return the lines it has printed."""
        ...


@pytest.fixture(params=["asyncio", "trio"])
def example(request: pytest.FixtureRequest) -> Example:
    """Warnings are errors there, too, and nothing may be said on standard error."""

    def run(name: str, *args: str, timeout: float = 40) -> list[str]:
        command = [sys.executable, "-W", "error", str(EXAMPLES / name), "--backend", request.param, *args]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)  # noqa: S603  # our own
        assert (ended.returncode, ended.stderr) == (0, ""), f"{ended.stderr}\n{ended.stdout}"
        return ended.stdout.splitlines()

    return run
