"""The cost of reads by effective time: rows read, in a large ledger."""

import asyncio
import functools
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from ledgerservice.domain.instructions import Detail, Kind, Movement, Reversal
from ledgerservice.domain.transactions import Status
from ledgerservice.postgres import search
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.queries import effective, reports, transactions, volume
from ledgerservice.postgres.queries.structs import EARLIEST, LATEST
from ledgerservice.postgres.queries.transaction_filters import CONDITIONS, values_of
from ledgerservice.postgres.queries.transaction_filters import TransactionFilter as Filter
from ledgerservice.postgres.reader import Reader
from tests.postgres.costs.large import ACCOUNTS, CHOICES, IMPORT, MIX, PAGE, PLACES, at
from tests.postgres.costs.rows import (
    EXAMPLES,
    fill,
    plan_of,
    rows_of_all_pages,
    rows_of_page,
    rows_read,
)
from tests.postings import open_accounts, post


@pytest.fixture(scope="module")
def mixed(new_database: Callable[..., Database], large: Database) -> Database:
    """A twentieth of the transactions take effect at other times than they are recorded at."""
    database = new_database(large)
    fill(database, MIX)
    return database


@pytest.fixture(scope="module")
def imported(new_database: Callable[..., Database], large: Database) -> Database:
    """All but the last 2,000 take effect from 1993 on."""
    database = new_database(large)
    fill(database, IMPORT)
    return database


# Lists of transactions.


def rows_of_transactions(database: Database, filters: Filter, after: Any) -> float:
    filters = msgspec.structs.replace(filters, by="effective")
    find_page = functools.partial(transactions.find_page, filters=filters, rows=PAGE, after=after)
    return asyncio.run(rows_of_page(database, find_page, "accounts"))


COSTS = {
    "everything": Filter(),
    "a time long ago": Filter(since=at(1000), until=at(3000)),
    "a time with nothing": Filter(since=at(-9000), until=at(-1000)),
    "a frequent kind": Filter(kind=Kind.TRANSFER),
    "an account that there is not": Filter(account_id=10**9),
    "a quiet account": Filter(account_id=77),
    "a rare reference": Filter(reference="ref 10"),
    "nobody": Filter(owner="nobody"),
    "a rare currency": Filter(currency="INR"),
}
RACES = {
    "a busy account": Filter(account_id=1),
    "a busy account long ago": Filter(account_id=1, since=at(1000), until=at(3000)),
    "a busy account's rare kind": Filter(account_id=1, kind=Kind.DEPOSIT),
    "a rare kind": Filter(kind=Kind.DEPOSIT),
    "a kind that there is not": Filter(kind=Kind.HOLD),
    "what was declined": Filter(status=Status.DECLINED),
    "a quiet owner": Filter(owner="owner 30"),
    "the owner of many accounts": Filter(owner="many"),
    "a rare amount": Filter(currency="USD", min_amount=77777 + 3011, max_amount=77777 + 3011),
    "a frequent amount": Filter(currency="USD", min_amount=50, max_amount=50),
    "a reference of long ago": Filter(reference="payroll"),
    "metadata of long ago": Filter(metadata='{"campaign":"2019"}'),
    "rare metadata": Filter(metadata='{"order":500}'),
}


