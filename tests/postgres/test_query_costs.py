"""What lists cost: rows looked at for a page, whatever is asked of a large ledger."""

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from ledgerservice.domain.instructions import Kind
from ledgerservice.domain.transactions import Status
from ledgerservice.postgres import search as ways
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.queries import accounts as directory
from ledgerservice.postgres.queries import statements
from ledgerservice.postgres.queries import transactions as queries
from ledgerservice.postgres.queries.accounts import AccountFilter
from ledgerservice.postgres.queries.transactions import Filter
from ledgerservice.postgres.reader import AT_FIRST, LIST_HOLDS, LIST_SCHEDULES, Reader
from tests.databases import connect

ACCOUNTS, TRANSACTIONS = 2_000, 120_000
PAGE = 50

FILL = f"""
SET session_replication_role = replica;
ALTER TABLE ledger.accounts DROP CONSTRAINT accounts_external_has_no_change;
INSERT INTO ledger.accounts (ledger_id, id, owner, currency, currency_number, exponent, reference,
                             version, restricted)
SELECT 1, a, CASE WHEN a > 400 THEN 'many' ELSE 'owner ' || a / 4 END, 'USD', 1, 2,
       'account ' || a, 0, (a % 500 = 0)::int
FROM generate_series(1, {ACCOUNTS}) a;
ALTER TABLE ledger.transactions DROP CONSTRAINT transactions_decline;
INSERT INTO ledger.transactions (ledger_id, id, kind, status, account_id, counterparty_id, amount,
    recorded_at, renderer, has_details, idempotency_key, decline_reason, deciding_account_id,
    deciding_version, deciding_available, deciding_balance)
SELECT 1, n, CASE WHEN n % 1000 = 7 THEN 1 ELSE 3 END, CASE WHEN n % 400 = 5 THEN 2 ELSE 1 END,
       CASE WHEN n % 2 = 0 THEN 1 ELSE 2 + n % 1900 END, 2000 - n % 50,
       CASE WHEN n % 3000 = 11 THEN 77777 + n ELSE 1 + n % 100 END,
       timestamptz '2026-01-01' + n / 20 * interval '1 s', 1, n % 10 = 0,
       'key ' || n, CASE WHEN n % 400 = 5 THEN 'insufficient_funds' END,
       CASE WHEN n % 400 = 5 THEN 2 END, CASE WHEN n % 400 = 5 THEN 0 END,
       CASE WHEN n % 400 = 5 THEN 0 END, CASE WHEN n % 400 = 5 THEN 0 END
FROM generate_series(1, {TRANSACTIONS}) n;
INSERT INTO ledger.entries (ledger_id, currency_number, account_id, seq, transaction_id, amount,
    held_change, balance, held, recorded_at)
SELECT 1, 1, account, row_number() OVER (PARTITION BY account ORDER BY id), id, amount, 0, 0,
       CASE WHEN account = 1 AND id > 2000 THEN 5 ELSE 0 END, recorded_at
FROM (SELECT id, account_id AS account, -amount AS amount, recorded_at FROM ledger.transactions
      WHERE status = 1
      UNION ALL SELECT id, counterparty_id, amount, recorded_at FROM ledger.transactions
      WHERE status = 1) legs;
UPDATE ledger.accounts a SET version = s.seq
FROM (SELECT account_id, max(seq) AS seq FROM ledger.entries GROUP BY 1) s
WHERE s.account_id = a.id;
INSERT INTO ledger.details (ledger_id, transaction_id, digest, parent_id, reference, metadata)
SELECT 1, id, sha256(id::text::bytea), id / 10, CASE WHEN id BETWEEN 2000 AND 30000 THEN 'payroll'
       WHEN id % 20 = 0 THEN 'often' ELSE 'ref ' || id END,
       json_build_object('order', id, 'often', 'yes', 'some', id % 50, 'campaign',
                         CASE WHEN id BETWEEN 2000 AND 30000 THEN '2019' END)
FROM ledger.transactions WHERE has_details;
INSERT INTO ledger.holds (ledger_id, transaction_id, account_id, counterparty_id, amount, remaining,
                          captured, expires_at)
SELECT 1, n, 1, -1, 5, 0, 0, timestamptz '2026-01-01 00:01' FROM generate_series(1, 12000) n;
INSERT INTO ledger.holds (ledger_id, transaction_id, account_id, counterparty_id, amount, remaining,
                          captured, expires_at)
SELECT 1, n, CASE WHEN n <= 24000 THEN 3 ELSE 4 + n % 1900 END, -1, 5, 5, 0,
       CASE n % 3 WHEN 1 THEN timestamptz '2099-01-01'
                  WHEN 2 THEN timestamptz '2099-01-01' + n * interval '1 s' END
FROM generate_series(12001, 36000) n;
INSERT INTO ledger.schedules (ledger_id, transaction_id, account_id, counterparty_id, amount,
                              execute_at, settled_by)
SELECT 1, n, CASE WHEN n < 48000 THEN 3 ELSE 4 + n % 1900 END, 2, 5,
       timestamptz '2099-01-01' + n / 6000 * interval '1 s',
       CASE WHEN n % 2 = 0 THEN n END
FROM generate_series(24001, 72000) n;
SET session_replication_role = origin;
ANALYZE ledger.accounts, ledger.transactions, ledger.entries, ledger.details, ledger.holds,
    ledger.schedules;
"""


