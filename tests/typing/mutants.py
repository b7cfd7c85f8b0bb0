"""The public interface with one piece of it changed: what `mutations.py` tries.

Public is what `pea2pea` exports and what its modules for importing from have, with what those classes inherit. Each
method, parameter, default, mark of a positional or named parameter, field, attribute, member of an enumeration, base,
export and option of a type variable is removed; each type, type argument and alternative becomes another one and `Any`,
and is removed; coroutines, properties and static methods become mere functions.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from textwrap import indent
from typing import NamedTuple, TypeAlias, TypeVar

PACKAGE = Path(__file__).parent.parent.parent / "src" / "pea2pea"
EPILOGUE = "\nfrom typing import Any as Unchecked\nclass Wrong:\n    def __init__(self, wrong: Wrong) -> None: ...\n"
"""What the changed modules must have at their ends."""

EXPORTED = set(re.findall(r'"(\w+)"', (PACKAGE / "__init__.py").read_text().partition("__all__")[2].partition("]")[0]))
WHOLE = {"codecs", "errors", "handshakes", "topology", "waiting"}  # modules to import from: all their names are public
UNCALLED = {"Connection", "ConnectionLimitError", "Outbox"}  # users have them made
INHERITED = {"__init__", "__repr__", "__str__", "__reduce__", "__post_init__"}  # an object without one has another

N = TypeVar("N", bound=ast.AST)
Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"


class Mutant(NamedTuple):
    label: str
    node: ast.expr | ast.stmt | ast.alias
    text: str


def edited(label: str, node: N, change: Callable[[N], object]) -> Mutant:
    copy = deepcopy(node)
    change(copy)
    assert isinstance(node, (ast.expr, ast.stmt))
    return Mutant(label, node, indent(ast.unparse(copy), " " * node.col_offset).lstrip())


def lacking(field: str, place: int) -> Callable[[ast.AST], None]:
    def change(copy: ast.AST) -> None:
        getattr(copy, field).pop(place)

    return change


def of_type(label: str, type_: ast.expr | None) -> Iterator[Mutant]:
    """A type, and each of its arguments and alternatives: another one, `Any`, and none. `Any` fits every other one."""
    if isinstance(type_, ast.List):
        for element in type_.elts:
            yield from of_type(label, element)
    if type_ is None or isinstance(type_, ast.List) or ast.unparse(type_) in ("...", "Any", "Unpack[Ts]"):
        return
    label = f"{label} {ast.unparse(type_)}"
    yield Mutant(f"{label} -> Wrong", type_, "Wrong")
    if ast.unparse(type_) != "object":  # for a parameter the same
        yield Mutant(f"{label} -> Any", type_, "Unchecked")
    if isinstance(type_, ast.BinOp):
        for kept, dropped in ((type_.left, type_.right), (type_.right, type_.left)):
            yield Mutant(f"{label} -> {ast.unparse(kept)}", type_, ast.unparse(kept))
            if isinstance(dropped, (ast.BinOp, ast.Subscript)):
                yield from of_type(label, dropped)
    elif isinstance(type_, ast.Subscript):
        for argument in type_.slice.elts if isinstance(type_.slice, ast.Tuple) else [type_.slice]:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):  # of a Literal
                yield Mutant(f"{label} without {argument.value}", argument, '"wrong"')
            else:
                yield from of_type(label, argument)


def resigned(
    *, without: str = "", required: str = "", slash: bool = True, star: bool = True
) -> Callable[[Function], None]:
    """Changes a signature: without a parameter, a default, the mark of positional ones, that of named ones."""

    def change(copy: Function) -> None:
        given = copy.args
        positional, named = given.posonlyargs + given.args, given.kwonlyargs
        defaults = dict(zip([it.arg for it in positional][::-1], given.defaults[::-1], strict=False))
        defaults |= {it.arg: value for it, value in zip(named, given.kw_defaults, strict=True) if value is not None}
        defaults.pop(required, None)
        given.posonlyargs = [it for it in given.posonlyargs if it.arg != without and slash]
        given.args = [it for it in positional if it.arg != without and it not in given.posonlyargs]
        given.kwonlyargs = [it for it in named if it.arg != without and star]
        given.args += [it for it in named if not star]
        given.kw_defaults = [defaults.get(it.arg) for it in given.kwonlyargs]
        given.defaults = []
        for it in reversed(given.posonlyargs + given.args):
            if it.arg not in defaults:
                break
            given.defaults.insert(0, defaults[it.arg])
        if given.vararg is not None and given.vararg.arg == without:
            given.vararg = None

    return change


def of_function(label: str, function: Function, *, method: bool = False) -> Iterator[Mutant]:
    given = function.args
    decorators = [ast.unparse(decorator) for decorator in function.decorator_list]
    if function.name not in INHERITED:
        yield edited(f"without {label}", function, lambda copy: setattr(copy, "name", "removed"))
        yield from of_type(f"{label} ->", function.returns)
    if isinstance(function, ast.AsyncFunctionDef) and not decorators:
        yield edited(f"{label} not async", function, lambda copy: setattr(copy, "__class__", ast.FunctionDef))
    for decorator in decorators:
        if decorator in ("property", "staticmethod"):
            yield edited(f"{label} no {decorator}", function, lambda copy: copy.decorator_list.clear())
    bound = int(method and "staticmethod" not in decorators)
    parameters = [*(given.posonlyargs + given.args)[bound:], *given.kwonlyargs]
    for it in [*parameters, *filter(None, [given.vararg])]:
        yield edited(f"{label} without {it.arg}", function, resigned(without=it.arg))
        yield from of_type(f"{label}: {it.arg}", it.annotation)
    for it in parameters[len(parameters) - len(given.defaults) - len(list(filter(None, given.kw_defaults))) :]:
        yield edited(f"{label} requires {it.arg}", function, resigned(required=it.arg))
    if len(given.posonlyargs) > bound:
        yield edited(f"{label} without /", function, resigned(slash=False))
    if given.kwonlyargs and given.vararg is None:
        yield edited(f"{label} without *", function, resigned(star=False))


def of_class(class_: ast.ClassDef) -> Iterator[Mutant]:
    for place, base in enumerate(class_.bases):
        yield edited(f"{class_.name} is no {ast.unparse(base)}", class_, lacking("bases", place))
    for decorator in class_.decorator_list:
        for keyword in decorator.keywords if isinstance(decorator, ast.Call) else []:
            if keyword.arg in ("frozen", "kw_only"):
                yield Mutant(f"{class_.name} not {keyword.arg}", keyword.value, "False")
    for item in class_.body:
        if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)):
            private = class_.name in UNCALLED or class_.name.startswith("_")
            if not re.match("_[^_]", item.name) and not (item.name == "__init__" and private):
                yield from of_function(f"{class_.name}.{item.name}", item, method=True)
            for step in item.body if item.name == "__init__" else []:
                if isinstance(step, (ast.Assign, ast.AnnAssign)) and "self." in ast.unparse(step).partition("=")[0]:
                    yield from of_variable(f"{class_.name}.", step)
        else:
            yield from of_variable(f"{class_.name}.", item)


def of_variable(label: str, item: ast.stmt) -> Iterator[Mutant]:
    """A field, a member of an enumeration, an attribute that `__init__` sets."""
    if not isinstance(item, (ast.Assign, ast.AnnAssign)):
        return
    target = item.target if isinstance(item, ast.AnnAssign) else item.targets[0]
    name = ast.unparse(target).removeprefix("self.")
    if name.startswith("_") or "." in name:
        return
    yield Mutant(f"without {label}{name}", item, "pass")
    if isinstance(item, ast.AnnAssign):
        yield from of_type(f"{label}{name}:", item.annotation)
        if ast.unparse(item.annotation).startswith("Final") and item.value is not None:
            yield Mutant(f"{label}{name} not Final", item, f"{ast.unparse(target)} = {ast.unparse(item.value)}")


def is_overload(function: ast.FunctionDef) -> bool:
    return "overload" in map(ast.unparse, function.decorator_list)


def of_module(path: Path) -> Iterator[Mutant]:
    body = ast.parse(path.read_text()).body
    inherited: set[str] = set()
    overloaded = {step.name for step in body if isinstance(step, ast.FunctionDef) and is_overload(step)}
    for item in reversed(body):
        name = getattr(item, "name", "")
        if name in overloaded and isinstance(item, ast.FunctionDef) and not is_overload(item):
            continue  # no call is checked against the implementation
        public = name in EXPORTED or name in inherited or (path.stem in WHOLE and re.match("[A-Za-z]", name))
        if isinstance(item, ast.ClassDef) and public:
            inherited.update(re.findall(r"\w+", " ".join(map(ast.unparse, item.bases))))
            yield from of_class(item)
        elif isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)) and public:
            yield from of_function(name, item)
        elif isinstance(item, ast.AnnAssign) and ast.unparse(item.annotation) == "TypeAlias":
            yield from of_type(f"{path.stem}: {ast.unparse(item.target)} =", item.value)
        elif isinstance(item, ast.Assign) and isinstance(item.value, ast.Call):
            for place, keyword in enumerate(item.value.keywords):  # of a TypeVar
                label = f"{path.stem}: {ast.unparse(item)} without {keyword.arg}"
                yield edited(label, item.value, lacking("keywords", place))
        elif isinstance(item, ast.If) and path.stem == "__init__":
            for exported in [alias for step in item.body if isinstance(step, ast.ImportFrom) for alias in step.names]:
                yield Mutant(f"without {exported.name}", exported, f"{exported.name} as removed_{exported.name}")
