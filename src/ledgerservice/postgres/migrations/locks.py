"""How the schema moves under processes that serve: short locks.

A statement that waits for a lock on a table keeps everybody behind it waiting too. So a migration
waits for a part of a second only, gives up what it has, and tries again. Some tries wait longer,
because PostgreSQL ends an autovacuum only for who does. What reads a whole table is done outside of
a transaction (`online`).
"""

import logging
import time
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from ledgerservice.errors import SchemaLocked

T = TypeVar("T")

log = logging.getLogger(__name__)

LOCK_TIMEOUT_MS = 300
# PostgreSQL ends an autovacuum only if somebody has waited for it for deadlock_timeout (1 s).
PATIENT_EVERY = 4
AFTER_DEADLOCK_TIMEOUT_MS = 500
PAUSE_S = 1.0
GIVE_UP_S = 600.0

_LIMIT_LOCKS = """
SELECT set_config('lock_timeout', setting, false), setting::integer FROM (
    SELECT CASE WHEN {is_patient} THEN setting::integer + {margin_ms} ELSE {short_ms} END::text
        AS setting
    FROM pg_settings WHERE name = 'deadlock_timeout') limits
"""


def patiently(connection: Connection, work: Callable[[], T]) -> T:
    """What `work` returns, which is begun again while others hold a lock that it needs.

    Raises SchemaLocked when it has waited for GIVE_UP_S in all. What it works does not count: an
    index of a large table can take longer than that.
    """
    waited_s = 0.0
    for attempt in count(1):
        limit_ms = _limit_locks(connection, is_patient=attempt % PATIENT_EVERY == 0)
        try:
            return work()
        except OperationalError as error:
            connection.rollback()
            if not isinstance(error.orig, LockNotAvailable | DeadlockDetected):
                raise
            waited_s += limit_ms / 1000 + PAUSE_S
            if waited_s > GIVE_UP_S:
                raise SchemaLocked from error
        log.warning("another session holds a lock that the migration needs; trying again")
        time.sleep(PAUSE_S)
    raise AssertionError  # it counts without end


def _limit_locks(connection: Connection, *, is_patient: bool) -> int:
    """Limit the waiting for a lock in this session; returns the limit in milliseconds."""
    values = {"margin_ms": AFTER_DEADLOCK_TIMEOUT_MS, "short_ms": LOCK_TIMEOUT_MS}
    row = connection.exec_driver_sql(_LIMIT_LOCKS.format(is_patient=is_patient, **values)).one()
    connection.commit()
    return int(row[1])
