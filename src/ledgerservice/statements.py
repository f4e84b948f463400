"""An account as of any moment, statements, and reports over a whole ledger.

Time never runs backwards along an account, so what it stood at is found by a binary search over
its entries (`ledger.version_at`), whatever their number. The entries of a batch share one moment,
so a cut at any moment splits no transaction.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import text

from ledgerservice.reads import Reader
from ledgerservice.requests import OWN_KEY_MARK, Kind
from ledgerservice.views import AccountView

A_MOMENT = timedelta(microseconds=1)
CHUNK_ROWS = 1_000
FIRST = datetime(1, 1, 1, tzinfo=UTC)


class AccountAt(msgspec.Struct, frozen=True):
    """An account as of a moment; `view` has its figures of then.

    `final`: nothing can be recorded by that moment any more. `effective` is the balance of all
    that takes effect by then, whenever it is recorded; it can still change.
    """

    view: AccountView
    at: datetime
    final: bool
    effective: int


class Line(msgspec.Struct, frozen=True):
    """One entry of a statement; `counterparty_id` is None where there is more than one."""

    version: int
    recorded_at: datetime
    transaction_id: int
    kind: Kind
    amount: int
    balance: int
    counterparty_id: int | None
    key: str
    description: str | None
    reference: str | None
    effective_at: datetime | None


class Period(msgspec.Struct, frozen=True):
    """What of an account is in a statement: its entries above version `first`, up to `last`."""

    view: AccountView
    first: int
    last: int
    opening: int
    closing: int
    final: bool


class Trial(msgspec.Struct, frozen=True):
    """A currency's balances as of a moment; `customers` and `external` sum to `total`, zero."""

    currency: str
    exponent: int
    accounts: int
    debits: int
    credits: int
    customers: int
    external: int
    total: int


class OwnerBalance(msgspec.Struct, frozen=True):
    """What an owner has in a currency."""

    owner: str
    currency: str
    exponent: int
    accounts: int
    balance: int
    held: int


class Total(msgspec.Struct, frozen=True):
    """The posted transactions that have a value of a metadata key, in a currency."""

    value: str | None
    currency: str
    exponent: int
    transactions: int
    amount: int


# A lock that only a batch withholds, given back at once. Who gets it knows that what was recorded
# by a moment before it is committed: a later batch takes its clock after its own locks.
TRY_LOCK = text("""
SELECT 1 FROM ledger.accounts WHERE ledger_id = :ledger AND id = :account
FOR SHARE SKIP LOCKED
""")

CLOCK = text("SELECT clock_timestamp()")

