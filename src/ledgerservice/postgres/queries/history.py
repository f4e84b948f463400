"""A ledger's whole history, from one snapshot."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Row, text

from ledgerservice.domain.history import (
    PastAccount,
    PastCurrency,
    PastEntry,
    PastPolicy,
    PastRefusal,
    PastTransaction,
)
from ledgerservice.domain.instructions import Kind, Origin
from ledgerservice.domain.transactions import DeclineReason, HoldTerms, ScheduleTerms

ROWS_AT_ONCE = 2_000

LIST_CURRENCIES = text("""
SELECT c.code, c.number, c.exponent, c.name, c.ledger_id IS NOT NULL AS own
FROM ledger.currencies c
WHERE EXISTS (SELECT FROM ledger.accounts a
              WHERE a.ledger_id = :ledger AND a.id > 0 AND a.currency = c.code
                AND a.currency_number = c.number)
ORDER BY c.number
""")

LIST_ACCOUNTS = text("""
SELECT a.id, a.owner, a.currency, coalesce(a.idempotency_key, 'account ' || a.id) AS key,
       a.origin, a.reference, d.metadata::text AS metadata
FROM ledger.accounts a
LEFT JOIN ledger.account_details d ON d.ledger_id = a.ledger_id AND d.account_id = a.id
WHERE a.ledger_id = :ledger AND a.id > 0 ORDER BY a.id
""")

# recorded_at rises from batch to batch on each account, and ids rise within a batch: so whatever a
# transaction continues or builds on comes before it.
LIST_TRANSACTIONS = text("""
SELECT t.id, t.kind, t.account_id, t.amount, t.idempotency_key AS key, t.recorded_at, t.origin,
       t.counterparty_id, t.renderer, t.decline_reason, t.deciding_account_id, t.deciding_version,
       t.deciding_available, t.deciding_balance,
       d.parent_id, d.remaining, d.exchange::text AS exchange, d.description, d.reference,
       d.effective_at, d.metadata::text AS metadata, d.digest, d.salt,
       d.request::text AS request,
       h.counterparty_id AS held_for, h.amount AS held_amount, h.expires_at, h.capture_at,
       s.counterparty_id AS payee, s.amount AS scheduled_amount, s.execute_at,
       (SELECT json_agg(json_build_array(e.account_id, e.seq, e.amount, e.held_change, e.balance,
                                         e.held) ORDER BY e.account_id, e.seq)
        FROM ledger.entries e
        WHERE e.ledger_id = t.ledger_id AND e.transaction_id = t.id) AS entries,
       (SELECT json_agg(json_build_array(p.account_id, p.seq, p.floor, p.ceiling, p.restricted,
                                         p.actor, p.reason, p.lowest) ORDER BY p.account_id)
        FROM ledger.policies p
        WHERE p.ledger_id = t.ledger_id AND p.transaction_id = t.id) AS policies,
       EXISTS (SELECT FROM ledger.details c
               WHERE c.ledger_id = t.ledger_id AND c.parent_id = t.id) AS is_parent
FROM ledger.transactions t
LEFT JOIN ledger.details d ON d.ledger_id = t.ledger_id AND d.transaction_id = t.id
LEFT JOIN ledger.holds h ON h.ledger_id = t.ledger_id AND h.transaction_id = t.id
LEFT JOIN ledger.schedules s ON s.ledger_id = t.ledger_id AND s.transaction_id = t.id
WHERE t.ledger_id = :ledger ORDER BY t.recorded_at, t.id
""")

_SAME = (
    "id",
    "account_id",
    "amount",
    "key",
    "recorded_at",
    "counterparty_id",
    "renderer",
    "parent_id",
    "remaining",
    "exchange",
    "description",
    "reference",
    "effective_at",
    "metadata",
    "digest",
    "salt",
    "request",
    "is_parent",
)
"""The fields of a PastTransaction that are columns of the same name."""


def read_history(
    connection: Connection, ledger: int
) -> Iterator[PastCurrency | PastAccount | PastTransaction]:
    """The currencies, accounts and transactions of a ledger, in the order in which they are to be
    imported. The connection's transaction is to be REPEATABLE READ.
    """
    values = {"ledger": ledger}
    for row in connection.execute(LIST_CURRENCIES, values):
        yield PastCurrency(**row._asdict())
    streaming = connection.execution_options(yield_per=ROWS_AT_ONCE)
    for row in streaming.execute(LIST_ACCOUNTS, values):
        yield PastAccount(**(row._asdict() | {"origin": Origin(row.origin).name}))
    for row in streaming.execute(LIST_TRANSACTIONS, values):
        yield _transaction_of(row)


def _transaction_of(row: Row[Any]) -> PastTransaction:
    fields: dict[str, Any] = {name: getattr(row, name) for name in _SAME}
    return PastTransaction(
        kind=Kind(row.kind).name,
        origin=Origin(row.origin).name,
        entries=[PastEntry(*entry) for entry in row.entries or ()],
        policies=[PastPolicy(*policy) for policy in row.policies or ()],
        refusal=_refusal_of(row),
        hold=_hold_of(row),
        schedule=_schedule_of(row),
        **fields,
    )


def _refusal_of(row: Row[Any]) -> PastRefusal | None:
    if row.decline_reason is None:
        return None
    decided = row.deciding_account_id, row.deciding_version
    amounts = row.deciding_available, row.deciding_balance
    return PastRefusal(DeclineReason(row.decline_reason), *decided, *amounts)


def _hold_of(row: Row[Any]) -> HoldTerms | None:
    if row.held_for is None:
        return None
    times = row.expires_at, row.capture_at
    return HoldTerms(row.account_id, row.held_for, row.held_amount, *times)


def _schedule_of(row: Row[Any]) -> ScheduleTerms | None:
    if row.payee is None:
        return None
    return ScheduleTerms(row.account_id, row.payee, row.scheduled_amount, row.execute_at)
