"""The connections of reads, and their deadlines. `queries` has what is read."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from sqlalchemy import Row
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ledgerservice.errors import InternalFault, Unavailable, UnfitConnection
from ledgerservice.telemetry.metrics import READ_FAILURES, READS

log = logging.getLogger(__name__)


class Reader:
    """Reads one ledger.

    Every method raises Unavailable if the database is away, or does not answer within `deadline_s`,
    and InternalFault if it refuses the statement.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        ledger: int,
        deadline_s: float,
        searches: asyncio.Semaphore | None = None,
    ) -> None:
        """`searches` limits the connections that search for pages and sum up reports."""
        self._engine = engine
        self.ledger_id = ledger
        self._deadline_s = deadline_s
        self._searches = searches

    def of(self, ledger: int) -> "Reader":
        """A reader of another ledger of the database."""
        return Reader(self._engine, ledger, self._deadline_s, self._searches)

    async def scalar(self, statement: Any) -> Any:
        """The one value of a statement, such as the schema's revision."""
        async with self.connection() as connection:
            return await connection.scalar(statement)

    async def rows(self, statement: Any, *, search: bool = False, **values: Any) -> list[Row[Any]]:
        """All rows of a statement, which has a parameter `ledger`."""
        async with self.connection(search=search) as connection:
            result = await connection.execute(statement, {"ledger": self.ledger_id, **values})
            return list(result)

    @asynccontextmanager
    async def connection(self, *, search: bool = False) -> AsyncIterator[AsyncConnection]:
        """A connection on which each statement is a transaction of its own.

        A read that can take long is a `search`: searches leave some connections to other reads.
        """
        turn = self._searches if search and self._searches else nullcontext()
        try:
            with READS:
                async with (
                    asyncio.timeout(self._deadline_s),
                    turn,
                    self._engine.connect() as connection,
                ):
                    yield connection
        # TimeoutError is an OSError.
        except (DBAPIError, PoolTimeout, OSError, UnfitConnection) as error:
            READ_FAILURES.add()
            log.warning("a read failed: %s", " ".join(str(error).split()) or "no answer in time")
            if isinstance(error, ProgrammingError):
                raise InternalFault from error
            raise Unavailable from error
