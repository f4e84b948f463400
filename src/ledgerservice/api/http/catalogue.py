"""Every refusal of the service, in one catalogue, as problem+json (RFC 9457).

`retry` says whether the request can be sent again:
  same_key    send the same request with the same key; it moves money at most once
  new_key     the answer to this key is final; use a new key when the account has changed
  corrected   nothing was recorded; correct the request and send it, with the same key if wanted
"""

from http import HTTPStatus
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from ledgerservice.installation import command

Retry = Literal["same_key", "new_key", "corrected"]


class Problem(NamedTuple):
    """An entry of the catalogue; `detail` is a sentence for the person who reads the answer."""

    status: HTTPStatus
    retry: Retry
    detail: str


def _declined(detail: str, status: HTTPStatus = HTTPStatus.CONFLICT) -> Problem:
    final = "Nothing was moved, and this key will always get this answer."
    return Problem(status, "new_key", f"{detail} {final}")


def _missing(detail: str) -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "corrected", detail)


def _invalid(detail: str, status: HTTPStatus = HTTPStatus.UNPROCESSABLE_ENTITY) -> Problem:
    return Problem(status, "corrected", detail)


def _failed(detail: str, status: HTTPStatus = HTTPStatus.SERVICE_UNAVAILABLE) -> Problem:
    return Problem(status, "same_key", detail)


