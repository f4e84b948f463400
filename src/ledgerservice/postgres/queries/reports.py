"""Reports over a whole ledger: balances by currency and by owner, and totals by metadata."""

from collections.abc import Collection, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import chain
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Row, TextClause, text

from ledgerservice.domain.instructions import Kind
from ledgerservice.domain.timestamps import TimeOf
from ledgerservice.domain.transactions import Status
from ledgerservice.postgres.queries.accounts import HELD
from ledgerservice.postgres.queries.as_of import (
    HELD_AT,
    JOIN_CORRECTION,
    JOIN_ENTRY,
    JOIN_EXPIRED,
)
from ledgerservice.postgres.queries.horizon import all_recorded
from ledgerservice.postgres.queries.structs import EARLIEST, LATEST, Shape
from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.search import Place


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
    """The sums of an owner's accounts in a currency, in minor units. `held` None: as effective, by
    which nothing is held.
    """

    owner: str
    currency: str
    exponent: int
    accounts: int
    balance: int
    held: int | None


class MetadataTotal(msgspec.Struct, frozen=True):
    """The posted transactions with one value of a metadata key, in one currency."""

    value: str | None
    currency: str
    exponent: int
    transactions: int
    amount: int


TotalPlace = tuple[bool, str, str, str]
"""Whether the value is null, its beginning, its digest, and the currency."""

