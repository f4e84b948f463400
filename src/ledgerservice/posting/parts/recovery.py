"""Finishes the transfers between parts that nobody finishes: their process died, or gave up."""

import asyncio
import logging
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ledgerservice.postgres.queries.transactions import find_transactions
from ledgerservice.postgres.reader import Reader
from ledgerservice.posting.parts.crossing import Crossings, OpenHold
from ledgerservice.telemetry.metrics import CROSSINGS_OLDEST, CROSSINGS_OPEN

log = logging.getLogger(__name__)

OPEN_ROWS = 1_000
GRACE_S = 2.0
"""The request that began a transfer has this time before others finish it."""

# What moves, or has moved, is left to the shard that has it.
FIND_OPEN = text("""
SELECT h.ledger_id, h.transaction_id,
       extract(epoch FROM clock_timestamp() - t.recorded_at)::float8 AS open_s,
       count(*) OVER () AS open
FROM ledger.holds h
JOIN ledger.transactions t ON t.ledger_id = h.ledger_id AND t.id = h.transaction_id
WHERE h.remaining > 0 AND h.to_ledger_id IS NOT NULL
  AND h.ledger_id NOT IN (SELECT ledger_id FROM ledger.fences WHERE state <> 'home')
ORDER BY h.transaction_id LIMIT :rows
""")


class Recovery:
    """Looks for open holds on one database, and finishes those that are older than GRACE_S."""

    def __init__(
        self,
        engine: AsyncEngine,
        reader: Reader,
        crossings: Crossings,
        limit_s: float,
        shard: str,
    ) -> None:
        """That some are older than `limit_s` is logged each time: somebody has to look after
        them.
        """
        self._engine, self._reader, self._crossings = engine, reader, crossings
        self._limit_s, self._shard = limit_s, shard

    async def sweep(self) -> int:
        """Finish what is open, up to OPEN_ROWS; return how many were finished."""
        async with self._engine.connect() as connection:
            rows = list(await connection.execute(FIND_OPEN, {"rows": OPEN_ROWS}))
        CROSSINGS_OPEN.set(rows[0].open if rows else 0, self._shard)
        oldest_s = max((row.open_s for row in rows), default=0.0)
        CROSSINGS_OLDEST.set(oldest_s, self._shard)
        late = [row for row in rows if row.open_s >= GRACE_S]
        self._note(late)
        by_ledger: dict[int, list[int]] = {}
        for row in late:
            by_ledger.setdefault(row.ledger_id, []).append(row.transaction_id)
        finishing = [self._finish(*one) for one in by_ledger.items()]
        return sum(await asyncio.gather(*finishing))

    def _note(self, late: list[Any]) -> None:
        stuck = [row for row in late if row.open_s >= self._limit_s]
        if stuck:
            first = max(stuck, key=lambda row: row.open_s)
            what = "transfers to other parts are open: %d, the oldest, %d of ledger %d, for %.0f s"
            log.error(what, len(stuck), first.transaction_id, first.ledger_id, first.open_s)

    async def _finish(self, ledger_id: int, ids: list[int]) -> int:
        """Finish each by itself, so that one whose other part is away does not hold up others."""
        try:
            transactions = await find_transactions(self._reader.of(ledger_id), ids)
        except Exception as error:  # noqa: BLE001  (they are looked for again)
            log.warning("open transfers between parts could not be read: %s", error)
            return 0
        holds = [OpenHold(ledger_id, one) for one in transactions]
        done = await asyncio.gather(
            *(self._crossings.finish([hold]) for hold in holds), return_exceptions=True
        )
        faults = [fault for fault in done if isinstance(fault, BaseException)]
        for text_, fault in {str(fault): fault for fault in faults}.items():
            log.warning("transfers between parts stay open: %s", text_ or type(fault).__name__)
        return len(done) - len(faults)


async def keep_recovering(recovery: Recovery, interval_s: float) -> None:
    """Look for open holds until cancelled."""
    while True:
        await asyncio.sleep(interval_s)
        try:
            await recovery.sweep()
        except Exception as error:  # noqa: BLE001  (the database may be away; it comes back)
            log.warning(
                "open transfers between parts could not be found: %s", " ".join(str(error).split())
            )
