from __future__ import annotations

import ipaddress
import socket
import subprocess
import sys
from enum import Enum, IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pea2pea import _address
from pea2pea._address import canonical, checked, from_sockaddr, group_of, is_local, literal, reachable, show, sockaddr

PORTS = st.integers(0, 65535)
ANY_IP = st.ip_addresses()


@pytest.mark.parametrize(
    ("given_host", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("::ffff:203.0.113.1", "203.0.113.1"),
        ("::FFFF:cb00:7101", "203.0.113.1"),
        ("::203.0.113.1", "::cb00:7101"),  # not mapped (RFC 4291, section 2.5.5.1)
        ("a.name.example", "a.name.example"),
        ("/run/a.socket", "/run/a.socket"),
        ("", ""),
        ("1.2.3", "1.2.3"),
        ("01.2.3.4", "01.2.3.4"),  # ambiguous, so no literal
        ("fe80::1%no-such", "fe80::1%no-such"),
        ("fe80::1%2147483646", "fe80::1%2147483646"),  # no interface has this index, and so none has its name
        ("fe80::1%0", "fe80::1"),  # no zone (RFC 4007, section 11.2)
        ("FE80:0::1%02147483646", "fe80::1%2147483646"),
    ],
)
def test_an_address_has_one_form(given_host: str, host: str) -> None:
    assert canonical((given_host, 80)) == (host, 80)


@given(ip=ANY_IP, port=PORTS)
def test_every_spelling_of_an_ip_literal_becomes_the_same(ip: ipaddress.IPv4Address, port: int) -> None:
    expected = canonical((str(ip), port))
    assert canonical((ip.exploded, port)) == expected
    assert canonical((ip.exploded.upper(), port)) == expected
    assert canonical(expected) == expected


@given(ip=st.ip_addresses(v=4), port=PORTS)
def test_a_mapped_address_is_the_one_it_maps(ip: ipaddress.IPv4Address, port: int) -> None:
    assert canonical((f"::ffff:{ip}", port)) == (str(ip), port)
    assert canonical((ipaddress.IPv6Address(0xFFFF << 32 | int(ip)).exploded, port)) == (str(ip), port)


@given(host=st.text(), port=PORTS)
def test_any_host_at_all_is_taken(host: str, port: int) -> None:
    assert canonical(canonical((host, port))) == canonical((host, port))


INDEX, NAME = socket.if_nameindex()[0]


@pytest.mark.parametrize("zone", [NAME, str(INDEX), f"0{INDEX}"])
@pytest.mark.parametrize("ip", ["fe80::1", "febf:ffff::1", "ff02::1", "ff11::5"])
def test_zones(ip: str, zone: str) -> None:
    """A zone is the name of an interface where the address needs one."""
    assert canonical((f"{ip}%{zone}", 80)) == (f"{ip}%{NAME}", 80)
    assert sockaddr((f"{ip}%{zone}", 80)) == (socket.AF_INET6, (ip, 80, 0, INDEX))
    assert from_sockaddr((ip, 80, 0, INDEX)) == (f"{ip}%{NAME}", 80)
    assert from_sockaddr((f"{ip}%{INDEX}", 80)) == (f"{ip}%{NAME}", 80)


@pytest.mark.parametrize("zone", [NAME, str(INDEX), "1", "2147483646", "0"])
@pytest.mark.parametrize("ip", ["::1", "::", "2001:db8::1", "fd00::1", "fec0::1", "ff05::1", "ff0e::1"])
def test_a_zone_is_left_out_where_the_address_needs_none(ip: str, zone: str) -> None:
    assert canonical((f"{ip}%{zone}", 80)) == (ip, 80)
    assert sockaddr((f"{ip}%{zone}", 80)) == (socket.AF_INET6, (ip, 80, 0, 0))
    assert from_sockaddr((ip, 80, 0, INDEX)) == (ip, 80)


def test_a_mapped_address_needs_no_zone() -> None:
    assert canonical((f"::ffff:192.0.2.1%{NAME}", 80)) == ("192.0.2.1", 80)
    assert from_sockaddr(("::ffff:192.0.2.1", 80, 0, 0)) == ("192.0.2.1", 80)
    assert sockaddr(("::ffff:192.0.2.1%1", 80)) == (socket.AF_INET, ("192.0.2.1", 80))


