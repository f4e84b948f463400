"""The drill, as a shell runs it: a sound backup is proven, and every doctored one is found out."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from ledgerservice.errors import BackupError
from ledgerservice.files.archive import Archive
from ledgerservice.files.backup import new_file, read_back
from ledgerservice.files.drill import PREFIX, compare_rows, digest_rows
from ledgerservice.files.restore import checked_file, restore
from ledgerservice.postgres.connections import Database
from tests.databases import connect, empty_database, reachable_folder, url_text
from tests.files.doctoring import (
    closed,
    opened,
    with_byte_flipped,
    with_manifest,
    with_rows,
    with_totals,
)
from tests.postgres.breaking import post_whole
from tests.processes import ROOT, cli, environment, wait_for


def silent(_step: str, _done: int, _total: int) -> None:
    pass


@pytest.fixture(scope="module")
def ledger(new_database: Callable[..., Database]) -> Database:
    database = new_database()
    post_whole(database)
    return database


@pytest.fixture(scope="module")
def good(ledger: Database, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What `backup` writes of a ledger with every kind of transaction."""
    file = tmp_path_factory.mktemp("good") / "ledger.backup"
    assert cli("backup", str(file), DATABASE_URL=url_text(ledger)).returncode == 0
    return file.read_bytes()


@pytest.fixture
def place() -> Iterator[Path]:
    """What the drill uses as TMPDIR."""
    with reachable_folder() as folder:
        yield folder


def drill(file: Path, place: Path, *options: str, **values: str) -> Any:
    return cli("backup", "--verify", *options, str(file), TMPDIR=str(place), **values)


def databases(ledger: Database) -> list[str]:
    with connect(ledger) as connection:
        query = "SELECT datname FROM pg_database WHERE datname LIKE %s"
        return [name for (name,) in connection.execute(query, [f"{PREFIX}%"])]


@pytest.mark.thorough
@pytest.mark.parametrize("on_a_server", [False, True], ids=["embedded", "by URL"])
def test_a_sound_backup_is_proven(
    ledger: Database, good: bytes, tmp_path: Path, place: Path, on_a_server: bool
) -> None:
    file = tmp_path / "ledger.backup"
    file.write_bytes(good)
    values = {"LEDGER_SCRATCH_URL": url_text(ledger)} if on_a_server else {}
    done = drill(file, place, "--json", **values)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    with file.open("rb") as source:
        manifest = Archive(source).manifest
    with connect(ledger) as connection:
        query = "SELECT max(id), (SELECT count(*) FROM ledger.accounts) FROM ledger.transactions"
        [(last_id, accounts)] = connection.execute(query).fetchall()
    assert facts["holds"] is True
    assert facts["tables"] == len(manifest.tables)
    assert facts["rows"] == sum(table.rows for table in manifest.tables.values())
    assert facts["totals"]["last_transaction_id"] == last_id
    balances = facts["totals"]["trial_balance"]
    assert sum(one["accounts"] for one in balances) == accounts
    assert all(one["debit"] == one["credit"] for one in balances)
    assert any(int(one["held"]) for one in balances)
    assert facts["rto_s"] > 0
    assert list(place.iterdir()) == []
    assert databases(ledger) == []


def without_row(good: bytes, table: str) -> bytes:
    """Without its last row, and a manifest that agrees."""
    _, members = opened(good)
    last = members[f"tables/{table}.copy"].splitlines(keepends=True)[-1]
    return with_rows(good, table, (last, b""))


def with_row_only_cut(good: bytes) -> bytes:
    manifest, members = opened(without_row(good, "entries"))
    manifest["tables"]["entries"]["rows"] += 1
    return closed(manifest, members)


def without_table(good: bytes) -> bytes:
    """Neither in the manifest nor in the file."""
    manifest, members = opened(good)
    del manifest["tables"]["details"], members["tables/details.copy"]
    return closed(manifest, members)


