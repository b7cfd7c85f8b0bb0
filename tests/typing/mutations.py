"""Takes the public interface apart, one piece at a time; each time a case in `accepted.py` or `refused.py` must fail.

`python -m tests.typing.mutations` prints what it did, and fails if there is a piece that no case needs. Modules may be
named: `... mutations node codecs`. A mutant is caught when mypy finds a mistake in `accepted.py`, or when a mistake in
`refused.py` goes unnoticed, gets another code, or a message without the words that it must have.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .mutants import EPILOGUE, PACKAGE, of_module

HERE = Path(__file__).parent
MISTAKE = re.compile(r"  # type: ignore\[([a-z-]+)\]  # says: ([^|\n]*?)(?: \| .*)?$", flags=re.MULTILINE)

SENT = "nothing is ever sent into what makes a context manager"
EXCUSED = {
    "_Incremental is no ABC": "nobody makes one of these",
    "Node.__asynccontextmanager__ -> AsyncGenerator[Node, None] None -> Wrong": SENT,
    "Node.__asynccontextmanager__ -> AsyncGenerator[Node, None] None -> Any": SENT,
}
"""Mutants that no case can tell from the original, and why."""


class Checker:
    """A daemon of mypy's, with a copy of the package that is taken apart."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(PACKAGE, folder / "pea2pea")
        shutil.copy(HERE / "accepted.py", folder)
        refused = (HERE / "refused.py").read_text()
        (folder / "refused.py").write_text(MISTAKE.sub("", refused))
        self.mistakes = [
            (f"refused.py:{number}: ", [f"[{match.group(1)}]", *match.group(2).split(", ")])
            for number, row in enumerate(refused.splitlines(), 1)
            if (match := MISTAKE.search(row)) is not None
        ]
        self.start()

    def start(self) -> None:
        options = ("--strict", "--config-file=", "--no-pretty", "--show-error-codes", "--no-error-summary")
        self.dmypy("restart", "--", *options)
        self.dmypy("check", "accepted.py", "refused.py")

    def dmypy(self, *command: str) -> str:
        done = subprocess.run(  # noqa: S603  # mypy, of this environment
            [sys.executable, "-m", "mypy.dmypy", *command],
            cwd=self.folder, env={**os.environ, "MYPYPATH": "."}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout + done.stderr

    def complaints(self) -> str:
        """What is not as it should be; empty if the cases notice nothing."""
        found = self.dmypy("recheck")
        if "Traceback" in found:  # too many changes for the daemon
            self.start()
            found = self.dmypy("recheck")
        if "aemon" in found or "Traceback" in found:
            raise RuntimeError(found)
        rows = [row for row in found.splitlines() if row.startswith(("accepted.py:", "refused.py:"))]
        for place, words in self.mistakes:
            message = "\n".join(row for row in rows if row.startswith(place))
            if not all(word in message for word in words):
                return f"{place}{words} expected, but {message or 'nothing'}"
        known = tuple(place for place, _ in self.mistakes)
        return next((row for row in rows if not row.startswith(known)), "")

    def survivors(self, path: Path) -> list[str]:
        """Those of a module's mutants that no case notices."""
        place = self.folder / "pea2pea" / path.relative_to(PACKAGE)
        lines = path.read_text().splitlines(keepends=True)
        survived = []
        for mutant in of_module(path):
            whole: list[ast.expr | ast.stmt | ast.alias] = [*getattr(mutant.node, "decorator_list", []), mutant.node]
            first, last = whole[0].lineno - 1, (mutant.node.end_lineno or 0) - 1
            before = lines[first].encode()[: mutant.node.col_offset].decode()
            after = lines[last].encode()[mutant.node.end_col_offset :].decode()
            place.write_text("".join([*lines[:first], before, mutant.text, after, *lines[last + 1 :], EPILOGUE]))
            complaint = self.complaints()
            if not complaint:  # or the daemon has lost track
                self.start()
                complaint = self.complaints()
            tell("caught  " if complaint else "SURVIVED", mutant.label, complaint.partition("\n")[0])
            survived += [] if complaint else [mutant.label]
        place.write_text(path.read_text())
        if complaint := self.complaints():
            raise RuntimeError(f"the original itself does not pass: {complaint}")
        return survived


def tell(what: str, label: str, why: str) -> None:
    sys.stdout.write(f"{what} {label} | {why}\n")
    sys.stdout.flush()


def main(modules: list[str]) -> int:
    paths = [path for path in sorted(PACKAGE.rglob("*.py")) if not modules or path.stem in modules]
    waiting = iter(paths)

    def work(folder: Path) -> list[str]:
        checker = Checker(folder)
        try:
            return [label for path in waiting for label in checker.survivors(path)]
        finally:
            checker.dmypy("stop")

    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor() as pool:
        folders = [Path(place, str(number)) for number in range(min(os.cpu_count() or 1, len(paths)))]
        survived = [label for labels in pool.map(work, folders) for label in labels]
    for label in survived:
        tell("SURVIVED", label, EXCUSED.get(label, "no case needs it"))
    tell("All in all", f"{sum(1 for path in paths for _ in of_module(path))} mutants", f"{len(survived)} survived")
    return len(set(survived) - set(EXCUSED)) > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
