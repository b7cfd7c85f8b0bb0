"""What is public is documented, and shown in use; `nox -s docs` builds the manual and sees to the rest."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

import pea2pea
from pages import REFERENCE, find_uses, read_pages

USES = find_uses(read_pages())
ALIASES = {"Address", "Chunk", "Frame", "Peer"}  # the docstring of the package tells of them


@pytest.mark.parametrize("name", REFERENCE)
def test_every_public_name_has_a_docstring(name: str) -> None:
    module = import_module(name)
    for each in set(module.__all__) - ALIASES:
        assert inspect.getdoc(getattr(module, each)), each
    for each in ALIASES:
        assert each in str(pea2pea.__doc__)


@pytest.mark.parametrize("name", REFERENCE)
def test_an_example_or_a_page_uses_every_public_name(name: str) -> None:
    assert [each for each in import_module(name).__all__ if not USES[each]] == []
