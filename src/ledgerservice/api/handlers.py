"""What each writing route does, between a body's bytes and an answer's bytes."""

import re
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from starlette.responses import Response

from ledgerservice.api import rendering
from ledgerservice.api.bodies import parse
from ledgerservice.api.models import (
    KEY_PATTERN,
    Deposit,
    OpenAccount,
    Transfer,
    Withdrawal,
)
from ledgerservice.api.problems import Refused
from ledgerservice.model import Kind, Movement, Opening, Rejected
from ledgerservice.runtime import Runtime

_is_key = re.compile(KEY_PATTERN[1:-1], re.ASCII).fullmatch
# No caller can send this character in a key, so ours cannot meet theirs.
_OWN_KEY_MARK = "\N{MIDDLE DOT}"


class MoneyRoute(NamedTuple):
    """A money route: the model of its body, and the movement that a body asks for."""

    model: type[Any]
    movement: Callable[[Any, str], Movement]


def _deposit(body: Deposit, key: str) -> Movement:
    return Movement(Kind.DEPOSIT, body.account_id, None, body.amount, key)


def _withdrawal(body: Withdrawal, key: str) -> Movement:
    return Movement(Kind.WITHDRAWAL, body.account_id, None, body.amount, key)


def _transfer(body: Transfer, key: str) -> Movement:
    return Movement(Kind.TRANSFER, body.from_account_id, body.to_account_id, body.amount, key)


MONEY_ROUTES = {
    "deposit": MoneyRoute(Deposit, _deposit),
    "withdraw": MoneyRoute(Withdrawal, _withdrawal),
    "transfer": MoneyRoute(Transfer, _transfer),
}


async def move(
    runtime: Runtime, route: MoneyRoute, body: bytes, header_keys: list[str]
) -> Response:
    """Post the movement that `body` asks for; answer when it is durable."""
    request = parse(body, route.model)
    key = _key(header_keys, request.idempotency_key)
    if key is None:
        raise Refused("idempotency_key_missing")
    outcome = await runtime.movements.post(route.movement(request, key))
    if isinstance(outcome, Rejected):
        raise Refused(outcome.reason.value)
    status, answer = rendering.answer(outcome.transaction)
    return _answer(status, answer, outcome.replayed)


async def open_account(runtime: Runtime, body: bytes, header_keys: list[str]) -> Response:
    """Open the account that `body` asks for; answer when it is durable."""
    request = parse(body, OpenAccount)
    # Without a key of the caller's a run that is repeated needs one all the same.
    key = _key(header_keys, None) or _OWN_KEY_MARK + uuid.uuid4().hex
    outcome = await runtime.openings.post(
        Opening(request.owner, request.currency, request.reference, key)
    )
    if isinstance(outcome, Rejected):
        raise Refused(outcome.reason.value)
    return _answer(201, rendering.opened(outcome), outcome.replayed)


def _key(header_keys: list[str], body_key: str | None) -> str | None:
    """The idempotency key, from the header or the body; None where neither has one."""
    keys = {*header_keys, *([] if body_key is None else [body_key])}
    if len(keys) > 1:
        raise Refused("idempotency_key_mismatch")
    key = keys.pop() if keys else None
    if key is not None and not _is_key(key):
        raise Refused("idempotency_key_invalid")
    return key


def _answer(status: int, body: bytes, replayed: bool) -> Response:
    media_type = "application/json" if status < 400 else "application/problem+json"
    headers = {"Idempotency-Replayed": "true"} if replayed else None
    return Response(body, status, headers, media_type)
