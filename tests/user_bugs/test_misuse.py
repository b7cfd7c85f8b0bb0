from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from anyio.lowlevel import checkpoint

from pea2pea import Config, Connection, Node, NotConnectedError
from pea2pea.codecs import LengthDelimitedCodec, LinesCodec
from tests.helpers import ALL, LOCALHOST, RawPeer, User, above_info, connect, frame, told_errors, two_nodes, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

ENABLE: dict[str, Callable[[Node, Any], object]] = {
    "handshake": Node.enable_handshake,
    "reading": Node.enable_reading,
    "writing": Node.enable_writing,
    "on_connect": Node.enable_on_connect,
    "on_disconnect": Node.enable_on_disconnect,
}


@pytest.mark.parametrize("protocol", ENABLE)
def test_enabling_twice(protocol: str) -> None:
    """Enabling a protocol twice is a runtime error that names it."""
    user = User(enable=ALL)
    with pytest.raises(RuntimeError, match=protocol):
        ENABLE[protocol](user.node, user)


@pytest.mark.parametrize("protocol", ENABLE)
async def test_enabling_twice_while_running(protocol: str) -> None:
    """Enabling a protocol twice on a running node leaves the first in place."""
    user, peer = User(enable=ALL), User(enable=ALL)
    async with two_nodes(peer, user) as (connection, _):
        with pytest.raises(RuntimeError, match=protocol):
            ENABLE[protocol](user.node, User())
        peer.outbox.send_nowait(connection, b"hello")
        await wait_until(lambda: user.received == [b"hello"])


@pytest.mark.parametrize("protocol", ENABLE)
@pytest.mark.parametrize("nothing", [None, object(), "a string", Node])
def test_enabling_without_methods(protocol: str, nothing: object) -> None:
    """Enabling what lacks the methods is a type error that shows it."""
    node = Node()
    with pytest.raises(TypeError) as caught:
        ENABLE[protocol](node, nothing)
    assert repr(nothing) in str(caught.value)
    ENABLE[protocol](node, User(enable=[]))  # nothing was enabled


@pytest.mark.parametrize("protocol", ENABLE)
def test_enabling_a_class(protocol: str) -> None:
    """Enabling a class instead of an instance is a type error that says so."""
    with pytest.raises(TypeError, match=r"needs an instance with a method \w+, not <class .*User'>"):
        ENABLE[protocol](Node(), User)


def test_a_class_whose_methods_need_no_instance_is_as_good_as_one() -> None:
    class Stateless:
        @staticmethod
        def encoder(connection: Connection) -> LinesCodec:
            return LinesCodec()

    Node().enable_writing(Stateless)


@pytest.mark.parametrize("config", [None, Config, "a name", {"name": "a name"}])
def test_a_config_that_is_none_is_a_type_error_that_shows_it(config: Any) -> None:
    with pytest.raises(TypeError, match="must be a Config") as caught:
        Node(config)
    assert repr(config) in str(caught.value)


@pytest.mark.parametrize("hook", ["process_message", "on_connect", "on_disconnect", "background task of_mine"])
async def test_a_hook_that_is_not_async_has_a_bug_that_is_told_so(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    user = User()
    called: list[object] = []

    def of_mine(*args: object) -> None:
        called.append(args)

    setattr(user, hook, of_mine)
    of_mine.__qualname__ = "of_mine"
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            if hook == "background task of_mine":
                untyped: Any = of_mine
                node.start_soon(untyped)
            await peer.send(frame(b"hello"))
            peer.sock.shutdown(socket.SHUT_WR)
            await wait_until(lambda: called and not node.connections)
    assert [str(error).partition(":")[0] for error in told_errors(caplog)] == [f"{hook} must be async"]
    assert f"{hook} must be async" in above_info(caplog)[0].getMessage()


async def test_what_a_hook_awaits_wrongly_itself_is_told_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    async def wrong(*_: object) -> None:
        nothing: Any = None
        await nothing

    user = User()
    user.handle = wrong
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"hello"))
            assert await peer.is_refused()
    (error,) = told_errors(caplog)
    assert "must be async" not in str(error)


NO_PEERS = ["127.0.0.1", ["127.0.0.1", 80], ("127.0.0.1", "80"), ("127.0.0.1", 80, 0, 0), None, 80]


@pytest.mark.parametrize("wrong", NO_PEERS, ids=repr)
async def test_no_peer_at_all(wrong: Any) -> None:
    """What is no peer is a type error that shows it and says what is."""
    user = User()
    async with user.node as node:
        uses: list[Callable[[], Any]] = [
            lambda: user.outbox.send_nowait(wrong, b"hello"),
            lambda: user.outbox.send(wrong, b"hello"),
            lambda: user.outbox.deliver(wrong, b"hello"),
            lambda: user.outbox.pending(wrong),
            lambda: node.disconnect(wrong),
        ]
        for use in uses:
            with pytest.raises(TypeError, match=r"must be a Connection or a tuple \(host: str, port: int\)") as caught:
                await use()
            assert repr(wrong) in str(caught.value)
            assert caught.value.__suppress_context__


async def test_unconnected_peer() -> None:
    """A peer that is not connected is still told from what is none."""
    user = User()
    async with user.node as node:
        for use in (user.outbox.send, user.outbox.deliver):
            with pytest.raises(NotConnectedError, match=r"127\.0\.0\.1:80"):
                await use((LOCALHOST, 80), b"hello")
        assert not await node.disconnect((LOCALHOST, 80))


