"""What every test gets: three event loops, and a look at what it left open."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings

from pea2pea.testing import Network
from pea2pea.testing.network import _Socket, _Stream
from pea2pea.transport import TCPTransport, default_transport
from tests.real_sockets import is_simulated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyio.abc import ByteStream

sys.path.append(str(Path(__file__).parents[1] / ".manual"))

# How long an example takes says more about the machine than about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

# A shell that starts the tests in the background lets them, and the programs that they interrupt, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

DESCRIPTORS = Path("/proc/self/fd")
LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
if sys.platform == "win32":
    del LOOPS["uvloop"]


def eager_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop of asyncio whose tasks begin at once (Python 3.12 and newer)."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory", None))
    return loop


VARIANTS: dict[str, dict[str, Any]] = {"debug": {"debug": True}, "eager": {"loop_factory": eager_loop}}
if VARIANT := os.environ.get("PEA2PEA_ASYNCIO"):  # see `nox -s variants`
    LOOPS = {"asyncio": ("asyncio", VARIANTS[VARIANT])}


@pytest.fixture(params=LOOPS.values(), ids=tuple(LOOPS))
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Every coroutine test runs once on each of these."""
    return request.param


def open_sockets() -> set[str]:
    """The sockets of this process, by inode; empty where the system does not tell."""
    found = set()
    for descriptor in DESCRIPTORS.iterdir() if DESCRIPTORS.is_dir() else ():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:  # the descriptor of this very listing
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--simulated", action="store_true", help="nodes without a transport are on a simulated network, not on TCP"
    )


@pytest.fixture(autouse=True)
def simulated(request: pytest.FixtureRequest) -> Iterator[None]:
    """Under `--simulated`: one host, on which everything is; nothing may be left open there."""
    if not request.config.getoption("--simulated"):
        yield
        return
    host, wrap = Network().host("127.0.0.1"), TCPTransport.wrap

    def wrap_simulated(sock: socket.socket) -> ByteStream:
        given = cast("object", sock)
        return _Stream(given) if isinstance(given, _Socket) else wrap(sock)

    token = default_transport.set(host)
    with patch.multiple(TCPTransport, wrap=staticmethod(wrap_simulated), dial=host.dial, listen=host.listen):
        yield
    default_transport.reset(token)
    assert not host.sockets
    assert not host.listeners


@pytest.fixture(autouse=True)
def nothing_left_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a coroutine test no new socket is open, and what was dropped without closing it is a warning."""
    if "anyio_backend" not in request.fixturenames:
        yield
        return
    gc.collect()  # what the test before has left, whose event loop is closed by now
    gc.freeze()  # what is there by now stays, so the next collection need not look at it
    before = open_sockets()
    yield
    left = open_sockets() - before
    gc.collect()
    assert not left, f"{len(left)} sockets were left open"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    real: list[pytest.Item] = []
    for item in items:
        path = item.path.relative_to(Path(__file__).parent)
        if "stress" in path.parts[:-1]:
            item.add_marker(pytest.mark.stress)
        if not is_simulated(f"{path.as_posix()}::{item.name}"):
            real.append(item)
    if config.getoption("--simulated"):
        config.hook.pytest_deselected(items=real)
        items[:] = [item for item in items if item not in real]


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what is there by now stays, so the collection after each test need not look at it
