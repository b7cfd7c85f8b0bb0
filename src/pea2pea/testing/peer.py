"""A peer that follows a script, for conformance tests of any node, written with this library or not."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Generic, TypeVar

import anyio
from anyio import EndOfStream, Event
from anyio.abc import ByteStream

from .._address import Address
from ..codecs import Codec
from ..handshakes import MessageStream
from ..transport import Listener, TCPStream, TCPTransport, Transport

__all__ = ["ScriptedPeer"]

M = TypeVar("M")
E = TypeVar("E")


class ScriptedPeer(anyio.AsyncContextManagerMixin, Generic[M]):
    """One end of a connection, with a codec and no node: it sends what a test tells it to, and notes what comes.

    Use it as `async with ScriptedPeer(stream, codec) as peer:`, or make one with `dial` or `accept`, over TCP or a
    simulated host. In the block it receives all the time; leaving the block closes the stream, and what the block
    raises comes out as it is.
    """

    def __init__(self, stream: ByteStream, codec: Codec[M]) -> None:
        self.stream: Final[ByteStream] = stream
        """Its stream, for what a test wants to do with that by hand; receiving is the peer's business."""
        self.received: Final[list[M]] = []
        """All messages that have come, in order."""
        self.replies: Final[dict[type, Callable[[Any], Iterable[M]]]] = {}
        """What to send at once when a message of a type comes: `peer.replies[Ping] = lambda ping: [Pong(ping.id)]`.

        An empty list answers nothing. A message of a subclass is answered as one of the first type that fits.
        """
        self.cause: Exception | None = None
        """Why no more will come: None after the node's clean end, or as long as the connection lives.

        `FrameError` or whatever else the codec or a reply has raised; `BrokenResourceError` after a reset.
        """
        self._messages = MessageStream(stream, codec)
        self._unexpected: list[M] = []  # what no `expect` has returned
        self._has_ended = False
        self._changed = Event()

    @classmethod
    @asynccontextmanager
    async def dial(
        cls, addr: Address, codec: Codec[M], *, transport: Transport | None = None
    ) -> AsyncGenerator[ScriptedPeer[M]]:
        """A peer that dials the node; `OSError` if that fails. `transport`: TCP, or a simulated host."""
        async with cls(await (transport or TCPTransport()).dial(addr), codec) as peer:
            yield peer

    @classmethod
    @asynccontextmanager
    async def accept(cls, listener: Listener, codec: Codec[M]) -> AsyncGenerator[ScriptedPeer[M]]:
        """A peer that the node dials; the listener is one of `Transport.listen`."""
        stream, _ = await listener.accept()
        async with cls(stream, codec) as peer:
            yield peer

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[ScriptedPeer[M]]:
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive)
                try:
                    yield self
                except Exception as error:  # noqa: BLE001  # raised again, outside of the group
                    failure = error
                tasks.cancel_scope.cancel()
        finally:
            await anyio.aclose_forcefully(self.stream)
        if failure is not None:
            raise failure

    # What it sends

    async def send(self, *messages: M) -> None:
        """Send messages, one after the other; AnyIO's stream errors if the connection is gone."""
        for message in messages:
            await self._messages.send(message)

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as they are: half a frame, or nonsense."""
        await self.stream.send(data)

    async def end(self) -> None:
        """Say that nothing more will be sent, and go on receiving."""
        await self.stream.send_eof()

    async def reset(self) -> None:
        """Break the connection off; a stream that is not TCP is closed."""
        if isinstance(self.stream, TCPStream):
            self.stream.close(reset=True)
        await anyio.aclose_forcefully(self.stream)

    # What it waits for

    async def expect(self, kind: type[E], where: Callable[[E], object] = lambda _: True, *, within: float = 1.0) -> E:
        """Return the next message of this type for which `where(message)` is true.

        Each message is returned once; those that are passed over stay for other calls. Raises `TimeoutError` after
        `within` seconds, `EndOfStream` if the connection has ended, what the codec raised if that was the end; each
        says what has come instead. Cancelling it loses nothing.
        """
        with anyio.move_on_after(within):
            while True:
                for index, message in enumerate(self._unexpected):
                    if isinstance(message, kind) and where(message):
                        del self._unexpected[index]
                        return message
                if self._has_ended:
                    break
                await self._changed.wait()
        missing = f"no {kind.__name__} as expected; what has come and was not expected: {self._unexpected!r:.500}"
        if not self._has_ended:
            raise TimeoutError(f"within {within} s {missing}")
        raise self.cause or EndOfStream(f"the node has ended the connection: {missing}")

    async def expect_nothing(self, kind: type[E], *, within: float) -> None:
        """Wait so many seconds, and raise `AssertionError` if a message of this type comes, or has come unexpected."""
        with suppress(TimeoutError, EndOfStream):
            message = await self.expect(kind, within=within)
            raise AssertionError(f"there was to be no {kind.__name__}, but this came: {message!r:.500}")

    async def barrier(self, question: M, answer: type[E], *, within: float = 1.0) -> E:
        """Ask, and wait for the answer: a node that keeps the order has seen by then all that was sent before."""
        await self.send(question)
        return await self.expect(answer, within=within)

    async def wait_closed(self, *, within: float = 1.0) -> Exception | None:
        """Wait until the node ends the connection, and return `cause`; `TimeoutError` if it does not."""
        with anyio.fail_after(within):
            while not self._has_ended:
                await self._changed.wait()
        return self.cause

    async def _receive(self) -> None:
        try:
            with suppress(EndOfStream):
                while True:
                    await self._take(await self._messages.receive())
        except Exception as error:  # noqa: BLE001  # told to who waits
            self.cause = error
        finally:
            self._has_ended = True
            self._changed.set()

    async def _take(self, message: M) -> None:
        self.received.append(message)
        self._unexpected.append(message)
        self._changed.set()
        self._changed = Event()
        replies = (reply(message) for kind, reply in self.replies.items() if isinstance(message, kind))
        await self.send(*next(replies, ()))

    def __repr__(self) -> str:
        return f"<ScriptedPeer, {'ended' if self._has_ended else 'connected'}, {len(self.received)} messages received>"
