"""Posting in a transaction of a caller's, on the caller's connection."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledgerservice.domain.instructions import Group
from ledgerservice.domain.transactions import Outcomes
from ledgerservice.errors import CannotJoin
from ledgerservice.postgres import journal, locking
from ledgerservice.postgres.pipeline import Wire
from ledgerservice.postgres.session import JOINED, REQUIRED
from ledgerservice.posting.movements import planned

# Once in each transaction: a second call would lock accounts out of order. The commit is the
# caller's; it is made to wait for the disk and for standbys like each of the service.
JOIN_TRANSACTION = text("""
SELECT current_setting('transaction_isolation') AS isolation,
       coalesce(current_setting('ledgerservice.posted', true), '') AS posted,
       current_setting('session_replication_role') AS session_replication_role,
       set_config('ledgerservice.posted', 'yes', true),
       CASE WHEN current_setting('synchronous_commit') IN ('off', 'local')
            THEN set_config('synchronous_commit', 'on', true) END
""")
PIN = text("""
SELECT name, before, set_config(name, value, true)
FROM (SELECT name, value, current_setting(name) AS before
      FROM unnest(CAST(:names AS text[]), CAST(:values AS text[])) AS pinned (name, value)
      OFFSET 0) pinned
""")


async def post_in(connection: AsyncConnection, schema: str, group: Group) -> Outcomes:
    """Post in a transaction that the caller commits. Raises CannotJoin, or psycopg's errors.

    The connection is unusable afterwards if it was left in the middle of an exchange.
    """
    driver = await _join(connection)
    async with _pinned(connection):
        wire = Wire(driver, schema, lasting=False)
        try:
            return await _post_in(wire, group)
        except psycopg.Error:
            raise
        except BaseException:
            await connection.invalidate()
            raise
        finally:
            wire.release()


async def _post_in(wire: Wire, group: Group) -> Outcomes:
    instructions, ledger = group.instructions(), group.ledger
    parents = await locking.find_parents(wire, ledger, instructions)
    locked = await locking.lock(wire, ledger, instructions, parents)
    plan = planned([group], locked, locked.ids())
    await journal.write(wire, ledger, plan)
    return plan.answers[0]


async def _join(connection: AsyncConnection) -> "psycopg.AsyncConnection[Any]":
    """The driver's connection. Raises CannotJoin if its transaction cannot be posted in."""
    driver = (await connection.get_raw_connection()).driver_connection
    if not isinstance(driver, psycopg.AsyncConnection):
        raise CannotJoin("Its driver is not psycopg (postgresql+psycopg://).")
    row: Any = (await connection.execute(JOIN_TRANSACTION)).one()
    if row.isolation != "read committed":
        raise CannotJoin(f"It is at {row.isolation.upper()}, not at READ COMMITTED.")
    if row.posted:
        raise CannotJoin("It has been posted in once; a second time could deadlock.")
    if driver.info.transaction_status == TransactionStatus.IDLE:
        raise CannotJoin("It is in autocommit: there is no transaction to join.")
    for name, value in REQUIRED.items():
        if getattr(row, name) != value:
            raise CannotJoin(f"Its {name} is {getattr(row, name)}, not {value}.")
    if driver.info.encoding != "utf-8":
        raise CannotJoin(f"Its client_encoding is {driver.info.encoding}, not UTF8.")
    return driver


@asynccontextmanager
async def _pinned(connection: AsyncConnection) -> AsyncIterator[None]:
    """JOINED is set meanwhile. A failed statement undoes it with everything else."""
    rows = await _set(connection, JOINED)
    yield
    await _set(connection, {name: before for name, before, _ in rows})


async def _set(connection: AsyncConnection, settings: dict[str, str]) -> list[Any]:
    values = {"names": list(settings), "values": list(settings.values())}
    return list(await connection.execute(PIN, values))
