"""Adds to the package's metadata what depends on where its repository is, which is known in a workflow.

There, the README's links and its picture get absolute addresses, so that a package index can show it, and the project
gets its URLs. Elsewhere the README is taken as it is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(?P<picture>!?)(?P<text>\[[^]]*\])\((?P<target>[^):#]+)\)")  # to a file of the repository


class PackageMetadata(MetadataHookInterface):
    """Sets `readme` and `urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set them for the repository and the tag or branch that a workflow of GitHub's runs for."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        repository = "/".join(os.environ.get(name, "") for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY"))
        if repository != "/":
            ref = os.environ.get("GITHUB_REF_NAME", "main")
            text = LINK.sub(lambda link: absolute(link, repository, ref), text)
            metadata["urls"] = {
                "Repository": repository,
                "Changelog": f"{repository}/blob/{ref}/CHANGELOG.md",
                "Issues": f"{repository}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute(link: re.Match[str], repository: str, ref: str) -> str:
    """Return a link to a file as one to that file in a repository."""
    kind = "raw" if link["picture"] else "blob"
    return f"{link['picture']}{link['text']}({repository}/{kind}/{ref}/{link['target']})"
