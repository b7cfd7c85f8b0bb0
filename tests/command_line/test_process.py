"""The program as a process: signals, terminals, pipes that break, how it is started."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from contextlib import asynccontextmanager, suppress
from typing import IO, TYPE_CHECKING

import anyio
import pytest

from pea2pea._command_line import main
from pea2pea._screen import read

from ..helpers import LOCALHOST, RawListener, RawPeer, wait_until
from .program import COMMAND, Program, environment, process, running, show

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator


def dial(addr: str) -> socket.socket:
    host, port = addr.rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), timeout=20)


def first_line(started: subprocess.Popen[bytes]) -> str:
    assert started.stdout is not None
    return started.stdout.readline().decode().strip()


def until(file: IO[bytes] | None, wanted: bytes) -> bytes:
    """Read lines until one has that."""
    assert file is not None
    read = b""
    while wanted not in read:
        line = file.readline()
        assert line, f"no {wanted!r} in {read.decode()}"
        read += line
    return read


@pytest.mark.parametrize(("number", "loop"), [(signal.SIGINT, "asyncio"), (signal.SIGTERM, "trio")])
def test_a_signal_leaves_in_order(number: signal.Signals, loop: str) -> None:
    with process("listen", ":0", "--loop", loop) as program:
        with dial(first_line(program)) as peer:
            peer.sendall(b"hello\n")
            until(program.stdout, b"hello")
            program.send_signal(number)
            assert peer.recv(1) == b""
        out, err = program.communicate(timeout=20)
    assert program.returncode == 0
    assert out == b""
    assert b"has ended: this side has left" in err
    assert b"-- connections: 1, messages received: 1" in err
    assert b"Traceback" not in err


@pytest.mark.parametrize(("number", "code", "loop"), [(signal.SIGINT, 130, "trio"), (signal.SIGTERM, 143, "asyncio")])
def test_a_second_signal_leaves_at_once(number: signal.Signals, code: int, loop: str) -> None:
    with socket.create_server((LOCALHOST, 0)) as server:
        addr = show(server.getsockname())
        with process("connect", addr, "--frame", "raw", "--loop", loop) as program:
            peer, _ = server.accept()
            with peer:
                assert program.stdin is not None
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                os.set_blocking(program.stdin.fileno(), False)
                while select.select([], [program.stdin], [], 0.3)[1]:  # until nothing takes any more, which time tells
                    os.write(program.stdin.fileno(), bytes(4096))
                program.send_signal(number)
                with pytest.raises(subprocess.TimeoutExpired):
                    program.wait(0.3)  # in order is what the peer does not let it be, which time tells, too
                begun = time.monotonic()
                program.send_signal(number)
                assert program.wait(20) == code
                assert time.monotonic() - begun < 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_signals_within_one_process(number: signal.Signals, code: int, signals: None) -> None:
    with RawListener.open(receive_buffer=4096) as listener:
        async with running("connect", show(listener.addr), "--frame", "raw") as program:
            with await listener.accept():
                await program.shows("is connected", aside=True)
                (connection,) = program.session.node.connections.values()
                await program.session.outbox.send(connection, bytes(32_000_000))  # more than sockets hold (tcp_wmem)
                os.kill(os.getpid(), number)
                await program.session.screen.leaving.wait()
                assert not program.finished.is_set()
                os.kill(os.getpid(), number)
                await program.finished.wait()
    assert program.code == code


def test_a_closed_output_ends_quietly() -> None:
    with process("listen", ":0", "--loop", "trio") as program:
        with dial(first_line(program)) as peer:
            assert program.stdout is not None
            program.stdout.close()
            peer.sendall(b"hello\n" * 1000)
            assert program.wait(20) == 0
        assert program.stderr is not None
        assert b"pea2pea" not in program.stderr.read()


async def test_stalled_reader_of_the_output() -> None:
    """A reader that stalls slows the peer down and does not keep the program from leaving."""
    read_end, write_end = os.pipe()
    try:
        async with running("listen", ":0", stdout=write_end) as program:
            await wait_until(lambda: program.session.node.listening_addr)
            addr = program.session.node.listening_addr
            assert addr is not None
            with await RawPeer.dial(addr) as peer:
                sent = 0
                with suppress(TimeoutError):
                    while True:
                        with anyio.fail_after(0.2):  # nothing tells that a socket takes no more, but time
                            await peer.send(b"hello\n" * 10_000)
                        sent += 60_000
                        assert sent < 100_000_000
                assert os.read(read_end, 65_536).startswith(show(addr).encode())
                program.session.screen.leave_by = anyio.current_time()  # as a second signal does
                program.leave()
                await program.finished.wait()
    finally:
        os.close(read_end)


async def test_an_output_that_is_full() -> None:
    async with running("listen", ":0", stdout=os.open("/dev/full", os.O_WRONLY)) as program:
        await program.finished.wait()
    assert program.code == 1
    await program.shows("^pea2pea: cannot write to standard output: No space left on device$", aside=True)


async def test_an_output_that_is_closed() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    async with running("listen", ":0", stdout=write_end) as program:
        await program.finished.wait()
    assert (program.code, program.err) == (0, b"")


def test_no_standard_files_at_all() -> None:
    with socket.create_server((LOCALHOST, 0)) as server:
        command = f"exec {' '.join(COMMAND)} connect {show(server.getsockname())} <&- >&- 2>&-"
        with subprocess.Popen(command, shell=True, env=environment()) as program:  # noqa: S602  # ours
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"hello\n")
            assert program.wait(20) == 0
        with peer:
            pass


def test_a_background_listener_has_no_input_and_stays() -> None:
    with process("listen", ":0", stdin=subprocess.DEVNULL) as program:
        addr = first_line(program)
        for _ in range(2):
            with dial(addr) as peer:
                peer.sendall(b"hello\n")
                until(program.stdout, b"hello")
        assert program.poll() is None


@asynccontextmanager
async def at_a_terminal(*arguments: str) -> AsyncGenerator[tuple[Program, int]]:
    """The program at a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.set_blocking(ours, False)
    try:
        async with running(*arguments, stdin=theirs, stdout=os.dup(theirs)) as program:
            yield program, ours
    finally:
        os.close(ours)


