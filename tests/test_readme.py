"""The documents keep their word: Python snippets run, links lead somewhere, and INVARIANTS.md names what is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pages import PAGES, snippets
from pea2pea import Node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MANUAL = {name: ROOT / ".manual" / f"{name}.md" for name in PAGES}
DOCUMENTS = [
    "README.md", "INVARIANTS.md", "examples/README.md", "tests/benchmarks/README.md",
    *(f".manual/{name}.md" for name in PAGES),
]  # fmt: skip
MADE = "rumour.svg"  # when the manual is built
SNIPPETS = snippets(README)
WITHOUT_ANYIO_RUN = list(zip(*re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|$", README, flags=re.MULTILINE), strict=True))


def run(program: str, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)  # noqa: S603  # our own README


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("import anyio", "anyio.run(main, backend='asyncio')"),
        ("import anyio", "anyio.run(main, backend='trio')"),
        *WITHOUT_ANYIO_RUN,
    ],
)
def test_the_first_node_shouts_back(first: str, last: str) -> None:
    done = run(SNIPPETS[0].replace("import anyio", first).replace("anyio.run(main)", last))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"127\.0\.0\.1:\d+ says 'hello, bob'\n127\.0\.0\.1:\d+ says 'HELLO, BOB'\n", done.stdout)


def test_what_differs_without_anyios_run() -> None:
    assert WITHOUT_ANYIO_RUN == [
        ("import asyncio, anyio", "asyncio.run(main())"),
        ("import trio, anyio", "trio.run(main)"),
    ]


LONG_LINES = """
from pea2pea.testing import wait_until

async def whisper():
    shout, talker = Shout(), Shout()
    async with shout.node, talker.node:
        peer = await talker.node.connect(await shout.node.start_listening())
        await talker.outbox.send(peer, "\\u0390" * 500)  # a thousand bytes, three thousand in capitals
        await wait_until(lambda: talker.node.connections == {})
    print(shout.node.heuristics.hook_errors, shout.node.stats.messages_sent)

anyio.run(whisper)
"""


def test_no_line_is_too_long_to_be_shouted() -> None:
    """The answer is longer than the line that it answers; the talker refuses it, and the shouting node sees no bug."""
    done = run(SNIPPETS[0].replace("anyio.run(main)", LONG_LINES))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n0 1\n")


def test_all_snippets_run_one_after_the_other() -> None:
    assert len(SNIPPETS) == 3
    done = run("\n".join(SNIPPETS))
    assert (done.returncode, done.stderr) == (0, "")


ON_BACKEND = """
import functools, anyio, pea2pea.testing
anyio.run = functools.partial(anyio.run, backend={backend!r})
pea2pea.testing.simulate = functools.partial(pea2pea.testing.simulate, backend={backend!r})
"""

SECURELY = """
import tempfile
import trustme

async def meet(folder: str):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(f"{folder}/authority.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(f"{folder}/node.pem")
    one, other = Node(), Node()
    for node in (one, other):
        node.enable_handshake(mutual_tls(f"{folder}/authority.pem", f"{folder}/node.pem"))
    async with one, other:
        await one.connect(await other.start_listening())

with tempfile.TemporaryDirectory() as folder:
    anyio.run(meet, folder)
"""


@pytest.mark.timeout(120)  # `check_codec` takes a while where others work, too
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("name", PAGES)
def test_the_snippets_of_a_page_of_the_manual_run(name: str, backend: str) -> None:
    more = [SECURELY] if name == "handshakes" else []
    done = run("\n".join([ON_BACKEND.format(backend=backend), *snippets(MANUAL[name].read_text()), *more]), timeout=100)
    assert (done.returncode, done.stderr) == (0, "")


TERMINATION = """
import os
from pea2pea.testing import wait_until

async def terminate():
    shout, before = Shout(), signal.getsignal(signal.{name})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, shout.node)
        await wait_until(lambda: signal.getsignal(signal.{name}) != before)
        os.kill(os.getpid(), signal.{name})
    print(shout.node)

anyio.run(terminate, backend={backend!r})
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_shuts_the_node_down(name: str, backend: str) -> None:
    (serve,) = (snippet for snippet in SNIPPETS if "open_signal_receiver" in snippet)
    ending = TERMINATION.format(name=name, backend=backend)
    done = run(SNIPPETS[0].replace("anyio.run(main)", serve + ending))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"<Node \d+, closed, 0 connections>\n", done.stdout)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with Node() as node:
        yield node


async def test_a_fixture_of_anyios_plugin_may_enter_a_node(node: Node) -> None:
    assert await node.start_listening()


PATIENCE = """
import anyio
from pea2pea.testing import wait_until

async def main():
    patient, talker = Patient(), Node()
    outbox = talker.enable_writing(patient)
    async with talker, patient.node as node:
        peer = await talker.connect(await node.start_listening())
        for number in range(11):
            await outbox.send(peer, str(number))
        await wait_until(lambda: not talker.connections)

Patient.encoder = Patient.decoder
anyio.run(main)
"""


def test_the_peer_that_goes_on_and_on_is_banned() -> None:
    (snippet,) = snippets((ROOT / "examples/README.md").read_text())
    done = run(snippet.replace('("::", 4000)', '("127.0.0.1", 0)') + PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"127\.0\.0\.1:\d+ is gone: USER, None\n", done.stdout)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_files_it_links_to_exist(name: str) -> None:
    document = ROOT / name
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    targets = [link for link in re.findall(r"\]\(([^)#]+)\)", prose) if not link.startswith("http")]
    assert [link for link in targets if link != MADE and not (document.parent / link).exists()] == []


def test_invariants_name_existing_tests() -> None:
    """Every invariant names what enforces it and tests that exist."""
    invariants = (ROOT / "INVARIANTS.md").read_text().partition("## Non-invariants")[0]
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    for section in invariants.split("\n### ")[1:]:
        for part in ("Statement", "Enforcement", "Failure mode", "Tests"):
            assert f"**{part}.**" in section, section.splitlines()[0]
        tests = section.partition("**Tests.** ")[2].partition("\n")[0].split(", ")
        assert [name for name in tests if not (ROOT / name).is_file()] == []
        enforcement = section.partition("**Enforcement.**")[2].partition("**Failure mode.**")[0]
        names = re.findall(r"`(?:[A-Z]\w+)\.(_?\w+)`", enforcement)
        assert [name for name in names if not re.search(rf"\b{name}\b", source)] == []
        modules = re.findall(r"`((?:\w+/)?_?\w+\.py)`", enforcement)
        assert [name for name in modules if not (ROOT / "src" / "pea2pea" / name).is_file()] == []


def test_the_tests_readme_names_each_test_file() -> None:
    """What promise a file holds is said of each, and of none that there is not."""
    named = set(re.findall(r"\btest_\w+\b", (ROOT / "tests" / "README.md").read_text()))
    assert named == {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
