"""Everything a developer runs: `nox --list` tells what there is; `nox` alone is what a change has to pass."""

from __future__ import annotations

import nox

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)

nox.options.default_venv_backend = "venv"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]


def install(session: nox.Session, *groups: str, pins: tuple[str, ...] = ()) -> None:
    """Install the wheel built of this tree, as a user gets it, with the dependency groups named."""
    session.install("--quiet", ".", *nox.project.dependency_groups(PYPROJECT, *groups), *pins)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format: `nox -s lint -- --fix` mends what can be mended."""
    session.install("--quiet", *nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check", "--diff"]))


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of everything, and that nothing public lacks one."""
    install(session, "types")
    session.run("mypy", *session.posargs)
    session.run("pyright")
    session.run("pyright", "--verifytypes", "pea2pea", "--ignoreexternal")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on every Python there is: `nox -s tests-3.12 -- -k handshake` takes pytest's options."""
    install(session, "test")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run the tests with the oldest versions of the dependencies that the package allows."""
    pins = (requirement.replace(">=", "==") for requirement in PYPROJECT["project"]["dependencies"])
    install(session, "test", pins=tuple(pins))
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests on all three loops, and report the branches of the library that none of them took."""
    install(session, "test", pins=("coverage",))
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "report", "--fail-under=98")


@nox.session
def stress(session: nox.Session) -> None:
    """Run the tests that take minutes."""
    install(session, "test")
    session.run("python", "-m", "pytest", "-m", "stress", "--timeout=600", *session.posargs)
