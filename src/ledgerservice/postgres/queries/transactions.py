"""Transactions, what builds on them, and the list of transactions by any filter."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import TextClause, text

from ledgerservice.domain.instructions import Kind, Origin
from ledgerservice.domain.transactions import Status, Transaction
from ledgerservice.postgres import search
from ledgerservice.postgres.queries import effective_transactions, recorded_transactions
from ledgerservice.postgres.queries.transaction_filters import (
    JOIN_ACCOUNT,
    NEWEST,
    TransactionFilter,
)
from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.rows import (
    FIND_DETAILS,
    FIND_ENTRIES,
    TRANSACTION,
    TransactionRow,
    transactions_of,
)
from ledgerservice.postgres.search import Page, Place, Run


class Child(msgspec.Struct, frozen=True):
    """A transaction that builds on another."""

    id: int
    kind: Kind
    status: Status


_TRANSACTIONS = f"""
SELECT {TRANSACTION} FROM ledger.transactions t {JOIN_ACCOUNT}
WHERE t.ledger_id = :ledger AND
"""
LIST_TRANSACTIONS = text(f"{_TRANSACTIONS} t.id = ANY (CAST(:ids AS bigint[]))")
IS_SEEN = text("""
SELECT true FROM ledger.transactions t
WHERE t.ledger_id = :ledger AND t.id = :transaction
  AND (t.account_id = ANY (CAST(:seen AS bigint[])) OR (
    SELECT true FROM ledger.entries e WHERE e.ledger_id = :ledger AND e.transaction_id = t.id
      AND e.account_id = ANY (CAST(:seen AS bigint[])) LIMIT 1))
""")
FIND_BY_KEY = text(
    f"{_TRANSACTIONS} t.account_id = :account AND t.origin = :origin AND t.idempotency_key = :key"
)


def _of_transactions(statement: str) -> TextClause:
    return text(
        statement.replace("$1", ":ledger").replace("$2::bigint[]", "CAST(:ids AS bigint[])")
    )


FIND_BY_KEYS = text(f"""
SELECT {TRANSACTION}
FROM unnest(CAST(:accounts AS bigint[]), CAST(:keys AS text[])) AS requested (account_id, key)
CROSS JOIN LATERAL (
    SELECT * FROM ledger.transactions
    WHERE ledger_id = :ledger AND account_id = requested.account_id AND origin = :origin
      AND idempotency_key = requested.key OFFSET 0) t
{JOIN_ACCOUNT}
""")


LIST_ENTRIES = _of_transactions(FIND_ENTRIES)
LIST_DETAILS = _of_transactions(FIND_DETAILS)


async def is_seen(reader: Reader, transaction_id: int, accounts: Collection[int]) -> bool:
    """Whether a transaction is of one of these accounts, or has an entry on one."""
    return bool(await reader.rows(IS_SEEN, transaction=transaction_id, seen=list(accounts)))


async def find_transactions(reader: Reader, ids: Sequence[int]) -> list[Transaction]:
    """The transactions with these ids, as far as they exist."""
    return await _completed(reader, await reader.rows(LIST_TRANSACTIONS, ids=list(ids)))


async def find_by_key(
    reader: Reader, account_id: int, key: str, origin: Origin = Origin.CALLER
) -> Transaction | None:
    """The transaction recorded for an idempotency key on an account, or None."""
    rows = await reader.rows(FIND_BY_KEY, account=account_id, key=key, origin=int(origin))
    return next(iter(await _completed(reader, rows)), None)


async def find_by_keys(
    reader: Reader, keys: Collection[tuple[int, str]], origin: Origin
) -> list[Transaction]:
    """The transactions recorded for accounts and keys, as far as there are any."""
    accounts, texts = zip(*keys, strict=True)
    values: dict[str, Any] = {"accounts": list(accounts), "keys": list(texts)}
    values["origin"] = int(origin)
    return await _completed(reader, await reader.rows(FIND_BY_KEYS, **values))


async def _completed(reader: Reader, rows: Sequence[Sequence[Any]]) -> list[Transaction]:
    """Transactions from their rows, with their entries and details."""
    if not rows:
        return []
    transaction_rows = [TransactionRow(*row) for row in rows]
    entry_rows = await reader.rows(LIST_ENTRIES, ids=[row.id for row in transaction_rows])
    detailed = [row.id for row in transaction_rows if row.has_details]
    details_rows = await reader.rows(LIST_DETAILS, ids=detailed) if detailed else []
    return list(transactions_of(transaction_rows, entry_rows, details_rows))


async def list_filtered(
    reader: Reader, filters: TransactionFilter, rows: int, after: Place | None = None
) -> tuple[list[Transaction], Place | None]:
    """Up to `rows` transactions, the latest first, after the time and id `after`; and the place
    after which the next page begins; None: there is none. A page can have fewer rows although it is
    not the last. The time of a transaction is the one that `filters.by` names.
    """
    async with search.pinned(reader) as run:
        page = await find_page(run, filters, rows, after or NEWEST)
    transaction_rows = [row[len(NEWEST) :] for row in page.rows]
    return await _completed(reader, transaction_rows), page.after


class Sited(NamedTuple):
    """A transaction, and the ledger or the part of one that has it."""

    ledger_id: int
    transaction: Transaction


async def list_filtered_of_all(
    readers: Sequence[Reader], filters: TransactionFilter, rows: int, after: Place | None = None
) -> tuple[list[Sited], Place | None]:
    """The same of a ledger with parts, each in a snapshot of its own, in one order."""
    pages = [await _sited(reader, filters, rows, after) for reader in readers]
    if len(pages) == 1:
        return pages[0].rows, pages[0].after

    def place_of(row: Sited) -> Place:
        extra, time = row.transaction.extra, row.transaction.recorded_at
        if filters.by == "effective" and extra is not None:
            time = extra.detail.effective_at or time
        return time, row.transaction.id

    page = search.merged(pages, rows, place_of, descending=True)
    return page.rows, page.after


async def _sited(
    reader: Reader, filters: TransactionFilter, rows: int, after: Place | None
) -> Page:
    transactions, end = await list_filtered(reader, filters, rows, after)
    return Page([Sited(reader.ledger_id, one) for one in transactions], end)


async def find_page(run: Run, filters: TransactionFilter, rows: int, after: Place) -> Page:
    """The rows of a page of transactions, each after its place."""
    if filters.by == "effective":
        return await effective_transactions.find_page(run, filters, rows, after)
    return await recorded_transactions.find_page(run, filters, rows, after)
