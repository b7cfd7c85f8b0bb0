"""What can be set about a node. Everything is checked here, once, so nothing else has to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from inspect import getattr_static, iscoroutine, isfunction

from ._address import Address, checked


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of a `Node`. They do not change; a mistake is a `ValueError` or `TypeError` that names the field.

    name: the node's name in logs and task names; None: a sequential number.
    listener_addr: where `start_listening` listens (port 0: any free one); None: the node does not listen. To be
        reached from other machines, it listens at "0.0.0.0", or at "::" for IPv6 as well.
    listener_backlog: how many connections the kernel keeps for us until they are accepted.
    reuse_listener_port: share the listening port with other sockets that do the same (SO_REUSEPORT).
    max_connections: connections, established and being set up, in both directions. Where there is no room for a dial,
        it takes the slot of the inbound set-up, if there is one, that has been under way for longest.
    max_inbound: of these at most so many inbound ones, which keeps slots for our own dials; None: no limit of its own.
    max_connections_per_ip: connections with one IPv4 address or IPv6 prefix; loopback and hosts that are no IP literal
        are exempt.
    ipv6_prefix: how many leading bits of an IPv6 address are counted as one peer.
    max_connecting: set-ups at a time, for each direction by itself; never more than `max_connections`.
    connection_timeout: seconds that a TCP dial may take, for each address tried; the handshake has its own timeout.
    grace_period: seconds that an orderly end may take (hook, flush and goodbye together); 0: none.
    """

    name: str | None = None
    listener_addr: Address | None = ("127.0.0.1", 0)
    listener_backlog: int = 128
    reuse_listener_port: bool = False
    max_connections: int = 100
    max_inbound: int | None = None
    max_connections_per_ip: int = 8
    ipv6_prefix: int = 64
    max_connecting: int = 100
    connection_timeout: float = 3.0
    grace_period: float = 5.0

    def __post_init__(self) -> None:
        if self.listener_addr is not None:
            object.__setattr__(self, "listener_addr", checked(self.listener_addr, "listener_addr"))
        for field in (
            "listener_backlog", "max_connections", "max_inbound", "max_connections_per_ip", "ipv6_prefix",
            "max_connecting",
        ):  # fmt: skip
            value = getattr(self, field)
            if value is not None or field != "max_inbound":
                at_least_one(field, value)
        if self.ipv6_prefix > 128:
            raise ValueError(f"ipv6_prefix must be at most 128, not {self.ipv6_prefix!r}")
        seconds("connection_timeout", self.connection_timeout)
        if self.grace_period != 0:
            seconds("grace_period", self.grace_period)
        object.__setattr__(self, "max_connecting", min(self.max_connecting, self.max_connections))


def seconds(what: str, value: object) -> None:
    """Refuses a timeout that is no positive, finite number of seconds."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{what} must be a number of seconds, not {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{what} must be a positive, finite number of seconds, not {value!r}")


def at_least_one(what: str, value: object) -> None:
    """Refuses a bound that is no whole number above 0."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what} must be an int, not {value!r}")
    if value < 1:
        raise ValueError(f"{what} must be at least 1, not {value!r}")


def needs(what: str, given: object, *methods: str) -> None:
    """Refuses an object that lacks a method, and a class whose method needs an instance."""
    for method in methods:
        unbound = isinstance(given, type) and isfunction(getattr_static(given, method, None))
        if unbound or not callable(getattr(given, method, None)):
            if iscoroutine(given):
                given.close()  # nobody will await it
            raise TypeError(f"{what} an instance with a method {method}, not {given!r}")
