"""What each writing route does, between a body's bytes and an answer's bytes."""

import logging
import uuid

from starlette.types import Receive

from ledgerservice.api import movements, rendering
from ledgerservice.api.bodies import Headers, fields_of, header_values, read_body, validated
from ledgerservice.api.models import AddCurrency, OpenAccount
from ledgerservice.api.movements import MoneyRoute
from ledgerservice.api.problems import Refused, problem
from ledgerservice.errors import Overloaded, Unavailable
from ledgerservice.model import Currency, Group, Movement, Opening, Rejected, is_key
from ledgerservice.runtime import Runtime

log = logging.getLogger(__name__)

# No caller can send this character in a key, so ours cannot meet theirs.
_OWN_KEY_MARK = "\N{MIDDLE DOT}"


Reply = tuple[int, bytes, dict[str, str]]
"""Status, body and headers of an answer."""


async def move(runtime: Runtime, route: MoneyRoute, headers: Headers, receive: Receive) -> Reply:
    """Post the movement that a request asks for; answer when it is durable."""
    runtime.movements.check_room()  # before a body is read and judged that would be refused
    body = await read_body(headers, receive, runtime.settings)
    account, other, amount, body_key = movements.read(body, route)
    key = _key(headers, body_key)
    if key is None:
        raise Refused("idempotency_key_missing")
    movement = Movement(route.kind, account, other, amount, key)
    (outcome,) = await runtime.movements.post(Group((movement,)))  # type: ignore[misc]
    if isinstance(outcome, Rejected):
        raise Refused(outcome.reason.value)
    status, answer = rendering.answer(outcome.transaction)
    return _reply(status, answer, outcome.replayed)


async def open_account(runtime: Runtime, headers: Headers, receive: Receive) -> Reply:
    """Open the account that a request asks for; answer when it is durable."""
    body = await read_body(headers, receive, runtime.settings)
    request = validated(fields_of(body), OpenAccount)
    # Without a key of the caller's a run that is repeated needs one all the same.
    key = _key(headers, None) or _OWN_KEY_MARK + uuid.uuid4().hex
    outcome = await runtime.openings.post(
        Opening(request.owner, request.currency, request.reference, key)
    )
    if isinstance(outcome, Rejected):
        raise Refused(outcome.reason.value)
    return _reply(201, rendering.opened(outcome), outcome.replayed)


async def add_currency(runtime: Runtime, headers: Headers, receive: Receive) -> Reply:
    """Add the currency that a request asks for; answer when it is durable."""
    body = await read_body(headers, receive, runtime.settings)
    request = validated(fields_of(body), AddCurrency)
    asked = Currency(request.code, request.exponent, request.name)
    outcome = await runtime.currencies.post(asked)
    if isinstance(outcome, Rejected):
        raise Refused(outcome.reason.value)
    return _reply(201, rendering.encode(rendering.currency_body(outcome)), outcome.replayed)


def problem_of(error: Exception) -> Reply:
    """The answer to a request that ended with `error`; what is unforeseen goes to the log."""
    if isinstance(error, Refused):
        return problem(error.code, **error.facts)
    if isinstance(error, Overloaded):
        return problem("overloaded")
    if isinstance(error, Unavailable):
        return problem("unavailable")
    log.error("a request failed", exc_info=error)
    return problem("internal_error")


def _key(headers: Headers, body_key: str | None) -> str | None:
    """The idempotency key, from the header or the body; None where neither has one."""
    keys = {*header_values(headers, b"idempotency-key"), *([] if body_key is None else [body_key])}
    if len(keys) > 1:
        raise Refused("idempotency_key_mismatch")
    key = keys.pop() if keys else None
    if key is not None and not is_key(key):
        raise Refused("idempotency_key_invalid")
    return key


def _reply(status: int, body: bytes, replayed: bool) -> Reply:
    media_type = "application/json" if status < 400 else "application/problem+json"
    headers = {"content-type": media_type}
    if replayed:
        headers["idempotency-replayed"] = "true"
    return status, body, headers
