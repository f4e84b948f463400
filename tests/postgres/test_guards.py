"""The database keeps the ledger, also against its own service, and against its owner's slips."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from ledgerservice.domain.accounts import Opening
from ledgerservice.domain.instructions import (
    Cancellation,
    Capture,
    General,
    Group,
    Hold,
    Instruction,
    Kind,
    Leg,
    Movement,
    PolicyChange,
    Release,
    Reversal,
    Schedule,
)
from ledgerservice.errors import SchemaMissing, SchemaTooNew
from ledgerservice.postgres import connections as databases
from ledgerservice.postgres import migrations
from ledgerservice.postgres.connections import Database, usable_role
from ledgerservice.postgres.migrations import check, upgrade
from ledgerservice.postgres.pipeline import Request, Wire
from ledgerservice.postgres.registration import open_accounts as open_accounts_of
from ledgerservice.postgres.tables import SCHEMA, metadata
from ledgerservice.postgres.verification import verify
from ledgerservice.posting.movements import MovementBatch
from tests.conftest import administer, connect, settings_for_tests
from tests.embedded.house import wait_for

DENIED = psycopg.errors.InsufficientPrivilege
REFUSED = psycopg.errors.CheckViolation
ROLE = "ledgerservice"


def post(database: Database, *batches: list[Instruction]) -> None:
    """Post batches, one after another, on one connection."""

    async def run() -> None:
        wire, work = await database.connect_writer(), MovementBatch()
        for batch in batches:
            await work(wire, [Group(batch)])
        await wire.close()

    asyncio.run(run())


def open_accounts(database: Database, *currencies: str) -> None:
    async def run() -> None:
        wire = await database.connect_writer()
        openings = [Opening("o", c, None, str(n)) for n, c in enumerate(currencies)]
        await open_accounts_of(wire, openings)
        await wire.close()

    asyncio.run(run())


def deposit(to: int, amount: int, key: str = "funding") -> Movement:
    return Movement(Kind.DEPOSIT, to, None, str(amount), key)


@pytest.fixture(scope="module")
def used_once(new_database: Callable[..., Database]) -> Database:
    database = new_database()
    open_accounts(database, "USD", "USD", "INR")
    decline = Movement(Kind.WITHDRAWAL, 2, None, "9", "declined")
    post(database, [deposit(1, 1), deposit(3, 1), decline])
    return database


@pytest.fixture
def used(new_database: Callable[..., Database], used_once: Database) -> Database:
    """Accounts 1 (USD 1.00), 2 (USD 0), 3 (INR 1.00); transactions 1, 2 posted, 3 declined."""
    return new_database(used_once)


def test_a_reversal_of_more_than_one_amount_may_be_is_written(database):
    """Three legs of the largest amount are reversed together."""
    largest = "10000000000000"
    legs = (*[Leg(1, f"-{largest}")] * 3, *[Leg(2, largest)] * 3)
    open_accounts(database, "USD", "USD")
    post(
        database,
        [deposit(1, int(largest), f"funding {n}") for n in range(3)],  # 1, 2, 3
        [General(legs, "general")],  # 4
        [Reversal(4, "reversal")],
    )
    with connect(database) as connection:
        query = "SELECT amount FROM ledger.transactions WHERE idempotency_key = 'reversal'"
        assert connection.execute(query).fetchall() == [(3 * 10**15,)]


DIRECT_WRITES = [
    "UPDATE ledger.transactions SET amount = 1",
    "DELETE FROM ledger.transactions",
    "TRUNCATE ledger.transactions",
    "UPDATE ledger.entries SET amount = 1",
    "DELETE FROM ledger.entries",
    "TRUNCATE ledger.entries",
    "DELETE FROM ledger.accounts",
    "TRUNCATE ledger.accounts",
    "UPDATE ledger.accounts SET balance = balance + 1",
    "UPDATE ledger.accounts SET held = 1",
    "UPDATE ledger.accounts SET version = version + 1",
    "UPDATE ledger.accounts SET last_recorded_at = now()",
    "UPDATE ledger.accounts SET currency = 'INR'",
    "UPDATE ledger.accounts SET floor = -1",
    "UPDATE ledger.accounts SET owner = 'Mallory'",
    "UPDATE ledger.currencies SET exponent = 3",
    "DELETE FROM ledger.currencies",
    "UPDATE ledger.accounts SET ceiling = 1",
    "UPDATE ledger.accounts SET below_floor = -1",
    "UPDATE ledger.accounts SET restricted = 0",
    "UPDATE ledger.ledgers SET name = 'mine'",
    "DELETE FROM ledger.ledgers",
    *(
        f"{verb} ledger.{table} {rest}"
        for table, column in {
            "details": "reference",
            "account_details": "metadata",
            "holds": "remaining",
            "policies": "floor",
            "schedules": "settled_by",
            "dated_entries": "amount",
        }.items()
        for verb, rest in (
            ("UPDATE", f"SET {column} = NULL"),
            ("DELETE FROM", ""),
            ("TRUNCATE", ""),
        )
    ),
]


WRITTEN_WHOLE = ["entries", "details", "policies", "dated_entries", "account_details"]


@pytest.mark.parametrize("statement", DIRECT_WRITES)
def test_nobody_writes_past_the_journal(used_once, statement):
    used = used_once  # which stays as it is
    with connect(used, role=ROLE) as service, pytest.raises(DENIED):
        service.execute(statement)
    with connect(used) as owner, pytest.raises(REFUSED):
        owner.execute(statement)


@pytest.mark.parametrize(
    "columns",
    ["balance", "held", "version", "floor", "id", "created_at", "last_recorded_at", "exponent"],
)
def test_the_service_opens_accounts_empty(used, columns):
    statement = f"INSERT INTO ledger.accounts (ledger_id, owner, currency, {columns})"
    with connect(used, role=ROLE) as service, pytest.raises(DENIED):
        service.execute(f"{statement} VALUES (1, 'o', 'USD', DEFAULT)")


def test_an_account_of_the_owner_s_is_opened_empty_too(used):
    with connect(used) as owner:
        row = owner.execute(
            "INSERT INTO ledger.accounts (ledger_id, owner, currency, balance, held, version)"
            " VALUES (1, 'o', 'USD', 5, 5, 5) RETURNING balance, held, version, exponent"
        ).fetchone()
        assert row == (0, 0, 0, 2)
        with pytest.raises(REFUSED):
            owner.execute(
                "INSERT INTO ledger.accounts (ledger_id, owner, currency) VALUES (1, 'o', 'XXX')"
            )


def test_the_role_has_exactly_the_rights_it_needs(used):
    with connect(used) as owner:
        rows = owner.execute(
            "SELECT table_name, privilege_type, column_name"
            " FROM information_schema.column_privileges"
            " WHERE grantee = %s AND table_schema = 'ledger' AND privilege_type <> 'SELECT'"
            " AND NOT (table_name = ANY (%s) AND privilege_type = 'INSERT')",
            [ROLE, WRITTEN_WHOLE],
        ).fetchall()
        assert sorted((t, p, c) for t, p, c in rows if t == "accounts") == [
            *(("accounts", "INSERT", c) for c in
              ("currency", "idempotency_key", "ledger_id", "owner", "reference")),
            ("accounts", "UPDATE", "row_lock"),
        ]  # fmt: skip
        written = {c for t, p, c in rows if (t, p) == ("transactions", "INSERT")}
        assert "posted_by" not in written
        added = {(p, c) for t, p, c in rows if t == "currencies"}
        assert added == {("INSERT", c) for c in ("code", "exponent", "name")}
        for table, derived in {
            "holds": {"remaining", "captured", "capture_tried_at", "ends_at"},
            "schedules": {"settled_by"},
        }.items():
            columns = {column for t, p, column in rows if (t, p) == (table, "INSERT")}
            assert columns == set(metadata.tables[f"ledger.{table}"].c.keys()) - derived
        assert {(p, c) for t, p, c in rows if t == "ledgers"} == {("INSERT", "name")}
        tables = {"accounts", "transactions", "currencies", "holds", "schedules", "ledgers"}
        assert {t for t, _, _ in rows} == tables
        assert {p for t, p, _ in rows if t != "accounts"} == {"INSERT"}


# What the journal's trigger refuses. Each case is a list of rows that the service's role inserts
# in one database transaction: ("t", id, status) or ("e", transaction, account, seq, amount,
# balance, **changes). Account 1 stands at 100, version 1; 2 at 0, version 0; 3 (INR) at 100.

T = [("t", 900, 1)]


def e(transaction, account, seq, amount, balance, **changes):
    return ("e", transaction, account, seq, amount, balance, changes)


GOOD = [*T, e(900, 1, 2, -30, 70), e(900, 2, 1, 30, 30)]

BAD = {
    "does not sum to zero": [*T, e(900, 1, 2, -30, 70), e(900, 2, 1, 31, 31)],
    "sums to zero over two currencies": [
        *T, e(900, 1, 2, -30, 70), e(900, 3, 2, 30, 130, currency=2)],
    "a false currency": [*T, e(900, 1, 2, -30, 70), e(900, 3, 2, 30, 130)],
    "a false currency among right ones": [
        *T, ("t", 901, 1), e(900, 1, 2, -30, 70), e(900, 3, 2, 30, 130),
        e(901, 3, 3, -5, 125, currency=2), e(901, -2, 2, 5, -95, currency=2)],
    "an account that is not there": [*T, e(900, 1, 2, -30, 70), e(900, 99, 1, 30, 30)],
    "a seq that leaves a gap": [*T, e(900, 1, 3, -30, 70), e(900, 2, 1, 30, 30)],
    "a seq that is there already": [*T, e(900, 1, 1, -30, 70), e(900, 2, 1, 30, 30)],
    "a gap within the batch": [
        *T, e(900, 1, 2, -10, 90), e(900, 1, 4, -20, 70), e(900, 2, 1, 30, 30)],
    "a balance that does not continue": [*T, e(900, 1, 2, -30, 71), e(900, 2, 1, 30, 30)],
    "a false balance in between": [
        *T, e(900, 1, 2, -10, 90), e(900, 1, 3, -10, 85), e(900, 1, 4, -10, 70),
        e(900, 2, 1, 30, 30)],
    "a held amount in between": [
        *T, e(900, 1, 2, -10, 90), e(900, 1, 3, -10, 80, held=5), e(900, 1, 4, -10, 70),
        e(900, 2, 1, 30, 30)],
    "held that does not continue": [*T, e(900, 1, 2, -30, 70, held=1), e(900, 2, 1, 30, 30)],
    "held below zero": [
        *T, e(900, 1, 2, -30, 70, held=-1, held_change=-1), e(900, 2, 1, 30, 30)],
    "below the floor": [*T, e(900, 1, 2, -130, -30), e(900, 2, 1, 130, 130)],
    "below the floor in between": [
        *T, ("t", 901, 1),
        e(900, 2, 1, -5, -5), e(900, 1, 2, 5, 105), e(901, 2, 2, 5, 0), e(901, 1, 3, -5, 100)],
    "no transaction": [e(900, 1, 2, -30, 70), e(900, 2, 1, 30, 30)],
    "a declined transaction": [("t", 900, 2), e(900, 1, 2, -30, 70), e(900, 2, 1, 30, 30)],
    "an older transaction": [e(1, 1, 2, -30, 70), e(1, 2, 1, 30, 30)],
    "a moment that is not its transaction's": [
        *T, e(900, 1, 2, -30, 70, moment="now() + interval '2 s'"), e(900, 2, 1, 30, 30)],
    "a moment before its transaction's": [
        *T, e(900, 1, 2, -30, 70), e(900, 2, 1, 30, 30, moment="now() - interval '1 us'")],
    "a moment that runs backwards": [
        ("t", 900, 1, "now() - interval '1 hour'"),
        e(900, 1, 2, -30, 70, moment="now() - interval '1 hour'"),
        e(900, 2, 1, 30, 30, moment="now() - interval '1 hour'")],
}  # fmt: skip


def insert_transaction(connection, row):
    _, number, status, *moment = row
    decline = "'balance_limit', 1, 1, 0" if status == 2 else "NULL, NULL, NULL, NULL"
    connection.execute(
        "INSERT INTO ledger.transactions (ledger_id, id, kind, status, account_id,"
        " counterparty_id, amount, recorded_at, renderer, idempotency_key, decline_reason,"
        " deciding_account_id, deciding_version, deciding_available) VALUES"
        f" (1, {number}, 3, {status}, 1, 2, 30, {moment[0] if moment else 'now()'}, 1,"
        f" 'k{number}', {decline})"
    )


def entry_values(row) -> str:
    _, transaction, account, seq, amount, balance, changes = row
    facts = {"currency": 1, "held": 0, "held_change": 0, "moment": "now()"} | changes
    moment = facts["moment"]
    if transaction == 1:
        moment = "(SELECT recorded_at FROM ledger.transactions WHERE id = 1)"
    return (
        f"(1, {facts['currency']}, {account}, {seq}, {transaction}, {amount},"
        f" {facts['held_change']}, {balance}, {facts['held']}, {moment})"
    )


ENTRY_COLUMNS = (
    "ledger_id, currency_number, account_id, seq, transaction_id, amount, held_change, balance,"
    " held, recorded_at"
)


def write(connection, rows):
    for row in rows:
        if row[0] == "t":
            insert_transaction(connection, row)
    entries = ", ".join(entry_values(row) for row in rows if row[0] == "e")
    connection.execute(f"INSERT INTO ledger.entries ({ENTRY_COLUMNS}) VALUES {entries}")


@pytest.mark.parametrize("rows", BAD.values(), ids=BAD.keys())
def test_the_journal_refuses(used, rows):
    refused = (REFUSED, psycopg.errors.UniqueViolation)
    with connect(used, role=ROLE) as service:
        with pytest.raises(refused), service.transaction():
            write(service, rows)
        with service.transaction():  # what is right is taken, so it was not something else
            write(service, GOOD)
        assert balances(service)[:2] == [(1, 70, 2), (2, 30, 1)]


def balances(connection) -> list[tuple[int, int, int]]:
    return connection.execute(
        "SELECT id, balance, version FROM ledger.accounts WHERE id > 0 ORDER BY id"
    ).fetchall()


def test_a_savepoint_changes_nothing(used):
    with connect(used, role=ROLE) as service:
        with pytest.raises(REFUSED), service.transaction(), service.transaction():
            write(service, BAD["an older transaction"])
        with service.transaction(), service.transaction():
            write(service, GOOD)
        assert balances(service)[0] == (1, 70, 2)


def test_copy_is_checked_too(used):
    copy = f"COPY ledger.entries ({ENTRY_COLUMNS}) FROM STDIN"
    with connect(used, role=ROLE) as service:
        with pytest.raises(REFUSED), service.transaction():  # noqa: PT012
            insert_transaction(service, T[0])
            moment = service.execute("SELECT now()").fetchone()[0].isoformat()
            with service.cursor().copy(copy) as rows:
                rows.write(f"1\t1\t1\t2\t900\t-30\t0\t71\t0\t{moment}\n")
                rows.write(f"1\t1\t2\t1\t900\t30\t0\t30\t0\t{moment}\n")
        assert balances(service)[0] == (1, 100, 1)


def test_a_key_is_used_once(used):
    with connect(used, role=ROLE) as service, pytest.raises(psycopg.errors.UniqueViolation):
        service.execute(
            "INSERT INTO ledger.transactions (ledger_id, id, kind, status, account_id,"
            " counterparty_id, amount, recorded_at, renderer, idempotency_key)"
            " VALUES (1, 905, 1, 1, 1, -1, 5, now(), 1, 'funding')"
        )


@pytest.mark.parametrize(
    "change",
    ["amount = 0", "amount = -5", "amount = 1000000000000001", "kind = 9", "status = 3",
     "counterparty_id = account_id", "status = 2", "decline_reason = 'x'", "idempotency_key = ''"],
)  # fmt: skip
def test_a_transaction_row_makes_sense(used, change):
    column, value = change.split(" = ")
    facts = {"ledger_id": "1", "id": "905", "kind": "1", "status": "1", "account_id": "1",
             "counterparty_id": "-1", "amount": "5", "recorded_at": "now()", "renderer": "1",
             "idempotency_key": "'new'"} | {column: value.replace("account_id", "1")}  # fmt: skip
    with connect(used, role=ROLE) as service, pytest.raises(REFUSED):
        service.execute(
            f"INSERT INTO ledger.transactions ({', '.join(facts)})"
            f" VALUES ({', '.join(facts.values())})"
        )


def test_a_restored_transaction_takes_no_entries_though_the_counting_begins_anew(used):
    """A new cluster reaches the number of the database transaction that wrote it once more."""
    with connect(used) as owner, owner.transaction(force_rollback=True):
        owner.execute("SET LOCAL session_replication_role = replica")
        owner.execute("ALTER TABLE ledger.transactions DISABLE TRIGGER transactions_immutable")
        owner.execute("UPDATE ledger.transactions SET posted_by = pg_current_xact_id()")
        owner.execute("SET LOCAL session_replication_role = origin")
        with pytest.raises(REFUSED, match="not of this database transaction"):
            owner.execute(
                "INSERT INTO ledger.entries SELECT ledger_id, currency_number, account_id, seq + 2,"
                " transaction_id, 0, 0, balance, held, recorded_at"
                " FROM ledger.entries WHERE transaction_id = 1"
            )


def test_the_floor_holds_without_the_journal_s_trigger_too(database):
    open_accounts(database, "USD")
    with connect(database) as owner:
        owner.execute("SET session_replication_role = replica")
        with pytest.raises(REFUSED, match="available_above_floor"):
            owner.execute("UPDATE ledger.accounts SET balance = -1 WHERE id = 1")


TABLES = "ledger.accounts, ledger.transactions, ledger.entries, ledger.details, ledger.holds"


@pytest.mark.parametrize("sizes", [[1, 8000, 1], [8000, 1], [1000] * 5])
@pytest.mark.parametrize("analyzed", ["never", "tiny", "grown"])
@pytest.mark.parametrize("session", [databases.PINNED_PLANS, {}], ids=["ours", "another"])
def test_a_batch_of_one_touches_few_rows_after_any_other_batch(
    database, sizes, analyzed, session, monkeypatch
):
    """A plan made for another size, or for smaller tables, stays in the connection's cache.

    The journal's trigger pins its plans itself, for whoever's session it runs in.
    """
    monkeypatch.setattr(databases, "PINNED_PLANS", session)
    open_accounts(database, "USD", "USD")
    if analyzed == "tiny":  # statistics of tiny tables, which then grow
        administer(database.url, f"ANALYZE {TABLES}")

    async def grow() -> None:
        wire = await database.connect_writer()
        openings = [Opening("o", "USD", None, f"more{n}") for n in range(8000)]
        await open_accounts_of(wire, openings)
        await wire.close()

    async def test() -> None:
        wire, work = await database.connect_writer(), MovementBatch()
        for step, size in enumerate(sizes):
            before = await touched(wire)
            batch = [deposit(n % 8000 + 1, 1, f"{step}-{n}") for n in range(size)]
            await work(wire, [Group(batch)])
            rows = await touched(wire) - before
            assert max(rows.values()) < 10 * size + 100, f"batch {step} of {size}: {rows}"
        await wire.close()

    asyncio.run(grow())
    if analyzed == "grown":
        administer(database.url, f"ANALYZE {TABLES}")
    asyncio.run(test())


@pytest.mark.parametrize("analyzed", ["never", "tiny"])
def test_an_account_is_found_by_its_key_while_the_ledger_grows(database, analyzed):
    """An index that was read from end to end for each account shows in its blocks, not in rows."""
    if analyzed == "tiny":
        administer(database.url, f"ANALYZE {TABLES}")

    async def test() -> None:
        opener, wire = await database.connect_writer(), await database.connect_writer()
        work = MovementBatch()
        for size in (500, 2_000, 6_000):
            openings = [Opening("o", "USD", None, f"{size}-{n}") for n in range(size)]
            new = [opened.account_id for opened in await open_accounts_of(opener, openings)]
            before = await account_blocks(wire)
            await work(wire, [Group([deposit(i, 1, "funds") for i in new])])
            blocks = await account_blocks(wire) - before
            assert blocks < 12 * size, f"{size} accounts were found by reading {blocks} blocks"
        await opener.close()
        await wire.close()

    asyncio.run(test())


async def account_blocks(wire: Wire) -> int:
    """The blocks of the accounts' indexes that have been read so far."""
    await wire.exchange(Request("SELECT pg_stat_force_next_flush()"))
    (result,) = await wire.exchange(
        Request(
            "SELECT (idx_blks_read + idx_blks_hit)::bigint FROM pg_statio_user_tables"
            " WHERE schemaname = 'ledger' AND relname = 'accounts'"
        ),
    )
    return result.rows[0][0]