@pytest.fixture(scope="module")
def large(new_database: Callable[..., Database]) -> Database:
    """A ledger of 120,000 transactions, half of them of account 1."""
    database = new_database()
    with connect(database) as owner:
        for statement in FILL.split(";\n"):
            if statement.strip():
                owner.execute(statement)
    return database


def at(n: int) -> Any:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n // 20)


PLACES = {
    "first page": queries.AT_THE_TOP,
    "in the middle": (at(TRANSACTIONS // 2), 0),
    "last page": (at(300), 0),
}
COSTS = {
    "everything": Filter(),
    "a frequent kind": Filter(kind=Kind.TRANSFER),
    "a rare kind": Filter(kind=Kind.DEPOSIT),
    "a kind that there is not": Filter(kind=Kind.HOLD),
    "what was declined": Filter(status=Status.DECLINED),
    "a rare kind, declined": Filter(kind=Kind.DEPOSIT, status=Status.DECLINED),
    "a time long ago": Filter(since=at(1000), until=at(3000)),
    "a time with nothing": Filter(since=at(-9000), until=at(-1000)),
    "a busy account": Filter(account_id=1),
    "a quiet account": Filter(account_id=77),
    "an account that there is not": Filter(account_id=10**9),
    "a busy account's declines": Filter(account_id=2, status=Status.DECLINED),
    "a busy account long ago": Filter(account_id=1, since=at(1000), until=at(3000)),
    "a busy account at a moment": Filter(account_id=1, since=at(1000), until=at(1040)),
    "a quiet account for long": Filter(account_id=77, since=at(1000), until=at(110_000)),
    "an owner for long": Filter(owner="owner 30", since=at(1000), until=at(110_000)),
    "an owner": Filter(owner="owner 0"),
    "a quiet owner": Filter(owner="owner 30"),
    "nobody": Filter(owner="nobody"),
    "a rare amount": Filter(currency="USD", least=77777 + 3011, most=77777 + 3011),
    "rare amounts": Filter(currency="USD", least=77777),
    "a frequent amount": Filter(currency="USD", least=50, most=50),
    "a rare reference": Filter(reference="ref 10"),
    "a currency": Filter(currency="USD"),
    "an account and a rare reference": Filter(account_id=1, reference="ref 10"),
    "an owner and a rare reference": Filter(owner="owner 0", reference="ref 10"),
    "a rare reference and a frequent amount": Filter(reference="ref 10", currency="USD", least=2),
    "the owner of many accounts": Filter(owner="many"),
    "a rare kind of the owner of many accounts": Filter(owner="many", kind=Kind.DEPOSIT),
    "a quiet owner's frequent amount": Filter(owner="owner 30", currency="USD", least=50, most=50),
    "a quiet account's kind that there is not": Filter(account_id=77, kind=Kind.HOLD),
    "a rare currency": Filter(currency="INR"),
}

# What the right index finds in another order, or finds too much of, takes some tries.
RACES = {
    "a reference of long ago": Filter(reference="payroll"),
    "metadata of long ago": Filter(metadata='{"campaign":"2019"}'),
    "a frequent reference": Filter(reference="often"),
    "rare metadata": Filter(metadata='{"order":500}'),
    "metadata of a part": Filter(metadata='{"some":0}'),
    "a busy account's rare metadata": Filter(account_id=1, metadata='{"order":500}'),
    "a busy account's rare kind": Filter(account_id=1, kind=Kind.DEPOSIT),
    "a busy account's frequent kind": Filter(account_id=1, kind=Kind.TRANSFER),
    "a busy account's rare amounts": Filter(account_id=1, currency="USD", least=77777),
    "a frequent reference of a busy account": Filter(account_id=1, reference="often"),
    "frequent metadata": Filter(metadata='{"often":"yes"}'),
    "frequent amounts": Filter(currency="USD", least=20, most=90),
}


def rows_read(plan: dict[str, Any], uncounted: str = "") -> float:
    """Rows that the plan's scans have looked at, those that a filter threw away included; and the
    entries of an index that a bitmap is made of, which may be many more than are then looked at.
    """
    read = 0.0
    of = plan.get("Relation Name") or plan.get("Index Name")
    if of is not None and not (uncounted and of.startswith(uncounted)):
        removed = plan.get("Rows Removed by Filter", 0)
        removed += plan.get("Rows Removed by Index Recheck", 0)
        read = (plan["Actual Rows"] + removed) * plan["Actual Loops"]
    return read + sum(rows_read(part, uncounted) for part in plan.get("Plans", []))


async def rows_of_page(
    database: Database, find: Callable[[ways.Run], Awaitable[Any]], uncounted: str = ""
) -> tuple[float, Any]:
    """Rows that all the statements for a page have looked at, and the page."""
    engine = database.read_engine()
    read = 0.0
    async with ways.pinned(Reader(engine, 1, 30)) as run:

        async def explained(statement: str, values: dict[str, Any]) -> list[Any]:
            nonlocal read
            explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
            [(found,)] = await run(explain, values)
            read += rows_read(found[0]["Plan"], uncounted)
            return await run(statement, values)

        page = await find(explained)
    await engine.dispose()
    return read, page


def rows_of_transactions(database: Database, wanted: Filter, after: Any) -> float:
    """The accounts are few here, and are read whole where many would be looked up."""
    find = functools.partial(queries.page, wanted=wanted, rows=PAGE, after=after)
    read, _ = asyncio.run(rows_of_page(database, find, "accounts"))
    return read


@pytest.mark.parametrize("after", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("wanted", COSTS.values(), ids=COSTS.keys())
def test_a_page_costs_a_page(large, wanted, after) -> None:
    """Whatever matches, and however many there are: some rows for each that is shown."""
    assert rows_of_transactions(large, wanted, after) < 25 * PAGE


@pytest.mark.parametrize("after", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("wanted", RACES.values(), ids=RACES.keys())
def test_a_page_of_several_filters_costs_some_tries(large, wanted, after) -> None:
    """A few times what the best way to it costs; the worst one reads all 120,000, with what they
    have."""
    assert rows_of_transactions(large, wanted, after) < 30 * ways.FIRST_BUDGET_ROWS


CHOICES: dict[str, list[Any]] = {
    "account_id": [1, 77, 399, 10**9],
    "owner": ["owner 0", "owner 30", "many", "nobody"],
    "kind": [Kind.DEPOSIT, Kind.TRANSFER, Kind.HOLD],
    "status": list(Status),
    "currency": ["USD", "INR"],
    "least": [1, 50, 77777],
    "most": [50, 90, 10**9],
    "since": [at(1000), at(100_000)],
    "until": [at(3000), at(110_000)],
    "reference": ["ref 10", "often", "payroll", "none"],
    "metadata": ['{"order":500}', '{"often":"yes"}', '{"campaign":"2019"}', '{"some":0}'],
}
choices = st.dictionaries(st.sampled_from(sorted(CHOICES)), st.integers(0, 3), max_size=4)


async def all_of(find: Callable[[Any], Awaitable[ways.Page]], after: Any) -> list[Any]:
    """The rows of all pages from a place on, however many each has."""
    rows: list[Any] = []
    while True:
        found = await find(after)
        rows += found.rows
        if found.after is None:
            return rows
        after = found.after


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(choices, st.sampled_from(sorted(PLACES)), st.sampled_from([1, 5, 60]), st.booleans())
def test_every_way_leads_to_the_same_page(large, chosen, place, rows, ends_early) -> None:
    """Tries of a few rows, against the filters asked one by one of every transaction. Where the
    search is given up early, later pages have the rest.
    """
    wanted = Filter(**{n: CHOICES[n][i % len(CHOICES[n])] for n, i in chosen.items()})
    after = PLACES[place]

    async def pages() -> tuple[list[int], list[int]]:
        engine = large.read_engine()
        async with ways.pinned(Reader(engine, 1, 60)) as run:
            first = await queries.page(run, wanted, rows, after)
            found = list(first.rows)
            if ends_early and first.after is not None:
                rest = functools.partial(queries.page, run, wanted, 500)
                found += await all_of(rest, first.after)
            values = ways.given(wanted)
            where = " AND ".join([queries.CONDITIONS[name] for name in values] or ["true"])
            everything = f"""
                SELECT t.id FROM (SELECT * FROM ledger.transactions t
                    WHERE t.ledger_id = :ledger
                      AND (t.recorded_at, t.id) < (:moment, :number) OFFSET 0) t
                WHERE {where} ORDER BY t.recorded_at DESC, t.id DESC LIMIT :rows"""
            values |= {"moment": after[0], "number": after[1], "rows": len(found)}
            if not ends_early or first.after is None:
                values["rows"] = rows
            expected = await run(everything, values)
        await engine.dispose()
        return [row[1] for row in found], [row[0] for row in expected]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ways, "FIRST_BUDGET_ROWS", 8)
        patch.setattr(ways, "LAST_BUDGET_ROWS", 2_000 if ends_early else 10**9)
        patch.setattr(ways, "FEW_SOURCES", 2)
        found, expected = asyncio.run(pages())
    assert found == expected, wanted


# Accounts.

PEOPLE = 60_000
FILL_TOWN = f"""
SET session_replication_role = replica;
ALTER TABLE ledger.accounts DROP CONSTRAINT accounts_external_has_no_change;
INSERT INTO ledger.accounts (ledger_id, id, owner, currency, currency_number, exponent, reference,
                             balance, restricted, created_at)
SELECT 1, a, CASE WHEN a > 400 THEN 'many' ELSE 'owner ' || a / 4 END,
       CASE WHEN a % 1000 = 7 THEN 'INR' ELSE 'USD' END, 1, 2, 'account ' || a,
       CASE WHEN a % 9000 = 0 THEN 77777 ELSE a % 100 END,
       CASE WHEN a % 20000 = 5 THEN 7 WHEN a % 50 = 0 THEN 1 ELSE 0 END,
       timestamptz '2026-01-01' + (a + a % 7) * interval '1 s'
FROM generate_series(1, {PEOPLE}) a;
INSERT INTO ledger.account_details (ledger_id, account_id, metadata)
SELECT 1, a, json_build_object('order', a, 'often', 'yes', 'some', a % 70, 'campaign',
                               CASE WHEN a BETWEEN 20000 AND 25000 THEN '2019' END)
FROM generate_series(1, {PEOPLE}) a WHERE a % 3 > 0;
SET session_replication_role = origin;
ANALYZE ledger.accounts, ledger.account_details;
"""


@pytest.fixture(scope="module")
def town(new_database: Callable[..., Database]) -> Database:
    """A ledger of 60,000 accounts."""
    database = new_database()
    with connect(database) as owner:
        for statement in FILL_TOWN.split(";\n"):
            if statement.strip():
                owner.execute(statement)
    return database


def opened_at(n: int) -> Any:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n)


ACCOUNT_COSTS = {
    "everything": AccountFilter(),
    "an owner": AccountFilter(owner="owner 30"),
    "the owner of many": AccountFilter(owner="many"),
    "a currency": AccountFilter(currency="USD"),
    "a rare currency": AccountFilter(currency="INR"),
    "a reference": AccountFilter(reference="account 77"),
    "what is frozen": AccountFilter(status="frozen"),
    "what is active": AccountFilter(status="active"),
    "nobody": AccountFilter(owner="nobody"),
    "a time": AccountFilter(since=opened_at(30_000), until=opened_at(40_000)),
    "a time with nothing": AccountFilter(since=opened_at(-1000), until=opened_at(-10)),
    "an owner at a time": AccountFilter(owner="owner 30", since=opened_at(0)),
}
ACCOUNT_RACES = {
    "what is closed": AccountFilter(status="closed"),
    "rare metadata": AccountFilter(metadata='{"order":500}'),
    "frequent metadata": AccountFilter(metadata='{"often":"yes"}'),
    "metadata of a part": AccountFilter(metadata='{"some":0}'),
    "metadata of long ago": AccountFilter(metadata='{"campaign":"2019"}'),
    "a time and metadata": AccountFilter(since=opened_at(50_000), metadata='{"order":59999}'),
    "what of many is frozen": AccountFilter(owner="many", status="frozen"),
    "a frequent balance": AccountFilter(currency="USD", least=50, most=60),
}
ACCOUNT_PLACES = [0, PEOPLE // 2, PEOPLE - 3]


def rows_of_accounts(database: Database, wanted: AccountFilter, place: int) -> float:
    after = (opened_at(place), place) if wanted.by_time else (place,)
    find = functools.partial(directory.page, wanted=wanted, rows=PAGE, after=after)
    read, _ = asyncio.run(rows_of_page(database, find))
    return read


@pytest.mark.parametrize("place", ACCOUNT_PLACES)
@pytest.mark.parametrize("wanted", ACCOUNT_COSTS.values(), ids=ACCOUNT_COSTS.keys())
def test_a_page_of_accounts_costs_a_page(town, wanted, place) -> None:
    assert rows_of_accounts(town, wanted, place) < 6 * PAGE


@pytest.mark.parametrize("place", ACCOUNT_PLACES)
@pytest.mark.parametrize("wanted", ACCOUNT_RACES.values(), ids=ACCOUNT_RACES.keys())
def test_a_page_of_some_accounts_costs_some_tries(town, wanted, place) -> None:
    assert rows_of_accounts(town, wanted, place) < 30 * ways.FIRST_BUDGET_ROWS


def test_a_page_is_given_up_when_it_has_cost_enough(town, monkeypatch) -> None:
    """A balance has no index; what is far is looked for by the pages that follow."""
    monkeypatch.setattr(ways, "LAST_BUDGET_ROWS", 4_000)
    monkeypatch.setattr(ways, "FIRST_BUDGET_ROWS", 250)  # and then 1,000 and 4,000
    rich = AccountFilter(currency="USD", least=77777)
    assert 0 < rows_of_accounts(town, rich, 0) < 10 * 4_000

    async def pages() -> tuple[ways.Page, list[Any]]:
        engine = town.read_engine()
        async with ways.pinned(Reader(engine, 1, 60)) as run:
            find = functools.partial(directory.page, run, rich, PAGE)
            found = await find(None), await all_of(find, None)
        await engine.dispose()
        return found

    first, rows = asyncio.run(pages())
    assert first == ways.Page([], (4_004,))  # four on the way are in rupees
    assert [number for (number,) in rows] == list(range(9_000, PEOPLE + 1, 9_000))


ACCOUNT_CHOICES: dict[str, list[Any]] = {
    "owner": ["owner 0", "owner 30", "many", "nobody"],
    "currency": ["USD", "INR", "EUR"],
    "reference": ["account 77", "none"],
    "status": ["active", "frozen", "closed"],
    "least": [0, 50, 77777],
    "most": [-1, 50, 90],
    "since": [opened_at(100), opened_at(50_000)],
    "until": [opened_at(500), opened_at(55_000)],
    "metadata": ['{"order":500}', '{"often":"yes"}', '{"campaign":"2019"}', "{}"],
}
account_choices = st.dictionaries(
    st.sampled_from(sorted(ACCOUNT_CHOICES)), st.integers(0, 11), max_size=4
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(account_choices, st.sampled_from([None, 0, 29_000]), st.sampled_from([1, 60]))
def test_every_way_leads_to_the_same_accounts(town, chosen, place, rows) -> None:
    """Tries of a few rows, against the filters asked one by one of every account."""
    wanted = AccountFilter(
        **{n: ACCOUNT_CHOICES[n][i % len(ACCOUNT_CHOICES[n])] for n, i in chosen.items()}
    )
    by = directory.BY_TIME if wanted.by_time else directory.BY_ID
    first = opened_at(place or 0), place or 0
    after = None if place is None else first[-len(by.by) :]

    async def pages() -> tuple[list[Any], list[Any]]:
        engine = town.read_engine()
        async with ways.pinned(Reader(engine, 1, 60)) as run:
            found = await directory.page(run, wanted, rows, after)
            values = ways.given(wanted)
            where = " AND ".join([directory.CONDITIONS[name] for name in values] or ["true"])
            everything = f"""
                SELECT {by.place} FROM (SELECT * FROM ledger.accounts t WHERE t.id > 0 OFFSET 0) t
                WHERE ({by.place}) > ({":moment, :number" if wanted.by_time else ":number"})
                  AND {where} {by.order} LIMIT :rows"""
            values |= {"moment": first[0], "number": first[1], "rows": rows}
            expected = await run(everything, values)
        await engine.dispose()
        return found.rows, expected

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ways, "FIRST_BUDGET_ROWS", 8)
        patch.setattr(ways, "LAST_BUDGET_ROWS", 10**9)
        found, expected = asyncio.run(pages())
    assert found == expected, wanted


# What is open.

OPEN = {"holds": (LIST_HOLDS, "ends_at", "remaining > 0"),
        "schedules": (LIST_SCHEDULES, "execute_at", "settled_by IS NULL")}  # fmt: skip


@pytest.mark.parametrize("place", [0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("account", [3, 77])
@pytest.mark.parametrize("kind", OPEN)
def test_a_page_of_what_is_open_costs_a_page(large, kind, account, place) -> None:
    """However many end at one moment, or never; and it is the one that the order says."""
    statement, moment, is_open = OPEN[kind]
    with connect(large) as owner:
        everything = owner.execute(
            f"SELECT {moment}, transaction_id FROM ledger.{kind}"
            f" WHERE account_id = {account} AND {is_open} ORDER BY 1, 2"
        ).fetchall()
    first = int(len(everything) * place)
    after = everything[first - 1] if first else AT_FIRST
    asked = {"account": account, "rows": PAGE, "moment": after[0], "number": after[1]}

    async def read() -> tuple[Any, list[Any]]:
        engine = large.read_engine()
        reader = Reader(engine, 1, 30)
        found = await reader.rows(statement, **asked)
        compiled = statement.compile(engine.sync_engine)
        values = compiled.construct_params({"ledger": 1, **asked})
        async with reader.connection() as connection:
            explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}"
            plan = (await connection.exec_driver_sql(explain, values)).scalar_one()
        await engine.dispose()
        return plan[0]["Plan"], found

    plan, found = asyncio.run(read())
    assert [row[0] for row in found] == [n for _, n in everything[first : first + PAGE]]
    assert rows_read(plan) < 12 * PAGE, json.dumps(plan)[:3000]


# As of a moment.


def test_as_of_costs_a_binary_search(large) -> None:
    with connect(large, role="ledgerservice") as service:
        version = "SELECT version FROM ledger.accounts WHERE id = 1"
        [(last,)] = service.execute(version).fetchall()
        assert last > 50_000
        service.execute("SELECT pg_stat_force_next_flush()")
        read = "SELECT idx_scan FROM pg_stat_user_tables WHERE relname = 'entries'"
        [(before,)] = service.execute(read).fetchall()
        service.execute(f"SELECT ledger.version_at(1, 1, {last}, '2026-01-01T00:10:00Z')")
        service.execute("SELECT pg_stat_force_next_flush()")
        [(after,)] = service.execute(read).fetchall()
        assert after - before <= 17


@pytest.mark.parametrize("n", [1000, 5000, 60_000, TRANSACTIONS])
def test_as_of_reads_no_history(large, n) -> None:
    """Also where something was held, of holds that have been released since."""

    async def explained() -> Any:
        engine = large.read_engine()
        async with Reader(engine, 1, 30).connection() as connection:
            explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statements.ACCOUNT_AT}"
            values = {"ledger": 1, "account": 1, "at": at(n)}
            found = await connection.scalar(text(explain), values)
        await engine.dispose()
        return found[0]["Plan"]

    plan = asyncio.run(explained())
    assert rows_read(plan) < 100, json.dumps(plan)[:3000]
