"""The routes that look back and across: balances of then, statements, reports, transactions."""

import csv
import io
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Literal

import jinja2
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from ledgerservice.api.http import pages as cursors
from ledgerservice.api.http.openapi import (
    A_MOMENT,
    AN_ID,
    DEFAULT_PAGE_ROWS,
    Cursor,
    Limit,
    account_at,
    both,
    check_query,
    id_of,
    in_path,
    invalid,
    json_response,
    listed,
    moment_of,
    page_response,
    problems,
    reader_of,
)
from ledgerservice.api.http.problems import ProblemError
from ledgerservice.api.movements import answers as rendering
from ledgerservice.api.resources import reports as reading_models
from ledgerservice.domain.amounts import to_major
from ledgerservice.postgres.queries import reports, statements

router = APIRouter()

HTML_ROWS = 5_000

AMoment = Annotated[str | None, Query(description=A_MOMENT)]
AText = Annotated[str | None, Query(max_length=255)]


@both(
    router,
    "GET",
    "/accounts/{account_id}/balances",
    tags=["history"],
    summary="An account's balances as of a moment",
    openapi_extra=in_path(account_id=AN_ID),
    responses={200: {"model": reading_models.Balances}, **problems(404, 422, 503)},
)
async def get_balances(
    request: Request, at: Annotated[str, Query(description=A_MOMENT)]
) -> Response:
    """As recorded by then, and as effective by then, backdated transactions included.

    The first can no longer change if `final`; the second can, by whatever is backdated later.
    """
    check_query(request, None, "at")
    found = await account_at(request, at, "at")
    view = found.view
    body = {
        "account_id": view.id,
        "currency": view.currency,
        "at": rendering.moment(found.at),
        "final": found.final,
        "recorded": {
            "balance": to_major(view.balance, view.exponent),
            "held": to_major(view.held, view.exponent),
            "available": to_major(view.balance - view.held, view.exponent),
            "version": view.version,
        },
        "effective": {"balance": to_major(found.effective, view.exponent)},
    }
    return json_response(rendering.encode(body))


# Statements.


@both(
    router,
    "GET",
    "/accounts/{account_id}/statement",
    tags=["history"],
    summary="An account's statement",
    openapi_extra=in_path(account_id=AN_ID),
    responses={
        200: {
            "model": reading_models.Statement,
            "content": {"text/csv": {}, "text/html": {}},
        },
        **problems(404, 422, 503),
    },
)
async def get_statement(
    request: Request,
    since: Annotated[str | None, Query(alias="from", description=A_MOMENT)] = None,
    until: Annotated[str | None, Query(alias="to", description=A_MOMENT)] = None,
    form: Annotated[Literal["json", "csv", "html"], Query(alias="format")] = "json",
    limit: Limit = DEFAULT_PAGE_ROWS,
    cursor: Cursor = None,
) -> Response:
    """Opening balance, entries, and closing balance of all that was recorded from `from` on and
    before `to`. In JSON a page of entries at a time; CSV has all; the page is made to be printed.
    """
    check_query(request, limit, "from", "to", "format")
    account = id_of(request, "account_id", "account_not_found")
    begin, end = _span(since, until)
    if form == "json":
        return await _pages(request, account, begin, end, limit, cursor)
    if cursor is not None:
        raise invalid("cursor", "is of the pages in JSON")
    reader = reader_of(request)
    period = await statements.find_period(reader, account, begin, end)
    if period is None:
        raise ProblemError("account_not_found")
    if form == "csv":
        return _csv_response(period, statements.list_all_lines(reader, period))
    found = await statements.list_lines(reader, period, period.first, HTML_ROWS + 1)
    return _html(period, found, begin, end)


Span = tuple[datetime | None, datetime | None]


def _span(since: str | None, until: str | None) -> Span:
    begin, end = moment_of("from", since), moment_of("to", until)
    if begin is not None and end is not None and end < begin:
        raise invalid("to", "must not be before from")
    return begin, end


