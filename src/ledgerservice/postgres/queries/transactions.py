"""Transactions, what builds on them, and the list of transactions by any filter, newest first.

Each filter has its condition here, and its access paths (see `search`).
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import TextClause, text

from ledgerservice.domain.instructions import Kind, Origin
from ledgerservice.domain.transactions import Status, Transaction
from ledgerservice.postgres import search
from ledgerservice.postgres.queries.structs import LATEST, find_all, select_list
from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.rows import (
    FIND_DETAILS,
    FIND_ENTRIES,
    TRANSACTION,
    TransactionRow,
    transactions_of,
)
from ledgerservice.postgres.search import AccessPath, Listing, Page, Place, Run, Values

MAX_ACCOUNTS = 1_000
"""The entries of an owner's or a currency's accounts are an access path up to this number."""

NEWEST: Place = (LATEST, 2**63 - 1)


class Child(msgspec.Struct, frozen=True):
    """A transaction that builds on another."""

    id: int
    kind: Kind
    status: Status


class TransactionFilter(msgspec.Struct, frozen=True):
    """Which transactions are listed; a field that is None does not filter.

    `account_id` and `owner`: the transactions of which one of their accounts is a part. `currency`
    is that of the transaction's own account, and of the amounts, which are in minor units. They
    were recorded in [since, until). `metadata` is the text of a JSON object: only transactions
    whose metadata contains it.
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


_JOIN_ACCOUNT = "JOIN ledger.accounts a ON a.ledger_id = :ledger AND a.id = t.account_id"
_TRANSACTIONS = f"""
SELECT {TRANSACTION} FROM ledger.transactions t {_JOIN_ACCOUNT}
WHERE t.ledger_id = :ledger AND
"""
FIND_TRANSACTION = text(f"{_TRANSACTIONS} t.id = :transaction")
FIND_BY_KEY = text(
    f"{_TRANSACTIONS} t.account_id = :account AND t.origin = {Origin.CALLER:d}"
    " AND t.idempotency_key = :key"
)


def _of_transactions(statement: str) -> TextClause:
    return text(
        statement.replace("$1", ":ledger").replace("$2::bigint[]", "CAST(:ids AS bigint[])")
    )


LIST_ENTRIES = _of_transactions(FIND_ENTRIES)
LIST_DETAILS = _of_transactions(FIND_DETAILS)

LIST_CHILDREN = text(f"""
SELECT {select_list(Child, "t")}
FROM ledger.details d
JOIN ledger.transactions t ON t.ledger_id = d.ledger_id AND t.id = d.transaction_id
WHERE d.ledger_id = :ledger AND d.parent_id = :transaction AND t.status = {Status.POSTED:d}
ORDER BY d.transaction_id
""")


async def find(reader: Reader, transaction_id: int) -> Transaction | None:
    """The transaction with this id, posted or declined, or None."""
    rows = await reader.rows(FIND_TRANSACTION, transaction=transaction_id)
    return next(iter(await _completed(reader, rows)), None)


async def find_by_key(reader: Reader, account_id: int, key: str) -> Transaction | None:
    """The transaction recorded for a caller's idempotency key on an account, or None."""
    rows = await reader.rows(FIND_BY_KEY, account=account_id, key=key)
    return next(iter(await _completed(reader, rows)), None)


async def list_children(reader: Reader, transaction_id: int) -> list[Child]:
    """The posted transactions that build on a transaction."""
    return await find_all(reader, Child, LIST_CHILDREN, transaction=transaction_id)


async def _completed(reader: Reader, rows: Sequence[Sequence[Any]]) -> list[Transaction]:
    """Transactions from their rows, with their entries and details."""
    if not rows:
        return []
    transaction_rows = [TransactionRow(*row) for row in rows]
    entry_rows = await reader.rows(LIST_ENTRIES, ids=[row.id for row in transaction_rows])
    detailed = [row.id for row in transaction_rows if row.has_details]
    details_rows = await reader.rows(LIST_DETAILS, ids=detailed) if detailed else []
    return list(transactions_of(transaction_rows, entry_rows, details_rows))


