"""Refusals as problem+json (RFC 9457), from the catalogue of all of them."""

import logging
from functools import lru_cache
from http import HTTPStatus
from typing import Annotated, Any, Self

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ledgerservice.access.meters import headers_of
from ledgerservice.api.http.catalogue import CATALOGUE, ProblemCode, Retry
from ledgerservice.api.http.fields import AmountText, TimestampText, TransactionType
from ledgerservice.domain.transactions import Rejected
from ledgerservice.errors import (
    LedgerMoving,
    LimitReached,
    Overloaded,
    ShardUnavailable,
    Unavailable,
)
from ledgerservice.telemetry.exchanges import note_refusal
from ledgerservice.telemetry.metrics import LIMITED

log = logging.getLogger(__name__)

Reply = tuple[int, bytes, dict[str, str]]
"""Status, body and headers of an answer."""

RETRY_AFTER_S = 1


class Fault(msgspec.Struct, frozen=True):
    """What is wrong with a field of a request."""

    field: str
    message: str


class DecidedOn(msgspec.Struct, kw_only=True, frozen=True):
    """The state of the account on which a decline was decided."""

    account_id: int
    currency: str
    available: AmountText
    balance: AmountText
    version: int


class ProblemDetails(msgspec.Struct, kw_only=True):
    """Why a request was refused, and whether it can be sent again (RFC 9457)."""

    type: str
    title: str
    status: int
    code: ProblemCode
    detail: str
    retry: Annotated[
        Retry,
        Meta(
            description="Whether the request can be sent again, and with which key.",
            extra_json_schema={"x-name": "Retry"},
        ),
    ]
    account_id: Annotated[int, Meta(description="The account at fault.")] | UnsetType = UNSET
    errors: Annotated[list[Fault], Meta(description="The faults, by field.")] | UnsetType = UNSET
    idempotency_key: (
        Annotated[str, Meta(description="The key of a decline, which is recorded.")] | UnsetType
    ) = UNSET
    transaction_id: Annotated[int, Meta(description="The record of a decline.")] | UnsetType = UNSET
    transaction_type: TransactionType | UnsetType = UNSET
    amount: AmountText | UnsetType = UNSET
    currency: str | UnsetType = UNSET
    recorded_at: TimestampText | UnsetType = UNSET
    hold_id: int | UnsetType = UNSET
    reverses: int | UnsetType = UNSET
    schedule_id: int | UnsetType | None = UNSET
    decided_on: DecidedOn | UnsetType = UNSET
    index: Annotated[int, Meta(description="The item of a batch at fault.")] | UnsetType = UNSET
    cause: Annotated[dict[str, Any], Meta(description="Why that item failed.")] | UnsetType = UNSET
    decimals: Annotated[int, Meta(description="The decimals that `currency` has.")] | UnsetType = (
        UNSET
    )
    difference: (
        Annotated[AmountText, Meta(description="The sum of the legs in `currency`.")] | UnsetType
    ) = UNSET
    bought: (
        Annotated[AmountText, Meta(description="The bought amount, in `currency`.")] | UnsetType
    ) = UNSET
    expected: (
        Annotated[AmountText, Meta(description="The sold amount times the rate.")] | UnsetType
    ) = UNSET
    expected_currency: (
        Annotated[str, Meta(description="The currency that the account needs, not `currency`.")]
        | UnsetType
    ) = UNSET
    allowed: Annotated[list[str], Meta(description="The route's methods.")] | UnsetType = UNSET
    scope: Annotated[str, Meta(description="The scopes, one of which is missing.")] | UnsetType = (
        UNSET
    )
    compare_from: (
        Annotated[str, Meta(description="A position: up to it nothing has changed.")] | UnsetType
    ) = UNSET
    max_bytes: Annotated[int, Meta(description="The size limit.")] | UnsetType = UNSET
    limit: Annotated[str, Meta(description="The limit of the key.")] | UnsetType = UNSET


class ProblemError(Exception):
    """Ends a request with a problem of the catalogue. `facts` are further members of the body."""

    def __init__(self, code: str, **facts: Any) -> None:
        self.code = code
        self.facts = facts
        super().__init__(code)

    def bare(self) -> Self:
        """The error without the frames that it came through.

        The errors of many items would keep them alive, for the garbage collector to go through.
        """
        self.__traceback__ = self.__context__ = None
        return self