# What of `held` had expired by then: of holds that are still open, and of those that the next batch
# released before all else (so its entries follow at once, and have one moment).
ACCOUNT_AT = text(f"""
SELECT a.id, a.owner, a.currency, a.exponent, a.reference, coalesce(e.balance, 0),
       coalesce(e.held, 0) - coalesce(still.remaining, 0) - coalesce(late.released, 0),
       v.version, coalesce(p.floor, CASE WHEN a.id > 0 THEN 0 END), p.ceiling,
       coalesce(p.restricted, 0)::smallint, a.created_at,
       a.last_recorded_at > :at, coalesce(e.balance, 0) + coalesce(d.correction, 0)
FROM ledger.accounts a
CROSS JOIN LATERAL (
    SELECT ledger.version_at(a.ledger_id, a.id, a.version, :at) AS version) v
LEFT JOIN ledger.entries e
  ON e.ledger_id = a.ledger_id AND e.account_id = a.id AND e.seq = v.version
LEFT JOIN LATERAL (
    SELECT * FROM ledger.policies p
    WHERE p.ledger_id = a.ledger_id AND p.account_id = a.id AND p.seq <= v.version
    ORDER BY p.seq DESC LIMIT 1) p ON true
LEFT JOIN LATERAL (
    SELECT sum(h.remaining)::bigint AS remaining FROM ledger.holds h
    WHERE h.ledger_id = a.ledger_id AND h.account_id = a.id AND h.remaining > 0
      AND h.expires_at <= :at AND h.expires_at <= clock_timestamp()) still ON true
LEFT JOIN LATERAL (
    SELECT -sum(l.held_change)::bigint AS released
    FROM ledger.entries n
    JOIN ledger.entries l
      ON l.ledger_id = n.ledger_id AND l.account_id = n.account_id AND l.seq >= n.seq
     AND l.recorded_at = n.recorded_at AND l.held_change < 0
    JOIN ledger.details s
      ON s.ledger_id = l.ledger_id AND s.transaction_id = l.transaction_id
    JOIN ledger.transactions t
      ON t.ledger_id = l.ledger_id AND t.id = l.transaction_id
    JOIN ledger.holds h
      ON h.ledger_id = s.ledger_id AND h.transaction_id = s.parent_id
    WHERE n.ledger_id = a.ledger_id AND n.account_id = a.id AND n.seq = v.version + 1
      AND coalesce(e.held, 0) > 0 AND h.expires_at <= :at
      AND t.idempotency_key = '{OWN_KEY_MARK}expiry ' || h.transaction_id) late ON true
LEFT JOIN LATERAL (
    SELECT (coalesce(sum(x.amount) FILTER (WHERE x.effective_at <= :at), 0)
            - coalesce(sum(x.amount) FILTER (WHERE x.effective_at > :at), 0))::bigint AS correction
    FROM ledger.dated_entries x
    WHERE x.ledger_id = a.ledger_id AND x.account_id = a.id
      AND (x.effective_at <= :at) <> (x.recorded_at <= :at)) d ON true
WHERE a.ledger_id = :ledger AND a.id = :account
""")

LINES = text("""
SELECT e.seq, e.recorded_at, e.transaction_id, t.kind, e.amount, e.balance,
       CASE WHEN t.account_id = e.account_id THEN t.counterparty_id
            WHEN t.counterparty_id = e.account_id THEN t.account_id END,
       t.idempotency_key, d.description, d.reference, d.effective_at
FROM ledger.entries e
JOIN ledger.transactions t ON t.ledger_id = e.ledger_id AND t.id = e.transaction_id
LEFT JOIN ledger.details d ON d.ledger_id = e.ledger_id AND d.transaction_id = e.transaction_id
WHERE e.ledger_id = :ledger AND e.account_id = :account AND e.seq > :after AND e.seq <= :last
ORDER BY e.seq LIMIT :rows
""")

_SUMS = """
SELECT currency, max(exponent), count(*) FILTER (WHERE id > 0),
       coalesce(-sum(balance) FILTER (WHERE balance < 0), 0)::numeric,
       coalesce(sum(balance) FILTER (WHERE balance > 0), 0)::numeric,
       coalesce(sum(balance) FILTER (WHERE id > 0), 0)::numeric,
       coalesce(sum(balance) FILTER (WHERE id < 0), 0)::numeric, sum(balance)::numeric
"""
_OF_THOSE_IN_USE = """
GROUP BY currency HAVING count(*) FILTER (WHERE id > 0) > 0 OR bool_or(balance <> 0)
ORDER BY currency
"""
TRIAL_NOW = text(f"{_SUMS} FROM ledger.accounts WHERE ledger_id = :ledger {_OF_THOSE_IN_USE}")

TRIAL_AT = text(f"""
{_SUMS} FROM (
    SELECT a.id, a.currency, a.exponent, coalesce(e.balance, 0) AS balance
    FROM ledger.accounts a
    LEFT JOIN ledger.entries e
      ON e.ledger_id = a.ledger_id AND e.account_id = a.id
     AND e.seq = CASE WHEN a.last_recorded_at <= :at THEN a.version
                      ELSE ledger.version_at(a.ledger_id, a.id, a.version, :at) END
    WHERE a.ledger_id = :ledger AND a.created_at <= :at
) a {_OF_THOSE_IN_USE}
""")

BY_OWNER = text("""
SELECT owner, currency, max(exponent), count(*), sum(balance)::numeric, sum(held)::numeric
FROM ledger.accounts
WHERE ledger_id = :ledger AND id > 0 AND (owner, currency) > (:owner, :currency)
GROUP BY owner, currency ORDER BY owner, currency LIMIT :rows
""")

