"""Statements of an account, and its balances as of a timestamp."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator
from typing import Annotated, Literal, Self

import jinja2
import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import Meta

from ledgerservice.access.grants import Need
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.calendar import AsOf, By, Zone, local_timestamp
from ledgerservice.api.http.call import id_of, json_response, reader_of
from ledgerservice.api.http.fields import (
    AmountText,
    Answer,
    OriginName,
    TimestampText,
    TransactionType,
)
from ledgerservice.api.http.openapi import get
from ledgerservice.api.http.pages import Page, PeriodFilters, listing
from ledgerservice.api.http.parameters import Parameters, parameters_of
from ledgerservice.api.http.problems import ProblemError, invalid
from ledgerservice.api.http.streams import PiecewiseResponse
from ledgerservice.api.resources.accounts import account_at
from ledgerservice.domain.amounts import to_major
from ledgerservice.domain.cells import guarded
from ledgerservice.domain.timestamps import optional_timestamp
from ledgerservice.postgres.queries import as_of, effective
from ledgerservice.postgres.queries import statements as queries
from ledgerservice.postgres.reader import Reader

router = APIRouter(tags=["history"])

HTML_ROWS = 5_000


# Balances.


class RecordedBalance(Answer, kw_only=True):
    """The account as recorded by a timestamp."""

    balance: AmountText
    held: AmountText
    available: AmountText
    version: int


class EffectiveBalance(msgspec.Struct):
    """The account with all that takes effect by a timestamp, whenever it is recorded."""

    balance: AmountText


class Balances(Answer, kw_only=True):
    """The balances of an account as of a timestamp.

    The first is as recorded by `at`; it cannot change when it is `final`. The second has all that
    takes effect by `at`; a later transaction can change it.
    """

    account_id: int
    currency: str
    at: TimestampText
    final: Annotated[bool, Meta(description="Nothing more can be recorded by `at`.")]
    recorded: RecordedBalance
    effective: EffectiveBalance

    @classmethod
    def of(cls, then: as_of.AccountAt) -> Self:
        """The balances as they are answered."""
        account, exponent = then.view, then.view.exponent
        available = to_major(account.balance - account.held, exponent)
        return cls.of_row(
            then,
            account_id=account.id,
            currency=account.currency,
            recorded=RecordedBalance.of_row(account, available=available),
            effective=EffectiveBalance(to_major(then.effective, exponent)),
        )


class BalanceTime(Parameters):
    """At which time the balances are shown."""

    timezone: Zone = "UTC"
    at: AsOf


@get(
    router,
    "/accounts/{account_id}/balances",
    Balances,
    BalanceTime,
    need=Need(Scope.ACCOUNTS_READ, by_accounts=True),
)
async def get_balances(request: Request) -> Response:
    """The balances of an account as of a timestamp.

    The balance as recorded by `at`, and the balance of all that takes effect by `at`.

    The first cannot change when it is `final`. The second can change: a later transaction can take
    effect before `at`.
    """
    then = await account_at(request, parameters_of(request, BalanceTime).at)
    return json_response(Balances.of(then))


# Statements.

Period = queries.StatementPeriod | effective.EffectivePeriod


class StatementLine(Answer, kw_only=True):
    """An entry of a statement, with the balance after it."""

    version: int
    recorded_at: TimestampText
    transaction_id: int
    transaction_type: TransactionType
    amount: AmountText
    balance: AmountText
    counterparty_id: int | None
    origin: OriginName
    idempotency_key: str
    description: str | None
    reference: str | None
    effective_at: TimestampText | None

    @classmethod
    def of(cls, line: queries.StatementLine, exponent: int, zone: str = "UTC") -> Self:
        """The line as it is answered, with its times in a zone."""
        effective_at = line.effective_at
        return cls.of_row(
            line,
            exponent,
            recorded_at=local_timestamp(line.recorded_at, zone),
            effective_at=effective_at and local_timestamp(effective_at, zone),
            transaction_type=line.kind.name,
            origin=line.origin.name.lower(),
            idempotency_key=line.key,
        )


class Statement(Answer, kw_only=True, rename={"since": "from", "until": "to"}):
    """A statement of an account; the opening balance plus all entries is the closing balance."""

    account_id: int
    owner: str
    currency: str
    final: Annotated[bool, Meta(description="Nothing more can be recorded in this period.")]
    opening_balance: AmountText
    closing_balance: AmountText
    entries_total: int
    since: TimestampText | None
    until: TimestampText | None
    entries: list[StatementLine]

    @classmethod
    def of(
        cls,
        period: Period,
        filters: PeriodFilters,
        lines: list[queries.StatementLine],
    ) -> Self:
        """The statement as it is answered, with these lines."""
        return cls.of_row(
            period,
            opening_balance=to_major(period.opening, period.exponent),
            closing_balance=to_major(period.closing, period.exponent),
            since=optional_timestamp(filters.since),
            until=optional_timestamp(filters.until),
            entries=[StatementLine.of(line, period.exponent) for line in lines],
        )


class StatementFilters(PeriodFilters):
    """The period of a statement, what puts an entry into it, and its format."""

    by: By = "recorded"
    format: Literal["json", "csv", "html"] = "json"


RecordedPlace = tuple[int, int, int, bool]
"""A version of the statement of the versions first to last, and whether the statement is final."""
EffectivePlace = tuple[effective.EffectivePlace, effective.EffectivePeriod]
LinePlace = tuple[RecordedPlace | None, EffectivePlace | None]
"""Of a statement as recorded or as effective.

