"""Programs of other languages, and what they fetch from their registries.

A program or a registry that this machine does not have skips the test with the reason, unless
REQUIRE_TOOLCHAINS is set, as in CI.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

# Each of these programs runs for some seconds, in which optimising costs more than it saves.
JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


def missing(reason: str) -> NoReturn:
    """Skips the test, or fails it where everything has to be there."""
    if os.environ.get("REQUIRE_TOOLCHAINS"):
        pytest.fail(reason)
    pytest.skip(reason)


def need(*programs: str) -> None:
    absent = [name for name in programs if shutil.which(name) is None]
    if absent:
        missing(f"not installed: {', '.join(absent)}")


def fetch(*command: str, cwd: Path) -> None:
    """Runs a command that reaches a package registry."""
    done = _run(command, cwd)
    if done.returncode:
        missing(f"{' '.join(command)}: {done.stderr[-2_000:] or done.stdout[-2_000:]}")


def run(*command: str, cwd: Path) -> str:
    """What a command prints. Fails with all that it says."""
    done = _run(command, cwd)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _run(command: Sequence[str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    values = kept | {
        "NO_COLOR": "1",
        "MAVEN_OPTS": "-Dstyle.color=never",
        "JDK_JAVA_OPTIONS": JVM,
    }
    return subprocess.run(
        command, cwd=cwd, env=values, capture_output=True, text=True, check=False, timeout=280
    )
