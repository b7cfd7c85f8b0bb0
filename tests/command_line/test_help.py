"""The examples in the help are run, each as the line of a shell that it is."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import trustme

import pea2pea._command_line

from .program import environment, process

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

HELP = pea2pea._command_line.__doc__ or ""
EXAMPLES = [line.strip() for line in HELP.partition("for a shell:\n")[2].splitlines()]
SHELL = "/bin/bash"


@contextmanager
def echo(sent: list[bytes]) -> Generator[str]:
    """A server that sends back what it gets, and notes it."""

    def serve(peer: socket.socket) -> None:
        with peer, suppress(ConnectionResetError):  # a program that is terminated leaves bytes unread
            while data := peer.recv(65_536):
                sent.append(data)
                peer.sendall(data)

    def accept() -> None:
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(peer,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield str(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


@pytest.fixture
def shell(tmp_path: Path) -> Callable[[str], subprocess.Popen[bytes]]:
    """Starts a line of a shell, in which `pea2pea` is the program, in a folder that has what the examples name."""
    authority = trustme.CA()
    node = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    node.private_key_pem.write_to_path(str(tmp_path / "node.key"))
    node.cert_chain_pems[0].write_to_path(str(tmp_path / "node.pem"))
    (tmp_path / "my_codec.py").write_text(
        "import json\nfrom pea2pea.codecs import LinesCodec, mapped\n"
        "def make():\n    return mapped(LinesCodec(), decode=json.loads, encode=json.dumps)\n"
    )
    (tmp_path / "talk.jsonl").write_text(
        '{"time": 1.5, "event": "message", "connection": 1, "sender": "initiator", "wire": "68656c6c6f0a"}\n'
    )

    def start(line: str) -> subprocess.Popen[bytes]:
        program = f'pea2pea() {{ exec {shlex.quote(sys.executable)} -W error -m pea2pea "$@"; }}; '
        return subprocess.Popen(  # noqa: S603  # our own help
            [SHELL, "-c", program + line],
            env=environment(),
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start


def ports(line: str, **numbers: str) -> str:
    for of_the_example, real in numbers.items():
        line = line.replace(of_the_example.removeprefix("p"), real)
    return line


def test_the_help_has_examples_of_every_command() -> None:
    assert {re.findall(r"pea2pea (\w+)", line)[0] for line in EXAMPLES} == {"listen", "connect", "proxy", "replay"}


@pytest.mark.parametrize("line", [line for line in EXAMPLES if "| pea2pea" in line and "--tls" not in line])
def test_an_example_that_sends(line: str, shell: Callable[[str], subprocess.Popen[bytes]]) -> None:
    sent: list[bytes] = []
    with echo(sent) as port:
        out, err = shell(ports(line, p4000=port)).communicate(timeout=30)
    assert b"pea2pea: " not in err
    data = b"".join(sent)
    assert data in (b"hello\n", b"GET / HTTP/1.0\r\n\r\n", b"\0\0\0\5hello", b'{"bid": 30}\n')
    if "--one" in line:
        assert out == b"hello\n"
    else:
        assert out.count(b"->") == out.count(b"<-") == 1


@pytest.mark.parametrize("line", [line for line in EXAMPLES if line.startswith("pea2pea replay")])
def test_an_example_that_replays(line: str, shell: Callable[[str], subprocess.Popen[bytes]]) -> None:
    sent: list[bytes] = []
    with echo(sent) as port:
        shell(ports(line, p4000=port)).communicate(timeout=30)
    assert b"".join(sent) == b"hello\n"


@pytest.mark.parametrize("line", [line for line in EXAMPLES if line.startswith(("pea2pea listen", "pea2pea proxy"))])
def test_an_example_that_listens(line: str, shell: Callable[[str], subprocess.Popen[bytes]]) -> None:
    with echo([]) as port:
        listening = ports(line, p4001="0", p4002="0", p4000=port if "proxy" in line else "0")
        with shell(listening) as program:
            assert program.stdout is not None
            addr = program.stdout.readline().decode().strip().replace("127.0.0.1", "localhost")
            if "--tls" in line:
                (dialling,) = (line for line in EXAMPLES if "| pea2pea" in line and "--tls" in line)
                shell(dialling.replace("localhost:4002", addr)).communicate(timeout=30)
                assert b"hello" in program.stdout.readline()
            else:
                with process("connect", addr) as peer:
                    assert peer.stdin is not None
                    peer.stdin.write(b"hello\n")
                    peer.stdin.flush()
                    assert b"hello" in program.stdout.readline()
            program.terminate()
            program.communicate(timeout=30)
            assert program.returncode == 0
