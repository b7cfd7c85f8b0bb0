"""Addresses in one form only, so that equal peers have equal keys. No I/O but one probing bind."""

from __future__ import annotations

import socket
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias, cast

Address: TypeAlias = tuple[str, int]


def canonical(addr: Address) -> Address:
    """The one form of an address; a host that is no IP literal is taken as it is."""
    return _canonical_host(addr[0]), addr[1]


def show(addr: Address) -> str:
    """Write an address for a message: `host:port`, an IPv6 address in brackets (RFC 3986, section 3.2.2).

    Characters that cannot be printed are escaped, since a host may have been named by a peer.
    """
    host = addr[0] if addr[0].isprintable() else ascii(addr[0])[1:-1]
    return f"[{host}]:{addr[1]}" if ":" in host else f"{host}:{addr[1]}"


@lru_cache(1024)
def literal(host: str) -> IPv4Address | IPv6Address | None:
    """The IP address that a host is; None if it is no IP literal."""
    try:
        ip = ip_address(host)
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


@lru_cache(1024)
def _canonical_host(host: str) -> str:
    return str(literal(host) or host)


def checked(addr: Address, what: str = "the address") -> Address:
    """`canonical`, for what a user gives: anything but a pair of host and port is a `ValueError` that names it."""
    if not is_pair(addr):
        raise ValueError(f"{what} must be a pair (host: str, port: int), not {addr!r}")
    host, port = addr
    if not host:
        raise ValueError(f"{what} has an empty host: {addr!r}; for all interfaces use '0.0.0.0' or '::'")
    if not 0 <= port <= 65535:
        raise ValueError(f"{what} has a port outside 0 to 65535: {addr!r}")
    return canonical((str.__str__(host), int(port)))  # the plain values, of subclasses


def is_pair(given: object) -> bool:
    """Whether it is made like an address."""
    parts = cast("tuple[object, ...]", given) if isinstance(given, tuple) else ()
    return len(parts) == 2 and isinstance(parts[0], str) and type(parts[1]) is not bool and isinstance(parts[1], int)


@lru_cache(1024)
def group_of(host: str, ipv6_prefix: int) -> str | None:
    """What connections are counted by: an IPv4 address or an IPv6 prefix; None for what is exempt.

    Exempt are loopback and hosts that are no IP literal.
    """
    ip = literal(host)
    if ip is None or ip.is_loopback:
        return None
    if isinstance(ip, IPv6Address):
        return f"{int(ip) >> (128 - ipv6_prefix):x}/{ipv6_prefix}"
    return str(ip)


def is_local(host: str) -> bool:
    """Whether this machine owns the IP address: then, and only then, a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
