"""A ledger of an earlier release, after it is brought up to date, is as if always of this one."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from alembic import command
from psycopg import sql
from sqlalchemy import text

from ledgerservice.domain.instructions import OWN_KEY_MARK, Capture, Hold, PolicyChange
from ledgerservice.postgres import migrations
from ledgerservice.postgres.connections import Database, usable_role
from ledgerservice.postgres.migrations import upgrade
from ledgerservice.postgres.verification import verify
from tests.databases import ROLE, connect, empty_database, url_text
from tests.postgres.rows import e, write
from tests.postings import deposit, open_accounts, post
from tests.processes import RunningService, serving, sleep_until, wait_for

POSTED, DECLINED, UNTRIED, CALLED = 2, 3, 4, 5
"""The holds, by their transactions' ids: how the service's own capture ended, or a caller's."""


def at_revision(database: Database, revision: str) -> Database:
    """A database as the release of that revision has made it."""
    old = empty_database(database, f"at_{revision}")
    with old.owner_engine().begin() as connection:
        connection.execute(text("CREATE SCHEMA ledger"))
        config = migrations._config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    return old


MOVE_EXTERNAL_ACCOUNTS = """
UPDATE ledger.accounts a SET balance = e.balance, version = e.seq, last_recorded_at = e.recorded_at
FROM (SELECT DISTINCT ON (ledger_id, account_id) * FROM ledger.entries
      WHERE account_id < 0 ORDER BY ledger_id, account_id, seq DESC) e
WHERE a.ledger_id = e.ledger_id AND a.id = e.account_id
"""


def columns_of(database: Database, table: str) -> list[str]:
    with connect(database) as owner:
        rows = owner.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'ledger'"
            " AND table_name = %s AND is_generated = 'NEVER'",
            [table],
        )
        return [row[0] for row in rows]


def copy_rows(new: Database, old: Database) -> None:
    """What this release has written, as far as the earlier one has a place for it."""
    with connect(new) as source, connect(old) as target, target.transaction():
        target.execute("SET LOCAL session_replication_role = replica")
        for table in ("accounts", "transactions", "details", "entries", "holds", "policies"):
            kept = set(columns_of(new, table)) & set(columns_of(old, table))
            columns = sql.SQL(", ").join(map(sql.Identifier, sorted(kept)))
            place = sql.Identifier("ledger", table)
            whose = sql.SQL("WHERE id > 0" if table == "accounts" else "")
            read = sql.SQL("COPY (SELECT {} FROM {} {}) TO STDOUT").format(columns, place, whose)
            write = sql.SQL("COPY {} ({}) FROM STDIN").format(place, columns)
            with source.cursor().copy(read) as rows, target.cursor().copy(write) as copy:
                for piece in rows:
                    copy.write(piece)
        target.execute(MOVE_EXTERNAL_ACCOUNTS)  # which the earlier release has opened itself
        for name in ("account_id", "transaction_id"):
            target.execute(f"SELECT setval('ledger.{name}', 1001)")


@pytest.fixture
def expired(database: Database) -> Database:
    """Four holds of 1.00 on account 1, to be captured by the service before they expired, which
    they have; and account 3, which takes nothing, so that the second was declined.
    """
    now = datetime.now(UTC)
    capture_at, expires_at = now, now + timedelta(seconds=2)
    open_accounts(database, "USD", "USD", "USD")
    takers = {POSTED: 2, DECLINED: 3, UNTRIED: 2, CALLED: 2}
    post(
        database,
        [deposit(1, 9)],  # transaction 1
        [Hold(1, to, "1", f"{n}", expires_at, capture_at) for n, to in takers.items()],
        [PolicyChange(3, "frozen", frozen=2)],
        [own_capture(POSTED), own_capture(DECLINED), Capture(CALLED, "called", amount="0.25")],
    )
    sleep_until(expires_at)
    return database


def own_capture(hold: int) -> Capture:
    return Capture(hold, f"{OWN_KEY_MARK}capture {hold}", final=True)


@pytest.fixture
def upgraded(expired: Database) -> Database:
    """The same at revision 0003, which did not note when a capture was tried, and then here."""
    old = at_revision(expired, "0003")
    copy_rows(expired, old)
    assert upgrade(old.owner_engine(), ROLE)
    return replace(old, role=usable_role(old))


def ends(database: Database) -> list[tuple[object, ...]]:
    query = "SELECT transaction_id, capture_tried_at, ends_at FROM ledger.holds ORDER BY 1"
    with connect(database) as owner:
        return owner.execute(query).fetchall()


def test_a_hold_of_an_earlier_release_says_when_its_capture_was_tried(expired, upgraded) -> None:
    """As the journal itself has noted it, where it was not left out."""
    noted = ends(expired)
    assert [(number, tried is None) for number, tried, _ in noted] == [
        (POSTED, False), (DECLINED, False), (UNTRIED, True), (CALLED, True),
    ]  # fmt: skip
    assert ends(upgraded) == noted
    assert list(verify(upgraded.owner_engine())) == []


def statuses(service: RunningService) -> list[tuple[str, str]]:
    holds = [service.get(f"/holds/{n}").json() for n in (POSTED, DECLINED, UNTRIED, CALLED)]
    return [(hold["status"], hold["remaining"]) for hold in holds]


def test_a_hold_of_an_earlier_release_reserves_what_it_would_here(expired, upgraded) -> None:
    """What was declined expires by its time; what was not tried waits until it was."""
    for database in (expired, upgraded):
        values = {"DATABASE_URL": url_text(database), "LEDGER_SWEEP_INTERVAL_S": "0.05"}
        with serving(**values) as service:
            assert wait_for(lambda: service.account(1, "held") == ("0.00",))
            assert statuses(service) == [
                ("captured", "0.00"), ("expired", "0.00"), ("captured", "0.00"),
                ("captured", "0.00"),
            ]  # fmt: skip
            assert service.account(1, "balance") == ("6.00",)
        assert list(verify(database.owner_engine())) == []


def test_a_ledger_of_an_earlier_release_is_brought_up_to_date(database):
    """What revision 0002 has written is the same afterwards, and verify finds nothing."""
    old = empty_database(database, "old")
    with old.owner_engine().begin() as connection:
        connection.execute(text("CREATE SCHEMA ledger"))
        config = migrations._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
    with connect(old) as owner:
        for _ in range(2):
            owner.execute(
                "INSERT INTO ledger.accounts (ledger_id, owner, currency) VALUES (1, 'o', 'USD')"
            )
        with owner.transaction():
            write(owner, [("t", 1, 1), e(1, 1, 1, 30, 30), e(1, -1, 1, -30, -30)])
        with owner.transaction():
            write(owner, [("t", 2, 1), e(2, 1, 2, -30, 0), e(2, 2, 1, 30, 30)])
        owner.execute("SELECT setval('ledger.transaction_id', 101)")
    assert upgrade(old.owner_engine(), ROLE)
    old = replace(old, role=usable_role(old))
    post(old, [deposit(1, 1), Hold(1, None, "1", "h")])
    with connect(old) as owner:
        row = owner.execute("SELECT balance, held, floor FROM ledger.accounts WHERE id = 1")
        assert row.fetchone() == (100, 100, 0)
    # The rows of that release were made by hand, as transfers, which deposits are not.
    found = [v for v in verify(old.owner_engine()) if "transaction 1, " not in v.where]
    assert [v for v in found if "transaction 2, " not in v.where] == []
