"""Whether the database answers within a second, on a connection of its own.

The service's other connections may all be waiting, for a lock or in a queue; they have longer time
limits.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import psycopg

from ledgerservice.errors import LedgerError
from ledgerservice.postgres.pipeline import Request, Wire

log = logging.getLogger(__name__)

LIMIT_S = 1.0


class Probe:
    """Asks the database a question whose answer is true or false.

    Callers that ask at the same time get the same answer. The log has a line when the answer
    changes to false.
    """

    def __init__(self, connect: Callable[[], Awaitable[Wire]], question: Request) -> None:
        """`question` is a statement with at most one row and one column."""
        self._connect = connect
        self._question = question
        self._wire: Wire | None = None
        self._asking: asyncio.Task[bool] | None = None
        self._was_true = True

    async def ask(self) -> bool:
        """The answer; False if the database is away, refuses, or does not answer in time."""
        asking = self._asking
        if asking is None:
            asking = self._asking = asyncio.create_task(self._ask())
            asking.add_done_callback(self._forget)
        await asyncio.wait({asking}, timeout=LIMIT_S)
        if not asking.done():
            self._note("no answer in time")
            self._give_up()
            return False
        return not asking.cancelled() and asking.result()

    async def close(self) -> None:
        """Close the connection."""
        self._give_up()
        if self._wire is not None:
            await self._wire.close()

    async def _ask(self) -> bool:
        try:
            if self._wire is None:
                self._wire = await self._connect()
            [result] = await self._wire.exchange(self._question)
        except (psycopg.Error, LedgerError, OSError) as error:
            wire, self._wire = self._wire, None
            if wire is not None:
                await wire.close()
            self._note(" ".join(str(error).split()))
            return False
        answer = result.rows == [(True,)]
        self._note(None if answer else "read-only, or the schema of another release")
        return answer

    def _give_up(self) -> None:
        """Let the question that waits for its answer fail; the next one gets a new connection.

        A cancelled exchange would leave its connection in the middle of an answer.
        """
        if self._asking is not None and self._wire is not None:
            self._wire.cut()
        elif self._asking is not None:
            self._asking.cancel()
        self._asking = None

    def _forget(self, asking: "asyncio.Task[bool]") -> None:
        if self._asking is asking:
            self._asking = None

    def _note(self, fault: str | None) -> None:
        if fault is not None and self._was_true:
            log.warning("the database is not ready: %s", fault)
        self._was_true = fault is None
