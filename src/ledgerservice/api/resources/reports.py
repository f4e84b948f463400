"""Reports over a whole ledger."""

from itertools import chain
from typing import Annotated, Self

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import UNSET, Meta, UnsetType
from pydantic import AfterValidator, Field, ValidationInfo

from ledgerservice.access.grants import Need
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.authentication import caller_of, denied
from ledgerservice.api.http.calendar import AsOf, By, Zone
from ledgerservice.api.http.call import json_response, ledger_of, readers_of
from ledgerservice.api.http.fields import AmountText, Answer, TimestampText
from ledgerservice.api.http.openapi import get
from ledgerservice.api.http.pages import Page, Paging, PeriodFilters, first_rows, listing
from ledgerservice.api.http.parameters import NoParameters, Parameters, parameters_of
from ledgerservice.domain.amounts import to_major
from ledgerservice.domain.timestamps import EFFECTIVE_NEEDS_AT, optional_timestamp
from ledgerservice.postgres.queries import reports as queries
from ledgerservice.postgres.queries.holds import sum_all_open
from ledgerservice.postgres.queries.schedules import sum_all_pending
from ledgerservice.postgres.queries.structs import OpenSum

router = APIRouter(tags=["reports"])


class TrialRow(Answer, kw_only=True):
    """The sums of the balances in a currency, by sign and by kind of account."""

    currency: str
    accounts: int
    debits: AmountText
    credits: AmountText
    customers: AmountText
    external: AmountText
    total: AmountText


class TrialBalance(msgspec.Struct):
    """The sums by currency; each `total` is zero."""

    at: TimestampText | None
    final: Annotated[bool, Meta(description="Nothing more can be recorded by `at`.")]
    currencies: list[TrialRow]


def _has_time(by: str, info: ValidationInfo) -> str:
    if by == "effective" and "at" in info.data and info.data["at"] is None:
        raise ValueError(EFFECTIVE_NEEDS_AT)
    return by


ByWithTime = Annotated[By, AfterValidator(_has_time)]


class TrialTime(Parameters):
    """As of which time the balances are summed."""

    timezone: Zone = "UTC"
    at: AsOf | None = None
    by: ByWithTime = "recorded"


@get(router, "/reports/trial-balance", TrialBalance, TrialTime, need=Need(Scope.REPORTS_READ))
async def get_trial_balance(request: Request) -> Response:
    """The sums of all balances by currency, which are zero.

    In one snapshot, of the balances as they are or as they were at `at`; with `by=effective`, of
    all that takes effect by `at`. `final` says whether nothing more can be recorded by `at`; what
    takes effect by then is never final.
    """
    query = parameters_of(request, TrialTime)
    at = query.at
    readers = await readers_of(request)
    rows, final = await queries.trial_balance_of_all(readers, at, query.by)
    balance = TrialBalance(optional_timestamp(at), final, [TrialRow.of_row(row) for row in rows])
    return json_response(balance)


class OwnerBalance(Answer, kw_only=True):
    """The balance of an owner in a currency, over all accounts. As effective nothing is held."""

    owner: str
    currency: str
    accounts: int
    balance: AmountText
    held: AmountText | UnsetType = UNSET

    @classmethod
    def of(cls, row: queries.OwnerBalance) -> Self:
        """The balance as it is answered."""
        held = UNSET if row.held is None else to_major(row.held, row.exponent)
        return cls.of_row(row, held=held)


class OwnerFilters(Paging):
    """As of which time the balances are summed."""

    timezone: Zone = "UTC"
    at: AsOf | None = None
    by: ByWithTime = "recorded"


