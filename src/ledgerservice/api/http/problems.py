"""Everything the service can refuse, in one catalogue, as problem+json (RFC 9457).

`retry` tells the caller whether sending the request again is safe:
  same_key    send the same request with the same key; it moves money at most once
  new_key     this key's answer is final; when the account has changed, use a new key
  corrected   nothing was recorded; correct the request, then send it, with the same key if wished
"""

import json
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Literal

from ledgerservice.domain.transactions import Rejected

Retry = Literal["same_key", "new_key", "corrected"]


@dataclass(frozen=True, slots=True)
class Problem:
    """A catalogued refusal; `detail` is a sentence for the person who calls."""

    status: HTTPStatus
    retry: Retry
    detail: str


UNPROCESSABLE = HTTPStatus.UNPROCESSABLE_ENTITY


def _declined(detail: str) -> Problem:
    final = "Nothing was moved, and this key will always get this answer."
    return Problem(HTTPStatus.CONFLICT, "new_key", f"{detail} {final}")


CATALOGUE: dict[str, Problem] = {
    "insufficient_funds": Problem(
        HTTPStatus.BAD_REQUEST,
        "new_key",
        "The account's available amount would fall below its floor, which is 0 unless its policy "
        "says otherwise. Nothing was moved, and this key will always get this answer.",
    ),
    "balance_limit": Problem(
        HTTPStatus.CONFLICT,
        "new_key",
        "A balance would pass the largest one the ledger keeps. Nothing was moved, and this key "
        "will always get this answer.",
    ),
    "balance_ceiling": _declined(
        "The account's balance would pass its ceiling, which its policy sets."
    ),
    "balance_not_zero": _declined(
        "Only an account without balance and holds can be closed; decided_on has what is left."
    ),
    "account_frozen": _declined("The account is frozen for this direction by its policy."),
    "account_closed": _declined("The account is closed, for ever."),
    "condition_failed": _declined(
        "A leg demands what the account did not meet; decided_on has its actual figures."
    ),
    "hold_exceeded": _declined("The hold has less left than the amount asked for."),
    "hold_closed": _declined(
        "Nothing is left of the hold to be had: it was captured, released, or it has expired."
    ),
    "reversal_exceeded": _declined(
        "More would be reversed than is left of the original after its earlier reversals."
    ),
    "policy_conflict": _declined("The account's ceiling would be below its floor."),
    "schedule_settled": _declined(
        "It is too late to cancel: the transfer is due, and has been or will be executed, or it "
        "was cancelled already."
    ),
    "account_not_found": Problem(
        HTTPStatus.NOT_FOUND,
        "corrected",
        "The ledger has no customer's account with that id; or, of a reversal by legs, it has no "
        "part in the original. External accounts cannot be named.",
    ),
    "hold_not_found": Problem(HTTPStatus.NOT_FOUND, "corrected", "There is no hold with that id."),
    "schedule_not_found": Problem(
        HTTPStatus.NOT_FOUND, "corrected", "There is no scheduled transfer with that id."
    ),
    "ledger_not_found": Problem(
        HTTPStatus.NOT_FOUND, "corrected", "There is no ledger of that name; see POST /ledgers."
    ),
    "currency_not_found": Problem(
        HTTPStatus.NOT_FOUND, "corrected", "There is no currency with that code."
    ),
    "transaction_not_found": Problem(
        HTTPStatus.NOT_FOUND, "corrected", "There is no transaction with that id."
    ),
    "key_not_found": Problem(
        HTTPStatus.NOT_FOUND,
        "same_key",
        "This key has no recorded outcome on this account: either it never arrived, or it was "
        "rejected without a record, or it is still being decided.",
    ),
    "not_found": Problem(HTTPStatus.NOT_FOUND, "corrected", "There is no such route; see /docs."),
    "method_not_allowed": Problem(
        HTTPStatus.METHOD_NOT_ALLOWED, "corrected", "This route does not take this method."
    ),
    "request_timeout": Problem(
        HTTPStatus.REQUEST_TIMEOUT, "same_key", "The body did not arrive in time."
    ),
    "body_too_large": Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "corrected", "The body is larger than is accepted."
    ),
    "unsupported_media_type": Problem(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "corrected",
        "Send the body as JSON, with the header Content-Type: application/json.",
    ),
    "invalid_json": Problem(
        UNPROCESSABLE,
        "corrected",
        "The body is not UTF-8 JSON of one object, or names a field twice.",
    ),
    "invalid_request": Problem(
        UNPROCESSABLE, "corrected", "Some fields are missing, unknown or not valid; see errors."
    ),
    "idempotency_key_missing": Problem(
        UNPROCESSABLE,
        "corrected",
        "Name the payment: an idempotency_key in the body or an Idempotency-Key header.",
    ),
    "idempotency_key_invalid": Problem(
        UNPROCESSABLE, "corrected", "An idempotency key is 1 to 255 printable ASCII characters."
    ),
    "idempotency_key_mismatch": Problem(
        UNPROCESSABLE, "corrected", "The keys in the body and in the header differ."
    ),
    "idempotency_key_reused": Problem(
        UNPROCESSABLE,
        "corrected",
        "This key was used for another request. Nothing was moved. Give each payment its own key.",
    ),
    "reference_taken": Problem(
        HTTPStatus.CONFLICT, "corrected", "Another account of the ledger has this reference."
    ),
    "same_account": Problem(UNPROCESSABLE, "corrected", "The two accounts are one."),
    "currency_mismatch": Problem(
        UNPROCESSABLE,
        "corrected",
        "The accounts are of different currencies, or an account is of another one than was said. "
        "See exchange in POST /transactions.",
    ),
    "currency_unknown": Problem(UNPROCESSABLE, "corrected", "The ledger has no such currency."),
    "currency_taken": Problem(
        HTTPStatus.CONFLICT,
        "corrected",
        "There is a currency of that code, with another exponent or name. It cannot be changed.",
    ),
    "legs_unbalanced": Problem(
        UNPROCESSABLE,
        "corrected",
        "The legs do not sum to zero in every currency: what rounding leaves over needs a "
        "rounding_account_id. A reversal by legs names an account once, and an original with more "
        "than two accounts is reversed whole or by legs, not by an amount.",
    ),
    "rate_mismatch": Problem(
        UNPROCESSABLE,
        "corrected",
        "What is given of the bought currency is not what was sold times the rate, to a minor "
        "unit. Where more was moved than sold, such as a fee, say how much was sold.",
    ),
    "not_reversible": Problem(
        UNPROCESSABLE,
        "corrected",
        "Only posted deposits, withdrawals, transfers, captures and transactions of legs can be "
        "reversed. A hold is released, a transfer to come cancelled.",
    ),
    "expiry_passed": Problem(UNPROCESSABLE, "corrected", "The hold would have expired already."),
    "force_not_allowed": Problem(
        HTTPStatus.FORBIDDEN,
        "corrected",
        "Forcing a reversal needs the token of LEDGER_FORCE_TOKEN in the header "
        "Ledger-Force-Token.",
    ),
    "amount_precision": Problem(
        UNPROCESSABLE,
        "corrected",
        "The amount has more decimals than the account's currency, also if they are zeros.",
    ),
    "amount_limit": Problem(
        UNPROCESSABLE,
        "corrected",
        "The amount is larger than a single movement may be: 10^15 minor units.",
    ),
    "invalid_cursor": Problem(
        UNPROCESSABLE, "corrected", "The cursor is not of this list. Follow the Link header."
    ),
    "batch_failed": Problem(
        HTTPStatus.CONFLICT,
        "corrected",
        "The item at index failed, for the reason in cause, so none was posted and no key was "
        "recorded. The same batch may be sent again when the cause is gone; where it is a replay, "
        "that item needs a new key.",
    ),
    "overloaded": Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "same_key",
        "Too many requests are waiting, or the service is stopping. Nothing was moved; send the "
        "same request again later.",
    ),
    "unavailable": Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "same_key",
        "The database did not answer in time. Send the same request again, a movement with the "
        "same key: it moves money at most once.",
    ),
    "internal_error": Problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "same_key",
        "A fault of the service, which its log names. The same request with the same key may "
        "safely be sent again.",
    ),
}

