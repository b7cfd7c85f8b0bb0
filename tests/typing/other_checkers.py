"""What ty and pyrefly say about `accepted.py` and `refused.py`, and what README.md here has of that."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
MISTAKE = re.compile(r"  # type: ignore\[[a-z-]+\]  # says: .*$", flags=re.MULTILINE)
CHECKERS = {
    "ty": ("ty", "check", "--error", "all", "--ignore", "missing-override-decorator", "--python", sys.prefix,
           "--output-format", "concise"),
    "pyrefly": ("pyrefly", "check", "--preset", "strict", "--python-interpreter-path", sys.executable,
                "--output-format", "min-text"),
}  # fmt: skip


def complaints(folder: Path, checker: str, file: str) -> dict[int, str]:
    """The lines that it complains about, and the last thing it says about each."""
    (folder / ("ty.toml" if checker == "ty" else "pyrefly.toml")).touch()  # or it may find those of a parent folder
    done = subprocess.run(  # noqa: S603  # the checkers that the environment has
        [str(Path(sys.executable).parent / CHECKERS[checker][0]), *CHECKERS[checker][1:], file],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout + done.stderr)
    found = (re.search(rf"{file}:(\d+):[^ ]* (.*)", row) for row in done.stdout.splitlines())
    return {int(match.group(1)): match.group(2) for match in found if match is not None}


def differences(folder: Path, checker: str) -> set[str]:
    """One line for each place where it says something else than mypy and pyright."""
    (folder / "accepted.py").write_text(accepted := (HERE / "accepted.py").read_text())
    (folder / "bare.py").write_text(MISTAKE.sub("", refused := (HERE / "refused.py").read_text()))
    false = complaints(folder, checker, "accepted.py")
    noticed = complaints(folder, checker, "bare.py")
    mistakes = {number for number, row in enumerate(refused.splitlines(), 1) if MISTAKE.search(row) is not None}
    return {
        *(f"{checker} refuses `{accepted.splitlines()[number - 1].strip()}`" for number in sorted(false)),
        *(f"{checker} accepts `{MISTAKE.sub('', refused.splitlines()[number - 1]).strip()}`"
          for number in sorted(mistakes - set(noticed))),
        *(f"{checker} refuses `{refused.splitlines()[number - 1].strip()}`"
          for number in sorted(set(noticed) - mistakes)),
    }  # fmt: skip


def written(checker: str) -> set[str]:
    """The places that are written down."""
    return set(re.findall(rf"^- ({checker} (?:refuses|accepts) `.*?`)", (HERE / "README.md").read_text(), re.MULTILINE))
