"""What the metrics show of the database itself, read now and then on a connection of its own."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic

import psycopg

from ledgerservice.errors import LedgerError
from ledgerservice.postgres.pipeline import Request, Result, Wire
from ledgerservice.posting.archives import LIST_ARCHIVES, Archives
from ledgerservice.telemetry import metrics

log = logging.getLogger(__name__)

SAMPLE_S = 5.0
SIZE_S = 60.0
PATIENCE_S = 10.0
"""A server that takes longer counts as down. One that is frozen keeps its connections, and its own
limits on statements freeze with it."""

# Everybody sees the xids of all sessions, but only pg_read_all_stats since when another user's has
# it. So the sampler also notes since when it has seen the oldest xid.
SAMPLE = """
SELECT
    (SELECT backend_xid::text::bigint FROM pg_stat_activity
     WHERE backend_xid IS NOT NULL ORDER BY age(backend_xid) DESC LIMIT 1),
    greatest(0,
        (SELECT max(extract(epoch FROM clock_timestamp() - xact_start)) FROM pg_stat_activity
         WHERE backend_xid IS NOT NULL),
        (SELECT max(extract(epoch FROM clock_timestamp() - prepared)) FROM pg_prepared_xacts)
    )::float8,
    (SELECT max(epoch) FROM ledger.epochs)
"""
SIZE = """
SELECT pg_database_size(current_database()), current_setting('server_version'),
    (SELECT version_num FROM ledger.alembic_version)
"""


class _Oldest:
    """Since when the oldest open transaction has been seen, by its xid."""

    def __init__(self) -> None:
        self._xid: int | None = None
        self._since_s = 0.0

    def age_s(self, xid: int | None) -> float:
        """How long the oldest xid, if there is one, has been open, as far as it was seen."""
        if xid != self._xid:
            self._xid, self._since_s = xid, monotonic()
        return 0.0 if xid is None else monotonic() - self._since_s


async def keep_sampling(connect: Callable[[], Awaitable[Wire]]) -> None:
    """Sample the database until cancelled."""
    was_up = True
    while True:
        try:
            async with asyncio.timeout(PATIENCE_S):
                wire = await connect()
            try:
                await _sample(wire)
            finally:
                with suppress(psycopg.Error, OSError):
                    await wire.close()
        except (psycopg.Error, LedgerError, OSError) as error:
            metrics.DATABASE_UP.set(0)
            if was_up:
                log.warning("the database cannot be sampled: %s", _text(error))
            was_up = False
        await asyncio.sleep(SAMPLE_S)


async def _sample(wire: Wire) -> None:
    """Sample until the connection fails."""
    oldest, archives, sized_s = _Oldest(), Archives(), float("-inf")
    while True:
        sample, listed = await _exchange(wire, Request(SAMPLE), Request(LIST_ARCHIVES))
        [(oldest_xid, age_s, epoch)] = sample.rows
        metrics.FEED_EPOCH.values = {} if epoch is None else {(): epoch}
        archives.show(listed.rows)
        metrics.OLDEST_TRANSACTION.set(max(age_s, oldest.age_s(oldest_xid)))
        if monotonic() - sized_s >= SIZE_S:
            sized_s = monotonic()
            [sizes] = await _exchange(wire, Request(SIZE))
            [(size_bytes, server, schema)] = sizes.rows
            metrics.DATABASE_BYTES.set(size_bytes)
            metrics.DATABASE.values = {(schema, server): 1}
        metrics.DATABASE_UP.set(1)
        await asyncio.sleep(SAMPLE_S)


async def _exchange(wire: Wire, *requests: Request) -> list[Result]:
    """Raises TimeoutError, which is an OSError."""
    async with asyncio.timeout(PATIENCE_S):
        return await wire.exchange(*requests)


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
