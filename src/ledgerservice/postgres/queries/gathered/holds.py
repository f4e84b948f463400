"""Gathered reads of holds: one statement for all of them."""

from typing import NamedTuple

from ledgerservice.postgres.pipeline import Request, Wire, array
from ledgerservice.postgres.queries.holds import IS_EXPIRED, HoldView
from ledgerservice.postgres.queries.structs import select_list


class HoldRead(NamedTuple):
    """Which hold is read."""

    ledger_id: int
    hold_id: int


_HOLD = {
    "id": "h.transaction_id",
    "expired": IS_EXPIRED,
    "currency": "a.currency",
    "exponent": "a.exponent",
    "created_at": "t.recorded_at",
}
FIND_HOLDS = f"""
SELECT r.place, {select_list(HoldView, "h", **_HOLD)}
FROM unnest($1::integer[], $2::bigint[]) WITH ORDINALITY r (ledger_id, hold_id, place)
CROSS JOIN LATERAL (
    SELECT * FROM ledger.holds
    WHERE ledger_id = r.ledger_id AND transaction_id BETWEEN r.hold_id AND r.hold_id
    ORDER BY transaction_id LIMIT 1) h
CROSS JOIN LATERAL (
    SELECT currency, exponent FROM ledger.accounts
    WHERE ledger_id = h.ledger_id AND id BETWEEN h.account_id AND h.account_id
    ORDER BY id LIMIT 1) a
CROSS JOIN LATERAL (
    SELECT recorded_at FROM ledger.transactions
    WHERE ledger_id = h.ledger_id AND id BETWEEN h.transaction_id AND h.transaction_id
    ORDER BY id LIMIT 1) t
"""


async def find_holds(wire: Wire, reads: list[HoldRead]) -> list[HoldView | None]:
    """Each hold as it stands, or None."""
    columns = map(array, zip(*reads, strict=True))
    [result] = await wire.exchange(Request(FIND_HOLDS, list(columns)))
    views = {place: HoldView(*row) for place, *row in result.rows}
    return [views.get(place) for place in range(1, len(reads) + 1)]
