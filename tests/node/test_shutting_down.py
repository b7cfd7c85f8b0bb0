"""The block and its end: whoever asks for it, whatever is going on, nothing stays behind."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.abc import SocketAttribute
from anyio.lowlevel import checkpoint

from pea2pea import Config, Connection, DisconnectOrigin, HandshakeError, Node, NodeClosedError, Side

from ..helpers import (
    LOCALHOST,
    Gate,
    MemoryNetwork,
    RawListener,
    RawPeer,
    User,
    connect,
    frame,
    memory_pair,
    running_tasks,
    turns,
    two_nodes,
    wait_until,
)

if TYPE_CHECKING:
    import socket

    from anyio.abc import ByteStream

    from pea2pea import Address

SHUTDOWN = DisconnectOrigin.SHUTDOWN


def raw_socket(connection: Connection) -> socket.socket:
    return connection.extra(SocketAttribute.raw_socket)


# Leaving the block


async def test_leaving_the_block() -> None:
    """Leaving the block disconnects everybody and leaves nothing."""
    user = User()
    before = running_tasks()
    with RawListener.open() as listener:
        async with user.node as node:
            addr = await node.start_listening()
            with await RawPeer.dial(addr) as inbound:
                await node.connect(listener.addr)
                outbound = await listener.accept()
                await wait_until(lambda: len(node.connections) == 2 and len(user.connected) == 2)
                sockets = [raw_socket(connection) for connection in node.connections.values()]
                inbound.half_close()  # so as to spare the test the wait for them
                outbound.half_close()
                await checkpoint()
        outbound.close()
    assert not node.connections
    assert not node.connecting
    assert node.listening_addr is None
    assert len(user.ended) == 2
    assert [sock.fileno() for sock in sockets] == [-1, -1]
    assert running_tasks() == before
    with pytest.raises(ConnectionRefusedError):
        await RawPeer.dial(addr)


async def test_the_origin_is_shutdown_here_and_reading_there() -> None:
    dialler, responder = User(), User()
    async with responder.node:
        async with dialler.node:
            await connect(dialler, responder)
        assert dialler.origins == [SHUTDOWN]
        await wait_until(lambda: responder.origins == [DisconnectOrigin.READING])


async def test_an_exception_in_the_body_comes_out_as_itself() -> None:
    dialler, responder = User(), User()
    error = ZeroDivisionError("the body's own")

    async def run() -> None:
        async with dialler.node:
            await connect(dialler, responder)
            raise error

    async with responder.node:
        with pytest.raises(ZeroDivisionError) as caught:
            await run()
        assert caught.value is error
        assert caught.value.__context__ is None
        assert dialler.origins == [SHUTDOWN]
        assert not dialler.node.connections


async def test_an_exception_group_in_the_body_comes_out_as_itself() -> None:
    group: list[BaseException] = []

    async def run() -> None:
        async with User().node:
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(anyio.sleep_forever)
                    raise ZeroDivisionError("one")
            except BaseException as error:
                group.append(error)
                raise

    with pytest.raises(BaseException, match=r"unhandled|nursery") as caught:
        await run()
    assert caught.value is group[0]


async def test_a_cancellation_of_the_body_goes_through() -> None:
    dialler, responder = User(), User()
    async with responder.node:
        with anyio.CancelScope() as scope:
            async with dialler.node:
                await connect(dialler, responder)
                dialler.outbox.send_nowait(dialler.only, b"not lost")
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert dialler.origins == [SHUTDOWN]
        await wait_until(lambda: responder.origins == [DisconnectOrigin.READING])
        assert responder.received == [b"not lost"]


async def test_an_outer_timeout_goes_through() -> None:
    dialler, responder = User(), User()

    async def run() -> None:
        with anyio.fail_after(0.05):
            async with dialler.node:
                await connect(dialler, responder)
                await anyio.sleep_forever()

    async with responder.node:
        with pytest.raises(TimeoutError):
            await run()
        assert dialler.origins == [SHUTDOWN]
        assert not dialler.node.connections


async def test_cancelled_scope_around_the_block() -> None:
    """Hooks have their time although everything around them is cancelled."""
    dialler, responder = User(), User()
    hooks: list[str] = []

    async def part(connection: Connection, _: DisconnectOrigin) -> None:
        await turns()
        await dialler.outbox.send(connection, b"last words")
        hooks.append("done")

    dialler.part = part
    async with responder.node:
        with anyio.CancelScope() as scope:
            async with dialler.node:
                await connect(dialler, responder)
                scope.cancel()
        await wait_until(lambda: responder.received == [b"last words"])
    assert hooks == ["done"]


async def test_tasks_of_the_body_end_with_the_body() -> None:
    """The block and a task group, either way round."""
    dialler, responder = User(), User()
    async with responder.node:
        async with dialler.node, anyio.create_task_group() as tasks:
            await connect(dialler, responder)
            tasks.start_soon(anyio.sleep_forever)
            tasks.cancel_scope.cancel()
        dialler = User()
        async with anyio.create_task_group() as tasks, dialler.node:
            await connect(dialler, responder)
            tasks.start_soon(anyio.sleep_forever)
            tasks.cancel_scope.cancel()
        assert dialler.origins == [SHUTDOWN]


async def test_a_block_left_at_once_is_no_trouble() -> None:
    for _ in range(10):
        async with Node():
            pass
        async with Node() as node:
            await node.start_listening()


async def test_a_block_entered_under_cancellation_is_no_trouble() -> None:
    user = User()
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with user.node as node:
            await node.start_listening()
    assert scope.cancelled_caught
    assert node.listening_addr is None


async def test_set_ups_in_progress_are_given_up() -> None:
    user = User(enable={"handshake", "on_disconnect"})

    async def shake_hands(_: Connection, stream: ByteStream) -> ByteStream:
        await stream.receive()
        return stream

    user.shake_hands = shake_hands
    with RawListener.open() as listener:
        errors: list[Exception] = []
        async with anyio.create_task_group() as tasks:

            async def dial() -> None:
                try:
                    await user.node.connect(listener.addr)
                except NodeClosedError as error:
                    errors.append(error)

            async with user.node as node:
                with await RawPeer.dial(await node.start_listening()):
                    tasks.start_soon(dial)
                    await wait_until(lambda: len(user.shaken) == 2)
                    await node.shut_down()
                    assert not node.connecting
        assert len(errors) == 1
    assert not user.ended


async def test_a_dial_in_progress_is_given_up() -> None:
    class Deaf(MemoryNetwork):
        async def resolve(self, addr: Address) -> list[Address]:
            return [addr]

        async def dial(self, addr: Address) -> ByteStream:
            await anyio.sleep_forever()
            raise AssertionError

        async def listen(self, addr: Address, *, backlog: int, reuse_port: bool) -> None:
            raise NotImplementedError

    node = Node(transport=Deaf())  # type: ignore[arg-type]  # it never listens
    async with anyio.create_task_group() as tasks, node:

        async def dial() -> None:
            with pytest.raises(NodeClosedError):
                await node.connect((LOCALHOST, 7))

        tasks.start_soon(dial)
        await wait_until(lambda: node.connecting)


# Entering


async def test_a_node_is_entered_once() -> None:
    node = Node()
    async with node:
        with pytest.raises(RuntimeError, match="entered"):
            async with node:
                pass
        await node.start_listening()
    with pytest.raises(RuntimeError, match="entered"):
        async with node:
            pass


async def test_a_refused_second_entry_harms_nobody() -> None:
    dialler, responder = User(), User()
    async with two_nodes(dialler, responder) as (ours, _):
        with pytest.raises(RuntimeError, match="entered"):
            async with dialler.node:
                pass
        dialler.outbox.send_nowait(ours, b"still there?")
        await wait_until(lambda: responder.received == [b"still there?"])


def test_a_node_can_be_made_without_an_event_loop() -> None:
    user = User()
    assert user.node.name
    assert not user.node.connections


async def test_a_node_that_was_never_entered_leaves_nothing() -> None:
    """No warning of a coroutine that was never awaited, no socket."""
    User()


# shut_down


async def test_shut_down_ends_the_node_but_not_the_block() -> None:
    dialler, responder = User(), User()
    async with responder.node, dialler.node as node:
        ours, _ = await connect(dialler, responder)
        addr = await node.start_listening()
        await node.shut_down()
        assert not node.connections
        assert not node.connecting
        assert node.listening_addr is None
        assert dialler.origins == [SHUTDOWN]
        with pytest.raises(NodeClosedError):
            await node.connect(ours.addr)
        with pytest.raises(NodeClosedError):
            await node.start_listening()
        with pytest.raises(NodeClosedError):
            node.start_soon(anyio.sleep, 0)
        with pytest.raises(ConnectionRefusedError):
            await RawPeer.dial(addr)
        await node.shut_down()
        await node.stop_listening()
        assert await node.disconnect(ours) is False
    await node.shut_down()


async def test_concurrent_shut_downs_wait_for_the_same_one() -> None:
    dialler, responder = User(), User()
    go_on = anyio.Event()
    returned: list[int] = []

    async def part(*_: object) -> None:
        await go_on.wait()

    async def shut_down(number: int) -> None:
        await dialler.node.shut_down()
        assert not dialler.node.connections
        returned.append(number)

    async def wait_closed() -> None:
        await dialler.node.wait_closed()
        returned.append(-1)

    dialler.part = part
    async with two_nodes(dialler, responder), anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(shut_down, number)
        tasks.start_soon(wait_closed)
        await anyio.wait_all_tasks_blocked()
        assert not returned
        assert dialler.node.connections
        go_on.set()
        await wait_until(lambda: sorted(returned) == [-1, 0, 1, 2])
    assert len(dialler.ended) == 1


async def test_a_shut_down_that_is_cancelled_concludes() -> None:
    dialler, responder = User(), User()
    dialler.part = gate = Gate()
    async with two_nodes(dialler, responder):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(dialler.node.shut_down)
                await wait_until(lambda: dialler.ended)
                scope.cancel()
        with pytest.raises(NodeClosedError):
            await dialler.node.connect((LOCALHOST, 7))
        gate.opened.set()
        await dialler.node.shut_down()
        assert not dialler.node.connections
    assert dialler.origins == [SHUTDOWN]


async def test_shut_down_while_the_block_is_left() -> None:
    dialler, responder = User(), User()
    go_on = anyio.Event()

    async def part(*_: object) -> None:
        go_on.set()
        await checkpoint()

    dialler.part = part

    async def shut_down() -> None:
        await go_on.wait()
        await dialler.node.shut_down()
        assert not dialler.node.connections

    async with responder.node, anyio.create_task_group() as tasks:
        tasks.start_soon(shut_down)
        async with dialler.node:
            await connect(dialler, responder)


async def test_wait_closed_waits_for_whoever_shuts_down() -> None:
    node = Node()
    states: list[str] = []

    async def wait() -> None:
        await node.wait_closed()
        states.append("closed")

    async with anyio.create_task_group() as tasks:
        async with node:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert not states
        await wait_until(lambda: states == ["closed"])


HOOKS = ["handshake", "process_message", "on_connect", "on_disconnect", "Connection.start_soon", "Node.start_soon"]


@pytest.mark.parametrize("hook", HOOKS)
async def test_shut_down_can_be_called_from_inside(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    user = User(enable={"handshake", "reading", "on_connect", "on_disconnect"})
    called: list[str] = []

    async def shut_down(*_: object) -> None:
        called.append(hook)
        await user.node.shut_down()

    async def shake_hands(_: Connection, stream: ByteStream) -> ByteStream:
        await shut_down()
        return stream

    async def end(connection: Connection) -> None:
        await user.node.disconnect(connection)

    if hook == "handshake":
        user.shake_hands = shake_hands
    elif hook == "process_message":
        user.handle = shut_down
    elif hook == "on_connect":
        user.greet = shut_down
    elif hook == "on_disconnect":
        user.part = shut_down
        user.greet = end
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            if hook == "Node.start_soon":
                node.start_soon(shut_down)
            elif hook == "Connection.start_soon":
                await wait_until(lambda: node.connections)
                user.only.start_soon(shut_down)
            await peer.send(frame(b"shut down"))
            peer.half_close()
            await node.wait_closed()
            assert not node.connections
            assert not node.connecting
    assert called == [hook]
    assert user.node.heuristics.hook_errors == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("hook", ["process_message", "on_connect"])
async def test_a_node_may_shut_another_one_down_from_its_hook(hook: str) -> None:
    dialler, responder = User(), User()
    after: list[int] = []

    async def shut_down(*_: object) -> None:
        await wait_until(lambda: dialler.node.connections)  # either end may be the first to have established it
        await dialler.node.shut_down()  # not its own: it is waited for
        after.append(len(dialler.node.connections))

    if hook == "process_message":
        responder.handle = shut_down
    else:
        responder.node = Node()
        responder.node.enable_on_connect(responder, abortable=False)
        responder.greet = shut_down
    async with responder.node, dialler.node as node:
        ours = await node.connect(await responder.node.start_listening())
        if hook == "process_message":
            dialler.outbox.send_nowait(ours, b"shut down")
        await node.wait_closed()
        await wait_until(lambda: after == [0])


# The grace period


async def test_the_grace_period_bounds_the_whole_end() -> None:
    """Hooks that never return, a queue that is never taken, a goodbye that is never answered: all at once."""
    user = User(Config(grace_period=0.2), enable={"reading", "writing"})
    user.node.enable_on_disconnect(user, timeout=100)
    user.node.enable_on_connect(user, abortable=False)

    async def never(*_: object) -> None:
        await anyio.sleep_forever()

    user.part = user.greet = never
    before = anyio.current_time()
    with RawListener.open(receive_buffer=4096) as listener:
        async with user.node as node:
            for _ in range(3):
                with RawListener.open() as other:
                    await node.connect(other.addr)
            connection = await node.connect(listener.addr)
            user.outbox.send_nowait(connection, bytes(8_000_000))
    assert anyio.current_time() - before >= 0.2
    assert not node.connections
    assert user.origins.count(SHUTDOWN) == 4 - user.origins.count(DisconnectOrigin.READING)


async def test_a_shutdown_bounds_what_is_still_to_be_processed() -> None:
    """After a peer's clean close each message has a grace period of its own; in a shutdown they share one."""
    user = User(Config(grace_period=0.2))
    peers: list[RawPeer] = []

    async def handle(*_: object) -> None:
        await anyio.sleep(0.05)  # not all can be processed within the grace period, which is a time

    user.handle = handle
    async with user.node as node:
        peers.append(await RawPeer.dial(await node.start_listening()))
        await peers[0].send(frame(b"hello") * 500)
        peers[0].half_close()
        await wait_until(lambda: node.connections and "READING" in repr(user.only))
    assert 1 <= len(user.received) < 500
    assert user.origins == [DisconnectOrigin.READING]
    peers[0].close()


