"""The cost of lists of accounts: rows read for a page, whatever the filters, in a large ledger."""

import asyncio
import functools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledgerservice.postgres import search
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.queries import accounts
from ledgerservice.postgres.queries.accounts import AccountFilter
from ledgerservice.postgres.reader import Reader
from tests.postgres.costs.rows import (
    EXAMPLES,
    fill,
    rows_of_all_pages,
    rows_of_page,
    without_statistics,
)

PAGE = 50
PEOPLE = 60_000
FILL_TOWN = f"""
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
ANALYZE ledger.accounts, ledger.account_details;
"""


@pytest.fixture(scope="module")
def town(new_database: Callable[..., Database]) -> Database:
    """A ledger of 60,000 accounts."""
    database = new_database()
    fill(database, FILL_TOWN)
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
    "a frequent balance": AccountFilter(currency="USD", min_balance=50, max_balance=60),
}
ACCOUNT_PLACES = [0, PEOPLE // 2, PEOPLE - 3]


def rows_of_accounts(database: Database, filters: AccountFilter, place: int) -> float:
    after = (opened_at(place), place) if filters.by_time else (place,)
    find_page = functools.partial(accounts.find_page, filters=filters, rows=PAGE, after=after)
    return asyncio.run(rows_of_page(database, find_page))


@pytest.mark.parametrize("place", ACCOUNT_PLACES)
@pytest.mark.parametrize("filters", ACCOUNT_COSTS.values(), ids=ACCOUNT_COSTS.keys())
def test_a_page_of_accounts_costs_a_page(town, filters, place) -> None:
    assert rows_of_accounts(town, filters, place) < 6 * PAGE


@pytest.fixture(scope="module")
def unanalyzed(new_database: Callable[..., Database], town: Database) -> Database:
    return without_statistics(new_database, town)


@pytest.mark.parametrize("filters", ACCOUNT_COSTS.values(), ids=ACCOUNT_COSTS.keys())
def test_a_page_of_accounts_costs_a_page_without_statistics(unanalyzed, filters) -> None:
    assert rows_of_accounts(unanalyzed, filters, 30_000) < 6 * PAGE


@pytest.mark.parametrize("place", ACCOUNT_PLACES)
@pytest.mark.parametrize("filters", ACCOUNT_RACES.values(), ids=ACCOUNT_RACES.keys())
def test_a_page_of_accounts_without_an_ordered_index_costs_some_tries(town, filters, place) -> None:
    """Before PostgreSQL 18 EXPLAIN rounds up the rows of a loop, which makes 32 of 27 tries."""
    assert rows_of_accounts(town, filters, place) < 32 * search.FIRST_BUDGET_ROWS


def test_a_search_stops_at_the_largest_budget(town, monkeypatch) -> None:
    """A balance has no index. The pages that follow find the accounts that are far away."""
    monkeypatch.setattr(search, "LAST_BUDGET_ROWS", 4_000)
    monkeypatch.setattr(search, "FIRST_BUDGET_ROWS", 250)  # and then 1,000 and 4,000
    rich = AccountFilter(currency="USD", min_balance=77777)
    assert 0 < rows_of_accounts(town, rich, 0) < 10 * 4_000

    async def pages() -> tuple[search.Page, list[Any]]:
        engine = town.read_engine()
        async with search.pinned(Reader(engine, 1, 60)) as run:
            find_page = functools.partial(accounts.find_page, run, rich, PAGE)
            pages = await find_page(None), await rows_of_all_pages(find_page, None)
        await engine.dispose()
        return pages

    first, rows = asyncio.run(pages())
    assert first == search.Page([], (4_004,))  # the search has passed four in INR
    assert [number for (number,) in rows] == list(range(9_000, PEOPLE + 1, 9_000))


ACCOUNT_CHOICES: dict[str, list[Any]] = {
    "owner": ["owner 0", "owner 30", "many", "nobody"],
    "currency": ["USD", "INR", "EUR"],
    "reference": ["account 77", "none"],
    "status": ["active", "frozen", "closed"],
    "min_balance": [0, 50, 77777],
    "max_balance": [-1, 50, 90],
    "since": [opened_at(100), opened_at(50_000)],
    "until": [opened_at(500), opened_at(55_000)],
    "metadata": ['{"order":500}', '{"often":"yes"}', '{"campaign":"2019"}', "{}"],
}
account_choices = st.dictionaries(
    st.sampled_from(sorted(ACCOUNT_CHOICES)), st.integers(0, 11), max_size=4
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(account_choices, st.sampled_from([None, 0, 29_000]), st.sampled_from([1, 60]))
def test_all_access_paths_find_the_same_accounts(town, chosen, place, rows) -> None:
    """Tries of a few rows, compared with a check of all conditions on every account."""
    filters = AccountFilter(
        **{n: ACCOUNT_CHOICES[n][i % len(ACCOUNT_CHOICES[n])] for n, i in chosen.items()}
    )
    listing = accounts.BY_TIME if filters.by_time else accounts.BY_ID
    first = opened_at(place or 0), place or 0
    after = None if place is None else first[-len(listing.by) :]

    async def pages() -> tuple[list[Any], list[Any]]:
        engine = town.read_engine()
        async with search.pinned(Reader(engine, 1, 60)) as run:
            page = await accounts.find_page(run, filters, rows, after)
            values = search.filter_values(filters)
            where = " AND ".join([accounts.CONDITIONS[name] for name in values] or ["true"])
            everything = f"""
                SELECT {listing.place}
                FROM (SELECT * FROM ledger.accounts t WHERE t.id > 0 OFFSET 0) t
                WHERE ({listing.place}) > ({":time, :id" if filters.by_time else ":id"})
                  AND {where} {listing.order()} LIMIT :rows"""
            values |= {"time": first[0], "id": first[1], "rows": rows}
            expected = await run(everything, values)
        await engine.dispose()
        return page.rows, expected

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "FIRST_BUDGET_ROWS", 8)
        patch.setattr(search, "LAST_BUDGET_ROWS", 10**9)
        actual, expected = asyncio.run(pages())
    assert actual == expected, filters
