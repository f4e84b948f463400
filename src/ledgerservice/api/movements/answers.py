"""Answers from recorded rows. The same rows give the same bytes, for ever.

A transaction is stored with the version of the renderer that answered it first, and a replay is
rendered by that version. A renderer is never changed once released: a new form is a new version.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw

from ledgerservice.api.http.problems import CATALOGUE, problem_body
from ledgerservice.domain.accounts import Opened
from ledgerservice.domain.amounts import to_major
from ledgerservice.domain.currencies import Currency
from ledgerservice.domain.instructions import Frozen, Kind
from ledgerservice.domain.ledgers import LedgerRecord
from ledgerservice.domain.rules import PARENT_MEMBERS
from ledgerservice.domain.transactions import (
    Extra,
    HoldTerms,
    Outcome,
    Refusal,
    Rejected,
    ScheduleTerms,
    Status,
    Transaction,
)
from ledgerservice.postgres.queries.accounts import AccountView, HistoryEntry, PolicyView
from ledgerservice.postgres.queries.catalogue import CurrencyView, LedgerView
from ledgerservice.postgres.queries.holds import HoldView
from ledgerservice.postgres.queries.schedules import ScheduleView
from ledgerservice.postgres.queries.transactions import Child


@lru_cache(maxsize=256)  # a batch has one moment
def moment(time: datetime) -> str:
    """RFC 3339, in UTC, to the microsecond."""
    utc = time.astimezone(UTC)
    return utc.isoformat(timespec="microseconds").replace("+00:00", "Z")


def optional_moment(time: datetime | None) -> str | None:
    """The same, or None."""
    return None if time is None else moment(time)


def encode(body: Any) -> bytes:
    """JSON in bytes."""
    return msgspec.json.encode(body)


def answer(transaction: Transaction) -> tuple[int, bytes]:
    """Status and body of the answer to the request that made `transaction`."""
    return (_render_1 if transaction.extra is None else _render_2)(transaction)


def _render_1(transaction: Transaction) -> tuple[int, bytes]:
    if transaction.refusal is None:
        return 200, _render_posted_1(transaction).encode()
    facts = {"idempotency_key": transaction.key} | _declined(transaction, transaction.refusal)
    code = transaction.refusal.reason.value
    return CATALOGUE[code].status, problem_body(code, **facts)


_NAMES = {kind: kind.name for kind in Kind}


def _render_posted_1(transaction: Transaction) -> str:
    """As text, in half the time of a JSON encoder; only numbers and codes stand in it."""
    exponent = transaction.exponent
    entries = ",".join(
        f'{{"account_id":{entry.account_id},"amount":"{to_major(entry.amount, exponent)}",'
        f'"balance":"{to_major(entry.balance, exponent)}","version":{entry.seq}}}'
        for entry in transaction.entries
    )
    name = _NAMES[transaction.kind]
    balance = "sender_new_balance" if name == "TRANSFER" else "new_balance"
    return (
        f'{{"status":"posted","transaction_id":{transaction.id},'
        f'"transaction_type":"{name}",'
        f'"amount":"{to_major(transaction.amount, exponent)}","currency":"{transaction.currency}",'
        f'"recorded_at":"{moment(transaction.recorded_at)}","entries":[{entries}],'
        f'"{balance}":"{to_major(transaction.entries[0].balance, exponent)}"}}'
    )


def _render_2(transaction: Transaction) -> tuple[int, bytes]:
    if transaction.refusal is None:
        return 200, msgspec.json.encode(_posted_2(transaction))
    facts = {"idempotency_key": transaction.key} | _declined_2(transaction, transaction.refusal)
    code = transaction.refusal.reason.value
    return CATALOGUE[code].status, problem_body(code, **facts)


def _posted_2(transaction: Transaction) -> dict[str, Any]:
    extra = transaction.extra
    assert extra is not None
    body = {"status": "posted"} | _head_2(transaction)
    entries: list[dict[str, Any]] = []
    for entry in transaction.entries:
        code, exponent = extra.currencies[entry.currency_number]
        entries.append(
            {
                "account_id": entry.account_id,
                "currency": code,
                "amount": to_major(entry.amount, exponent),
                "balance": to_major(entry.balance, exponent),
                "held_change": to_major(entry.held_change, exponent),
                "held": to_major(entry.held, exponent),
                "version": entry.seq,
            }
        )
    body["entries"] = entries
    if transaction.kind <= Kind.TRANSFER:
        sends = transaction.kind is Kind.TRANSFER
        body["sender_new_balance" if sends else "new_balance"] = entries[0]["balance"]
    return body | _sides_2(transaction, extra) | _detail_2(extra)


def _head_2(transaction: Transaction) -> dict[str, Any]:
    head = {
        "transaction_id": transaction.id,
        "transaction_type": transaction.kind.name,
        "amount": to_major(transaction.amount, transaction.exponent),
        "currency": transaction.currency,
        "recorded_at": moment(transaction.recorded_at),
    }
    extra = transaction.extra
    if extra is not None and extra.parent_id is not None:
        head[PARENT_MEMBERS[transaction.kind]] = extra.parent_id
    return head


def _sides_2(transaction: Transaction, extra: Extra) -> dict[str, Any]:
    """What the transaction's kind adds: a hold's terms, a policy, a schedule, a rate."""
    body: dict[str, Any] = {}
    exponent = transaction.exponent
    if isinstance(extra.terms, HoldTerms):
        body["hold_id"] = transaction.id
        body["counterparty_id"] = extra.terms.counterparty_id
        body["expires_at"] = optional_moment(extra.terms.expires_at)
        body["capture_at"] = optional_moment(extra.terms.capture_at)
    if extra.remaining is not None:
        body["remaining"] = to_major(extra.remaining, exponent)
    if isinstance(extra.terms, ScheduleTerms):
        body["schedule_id"] = transaction.id
        body["counterparty_id"] = extra.terms.counterparty_id
        body["execute_at"] = moment(extra.terms.execute_at)
    if transaction.kind is Kind.POLICY:
        [policy] = extra.policies
        body |= {"actor": policy.actor, "reason": policy.reason}
        body |= policy_body(policy.floor, policy.ceiling, policy.restricted, exponent)
    if extra.exchange is not None:
        body["exchange"] = Raw(extra.exchange)
    return body


def _detail_2(extra: Extra) -> dict[str, Any]:
    """What the caller added, as far as there is any."""
    detail = extra.detail
    given = {
        "description": detail.description,
        "reference": detail.reference,
        "effective_at": optional_moment(detail.effective_at),
        "metadata": None if detail.metadata is None else Raw(detail.metadata),
    }
    return {name: value for name, value in given.items() if value is not None}


def _declined_2(transaction: Transaction, refusal: Refusal) -> dict[str, Any]:
    extra = transaction.extra
    assert extra is not None
    [(code, exponent)] = extra.currencies.values()
    decided_on = {
        "account_id": refusal.account_id,
        "currency": code,
        "available": to_major(refusal.available, exponent),
        "balance": to_major(refusal.balance, exponent),
        "version": refusal.version,
    }
    return _head_2(transaction) | {"decided_on": decided_on}


def record(transaction: Transaction, children: Sequence[Child] = ()) -> bytes:
    """The body of a transaction that is looked up, with what builds on it."""
    refusal = transaction.refusal
    body: dict[str, Any] = {"account_id": transaction.account_id}
    body["idempotency_key"] = transaction.key
    if refusal is not None:
        body |= {"status": "declined", "code": refusal.reason.value, "entries": []}
        if transaction.kind is Kind.TRANSFER:
            body["counterparty_id"] = transaction.counterparty_id
    if transaction.extra is None:
        body |= _posted(transaction) if refusal is None else _declined(transaction, refusal)
    elif refusal is None:
        body |= _posted_2(transaction)
    else:
        body |= _declined_2(transaction, refusal) | _detail_2(transaction.extra)
    for name, kinds in (("reversed_by", {Kind.REVERSAL}), ("steps", PARENT_MEMBERS.keys())):
        found = [child.id for child in children if child.kind in kinds]
        if found:
            body[name] = found
            break
    return msgspec.json.encode(body)


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
    """Why an item failed its batch. A decline was not recorded, so it has no id and no moment,
    unless it is what the key has answered before.
    """
    if isinstance(outcome, Rejected):
        return {"code": outcome.reason.value, "account_id": outcome.account_id}
    transaction, refusal = outcome.transaction, outcome.transaction.refusal
    assert refusal is not None
    declined = _declined if transaction.extra is None else _declined_2
    decided_on = declined(transaction, refusal)["decided_on"]
    found = {"code": refusal.reason.value, "decided_on": decided_on}
    if outcome.replayed:
        found |= {"replayed": True, "retry": "new_key", "transaction_id": transaction.id}
    return found


def opened(account: Opened) -> bytes:
    """The body of a newly opened account: empty, whatever has happened to it since."""
    view = AccountView(
        account.account_id,
        account.owner,
        account.currency,
        account.exponent,
        account.reference,
        balance=0,
        held=0,
        version=0,
        floor=0,
        ceiling=None,
        restricted=0,
        created_at=account.created_at,
        metadata=account.metadata,
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
        "metadata": None if account.metadata is None else Raw(account.metadata),
        "balance": to_major(account.balance, exponent),
        "held": to_major(account.held, exponent),
        "available": to_major(account.balance - account.held, exponent),
        "version": account.version,
        "status": _status(account.restricted),
        **policy_body(account.floor, account.ceiling, account.restricted, exponent),
        "created_at": moment(account.created_at),
    }


def policy_body(
    floor: int | None, ceiling: int | None, restricted: int, exponent: int
) -> dict[str, Any]:
    """An account's limits; an external account has none."""
    return {
        "floor": None if floor is None else to_major(floor, exponent),
        "ceiling": None if ceiling is None else to_major(ceiling, exponent),
        "frozen": FROZEN[restricted & ~Frozen.CLOSED],
        "closed": bool(restricted & Frozen.CLOSED),
    }


