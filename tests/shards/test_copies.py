"""What a shard has of the directory."""

import asyncio

import pytest

from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.moving.fences import set_fence
from ledgerservice.postgres.sharding.copies import CurrencyCopy, LedgerCopy, add_copies
from tests.databases import connect

CURRENCIES = [
    CurrencyCopy(1000, "MILES", 0, "Miles", 0, None),
    CurrencyCopy(1001, "HOURS", 0, "Hours", 0, 2),
    CurrencyCopy(1002, "DAYS", 0, "Days", 0, None),
]


async def add(database: Database, *copies: LedgerCopy | CurrencyCopy) -> None:
    wire = await database.connect_writer()
    try:
        await add_copies(wire, [copies])
    finally:
        await wire.close()


def codes(database: Database) -> list[str]:
    query = "SELECT code FROM ledger.currencies WHERE number >= 1000 ORDER BY number"
    with connect(database) as owner:
        return [code for (code,) in owner.execute(query)]


@pytest.mark.parametrize("state", ["arriving", "removing", "leaving"])
def test_a_ledger_that_moves_holds_up_no_currency_of_others(database: Database, state: str) -> None:
    asyncio.run(add(database, LedgerCopy(2, "shop", 0, None, None, None)))
    with database.owner_engine().connect() as owner:
        set_fence(owner, 2, 1, state)
        asyncio.run(add(database, *CURRENCIES))
        assert codes(database) == ["MILES", "DAYS"]
        set_fence(owner, 2, 2, "home")
    asyncio.run(add(database, *CURRENCIES))
    assert codes(database) == ["MILES", "HOURS", "DAYS"]
