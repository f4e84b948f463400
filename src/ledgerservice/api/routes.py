"""The routes. Each is declared for the docs and passes on to a handler or the reader."""

import re
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from ledgerservice.api import batches, cursors, handlers, models, rendering
from ledgerservice.api.bodies import media_type
from ledgerservice.api.movements import MONEY_ROUTES
from ledgerservice.api.problems import Refused, problem
from ledgerservice.errors import Unavailable
from ledgerservice.model import is_code
from ledgerservice.reads import PAST_ALL_VERSIONS
from ledgerservice.runtime import Runtime

router = APIRouter()

Route = Callable[..., Any]

_ID = re.compile(r"-?[1-9][0-9]{0,18}", re.ASCII)
DEFAULT_PAGE_ROWS = 100

Limit = Annotated[int, Query(ge=1, description="Rows in a page.")]
Cursor = Annotated[str | None, Query(max_length=2048, description="From the Link header.")]
IdempotencyKey = Annotated[
    str | None, Header(description="Names the request; a repeat gets the original answer.")
]


def _both(method: str, path: str, **declared: Any) -> Callable[[Route], Route]:
    """Registers a route with and without its trailing slash; neither redirects.

    What answers GET answers HEAD too, which some who watch over a service send.
    """

    def register(route: Route) -> Route:
        declared.setdefault("operation_id", declared.get("name", route.__name__))
        router.add_api_route(path, route, methods=[method], response_model=None, **declared)
        other = path.rstrip("/") if path.endswith("/") else path + "/"
        undeclared = [(other, method)]
        if method == "GET":
            undeclared += [(path, "HEAD"), (other, "HEAD")]
        for place, by in undeclared:
            router.add_api_route(
                place, route, methods=[by], response_model=None, include_in_schema=False
            )
        return route

    return register


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {"application/problem+json": {"schema": models.ProblemDetails.model_json_schema()}}
    return {status: {"description": "Problem", "content": content} for status in statuses}


def _body_of(model: type[BaseModel], others: dict[str, Any] | None = None) -> dict[str, Any]:
    content = {"application/json": {"schema": model.model_json_schema()}, **(others or {})}
    return {"requestBody": {"required": True, "content": content}}


def _in_path(**schemas: dict[str, Any]) -> dict[str, Any]:
    """Path parameters for the docs. Read from the request: an id that is none is 404, not 422."""
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": schema}
            for name, schema in schemas.items()
        ]
    }


_AN_ID = {"type": "integer", "format": "int64"}


def _leads_to(**links: dict[str, str]) -> dict[str, Any]:
    """Links for the docs: operations, and where in an answer their path parameters stand."""
    return {
        "links": {
            name: {
                "operationId": name,
                "parameters": {place: f"$response.body#/{field}" for place, field in of.items()},
            }
            for name, of in links.items()
        }
    }


def _runtime(request: Request) -> Runtime:
    runtime: Runtime = request.app.state.runtime
    return runtime


def _id(request: Request, name: str, code: str) -> int:
    """An id out of a path; what is not an id names nothing."""
    text = request.path_params[name]
    if _ID.fullmatch(text) and abs(number := int(text)) <= PAST_ALL_VERSIONS:
        return number
    raise Refused(code)


def response(status: int, body: bytes, headers: dict[str, str]) -> Response:
    """A handler's reply as FastAPI sends it."""
    return Response(body, status, headers)


def _json(body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, headers=headers, media_type="application/json")


def _declare_money_route(name: str, answer: type[BaseModel]) -> None:
    route = MONEY_ROUTES[name]

    async def move(request: Request, idempotency_key: IdempotencyKey = None) -> Response:
        reply = await handlers.move(_runtime(request), route, request.headers.raw, request.receive)
        return response(*reply)

    _both(
        "POST",
        f"/{name}/",
        name=name,
        summary=str(route.model.__doc__),
        tags=["money"],
        openapi_extra=_body_of(route.model),
        responses={
            200: {
                "model": answer,
                **_leads_to(get_transaction={"transaction_id": "transaction_id"}),
            },
            **_problems(400, 404, 408, 409, 413, 415, 422, 503),
        },
    )(move)


_declare_money_route("deposit", models.PostedOwn)
_declare_money_route("withdraw", models.PostedOwn)
_declare_money_route("transfer", models.PostedTransfer)


class _Stream(Response):
    """An answer that is written while the body is read."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__()
        self._runtime = runtime

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Reads from and writes to the connection itself."""
        await batches.post_stream(self._runtime, receive, send)


