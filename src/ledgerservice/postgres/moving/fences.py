"""Fences: a shard refuses what is written to a ledger that moves, or has moved, away from it.

Each step has the generation of its run. A step of an older one is refused, so a process that was
stopped for a while does no harm.
"""

import logging
import time
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from ledgerservice.errors import MoveFault
from ledgerservice.postgres.moving.homes import SUPERSEDED

T = TypeVar("T")

log = logging.getLogger(__name__)

HOME, ARRIVING, REMOVING, LEAVING, LEFT = "home", "arriving", "removing", "leaving", "left"

LOCK_TIMEOUT_MS = 300
# PostgreSQL ends an autovacuum that somebody waits for longer than deadlock_timeout (1 s). One
# comes after each removal.
PATIENT_MS = 1_500
PATIENT_EVERY = 4
PAUSE_S = 0.2
GIVE_UP_S = 120.0

_LIMIT_LOCKS = text("SELECT set_config('lock_timeout', (:limit_ms)::integer::text, true)")
_FIND = text("SELECT state FROM ledger.fences WHERE ledger_id = :ledger")
_ARRIVING = text("SELECT ledger_id FROM ledger.fences WHERE state IN ('arriving', 'removing')")
_WRITE = text("""
INSERT INTO ledger.fences AS f (ledger_id, generation, state)
VALUES (:ledger, :generation, :state)
ON CONFLICT (ledger_id) DO UPDATE SET generation = excluded.generation, state = excluded.state
WHERE f.generation <= excluded.generation
""")
_SET = text("SELECT ledger.set_fences()")
_HOLD = text("""
SELECT FROM ledger.fences
WHERE ledger_id = :ledger AND generation = :generation AND state = :state FOR UPDATE
""")
_NAME_LOADED = text("SELECT set_config('ledgerservice.loading', (:ledger)::integer::text, true)")


def state_of(shard: Connection, ledger: int) -> str:
    """The state of a ledger's fence on a shard; home if it has none."""
    with shard.begin():
        return str(shard.scalar(_FIND, {"ledger": ledger}) or HOME)


def list_arriving(shard: Connection) -> list[int]:
    """The ledgers that are on their way to a shard, by its fences."""
    return list(shard.scalars(_ARRIVING))


def set_fence(
    shard: Connection,
    ledger: int,
    generation: int,
    state: str,
    also: Callable[[], object] = lambda: None,
) -> None:
    """Set a ledger's fence on a shard, and do what `also` does in the same transaction.

    When it returns, nothing that was written before is still in flight. Writers never wait for
    longer than LOCK_TIMEOUT_MS, or PATIENT_MS where autovacuum works on the tables. Raises
    MoveFault if a later run goes on, or if another session has written to the ledger's tables in
    one transaction for GIVE_UP_S.
    """
    locking(lambda limit_ms: _set(shard, ledger, generation, state, also, limit_ms))


def locking(work: Callable[[int], T]) -> T:
    """What `work` returns, which is begun again while others hold a lock that it needs.

    It gets the time in ms for which it may wait for one. Raises MoveFault after GIVE_UP_S.
    """
    end_s = time.monotonic() + GIVE_UP_S
    for attempt in count(1):
        limit_ms = LOCK_TIMEOUT_MS if attempt % PATIENT_EVERY else PATIENT_MS
        try:
            return work(limit_ms)
        except DBAPIError as error:
            if not isinstance(error.orig, LockNotAvailable | DeadlockDetected):
                raise
            if time.monotonic() > end_s:
                raise MoveFault(
                    "Another session has a transaction open that writes to the ledger's tables; "
                    "see pg_stat_activity. Run the command again when it has ended."
                ) from error
        log.info("another session writes to the ledger's tables; trying again")
        time.sleep(PAUSE_S)
    raise AssertionError


def _set(
    shard: Connection,
    ledger: int,
    generation: int,
    state: str,
    also: Callable[[], object],
    limit_ms: int,
) -> None:
    with shard.begin():
        shard.execute(_LIMIT_LOCKS, {"limit_ms": limit_ms})
        values = {"ledger": ledger, "generation": generation, "state": state}
        if shard.execute(_WRITE, values).rowcount != 1:
            raise MoveFault(SUPERSEDED)
        also()
        shard.execute(_SET)


def load(shard: Connection, ledger: int, generation: int, state: str = ARRIVING) -> None:
    """Let the rest of this transaction write or remove the rows of a ledger that is on its way.

    Raises MoveFault if it is not, or if a later run goes on.
    """
    values = {"ledger": ledger, "generation": generation, "state": state}
    if shard.execute(_HOLD, values).one_or_none() is None:
        raise MoveFault(SUPERSEDED)
    shard.execute(_NAME_LOADED, {"ledger": ledger})
