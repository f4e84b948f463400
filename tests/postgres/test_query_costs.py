"""The cost of reads: rows read for a page, whatever the filters, in a large ledger."""

import asyncio
import functools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from ledgerservice.domain.instructions import Kind
from ledgerservice.domain.transactions import Status
from ledgerservice.postgres import search
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.queries import as_of, transactions
from ledgerservice.postgres.queries.holds import LIST_OPEN_HOLDS
from ledgerservice.postgres.queries.schedules import LIST_PENDING_SCHEDULES
from ledgerservice.postgres.queries.structs import EARLIEST
from ledgerservice.postgres.queries.transactions import TransactionFilter as Filter
from ledgerservice.postgres.reader import Reader
from tests.databases import connect
from tests.postgres.costs import fill, rows_of_all_pages, rows_of_page, rows_read

ACCOUNTS, TRANSACTIONS = 2_000, 120_000
PAGE = 50

FILL = f"""
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
ANALYZE ledger.accounts, ledger.transactions, ledger.entries, ledger.details, ledger.holds,
    ledger.schedules;
"""


@pytest.fixture(scope="module")
def large(new_database: Callable[..., Database]) -> Database:
    """A ledger of 120,000 transactions, half of them of account 1."""
    database = new_database()
    fill(database, FILL)
    return database


def at(n: int) -> Any:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n // 20)


PLACES = {
    "first page": transactions.NEWEST,
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
    "a busy account for two seconds": Filter(account_id=1, since=at(1000), until=at(1040)),
    "a quiet account for long": Filter(account_id=77, since=at(1000), until=at(110_000)),
    "an owner for long": Filter(owner="owner 30", since=at(1000), until=at(110_000)),
    "an owner": Filter(owner="owner 0"),
    "a quiet owner": Filter(owner="owner 30"),
    "nobody": Filter(owner="nobody"),
    "a rare amount": Filter(currency="USD", min_amount=77777 + 3011, max_amount=77777 + 3011),
    "rare amounts": Filter(currency="USD", min_amount=77777),
    "a frequent amount": Filter(currency="USD", min_amount=50, max_amount=50),
    "a rare reference": Filter(reference="ref 10"),
    "a currency": Filter(currency="USD"),
    "an account and a rare reference": Filter(account_id=1, reference="ref 10"),
    "an owner and a rare reference": Filter(owner="owner 0", reference="ref 10"),
    "a rare reference and a frequent amount": Filter(
        reference="ref 10", currency="USD", min_amount=2
    ),
    "the owner of many accounts": Filter(owner="many"),
    "a rare kind of the owner of many accounts": Filter(owner="many", kind=Kind.DEPOSIT),
    "a quiet owner's frequent amount": Filter(
        owner="owner 30", currency="USD", min_amount=50, max_amount=50
    ),
    "a quiet account's kind that there is not": Filter(account_id=77, kind=Kind.HOLD),
    "a rare currency": Filter(currency="INR"),
}

# Where the right index has another order, or finds too many rows, the search takes some tries.
RACES = {
    "a reference of long ago": Filter(reference="payroll"),
    "metadata of long ago": Filter(metadata='{"campaign":"2019"}'),
    "a frequent reference": Filter(reference="often"),
    "rare metadata": Filter(metadata='{"order":500}'),
    "metadata of a part": Filter(metadata='{"some":0}'),
    "a busy account's rare metadata": Filter(account_id=1, metadata='{"order":500}'),
    "a busy account's rare kind": Filter(account_id=1, kind=Kind.DEPOSIT),
    "a busy account's frequent kind": Filter(account_id=1, kind=Kind.TRANSFER),
    "a busy account's rare amounts": Filter(account_id=1, currency="USD", min_amount=77777),
    "a frequent reference of a busy account": Filter(account_id=1, reference="often"),
    "frequent metadata": Filter(metadata='{"often":"yes"}'),
    "frequent amounts": Filter(currency="USD", min_amount=20, max_amount=90),
}


def rows_of_transactions(database: Database, filters: Filter, after: Any) -> float:
    """Without the accounts: they are few here, and are read whole where many would be looked up."""
    find_page = functools.partial(transactions.find_page, filters=filters, rows=PAGE, after=after)
    return asyncio.run(rows_of_page(database, find_page, "accounts"))


