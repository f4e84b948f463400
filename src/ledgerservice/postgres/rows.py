"""A transaction as rows: its column list, its decoder, and what is found beside its row.

Every statement that reads transactions selects `TRANSACTION` from transactions `t` and accounts
`a`; every statement that writes them has `WRITTEN`.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from ledgerservice.domain.instructions import Detail, Kind, Origin
from ledgerservice.domain.planner import RENDERER
from ledgerservice.domain.transactions import (
    TERMS,
    DeclineReason,
    Entry,
    Extra,
    Policy,
    Refusal,
    Status,
    Transaction,
    in_answer_order,
)


class TransactionRow(NamedTuple):
    """A transaction's row, with the currency and exponent of its account."""

    id: int
    kind: int
    account_id: int
    counterparty_id: int | None
    key: str
    amount: int
    currency: str
    exponent: int
    recorded_at: datetime
    renderer: int
    origin: int
    has_details: bool
    decline_reason: str | None
    deciding_account_id: int | None
    deciding_version: int | None
    deciding_available: int | None
    deciding_balance: int | None
    principal_id: int


_EXPRESSIONS = {"key": "t.idempotency_key", "currency": "a.currency", "exponent": "a.exponent"}
TRANSACTION = ", ".join(_EXPRESSIONS.get(name, f"t.{name}") for name in TransactionRow._fields)

ENTRY = ", ".join(f"e.{name}" for name in Entry.__struct_fields__)

FIND_ENTRIES = f"""
SELECT {ENTRY}
FROM (SELECT DISTINCT unnest($2::bigint[]) AS id) requested
CROSS JOIN LATERAL (
    SELECT * FROM ledger.entries
    WHERE ledger_id = $1 AND transaction_id BETWEEN requested.id AND requested.id
    ORDER BY transaction_id) e
"""


class DetailsRow(NamedTuple):
    """The details of a transaction, its other side rows, and the currencies of its entries.

    `parts` has the columns of PARTS. A decline has the currency of the account that decided it.
    """

    transaction_id: int
    parent_id: int | None
    remaining: int | None
    digest: bytes
    salt: bytes | None
    description: str | None
    reference: str | None
    effective_at: datetime | None
    metadata: str | None
    exchange: str | None
    numbers: list[int] | None
    codes: list[str] | None
    exponents: list[int] | None
    parts: tuple[Any, ...]


# The policies of forced reversals, which have `lowest`, are not part of an answer.
PARTS = {
    **{table: terms.__struct_fields__ for table, terms in TERMS.items()},
    "policies": tuple(name for name in Policy.__struct_fields__ if name != "lowest"),
}
"""The side tables that a transaction has at most one row in, with the columns that are read."""
_CONDITIONS = {"policies": "AND lowest IS NULL"}
_PART_COLUMNS = ", ".join(f"{table}.{name}" for table, names in PARTS.items() for name in names)
_PART_JOINS = "".join(
    f"""LEFT JOIN LATERAL (
    SELECT * FROM ledger.{table}
    WHERE ledger_id = $1 AND transaction_id BETWEEN requested.id AND requested.id
      {_CONDITIONS.get(table, "")}
    ORDER BY transaction_id LIMIT 1) {table} ON true
"""
    for table in PARTS
)