# The clearing accounts of all parts together are what has arrived in a part while the hold in the
# other is still open, below zero: subtracted from the customers' balances, it is counted once.
_SUMS = """
SELECT currency, max(exponent) AS exponent, count(*) FILTER (WHERE id > 0) AS accounts,
       coalesce(-sum(balance) FILTER (WHERE balance < 0 AND id >= -32768), 0)::numeric AS debits,
       (coalesce(sum(balance) FILTER (WHERE balance > 0 AND id >= -32768), 0)
        + coalesce(sum(balance) FILTER (WHERE id < -32768), 0))::numeric AS credits,
       coalesce(sum(balance) FILTER (WHERE id > 0 OR id < -32768), 0)::numeric AS customers,
       coalesce(sum(balance) FILTER (WHERE id BETWEEN -32768 AND -1), 0)::numeric AS external,
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

# An account is part of a time as effective if it was opened by then, or if an entry of it takes
# effect by then: an import of history opens accounts long after their first entries.
TRIAL_BALANCE_EFFECTIVE_AT = text(f"""
{_SUMS} FROM (
    SELECT a.id, a.currency, a.exponent,
           coalesce(e.balance, 0) + coalesce(d.correction, 0) AS balance
    FROM ledger.accounts a
    LEFT JOIN (
        SELECT account_id, bool_or(effective_at <= :at) AS has_begun,
               sum(CASE WHEN recorded_at > :at THEN amount ELSE -amount END)
                   FILTER (WHERE (effective_at <= :at) <> (recorded_at <= :at)) AS correction
        FROM ledger.dated_entries WHERE ledger_id = :ledger GROUP BY account_id) d
      ON d.account_id = a.id
    LEFT JOIN ledger.entries e
      ON e.ledger_id = a.ledger_id AND e.account_id = a.id
     AND e.seq = CASE WHEN a.created_at > :at THEN 0
                      WHEN a.last_recorded_at <= :at THEN a.version
                      ELSE ledger.version_at(a.ledger_id, a.id, a.version, :at) END
    WHERE a.ledger_id = :ledger AND (a.created_at <= :at OR d.has_begun)
) a {_BY_CURRENCY_IN_USE}
""")

_OWNERS_AFTER = """
ledger_id = :ledger AND id > 0 AND owner >= :owner AND (owner, currency) > (:owner, :currency)
"""
_OF_OWNERS = f"{_OWNERS_AFTER} AND owner = ANY (CAST(:owners AS text[]))"
_BY_OWNER = "GROUP BY owner, currency ORDER BY owner, currency LIMIT :rows"


def _owner_balances(held: str, rows: str) -> TextClause:
    return text(f"""
        SELECT owner, currency, max(exponent) AS exponent, count(*) AS accounts,
               sum(balance)::numeric AS balance, {held} AS held
        FROM {rows} {_BY_OWNER}""")


class _OwnerStatements(NamedTuple):
    """The balances of owners as they stand, as of a time, and as effective by then."""

    now: TextClause
    recorded: TextClause
    effective: TextClause


def _owner_statements(condition: str) -> _OwnerStatements:
    """Those of the accounts with this condition."""
    now = _owner_balances(f"sum({HELD})::numeric", f"ledger.accounts a WHERE {condition}")
    recorded = _owner_balances(
        "sum(held)::numeric",
        f"""(
        SELECT a.owner, a.currency, a.exponent, coalesce(e.balance, 0) AS balance,
               {HELD_AT} AS held
        FROM (SELECT *, ledger.version_at(ledger_id, id, version, :at) AS seq
              FROM ledger.accounts WHERE created_at <= :at AND {condition}) a
        {JOIN_ENTRY} {JOIN_EXPIRED}) b""",
    )
    effective = _owner_balances(
        "NULL",
        f"""(
        SELECT a.owner, a.currency, a.exponent,
               coalesce(e.balance, 0) + coalesce(d.correction, 0) AS balance
        FROM (SELECT *, ledger.version_at(ledger_id, id, version, :at) AS seq
              FROM ledger.accounts WHERE {condition}) a
        {JOIN_ENTRY} {JOIN_CORRECTION}
        WHERE a.created_at <= :at OR EXISTS (
            SELECT FROM ledger.dated_entries x
            WHERE x.ledger_id = a.ledger_id AND x.account_id = a.id
              AND x.effective_at <= :at)) b""",
    )
    return _OwnerStatements(now, recorded, effective)


OWNER_BALANCES = _owner_statements(_OWNERS_AFTER)
OWNER_BALANCES_OF = _owner_statements(_OF_OWNERS)

# A reversal without a value of the key has its original's value. The order is by the beginning of a
# value; the digest distinguishes values that begin alike. A transfer between parts is counted by
# its debit, in one part: the parent of its hold is there if it reverses another one. OFFSET 0 makes
# PostgreSQL find each row by its own key: without statistics it reads a whole period for each.
_TOTALS = f"""
SELECT value, currency, exponent, transactions, amount, is_null, beginning, digest FROM (
    SELECT value, currency, max(exponent) AS exponent, count(*) AS transactions,
           sum(amount)::numeric AS amount, value IS NULL AS is_null,
           coalesce(left(value, 100), '') AS beginning,
           coalesce(encode(sha256(convert_to(value, 'UTF8')), 'hex'), '') AS digest
    FROM (
        SELECT d.metadata ->> :key AS value, c.code AS currency, c.exponent,
               CASE WHEN t.kind = {Kind.REVERSAL:d} OR t.kind = {Kind.CROSS_DEBIT:d} AND (
                        SELECT parent_id FROM ledger.details
                        WHERE ledger_id = d.ledger_id AND transaction_id = d.parent_id) IS NOT NULL
                    THEN -m.amount ELSE m.amount END AS amount
        FROM (
            SELECT ledger_id, transaction_id, parent_id, effective_at, metadata,
                   {Kind.REVERSAL:d} AS inherits, true AS own
            FROM ledger.details
            WHERE ledger_id = :ledger AND metadata IS NOT NULL
              AND jsonb_exists(metadata::jsonb, :key)
            UNION ALL
            SELECT s.ledger_id, s.transaction_id, s.parent_id, s.effective_at, p.metadata,
                   s.inherits, false
            FROM ledger.details p
            CROSS JOIN LATERAL (
                SELECT * FROM ledger.details
                WHERE ledger_id = p.ledger_id AND parent_id = p.transaction_id OFFSET 0) r
            CROSS JOIN LATERAL (
                SELECT r.ledger_id, r.transaction_id, r.parent_id, r.effective_at,
                       {Kind.REVERSAL:d} AS inherits
                UNION ALL
                SELECT ledger_id, transaction_id, parent_id, effective_at, {Kind.CROSS_DEBIT:d}
                FROM ledger.details
                WHERE ledger_id = r.ledger_id AND parent_id = r.transaction_id) s
            WHERE p.ledger_id = :ledger AND p.metadata IS NOT NULL
              AND jsonb_exists(p.metadata::jsonb, :key)
              AND jsonb_exists(r.metadata::jsonb, :key) IS NOT TRUE) d
        CROSS JOIN LATERAL (
            SELECT status, kind, recorded_at FROM ledger.transactions
            WHERE ledger_id = d.ledger_id AND id = d.transaction_id OFFSET 0) t
        CROSS JOIN LATERAL (
            SELECT currency_number, sum(amount) AS amount FROM (
                SELECT currency_number, account_id, sum(amount) AS amount FROM ledger.entries
                WHERE ledger_id = d.ledger_id AND transaction_id = d.transaction_id
                GROUP BY currency_number, account_id) net
            WHERE amount > 0 GROUP BY currency_number) m
        JOIN ledger.currencies c ON c.number = m.currency_number
        WHERE t.status = {Status.POSTED:d} AND t.kind <> {Kind.CROSS_CREDIT:d}
          AND (d.own OR t.kind = d.inherits)
          AND $time >= :since AND $time < :until) movements
    GROUP BY value, currency) totals
