"""Scheduled transfers."""

from typing import Literal, Self

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ledgerservice.access.grants import Need
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.call import accounts_seen, id_of, json_response, reader_of
from ledgerservice.api.http.fields import AmountText, Answer, TimestampText
from ledgerservice.api.http.openapi import get
from ledgerservice.api.http.pages import Page, Paging, first_rows, listing
from ledgerservice.api.http.problems import ProblemError
from ledgerservice.api.resources.accounts import check_account
from ledgerservice.domain import transactions as domain
from ledgerservice.domain.instructions import Kind
from ledgerservice.postgres.queries import schedules as queries
from ledgerservice.postgres.queries.schedules import ScheduleView
from ledgerservice.postgres.queries.structs import TimePlace

router = APIRouter(tags=["schedules"])

Status = Literal["pending", "executed", "declined", "cancelled"]


class Schedule(Answer, kw_only=True):
    """A scheduled transfer; `settled_by` is the transaction that executed or cancelled it."""

    id: int
    status: Status
    from_account_id: int
    to_account_id: int
    amount: AmountText
    currency: str
    execute_at: TimestampText
    created_at: TimestampText
    settled_by: int | None

    @classmethod
    def of(cls, schedule: ScheduleView) -> Self:
        """The scheduled transfer as it is answered."""
        return cls.of_row(
            schedule,
            status=_status(schedule),
            from_account_id=schedule.account_id,
            to_account_id=schedule.counterparty_id,
        )


def _status(schedule: ScheduleView) -> Status:
    if schedule.settled_by is None:
        return "pending"
    if schedule.settled_kind == Kind.CANCELLATION:
        return "cancelled"
    return "executed" if schedule.settled_status == domain.Status.POSTED else "declined"


@get(
    router,
    "/schedules/{schedule_id}",
    Schedule,
    need=Need(Scope.ACCOUNTS_READ, by_accounts=True),
)
async def get_schedule(request: Request) -> Response:
    """Whether a scheduled transfer is pending, executed, declined or cancelled, and by what."""
    schedule_id = id_of(request, "schedule_id", "schedule_not_found")
    schedule = await queries.find(reader_of(request), schedule_id)
    seen = accounts_seen(request, Scope.ACCOUNTS_READ)
    if schedule is None or (seen is not None and schedule.account_id not in seen):
        raise ProblemError("schedule_not_found")
    return json_response(Schedule.of(schedule))


@get(
    router,
    "/accounts/{account_id}/schedules",
    list[Schedule],
    Paging,
    need=Need(Scope.ACCOUNTS_READ, by_accounts=True),
)
async def list_schedules(request: Request) -> Response:
    """The pending transfers from an account, by the time at which they are to be executed."""
    reader = reader_of(request)
    account_id = id_of(request, "account_id", "account_not_found")

    async def read(filters: Paging, after: TimePlace | None) -> Page:
        rows = await queries.list_pending(reader, account_id, filters.limit + 1, after)
        await check_account(request, account_id, rows)
        return first_rows(rows, filters.limit, Schedule.of, lambda last: (last.execute_at, last.id))

    return await listing(request, Paging, TimePlace, read)
