"""A sample of the sweep; all of it is run by `nox -s interrupts`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LOOPS

SAMPLES = {"trio": 16}  # trio raises KeyboardInterrupt wherever the program is; asyncio only cancels its main task


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.timeout(180)  # a run takes a tenth of a second, and some times that beside other work
@pytest.mark.parametrize("loop", LOOPS)
def test_an_interrupt_at_any_line_ends_the_program_in_order(loop: str) -> None:
    options = ["--loop", loop, "--sample", str(SAMPLES.get(loop, 6)), "--seed", "1"]
    command = [sys.executable, "-m", "tests.interrupts.sweep", *options]
    done = subprocess.run(  # noqa: S603  # a program of ours
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