@pytest.mark.parametrize("after", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("filters", COSTS.values(), ids=COSTS.keys())
def test_a_page_costs_a_page(mixed, filters, after) -> None:
    """A few rows for each row of the page, wherever it begins."""
    assert rows_of_transactions(mixed, filters, after) < 25 * PAGE


@pytest.mark.parametrize("after", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("filters", RACES.values(), ids=RACES.keys())
def test_a_page_of_several_filters_costs_some_tries(mixed, filters, after) -> None:
    """No index has an account's transactions in this order, so they are found in some tries."""
    assert rows_of_transactions(mixed, filters, after) < 35 * search.FIRST_BUDGET_ROWS


def day(n: int) -> datetime:
    return datetime(1993, 1, n, tzinfo=UTC)


OF_1993 = {
    "a day": Filter(since=day(20), until=day(21)),
    "a day's rare kind": Filter(kind=Kind.DEPOSIT, since=day(20), until=day(21)),
    "a day of a busy account": Filter(account_id=1, since=day(20), until=day(21)),
    "a day of a quiet account": Filter(account_id=77, since=day(20), until=day(21)),
    "a day of an owner": Filter(owner="owner 30", since=day(20), until=day(21)),
    "what follows a day": Filter(since=day(20), until=at(-9000)),
    "what is before a day": Filter(until=day(20)),
}


@pytest.mark.parametrize("filters", OF_1993.values(), ids=OF_1993.keys())
def test_a_page_of_an_imported_time_costs_some_tries(imported, filters) -> None:
    rows = rows_of_transactions(imported, filters, PLACES["first page"])
    assert rows < 10 * search.FIRST_BUDGET_ROWS


choices = st.dictionaries(st.sampled_from(sorted(CHOICES)), st.integers(0, 3), max_size=4)
_TAKES_EFFECT_AT = """coalesce((SELECT d.effective_at FROM ledger.details d
    WHERE d.ledger_id = :ledger AND d.transaction_id = t.id), t.recorded_at)"""
_CONDITIONS = CONDITIONS | {
    "since": f"{_TAKES_EFFECT_AT} >= :since",
    "until": f"{_TAKES_EFFECT_AT} < :until",
}


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(choices, st.sampled_from(sorted(PLACES)), st.sampled_from([1, 5, 60]), st.booleans())
def test_all_access_paths_find_the_same_page(mixed, chosen, place, rows, ends_early) -> None:
    """Tries of a few rows, compared with a check of all conditions on every transaction. Where the
    search stops early, later pages have the rest.
    """
    filters = Filter(
        **{n: CHOICES[n][i % len(CHOICES[n])] for n, i in chosen.items()}, by="effective"
    )
    after = PLACES[place]

    async def pages() -> tuple[list[int], list[int]]:
        engine = mixed.read_engine()
        async with search.pinned(Reader(engine, 1, 60)) as run:
            first = await transactions.find_page(run, filters, rows, after)
            page_rows = list(first.rows)
            if ends_early and first.after is not None:
                find_page = functools.partial(transactions.find_page, run, filters, 500)
                page_rows += await rows_of_all_pages(find_page, first.after)
            values = values_of(filters)
            where = " AND ".join([_CONDITIONS[name] for name in values] or ["true"])
            everything = f"""
                SELECT t.id FROM (
                    SELECT t.*, {_TAKES_EFFECT_AT} AS time FROM ledger.transactions t
                    WHERE t.ledger_id = :ledger OFFSET 0) t
                WHERE (t.time, t.id) < (:time, :id) AND {where}
                ORDER BY t.time DESC, t.id DESC LIMIT :rows"""
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


# Statements and reports.


async def explained(database: Database, statement: Any, **values: Any) -> dict[str, Any]:
    engine = database.read_engine()
    async with Reader(engine, 1, 30).connection(search=True) as connection:
        explain = text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}")
        plans = await connection.scalar(explain, {"ledger": 1, **values})
    await engine.dispose()
    plan: dict[str, Any] = plans[0]["Plan"]
    return plan


async def period_of(database: Database, account: int, since: Any, until: Any) -> Any:
    engine = database.read_engine()
    period = await effective.find_period(Reader(engine, 1, 30), account, since, until)
    await engine.dispose()
    return period


def rows_of_lines(database: Database, period: Any, place: effective.EffectivePlace) -> float:
    """The rows read for a page of a statement's lines from a place on."""
    values = {"account": period.account_id, "since": place.time, "until": period.until}
    values |= {"dated": place.dated, "undated": place.undated, "version": period.version}
    values |= {"last": period.last, "rows": PAGE}
    return rows_read(asyncio.run(explained(database, effective.LIST_LINES, **values)))


@pytest.mark.parametrize("account", [1, 77])
@pytest.mark.parametrize("n", [1_000, 60_000, 118_000])
def test_a_page_of_an_effective_statement_costs_a_page(mixed, account, n) -> None:
    period = asyncio.run(period_of(mixed, account, at(n), None))
    assert rows_of_lines(mixed, period, effective.beginning(period)) < 12 * PAGE


@pytest.mark.parametrize("account", [1, 77])
@pytest.mark.parametrize("length", [timedelta(days=1), None], ids=["a day", "until now"])
@pytest.mark.parametrize("since", [day(1), day(20), day(28)])
def test_a_page_of_an_imported_statement_costs_a_page(imported, account, since, length) -> None:
    """Also where the period has the time at which all of them were recorded."""
    until = None if length is None else since + length
    period = asyncio.run(period_of(imported, account, since, until))
    assert rows_of_lines(imported, period, effective.beginning(period)) < 12 * PAGE


def test_a_period_of_a_statement_reads_the_dates_of_its_account(imported) -> None:
    """One row for each entry of the account with an effective_at, and none of other accounts."""
    values = {"account": 77, "since": day(10), "until": day(20)}
    plan = asyncio.run(explained(imported, effective.FIND_PERIOD, **values))
    count = "SELECT count(*) AS n FROM ledger.dated_entries WHERE ledger_id = 1 AND account_id = 77"

    async def dates() -> int:
        engine = imported.read_engine()
        [row] = await Reader(engine, 1, 30).rows(text(count.replace("= 1 ", "= :ledger ")))
        await engine.dispose()
        return int(row.n)

    number = asyncio.run(dates())
    assert number > 10
    assert rows_read(plan) <= number + 10, json.dumps(plan)[:3000]


AS_OF = {
    "recorded": reports.OWNER_BALANCES.recorded,
    "effective": reports.OWNER_BALANCES.effective,
}


@pytest.mark.parametrize("statement", AS_OF.values(), ids=AS_OF.keys())
def test_a_page_of_owners_reads_their_accounts(imported, statement) -> None:
    """Ten owners of 400 have 40 accounts, with some 200 entries that have an effective_at."""
    values = {"owner": "owner 5", "currency": "", "rows": 10}
    plan = asyncio.run(explained(imported, statement, **values, at=at(10**9)))
    assert 40 <= rows_read(plan) < 100 * PAGE, json.dumps(plan)[:3000]


def test_a_trial_balance_by_effect_reads_no_history(mixed) -> None:
    """The accounts with their last entries, and the 12,000 entries with an effective_at."""
    plan = asyncio.run(explained(mixed, reports.TRIAL_BALANCE_EFFECTIVE_AT, at=at(60_000)))
    assert rows_read(plan) < 12_000 + 3 * ACCOUNTS, json.dumps(plan)[:3000]


@pytest.mark.parametrize("by", reports.LIST_TOTALS)
def test_totals_read_what_has_metadata(mixed, by) -> None:
    """The 12,000 transactions that have metadata, with their entries; not the other 108,000, which
    would be a further 400,000 rows.
    """
    values = {"key": "order", "since": at(0), "until": at(10**6), "rows": 10, "is_null": False}
    values |= {"beginning": "", "digest": "", "currency": ""}
    plan = asyncio.run(explained(mixed, reports.LIST_TOTALS[by], **values))
    assert rows_read(plan) < 17 * 12_000, json.dumps(plan)[:3000]


@pytest.mark.parametrize("by", reports.LIST_TOTALS)
def test_totals_of_a_ledger_that_was_never_analyzed_read_each_row_once(database, by) -> None:
    """Deposits with metadata; half of them are reversed without any."""
    open_accounts(database, "USD")
    about = Detail(metadata='{"order":"1"}')
    post(
        database,
        [Movement(Kind.DEPOSIT, 1, None, "1", f"key {n}", about) for n in range(400)],
    )
    post(database, [Reversal(n, f"reversal {n}") for n in range(1, 401, 2)])
    values = {"key": "order", "since": EARLIEST, "until": LATEST, "rows": 10, "is_null": False}
    values |= {"beginning": "", "digest": "", "currency": ""}
    plan = asyncio.run(explained(database, reports.LIST_TOTALS[by], **values))
    assert 600 <= rows_read(plan) < 17 * 600, json.dumps(plan)[:3000]


@pytest.mark.parametrize("limit", [1, 1_000])
def test_the_volume_reads_so_many_transactions(mixed, limit) -> None:
    """Of those with an effective_at and of those without one."""
    values = {"since": EARLIEST, "until": LATEST, "rows": limit}
    for statement in volume.FIND_EXTENTS["effective"]:
        assert rows_read(asyncio.run(plan_of(mixed, statement, **values))) <= limit + 2_560
    values |= {"begins": [EARLIEST], "currency": None}
    plan = asyncio.run(plan_of(mixed, volume.SUM_VOLUME["effective"], **values))
    assert rows_read(plan, "currencies") <= 10 * limit + 2_560, json.dumps(plan)[:3000]