async def _pages(
    request: Request,
    account: int,
    begin: datetime | None,
    end: datetime | None,
    limit: int,
    cursor: str | None,
) -> Response:
    """All pages are of one statement, whatever is recorded meanwhile: the cursor says of which."""
    reader = reader_of(request)
    span = {"from": rendering.optional_moment(begin), "to": rendering.optional_moment(end)}
    filters = ["statement", account, span]
    if cursor is None:
        period = await statements.find_period(reader, account, begin, end)
        after = None
    else:
        after, first, last, final = cursors.decode(request, cursor, filters)
        period = await statements.find_period_of_versions(reader, account, first, last, final)
    if period is None:
        raise ProblemError("account_not_found")
    found = await statements.list_lines(reader, period, after or period.first, limit + 1)
    headers = None
    if len(found) > limit:
        place = [found[limit - 1].version, period.first, period.last, period.final]
        text = cursors.encode(request, place, filters)
        headers = cursors.next_link(request, text, **span, limit=limit)
    lines = [_line(period, line) for line in found[:limit]]
    return json_response(rendering.encode(_head(period) | span | {"entries": lines}), headers)


def _head(period: statements.StatementPeriod) -> dict[str, Any]:
    exponent = period.exponent
    return {
        "account_id": period.account_id,
        "owner": period.owner,
        "currency": period.currency,
        "final": period.final,
        "opening_balance": to_major(period.opening, exponent),
        "closing_balance": to_major(period.closing, exponent),
        "entries_total": period.last - period.first,
    }


def _line(period: statements.StatementPeriod, line: statements.StatementLine) -> dict[str, Any]:
    exponent = period.exponent
    effective_at = line.effective_at
    return {
        "version": line.version,
        "recorded_at": rendering.moment(line.recorded_at),
        "transaction_id": line.transaction_id,
        "transaction_type": line.kind.name,
        "amount": to_major(line.amount, exponent),
        "balance": to_major(line.balance, exponent),
        "counterparty_id": line.counterparty_id,
        "idempotency_key": line.key,
        "description": line.description,
        "reference": line.reference,
        "effective_at": None if effective_at is None else rendering.moment(effective_at),
    }


def _csv_response(
    period: statements.StatementPeriod, chunks: AsyncIterator[list[statements.StatementLine]]
) -> Response:
    name = f'attachment; filename="statement-{period.account_id}.csv"'
    headers = {"content-disposition": name, "x-content-type-options": "nosniff"}
    return StreamingResponse(
        _csv(period, chunks), media_type="text/csv; charset=utf-8", headers=headers
    )


async def _csv(
    period: statements.StatementPeriod, chunks: AsyncIterator[list[statements.StatementLine]]
) -> AsyncIterator[str]:
    """Opening balance, entries and closing balance as rows; a spreadsheet computes no text."""
    names = list(reading_models.StatementLine.model_fields)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\r\n")
    writer.writeheader()
    head = _head(period)
    writer.writerow({"transaction_type": "OPENING", "balance": head["opening_balance"]})
    async for chunk in chunks:
        for line in chunk:
            writer.writerow({n: _harmless(n, v) for n, v in _line(period, line).items()})
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    writer.writerow({"transaction_type": "CLOSING", "balance": head["closing_balance"]})
    yield buffer.getvalue()


def _harmless(name: str, value: Any) -> Any:
    """A text that a spreadsheet would take for a formula is quoted (OWASP, CSV injection)."""
    texts = ("idempotency_key", "description", "reference")
    if name in texts and value and value.lstrip(" \ufeff")[:1] in _FORMULA:
        return f"'{value}"
    return value


_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


_PAGE = jinja2.Environment(
    loader=jinja2.PackageLoader("ledgerservice.api.resources", ""),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
).get_template("statement.html")


PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


