"""What many connections on which nothing happens cost, and what one on which a lot happens costs the others."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import pytest

from tests.conftest import LOOPS
from tests.helpers import LOCALHOST, frame

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

CONNECTIONS = 1000
MEMORY = 22_000  # bytes a connection
SHARE = 0.001  # of a core
SECONDS = 30.0
WARM_UP = 10  # connections, so that what is made once is not counted
ROUND_TRIPS = 1000
ROUNDS = 4
P99 = 0.020  # seconds
FLOODER = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
    while True:
        sock.sendall(bytes(1_000_000))  # empty messages: a length of 0 each
"""


class Program:
    """The node's process, and the peers that connect to it from here."""

    def __init__(self, loop: str, stack: ExitStack) -> None:
        self.loop = loop
        command = [sys.executable, "-m", "tests.stress.program", loop]
        root = Path(__file__).parents[2]
        self.process = stack.enter_context(
            subprocess.Popen(  # noqa: S603  # a program of ours
                command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        )
        stack.callback(self.process.kill)
        self.peers = stack.enter_context(ExitStack())
        self.sockets: list[socket.socket] = []
        self.messages = 0
        self.port = int(self.pipe(self.process.stdout).readline())

    @staticmethod
    def pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def connect(self, count: int) -> list[socket.socket]:
        new = [self.peers.enter_context(socket.create_connection((LOCALHOST, self.port))) for _ in range(count)]
        self.sockets += new
        return new

    def talk(self) -> None:
        """Each sends a message."""
        for peer in self.sockets:
            peer.sendall(frame(b"hello"))
            self.messages += 1

    def leave(self) -> None:
        self.peers.close()
        self.sockets.clear()

    def measure(self, *, others: int = 0) -> dict[str, float]:
        """Figures as soon as all have been accepted, and heard."""
        self.pipe(self.process.stdin).write(f"{len(self.sockets) + others} {self.messages}\n")
        self.pipe(self.process.stdin).flush()
        figures: dict[str, float] = json.loads(self.pipe(self.process.stdout).readline())
        return figures


@pytest.fixture(params=LOOPS)
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    with ExitStack() as stack:
        yield Program(request.param, stack)


def test_idle_connections(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand idle connections cost little memory and no time."""
    program.connect(WARM_UP)
    program.talk()
    program.measure()
    program.leave()
    empty = program.measure()["resident"]
    program.connect(CONNECTIONS)
    silent = (program.measure()["resident"] - empty) / CONNECTIONS
    program.talk()
    talked = (program.measure()["resident"] - empty) / CONNECTIONS
    began, before = time.monotonic(), program.measure()["spent"]
    time.sleep(SECONDS)  # which is what is measured
    share = (program.measure()["spent"] - before) / (time.monotonic() - began)
    with capsys.disabled():
        print(  # noqa: T201  # figures are what this is for
            f"\nidle, {program.loop}: {silent:,.0f} bytes a connection, {talked:,.0f} once it has talked, "
            f"{share:.4%} of a core for {CONNECTIONS} of them"
        )
    assert silent <= MEMORY
    assert talked <= MEMORY
    assert share < SHARE


def round_trip(peer: socket.socket) -> float:
    """Seconds that an answer took."""
    message = frame(b"are you there?")
    began = time.perf_counter()
    peer.sendall(message)
    missing = len(message)
    while missing:
        missing -= len(peer.recv(missing))
    return time.perf_counter() - began


def test_delay_beside_a_flood(program: Program, capsys: pytest.CaptureFixture[str]) -> None:
    """A peer that sends empty messages flat out does not delay another."""
    (peer,) = program.connect(1)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    alone = percentiles(peer)
    command = [sys.executable, "-c", FLOODER, str(program.port)]
    with subprocess.Popen(command) as flooder:  # noqa: S603  # a program of ours
        try:
            program.messages = 1_000_000
            program.measure(others=1)  # by now the flood is under way
            rounds = [percentiles(peer) for _ in range(ROUNDS)]
        finally:
            flooder.kill()
    with capsys.disabled():
        print(f"\nround trips alone, {program.loop}: {alone}")  # noqa: T201  # figures are what this is for
        for beside in rounds:
            print(f"beside a flood of empty messages, {program.loop}: {beside}")  # noqa: T201  # likewise
    assert min(beside.p99 for beside in rounds) < P99  # the machine may have had other work in some of them


class Percentiles(NamedTuple):
    p50: float
    p99: float
    longest: float

    def __str__(self) -> str:
        return f"p50 {self.p50 * 1000:.2f} ms, p99 {self.p99 * 1000:.2f} ms, longest {self.longest * 1000:.2f} ms"


def percentiles(peer: socket.socket) -> Percentiles:
    trips = sorted(round_trip(peer) for _ in range(ROUND_TRIPS))
    return Percentiles(trips[ROUND_TRIPS // 2], trips[ROUND_TRIPS * 99 // 100], trips[-1])
