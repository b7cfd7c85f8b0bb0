"""The pages of the manual that are Markdown or examples, and which public names they use."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent
REFERENCE = ("pea2pea", *(f"pea2pea.{name}" for name in ("codecs", "handshakes", "topology", "errors", "testing")))
PAGES = ("connecting", "handshakes", "codecs", "sending", "ending", "testing", "migrating", "command_line")
DOCUMENTS = {
    "index": "README.md",
    "invariants": "INVARIANTS.md",
    "changelog": "CHANGELOG.md",
    "examples": "examples/README.md",
    "benchmarks": "tests/benchmarks/README.md",
}


class Page(NamedTuple):
    """A page that is no reference: the name of its module, where its text is from, its title, its text."""

    name: str
    source: Path
    title: str
    text: str

    @property
    def url(self) -> str:
        """Its file, in the site."""
        return f"{self.name.replace('.', '/')}.html"


def read_pages() -> list[Page]:
    """All pages but the reference."""
    files = {f"manual.{name}": HERE / f"{name}.md" for name in PAGES}
    files |= {name: ROOT / path for name, path in DOCUMENTS.items()}
    pages = [Page(name, path, heading(name, path.read_text()), path.read_text()) for name, path in files.items()]
    examples = sorted((ROOT / "examples").glob("*.py"))
    return pages + [Page(f"examples.{path.stem}", path, path.name, read_example(path)) for path in examples]


def heading(name: str, text: str) -> str:
    """The title of a Markdown document."""
    return "Overview" if name == "index" else text.partition("\n")[0].removeprefix("# ")


def read_example(path: Path) -> str:
    """A page for an example: what its docstring says."""
    return f"# {path.name}\n\n{ast.get_docstring(ast.parse(path.read_text()))}"


def snippets(text: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def find_uses(pages: list[Page]) -> dict[str, list[Page]]:
    """For each name that is imported from the library, the pages and examples that do so."""
    uses: defaultdict[str, list[Page]] = defaultdict(list)
    for page in pages:
        if page.source.name.startswith("_"):
            continue  # what examples share
        code = page.source.read_text() if page.source.suffix == ".py" else "\n".join(snippets(page.text))
        imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
        names = {alias.name for node in imports if re.match(r"pea2pea\b", node.module or "") for alias in node.names}
        for name in names:
            uses[name].append(page)
    return uses