async def see(terminal: int, wanted: str) -> str:
    """What a terminal shows until it shows that."""
    seen = b""
    with anyio.fail_after(20):
        while not re.search(wanted, seen.decode(errors="replace")):
            seen += await read(terminal)
    return seen.decode(errors="replace")


@pytest.mark.parametrize("colours", [True, False])
async def test_colours_at_a_terminal(colours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal there are colours unless they are not wanted."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "" if colours else "1")
    with RawListener.open() as listener:
        async with at_a_terminal("connect", show(listener.addr)) as (program, tty):
            with await listener.accept() as peer:
                await peer.send(b"hello \x1b[31m\n" + b"long " * 100 + b"\n")
                seen = await see(tty, "long [^\n]*…\r\n")
                assert ("\x1b[32m<-\x1b[0m" in seen) is colours
                assert "hello \\x1b[31m" in seen
                assert "\x1b[31m" not in seen
                plain = re.sub(r"\x1b\[\d+m", "", seen)
                assert max(map(len, plain.split("\r\n"))) == 80
                await program.shows("\x1b.2m-- 1 .* is connected" if colours else "^-- 1 .* is connected", aside=True)
                os.write(tty, b"typed\n@7 nobody\n")
                assert await peer.receive() == b"typed\n"
                await see(tty, "->.* typed")
                await program.shows("not sent: b'@7 nobody': there is no peer 7", aside=True)
                os.write(tty, b"\4")  # Ctrl-D
                assert await peer.receive() == b""
            await program.finished.wait()
    assert program.code == 0


async def test_one_answer_at_a_terminal() -> None:
    """An answer is waited for at a terminal after the first line."""
    with RawListener.open() as listener:
        async with at_a_terminal("connect", show(listener.addr), "--one") as (program, tty):
            with await listener.accept() as peer:
                os.write(tty, b"question\n")
                assert await peer.receive() == b"question\n"
                await peer.send(b"answer\n")
                await see(tty, "answer\r\n")
                await program.finished.wait()
    assert program.code == 0


async def test_a_terminal_that_is_gone() -> None:
    with RawListener.open() as listener:
        ours, theirs = pty.openpty()
        async with running("connect", show(listener.addr), stdin=theirs, stdout=os.dup(theirs)) as program:
            with await listener.accept() as peer:
                await program.shows("is connected", aside=True)
                os.close(ours)
                assert await peer.receive() == b""
            await program.finished.wait()
    assert "Traceback" not in program.err.decode()


@pytest.mark.parametrize(("listens", "dials"), [("asyncio", "trio"), ("trio", "asyncio")])
def test_two_processes_on_different_loops(listens: str, dials: str) -> None:
    with process("listen", ":0", "--loop", listens, "--frame", "varint") as one:
        addr = first_line(one)
        with process("connect", addr, "--loop", dials, "--frame", "varint") as two:
            assert one.stdin is not None
            assert two.stdin is not None
            two.stdin.write("grüße\n".encode())
            two.stdin.flush()
            until(one.stdout, b"<- 1 127")
            one.stdin.write(b"back\n")
            one.stdin.flush()
            until(two.stdout, b"back")
            two.stdin.close()
            assert two.wait(20) == 0


def processor_time(*command: str) -> float:
    """Seconds that a program needs until it has written a line, at best."""
    needed = []
    for _ in range(2):
        started = subprocess.Popen(  # noqa: S603  # ours
            [sys.executable, *command], env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        assert started.stdout is not None
        assert started.stdout.readline()
        started.kill()
        _, _, usage = os.wait4(started.pid, 0)
        started.returncode = 0  # it has been waited for
        started.stdout.close()
        needed.append(usage.ru_utime + usage.ru_stime)
    return min(needed)


def test_the_first_byte_is_soon_there() -> None:
    bare = processor_time("-c", "import anyio._backends._asyncio, argparse, ssl; print()")
    assert processor_time("-m", "pea2pea", "listen", ":0") < 3 * bare


def test_the_module_is_the_program(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert not end.value.code
    shown = capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["pea2pea", "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("pea2pea", run_name="__main__")
    assert not end.value.code
    assert capsys.readouterr().out == shown


def test_an_interrupt_before_there_is_anything_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("anyio.run", interrupt)
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}", None)
    assert main(["listen", ":0"]) == 130


async def test_without_any_input() -> None:
    assert await read(None) == b""


async def test_end_of_input_of_a_listener() -> None:
    """The end of the input of a listener ends it after its first peer."""
    async with running("listen", ":0") as program:
        program.type(b"welcome\n")
        program.end_input()
        host, port = (await program.address()).rsplit(":", 1)
        with await RawPeer.dial((host, int(port))) as peer:
            assert await peer.receive_all() == b"welcome\n"
        with anyio.fail_after(10):
            await program.finished.wait()
    assert program.code == 0
