"""The documents keep their word: the README's Python snippets run, and what INVARIANTS.md refers to is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603  # our own README


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_first_node_shouts_back(backend: str) -> None:
    done = run(SNIPPETS[0].replace("anyio.run(main)", f"anyio.run(main, backend={backend!r})"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "says hello, bob" in done.stdout
    assert "says HELLO, BOB" in done.stdout


def test_the_other_snippets_run_one_after_the_other() -> None:
    assert len(SNIPPETS) > 2
    done = run("\n".join(SNIPPETS[1:]))
    assert (done.returncode, done.stderr) == (0, "")


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
    (snippet,) = (snippet for snippet in SNIPPETS if "class Patient" in snippet)
    done = run(snippet.replace('("::", 4000)', '("127.0.0.1", 0)') + PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"127\.0\.0\.1:\d+ is gone: USER, None\n", done.stdout)


def test_the_files_it_links_to_exist() -> None:
    targets = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert targets
    assert [link for link in targets if not (ROOT / link).exists()] == []


def test_every_invariant_names_what_enforces_it_and_tests_that_exist() -> None:
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
