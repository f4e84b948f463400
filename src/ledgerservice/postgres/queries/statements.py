"""An account as of any moment, statements, and reports over a whole ledger.

Time never runs backwards along an account, so what it stood at is found by a binary search over
its entries (`ledger.version_at`), whatever their number. The entries of a batch share one moment,
so a cut at any moment splits no transaction.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import TextClause, text

from ledgerservice.domain.instructions import Kind, Origin
from ledgerservice.domain.views import AccountView
from ledgerservice.postgres.reader import Reader

A_MOMENT = timedelta(microseconds=1)
CHUNK_ROWS = 1_000
FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
HORIZON_LOOKS = 100
HORIZON_PAUSE_S = 0.01

TotalsPlace = tuple[bool, str, str, str]
"""Whether the value is null, how it begins, its digest, and the currency."""
BEFORE_ALL_TOTALS: TotalsPlace = (False, "", "", "")


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
    """What of an account is in a statement: its entries above version `first`, up to `last`.

    `final`: no entry can be added to it any more.
    """

    account_id: int
    owner: str
    currency: str
    exponent: int
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


# A lock that only a batch withholds, and the moment before it was asked for. Who gets it knows that
# what was recorded by that moment is committed: a later batch takes its clock after its own locks.
# It is given back at once: its commit has nothing to say that needs to reach a disk.
TRY_LOCK = text("""
SELECT statement_timestamp(), set_config('synchronous_commit', 'off', true)
FROM (SELECT FROM ledger.accounts WHERE ledger_id = :ledger AND id = :account
      FOR SHARE SKIP LOCKED) l
""")

# What of `held` had expired by then: of holds that are still open, and of those that the next batch
# released before all else (its entries follow at once, and have one moment). OFFSET 0 keeps the
# server to this order: it would begin with all holds that there are.
ACCOUNT_AT = text(f"""
WITH a AS MATERIALIZED (
    SELECT *, ledger.version_at(ledger_id, id, version, :at) AS seq
    FROM ledger.accounts WHERE ledger_id = :ledger AND id = :account)
SELECT a.id, a.owner, a.currency, a.exponent, a.reference, coalesce(e.balance, 0),
       coalesce(e.held, 0) - coalesce(still.remaining, 0) - coalesce(late.released, 0),
       a.seq, coalesce(p.floor, CASE WHEN a.id > 0 THEN 0 END), p.ceiling,
       coalesce(p.restricted, 0)::smallint, a.created_at,
       (SELECT metadata::text FROM ledger.account_details
        WHERE ledger_id = a.ledger_id AND account_id = a.id),
       coalesce(e.balance, 0) + coalesce(d.correction, 0), a.last_recorded_at > :at
FROM a
LEFT JOIN ledger.entries e
  ON e.ledger_id = a.ledger_id AND e.account_id = a.id AND e.seq = a.seq
LEFT JOIN LATERAL (
    SELECT * FROM ledger.policies p
    WHERE p.ledger_id = a.ledger_id AND p.account_id = a.id AND p.seq <= a.seq
    ORDER BY p.seq DESC LIMIT 1) p ON true
LEFT JOIN LATERAL (
    SELECT sum(h.remaining)::bigint AS remaining FROM ledger.holds h
    WHERE h.ledger_id = a.ledger_id AND h.account_id = a.id AND h.remaining > 0
      AND h.ends_at <= :at AND h.ends_at <= clock_timestamp()) still ON true
LEFT JOIN LATERAL (
    SELECT -sum(l.held_change)::bigint AS released
    FROM (
        SELECT ledger.version_at(a.ledger_id, a.id, a.version, recorded_at) AS last
        FROM ledger.entries
        WHERE ledger_id = a.ledger_id AND account_id = a.id AND seq = a.seq + 1
          AND e.held > 0 OFFSET 0) n
    CROSS JOIN LATERAL (
        SELECT transaction_id, held_change FROM ledger.entries
        WHERE ledger_id = a.ledger_id AND account_id = a.id
          AND seq > a.seq AND seq <= n.last AND held_change < 0 OFFSET 0) l
    CROSS JOIN LATERAL (
        SELECT parent_id FROM ledger.details
        WHERE ledger_id = a.ledger_id AND transaction_id = l.transaction_id OFFSET 0) s
    CROSS JOIN LATERAL (
        SELECT origin FROM ledger.transactions
        WHERE ledger_id = a.ledger_id AND id = l.transaction_id OFFSET 0) t
    CROSS JOIN LATERAL (
        SELECT ends_at FROM ledger.holds
        WHERE ledger_id = a.ledger_id AND transaction_id = s.parent_id OFFSET 0) h
    WHERE h.ends_at <= :at
      AND t.origin = {Origin.EXPIRY:d}) late ON true
