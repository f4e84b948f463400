"""What --json prints: one JSON object at the end of each command, and for each fault."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledgerservice.postgres.migrations import HEAD
from tests.databases import connect, url_text
from tests.processes import ROOT, cli, environment, free_port

ROWS = """type,owner,currency,account_reference,amount,idempotency_key
ACCOUNT,Ada,USD,ada,,
DEPOSIT,,,ada,7,k1
WITHDRAWAL,,,ada,9,k2
DEPOSIT,,,nobody,1,k3
"""


def only_line(text: str) -> dict[str, Any]:
    [line] = text.splitlines()
    value = json.loads(line)
    assert isinstance(value, dict)
    return value


@pytest.fixture
def url(new_database: Callable[..., Any]) -> str:
    return url_text(new_database())


def test_an_import_and_its_rejects(url: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(ROWS)
    done = cli("import", str(tmp_path / "rows.csv"), "--json", DATABASE_URL=url)
    totals = only_line(done.stdout)
    rejects = tmp_path / "rows.csv.rejects.csv"
    assert done.returncode == 1
    assert totals == {
        "dry_run": False, "posted": 1, "opened": 1, "replayed": 0, "declined": 1, "rejected": 1,
        "done_bytes": len(ROWS), "rejects": str(rejects), "interrupted": False,
    }  # fmt: skip
    assert rejects.exists()


def test_an_export_to_a_file_and_to_the_standard_output(url: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(ROWS)
    cli("import", str(tmp_path / "rows.csv"), DATABASE_URL=url)
    file = tmp_path / "journal.csv"
    done = cli("export", str(file), "--json", DATABASE_URL=url)
    assert (done.returncode, done.stderr) == (0, "")
    facts = {"file": str(file), "format": "csv", "ledger": "default", "entries": 2}
    assert only_line(done.stdout) == facts
    piped = cli("export", "--json", DATABASE_URL=url)
    assert piped.stdout == file.read_text()
    assert only_line(piped.stderr) == {**facts, "file": None}
    whole = cli("export", str(tmp_path / "h"), "--history", "--json", DATABASE_URL=url)
    assert only_line(whole.stdout) == {
        "file": str(tmp_path / "h"), "format": "ndjson", "ledger": "default", "accounts": 1,
        "transactions": 2,
    }  # fmt: skip


def test_a_backup_and_its_restore(url: str, database, tmp_path: Path) -> None:
    file = tmp_path / "ledger.backup"
    written = cli("backup", str(file), "--json", DATABASE_URL=url)
    facts = {"file": str(file), "size_bytes": file.stat().st_size, "revision": HEAD}
    assert (only_line(written.stdout), written.stderr) == (facts, "")
    with (tmp_path / "piped").open("wb") as target:
        piped = subprocess.run(
            [sys.executable, "-m", "ledgerservice", "backup", "-", "--json"],
            env=environment(DATABASE_URL=url), cwd=ROOT, stdout=target, stderr=subprocess.PIPE,
            text=True, check=True,
        )  # fmt: skip
    size = (tmp_path / "piped").stat().st_size
    assert only_line(piped.stderr) == {"file": "-", "size_bytes": size, "revision": HEAD}
    name = f"{database.url.database}_restored"
    with connect(database) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    empty = url_text(database).replace(str(database.url.database), name)
    done = cli("restore", str(file), "--json", DATABASE_URL=empty)
    assert (only_line(done.stdout), done.returncode) == ({**facts, "holds": True}, 0)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.thorough)])
def test_serve_says_where_when_it_is_ready(url: str, workers: str) -> None:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "ledgerservice", "serve", "--json", "--workers", workers,
         "--port", str(port)],
        env=environment(DATABASE_URL=url), cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        base = f"http://127.0.0.1:{port}"
        assert line == {
            "status": "ready", "address": base, "docs": f"{base}/docs", "database": "own",
        }  # fmt: skip
        assert httpx.get(f"{base}/health/live", timeout=60).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)[0]
    assert rest == ""


@pytest.fixture
def taken_port() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield str(other.getsockname()[1])


FAULTS: dict[tuple[str, ...], str] = {
    ("serve", "--port", "TAKEN"): "cannot_listen",
    ("verify",): "database_missing",
    ("migrate",): "database_missing",
    ("demo",): "database_missing",
    ("backup", "FOLDER/b"): "database_missing",
    ("backup", "FOLDER/none/b"): "backup_error",
    ("restore", "FOLDER/file"): "backup_error",
    ("import", "FOLDER/none.csv"): "import_fault",
    ("import", "FOLDER/file.csv"): "import_fault",
    ("import", "FOLDER/file.ndjson", "--history"): "database_missing",
    ("export", "FOLDER/e.csv"): "database_missing",
    ("export", "FOLDER/e.csv", "--since", "yesterday"): "export_fault",
    ("balance", "1"): "database_missing",
}


@pytest.mark.parametrize("arguments", FAULTS, ids=" ".join)
def test_a_fault_is_a_problem(
    arguments: tuple[str, ...], database, taken_port: str, tmp_path: Path
) -> None:
    for name in ("file", "file.csv", "file.ndjson"):
        (tmp_path / name).write_text("x")
    missing = url_text(database).replace(str(database.url.database), "no_such_database")
    named = [a.replace("FOLDER", str(tmp_path)).replace("TAKEN", taken_port) for a in arguments]
    plain = cli(*named, DATABASE_URL=missing)
    done = cli(*named, "--json", DATABASE_URL=missing)
    assert done.returncode == plain.returncode
    problem = only_line(done.stdout)
    assert done.returncode == 1
    assert problem["code"] == FAULTS[arguments]
    assert problem["type"] == f"urn:ledgerservice:problem:{FAULTS[arguments]}"
    assert plain.stderr.splitlines()[-1] == f"ledgerservice: {problem['detail']}"
    assert done.stderr == ""


def test_a_fault_beside_a_file_on_the_standard_output(database) -> None:
    missing = url_text(database).replace(str(database.url.database), "no_such_database")
    done = cli("export", "--json", DATABASE_URL=missing)
    assert (done.returncode, done.stdout) == (1, "")
    assert only_line(done.stderr)["code"] == "database_missing"


def test_a_broken_ledger_is_not_restored_and_its_violations_are_facts(
    new_database: Callable[..., Any], database, tmp_path: Path
) -> None:
    source = new_database()
    with connect(source) as connection:
        connection.execute("ALTER TABLE ledger.accounts DISABLE TRIGGER USER")
        connection.execute("UPDATE ledger.accounts SET balance = balance + 1 WHERE id = -1")
    file = str(tmp_path / "broken.backup")
    assert cli("backup", file, DATABASE_URL=url_text(source)).returncode == 0
    name = f"{database.url.database}_broken"
    with connect(database) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    empty = url_text(database).replace(str(database.url.database), name)
    done = cli("restore", file, "--json", DATABASE_URL=empty)
    problem = only_line(done.stdout)
    assert (done.returncode, problem["code"]) == (1, "backup_not_sound")
    assert problem["violations"]


def test_settings_are_printed_without_secrets() -> None:
    done = cli("settings", "--json", LEDGER_PORT="9", LEDGER_API_KEY="hush")
    rows = {row["variable"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert (rows["LEDGER_PORT"]["value"], rows["LEDGER_PORT"]["default"]) == ("9", "8000")
    assert rows["LEDGER_API_KEY"]["value"] == "***"
    text = cli("settings", DATABASE_URL="postgresql://u:hush@h/d").stdout
    assert "hush" not in text and "DATABASE_URL = ***" in text
