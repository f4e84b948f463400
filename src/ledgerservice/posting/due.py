"""Does what is due: captures, executions, and the releases of what has expired.

Every decision honours an expiry by itself; the sweeper only sees to it that accounts on which
nothing happens are tidied too. What it asks for has keys of the service's own, so that any number
of processes may sweep, and any of them may die, and all is done once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from ledgerservice.domain.instructions import (
    OWN_KEY_MARK,
    Capture,
    Execution,
    Group,
    Instruction,
    Release,
)
from ledgerservice.domain.transactions import Outcomes

log = logging.getLogger(__name__)

DUE_ROWS = 1_000

# A capture that was declined is not asked for again; its hold waits for its expiry.
FIND_DUE = text("""
(SELECT ledger_id, transaction_id, 'expiry' AS what FROM ledger.holds
 WHERE remaining > 0 AND ends_at <= clock_timestamp()
 ORDER BY ends_at LIMIT :rows)
UNION ALL
(SELECT ledger_id, transaction_id, 'capture' FROM ledger.holds
 WHERE remaining > 0 AND capture_at <= clock_timestamp() AND capture_tried_at IS NULL
 ORDER BY capture_at LIMIT :rows)
UNION ALL
(SELECT ledger_id, transaction_id, 'execution' FROM ledger.schedules
 WHERE settled_by IS NULL AND execute_at <= clock_timestamp()
 ORDER BY execute_at LIMIT :rows)
""")


def asked_for(what: str, transaction_id: int) -> Instruction:
    """What is to be done about something due: its `expiry`, `capture` or `execution`."""
    key = f"{OWN_KEY_MARK}{what} {transaction_id}"
    if what == "expiry":
        return Release(transaction_id, key)
    if what == "capture":
        return Capture(transaction_id, key, final=True)
    return Execution(transaction_id, key)


async def sweep(engine: AsyncEngine, post: Callable[[Group], Awaitable[Outcomes]]) -> int:
    """Do what is due now, up to so many of each kind; how many were done."""
    async with engine.connect() as connection:
        found = await connection.execute(FIND_DUE, {"rows": DUE_ROWS})
        due = [tuple(row) for row in found]
    groups = [Group((asked_for(what, number),), ledger=ledger) for ledger, number, what in due]
    # Each for itself, so that one that fails keeps none of the others waiting.
    done = await asyncio.gather(*map(post, groups), return_exceptions=True)
    faults = [fault for fault in done if isinstance(fault, Exception)]
    for fault in {str(fault): fault for fault in faults}.values():
        log.warning("what is due waits: %s", fault)
    return len(due) - len(faults)


async def keep_sweeping(
    engine: AsyncEngine, post: Callable[[Group], Awaitable[Outcomes]], interval_s: float
) -> None:
    """Sweep again and again, until cancelled; at once where there was more than fits."""
    while True:
        done = 0
        try:
            done = await sweep(engine, post)
        except Exception as error:  # noqa: BLE001  (the database may be away; it comes back)
            log.warning("what is due could not be looked for: %s", " ".join(str(error).split()))
        if done < DUE_ROWS:
            await asyncio.sleep(interval_s)
