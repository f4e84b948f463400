"""A release of the service: a tree of its sources, and a Python with the packages that it locks."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.processes import ROOT

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ledgerservice-tests"
FIRST_OF_KEYS = "src/ledgerservice/postgres/migrations/versions/access.py"


class Release(NamedTuple):
    """Where its sources are, and the program that runs them."""

    root: Path
    python: str

    def command(self, *program: str) -> list[str]:
        """A command that runs a module of the release."""
        return [self.python, "-m", *program]

    def environment(self, values: dict[str, str]) -> dict[str, str]:
        """`values`, with the release's sources as the ones that are imported."""
        path = os.pathsep.join([str(self.root / "src"), str(self.root)])
        return {**values, "PYTHONPATH": path}


THIS = Release(ROOT, sys.executable)


def release_before() -> str:
    """The last tag; without one the last commit before keys, whose schema is 0006_webhooks."""
    tag = _git("describe", "--tags", "--abbrev=0", check=False)
    return tag or _git("log", "--diff-filter=A", "--format=%h", "-1", "--", FIRST_OF_KEYS) + "^"


@contextmanager
def released(commit: str) -> Iterator[Release]:
    """The release of a commit, as a worktree. Its packages are kept for the next time."""
    number = _git("rev-parse", "--verify", f"{commit}^{{commit}}")
    folder = CACHE / "releases" / number
    tree, packages = folder / "tree", folder / "packages"
    if not (packages / "complete").exists():
        _add_worktree(tree, number)
        _install(tree, packages)
    elif not tree.exists():
        _add_worktree(tree, number)
    try:
        yield Release(tree, str(packages / "bin" / "python"))
    finally:
        _git("worktree", "remove", "--force", str(tree))


def _add_worktree(tree: Path, number: str) -> None:
    _git("worktree", "prune")
    if tree.exists():
        _git("worktree", "remove", "--force", str(tree))
    tree.parent.mkdir(parents=True, exist_ok=True)
    _git("worktree", "add", "--detach", str(tree), number)


def _install(tree: Path, packages: Path) -> None:
    """A Python with what the release's own lock says."""
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(packages)], check=True)
    pip = [str(packages / "bin" / "python"), "-m", "pip", "install", "-q"]
    quiet = ["--disable-pip-version-check", "--require-hashes"]
    locks = ["-r", str(tree / "requirements.txt"), "-r", str(tree / "requirements-build.txt")]
    subprocess.run([*pip, *quiet, *locks], check=True)
    (packages / "complete").touch()


def _git(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments],
        check=check,
        stdout=subprocess.PIPE,
        stderr=None if check else subprocess.DEVNULL,
        text=True,
    )
    return done.stdout.strip()
