"""`demo --month`: a marketplace's month, made from a seed."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledgerservice.cli.marketplace.month import make_month
from ledgerservice.domain.instructions import Kind
from ledgerservice.domain.transactions import DeclineReason
from ledgerservice.ledger import Ledger
from ledgerservice.postgres.connections import Database
from tests.databases import connect, url_text
from tests.processes import cli

ROWS = """
    SELECT t.kind, t.idempotency_key, t.amount, t.status, t.decline_reason, d.reference,
           d.metadata::jsonb - 'batch' AS metadata, d.description, a.owner
    FROM ledger.transactions t
    JOIN ledger.accounts a ON a.ledger_id = t.ledger_id AND a.id = t.account_id
    LEFT JOIN ledger.details d ON d.transaction_id = t.id
    JOIN ledger.ledgers l ON l.ledger_id = t.ledger_id
    WHERE l.name = %s AND t.origin = 0
    ORDER BY t.id
"""


@pytest.fixture(scope="module")
def place(new_database: Callable[..., Database]) -> Database:
    """A database with the month in `marketplace`, made by the command."""
    database = new_database()
    done = cli("demo", "--month", DATABASE_URL=url_text(database))
    assert done.returncode == 0, done.stderr
    assert "288 accounts" in done.stdout
    return database


def rows_of(database: Database, name: str) -> list[Any]:
    with connect(database) as connection:
        return connection.execute(ROWS, (name,)).fetchall()


def test_the_month_is_whole_and_verify_passes(place: Database) -> None:
    done = cli("verify", DATABASE_URL=url_text(place))
    assert done.returncode == 0, done.stdout
    rows = rows_of(place, "marketplace")
    assert 1_800 < len(rows) < 2_600


def test_every_kind_and_every_refusal_occurs(place: Database) -> None:
    with connect(place) as connection:
        query = "SELECT kind, origin, decline_reason FROM ledger.transactions"
        rows = connection.execute(query).fetchall()
    crossing = {kind for kind in Kind if kind.name.startswith("CROSS")}
    assert {kind for kind, _, _ in rows} == set(Kind) - crossing
    assert {reason for _, _, reason in rows if reason} == set(DeclineReason) - {
        DeclineReason.BALANCE_LIMIT  # nobody has so much
    }
    assert {origin for _, origin, _ in rows} >= {0, 3, 5}


def test_a_second_run_adds_nothing(place: Database) -> None:
    before = len(rows_of(place, "marketplace"))
    done = cli("demo", "--month", "--seed", "2", "--json", DATABASE_URL=url_text(place))
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    assert json.loads(line) == {"ledger": "marketplace", "seed": 2, "added": False, "accounts": 0}
    assert len(rows_of(place, "marketplace")) == before


@pytest.mark.thorough
def test_the_same_seed_makes_the_same_month(place: Database) -> None:
    asyncio.run(make(url_text(place), again=1, other=2))
    first, again, other = (rows_of(place, name) for name in ("marketplace", "again", "other"))
    assert again == first
    assert other != first


async def make(url: str, **seeds: int) -> None:
    today = datetime.now(UTC) - timedelta(days=2)
    async with Ledger.open(url) as ledger:
        for name, seed in seeds.items():
            await make_month(await ledger.add_ledger(name), seed, today)


def test_what_takes_effect_is_spread_over_the_month(place: Database) -> None:
    query = """
        SELECT d.effective_at FROM ledger.details d
        JOIN ledger.ledgers l ON l.ledger_id = d.ledger_id
        WHERE l.name = 'marketplace' AND d.effective_at IS NOT NULL
    """
    with connect(place) as connection:
        times = [time.astimezone(UTC) for (time,) in connection.execute(query).fetchall()]
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    by_day = Counter((midnight - time).days for time in times)
    assert {days for days, count in by_day.items() if count > 30} == set(range(30))
    assert max(times) < midnight