@pytest.mark.parametrize("table", ["accounts", "holds", "schedules"])
def test_what_the_journal_moves_has_one_index_that_finds_a_row(used, table):
    """A second one could win a tie while the table is small, and keep the plan."""
    with connect(used) as connection:
        others = connection.execute(
            "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = %s::regclass"
            " AND NOT indisprimary AND indpred IS NULL",
            (f"ledger.{table}",),
        ).fetchall()
    assert others == []


@pytest.mark.parametrize("analyzed", ["never", "tiny", "grown"])
def test_steps_touch_few_rows_while_the_tables_grow(database, analyzed):
    """Whatever builds on a transaction finds it, and what is left of it, by its id."""
    open_accounts(database, "USD", "USD")
    soon = datetime.now(UTC) + timedelta(days=1)

    def steps(turn: int, of: dict[str, int]) -> dict[str, Any]:
        return {
            "hold": Hold(1, 2, "1", f"hold {turn}"),
            "schedule": Schedule(1, 2, "1", soon, f"schedule {turn}"),
            "capture": Capture(of.get("hold", 0), f"capture {turn}", amount="0.1"),
            "release": Release(of.get("hold", 0), f"release {turn}"),
            "cancellation": Cancellation(of.get("schedule", 0), f"cancellation {turn}"),
            "reversal": Reversal(of.get("capture", 0), f"reversal {turn}"),
        }

    async def test() -> None:
        wire, work = await database.connect_writer(), MovementBatch()
        for turn in range(3):
            many: list[Any] = [deposit(1, 1, f"{turn}-{n}") for n in range(1_000)]
            many += [Hold(1, 2, "0.01", f"h {turn}-{n}") for n in range(300)]
            many += [Schedule(1, 2, "1", soon, f"s {turn}-{n}") for n in range(300)]
            many += [PolicyChange(2, f"p {turn}-{n}", "-1") for n in range(300)]
            await work(wire, [Group(many)])
            ids: dict[str, int] = {}
            for name in steps(turn, ids):
                before = await touched(wire)
                [[outcome]] = await work(wire, [Group([steps(turn, ids)[name]])])
                assert outcome.posted
                ids[name] = outcome.transaction.id
                rows = await touched(wire) - before
                assert max(rows.values()) < 110, f"{name} {turn}: {rows}"
            if turn == 0 and analyzed == "grown":
                administer(database.url, f"ANALYZE {TABLES}")
        await wire.close()

    if analyzed == "tiny":
        administer(database.url, f"ANALYZE {TABLES}")
    asyncio.run(test())