All pages are of one statement, whatever is recorded meanwhile.
"""


@get(
    router,
    "/accounts/{account_id}/statement",
    Statement,
    StatementFilters,
    media_types=("text/csv", "text/html"),
    need=Need(Scope.TRANSACTIONS_READ, by_accounts=True),
)
async def get_statement(request: Request) -> Response:
    """The statement of an account: all that was recorded from `from` on and before `to`.

    With `by=effective`: all that takes effect in that time, in this order.

    It has an opening balance, the entries and a closing balance. JSON has a page of entries, CSV
    has all of them, and HTML is for printing.
    """
    account_id = id_of(request, "account_id", "account_not_found")
    filters = parameters_of(request, StatementFilters)
    if filters.format == "json":
        return await _json_pages(request, account_id)
    if filters.cursor is not None:
        raise invalid("cursor", "is only for format=json")
    reader = reader_of(request)
    period = await _find_period(reader, account_id, filters)
    if isinstance(period, effective.EffectivePeriod):
        chunks = effective.list_all_lines(reader, period)
    else:
        chunks = queries.list_all_lines(reader, period)
    if filters.format == "csv":
        return _csv_response(period, chunks, filters.timezone)
    shown = _first_lines(period, chunks, filters.timezone)
    page = _html(Statement.of(period, filters, []), shown, filters)
    return PiecewiseResponse(page, "text/html; charset=utf-8", PAGE_HEADERS)


async def _find_period(reader: Reader, account_id: int, filters: StatementFilters) -> Period:
    period: Period | None
    if filters.by == "effective":
        period = await effective.find_period(reader, account_id, filters.since, filters.until)
    else:
        period = await queries.find_period(reader, account_id, filters.since, filters.until)
    if period is None:
        raise ProblemError("account_not_found")
    return period


async def _json_pages(request: Request, account_id: int) -> Response:
    reader = reader_of(request)

    async def read(filters: StatementFilters, after: LinePlace | None) -> Page:
        recorded, dated = after or (None, None)
        if dated is not None:
            return await _effective_page(reader, filters, *dated)
        if recorded is not None:
            return await _recorded_page(reader, filters, account_id, recorded)
        period = await _find_period(reader, account_id, filters)
        if isinstance(period, effective.EffectivePeriod):
            return await _effective_page(reader, filters, effective.beginning(period), period)
        return await _page(reader, filters, period, period.first)

    return await listing(request, StatementFilters, LinePlace, read)


async def _recorded_page(
    reader: Reader, filters: StatementFilters, account_id: int, after: RecordedPlace
) -> Page:
    version, first, last, final = after
    period = await queries.find_period_of_versions(reader, account_id, first, last, final)
    if period is None:
        raise ProblemError("account_not_found")
    return await _page(reader, filters, period, version)


async def _page(
    reader: Reader, filters: StatementFilters, period: queries.StatementPeriod, version: int
) -> Page:
    lines = await queries.list_lines(reader, period, version, filters.limit + 1)
    shown, end = lines[: filters.limit], None
    if len(lines) > len(shown):
        end = ((shown[-1].version, period.first, period.last, period.final), None)
    return Page(Statement.of(period, filters, shown), end)


async def _effective_page(
    reader: Reader,
    filters: StatementFilters,
    after: effective.EffectivePlace,
    period: effective.EffectivePeriod,
) -> Page:
    lines = await effective.list_lines(reader, period, after, filters.limit + 1)
    shown = lines[: filters.limit]
    end = (None, (shown[-1][1], period)) if len(lines) > len(shown) else None
    return Page(Statement.of(period, filters, [line for line, _ in shown]), end)


def _csv_response(
    period: Period, chunks: AsyncIterator[list[queries.StatementLine]], zone: str
) -> Response:
    name = f'attachment; filename="statement-{period.account_id}.csv"'
    headers = {"content-disposition": name, "x-content-type-options": "nosniff"}
    return PiecewiseResponse(_csv(period, chunks, zone), "text/csv; charset=utf-8", headers)


async def _csv(
    period: Period, chunks: AsyncIterator[list[queries.StatementLine]], zone: str
) -> AsyncIterator[str]:
    """The opening balance, the entries and the closing balance as rows."""
    exponent = period.exponent
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, StatementLine.__struct_fields__, lineterminator="\r\n")
    writer.writeheader()
    opening, closing = to_major(period.opening, exponent), to_major(period.closing, exponent)
    writer.writerow({"transaction_type": "OPENING", "balance": opening})
    async for chunk in chunks:
        writer.writerows(_csv_row(StatementLine.of(line, exponent, zone)) for line in chunk)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    writer.writerow({"transaction_type": "CLOSING", "balance": closing})
    yield buffer.getvalue()


def _csv_row(line: StatementLine) -> dict[str, object]:
    """The fields of a line; a text is never a formula (OWASP, CSV injection)."""
    row = msgspec.structs.asdict(line)
    for name in ("idempotency_key", "description", "reference"):
        row[name] = row[name] and guarded(row[name])
    return row


_PAGE = jinja2.Environment(
    loader=jinja2.PackageLoader("ledgerservice.api.resources", ""),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    enable_async=True,
).get_template("statement.html")

PARTS_OF_A_PIECE = 500  # of the template; a line of a statement has about 20

PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


async def _first_lines(
    period: Period, chunks: AsyncIterator[list[queries.StatementLine]], zone: str
) -> AsyncIterator[StatementLine]:
    """Up to HTML_ROWS lines."""
    number = 0
    async for chunk in chunks:
        for line in chunk[: HTML_ROWS - number]:
            yield StatementLine.of(line, period.exponent, zone)
        number += len(chunk)
        if number >= HTML_ROWS:
            return


async def _html(
    statement: Statement, lines: AsyncIterator[StatementLine], filters: StatementFilters
) -> AsyncIterator[str]:
    """The page in pieces; between them other requests have a turn."""
    shown = min(statement.entries_total, HTML_ROWS)
    parts: list[str] = []
    bounds = filters.since, filters.until
    since, until = (time and local_timestamp(time, filters.timezone) for time in bounds)
    values = {"statement": statement, "lines": lines, "shown": shown, "since": since}
    values |= {"until": until, "by": filters.by, "zone": filters.timezone}
    async for part in _PAGE.generate_async(values):
        parts.append(part)
        if len(parts) == PARTS_OF_A_PIECE:
            yield "".join(parts)
            parts.clear()
            await asyncio.sleep(0)
    yield "".join(parts)
