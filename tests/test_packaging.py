"""What is installed is the package, and nothing else."""

from __future__ import annotations

import json
import re
import runpy
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


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


REPOSITORY = {"GITHUB_SERVER_URL": "https://example.org", "GITHUB_REPOSITORY": "somebody/p2p", "GITHUB_REF_NAME": "v1"}


def metadata_of(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the build hook sets."""
    for name in REPOSITORY:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    metadata: dict[str, Any] = {}
    runpy.run_path(str(ROOT / ".github/package_metadata.py"))["PackageMetadata"](str(ROOT), {}).update(metadata)
    return metadata


def test_links_are_absolute_where_the_repository_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = metadata_of(REPOSITORY, monkeypatch)
    targets = re.findall(r"\]\(([^)]+)\)", metadata["readme"]["text"])
    assert len(targets) > 5
    assert all(target.startswith("https://") for target in targets)
    assert "https://example.org/somebody/p2p/raw/v1/tests/benchmarks/results.svg" in targets
    assert "https://example.org/somebody/p2p/blob/v1/INVARIANTS.md" in targets
    assert metadata["urls"]["Repository"] == "https://example.org/somebody/p2p"


def test_elsewhere_the_readme_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = metadata_of({}, monkeypatch)
    assert metadata["readme"]["text"] == (ROOT / "README.md").read_text(encoding="utf-8")
    assert "urls" not in metadata
