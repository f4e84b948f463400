"""Statements as effective: an account's entries of a period, in the order in which they take
effect. An entry without `effective_at` takes effect when it is recorded. An entry that moves
nothing, such as a hold's, stands at its recording time.
"""

from collections.abc import AsyncIterator
from datetime import datetime

import msgspec
from sqlalchemy import text

from ledgerservice.postgres.queries.statements import CHUNK_ROWS, LINE_COLUMNS, StatementLine
from ledgerservice.postgres.queries.structs import find_all, find_one, select_list
from ledgerservice.postgres.reader import Reader


class EffectivePeriod(msgspec.Struct, frozen=True):
    """A statement as effective, without its lines, of the account's entries up to `version`.

    Those without `effective_at` have versions above `first`, up to `last`. `opening` and `closing`
    are the balances as effective before and after the lines, in minor units. It is never `final`:
    a later transaction can take effect in any period.
    """

    account_id: int
    owner: str
    currency: str
    exponent: int
    version: int
    first: int
    last: int
    opening: int
    closing: int
    entries_total: int
    since: datetime | None
    until: datetime | None
    final: bool = False


class EffectivePlace(msgspec.Struct, frozen=True, array_like=True):
    """A place between lines: the version of the last line without `effective_at`, the effective
    time and the version of the last line with one, and the balance.
    """

    undated: int
    time: datetime | None
    dated: int
    balance: int


class _Line(StatementLine, frozen=True):
    """A line whose `balance` is not known yet."""

    is_dated: bool


_SINCE = "coalesce(CAST(:since AS timestamptz), '-infinity')"
_UNTIL = "coalesce(CAST(:until AS timestamptz), 'infinity')"
_PERIOD_COLUMNS = select_list(
    EffectivePeriod,
    "a",
    account_id="a.id",
    opening="(coalesce(o.balance, 0) + d.opening)::bigint",
    closing="(coalesce(c.balance, 0) + d.closing)::bigint",
    entries_total="a.last - a.first + d.more",
    since="CAST(:since AS timestamptz)",
    until="CAST(:until AS timestamptz)",
    final="false",
)
FIND_PERIOD = text(f"""
WITH a AS MATERIALIZED (
    SELECT *,
        ledger.version_at(ledger_id, id, version, {_SINCE} - interval '1 microsecond') AS first,
        ledger.version_at(ledger_id, id, version, {_UNTIL} - interval '1 microsecond') AS last
    FROM ledger.accounts WHERE ledger_id = :ledger AND id = :account)
SELECT {_PERIOD_COLUMNS}
FROM a
LEFT JOIN ledger.entries o
  ON o.ledger_id = a.ledger_id AND o.account_id = a.id AND o.seq = a.first
LEFT JOIN ledger.entries c
  ON c.ledger_id = a.ledger_id AND c.account_id = a.id AND c.seq = a.last
CROSS JOIN LATERAL (
    SELECT coalesce(sum(x.amount) FILTER (WHERE x.effective_at < {_SINCE}), 0)
            - coalesce(sum(x.amount) FILTER (WHERE x.seq <= a.first), 0) AS opening,
        coalesce(sum(x.amount) FILTER (WHERE x.effective_at < {_UNTIL}), 0)
            - coalesce(sum(x.amount) FILTER (WHERE x.seq <= a.last), 0) AS closing,
        count(*) FILTER (WHERE x.effective_at >= {_SINCE} AND x.effective_at < {_UNTIL})
            - count(*) FILTER (WHERE x.seq > a.first AND x.seq <= a.last) AS more
    FROM ledger.dated_entries x
    WHERE x.ledger_id = a.ledger_id AND x.account_id = a.id) d
""")

