"""Scheduled transfers."""

from datetime import datetime

import msgspec
from sqlalchemy import bindparam

from ledgerservice.domain.instructions import Kind
from ledgerservice.domain.transactions import Status
from ledgerservice.postgres.queries.structs import (
    OpenSum,
    TimePlace,
    after_place,
    find_after,
    find_all,
    find_one,
    select_recorded,
    sum_open,
)
from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.tables import schedules, transactions


class ScheduleView(msgspec.Struct, frozen=True):
    """A scheduled transfer as it stands. `amount` is in minor units.

    `settled_by` is the transaction that executed, declined or cancelled it; None: it is pending.
    """

    id: int
    account_id: int
    counterparty_id: int
    amount: int
    currency: str
    exponent: int
    execute_at: datetime
    created_at: datetime
    settled_by: int | None
    settled_kind: Kind | None
    settled_status: Status | None


_settlement = transactions.alias()
_SCHEDULES = select_recorded(
    ScheduleView,
    schedules,
    id=schedules.c.transaction_id,
    created_at=transactions.c.recorded_at,
    settled_kind=_settlement.c.kind,
    settled_status=_settlement.c.status,
).outerjoin(
    _settlement,
    (_settlement.c.ledger_id == schedules.c.ledger_id)
    & (_settlement.c.id == schedules.c.settled_by),
)
FIND_SCHEDULE = _SCHEDULES.where(schedules.c.transaction_id == bindparam("schedule"))

_by_time = (schedules.c.account_id, schedules.c.execute_at, schedules.c.transaction_id)
LIST_PENDING_SCHEDULES = (
    _SCHEDULES.where(*after_place(*_by_time), schedules.c.settled_by.is_(None))
    .order_by(*_by_time)
    .limit(bindparam("rows"))
)


async def find(reader: Reader, transaction_id: int) -> ScheduleView | None:
    """The transfer that a transaction scheduled, or None."""
    return await find_one(reader, ScheduleView, FIND_SCHEDULE, schedule=transaction_id)


async def list_pending(
    reader: Reader, account_id: int, rows: int, after: TimePlace | None = None
) -> list[ScheduleView]:
    """Up to `rows` pending scheduled transfers from an account, ordered by `execute_at` and id.

    `after` is the `execute_at` and id of the last one of the page before.
    """
    return await find_after(reader, ScheduleView, LIST_PENDING_SCHEDULES, account_id, rows, after)


SUM_PENDING_SCHEDULES = sum_open("""
    SELECT account_id, amount, execute_at AS at FROM ledger.schedules
    WHERE ledger_id = :ledger AND settled_by IS NULL""")


async def sum_all_pending(reader: Reader, rows: int) -> list[OpenSum]:
    """What is scheduled by currency, of `rows` pending transfers at most."""
    return await find_all(reader, OpenSum, SUM_PENDING_SCHEDULES, rows=rows)
