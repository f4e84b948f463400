"""Accounts and movements, written by the service's own write path."""

import asyncio

from ledgerservice.domain.accounts import Opening
from ledgerservice.domain.instructions import Group, Instruction, Kind, Movement
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.registration import open_accounts as open_accounts_of
from ledgerservice.posting.movements import MovementBatch
from tests.databases import administer


def post(database: Database, *batches: list[Instruction]) -> None:
    """Post batches, one after another, on one connection."""

    async def run() -> None:
        wire, work = await database.connect_writer(), MovementBatch()
        for batch in batches:
            await work(wire, [Group(batch)])
        await wire.close()

    asyncio.run(run())


def open_accounts(database: Database, *currencies: str) -> None:
    """Open accounts 1, 2 and so on; the transactions after them have the ids 1, 2 and so on."""

    async def run() -> None:
        wire = await database.connect_writer()
        openings = [Opening("o", c, None, str(n)) for n, c in enumerate(currencies)]
        await open_accounts_of(wire, openings)
        await wire.close()

    asyncio.run(run())
    schema = database.settings.schema_name
    administer(database.url, f"SELECT setval('\"{schema}\".transaction_id', 1, false)")


def deposit(to: int, amount: int, key: str = "funding") -> Movement:
    return Movement(Kind.DEPOSIT, to, None, str(amount), key)
