"""The programs of the servers, fetched once into a folder of the user's cache.

pom.xml and package-lock.json pin what is fetched. A changed file gets a folder of its own.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.toolchains import fetch, need

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ledgerservice-tests"


def jars(engine: str) -> Path:
    """The folder of the jars of `engine`/pom.xml."""
    need("java")
    return _cached(engine, HERE / engine / "pom.xml", _copy_jars)


def node_packages(engine: str) -> Path:
    """The folder `node_modules` of `engine`/package-lock.json."""
    need("node")
    packages = _cached(engine, HERE / engine / "package-lock.json", _install_packages)
    return packages / "node_modules"


def _cached(engine: str, pins: Path, fill: Callable[[Path, Path], None]) -> Path:
    """The folder of what `pins` names; it is there as a whole, or not at all."""
    folder = CACHE / f"{engine}-{hashlib.sha256(pins.read_bytes()).hexdigest()[:12]}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as place:
            filled = Path(place, engine)
            filled.mkdir()
            fill(pins, filled)
            try:
                filled.rename(folder)
            except OSError:  # Another test run was quicker.
                assert folder.exists()
    return folder


def _copy_jars(pom: Path, folder: Path) -> None:
    need("mvn")
    options = ("-DincludeScope=runtime", f"-DoutputDirectory={folder}")
    goal = "dependency:copy-dependencies"
    fetch("mvn", "-q", "-B", "-f", str(pom), goal, *options, cwd=folder)


def _install_packages(lock: Path, folder: Path) -> None:
    need("npm")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(lock.parent / name, folder)
    fetch("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
