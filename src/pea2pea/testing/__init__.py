"""Helpers for tests: waiting for a condition, and a conformance kit for codecs."""

from __future__ import annotations

from .codecs import Strategy, check_codec
from .waiting import wait_until

__all__ = ["Strategy", "check_codec", "wait_until"]
