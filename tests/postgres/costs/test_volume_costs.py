"""The report of volume reads as many transactions as it is allowed to, in a large ledger."""

import asyncio
import json
from datetime import UTC, datetime

import pytest

from ledgerservice.api.http.calendar import period_begin
from ledgerservice.postgres.queries import volume
from ledgerservice.postgres.queries.holds import SUM_OPEN_HOLDS
from ledgerservice.postgres.queries.schedules import SUM_PENDING_SCHEDULES
from ledgerservice.postgres.queries.structs import EARLIEST, LATEST
from ledgerservice.postgres.reader import Reader
from tests.postgres.costs.large import TRANSACTIONS, at
from tests.postgres.costs.rows import plan_of, rows_read

AHEAD = 40 * 64
"""Each status and kind may be read somewhat ahead before it is merged."""


TIMES = {"all": (EARLIEST, LATEST), "the middle": (at(30_000), at(90_000))}


@pytest.mark.parametrize("basis", ["recorded", "effective"])
@pytest.mark.parametrize("currency", [None, "USD"])
@pytest.mark.parametrize("limit", [1, 500, 5_000])
@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES.keys())
def test_it_reads_so_many_transactions(large, times, limit, currency, basis) -> None:
    values = {"since": times[0], "until": times[1], "rows": limit}
    for statement in volume.FIND_EXTENTS[basis]:
        extent = asyncio.run(plan_of(large, statement, **values))
        assert rows_read(extent) <= limit + AHEAD, json.dumps(extent)[:3000]
    begins = [datetime(2026, 1, 1, 0, minute, tzinfo=UTC) for minute in range(60)]
    values |= {"begins": begins, "currency": currency}
    sums = asyncio.run(plan_of(large, volume.SUM_VOLUME[basis], **values))
    # A transaction, its details and account, and its two entries; and currencies, which are few.
    most = 6 * limit * (2 if basis == "effective" else 1)
    assert rows_read(sums, "currencies") <= most + AHEAD, json.dumps(sums)[:3000]


AFTER = at(TRANSACTIONS - 50_000) + volume.MICROSECOND


def test_a_report_of_everything_says_what_it_lacks(large) -> None:
    async def read(limit: int) -> volume.Volume:
        engine = large.read_engine()
        found = await volume.find_volume(
            [Reader(engine, 1, 60)], None, None, limit, lambda t: period_begin(t, "hour", "UTC")
        )
        await engine.dispose()
        return found

    part, whole = asyncio.run(read(50_000)), asyncio.run(read(TRANSACTIONS))
    assert 49_900 < part.transactions <= 50_000 and part.since == AFTER
    assert (whole.transactions, whole.since) == (TRANSACTIONS, None)
    assert len(whole.periods) == 2


@pytest.mark.parametrize("rows", [1, 500, 10_001])
@pytest.mark.parametrize("statement", [SUM_OPEN_HOLDS, SUM_PENDING_SCHEDULES], ids=["hold", "due"])
def test_what_is_open_is_read_up_to_a_limit(large, statement, rows) -> None:
    """There are 24,000 of each, and as many that have ended."""
    plan = asyncio.run(plan_of(large, statement, rows=rows))
    # Each with its account.
    assert rows_read(plan) <= 2 * rows + 10, json.dumps(plan)[:3000]
