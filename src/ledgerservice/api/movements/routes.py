"""The routes that write. Each is declared for the docs and passes on to a handler."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from ledgerservice.api.http.bodies import media_type
from ledgerservice.api.http.openapi import (
    AN_ID,
    FORCE_TOKEN,
    WRITTEN,
    DryRun,
    IdempotencyKey,
    body_of,
    both,
    id_of,
    in_path,
    leads_to,
    problems,
    response,
    runtime_of,
)
from ledgerservice.api.movements import batches, models
from ledgerservice.api.movements import posting as handlers
from ledgerservice.api.movements.forms import FORMS
from ledgerservice.api.movements.posting import Call

router = APIRouter()

WRITE_PROBLEMS = (400, 404, 408, 409, 413, 415, 422, 503)


def _call(request: Request) -> Call:
    return Call.of(runtime_of(request), request.scope, request.receive)


def _declare_money_route(name: str, answer: Any) -> None:
    form = FORMS[name]

    async def move(
        request: Request, idempotency_key: IdempotencyKey = None, dry_run: DryRun = None
    ) -> Response:
        return response(*await handlers.move(_call(request), form))

    both(
        router,
        "POST",
        f"/{name}/",
        name=name,
        summary=str(form.model.__doc__),
        tags=["money"],
        openapi_extra=body_of(form.model),
        responses={
            200: {"model": answer, **WRITTEN, **_TO_TRANSACTION},
            **problems(*WRITE_PROBLEMS),
        },
    )(move)


_TO_TRANSACTION = leads_to(get_transaction={"transaction_id": "transaction_id"})

_declare_money_route("deposit", models.PostedOwn)
_declare_money_route("withdraw", models.PostedOwn)
_declare_money_route("transfer", models.PostedTransfer | models.PostedDetailed)


class _Place(BaseModel):
    """Where a route stands: its method, path, and what an id of its path is, or is not."""

    method: str
    path: str
    operation: str
    tag: str
    of: str | None = None
    missing: str = "not_found"
    links: dict[str, dict[str, str]] = {}
    parameters: tuple[dict[str, Any], ...] = ()
    statuses: tuple[int, ...] = ()


def _declare_instruction(name: str, place: _Place) -> None:
    form = FORMS[name]
    named = place.of

    async def instruct(
        request: Request, idempotency_key: IdempotencyKey = None, dry_run: DryRun = None
    ) -> Response:
        call = _call(request)
        ids = {} if named is None else {named: id_of(request, named, place.missing)}
        return response(*await handlers.instruct(call, form, **ids))

    declared: dict[str, Any] = body_of(form.model, without=named)
    if named is not None:
        declared |= in_path(**{named: AN_ID})
        declared["parameters"] += place.parameters
    both(
        router,
        place.method,
        place.path,
        name=place.operation,
        summary=str(form.model.__doc__).partition("\n")[0],
        tags=[place.tag],
        openapi_extra=declared,
        responses={
            200: {
                "model": models.PostedDetailed,
                **WRITTEN,
                **_TO_TRANSACTION,
                **leads_to(**place.links),
            },
            **problems(*WRITE_PROBLEMS, *place.statuses),
        },
    )(instruct)


_TO_HOLD = {name: {"hold_id": "hold_id"} for name in ("get_hold", "capture_hold", "release_hold")}
_INSTRUCTIONS = {
    "transaction": _Place(
        method="POST",
        path="/transactions/",
        operation="post_transaction",
        tag="transactions",
        links={"reverse_transaction": {"transaction_id": "transaction_id"}},
    ),
    "reverse": _Place(
        method="POST",
        path="/transactions/{transaction_id}/reverse",
        operation="reverse_transaction",
        tag="transactions",
        of="transaction_id",
        missing="transaction_not_found",
        parameters=(FORCE_TOKEN,),
        statuses=(403,),
    ),
    "hold": _Place(
        method="POST", path="/holds/", operation="place_hold", tag="holds", links=_TO_HOLD
    ),
    "capture": _Place(
        method="POST",
        path="/holds/{hold_id}/capture",
        operation="capture_hold",
        tag="holds",
        of="hold_id",
        missing="hold_not_found",
    ),
    "release": _Place(
        method="POST",
        path="/holds/{hold_id}/release",
        operation="release_hold",
        tag="holds",
        of="hold_id",
        missing="hold_not_found",
    ),
    "policy": _Place(
        method="PATCH",
        path="/accounts/{account_id}",
        operation="change_policy",
        tag="accounts",
        of="account_id",
        missing="account_not_found",
    ),
    "cancel": _Place(
        method="POST",
        path="/schedules/{schedule_id}/cancel",
        operation="cancel_schedule",
        tag="schedules",
        of="schedule_id",
        missing="schedule_not_found",
    ),
}
for _name, _place in _INSTRUCTIONS.items():
    _declare_instruction(_name, _place)


class _Stream(Response):
    """An answer that is written while the body is read."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self._call = call

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Reads from and writes to the connection itself."""
        await batches.post_stream(self._call, send)


@both(
    router,
    "POST",
    "/batches/",
    tags=["money"],
    summary="Many movements in one request",
    openapi_extra=body_of(models.Batch, {batches.NDJSON: {"schema": {"type": "string"}}})
    | {"parameters": [FORCE_TOKEN]},
    responses={200: {"model": models.Results}, **problems(408, 409, 413, 415, 422, 503)},
)
async def post_batch(request: Request, dry_run: DryRun = None) -> Response:
    """Each item has its own key, so that the whole may be sent again: nothing moves twice.

    Independent items succeed or fail each for itself, and the answer is 200 with a result for
    each; what an item links, `{"linked": [...]}`, is posted together or not at all. Of an atomic
    batch all are posted or none: then the answer is 409 `batch_failed`.

    As `application/x-ndjson` the body is a stream of any length, an item a line, each answered by
    a line as soon as it is durable; a line of white space is passed over.
    """
    call = _call(request)
    batches.refuse_key(call)
    if media_type(request.headers.raw) == batches.NDJSON:
        return response(*await batches.rehearse_stream(call)) if call.dry_run else _Stream(call)
    return response(*await batches.post_batch(call))


@both(
    router,
    "POST",
    "/accounts/",
    tags=["accounts"],
    summary="Open an account",
    status_code=201,
    openapi_extra=body_of(models.OpenAccount),
    responses={
        201: {
            "model": models.Account,
            **WRITTEN,
            **leads_to(get_account={"account_id": "id"}, get_history={"account_id": "id"}),
        },
        **problems(408, 409, 413, 415, 422, 503),
    },
)
async def open_account(
    request: Request, idempotency_key: IdempotencyKey = None, dry_run: DryRun = None
) -> Response:
    """Opens an account with a zero balance. A reference or a key makes a repeat harmless."""
    return response(*await handlers.open_account(_call(request)))


@both(
    router,
    "POST",
    "/currencies/",
    tags=["currencies"],
    summary="Add a currency",
    status_code=201,
    openapi_extra=body_of(models.AddCurrency),
    responses={
        201: {"model": models.Currency, **WRITTEN, **leads_to(get_currency={"code": "code"})},
        **problems(408, 409, 413, 415, 422, 503),
    },
)
async def add_currency(request: Request, dry_run: DryRun = None) -> Response:
    """Adds a currency or a unit of your own. The code is its key: the same again is harmless."""
    return response(*await handlers.add_currency(_call(request)))


@both(
    router,
    "POST",
    "/ledgers/",
    tags=["ledgers"],
    summary="Add a ledger",
    status_code=201,
    openapi_extra=body_of(models.AddLedger),
    responses={
        201: {"model": models.Ledger, **WRITTEN, **leads_to(get_ledger={"name": "name"})},
        **problems(408, 413, 415, 422, 503),
    },
)
async def add_ledger(request: Request, dry_run: DryRun = None) -> Response:
    """Adds a ledger. The name is its key: the same again is harmless. See `/ledgers/{name}/`."""
    return response(*await handlers.add_ledger(_call(request)))
