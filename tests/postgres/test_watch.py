"""Verification that continues: what it finds, what it reads, and whom it believes."""

import json
import logging
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from ledgerservice.domain.instructions import PolicyChange
from ledgerservice.postgres import verification as verifier
from ledgerservice.postgres.connections import KEEPALIVE, Database
from ledgerservice.postgres.contents import driver
from ledgerservice.postgres.migrations import HEAD
from ledgerservice.postgres.verification import verify, watching
from ledgerservice.postgres.verification.watching import Watch
from ledgerservice.posting.verifying import shown
from ledgerservice.runtime import opened_database, upgrade
from ledgerservice.telemetry.metrics import VERIFY_VIOLATIONS
from tests.databases import administer, connect, settings_for_tests, url_text, without_guards
from tests.postgres.breaking import post_whole, violations
from tests.postgres.costs.rows import rows_read
from tests.postings import deposit, post
from tests.processes import cli, serving, wait_for
from tests.telemetry.scraping import scraped, value


@pytest.fixture(scope="module")
def whole(new_database: Callable[..., Database]) -> Database:
    """A ledger with every kind of transaction."""
    database = new_database()
    post_whole(database)
    return database


@pytest.fixture
def ledger(new_database: Callable[..., Database], whole: Database) -> Database:
    return new_database(whole)


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Watch]]:
    """Makes a Watch of small ranges, which is closed in the end."""
    made: list[Watch] = []
    for name, size in ((verifier.ACCOUNTS, 2), (verifier.TRANSACTIONS, 3)):
        smaller = verifier.PARTS[name]._replace(size=size)
        monkeypatch.setitem(verifier.PARTS, name, smaller)

    def make(database: Database, file: Path | None = None) -> Watch:
        made.append(Watch(database.owner_engine(), "ledger", file))
        return made[-1]

    yield make
    for watch in made:
        watch.close()


def doctor(database: Database, *statements: str) -> None:
    with connect(database) as superuser, without_guards(superuser):
        for statement in statements:
            superuser.execute(statement)


def test_nothing_is_found_in_a_ledger_that_nobody_broke(ledger: Database, watches: Any) -> None:
    watch = watches(ledger)
    assert watch.verify_new() == []
    assert watch.verify_all() == []
    post(ledger, [deposit(1, 5, "new")])
    assert watch.verify_new() == []
    assert (watch.violations, watch.pass_ratio) == (0, 1.0)
    assert watch.last_success_s > 0


