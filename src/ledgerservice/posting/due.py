"""Posts what is due: captures, executions of scheduled transfers, releases of expired holds.

Every decision honours an expiry by itself; the sweeper only releases the holds of accounts on which
nothing else happens. Its instructions have keys of the service's own origins, so any number of
processes may sweep, any of them may die, and everything is done once.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

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

# A ledger that moves is left to the shard that will have it.
_HERE = "ledger_id NOT IN (SELECT ledger_id FROM ledger.fences WHERE state <> 'home')"
# A declined capture is not tried again; its hold ends at its expiry.
FIND_DUE = text(f"""
(SELECT ledger_id, transaction_id, {Origin.EXPIRY:d} AS origin, {LATE_S.format("ends_at")}
 FROM ledger.holds
 WHERE remaining > 0 AND ends_at <= clock_timestamp() AND {_HERE}
 ORDER BY ends_at LIMIT :rows)
UNION ALL
(SELECT ledger_id, transaction_id, {Origin.CAPTURE:d}, {LATE_S.format("capture_at")}
 FROM ledger.holds
 WHERE remaining > 0 AND capture_at <= clock_timestamp() AND capture_tried_at IS NULL
   AND {_HERE}
 ORDER BY capture_at LIMIT :rows)
UNION ALL
(SELECT ledger_id, transaction_id, {Origin.EXECUTION:d}, {LATE_S.format("execute_at")}
 FROM ledger.schedules
 WHERE settled_by IS NULL AND execute_at <= clock_timestamp() AND {_HERE}
 ORDER BY execute_at LIMIT :rows)
""")


def instruction_for(origin: Origin, transaction_id: int) -> Instruction:
    """The instruction that does what is due: its expiry, capture or execution."""
    key = service_key(origin, transaction_id)
    if origin is Origin.EXPIRY:
        return Release(transaction_id, key, origin=origin)
    if origin is Origin.CAPTURE:
        return Capture(transaction_id, key, origin=origin, final=True)
    return Execution(transaction_id, key, origin=origin)


async def sweep(engine: AsyncEngine, post: Callable[[Group], Awaitable[Outcomes]]) -> int:
    """Post what is due now, up to DUE_ROWS of each kind; return how many were posted."""
    async with engine.connect() as connection:
        rows = await connection.execute(FIND_DUE, {"rows": DUE_ROWS})
        due = [tuple(row) for row in rows]
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
    while True:
        done = 0
        try:
            done = await sweep(engine, post)
        except Exception as error:  # noqa: BLE001  (the database may be away; it comes back)
            log.warning(
                "holds and scheduled transfers that are due could not be found: %s",
                " ".join(str(error).split()),
            )
        if done < DUE_ROWS:
            await asyncio.sleep(interval_s)
