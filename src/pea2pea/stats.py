"""Counters. They only ever grow, and nothing is decided by them."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Stats:
    """What went over the wire, of a node (all its connections ever) or of one connection. Read-only for users."""

    created: float = math.nan
    """When the connection was established, or the node entered, on the event loop's clock (`anyio.current_time`).

    NaN before.
    """
    messages_sent: int = 0
    """Messages whose last byte was handed to the operating system."""
    bytes_sent: int = 0
    """Bytes of the stream that the codec works on."""
    messages_received: int = 0
    """Messages that were handed to `process_message`."""
    bytes_received: int = 0
    """Bytes of the stream that the codec works on."""


@dataclass(eq=False, slots=True)
class Heuristics:
    """What happened at a node that the application cannot see otherwise. Read-only for users."""

    connect_budget_rejections: int = 0
    """Dials of ours that were refused because `Config.max_connecting` of them were under way."""
    inbound_rejections: int = 0
    """Inbound connections that were closed at once, or dropped during their set-up.

    A limit was reached, a dial needed the slot, the peer's address is connected already, it is this very node, or the
    node shuts down.
    """
    accept_errors: int = 0
    """Failures to accept (no descriptors, no memory), each followed by a pause."""
    handshake_failures: int = 0
    """Handshakes that raised or timed out, ours and theirs."""
    handshake_timeouts: int = 0
    """Those of the handshake failures that were timeouts."""
    idle_timeouts: int = 0
    """Connections that ended because no complete message arrived in time."""
    write_timeouts: int = 0
    """Connections that ended because the peer did not take what was sent."""
    decode_errors: int = 0
    """Connections that ended because the peer sent no valid frame."""
    dropped_messages: int = 0
    """Under `drop_beyond`: messages dropped on arrival, since enough waited already, and those that still waited when
    their connection ended."""
    unsent_messages: int = 0
    """Messages that a broadcast could not queue, and queued messages that an end gave up."""
    unprocessed_bytes: int = 0
    """Received bytes that an end gave up, whoever wanted it, in whole chunks as they were read (up to 256 KiB each).

    A chunk counts unless all messages in it were processed, or counted as dropped; for each connection that are two
    chunks at most. Not counted are what is no valid frame, what a decoder keeps of an incomplete message, what arrives
    when the end has begun, which nobody looks at, and what comes to a node without Reading.
    """
    hook_errors: int = 0
    """Exceptions that left the user's hooks, codecs and background tasks, and were bugs there.

    Also what cancelled a connection's own task from outside (asyncio).
    """
