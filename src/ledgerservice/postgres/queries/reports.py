"""Reports over a whole ledger: balances by currency and by owner, and totals by metadata."""

import asyncio
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from sqlalchemy import Row, text

from ledgerservice.domain.instructions import Kind
from ledgerservice.domain.transactions import Status
from ledgerservice.postgres.queries.accounts import HELD
from ledgerservice.postgres.queries.structs import EARLIEST, LATEST, Shape
from ledgerservice.postgres.reader import Reader

HORIZON_LOOKS = 100
HORIZON_PAUSE_S = 0.01


class TrialBalanceRow(msgspec.Struct, frozen=True):
    """The sums of a currency's balances, in minor units. `customers` and `external` sum to `total`,
    which is zero. `accounts` counts those of customers.
    """

    currency: str
    exponent: int
    accounts: int
    debits: int
    credits: int
    customers: int
    external: int
    total: int


class OwnerBalance(msgspec.Struct, frozen=True):
    """The sums of an owner's accounts in a currency, in minor units."""

    owner: str
    currency: str
    exponent: int
    accounts: int
    balance: int
    held: int


class MetadataTotal(msgspec.Struct, frozen=True):
    """The posted transactions with one value of a metadata key, in one currency."""

    value: str | None
    currency: str
    exponent: int
    transactions: int
    amount: int


TotalPlace = tuple[bool, str, str, str]
"""Whether the value is null, its beginning, its digest, and the currency."""

_SUMS = """
SELECT currency, max(exponent) AS exponent, count(*) FILTER (WHERE id > 0) AS accounts,
       coalesce(-sum(balance) FILTER (WHERE balance < 0), 0)::numeric AS debits,
       coalesce(sum(balance) FILTER (WHERE balance > 0), 0)::numeric AS credits,
       coalesce(sum(balance) FILTER (WHERE id > 0), 0)::numeric AS customers,
       coalesce(sum(balance) FILTER (WHERE id < 0), 0)::numeric AS external,
       sum(balance)::numeric AS total
"""
_BY_CURRENCY_IN_USE = """
GROUP BY currency HAVING count(*) FILTER (WHERE id > 0) > 0 OR bool_or(balance <> 0)
ORDER BY currency
"""
TRIAL_BALANCE = text(
    f"{_SUMS} FROM ledger.accounts WHERE ledger_id = :ledger {_BY_CURRENCY_IN_USE}"
)
TRIAL_BALANCE_AT = text(f"""
{_SUMS} FROM (
    SELECT a.id, a.currency, a.exponent, coalesce(e.balance, 0) AS balance
    FROM ledger.accounts a
    LEFT JOIN ledger.entries e
      ON e.ledger_id = a.ledger_id AND e.account_id = a.id
     AND e.seq = CASE WHEN a.last_recorded_at <= :at THEN a.version
                      ELSE ledger.version_at(a.ledger_id, a.id, a.version, :at) END
    WHERE a.ledger_id = :ledger AND a.created_at <= :at
) a {_BY_CURRENCY_IN_USE}
""")

# A database transaction that begins to write later has a higher number than this one, and its batch
# is recorded after this timestamp.
HORIZON = text("SELECT statement_timestamp(), pg_current_xact_id()::text")
HORIZON_PASSED = text("""
SELECT pg_snapshot_xmin(pg_current_snapshot()) > CAST(CAST(:number AS text) AS xid8)
""")

LIST_OWNER_BALANCES = text(f"""
SELECT owner, currency, max(exponent) AS exponent, count(*) AS accounts,
       sum(balance)::numeric AS balance, sum({HELD})::numeric AS held
FROM ledger.accounts a
WHERE ledger_id = :ledger AND id > 0 AND owner >= :owner
  AND (owner, currency) > (:owner, :currency)
GROUP BY owner, currency ORDER BY owner, currency LIMIT :rows
""")

