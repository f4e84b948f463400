"""The routes that read accounts, transactions, and what builds on them."""

from typing import Annotated
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from ledgerservice.api.http.openapi import (
    A_MOMENT,
    AN_ID,
    DEFAULT_PAGE_ROWS,
    Cursor,
    Limit,
    account_at,
    after_of,
    both,
    check_query,
    ending_of,
    id_of,
    in_path,
    json_response,
    leads_to,
    listed,
    page_response,
    problems,
    reader_of,
    response,
    runtime_of,
)
from ledgerservice.api.http.problems import ProblemError, problem
from ledgerservice.api.movements import answers as rendering
from ledgerservice.api.movements import models
from ledgerservice.domain.currencies import is_code
from ledgerservice.domain.instructions import BIGGEST_ID
from ledgerservice.domain.ledgers import is_ledger_name
from ledgerservice.errors import Unavailable
from ledgerservice.postgres.queries import accounts, catalogue, holds, schedules, transactions

router = APIRouter()


@both(
    router,
    "GET",
    "/currencies/",
    tags=["currencies"],
    summary="List currencies",
    responses=listed(models.Currency, 422, 503),
)
async def list_currencies(
    request: Request, limit: Limit = DEFAULT_PAGE_ROWS, cursor: Cursor = None
) -> Response:
    """Currencies by code, a page at a time; the Link header leads to the next one."""
    check_query(request, limit)
    filters = ["currencies"]
    after = after_of(request, cursor, filters, 0)
    page = await catalogue.list_currencies(reader_of(request), limit + 1, after)
    return page_response(
        request, page, limit, filters, lambda last: [last.number], rendering.currency_body
    )


@both(
    router,
    "GET",
    "/currencies/{code}",
    tags=["currencies"],
    summary="A currency",
    openapi_extra=in_path(code={"type": "string"}),
    responses={200: {"model": models.Currency}, **problems(404, 503)},
)
async def get_currency(request: Request) -> Response:
    """The currency of a code."""
    code = request.path_params["code"]
    found = await catalogue.find_currency(reader_of(request), code) if is_code(code) else None
    if found is None:
        raise ProblemError("currency_not_found")
    return json_response(rendering.encode(rendering.currency_body(found)))


@both(
    router,
    "GET",
    "/accounts/{account_id}",
    tags=["accounts"],
    summary="An account and its balance",
    openapi_extra=in_path(account_id=AN_ID),
    responses={200: {"model": models.AccountAsOf}, **problems(404, 422, 503)},
)
async def get_account(
    request: Request, as_of: Annotated[str | None, Query(description=A_MOMENT)] = None
) -> Response:
    """The account as it stands, or as it stood at a moment, in as little time.

    As of a moment, `final` says whether nothing can be recorded by then any more.
    """
    check_query(request, None, "as_of")
    if as_of is not None:
        then = await account_at(request, as_of, "as_of")
        body = rendering.account_body(then.view)
        asked = {"as_of": rendering.moment(then.at), "final": then.final}
        return json_response(rendering.encode(body | asked))
    found = await accounts.find(
        reader_of(request), id_of(request, "account_id", "account_not_found")
    )
    if found is None:
        raise ProblemError("account_not_found")
    return json_response(rendering.encode(rendering.account_body(found)))


@both(
    router,
    "GET",
    "/accounts/{account_id}/history",
    tags=["accounts"],
    summary="An account's history",
    openapi_extra=in_path(account_id=AN_ID),
    responses=listed(models.HistoryEntry, 404, 422, 503),
)
async def get_history(
    request: Request, limit: Limit = DEFAULT_PAGE_ROWS, cursor: Cursor = None
) -> Response:
    """The account's entries, newest first; the Link header leads to the next page."""
    reader = reader_of(request)
    check_query(request, limit)
    account = id_of(request, "account_id", "account_not_found")
    filters = ["history", account]
    before = after_of(request, cursor, filters, BIGGEST_ID)
    page = await accounts.list_history(reader, account, limit + 1, before)
    if not page and await accounts.find(reader, account) is None:
        raise ProblemError("account_not_found")
    return page_response(
        request, page, limit, filters, lambda last: [last.version], rendering.history_body
    )


