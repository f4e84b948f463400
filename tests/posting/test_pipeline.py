"""Statements that are sent together, on a connection that goes on after a failure."""

import asyncio

import psycopg
import pytest

from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.pipeline import Request

BEFORE, FAILING, BEHIND = (Request(f"SELECT 6 / {number}") for number in ("1", "0", "2"))


def test_statements_of_a_failed_exchange_can_be_sent_again(database: Database) -> None:
    """Those behind the failure were not prepared, and those before it were."""

    async def again() -> None:
        wire = await database.connect_writer()
        try:
            for _ in range(2):
                with pytest.raises(psycopg.errors.DivisionByZero):
                    await wire.exchange(BEFORE, FAILING, BEHIND)
            results = await wire.exchange(BEFORE, BEHIND)
        finally:
            await wire.close()
        assert [result.rows for result in results] == [[(6,)], [(3,)]]

    asyncio.run(again())
