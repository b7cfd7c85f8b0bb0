"""What `Node.connect` can be told: how long to wait, and from where to dial."""

from __future__ import annotations

import errno
import sys
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketAttribute

from pea2pea import Config, TCPTransport

from ..helpers import LOCALHOST, MemoryNetwork, User, wait_until

if TYPE_CHECKING:
    from anyio.abc import ByteStream

    from pea2pea import Address

NOBODY = ("192.0.2.1", 80)


class Silent(TCPTransport):
    """Nobody ever answers a dial; `name` stands for two addresses."""

    async def resolve(self, addr: Address, /) -> list[Address]:
        return [NOBODY, ("192.0.2.2", 80)] if addr[0] == "name" else [addr]

    async def dial(self, addr: Address, /, *, local_addr: Address | None = None) -> ByteStream:
        await anyio.sleep_forever()
        raise AssertionError


# `timeout`


@pytest.mark.parametrize("host", [NOBODY[0], "name"])
async def test_a_timeout_stands_in_for_the_configured_one(host: str) -> None:
    async with User(Config(connection_timeout=3600), transport=Silent()).node as node:
        with pytest.raises(TimeoutError, match=r"192.0.2.\d:80 did not answer within 0.05 s"):
            await node.connect((host, 80), timeout=0.05)
        assert not node.connecting


@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_timeout_of_a_dial(timeout: float | None) -> None:
    """Without one or with a longer one a dial may take that long."""
    config = Config(connection_timeout=3600 if timeout is None else 0.01)
    async with User(config, transport=Silent()).node as node, anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: node.connect(NOBODY, timeout=timeout))
        await wait_until(lambda: NOBODY in node.connecting)
        with anyio.move_on_after(0.1) as scope:  # the shorter one must not count, and nothing tells that it does not
            await wait_until(lambda: NOBODY not in node.connecting)
        assert scope.cancelled_caught
        tasks.cancel_scope.cancel()


async def test_it_does_not_bound_the_handshake() -> None:
    dialler, responder = User(enable={"handshake"}), User()
    took = anyio.Event()

    async def shake_hands(_: object, stream: ByteStream) -> ByteStream:
        await anyio.sleep(0.1)  # no condition: it has to take longer than the timeout, which begins and ends before
        took.set()
        return stream

    dialler.shake_hands = shake_hands
    async with responder.node, dialler.node as node:
        await node.connect(await responder.node.start_listening(), timeout=0.05)
        assert took.is_set()


@pytest.mark.parametrize("timeout", [0, -1.0, float("nan"), float("inf")])
async def test_a_timeout_is_a_number_of_seconds(timeout: float) -> None:
    async with User(transport=Silent()).node as node:
        with pytest.raises(ValueError, match="timeout"):
            await node.connect(NOBODY, timeout=timeout)
        assert not node.connecting


# `local_addr`


@pytest.mark.parametrize(
    ("listening", "local", "seen"),
    [
        pytest.param(
            LOCALHOST,
            "127.0.0.2",
            "127.0.0.2",
            marks=pytest.mark.skipif(
                sys.platform != "linux", reason="other systems have but one IPv4 loopback address"
            ),
        ),
        (LOCALHOST, "::ffff:127.0.0.1", LOCALHOST),
        ("::1", "::1", "::1"),
        ("::1", "0:0::1", "::1"),
    ],
)
async def test_a_dial_comes_from_the_local_address(listening: str, local: str, seen: str) -> None:
    dialler, responder = User(), User(Config(listener_addr=(listening, 0)))
    async with responder.node, dialler.node as node:
        connection = await node.connect(await responder.node.start_listening(), local_addr=(local, 0))
        await wait_until(lambda: responder.node.connections)
        assert responder.only.addr[0] == seen
        assert connection.extra(SocketAttribute.local_address)[:2] == responder.only.addr


async def test_a_dial_can_come_from_the_very_port_where_the_node_listens() -> None:
    """So that a peer behind a NAT is reached through the hole that the listener has made."""
    dialler = User(Config(reuse_listener_port=True))
    responder = User(Config(reuse_listener_port=True))
    async with responder.node, dialler.node as node:
        ours, theirs = await node.start_listening(), await responder.node.start_listening()
        await node.connect(theirs, local_addr=ours)
        await wait_until(lambda: responder.node.connections)
        assert responder.only.addr == ours


@pytest.mark.parametrize(
    ("local", "code"),
    [(("192.0.2.1", 0), errno.EADDRNOTAVAIL), (("::1", 0), errno.EAFNOSUPPORT)],
    ids=["an address of somebody else's", "of the other family"],
)
async def test_an_address_that_cannot_be_dialled_from_is_an_os_error(local: Address, code: int) -> None:
    dialler, responder = User(Config(max_connections=1)), User()
    async with responder.node, dialler.node as node:
        addr = await responder.node.start_listening()
        with pytest.raises(OSError, match="cannot dial from") as caught:
            await node.connect(addr, local_addr=local)
        assert caught.value.errno == code
        assert not node.connecting
        await node.connect(addr, local_addr=(LOCALHOST, 0))


@pytest.mark.parametrize("wrong", ["127.0.0.1", ("127.0.0.1",), ("127.0.0.1", -1), (80, "127.0.0.1")], ids=str)
async def test_what_is_no_address_cannot_be_dialled_from(wrong: Any) -> None:
    async with User(transport=Silent()).node as node:
        with pytest.raises((TypeError, ValueError), match="local_addr"):
            await node.connect(NOBODY, local_addr=wrong)
        assert not node.connecting


@pytest.mark.parametrize("limit", [1, 100])
async def test_a_transport_that_cannot_bind_says_so_and_loses_no_slot(limit: int) -> None:
    network = MemoryNetwork()
    dialler = User(Config(max_connections=limit), transport=network.host("203.0.113.1"))
    responder = User(Config(listener_addr=("203.0.113.2", 0)), transport=network.host("203.0.113.2"))
    async with responder.node, dialler.node as node:
        addr = await responder.node.start_listening()
        with pytest.raises(TypeError, match=r"MemoryTransport\.dial\(\).*'local_addr'"):
            await node.connect(addr, local_addr=("203.0.113.1", 0))
        assert not node.connecting
        await node.connect(addr)
