"""docs/client.md does what it says."""

import json
import re
import subprocess
import sys

import pytest

from ledgerservice import client
from tests.processes import ROOT, RunningService, environment

pytestmark = pytest.mark.processes

PAGE = (ROOT / "docs" / "client.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def printed(command: list[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_examples_print_what_the_page_shows(service: RunningService) -> None:
    tasks, threads = blocks("python")
    [shown] = blocks("text")
    assert printed([sys.executable, "-c", tasks, service.base]) == shown
    output = printed([sys.executable, "-c", threads, service.base])
    assert f"It prints `{output.strip()}`." in PAGE


def test_the_pages_of_the_package_name_its_version() -> None:
    package = json.loads((ROOT / "clients" / "typescript" / "package.json").read_text())
    readme = (ROOT / "clients" / "typescript" / "README.md").read_text()
    assert f"{package['name']}-{package['version']}.tgz" in readme


def test_every_error_is_on_the_page() -> None:
    errors = {
        name
        for name, one in vars(client).items()
        if isinstance(one, type) and issubclass(one, client.ClientError)
    }
    assert {name for name in errors if f"`{name}`" not in PAGE} == set()
