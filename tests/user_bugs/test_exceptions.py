from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import BrokenResourceError

from pea2pea import Connection, DisconnectOrigin, HandshakeError, HandshakeTimeoutError, Node, _clock
from pea2pea.codecs import LengthDelimitedCodec
from tests.helpers import ALL, RawPeer, User, above_info, connect, frame, told_errors, two_nodes, wait_until

from .flawed import HARMLESS, ORIGINS, PLACES, Flawed, Spoiled, is_served, provoked

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteStream


class CustomError(Exception):
    pass


class SpeechlessError(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("nor does it tell what it is")


def raising(error: BaseException) -> Callable[[], object]:
    def fail() -> object:
        raise error

    return fail


@pytest.mark.parametrize("place", PLACES)
async def test_record_of_an_exception(place: str, caplog: pytest.LogCaptureFixture) -> None:
    """An exception is told once with its traceback and harms nobody else."""
    error = CustomError("of the user's")
    user = Flawed(place, raising(error))
    async with provoked(user) as (honest, _):
        await wait_until(lambda: user.node.heuristics.hook_errors)
        assert await is_served(user, honest)
        assert user.node.heuristics.hook_errors == 1
    assert told_errors(caplog) == [error]
    (record,) = above_info(caplog)
    assert record.levelno == logging.ERROR
    assert place.split(" of ", maxsplit=1)[0] in record.getMessage()


@pytest.mark.parametrize("place", ORIGINS)
async def test_exception_of_a_hook(place: str) -> None:
    """An exception ends its connection with the origin of the hook."""
    error = CustomError("of the user's")
    user = Flawed(place, raising(error))
    causes: list[Exception | None] = []

    async def note(connection: Connection, _: DisconnectOrigin) -> None:
        causes.append(connection.cause)

    user.part = note
    async with provoked(user) as (honest, victim):
        await wait_until(lambda: user.ended and list(user.node.connections) == [honest.addr])
        with suppress(ConnectionResetError):  # what it had sent may not have been read
            await victim.receive_all()
        assert user.ended == [(victim.addr, ORIGINS[place])]
        assert causes == [None if place == "on_connect" else error]


@pytest.mark.parametrize("place", [place for place in HARMLESS if place != "on_disconnect"])
async def test_exception_of_a_background_task(place: str) -> None:
    """An exception in a background task leaves the connection alone."""
    user = Flawed(place, raising(CustomError()))
    async with provoked(user) as (_, victim):
        await wait_until(lambda: user.node.heuristics.hook_errors)
        assert await is_served(user, victim)


async def test_exception_of_on_disconnect() -> None:
    """An exception in on disconnect does not keep the connection from being removed."""
    user = Flawed("on_disconnect", raising(CustomError()))
    async with provoked(user) as (honest, victim):
        await wait_until(lambda: user.ended and list(user.node.connections) == [honest.addr])
        assert user.ended == [(victim.addr, DisconnectOrigin.READING)]


@pytest.mark.parametrize("place", ["decode", "on_connect"])
async def test_an_exception_whose_repr_raises_is_told_all_the_same(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    user = Flawed(place, raising(SpeechlessError()))
    async with provoked(user) as (honest, _):
        await wait_until(lambda: user.node.heuristics.hook_errors)
        assert await is_served(user, honest)
    assert [type(error) for error in told_errors(caplog)] == [SpeechlessError]


@pytest.mark.parametrize("place", ["on_connect", "process_message", *HARMLESS])
async def test_exception_during_a_cancellation(place: str, caplog: pytest.LogCaptureFixture) -> None:
    """An exception during the cancellation of a hook is told and harms nobody."""
    stalled = anyio.Event()

    async def fail_when_cancelled() -> None:
        try:
            stalled.set()
            await anyio.sleep_forever()
        finally:
            raise CustomError

    async def stall() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail_when_cancelled)

    user = Flawed(place, stall=stall)
    async with provoked(user) as (honest, victim):
        await stalled.wait()
        if place != "background task of the node":
            with anyio.move_on_after(0):
                await user.node.disconnect(victim.addr)
            if place == "on_disconnect":  # give up waiting for it
                user.node._admission.established[victim.addr].tighten_deadline(anyio.current_time())
            await wait_until(lambda: user.node.heuristics.hook_errors)
            assert await is_served(user, honest)
    assert user.node.heuristics.hook_errors == 1
    (group,) = told_errors(caplog)
    assert [type(error) for error in group.exceptions] == [CustomError]  # type: ignore[attr-defined]  # an exception group


@pytest.mark.parametrize("place", PLACES)
async def test_repeated_bug(place: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bug is told at most once a second but counted every time."""
    now = 1000.0
    monkeypatch.setattr(_clock, "now", lambda: now)
    user = Flawed(place, raising(CustomError()))
    user.armed = True

    async def provoke_another(count: int) -> None:
        assert user.node.listening_addr is not None
        with await RawPeer.dial(user.node.listening_addr) as victim:
            await user.provoke(victim)
            await wait_until(lambda: user.node.heuristics.hook_errors == count)

    async with user.node as node:
        await node.start_listening()
        for count in range(1, 5):
            await provoke_another(count)
        assert len(above_info(caplog)) == 1
        user.fail = raising(ZeroDivisionError())
        await provoke_another(5)
        assert len(above_info(caplog)) == 2
        user.fail = raising(CustomError())
        now += 1.1
        await provoke_another(6)
        assert len(above_info(caplog)) == 3
        assert "3 like it" in above_info(caplog)[-1].getMessage()
        user.armed = False


async def test_an_exception_of_encode_is_the_callers_business(caplog: pytest.LogCaptureFixture) -> None:
    error = CustomError("cannot be said")
    user, peer = Flawed("encode", raising(error)), User()
    async with two_nodes(peer, user) as (_, connection):
        user.armed = True
        with pytest.raises(CustomError):
            user.outbox.send_nowait(connection, b"never sent")
        with pytest.raises(CustomError):
            await user.outbox.send(connection, b"never sent")
        with pytest.raises(CustomError):
            await user.outbox.deliver(connection, b"never sent")
        assert user.outbox.broadcast(b"never sent") == {connection: error}
        assert user.outbox.pending(connection) == 0
        user.armed = False
        user.outbox.send_nowait(connection, b"sent")
        await wait_until(lambda: peer.received)
        assert peer.received == [b"sent"]
        assert connection.stats.messages_sent == 1
    assert user.node.heuristics.hook_errors == 0
    assert not above_info(caplog)


@pytest.mark.parametrize("nonsense", [None, "text", 7, ["a", "list"], (b"a part", "and text"), object()])
async def test_a_frame_that_is_none_is_a_type_error_of_the_caller(nonsense: Any) -> None:
    user, peer = User(), User()

    class Encoder(LengthDelimitedCodec):
        def encode(self, message: bytes, /) -> Any:
            return nonsense if message == b"nonsense" else super().encode(message)

    user.codec = Encoder
    async with two_nodes(peer, user) as (_, connection):
        for _ in range(2):
            with pytest.raises(TypeError):
                user.outbox.send_nowait(connection, b"nonsense")
            user.outbox.send_nowait(connection, b"sense")
        await wait_until(lambda: len(peer.received) == 2)
        assert peer.received == [b"sense", b"sense"]


async def test_exception_of_encode_in_a_handler(caplog: pytest.LogCaptureFixture) -> None:
    """An exception of encode that leaves process message is a bug there."""
    error = CustomError("cannot be said")
    user = Flawed("encode", raising(error))
    async with provoked(user) as (honest, victim):
        await wait_until(lambda: user.ended and list(user.node.connections) == [honest.addr])
        assert user.ended == [(victim.addr, DisconnectOrigin.READING)]
    assert told_errors(caplog) == [error]


@pytest.mark.parametrize("side", ["initiator", "responder"])
async def test_exception_of_a_handshake(side: str, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in perform handshake refuses the peer and is no bug."""
    caplog.set_level(logging.DEBUG, "pea2pea")
    error = CustomError("I do not like it")
    flawed, fine = Flawed("perform_handshake", raising(error)), User()
    flawed.armed = True
    async with flawed.node, fine.node:
        if side == "initiator":
            with pytest.raises(HandshakeError) as caught:
                await connect(flawed, fine)
            assert caught.value.__cause__ is error
        else:
            assert flawed.node.listening_addr is None
            with await RawPeer.dial(await flawed.node.start_listening()) as peer:
                assert await peer.is_refused()
        await wait_until(lambda: not flawed.node.connecting)
        assert flawed.node.heuristics.handshake_failures == 1
        assert not flawed.node.connections
    assert flawed.node.heuristics.hook_errors == 0
    assert flawed.ended == []
    assert not above_info(caplog)
    assert "a handshake failed" in caplog.text


async def test_exception_at_the_handshake_timeout() -> None:
    """A handshake that answers its timeout with another exception has timed out."""

    async def shake_hands(_: Connection, stream: ByteStream) -> ByteStream:
        try:
            await anyio.sleep_forever()
        except BaseException as error:
            raise CustomError from error
        return stream

    user, peer = User(enable=ALL - {"handshake"}), User()
    user.node.enable_handshake(user, timeout=0.01)
    user.shake_hands = shake_hands
    async with user.node, peer.node:
        with pytest.raises(HandshakeTimeoutError):
            await connect(user, peer)
    assert user.node.heuristics.handshake_timeouts == user.node.heuristics.handshake_failures == 1


@pytest.mark.parametrize("nothing", [None, "a stream", b"", object()])
async def test_a_handshake_that_returns_no_stream_is_a_bug(nothing: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def shake_hands(_: Connection, __: ByteStream) -> Any:
        return nothing

    user, peer = User(enable=ALL), User()
    user.shake_hands = shake_hands
    async with user.node, peer.node:
        with pytest.raises(HandshakeError):
            await connect(user, peer)
        assert not user.node.connecting
    assert user.node.heuristics.hook_errors == user.node.heuristics.handshake_failures == 1
    (error,) = told_errors(caplog)
    assert isinstance(error, TypeError)
    assert repr(nothing) in str(error)


class Sync:
    """Hooks that somebody forgot to make async."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def perform_handshake(self, connection: Connection, stream: ByteStream) -> ByteStream:
        self.called.append("perform_handshake")
        return stream

    def decoder(self, *_: object) -> LengthDelimitedCodec:
        return LengthDelimitedCodec()

    def process_message(self, source: Connection, message: bytes) -> None:
        self.called.append("process_message")

    def on_connect(self, connection: Connection) -> None:
        self.called.append("on_connect")

    def on_disconnect(self, connection: Connection, origin: DisconnectOrigin) -> None:
        self.called.append("on_disconnect")

    def background(self) -> None:
        self.called.append("background task Sync.background")


@pytest.mark.parametrize("place", ["perform_handshake", "process_message", "on_connect", "on_disconnect", "start_soon"])
async def test_a_hook_that_is_not_async_is_a_bug(place: str, caplog: pytest.LogCaptureFixture) -> None:
    node, sync = Node(), Sync()
    hooks: Any = sync
    async with node:
        if place == "perform_handshake":
            node.enable_handshake(hooks)
        elif place == "process_message":
            node.enable_reading(hooks)
        elif place == "on_connect":
            node.enable_on_connect(hooks)
        elif place == "on_disconnect":
            node.enable_on_disconnect(hooks)
        with await RawPeer.dial(await node.start_listening()) as peer:
            if place == "start_soon":
                node.start_soon(hooks.background)
            else:
                await peer.send(frame(b"hello"))
                if place == "on_disconnect":  # all others end the connection by themselves
                    peer.half_close()
                assert await peer.is_refused()
            await wait_until(lambda: node.heuristics.hook_errors)
    assert node.heuristics.hook_errors == 1
    (error,) = told_errors(caplog)
    assert isinstance(error, TypeError)
    assert sync.called[0] in above_info(caplog)[0].getMessage()


@pytest.mark.parametrize("where", ["receive", "send"])
@pytest.mark.parametrize("error", [CustomError(), ValueError(), BrokenResourceError(), OSError()])
async def test_an_exception_of_a_stream_is_the_peers_doing(
    where: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def shake_hands(_: Connection, stream: ByteStream) -> ByteStream:
        return Spoiled(stream, error, where=where)

    user = User(enable=ALL)
    user.shake_hands = shake_hands
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await wait_until(lambda: node.connections)
            connection = user.only
            if where == "receive":
                await peer.send(frame(b"hello"))
            else:
                user.outbox.send_nowait(connection, b"hello")
            await wait_until(lambda: user.ended)
            assert user.origins == [DisconnectOrigin.READING if where == "receive" else DisconnectOrigin.WRITING]
            assert connection.cause is error
    assert user.node.heuristics.hook_errors == 0
    assert not above_info(caplog)
