"""What was recorded by months, days, hours or minutes, and how large the amounts were."""

from functools import partial
from typing import Annotated

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import Meta
from pydantic import BeforeValidator, Field

from ledgerservice.access.grants import Need
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.calendar import By, Unit, period_begin
from ledgerservice.api.http.call import json_response, readers_of
from ledgerservice.api.http.fields import AmountText, Answer, TimestampText
from ledgerservice.api.http.openapi import get
from ledgerservice.api.http.pages import Period
from ledgerservice.api.http.parameters import FilterCode, integer, parameters_of
from ledgerservice.domain.amounts import to_major
from ledgerservice.domain.timestamps import optional_timestamp, timestamp
from ledgerservice.postgres.queries import volume as queries

router = APIRouter(tags=["reports"])

MAX_TRANSACTIONS = 50_000


class VolumeQuery(Period):
    """Which time, in which periods, and how many transactions are read for it."""

    by: Annotated[Unit, Field(description="The periods, which are those of `timezone`.")] = "day"
    basis: By = "recorded"
    currency: FilterCode | None = Field(
        default=None,
        description="Only transactions whose account has this currency, and amounts in it.",
    )
    limit: Annotated[
        int,
        Field(ge=1, le=MAX_TRANSACTIONS, description="Transactions that are read, the newest."),
        BeforeValidator(integer),
    ] = MAX_TRANSACTIONS


class MovedAmounts(Answer, kw_only=True):
    """What was moved in a currency, by so many transactions. `amount_in` came from outside, and
    `amount_out` went there. `moved` is what the accounts gained, those of the outside too.
    """

    currency: str
    transactions: int
    amount_in: AmountText
    amount_out: AmountText
    moved: AmountText


class VolumePeriod(msgspec.Struct, kw_only=True):
    """What was recorded in a month, a day, an hour or a minute."""

    begins_at: TimestampText
    posted: int
    declined: Annotated[dict[str, int], Meta(description="The number of declines by code.")]
    currencies: list[MovedAmounts]


class AmountRange(Answer, kw_only=True):
    """The transactions that moved `at_least` so much of a currency, and less than the next range
    begins with. Ranges begin with 1, 2 and 5 times a power of ten.
    """

    currency: str
    at_least: AmountText
    transactions: int


class Volume(msgspec.Struct, kw_only=True):
    """What was recorded in a time. A period or a range without transactions is left out."""

    complete: Annotated[bool, Meta(description="Everything of the time is counted.")]
    since: Annotated[
        TimestampText | None,
        Meta(description="If it is not complete: everything from then on is counted."),
    ]
    transactions: Annotated[int, Meta(description="Those that are counted.")]
    periods: list[VolumePeriod]
    amounts: list[AmountRange]


@get(router, "/reports/volume", Volume, VolumeQuery, need=Need(Scope.REPORTS_READ))
async def get_volume(request: Request) -> Response:
    """What was posted, declined and moved by periods, and the sizes of the amounts.

    It reads the newest transactions of the time, `limit` at most, and with `basis=effective` as
    many that have an `effective_at`. It has 1,500 periods at most, the latest ones. `posted` counts
    all posted transactions, also those that move nothing, such as holds. A transaction moves what
    its accounts gain in a currency. A reversal moves money too.

    Of a ledger with parts, `limit` are read of each part, and a transfer between two parts is
    counted once, when it is debited or declined.
    """
    query = parameters_of(request, VolumeQuery)
    begin_of = partial(period_begin, unit=query.by, zone=query.timezone)
    volume = await queries.find_volume(
        await readers_of(request),
        query.since,
        query.until,
        query.limit,
        begin_of,
        query.currency,
        query.basis,
    )
    return json_response(_answer(volume))


def _answer(volume: queries.Volume) -> Volume:
    return Volume(
        complete=volume.since is None,
        since=optional_timestamp(volume.since),
        transactions=volume.transactions,
        periods=[_period(one) for one in volume.periods],
        amounts=[
            AmountRange.of_row(one, at_least=to_major(one.at_least, one.exponent))
            for one in volume.ranges
        ],
    )


def _period(period: queries.PeriodCounts) -> VolumePeriod:
    return VolumePeriod(
        begins_at=timestamp(period.begins_at),
        posted=period.posted,
        declined=period.declined,
        currencies=[MovedAmounts.of_row(one) for one in period.currencies],
    )