# A reversal without a value of the key has its original's value. The order is by the beginning of a
# value; the digest distinguishes values that begin alike.
LIST_TOTALS = text(f"""
SELECT value, currency, exponent, transactions, amount, is_null, beginning, digest FROM (
    SELECT value, currency, max(exponent) AS exponent, count(*) AS transactions,
           sum(amount)::numeric AS amount, value IS NULL AS is_null,
           coalesce(left(value, 100), '') AS beginning,
           coalesce(encode(sha256(convert_to(value, 'UTF8')), 'hex'), '') AS digest
    FROM (
        SELECT d.metadata ->> :key AS value, c.code AS currency, c.exponent,
               CASE WHEN t.kind = {Kind.REVERSAL:d} THEN -m.amount ELSE m.amount END AS amount
        FROM (
            SELECT ledger_id, transaction_id, metadata, true AS own FROM ledger.details
            WHERE ledger_id = :ledger AND metadata IS NOT NULL
              AND jsonb_exists(metadata::jsonb, :key)
            UNION ALL
            SELECT r.ledger_id, r.transaction_id, p.metadata, false
            FROM ledger.details p
            JOIN ledger.details r ON r.ledger_id = p.ledger_id AND r.parent_id = p.transaction_id
            WHERE p.ledger_id = :ledger AND p.metadata IS NOT NULL
              AND jsonb_exists(p.metadata::jsonb, :key)
              AND jsonb_exists(r.metadata::jsonb, :key) IS NOT TRUE) d
        JOIN ledger.transactions t ON t.ledger_id = d.ledger_id AND t.id = d.transaction_id
        CROSS JOIN LATERAL (
            SELECT currency_number, sum(amount) AS amount FROM (
                SELECT currency_number, account_id, sum(amount) AS amount FROM ledger.entries
                WHERE ledger_id = d.ledger_id AND transaction_id = d.transaction_id
                GROUP BY currency_number, account_id) net
            WHERE amount > 0 GROUP BY currency_number) m
        JOIN ledger.currencies c ON c.number = m.currency_number
        WHERE t.status = {Status.POSTED:d} AND (d.own OR t.kind = {Kind.REVERSAL:d})
          AND t.recorded_at >= :since AND t.recorded_at < :until) movements
    GROUP BY value, currency) totals
WHERE (is_null, beginning, digest, currency)
    > (CAST(:is_null AS boolean), CAST(:beginning AS text), CAST(:digest AS text),
       CAST(:currency AS text))
ORDER BY is_null, beginning, digest, currency LIMIT :rows
""")


def _summed(shape: type[Shape], row: Row[Any]) -> Shape:
    """A struct of a row. Sums are numeric, as they can have more than 64 bits, but whole."""
    fields = ((name, getattr(row, name)) for name in shape.__struct_fields__)
    return shape(**{n: int(v) if isinstance(v, Decimal) else v for n, v in fields})


async def trial_balance(reader: Reader, at: datetime | None) -> tuple[list[TrialBalanceRow], bool]:
    """The sums of all balances by currency as of a time, in one snapshot; and whether they are
    final. `at` None: as they stand, which is never final.

    Linear in the number of accounts, with a binary search for each that has moved since.
    """
    if at is None:
        rows, final = await reader.rows(TRIAL_BALANCE, search=True), False
    else:
        final = await _all_recorded(reader, at)
        rows = await reader.rows(TRIAL_BALANCE_AT, search=True, at=at)
    return [_summed(TrialBalanceRow, row) for row in rows], final


async def _all_recorded(reader: Reader, at: datetime) -> bool:
    """Whether all that can be recorded by `at`, on any account, is committed.

    Waits up to HORIZON_LOOKS * HORIZON_PAUSE_S seconds for the database transactions in flight. If
    one takes longer, even in another database of the server, the answer is no.
    """
    async with reader.connection() as connection:
        timestamp, number = (await connection.execute(HORIZON)).one()
        if at > timestamp:
            return False
        for _ in range(HORIZON_LOOKS):
            if await connection.scalar(HORIZON_PASSED, {"number": number}):
                return True
            await asyncio.sleep(HORIZON_PAUSE_S)
    return False


async def list_owner_balances(
    reader: Reader, rows: int, after: tuple[str, str] | None = None
) -> list[OwnerBalance]:
    """Up to `rows` balances ordered by owner and currency, after that pair."""
    owner, currency = after or ("", "")
    values = {"owner": owner, "currency": currency, "rows": rows}
    balances = await reader.rows(LIST_OWNER_BALANCES, search=True, **values)
    return [_summed(OwnerBalance, row) for row in balances]


async def list_totals(
    reader: Reader,
    key: str,
    since: datetime | None,
    until: datetime | None,
    rows: int,
    after: TotalPlace | None = None,
) -> list[tuple[MetadataTotal, TotalPlace]]:
    """Up to `rows` totals of what was moved in [since, until), by the values of a metadata key,
    each with its place.

    A reversal is subtracted, under its own value or its original's. A hold moves nothing. Linear in
    the number of the ledger's transactions that have metadata.
    """
    is_null, beginning, digest, currency = after or (False, "", "", "")
    values = {"key": key, "since": since or EARLIEST, "until": until or LATEST, "rows": rows}
    values |= {"is_null": is_null, "beginning": beginning, "digest": digest, "currency": currency}
    totals = await reader.rows(LIST_TOTALS, search=True, **values)
    return [
        (_summed(MetadataTotal, row), (row.is_null, row.beginning, row.digest, row.currency))
        for row in totals
    ]
