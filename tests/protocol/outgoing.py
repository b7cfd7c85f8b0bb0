"""A user that sends, and counts what is encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pea2pea import Config
from pea2pea.codecs import LengthDelimitedCodec

from ..helpers import User

if TYPE_CHECKING:
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