@_both(
    "POST",
    "/batches/",
    tags=["money"],
    summary="Many movements in one request",
    openapi_extra=_body_of(models.Batch, {batches.NDJSON: {"schema": {"type": "string"}}}),
    responses={200: {"model": models.Results}, **_problems(408, 409, 413, 415, 422, 503)},
)
async def post_batch(request: Request) -> Response:
    """Each item has its own key, so that the whole may be sent again: nothing moves twice.

    Independent items succeed or fail each for itself, and the answer is 200 with a result for
    each. Of an atomic batch all are posted or none: then the answer is 409 `batch_failed`.

    As `application/x-ndjson` the body is a stream of any length, an item a line, each answered by
    a line as soon as it is durable; a line of white space is passed over.
    """
    if media_type(request.headers.raw) == batches.NDJSON:
        return _Stream(_runtime(request))
    reply = await batches.post_batch(_runtime(request), request.headers.raw, request.receive)
    return response(*reply)


@_both(
    "POST",
    "/accounts/",
    tags=["accounts"],
    summary="Open an account",
    status_code=201,
    openapi_extra=_body_of(models.OpenAccount),
    responses={
        201: {
            "model": models.Account,
            **_leads_to(get_account={"account_id": "id"}, get_history={"account_id": "id"}),
        },
        **_problems(408, 409, 413, 415, 422, 503),
    },
)
async def open_account(request: Request, idempotency_key: IdempotencyKey = None) -> Response:
    """Opens an account with a zero balance. A reference or a key makes a repeat harmless."""
    reply = await handlers.open_account(_runtime(request), request.headers.raw, request.receive)
    return response(*reply)


@_both(
    "GET",
    "/accounts/",
    tags=["accounts"],
    summary="List accounts",
    responses={200: {"model": list[models.Account]}, **_problems(422, 503)},
)
async def list_accounts(
    request: Request,
    owner: Annotated[str | None, Query(max_length=255)] = None,
    currency: Annotated[str | None, Query(max_length=16)] = None,
    limit: Limit = DEFAULT_PAGE_ROWS,
    cursor: Cursor = None,
) -> Response:
    """Accounts by id, a page at a time; the Link header leads to the next one."""
    runtime = _runtime(request)
    _check_query(request, limit, "owner", "currency")
    filters = ["accounts", owner, currency]
    after = 0 if cursor is None else cursors.decode(cursor, filters)
    page = await runtime.reader.accounts(owner, currency, after, limit + 1)
    headers = None
    if len(page) > limit:
        place = cursors.encode(page[limit - 1].id, filters)
        headers = cursors.next_link(request, place, owner=owner, currency=currency, limit=limit)
    return _json(rendering.encode([rendering.account_body(a) for a in page[:limit]]), headers)


@_both(
    "POST",
    "/currencies/",
    tags=["currencies"],
    summary="Add a currency",
    status_code=201,
    openapi_extra=_body_of(models.AddCurrency),
    responses={
        201: {"model": models.Currency, **_leads_to(get_currency={"code": "code"})},
        **_problems(408, 409, 413, 415, 422, 503),
    },
)
async def add_currency(request: Request) -> Response:
    """Adds a currency or a unit of your own. The code is its key: the same again is harmless."""
    reply = await handlers.add_currency(_runtime(request), request.headers.raw, request.receive)
    return response(*reply)


@_both(
    "GET",
    "/currencies/",
    tags=["currencies"],
    summary="List currencies",
    responses={200: {"model": list[models.Currency]}, **_problems(422, 503)},
)
async def list_currencies(
    request: Request, limit: Limit = DEFAULT_PAGE_ROWS, cursor: Cursor = None
) -> Response:
    """Currencies by code, a page at a time; the Link header leads to the next one."""
    _check_query(request, limit)
    filters = ["currencies"]
    after = 0 if cursor is None else cursors.decode(cursor, filters)
    page = await _runtime(request).reader.currencies(after, limit + 1)
    headers = None
    if len(page) > limit:
        headers = cursors.next_link(
            request, cursors.encode(page[limit - 1].number, filters), limit=limit
        )
    return _json(rendering.encode([rendering.currency_body(c) for c in page[:limit]]), headers)


@_both(
    "GET",
    "/currencies/{code}",
    tags=["currencies"],
    summary="A currency",
    openapi_extra=_in_path(code={"type": "string"}),
    responses={200: {"model": models.Currency}, **_problems(404, 503)},
)
async def get_currency(request: Request) -> Response:
    """The currency of a code."""
    code = request.path_params["code"]
    found = await _runtime(request).reader.currency(code) if is_code(code) else None
    if found is None:
        raise Refused("currency_not_found")
    return _json(rendering.encode(rendering.currency_body(found)))


