"""How large a function or a class may be, and what a connection shows of itself."""

from __future__ import annotations

import ast
import io
import tokenize
from typing import TYPE_CHECKING

import pytest

from pea2pea import Connection

from .helpers import User, two_nodes
from .test_imports import MODULES

if TYPE_CHECKING:
    from pathlib import Path

LAYOUT = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
}  # fmt: skip
NOT_COUNTED = ("testing", "_command_line", "_screen", "__main__")


def code_lines(tree: ast.Module, source: str) -> set[int]:
    """The lines of a module without docstrings, comments and blanks."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def too_large(path: Path) -> set[str]:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    lines = code_lines(tree, source)
    found = set()

    def visit(node: ast.AST, prefix: str) -> None:
        for each in ast.iter_child_nodes(node):
            if not isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                visit(each, prefix)
                continue
            limit = 250 if isinstance(each, ast.ClassDef) else 40
            if len(lines & set(range(each.lineno, (each.end_lineno or each.lineno) + 1))) > limit:
                found.add(prefix + each.name)
            visit(each, f"{prefix}{each.name}.")

    visit(tree, "")
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if name.split(".")[0] not in NOT_COUNTED])
def test_a_function_has_40_lines_of_code_at_most_and_a_class_250(name: str) -> None:
    assert too_large(MODULES[name]) == set()


async def test_a_connection_shows_nothing_of_the_nodes() -> None:
    async with two_nodes(User(), User()) as (ours, _):
        assert not {"abort", "spawn", "tasks", "session", "state"} & set(dir(ours))
        with pytest.raises(TypeError):
            Connection()  # type: ignore[call-arg]  # nobody makes one by accident