BY_METADATA = text("""
SELECT d.metadata ->> :key, a.currency, max(a.exponent), count(*), sum(t.amount)::numeric
FROM ledger.details d
JOIN ledger.transactions t ON t.ledger_id = d.ledger_id AND t.id = d.transaction_id
JOIN ledger.accounts a ON a.ledger_id = t.ledger_id AND a.id = t.account_id
WHERE d.ledger_id = :ledger AND d.metadata IS NOT NULL AND t.status = 1
  AND jsonb_exists(d.metadata::jsonb, :key)
  AND t.recorded_at >= :since AND t.recorded_at < :until
GROUP BY 1, 2 ORDER BY 1 NULLS LAST, 2 LIMIT :rows
""")


async def account_at(reader: Reader, account_id: int, at: datetime) -> AccountAt | None:
    """The account as of a moment; None where there is none. O(log n) in its entries, and linear
    in those of them that take effect at another moment than they were recorded at.
    """
    values = {"ledger": reader.ledger_id, "account": account_id}
    async with reader.connection() as connection:
        # The clock, the lock and the read, each a statement of its own: each sees what is newer.
        now = await connection.scalar(CLOCK)
        still = await connection.scalar(TRY_LOCK, values)
        row = (await connection.execute(ACCOUNT_AT, {**values, "at": at})).one_or_none()
    if row is None:
        return None
    *view, followed, effective = row
    final = bool(followed) or (still is not None and at <= now)
    return AccountAt(AccountView(*view), at, final, effective)


async def period(
    reader: Reader, account_id: int, since: datetime, until: datetime
) -> Period | None:
    """What is in the statement of [since, until), by the moments of recording."""
    opening = await account_at(reader, account_id, _before(since))
    closing = await account_at(reader, account_id, _before(until))
    if opening is None or closing is None:
        return None
    return Period(
        closing.view,
        opening.view.version,
        closing.view.version,
        opening.view.balance,
        closing.view.balance,
        closing.final,
    )


def _before(moment: datetime) -> datetime:
    """The moment before; there is none before the first one of all, when nothing was recorded."""
    return moment if moment == FIRST else moment - A_MOMENT


async def lines(reader: Reader, of: Period, after: int, rows: int) -> list[Line]:
    """Up to `rows` entries of a period above version `after`, oldest first."""
    found = await reader.rows(LINES, account=of.view.id, after=after, last=of.last, rows=rows)
    return [Line(*(*row[:3], Kind(row[3]), *row[4:])) for row in found]


async def all_lines(reader: Reader, of: Period) -> AsyncIterator[list[Line]]:
    """All of them, a chunk at a time: they never change, so each may have its own read."""
    after = of.first
    while chunk := await lines(reader, of, after, CHUNK_ROWS):
        yield chunk
        after = chunk[-1].version


async def trial_balance(reader: Reader, at: datetime | None) -> list[Trial]:
    """The sums of all balances by currency, in one snapshot; None: as they stand.

    Linear in the number of accounts, with a binary search for each that has moved since.
    """
    found = await (reader.rows(TRIAL_NOW) if at is None else reader.rows(TRIAL_AT, at=at))
    return [Trial(*row[:3], *map(int, row[3:])) for row in found]


async def by_owner(reader: Reader, after: tuple[str, str], rows: int) -> list[OwnerBalance]:
    """Up to `rows` owners' balances by owner and currency, after that pair."""
    owner, currency = after
    found = await reader.rows(BY_OWNER, owner=owner, currency=currency, rows=rows)
    return [OwnerBalance(*row[:4], *map(int, row[4:])) for row in found]


async def by_metadata(
    reader: Reader, key: str, since: datetime, until: datetime, rows: int
) -> list[Total]:
    """The posted transactions of [since, until) by their values of a metadata key.

    Linear in the number of the ledger's transactions that have metadata.
    """
    values: dict[str, Any] = {"key": key, "since": since, "until": until, "rows": rows}
    found = await reader.rows(BY_METADATA, **values)
    return [Total(row[0], row[1], row[2], row[3], int(row[4])) for row in found]