@pytest.mark.parametrize(
    ("protocol", "tunables"),
    [
        ("handshake", {"timeout": 0}),
        ("handshake", {"timeout": float("inf")}),
        ("reading", {"drop_beyond": 0}),
        ("reading", {"idle_timeout": -1.0}),
        ("reading", {"idle_timeout": float("nan")}),
        ("writing", {"queue_depth": 0}),
        ("writing", {"queue_bytes": 0}),
        ("writing", {"timeout": 0.0}),
        ("on_disconnect", {"timeout": float("nan")}),
    ],
)
def test_tunable_out_of_range(protocol: str, tunables: dict[str, float]) -> None:
    """A tunable out of range is a value error that names it and enables nothing."""
    node, user, enable = Node(), User(enable=[]), ENABLE[protocol]
    ((name, value),) = tunables.items()
    with pytest.raises(ValueError, match=name) as caught:
        enable(node, user, **tunables)
    assert repr(value) in str(caught.value)
    enable(node, user)


@pytest.mark.parametrize(
    ("protocol", "tunables"),
    [
        ("handshake", {"timeout": "5"}),
        ("handshake", {"timeout": None}),
        ("reading", {"drop_beyond": 1.5}),
        ("writing", {"queue_depth": True}),
        ("on_disconnect", {"timeout": None}),
    ],
)
def test_a_tunable_of_the_wrong_type_is_a_type_error_that_names_it(protocol: str, tunables: dict[str, Any]) -> None:
    node, user, enable = Node(), User(enable=[]), ENABLE[protocol]
    (name,) = tunables
    with pytest.raises(TypeError, match=name):
        enable(node, user, **tunables)
    enable(node, user)


@pytest.mark.parametrize("protocol", ENABLE)
async def test_enabling_while_running(protocol: str) -> None:
    """What is enabled after entry holds for connections from then on."""
    user, early, late = User(enable=[]), User(), User()
    async with user.node, early.node, late.node:
        to_user, _ = await connect(early, user)
        returned: Any = ENABLE[protocol](user.node, user)
        also_to_user, inner = await connect(late, user)
        if protocol == "handshake":
            assert user.shaken == [inner]
        elif protocol == "reading":
            early.outbox.send_nowait(to_user, b"unheard")
            late.outbox.send_nowait(also_to_user, b"heard")
            await wait_until(lambda: user.received)
            assert user.received == [b"heard"]
        elif protocol == "writing":
            assert returned.broadcast(b"hello") == {}
            await wait_until(lambda: late.received)
            assert early.received == []
        elif protocol == "on_connect":
            await wait_until(lambda: user.connected)
            assert user.connected == [inner.addr]
        else:
            for addr in list(user.node.connections):
                await user.node.disconnect(addr)
            assert [addr for addr, _ in user.ended] == [inner.addr]


async def test_two_objects_may_share_the_work() -> None:
    """Reading in one codec, writing in another, by different objects."""

    class Speaker:
        def encoder(self, connection: Connection) -> LinesCodec:
            return LinesCodec()

    user = User(enable=["reading"])
    outbox = user.node.enable_writing(Speaker())
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"in frames"))
            await wait_until(lambda: user.received == [b"in frames"])
            outbox.send_nowait(peer.addr, "in lines")
            assert await peer.receive() == b"in lines\n"


async def test_one_object_may_serve_two_nodes() -> None:
    user, second = User(), Node(Config(listener_addr=(LOCALHOST, 0)))
    second.enable_reading(user)
    async with user.node as first, second:
        for node in (first, second):
            with await RawPeer.dial(await node.start_listening()) as peer:
                await peer.send(frame(node.name.encode()))
                await wait_until(lambda: user.received)
                assert user.received.pop() == node.name.encode()


async def test_shared_decoder() -> None:
    """It is documented that each needs one of its own; the node lives."""
    shared = LengthDelimitedCodec()
    user = User()
    user.codec = lambda: shared
    async with user.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as one, await RawPeer.dial(addr) as other:
            await one.send(frame(b"halves")[:7])
            await wait_until(lambda: node.stats.bytes_received == 7)
            await other.send(frame(b"mixed up"))
            await wait_until(lambda: user.received)
        user.codec = LengthDelimitedCodec
        user.received.clear()
        with await RawPeer.dial(addr) as honest:
            await honest.send(frame(b"fine"))
            await wait_until(lambda: user.received == [b"fine"])


@pytest.mark.parametrize(
    "misuse",
    [
        lambda node: node.connect((LOCALHOST, 1)),
        lambda node: node.start_listening(),
        lambda node: node.shut_down(),
        lambda node: node.wait_closed(),
    ],
    ids=["connect", "start_listening", "shut_down", "wait_closed"],
)
async def test_using_a_node_that_was_not_entered_is_a_runtime_error(misuse: Callable[[Node], Any]) -> None:
    with pytest.raises(RuntimeError, match=r"enter|async with"):
        await misuse(Node())


def test_task_before_entering() -> None:
    """Starting a task of a node that was not entered is a runtime error."""
    with pytest.raises(RuntimeError, match="async with"):
        Node().start_soon(checkpoint)


async def test_entering_twice() -> None:
    """Entering a node twice is a runtime error that leaves it running."""
    node = Node()
    async with node:
        with pytest.raises(RuntimeError, match="entered"):
            async with node:
                pass
        assert await node.start_listening()
    with pytest.raises(RuntimeError, match="used once"):
        async with node:
            pass
