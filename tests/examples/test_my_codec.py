"""The example of a user's test passes, and fails with a codec that is broken in the ways that it suggests."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from .conftest import EXAMPLES

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = EXAMPLES / "test_my_codec.py"


def outcome(folder: Path, program: str) -> tuple[int, str]:
    (folder / "test_it.py").write_text(program)
    command = [sys.executable, "-W", "error", "-m", "pytest", "-p", "no:cacheprovider", "test_it.py"]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50, check=False)  # noqa: S603
    return ended.returncode, ended.stdout


def test_it_passes_as_it_is(tmp_path: Path) -> None:
    assert outcome(tmp_path, EXAMPLE.read_text())[0] == 0


@pytest.mark.parametrize(
    ("part", "broken", "told"),
    [
        ("if not data and self._buffer:", "if False:", "the stream ends within a frame, and decode does not say so"),
        ("    break\n", "    pass\n", "a message comes out too early"),
        ("except UnicodeDecodeError", "except OSError", "decode raises UnicodeDecodeError"),
    ],
    ids=["last if", "break", "try"],
)
def test_it_fails_when_the_codec_is_broken(part: str, broken: str, told: str, tmp_path: Path) -> None:
    program = EXAMPLE.read_text()
    assert program.count(part) == 1
    code, output = outcome(tmp_path, program.replace(part, broken))
    assert code == 1
    assert told in output
