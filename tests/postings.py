"""Accounts and movements, written by the service's own write path."""

import asyncio

from ledgerservice.domain.accounts import Opening
from ledgerservice.domain.instructions import Group, Instruction, Kind, Movement
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.registration import open_accounts as open_accounts_of
from ledgerservice.posting.movements import MovementBatch
from tests.databases import administer


def post(database: Database, *batches: list[Instruction], numbered: bool = True) -> None:
    """Post batches, one after another, on one connection.

    `numbered`: the transactions have the ids 1, 2 and so on, which are not in the feed's order.
    """

    async def run() -> None:
        wire, work = await database.connect_writer(), MovementBatch()
        for batch in batches:
            if numbered:
                hand_out_the_next_id(database)
            await work(wire, [Group(batch)])
        await wire.close()

    asyncio.run(run())


def open_accounts(database: Database, *currencies: str) -> None:
    """Open accounts 1, 2 and so on."""

    async def run() -> None:
        wire = await database.connect_writer()
        openings = [Opening("o", c, None, str(n)) for n, c in enumerate(currencies)]
        await open_accounts_of(wire, openings)
        await wire.close()

    asyncio.run(run())


def hand_out_the_next_id(database: Database) -> None:
    """Set the sequence of transaction ids right behind the last one, so that tests can name ids."""
    schema = database.settings.schema_name
    last = f'(SELECT max(id) FROM "{schema}".transactions)'
    sequence = f"'\"{schema}\".transaction_id'"
    administer(database.url, f"SELECT setval({sequence}, coalesce({last}, 0) + 1, false)")


def deposit(to: int, amount: int, key: str = "funding") -> Movement:
    return Movement(Kind.DEPOSIT, to, None, str(amount), key)
