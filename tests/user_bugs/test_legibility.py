"""What a user sees of the library who looks for a bug: names, and reprs."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from itertools import pairwise
from types import ModuleType
from typing import TypeVar

import anyio
import pytest

import pea2pea
from pea2pea import (
    Config,
    DisconnectOrigin,
    Node,
    NotConnectedError,
    Side,
    TCPTransport,
    codecs,
    errors,
    testing,
    topology,
)
from pea2pea.errors import NodeError
from tests.helpers import ALL, LOCALHOST, MemoryNetwork, User, running_tasks, turns, two_nodes

DEFAULT = re.compile(r"object at 0x[0-9a-f]+>")


async def test_every_task_of_a_node_has_a_telling_name() -> None:
    before = running_tasks()
    user, peer = (User(Config(name=name, grace_period=0.1), enable=ALL) for name in ("Alice", "Bob"))
    user.greet = peer.greet = sleep_long
    user.handle = peer.handle = sleep_long
    async with two_nodes(user, peer) as (connection, _):
        user.node.start_soon(anyio.sleep_forever)
        user.node.start_soon(anyio.sleep_forever, name="as I say")
        connection.start_soon(anyio.sleep_forever)
        connection.start_soon(anyio.sleep_forever, name="as I say, too")
        user.outbox.send_nowait(connection, b"keep somebody busy")
        await turns(50)
        new = running_tasks() - before
        assert {"as I say", "as I say, too", "background task sleep_forever"} <= new
        for name in new:
            assert name.startswith(("pea2pea ", "background task ", "as I say")), name
        assert any("Alice" in name for name in new)
        assert any(str(connection) in name for name in new)


async def sleep_long(*_: object) -> None:
    await anyio.sleep_forever()


def test_the_repr_of_a_node_tells_its_name_and_that_it_is_new() -> None:
    assert repr(Node(Config(name="Alice"))) == "<Node Alice, new, 0 connections>"


async def test_the_repr_of_a_node_follows_its_life() -> None:
    node = Node(Config(name="Alice"))
    async with node:
        assert repr(node) == "<Node Alice, running, 0 connections>"
        _, port = await node.start_listening()
        assert repr(node) == f"<Node Alice, running, listening at {LOCALHOST}:{port}, 0 connections>"
        await node.shut_down()
        assert repr(node) == "<Node Alice, closed, 0 connections>"
    assert repr(node) == "<Node Alice, closed, 0 connections>"


async def test_the_repr_of_a_connection_tells_side_peer_and_how_it_ended() -> None:
    user, peer = User(), User()
    async with two_nodes(user, peer) as (ours, theirs):
        assert repr(ours) == f"<Connection initiator {LOCALHOST}:{ours.addr[1]}, established>"
        assert repr(theirs) == f"<Connection responder {LOCALHOST}:{theirs.addr[1]}, established>"
        await user.node.disconnect(ours)
        assert repr(ours).endswith("ended by USER>")


async def test_nothing_public_has_the_repr_of_any_object() -> None:
    user, peer = User(), User()
    async with two_nodes(user, peer) as (connection, _):
        stream = user.node._admission.established[connection.addr].stream
        listener = await TCPTransport().listen((LOCALHOST, 0), backlog=1, reuse_port=False)
        things: list[object] = [
            user.node,
            user.node.config,
            user.node.stats,
            user.node.heuristics,
            user.node.connections,
            user.node.connecting,
            user.outbox,
            connection,
            connection.stats,
            stream,
            TCPTransport(),
            listener,
            *Side,
            *DisconnectOrigin,
            codecs.BytesCodec(),
            codecs.LinesCodec(),
            codecs.DelimitedCodec(b"\0"),
            codecs.LengthDelimitedCodec(),
            codecs.VarintDelimitedCodec(),
            codecs.mapped(codecs.BytesCodec(), decode=str, encode=str.encode),
        ]
        await listener.aclose()
        for thing in things:
            assert not DEFAULT.search(repr(thing)), thing
        assert str(connection.addr[1]) in repr(user.node.connections)
        assert str(connection.addr[1]) in repr(stream)
        assert "closed" in repr(listener)
    assert "closed" in repr(stream)


async def test_one_connection_is_told_from_several() -> None:
    user, peer = User(Config(name="Alice")), User()
    async with two_nodes(user, peer):
        assert repr(user.node) == "<Node Alice, running, 1 connection>"
        assert repr(user.outbox) == "<Outbox to 1 peer>"
    assert repr(user.outbox) == "<Outbox to 0 peers>"


async def test_a_set_up_shows_in_the_repr_of_the_view() -> None:
    user = User(enable=ALL)
    seen: list[str] = []

    async def shake_hands(connection: pea2pea.Connection, stream: anyio.abc.ByteStream) -> anyio.abc.ByteStream:
        seen.append(repr(user.node.connecting))
        return stream

    user.shake_hands = shake_hands
    async with two_nodes(user, User()) as (connection, _):
        assert seen == [f"<connecting [{connection.addr!r}]>"]


async def test_what_a_node_raises_tells_whom_it_is_about() -> None:
    network = MemoryNetwork()
    node = Node(transport=network.host(LOCALHOST))
    outbox = node.enable_writing(User(enable=[]))
    async with node:
        with pytest.raises(ValueError, match=r"\('', 1\)"):
            await node.connect(("", 1))
        with pytest.raises(ValueError, match="99999"):
            await node.connect((LOCALHOST, 99_999))
        with pytest.raises(ConnectionRefusedError, match="4711"):
            await node.connect((LOCALHOST, 4711))
        with pytest.raises(NotConnectedError, match=r"127\.0\.0\.1:4711"):
            outbox.send_nowait((LOCALHOST, 4711), b"hello")


def told_attributes(kind: type[object]) -> set[str]:
    """The attributes of a class, and those that its methods set, behind which there is a docstring."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    told = set()
    for block in ast.walk(tree):
        if isinstance(block, (ast.ClassDef, ast.FunctionDef)):
            for node, behind in pairwise(block.body):
                docstring = isinstance(behind, ast.Expr) and isinstance(behind.value, ast.Constant)
                if docstring and isinstance(node, (ast.Assign, ast.AnnAssign)):
                    target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                    told.add(ast.unparse(target).removeprefix("self."))
    return told