async def touched(wire: Wire) -> Counter[str]:
    """The rows of each table that have been read so far."""
    await wire.exchange(Request("SELECT pg_stat_force_next_flush()"))
    (result,) = await wire.exchange(
        Request(
            "SELECT relname, (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint"
            " FROM pg_stat_user_tables WHERE schemaname = 'ledger' AND relname <> 'currencies'"
        ),
    )
    return Counter(dict(result.rows))


def test_the_tables_are_what_the_migrations_make(database):
    with database.owner_engine().connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "compare_type": True,
                "include_name": lambda name, kind, _: kind != "schema" or name == SCHEMA,
                "include_object": lambda _o, name, kind, _r, _c: (
                    (kind, name) != ("table", "alembic_version")
                ),
            },
        )
        assert compare_metadata(context, metadata) == []


def test_external_accounts_are_there_for_every_ledger_and_currency(database):
    with connect(database) as owner:
        owner.execute("INSERT INTO ledger.ledgers (ledger_id, name) VALUES (2, 'second')")
        owner.execute("INSERT INTO ledger.currencies VALUES ('HOURS', 3, 0, 'Hours')")
        found = owner.execute(
            "SELECT ledger_id, id, currency, floor FROM ledger.accounts ORDER BY ledger_id, id DESC"
        ).fetchall()
        currencies = owner.execute("SELECT -number, code FROM ledger.currencies ORDER BY number")
        expected = [(ledger, i, c, None) for i, c in currencies for ledger in (1, 2)]
    assert found == sorted(expected, key=lambda row: (row[0], -row[1]))
    assert {(1, -1, "USD", None), (2, -2, "INR", None), (2, -3, "HOURS", None)} <= set(found)
    open_accounts(database, "USD", "INR")
    with connect(database) as owner:
        assert [row[0] for row in balances(owner)] == [1, 2]


