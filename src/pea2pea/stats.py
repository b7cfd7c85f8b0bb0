"""Counters. They only ever grow, and nothing is decided by them."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic


@dataclass(eq=False, slots=True)
class Stats:
    """What went over the wire, of a node (all its connections ever) or of one connection. Read-only for users.

    A message is counted as sent when its last byte is handed to the operating system, and as received when it is
    handed to `process_message`; bytes are those of the stream that the codec works on.
    """

    created: float = field(default_factory=monotonic)
    """When it began, on the clock of `time.monotonic`."""
    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0


@dataclass(eq=False, slots=True)
class Heuristics:
    """What happened at a node that the application cannot see otherwise. Read-only for users."""

    connect_budget_rejections: int = 0
    """Dials of ours that were refused since `max_connecting` of them were under way."""
    inbound_rejections: int = 0
    """Inbound connections that were closed at once since a limit was reached."""
    accept_errors: int = 0
    """Failures to accept (no descriptors, no memory), each followed by a pause."""
    handshake_failures: int = 0
    """Handshakes that raised or timed out, ours and theirs."""
    handshake_timeouts: int = 0
    """Those of the failures that were timeouts."""
    idle_timeouts: int = 0
    """Connections that ended for want of a complete message."""
    write_timeouts: int = 0
    """Connections that ended since the peer did not take what was sent."""
    decode_errors: int = 0
    """Connections that ended since the peer sent no valid frame."""
    dropped_messages: int = 0
    """Messages dropped on arrival, under `drop_beyond`."""
    hook_errors: int = 0
    """Exceptions that left the user's hooks, codecs and background tasks, and were bugs there."""
