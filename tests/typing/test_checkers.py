"""The type checkers' word on `accepted.py` and `refused.py`, as somebody sees it who has the package installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pea2pea
from pages import PAGES, snippets

from .other_checkers import CHECKERS, differences, written

pytestmark = [pytest.mark.types, pytest.mark.timeout(300)]  # checkers are slow beside others

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MISTAKE = re.compile(r"  # type: ignore\[[a-z-]+\]  # says: (.*)$", flags=re.MULTILINE)


def check(*command: str | Path, where: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # pyright looks for Python there
    return subprocess.run(  # noqa: S603  # the checkers that the environment has
        [sys.executable, "-m", *command],
        env={**os.environ, "PATH": path},
        cwd=where,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def mypy(where: Path, *files: str) -> str:
    cache = f"--cache-dir={where.parent / 'mypy'}"  # one for all the tests
    done = check(
        "mypy", "--strict", "--config-file=", "--warn-unused-ignores", "--no-pretty", cache, *files, where=where
    )
    assert done.stderr == ""
    return done.stdout


def of_mypy(bare: Path) -> dict[int, str]:
    """The messages for each line of `bare.py`."""
    found: dict[int, str] = {}
    for row in mypy(bare, "bare.py").splitlines():
        if (match := re.match(r"bare\.py:(\d+): (.*)", row)) is not None:
            line = int(match.group(1))
            found[line] = found.get(line, "") + match.group(2) + "\n"
    return found


def pyright(where: Path, *files: str) -> dict[int, str]:
    """The messages for each line."""
    (where / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict", "reportUnusedFunction": false}')
    done = check("pyright", "--pythonpath", sys.executable, "--outputjson", *files, where=where)
    found: dict[int, str] = {}
    for diagnostic in json.loads(done.stdout)["generalDiagnostics"]:
        line = diagnostic["range"]["start"]["line"] + 1
        found[line] = found.get(line, "") + diagnostic["message"] + "\n"
    return found


def wanted(text: str, *, by_pyright: bool) -> dict[int, list[str]]:
    """For each line with a mistake, the words that the message must have."""
    words: dict[int, list[str]] = {}
    for number, row in enumerate(text.splitlines(), 1):
        if (match := MISTAKE.search(row)) is not None:
            of_mypy, _, of_pyright = match.group(1).partition(" | ")
            words[number] = re.split(", ", (of_pyright or of_mypy) if by_pyright else of_mypy)
    return words


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The mistakes, without the comments that expect them."""
    (tmp_path / "bare.py").write_text(MISTAKE.sub("", (HERE / "refused.py").read_text()))
    return tmp_path


def test_all_that_there_is_here_is_strictly_typed() -> None:
    assert check("mypy", where=ROOT).stdout.startswith("Success")


def test_the_library_is_strictly_typed_for_pyright_as_well() -> None:
    assert check("pyright", "--pythonpath", sys.executable, where=ROOT).stdout.startswith("0 errors")


def test_nothing_public_lacks_a_type() -> None:
    done = check("pyright", "--verifytypes", "pea2pea", "--ignoreexternal", where=HERE)
    if (ROOT / "src").resolve() not in Path(pea2pea.__file__).resolve().parents:  # it sees only what is installed
        assert "Type completeness score: 100%" in done.stdout


def test_there_are_enough_cases() -> None:
    accepted = (HERE / "accepted.py").read_text()
    assert len(re.findall(r"^(?:async )?def |^class ", accepted, flags=re.MULTILINE)) - 1 >= 40
    assert len(MISTAKE.findall((HERE / "refused.py").read_text())) >= 25


def test_any_mypy_accepts_what_it_should(tmp_path: Path) -> None:
    (tmp_path / "accepted.py").write_text((HERE / "accepted.py").read_text())
    assert mypy(tmp_path, "accepted.py").startswith("Success")


def test_any_mypy_refuses_what_it_should(bare: Path) -> None:
    assert set(of_mypy(bare)) == set(wanted((HERE / "refused.py").read_text(), by_pyright=False))


def test_mypy_refuses_with_the_codes_that_are_expected(tmp_path: Path) -> None:
    (tmp_path / "refused.py").write_text((HERE / "refused.py").read_text())
    assert mypy(tmp_path, "refused.py").startswith("Success")


def test_pyright_accepts_what_it_should(tmp_path: Path) -> None:
    (tmp_path / "accepted.py").write_text((HERE / "accepted.py").read_text())
    assert pyright(tmp_path, "accepted.py") == {}


def test_mypy_names_what_is_at_fault(bare: Path) -> None:
    messages = of_mypy(bare)
    words = wanted((HERE / "refused.py").read_text(), by_pyright=False)
    assert {line: messages[line] for line in words if not all(word in messages[line] for word in words[line])} == {}


def test_pyright_names_what_is_at_fault(bare: Path) -> None:
    messages = pyright(bare, "bare.py")
    words = wanted((HERE / "refused.py").read_text(), by_pyright=True)
    assert set(words) - set(messages) == set()
    assert {line: messages[line] for line in words if not all(word in messages[line] for word in words[line])} == {}


@pytest.mark.parametrize("checker", CHECKERS)
def test_where_other_checkers_differ_is_written_down(checker: str, tmp_path: Path) -> None:
    assert differences(tmp_path, checker) == written(checker)


def test_the_stubs_say_what_the_package_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYPYPATH", "stubs")
    options = ("--ignore-missing-stub", "--allowlist", "stubs/allowlist.txt", "--ignore-unused-allowlist", "--concise")
    done = check("mypy.stubtest", *options, "noise", where=ROOT)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_manuals_snippets_are_strictly_typed(tmp_path: Path) -> None:
    names = [f"page_{name}.py" for name in PAGES]
    for name, file in zip(PAGES, names, strict=True):
        (tmp_path / file).write_text("\n".join(snippets((ROOT / ".manual" / f"{name}.md").read_text())))
    assert mypy(tmp_path, *names).startswith("Success")


def test_the_readmes_mistake_gets_the_errors_it_tells_of(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (program, *_), (_, _, section) = snippets(readme), readme.partition("### Type-check your protocol")
    (told, *_) = re.findall(r"```text\n(.*?)```", section, flags=re.DOTALL)
    (tmp_path / "shout.py").write_text(program.replace("message: str", "message: bytes"))
    assert mypy(tmp_path, "shout.py").startswith(told)
    other = program.replace("async def process", "def process").replace(
        "await self.outbox.send", "self.outbox.send_nowait"
    )
    (tmp_path / "shout.py").write_text(other)
    told_of_another = 'error: Argument 1 to "enable_reading" of "Node" has incompatible type "Shout"'
    assert mypy(tmp_path, "shout.py").startswith(f"shout.py:12: {told_of_another}")