# What is done past the guards to the last transactions, and where the violation is. The accounts
# are 1, 2 (USD) and 3 (INR).
NEW: dict[str, tuple[str, str]] = {
    "an amount": ("UPDATE ledger.entries SET amount = amount + 1 {entry}", "invariant 4"),
    "a balance": ("UPDATE ledger.entries SET balance = balance + 1 {entry}", "invariant 4"),
    "a held amount": ("UPDATE ledger.entries SET held = held + 1 {entry}", "invariant 4"),
    "a seq": ("UPDATE ledger.entries SET seq = seq + 1 {entry}", "there is no entry before it"),
    "a currency": ("UPDATE ledger.entries SET currency_number = 2 {entry}", "another currency"),
    "a time": (
        "UPDATE ledger.entries SET recorded_at = recorded_at - interval '1 day' {entry}",
        "its recorded_at is before",
    ),
    "no entry": ("DELETE FROM ledger.entries {entry}", "invariant 1"),
    "no entries": (
        "DELETE FROM ledger.entries WHERE transaction_id = {id}", "posted, but has no entries"),
    "no transaction": (
        "DELETE FROM ledger.transactions WHERE id = {id}", "entries name it, but it does not"),
    "an account": ("UPDATE ledger.accounts SET balance = balance + 1 WHERE id = 1", "invariant 2"),
    "a version": ("UPDATE ledger.accounts SET version = version + 1 WHERE id = 1", "invariant 2"),
    "a held account": ("UPDATE ledger.accounts SET held = held + 1 WHERE id = 1", "of its holds"),
    "no account": ("DELETE FROM ledger.accounts WHERE id = 1", "has entries, but does not exist"),
    "a ceiling": (
        "UPDATE ledger.policies SET ceiling = 1 WHERE account_id = 1", "above the ceiling 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", NEW.values(), ids=NEW.keys())
def test_a_doctored_new_transaction_is_found(
    ledger: Database, watches: Any, case: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    post_policy(ledger)
    watch = watches(ledger)
    assert watch.verify_new() == []
    post(ledger, [deposit(1, 5, "new")])
    with connect(ledger) as owner:
        [(number,)] = owner.execute("SELECT max(id) FROM ledger.transactions").fetchall()
    statement, expected = case
    place = f"WHERE transaction_id = {number} AND account_id = 1"
    doctor(ledger, statement.format(entry=place, id=number))
    with caplog.at_level(logging.ERROR):
        found = [str(one) for one in watch.verify_new()]
    assert any(expected in line for line in found), found
    assert watch.violations == len(set(found))
    assert [r.levelname for r in caplog.records if expected in r.message] != []
    caplog.clear()
    watch.verify_new()
    assert caplog.records == []  # once is enough
    assert watch.violations == len(set(found))


def post_policy(database: Database) -> None:
    """Account 1 gets a policy, so that one can be broken."""
    post(database, [PolicyChange(1, "own", ceiling="100000", actor="a", reason="r")])


def test_a_pass_finds_what_verify_finds(ledger: Database, watches: Any) -> None:
    """Old rows, which nothing new leads to, in every part."""
    lines = violations(
        ledger,
        "UPDATE ledger.accounts SET balance = balance + 1 WHERE id = 3",
        "UPDATE ledger.entries SET amount = amount - 1 WHERE account_id = 1 AND seq = 2",
        "UPDATE ledger.holds SET remaining = remaining - 1 WHERE transaction_id = 9",
        "ALTER TABLE ledger.entries DISABLE TRIGGER entries_immutable",
    )
    assert len(lines) > 4
    watch = watches(ledger)
    assert [str(one) for one in watch.verify_new()] == [x for x in lines if "trigger" in x]
    assert {str(one) for one in watch.verify_all()} == set(lines)
    assert watch.violations == len(set(lines))
    assert watch.last_success_s == 0


def test_a_pass_whose_first_step_fails_stays_due(
    ledger: Database, watches: Any, tmp_path: Path
) -> None:
    """As when somebody cancels it, or a standby has to."""
    file = tmp_path / "progress"
    watch = watches(ledger, file)
    watch.verify_new()

    def cancel(_c: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "ledger." in statement:
            cursor.execute("SELECT pg_cancel_backend(pg_backend_pid())")

    event.listen(watch._engine, "before_cursor_execute", cancel)
    with pytest.raises(SQLAlchemyError):
        watch.step()
    event.remove(watch._engine, "before_cursor_execute", cancel)
    watch.close()
    assert watch.pass_is_due
    watch.verify_new()
    assert watches(ledger, file).pass_is_due
    assert watch.verify_all() == []
    assert not watch.pass_is_due


def test_who_takes_over_knows_what_the_other_has_found(
    ledger: Database, watches: Any, tmp_path: Path
) -> None:
    """Both have read the file before."""
    file = tmp_path / "progress"
    one, other = watches(ledger, file), watches(ledger, file)
    assert one._has_lock() and not other._has_lock()
    doctor(ledger, "UPDATE ledger.accounts SET balance = balance + 1 WHERE id = 3")
    one.verify_new()
    assert one.verify_all() != []
    with shown(one):
        assert VERIFY_VIOLATIONS.now() == {(): one.violations}
    with shown(other):
        assert math.isnan(VERIFY_VIOLATIONS.now()[()])
    one.close()
    assert other._has_lock()
    assert (other.violations, other.pass_is_due) == (one.violations, False)
    other.verify_new()
    assert watches(ledger, file).violations == one.violations > 0
    with shown(other):
        assert VERIFY_VIOLATIONS.now() == {(): one.violations}
    assert not one._has_lock()
    with shown(one):
        assert math.isnan(VERIFY_VIOLATIONS.now()[()])


def test_an_end_after_the_database(workspace: Path) -> None:
    """A connection that waits does not notice that its server has ended."""
    settings = settings_for_tests(data_folder=workspace / "data")
    with opened_database(settings) as (database, server):
        upgrade(database)
        watch = Watch(database.service_engine(), "ledger")
        assert watch._has_lock()
        assert server is not None
        server.stop()
        watch.interrupt()
        watch.close()


@pytest.mark.parametrize("name", ["owner_engine", "login_engine", "service_engine"])
def test_no_connection_waits_for_a_host_that_is_gone(database: Database, name: str) -> None:
    with getattr(database, name)().connect() as connection:
        used = {one.keyword.decode(): one.val for one in driver(connection).pgconn.info}
    assert {key: used[key] for key in KEEPALIVE} == {
        key: str(value).encode() for key, value in KEEPALIVE.items()
    }


def test_a_late_commit_below_the_position_is_found(
    ledger: Database, watches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not there yet is verified when nothing that was open then can still be."""
    watch = watches(ledger)
    watch.verify_new()
    post(ledger, [deposit(1, 5, "new")])
    watch.verify_new()
    doctor(ledger, "UPDATE ledger.entries SET amount = amount + 1"
           " WHERE transaction_id = (SELECT max(id) FROM ledger.transactions)")  # fmt: skip
    assert watch.verify_new() == []
    monkeypatch.setattr(watching, "SETTLED_AFTER_S", -1.0)
    assert watch.verify_new() != []


@pytest.mark.thorough
def test_a_pass_goes_on_in_another_process(ledger: Database, watches: Any, tmp_path: Path) -> None:
    """Each range is verified once, whichever process does it; nothing found is forgotten."""
    doctor(ledger, "UPDATE ledger.accounts SET balance = balance + 1 WHERE id = 1")
    file, places = tmp_path / "progress", []
    watches(ledger, file).verify_new()
    while True:
        watch = watches(ledger, file)  # knows what the file says only
        watch.step()
        places.append(json.loads(file.read_text())["place"])
        watch.close()
        if places[-1] is None:
            break
    assert len({str(place) for place in places}) == len(places) > 6
    assert watch.violations > 0
    assert watches(ledger, file).violations == watch.violations
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"checked_id": "all"}', b'{"verified": true}', b"\xff"]
)
def test_a_damaged_file_costs_work_only(
    ledger: Database, watches: Any, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "progress"
    file.write_bytes(content)
    watch = watches(ledger, file)
    assert watch.pass_is_due
    assert watch.verify_new() == []


def test_the_file_of_another_journal_is_not_believed(
    ledger: Database, watches: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a restore, or where the row of the last position was changed."""
    file = tmp_path / "progress"
    watch = watches(ledger, file)
    watch.verify_new()
    watch.verify_all()
    assert not watch.pass_is_due
    doctor(ledger, "UPDATE ledger.transactions SET idempotency_key = 'changed'"
           " WHERE id = (SELECT max(id) FROM ledger.transactions)")  # fmt: skip
    other = watches(ledger, file)
    assert not other.pass_is_due
    other.verify_new()
    assert other.pass_is_due
    assert "everything is verified again" in caplog.text


NEWER = """
COMMENT ON TABLE ledger.alembic_version IS 'compatible: 9999_newer {head}';
UPDATE ledger.alembic_version SET version_num = '9999_newer';
ALTER TABLE ledger.entries DISABLE TRIGGER entries_immutable
"""


@pytest.mark.thorough
def test_the_guards_of_a_newer_release_are_not_known(
    ledger: Database, watches: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As for a process that serves on after the schema has moved. It is no success either."""
    with connect(ledger) as owner:
        owner.execute(NEWER.format(head=HEAD))
    watch = watches(ledger)
    assert watch.verify_new() == watch.verify_all() == list(verify(ledger.owner_engine())) == []
    assert "guards are not verified" in caplog.text
    assert watch.last_success_s == 0
    doctor(ledger, "UPDATE ledger.accounts SET balance = balance + 1 WHERE id = 1")
    assert watch.verify_all() != []


def fill(database: Database, first: int, last: int) -> None:
    """Plain deposits of 1 on 500 accounts in turns, past the guards, as fast as COPY."""
    doctor(database, *f"""
        INSERT INTO ledger.transactions (ledger_id, id, kind, status, account_id, counterparty_id,
            amount, recorded_at, renderer, idempotency_key, account_seq, counterparty_seq)
        SELECT 1, n, 1, 1, 101 + n % 500, -1, 1, timestamptz '2026-01-01' + n * interval '1 ms', 1,
               'key ' || n, n / 500 + 1, n
        FROM generate_series({first}, {last}) n;
        INSERT INTO ledger.entries
        SELECT 1, 1, 101 + n % 500, n / 500 + 1, n, 1, 0, n / 500 + 1, 0,
               timestamptz '2026-01-01' + n * interval '1 ms'
        FROM generate_series({first}, {last}) n
        UNION ALL
        SELECT 1, 1, -1, n, n, -1, 0, -n, 0,
               timestamptz '2026-01-01' + n * interval '1 ms'
        FROM generate_series({first}, {last}) n;
        UPDATE ledger.accounts a SET balance = e.balance, version = e.seq, below_floor = CASE
            WHEN e.balance < a.floor THEN e.balance END, last_recorded_at = greatest(
            last_recorded_at, e.recorded_at)
        FROM (SELECT DISTINCT ON (account_id) * FROM ledger.entries
              ORDER BY account_id, seq DESC) e
        WHERE a.ledger_id = 1 AND a.id = e.account_id
        """.split(";"))  # fmt: skip


@pytest.mark.thorough
@pytest.mark.parametrize("is_analyzed", [False, True])
def test_what_is_read_depends_on_what_is_new_only(
    new_database: Callable[..., Database], watches: Any, is_analyzed: bool
) -> None:
    """Of 40,000 transactions 200 are new; every statement is explained, with what it read."""
    database, old, new = new_database(), 39_999, 200
    doctor(database, "INSERT INTO ledger.accounts (ledger_id, id, owner, currency,"
           " currency_number, exponent, change_id)"
           " SELECT 1, 101 + a, 'o', 'USD', 1, 2, 1 + a"
           " FROM generate_series(0, 499) a")  # fmt: skip
    fill(database, 1, old)
    administer(database.url, "ANALYZE")
    engine = database.owner_engine()
    watch = Watch(engine, "ledger")
    assert watch.verify_new() == []
    fill(database, old + 1, old + new)
    if is_analyzed:
        administer(database.url, "ANALYZE")
    rows: dict[str, float] = {}

    def explain(_c: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "ledger." in statement and not statement.startswith("EXPLAIN"):
            with cursor.connection.cursor() as other:
                other.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
                [([plan],)] = other.fetchall()
                rows[statement] = rows_read(plan["Plan"], uncounted="pg_")

    event.listen(engine, "before_cursor_execute", explain)
    assert watch.verify_new() == []
    watch.close()
    assert len(rows) > 12
    # An entry, its predecessor, its transaction; twice, as each is new for two snapshots.
    assert max(rows.values()) < 10 * new, max(rows, key=lambda one: rows[one])


def test_one_process_of_a_service_verifies(
    new_database: Callable[..., Database], tmp_path: Path
) -> None:
    """It logs a violation, serves on, and another one takes over when it is gone."""
    database = new_database()
    values = {"DATABASE_URL": url_text(database), "LEDGER_VERIFY_INTERVAL_S": "0.2"}
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    with serving(LOGGED_TO=str(logs[0]), **values) as first:
        account = first.open(balance="5")
        assert wait_for(lambda: holders(database) == 1)
        with serving(LOGGED_TO=str(logs[1]), **values) as second:
            doctor(database, f"UPDATE ledger.accounts SET balance = 9 WHERE id = {account}")
            first.send("/deposit/", account_id=account, amount="1")
            assert wait_for(lambda: "violation: invariant" in logs[0].read_text())
            assert first.get("/health/ready").status_code == 200
            assert holders(database) == 1
            assert "violation" not in logs[1].read_text()
            first.stop()
            assert wait_for(lambda: "violation: invariant" in logs[1].read_text())
            assert second.get("/health/ready").status_code == 200
    assert "ERROR" in logs[0].read_text()
    assert "could not verify" not in logs[0].read_text() + logs[1].read_text()


def test_the_metrics_have_what_is_known(new_database: Callable[..., Database]) -> None:
    database = new_database()
    post_whole(database)
    names = [f"ledger_verify_{name}" for name in (
        "last_success_timestamp_seconds", "violations", "progress_ratio")]  # fmt: skip
    with scraped(database, LEDGER_VERIFY_INTERVAL_S="0.2") as (_, port):
        assert wait_for(lambda: value(port, names[0]) > 0, 60)
        assert [value(port, name) for name in names[1:]] == [0, 1]
        administer(database.url, "ALTER TABLE ledger.entries DISABLE TRIGGER USER")
        assert wait_for(lambda: value(port, names[1]) > 0, 60)


def holders(database: Database) -> int:
    with connect(database) as onlooker:
        query = ("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 2020072"
                 " AND granted AND database = (SELECT oid FROM pg_database"
                 " WHERE datname = current_database())")  # fmt: skip
        [(count,)] = onlooker.execute(query).fetchall()
        return int(count)


def test_the_interval_0_turns_it_off(new_database: Callable[..., Database]) -> None:
    database = new_database()
    with serving(DATABASE_URL=url_text(database), LEDGER_VERIFY_INTERVAL_S="0"):
        assert holders(database) == 0


def test_the_command_continues(ledger: Database, tmp_path: Path) -> None:
    url, file = url_text(ledger), tmp_path / "progress"
    for _ in range(2):
        done = cli("verify", "--progress", str(file), "--json", DATABASE_URL=url)
        assert done.returncode == 0, done.stderr
        facts = json.loads(done.stdout)
        assert (facts["holds"], facts["position"]) == (True, last_id(ledger))
    doctor(ledger, "UPDATE ledger.accounts SET balance = balance + 1 WHERE id = 1")
    assert cli("verify", "--progress", str(file), DATABASE_URL=url).returncode == 0  # nothing new
    post(ledger, [deposit(1, 5, "new")])
    done = cli("verify", "--progress", str(file), DATABASE_URL=url)
    assert (done.returncode, "account 1, ledger 1" in done.stdout) == (1, True)


def last_id(database: Database) -> int:
    with connect(database) as owner:
        [(number,)] = owner.execute("SELECT max(id) FROM ledger.transactions").fetchall()
        return int(number)


@pytest.mark.thorough
def test_a_watch_ends_at_a_stop(ledger: Database, watches: Any) -> None:
    watch, stop = watches(ledger), threading.Event()
    thread = threading.Thread(target=watch.run, args=(stop, 0.01))
    thread.start()
    assert wait_for(lambda: watch.last_success_s > 0, 60)
    stop.set()
    watch.interrupt()
    thread.join(10)
    assert not thread.is_alive()
    assert list(verify(ledger.owner_engine())) == []
