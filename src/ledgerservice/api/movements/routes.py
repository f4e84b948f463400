"""The routes that post instructions. Each is declared for OpenAPI and calls a handler."""

from functools import partial
from typing import NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from ledgerservice.access.grants import Need
from ledgerservice.access.scopes import POSTING
from ledgerservice.api.http.auditing import add_stream, note_before
from ledgerservice.api.http.authentication import caller_now
from ledgerservice.api.http.call import (
    Call,
    call_of,
    id_of,
    media_type,
    reader_of,
    response,
    shards_of,
)
from ledgerservice.api.http.openapi import (
    DRY_RUN,
    IDEMPOTENCY_KEY,
    Links,
    Parameter,
    body_schema,
    post,
    when_described,
)
from ledgerservice.api.movements import batches, models, posting, streaming
from ledgerservice.api.movements.answers import Posted
from ledgerservice.api.movements.examples import EXAMPLES
from ledgerservice.api.movements.forms import FORMS
from ledgerservice.api.movements.items import declare_items
from ledgerservice.api.movements.proposals import Proposal
from ledgerservice.postgres.queries.accounts import list_policies

router = APIRouter()
when_described(declare_items)

REFUSALS = (400, 404, 408, 409, 413, 415, 422, 503)
_TO_TRANSACTION = {"get_transaction": {"transaction_id": "transaction_id"}}


def _declare_money_route(name: str) -> None:
    form = FORMS[name]

    async def move(request: Request) -> Response:
        return response(*await posting.move(call_of(request), form))

    move.__doc__ = form.model.__doc__
    post(
        router,
        f"/{name}/",
        Posted,
        body_schema(form.model, EXAMPLES[name]),
        need=form.need,
        refusals=REFUSALS,
        parameters=(IDEMPOTENCY_KEY, DRY_RUN),
        links=_TO_TRANSACTION,
        proposal=Proposal,
        name=name,
        tags=["money"],
    )(move)


for _name, _form in FORMS.items():
    if _form.kind is not None:
        _declare_money_route(_name)


class _Place(NamedTuple):
    """The place of a route. `of` is the id in the path, `missing` the problem of one that is not
    valid.
    """

    path: str
    operation: str
    tag: str
    of: str | None = None
    missing: str = "not_found"
    method: str = "POST"
    links: Links | None = None
    parameters: tuple[Parameter, ...] = ()
    refusals: tuple[int, ...] = ()


def _declare_instruction(name: str, place: _Place) -> None:
    form, id_name = FORMS[name], place.of

    async def instruct(request: Request) -> Response:
        call = call_of(request)
        ids = {} if id_name is None else {id_name: id_of(request, id_name, place.missing)}
        if name == "policy":
            note_before(request, await list_policies(reader_of(request), ids["account_id"], 1))
        return response(*await posting.instruct(call, form, **ids))

    instruct.__doc__ = form.model.__doc__
    post(
        router,
        place.path,
        Posted,
        body_schema(form.model, EXAMPLES[name], without=id_name),
        need=form.need,
        method=place.method,
        refusals=(*REFUSALS, *place.refusals),
        parameters=(IDEMPOTENCY_KEY, DRY_RUN, *place.parameters),
        links=place.links,
        proposal=Proposal,
        name=place.operation,
        tags=[place.tag],
    )(instruct)


_TO_HOLD = {name: {"hold_id": "hold_id"} for name in ("get_hold", "capture_hold", "release_hold")}
_TO_REVERSAL = {"reverse_transaction": {"transaction_id": "transaction_id"}}
_HOLD = "holds", "hold_id", "hold_not_found"
_SCHEDULE = "schedules", "schedule_id", "schedule_not_found"
_INSTRUCTIONS = {
    "transaction": _Place("/transactions/", "post_transaction", "transactions", links=_TO_REVERSAL),
    "reverse": _Place(
        "/transactions/{transaction_id}/reverse",
        "reverse_transaction",
        "transactions",
        "transaction_id",
        "transaction_not_found",
    ),
    "hold": _Place("/holds/", "place_hold", "holds", links=_TO_HOLD),
    "capture": _Place("/holds/{hold_id}/capture", "capture_hold", *_HOLD),
    "release": _Place("/holds/{hold_id}/release", "release_hold", *_HOLD),
    "policy": _Place(
        "/accounts/{account_id:row}",
        "change_policy",
        "accounts",
        "account_id",
        "account_not_found",
        "PATCH",
    ),
    "cancel": _Place("/schedules/{schedule_id}/cancel", "cancel_schedule", *_SCHEDULE),
}
for _name, _place in _INSTRUCTIONS.items():
    _declare_instruction(_name, _place)


class _Stream(Response):
    """An answer that is written while the body is read."""

    def __init__(self, request: Request, call: Call) -> None:
        super().__init__()
        self._request, self._call = request, call

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Reads from the connection and writes to it."""
        now = partial(caller_now, self._request)
        try:
            with self._call.caller.meter.streaming():
                find = partial(shards_of(self._request).find_home, self._call.ledger)
                await streaming.post_stream(self._call, now, find, send)
        finally:
            add_stream(self._request, "post_batch")


@post(
    router,
    "/batches/",
    batches.Results,
    body_schema(models.Batch, EXAMPLES["batch"]),
    need=Need(POSTING, by_accounts=True),
    refusals=(408, 409, 413, 415, 422, 503),
    parameters=(DRY_RUN,),
    headers={},
    tags=["money"],
)
async def post_batch(request: Request) -> Response:
    """Post many movements in one request.

    Each item has its own key, so the whole request can be sent again: nothing moves twice.

    Independent items succeed or fail each by itself. The answer is 200 and has a result for each.
    The items that one item links, `{"linked": [...]}`, are posted together or not at all. The items
    of an atomic batch are all posted or none; if none, the answer is 409 `batch_failed`.

    A body of type `application/x-ndjson` is a stream of any length with an item on each line. Each
    line is answered by a line as soon as it is durable. Blank lines are ignored.

    Each item needs the scope of its own route. An independent one that others have to approve gets
    202 with its proposal.
    """
    call = call_of(request)
    batches.refuse_key(call)
    if media_type(request.headers.raw) == streaming.NDJSON:
        batches.refuse_signed(call)
        if call.dry_run:
            return response(*await streaming.rehearse_stream(call))
        return _Stream(request, call)
    return response(*await batches.post_batch(call))
