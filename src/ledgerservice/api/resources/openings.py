"""POST /accounts/batches: many accounts in one request."""

import uuid
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import Raw
from pydantic import WithJsonSchema as Schema

from ledgerservice.access.grants import Need
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.bodies import (
    MAX_BATCH_VALUES,
    Body,
    check_items,
    fields_of,
    has_too_many_values,
    read_body,
    validated,
)
from ledgerservice.api.http.call import Call, call_of, response
from ledgerservice.api.http.fields import Key
from ledgerservice.api.http.openapi import DRY_RUN, body_schema, post, when_described
from ledgerservice.api.http.problems import ProblemError, Reply, invalid, problem_of, rejection
from ledgerservice.api.http.schemas import request_schema
from ledgerservice.api.http.turns import in_turns
from ledgerservice.api.movements.batches import Result, Results, refuse_key
from ledgerservice.api.resources.accounts import OpenAccount, opened
from ledgerservice.domain.accounts import Opened, Opening
from ledgerservice.domain.instructions import Origin
from ledgerservice.domain.transactions import Rejected

router = APIRouter(tags=["accounts"])


class OpenAccountItem(OpenAccount):
    """An account of a batch. It needs a key or a reference, so that a repeat opens no other."""

    idempotency_key: Key | None = None
    type: Literal["ACCOUNT"] | None = None


when_described(partial(request_schema, OpenAccountItem))
EXAMPLES = {
    "accounts": {
        "accounts": [
            {"owner": "Dan", "currency": "USD", "reference": "cust-4", "idempotency_key": "a-4"},
            {"owner": "Eve", "currency": "USD", "reference": "cust-5"},
        ]
    }
}


class OpenAccounts(Body):
    """Open many accounts, each by itself."""

    accounts: Annotated[
        list[Any],
        Schema(
            {
                "type": "array",
                "minItems": 1,
                "maxItems": 10_000,
                "description": "An item that is not valid is refused by itself.",
                "items": {"x-ref": OpenAccountItem.__name__},
            }
        ),
    ]


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    accounts: list[Raw]


@post(
    router,
    "/accounts/batches/",
    Results,
    body_schema(OpenAccounts, EXAMPLES),
    refusals=(408, 413, 415, 422, 503),
    parameters=(DRY_RUN,),
    headers={},
    need=Need(Scope.ACCOUNTS_OPEN),
)
async def open_accounts(request: Request) -> Response:
    """Open many accounts in one request.

    Each item succeeds or fails by itself and has its own key or reference, so the whole request can
    be sent again: no account is opened twice. The answer is 200 and has a result for each item.
    """
    call = call_of(request)
    refuse_key(call)
    return response(*await _open(call))


async def _open(call: Call) -> Reply:
    settings = call.runtime.settings
    body = await read_body(call, settings.max_batch_bytes)
    turn = call.runtime.turn
    raw_items = _items(body, settings.max_batch_movements)
    call.caller.meter.take_items(len(raw_items))
    items = await in_turns(turn, partial(_read, call), raw_items)
    openings = [one for one in items if isinstance(one, Opening)]
    outcomes = iter(await call.runtime.open_accounts(openings))
    answers = [next(outcomes) if isinstance(one, Opening) else one for one in items]
    results = await in_turns(turn, _result, list(enumerate(answers)))
    return 200, msgspec.json.encode(Results(results)), {"content-type": "application/json"}


def _items(body: bytes, limit: int) -> Sequence[Raw]:
    """The items of a body, not yet parsed. Raises ProblemError."""
    if has_too_many_values(body, MAX_BATCH_VALUES):
        raise ProblemError("invalid_json")
    try:
        accounts = msgspec.json.decode(body, type=_Batch).accounts
    except msgspec.ValidationError:
        raise invalid("body", "must be {accounts: [...]}") from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise ProblemError("invalid_json") from None
    check_items(body, "accounts", accounts, limit)
    return accounts


def _read(call: Call, raw: Raw) -> Opening | ProblemError:
    item = bytes(raw)
    limit = call.runtime.settings.max_body_bytes
    if len(item) > limit:
        return ProblemError("body_too_large", max_bytes=limit)
    try:
        opening = read_account(fields_of(item), call.ledger, dry_run=call.dry_run)
    except ProblemError as refused:
        return refused.bare()
    return msgspec.structs.replace(opening, principal_id=call.caller.principal_id)


def read_account(fields: dict[str, Any], ledger: int, *, dry_run: bool = False) -> Opening:
    """The opening that an item's fields ask for. Raises ProblemError."""
    item = validated(fields, OpenAccountItem)
    key, origin = item.idempotency_key, Origin.CALLER
    if key is None:
        if item.reference is None:
            raise ProblemError("idempotency_key_missing")
        key, origin = uuid.uuid4().hex, Origin.UNKEYED
    named = item.owner, item.currency, item.reference, key
    return Opening(*named, ledger, dry_run, item.metadata, origin, part=item.part)


def _result(indexed: tuple[int, Opened | Rejected | ProblemError]) -> Result:
    index, answer = indexed
    if isinstance(answer, Opened):
        return Result(index, 201, answer.replayed, Raw(msgspec.json.encode(opened(answer))))
    error = rejection(answer) if isinstance(answer, Rejected) else answer
    status, body, _ = problem_of(error)
    return Result(index, status, False, Raw(body))