async def test_without_a_grace_period_nothing_is_waited_for() -> None:
    user = User(Config(grace_period=0))
    hooks: list[str] = []

    async def part(*_: object) -> None:
        hooks.append("begun")
        await anyio.sleep_forever()

    user.part = part
    async with user.node as node:
        ours, _theirs = memory_pair()
        await node.adopt(ours, ("a name", 7), Side.RESPONDER)
    assert hooks == ["begun"]
    assert ours.closed


async def test_a_peer_that_stays_silent_does_not_hold_the_end_up() -> None:
    """With a grace period of a minute, this ends: all that was sent has been acknowledged by the peer's kernel."""
    user = User(Config(grace_period=60))
    with RawListener.open() as listener:
        async with user.node as node:
            connection = await node.connect(listener.addr)
            peer = await listener.accept()
            user.outbox.send_nowait(connection, b"last words")
        assert await peer.receive_message() == b"last words"
        assert await peer.receive() == b""
        peer.close()
    assert user.origins == [SHUTDOWN]


# Interruptions


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_interrupt_of_the_body(anyio_backend: tuple[str, dict[str, Any]], error: BaseException) -> None:
    """An interruption of the body comes out after everything is closed."""
    dialler, responder = User(), User()
    states: list[tuple[int, list[DisconnectOrigin]]] = []

    async def main() -> None:
        async with responder.node:
            try:
                async with dialler.node:
                    await connect(dialler, responder)
                    raise error
            except BaseException:
                states.append((len(dialler.node.connections), dialler.origins))
                raise

    with pytest.raises(type(error)) as caught:
        anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
    assert caught.value is error
    assert states == [(0, [SHUTDOWN])]


