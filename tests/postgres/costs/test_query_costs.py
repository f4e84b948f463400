"""The cost of reads: rows read for a page, whatever the filters, in a large ledger."""

import asyncio
import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from ledgerservice.postgres import search
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.queries import as_of, transactions
from ledgerservice.postgres.queries.holds import LIST_OPEN_HOLDS
from ledgerservice.postgres.queries.schedules import LIST_PENDING_SCHEDULES
from ledgerservice.postgres.queries.structs import EARLIEST
from ledgerservice.postgres.queries.transaction_filters import CONDITIONS, values_of
from ledgerservice.postgres.queries.transaction_filters import TransactionFilter as Filter
from ledgerservice.postgres.reader import Reader
from tests.databases import connect
from tests.postgres.costs.large import CHOICES, COSTS, PAGE, PLACES, RACES, TRANSACTIONS, at
from tests.postgres.costs.rows import (
    EXAMPLES,
    rows_of_all_pages,
    rows_of_page,
    rows_read,
    without_statistics,
)


def rows_of_transactions(database: Database, filters: Filter, after: Any) -> float:
    """Without the accounts: they are few here, and are read whole where many would be looked up."""
    find_page = functools.partial(transactions.find_page, filters=filters, rows=PAGE, after=after)
    return asyncio.run(rows_of_page(database, find_page, "accounts"))


@pytest.mark.parametrize("after", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("filters", COSTS.values(), ids=COSTS.keys())
def test_a_page_costs_a_page(large, filters, after) -> None:
    """A few rows for each row of the page, however many match."""
    assert rows_of_transactions(large, filters, after) < 25 * PAGE


@pytest.fixture(scope="module")
def unanalyzed(new_database: Callable[..., Database], large: Database) -> Database:
    return without_statistics(new_database, large)


@pytest.mark.parametrize("filters", COSTS.values(), ids=COSTS.keys())
def test_a_page_costs_a_page_without_statistics(unanalyzed, filters) -> None:
    assert rows_of_transactions(unanalyzed, filters, PLACES["in the middle"]) < 25 * PAGE


@pytest.mark.parametrize("after", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("filters", RACES.values(), ids=RACES.keys())
def test_a_page_of_several_filters_costs_some_tries(large, filters, after) -> None:
    """A few times what the best access path costs. The worst one reads all 120,000 transactions
    and what belongs to them.
    """
    assert rows_of_transactions(large, filters, after) < 30 * search.FIRST_BUDGET_ROWS


choices = st.dictionaries(st.sampled_from(sorted(CHOICES)), st.integers(0, 3), max_size=4)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
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
            values = values_of(filters)
            where = " AND ".join([CONDITIONS[name] for name in values] or ["true"])
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