# Two sequences are merged. Where dated entries fill the page, only those undated entries are read
# that were recorded by the last effective time of the page: after an import of history there are
# many dated entries among them to be skipped.
LIST_LINES = text(f"""
WITH dated AS MATERIALIZED (
    SELECT seq, transaction_id, amount, recorded_at, effective_at AS takes_effect_at
    FROM ledger.dated_entries
    WHERE ledger_id = :ledger AND account_id = :account
      AND (effective_at, seq) > ({_SINCE}, CAST(:dated AS bigint))
      AND effective_at < {_UNTIL} AND seq <= :version
    ORDER BY effective_at, seq LIMIT :rows
), reached AS MATERIALIZED (
    SELECT CASE WHEN count(*) < :rows THEN CAST(:last AS bigint)
        ELSE ledger.version_at(:ledger, :account, :last, max(takes_effect_at)) END AS last
    FROM dated
), undated AS (
    SELECT e.seq, e.transaction_id, e.amount, e.recorded_at, e.recorded_at AS takes_effect_at
    FROM ledger.entries e
    LEFT JOIN ledger.details d
      ON d.ledger_id = e.ledger_id AND d.transaction_id = e.transaction_id
    WHERE e.ledger_id = :ledger AND e.account_id = :account AND e.seq > :undated
      AND e.seq <= (SELECT last FROM reached)
      AND (d.effective_at IS NULL OR e.amount = 0)
    ORDER BY e.seq LIMIT :rows
)
SELECT {LINE_COLUMNS}, d.effective_at IS NOT NULL AND e.amount <> 0 AS is_dated
FROM (SELECT u.*, CAST(:account AS bigint) AS account_id, CAST(0 AS bigint) AS balance
      FROM (SELECT * FROM dated UNION ALL SELECT * FROM undated) u
      ORDER BY takes_effect_at, seq LIMIT :rows) e
JOIN ledger.transactions t ON t.ledger_id = :ledger AND t.id = e.transaction_id
LEFT JOIN ledger.details d ON d.ledger_id = :ledger AND d.transaction_id = e.transaction_id
ORDER BY e.takes_effect_at, e.seq
""")


async def find_period(
    reader: Reader, account_id: int, since: datetime | None, until: datetime | None
) -> EffectivePeriod | None:
    """The statement of what takes effect in [since, until), in one snapshot, or None.

    `since` None: from the first entry on; `until` None: all that is recorded, the future included.
    Linear in the account's entries that have an `effective_at`.
    """
    values = {"account": account_id, "since": since, "until": until}
    return await find_one(reader, EffectivePeriod, FIND_PERIOD, **values)


def beginning(period: EffectivePeriod) -> EffectivePlace:
    """The place before the first line."""
    return EffectivePlace(period.first, period.since, 0, period.opening)


async def list_lines(
    reader: Reader, period: EffectivePeriod, after: EffectivePlace, rows: int
) -> list[tuple[StatementLine, EffectivePlace]]:
    """Up to `rows` lines after a place, in the order of effective time and version, each with its
    balance as effective and the place after it.
    """
    values = {
        "account": period.account_id,
        "since": after.time,
        "until": period.until,
        "dated": after.dated,
        "undated": after.undated,
        "version": period.version,
        "last": period.last,
        "rows": rows,
    }
    lines: list[tuple[StatementLine, EffectivePlace]] = []
    for line in await find_all(reader, _Line, LIST_LINES, **values):
        after = _after(after, line)
        lines.append((msgspec.structs.replace(line, balance=after.balance), after))
    return lines


def _after(place: EffectivePlace, line: _Line) -> EffectivePlace:
    balance = place.balance + line.amount
    if line.is_dated:
        return EffectivePlace(place.undated, line.effective_at, line.version, balance)
    return EffectivePlace(line.version, place.time, place.dated, balance)


async def list_all_lines(
    reader: Reader, period: EffectivePeriod
) -> AsyncIterator[list[StatementLine]]:
    """All lines, a chunk at a time. The lines up to a version never change."""
    place = beginning(period)
    while chunk := await list_lines(reader, period, place, CHUNK_ROWS):
        yield [line for line, _ in chunk]
        place = chunk[-1][1]
