"""Holds."""

from typing import Literal, Self

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ledgerservice.access.grants import Need
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.call import (
    accounts_seen,
    home_of,
    id_of,
    json_response,
    reader_of,
    runtime_of,
)
from ledgerservice.api.http.fields import AmountText, Answer, TimestampText
from ledgerservice.api.http.openapi import get
from ledgerservice.api.http.pages import Page, Paging, first_rows, listing
from ledgerservice.api.http.problems import ProblemError
from ledgerservice.api.resources.accounts import check_account
from ledgerservice.domain.amounts import to_major
from ledgerservice.postgres.queries import holds as queries
from ledgerservice.postgres.queries.gathered.holds import HoldRead
from ledgerservice.postgres.queries.holds import HoldView
from ledgerservice.postgres.queries.structs import TimePlace

router = APIRouter(tags=["holds"])

Status = Literal["open", "captured", "released", "expired"]


class Hold(Answer, kw_only=True):
    """A hold. What has expired counts as released."""

    id: int
    status: Status
    account_id: int
    counterparty_id: int
    currency: str
    amount: AmountText
    captured: AmountText
    released: AmountText
    remaining: AmountText
    expires_at: TimestampText | None
    capture_at: TimestampText | None
    created_at: TimestampText

    @classmethod
    def of(cls, hold: HoldView) -> Self:
        """The hold as it is answered."""
        remaining = 0 if hold.expired else hold.remaining
        released = hold.amount - hold.captured - remaining
        return cls.of_row(
            hold,
            status=_status(hold),
            released=to_major(released, hold.exponent),
            remaining=to_major(remaining, hold.exponent),
        )


def _status(hold: HoldView) -> Status:
    if hold.expired:
        return "expired"
    if hold.remaining:
        return "open"
    return "captured" if hold.captured else "released"


@get(router, "/holds/{hold_id}", Hold, need=Need(Scope.ACCOUNTS_READ, by_accounts=True))
async def get_hold(request: Request) -> Response:
    """What remains of a hold, what was captured and released, and when it expires."""
    read = HoldRead(home_of(request), id_of(request, "hold_id", "hold_not_found"))
    hold = await runtime_of(request).reads.holds.post(read)
    seen = accounts_seen(request, Scope.ACCOUNTS_READ)
    if hold is None or (seen is not None and hold.account_id not in seen):
        raise ProblemError("hold_not_found")
    return json_response(Hold.of(hold))


@get(
    router,
    "/accounts/{account_id}/holds",
    list[Hold],
    Paging,
    need=Need(Scope.ACCOUNTS_READ, by_accounts=True),
)
async def list_holds(request: Request) -> Response:
    """The open holds of an account, by the time at which they end.

    They sum to the account's `held`. Holds that do not end by themselves come last.
    """
    reader = reader_of(request)
    account_id = id_of(request, "account_id", "account_not_found")

    async def read(filters: Paging, after: TimePlace | None) -> Page:
        rows = await queries.list_open(reader, account_id, filters.limit + 1, after)
        await check_account(request, account_id, rows)
        return first_rows(rows, filters.limit, Hold.of, lambda last: (last.ends_at, last.id))

    return await listing(request, Paging, TimePlace, read)
