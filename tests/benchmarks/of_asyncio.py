"""asyncio's streams by hand, as its documentation has it: `readexactly`, `write`, `drain`."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import uvloop

from tests.benchmarks import channels
from tests.benchmarks.program import take_turns
from tests.benchmarks.work import BACKLOG, HOST, PREFIX, Contestant, Figures, Server, Tell, Work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable


class Stream:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, message: bytes) -> None:
        self._writer.write(PREFIX.pack(len(message)) + message)
        await self._writer.drain()

    async def write(self, frame: bytes) -> None:
        self._writer.write(frame)
        await self._writer.drain()

    async def receive(self) -> bytes:
        (length,) = PREFIX.unpack(await self._reader.readexactly(PREFIX.size))
        return await self._reader.readexactly(length)

    async def aclose(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def together(awaitables: Iterable[Awaitable[None]]) -> None:
    await asyncio.gather(*awaitables)


async def serve(work: Work, tell: Tell) -> None:
    everybody: list[Stream] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        everybody.append(Stream(reader, writer))
        with suppress(ConnectionError, EOFError):
            await channels.answer(everybody[-1], everybody, together, work, tell)

    server = await asyncio.start_server(handle, HOST, 0, backlog=BACKLOG)
    tell.listening(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def call(work: Work, server: Server) -> Figures:
    async def dial() -> Stream:
        return Stream(*await asyncio.open_connection(HOST, server.port))

    if work.kind == "setup":
        return await channels.set_up(dial, together, work, server)
    return await channels.use(await dial(), work)


def contestant(run: Callable[..., object]) -> Contestant:
    def run_call(work: Work, server: Server) -> Figures:
        figures: Figures = {}

        async def note() -> None:
            figures.update(await call(work, server))

        run(note())
        return figures

    return Contestant(lambda work, tell: run(serve(work, tell)), run_call)


if __name__ == "__main__":
    take_turns({"asyncio streams": contestant(asyncio.run), "asyncio streams, uvloop": contestant(uvloop.run)})
