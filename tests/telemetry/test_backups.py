"""What a service shows of backups, drills and archives: the real commands, on a real server."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString, NamedTuple

import psycopg
import pytest

from ledgerservice.embedded.archive import SLOT
from ledgerservice.embedded.server import EmbeddedServer
from ledgerservice.posting.archives import Archives
from ledgerservice.telemetry.metrics import ARCHIVE_LAG
from tests.processes import ROOT, cli, environment, free_port, serving, wait_for
from tests.telemetry.scraping import families, value

SUCCESS, FAILED = "ledger_backup_last_success_timestamp_seconds", "ledger_backup_failed"
ACTIVE, LAG = "ledger_wal_archive_active", "ledger_wal_archive_lag_seconds"
LAG_BYTES = "ledger_wal_archive_lag_bytes"
POSITION = "ledger_wal_archive_position_bytes"


@pytest.fixture
def data(workspace: Path) -> Path:
    return workspace / "data"


def kinds(port: int, name: str) -> dict[str, float]:
    """The samples of a metric by their one label."""
    return {
        label: sample.value
        for sample in families(port)[name].samples
        for label in sample.labels.values()
    }


@contextmanager
def archiving(data: Path, folder: Path) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", "ledgerservice", "archive", str(folder), "--json"],
        env=environment(LEDGER_DATA_FOLDER=str(data)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert b"base" in process.stdout.readline()
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.mark.thorough
def test_backups_and_drills_show_their_last_results(workspace: Path, data: Path) -> None:
    port, values = free_port(), {"LEDGER_DATA_FOLDER": str(data)}
    file = str(workspace / "ledger.backup")
    with serving(LEDGER_METRICS_PORT=str(port), **values) as service:
        service.open(balance="5")
        assert (kinds(port, SUCCESS), kinds(port, FAILED)) == ({}, {})
        assert cli("backup", file, **values).returncode == 0
        assert cli("backup", file, "--verify", **values).returncode == 0
        assert wait_for(lambda: kinds(port, FAILED) == {"backup": 0, "drill": 0}, 20)
        first = kinds(port, SUCCESS)
        assert min(kinds(port, "ledger_backup_duration_seconds").values()) > 0
        assert cli("backup", file, **values).returncode == 1  # the file exists
        Path(file).write_bytes(b"damaged")
        assert cli("backup", file, "--verify", **values).returncode == 1
        assert wait_for(lambda: kinds(port, FAILED) == {"backup": 1, "drill": 1}, 20)
        assert kinds(port, SUCCESS) == first


@pytest.mark.thorough
def test_a_backup_does_not_fail_because_its_result_is_not_kept(
    workspace: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    values = {
        "LEDGER_DATA_FOLDER": str(data),
        "LEDGER_BACKUP_RESULTS": str(tmp_path / "file" / "folder"),
    }
    with serving(**values):
        done = cli("backup", str(workspace / "ledger.backup"), **values)
    assert (done.returncode, "result is not kept" in done.stderr) == (0, True), done


@pytest.mark.thorough
def test_an_archive_shows_how_far_it_is(workspace: Path, data: Path) -> None:
    port, folder = free_port(), workspace / "archive"
    with serving(LEDGER_DATA_FOLDER=str(data), LEDGER_METRICS_PORT=str(port)) as service:
        account = service.open(balance="5")
        with archiving(data, folder):
            assert wait_for(lambda: kinds(port, ACTIVE) == {SLOT: 1}, 20)
            assert wait_for(lambda: kinds(port, LAG)[SLOT] == 0, 20)
            assert kinds(port, POSITION)[SLOT] > 0
            done = cli("archive", str(folder), "--verify", LEDGER_DATA_FOLDER=str(data))
            assert done.returncode == 0, done.stdout
        assert wait_for(lambda: kinds(port, ACTIVE) == {SLOT: 0}, 20)
        service.send("/deposit/", account_id=account, amount="1")
        assert wait_for(lambda: kinds(port, LAG)[SLOT] > 0, 20)
        assert kinds(port, LAG_BYTES)[SLOT] > 0
        assert kinds(port, FAILED) == {"base": 0, "archive_drill": 0}
        assert value(port, "ledger_archive_rpo_seconds") == 0
        service.get("/events")
        assert wait_for(lambda: value(port, "ledger_feed_epoch") == 1, 20)


@pytest.mark.long
def test_archive_command_shows_whether_it_gets_on(data: Path) -> None:
    port, values = free_port(), {"LEDGER_DATA_FOLDER": str(data)}
    with serving(**values) as service:
        account = service.open(balance="5")
        ask(data, "ALTER SYSTEM SET archive_mode = 'on'")
        ask(data, "ALTER SYSTEM SET autovacuum = 'off'")  # it has transactions too
        ask(data, "ALTER SYSTEM SET archive_command = 'false'")
    with serving(LEDGER_METRICS_PORT=str(port), **values) as service:
        service.send("/deposit/", account_id=account, amount="1")
        ask(data, "SELECT pg_switch_wal()")
        assert wait_for(lambda: kinds(port, ACTIVE) == {"archive_command": 0}, 60)
        assert wait_for(lambda: kinds(port, LAG)["archive_command"] > 0, 60)
        ask(data, "ALTER SYSTEM SET archive_command = 'true'")
        ask(data, "SELECT pg_reload_conf()")
        assert wait_for(lambda: kinds(port, ACTIVE) == {"archive_command": 1}, 90)

        def is_archived() -> bool:
            ask(data, "SELECT pg_switch_wal()")  # what came after the last one waits for it
            return kinds(port, LAG)["archive_command"] == 0

        assert wait_for(is_archived, 60)
        assert kinds(port, LAG_BYTES)["archive_command"] < 2 * 16 * 2**20
        for _ in range(3):
            service.send("/deposit/", account_id=account, amount="1")
            # What an idle server writes into the next file of its log is no transaction.
            switched = ask(data, "SELECT (pg_switch_wal() - '0/0')::bigint")
            ask(data, "CHECKPOINT")
            assert wait_for(lambda: kinds(port, POSITION)["archive_command"] >= switched, 60)  # noqa: B023
            assert wait_for(lambda: kinds(port, LAG)["archive_command"] == 0, 10)


FILE = 16 * 2**20


class Seen(NamedTuple):
    """What a sample saw: the end of the log, the next transaction, how much is archived."""

    position: int
    next_xid: int
    archived: int


@pytest.mark.parametrize(
    ("samples", "lacks"),
    [
        ([Seen(10, 5, 0)], True),
        ([Seen(10, 5, 0), Seen(20, 5, FILE)], False),
        ([Seen(FILE - 9, 5, 0), Seen(FILE + 9, 6, 0)], True),
        # A checkpoint has followed the switch before the sample.
        ([Seen(FILE - 9, 5, 0), Seen(FILE + 9, 6, FILE)], False),
        ([Seen(FILE + 1, 5, FILE), Seen(FILE + 9, 6, FILE)], True),
        ([Seen(FILE + 1, 5, FILE), Seen(FILE + 9, 5, FILE), Seen(FILE + 19, 5, FILE)], False),
        ([Seen(FILE + 1, 5, FILE), Seen(FILE + 9, 6, FILE), Seen(FILE + 19, 6, 2 * FILE)], False),
    ],
)
def test_archive_command_lacks_what_is_in_no_archived_file(
    samples: list[Seen], lacks: bool
) -> None:
    archives = Archives()
    for seen in samples:
        log = ("", seen.position, seen.next_xid, 1)
        archives.show([log, ("archive_command", seen.archived, 1, FILE)])
    assert (ARCHIVE_LAG.values["archive_command",] > 0) is lacks


def test_a_receiver_lacks_what_it_has_not_got() -> None:
    archives = Archives()
    for position, next_xid in ((FILE - 9, 5), (FILE + 9, 6)):
        archives.show([("", position, next_xid, 1), ("slot", FILE, 1, 1)])
    assert ARCHIVE_LAG.values["slot",] > 0


def ask(data: Path, statement: LiteralString) -> int:
    with psycopg.connect(EmbeddedServer(data).url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
        return int(row[0]) if row and isinstance(row[0], int) else 0
