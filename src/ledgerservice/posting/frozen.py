"""Ends sessions whose process has stopped in the middle of sending a batch.

While PostgreSQL waits for the rest of a COPY, or of a round trip, none of its time limits fires. A
process that is frozen there would keep its accounts locked for ever, so the processes of the
service watch each other's sessions.
"""

import asyncio
import logging

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from ledgerservice.errors import LedgerError
from ledgerservice.postgres.connections import APPLICATION

log = logging.getLogger(__name__)

# Looks in a limit: a session is ended between one and one and a quarter times the limit.
LOOKS = 4

# The login may see and end its own sessions; the service's role is another one, and may not.
AS_LOGIN = text("SET LOCAL ROLE NONE")
END_FROZEN = text(f"""
SELECT pid FROM (
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND usename = session_user
      AND application_name = '{APPLICATION}' AND pid <> pg_backend_pid()
      AND state = 'active' AND wait_event_type = 'Client' AND wait_event = 'ClientRead'
      AND query_start < clock_timestamp() - make_interval(secs => :limit_s) OFFSET 0) frozen
WHERE pg_terminate_backend(pid)
""")


async def end_frozen(engine: AsyncEngine, limit_s: float) -> list[int]:
    """End the service's sessions that wait in mid-statement for their process, since `limit_s`.

    Returns the ids of their server processes. Their transactions are rolled back.
    """
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        async with connection.begin():
            await connection.execute(AS_LOGIN)
            return list(await connection.scalars(END_FROZEN, {"limit_s": limit_s}))


async def keep_ending_frozen(engine: AsyncEngine, limit_s: float) -> None:
    """Look until cancelled, LOOKS times in `limit_s`."""
    while True:
        await asyncio.sleep(limit_s / LOOKS)
        try:
            for pid in await end_frozen(engine, limit_s):
                log.warning("ended session %d of a process that does not go on with its batch", pid)
        except (SQLAlchemyError, OSError, LedgerError) as error:  # the database may be away
            log.warning("could not look for frozen sessions: %s", " ".join(str(error).split()))
