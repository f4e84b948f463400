"""The lists of accounts and of transactions, by any filter."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BeforeValidator

from ledgerservice import directory, queries
from ledgerservice.api import cursors, models, rendering
from ledgerservice.api.bodies import decode_json
from ledgerservice.api.declaring import (
    A_MOMENT,
    DEFAULT_PAGE_ROWS,
    Cursor,
    Limit,
    both,
    check_query,
    invalid,
    json_response,
    moment_of,
    plain_integer,
    problems,
    reader_of,
    runtime_of,
)
from ledgerservice.api.fields import metadata_text
from ledgerservice.api.problems import Refused
from ledgerservice.directory import AccountFilter
from ledgerservice.model import Status
from ledgerservice.money import MAX_BALANCE_MINOR, is_amount, to_minor
from ledgerservice.queries import Filter
from ledgerservice.requests import BIGGEST_ID, Kind

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
    responses={200: {"model": list[models.Account]}, **problems(422, 503)},
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
    given = _given(request, limit, names)
    wanted = AccountFilter(
        owner,
        currency,
        reference,
        status,
        await _minor(request, currency, "min_balance", min_balance, signed=True),
        await _minor(request, currency, "max_balance", max_balance, signed=True),
        moment_of("from", since),
        moment_of("to", until),
        _metadata(metadata),
    )
    filters = ["accounts", given]
    after = None
    if cursor is not None:
        *moment, number = cursors.decode(request, cursor, filters)
        after = (*map(datetime.fromisoformat, moment), number)
    found, end = await directory.accounts(reader_of(request), wanted, limit, after)
    return json_response(
        rendering.encode([rendering.account_body(account) for account in found]),
        _next(request, end, filters, given, limit),
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
    responses={200: {"model": list[models.Transaction]}, **problems(422, 503)},
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
    given = _given(request, limit, names)
    wanted = Filter(
        account_id,
        owner,
        None if kind is None else Kind[kind],
        None if status is None else Status[status.upper()],
        currency,
        await _minor(request, currency, "min_amount", min_amount),
        await _minor(request, currency, "max_amount", max_amount),
        moment_of("from", since),
        moment_of("to", until),
        reference,
        _metadata(metadata),
    )
    filters = ["transactions", given]
    after = queries.AT_THE_TOP
    if cursor is not None:
        moment, number = cursors.decode(request, cursor, filters)
        after = datetime.fromisoformat(moment), number
    found, end = await queries.transactions(reader_of(request), wanted, limit, after)
    return json_response(
        b"[%b]" % b",".join(map(rendering.record, found)),
        _next(request, end, filters, given, limit),
    )


Given = dict[str, str | None]


def _given(request: Request, limit: int, names: tuple[str, ...]) -> Given:
    """The filters as the caller has written them, which the pages after this one have too."""
    check_query(request, limit, *names)
    return {name: request.query_params.get(name) for name in names}


def _next(
    request: Request, end: tuple[Any, ...] | None, filters: list[Any], given: Given, limit: int
) -> dict[str, str] | None:
    """The header that leads on from the `end` of a page."""
    if end is None:
        return None
    place = [part.isoformat() if isinstance(part, datetime) else part for part in end]
    text = cursors.encode(request, place, filters)
    return cursors.next_link(request, text, **given, limit=limit)


async def _minor(
    request: Request, currency: str | None, name: str, text: str | None, *, signed: bool = False
) -> int | None:
    """A bound in minor units: it means nothing without its currency."""
    if text is None:
        return None
    if currency is None:
        raise invalid("currency", f"must be given with {name}")
    known = await runtime_of(request).reader.currency(currency)
    if known is None:
        raise Refused("currency_unknown")
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
        return metadata_text(decode_json(text))
    except (ValueError, RecursionError):
        raise invalid("metadata", "must be a JSON object") from None