DOCTORED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a byte": (with_byte_flipped, "not a complete backup"),
    "a row less": (with_row_only_cut, "Table entries has"),
    "a row less, in the manifest too": (lambda good: without_row(good, "entries"), "violations"),
    "a transaction less": (lambda good: without_row(good, "transactions"), "violations"),
    "a table less": (without_table, "not those of the schema: 'details"),
    "another last transaction": (
        lambda good: with_totals(good, last_transaction_id=7), "the manifest says 7"),
    "another trial balance": (
        lambda good: with_totals(good, trial_balance=[]), "trial balance is not"),
    "no totals": (lambda good: with_manifest(good, totals=None), "no totals"),
}  # fmt: skip


@pytest.mark.parametrize("case", DOCTORED.values(), ids=DOCTORED.keys())
def test_a_doctored_backup_is_found_out(
    ledger: Database,
    good: bytes,
    tmp_path: Path,
    place: Path,
    case: tuple[Callable[[bytes], bytes], str],
) -> None:
    doctor, message = case
    file = tmp_path / "ledger.backup"
    file.write_bytes(doctor(good))
    server = {"LEDGER_SCRATCH_URL": url_text(ledger)}
    done = drill(file, place, **server)
    assert (done.returncode, message in done.stderr) == (1, True), done
    assert len(done.stderr.splitlines()) == 1
    problem = json.loads(drill(file, place, "--json", **server).stdout)
    assert problem["code"] in {"backup_error", "backup_not_sound"}
    assert message in problem["detail"]
    assert list(place.iterdir()) == []
    assert databases(ledger) == []


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["a transaction less", "another last transaction"])
def test_a_doctored_backup_leaves_no_server(
    good: bytes, tmp_path: Path, place: Path, case: str
) -> None:
    """On an embedded server it is found out too: while rows are loaded, and afterwards."""
    doctor, message = DOCTORED[case]
    file = tmp_path / "ledger.backup"
    file.write_bytes(doctor(good))
    problem = json.loads(drill(file, place, "--json").stdout)
    assert message in problem["detail"]
    assert list(place.iterdir()) == []


def test_rows_that_are_restored_otherwise_are_found(
    new_database: Callable[..., Database], good: bytes, tmp_path: Path
) -> None:
    """As a server would that loses or changes a row: nothing that `verify` looks at."""
    file = tmp_path / "ledger.backup"
    file.write_bytes(good)
    with checked_file(file, silent) as archive:

        def change(connection: Any) -> None:
            compare_rows(connection, "ledger", archive, silent)
            connection.execute(text("ALTER TABLE ledger.currencies DISABLE TRIGGER USER"))
            connection.execute(text("UPDATE ledger.currencies SET name = name || '!'"
                                    " WHERE code = 'USD'"))  # fmt: skip
            compare_rows(connection, "ledger", archive, silent)

        with pytest.raises(BackupError, match="Table currencies was restored with other rows"):
            restore(empty_database(new_database(), "drill"), archive, silent, change)


def test_the_order_of_rows_is_not_compared_but_their_number_is() -> None:
    rows = [b"a\tb\n", b"c\n", b"\n"]
    expected = digest_rows(rows)
    assert digest_rows([b"c\n\na", b"\tb\n"]) == expected
    assert digest_rows([*rows, b"c\n"]) != expected
    assert digest_rows(rows[1:]) != expected
    assert digest_rows([b"a\tb\nc\n"]) != expected


@pytest.mark.thorough
def test_a_drill_that_is_ended_leaves_nothing(good: bytes, tmp_path: Path, place: Path) -> None:
    file = tmp_path / "ledger.backup"
    file.write_bytes(good)
    process = subprocess.Popen(
        [sys.executable, "-m", "ledgerservice", "backup", "--verify", str(file)],
        env=environment(TMPDIR=str(place)),
        cwd=ROOT,
    )
    assert wait_for(lambda: any(place.glob("*/data/postgres.new")), 60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert list(place.iterdir()) == []


def write(content: bytes, file: Path) -> None:
    with new_file(file) as target:
        target.write(content)
        read_back(target)


def test_a_file_that_is_read_back_otherwise_gets_no_name(tmp_path: Path, good: bytes) -> None:
    """As from a disk that changes a byte."""
    write(good, tmp_path / "good")
    with pytest.raises(BackupError, match="not a complete backup"):
        write(with_byte_flipped(good), tmp_path / "bad")
    assert os.listdir(tmp_path) == ["good"]