@pytest.mark.parametrize(
    "zone", ["no-such", "a..b", "x" * 200, "\0", "\ud800", "2147483648", "1" * 200, "-1", "٣", "eth0 "]
)
@pytest.mark.parametrize("ip", ["::1", "fe80::1", "::ffff:192.0.2.1", "2001:db8::1"])
def test_a_zone_that_the_system_does_not_know_is_no_address(ip: str, zone: str) -> None:
    host = f"{ip}%{zone}"
    assert canonical((host, 80)) == (host, 80)
    with pytest.raises(socket.gaierror, match="has a zone that is no interface's") as caught:
        sockaddr((host, 80))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "addr", [("a.name", 80), ("", 80), ("1.2.3", 80), ("::1", -1), ("::1", 65536), ("x" * 10**6, 80)]
)
def test_only_an_ip_literal_has_a_form_of_the_systems(addr: tuple[str, int]) -> None:
    with pytest.raises(socket.gaierror, match="not the address of an IP literal"):
        sockaddr(addr)


def test_the_name_of_an_interface_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"old0": 7}
    monkeypatch.setattr(socket, "if_nametoindex", lambda name: names[name] if name in names else refuse())
    monkeypatch.setattr(socket, "if_indextoname", {7: "old0"}.__getitem__)
    assert canonical(("fe80::1%7", 80)) == canonical(("fe80::1%old0", 80)) == ("fe80::1%old0", 80)
    names = {"new0": 7}
    monkeypatch.setattr(socket, "if_indextoname", {7: "new0"}.__getitem__)
    assert canonical(("fe80::1%7", 80)) == canonical(("fe80::1%new0", 80)) == ("fe80::1%new0", 80)
    assert canonical(("fe80::1%old0", 80)) == ("fe80::1%old0", 80)


def refuse() -> int:
    raise OSError("no interface with this name")


@pytest.mark.parametrize(
    "host", ["x" * 256, "fe80::1%" + "x" * 10**6, "::1%" + "1" * 10**6, "0" * 10**6 + "::1", "1.2.3." + "4" * 10**6]
)
def test_what_is_too_long_for_a_host_is_refused_and_never_kept(host: str) -> None:
    with pytest.raises(ValueError, match=rf"a host of {len(host)} characters; at most 255") as caught:
        checked((host, 80))
    assert len(str(caught.value)) < 400
    sizes = [cache.cache_info().currsize for cache in CACHES]
    assert canonical((host, 80)) == (host, 80)
    assert literal(host) is None
    assert group_of(host, 64) is None
    assert not is_local(host)
    assert [cache.cache_info().currsize for cache in CACHES] == sizes


CACHES = [cache for cache in vars(_address).values() if hasattr(cache, "cache_info")]


def test_what_is_cached_is_little() -> None:
    assert len(CACHES) > 1
    assert all(cache.cache_info().maxsize <= 1024 for cache in CACHES)


def test_the_longest_host_is_fine() -> None:
    assert checked(("x" * 255, 80)) == ("x" * 255, 80)


@pytest.mark.parametrize(
    ("given_host", "host"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("192.0.2.1", "192.0.2.1"), ("a.name", "a.name")],  # noqa: S104  # likewise
)
def test_the_unspecified_address_is_loopback_as_a_destination(given_host: str, host: str) -> None:
    assert reachable((given_host, 80)) == (host, 80)


@given(ip=ANY_IP, port=PORTS)
def test_what_is_checked_is_canonical(ip: ipaddress.IPv4Address, port: int) -> None:
    assert checked((ip.exploded, port)) == canonical((ip.exploded, port))


@pytest.mark.parametrize(
    "wrong",
    [None, "127.0.0.1:80", ["127.0.0.1", 80], ("127.0.0.1",), ("127.0.0.1", 80, 0), ("127.0.0.1", "80"), (127, 80)],
)
def test_no_address_at_all(wrong: Any) -> None:
    """What is no pair of host and port is a value error that shows it."""
    with pytest.raises(ValueError, match="somewhere") as caught:
        checked(wrong, "somewhere")
    assert repr(wrong) in str(caught.value)


