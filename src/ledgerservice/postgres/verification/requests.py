"""Asks the process that verifies all the time to begin a pass.

It may be any process of the service, or `verify --watch`. It has an advisory lock, and listens to a
channel; on a standby, whose sessions cannot listen, nothing reaches it.
"""

import math
import time
from collections.abc import Iterator
from typing import Any

import psycopg
from sqlalchemy import Connection, text

from ledgerservice.errors import LimitReached
from ledgerservice.postgres.contents import driver
from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.verification.progress import Progress

CHANNEL = "ledger_verify"
PATIENCE_S = 60.0
TRY_LOCK = text("SELECT pg_try_advisory_lock(2020072, hashtext('ledger.transactions'))")
_IS_STANDBY = text("SELECT pg_is_in_recovery()")
_LISTEN = text(f"LISTEN {CHANNEL}")
# An id of an object is a number without a sign.
_HOLDERS = """
FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 2 AND granted AND classid = 2020072
  AND objid = CAST(CAST(hashtext('ledger.transactions') AS bigint) & 4294967295 AS oid)
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_IS_WATCHED = text(f"SELECT count(*) > 0 {_HOLDERS}")
_NOTIFY = text(f"SELECT pg_notify('{CHANNEL}', 'ledger.transactions') {_HOLDERS}")
_PAYLOAD = text("SELECT 'ledger.transactions'")


def listen(connection: Connection) -> None:
    """Hear of requests from now on, unless this is a standby."""
    with connection.begin():
        if not connection.scalar(_IS_STANDBY):
            connection.execute(_LISTEN)


def is_requested(connection: Connection) -> bool:
    """Whether a pass was requested since the last call. Raises psycopg's errors."""
    notes: Iterator[psycopg.Notify] = driver(connection).notifies(timeout=0, stop_after=1)
    payloads = {note.payload for note in notes}
    if not payloads:
        return False
    with connection.begin():  # the channel is that of all schemas of the database
        return connection.scalar(_PAYLOAD) in payloads


class PassRequests:
    """The passes that a process has requested: one at a time."""

    def __init__(self) -> None:
        self._at_s = 0.0

    def add(self, progress: Progress | None) -> None:
        """Note a request. Raises LimitReached while the last one waits: until a pass has begun
        after it, or for PATIENCE_S if that is not known here.
        """
        now_s = time.time()
        left_s = self._at_s + PATIENCE_S - now_s
        if left_s > 0 and (progress is None or progress.pass_begun_s < self._at_s):
            raise LimitReached("verification", math.ceil(left_s), 1, int(PATIENCE_S), None)
        self._at_s = now_s

    def withdraw(self) -> None:
        """Forget the last one, which nobody has heard of."""
        self._at_s = 0.0


async def is_watched(reader: Reader) -> bool:
    """Whether a process verifies the database of `reader` all the time."""
    return bool(await reader.scalar(_IS_WATCHED))


async def request_pass(reader: Reader) -> bool:
    """Request a pass; False if no process verifies all the time."""
    async with reader.connection() as connection:
        rows: list[Any] = list(await connection.execute(_NOTIFY))
    return bool(rows)