CATALOGUE: dict[str, Problem] = {
    "insufficient_funds": _declined(
        "The available amount would fall below the account's floor, which is 0 unless the "
        "account's policy sets another one.",
        HTTPStatus.BAD_REQUEST,
    ),
    "balance_limit": _declined("A balance would exceed the largest one that the ledger stores."),
    "balance_ceiling": _declined(
        "The balance would exceed the ceiling that the account's policy sets."
    ),
    "balance_not_zero": _declined(
        "An account can be closed only when its balance and its held amount are zero; see "
        "decided_on."
    ),
    "account_frozen": _declined("The account's policy freezes it in this direction."),
    "account_closed": _declined("The account is closed. It cannot be opened again."),
    "condition_failed": _declined(
        "The account does not meet a condition of a leg; decided_on has the account's figures."
    ),
    "hold_exceeded": _declined("The amount is larger than what remains of the hold."),
    "hold_closed": _declined(
        "Nothing remains of the hold: it was captured or released, or it has expired."
    ),
    "reversal_exceeded": _declined(
        "The amount is larger than what earlier reversals have left of the original transaction."
    ),
    "policy_conflict": _declined("The account's ceiling would be below its floor."),
    "schedule_settled": _declined(
        "The scheduled transfer can no longer be cancelled: it is due, or it was executed or "
        "cancelled."
    ),
    "ledger_has_parts": _invalid(
        "The ledger has several parts, and this is not answered for all of them together.",
        HTTPStatus.NOT_IMPLEMENTED,
    ),
    "part_unknown": _invalid("The ledger has no part of this number; see its shards."),
    "accounts_in_different_parts": _invalid(
        "The accounts are in different parts of the ledger. A transfer can go from one part to "
        "another, alone or as two legs, the debited one first; a hold, a scheduled transfer, other "
        "transactions with legs, and items that are posted together or not at all stay in one part."
    ),
    "account_not_found": _missing(
        "The ledger has no such account, or the account is not part of the transaction that is to "
        "be reversed. External accounts cannot be named."
    ),
    "hold_not_found": _missing("There is no hold with this id."),
    "schedule_not_found": _missing("There is no scheduled transfer with this id."),
    "ledger_not_found": _missing("There is no ledger with this name; see POST /ledgers."),
    "currency_not_found": _missing("There is no currency with this code."),
    "transaction_not_found": _missing("There is no transaction with this id."),
    "webhook_not_found": _missing("There is no webhook with this id."),
    "webhook_limit": _invalid(
        "The database has as many webhooks as LEDGER_WEBHOOKS_LIMIT allows. Delete one first.",
        HTTPStatus.CONFLICT,
    ),
    "key_not_found": _failed(
        "The key has no recorded outcome on this account: the request did not arrive, or it was "
        "rejected without a record, or it is still being decided.",
        HTTPStatus.NOT_FOUND,
    ),
    "key_missing": _invalid(
        "Send a key of the service: Authorization: Bearer lgk_...", HTTPStatus.UNAUTHORIZED
    ),
    "key_invalid": _invalid(
        "The key in Authorization is not one of the service, or it is not valid yet, has expired "
        "or was revoked; or the client's certificate is another principal's.",
        HTTPStatus.UNAUTHORIZED,
    ),
    "signature_required": _invalid(
        "The key requires signed requests, or the operation does (RFC 9421, Ed25519). An operation "
        "that requires them needs a key that was made with --signed-with.",
        HTTPStatus.UNAUTHORIZED,
    ),
    "signature_invalid": _invalid(
        "The signature is not the key's, does not cover enough, or is too old, or its nonce was "
        "used, or the body is another than the signed one. Sign the request again, with a new "
        "nonce.",
        HTTPStatus.UNAUTHORIZED,
    ),
    "stream_not_signed": _invalid(
        "The key requires signed requests, and the lines of a stream cannot be signed before they "
        "are sent. Send a batch in JSON.",
        HTTPStatus.FORBIDDEN,
    ),
    "scope_missing": _invalid(
        "The key does not allow this. It needs one of the scopes in scope, on all ledgers if the "
        "request concerns all of them.",
        HTTPStatus.FORBIDDEN,
    ),
    "no_keys": _invalid(
        "The service has no keys, so it answers its own machine only. Its operator makes a key "
        f"with `{command('keys')} create`, or sets LEDGER_ALLOW_OPEN.",
        HTTPStatus.FORBIDDEN,
    ),
    "forwarded_without_keys": _invalid(
        "The service has no keys, and a proxy has sent the request on from elsewhere (Forwarded, "
        f"X-Forwarded-...). Its operator makes a key with `{command('keys')} create`, or sets "
        "LEDGER_ALLOW_OPEN.",
        HTTPStatus.FORBIDDEN,
    ),
    "proxy_required": _invalid(
        "The service takes requests in plain text from its proxies only, which "
        "LEDGER_TRUSTED_PROXIES names. Send the request to the proxy.",
        HTTPStatus.FORBIDDEN,
    ),
    "forwarded_invalid": _invalid(
        "The proxy has sent the request on with a Forwarded or X-Forwarded-... header that does "
        "not name one client by its address, or they name different ones.",
        HTTPStatus.BAD_REQUEST,
    ),
    "not_found": _missing("There is no such route; see /docs."),
    "method_not_allowed": _invalid(
        "The route does not support this method.", HTTPStatus.METHOD_NOT_ALLOWED
    ),
    "header_repeated": _invalid(
        "A header that may be there once is there twice, such as Host or Content-Type.",
        HTTPStatus.BAD_REQUEST,
    ),
    "invalid_framing": _invalid(
        "Transfer-Encoding is only taken as chunked, in HTTP/1.1, and without Content-Length. A "
        "request with Upgrade, or of the method CONNECT, has no body.",
        HTTPStatus.BAD_REQUEST,
    ),
    "head_too_large": _invalid(
        "The request has too many headers, or they are too long.",
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    ),
    "host_missing": _invalid("The request has no header Host.", HTTPStatus.BAD_REQUEST),
    "host_not_allowed": _invalid(
        "The service does not answer under the name in Host. Its operator can add the name to "
        "LEDGER_ALLOWED_HOSTS.",
        HTTPStatus.MISDIRECTED_REQUEST,
    ),
    "origin_not_allowed": _invalid(
        "The request comes from a page of another site.", HTTPStatus.FORBIDDEN
    ),
    "length_required": _invalid(
        f"Send the body with Content-Length. In pieces it is taken by `{command('serve')}` only.",
        HTTPStatus.LENGTH_REQUIRED,
    ),
    "request_timeout": _failed("The body did not arrive in time.", HTTPStatus.REQUEST_TIMEOUT),
    "body_too_large": _invalid(
        "The body is larger than max_bytes.", HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    ),
    "unsupported_media_type": _invalid(
        "Send the body as JSON, with the header Content-Type: application/json.",
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ),
    "invalid_json": _invalid(
        "The body is not a JSON object in UTF-8, or it contains a field twice or too many values."
    ),
    "invalid_request": _invalid(
        "A field or a parameter is missing, unknown or not valid; see errors."
    ),
    "idempotency_key_missing": _invalid(
        "The request has no idempotency key. Send idempotency_key in the body or the header "
        "Idempotency-Key."
    ),
    "idempotency_key_invalid": _invalid(
        "An idempotency key is 1 to 255 printable ASCII characters, without a blank at its ends."
    ),
    "idempotency_key_mismatch": _invalid("The keys in the body and in the header differ."),
    "idempotency_key_reused": _invalid(
        "The key was used for a different request. Nothing was moved. Use a new key for each "
        "payment."
    ),
    "reference_taken": _invalid(
        "Another account of the ledger has this reference.", HTTPStatus.CONFLICT
    ),
    "same_account": _invalid("The source and the destination are the same account."),
    "currency_mismatch": _invalid(
        "The accounts have different currencies, or an account has another currency than the "
        "request names. For an exchange see POST /transactions."
    ),
    "currency_unknown": _invalid("There is no such currency; see POST /currencies."),
    "ledger_taken": _invalid(
        "There is a ledger with this name, and it has another number of parts.",
        HTTPStatus.CONFLICT,
    ),
    "currency_taken": _invalid(
        "A currency with this code exists and has another exponent or name. A currency cannot be "
        "changed.",
        HTTPStatus.CONFLICT,
    ),
    "legs_unbalanced": _invalid(
        "The legs do not sum to zero in every currency. A rounding difference needs a "
        "rounding_account_id. A reversal by legs names each account once. A transaction with more "
        "than two accounts is reversed completely or by legs, not by an amount."
    ),
    "rate_mismatch": _invalid(
        "The bought amount is not the sold amount times the rate, within one minor unit. If more "
        "is moved than sold, for example with a fee, exchange.sold is the sold amount."
    ),
    "not_reversible": _invalid(
        "Only posted deposits, withdrawals, transfers, captures and transactions with legs can be "
        "reversed. A hold is released, and a scheduled transfer is cancelled."
    ),
    "expiry_passed": _invalid("expires_at is in the past."),
    "approval_required": _invalid(
        "Others have to approve this. Nothing was moved. Send it over HTTP with a key, alone or as "
        "an independent item of a batch: the answer is its proposal.",
        HTTPStatus.FORBIDDEN,
    ),
    "approval_without_keys": _invalid(
        "Somebody else has to approve this, and nobody can be somebody else without a key. Its "
        f"operator makes keys with `{command('keys')} create`, for who sends it and for who "
        "approves it.",
        HTTPStatus.FORBIDDEN,
    ),
    "approval_by_proposer": _invalid(
        "Nobody decides on what they have proposed themselves. They may withdraw it.",
        HTTPStatus.FORBIDDEN,
    ),
    "approval_not_found": _missing("There is no proposal with this id."),
    "approval_not_open": _invalid(
        "The proposal is not open any more: it was decided on or withdrawn, or has expired, or you "
        "have decided on it otherwise.",
        HTTPStatus.CONFLICT,
    ),
    "approval_superseded": _invalid(
        "Somebody else has posted the same request with its key before the proposal was carried "
        "out. The proposal has moved nothing.",
        HTTPStatus.CONFLICT,
    ),
    "amount_precision": _invalid(
        "The amount has more decimals than the account's currency. Trailing zeros count."
    ),
    "amount_limit": _invalid(
        "The amount is larger than the limit for one movement, which is 10^15 minor units."
    ),
    "invalid_cursor": _invalid("The cursor does not belong to this list. Follow the Link header."),
    "position_lost": _invalid(
        "The position is of an epoch of the feed that has ended: the database was restored, or "
        "lost its last commits. Read on from compare_from, and compare what you have from there.",
        HTTPStatus.GONE,
    ),
    "batch_failed": _invalid(
        "The item at index failed for the reason in cause. No item was posted and no key was "
        "recorded. The same batch can be sent again when the cause is removed. If the item is a "
        "replay, it needs a new key.",
        HTTPStatus.CONFLICT,
    ),
    "overloaded": _failed(
        "Too many requests or connections are waiting, or their bodies are too large together, or "
        "the service is stopping. Nothing was moved. Send the same request again later."
    ),
    "limited_to_accounts": _invalid(
        "The key is limited to accounts of the ledger, and this concerns others too. A list of "
        "transactions needs account_id, without owner and by=effective.",
        HTTPStatus.FORBIDDEN,
    ),
    "amount_not_granted": _invalid(
        "The key may not move so much at a time, or not this currency.", HTTPStatus.FORBIDDEN
    ),
    "rate_limited": _failed(
        "The key has used what `limit` lets it use. Nothing was moved. Send the same request again "
        "after the seconds of Retry-After.",
        HTTPStatus.TOO_MANY_REQUESTS,
    ),
    "not_verifying": _invalid(
        "No process verifies all the time: LEDGER_VERIFY_INTERVAL_S is 0, the service has just "
        "started, or `verify --watch` runs on a standby, which hears nothing.",
        HTTPStatus.CONFLICT,
    ),
    "ledger_moving": _failed(
        "The ledger is moving to another database, and nothing was recorded. Send the same request "
        "again in a few seconds, with the same key."
    ),
    "unavailable": _failed(
        "The database did not answer in time. Send the same request again, with the same key: a "
        "movement moves money at most once."
    ),
    "shard_unavailable": _failed(
        "The database that has the ledger cannot be used now. Send the same request again, with "
        "the same key: a movement moves money at most once."
    ),
    "internal_error": _failed(
        "The service failed, and its log has the reason. The same request with the same key can "
        "be sent again safely.",
        HTTPStatus.INTERNAL_SERVER_ERROR,
    ),
}


ProblemCode = Annotated[
    str,
    Meta(
        description="\n".join(
            (
                "| code | status | retry | detail |",
                "|---|---|---|---|",
                *(
                    f"| {code} | {p.status.value} | {p.retry} | {p.detail} |"
                    for code, p in CATALOGUE.items()
                ),
            )
        ),
        extra_json_schema={"x-name": "ProblemCode", "enum": [*CATALOGUE]},
    ),
]
"""A code of the catalogue. Its description is the catalogue, as a table."""
