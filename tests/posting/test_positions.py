"""Whoever takes transaction ids has its database transaction's number before, and keeps none."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import create_async_engine

from ledgerservice.domain.instructions import Hold
from ledgerservice.ledger import Ledger, deposit, transfer
from ledgerservice.postgres import locking, registration
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.pipeline import Request, Result, Wire
from ledgerservice.runtime import posting
from ledgerservice.shards import Shards
from tests.databases import connect

TAKES_IDS = {
    locking.TAKE_CLOCK_AND_IDS,
    registration.OPEN_ACCOUNTS,
    registration.ADD_CURRENCIES,
    registration.ADD_LEDGERS,
}
"""The statements that take ids out of the sequence."""


async def a_batch(ledger: Ledger, _: Database) -> None:
    assert (await ledger.post([transfer(1, 2, "1", f"k{n}") for n in range(250)]))[0].posted


async def a_small_batch(ledger: Ledger, _: Database) -> None:
    assert (await ledger.post([transfer(1, 2, "1", "k")]))[0].posted


async def a_batch_with_an_expired_hold(ledger: Ledger, _: Database) -> None:
    """It takes ids twice."""
    assert (await ledger.post([Hold(1, 2, "1", "h")]))[0].posted


async def a_dry_run(ledger: Ledger, _: Database) -> None:
    await ledger.post([transfer(1, 2, "1", "k")], dry_run=True)


async def an_opening(ledger: Ledger, _: Database) -> None:
    await ledger.open_account("o", "USD", key="further")


async def a_currency(ledger: Ledger, _: Database) -> None:
    await ledger.add_currency("HOURS", 0, "Hours")


async def a_ledger(ledger: Ledger, _: Database) -> None:
    await ledger.add_ledger("other")


async def a_caller_s_transaction(ledger: Ledger, database: Database) -> None:
    engine = create_async_engine(database.url, poolclass=NullPool)
    async with engine.begin() as connection:
        await ledger.post_in(connection, [transfer(1, 2, "1", "k")])


PATHS: list[Callable[[Ledger, Database], Awaitable[None]]] = [
    a_batch, a_small_batch, a_batch_with_an_expired_hold, a_dry_run, an_opening, a_currency,
    a_ledger, a_caller_s_transaction,
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_a_writer_has_its_number_before_it_takes_ids(
    database: Database, monkeypatch: pytest.MonkeyPatch, path: Any
) -> None:
    sent: list[str] = []

    async def exchange(self: Wire, *requests: Request) -> list[Result]:
        sent.extend(request.statement for request in requests)
        return await original(self, *requests)

    async def run() -> None:
        async with posting(database) as runtime:
            ledger = Ledger(Shards(runtime))
            for number in (1, 2):
                await ledger.open_account("o", "USD", key=f"a{number}")
            await ledger.post([deposit(1, "1000", "funding")])
            sent.clear()
            await path(ledger, database)

    original = Wire.exchange
    monkeypatch.setattr(Wire, "exchange", exchange)
    asyncio.run(run())
    marks = [one for one in sent if one in {"BEGIN", locking.TAKE_XID} | TAKES_IDS]
    if path is a_caller_s_transaction:
        marks.insert(0, "BEGIN")
    assert TAKES_IDS & set(marks)
    for before, one in pairwise(marks):
        assert one not in TAKES_IDS or before in {locking.TAKE_XID, locking.TAKE_CLOCK_AND_IDS}


def test_so_has_a_row_that_is_no_transaction(database: Database) -> None:
    """nextval gives a transaction a number only when it logs, which is each 32nd time."""
    numbered = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL"
    with connect(database) as owner:
        owner.execute("SELECT nextval('ledger.transaction_id')")
        with owner.transaction():
            owner.execute("SELECT nextval('ledger.transaction_id')")
            assert owner.execute(numbered).fetchone() == (False,)
        with owner.transaction():
            owner.execute("SELECT ledger.next_change_id()")
            assert owner.execute(numbered).fetchone() == (True,)


def test_every_row_of_the_feed_takes_its_id_so(database: Database) -> None:
    with connect(database) as owner:
        defaults = owner.execute(
            "SELECT adrelid::regclass::text, pg_get_expr(adbin, adrelid) FROM pg_attrdef"
            " WHERE pg_get_expr(adbin, adrelid) ~ 'transaction_id|next_change_id' ORDER BY 1"
        ).fetchall()
        [(opening,)] = owner.execute("SELECT prosrc FROM pg_proc WHERE proname = 'open_account'")
    expected = "ledger.next_change_id()"
    assert defaults == [("ledger.currencies", expected), ("ledger.ledgers", expected)]
    assert expected in opening
    assert "nextval('ledger.transaction_id')" not in opening