LEFT JOIN LATERAL (
    SELECT (coalesce(sum(x.amount) FILTER (WHERE x.effective_at <= :at), 0)
            - coalesce(sum(x.amount) FILTER (WHERE x.effective_at > :at), 0))::bigint AS correction
    FROM ledger.dated_entries x
    WHERE x.ledger_id = a.ledger_id AND x.account_id = a.id
      AND (x.effective_at <= :at) <> (x.recorded_at <= :at)) d ON true
""")

PERIOD = text("""
WITH a AS MATERIALIZED (
    SELECT *, ledger.version_at(ledger_id, id, version, :opened_at) AS first,
           ledger.version_at(ledger_id, id, version, :closed_at) AS last
    FROM ledger.accounts WHERE ledger_id = :ledger AND id = :account)
SELECT a.id, a.owner, a.currency, a.exponent, a.first, a.last, coalesce(o.balance, 0),
       coalesce(c.balance, 0), a.last_recorded_at > :closed_at
FROM a
LEFT JOIN ledger.entries o
  ON o.ledger_id = a.ledger_id AND o.account_id = a.id AND o.seq = a.first
LEFT JOIN ledger.entries c
  ON c.ledger_id = a.ledger_id AND c.account_id = a.id AND c.seq = a.last
""")

# The same, of versions known from an earlier page.
PERIOD_OF = text("""
SELECT a.id, a.owner, a.currency, a.exponent, CAST(:first AS bigint), CAST(:last AS bigint),
       coalesce(o.balance, 0), coalesce(c.balance, 0)
FROM ledger.accounts a
LEFT JOIN ledger.entries o
  ON o.ledger_id = a.ledger_id AND o.account_id = a.id AND o.seq = :first
LEFT JOIN ledger.entries c
  ON c.ledger_id = a.ledger_id AND c.account_id = a.id AND c.seq = :last
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

# A database transaction that begins to write later has a number above this one, and its batch is
# recorded after this moment.
HORIZON = text("SELECT statement_timestamp(), pg_current_xact_id()::text")
HORIZON_PASSED = text("""
SELECT pg_snapshot_xmin(pg_current_snapshot()) > CAST(CAST(:number AS text) AS xid8)
""")

BY_OWNER = text("""
SELECT owner, currency, max(exponent), count(*), sum(balance)::numeric,
       sum(CASE WHEN held = 0 THEN 0 ELSE held - (
           SELECT coalesce(sum(h.remaining), 0) FROM ledger.holds h
           WHERE h.ledger_id = a.ledger_id AND h.account_id = a.id AND h.remaining > 0
             AND h.ends_at <= clock_timestamp()) END)::numeric
FROM ledger.accounts a
WHERE ledger_id = :ledger AND id > 0 AND owner >= :owner
  AND (owner, currency) > (:owner, :currency)
GROUP BY owner, currency ORDER BY owner, currency LIMIT :rows
""")

# A reversal that has no value of the key has its original's. In the order of the values'
# beginnings; a digest tells apart what begins alike.
BY_METADATA = text("""
SELECT value, currency, exponent, transactions, amount, nothing, beginning, digest FROM (
    SELECT value, currency, max(exponent) AS exponent, count(*) AS transactions,
           sum(amount)::numeric AS amount, value IS NULL AS nothing,
           coalesce(left(value, 100), '') AS beginning,
           coalesce(encode(sha256(convert_to(value, 'UTF8')), 'hex'), '') AS digest
    FROM (
        SELECT d.metadata ->> :key AS value, c.code AS currency, c.exponent,
               CASE WHEN t.kind = 8 THEN -m.amount ELSE m.amount END AS amount
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
        WHERE t.status = 1 AND (d.own OR t.kind = 8)
          AND t.recorded_at >= :since AND t.recorded_at < :until) found
    GROUP BY value, currency) totals
WHERE (nothing, beginning, digest, currency)
    > (CAST(:nothing AS boolean), CAST(:beginning AS text), CAST(:digest AS text),
       CAST(:currency AS text))
ORDER BY nothing, beginning, digest, currency LIMIT :rows
""")


async def account_at(reader: Reader, account_id: int, at: datetime) -> AccountAt | None:
    """The account as of a moment; None where there is none. O(log n) in its entries, and linear
    in those of them that take effect at another moment than they were recorded at.
    """
    found = await _settled(reader, ACCOUNT_AT, {"account": account_id, "at": at}, at)
    if found is None:
        return None
    (*view, effective), final = found
    return AccountAt(AccountView(*view), at, final, effective)


