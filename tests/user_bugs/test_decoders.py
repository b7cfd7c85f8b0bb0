from __future__ import annotations

import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest

from pea2pea import Connection, DisconnectOrigin
from pea2pea.codecs import LengthDelimitedCodec
from pea2pea.errors import FrameError
from tests.helpers import ALL, RawPeer, User, above_info, frame, told_errors, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pea2pea.codecs import Chunk


class Stubborn(LengthDelimitedCodec):
    """Decodes, but for a peer that says "provoke", to which it does something else."""

    def decode(self, data: Chunk, /) -> Any:
        return self.misbehave() if b"provoke" in bytes(data) else super().decode(data)

    def misbehave(self) -> Any:
        raise NotImplementedError


class Forgetful(Stubborn):
    def misbehave(self) -> Any:
        return None


class Endless(Stubborn):
    def misbehave(self) -> Iterator[bytes]:
        while True:
            yield b"again"


class Slow(Stubborn):
    def misbehave(self) -> Iterator[bytes]:
        time.sleep(0.05)
        yield b"phew"


class Stopping(Stubborn):
    def misbehave(self) -> Any:
        raise StopIteration


class HalfWay(Stubborn):
    def misbehave(self) -> Iterator[bytes]:
        yield b"one"
        yield b"two"
        raise ZeroDivisionError


async def fail_after_a_turn(*_: object) -> None:
    await anyio.lowlevel.checkpoint()
    raise LookupError


@pytest.fixture(params=[None, 3], ids=["backpressure", "drop_beyond"])
def user(request: pytest.FixtureRequest) -> User:
    user = User(enable=ALL - {"handshake", "reading"})
    user.node.enable_reading(user, drop_beyond=request.param)
    return user


async def test_a_decoder_that_returns_nothing_has_a_bug(user: User, caplog: pytest.LogCaptureFixture) -> None:
    user.codec = Forgetful
    async with user.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as honest, await RawPeer.dial(addr) as peer:
            await peer.send(frame(b"provoke"))
            assert await peer.is_refused()
            await honest.send(frame(b"hello"))
            await wait_until(lambda: user.received)
            assert user.sources == [honest.addr]
            assert user.origins == [DisconnectOrigin.READING]
    (error,) = told_errors(caplog)
    assert isinstance(error, TypeError)
    assert str(error) == "decode must return an iterable of messages, not None"


async def a_codec() -> LengthDelimitedCodec:
    return LengthDelimitedCodec()


class HalfACodec:
    decode = encode = None


@pytest.mark.parametrize("factory", ["decoder", "encoder"])
@pytest.mark.parametrize("make", [lambda: None, a_codec, lambda: LengthDelimitedCodec, HalfACodec])
async def test_a_factory_that_returns_no_codec_has_a_bug_that_is_told_so(
    factory: str, make: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    class Careless(User):
        def decoder(self, connection: Connection) -> Any:
            return make() if factory == "decoder" else super().decoder(connection)

        def encoder(self, connection: Connection) -> Any:
            return make() if factory == "encoder" else super().encoder(connection)

    user = Careless()
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            assert await peer.is_refused()
            await wait_until(lambda: user.ended)
            assert user.origins == [DisconnectOrigin.READING if factory == "decoder" else DisconnectOrigin.WRITING]
            assert user.connected == [addr for addr, _ in user.ended]
    (error,) = told_errors(caplog)
    assert node.heuristics.hook_errors == 1
    assert str(error).startswith(f"{factory} must return an instance with a method {factory.removesuffix('r')}, not ")
    assert factory in above_info(caplog)[0].getMessage()


async def test_endless_decoder(user: User) -> None:
    """A decoder that yields for ever starves nobody and can be disconnected."""
    user.codec = Endless
    async with user.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as honest, await RawPeer.dial(addr) as peer:
            await peer.send(frame(b"provoke"))
            await wait_until(lambda: b"again" in user.received)
            await honest.send(frame(b"hello"))
            await wait_until(lambda: b"hello" in user.received)
            assert await node.disconnect(peer.addr)
            assert await peer.is_refused()
            assert user.ended == [(peer.addr, DisconnectOrigin.USER)]
            assert list(node.connections) == [honest.addr]
    assert node.heuristics.hook_errors == 0


async def test_endless_decoder_at_shutdown(user: User) -> None:
    """A decoder that yields for ever does not keep the node from shutting down."""
    user.codec = Endless
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"provoke"))
            await wait_until(lambda: user.received)
            await node.shut_down()
            assert user.ended == [(peer.addr, DisconnectOrigin.SHUTDOWN)]


