"""/openapi.json as those use it who write clients: a linter, and generated clients of a service.

Each client opens two accounts, deposits, transfers, places a hold with a time as its language
writes one, posts a batch, and reads a refusal by its typed code.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import RunningService
from tests.toolchains import fetch, need, run

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
GENERATOR = "org.openapitools:openapi-generator-cli:7.14.0"
ANSWERED = {
    "balance": "50.01",
    "batch": [200, 200],
    "code": "insufficient_funds",
    "retry": "new_key",
    "available": "48.01",
}


@pytest.fixture(scope="module")
def description(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The description as a running service serves it."""
    file = tmp_path_factory.mktemp("description") / "openapi.json"
    file.write_bytes(service.get("/openapi.json").content)
    return file


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages of package-lock.json."""
    need("node", "npm")
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "package-lock.json", "redocly.yaml"):
        shutil.copy(HERE / name, folder)
    fetch("npm", "ci", "--no-audit", "--no-fund", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of openapi-generator."""
    need("java", "mvn")
    folder = tmp_path_factory.mktemp("generator")
    options = (f"-Dartifact={GENERATOR}", f"-DoutputDirectory={folder}")
    fetch("mvn", "-q", "-B", "dependency:copy", *options, cwd=folder)
    [program] = folder.glob("*.jar")
    return program


def generate(generator: Path, language: str, description: Path, folder: Path) -> Path:
    source = folder / language
    command = ("java", "-jar", str(generator), "generate", "-g", language)
    run(*command, "-i", str(description), "-o", str(source), cwd=folder)
    for tests in ("test", "src/test"):
        shutil.rmtree(source / tests, ignore_errors=True)
    return source


def answer(printed: str) -> Any:
    return json.loads(printed.splitlines()[-1])


def references(part: Any) -> set[str]:
    """All references below a part of the description."""
    if isinstance(part, list):
        return set().union(*map(references, part))
    if not isinstance(part, dict):
        return set()
    own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
    mapped = set(part["mapping"].values()) if "propertyName" in part else set()
    return own | mapped | references(list(part.values()))


def test_no_reference_dangles_and_no_schema_is_unused(description: Path) -> None:
    document = json.loads(description.read_text())
    for reference in (found := references(document)):
        target: Any = document
        for name in reference.removeprefix("#/").split("/"):
            assert name in target, reference
            target = target[name]
    assert found == {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}


@pytest.mark.thorough
def test_a_linter_finds_no_error(description: Path, node: Path) -> None:
    run("npx", "--no-install", "redocly", "lint", str(description), cwd=node)


@pytest.mark.thorough
def test_a_python_client(description: Path, service: RunningService, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=tmp_path)
    binaries = tmp_path / "venv" / "bin"
    pip = (sys.executable, "-m", "pip", "--python", str(binaries / "python"))
    install = ("install", "-q", "--no-compile", "--require-hashes", "-r")
    fetch(*pip, *install, str(HERE / "requirements.txt"), cwd=tmp_path)
    options = ("--meta", "none", "--output-path", "client", "--fail-on-warning")
    (tmp_path / "config.yaml").write_text("post_hooks: []\n")
    command = (str(binaries / "openapi-python-client"), "generate", "--config", "config.yaml")
    run(*command, "--path", str(description), *options, cwd=tmp_path)
    shutil.copy(PROGRAMS / "tour.py", tmp_path)
    printed = run(str(binaries / "python"), "tour.py", service.base, cwd=tmp_path)
    assert answer(printed) == ANSWERED


@pytest.mark.thorough
def test_a_typescript_client(description: Path, service: RunningService, node: Path) -> None:
    npx = ("npx", "--no-install")
    run(*npx, "openapi-typescript", str(description), "-o", "api.ts", cwd=node)
    shutil.copy(PROGRAMS / "tour.ts", node)
    options = ("--strict", "--target", "es2022", "--module", "preserve", "--skipLibCheck")
    run(*npx, "tsc", *options, "--moduleResolution", "bundler", "tour.ts", cwd=node)
    assert answer(run("node", "tour.js", service.base, cwd=node)) == ANSWERED


@pytest.mark.thorough
def test_a_go_client(
    description: Path, service: RunningService, generator: Path, tmp_path: Path
) -> None:
    need("go")
    source = generate(generator, "go", description, tmp_path)
    (source / "tour").mkdir()
    shutil.copy(PROGRAMS / "tour.go", source / "tour" / "main.go")
    fetch("go", "mod", "tidy", cwd=source)
    run("go", "vet", ".", cwd=source)
    assert answer(run("go", "run", "./tour", service.base, cwd=source)) == ANSWERED


@pytest.mark.thorough
def test_a_java_client(
    description: Path, service: RunningService, generator: Path, tmp_path: Path
) -> None:
    need("javac")
    source = generate(generator, "java", description, tmp_path)
    shutil.copy(PROGRAMS / "Tour.java", source / "src" / "main" / "java")
    fetch("mvn", "-q", "-B", "dependency:copy-dependencies", cwd=source)
    run("mvn", "-q", "-B", "compile", cwd=source)
    path = "target/classes:target/dependency/*"
    assert answer(run("java", "-cp", path, "Tour", service.base, cwd=source)) == ANSWERED
