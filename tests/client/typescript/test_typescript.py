"""The package for TypeScript as its users install it, against a running service."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.client.front import between
from tests.processes import ROOT, RunningService
from tests.toolchains import fetch, need, run

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

SOURCE = ROOT / "clients" / "typescript"
PROGRAM = Path(__file__).with_name("calls.ts")
EXPECTED: dict[str, Any] = {
    "exact": "9007199254747.93",
    "number": True,
    "together": [64, ["POST /batches/"]],
    "hold": ["20.00", "captured", "10.00", "20.00"],
    "general": ['a "text" \U0001f600', True],
    "declined": [True, "insufficient_funds", "new_key", "w", "64.00", True],
    "invalid": [True, "amount"],
    "missing": True,
    "outcome": ["declined", "insufficient_funds", None],
    "history": True,
    "events": ["account.opened", "transaction.posted", True],
    "again": [True, 2],
    "mixed": ["rejected", "fulfilled", "rejected", "fulfilled"],
    "gives up": [True, True, True, True],
    "cancelled": "AbortError",
    "closed": [40, 40, True],
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, with what package-lock.json names."""
    need("node", "npm")
    folder = tmp_path_factory.mktemp("package") / "client"
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("node_modules", "dist"))
    fetch("npm", "ci", "--no-audit", "--no-fund", cwd=folder)
    return folder


def test_the_generated_types_are_those_of_the_service(
    package: Path, service: RunningService, tmp_path: Path
) -> None:
    run("node", "generate.mjs", service.base, str(tmp_path / "api.ts"), cwd=package)
    again = "cd clients/typescript && npm ci && npm run generate http://127.0.0.1:8000"
    assert (tmp_path / "api.ts").read_text() == (SOURCE / "src" / "api.ts").read_text(), again


@pytest.fixture(scope="module")
def project(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has installed the packed package."""
    folder = tmp_path_factory.mktemp("project")
    printed = run("npm", "pack", "--json", "--pack-destination", str(folder), cwd=package)
    [packed] = json.loads(printed[printed.index("[\n") :])
    assert {file["path"] for file in packed["files"]} >= {"README.md", "dist/index.d.ts"}
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    run("npm", "install", "--offline", "--no-audit", "--no-fund", packed["filename"], cwd=folder)
    return folder


def printed_by(project: Path, package: Path, name: str, *arguments: str) -> str:
    """What a program of the project prints, which is compiled with all checks of types."""
    options = ("--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck", "false")
    libraries = "es2022,dom,dom.iterable,dom.asynciterable"
    compiler = str(package / "node_modules" / ".bin" / "tsc")
    run(compiler, *options, "--lib", libraries, name, cwd=project)
    return run("node", name.replace(".ts", ".js"), *arguments, cwd=project)


@pytest.mark.thorough
def test_the_package_does_what_it_says(
    package: Path, project: Path, service: RunningService
) -> None:
    shutil.copy(PROGRAM, project)
    assert json.loads(printed_by(project, package, PROGRAM.name, service.base)) == EXPECTED


@pytest.mark.thorough
def test_answers_that_are_cut_are_requested_again(
    package: Path, project: Path, service: RunningService
) -> None:
    shutil.copy(PROGRAM.with_name("storm.ts"), project)
    with between(service) as front:
        front.cut_after.extend([1, 900, 4_000, 30_000, 12_000, 50])
        printed = printed_by(project, package, "storm.ts", front.base)
        assert not front.cut_after
    assert json.loads(printed) == [160, "840.00", "160.00"]


@pytest.mark.thorough
def test_the_example_of_the_page_prints_what_it_shows(
    package: Path, project: Path, service: RunningService
) -> None:
    page = (ROOT / "docs" / "client.md").read_text()
    [example] = re.findall(r"^```ts\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    code = example.replace("http://127.0.0.1:8000", service.base)
    (project / "example.ts").write_text(code)
    first, second = printed_by(project, package, "example.ts").splitlines()
    assert f"It prints `{first}` and `{second}`." in page