def invalid(field: str, message: str) -> ProblemError:
    """An `invalid_request` with one fault."""
    return ProblemError("invalid_request", errors=[Fault(field, message)])


def rejection(rejected: Rejected) -> ProblemError:
    """A rejection as a problem, with the account at fault."""
    account = {} if rejected.account_id is None else {"account_id": rejected.account_id}
    return ProblemError(rejected.reason.value, **account, **rejected.facts)


_CHALLENGES = {
    "key_missing": "Bearer",
    "key_invalid": 'Bearer error="invalid_token"',
    "signature_required": 'Bearer error="invalid_token", error_description="signature_required"',
    "signature_invalid": 'Bearer error="invalid_token", error_description="signature_invalid"',
    "scope_missing": 'Bearer error="insufficient_scope", scope="{scope}"',
}
"""WWW-Authenticate of refused callers (RFC 6750, section 3)."""

_CULPRITS = {
    "legs_unbalanced": "The legs in {currency} sum to {difference}.",
    "rate_mismatch": "{bought} {currency} is bought, and the sold amount times the rate is "
    "{expected}.",
    "currency_mismatch": "Account {account_id} has {currency}, not {expected_currency}.",
    "amount_precision": "{currency} has {decimals} decimals.",
    "method_not_allowed": "It supports {allowed}.",
}
"""What is said of the figures at fault, where they are known."""


def detail_of(code: str, facts: dict[str, Any]) -> str:
    """What is said of a code, with the figures at fault."""
    detail, culprit = CATALOGUE[code].detail, _CULPRITS.get(code)
    if culprit is None or not facts.keys() - {"account_id"}:
        return detail
    texts = {n: ", ".join(v) if isinstance(v, list) else v for n, v in facts.items()}
    return f"{detail} {culprit.format_map(texts)}"


def problem_body(code: str, **facts: Any) -> bytes:
    """The problem+json of a code."""
    problem = CATALOGUE[code]
    details = ProblemDetails(
        type=f"urn:ledgerservice:problem:{code}",
        title=code.replace("_", " ").capitalize(),
        status=problem.status.value,
        code=code,
        detail=detail_of(code, facts),
        retry=problem.retry,
        **facts,
    )
    return msgspec.json.encode(details)


def problem(code: str, **facts: Any) -> Reply:
    """The answer to a refused request, which is counted."""
    note_refusal(code)
    return problem_reply(code, **facts)


MISFRAMED = "invalid_framing"
"""After it nobody knows where the next request of the connection begins, so it is closed."""


def problem_reply(code: str, **facts: Any) -> Reply:
    """What a refused request is answered."""
    body = problem_body(code, **facts) if facts else _plain_body(code)
    status = CATALOGUE[code].status
    headers = {"content-type": "application/problem+json"}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["retry-after"] = str(RETRY_AFTER_S)
    elif code == MISFRAMED:
        headers["connection"] = "close"
    elif (challenge := _CHALLENGES.get(code)) is not None:
        headers["www-authenticate"] = challenge.format_map(facts)
    return status, body, headers


@lru_cache
def _plain_body(code: str) -> bytes:
    """Encoded once, because refusals must be cheap when there are many of them."""
    return problem_body(code)


PASSING: dict[type[Exception], ProblemCode] = {
    Overloaded: "overloaded",
    LedgerMoving: "ledger_moving",
    ShardUnavailable: "shard_unavailable",
    Unavailable: "unavailable",
}
"""The codes of faults that pass; a class comes after those that are derived from it."""


def problem_of(error: Exception) -> Reply:
    """The answer to a request that ended with `error`. Logs an unexpected error."""
    if isinstance(error, ProblemError):
        return problem(error.code, **error.facts)
    if isinstance(error, LimitReached):
        LIMITED.add(1, error.limit)
        status, body, headers = problem("rate_limited", limit=error.limit)
        return status, body, headers | headers_of(error)
    for kind, code in PASSING.items():
        if isinstance(error, kind):
            return problem(code)
    log.error("a request failed", exc_info=error)
    return problem("internal_error")