def _html(
    period: statements.StatementPeriod,
    found: list[statements.StatementLine],
    begin: datetime | None,
    end: datetime | None,
) -> Response:
    shown = [_line(period, line) for line in found[:HTML_ROWS]]
    page = _PAGE.render(
        head=_head(period),
        lines=shown,
        since=rendering.optional_moment(begin),
        until=rendering.optional_moment(end),
        cut=len(found) > HTML_ROWS,
    )
    return Response(page, media_type="text/html; charset=utf-8", headers=PAGE_HEADERS)


# Reports.


@both(
    router,
    "GET",
    "/reports/trial-balance",
    tags=["reports"],
    summary="All balances, which sum to zero",
    responses={200: {"model": reading_models.TrialBalance}, **problems(422, 503)},
)
async def get_trial_balance(request: Request, at: AMoment = None) -> Response:
    """The sums of all accounts by currency, in one snapshot: as they stand, or as of a moment.

    `final`: nothing can be recorded by that moment any more, so that they stay as they are.
    """
    check_query(request, None, "at")
    moment = moment_of("at", at)
    found, final = await reports.trial_balance(reader_of(request), moment)
    rows = [
        {
            "currency": row.currency,
            "accounts": row.accounts,
            **{
                name: to_major(getattr(row, name), row.exponent)
                for name in ("debits", "credits", "customers", "external", "total")
            },
        }
        for row in found
    ]
    body = {"at": rendering.optional_moment(moment), "final": final, "currencies": rows}
    return json_response(rendering.encode(body))


@both(
    router,
    "GET",
    "/reports/balances",
    tags=["reports"],
    summary="Balances by owner",
    responses=listed(reading_models.OwnerBalance, 422, 503),
)
async def list_owner_balances(
    request: Request, limit: Limit = DEFAULT_PAGE_ROWS, cursor: Cursor = None
) -> Response:
    """What each owner has in each currency, by owner, a page at a time."""
    check_query(request, limit)
    filters = ["owners"]
    after = ["", ""] if cursor is None else cursors.decode(request, cursor, filters)
    owner, currency = after
    page = await reports.list_owner_balances(reader_of(request), limit + 1, (owner, currency))
    return page_response(
        request, page, limit, filters, lambda last: [last.owner, last.currency], _owner_balance
    )


def _owner_balance(row: reports.OwnerBalance) -> dict[str, Any]:
    return {
        "owner": row.owner,
        "currency": row.currency,
        "accounts": row.accounts,
        "balance": to_major(row.balance, row.exponent),
        "held": to_major(row.held, row.exponent),
    }


@both(
    router,
    "GET",
    "/reports/totals",
    tags=["reports"],
    summary="Totals by a metadata key",
    responses=listed(reading_models.MetadataTotal, 422, 503),
)
async def list_totals(
    request: Request,
    key: Annotated[str, Query(min_length=1, max_length=255)],
    since: Annotated[str | None, Query(alias="from", description=A_MOMENT)] = None,
    until: Annotated[str | None, Query(alias="to", description=A_MOMENT)] = None,
    limit: Limit = DEFAULT_PAGE_ROWS,
    cursor: Cursor = None,
) -> Response:
    """Posted transactions by the values of a key of their metadata: how many, and their amount."""
    check_query(request, limit, "key", "from", "to")
    begin, end = _span(since, until)
    filters = ["totals", key, rendering.optional_moment(begin), rendering.optional_moment(end)]
    after = None
    if cursor is not None:
        nothing, beginning, digest, currency = cursors.decode(request, cursor, filters)
        after = nothing, beginning, digest, currency
    page = await reports.list_totals(reader_of(request), key, begin, end, limit + 1, after)
    headers = None
    if len(page) > limit:
        text = cursors.encode(request, list(page[limit - 1][1]), filters)
        query = {
            "key": key,
            "from": rendering.optional_moment(begin),
            "to": rendering.optional_moment(end),
            "limit": limit,
        }
        headers = cursors.next_link(request, text, **query)
    rows = [
        {
            "value": row.value,
            "currency": row.currency,
            "transactions": row.transactions,
            "amount": to_major(row.amount, row.exponent),
        }
        for row, _ in page[:limit]
    ]
    return json_response(rendering.encode(rows), headers)
