"""The README and the pages of docs: commands are run, tables and links are compared."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ledgerservice.api.application import create_api
from ledgerservice.settings import Settings
from tests.databases import url_text
from tests.processes import (
    ROOT,
    RunningService,
    await_ready,
    environment,
    free_port,
    serving,
    wait_for,
)

DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
SEED = (DOCS / "SEED.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += sorted({*DOCS.rglob("*.md")} - {DOCS / "SEED.md"})
README_LIMIT_LINES = 130
BASE = "http://127.0.0.1:8000"
VOLATILE = re.compile(r'"\d{4}-\d\d-\d\dT[\d:.]+Z"')

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture
def fresh(new_database) -> Iterator[RunningService]:
    """A service whose ledger is empty."""
    with serving(DATABASE_URL=url_text(new_database())) as service:
        yield service


def blocks(language: str, page: str = README) -> list[str]:
    """A page's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def shell(command: str, **values: str) -> str:
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True, text=True, check=True, timeout=300, cwd=ROOT,
        env=environment(**values),
    ).stdout.strip()  # fmt: skip


TOURS = {
    "README.md": 14,
    "docs/currencies.md": 8,
    "docs/events.md": 8,
    "docs/history.md": 24,
    "docs/holds.md": 28,
    "docs/ledgers.md": 24,
    "docs/policies.md": 14,
    "docs/queries.md": 22,
    "docs/recipes.md": 14,
    "docs/reversals.md": 16,
    "docs/transactions.md": 24,
}


@needs_curl
@pytest.mark.parametrize(
    "page",
    [
        page if page == "README.md" else pytest.param(page, marks=pytest.mark.thorough)
        for page in TOURS
    ],
)
def test_a_tour_gives_the_output_it_shows(fresh, page):
    found = blocks("console", (ROOT / page).read_text())
    lines = [line for block in found for line in block.splitlines()]
    assert len(lines) == TOURS[page]
    for command, shown in zip(lines[::2], lines[1::2], strict=True):
        assert command.startswith("$ ")
        given = shell(command[2:].replace(BASE, fresh.base))
        assert VOLATILE.sub("_", given) == VOLATILE.sub("_", shown), command


PROGRAM = f"{sys.executable} -m ledgerservice "


def keys_of_the_page(page: str, folder: Path, url: str) -> dict[str, str]:
    """Run in a folder what the page does on the command line; the keys that it makes."""
    setup = "".join(blocks("sh", page)).replace("ledgerservice ", PROGRAM)
    said = shell(f"cd {folder}\n{setup}\necho $ALICE $BOB", DATABASE_URL=url)
    return dict(zip(("ALICE", "BOB"), said.splitlines()[-1].split(), strict=True))


@needs_curl
@pytest.mark.thorough
def test_the_tour_of_approvals_gives_the_output_it_shows(new_database, tmp_path):
    page, url = (DOCS / "approvals.md").read_text(), url_text(new_database())
    lines = [line for block in blocks("console", page) for line in block.splitlines()]
    assert len(lines) == 8
    with serving(DATABASE_URL=url) as service:
        keys = keys_of_the_page(page, tmp_path, url)
        assert wait_for(lambda: "key_missing" in service.get("/accounts").text)
        for command, shown in zip(lines[::2], lines[1::2], strict=True):
            here = command[2:].replace(BASE, service.base).replace("ledgerservice ", PROGRAM)
            given = shell(f"cd {tmp_path}\n{here}", **keys)
            assert VOLATILE.sub("_", given) == VOLATILE.sub("_", shown), command


@needs_curl
def test_seed_s_curl_examples_work_as_written(fresh):
    text = SEED.partition("## Example API Calls")[2].partition("---")[0]
    joined = re.sub(r"\n- ([Hd] )", r" -\1", text)
    commands = re.findall(r"^curl .*$", joined, re.MULTILINE)
    assert len(commands) == 4
    commands.insert(1, commands[0])  # the transfer is to a second account
    opened, _, deposited, moved, history = [
        json.loads(shell(f"{command} -s".replace(BASE, fresh.base))) for command in commands
    ]
    assert opened["owner"] == "Alice"
    assert deposited["new_balance"] == "100.00"
    assert moved["sender_new_balance"] == "50.00"
    assert [entry["amount"] for entry in history] == ["-50.00", "100.00"]


