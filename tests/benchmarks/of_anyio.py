"""AnyIO's TCP streams by hand, as documented: `connect_tcp`, `serve`, `BufferedByteReceiveStream`."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.benchmarks import channels
from tests.benchmarks.plan import MORE_LOOPS
from tests.benchmarks.program import take_turns
from tests.benchmarks.work import BACKLOG, HOST, PREFIX, Contestant, Figures, Server, Tell, Work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    Serve = Callable[[Work, Tell], Coroutine[object, object, object]]
    Call = Callable[[Work, Server], Coroutine[object, object, Figures]]

LOOPS: dict[str, tuple[str, dict[str, object]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
LOOPS |= {loop: ("asyncio", {"loop_factory": import_module(loop).new_event_loop}) for loop in MORE_LOOPS}
GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead)


class Stream:
    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._buffered = BufferedByteReceiveStream(stream)

    async def send(self, message: bytes) -> None:
        await self._stream.send(PREFIX.pack(len(message)) + message)

    async def write(self, frame: bytes) -> None:
        await self._stream.send(frame)

    async def receive(self) -> bytes:
        (length,) = PREFIX.unpack(await self._buffered.receive_exactly(PREFIX.size))
        return await self._buffered.receive_exactly(length)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def together(awaitables: Iterable[Awaitable[None]]) -> None:
    async def wait(awaitable: Awaitable[None]) -> None:
        await awaitable

    async with anyio.create_task_group() as tasks:
        for awaitable in awaitables:
            tasks.start_soon(wait, awaitable)


async def serve(work: Work, tell: Tell) -> None:
    everybody: list[Stream] = []

    async def handle(stream: SocketStream) -> None:
        async with stream:
            everybody.append(Stream(stream))
            with suppress(*GONE):
                await channels.answer(everybody[-1], everybody, together, work, tell)

    listener = await anyio.create_tcp_listener(local_host=HOST, backlog=BACKLOG)
    tell.listening(listener.extra(SocketAttribute.local_port))
    await listener.serve(handle)


async def call(work: Work, server: Server) -> Figures:
    async def dial() -> Stream:
        return Stream(await anyio.connect_tcp(HOST, server.port))

    if work.kind == "setup":
        return await channels.set_up(dial, together, work, server)
    return await channels.use(await dial(), work)


def on(loop: str, serve: Serve, call: Call) -> Contestant:
    """A contestant that runs on one of the loops."""
    backend, options = LOOPS[loop]
    run = partial(anyio.run, backend=backend, backend_options=options)
    return Contestant(partial(run, serve), partial(run, call))


if __name__ == "__main__":
    take_turns({f"anyio, {loop}": on(loop, serve, call) for loop in LOOPS})