WHERE (is_null, beginning, digest, currency)
    > (CAST(:is_null AS boolean), CAST(:beginning AS text), CAST(:digest AS text),
       CAST(:currency AS text))
ORDER BY is_null, beginning, digest, currency LIMIT :rows
"""
LIST_TOTALS = {
    "recorded": text(_TOTALS.replace("$time", "t.recorded_at")),
    "effective": text(_TOTALS.replace("$time", "coalesce(d.effective_at, t.recorded_at)")),
}


def _summed(shape: type[Shape], row: Row[Any]) -> Shape:
    """A struct of a row. Sums are numeric, as they can have more than 64 bits, but whole."""
    fields = ((name, getattr(row, name)) for name in shape.__struct_fields__)
    return shape(**{n: int(v) if isinstance(v, Decimal) else v for n, v in fields})


async def trial_balance(
    reader: Reader, at: datetime | None, by: TimeOf = "recorded"
) -> tuple[list[TrialBalanceRow], bool]:
    """The sums of all balances by currency as of a time, in one snapshot; and whether they are
    final. `at` None: as they stand, which is never final, and neither is what takes effect by `at`.

    Linear in the number of accounts, with a binary search for each that has moved since; as
    effective also in the number of the entries with an `effective_at`.
    """
    if at is None:
        rows, final = await reader.rows(TRIAL_BALANCE, search=True), False
    elif by == "effective":
        rows, final = await reader.rows(TRIAL_BALANCE_EFFECTIVE_AT, search=True, at=at), False
    else:
        final = await all_recorded(reader, at)
        rows = await reader.rows(TRIAL_BALANCE_AT, search=True, at=at)
    return [_summed(TrialBalanceRow, row) for row in rows], final


async def trial_balance_of_all(
    readers: Sequence[Reader], at: datetime | None, by: TimeOf = "recorded"
) -> tuple[list[TrialBalanceRow], bool]:
    """The same of a ledger with parts, each in a snapshot of its own."""
    sums: dict[str, TrialBalanceRow] = {}
    answers = [await trial_balance(reader, at, by) for reader in readers]
    for row in chain.from_iterable(rows for rows, _ in answers):
        sums[row.currency] = _plus(sums[row.currency], row) if row.currency in sums else row
    return [sums[currency] for currency in sorted(sums)], all(final for _, final in answers)


_SUMMED = {
    *("accounts", "debits", "credits", "customers", "external", "total"),
    *("balance", "held", "transactions", "amount"),
}


def _plus(one: Shape, other: Shape) -> Shape:
    """Two rows of the same currency or owner in one."""
    fields = msgspec.structs.asdict(one)
    for name in _SUMMED & fields.keys():
        if fields[name] is not None:
            fields[name] += getattr(other, name)
    return type(one)(**fields)


SORT_PLACES = text("""
SELECT number FROM ROWS FROM (
    jsonb_to_recordset(CAST(:places AS jsonb))
        AS (flag boolean, one text, two text, three text)
) WITH ORDINALITY AS places (flag, one, two, three, number)
ORDER BY flag, one, two, three
""")


async def _in_order(readers: Sequence[Reader], places: Collection[Place]) -> list[Place]:
    """The places of all parts in the order of the database, which is that of its collation."""
    listed = list(places)
    if len(readers) == 1 or not listed:
        return listed
    names = ("flag", "one", "two", "three")
    flagged = [place if isinstance(place[0], bool) else (False, *place) for place in listed]
    rows = [dict(zip(names, place, strict=False)) for place in flagged]
    order = await readers[0].rows(SORT_PLACES, places=msgspec.json.encode(rows).decode())
    return [listed[row.number - 1] for row in order]


async def list_owner_balances_of_all(
    readers: Sequence[Reader],
    rows: int,
    after: tuple[str, str] | None = None,
    at: datetime | None = None,
    by: TimeOf = "recorded",
    owners: Collection[str] | None = None,
) -> list[OwnerBalance]:
    """The same as `list_owner_balances` of a ledger with parts, each in a snapshot of its own.

    A hold between two parts counts until its debit is recorded; `held` has it then too.
    """
    sums: dict[tuple[str, str], OwnerBalance] = {}
    for reader in readers:
        for row in await list_owner_balances(reader, rows, after, at, by, owners):
            pair = row.owner, row.currency
            sums[pair] = _plus(sums[pair], row) if pair in sums else row
    return [sums[pair] for pair in (await _in_order(readers, sums))[:rows]]


async def list_owner_balances(
    reader: Reader,
    rows: int,
    after: tuple[str, str] | None = None,
    at: datetime | None = None,
    by: TimeOf = "recorded",
    owners: Collection[str] | None = None,
) -> list[OwnerBalance]:
    """Up to `rows` balances ordered by owner and currency, after that pair; as they stand, or as of
    the time `at`; of all owners, or of these.
    """
    owner, currency = after or ("", "")
    values: dict[str, Any] = {"owner": owner, "currency": currency, "rows": rows}
    statements = OWNER_BALANCES
    if owners is not None:
        statements, values["owners"] = OWNER_BALANCES_OF, list(owners)
    statement = statements.now
    if at is not None:
        values["at"] = at
        statement = statements.effective if by == "effective" else statements.recorded
    balances = await reader.rows(statement, search=True, **values)
    return [_summed(OwnerBalance, row) for row in balances]


async def list_totals(
    reader: Reader,
    key: str,
    since: datetime | None,
    until: datetime | None,
    rows: int,
    after: TotalPlace | None = None,
    by: TimeOf = "recorded",
) -> list[tuple[MetadataTotal, TotalPlace]]:
    """Up to `rows` totals of what was recorded in [since, until), or takes effect then, by the
    values of a metadata key, each with its place.

    A reversal is subtracted, under its own value or its original's. A hold moves nothing. Linear in
    the number of the ledger's transactions that have metadata.
    """
    is_null, beginning, digest, currency = after or (False, "", "", "")
    values = {"key": key, "since": since or EARLIEST, "until": until or LATEST, "rows": rows}
    values |= {"is_null": is_null, "beginning": beginning, "digest": digest, "currency": currency}
    totals = await reader.rows(LIST_TOTALS[by], search=True, **values)
    return [
        (_summed(MetadataTotal, row), (row.is_null, row.beginning, row.digest, row.currency))
        for row in totals
    ]


async def list_totals_of_all(
    readers: Sequence[Reader],
    key: str,
    since: datetime | None,
    until: datetime | None,
    rows: int,
    after: TotalPlace | None = None,
    by: TimeOf = "recorded",
) -> list[tuple[MetadataTotal, TotalPlace]]:
    """The same of a ledger with parts, each in a snapshot of its own.

    A transfer between two parts is counted as soon as its debit is recorded.
    """
    sums: dict[TotalPlace, MetadataTotal] = {}
    for reader in readers:
        for total, place in await list_totals(reader, key, since, until, rows, after, by):
            sums[place] = _plus(sums[place], total) if place in sums else total
    return [(sums[place], place) for place in (await _in_order(readers, sums))[:rows]]
