"""A small, low-level, customizable TCP peer-to-peer node, for asyncio and trio.

The modules, in the order of a connection's life (imports point upwards in this list only):

    errors, config, stats       what is raised, set and counted
    codecs                      bytes to messages and back; no I/O
    transport                   byte streams: TCP, or one's own
    connection                  one connection: its state, and the one way to end it
    protocols                   the five interfaces a user implements, and what runs each for one connection
    _admission                  limits, and the table of connections; nothing waits there
    node                        listens, dials, supervises, shuts down: one task a connection
    topology, testing           helpers for many nodes, and for tests of one's codecs

A module is imported when something of it is first used. Of three names `help` tells nothing, since they are aliases:

    Address     tuple[str, int]: a host and a port; an IP literal is in canonical form: compressed, and IPv4-mapped IPv6
                (RFC 4291, section 2.5.5.2) folded to IPv4
    Peer        Address | Connection: whom to send to or disconnect; a connection never stands for its successor
    Frame       Chunk | tuple[Chunk, ...]: what an encoder makes of a message: its bytes, or parts to be sent one after
                the other; a Chunk is bytes, bytearray or memoryview: contiguous, and not changed once returned
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._address import Address
    from .codecs import Codec, Decoder, Encoder, Frame
    from .config import Config
    from .connection import Connection, DisconnectOrigin, Peer, Side
    from .errors import (
        AlreadyConnectedError,
        ConnectionLimitError,
        DeliveryError,
        FrameError,
        HandshakeError,
        HandshakeTimeoutError,
        NodeClosedError,
        NodeError,
        NotConnectedError,
        QueueFullError,
        SelfConnectionError,
    )  # fmt: skip
    from .node import Node
    from .protocols.handshake import Handshake
    from .protocols.on_connect import OnConnect
    from .protocols.on_disconnect import OnDisconnect
    from .protocols.reading import Reading
    from .protocols.writing import Outbox, Writing
    from .stats import Heuristics, Stats
    from .transport import Listener, TCPTransport, Transport

__all__ = [
    "Address", "AlreadyConnectedError", "Codec", "Config", "Connection", "ConnectionLimitError", "Decoder",
    "DeliveryError", "DisconnectOrigin", "Encoder", "Frame", "FrameError", "Handshake", "HandshakeError",
    "HandshakeTimeoutError", "Heuristics", "Listener", "Node", "NodeClosedError", "NodeError",
    "NotConnectedError", "OnConnect", "OnDisconnect", "Outbox", "Peer", "QueueFullError", "Reading",
    "SelfConnectionError", "Side", "Stats", "TCPTransport", "Transport", "Writing",
]  # fmt: skip

# where they are at home; the others are errors
_HOMES = {
    "Address": "_address", "Codec": "codecs", "Decoder": "codecs", "Encoder": "codecs", "Frame": "codecs",
    "Config": "config", "Connection": "connection", "DisconnectOrigin": "connection", "Peer": "connection",
    "Side": "connection", "Node": "node", "Handshake": "protocols.handshake", "OnConnect": "protocols.on_connect",
    "OnDisconnect": "protocols.on_disconnect", "Reading": "protocols.reading", "Outbox": "protocols.writing",
    "Writing": "protocols.writing", "Heuristics": "stats", "Stats": "stats", "Listener": "transport",
    "TCPTransport": "transport", "Transport": "transport",
}  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
