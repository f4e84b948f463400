"""Holds."""

from datetime import datetime

import msgspec
from sqlalchemy import Boolean, bindparam, case, func, literal_column, select, union_all

from ledgerservice.domain.instructions import Origin
from ledgerservice.domain.transactions import Status
from ledgerservice.postgres import tables
from ledgerservice.postgres.queries.structs import (
    AFTER_ID,
    AFTER_TIME,
    LEDGER,
    OpenSum,
    TimePlace,
    after_place,
    find_after,
    find_all,
    select_recorded,
    sum_open,
)
from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.tables import transactions


class HoldView(msgspec.Struct, frozen=True):
    """A hold as it stands. Amounts are in minor units of a currency with `exponent` digits.

    `ends_at` is when the hold expires. It is None if the hold does not expire, or if its capture
    is due before that and has not been tried yet.
    """

    id: int
    account_id: int
    counterparty_id: int
    amount: int
    captured: int
    remaining: int
    expired: bool
    currency: str
    exponent: int
    expires_at: datetime | None
    capture_at: datetime | None
    created_at: datetime
    ends_at: datetime | None


# Of a hold `h`. The key finds the release of one that has expired.
IS_EXPIRED = f"""(coalesce(h.ends_at <= statement_timestamp(), false) AND (
    h.remaining > 0 OR coalesce((
        SELECT status = {Status.POSTED:d} FROM ledger.transactions
        WHERE ledger_id = h.ledger_id AND account_id = h.account_id AND origin = {Origin.EXPIRY:d}
          AND idempotency_key BETWEEN concat('expiry ', h.transaction_id)
                                  AND concat('expiry ', h.transaction_id)
        ORDER BY idempotency_key LIMIT 1), false)))"""

holds = tables.holds.alias("h")
_HOLDS = select_recorded(
    HoldView,
    holds,
    id=holds.c.transaction_id,
    expired=literal_column(IS_EXPIRED, Boolean),
    created_at=transactions.c.recorded_at,
)

# First the holds that expire, then those that do not. Each part reads its own piece of the index.
_by_end = (holds.c.account_id, holds.c.ends_at, holds.c.transaction_id)
_open = (
    select(holds.c.transaction_id)
    .where(holds.c.ledger_id == LEDGER, holds.c.remaining > 0)
    .order_by(*_by_end)
    .limit(bindparam("rows"))
)
_ending = _open.where(*after_place(*_by_end), holds.c.ends_at > func.statement_timestamp())
_endless = _open.where(
    holds.c.account_id == bindparam("account"),
    holds.c.ends_at.is_(None),
    holds.c.transaction_id > case((AFTER_TIME.is_(None), AFTER_ID), else_=0),
)
LIST_OPEN_HOLDS = (
    _HOLDS.where(
        holds.c.transaction_id
        == func.any(func.array(union_all(_ending, _endless).scalar_subquery()))
    )
    .order_by(holds.c.ends_at, holds.c.transaction_id)
    .limit(bindparam("rows"))
)


async def list_open(
    reader: Reader, account_id: int, rows: int, after: TimePlace | None = None
) -> list[HoldView]:
    """Up to `rows` open holds of an account, ordered by `ends_at` and id.

    `after` is the `ends_at` and id of the last hold of the page before.
    """
    return await find_after(reader, HoldView, LIST_OPEN_HOLDS, account_id, rows, after)


SUM_OPEN_HOLDS = sum_open("""
    SELECT account_id, remaining AS amount, ends_at AS at FROM ledger.holds
    WHERE ledger_id = :ledger AND remaining > 0
      AND (ends_at IS NULL OR ends_at > statement_timestamp())""")


async def sum_all_open(reader: Reader, rows: int) -> list[OpenSum]:
    """What is held by currency, of `rows` open holds at most."""
    return await find_all(reader, OpenSum, SUM_OPEN_HOLDS, rows=rows)
