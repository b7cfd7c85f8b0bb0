"""What is installed is the package, and nothing else."""

from __future__ import annotations

import json
from importlib.metadata import Distribution, distribution

import pytest


@pytest.fixture
def installed() -> Distribution:
    found = distribution("pea2pea")
    if json.loads(found.read_text("direct_url.json") or "{}").get("dir_info", {}).get("editable"):
        pytest.skip("an editable installation has no files of the package")
    return found


def test_wheel_holds_the_package_alone(installed: Distribution) -> None:
    files = {file for file in installed.files or () if "__pycache__" not in file.parts}
    scripts = {file for file in files if file.parts[0] == ".."}
    assert {file.stem for file in scripts} == {"pea2pea"}
    assert {file.parts[0] for file in files - scripts} == {"pea2pea", f"pea2pea-{installed.version}.dist-info"}
    assert {file.suffix for file in files if file.parts[0] == "pea2pea"} == {".py", ".typed"}


def test_typed_and_licensed(installed: Distribution) -> None:
    names = {file.name for file in installed.files or ()}
    assert {"py.typed", "LICENSE"} <= names
    assert installed.metadata["License-Expression"] == "CC0-1.0"


def test_dependencies() -> None:
    required = {requirement.partition(">=")[0] for requirement in distribution("pea2pea").requires or ()}
    assert required == {"anyio", "typing-extensions"}
