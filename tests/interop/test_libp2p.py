"""examples/libp2p.py against py-libp2p and js-libp2p, whoever dials, and whoever opens the streams."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import pytest

from examples.libp2p import Host, ProtocolError, Session, session_of
from pea2pea import HandshakeError
from pea2pea.testing import wait_until

from .conftest import PeerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anyio.streams.buffered import BufferedByteStream

    from .conftest import Peer

ECHO = "/echo/1.0.0"
PROGRAM = [sys.executable, "-W", "error", "examples/libp2p.py"]


@pytest.fixture(scope="module")
def address(libp2p: Peer) -> str:
    """Where the peer listens."""
    value = libp2p.read()
    assert isinstance(value, str)
    return value


@pytest.fixture(params=["we dial", "they dial"])
def dialler(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


async def answer_echo(_session: Session, stream: BufferedByteStream) -> None:
    async for data in stream:
        await stream.send(data)


async def echo(session: Session, size: int) -> bool:
    sent, received = os.urandom(size), bytearray()
    async with await session.open(ECHO) as stream, anyio.create_task_group() as tasks:

        async def send() -> None:
            await stream.send(sent)
            await stream.send_eof()

        tasks.start_soon(send)
        async for data in stream:
            received += data
    return received == sent


@asynccontextmanager
async def connected(libp2p: Peer, address: str, dialler: str) -> AsyncIterator[tuple[Host, Session]]:
    host = Host()
    host.handlers[ECHO] = answer_echo
    async with host.node:
        ours = await host.listen()
        if dialler == "we dial":
            session = await host.dial(address)
        else:
            await libp2p.call("dial", ours)
            await wait_until(lambda: bool(host.node.connections), 10)
            session = session_of(next(iter(host.node.connections.values())))
        assert address.endswith(session.peer_id)
        yield host, session


async def test_a_hundred_pings_each_way(libp2p: Peer, address: str, dialler: str) -> None:
    async with connected(libp2p, address, dialler) as (host, session):
        assert len(await session.ping(100)) == 100
        assert await libp2p.call("ping", host.peer_id, 100) == 100


async def test_identify_each_way(libp2p: Peer, address: str, dialler: str) -> None:
    async with connected(libp2p, address, dialler) as (host, session):
        agent, protocols = await session.identify()
        assert agent.startswith(("py-libp2p/", "js-libp2p/"))
        assert {ECHO, "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"} <= set(protocols)
        theirs = await libp2p.call("identify", host.peer_id)
        assert isinstance(theirs, dict)
        assert theirs["agent"] == "pea2pea-example/1.0"
        assert set(theirs["protocols"]) == set(host.handlers)
        addr = session.connection.addr
        assert theirs["observed"] == f"/ip4/{addr[0]}/tcp/{addr[1]}"
        assert host.node.listening_addr is not None
        assert theirs["listening"] == [f"/ip4/127.0.0.1/tcp/{host.node.listening_addr[1]}"]


async def test_a_mebibyte_over_one_stream_each_way(libp2p: Peer, address: str, dialler: str) -> None:
    async with connected(libp2p, address, dialler) as (host, session):
        assert await echo(session, 1 << 20)
        assert await libp2p.call("echo", host.peer_id, 1 << 20) is True
        await wait_until(lambda: not session.streams, 10)


async def test_fifty_streams_at_once_each_way(libp2p: Peer, address: str, dialler: str) -> None:
    async with connected(libp2p, address, dialler) as (host, session):
        intact: list[bool] = []

        async def one() -> None:
            intact.append(await echo(session, 30_000))

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(one)
        assert intact == [True] * 50
        assert await libp2p.call("echoes", host.peer_id, 50, 30_000) == 50


async def test_a_protocol_that_they_lack(libp2p: Peer, address: str, dialler: str) -> None:
    async with connected(libp2p, address, dialler) as (_, session):
        with pytest.raises(ProtocolError, match="'na'"):
            await session.open("/nonsense/1.0.0")
        assert len(await session.ping()) == 1


async def test_we_refuse_a_wrong_peer_id(address: str) -> None:
    host = Host()
    async with host.node:
        with pytest.raises(HandshakeError) as caught:
            await host.dial(f"{address.rpartition('/')[0]}/{Host().peer_id}")
        assert isinstance(caught.value.__cause__, ProtocolError)
        assert not host.node.connections


async def test_they_refuse_a_wrong_peer_id(libp2p: Peer, address: str) -> None:
    host = Host()
    async with host.node:
        ours = await host.listen()
        with pytest.raises(PeerError):
            await libp2p.call("dial", f"{ours.rpartition('/')[0]}/{Host().peer_id}")
        await wait_until(lambda: host.node.heuristics.handshake_failures > 0, 10)
        assert not host.node.connections


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_the_program_dials(address: str, backend: str) -> None:
    command = [*PROGRAM, "--backend", backend, "--dial", address]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    assert (ended.returncode, ended.stderr) == (0, "")
    identified, pings = ended.stdout.splitlines()
    assert identified.startswith(f"{address.rpartition('/')[2]} is ")
    assert pings.count(" ms") == 5


@pytest.mark.parametrize("backend", ["asyncio", "uvloop", "trio"])
def test_the_program_listens_until_it_is_interrupted(libp2p: Peer, address: str, backend: str) -> None:
    assert address
    command = [*PROGRAM, "--backend", backend, "--listen"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:  # noqa: S603
        assert program.stdout is not None
        ours = program.stdout.readline().removeprefix("listening on ").strip()
        libp2p.call_sync("dial", ours)
        assert libp2p.call_sync("ping", ours.rpartition("/")[2], 3) == 3
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=30)
    assert (program.returncode, errors) == (130, "")
