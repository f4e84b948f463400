"""How this program was installed and started, so that a hint names what works here.

A checkout has its Makefile, a package its command, and a container neither.
"""

import functools
import importlib.metadata
import importlib.util
import shutil
import sys
from enum import Enum, auto
from pathlib import Path

NAME = "ledgerservice"
DOCUMENTATION = "https://github.com/ndganesh6973/ledgerservice/tree/main/docs"
"""The pages of docs, which are not part of a package."""
SOURCE = Path(__file__).resolve().parents[1]


class Installation(Enum):
    """Where the program is run from."""

    CHECKOUT = auto()
    PACKAGE = auto()
    CONTAINER = auto()
    """The source by itself, on PYTHONPATH."""


@functools.cache
def installation() -> Installation:
    """Where this program is run from."""
    if (SOURCE.parent / "Makefile").is_file() and (SOURCE.parent / "pyproject.toml").is_file():
        return Installation.CHECKOUT
    try:
        importlib.metadata.distribution(NAME)
    except importlib.metadata.PackageNotFoundError:
        return Installation.CONTAINER
    return Installation.PACKAGE


def command(name: str) -> str:
    """What to type for a command, such as `make serve` or `python -m ledgerservice migrate`."""
    if name == "serve" and installation() is Installation.CHECKOUT:
        return "make serve"
    return f"{_program()} {name}"


def _program() -> str:
    """The program as it was typed, or, in another program, such as uvicorn, one that is there."""
    started, typed = Path(sys.argv[0]), sys.orig_argv[0]
    if started.name == NAME:
        on_path = shutil.which(NAME)
        is_there = on_path and started.exists()
        return NAME if is_there and Path(str(on_path)).samefile(started) else str(started)
    if started == Path(__file__).with_name("__main__.py"):
        return f"{typed} -m {NAME}"
    script = Path(sys.executable).with_name(NAME)
    if script.is_file():
        return NAME if shutil.which(NAME) == str(script) else str(script)
    # uvicorn's app.main finds the source of a checkout by itself.
    path = f"PYTHONPATH={SOURCE} " if installation() is Installation.CHECKOUT else ""
    return f"{path}{sys.executable} -m {NAME}"


def installing(extra: str) -> str:
    """What to type for an extra of the package."""
    if installation() is Installation.CHECKOUT:
        return f"{sys.executable} -m pip install '{SOURCE.parent}[{extra}]'"
    return f"pip install '{NAME}[{extra}]'"
