"""The cost of what looks for due items: what is due later, or in a copy, is not read each time."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.queries.accounts import FIND_ACCOUNT
from ledgerservice.postgres.queries.gathered.accounts import FIND_ACCOUNTS
from ledgerservice.posting import due
from ledgerservice.posting.due import FIND_DUE, Reach, find_due
from tests.databases import connect
from tests.postgres.costs.rows import fill
from tests.postgres.costs.rows import rows_read as rows_of
from tests.postings import open_accounts

LEFT = 20_000
ROWS = 100
COPY = f"""
INSERT INTO ledger.ledgers (ledger_id, name) VALUES (2, 'left');
INSERT INTO ledger.fences (ledger_id, generation, state) VALUES (2, 1, 'left');
INSERT INTO ledger.schedules (ledger_id, transaction_id, account_id, counterparty_id, amount,
                              execute_at)
SELECT 2, n, 1, 2, 1, now() - interval '1 day' FROM generate_series(1, {LEFT}) n;
INSERT INTO ledger.holds (ledger_id, transaction_id, account_id, counterparty_id, amount, remaining,
                          expires_at, capture_at)
SELECT 2, n, 1, 2, 1, 1, now() - interval '1 day', now() - interval '2 days'
FROM generate_series(1, {LEFT}) n;
ANALYZE ledger.schedules;
ANALYZE ledger.holds
"""
DUE = """
INSERT INTO ledger.schedules (ledger_id, transaction_id, account_id, counterparty_id, amount,
                              execute_at)
VALUES (1, {0}, 1, 2, 1, now() - interval '{1}')
"""


LATER = f"""
INSERT INTO ledger.schedules (ledger_id, transaction_id, account_id, counterparty_id, amount,
                              execute_at)
SELECT 1, n, 1, 2, 1, now() + interval '1 day' FROM generate_series(1, {LEFT}) n;
INSERT INTO ledger.holds (ledger_id, transaction_id, account_id, counterparty_id, amount, remaining,
                          expires_at, capture_at)
SELECT 1, n, 1, 2, 1, 1, now() + interval '2 days', CASE WHEN n % 2 = 0
    THEN now() + interval '1 day' END
FROM generate_series(1, {LEFT}) n;
UPDATE ledger.accounts SET balance = {LEFT}, held = {LEFT} WHERE id = 1
"""
ANALYZE = "ANALYZE ledger.schedules; ANALYZE ledger.holds; ANALYZE ledger.accounts"


@pytest.mark.parametrize("analyzed", ["never", "tiny", "grown"])
def test_what_is_due_later_is_not_read(database: Database, analyzed: str) -> None:
    """Neither by a sweep, nor by the reads of an account that holds are open on."""
    open_accounts(database, "USD", "USD")
    with connect(database) as owner:
        owner.execute("SET enable_seqscan = off; SET enable_sort = off")
        if analyzed == "tiny":
            owner.execute(ANALYZE)
        fill(database, LATER)
        if analyzed == "grown":
            owner.execute(ANALYZE)
        for statement, values in {
            str(FIND_DUE): {":rows": "1000", ":since": "'-infinity'"},
            str(FIND_ACCOUNT): {":account": "1", ":ledger": "1"},
            FIND_ACCOUNTS: {"$1": "ARRAY[1]", "$2": "ARRAY[1]"},
        }.items():
            bound = statement
            for name, value in values.items():
                bound = bound.replace(name, value)
            [(plans,)] = owner.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {bound}")
            assert rows_of(plans[0]["Plan"]) <= 10, json.dumps(plans, indent=1)


def rows_read(owner: Any, since: datetime | None) -> int:
    """The rows that are read in a sweep, with those that a filter removes."""
    statement = (
        str(FIND_DUE).replace(":rows", "1000").replace(":since", f"'{since or '-infinity'}'")
    )
    [(plans,)] = owner.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}")
    return LEFT if f'"Rows Removed by Filter": {LEFT}' in json.dumps(plans) else 0


def test_what_has_left_is_seldom_read(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(database, COPY)
    monkeypatch.setattr(due, "REST", 1_000_000)

    async def find(reach: Reach) -> list[int]:
        engine = database.read_engine()
        async with engine.connect() as connection:
            numbers = [row[1] for row in await find_due(connection, reach)]
        await engine.dispose()
        return numbers

    reach = Reach()
    assert asyncio.run(find(reach)) == []
    assert reach.begin() is not None
    with connect(database) as owner:
        assert rows_read(owner, None) == LEFT
        assert rows_read(owner, reach.begin()) == 0
    fill(database, DUE.format(LEFT + 1, "1 second"))
    fill(database, DUE.format(LEFT + 2, "2 days"))
    assert asyncio.run(find(reach)) == [LEFT + 1]
    assert asyncio.run(find(Reach())) == [LEFT + 2, LEFT + 1]


def test_everything_is_read_for_a_part_of_the_time() -> None:
    """What is due and was not posted, such as by a fault, is looked for each time."""
    reach, now = Reach(), datetime.now(UTC)
    assert reach.begin() is None
    reach.end(now, time.monotonic() - 1.0, 86_400.0)
    assert reach.begin() == now - timedelta(seconds=86_401)
    reach.end(now, time.monotonic() + 1.0, 0.0)  # it took no time
    assert reach.begin() is None
