"""The id up to which everything of a database is decided, as `feed.horizon` finds it."""

import time

from sqlalchemy import Connection, text

from ledgerservice.errors import MoveFault
from ledgerservice.postgres.changes import LOOK_AT_IDS, TAKE_NUMBER

PAUSE_S = 0.05
GIVE_UP_S = 600.0


def safe_id(source: Connection) -> int:
    """An id up to which all transactions are committed or never will be, and that is not below any
    transaction that was committed before the call.

    Raises MoveFault if an older database transaction is open for GIVE_UP_S.
    """
    last_id, _ = _look(source)
    with source.begin():
        number = int(source.scalar(text(TAKE_NUMBER)) or 0)
    end_s = time.monotonic() + GIVE_UP_S
    while _look(source)[1] <= number:
        if time.monotonic() > end_s:
            raise MoveFault(
                "A database transaction is open for longer than ten minutes; see pg_stat_activity."
            )
        time.sleep(PAUSE_S)
    return last_id


def _look(source: Connection) -> tuple[int, int]:
    with source.begin():
        last_id, oldest_open_xid = source.execute(text(LOOK_AT_IDS)).one()
    return last_id, oldest_open_xid
