"""The lists of accounts and of transactions, by any filter."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BeforeValidator

from ledgerservice.api.http import pages as cursors
from ledgerservice.api.http.openapi import (
    A_MOMENT,
    DEFAULT_PAGE_ROWS,
    Cursor,
    Limit,
    both,
    check_query,
    invalid,
    json_response,
    listed,
    moment_of,
    plain_integer,
    reader_of,
    runtime_of,
)
from ledgerservice.api.http.problems import ProblemError
from ledgerservice.api.movements import answers as rendering
from ledgerservice.api.movements import models
from ledgerservice.domain.amounts import MAX_BALANCE_MINOR, is_amount, to_minor
from ledgerservice.domain.instructions import BIGGEST_ID, Kind
from ledgerservice.domain.metadata import decode_json, metadata_text
from ledgerservice.domain.transactions import Status
from ledgerservice.postgres.queries import accounts, catalogue, transactions
from ledgerservice.postgres.queries.accounts import AccountFilter
from ledgerservice.postgres.queries.transactions import TransactionFilter

router = APIRouter()

AText = Annotated[str | None, Query(max_length=255)]
ACurrency = Annotated[str | None, Query(max_length=16)]
AnAmount = Annotated[str | None, Query(max_length=255, description="In `currency`.")]
AMoment = Annotated[str | None, Query(description=A_MOMENT)]
AnObject = Annotated[
    str | None, Query(max_length=2048, description="A JSON object that theirs contain.")
]


@both(
    router,
    "GET",
    "/accounts/",
    tags=["accounts"],
    summary="List accounts",
    responses=listed(models.Account, 422, 503),
)
async def list_accounts(
    request: Request,
    owner: AText = None,
    currency: ACurrency = None,
    reference: AText = None,
    status: Literal["active", "frozen", "closed"] | None = None,
    min_balance: AnAmount = None,
    max_balance: AnAmount = None,
    since: Annotated[AMoment, Query(alias="from")] = None,
    until: Annotated[AMoment, Query(alias="to")] = None,
    metadata: AnObject = None,
    limit: Limit = DEFAULT_PAGE_ROWS,
    cursor: Cursor = None,
) -> Response:
    """Accounts by id, or by when they were opened where `from` or `to` bounds it, a page at a time.

    The Link header leads to the next page, also from one with fewer rows than `limit`. Filters add
    up.
    """
    names = ("owner", "currency", "reference", "status", "min_balance", "max_balance", "from", "to",
             "metadata")  # fmt: skip
    given, place = _page_of(request, _ACCOUNTS, limit, cursor, names)
    wanted = AccountFilter(
        given.get("owner"),
        given.get("currency"),
        given.get("reference"),
        given.get("status"),
        await _minor(request, given, "min_balance", signed=True),
        await _minor(request, given, "max_balance", signed=True),
        moment_of("from", given.get("from")),
        moment_of("to", given.get("to")),
        _metadata(given.get("metadata")),
    )
    *moment, number = place or [None]
    after = None if number is None else (*map(datetime.fromisoformat, moment), number)
    found, end = await accounts.list_filtered(reader_of(request), wanted, limit, after)
    return json_response(
        rendering.encode([rendering.account_body(account) for account in found]),
        _next(request, _ACCOUNTS, given, end, limit),
    )


_KINDS = Literal[
    "DEPOSIT", "WITHDRAWAL", "TRANSFER", "GENERAL", "HOLD", "CAPTURE", "RELEASE", "REVERSAL",
    "POLICY", "SCHEDULE", "CANCELLATION",
]  # fmt: skip


@both(
    router,
    "GET",
    "/transactions/",
    tags=["transactions"],
    summary="List transactions",
    responses=listed(models.Transaction, 422, 503),
)
async def list_transactions(
    request: Request,
    account_id: Annotated[
        int | None, BeforeValidator(plain_integer), Query(ge=-BIGGEST_ID, le=BIGGEST_ID)
    ] = None,
    owner: AText = None,
    kind: _KINDS | None = None,
    status: Literal["posted", "declined"] | None = None,
    currency: ACurrency = None,
    min_amount: AnAmount = None,
    max_amount: AnAmount = None,
    since: Annotated[AMoment, Query(alias="from")] = None,
    until: Annotated[AMoment, Query(alias="to")] = None,
    reference: AText = None,
    metadata: AnObject = None,
    limit: Limit = DEFAULT_PAGE_ROWS,
    cursor: Cursor = None,
) -> Response:
    """Newest first, a page at a time. Filters add up.

    The Link header leads to the next page, also from one with fewer rows than `limit`.
    """
    names = ("account_id", "owner", "kind", "status", "currency", "min_amount", "max_amount",
             "from", "to", "reference", "metadata")  # fmt: skip
    given, place = _page_of(request, _TRANSACTIONS, limit, cursor, names)
    wanted = TransactionFilter(
        int(given["account_id"]) if "account_id" in given else None,
        given.get("owner"),
        Kind[given["kind"]] if "kind" in given else None,
        Status[given["status"].upper()] if "status" in given else None,
        given.get("currency"),
        await _minor(request, given, "min_amount"),
        await _minor(request, given, "max_amount"),
        moment_of("from", given.get("from")),
        moment_of("to", given.get("to")),
        given.get("reference"),
        _metadata(given.get("metadata")),
    )
    after = None
    if place is not None:
        moment, number = place
        after = datetime.fromisoformat(moment), number
    found, end = await transactions.list_filtered(reader_of(request), wanted, limit, after)
    return json_response(
        b"[%b]" % b",".join(map(rendering.record, found)),
        _next(request, _TRANSACTIONS, given, end, limit),
    )


MAX_FILTER_VALUES = 20
MAX_FILTER_BYTES = 3_500  # so that a cursor, which carries them, has its place in a URL

_ACCOUNTS, _TRANSACTIONS = ["accounts"], ["transactions"]

Given = dict[str, str]
"""The filters as the caller has written them."""


def _page_of(
    request: Request, of: list[str], limit: int, cursor: str | None, names: tuple[str, ...]
) -> tuple[Given, list[Any] | None]:
    """The filters of a page, and the place that it begins after. A cursor carries both; whoever
    gives filters beside it must give the same.
    """
    check_query(request, limit, *names)
    given = {name: request.query_params[name] for name in names if name in request.query_params}
    if len(rendering.encode(given)) > MAX_FILTER_BYTES:
        raise invalid("query", f"the filters together must be at most {MAX_FILTER_BYTES} bytes")
    if cursor is None:
        return given, None
    carried, *place = cursors.decode(request, cursor, of)
    if given and given != carried:
        raise ProblemError("invalid_cursor")
    return carried, place


def _next(
    request: Request, of: list[str], given: Given, end: tuple[Any, ...] | None, limit: int
) -> dict[str, str] | None:
    """The header that leads on from the `end` of a page."""
    if end is None:
        return None
    place = [part.isoformat() if isinstance(part, datetime) else part for part in end]
    return cursors.next_link(request, cursors.encode(request, [given, *place], of), limit=limit)


async def _minor(request: Request, given: Given, name: str, *, signed: bool = False) -> int | None:
    """A bound in minor units: it means nothing without its currency."""
    text, currency = given.get(name), given.get("currency")
    if text is None:
        return None
    if currency is None:
        raise invalid("currency", f"must be given with {name}")
    known = await catalogue.find_currency(runtime_of(request).reader, currency)
    if known is None:
        raise ProblemError("currency_unknown")
    digits = text.removeprefix("-") if signed else text
    minor = to_minor(digits, known.exponent) if is_amount(digits) else None
    if minor is None:
        raise invalid(name, "must be a plain decimal, within the currency's decimals")
    minor = min(minor, MAX_BALANCE_MINOR + 1)
    return minor if digits == text else -minor


def _metadata(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        wanted = decode_json(text)
        kept = metadata_text(wanted)
    except (ValueError, RecursionError):
        raise invalid("metadata", "must be a JSON object") from None
    if _values_in(wanted) > MAX_FILTER_VALUES:
        raise invalid("metadata", f"must ask for at most {MAX_FILTER_VALUES} values")
    return kept


def _values_in(document: Any) -> int:
    """How many values a document names. Each is looked for in every row's arrays."""
    if isinstance(document, dict):
        return sum(map(_values_in, document.values()))
    return sum(map(_values_in, document)) if isinstance(document, list) else 1