@pytest.mark.parametrize("made", [pea2pea.Config(), pea2pea.Heuristics(), pea2pea.Stats(), Node()])
def test_every_field_has_a_docstring(made: object) -> None:
    slots: tuple[str, ...] = getattr(made, "__slots__", ())
    assert {field for field in slots or vars(made) if not field.startswith("_")} <= told_attributes(type(made))


def test_every_attribute_and_member_has_a_docstring() -> None:
    attributes = {name for name in pea2pea.Connection.__slots__ if not name.startswith("_")}
    assert attributes <= told_attributes(pea2pea.Connection)
    for kind in (DisconnectOrigin, Side):
        assert set(kind.__members__) <= told_attributes(kind)
    for alias in ("Address", "Peer", "Frame"):
        assert f"    {alias} " in str(pea2pea.__doc__)


@pytest.mark.parametrize("module", [codecs, errors, testing, topology])
def test_all_is_what_a_module_has_of_its_own_for_users(module: ModuleType) -> None:
    own = {name for name, it in vars(module).items() if getattr(it, "__module__", "") == module.__name__}
    own = {name for name in own if not name.startswith("_") and not isinstance(getattr(module, name), TypeVar)}
    assert own <= set(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


async def test_an_address_in_a_message_is_a_host_and_a_port() -> None:
    async def refuse(connection: pea2pea.Connection, stream: anyio.abc.ByteStream) -> anyio.abc.ByteStream:
        raise PermissionError

    user, peer = User(enable=ALL), User(enable=ALL)
    user.shake_hands = refuse
    async with user.node, peer.node as node:
        host, port = await node.start_listening()
        with pytest.raises(pea2pea.HandshakeError, match=f"the handshake with {host}:{port} failed"):
            await user.node.connect((host, port))


def test_errors_of_the_library_say_that_they_are_its_own() -> None:
    own = [getattr(pea2pea, name) for name in pea2pea.__all__ if name.endswith("Error") and name != "FrameError"]
    assert len(own) == 10
    for error in own:
        assert issubclass(error, NodeError)
        assert error.__doc__
    assert issubclass(pea2pea.FrameError, ValueError)
