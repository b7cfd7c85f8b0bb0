"""What a user can do wrong is answered with one line, which names the value and the remedy, and an exit code."""

from __future__ import annotations

import sys

import pytest

from pea2pea._command_line import main

from ..helpers import RawListener
from .program import finish, show, wrong


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["listen", "127.0.0.1:0", "--frame", "morse"], ["--frame", "'morse' is no frame", "use lines, raw, u16"]),
        (["listen", ":0", "--frame", "delimiter:"], ["'delimiter:' is no frame", "delimiter:HEX"]),
        (["listen", ":0", "--frame", "delimiter:xy"], ["'delimiter:xy' is no frame", "non-hexadecimal"]),
        (
            ["listen", ":0", "--frame", "no_such_module:codec"],
            ["No module named 'no_such_module'", "PACKAGE.MODULE:FACTORY"],
        ),
        (["listen", ":0", "--frame", "frames_of_tests:missing"], ["frames_of_tests", "no attribute 'missing'"]),
        (["listen", ":0", "--frame", "frames_of_tests:no_codec"], ["no attribute 'decode'", "returns a codec"]),
        (["listen", ":0", "--frame", "frames_of_tests:raises"], ["RuntimeError: not today"]),
        (["listen", ":0", "--frame", "frames_of_tests:Point"], ["TypeError", "without parameters"]),
        (["listen", "localhost"], ["'localhost' has no port", "HOST:PORT"]),
        (["listen", "127.0.0.1:port"], ["'127.0.0.1:port' has no port"]),
        (["listen", "::1"], ["'::1' has no port", "[IPV6]:PORT"]),
        (["connect", "127.0.0.1:65536"], ["'127.0.0.1:65536' has no port from 0 to 65535"]),
        (["connect"], ["ADDR"]),
        (["proxy", "127.0.0.1:0"], ["ADDR"]),
        (["dance"], ["'dance'", "listen"]),
        ([], ["COMMAND"]),
        (["listen", ":0", "--width", "wide"], ["--width", "'wide'"]),
        (["listen", ":0", "--timeout", "-1"], ["--timeout"]),
        (["listen", ":0", "--timeout", "soon"], ["'soon' is no number"]),
        (["listen", ":0", "--timeout", "0"], ["'0' is no number above 0"]),
        (["replay", "file", ":1", "--speed", "fast"], ["'fast' is no number"]),
        (["listen", ":0", "--loop", "uvloop"], ["'uvloop'", "asyncio"]),
    ],
)
def test_wrong_arguments(
    arguments: list[str], told: list[str], capsys: pytest.CaptureFixture[str], codecs_of_tests: None
) -> None:
    line = wrong(capsys, *arguments)
    assert line.startswith("pea2pea")
    assert "see pea2pea" in line
    for each in told:
        assert each in line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["listen", ":0", "--cert", "node.pem"], "--cert node.pem is for TLS; give --tls, too"),
        (["listen", ":0", "--insecure"], "--insecure is for TLS; give --tls, too"),
        (["listen", ":0", "--tls"], "to listen with --tls takes a certificate; give --cert and --key"),
        (
            ["connect", ":1", "--tls", "--ca", "no.pem"],
            "--ca no.pem: No such file or directory; correct the path; give PEM files that fit",
        ),
        (
            ["listen", ":0", "--tls", "--cert", "no.pem"],
            "--cert no.pem: No such file or directory; correct the path; give PEM files that fit",
        ),
        (["listen", ":0", "--tls", "--cert", __file__], f"--cert {__file__}: TLS failed: "),
        (["connect", ":1", "--tls", "--ca", __file__], f"--ca {__file__}: "),
        (["connect", ":1", "--loop", "trio"], "--loop trio needs trio, which is not installed; install it"),
    ],
)
def test_wrong_options(
    arguments: list[str], told: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trio", None)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert told in line


async def test_a_port_in_use() -> None:
    with RawListener.open() as listener:
        done = await finish("listen", show(listener.addr))
    assert done.code == 1
    (told,) = done.err.decode().splitlines()
    assert told == (
        f"pea2pea: cannot listen at {show(listener.addr)}: "
        "Address already in use; use another port, or 0 for a free one"
    )


@pytest.mark.parametrize(
    ("addr", "told"),
    [
        ("203.0.113.1:0", "Cannot assign requested address; use an address of this machine"),
        ("no.such.host.invalid:0", "Name or service not known|Temporary failure"),
    ],
)
async def test_an_address_that_is_not_of_this_machine(addr: str, told: str) -> None:
    done = await finish("listen", addr)
    assert done.code == 1
    await done.shows(f"^pea2pea: cannot listen at {addr}: .*({told})", aside=True)


async def test_a_refused_connection() -> None:
    with RawListener.open() as listener:
        addr = show(listener.addr)
    done = await finish("connect", addr, stdin=b"hello\n")
    assert done.code == 1
    (told,) = done.err.decode().splitlines()
    assert told.startswith(f"pea2pea: cannot connect to {addr}: Connection refused; start what should listen there")


@pytest.mark.parametrize("addr", ["no.such.host.invalid:1", "a..b:1"])
async def test_a_host_that_is_none(addr: str) -> None:
    done = await finish("connect", addr)
    assert done.code == 1
    await done.shows(f"^pea2pea: cannot connect to {addr}: ", aside=True)


async def test_the_second_of_two_addresses_fails() -> None:
    with RawListener.open() as listener:
        with RawListener.open() as unused:
            addr = show(unused.addr)
        done = await finish("connect", show(listener.addr), addr)
    assert done.code == 1
    await done.shows(f"^pea2pea: cannot connect to {addr}", aside=True)
