"""The database keeps the ledger, also against its own service, and against its owner's slips."""

import asyncio
import threading
from collections import Counter

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from ledgerservice import database as databases
from ledgerservice.database import Database, usable_role
from ledgerservice.errors import SchemaMissing, SchemaTooNew
from ledgerservice.migrations import check, upgrade
from ledgerservice.model import Group, Kind, Movement, Opening
from ledgerservice.poster import MovementBatch, OpeningBatch
from ledgerservice.schema import SCHEMA, metadata
from ledgerservice.wire import Request, Wire
from tests.conftest import administer, connect, settings_for_tests

DENIED = psycopg.errors.InsufficientPrivilege
REFUSED = psycopg.errors.CheckViolation
ROLE = "ledgerservice"


def post(database: Database, *batches: list[Movement]) -> None:
    """Post batches, one after another, on one connection."""

    async def run() -> None:
        wire, work = await database.connect_writer(), MovementBatch(1)
        for batch in batches:
            await work(wire, [Group(batch)])
        await wire.close()

    asyncio.run(run())


def open_accounts(database: Database, *currencies: str) -> None:
    async def run() -> None:
        wire = await database.connect_writer()
        openings = [Opening("o", c, None, str(n)) for n, c in enumerate(currencies)]
        await OpeningBatch(1)(wire, openings)
        await wire.close()

    asyncio.run(run())


def deposit(to: int, amount: int, key: str = "funding") -> Movement:
    return Movement(Kind.DEPOSIT, to, None, str(amount), key)


@pytest.fixture
def used(database: Database) -> Database:
    """Accounts 1 (USD 1.00), 2 (USD 0), 3 (INR 1.00); transactions 1, 2 posted, 3 declined."""
    open_accounts(database, "USD", "USD", "INR")
    decline = Movement(Kind.WITHDRAWAL, 2, None, "9", "declined")
    post(database, [deposit(1, 1), deposit(3, 1), decline])
    return database


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
]


@pytest.mark.parametrize("statement", DIRECT_WRITES)
def test_nobody_writes_past_the_journal(used, statement):
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
            " AND NOT (table_name = 'entries' AND privilege_type = 'INSERT')",
            [ROLE],
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
        assert {t for t, _, _ in rows} == {"accounts", "transactions", "currencies"}


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


@pytest.mark.parametrize("sizes", [[1, 8000, 1], [8000, 1]])
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
    tables = "ledger.accounts, ledger.transactions, ledger.entries"
    if analyzed == "tiny":  # statistics of tiny tables, which then grow
        administer(database.url, f"ANALYZE {tables}")

    async def grow() -> None:
        wire = await database.connect_writer()
        openings = [Opening("o", "USD", None, f"more{n}") for n in range(8000)]
        await OpeningBatch(1)(wire, openings)
        await wire.close()

    async def test() -> None:
        wire, work = await database.connect_writer(), MovementBatch(1)
        for step, size in enumerate(sizes):
            before = await touched(wire)
            batch = [deposit(n % 8000 + 1, 1, f"{step}-{n}") for n in range(size)]
            await work(wire, [Group(batch)])
            rows = await touched(wire) - before
            assert max(rows.values()) < 10 * size + 100, f"batch {step} of {size}: {rows}"
        await wire.close()

    asyncio.run(grow())
    if analyzed == "grown":
        administer(database.url, f"ANALYZE {tables}")
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