def test_make_serve_serves_and_says_where_the_docs_are(workspace):
    command = blocks("sh")[0].strip()
    assert command == "make serve"
    port = free_port()
    values = {"LEDGER_DATA_FOLDER": str(workspace / "data"), "LEDGER_PORT": str(port)}
    process = subprocess.Popen(
        command.split(), cwd=ROOT, env=environment(**values), stdout=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        await_ready(client, process)
        assert client.get("/docs").status_code == 200
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        said = process.communicate(timeout=60)[0]
    assert f"docs: http://127.0.0.1:{port}/docs" in said


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_says_python_where_only_python3_is_there(page):
    """Within a virtual environment that a line names there is a `python`."""
    assert re.findall(r"(?<![\w/.-])python (?:-|\S+\.py)", page.read_text()) == []


def test_what_runs_the_tests_is_the_readme_s_command():
    assert blocks("sh")[1].strip() == "make test"
    assert 'make test MARKS="not long"' in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """What a clone holds, without the clone's virtual environment."""
    folder = tmp_path_factory.mktemp("clone") / "ledgerservice"
    ignored = shutil.ignore_patterns(".venv", ".git", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, folder, ignore=ignored)
    return folder


@pytest.mark.thorough
def test_the_local_setup_works_as_written(copy, new_database):
    commands = blocks("sh")[2].strip().splitlines()
    seed = SEED.partition("### Option B")[2]
    given = {line.removeprefix("- ").partition(" #")[0] for line in seed.splitlines()}
    # SEED says `python`, which Debian, Ubuntu and macOS do not have.
    as_seed_says = {re.sub("^python3 ", "python ", one) for one in commands}
    assert {command for command in as_seed_says if not command.startswith("export")} <= given
    port = free_port()
    script = "\n".join(commands).replace(
        "postgresql://postgres:password@localhost:5432/ledger_db",
        url_text(new_database()).replace("+psycopg", ""),
    )
    process = subprocess.Popen(
        ["bash", "-ec", f"{script} --port {port}"],
        cwd=copy, env=environment(PYTHONPATH=""), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        base = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=base, timeout=60) as client:
            await_ready(client, process, limit_s=240)
        race = [sys.executable, "tests/test_concurrency.py", base]
        done = subprocess.run(race, cwd=copy, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "No overdraft, no double spending" in done.stdout
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def test_the_python_example_runs(new_database):
    [code] = blocks("python", (DOCS / "python.md").read_text())
    url = url_text(new_database()).replace("+psycopg", "")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
        env=environment(DATABASE_URL=url),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "Bob has 1990 cents\n"), done.stderr


def test_the_readme_is_short():
    assert len(README.splitlines()) <= README_LIMIT_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    text = page.read_text()
    assert not re.search(r"[A-Z]+_FIGURES|TODO|FIXME", text)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


def anchors(text: str) -> list[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


def test_the_readme_s_figures_are_those_of_the_performance_page():
    performance = (DOCS / "performance.md").read_text()
    rows = re.findall(r"^\| (?:uniform|hot|pair) .*$", README, re.MULTILINE)
    assert len(rows) == 3
    assert set(rows) <= set(performance.splitlines())
    [rate] = re.findall(r"posts ([\d,]+) transfers/s", README)
    assert re.search(rf"^\| post uniform +\| +{rate} ", performance, re.MULTILINE)


def test_the_tables_of_a_hundred_shards_are_computed():
    command = [sys.executable, "benchmarks/scale.py"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tables = printed.strip().split("\n\n")
    assert len(tables) == 2
    page = (DOCS / "scale.md").read_text()
    assert [table for table in tables if f"\n\n{table}\n\n" not in page] == []


def test_the_configuration_table_is_the_settings():
    page = (DOCS / "configuration.md").read_text()
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| (.*) \|$", page, re.MULTILINE)
    assert rows == [
        (
            str(field.validation_alias or f"LEDGER_{name.upper()}"),
            _default(field),
            field.description,
        )
        for name, field in Settings.model_fields.items()
    ]


def _default(field) -> str:
    if field.default_factory is not None:
        return "[Start](../README.md#start)"
    value = field.default
    if value is None:
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_the_route_table_is_the_api():
    page = (DOCS / "api.md").read_text()
    rows = re.findall(r"^\| `([A-Z]+) (/\S*)` \|", page, re.MULTILINE)
    paths = create_api().openapi()["paths"]
    assert sorted(rows) == sorted((m.upper(), path) for path in paths for m in paths[path])


def test_every_decision_has_a_date_and_a_status():
    pages = sorted((DOCS / "decisions").glob("0*.md"))
    index = (DOCS / "decisions" / "README.md").read_text()
    for number, page in enumerate(pages, start=1):
        title, _, status = page.read_text().splitlines()[:3]
        assert title.startswith(f"# {number}. ")
        assert re.match(r"Date: 20\d\d-\d\d-\d\d\. Status: (accepted|superseded by) ?", status)
        assert f"{number}. [{title.partition('. ')[2]}]({page.name})" in index