RETRY_AFTER_S = 1


class ProblemError(Exception):
    """Ends a request with a catalogued problem. `facts` join the body."""

    def __init__(self, code: str, **facts: Any) -> None:
        self.code = code
        self.facts = facts
        super().__init__(code)


def rejection(rejected: Rejected) -> ProblemError:
    """A rejection as a problem, with the account at fault."""
    facts = {} if rejected.account_id is None else {"account_id": rejected.account_id}
    return ProblemError(rejected.reason.value, **facts)


def problem_body(code: str, **facts: Any) -> bytes:
    """The problem+json of a code."""
    problem = CATALOGUE[code]
    body = {
        "type": f"urn:ledgerservice:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": problem.status.value,
        "code": code,
        "detail": problem.detail,
        "retry": problem.retry,
        **facts,
    }
    return json.dumps(body, separators=(",", ":")).encode()


def problem(code: str, **facts: Any) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of the answer to a refused request."""
    body = problem_body(code, **facts) if facts else _plain_body(code)
    status = CATALOGUE[code].status
    headers = {"content-type": "application/problem+json"}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["retry-after"] = str(RETRY_AFTER_S)
    return status, body, headers


@lru_cache
def _plain_body(code: str) -> bytes:
    """Made once: refusing must be cheap when there is much to refuse."""
    return problem_body(code)
