"""Answers from recorded rows. The same rows give the same bytes, for ever.

A transaction is stored with the version of the renderer that answered it first, and a replay is
rendered by that version. A renderer is never changed once released: a new form is a new version.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from ledgerservice.api.problems import CATALOGUE, problem_body
from ledgerservice.model import Currency, Kind, Opened, Outcome, Refusal, Rejected, Transaction
from ledgerservice.money import to_major
from ledgerservice.reads import AccountView, CurrencyView, HistoryEntry


@lru_cache(maxsize=256)  # a batch has one moment
def moment(time: datetime) -> str:
    """RFC 3339, in UTC, to the microsecond."""
    utc = time.astimezone(UTC)
    return utc.isoformat(timespec="microseconds").replace("+00:00", "Z")


def encode(body: Any) -> bytes:
    """JSON in bytes."""
    return json.dumps(body, separators=(",", ":")).encode()


def answer(transaction: Transaction) -> tuple[int, bytes]:
    """Status and body of the answer to the request that made `transaction`."""
    return RENDERERS[transaction.renderer](transaction)


def _render_1(transaction: Transaction) -> tuple[int, bytes]:
    if transaction.refusal is None:
        return 200, _render_posted_1(transaction).encode()
    facts = {"idempotency_key": transaction.key} | _declined(transaction, transaction.refusal)
    code = transaction.refusal.reason.value
    return CATALOGUE[code].status, problem_body(code, **facts)


def _render_posted_1(transaction: Transaction) -> str:
    """As text, in half the time of a JSON encoder; only numbers and codes stand in it."""
    exponent = transaction.exponent
    entries = ",".join(
        f'{{"account_id":{entry.account_id},"amount":"{to_major(entry.amount, exponent)}",'
        f'"balance":"{to_major(entry.balance, exponent)}","version":{entry.seq}}}'
        for entry in transaction.entries
    )
    balance = "sender_new_balance" if transaction.kind is Kind.TRANSFER else "new_balance"
    return (
        f'{{"status":"posted","transaction_id":{transaction.id},'
        f'"transaction_type":"{transaction.kind.name}",'
        f'"amount":"{to_major(transaction.amount, exponent)}","currency":"{transaction.currency}",'
        f'"recorded_at":"{moment(transaction.recorded_at)}","entries":[{entries}],'
        f'"{balance}":"{to_major(transaction.entries[0].balance, exponent)}"}}'
    )


RENDERERS: dict[int, Callable[[Transaction], tuple[int, bytes]]] = {1: _render_1}


def record(transaction: Transaction) -> bytes:
    """The body of a transaction that is looked up."""
    head = {"account_id": transaction.account_id, "idempotency_key": transaction.key}
    if transaction.refusal is None:
        return encode(head | _posted(transaction))
    reason = {"status": "declined", "code": transaction.refusal.reason.value}
    return encode(head | reason | _declined(transaction, transaction.refusal) | {"entries": []})


def _posted(transaction: Transaction) -> dict[str, Any]:
    exponent = transaction.exponent
    return {
        "status": "posted",
        "transaction_id": transaction.id,
        "transaction_type": transaction.kind.name,
        "amount": to_major(transaction.amount, exponent),
        "currency": transaction.currency,
        "recorded_at": moment(transaction.recorded_at),
        "entries": [
            {
                "account_id": entry.account_id,
                "amount": to_major(entry.amount, exponent),
                "balance": to_major(entry.balance, exponent),
                "version": entry.seq,
            }
            for entry in transaction.entries
        ],
    }


def _declined(transaction: Transaction, refusal: Refusal) -> dict[str, Any]:
    """The decline, with the state of the account that it was decided on."""
    exponent = transaction.exponent
    return {
        "transaction_id": transaction.id,
        "transaction_type": transaction.kind.name,
        "amount": to_major(transaction.amount, exponent),
        "currency": transaction.currency,
        "recorded_at": moment(transaction.recorded_at),
        "decided_on": {
            "account_id": refusal.account_id,
            "available": to_major(refusal.available, exponent),
            "version": refusal.version,
        },
    }


def cause(outcome: Outcome) -> dict[str, Any]:
    """Why an item failed its batch. A decline was not recorded, so it has no id and no moment."""
    if isinstance(outcome, Rejected):
        return {"code": outcome.reason.value}
    refusal = outcome.transaction.refusal
    assert refusal is not None
    decided_on = _declined(outcome.transaction, refusal)["decided_on"]
    return {"code": refusal.reason.value, "decided_on": decided_on}


def opened(account: Opened) -> bytes:
    """The body of a newly opened account: empty, whatever has happened to it since."""
    view = AccountView(
        account.account_id,
        account.owner,
        account.currency,
        account.exponent,
        account.reference,
        0,
        0,
        0,
        "active",
        account.created_at,
    )
    return encode(account_body(view))


def currency_body(currency: Currency | CurrencyView) -> dict[str, Any]:
    """A currency."""
    return {"code": currency.code, "exponent": currency.exponent, "name": currency.name}


def account_body(account: AccountView) -> dict[str, Any]:
    """An account as it stands."""
    exponent = account.exponent
    return {
        "id": account.id,
        "owner": account.owner,
        "currency": account.currency,
        "reference": account.reference,
        "balance": to_major(account.balance, exponent),
        "held": to_major(account.held, exponent),
        "available": to_major(account.balance - account.held, exponent),
        "version": account.version,
        "status": account.status,
        "created_at": moment(account.created_at),
    }


def history_body(entry: HistoryEntry) -> dict[str, Any]:
    """One entry of an account's history."""
    return {
        "transaction_id": entry.transaction_id,
        "transaction_type": _entry_type(entry),
        "amount": to_major(entry.amount, entry.exponent),
        "balance": to_major(entry.balance, entry.exponent),
        "version": entry.version,
        "idempotency_key": entry.key,
        "created_at": moment(entry.recorded_at),
    }


def _entry_type(entry: HistoryEntry) -> str:
    if entry.kind is not Kind.TRANSFER:
        return entry.kind.name
    return "TRANSFER_OUT" if entry.amount < 0 else "TRANSFER_IN"
