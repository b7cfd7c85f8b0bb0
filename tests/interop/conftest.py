"""Peers of other implementations, in environments of their own: `nox -s interop` makes them and sets PEA2PEA_INTEROP.

Without that variable nothing here is collected.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from anyio.to_thread import run_sync

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACE = os.environ.get("PEA2PEA_INTEROP")
collect_ignore_glob = [] if PLACE else ["test_*.py"]
PEERS = Path(__file__).parent / "peers"
PYTHON = Path(PLACE or "", "py", "bin", "python")
NODE = Path(PLACE or "", "js", "node_modules", ".bin", "node")
IMPLEMENTATIONS = [
    "py",
    pytest.param("js", marks=pytest.mark.skipif(not NODE.exists(), reason="without npm: js peers are NOT tested")),
]


class Peer:
    """A process that reads and prints one JSON value a line."""

    def __init__(self, name: str, implementation: str) -> None:
        command: list[str | Path] = [NODE, f"{name}.mjs"]
        if implementation == "py":
            command = [PYTHON, PEERS / f"{name}.py"]
        self.process = subprocess.Popen(  # noqa: S603
            command, cwd=Path(PLACE or "", implementation), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def read(self) -> object:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the peer has ended"
        value: object = json.loads(line)
        return value

    def write(self, value: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    async def call(self, name: str, *arguments: object) -> object:
        """What the function of that name returns over there; PeerError if it raises."""
        return await run_sync(self.call_sync, name, *arguments)

    def call_sync(self, name: str, *arguments: object) -> object:
        """As `call`, without an event loop."""
        self.write([name, arguments])
        answer = self.read()
        assert isinstance(answer, dict)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()


class PeerError(Exception):
    pass


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def libp2p(request: pytest.FixtureRequest) -> Iterator[Peer]:
    """A libp2p host; `address` is what it listens on."""
    peer = Peer("libp2p_peer", request.param)
    yield peer
    peer.close()


@pytest.fixture(params=IMPLEMENTATIONS)
def noise(request: pytest.FixtureRequest) -> Iterator[Peer]:
    peer = Peer("noise_peer", request.param)
    yield peer
    peer.close()
