"""Counters. They only ever grow, and nothing is decided by them."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(eq=False, slots=True)
class Stats:
    """What went over the wire, of a node (all its connections ever) or of one connection. Read-only for users.

    created: when the connection was set up, or the node entered, on the event loop's clock (`anyio.current_time`);
        NaN before.
    messages_sent: messages whose last byte was handed to the operating system.
    messages_received: messages that were handed to `process_message`.
    bytes_sent, bytes_received: bytes of the stream that the codec works on.
    """

    created: float = math.nan
    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0


@dataclass(eq=False, slots=True)
class Heuristics:
    """What happened at a node that the application cannot see otherwise. Read-only for users.

    connect_budget_rejections: dials of ours that were refused because `max_connecting` of them were under way.
    inbound_rejections: inbound connections that were closed at once, or dropped during their set-up: a limit was
        reached, a dial needed the slot, the peer's address is connected already, it is this very node, or the node
        shuts down.
    accept_errors: failures to accept (no descriptors, no memory), each followed by a pause.
    handshake_failures: handshakes that raised or timed out, ours and theirs.
    handshake_timeouts: those of the failures that were timeouts.
    idle_timeouts: connections that ended for want of a complete message.
    write_timeouts: connections that ended because the peer did not take what was sent.
    decode_errors: connections that ended because the peer sent no valid frame.
    dropped_messages: messages dropped on arrival, under `drop_beyond`.
    unsent_messages: messages that a broadcast could not queue, and queued messages that an end gave up.
    unprocessed_bytes: received bytes that an end gave up before they were processed.
    hook_errors: exceptions that left the user's hooks, codecs and background tasks, and were bugs there; likewise what
        cancelled a connection's own task from outside (asyncio).
    """

    connect_budget_rejections: int = 0
    inbound_rejections: int = 0
    accept_errors: int = 0
    handshake_failures: int = 0
    handshake_timeouts: int = 0
    idle_timeouts: int = 0
    write_timeouts: int = 0
    decode_errors: int = 0
    dropped_messages: int = 0
    unsent_messages: int = 0
    unprocessed_bytes: int = 0
    hook_errors: int = 0