def test_a_ledger_and_a_currency_that_come_together_see_each_other(database):
    """Whoever is second waits for the first, and opens what neither could have opened alone."""
    with connect(database) as one, connect(database) as other:
        with one.transaction():
            one.execute("INSERT INTO ledger.ledgers (ledger_id, name) VALUES (2, 'second')")
            add = "INSERT INTO ledger.currencies VALUES ('HOURS', 3, 0, 'Hours')"
            second = threading.Thread(target=other.execute, args=[add])
            second.start()
            assert wait_for(lambda: waiting_for_a_lock(database))
        second.join(30)
        found = one.execute("SELECT ledger_id FROM ledger.accounts WHERE id = -3 ORDER BY 1")
        assert found.fetchall() == [(1,), (2,)]


def waiting_for_a_lock(database: Database) -> bool:
    with connect(database) as onlooker:
        waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return bool(onlooker.execute(waiting).fetchone()[0])


def empty_database(database: Database, suffix: str, options: str = "") -> Database:
    name = f"{database.url.database}_{suffix}"
    administer(database.url, f"CREATE DATABASE {name} {options}")
    return Database(database.url.set(database=name), settings_for_tests())


def test_processes_that_start_together_migrate_once(database):
    empty = empty_database(database, "empty")
    changed = []
    threads = [
        threading.Thread(target=lambda: changed.append(upgrade(empty.owner_engine(), ROLE)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(changed) == [False, False, False, True]


def test_the_schema_is_missing_or_too_new(database):
    with (
        empty_database(database, "none").owner_engine().connect() as connection,
        pytest.raises(SchemaMissing),
    ):
        check(connection)
    administer(database.url, "UPDATE ledger.alembic_version SET version_num = '9999'")
    with pytest.raises(SchemaTooNew):
        upgrade(database.owner_engine(), ROLE)


def test_without_the_right_to_make_a_role_the_triggers_hold_alone(database):
    administer(
        database.url,
        "DROP ROLE IF EXISTS ledger_test_plain",
        "CREATE ROLE ledger_test_plain LOGIN PASSWORD 'plain'",
    )
    plain = empty_database(database, "plain", "OWNER ledger_test_plain")
    url = plain.url.set(username="ledger_test_plain", password="plain")
    plain = Database(url, settings_for_tests(service_role="ledger_test_no_such_role"))
    assert upgrade(plain.owner_engine(), "ledger_test_no_such_role")
    assert usable_role(plain) is None
    open_accounts(plain, "USD")
    post(plain, [deposit(1, 1)])
    for statement in DIRECT_WRITES:
        with connect(plain) as user, pytest.raises(REFUSED):
            user.execute(statement)


# What stands beside transactions and entries.


@pytest.fixture(scope="module")
def beside_once(new_database: Callable[..., Database]) -> Database:
    database = new_database()
    open_accounts(database, "USD", "USD")
    later = datetime(2099, 1, 1, tzinfo=UTC)
    post(
        database,
        [deposit(1, 10), Hold(1, 2, "3", "h")],
        [Schedule(1, 2, "1", later, "s"), PolicyChange(2, "p", "-1")],
    )
    return database


@pytest.fixture
def beside(new_database: Callable[..., Database], beside_once: Database) -> Database:
    """Accounts 1 (USD 10.00, a hold of 3.00, transaction 2) and 2; a schedule, 3; a policy, 4."""
    return new_database(beside_once)


DETAILS = "INSERT INTO ledger.details (ledger_id, transaction_id, digest, parent_id)"
DIGEST = "sha256('')"
STRAYS = {
    "details": f"{DETAILS} VALUES (1, 1, {DIGEST}, NULL)",
    "details of nothing": f"{DETAILS} VALUES (1, 77, {DIGEST}, NULL)",
    "holds": (
        "INSERT INTO ledger.holds (ledger_id, transaction_id, account_id, counterparty_id, amount)"
        " VALUES (1, 1, 1, 2, 5)"
    ),
    "policies": "INSERT INTO ledger.policies VALUES (1, 1, 1, 1, -5, NULL, NULL, 0)",
    "schedules": (
        "INSERT INTO ledger.schedules (ledger_id, transaction_id, account_id, counterparty_id,"
        " amount, execute_at) VALUES (1, 1, 1, 2, 5, now())"
    ),
    "dated_entries": "INSERT INTO ledger.dated_entries VALUES (1, 1, now(), 1, 1, 5, now())",
}


@pytest.mark.parametrize("statement", STRAYS.values(), ids=STRAYS.keys())
def test_nothing_is_added_to_an_older_transaction(beside, statement):
    with connect(beside, role=ROLE) as service, pytest.raises(REFUSED, match="missing, declined"):
        service.execute(statement)


@pytest.mark.parametrize("account", [1, -1, 77])
def test_details_are_added_to_a_new_account_only(beside, account):
    statement = f"INSERT INTO ledger.account_details VALUES (1, {account}, '{{}}')"
    with connect(beside, role=ROLE) as service, pytest.raises(REFUSED, match="used already"):
        service.execute(statement)


def new_transaction(service, kind: int, number: int = 900, amount: int = 300) -> None:
    other = 2 if kind <= 3 else "NULL"
    service.execute(
        "INSERT INTO ledger.transactions (ledger_id, id, kind, status, account_id,"
        " counterparty_id, amount, recorded_at, renderer, idempotency_key)"
        f" VALUES (1, {number}, {kind}, 1, 1, {other}, {amount}, clock_timestamp(), 2, 'n{number}')"
    )


def step(service, kind: int, parent: int | str, *entries: tuple[int, int, int, int, int, int]):
    """A transaction with details, and entries: account, seq, both changes and both results."""
    new_transaction(service, kind)
    service.execute(f"{DETAILS} VALUES (1, 900, {DIGEST}, {parent})")
    for entry in entries:
        add_entry(service, *entry)


def add_entry(service, account, seq, amount, held_change, balance, held) -> None:
    service.execute(
        f"INSERT INTO ledger.entries ({ENTRY_COLUMNS}) SELECT 1, 1, {account}, {seq}, 900,"
        f" {amount}, {held_change}, {balance}, {held}, recorded_at"
        " FROM ledger.transactions WHERE id = 900"
    )


HELD_WRONG = {
    "more than the hold": [7, 2, (1, 4, 0, -301, 1000, -1)],
    "a hold of another account": [5, 2, (2, 2, 0, 0, 0, 0), (1, 4, 0, 5, 1000, 305)],
    "no hold at all": [5, "NULL", (1, 4, 0, 100, 1000, 400)],
    "a parent that holds nothing": [7, 1, (1, 4, 0, -100, 1000, 200)],
    "captured more than the hold": [6, 2, (1, 4, -400, -300, 600, 0)],
    "added to by a step": [7, 2, (1, 4, 0, -300, 1000, 0), (1, 5, 0, 100, 1000, 100)],
}


@pytest.mark.parametrize("case", HELD_WRONG.values(), ids=HELD_WRONG.keys())
def test_held_money_is_moved_by_its_hold_only(beside, case):
    with connect(beside, role=ROLE) as service:
        with pytest.raises(REFUSED), service.transaction():
            step(service, *case)
        with service.transaction():  # what is right is taken, so it was not something else
            step(service, 7, 2, (1, 4, 0, -300, 1000, 0))
        row = service.execute("SELECT remaining, captured FROM ledger.holds").fetchone()
        assert row == (0, 0)


def test_a_hold_begins_empty_whatever_is_said(beside):
    with connect(beside) as owner, owner.transaction():
        new_transaction(owner, 5)
        row = owner.execute(
            "INSERT INTO ledger.holds VALUES (1, 900, 1, 2, 300, 300, 300, NULL, NULL)"
            " RETURNING remaining, captured"
        ).fetchone()
    assert row == (0, 0)


def test_a_schedule_is_settled_once(beside):
    with connect(beside, role=ROLE) as service:
        with service.transaction():
            step(service, 11, 3, (1, 4, 0, 0, 1000, 300))
        with pytest.raises(REFUSED, match="settled"), service.transaction():  # noqa: PT012
            new_transaction(service, 3, 901)
            service.execute(f"{DETAILS} VALUES (1, 901, {DIGEST}, 3)")


def test_a_closed_account_stays_empty_and_an_external_one_has_no_policy(beside):
    policy = "INSERT INTO ledger.policies VALUES (1, 900, {}, {}, 0, NULL, NULL, 4)"
    with connect(beside, role=ROLE) as service:
        with pytest.raises(REFUSED), service.transaction():  # noqa: PT012
            new_transaction(service, 9, amount=0)
            service.execute(policy.format(-1, 1))
        with pytest.raises(REFUSED, match="without an entry"), service.transaction():  # noqa: PT012
            new_transaction(service, 9, amount=0)
            service.execute(policy.format(2, 2))
        with service.transaction():
            new_transaction(service, 9, amount=0)
            service.execute(policy.format(2, 2))
            add_entry(service, 2, 2, 0, 0, 0, 0)
        with pytest.raises(REFUSED, match="closing"), service.transaction():
            write(
                service, [*[("t", 902, 1)], e(902, 1, 4, -30, 970, held=300), e(902, 2, 3, 30, 30)]
            )
        with pytest.raises(REFUSED, match="is closed"), service.transaction():  # noqa: PT012
            new_transaction(service, 9, 903, amount=0)
            opened = policy.replace("900", "903").replace("NULL, 4)", "NULL, 0)")
            service.execute(opened.format(2, 3))


DATED = {  # account, effective_at, seq, amount, recorded_at
    "of another amount": ("1", "d.effective_at", "4", "-31", "t.recorded_at"),
    "of another account": ("2", "d.effective_at", "4", "-30", "t.recorded_at"),
    "that is not there": ("1", "d.effective_at", "5", "-30", "t.recorded_at"),
    "to another moment": ("1", "d.effective_at - interval '1 s'", "4", "-30", "t.recorded_at"),
    "recorded at another": ("1", "d.effective_at", "4", "-30", "t.recorded_at + interval '1 s'"),
}


@pytest.mark.parametrize("values", DATED.values(), ids=DATED.keys())
def test_what_takes_effect_at_another_moment_is_an_entry(beside, values):
    def add(service: Any, account: str, *rest: str) -> None:
        new_transaction(service, 3, amount=30)
        service.execute(
            "INSERT INTO ledger.details (ledger_id, transaction_id, digest, effective_at)"
            f" VALUES (1, 900, {DIGEST}, '2020-01-01Z')"
        )
        moved = "SELECT 1, 1, {}, {}, 900, {}, 0, {}, {}, recorded_at"
        ours, theirs = moved.format(1, 4, -30, 970, 300), moved.format(2, 2, 30, 30, 0)
        of = "FROM ledger.transactions WHERE id = 900"
        service.execute(
            f"INSERT INTO ledger.entries ({ENTRY_COLUMNS}) {ours} {of} UNION ALL {theirs} {of}"
        )
        moment, seq, amount, recorded = rest
        service.execute(
            f"INSERT INTO ledger.dated_entries SELECT 1, {account}, {moment}, {seq}, 900, {amount},"
            f" {recorded} FROM ledger.transactions t"
            " JOIN ledger.details d ON d.transaction_id = t.id WHERE t.id = 900"
        )

    with connect(beside, role=ROLE) as service:
        with pytest.raises(REFUSED, match="no such entry"), service.transaction():
            add(service, *values)
        with service.transaction():  # what is right is taken, so it was not something else
            add(service, "1", "d.effective_at", "4", "-30", "t.recorded_at")


def test_an_account_below_its_floor_goes_no_lower(beside):
    with connect(beside, role=ROLE) as service:
        with service.transaction():  # raised to 8.00 with 7.00 available
            new_transaction(service, 9, amount=0)
            service.execute("INSERT INTO ledger.policies VALUES (1, 900, 1, 4, 800, NULL, 700, 0)")
            add_entry(service, 1, 4, 0, 0, 1000, 300)
        below = "SELECT below_floor FROM ledger.accounts WHERE id = 1"
        assert service.execute(below).fetchone() == (0,)
        with service.transaction():
            write(service, [("t", 903, 1), e(903, 1, 5, -30, 970, held=300), e(903, 2, 2, 30, 30)])
        with service.transaction():
            write(
                service,
                [
                    ("t", 904, 1),
                    e(904, 1, 6, 200, 1170, held=300),
                    e(904, 2, 3, -30, 0),
                    e(904, -1, 2, -170, -1170),
                ],
            )
        assert service.execute(below).fetchone() == (None,)  # it is back, and the floor holds
        with pytest.raises(REFUSED), service.transaction():
            write(
                service, [("t", 905, 1), e(905, 1, 7, -100, 1070, held=300), e(905, 2, 4, 100, 100)]
            )


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
