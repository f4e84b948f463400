"""Reports over a whole ledger."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import Meta
from pydantic import Field

from ledgerservice.api.http.call import json_response, reader_of
from ledgerservice.api.http.fields import AmountText, Answer, TimestampText
from ledgerservice.api.http.openapi import get
from ledgerservice.api.http.pages import Page, Paging, PeriodFilters, first_rows, listing
from ledgerservice.api.http.parameters import Parameters, QueryTimestamp, parameters_of
from ledgerservice.domain.timestamps import optional_timestamp
from ledgerservice.postgres.queries import reports as queries

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


class At(Parameters):
    """At which time the balances are summed."""

    at: QueryTimestamp | None = None


@get(router, "/reports/trial-balance", TrialBalance, At)
async def get_trial_balance(request: Request) -> Response:
    """The sums of all balances by currency, which are zero.

    In one snapshot, of the balances as they are or as they were at `at`. `final` says whether
    nothing more can be recorded by `at`.
    """
    at = parameters_of(request, At).at
    rows, final = await queries.trial_balance(reader_of(request), at)
    balance = TrialBalance(optional_timestamp(at), final, [TrialRow.of_row(row) for row in rows])
    return json_response(balance)


class OwnerBalance(Answer, kw_only=True):
    """The balance of an owner in a currency, over all accounts."""

    owner: str
    currency: str
    accounts: int
    balance: AmountText
    held: AmountText


@get(router, "/reports/balances", list[OwnerBalance], Paging)
async def list_owner_balances(request: Request) -> Response:
    """The balance of each owner in each currency."""

    async def read(filters: Paging, after: tuple[str, str] | None) -> Page:
        limit = filters.limit
        rows = await queries.list_owner_balances(reader_of(request), limit + 1, after or ("", ""))
        return first_rows(
            rows, limit, OwnerBalance.of_row, lambda last: (last.owner, last.currency)
        )

    return await listing(request, Paging, tuple[str, str], read)


class MetadataTotal(Answer, kw_only=True):
    """The posted transactions with a value of a metadata key, in a currency."""

    value: str | None
    currency: str
    transactions: int
    amount: AmountText


class TotalsFilters(PeriodFilters):
    """Which transactions are summed: those with the metadata key `key`."""

    key: Annotated[str, Field(min_length=1, max_length=255, examples=["order"])]


@get(router, "/reports/totals", list[MetadataTotal], TotalsFilters)
async def list_totals(request: Request) -> Response:
    """The number and the amount of posted transactions, by the values of a metadata key."""

    async def read(filters: TotalsFilters, after: queries.TotalPlace | None) -> Page:
        rows = await queries.list_totals(
            reader_of(request), filters.key, filters.since, filters.until, filters.limit + 1, after
        )
        return first_rows(
            rows, filters.limit, lambda row: MetadataTotal.of_row(row[0]), lambda row: row[1]
        )

    return await listing(request, TotalsFilters, queries.TotalPlace, read)