@both(
    router,
    "GET",
    "/accounts/{account_id}/keys/{key:path}",
    tags=["transactions"],
    summary="The recorded outcome of a key",
    openapi_extra=in_path(account_id=AN_ID, key={"type": "string"}),
    responses={
        200: {
            "model": models.Transaction,
            **leads_to(
                get_transaction={"transaction_id": "transaction_id"},
                get_account={"account_id": "account_id"},
            ),
        },
        **problems(404, 503),
    },
)
async def get_key(request: Request) -> Response:
    """What became of a request whose answer was lost: its transaction, or 404."""
    account = id_of(request, "account_id", "account_not_found")
    found = await transactions.find_by_key(reader_of(request), account, _key_of_path(request))
    if found is None:
        raise ProblemError("key_not_found")
    return json_response(rendering.record(found))


def _key_of_path(request: Request) -> str:
    """The key as sent: a key may hold `/`, so only the path as it came tells where it ends."""
    raw = request.scope["raw_path"].partition(b"?")[0]
    key = unquote_to_bytes(raw.partition(b"/keys/")[2].removesuffix(b"/"))
    if not key.isascii() or b"\0" in key:
        raise ProblemError("key_not_found")
    return key.decode()


@both(
    router,
    "GET",
    "/transactions/{transaction_id}",
    tags=["transactions"],
    summary="A transaction and its entries",
    openapi_extra=in_path(transaction_id=AN_ID),
    responses={200: {"model": models.Transaction}, **problems(404, 503)},
)
async def get_transaction(request: Request) -> Response:
    """A posted transaction with its entries, or the record of a declined one."""
    number = id_of(request, "transaction_id", "transaction_not_found")
    reader = reader_of(request)
    found = await transactions.find(reader, number)
    if found is None:
        raise ProblemError("transaction_not_found")
    return json_response(rendering.record(found, await transactions.list_children(reader, number)))


@both(
    router,
    "GET",
    "/accounts/{account_id}/policies",
    tags=["accounts"],
    summary="How an account's policy changed",
    openapi_extra=in_path(account_id=AN_ID),
    responses=listed(models.PolicyChange, 404, 422, 503),
)
async def list_policies(
    request: Request, limit: Limit = DEFAULT_PAGE_ROWS, cursor: Cursor = None
) -> Response:
    """Every change of its limits, newest first: what, when, by whom and why."""
    reader = reader_of(request)
    check_query(request, limit)
    account = id_of(request, "account_id", "account_not_found")
    filters = ["policies", account]
    before = after_of(request, cursor, filters, BIGGEST_ID)
    page = await accounts.list_policies(reader, account, limit + 1, before)
    if not page and await accounts.find(reader, account) is None:
        raise ProblemError("account_not_found")
    return page_response(
        request, page, limit, filters, lambda last: [last.version], rendering.policy_change_body
    )


@both(
    router,
    "GET",
    "/holds/{hold_id}",
    tags=["holds"],
    summary="A hold as it stands",
    openapi_extra=in_path(hold_id=AN_ID),
    responses={200: {"model": models.Hold}, **problems(404, 503)},
)
async def get_hold(request: Request) -> Response:
    """What is left of it, what was captured and released, and when it expires."""
    found = await holds.find(reader_of(request), id_of(request, "hold_id", "hold_not_found"))
    if found is None:
        raise ProblemError("hold_not_found")
    return json_response(rendering.encode(rendering.hold_body(found)))


@both(
    router,
    "GET",
    "/schedules/{schedule_id}",
    tags=["schedules"],
    summary="A scheduled transfer as it stands",
    openapi_extra=in_path(schedule_id=AN_ID),
    responses={200: {"model": models.Schedule}, **problems(404, 503)},
)
async def get_schedule(request: Request) -> Response:
    """Whether it is pending, executed, declined or cancelled, and by which transaction."""
    number = id_of(request, "schedule_id", "schedule_not_found")
    found = await schedules.find(reader_of(request), number)
    if found is None:
        raise ProblemError("schedule_not_found")
    return json_response(rendering.encode(rendering.schedule_body(found)))


