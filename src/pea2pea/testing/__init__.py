"""Helpers for tests: a conformance kit for codecs, a network in one process, and waiting for a condition."""

from __future__ import annotations

from .codecs import Strategy, check_codec
from .network import Held, Host, Link, Network, Packet, Verdict
from .peer import ScriptedPeer
from .simulation import Simulation, simulate
from .waiting import wait_until

__all__ = [
    "Held",
    "Host",
    "Link",
    "Network",
    "Packet",
    "ScriptedPeer",
    "Simulation",
    "Strategy",
    "Verdict",
    "check_codec",
    "simulate",
    "wait_until",
]