FROZEN = {0: None, Frozen.DEBITS: "debits", Frozen.CREDITS: "credits", 3: "both"}


def _status(restricted: int) -> str:
    if restricted & Frozen.CLOSED:
        return "closed"
    return "frozen" if restricted else "active"


def policy_change_body(change: PolicyView) -> dict[str, Any]:
    """One change of an account's policy; `forced_to` where a reversal was forced."""
    body = {
        "version": change.version,
        "transaction_id": change.transaction_id,
        **policy_body(change.floor, change.ceiling, change.restricted, change.exponent),
        "actor": change.actor,
        "reason": change.reason,
        "changed_at": moment(change.recorded_at),
    }
    if change.lowest is not None:
        body["forced_to"] = to_major(change.lowest, change.exponent)
    return body


def hold_body(hold: HoldView) -> dict[str, Any]:
    """A hold as it stands."""
    exponent = hold.exponent
    remaining = 0 if hold.expired else hold.remaining
    if remaining:
        status = "open"
    elif hold.expired:
        status = "expired"
    else:
        status = "captured" if hold.captured else "released"
    return {
        "id": hold.id,
        "status": status,
        "account_id": hold.account_id,
        "counterparty_id": hold.counterparty_id,
        "currency": hold.currency,
        "amount": to_major(hold.amount, exponent),
        "captured": to_major(hold.captured, exponent),
        "released": to_major(hold.amount - hold.captured - remaining, exponent),
        "remaining": to_major(remaining, exponent),
        "expires_at": optional_moment(hold.expires_at),
        "capture_at": optional_moment(hold.capture_at),
        "created_at": moment(hold.created_at),
    }