@get(
    router,
    "/reports/balances",
    list[OwnerBalance],
    OwnerFilters,
    need=Need(Scope.REPORTS_READ, by_accounts=True),
)
async def list_owner_balances(request: Request) -> Response:
    """The balance of each owner in each currency, as it stands or as of a time.

    As effective it is that of all that takes effect by `at`. It has no `held` then: a hold reserves
    money from its recording on.

    A key that is limited to the accounts of an owner gets the balances of this one.
    """
    scopes = int(Scope.REPORTS_READ)
    owners = caller_of(request.scope).sees_owners(ledger_of(request), scopes)
    if owners is not None and not owners:
        raise denied("limited_to_accounts", scopes)

    async def read(filters: OwnerFilters, after: tuple[str, str] | None) -> Page:
        limit = filters.limit
        readers = await readers_of(request)
        rows = await queries.list_owner_balances_of_all(
            readers, limit + 1, after, filters.at, filters.by, owners
        )
        return first_rows(rows, limit, OwnerBalance.of, lambda last: (last.owner, last.currency))

    return await listing(request, OwnerFilters, tuple[str, str], read)


class MetadataTotal(Answer, kw_only=True):
    """The posted transactions with a value of a metadata key, in a currency."""

    value: str | None
    currency: str
    transactions: int
    amount: AmountText


class TotalsFilters(PeriodFilters):
    """Which transactions are summed: those with the metadata key `key`."""

    by: By = "recorded"
    key: Annotated[str, Field(min_length=1, max_length=255, examples=["order"])]


@get(router, "/reports/totals", list[MetadataTotal], TotalsFilters, need=Need(Scope.REPORTS_READ))
async def list_totals(request: Request) -> Response:
    """The number and the amount of posted transactions, by the values of a metadata key.

    A transfer between two parts of a ledger is counted once, when it is debited.
    """

    async def read(filters: TotalsFilters, after: queries.TotalPlace | None) -> Page:
        period = filters.since, filters.until
        readers = await readers_of(request)
        rows = await queries.list_totals_of_all(
            readers, filters.key, *period, filters.limit + 1, after, filters.by
        )
        return first_rows(
            rows, filters.limit, lambda row: MetadataTotal.of_row(row[0]), lambda row: row[1]
        )

    return await listing(request, TotalsFilters, queries.TotalPlace, read)


MOST_OPEN = 10_000


class OpenAmount(Answer, kw_only=True):
    """What is open in a currency. `next_at`: when the first of it expires or is executed."""

    currency: str
    number: int
    amount: AmountText
    next_at: TimestampText | None


class OpenKind(msgspec.Struct):
    """What is open of one kind, by currency."""

    complete: Annotated[
        bool, Meta(description=f"All are counted; of more than {MOST_OPEN:,} only so many are.")
    ]
    currencies: list[OpenAmount]


class OpenItems(msgspec.Struct):
    """What is reserved, and what is still to come."""

    holds: OpenKind
    schedules: OpenKind


@get(router, "/reports/open", OpenItems, NoParameters, need=Need(Scope.REPORTS_READ))
async def get_open_items(request: Request) -> Response:
    """The open holds and the pending scheduled transfers of the whole ledger, by currency.

    An expired hold holds nothing, even before its release is recorded. Of a ledger with parts, what
    a transfer between two parts holds is counted until its debit is recorded.
    """
    parameters_of(request, NoParameters)
    readers = await readers_of(request)
    kinds = [
        _open_kind([await sum_of(reader, MOST_OPEN + 1) for reader in readers])
        for sum_of in (sum_all_open, sum_all_pending)
    ]
    return json_response(OpenItems(*kinds))


def _open_kind(parts: list[list[OpenSum]]) -> OpenKind:
    """`parts` are the sums of each part of the ledger."""
    sums: dict[str, OpenSum] = {}
    for row in chain.from_iterable(parts):
        sums[row.currency] = _joined(sums[row.currency], row) if row.currency in sums else row
    rows = [OpenAmount.of_row(sums[currency]) for currency in sorted(sums)]
    is_complete = all(sum(row.number for row in part) <= MOST_OPEN for part in parts)
    return OpenKind(is_complete, rows)


def _joined(one: OpenSum, other: OpenSum) -> OpenSum:
    times = [row.next_at for row in (one, other) if row.next_at is not None]
    return msgspec.structs.replace(
        one,
        number=one.number + other.number,
        amount=one.amount + other.amount,
        next_at=min(times, default=None),
    )