CTRL_C = """
import asyncio, os, sys
import anyio
from pea2pea import Node

class User:
    def __init__(self):
        self.node = Node()
        self.node.enable_on_disconnect(self)

    async def on_disconnect(self, addr, origin):
        for _ in range(10):  # so that the interruption does not find it done
            await anyio.lowlevel.checkpoint()
        print("on_disconnect", origin.name, flush=True)

async def main():
    async with Node() as other, User().node as node:
        await node.connect(await other.start_listening())
        await anyio.wait_all_tasks_blocked()  # trio interrupts the task that runs, and only if none does, this one
        print("ready", flush=True)
        await anyio.sleep_forever()

def sockets():
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink("/proc/self/fd/" + name))
        except FileNotFoundError:
            pass
    return sum(target.startswith("socket:") for target in found)

before = sockets()
try:
    anyio.run(main, backend=sys.argv[1], backend_options={"use_uvloop": True} if sys.argv[2:] else None)
except (KeyboardInterrupt, asyncio.CancelledError):  # that is what AnyIO makes of it on asyncio and Python 3.10
    print("interrupted with", sockets() - before, "sockets open", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("loop", [("asyncio",), ("asyncio", "uvloop"), ("trio",)], ids=" ".join)
def test_ctrl_c_is_an_orderly_end(loop: list[str]) -> None:
    with subprocess.Popen(  # noqa: S603  # our own program
        [sys.executable, "-W", "error", "-c", CTRL_C, *loop], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        program.send_signal(signal.SIGINT)
        try:
            out, err = program.communicate(timeout=30)
        finally:
            program.kill()
    assert (out, err) == ("on_disconnect SHUTDOWN\ninterrupted with 0 sockets open\n", "")


# Other ends


async def test_a_failed_handshake_at_the_end_is_no_error_of_the_block() -> None:
    dialler, responder = User(enable={"handshake"}), User()

    async def refuse(_: Connection, __: ByteStream) -> ByteStream:
        raise PermissionError("not you")

    dialler.shake_hands = refuse
    async with responder.node, dialler.node:
        addr = await responder.node.start_listening()
        with pytest.raises(HandshakeError):
            await dialler.node.connect(addr)


async def test_every_task_of_a_node_is_named() -> None:
    dialler, responder = User(Config(name="dialler")), User(Config(name="responder", grace_period=0.1))

    async def handle(*_: object) -> None:
        await anyio.sleep_forever()

    responder.handle = handle
    before = running_tasks()
    async with two_nodes(dialler, responder) as (ours, _):
        dialler.outbox.send_nowait(ours, b"hello")
        await wait_until(lambda: responder.received)
        names = running_tasks() - before
        assert len(names) >= 4
        assert all(name.startswith("pea2pea ") for name in names), names
        assert any("dialler" in name for name in names)
        assert any("responder" in name for name in names)
