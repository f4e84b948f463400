"""The parts of a ledger, and what each has: accounts, transactions, the halves of transfers."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import text

from ledgerservice.domain.instructions import Kind, Origin
from ledgerservice.domain.ledgers import Parts
from ledgerservice.domain.transactions import Status
from ledgerservice.postgres.queries.structs import find_all, find_one
from ledgerservice.postgres.reader import Reader


class AccountNumber(msgspec.Struct, frozen=True):
    """The number of an account's currency."""

    id: int
    currency_number: int


class Home(msgspec.Struct, frozen=True):
    """The part that has a transaction; of a hold between parts: where it goes."""

    id: int
    ledger_id: int
    kind: Kind
    account_id: int
    to_ledger_id: int | None
    to_account_id: int | None


class Credit(msgspec.Struct, frozen=True):
    """The posted credit of a transfer between parts."""

    id: int
    ledger_id: int
    account_id: int
    currency_number: int


LIST_PARTS = text("""
SELECT ledger_id FROM ledger.ledgers WHERE parent_id = :ledger ORDER BY part
""")
_REQUESTED = "(SELECT DISTINCT unnest(CAST(:ids AS bigint[])) AS id) requested"
FIND_NUMBERS = text(f"""
SELECT a.id, a.currency_number FROM {_REQUESTED}
CROSS JOIN LATERAL (
    SELECT id, currency_number FROM ledger.accounts
    WHERE ledger_id = :ledger AND id BETWEEN requested.id AND requested.id ORDER BY id) a
""")
FIND_HOMES = text(f"""
SELECT t.id, t.ledger_id, t.kind, t.account_id, h.to_ledger_id, h.to_account_id
FROM {_REQUESTED}
CROSS JOIN LATERAL (
    SELECT id, ledger_id, kind, account_id FROM ledger.transactions
    WHERE ledger_id = :ledger AND id BETWEEN requested.id AND requested.id ORDER BY id) t
LEFT JOIN LATERAL (
    SELECT to_ledger_id, to_account_id FROM ledger.holds
    WHERE ledger_id = :ledger AND transaction_id BETWEEN t.id AND t.id
    ORDER BY transaction_id) h ON true
""")
FIND_CREDIT = text(f"""
SELECT t.id, t.ledger_id, t.account_id, a.currency_number
FROM ledger.transactions t
JOIN ledger.accounts a ON a.ledger_id = t.ledger_id AND a.id = t.account_id
WHERE t.ledger_id = :ledger AND t.account_id = :account AND t.origin = {Origin.CROSSING:d}
  AND t.idempotency_key = :key AND t.status = {Status.POSTED:d}
""")


async def find_parts(reader: Reader) -> Parts | None:
    """The parts of the reader's ledger; None if it has none."""
    rows = await reader.rows(LIST_PARTS)
    return Parts(reader.ledger_id, tuple(row[0] for row in rows)) if rows else None


async def find_numbers(reader: Reader, ids: Sequence[int]) -> list[AccountNumber]:
    """The currencies of the accounts that exist."""
    return await find_all(reader, AccountNumber, FIND_NUMBERS, ids=list(ids))


async def find_homes(reader: Reader, ids: Sequence[int]) -> list[Home]:
    """The transactions that the reader's part has."""
    return await find_all(reader, Home, FIND_HOMES, ids=list(ids))


async def find_credit(reader: Reader, account_id: int, key: str) -> Credit | None:
    """The credit with this key, if it was posted."""
    return await find_one(reader, Credit, FIND_CREDIT, account=account_id, key=key)