# The condition of each filter on a transaction `t`.
CONDITIONS = {
    "account_id": """(t.account_id = :account_id OR EXISTS (
        SELECT FROM ledger.entries e WHERE e.ledger_id = :ledger
          AND e.transaction_id = t.id AND e.account_id = :account_id))""",
    "owner": """((SELECT o.owner FROM ledger.accounts o
        WHERE o.ledger_id = :ledger AND o.id = t.account_id AND o.id > 0) = :owner
        OR EXISTS (SELECT FROM ledger.entries e WHERE e.ledger_id = :ledger
          AND e.transaction_id = t.id AND (SELECT o.owner FROM ledger.accounts o
            WHERE o.ledger_id = :ledger AND o.id = e.account_id AND o.id > 0) = :owner))""",
    "kind": "t.kind = :kind",
    "status": "t.status = :status",
    "currency": """(SELECT a.currency FROM ledger.accounts a
        WHERE a.ledger_id = :ledger AND a.id = t.account_id) = :currency""",
    "min_amount": "t.amount >= :min_amount",
    "max_amount": "t.amount <= :max_amount",
    "since": "t.recorded_at >= :since",
    "until": "t.recorded_at < :until",
    # Scalar subqueries, not EXISTS, which PostgreSQL would turn into a join that begins with all
    # matching details.
    "reference": """(SELECT d.reference FROM ledger.details d WHERE d.ledger_id = :ledger
        AND d.transaction_id = t.id) = :reference""",
    "metadata": """(SELECT d.metadata FROM ledger.details d WHERE d.ledger_id = :ledger
        AND d.transaction_id = t.id)::jsonb @> CAST(:metadata AS jsonb)""",
}

TRANSACTIONS = Listing(
    "transactions",
    by=("recorded_at", "id"),
    descending=True,
    conditions=CONDITIONS,
    columns=(TRANSACTION,),
    joins=_JOIN_ACCOUNT,
)
_BY_ALL = {"since", "until"}  # fulfilled by all access paths

# An account's entries by seq, which is the order of time too, one for each transaction. OFFSET 0
# keeps PostgreSQL from beginning with all transactions of a time.
_POSTED = """
SELECT t.* FROM (
    SELECT ledger_id, version FROM ledger.accounts
    WHERE ledger_id = :ledger AND id = account.id) a
CROSS JOIN LATERAL (
    SELECT ledger.version_at(a.ledger_id, account.id, a.version, {until}) AS last,
           ledger.version_at(a.ledger_id, account.id, a.version, {since}) AS first OFFSET 0) v
CROSS JOIN LATERAL (
    SELECT e.transaction_id FROM ledger.entries e
    WHERE e.ledger_id = :ledger AND e.account_id = account.id
      AND e.seq <= v.last AND e.seq > v.first
      AND (e.recorded_at, e.transaction_id) < (:after_time, :after_id)
      AND coalesce((
        SELECT x.transaction_id FROM ledger.entries x
        WHERE x.ledger_id = :ledger AND x.account_id = account.id AND x.seq = e.seq + 1
        ), 0) <> e.transaction_id
    ORDER BY e.seq DESC LIMIT :budget) e
CROSS JOIN LATERAL (
    SELECT * FROM ledger.transactions
    WHERE ledger_id = :ledger AND id = e.transaction_id OFFSET 0) t
"""

_ACCOUNTS = {
    "owner": """SELECT id FROM ledger.accounts
        WHERE ledger_id = :ledger AND owner = :owner AND id > 0""",
    "currency": """SELECT id FROM ledger.accounts
        WHERE ledger_id = :ledger AND currency = :currency AND id > 0""",
}

_MATCHES = {
    "reference": """SELECT d.transaction_id AS id FROM ledger.details d
        WHERE d.ledger_id = :ledger AND d.reference = :reference""",
    "amount": """SELECT t.id FROM ledger.transactions t
        WHERE t.ledger_id = :ledger AND t.amount >= :min_amount AND t.amount <= :max_amount""",
    # `+ 0` makes PostgreSQL use the index of metadata, and not the primary key.
    "metadata": """SELECT d.transaction_id AS id FROM ledger.details d
        WHERE d.ledger_id + 0 = :ledger AND d.metadata IS NOT NULL
          AND d.metadata::jsonb @> CAST(:metadata AS jsonb)""",
}


async def list_filtered(
    reader: Reader, filters: TransactionFilter, rows: int, after: Place | None = None
) -> tuple[list[Transaction], Place | None]:
    """Up to `rows` transactions, newest first, after the time and id `after`; and the place after
    which the next page begins; None: there is none. A page can have fewer rows although it is not
    the last.
    """
    async with search.pinned(reader) as run:
        page = await find_page(run, filters, rows, after or NEWEST)
    transaction_rows = [row[len(TRANSACTIONS.by) :] for row in page.rows]
    return await _completed(reader, transaction_rows), page.after