def schedule_body(schedule: ScheduleView) -> dict[str, Any]:
    """A scheduled transfer as it stands."""
    if schedule.settled_by is None:
        status = "pending"
    elif schedule.settled_kind == Kind.CANCELLATION:
        status = "cancelled"
    else:
        status = "executed" if schedule.settled_status == Status.POSTED else "declined"
    return {
        "id": schedule.id,
        "status": status,
        "from_account_id": schedule.account_id,
        "to_account_id": schedule.counterparty_id,
        "amount": to_major(schedule.amount, schedule.exponent),
        "currency": schedule.currency,
        "execute_at": moment(schedule.execute_at),
        "created_at": moment(schedule.created_at),
        "settled_by": schedule.settled_by,
    }


def ledger_body(ledger: LedgerView | LedgerRecord) -> dict[str, Any]:
    """A ledger."""
    return {"name": ledger.name, "created_at": moment(ledger.created_at)}


def history_body(entry: HistoryEntry) -> dict[str, Any]:
    """One entry of an account's history."""
    return {
        "transaction_id": entry.transaction_id,
        "transaction_type": _entry_type(entry),
        "amount": to_major(entry.amount, entry.exponent),
        "balance": to_major(entry.balance, entry.exponent),
        "held_change": to_major(entry.held_change, entry.exponent),
        "held": to_major(entry.held, entry.exponent),
        "version": entry.version,
        "idempotency_key": entry.key,
        "created_at": moment(entry.recorded_at),
    }


def _entry_type(entry: HistoryEntry) -> str:
    if entry.kind is not Kind.TRANSFER:
        return entry.kind.name
    return "TRANSFER_OUT" if entry.amount < 0 else "TRANSFER_IN"
