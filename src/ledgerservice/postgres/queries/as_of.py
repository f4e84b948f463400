"""An account as of any time.

Time never runs backwards along an account, so its state at a time is found by a binary search over
its entries (`ledger.version_at`). The entries of a batch have the same time, so no time divides a
transaction.
"""

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Row, TextClause, text

from ledgerservice.domain.instructions import Origin
from ledgerservice.postgres.queries.accounts import METADATA, AccountView
from ledgerservice.postgres.queries.horizon import all_recorded
from ledgerservice.postgres.queries.structs import select_list
from ledgerservice.postgres.reader import Reader


class AccountAt(msgspec.Struct, frozen=True):
    """An account as of the time `at`; `view` has the amounts and the policy of that time.

    `final`: nothing more can be recorded by that time. `effective` is the balance of all that takes
    effect by then, whenever it is recorded; it can still change.
    """

    view: AccountView
    at: datetime
    final: bool
    effective: int


HELD_AT = "coalesce(e.held, 0) - coalesce(still.remaining, 0) - coalesce(late.released, 0)"
"""What an account `a` held by :at, with its last entry `e` by then and JOIN_EXPIRED."""

_COLUMNS = select_list(
    AccountView,
    "a",
    balance="coalesce(e.balance, 0)",
    held=HELD_AT,
    version="a.seq",
    floor="coalesce(p.floor, CASE WHEN a.id > 0 THEN 0 END)",
    ceiling="p.ceiling",
    restricted="coalesce(p.restricted, 0)::smallint",
    metadata=METADATA,
)

# The last entry by then.
JOIN_ENTRY = """
LEFT JOIN ledger.entries e
  ON e.ledger_id = a.ledger_id AND e.account_id = a.id AND e.seq = a.seq
"""

# The part of `held` that had expired by then: the holds that are still open, and those that the
# next batch released first (their entries follow at once and have the same time). OFFSET 0 keeps
# PostgreSQL to this order: it would begin with all holds of the ledger.
JOIN_EXPIRED = f"""
LEFT JOIN LATERAL (
    SELECT sum(h.remaining)::bigint AS remaining FROM ledger.holds h
    WHERE h.ledger_id = a.ledger_id AND h.account_id = a.id AND h.remaining > 0
      AND h.ends_at <= least(:at, statement_timestamp())) still ON true
LEFT JOIN LATERAL (
    SELECT -sum(l.held_change)::bigint AS released
    FROM (
        SELECT ledger.version_at(a.ledger_id, a.id, a.version, recorded_at) AS last
        FROM ledger.entries
        WHERE ledger_id = a.ledger_id AND account_id = a.id AND seq = a.seq + 1
          AND e.held > 0 OFFSET 0) n
    CROSS JOIN LATERAL (
        SELECT transaction_id, held_change FROM ledger.entries
        WHERE ledger_id = a.ledger_id AND account_id = a.id
          AND seq > a.seq AND seq <= n.last AND held_change < 0 OFFSET 0) l
    CROSS JOIN LATERAL (
        SELECT parent_id FROM ledger.details
        WHERE ledger_id = a.ledger_id AND transaction_id = l.transaction_id OFFSET 0) s
    CROSS JOIN LATERAL (
        SELECT origin FROM ledger.transactions
        WHERE ledger_id = a.ledger_id AND id = l.transaction_id OFFSET 0) t
    CROSS JOIN LATERAL (
        SELECT ends_at FROM ledger.holds
        WHERE ledger_id = a.ledger_id AND transaction_id = s.parent_id OFFSET 0) h
    WHERE h.ends_at <= :at
      AND t.origin = {Origin.EXPIRY:d}) late ON true
"""

# What takes effect by then and is recorded later, less the reverse.
JOIN_CORRECTION = """
LEFT JOIN LATERAL (
    SELECT (coalesce(sum(x.amount) FILTER (WHERE x.effective_at <= :at), 0)
            - coalesce(sum(x.amount) FILTER (WHERE x.effective_at > :at), 0))::bigint AS correction
    FROM ledger.dated_entries x
    WHERE x.ledger_id = a.ledger_id AND x.account_id = a.id
      AND (x.effective_at <= :at) <> (x.recorded_at <= :at)) d ON true
"""

ACCOUNT_AT = text(f"""
WITH a AS MATERIALIZED (
    SELECT *, ledger.version_at(ledger_id, id, version, :at) AS seq
    FROM ledger.accounts WHERE ledger_id = :ledger AND id = :account)
SELECT {_COLUMNS}, coalesce(e.balance, 0) + coalesce(d.correction, 0) AS effective,
       a.last_recorded_at > :at AS final
FROM a {JOIN_ENTRY}
LEFT JOIN LATERAL (
    SELECT * FROM ledger.policies p
    WHERE p.ledger_id = a.ledger_id AND p.account_id = a.id AND p.seq <= a.seq
    ORDER BY p.seq DESC LIMIT 1) p ON true
{JOIN_EXPIRED} {JOIN_CORRECTION}
""")


async def account_at(reader: Reader, account_id: int, at: datetime) -> AccountAt | None:
    """The account as of a time, or None.

    O(log n) in the account's entries, and linear in those of them that take effect at another time
    than they were recorded at.
    """
    fields = await recorded_by(reader, ACCOUNT_AT, at, account=account_id, at=at)
    if fields is None:
        return None
    effective, final = fields.pop("effective"), fields.pop("final")
    return AccountAt(AccountView(**fields), at, final, effective)


async def recorded_by(
    reader: Reader, statement: TextClause, time: datetime, **values: Any
) -> dict[str, Any] | None:
    """The row that a statement finds of what was recorded on an account by a time, or None.

    In its column `final` the statement says whether anything was recorded later: if so, nothing
    more can be recorded by that time. If not, it is final once nothing older is in flight.
    """
    values["ledger"] = reader.ledger_id
    row = await _find(reader, statement, values)
    if row is None or row.final:
        return None if row is None else row._asdict()
    is_final = await all_recorded(reader, time)
    # Read again: what was in flight before is committed now.
    row = await _find(reader, statement, values)
    return None if row is None else row._asdict() | {"final": row.final or is_final}


async def _find(reader: Reader, statement: TextClause, values: dict[str, Any]) -> Row[Any] | None:
    async with reader.connection() as connection:
        return (await connection.execute(statement, values)).one_or_none()
