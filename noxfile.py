"""Everything a developer runs: `nox --list` tells what there is; `nox` alone is what a change has to pass."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox
from nox.command import CommandFailed

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)

nox.options.default_venv_backend = "venv"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "docs", "tests", "examples", "interop"]


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
    """Check the types of everything, that nothing public lacks one, the stubs, and what the checkers say to users."""
    install(session, "test")
    session.run("python", "-m", "pytest", "-m", "types", "tests/typing", *session.posargs)


@nox.session
def stubs(session: nox.Session) -> None:
    """Compare the stubs with those packages that need an environment of their own (and gcc and libgmp to build)."""
    session.install("--quiet", "mypy", *nox.project.dependency_groups(PYPROJECT, "interop"))
    options = ("--ignore-missing-stub", "--allowlist", "stubs/allowlist.txt", "--ignore-unused-allowlist", "--concise")
    packages = ("dissononce", "libp2p", "multiaddr")
    session.run("python", "-m", "mypy.stubtest", *options, *packages, env={"MYPYPATH": "stubs"})


@nox.session(python=[PYTHONS[0], PYTHONS[-1]])
def typed(session: nox.Session) -> None:
    """Check what users get to see with the oldest Python and mypy, and with the newest."""
    install(session, "test", pins=("mypy==1.11.2" if session.python == PYTHONS[0] else "mypy",))
    session.run("python", "-m", "pytest", "-m", "types", "-k", "any_mypy", "tests/typing", *session.posargs)


@nox.session
def mutations(session: nox.Session) -> None:
    """Take the public interface apart, and see that the cases of tests/typing notice: `nox -s mutations -- node`."""
    install(session, "test")
    session.run("python", "-m", "tests.typing.mutations", *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run tests and type checkers on every Python: `nox -s tests-3.12 -- -k handshake` takes options of pytest."""
    install(session, "test")
    session.run("python", "-m", "pytest", "-m", "not stress", *session.posargs)


@nox.session(python=PYTHONS[-1])
@nox.parametrize("variant", ["debug", "eager"])
def variants(session: nox.Session, variant: str) -> None:
    """Run the tests on asyncio alone, in its debug mode and with eager tasks."""
    install(session, "test")
    session.run("python", "-m", "pytest", "-m", "not stress", *session.posargs, env={"PEA2PEA_ASYNCIO": variant})


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run the tests with the oldest versions of the dependencies that the package allows."""
    pins = (requirement.replace(">=", "==") for requirement in PYPROJECT["project"]["dependencies"])
    install(session, "test", pins=tuple(pins))
    session.run("python", "-m", "pytest", "-m", "not stress", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests on all three loops, and report the branches of the library that none of them took."""
    install(session, "test", pins=("coverage",))
    session.run("coverage", "run", "-m", "pytest", "-n", "0", *session.posargs)
    session.run("coverage", "report", "--fail-under=98")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the speed of the library and of what else one could use: `nox -s bench -- --quick` takes a minute."""
    install(session, "bench")
    options = list(session.posargs)
    if "--quick" not in options and (python := libp2p_environment(session)):
        options += ["--libp2p", python]
    session.run("python", "-m", "tests.benchmarks", *options)


def libp2p_environment(session: nox.Session) -> str | None:
    """The interpreter of an environment for py-libp2p, which needs one of its own (and gcc and libgmp to build)."""
    folder = Path(session.virtualenv.location, "libp2p")
    python = str(folder / "bin" / "python")
    try:
        session.run("python", "-m", "venv", str(folder))
        session.run(python, "-m", "pip", "install", "--quiet", "libp2p==0.8.1", external=True)
    except CommandFailed:
        session.warn("py-libp2p cannot be installed here, and is left out")
        return None
    return python


@nox.session
def profile(session: nox.Session) -> None:
    """Show where the time goes: `nox -s profile -- --loop trio`."""
    install(session, "bench")
    session.run("python", "-m", "tests.benchmarks.profiles", *session.posargs)


@nox.session
def stress(session: nox.Session) -> None:
    """Run the tests that take minutes."""
    install(session, "test")
    session.run("python", "-m", "pytest", "-m", "stress", "-n", "0", "--timeout=600", *session.posargs)


@nox.session
def interrupts(session: nox.Session) -> None:
    """Send SIGINT at one line of the library after the other: `nox -s interrupts -- --loop trio --all`."""
    install(session, "test")
    session.run("python", "-m", "tests.interrupts.sweep", *session.posargs)


@nox.session
def chaos(session: nox.Session) -> None:
    """Simulate chaos: `nox -s chaos -- --seeds 1-2000 --backend trio`; `--mutants` for the bugs that it has to find."""
    install(session, "test")
    session.run("python", "-m", "tests.simulation.chaos", *session.posargs)


@nox.session
def simulated(session: nox.Session) -> None:
    """Run the tests that need no real socket over a simulated network, in real time."""
    install(session, "test")
    session.run("python", "-m", "pytest", "--simulated", *session.posargs)


@nox.session
def examples(session: nox.Session) -> None:
    """Run every example through its command line, and look at what it prints."""
    install(session, "test", "examples")
    session.run("python", "-m", "pytest", "tests/examples", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the manual in `site`; a warning, a dead link or a public name without a docstring is an error."""
    install(session, "docs")
    session.run("python", ".manual/build.py", *(session.posargs or ["site"]))


@nox.session
def interop(session: nox.Session) -> None:
    """Run the examples of Noise and libp2p against other implementations; the half in JavaScript needs npm."""
    place = Path(session.create_tmp())
    python, javascript = place / "py" / "bin" / "python", place / "js"
    if not python.exists():
        session.run("python", "-m", "venv", str(place / "py"))
    groups = nox.project.dependency_groups(PYPROJECT, "interop")
    session.run(str(python), "-m", "pip", "install", "--quiet", *groups, external=True)
    shutil.copytree("tests/interop/peers", javascript, dirs_exist_ok=True)
    if shutil.which("npm"):
        with session.chdir(javascript):
            options = ("--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
            session.run("npm", "install", *options, external=True)
    else:
        session.warn("npm is missing: js-libp2p and noise-c are NOT tested")
    install(session, "test", "examples")
    session.run(
        "python", "-m", "pytest", "tests/interop", *session.posargs, env={"PEA2PEA_INTEROP": str(place.resolve())}
    )
