"""A file that is damaged, or was made to do harm, changes nothing in the database."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledgerservice.errors import BackupError, BackupNotSound
from ledgerservice.files.backup import backup
from ledgerservice.files.restore import checked_file, restore
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.migrations.versions import base
from ledgerservice.postgres.verification import Violation
from tests.databases import connect, empty_database, url_text
from tests.files.doctoring import (
    closed,
    encrypted,
    opened,
    with_byte_flipped,
    with_changed_rows,
    with_manifest,
    with_member_twice,
    with_more,
    with_record,
    with_rows,
    with_table_named,
    with_totals,
)
from tests.postgres.breaking import post_whole
from tests.processes import cli

EVIL = 'accounts"; CREATE TABLE public.evil (); --'


def silent(_step: str, _done: int, _total: int) -> None:
    pass


@pytest.fixture(scope="module")
def good(new_database: Callable[..., Database]) -> bytes:
    """The backup of a ledger with every kind of transaction."""
    database, target = new_database(), io.BytesIO()
    post_whole(database)
    backup(database.owner_engine(), "ledger", target, silent)
    return target.getvalue()


@pytest.fixture
def empty(new_database: Callable[..., Database]) -> Database:
    return empty_database(new_database(), "empty")


NOT_COMPLETE = "not a complete backup"
# What is refused by the file alone, before a database is looked at.
BAD_FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "nothing": (lambda _: b"", NOT_COMPLETE),
    "pg_dump's archive": (lambda _: b"PGDMP\1\16\0" + bytes(1_000), NOT_COMPLETE),
    "a ZIP file of something else": (lambda good: closed({}, {}), NOT_COMPLETE),
    "the first half": (lambda good: good[: len(good) // 2], NOT_COMPLETE),
    "all but the last byte": (lambda good: good[:-1], NOT_COMPLETE),
    "without its middle": (lambda good: good[:400] + good[800:], NOT_COMPLETE),
    "a byte flipped": (with_byte_flipped, NOT_COMPLETE),
    "encrypted": (encrypted, NOT_COMPLETE),
    "changed rows": (with_changed_rows, "rows of table accounts are not those.*SHA-256"),
    "a foreign member": (lambda good: with_more(good, "restore.sql"), "'restore.sql'"),
    "a member with a path": (lambda good: with_more(good, "../../x"), r"'\.\./\.\./x'"),
    "a member twice": (with_member_twice, "a name that is there twice"),
    "a member missing": (
        lambda good: with_manifest(good, tables=opened(good)[0]["tables"] | {"more": {
            "columns": [], "rows": 0, "size_bytes": 0, "sha256": "0" * 64}}), "'tables/more.copy'"),
    "a size": (lambda good: with_record(good, "accounts", size_bytes=7), "another size"),
    "a number of rows below zero": (lambda good: with_record(good, "accounts", rows=-1), ">= 0"),
    "a checksum that is none": (lambda good: with_record(good, "accounts", sha256="0"), "sha256"),
    "columns that are none": (lambda good: with_record(good, "accounts", columns=[1]), "columns"),
    "an unknown field": (lambda good: with_manifest(good, sql="DROP TABLE x"), "unknown field"),
    "a later format": (lambda good: with_manifest(good, format=3), "up to 2. Use a newer one"),
    "a large manifest": (lambda good: with_manifest(good, x="x" * 2**21), "too large"),
    "a number of rows": (
        lambda good: with_record(good, "entries", rows=7), r"Table entries has \d+ rows"),
    "a manifest without totals": (lambda good: with_manifest(good, totals=None), "no totals"),
    "an unknown revision": (lambda good: with_manifest(good, revision="9999"), "revision '9999'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_refused_by_itself(
    good: bytes, tmp_path: Path, case: tuple[Callable[[bytes], bytes], str]
) -> None:
    change, message = case
    file = tmp_path / "ledger.backup"
    file.write_bytes(change(good))
    with pytest.raises(BackupError, match=message), checked_file(file, silent):
        pass


# What only the database can find. Nothing of it stays.
BAD_ROWS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "SQL as a table's name": (lambda good: with_table_named(good, EVIL), "not those of the schema"),
    "another table": (lambda good: with_table_named(good, "alembic_version"), "of the schema"),
    "SQL as a column's name": (
        lambda good: with_record(good, "ledgers", columns=["ledger_id", EVIL]), "of the schema"),
    "a column less": (
        lambda good: with_record(good, "ledgers", columns=["ledger_id"]), "of the schema"),
    "a generated column": (
        lambda good: with_record(
            good, "holds", columns=[*opened(good)[0]["tables"]["holds"]["columns"], "ends_at"]),
        "holds.ends_at"),
    "a column twice": (
        lambda good: with_record(
            good, "ledgers", columns=[*opened(good)[0]["tables"]["ledgers"]["columns"], "name"]),
        "there twice"),
    "SQL as a sequence's name": (
        lambda good: with_manifest(good, sequences={EVIL: {"last_value": 1, "is_called": True}}),
        "sequences are not those"),
    "a sequence out of its bounds": (
        lambda good: with_manifest(good, sequences=opened(good)[0]["sequences"] | {
            "currency_number": {"last_value": 2**40, "is_called": True}}), "out of bounds"),
    "rows behind the end of the data": (
        lambda good: with_rows(good, "ledgers", (b"1\tdefault", b"\\.\n1\tdefault")), "ledgers"),
    "a text for a number": (
        lambda good: with_rows(good, "ledgers", (b"1\tdefault", b"one\tdefault")),
        "COPY ledgers, line 1, column ledger_id: .*type integer"),
    "a row that breaks a constraint": (
        lambda good: with_rows(good, "ledgers", (b"1\tdefault", b"1\tNo Name!")),
        "COPY ledgers, line 1: .*ledgers_name"),
    "a row without the one it refers to": (
        lambda good: with_rows(good, "accounts", (b"\tUSD\t", b"\tXYZ\t")),
        "accounts_currency_fkey"),
    "a key twice": (
        lambda good: with_rows(good, "secrets", (b"cursors\t", b"cursors\tx\ncursors\t")),
        "secrets_pkey"),
    "zero bytes": (lambda good: with_rows(good, "secrets", (b"cursors", b"cur\0ors")), "secrets"),
    "not UTF-8": (lambda good: with_rows(good, "secrets", (b"cursors", b"cur\xffors")), "secrets"),
    "another last transaction": (
        lambda good: with_totals(good, last_transaction_id=7), "last transaction is .* says 7"),
    "another trial balance": (
        lambda good: with_totals(good, trial_balance=[]), "trial balance is not that"),
    "an older revision's columns": (
        lambda good: with_record(
            with_manifest(good, revision=base.revision), "ledgers", columns=["ledger_id", "x"]),
        "of the schema"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_bad_rows_leave_nothing_in_the_database(
    good: bytes, empty: Database, tmp_path: Path, case: tuple[Callable[[bytes], bytes], str]
) -> None:
    change, message = case
    file = tmp_path / "ledger.backup"
    file.write_bytes(change(good))
    with checked_file(file, silent) as archive, pytest.raises(BackupError, match=message):
        restore(empty, archive, silent)
    assert has_nothing(empty)
    file.write_bytes(good)  # what is right is taken, so it was not something else
    with checked_file(file, silent) as archive:
        restore(empty, archive, silent)


def has_nothing(database: Database) -> bool:
    with connect(database) as owner:
        query = "SELECT to_regnamespace('ledger')::text, to_regclass('public.evil')::text"
        return owner.execute(query).fetchone() == (None, None)


def test_a_balance_that_agrees_with_its_checksum_is_named(
    good: bytes, empty: Database, tmp_path: Path
) -> None:
    """As a shell sees it: the violations, one line, exit code 1, and nothing restored."""
    _, members = opened(good)
    [row] = [r for r in members["tables/accounts.copy"].splitlines() if r.startswith(b"1\t3\t")]
    richer = row.replace(b"\t10000\t", b"\t99999\t", 1)
    file = tmp_path / "ledger.backup"
    file.write_bytes(with_rows(good, "accounts", (row, richer)))
    done = cli("restore", str(file), DATABASE_URL=url_text(empty))
    assert done.returncode == 1
    assert "invariant 2: account 3, ledger 1: it stands at balance 99999" in done.stdout
    assert "invariant 1: ledger 1, currency INR" in done.stdout
    assert "2 violations" in done.stderr
    assert "Nothing was restored" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert has_nothing(empty)


def test_what_is_printed_out_of_a_file_controls_no_terminal(
    good: bytes, empty: Database, tmp_path: Path
) -> None:
    _, members = opened(good)
    [row] = [r for r in members["tables/accounts.copy"].splitlines() if r.startswith(b"1\t3\t")]
    file = tmp_path / "ledger.backup"
    strange = row.replace(b"1\t3", b"1\t\x1b[2J3", 1)
    file.write_bytes(with_rows(good, "accounts", (row, strange)))
    done = cli("restore", str(file), DATABASE_URL=url_text(empty))
    assert (done.returncode, r"\x1b[2J3" in done.stderr) == (1, True)
    assert "\x1b" not in done.stdout + done.stderr
    assert str(Violation(6, "key '\x1b'", "twice")) == r"invariant 6: key '\x1b': twice"


def test_many_violations_are_counted_and_some_are_shown(
    good: bytes, empty: Database, tmp_path: Path
) -> None:
    """Without the journal no account stands where its entries say."""
    manifest, members = opened(good)
    for name in ("entries", "transactions"):
        members[f"tables/{name}.copy"] = b""
        manifest["tables"][name] |= {
            "rows": 0, "size_bytes": 0, "sha256": hashlib.sha256().hexdigest()
        }  # fmt: skip
    file = tmp_path / "ledger.backup"
    file.write_bytes(closed(manifest, members))
    with checked_file(file, silent) as archive, pytest.raises(BackupNotSound) as fault:
        restore(empty, archive, silent)
    assert len(fault.value.violations) == 20
    assert int(fault.value.detail.split()[0]) > 20
    assert has_nothing(empty)


def test_what_is_there_already_stays(new_database: Any, good: bytes, tmp_path: Path) -> None:
    """A ledger, or anything else in the schema; also a function."""
    ledger, other = new_database(), empty_database(new_database(), "other")
    with connect(other) as owner:
        owner.execute("CREATE SCHEMA ledger")
        owner.execute("CREATE FUNCTION ledger.f() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
    file = tmp_path / "ledger.backup"
    file.write_bytes(good)
    for database in (ledger, other):
        with checked_file(file, silent) as archive, pytest.raises(BackupError, match="already"):
            restore(database, archive, silent)


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_file_that_is_not_there_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    refused = pytest.raises(BackupError, match=r"No such file|Is a directory")
    with refused, checked_file(tmp_path / name, silent):
        pass


def test_a_bad_file_starts_no_server(tmp_path: Path) -> None:
    file, folder = tmp_path / "ledger.backup", tmp_path / "data"
    file.write_bytes(b"PK")
    done = cli("restore", str(file), LEDGER_DATA_FOLDER=str(folder))
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert not folder.exists()