@pytest.mark.parametrize("after", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("filters", COSTS.values(), ids=COSTS.keys())
def test_a_page_costs_a_page(large, filters, after) -> None:
    """A few rows for each row of the page, however many match."""
    assert rows_of_transactions(large, filters, after) < 25 * PAGE


@pytest.mark.parametrize("after", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("filters", RACES.values(), ids=RACES.keys())
def test_a_page_of_several_filters_costs_some_tries(large, filters, after) -> None:
    """A few times what the best access path costs. The worst one reads all 120,000 transactions
    and what belongs to them.
    """
    assert rows_of_transactions(large, filters, after) < 30 * search.FIRST_BUDGET_ROWS


CHOICES: dict[str, list[Any]] = {
    "account_id": [1, 77, 399, 10**9],
    "owner": ["owner 0", "owner 30", "many", "nobody"],
    "kind": [Kind.DEPOSIT, Kind.TRANSFER, Kind.HOLD],
    "status": list(Status),
    "currency": ["USD", "INR"],
    "min_amount": [1, 50, 77777],
    "max_amount": [50, 90, 10**9],
    "since": [at(1000), at(100_000)],
    "until": [at(3000), at(110_000)],
    "reference": ["ref 10", "often", "payroll", "none"],
    "metadata": ['{"order":500}', '{"often":"yes"}', '{"campaign":"2019"}', '{"some":0}'],
}
choices = st.dictionaries(st.sampled_from(sorted(CHOICES)), st.integers(0, 3), max_size=4)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(choices, st.sampled_from(sorted(PLACES)), st.sampled_from([1, 5, 60]), st.booleans())
def test_all_access_paths_find_the_same_page(large, chosen, place, rows, ends_early) -> None:
    """Tries of a few rows, compared with a check of all conditions on every transaction. Where the
    search stops early, later pages have the rest.
    """
    filters = Filter(**{n: CHOICES[n][i % len(CHOICES[n])] for n, i in chosen.items()})
    after = PLACES[place]

    async def pages() -> tuple[list[int], list[int]]:
        engine = large.read_engine()
        async with search.pinned(Reader(engine, 1, 60)) as run:
            first = await transactions.find_page(run, filters, rows, after)
            page_rows = list(first.rows)
            if ends_early and first.after is not None:
                find_page = functools.partial(transactions.find_page, run, filters, 500)
                page_rows += await rows_of_all_pages(find_page, first.after)
            values = search.filter_values(filters)
            where = " AND ".join([transactions.CONDITIONS[name] for name in values] or ["true"])
            everything = f"""
                SELECT t.id FROM (SELECT * FROM ledger.transactions t
                    WHERE t.ledger_id = :ledger
                      AND (t.recorded_at, t.id) < (:time, :id) OFFSET 0) t
                WHERE {where} ORDER BY t.recorded_at DESC, t.id DESC LIMIT :rows"""
            values |= {"time": after[0], "id": after[1], "rows": len(page_rows)}
            if not ends_early or first.after is None:
                values["rows"] = rows
            expected = await run(everything, values)
        await engine.dispose()
        return [row[1] for row in page_rows], [row[0] for row in expected]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "FIRST_BUDGET_ROWS", 8)
        patch.setattr(search, "LAST_BUDGET_ROWS", 2_000 if ends_early else 10**9)
        patch.setattr(search, "FEW_SOURCES", 2)
        actual, expected = asyncio.run(pages())
    assert actual == expected, filters


# Open holds and pending scheduled transfers.

OPEN = {"holds": (LIST_OPEN_HOLDS, "ends_at", "remaining > 0"),
        "schedules": (LIST_PENDING_SCHEDULES, "execute_at", "settled_by IS NULL")}  # fmt: skip


@pytest.mark.parametrize("place", [0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("account", [3, 77])
@pytest.mark.parametrize("kind", OPEN)
def test_a_page_of_open_rows_costs_a_page(large, kind, account, place) -> None:
    """However many have the same time, or none; and the page is right."""
    statement, time, is_open = OPEN[kind]
    with connect(large) as owner:
        everything = owner.execute(
            f"SELECT {time}, transaction_id FROM ledger.{kind}"
            f" WHERE account_id = {account} AND {is_open} ORDER BY 1, 2"
        ).fetchall()
    first = int(len(everything) * place)
    after = everything[first - 1] if first else (EARLIEST, 0)
    values = {"account": account, "rows": PAGE, "after_time": after[0], "after_id": after[1]}

    async def read() -> tuple[Any, list[Any]]:
        engine = large.read_engine()
        reader = Reader(engine, 1, 30)
        rows = await reader.rows(statement, **values)
        compiled = statement.compile(engine.sync_engine)
        parameters = compiled.construct_params({"ledger": 1, **values})
        async with reader.connection() as connection:
            explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}"
            plan = (await connection.exec_driver_sql(explain, parameters)).scalar_one()
        await engine.dispose()
        return plan[0]["Plan"], rows

    plan, rows = asyncio.run(read())
    assert [row[0] for row in rows] == [n for _, n in everything[first : first + PAGE]]
    assert rows_read(plan) < 12 * PAGE, json.dumps(plan)[:3000]


# As of a time.


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
    """Also where the account had holds that have been released since."""

    async def explained() -> Any:
        engine = large.read_engine()
        async with Reader(engine, 1, 30).connection() as connection:
            explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {as_of.ACCOUNT_AT}"
            values = {"ledger": 1, "account": 1, "at": at(n)}
            plans = await connection.scalar(text(explain), values)
        await engine.dispose()
        return plans[0]["Plan"]

    plan = asyncio.run(explained())
    assert rows_read(plan) < 100, json.dumps(plan)[:3000]
