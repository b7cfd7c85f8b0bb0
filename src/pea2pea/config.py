"""What can be set about a node. Everything is checked here, once, so nothing else has to."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from inspect import getattr_static, iscoroutine, isfunction
from typing import cast

from ._address import Address, checked
from ._text import describe

SECONDS_MAX = 1_000_000_000  # of a timeout, 31 years; event loops count in milliseconds, in at most 64 bits
BACKLOG_MAX = 2**31 - 1  # what listen(2) takes


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a `Node`. They do not change; a mistake is a `ValueError` or `TypeError` that names the field."""

    name: str | None = None
    """The node's name in logs and task names, not empty; None: a sequential number."""
    listener_addr: Address | None = ("127.0.0.1", 0)
    """Where `Node.start_listening` listens (port 0: any free one); None: the node does not listen.

    To be reached from other machines, it listens at "0.0.0.0", or at "::" for IPv6 as well.
    """
    listener_backlog: int = 128
    """How many connections the kernel keeps for us until they are accepted."""
    reuse_listener_port: bool = False
    """Share the listening port with other sockets that do the same (SO_REUSEPORT)."""
    max_connections: int = 100
    """Connections, established and being set up, in both directions.

    Where there is no room for a dial, it takes the slot of the inbound set-up, if there is one, that has been under way
    for longest.
    """
    max_inbound: int | None = None
    """Inbound connections, which keeps slots for our own dials; None: no limit of its own."""
    max_connections_per_ip: int = 8
    """Connections with one IPv4 address or IPv6 prefix; loopback and hosts that are no IP literal are exempt.

    A peer behind NAT64 counts by its IPv4 address (RFC 6052; for RFC 8215 by the whole address).
    """
    ipv6_prefix: int = 64
    """How many leading bits of an IPv6 address are counted as one peer."""
    max_connecting: int = 100
    """Set-ups at a time, for each direction by itself; never more than `max_connections`.

    `dataclasses.replace` with a greater `max_connections` brings back what was given.
    """
    connection_timeout: float = 3.0
    """Seconds that a TCP dial may take, for each address tried; the handshake has its own timeout."""
    grace_period: float = 5.0
    """Seconds that an orderly end may take (hook, flush and goodbye together); 0: none."""

    def __post_init__(self) -> None:
        if not isinstance(cast("object", self.name), (str, type(None))):
            raise TypeError(f"name must be a str or None, not {describe(self.name)}")
        if self.name == "":
            raise ValueError("name must not be empty; None gives a node a number")
        if not isinstance(cast("object", self.reuse_listener_port), bool):
            raise TypeError(f"reuse_listener_port must be a bool, not {describe(self.reuse_listener_port)}")
        if self.listener_addr is not None:
            object.__setattr__(self, "listener_addr", checked(self.listener_addr, "listener_addr"))
        at_least_one("listener_backlog", self.listener_backlog, BACKLOG_MAX)
        at_least_one("max_connections", self.max_connections)
        at_least_one("max_inbound", self.max_inbound, or_none=True)
        at_least_one("max_connections_per_ip", self.max_connections_per_ip)
        at_least_one("ipv6_prefix", self.ipv6_prefix, 128)
        at_least_one("max_connecting", self.max_connecting)
        seconds("connection_timeout", self.connection_timeout)
        seconds("grace_period", self.grace_period, or_zero=True)
        given = getattr(self.max_connecting, "given", self.max_connecting)
        clamped = _Clamped(min(given, self.max_connections))
        clamped.given = given
        object.__setattr__(self, "max_connecting", clamped)


class _Clamped(int):
    """A limit that another one bounds. It knows what was given: `dataclasses.replace` hands it on with a new bound."""

    given: int


def seconds(what: str, value: object, *, or_none: bool = False, or_zero: bool = False) -> None:
    """Refuses a timeout that is no number of seconds above 0, or too large for a timer."""
    if value is None and or_none:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{what} must be a number of seconds, not {describe(value)}")
    if not (0 < value <= SECONDS_MAX or (or_zero and value == 0)):
        raise ValueError(f"{what} must be a positive number of seconds, at most {SECONDS_MAX}, not {describe(value)}")


def at_least_one(what: str, value: object, most: int = sys.maxsize, *, or_none: bool = False) -> None:
    """Refuses a bound that is no whole number from 1 to `most`."""
    if (type(value) is int and 1 <= value <= most) or (value is None and or_none):
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what} must be an int, not {describe(value)}")
    if not 1 <= value <= most:
        raise ValueError(f"{what} must be at {'least 1' if value < 1 else f'most {most}'}, not {describe(value)}")


def needs(what: str, given: object, *methods: str) -> None:
    """Refuses an object that lacks a method, and a class whose method needs an instance."""
    for method in methods:
        unbound = isinstance(given, type) and isfunction(getattr_static(given, method, None))
        if unbound or not callable(getattr(given, method, None)):
            if iscoroutine(given):
                given.close()  # nobody will await it
            raise TypeError(f"{what} an instance with a method {method}, not {given!r}")
