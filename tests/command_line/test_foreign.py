"""Against programs that know nothing of the library; each is started here, and skipped where it is not installed."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

import anyio
import pytest
import trustme

from ..helpers import LOCALHOST, wait_until
from .program import finish, running

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@contextmanager
def foreign(program: str, *arguments: str, package: str) -> Generator[subprocess.Popen[bytes]]:
    """Another program, with pipes."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed: apt-get install {package}")
    pipe = subprocess.PIPE
    with subprocess.Popen([path, *arguments], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT) as started:  # noqa: S603
        try:
            yield started
        finally:
            started.kill()


def say(program: subprocess.Popen[bytes], text: bytes) -> None:
    assert program.stdin is not None
    program.stdin.write(text)
    program.stdin.flush()


async def hear(file: IO[bytes] | None) -> bytes:
    """A line of it."""
    assert file is not None
    with anyio.fail_after(20):
        return await anyio.to_thread.run_sync(file.readline, abandon_on_cancel=True)


def free_port() -> int:
    """One that is free for now: these programs do not tell which one the system has chosen."""
    with socket.create_server((LOCALHOST, 0)) as server:
        return int(server.getsockname()[1])


async def wait_listening(port: int) -> None:
    """Until somebody listens there; for those who serve more than one."""

    def listens() -> bool:
        with suppress(OSError), socket.create_connection((LOCALHOST, port), timeout=1):
            return True
        return False

    await wait_until(listens, 20)


async def test_nc_dials() -> None:
    async with running("listen", ":0") as program:
        _, port = (await program.address()).rsplit(":", 1)
        with foreign("nc", "-N", LOCALHOST, port, package="netcat-openbsd") as nc:
            say(nc, b"from nc\n")
            await program.shows("<- 1 .* from nc$")
            program.type(b"to nc\n")
            assert await hear(nc.stdout) == b"to nc\n"
            assert nc.stdin is not None
            nc.stdin.close()
            await program.shows("1 .* has ended: the peer has closed it", aside=True)


