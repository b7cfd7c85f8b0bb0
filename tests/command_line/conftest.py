"""Codecs of the tests' own can be imported by their names, as from the current directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True, scope="session")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Processes find the modules compiled, as where the library is installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        patch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path_factory.getbasetemp() / "bytecode"))
        yield


@pytest.fixture
def codecs_of_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`--frame frames_of_tests:...` works."""
    monkeypatch.chdir(Path(__file__).parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("frames_of_tests", None)


@pytest.fixture(autouse=True)
def no_signals(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several sessions in one process cannot watch the same signals."""
    if "signals" not in request.fixturenames:

        async def watch_nothing(_: object) -> None:
            pass

        monkeypatch.setattr("pea2pea._command_line.Session._watch_signals", watch_nothing)


@pytest.fixture
def signals() -> None:
    """The one session of this test watches them."""