@both(
    router,
    "GET",
    "/accounts/{account_id}/holds",
    tags=["holds"],
    summary="An account's open holds",
    openapi_extra=in_path(account_id=AN_ID),
    responses=listed(models.Hold, 404, 422, 503),
)
async def list_holds(
    request: Request, limit: Limit = DEFAULT_PAGE_ROWS, cursor: Cursor = None
) -> Response:
    """What its `held` is made of, by when it ends; what does not end by itself comes last."""
    reader = reader_of(request)
    check_query(request, limit)
    account = id_of(request, "account_id", "account_not_found")
    filters = ["holds", account]
    page = await holds.list_open(reader, account, limit + 1, ending_of(request, cursor, filters))
    if not page and await accounts.find(reader, account) is None:
        raise ProblemError("account_not_found")
    return page_response(
        request,
        page,
        limit,
        filters,
        lambda last: [rendering.optional_moment(last.ends_at), last.id],
        rendering.hold_body,
    )


@both(
    router,
    "GET",
    "/accounts/{account_id}/schedules",
    tags=["schedules"],
    summary="The transfers to come from an account",
    openapi_extra=in_path(account_id=AN_ID),
    responses=listed(models.Schedule, 404, 422, 503),
)
async def list_schedules(
    request: Request, limit: Limit = DEFAULT_PAGE_ROWS, cursor: Cursor = None
) -> Response:
    """What is pending, by when it is to be made."""
    reader = reader_of(request)
    check_query(request, limit)
    account = id_of(request, "account_id", "account_not_found")
    filters = ["schedules", account]
    page = await schedules.list_pending(
        reader, account, limit + 1, ending_of(request, cursor, filters)
    )
    if not page and await accounts.find(reader, account) is None:
        raise ProblemError("account_not_found")
    return page_response(
        request,
        page,
        limit,
        filters,
        lambda last: [rendering.moment(last.execute_at), last.id],
        rendering.schedule_body,
    )


@both(
    router,
    "GET",
    "/ledgers/",
    tags=["ledgers"],
    summary="List ledgers",
    responses=listed(models.Ledger, 422, 503),
)
async def list_ledgers(
    request: Request, limit: Limit = DEFAULT_PAGE_ROWS, cursor: Cursor = None
) -> Response:
    """Ledgers in the order they were added, a page at a time."""
    check_query(request, limit)
    filters = ["ledgers"]
    after = after_of(request, cursor, filters, 0)
    page = await catalogue.list_ledgers(reader_of(request), limit + 1, after)
    return page_response(
        request, page, limit, filters, lambda last: [last.id], rendering.ledger_body
    )


@both(
    router,
    "GET",
    "/ledgers/{name}",
    tags=["ledgers"],
    summary="A ledger",
    openapi_extra=in_path(name={"type": "string"}),
    responses={200: {"model": models.Ledger}, **problems(404, 503)},
)
async def get_ledger(request: Request) -> Response:
    """The ledger of a name. All other routes are also under it: `/ledgers/{name}/accounts`."""
    name = request.path_params["name"]
    found = await catalogue.find_ledger(reader_of(request), name) if is_ledger_name(name) else None
    if found is None:
        raise ProblemError("ledger_not_found")
    return json_response(rendering.encode(rendering.ledger_body(found)))


@both(router, "GET", "/health/live", tags=["health"], summary="Whether the process answers")
async def live() -> Response:
    """200 as long as the process answers."""
    return json_response(b'{"status":"live"}')


@both(
    router,
    "GET",
    "/health/ready",
    tags=["health"],
    summary="Whether money can move",
    responses=problems(503),
)
async def ready(request: Request) -> Response:
    """200 if the database answers and its schema is the expected one, else 503."""
    try:
        if await runtime_of(request).ready():
            return json_response(b'{"status":"ready"}')
    except Unavailable:
        pass
    return response(*problem("unavailable"))
