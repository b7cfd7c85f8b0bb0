"""The practical examples show what they say they show."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from .conftest import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Example

PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py") if not path.name.startswith("_"))


def test_the_table_names_every_example() -> None:
    links = re.findall(r"^\| \[(.+)\]\((.+)\) \|", (EXAMPLES / "README.md").read_text(), flags=re.MULTILINE)
    assert sorted(name for name, target in links if name == target) == PROGRAMS


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_is_short_and_says_what_it_is(name: str) -> None:
    program = (EXAMPLES / name).read_text()
    assert len(program.splitlines()) <= (500 if name in ("kademlia.py", "libp2p.py") else 300)
    docstring = " ".join(program.split('"""')[1].split())
    assert f"`python examples/{name}" in docstring.replace("-m pytest ", "")
    assert " see" in docstring  # what you will see


def test_hello_both_nodes_introduce_themselves_and_notice_the_end(example: Example) -> None:
    lines = example("hello.py")
    assert sorted(lines[:2]) == [
        "Alice: initiator of a connection with Bob",
        "Bob: responder of a connection with Alice",
    ]
    assert lines[2:4] == ["Bob: Alice says 'hello, Bob'", "Alice: Bob says 'HELLO, BOB'"]
    assert sorted(lines[4:]) == ["Alice: Bob is gone (USER)", "Bob: Alice is gone (READING)"]


def test_json_messages(example: Example) -> None:
    """Json an auction ends with the highest bidder and a liar is refused."""
    lines = example("json_messages.py")
    bids = [int(line.split()[-1]) for line in lines if " bids " in line]
    assert bids == sorted(set(bids))
    assert [line.split()[0] for line in lines if " passes: " in line] == ["Alice", "Bob"]
    told = {line for line in lines if "hears that it was sold" in line}
    assert told == {f"{name} hears that it was sold to Carol for {bids[-1]}" for name in ("Alice", "Bob", "Carol")}
    assert lines[-1].startswith("the auctioneer hangs up: ")
    assert "'Sold' is not one of Join, Bid, Pass" in lines[-1]


def test_tls(example: Example) -> None:
    """Tls names are compared and strangers refused whoever dials."""
    pytest.importorskip("trustme", reason="the examples' dependencies are not installed")
    assert example("tls.py") == [
        "alice has dialled bob.example",
        "bob hears alice.example say 'is that you?' over TLSv1.3",
        "oscar has no certificate",
        "  alice dials oscar.example, oscar answers: SSLV3_ALERT_HANDSHAKE_FAILURE",
        "  oscar dials alice.example, alice answers: TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "carol has an expired certificate",
        "  alice dials carol.example, carol answers: certificate has expired",
        "  carol dials alice.example, alice answers: SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "mallory has a foreign certificate",
        "  alice dials mallory.example, mallory answers: unable to get local issuer certificate",
        "  mallory dials alice.example, alice answers: TLSV1_ALERT_UNKNOWN_CA",
        "dave has a certificate, of another name",
        "  alice dials bob.example, dave answers: Hostname mismatch, certificate is not valid for 'bob.example'.",
        "alice counts 7 failed handshakes",
    ]


def test_rpc_calls_go_both_ways_at_once_and_fail_by_themselves(example: Example) -> None:
    lines = example("rpc.py")
    assert lines[:3] == [
        "84 / 2 is 42",
        "calls go both ways: Hello, Alice!",
        "an error at the other end: 1 cannot be divided by zero",
    ]
    answers = [line.removeprefix("answers come in any order: ") for line in lines[3:6]]
    assert sorted(answers) == ["I have rung", "I have slept", "I have slept"]
    assert lines[6:] == [
        "a call timed out, and the next one works: 9 / 3 is 3",
        "a peer is gone: the peer left before it had answered 'hang_up'",
    ]


def test_reconnect(example: Example) -> None:
    """Reconnect a peer that comes back is connected again and a foreign one banned."""
    lines = example("reconnect.py")
    assert "third is banned: its network is 'coffee'" in lines
    assert {"first is connected", "second is connected"} <= set(lines)
    lost, back = lines.index("second is lost"), lines.index("second comes back")
    assert lines[lost + 1 : back].count("second is not there: ConnectionRefusedError") >= 3
    assert "second is connected" in lines[back:]
    assert not any(line.startswith("third") for line in lines[lost:])


def test_one_connection_comes_of_two_simultaneous_dials(example: Example) -> None:
    assert example("one_connection_per_peer.py") == [
        "56 dials, 28 of them refused as duplicates",
        "8 members have 28 connections, 7 each",
        "a later dial is refused",
        "after a disconnect it is accepted",
    ]


def test_rate_limit(example: Example) -> None:
    """Rate limit a noisy peer is warned then banned and a calm one heard."""
    if sys.platform != "linux":
        pytest.skip("the loopback addresses other than 127.0.0.1 may be missing")
    assert example("rate_limit.py") == [
        "server: 127.0.0.3 is warned",
        "noisy: I have been warned, and do not care",
        "server: 127.0.0.3 is banned",
        "noisy: I have been thrown out",
        "server: 127.0.0.3 is turned away",
        "noisy: I am not let in again",
        "calm: I was heard 40 times",
    ]