async def test_endless_decoder_and_a_reset(user: User) -> None:
    """A decoder that yields for ever ends with a peer that resets."""

    async def wait(_: Connection, __: bytes) -> None:
        await anyio.lowlevel.checkpoint()

    user.codec = Endless
    user.handle = wait  # so that somebody reads meanwhile
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"provoke"))
            await wait_until(lambda: user.received)
            peer.reset()
            await wait_until(lambda: not node.connections)
            assert user.origins == [DisconnectOrigin.READING]


async def test_decoder_that_blocks(user: User) -> None:
    """A decoder that blocks for a moment loses nothing and ends nothing."""
    user.codec = Slow
    async with user.node as node:
        addr = await node.start_listening()
        with await RawPeer.dial(addr) as honest, await RawPeer.dial(addr) as peer:
            await peer.send(frame(b"provoke"))
            await honest.send(frame(b"hello") * 1000)
            await wait_until(lambda: len(user.received) == 1001)
            assert user.received.count(b"phew") == 1
            assert len(node.connections) == 2


async def test_a_decoder_that_raises_stop_iteration_has_a_bug(user: User, caplog: pytest.LogCaptureFixture) -> None:
    user.codec = Stopping
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"provoke"))
            assert await peer.is_refused()
    assert len(told_errors(caplog)) == 1


async def test_what_a_decoder_yields_before_it_raises_is_processed(
    user: User, caplog: pytest.LogCaptureFixture
) -> None:
    user.codec = HalfWay
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"provoke"))
            assert await peer.is_refused()
            assert user.received == [b"one", b"two"]
    (error,) = told_errors(caplog)
    assert isinstance(error, ZeroDivisionError)


class Unclosable(Stubborn):
    def misbehave(self) -> Iterator[bytes]:
        try:
            yield from (b"one", b"two", b"three", b"four", b"five")
        finally:
            raise ZeroDivisionError


PLACE: ContextVar[str] = ContextVar("PLACE", default="outside")


class Scoped(Stubborn):
    def misbehave(self) -> Iterator[bytes]:
        token = PLACE.set("inside")
        try:
            yield from (b"one", b"two", b"three", b"four", b"five")
        finally:
            PLACE.reset(token)


class Wrapping(Stubborn):
    def misbehave(self) -> Iterator[bytes]:
        try:
            yield from (b"one", b"two", b"three", b"four", b"five")
        except BaseException as error:
            raise FrameError("whatever it is") from error


class OwnIterator(Stubborn):
    """Is its own iterator, which serves for all connections."""

    close = False
    rest = 0

    def misbehave(self) -> Any:
        self.rest = 5
        return self

    def __iter__(self) -> OwnIterator:
        return self

    def __next__(self) -> bytes:
        if not self.rest:
            raise StopIteration
        self.rest -= 1
        return b"again"


@pytest.mark.parametrize(
    ("codec", "raised"), [(Unclosable, [ZeroDivisionError]), (Scoped, []), (Wrapping, []), (OwnIterator, [])]
)
async def test_what_a_generator_raises_that_is_closed_early_is_told(
    codec: type[Stubborn], raised: list[type[Exception]], user: User, caplog: pytest.LogCaptureFixture
) -> None:
    """It is closed in its connection's context, not by chance; what it makes of that is not the peer's fault."""
    user.codec = codec
    user.handle = fail_after_a_turn
    async with user.node as node:
        with await RawPeer.dial(await node.start_listening()) as peer:
            await peer.send(frame(b"provoke"))
            assert await peer.is_refused()
        assert [type(error) for error in told_errors(caplog)] == [LookupError, *raised]
        assert node.heuristics.decode_errors == 0
