"""Which transactions are listed: the filters, the condition of each, and what finds its matches."""

from collections.abc import Iterator
from datetime import datetime

import msgspec

from ledgerservice.domain.instructions import Kind
from ledgerservice.domain.timestamps import TimeOf
from ledgerservice.domain.transactions import Status
from ledgerservice.postgres.queries.structs import LATEST
from ledgerservice.postgres.search import Place, Values, filter_values

MAX_ACCOUNTS = 1_000
"""The entries of an owner's or a currency's accounts are an access path up to this number."""

NEWEST: Place = (LATEST, 2**63 - 1)


class TransactionFilter(msgspec.Struct, frozen=True):
    """Which transactions are listed; a field that is None does not filter.

    `account_id` and `owner`: the transactions of which one of their accounts is a part. `currency`
    is that of the transaction's own account, and of the amounts, which are in minor units. They
    were recorded in [since, until), or take effect then: as `by` says. `metadata` is the text of a
    JSON object: only transactions whose metadata contains it. `apart`: only those of `account_id`
    are read, so that nothing depends on others, not even where a page ends. `whole`: a transfer
    between parts is one transaction, the first of its steps, and has the status that it came to.
    """

    account_id: int | None = None
    owner: str | None = None
    kind: Kind | None = None
    status: Status | None = None
    currency: str | None = None
    min_amount: int | None = None
    max_amount: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    reference: str | None = None
    metadata: str | None = None
    by: TimeOf = "recorded"
    apart: bool = False
    whole: bool = False


LATER_STEPS = {Kind.CROSS_CREDIT, Kind.CROSS_DEBIT, Kind.CROSS_RELEASE}


def values_of(filters: TransactionFilter) -> Values:
    """The filters that are not None, by the names of CONDITIONS."""
    values = {name: value for name, value in filter_values(filters).items() if name in CONDITIONS}
    if not filters.whole:
        del values["whole"]
    elif filters.status:
        values["outcome"] = values.pop("status")
    return values


def kinds_of(filters: TransactionFilter) -> Iterator[str]:
    """Each status and kind, for each of which the index has the order of time."""
    for status in [filters.status] if filters.status else list(Status):
        for kind in [filters.kind] if filters.kind else list(Kind):
            if not (filters.whole and kind in LATER_STEPS):
                yield f"t.status = {status:d} AND t.kind = {kind:d}"
    if filters.whole and filters.status is Status.DECLINED:
        yield f"t.status = {Status.POSTED:d} AND t.kind = {Kind.CROSSING:d}"


JOIN_ACCOUNT = "JOIN ledger.accounts a ON a.ledger_id = :ledger AND a.id = t.account_id"

# The condition of each filter on a transaction `t`. Scalar subqueries, not EXISTS: PostgreSQL would
# turn that into a join that begins with all matching details, or read all entries of the account.
CONDITIONS = {
    "account_id": """(t.account_id = :account_id OR (
        SELECT true FROM ledger.entries e WHERE e.ledger_id = :ledger
          AND e.transaction_id = t.id AND e.account_id = :account_id LIMIT 1))""",
    "owner": """((SELECT o.owner FROM ledger.accounts o
        WHERE o.ledger_id = :ledger AND o.id = t.account_id AND o.id > 0) = :owner
        OR (SELECT true FROM ledger.entries e WHERE e.ledger_id = :ledger
          AND e.transaction_id = t.id AND (SELECT o.owner FROM ledger.accounts o
            WHERE o.ledger_id = :ledger AND o.id = e.account_id AND o.id > 0) = :owner
          LIMIT 1))""",
    "kind": "t.kind = :kind",
    "status": "t.status = :status",
    "outcome": f"""CASE WHEN t.kind = {Kind.CROSSING:d} AND t.status = {Status.POSTED:d} AND (
        SELECT h.remaining + h.captured FROM ledger.holds h
        WHERE h.ledger_id = :ledger AND h.transaction_id = t.id) = 0
        THEN {Status.DECLINED:d} ELSE t.status END = :outcome""",
    "whole": f"t.kind NOT IN ({', '.join(str(int(kind)) for kind in sorted(LATER_STEPS))})",
    "currency": """(SELECT a.currency FROM ledger.accounts a
        WHERE a.ledger_id = :ledger AND a.id = t.account_id) = :currency""",
    "min_amount": "t.amount >= :min_amount",
    "max_amount": "t.amount <= :max_amount",
    "since": "t.recorded_at >= :since",
    "until": "t.recorded_at < :until",
    "reference": """(SELECT d.reference FROM ledger.details d WHERE d.ledger_id = :ledger
        AND d.transaction_id = t.id) = :reference""",
    "metadata": """(SELECT d.metadata FROM ledger.details d WHERE d.ledger_id = :ledger
        AND d.transaction_id = t.id)::jsonb @> CAST(:metadata AS jsonb)""",
}

ACCOUNTS = {
    "owner": """SELECT id FROM ledger.accounts
        WHERE ledger_id = :ledger AND owner = :owner AND id > 0""",
    "currency": """SELECT id FROM ledger.accounts
        WHERE ledger_id = :ledger AND currency = :currency AND id > 0""",
}

MATCHES = {
    "reference": """SELECT d.transaction_id AS id FROM ledger.details d
        WHERE d.ledger_id = :ledger AND d.reference = :reference""",
    "amount": """SELECT t.id FROM ledger.transactions t
        WHERE t.ledger_id = :ledger AND t.amount >= :min_amount AND t.amount <= :max_amount""",
    # `+ 0` makes PostgreSQL use the index of metadata, and not the primary key.
    "metadata": """SELECT d.transaction_id AS id FROM ledger.details d
        WHERE d.ledger_id + 0 = :ledger AND d.metadata IS NOT NULL
          AND d.metadata::jsonb @> CAST(:metadata AS jsonb)""",
}
