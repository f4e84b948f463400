"""What the database holds, read as its superuser, in one snapshot."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import psycopg


class Account(msgspec.Struct, gc=False):
    """An account's row."""

    id: int
    currency_number: int
    balance: int
    held: int
    version: int
    floor: int | None


class Transaction(msgspec.Struct, gc=False):
    """A posted transaction, or the record of a decline (its `reason` is not None)."""

    id: int
    kind: str
    account: int
    other: int
    amount: int
    key: str
    recorded_at: str
    reason: str | None
    deciding_account: int | None
    deciding_version: int | None
    deciding_available: int | None


class Entry(msgspec.Struct, gc=False):
    """One account's part in a transaction."""

    account: int
    seq: int
    transaction: int
    currency_number: int
    amount: int
    balance: int
    held: int
    recorded_at: str


class Journal(msgspec.Struct):
    """All of a ledger: accounts by id, transactions by id, entries by account and seq."""

    accounts: list[Account]
    transactions: list[Transaction]
    entries: list[Entry]


_MOMENT = "to_char(recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
_ACCOUNTS = """
SELECT id, currency_number, balance, held, version, floor
FROM ledger.accounts WHERE ledger_id = 1 ORDER BY id
"""
_TRANSACTIONS = f"""
SELECT id, (ARRAY['deposit', 'withdraw', 'transfer'])[kind], account_id, counterparty_id, amount,
       idempotency_key, {_MOMENT}, decline_reason, deciding_account_id, deciding_version,
       deciding_available
FROM ledger.transactions WHERE ledger_id = 1 ORDER BY id
"""
_ENTRIES = f"""
SELECT account_id, seq, transaction_id, currency_number, amount, balance, held, {_MOMENT}
FROM ledger.entries WHERE ledger_id = 1 ORDER BY account_id, seq
"""


def dump(url: str) -> Journal:
    """All rows, without an index, which might hide one."""
    with psycopg.connect(url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SET LOCAL enable_indexscan = off")
        connection.execute("SET LOCAL enable_indexonlyscan = off")
        connection.execute("SET LOCAL enable_bitmapscan = off")
        return Journal(
            _rows(connection, _ACCOUNTS, Account),
            _rows(connection, _TRANSACTIONS, Transaction),
            _rows(connection, _ENTRIES, Entry),
        )


def _rows(connection: "psycopg.Connection[Any]", query: str, row: Any) -> list[Any]:
    found: Iterable[tuple[Any, ...]] = connection.execute(query)  # type: ignore[arg-type]
    return [row(*values) for values in found]


def save(journal: Journal, file: Path) -> None:
    """Keep it, so that the checker can be run again."""
    file.write_bytes(msgspec.json.encode(journal))


def load(file: Path) -> Journal:
    """What `save` kept."""
    return msgspec.json.decode(file.read_bytes(), type=Journal)
