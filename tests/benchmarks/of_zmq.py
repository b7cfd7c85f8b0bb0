"""pyzmq, with its asyncio interface and the blocking one: a PAIR socket at each end, ZeroMQ's own framing.

Its I/O thread shares the core of the process it belongs to; the other contestants have no such thread.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import zmq
import zmq.asyncio

from tests.benchmarks import channels
from tests.benchmarks.program import take_turns
from tests.benchmarks.work import HOST, Contestant, Figures, Server, Tell, Work

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class Waiting:
    """A socket of asyncio's kind."""

    def __init__(self) -> None:
        self.socket = zmq.asyncio.Context().socket(zmq.PAIR)

    async def send(self, message: bytes) -> None:
        await self.socket.send(message)

    async def receive(self) -> bytes:
        message = await self.socket.recv()
        assert isinstance(message, bytes)
        return message


class Blocking:
    """A blocking socket; what awaits its methods never suspends."""

    def __init__(self) -> None:
        self.socket = zmq.Context().socket(zmq.PAIR)

    async def send(self, message: bytes) -> None:
        self.socket.send(message)

    async def receive(self) -> bytes:
        return self.socket.recv()


def run_blocking(coroutine: Coroutine[None, None, T]) -> T:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise RuntimeError("it was to block, not to suspend")


async def serve(channel: Waiting | Blocking, work: Work, tell: Tell) -> None:
    tell.listening(channel.socket.bind_to_random_port(f"tcp://{HOST}"))
    if work.kind == "throughput":
        await channels.sink(channel, tell)
    await channels.echo(channel)


async def call(channel: Waiting | Blocking, work: Work, server: Server) -> Figures:
    channel.socket.connect(f"tcp://{HOST}:{server.port}")
    return await channels.use(channel, work)


if __name__ == "__main__":
    take_turns(
        {
            "pyzmq, asyncio": Contestant(
                lambda work, tell: asyncio.run(serve(Waiting(), work, tell)),
                lambda work, server: asyncio.run(call(Waiting(), work, server)),
            ),
            "pyzmq, blocking": Contestant(
                lambda work, tell: run_blocking(serve(Blocking(), work, tell)),
                lambda work, server: run_blocking(call(Blocking(), work, server)),
            ),
        }
    )
