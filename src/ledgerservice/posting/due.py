"""Posts what is due: captures, executions of scheduled transfers, releases of expired holds.

Every decision honours an expiry by itself; the sweeper only releases the holds of accounts on which
nothing else happens. Its instructions have keys of the service's own origins, so any number of
processes may sweep, any of them may die, and everything is done once.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ledgerservice.domain.instructions import (
    Capture,
    Execution,
    Group,
    Instruction,
    Origin,
    Release,
    service_key,
)
from ledgerservice.domain.transactions import Outcomes
from ledgerservice.telemetry.metrics import SWEEP_LAG, SWEEP_SUCCESS

log = logging.getLogger(__name__)

DUE_ROWS = 1_000

LATE_S = "extract(epoch FROM clock_timestamp() - {})::float8"

# What is due in the copy of a ledger that has left stays due for ever. It is read in a part of the
# time only; otherwise what became due long ago is left out.
LATE_S_AT_LEAST = 600.0
REST = 20
"""A sweep that reads everything may take one in so many parts of the time."""

# A ledger that moves is left to the shard that will have it.
_HERE = "ledger_id NOT IN (SELECT ledger_id FROM ledger.fences WHERE state <> 'home')"
# An index is read up to statement_timestamp(). clock_timestamp() differs from row to row, so the
# index would be read to its end, through everything that is due later.
# A declined capture is not tried again; its hold ends at its expiry.
FIND_DUE = text(f"""
(SELECT ledger_id, transaction_id, {Origin.EXPIRY:d} AS origin, {LATE_S.format("ends_at")}
 FROM ledger.holds
 WHERE remaining > 0 AND ends_at <= statement_timestamp() AND ends_at > CAST(:since AS timestamptz)
   AND {_HERE}
 ORDER BY ends_at LIMIT :rows)
UNION ALL
(SELECT ledger_id, transaction_id, {Origin.CAPTURE:d}, {LATE_S.format("capture_at")}
 FROM ledger.holds
 WHERE remaining > 0 AND capture_at <= statement_timestamp() AND capture_tried_at IS NULL
   AND capture_at > CAST(:since AS timestamptz) AND {_HERE}
 ORDER BY capture_at LIMIT :rows)
UNION ALL
(SELECT ledger_id, transaction_id, {Origin.EXECUTION:d}, {LATE_S.format("execute_at")}
 FROM ledger.schedules
 WHERE settled_by IS NULL AND execute_at <= statement_timestamp()
   AND execute_at > CAST(:since AS timestamptz) AND {_HERE}
 ORDER BY execute_at LIMIT :rows)
""")


NOW = text("SELECT clock_timestamp()")


class Reach:
    """How far back a sweeper looks: to the first thing that was due when it last read everything.

    What has become due since is found at once. What is new and due since long ago, as a transfer
    may be, is found when everything is read again, which takes one part in REST of the time.
    """

    def __init__(self) -> None:
        self.since: datetime | None = None
        self._whole_from_s = 0.0

    def begin(self) -> datetime | None:
        """From when on a sweep reads; None: everything."""
        return None if time.monotonic() >= self._whole_from_s else self.since

    def end(self, begun_at: datetime, begun_s: float, latest_s: float) -> None:
        """Note a sweep that has read everything: when it began, and how late the latest was."""
        now_s = time.monotonic()
        self._whole_from_s = now_s + (now_s - begun_s) * (REST - 1)
        self.since = begun_at - timedelta(seconds=max(LATE_S_AT_LEAST, latest_s + 1.0))


def instruction_for(origin: Origin, transaction_id: int) -> Instruction:
    """The instruction that does what is due: its expiry, capture or execution."""
    key = service_key(origin, transaction_id)
    if origin is Origin.EXPIRY:
        return Release(transaction_id, key, origin=origin)
    if origin is Origin.CAPTURE:
        return Capture(transaction_id, key, origin=origin, final=True)
    return Execution(transaction_id, key, origin=origin)


async def find_due(connection: AsyncConnection, reach: Reach) -> list[tuple[int, int, int, float]]:
    """Ledger, transaction and origin of what is due now, and how late it is, in seconds."""
    begun_s, since = time.monotonic(), reach.begin()
    begun_at = await connection.scalar(NOW)
    values = {"rows": DUE_ROWS, "since": since or "-infinity"}
    due = [tuple(row) for row in await connection.execute(FIND_DUE, values)]
    if since is None:
        reach.end(begun_at, begun_s, max((late_s for *_, late_s in due), default=0.0))
    return due


async def sweep(
    engine: AsyncEngine, post: Callable[[Group], Awaitable[Outcomes]], reach: Reach | None = None
) -> int:
    """Post what is due now, up to DUE_ROWS of each kind; return how many were posted."""
    async with engine.connect() as connection:
        due = await find_due(connection, reach or Reach())
    SWEEP_LAG.set(max((late_s for *_, late_s in due), default=0.0))
    SWEEP_SUCCESS.set(time.time())
    groups = [
        Group((instruction_for(Origin(origin), number),), ledger=ledger)
        for ledger, number, origin, _ in due
    ]
    # Each in a group of its own, so that one that fails does not hold up the others.
    done = await asyncio.gather(*map(post, groups), return_exceptions=True)
    faults = [fault for fault in done if isinstance(fault, Exception)]
    for fault in {str(fault): fault for fault in faults}.values():
        log.warning("holds or scheduled transfers that are due were not processed: %s", fault)
    return len(due) - len(faults)


async def keep_sweeping(
    engine: AsyncEngine, post: Callable[[Group], Awaitable[Outcomes]], interval_s: float
) -> None:
    """Sweep until cancelled: every `interval_s` seconds, or at once if there was more than fits."""
    reach = Reach()
    while True:
        done = 0
        try:
            done = await sweep(engine, post, reach)
        except Exception as error:  # noqa: BLE001  (the database may be away; it comes back)
            log.warning(
                "holds and scheduled transfers that are due could not be found: %s",
                " ".join(str(error).split()),
            )
        if done < DUE_ROWS:
            await asyncio.sleep(interval_s)
