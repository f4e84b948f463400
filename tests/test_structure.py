"""How large folders, files and functions may be."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles

import pytest

from tests.processes import ROOT

FOLDER_FILES, FILE_LINES = 20, 500
MEDIAN_LINES, NINTH_DECILE_LINES = 8, 20
PYTHON = [file for folder in ("src", "tests") for file in sorted((ROOT / folder).rglob("*.py"))]
FOLDERS = sorted({file.parent for file in PYTHON})


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_a_folder_has_few_files(folder: Path) -> None:
    files = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
    assert len(files) <= FOLDER_FILES


def test_no_file_is_long() -> None:
    lines = {name(file): len(file.read_text().splitlines()) for file in PYTHON}
    assert {file: count for file, count in lines.items() if count > FILE_LINES} == {}


def function_lines() -> Iterator[int]:
    """The lines of each function of the source, from its `def` to its end."""
    for file in PYTHON:
        if file.is_relative_to(ROOT / "src"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.thorough
def test_functions_are_short() -> None:
    lines = sorted(function_lines())
    assert median(lines) <= MEDIAN_LINES
    assert quantiles(lines, n=10)[-1] <= NINTH_DECILE_LINES


def test_no_test_module_is_imported() -> None:
    """What tests share is in modules of other names, and conftest.py has fixtures only."""
    imports = re.compile(r"^ *(from|import) tests\S*(\.test_|\.conftest)", re.MULTILINE)
    tests = [file for file in PYTHON if file.is_relative_to(ROOT / "tests")]
    assert [name(file) for file in tests if imports.search(file.read_text())] == []