async def find_page(run: Run, filters: TransactionFilter, rows: int, after: Place) -> Page:
    """The rows of a page of transactions."""
    values = search.filter_values(filters)
    names = frozenset(values)
    values |= {"after_time": after[0], "after_id": after[1], "rows": rows}
    access_paths = [path async for path in _access_paths(run, filters, values)]
    return await search.find_page(run, TRANSACTIONS, access_paths, names, values)


async def _access_paths(
    run: Run, filters: TransactionFilter, values: Values
) -> AsyncIterator[AccessPath]:
    """All access paths to the page, in the order in which they are tried: the cheapest first."""
    times = list(_times(values))
    if filters.reference is not None:
        yield _by_matches("reference", {"reference"}, times)
    if filters.account_id is not None:
        account = "SELECT CAST(:account_id AS bigint) AS id"
        yield _by_accounts(account, "account_id", 1, filters, times)
    for name in [name for name in _ACCOUNTS if name in values]:
        number = await search.count(run, _ACCOUNTS[name], values | {"budget": MAX_ACCOUNTS})
        if number <= MAX_ACCOUNTS:
            yield _by_accounts(_ACCOUNTS[name], name, number, filters, times)
    if filters.min_amount is not None or filters.max_amount is not None:
        yield _by_amount(filters, values, times)
    yield _by_time(list(_kinds(filters)), {"kind", "status"}, times)
    if filters.metadata is not None:
        yield _by_matches("metadata", {"metadata"}, times)


def _times(values: Values) -> Iterator[str]:
    """The conditions on the time of recording. The index can be entered only by the first."""
    yield "t.recorded_at <= :after_time"
    yield "(t.recorded_at, t.id) < (:after_time, :after_id)"
    yield from (CONDITIONS[name] for name in sorted(_BY_ALL & values.keys()))


def _kinds(filters: TransactionFilter) -> Iterator[str]:
    """Each status and kind, for each of which the index has the order of time."""
    for status in [filters.status] if filters.status else list(Status):
        for kind in [filters.kind] if filters.kind else list(Kind):
            yield f"t.status = {status:d} AND t.kind = {kind:d}"


def _by_amount(filters: TransactionFilter, values: Values, times: list[str]) -> AccessPath:
    """By the index of amounts, which has the order of time for each single amount."""
    values.setdefault("min_amount", 0)
    values.setdefault("max_amount", 2**62)
    fulfils = {"min_amount", "max_amount"}
    if filters.min_amount == filters.max_amount:
        return _by_time(["t.amount = :min_amount"], fulfils, times)
    return _by_matches("amount", fulfils, times)


def _by_time(conditions: list[str], fulfils: set[str], times: list[str]) -> AccessPath:
    """By an index that has the rows of each of the conditions in the order of time."""
    parts = (f"({TRANSACTIONS.first([condition, *times])})" for condition in conditions)
    return AccessPath(
        f"SELECT t.* FROM ({' UNION ALL '.join(parts)}) t {TRANSACTIONS.order()} LIMIT :budget",
        frozenset(fulfils | _BY_ALL),
    )


def _by_accounts(
    accounts: str, name: str, number: int, filters: TransactionFilter, times: list[str]
) -> AccessPath:
    """By the entries of some accounts, and by their declines, which have no entries."""
    before = "- interval '1 microsecond'"
    until = ":after_time" if filters.until is None else f"least(:after_time, :until {before})"
    since = "'-infinity'" if filters.since is None else f":since {before}"
    declined = ["t.account_id = account.id", f"t.status = {Status.DECLINED:d}", *times]
    parts = {
        Status.POSTED: _POSTED.format(until=until, since=since),
        Status.DECLINED: TRANSACTIONS.first(declined),
    }
    selects = [f"({parts[status]})" for status in parts if filters.status in {None, status}]
    # A transaction of two of the accounts is listed once. Its currency is its own account's only.
    return AccessPath(
        f"""SELECT DISTINCT ON ({TRANSACTIONS.place}) t.* FROM ({accounts}) account
            CROSS JOIN LATERAL ({" UNION ALL ".join(selects)}) t
            {TRANSACTIONS.order()} LIMIT :budget""",
        frozenset({"status", name} - {"currency"} | _BY_ALL),
        max(number, 1),
    )


def _by_matches(name: str, fulfils: set[str], times: list[str]) -> AccessPath:
    return TRANSACTIONS.by_matches(
        _MATCHES[name], times, fulfils | _BY_ALL, reads_whole_index=name == "metadata"
    )
