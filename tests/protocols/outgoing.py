"""A user that sends, and counts what is encoded."""

from __future__ import annotations

from contextlib import ExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from pea2pea import Config
from pea2pea.codecs import LengthDelimitedCodec

from ..helpers import RawPeer, User, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from pea2pea import Frame


class Sender(User):
    """A user with an outgoing queue of its own size, who counts what is encoded."""

    def __init__(self, *, queue_depth: int = 1024, queue_bytes: int = 262_144, grace_period: float = 0.1) -> None:
        super().__init__(Config(grace_period=grace_period), enable={"on_disconnect"}, codec=lambda: CountingCodec(self))
        self.encoded: list[bytes] = []
        self.outbox = self.node.enable_writing(self, queue_depth=queue_depth, queue_bytes=queue_bytes)


class CountingCodec(LengthDelimitedCodec):
    def __init__(self, sender: Sender) -> None:
        super().__init__()
        self.sender = sender

    def encode(self, message: bytes, /) -> Frame:
        if message == b"bad":
            raise ArithmeticError("bad")
        self.sender.encoded.append(message)
        return super().encode(message)


@asynccontextmanager
async def crowd(sender: Sender, count: int = 20) -> AsyncGenerator[list[RawPeer]]:
    """Enter the sender's node, and connect it to so many peers."""
    async with sender.node as node:
        addr = await node.start_listening()
        with ExitStack() as stack:
            peers = [stack.enter_context(await RawPeer.dial(addr)) for _ in range(count)]
            await wait_until(lambda: len(node.connections) == count)
            yield peers
