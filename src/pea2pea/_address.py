"""Addresses in one form only, so that equal peers have equal keys.

No I/O but one probing UDP socket, which sends nothing, and the system's names of network interfaces.
"""

from __future__ import annotations

import socket
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, TypeAlias, TypeGuard, cast

from ._text import describe, printable

Address: TypeAlias = tuple[str, int]

HOST_MAX = 255  # characters of a host: a name has no more (RFC 1035, section 2.3.4); nothing longer is cached
_NAT64 = IPv6Network("64:ff9b::/96")  # the IPv4 address is in the last 32 bits (RFC 6052, section 2.1)
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")  # it is somewhere in the rest; where is local knowledge (RFC 8215)


def canonical(addr: Address) -> Address:
    """The one form of an address; a host that is no IP literal is taken as it is.

    A zone (RFC 4007, section 11) stays where the address needs one, as the interface's name, if it has one. Elsewhere
    it is left out. A host with a zone that the system does not know is taken as it is.
    """
    host = addr[0]
    if len(host) <= HOST_MAX:
        host = _zoned_form(host) if "%" in host else _plain_form(host)
    return host, addr[1]


def show(addr: Address) -> str:
    """Write an address for a message: `host:port`, an IPv6 address in brackets (RFC 3986, section 3.2.2).

    A peer may have named the host: what is not printable is escaped, and a long one is cut.
    """
    host = printable(addr[0])
    return f"[{host}]:{addr[1]}" if ":" in host else f"{host}:{addr[1]}"


def literal(host: str) -> IPv4Address | IPv6Address | None:
    """The IP address that a host is; None if it is no IP literal."""
    return _parse(host) if len(host) <= HOST_MAX else None


@lru_cache(1024)
def _parse(host: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(host)
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


@lru_cache(1024)
def _plain_form(host: str) -> str:
    return str(_parse(host) or host)


def _zoned_form(host: str) -> str:
    """Not cached: names of interfaces come and go."""
    ip = _parse(host)
    if ip is None or (zone := _zone_index(host)) is None:
        return host
    plain = _without_zone(ip)
    if not zone or not _needs_zone(ip):
        return plain
    try:
        return f"{plain}%{socket.if_indextoname(zone)}"
    except OSError:
        return f"{plain}%{zone}"


def _without_zone(ip: IPv4Address | IPv6Address) -> str:
    return str(ip).partition("%")[0]


def _needs_zone(ip: IPv4Address | IPv6Address) -> bool:
    """Whether it means something on one link alone (RFC 4007, section 4): link-local, also multicast."""
    return ip.version == 6 and (ip.is_link_local or (ip.packed[0] == 0xFF and ip.packed[1] & 0xF in (1, 2)))


def _zone_index(host: str) -> int | None:
    """The index of the interface that a host's zone names (0: there is no zone); None if the system has none such."""
    zone = host.partition("%")[2]
    if not zone:
        return 0
    try:
        return socket.if_nametoindex(zone)
    except (OSError, ValueError):  # ValueError: no name can be written so
        number = int(zone) if zone.isascii() and zone.isdecimal() else -1
        return number if 0 <= number < 2**31 else None


def sockaddr(addr: Address) -> tuple[int, tuple[str, int] | tuple[str, int, int, int]]:
    """The family and the system's form of an IP literal; `socket.gaierror` for anything else."""
    host, port = addr
    ip = literal(host)
    zone = _zone_index(host) if "%" in host and ip is not None else 0
    if ip is None or zone is None or not 0 <= port <= 65535:
        what = "has a zone that is no interface's" if zone is None else "is not the address of an IP literal"
        raise socket.gaierror(socket.EAI_NONAME, f"{show((host, port))} {what}")
    if isinstance(ip, IPv4Address):
        return socket.AF_INET, (_plain_form(host), port)
    return socket.AF_INET6, (_without_zone(ip), port, 0, zone if _needs_zone(ip) else 0)


def from_sockaddr(name: Any) -> Address:
    """The address that a socket's name of an IP family stands for, its zone (`scope_id`) included."""
    host, port = name[:2]
    if len(name) > 3 and name[3] and "%" not in host:
        host = f"{host}%{name[3]}"
    return canonical((host, port))


def reachable(addr: Address) -> Address:
    """What an address means as a destination: the unspecified address is loopback (Linux, BSD), and stays elsewhere."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(addr[0], addr[0]), addr[1]  # noqa: S104  # nothing is bound to it


def checked(addr: Address, what: str = "the address") -> Address:
    """`canonical`, for what a user gives: anything but a pair of host and port is a `ValueError` that names it."""
    if not is_pair(addr):
        raise ValueError(f"{what} must be a pair (host: str, port: int), not {describe(addr)}")
    host, port = addr
    if not host:
        raise ValueError(f"{what} has an empty host: {addr!r}; for all interfaces use '0.0.0.0' or '::'")
    if len(host) > HOST_MAX:
        raise ValueError(f"{what} has a host of {len(host)} characters; at most {HOST_MAX} fit: {describe(host)}")
    if not 0 <= port <= 65535:
        raise ValueError(f"{what} has a port outside 0 to 65535: {describe(addr)}")
    return canonical((str.__str__(host), int(port)))  # the plain values, of subclasses


def is_pair(given: object) -> TypeGuard[Address]:
    """Whether it is made like an address."""
    parts = cast("tuple[object, ...]", given) if isinstance(given, tuple) else ()
    return len(parts) == 2 and isinstance(parts[0], str) and type(parts[1]) is not bool and isinstance(parts[1], int)


def group_of(host: str, ipv6_prefix: int) -> str | None:
    """What connections are counted by: an IPv4 address or an IPv6 prefix; None for what is exempt.

    Exempt are loopback and hosts that are no IP literal. An IPv4 host behind NAT64 is counted by its IPv4 address
    where that can be told (RFC 6052), and by the whole address where a network has its own translation (RFC 8215).
    Zones do not count.
    """
    return _group(host, ipv6_prefix) if len(host) <= HOST_MAX else None


@lru_cache(1024)
def _group(host: str, ipv6_prefix: int) -> str | None:
    ip = _parse(host)
    if ip is None or ip.is_loopback:
        return None
    if isinstance(ip, IPv4Address):
        return str(ip)
    if ip in _NAT64:
        return str(IPv4Address(ip.packed[12:]))
    bits = 128 if ip in _LOCAL_NAT64 else ipv6_prefix
    return f"{int(ip) >> (128 - bits):x}/{bits}"


def is_local(host: str) -> bool:
    """Whether this machine owns the IP address.

    A UDP socket that is connected to it then has it as its own name. For IPv4 it is bound to it before, because of
    several addresses in one network the system would choose the first. That it can be bound proves nothing (Linux,
    `ip_nonlocal_bind`), but what is connected from there fails unless the address is the machine's.
    """
    try:
        family, name = sockaddr(reachable(canonical((host, 9))))
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            if family == socket.AF_INET:
                probe.bind((name[0], 0))
            probe.connect(name)
            return from_sockaddr(probe.getsockname())[0] == from_sockaddr(name)[0]
    except OSError:
        return False
