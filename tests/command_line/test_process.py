"""The program as a process: signals, terminals, pipes that break, how it is started."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

import anyio
import pytest

from pea2pea._command_line import main

from ..helpers import LOCALHOST, RawListener, RawPeer
from .program import COMMAND, environment, process, running, show

if TYPE_CHECKING:
    from collections.abc import Generator

LOOPS = ["asyncio", "trio"]


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


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
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


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_leaves_at_once(number: signal.Signals, code: int, loop: str) -> None:
    with socket.create_server((LOCALHOST, 0)) as server:
        addr = show(server.getsockname())
        with process("connect", addr, "--frame", "raw", "--loop", loop) as program:
            peer, _ = server.accept()
            with peer:
                assert program.stdin is not None
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                os.set_blocking(program.stdin.fileno(), False)
                while select.select([], [program.stdin], [], 0.5)[1]:  # until nothing takes any more
                    os.write(program.stdin.fileno(), bytes(4096))
                program.send_signal(number)
                with pytest.raises(subprocess.TimeoutExpired):
                    program.wait(0.5)  # in order is what the peer does not let it be
                begun = time.monotonic()
                program.send_signal(number)
                assert program.wait(20) == code
                assert time.monotonic() - begun < 3


async def test_signals_within_one_process(signals: None) -> None:
    with RawListener.open(receive_buffer=4096) as listener:
        async with running("connect", show(listener.addr), "--frame", "raw") as program:
            with await listener.accept() as peer:
                await program.shows("is connected", aside=True)
                program.type(b"x" * 50_000)
                assert await peer.receive()
                os.kill(os.getpid(), signal.SIGINT)
                await program.session.screen.leaving.wait()
                assert program.session.signals == 1
                os.kill(os.getpid(), signal.SIGINT)
                await program.finished.wait()
    assert program.code in (0, 130)  # the peer may have let it end in order before the second one


@pytest.mark.parametrize("loop", LOOPS)
def test_a_closed_output_ends_quietly(loop: str) -> None:
    with process("listen", ":0", "--loop", loop) as program:
        with dial(first_line(program)) as peer:
            assert program.stdout is not None
            program.stdout.close()
            peer.sendall(b"hello\n" * 1000)
            assert program.wait(20) == 0
        assert program.stderr is not None
        assert b"pea2pea" not in program.stderr.read()


def test_stalled_reader_of_the_output() -> None:
    """A reader that stalls slows the peer down and does not keep it from leaving."""
    with process("listen", ":0") as program, dial(first_line(program)) as peer:
        peer.setblocking(False)
        sent = 0
        while select.select([], [peer], [], 0.5)[1]:
            sent += peer.send(b"hello\n" * 10_000)
            assert sent < 100_000_000
        program.send_signal(signal.SIGINT)
        program.send_signal(signal.SIGTERM)  # another one: two of a kind may be one to the kernel (signal(7))
        assert program.wait(20) in (130, 143)


def test_an_output_that_is_full() -> None:
    with Path("/dev/full").open("wb") as full, process("listen", ":0", stdout=full) as program:
        assert program.wait(20) == 1
        assert program.stderr is not None
        assert b"pea2pea: cannot write to standard output: No space left on device\n" in program.stderr.read()


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


@contextmanager
def terminal(*arguments: str, **variables: str) -> Generator[tuple[subprocess.Popen[bytes], int]]:
    """The program at a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    program = subprocess.Popen(  # noqa: S603  # ours
        [*COMMAND, *arguments],
        env=environment(**variables),
        start_new_session=True,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        yield program, ours
    finally:
        program.kill()
        program.wait()
        os.close(ours)


def see(terminal: int, wanted: str) -> str:
    """What a terminal shows until it shows that."""
    seen = b""
    deadline = time.monotonic() + 20
    while not re.search(wanted, seen.decode(errors="replace")):
        assert select.select([terminal], [], [], max(deadline - time.monotonic(), 0))[0], f"no {wanted!r} in {seen!r}"
        try:
            data = os.read(terminal, 65_536)
        except OSError:  # its other end is closed (pty(7))
            data = b""
        assert data, f"no {wanted!r} in {seen!r}"
        seen += data
    return seen.decode(errors="replace")


@pytest.mark.parametrize("colours", [True, False])
def test_colours_at_a_terminal(colours: bool) -> None:
    """At a terminal there are colours unless they are not wanted."""
    with socket.create_server((LOCALHOST, 0)) as server:
        addr, variables = show(server.getsockname()), {} if colours else {"NO_COLOR": "1"}
        with terminal("connect", addr, **variables) as (program, tty):
            peer, _ = server.accept()
            with peer:
                peer.sendall(b"hello \x1b[31m\n" + b"long " * 100 + b"\n")
                seen = see(tty, "long [^\n]*…\r\n")
                assert ("\x1b[32m<-\x1b[0m" in seen) is colours
                assert "hello \\x1b[31m" in seen
                assert "\x1b[31m" not in seen
                plain = re.sub(r"\x1b\[\d+m", "", seen)
                assert max(map(len, plain.split("\r\n"))) == 80
                os.write(tty, b"typed\n")
                assert peer.recv(100) == b"typed\n"
                see(tty, "->.* typed")
                os.write(tty, b"\4")  # Ctrl-D
                assert peer.recv(1) == b""
            see(tty, "this side has left")
            assert program.wait(20) == 0


def test_one_answer_at_a_terminal() -> None:
    """An answer is waited for at a terminal after the first line."""
    with socket.create_server((LOCALHOST, 0)) as server:
        addr = show(server.getsockname())
        with terminal("connect", addr, "--one") as (program, tty):
            peer, _ = server.accept()
            with peer:
                os.write(tty, b"question\n")
                assert peer.recv(100) == b"question\n"
                peer.sendall(b"answer\n")
                see(tty, "answer")
                assert program.wait(20) == 0


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


def test_the_module_is_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    done = subprocess.run(  # noqa: S603  # ours
        [*COMMAND, "--help"], capture_output=True, env=environment(), check=True, timeout=20
    )
    assert done.stdout.decode() == shown


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