@pytest.mark.parametrize("wrong", [("127.0.0.1", True), ("127.0.0.1", 80.0), (b"127.0.0.1", 80), (None, 80)])
def test_the_types_of_host_and_port_are_checked(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must be a pair"):
        checked(wrong)


@pytest.mark.parametrize("wrong", [("", 80), ("127.0.0.1", -1), ("127.0.0.1", 65536), ("::1", 10**20)])
def test_what_cannot_be_an_address_is_a_value_error_that_shows_it(wrong: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match="the address") as caught:
        checked(wrong)
    assert repr(wrong) in str(caught.value)


class Host(str, Enum):  # as one had to write it before Python 3.11
    HERE = "::FFFF:127.0.0.1"
    THERE = "a.name.example"


class Port(IntEnum):
    HTTP = 80


@pytest.mark.parametrize(("host", "plain"), [(Host.HERE, "127.0.0.1"), (Host.THERE, "a.name.example")])
def test_strings_and_numbers_of_other_types_become_plain_ones(host: Host, plain: str) -> None:
    addr = checked((host, Port.HTTP))
    assert addr == (plain, 80)
    assert [type(part) for part in addr] == [str, int]


def test_the_highest_and_the_lowest_port_are_fine() -> None:
    assert checked(("::1", 0)) == ("::1", 0)
    assert checked(("::1", 65535)) == ("::1", 65535)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.0.3", "::1", "a name", "/run/a.socket", ""])
def test_loopback_and_what_is_no_ip_are_counted_by_nothing(host: str) -> None:
    assert group_of(host, 64) is None


@given(ip=st.ip_addresses(v=4), prefix=st.integers(1, 128))
def test_an_ipv4_peer_is_counted_by_its_address(ip: ipaddress.IPv4Address, prefix: int) -> None:
    assert group_of(str(ip), prefix) == (None if ip.is_loopback else str(ip))


@given(number=st.integers(2, 2**128 - 1), prefix=st.integers(1, 128), bit=st.integers(0, 127))
def test_ipv6_prefixes(number: int, prefix: int, bit: int) -> None:
    """Ipv6 peers are counted together exactly if their prefixes agree."""
    ip, other = ipaddress.IPv6Address(number), ipaddress.IPv6Address(number ^ 1 << bit)
    nat64 = [ipaddress.IPv6Network(network) for network in ("64:ff9b::/96", "64:ff9b:1::/48")]
    if other.is_loopback or ip.is_loopback or any(each in network for each in (ip, other) for network in nat64):
        return
    together = group_of(str(ip), prefix) == group_of(str(other), prefix)
    assert together == (bit < 128 - prefix)


@given(one=st.ip_addresses(v=4), other=st.ip_addresses(v=4), prefix=st.integers(1, 128))
def test_hosts_behind_nat64_are_counted_by_their_ipv4_address(
    one: ipaddress.IPv4Address, other: ipaddress.IPv4Address, prefix: int
) -> None:
    first, second = (group_of(f"64:ff9b::{ip}", prefix) for ip in (one, other))
    assert first == str(one)
    assert (first == second) == (one == other)
    if not one.is_loopback:
        assert group_of(str(one), prefix) == first  # the same host, which has come without NAT64


@given(one=st.integers(0, 2**80 - 1), other=st.integers(0, 2**80 - 1))
def test_local_nat64_prefix(one: int, other: int) -> None:
    """Hosts behind a nat64 of a network's own are counted by the whole address."""
    base = int(ipaddress.IPv6Address("64:ff9b:1::"))
    first, second = (group_of(str(ipaddress.IPv6Address(base + rest)), 64) for rest in (one, other))
    assert first is not None
    assert (first == second) == (one == other)


def test_neighbours_of_the_nat64_prefixes_are_counted_as_any_other() -> None:
    for one, other in (
        ("64:ff9b::1:0:0", "64:ff9b::1:0:1"),
        ("64:ff9b:2::1", "64:ff9b:2::2"),
        ("2002:cb00:7101::1", "2002:cb00:7101::2"),
    ):
        assert group_of(one, 64) == group_of(other, 64)


def test_zones_do_not_count() -> None:
    assert group_of("fe80::1%eth0", 64) == group_of("fe80::1%7", 64) == group_of("fe80::1", 64)


@given(prefix=st.integers(1, 128))
def test_groups_of_different_families_never_collide(prefix: int) -> None:
    assert group_of("0.0.0.1", prefix) != group_of("::2", prefix)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "0.0.0.0"])  # noqa: S104  # asked about, not bound to
