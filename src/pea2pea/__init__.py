"""A small, low-level, customizable TCP peer-to-peer node, for asyncio and trio.

The modules, in the order of a connection's life (imports point upwards in this list only):

    errors, config, stats       what is raised, set and counted
    codecs                      bytes to messages and back; no I/O
    _poller                     one wait of the event loop's for many sockets (epoll)
    transport                   byte streams: TCP, or one's own
    connection                  what users see of a connection
    _report                     logging, and the classification of what user code raises
    _tasks                      tasks of which one harms no other
    _session                    a connection from inside: its state, and the one way to end it
    _queue                      the limits of an outgoing queue, and the tasks that wait for it
    protocols                   the five interfaces a user implements, and what runs each for one connection
    _closing                    the end of a stream: nothing that was sent is lost in a reset
    _life                       a connection from established to the end of its stream: one coroutine
    _admission                  limits, and the table of connections; nothing waits there
    _self_connection            recognises a connection of a node with itself
    _connecting                 accept, adopt, set up
    _dialling                   resolve, dial, go on to the next address
    node                        the public face, the block that owns all tasks, the shutdown
    handshakes, topology        helpers for handshakes, and for many nodes
    testing                     helpers for tests; nothing here imports it

`help` does not show what the fields of `Config`, `Connection`, `Stats` and `Heuristics` mean. The manual's reference
does (`nox -s docs`), and so do the text behind each field in config.py, connection.py and stats.py.

Of three names `help` tells nothing, since they are aliases:

    Address     tuple[str, int]: a host and a port; an IP literal is in canonical form: compressed, and IPv4-mapped IPv6
                (RFC 4291, section 2.5.5.2) folded to IPv4
    Peer        Address | Connection: whom to send to or disconnect; a connection never stands for its successor
    Frame       Chunk | tuple[Chunk, ...]: what an encoder makes of a message: its bytes, or parts to be sent one after
                the other; a Chunk is bytes, bytearray or memoryview: contiguous, and not changed once returned
"""

from __future__ import annotations

from . import codecs as codecs
from . import errors as errors
from . import handshakes as handshakes
from . import topology as topology
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