def test_gossip(example: Example) -> None:
    """Gossip reaches nearly everybody for a fraction of what flooding costs."""
    title, _, *rows = example("gossip.py", "--nodes", "40", "--degree", "4")
    assert title.startswith("40 nodes with 8 neighbours on average")
    table = {fanout: [float(field.rstrip("%")) for field in fields] for fanout, *fields in map(str.split, rows)}
    assert list(table) == ["1", "2", "3", "4", "5", "all"]
    reached, mean_hops, most_hops, messages, useless = table["all"]
    assert reached == 100
    assert 1 <= mean_hops <= most_hops <= 10
    assert messages - useless == 39
    assert table["5"][0] > 95
    assert table["3"][3] < messages / 2


def test_kademlia(example: Example) -> None:
    """Kademlia finds what was stored after half of the nodes have been replaced."""
    lines = example("kademlia.py", timeout=55)
    assert re.fullmatch(r"30 nodes have \d+ contacts each", lines[0])
    assert lines[1] == "20 texts are stored, 4 times each"
    assert sum("the 5 oldest nodes have been replaced" in line for line in lines) == 3
    found = [line for line in lines if line.startswith("20 of 20 texts found, in ")]
    assert len(found) == 4
    assert lines[-1] == "a text that nobody has stored: None"


def test_embedded_nodes_work_for_a_web_application_and_for_threads(example: Example) -> None:
    pytest.importorskip("fastapi", reason="the examples' dependencies are not installed")
    pytest.importorskip("httpx", reason="the examples' dependencies are not installed")
    assert example("embedded.py") == [
        "posted here, read there: ['greetings from the web']",
        "posted to nobody: status 502",
        f"three threads have sent: {[f'greetings from thread {number}' for number in range(3)]}",
    ]


@contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A program that does not end by itself."""
    with subprocess.Popen(  # noqa: S603  # our own
        [sys.executable, "-u", "-W", "error", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_with(text: str, process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"the program has ended without a line with {text!r}")


def test_embedded_is_served_for_real() -> None:
    for package in ("fastapi", "httpx", "uvicorn"):
        pytest.importorskip(package, reason="the examples' dependencies are not installed")
    with running("-m", "uvicorn", "--app-dir", str(EXAMPLES), "embedded:app", "--port", "0") as server:
        match = re.search(r"http://127\.0\.0\.1:\d+", line_with("running on http", server))
        assert match is not None
        with urlopen(f"{match[0]}/address") as answer:  # noqa: S310  # our own
            addr = json.load(answer)
        with socket.create_connection(addr) as peer:
            peer.sendall(b"over TCP\n")
        letters: list[str] = []
        while not letters:
            with urlopen(f"{match[0]}/letters") as answer:  # noqa: S310  # likewise
                letters = json.load(answer)
        assert letters == ["over TCP"]
        body = json.dumps({"to": addr, "text": "to myself"}).encode()
        with pytest.raises(HTTPError, match="502") as caught:
            urlopen(Request(f"{match[0]}/letters", body, {"Content-Type": "application/json"}))  # noqa: S310  # likewise
        caught.value.close()
        server.send_signal(signal.SIGINT)
        line_with("Application shutdown complete", server)


def test_lan_discovery_finds_everybody_and_who_comes_later(example: Example) -> None:
    lines = example("lan_discovery.py")
    found = [(line.split()[0], line.split()[-1]) for line in lines if " has found " in line]
    assert len(found) == len(set(found)) == 18  # who found whom: four each other, then three a fourth one
    assert {(b, a) for a, b in found} == set(found)
    assert lines[12] == "all four are connected"
    left, _, _ = lines[13].partition(" has left")
    assert left in {name for name, _ in found[:12]} - {name for name, _ in found[12:]}
    assert lines[-1] == "all four are connected again"


def test_lan_discovery_works_between_processes_and_ends_on_ctrl_c() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as probe, ExitStack() as stack:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.255.255.255", 0))  # it is held, so that nobody else is given the port
        command = str(EXAMPLES / "lan_discovery.py"), "--alone", "--port", str(probe.getsockname()[1])
        nodes = [stack.enter_context(running(*command, "--backend", backend)) for backend in ("asyncio", "trio")]
        found = [line_with(" has found ", node).split() for node in nodes]
        assert (found[0][0], found[0][-1]) == (found[1][-1], found[1][0])
        for node in nodes:
            node.send_signal(signal.SIGINT)
        assert [node.communicate()[0] for node in nodes] == ["", ""]
        assert [node.returncode for node in nodes] == [130, 130]


def test_hole_punching_connects_two_processes_without_the_server(example: Example) -> None:
    lines = example("hole_punching.py", timeout=55)
    assert lines[0] in ("rendezvous: Alice, meet Bob", "rendezvous: Bob, meet Alice")
    heard = sorted(re.sub(r":\d+", "", line) for line in lines[1:3])
    assert heard == ["Alice: 'Bob is here', says 127.0.0.1 directly", "Bob: 'Alice is here', says 127.0.0.1 directly"]
    assert lines[3] == "rendezvous: I have heard 2 messages, two registrations"
