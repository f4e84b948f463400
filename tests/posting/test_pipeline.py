"""Statements that are sent together, on a connection that goes on after a failure."""

import asyncio
from typing import Any

import psycopg
import pytest

from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.pipeline import Request, Wire

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


class TakenAtOnce:
    """A libpq connection that has data left to send each time, until one looks again."""

    def __init__(self, pgconn: Any) -> None:
        self._pgconn = pgconn
        self._left = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pgconn, name)

    def put_copy_data(self, data: bytes) -> int:
        self._left = True
        return int(self._pgconn.put_copy_data(data))

    def flush(self) -> int:
        left, self._left = self._left, False
        return int(self._pgconn.flush() or left)


def test_a_copy_goes_on_when_the_server_has_just_taken_what_was_left(database: Database) -> None:
    """Nothing is to be read in the middle of a COPY: who waits for that waits for ever."""

    async def copy() -> Wire:
        wire = await database.connect_writer()
        wire._pgconn = TakenAtOnce(wire._pgconn)  # type: ignore[assignment]
        await wire.exchange(Request("CREATE TEMPORARY TABLE copied (number bigint)"))
        await wire.copy("COPY pg_temp.copied FROM STDIN", map("{}\n".format, range(5)))
        [counted] = await wire.exchange(Request("SELECT sum(number)::bigint FROM pg_temp.copied"))
        assert counted.rows == [(10,)]
        return wire

    async def run() -> None:
        await (await asyncio.wait_for(copy(), 20)).close()

    asyncio.run(run())
