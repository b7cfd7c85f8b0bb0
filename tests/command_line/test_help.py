"""The examples in the help are run, each as the line of a shell that it is."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

import pea2pea._command_line

from ..helpers import RawListener, RawPeer
from .program import environment, process, running, show

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

HELP = pea2pea._command_line.__doc__ or ""
EXAMPLES = [line.strip() for line in HELP.partition("for a shell:\n")[2].splitlines()]
ROOT = Path(__file__).parents[2]
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


async def test_the_session_in_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "examples")
    monkeypatch.setattr(sys, "path", list(sys.path))
    (session,) = re.findall(r"```text\n\$ pea2pea (proxy .*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    call, *expected = session.splitlines()
    with RawListener.open() as target:
        arguments = call.replace(":4001", ":0").replace(":4000", show(target.addr)).split()
        async with running(*arguments, "--width", "110") as program:
            host, port = (await program.address()).rsplit(":", 1)
            with await RawPeer.dial((host, int(port))) as client, await target.accept() as server:
                await client.send(b'{"type": "Join", "name": "Alice"}\n')
                await program.shows(" -> ")
                await server.send(b'{"type": "Price", "amount": 30, "bidder": "Alice"}\n')
                await program.shows(" <- ")
                shown = [*program.lines[:1], *program.err.decode().splitlines(), *program.lines[1:]]

    def without_numbers(lines: list[str]) -> list[str]:
        return [re.sub(r"127\.0\.0\.1:\d+|\d\d:\d\d:\d\d\.\d+", "", line) for line in lines]

    assert without_numbers(shown) == without_numbers(expected)


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
