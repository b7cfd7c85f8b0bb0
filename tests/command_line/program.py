"""The command line, run within the test's own event loop or as a process, and what it writes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from pea2pea._command_line import Session, make_contexts, make_parser
from pea2pea._screen import Screen, read
from pea2pea.testing import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from pea2pea import Address

HERE = Path(__file__).parent
COMMAND = [sys.executable, "-W", "error", "-m", "pea2pea"]


def show(addr: Address) -> str:
    """An address as the program takes it."""
    return f"{addr[0]}:{addr[1]}"


class Program:
    """A session in this very event loop. It watches no signals: there are several of them in one process."""

    def __init__(self, *arguments: str, stdin: int | None, stdout: int | None = None, record: Any = None) -> None:
        self.options = make_parser().parse_args(arguments)
        self.options.contexts = make_contexts(self.options)
        self.out = self.err = b""
        self.code: int | None = None
        self._read_out, self._write_out = os.pipe()
        self._read_err, self._write_err = os.pipe()
        self._input: int | None = None
        if stdin is None:
            stdin, self._input = os.pipe()
        self._stdin = stdin
        if stdout is not None:
            os.close(self._write_out)
            self._write_out = stdout
        self.session = Session(self.options, stdin, Screen(self.options, self._write_out, self._write_err, record))
        self.finished = anyio.Event()

    async def run(self) -> None:
        async with anyio.create_task_group() as readers:
            readers.start_soon(self._collect, self._read_out, "out")
            readers.start_soon(self._collect, self._read_err, "err")
            try:
                self.code = await self.session.run()
            finally:
                os.close(self._write_out)
                os.close(self._write_err)
        self.finished.set()

    async def _collect(self, file: int, name: str) -> None:
        while data := await read(file):
            setattr(self, name, getattr(self, name) + data)

    def type(self, text: bytes) -> None:
        """Give it some input."""
        assert self._input is not None
        os.write(self._input, text)

    def end_input(self) -> None:
        """... and no more."""
        if self._input is not None:
            os.close(self._input)
            self._input = None

    async def shows(self, pattern: str, *, aside: bool = False, timeout: float = 10) -> re.Match[str]:
        """Wait until it has written what matches the pattern."""

        def found() -> re.Match[str] | None:
            return re.search(pattern, (self.err if aside else self.out).decode(), re.MULTILINE)

        try:
            await wait_until(lambda: found() is not None, timeout)
        except TimeoutError:
            raise AssertionError(f"no {pattern!r} in\n{self.out.decode()}\nnor in\n{self.err.decode()}") from None
        match = found()
        assert match is not None
        return match

    async def address(self) -> str:
        """Where it listens."""
        return (await self.shows(r"\A(127\.0\.0\.1:\d+|\[::1\]:\d+)\n"))[1]

    def leave(self) -> None:
        """As Ctrl-C does it."""
        self.session.screen.leaving.set()

    def close(self) -> None:
        self.end_input()
        for file in {self._stdin, self._read_out, self._read_err}:
            os.close(file)

    @property
    def lines(self) -> list[str]:
        return self.out.decode().splitlines()


@asynccontextmanager
async def running(
    *arguments: str, stdin: int | None = None, stdout: int | None = None, record: Any = None
) -> AsyncGenerator[Program]:
    """Run the program, and let it leave when the block is left; it has pipes, unless a descriptor is given."""
    program = Program(*arguments, stdin=stdin, stdout=stdout, record=record)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(program.run)
            yield program
            program.leave()
    finally:
        program.close()


async def finish(*arguments: str, stdin: bytes = b"") -> Program:
    """Run the program with that input to its own end."""
    async with running(*arguments) as program:
        program.type(stdin)
        program.end_input()
        with anyio.fail_after(20):
            await program.finished.wait()
    return program


def environment(**more: str) -> dict[str, str]:
    """Of a process, with the modules beside this file, and without what changes colours."""
    kept = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM", "COLUMNS")}
    return kept | {"PYTHONPATH": os.pathsep.join([*sys.path, str(HERE)]), "TERM": "xterm", **more}


@contextmanager
def process(*arguments: str, **options: Any) -> Generator[subprocess.Popen[bytes]]:
    """Start the program as a process of its own, which is killed if the block leaves it running."""
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    started = subprocess.Popen([*COMMAND, *arguments], env=environment(), **options)  # noqa: S603  # our own program
    try:
        yield started
    finally:
        started.kill()
        for file in (started.stdin, started.stdout, started.stderr):
            if file is not None:
                file.close()
        started.wait()


def wrong(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a wrong call is answered with."""
    with pytest.raises(SystemExit) as end:
        make_parser().parse_args(arguments)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line
