"""Which module may know which, and which may wait."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pea2pea

ROOT = Path(pea2pea.__file__).parent
# The life of a connection. A module imports only what stands above it.
ORDER = (
    "errors",
    "_text",
    "_address",
    "config",
    "stats",
    "_clock",
    "_context",
    "codecs",
    "_poller",
    "transport",
    "connection",
    "_report",
    "_tasks",
    "_session",
    "_queue",
    "protocols",
    "protocols.handshake",
    "protocols.reading",
    "protocols.writing",
    "protocols.on_connect",
    "protocols.on_disconnect",
    "_closing",
    "_life",
    "_admission",
    "_self_connection",
    "_connecting",
    "_dialling",
    "node",
    "handshakes",
    "topology",
    "testing.codecs",
    "testing.network",
    "testing.peer",
    "testing.simulation",
    "testing",
    "",  # the package itself, which exports
    "_screen",
    "_command_line",
    "__main__",
)
SANS_IO = ("errors", "_text", "_address", "config", "stats", "codecs", "_admission")
CLOCKS = ("_clock", "_screen")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").removesuffix("."): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imported(name: str, path: Path) -> list[tuple[ast.stmt, str, bool]]:
    """The package's own modules that a module imports, and whether for its types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part]
    for_types = {
        statement
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for statement in ast.walk(block)
    }
    found: list[tuple[ast.stmt, str, bool]] = []
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Import):
            assert not any(alias.name.split(".")[0] == "pea2pea" for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            if not statement.level:
                assert statement.module is not None
                assert statement.module.split(".")[0] != "pea2pea", "imports of one's own package are relative"
                continue
            base = package[: len(package) + 1 - statement.level]
            module = ".".join([*base, *([statement.module] if statement.module else [])])
            targets = [module] if statement.module else [".".join([*base, alias.name]) for alias in statement.names]
            found += [(statement, target, statement in for_types) for target in targets]
    return found


def test_every_module_has_its_place() -> None:
    assert set(MODULES) == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_imports_point_one_way(name: str) -> None:
    for statement, target, for_types in imported(name, MODULES[name]):
        assert ORDER.index(target) < ORDER.index(name), f"{name or 'pea2pea'} imports {target}"
        if not for_types:
            assert statement.col_offset == 0 or name == "testing.codecs", f"{name} imports {target} within a function"


@pytest.mark.parametrize("name", [name for name in ORDER if name.startswith("protocols")])
def test_no_protocol_knows_the_node(name: str) -> None:
    assert not [target for _, target, _ in imported(name, MODULES[name]) if target in ("node", "")]


def test_no_module_above_the_node_knows_it_even_for_its_types() -> None:
    for name in ORDER[: ORDER.index("node")]:
        assert not [target for _, target, _ in imported(name, MODULES[name]) if target in ("node", "")], name


@pytest.mark.parametrize("name", SANS_IO)
def test_a_sans_io_module_never_waits(name: str) -> None:
    waits = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.AsyncFunctionDef)
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert not [node.lineno for node in ast.walk(tree) if isinstance(node, waits)]


@pytest.mark.parametrize("name", ["codecs", "_admission", "errors", "_text", "config"])
def test_a_sans_io_module_knows_no_socket_and_no_clock(name: str) -> None:
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    found = {
        alias.name if isinstance(statement, ast.Import) else statement.module
        for statement in ast.walk(tree)
        if isinstance(statement, (ast.Import, ast.ImportFrom))
        for alias in statement.names
    }
    assert not found & {"socket", "time", "anyio", "asyncio", "trio"}


@pytest.mark.parametrize("name", [name for name in ORDER if name not in CLOCKS])
def test_a_module_has_no_clock_but_the_event_loops(name: str) -> None:
    """Timeouts are on one clock; `_clock` alone measures slices of work, and the screen shows the time of day."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    modules = {
        alias.name.split(".")[0] if isinstance(statement, ast.Import) else (statement.module or "").split(".")[0]
        for statement in ast.walk(tree)
        if isinstance(statement, (ast.Import, ast.ImportFrom))
        for alias in statement.names
        if isinstance(statement, ast.Import) or not statement.level
    }
    assert not modules & {"time", "datetime"}
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not names & {"monotonic", "perf_counter"}


@pytest.mark.parametrize("helpers", ["testing", "_command_line", "_screen"])
def test_imports_of_the_package(helpers: str) -> None:
    """The package does not import its helpers for tests nor its command line."""
    program = f"import sys, pea2pea; assert not [name for name in sys.modules if name.startswith('pea2pea.{helpers}')]"
    subprocess.run([sys.executable, "-c", program], check=True)  # noqa: S603  # our own program


@pytest.mark.parametrize(
    "name", ["codecs.LinesCodec()", "handshakes.MessageStream", "topology.ring(3)", "errors.NodeError", "Node()"]
)
def test_submodules_are_there_after_a_plain_import(name: str) -> None:
    program = f"import pea2pea; pea2pea.{name}"
    subprocess.run([sys.executable, "-c", program], check=True)  # noqa: S603  # our own program