FIND_DETAILS = f"""
SELECT d.transaction_id, d.parent_id, d.remaining, d.digest, d.salt, d.description, d.reference,
       d.effective_at, d.metadata::text, d.exchange::text, c.numbers, c.codes, c.exponents,
       {_PART_COLUMNS}
FROM (SELECT DISTINCT unnest($2::bigint[]) AS id) requested
CROSS JOIN LATERAL (
    SELECT * FROM ledger.details
    WHERE ledger_id = $1 AND transaction_id BETWEEN requested.id AND requested.id
    ORDER BY transaction_id LIMIT 1) d
{_PART_JOINS}CROSS JOIN LATERAL (
    SELECT array_agg(c.number) AS numbers, array_agg(c.code) AS codes,
           array_agg(c.exponent) AS exponents
    FROM ledger.currencies c
    WHERE c.number IN (
        (SELECT currency_number FROM ledger.entries
         WHERE ledger_id = d.ledger_id AND transaction_id BETWEEN d.transaction_id
                                                              AND d.transaction_id
         ORDER BY transaction_id)
        UNION ALL
        SELECT a.currency_number
        FROM (SELECT deciding_account_id FROM ledger.transactions
              WHERE ledger_id = d.ledger_id AND id BETWEEN d.transaction_id AND d.transaction_id
              ORDER BY id LIMIT 1) t
        CROSS JOIN LATERAL (
            SELECT currency_number FROM ledger.accounts
            WHERE ledger_id = d.ledger_id AND id BETWEEN t.deciding_account_id
                                                     AND t.deciding_account_id
            ORDER BY id LIMIT 1) a)
) c
"""


def transactions_of(
    rows: Iterable[Sequence[Any]],
    entry_rows: Iterable[Sequence[Any]],
    details_rows: Iterable[Sequence[Any]],
) -> Iterator[Transaction]:
    """Transactions of their rows, and of what FIND_ENTRIES and FIND_DETAILS found of them."""
    entries: dict[int, list[Entry]] = {}
    for row in entry_rows:
        entry = Entry(*row)
        entries.setdefault(entry.transaction_id, []).append(entry)
    extras = {row[0]: _extra_of(row) for row in details_rows}
    for row in rows:
        transaction = TransactionRow(*row)
        number = transaction.id
        yield _transaction_of(transaction, entries.get(number, ()), extras.get(number))


def _transaction_of(
    row: TransactionRow, entries: Iterable[Entry], extra: Extra | None
) -> Transaction:
    return Transaction(
        row.id,
        Kind(row.kind),
        row.account_id,
        row.counterparty_id,
        row.key,
        row.amount,
        row.currency,
        row.exponent,
        row.recorded_at,
        row.renderer,
        in_answer_order(row.account_id, entries),
        _refusal_of(row),
        extra,
        Origin(row.origin),
        row.principal_id,
    )


def _refusal_of(row: TransactionRow) -> Refusal | None:
    if row.decline_reason is None:
        return None
    decided_on: tuple[Any, ...] = (row.deciding_account_id, row.deciding_version)
    amounts: tuple[Any, ...] = (row.deciding_available, row.deciding_balance)
    return Refusal(DeclineReason(row.decline_reason), *decided_on, *amounts)


def _extra_of(columns: Sequence[Any]) -> Extra:
    own = len(DetailsRow._fields) - 1
    row = DetailsRow._make([*columns[:own], tuple(columns[own:])])
    currencies = zip(row.numbers or (), row.codes or (), row.exponents or (), strict=True)
    parts = dict(_parts(row.parts))
    policy = parts.pop("policies", None)
    terms = next((TERMS[table](*values) for table, values in parts.items()), None)
    return Extra(
        bytes(row.digest),
        None if row.salt is None else bytes(row.salt),
        Detail(row.description, row.reference, row.effective_at, row.metadata),
        {number: (code, exponent) for number, code, exponent in currencies},
        row.parent_id,
        row.remaining,
        row.exchange,
        terms,
        () if policy is None else (Policy(*policy),),
    )