async def test_nc_listens() -> None:
    port = free_port()
    with foreign("nc", "-l", "-v", LOCALHOST, str(port), package="netcat-openbsd") as nc:
        assert b"istening on" in await hear(nc.stdout)
        async with running("connect", f"{LOCALHOST}:{port}") as program:
            await hear(nc.stdout)  # that a connection was received
            say(nc, b"from nc\n")
            await program.shows("<- 1 .* from nc$")
            program.type(b"to nc\n")
            program.end_input()
            assert await hear(nc.stdout) == b"to nc\n"
            await program.finished.wait()
    assert program.code == 0


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ca.pem`, `node.pem` (the certificate with its chain) and `node.key`."""
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    node = authority.issue_cert("localhost", LOCALHOST)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(folder / "other.pem"))
    node.private_key_pem.write_to_path(str(folder / "node.key"))
    for part in node.cert_chain_pems:
        part.write_to_path(str(folder / "node.pem"), append=True)
    node.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    return folder


@pytest.mark.parametrize("host", ["localhost", LOCALHOST])
async def test_socat_listens_with_tls(pem: Path, host: str) -> None:
    address = f"OPENSSL-LISTEN:0,bind={LOCALHOST},cert={pem}/both.pem,verify=0"
    with foreign("socat", "-d", "-d", "-", address, package="socat") as socat:
        listening = ""
        while (found := re.search(r"listening on .*:(\d+)", listening)) is None:
            listening = (await hear(socat.stdout)).decode()
        async with running("connect", f"{host}:{found[1]}", "--tls", "--ca", f"{pem}/ca.pem") as program:
            await program.shows("is connected", aside=True)
            say(socat, b"from socat\n")
            await program.shows("<- 1 .* from socat$")
            program.type(b"to socat\n")
            while await hear(socat.stdout) != b"to socat\n":
                pass
            assert socat.stdin is not None
            socat.stdin.close()
            await program.finished.wait()
    await program.shows("1 .* has ended: the peer has closed it", aside=True)
    assert program.code == 0


@pytest.mark.parametrize("both_ways", [False, True])
async def test_socat_dials_with_tls(pem: Path, both_ways: bool) -> None:
    required = ["--ca", f"{pem}/ca.pem"] if both_ways else []
    certificate = f",cert={pem}/both.pem" if both_ways else ""
    arguments = ["--tls", "--cert", f"{pem}/node.pem", "--key", f"{pem}/node.key", *required]
    async with running("listen", ":0", *arguments) as program:
        _, port = (await program.address()).rsplit(":", 1)
        address = f"OPENSSL:localhost:{port},cafile={pem}/ca.pem{certificate}"
        with foreign("socat", "-", address, package="socat") as socat:
            say(socat, b"from socat\n")
            await program.shows("<- 1 .* from socat$")
            program.type(b"to socat\n")
            while await hear(socat.stdout) != b"to socat\n":  # a newer one warns that it checks no revocation lists
                pass
            assert socat.stdin is not None
            socat.stdin.close()
            await program.shows("1 .* has ended: the peer has closed it", aside=True)


async def test_a_tls_peer_that_just_hangs_up(pem: Path) -> None:
    """Without a close_notify (RFC 8446, section 6.1): the error of that has no `reason`."""
    context = ssl.create_default_context(cafile=f"{pem}/ca.pem")
    context.maximum_version = (
        ssl.TLSVersion.TLSv1_2
    )  # whose tickets come in the handshake: what is unread makes a reset

    def hang_up(port: int) -> None:
        sock = socket.create_connection((LOCALHOST, port), timeout=20)
        with context.wrap_socket(sock, server_hostname="localhost") as secured:
            secured.sendall(b"from ssl\n")

    async with running("listen", ":0", "--tls", "--cert", f"{pem}/node.pem", "--key", f"{pem}/node.key") as program:
        _, port = (await program.address()).rsplit(":", 1)
        await anyio.to_thread.run_sync(hang_up, int(port))
        await program.shows("<- 1 .* from ssl$")
        await program.shows("1 .* has ended: TLS failed: ", aside=True)


async def test_certificate_required(pem: Path) -> None:
    """A peer without a certificate is refused where one is required."""
    arguments = ["--tls", "--cert", f"{pem}/both.pem", "--ca", f"{pem}/ca.pem"]
    async with running("listen", ":0", *arguments) as program:
        _, port = (await program.address()).rsplit(":", 1)
        with foreign("socat", "-", f"OPENSSL:localhost:{port},cafile={pem}/ca.pem", package="socat"):
            await program.shows("was refused: TLS failed: PEER_DID_NOT_RETURN_A_CERTIFICATE", aside=True)


async def test_a_proxy_takes_tls_from_what_it_shows(pem: Path) -> None:
    """In the clear on one side, and with TLS on both."""
    served = ["--tls", "--cert", f"{pem}/both.pem"]
    async with running("listen", ":0", *served) as target:
        addr = (await target.address()).replace(LOCALHOST, "localhost")
        trusting = ["--tls", "--ca", f"{pem}/ca.pem"]
        async with running("proxy", ":0", addr, *trusting, "--timeout", "1") as clear:
            async with running("connect", await clear.address()) as program:
                program.type(b"from plain\n")
                await target.shows("<- 1 .* from plain$")
                target.type(b"to plain\n")
                await program.shows("<- 1 .* to plain$")
                await clear.shows("-> 1 .* from plain$")
                await clear.shows("<- 1 .* to plain$")
                program.end_input()  # which is a half-close; TLS has none, so the answer to it may be the last
                target.type(b"last\n")
                await program.finished.wait()
                await program.shows("<- 1 .* last$")
            assert program.code == 0
        async with running("proxy", ":0", addr, *trusting, "--cert", f"{pem}/both.pem") as secret:
            proxied = (await secret.address()).replace(LOCALHOST, "localhost")
            async with running("connect", proxied, *trusting) as program:
                program.type(b"from tls\n")
                await secret.shows("-> 1 .* from tls$")
                await target.shows("<- 2 .* from tls$")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "self-signed certificate in certificate chain|unable to get local issuer|self signed"),
        (["--ca", "{pem}/other.pem"], "give the authority of its certificate with --ca, or use --insecure"),
    ],
)
async def test_a_certificate_that_is_not_trusted(arguments: list[str], told: str, pem: Path) -> None:
    async with running("listen", ":0", "--tls", "--cert", f"{pem}/both.pem") as target:
        addr = await target.address()
        done = await finish("connect", addr, "--tls", *(each.format(pem=pem) for each in arguments))
        assert done.code == 1
        await done.shows(f"^pea2pea: cannot connect to {addr}: .*({told})", aside=True)
        async with running("connect", addr, "--tls", "--insecure") as program:
            program.type(b"hello\n")
            await target.shows("hello$")


async def test_a_peer_that_speaks_no_tls(pem: Path) -> None:
    async with running("listen", ":0", "--tls", "--cert", f"{pem}/both.pem") as target:
        done = await finish("connect", await target.address(), stdin=b"hello there\n")
        assert done.code in (0, 1)
        await target.shows("was refused: TLS failed: .*; see that both sides use it", aside=True)


async def test_openssl_dials(pem: Path) -> None:
    async with running("listen", ":0", "--tls", "--cert", f"{pem}/both.pem") as program:
        addr = await program.address()
        command = ("s_client", "-quiet", "-no_ign_eof", "-verify_quiet", "-CAfile", f"{pem}/ca.pem", "-connect", addr)
        with foreign("openssl", *command, package="openssl") as openssl:
            say(openssl, b"from openssl\n")
            await program.shows("<- 1 .* from openssl$")
            program.type(b"to openssl\n")
            while await hear(openssl.stdout) != b"to openssl\n":  # it has remarks of its own
                pass


@contextmanager
def redis() -> Generator[int]:
    port = free_port()
    arguments = ("--port", str(port), "--bind", LOCALHOST, "--save", "", "--appendonly", "no", "--dir", "/tmp")  # noqa: S108
    with foreign("redis-server", *arguments, package="redis-server"):
        yield port


async def test_redis_with_a_codec_of_ones_own(codecs_of_tests: None) -> None:
    with redis() as port:
        await wait_listening(port)
        addr = f"{LOCALHOST}:{port}"
        async with running("connect", addr, "--frame", "resp:codec") as program:
            program.type(b"['PING']\n['SET', 'k', 'v\xc3\xb6']\n['GET', 'k']\n['LRANGE', 'k', 0, 1]\n['INCR', 'n']\n")
            await program.shows(r"-> 1 .* +14  2a310d0a[0-9a-f]*…?  \['PING'\]$")
            await program.shows(r"<- 1 .* +7  2b504f4e470d0a  'PONG'$")
            await program.shows(r"<- 1 .*  b'v\\xc3\\xb6'$")
            await program.shows(r"<- 1 .*  Fault\('WRONGTYPE ")
            await program.shows(r"<- 1 .* +4  3a310d0a  1$")
        one = await finish("connect", addr, "--one", "--frame", "resp:codec", stdin=b"['ECHO', 'hi']\n")
        assert (one.code, one.out, one.err) == (0, b"b'hi'\n", b"")
        raw = await finish("connect", addr, "--frame", "raw", stdin=b"PING\r\n")
        assert raw.code == 0
        await raw.shows(r"\+PONG")


async def test_redis_through_a_proxy(codecs_of_tests: None) -> None:
    with redis() as port:
        await wait_listening(port)
        async with running("proxy", ":0", f"{LOCALHOST}:{port}", "--frame", "resp:codec") as proxy:
            addr = await proxy.address()
            done = await finish("connect", addr, "--frame", "resp:codec", stdin=b"['PING']\n['INCR', 'n']\n")
            assert done.code == 0
            await done.shows("<- 1 .*  1$")
            await proxy.shows(r"-> 1 .*  \[b'INCR', b'n'\]$")
            await proxy.shows("<- 1 .*  'PONG'$")
