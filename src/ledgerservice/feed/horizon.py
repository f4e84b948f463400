"""The safe id: every row up to it is committed or will never be.

Transaction ids do not commit in order. Every writer has its database transaction's number (xid)
before it takes ids from the sequence. So:

1. S is the last id that the sequence has handed out.
2. Y is a new xid, taken after S was read. Whoever took an id up to S has an older one.
3. When no database transaction older than Y is open any more, all ids up to S are decided.

A position is the id of a row that was passed, never S: after a crash PostgreSQL hands out the ids
of transactions that were rolled back once more.
"""

from typing import NamedTuple

from ledgerservice.postgres.changes import look_at_ids, take_number
from ledgerservice.postgres.pipeline import Wire


class _Pending(NamedTuple):
    last_id: int
    xid: int


class Horizon:
    """The safe id as seen on one connection. It only rises; `step` looks again."""

    def __init__(self) -> None:
        self.safe_id = 0
        self._pending: _Pending | None = None

    async def step(self, wire: Wire) -> bool:
        """Look once; True if every id that was handed out before is safe now."""
        last_id, oldest_open_xid = await look_at_ids(wire)
        if self._pending is not None and oldest_open_xid > self._pending.xid:
            self.safe_id, self._pending = self._pending.last_id, None
        if self._pending is None and last_id > self.safe_id:
            # In a statement of its own: S must have been read before.
            self._pending = _Pending(last_id, await take_number(wire))
        return self.safe_id == last_id
