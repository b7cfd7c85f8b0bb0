from __future__ import annotations

import ipaddress
import socket
from enum import Enum, IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pea2pea._address import canonical, checked, group_of, is_local, show

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
        ("fe80::1%eth0", "fe80::1%eth0"),
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


@given(ip=ANY_IP, port=PORTS)
def test_what_is_checked_is_canonical(ip: ipaddress.IPv4Address, port: int) -> None:
    assert checked((ip.exploded, port)) == canonical((ip.exploded, port))


@pytest.mark.parametrize(
    "wrong",
    [None, "127.0.0.1:80", ["127.0.0.1", 80], ("127.0.0.1",), ("127.0.0.1", 80, 0), ("127.0.0.1", "80"), (127, 80)],
)
def test_what_is_no_pair_of_host_and_port_is_a_value_error_that_shows_it(wrong: Any) -> None:
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
def test_ipv6_peers_are_counted_together_exactly_if_their_prefixes_agree(number: int, prefix: int, bit: int) -> None:
    ip, other = ipaddress.IPv6Address(number), ipaddress.IPv6Address(number ^ 1 << bit)
    if other.is_loopback or ip.is_loopback:
        return
    together = group_of(str(ip), prefix) == group_of(str(other), prefix)
    assert together == (bit < 128 - prefix)


@given(prefix=st.integers(1, 128))
def test_groups_of_different_families_never_collide(prefix: int) -> None:
    assert group_of("0.0.0.1", prefix) != group_of("::2", prefix)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "0.0.0.0"])  # noqa: S104  # asked about, not bound to
def test_loopback_is_local(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize("host", ["203.0.113.1", "2001:db8::1", "198.51.100.255"])
def test_an_address_for_documentation_is_not_local(host: str) -> None:
    assert not is_local(host)


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
def test_an_address_is_shown_with_brackets_where_its_host_has_colons(addr: tuple[str, int], shown: str) -> None:
    assert show(addr) == shown