def _parts(columns: Sequence[Any]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The side rows that a transaction has, by table; the first column of each is not NULL."""
    start = 0
    for table, names in PARTS.items():
        end = start + len(names)
        if columns[start] is not None:
            yield table, tuple(columns[start:end])
        start = end


# What is written: columns with their SQL types; `?` marks a column that may be NULL. ledger_id and
# recorded_at, which come first, are the same for a whole batch.

WRITTEN = {
    "id": "bigint",
    "kind": "smallint",
    "status": "smallint",
    "account_id": "bigint",
    "counterparty_id": "bigint?",
    "amount": "bigint",
    "account_seq": "bigint?",
    "counterparty_seq": "bigint?",
    "origin": "smallint",
    "renderer": "smallint",
    "has_details": "boolean",
    "idempotency_key": "text",
    "decline_reason": "text",
    "deciding_account_id": "bigint?",
    "deciding_version": "bigint?",
    "deciding_available": "bigint?",
    "deciding_balance": "bigint?",
    "principal_id": "integer",
}
_NOT_DECLINED = (None,) * 5


def values_of(t: Transaction) -> tuple[Any, ...]:
    """The values of WRITTEN, in its order."""
    refusal = t.refusal
    seqs: tuple[int | None, int | None] = (None, None)
    if refusal is None and t.kind <= Kind.TRANSFER:
        own, other = t.entries
        seqs = own.seq, other.seq
    decided: tuple[Any, ...] = _NOT_DECLINED
    if refusal is not None:
        decided = (
            refusal.reason.value,
            refusal.account_id,
            refusal.version,
            refusal.available,
            refusal.balance,
        )
    facts = int(t.origin), t.renderer, "f" if t.extra is None else "t", t.key
    accounts = t.account_id, t.counterparty_id, t.amount
    return (t.id, int(t.kind), int(t.status), *accounts, *seqs, *facts, *decided, t.principal_id)


# A batch of plain movements that were all posted, as most are, has no other values in the other
# columns. Without these it costs a fifth less.

PLAIN_WRITTEN = {
    "id": "bigint",
    "kind": "smallint",
    "account_id": "bigint",
    "counterparty_id": "bigint",
    "amount": "bigint",
    "account_seq": "bigint",
    "counterparty_seq": "bigint",
    "idempotency_key": "text",
    "principal_id": "integer",
}
PLAIN_CONSTANTS = {"status": int(Status.POSTED), "renderer": RENDERER}
"""All other columns have their defaults: the caller's origin, no details, no decline."""


def are_plain(transactions: Iterable[Transaction]) -> bool:
    """Whether PLAIN_WRITTEN is enough for all of these."""
    return all(t.refusal is None and t.extra is None for t in transactions)


def plain_values_of(t: Transaction) -> tuple[Any, ...]:
    """The values of PLAIN_WRITTEN, in its order."""
    own, other = t.entries
    accounts = t.account_id, t.counterparty_id, t.amount
    return (t.id, int(t.kind), *accounts, own.seq, other.seq, t.key, t.principal_id)


WRITTEN_ENTRY = {
    name: "smallint" if name == "currency_number" else "bigint" for name in Entry.__struct_fields__
}

# The same as rows in COPY's text format.

_KINDS = {kind: f"{kind:d}" for kind in Kind}  # to format an enum takes 0.3 us


def copied(head: str, transactions: Iterable[Transaction]) -> Iterator[str]:
    """Rows of WRITTEN after `head`, the values that are the same for all."""
    for t in transactions:
        yield head + "\t".join(map(_copied, values_of(t))) + "\n"


def _copied(value: Any) -> str:
    return "\\N" if value is None else str(value).replace("\\", "\\\\")


def copied_plain(head: str, transactions: Iterable[Transaction]) -> Iterator[str]:
    """Rows of PLAIN_WRITTEN after `head`; only a key can contain a backslash."""
    for t in transactions:
        own, other = t.entries
        key = t.key.replace("\\", "\\\\")
        yield (
            f"{head}{t.id}\t{_KINDS[t.kind]}\t{t.account_id}\t{t.counterparty_id}\t{t.amount}"
            f"\t{own.seq}\t{other.seq}\t{key}\t{t.principal_id}\n"
        )


def copied_entries(head: str, entries: Iterable[Entry]) -> Iterator[str]:
    """Rows of WRITTEN_ENTRY after `head`."""
    for e in entries:
        yield (
            f"{head}{e.account_id}\t{e.seq}\t{e.transaction_id}\t{e.currency_number}\t{e.amount}"
            f"\t{e.held_change}\t{e.balance}\t{e.held}\n"
        )
