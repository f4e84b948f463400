"""Whether all that can be recorded by a time is committed: what makes an answer about it final.

A batch takes its database transaction's number (xid) first and its clock after it. It may lock its
accounts later than both, so no row lock shows that a batch is in flight.
"""

import asyncio
from datetime import datetime

from sqlalchemy import text

from ledgerservice.postgres.reader import Reader

HORIZON_LOOKS = 100
HORIZON_PAUSE_S = 0.01

# A database transaction that begins to write later has a higher number than this one, and its batch
# is recorded after this timestamp. There is nothing to keep, so the disk need not be waited for.
HORIZON = text("""
SELECT statement_timestamp(), pg_current_xact_id()::text,
       set_config('synchronous_commit', 'off', true)
""")
HORIZON_PASSED = text("""
SELECT pg_snapshot_xmin(pg_current_snapshot()) > CAST(CAST(:number AS text) AS xid8)
""")


async def all_recorded(reader: Reader, at: datetime) -> bool:
    """Whether all that can be recorded by `at`, on any account, is committed.

    Waits up to HORIZON_LOOKS * HORIZON_PAUSE_S seconds for the database transactions in flight. If
    one takes longer, even in another database of the server, the answer is no.
    """
    async with reader.connection() as connection:
        timestamp, number, _ = (await connection.execute(HORIZON)).one()
        if at > timestamp:
            return False
        for _ in range(HORIZON_LOOKS):
            if await connection.scalar(HORIZON_PASSED, {"number": number}):
                return True
            await asyncio.sleep(HORIZON_PAUSE_S)
    return False