@_both(
    "GET",
    "/accounts/{account_id}",
    tags=["accounts"],
    summary="An account and its balance",
    openapi_extra=_in_path(account_id=_AN_ID),
    responses={200: {"model": models.Account}, **_problems(404, 503)},
)
async def get_account(request: Request) -> Response:
    """The account as it stands: its balance, what is held of it, and its version."""
    found = await _runtime(request).reader.account(_id(request, "account_id", "account_not_found"))
    if found is None:
        raise Refused("account_not_found")
    return _json(rendering.encode(rendering.account_body(found)))


@_both(
    "GET",
    "/accounts/{account_id}/history",
    tags=["accounts"],
    summary="An account's history",
    openapi_extra=_in_path(account_id=_AN_ID),
    responses={200: {"model": list[models.HistoryEntry]}, **_problems(404, 422, 503)},
)
async def get_history(
    request: Request, limit: Limit = DEFAULT_PAGE_ROWS, cursor: Cursor = None
) -> Response:
    """The account's entries, newest first; the Link header leads to the next page."""
    runtime = _runtime(request)
    _check_query(request, limit)
    account = _id(request, "account_id", "account_not_found")
    filters = ["history", account]
    before = PAST_ALL_VERSIONS if cursor is None else cursors.decode(cursor, filters)
    page = await runtime.reader.history(account, limit + 1, before)
    if not page and await runtime.reader.account(account) is None:
        raise Refused("account_not_found")
    headers = None
    if len(page) > limit:
        place = cursors.encode(page[limit - 1].version, filters)
        headers = cursors.next_link(request, place, limit=limit)
    return _json(rendering.encode([rendering.history_body(e) for e in page[:limit]]), headers)


def _check_query(request: Request, limit: int, *filters: str) -> None:
    """A misspelt filter must not list everything; PostgreSQL takes no NUL in a text."""
    longest = _runtime(request).settings.page_limit_rows
    names = [name for name, _ in request.query_params.multi_items()]
    faults = {}
    if limit > longest:
        faults["limit"] = f"must be at most {longest}"
    for name in names:
        if name not in {"limit", "cursor", *filters}:
            faults["unknown"] = "there is no such parameter"
        elif names.count(name) > 1:
            faults[name] = "must be given once"
        elif name in filters and "\0" in request.query_params[name]:
            faults[name] = "must not contain NUL"
    if faults:
        errors = [{"field": field, "message": message} for field, message in faults.items()]
        raise Refused("invalid_request", errors=errors)


@_both(
    "GET",
    "/accounts/{account_id}/keys/{key:path}",
    tags=["transactions"],
    summary="The recorded outcome of a key",
    openapi_extra=_in_path(account_id=_AN_ID, key={"type": "string"}),
    responses={
        200: {
            "model": models.Transaction,
            **_leads_to(
                get_transaction={"transaction_id": "transaction_id"},
                get_account={"account_id": "account_id"},
            ),
        },
        **_problems(404, 503),
    },
)
async def get_key(request: Request) -> Response:
    """What became of a request whose answer was lost: its transaction, or 404."""
    account = _id(request, "account_id", "account_not_found")
    found = await _runtime(request).reader.outcome(account, _key_of_path(request))
    if found is None:
        raise Refused("key_not_found")
    return _json(rendering.record(found))


def _key_of_path(request: Request) -> str:
    """The key as sent: a key may hold `/`, so only the path as it came tells where it ends."""
    raw = request.scope["raw_path"].partition(b"?")[0]
    key = unquote_to_bytes(raw.partition(b"/keys/")[2].removesuffix(b"/"))
    if not key.isascii() or b"\0" in key:
        raise Refused("key_not_found")
    return key.decode()


@_both(
    "GET",
    "/transactions/{transaction_id}",
    tags=["transactions"],
    summary="A transaction and its entries",
    openapi_extra=_in_path(transaction_id=_AN_ID),
    responses={200: {"model": models.Transaction}, **_problems(404, 503)},
)
async def get_transaction(request: Request) -> Response:
    """A posted transaction with its entries, or the record of a declined one."""
    number = _id(request, "transaction_id", "transaction_not_found")
    found = await _runtime(request).reader.transaction(number)
    if found is None:
        raise Refused("transaction_not_found")
    return _json(rendering.record(found))


@_both("GET", "/health/live", tags=["health"], summary="Whether the process answers")
async def live() -> Response:
    """200 as long as the process answers."""
    return _json(b'{"status":"live"}')


@_both(
    "GET",
    "/health/ready",
    tags=["health"],
    summary="Whether money can move",
    responses=_problems(503),
)
async def ready(request: Request) -> Response:
    """200 if the database answers and its schema is the expected one, else 503."""
    try:
        if await _runtime(request).ready():
            return _json(b'{"status":"ready"}')
    except Unavailable:
        pass
    return response(*problem("unavailable"))
