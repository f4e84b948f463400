"""Currencies."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from ledgerservice.access.grants import ANY_KEY, Need
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.authentication import caller_of
from ledgerservice.api.http.bodies import Body, body_of
from ledgerservice.api.http.call import (
    LEDGER,
    call_of,
    created,
    json_response,
    ledger_of,
    runtime_of,
    shards_of,
)
from ledgerservice.api.http.fields import Answer, Exponent, Text
from ledgerservice.api.http.openapi import DRY_RUN, body_schema, get, post
from ledgerservice.api.http.pages import Page, Paging, first_rows, listing
from ledgerservice.api.http.problems import ProblemError, rejection
from ledgerservice.domain.currencies import CODE_PATTERN, CurrencyRequest, is_code
from ledgerservice.domain.transactions import Rejected
from ledgerservice.postgres.queries import catalogue
from ledgerservice.postgres.reader import Reader

router = APIRouter(tags=["currencies"])


class Currency(Answer):
    """A currency: its code, the number of decimals of its amounts, and its name.

    `own`: only the ledger in the path has it.
    """

    code: str
    exponent: int
    name: str
    own: bool


class AddCurrency(Body):
    """Add a currency, or a unit of the caller's own: points, hours, BTC."""

    code: str = Field(pattern=f"^{CODE_PATTERN}$", examples=["BTC"])
    exponent: Exponent
    name: Text = Field(examples=["Bitcoin"])


@post(
    router,
    "/currencies/",
    Currency,
    body_schema(AddCurrency, {"bitcoin": {"code": "BTC", "exponent": 8, "name": "Bitcoin"}}),
    status=201,
    refusals=(408, 409, 413, 415, 422, 503),
    parameters=(DRY_RUN,),
    links={"get_currency": {"code": "code"}},
    need=Need(Scope.CURRENCIES_WRITE, "named"),
)
async def add_currency(request: Request) -> Response:
    """Add a currency, or a unit of the caller's own.

    With a ledger in the path only this ledger gets it. Without one all ledgers get it.

    The code is the key, so a repeat has no effect.
    """
    call, ledger = call_of(request), request.scope.get(LEDGER)
    if ledger is not None and await call.runtime.parts_of(ledger) is not None:
        raise ProblemError("ledger_has_parts")
    body = await body_of(call, AddCurrency)
    facts = body.code, body.exponent, body.name
    new = CurrencyRequest(*facts, call.dry_run, call.caller.principal_id, ledger)
    outcome = await shards_of(request).add_currency(new)
    if isinstance(outcome, Rejected):
        raise rejection(outcome)
    return created(_shown(outcome, outcome.ledger), replayed=outcome.replayed)


def _shown(row: Any, ledger: int | None) -> Currency:
    return Currency(row.code, row.exponent, row.name, ledger is not None)


_NO_LEDGER = 0


def _reader_for(request: Request) -> Reader:
    """A reader that sees the units of the ledger in the path, if the caller may know the ledger.

    Any key may list currencies, also one that has no right on the default ledger.
    """
    ledger = ledger_of(request)
    is_known = caller_of(request.scope).knows(ledger)
    return runtime_of(request).main.reader.of(ledger if is_known else _NO_LEDGER)


@get(router, "/currencies/", list[Currency], Paging, need=ANY_KEY)
async def list_currencies(request: Request) -> Response:
    """Currencies by code."""

    async def read(filters: Paging, after: int | None) -> Page:
        rows = await catalogue.list_currencies(_reader_for(request), filters.limit + 1, after or 0)
        return first_rows(
            rows, filters.limit, lambda row: _shown(row, row.ledger_id), lambda last: last.number
        )

    return await listing(request, Paging, int, read)


@get(router, "/currencies/{code}", Currency, need=ANY_KEY)
async def get_currency(request: Request) -> Response:
    """The currency with this code."""
    code = request.path_params["code"]
    currency = None
    if is_code(code):
        currency = await catalogue.find_currency(_reader_for(request), code)
    if currency is None:
        raise ProblemError("currency_not_found")
    return json_response(_shown(currency, currency.ledger_id))
