"""What each writing route does, between a body's bytes and an answer's bytes."""

import logging
import secrets
import uuid
from typing import Any, NamedTuple, Self

from starlette.types import Receive, Scope

from ledgerservice.api.http.bodies import (
    Headers,
    fields_of,
    has_body,
    header_values,
    read_body,
    validated,
)
from ledgerservice.api.http.problems import ProblemError, problem, rejection
from ledgerservice.api.movements import answers as rendering
from ledgerservice.api.movements import parsing as movements
from ledgerservice.api.movements.forms import Form
from ledgerservice.api.movements.models import AddCurrency, AddLedger, OpenAccount
from ledgerservice.domain.accounts import Opening
from ledgerservice.domain.currencies import CurrencyRequest
from ledgerservice.domain.instructions import Group, Instruction, Origin, Reversal
from ledgerservice.domain.ledgers import LedgerRequest
from ledgerservice.domain.metadata import Number
from ledgerservice.domain.transactions import Rejected
from ledgerservice.errors import Overloaded, Unavailable
from ledgerservice.postgres.tables import DEFAULT_LEDGER
from ledgerservice.runtime import Runtime

log = logging.getLogger(__name__)

Reply = tuple[int, bytes, dict[str, str]]
"""Status, body and headers of an answer."""


class Call(NamedTuple):
    """A request that writes: what it is sent to, and what of it is not in its body."""

    runtime: Runtime
    headers: Headers
    receive: Receive
    ledger: int
    dry_run: bool

    @classmethod
    def of(cls, runtime: Runtime, scope: Scope, receive: Receive) -> Self:
        """Refuses a query that is anything but `dry_run`: who misspells it must not move money."""
        query = scope["query_string"]
        if query not in DRY_RUN:
            fault = {"field": "query", "message": "must be dry_run=true, or nothing"}
            raise ProblemError("invalid_request", errors=[fault])
        return cls(
            runtime, scope["headers"], receive, scope.get(LEDGER, DEFAULT_LEDGER), DRY_RUN[query]
        )


A_DRY_RUN = b"dry_run=true"
DRY_RUN = {b"": False, b"dry_run=false": False, A_DRY_RUN: True}
LEDGER = "ledgerservice.ledger"
"""Where the scope of a request has the id of the ledger that its path names."""


async def move(call: Call, form: Form) -> Reply:
    """Post the movement that a request asks for; answer when it is durable."""
    call.runtime.movements.check_room()  # before a body is read and judged that would be refused
    body = await read_body(call.headers, call.receive, call.runtime.settings)
    asked = movements.read(body, form, _key(call.headers))
    return await _posted(call, asked)


async def instruct(call: Call, form: Form, **ids: int) -> Reply:
    """Post what a request asks for; `ids` are those of its path. No body is an empty object."""
    call.runtime.movements.check_room()
    fields: dict[str, Any] = {}
    if has_body(call.headers):
        fields = fields_of(await read_body(call.headers, call.receive, call.runtime.settings))
    if fields.keys() & ids.keys():
        faults = [{"field": name, "message": "is in the path"} for name in ids if name in fields]
        raise ProblemError("invalid_request", errors=faults)
    fields |= {name: Number(str(number)) for name, number in ids.items()}
    asked = movements.instruct(fields, form, _key(call.headers))
    check_force(call, asked)
    return await _posted(call, asked)


def check_force(call: Call, asked: Instruction) -> None:
    """Only who has the token may force: it overdraws a customer's account."""
    if not isinstance(asked, Reversal) or not asked.force:
        return
    token = call.runtime.settings.force_token
    given = header_values(call.headers, b"ledger-force-token")
    if token is None or len(given) != 1:
        raise ProblemError("force_not_allowed")
    if not secrets.compare_digest(given[0].encode("latin-1"), token.get_secret_value().encode()):
        raise ProblemError("force_not_allowed")


async def _posted(call: Call, asked: Instruction) -> Reply:
    group = Group((asked,), ledger=call.ledger, dry_run=call.dry_run)
    (outcome,) = await call.runtime.movements.post(group)  # type: ignore[misc]
    if isinstance(outcome, Rejected):
        raise rejection(outcome)
    status, answer = rendering.answer(outcome.transaction)
    return _reply(status, answer, outcome.replayed)


async def open_account(call: Call) -> Reply:
    """Open the account that a request asks for; answer when it is durable."""
    body = await read_body(call.headers, call.receive, call.runtime.settings)
    request = validated(fields_of(body), OpenAccount)
    # Without a key of the caller's a run that is repeated needs one all the same.
    key = _key(call.headers)
    origin = Origin.UNKEYED if key is None else Origin.CALLER
    key = uuid.uuid4().hex if key is None else movements.the_key(None, key)
    asked = Opening(
        request.owner,
        request.currency,
        request.reference,
        key,
        call.ledger,
        call.dry_run,
        request.metadata,
        origin,
    )
    outcome = await call.runtime.openings.post(asked)
    if isinstance(outcome, Rejected):
        raise rejection(outcome)
    return _reply(201, rendering.opened(outcome), outcome.replayed)


async def add_currency(call: Call) -> Reply:
    """Add the currency that a request asks for; answer when it is durable."""
    body = await read_body(call.headers, call.receive, call.runtime.settings)
    request = validated(fields_of(body), AddCurrency)
    asked = CurrencyRequest(request.code, request.exponent, request.name, dry_run=call.dry_run)
    outcome = await call.runtime.currencies.post(asked)
    if isinstance(outcome, Rejected):
        raise rejection(outcome)
    return _reply(201, rendering.encode(rendering.currency_body(outcome)), outcome.replayed)


async def add_ledger(call: Call) -> Reply:
    """Add the ledger that a request asks for; answer when it is durable."""
    body = await read_body(call.headers, call.receive, call.runtime.settings)
    request = validated(fields_of(body), AddLedger)
    asked = LedgerRequest(request.name, dry_run=call.dry_run)
    outcome = await call.runtime.ledgers.post(asked)
    return _reply(201, rendering.encode(rendering.ledger_body(outcome)), outcome.replayed)


def problem_of(error: Exception) -> Reply:
    """The answer to a request that ended with `error`; what is unforeseen goes to the log."""
    if isinstance(error, ProblemError):
        return problem(error.code, **error.facts)
    if isinstance(error, Overloaded):
        return problem("overloaded")
    if isinstance(error, Unavailable):
        return problem("unavailable")
    log.error("a request failed", exc_info=error)
    return problem("internal_error")


def _key(headers: Headers) -> str | None:
    """The idempotency key of the header, or None."""
    keys = set(header_values(headers, b"idempotency-key"))
    if len(keys) > 1:
        raise ProblemError("idempotency_key_mismatch")
    return keys.pop() if keys else None


def _reply(status: int, body: bytes, replayed: bool) -> Reply:
    media_type = "application/json" if status < 400 else "application/problem+json"
    headers = {"content-type": media_type}
    if replayed:
        headers["idempotency-replayed"] = "true"
    return status, body, headers