def test_loopback_is_local(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize("host", ["203.0.113.1", "2001:db8::1", "198.51.100.255"])
def test_an_address_for_documentation_is_not_local(host: str) -> None:
    assert not is_local(host)


@pytest.mark.parametrize("host", ["a.name", "", "fe80::1%no-such", "::1%a..b", "fe80::dead:beef", "\ud800"])
def test_what_is_no_address_is_not_local(host: str) -> None:
    assert not is_local(host)


@pytest.mark.parametrize("host", ["203.0.113.1", "2001:db8::1", "192.0.2.77", "8.8.8.8"])
def test_that_a_socket_can_be_bound_does_not_make_an_address_local(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `ip_nonlocal_bind` Linux binds to any address; nothing is known of the address of the connected socket."""
    monkeypatch.setattr(socket.socket, "bind", lambda *_: None)
    assert not is_local(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::", "::ffff:0.0.0.0"])  # noqa: S104  # asked about
def test_loopback_is_local_whatever_can_be_bound(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "bind", lambda *_: None)
    assert is_local(host)


NONLOCAL_BIND = """
import ctypes, fcntl, socket, struct, sys
from pathlib import Path
from pea2pea._address import is_local

NEW_NETWORK, SET_FLAGS, SET_ADDRESS, SET_MASK = 0x40000000, 0x8914, 0x8916, 0x891C  # of unshare(2) and netdevice(7)
if ctypes.CDLL(None).unshare(NEW_NETWORK):
    sys.exit("no network namespace can be made")
with socket.socket() as sock:
    fcntl.ioctl(sock, SET_FLAGS, struct.pack("16sh22x", b"lo", 0x49))  # up
    for name, ip in (b"lo", "127.0.0.1"), (b"lo:1", "10.9.0.1"), (b"lo:2", "10.9.0.2"):
        for what, value in (SET_ADDRESS, ip), (SET_MASK, "255.255.255.252"):
            fcntl.ioctl(sock, what, struct.pack("16sHH4s16x", name, socket.AF_INET, 0, socket.inet_aton(value)))
for family in "ipv4", "ipv6":
    Path(f"/proc/sys/net/{family}/ip_nonlocal_bind").write_text("1")
with socket.socket() as sock:
    sock.bind(("203.0.113.1", 0))  # it works
hosts = "10.9.0.1", "10.9.0.2", "::1", "203.0.113.1", "2001:db8::1", "10.9.0.9"
print([host for host in hosts if is_local(host)])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_with_ip_nonlocal_bind_a_machine_has_no_more_addresses() -> None:
    program = subprocess.run(  # noqa: S603  # our own
        [sys.executable, "-c", NONLOCAL_BIND], capture_output=True, text=True, timeout=60, check=False
    )
    if "namespace" in program.stderr or "Read-only file system" in program.stderr:
        pytest.skip("needs the right to make a network namespace")
    assert not program.stderr
    assert program.stdout.strip() == "['10.9.0.1', '10.9.0.2', '::1']"


def test_the_address_that_this_machine_sends_from_is_local() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("203.0.113.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no route")
        assert is_local(sock.getsockname()[0])


@pytest.mark.parametrize(
    ("addr", "shown"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80), "[::1]:80"),
        (("fe80::1%eth0", 65535), "[fe80::1%eth0]:65535"),
        (("a.name.example", 0), "a.name.example:0"),
        (("two\nlines", 1), "two\\nlines:1"),
        (("\ud800", 1), "\\ud800:1"),
    ],
)
def test_shown_addresses(addr: tuple[str, int], shown: str) -> None:
    """An address is shown with brackets where its host has colons."""
    assert show(addr) == shown