async def _settled(
    reader: Reader, statement: TextClause, values: dict[str, Any], at: datetime
) -> tuple[list[Any], bool] | None:
    """A row that says of an account what was recorded by `at`, and whether that is final.

    Its last column says whether anything was recorded later: time never runs backwards along an
    account, so then it is. Only where nothing was does it take a lock to know.
    """
    values = {"ledger": reader.ledger_id, **values}
    async with reader.connection() as connection:
        row = (await connection.execute(statement, values)).one_or_none()
        if row is None:
            return None
        if row[-1]:
            return list(row[:-1]), True
        # Each a statement of its own: the read after the lock sees what was committed before it.
        locked_at = await connection.scalar(TRY_LOCK, values)
        *found, followed = (await connection.execute(statement, values)).one()
        return found, followed or (locked_at is not None and at <= locked_at)


Cut = tuple[int, int, bool]
"""A period's `first`, `last` and `final`, by which a later page has the same."""


async def period(
    reader: Reader, account_id: int, since: datetime | None, until: datetime | None
) -> Period | None:
    """What is in the statement of [since, until), by the moments of recording, in one snapshot.

    None: from the first entry, to the last.
    """
    closed_at = _before(until or LAST)
    values = {"account": account_id, "opened_at": _before(since or FIRST), "closed_at": closed_at}
    found = await _settled(reader, PERIOD, values, closed_at)
    return None if found is None else Period(*(*found[0], found[1]))


async def period_of(reader: Reader, account_id: int, cut: Cut) -> Period | None:
    """What was in the statement that was cut so."""
    first, last, final = cut
    found = await reader.row(PERIOD_OF, account=account_id, first=first, last=last)
    return None if found is None else Period(*(*found, final))


def _before(moment: datetime) -> datetime:
    """The moment before; there is none before the first one of all, when nothing was recorded."""
    return moment if moment == FIRST else moment - A_MOMENT


async def lines(reader: Reader, of: Period, after: int, rows: int) -> list[Line]:
    """Up to `rows` entries of a period above version `after`, oldest first."""
    found = await reader.rows(LINES, account=of.account_id, after=after, last=of.last, rows=rows)
    return [Line(*(*row[:3], Kind(row[3]), *row[4:])) for row in found]


async def all_lines(reader: Reader, of: Period) -> AsyncIterator[list[Line]]:
    """All of them, a chunk at a time: they never change, so each may have its own read."""
    after = of.first
    while chunk := await lines(reader, of, after, CHUNK_ROWS):
        yield chunk
        after = chunk[-1].version


async def trial_balance(reader: Reader, at: datetime | None) -> tuple[list[Trial], bool]:
    """The sums of all balances by currency, in one snapshot, and whether they are final.

    None: as they stand, which is never final. Linear in the number of accounts, with a binary
    search for each that has moved since.
    """
    if at is None:
        found, final = await reader.rows(TRIAL_NOW, search=True), False
    else:
        final = await _all_recorded(reader, at)
        found = await reader.rows(TRIAL_AT, search=True, at=at)
    return [Trial(*row[:3], *map(int, row[3:])) for row in found], final


async def _all_recorded(reader: Reader, at: datetime) -> bool:
    """Whether all is committed that will ever be recorded by `at`, on any account.

    Waits a little for what is in flight, whoever's; a database transaction that takes longer, of
    another database of the server even, leaves it open.
    """
    async with reader.connection() as connection:
        asked_at, number = (await connection.execute(HORIZON)).one()
        if at > asked_at:
            return False
        for _ in range(HORIZON_LOOKS):
            if await connection.scalar(HORIZON_PASSED, {"number": number}):
                return True
            await asyncio.sleep(HORIZON_PAUSE_S)
    return False


async def by_owner(reader: Reader, after: tuple[str, str], rows: int) -> list[OwnerBalance]:
    """Up to `rows` owners' balances by owner and currency, after that pair."""
    owner, currency = after
    found = await reader.rows(BY_OWNER, search=True, owner=owner, currency=currency, rows=rows)
    return [OwnerBalance(*row[:4], *map(int, row[4:])) for row in found]


async def by_metadata(
    reader: Reader,
    key: str,
    since: datetime | None,
    until: datetime | None,
    after: TotalsPlace,
    rows: int,
) -> list[tuple[Total, TotalsPlace]]:
    """Up to `rows` totals of what the transactions of [since, until) have moved, by their values of
    a metadata key, each with its place. A reversal takes away, by its own value or its original's;
    a hold moves nothing.

    Linear in the number of the ledger's transactions that have metadata.
    """
    nothing, beginning, digest, currency = after
    values: dict[str, Any] = {
        "key": key,
        "since": since or FIRST,
        "until": until or LAST,
        "rows": rows,
    }
    values |= {"nothing": nothing, "beginning": beginning, "digest": digest, "currency": currency}
    found = await reader.rows(BY_METADATA, search=True, **values)
    return [(Total(*(*row[:4], int(row[4]))), (*row[5:8], row[1])) for row in found]
