"""What was recorded in a time, by periods: counts, amounts and ranges of amounts.

It reads the newest transactions of the time, up to a limit, whatever the size of the ledger.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import chain, product
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Row, text

from ledgerservice.domain.instructions import Kind
from ledgerservice.domain.ledgers import EXTERNAL_IDS
from ledgerservice.domain.timestamps import TimeOf
from ledgerservice.domain.transactions import Status
from ledgerservice.postgres.queries.structs import EARLIEST, LATEST
from ledgerservice.postgres.reader import Reader

MAX_PERIODS = 1_500
"""Those of an answer: the minutes of a day, or the hours of two months."""
MICROSECOND = timedelta(microseconds=1)


class MovedAmounts(msgspec.Struct, frozen=True):
    """What was moved in a currency, in minor units: by `transactions` of them, and of it from
    outside and to the outside.
    """

    currency: str
    exponent: int
    transactions: int
    amount_in: int
    amount_out: int
    moved: int


class PeriodCounts(msgspec.Struct):
    """What was recorded in the period from `begins_at` on."""

    begins_at: datetime
    posted: int = 0
    declined: dict[str, int] = {}
    currencies: list[MovedAmounts] = []


class AmountRange(msgspec.Struct, frozen=True):
    """The transactions that moved at least so many minor units, and less than the next range."""

    currency: str
    exponent: int
    at_least: int
    transactions: int


class Volume(msgspec.Struct):
    """The periods in which something was recorded, in order. Everything from `since` on is counted;
    None: everything of the time.
    """

    transactions: int = 0
    since: datetime | None = None
    periods: list[PeriodCounts] = []
    ranges: list[AmountRange] = []


class Extent(NamedTuple):
    """The newest transactions of a time: their number, and the first and the last time."""

    number: int
    first: datetime
    last: datetime


_OF_TIME = "t.id, t.status, t.decline_reason, t.account_id, t.recorded_at, t.has_details"


# A transfer between parts is counted once: where it is declined, or by its debit. Its hold, its
# credit and the release of the hold are steps.
_STEPS = {
    (Status.POSTED, Kind.CROSSING),
    (Status.POSTED, Kind.CROSS_CREDIT),
    (Status.POSTED, Kind.CROSS_RELEASE),
}
_IS_OUTSIDE = f"account_id BETWEEN -{EXTERNAL_IDS} AND -1"
_COUNTED = [
    f"t.status = {status:d} AND t.kind = {kind:d}"
    for status, kind in product(Status, Kind)
    if (status, kind) not in _STEPS
]
_IS_COUNTED = " AND ".join(
    f"(t.status <> {status:d} OR t.kind <> {kind:d})" for status, kind in sorted(_STEPS)
)


def _recent(columns: str) -> str:
    """The newest transactions of a time. The index has the order of time by status and kind; they
    are merged, so that only as many rows are read as are returned.
    """
    parts = (
        f"(SELECT {columns} FROM ledger.transactions t"
        f" WHERE t.ledger_id = :ledger AND {condition}"
        " AND t.recorded_at >= :since AND t.recorded_at < :until"
        " ORDER BY t.recorded_at DESC LIMIT :rows)"
        for condition in _COUNTED
    )
    return f"{' UNION ALL '.join(parts)} ORDER BY recorded_at DESC LIMIT :rows"


_DATED = """
SELECT transaction_id, effective_at FROM ledger.details
WHERE ledger_id = :ledger AND effective_at >= :since AND effective_at < :until
ORDER BY ledger_id DESC, effective_at DESC LIMIT :rows
"""
"""The newest transactions with an effective_at of a time."""

_EXTENT = "SELECT count(*) AS number, min({0}) AS first, max({0}) AS last FROM ({1}) newest"
FIND_EXTENTS = {
    "recorded": [text(_EXTENT.format("recorded_at", _recent("t.recorded_at")))],
    "effective": [
        text(_EXTENT.format("recorded_at", _recent("t.recorded_at"))),
        text(_EXTENT.format("effective_at", _DATED)),
    ],
}
_SOURCES = {
    "recorded": f"SELECT r.*, r.recorded_at AS time FROM ({_recent(_OF_TIME)}) r",
    "effective": f"""
        SELECT r.*, r.recorded_at AS time FROM ({_recent(_OF_TIME)}) r
        WHERE NOT r.has_details OR (
            SELECT d.effective_at FROM ledger.details d
            WHERE d.ledger_id = :ledger AND d.transaction_id = r.id) IS NULL
        UNION ALL
        SELECT t.*, d.effective_at FROM ({_DATED}) d
        CROSS JOIN LATERAL (
            SELECT {_OF_TIME} FROM ledger.transactions t
            WHERE t.ledger_id = :ledger AND t.id = d.transaction_id
              AND {_IS_COUNTED} OFFSET 0) t""",
}
"""What was recorded in a time, or takes effect then."""

# Each transaction is looked up by its id, whatever the statistics say: a join would read all
# entries. As in the list, the currency of a transaction is that of its account.
_SUM_VOLUME = f"""
WITH recent AS MATERIALIZED (
    SELECT t.id, t.status, t.decline_reason,
           width_bucket(t.time, CAST(:begins AS timestamptz[])) AS period
    FROM ($source) t
    WHERE CAST(:currency AS text) IS NULL OR CAST(:currency AS text) = (
        SELECT a.currency FROM ledger.accounts a
        WHERE a.ledger_id = :ledger AND a.id = t.account_id)
), moved AS MATERIALIZED (
    SELECT r.period, m.* FROM recent r
    CROSS JOIN LATERAL (
        SELECT currency_number,
               coalesce(-sum(amount) FILTER (WHERE $outside AND amount < 0), 0) AS amount_in,
               coalesce(sum(amount) FILTER (WHERE $outside AND amount > 0), 0) AS amount_out,
               coalesce(sum(amount) FILTER (WHERE amount > 0), 0) AS moved
        FROM (SELECT e.currency_number, e.account_id, sum(e.amount) AS amount
              FROM ledger.entries e
              WHERE e.ledger_id = :ledger AND e.transaction_id = r.id
              GROUP BY e.currency_number, e.account_id) net
        GROUP BY currency_number OFFSET 0) m
    WHERE r.status = {Status.POSTED:d} AND m.moved > 0
)
SELECT 'count' AS part, period, decline_reason AS name, 0 AS exponent, count(*) AS transactions,
       0::numeric AS amount_in, 0::numeric AS amount_out, 0::numeric AS moved
FROM recent GROUP BY period, decline_reason
UNION ALL
SELECT 'sum', period, c.code, c.exponent, transactions, amount_in, amount_out, moved
FROM (SELECT period, currency_number, count(*) AS transactions, sum(amount_in) AS amount_in,
             sum(amount_out) AS amount_out, sum(moved) AS moved
      FROM moved GROUP BY period, currency_number) s
JOIN ledger.currencies c ON c.number = s.currency_number
WHERE CAST(:currency AS text) IS NULL OR c.code = CAST(:currency AS text)
UNION ALL
SELECT 'range', 0, c.code, c.exponent, transactions, digit, digits, 0
FROM (SELECT currency_number, digits, count(*) AS transactions,
             CASE WHEN digit >= '5' THEN 5 WHEN digit >= '2' THEN 2 ELSE 1 END AS digit
      FROM (SELECT currency_number, left(moved::text, 1) AS digit, length(moved::text) AS digits
            FROM moved) d
      GROUP BY 1, 2, 4) s
JOIN ledger.currencies c ON c.number = s.currency_number
WHERE CAST(:currency AS text) IS NULL OR c.code = CAST(:currency AS text)
ORDER BY part, period, name, amount_out, amount_in
"""
SUM_VOLUME = {
    basis: text(_SUM_VOLUME.replace("$source", source).replace("$outside", _IS_OUTSIDE))
    for basis, source in _SOURCES.items()
}


async def _find_extents(
    reader: Reader, since: datetime | None, until: datetime | None, rows: int, basis: TimeOf
) -> list[Extent]:
    """Of the newest transactions in [since, until), `rows` at most, and of those that take effect
    then; none where there are none.
    """
    values = {"since": since or EARLIEST, "until": until or LATEST, "rows": rows}
    extents = []
    for statement in FIND_EXTENTS[basis]:
        [row] = await reader.rows(statement, search=True, **values)
        if row.number:
            extents.append(Extent(row.number, row.first, row.last))
    return extents


async def find_volume(
    readers: Sequence[Reader],
    since: datetime | None,
    until: datetime | None,
    rows: int,
    begin_of: Callable[[datetime], datetime],
    currency: str | None = None,
    basis: TimeOf = "recorded",
) -> Volume:
    """The volume of [since, until), of the newest `rows` transactions at most, in periods.

    `begin_of` is the beginning of the period that a time is in. Those of the oldest time are not
    counted if there are more transactions than `rows`, because some of these may be of that time.
    As effective, `rows` are read of those without an effective_at, and as many of those with one.
    Of a ledger with parts, `rows` are read of each, in a snapshot of its own.
    """
    finding = [await _find_extents(one, since, until, rows + 1, basis) for one in readers]
    extents = list(chain.from_iterable(finding))
    if not extents:
        return Volume()
    cuts = [one.first + MICROSECOND for one in extents if one.number > rows]
    last = max(one.last for one in extents)
    first = max(cuts, default=min(one.first for one in extents))
    begins = _begins(first, last, begin_of)
    is_cut, first = bool(cuts) or begins[0] > first, max(first, begins[0])
    values = {"since": first, "until": last + MICROSECOND, "rows": rows}
    values |= {"begins": begins, "currency": currency}
    summed = [await one.rows(SUM_VOLUME[basis], search=True, **values) for one in readers]
    volume = _volume(_added(summed), begins)
    volume.since = first if is_cut else None
    return volume


class _Sum(NamedTuple):
    """A row of SUM_VOLUME."""

    part: str
    period: int
    name: str | None
    exponent: int
    transactions: int
    amount_in: int
    amount_out: int
    moved: int

    @property
    def key(self) -> tuple[Any, ...]:
        """What distinguishes the sums of a ledger, in their order."""
        digits = (self.amount_out, self.amount_in) if self.part == "range" else ()
        return self.part, self.period, self.name is None, self.name or "", *digits

    def plus(self, other: "_Sum") -> "_Sum":
        """The sum of the same in two parts of a ledger."""
        sums = self._replace(transactions=self.transactions + other.transactions)
        if self.part == "range":
            return sums
        return sums._replace(
            amount_in=self.amount_in + other.amount_in,
            amount_out=self.amount_out + other.amount_out,
            moved=self.moved + other.moved,
        )


def _added(parts: Sequence[Sequence[Row[Any]]]) -> list[_Sum]:
    """The rows of all parts of a ledger, in order."""
    sums: dict[tuple[Any, ...], _Sum] = {}
    for row in chain.from_iterable(parts):
        one = _Sum._make((*row[:5], *map(int, row[5:])))
        sums[one.key] = sums[one.key].plus(one) if one.key in sums else one
    return [sums[key] for key in sorted(sums)]


def _begins(
    first: datetime, last: datetime, begin_of: Callable[[datetime], datetime]
) -> list[datetime]:
    """The beginnings of the periods from the last one back, MAX_PERIODS at most; in order."""
    begins = [begin_of(max(first, last))]
    while begins[-1] > first and len(begins) < MAX_PERIODS:
        begins.append(begin_of(begins[-1] - MICROSECOND))
    return begins[::-1]


def _volume(rows: Sequence[_Sum], begins: Sequence[datetime]) -> Volume:
    periods: dict[int, PeriodCounts] = {}
    volume = Volume()
    for row in rows:
        if row.part == "range":
            volume.ranges.append(_range(row))
            continue
        period = periods.setdefault(row.period, PeriodCounts(begins[row.period - 1], 0))
        if row.part == "sum":
            amounts = row.amount_in, row.amount_out, row.moved
            currency = MovedAmounts(str(row.name), row.exponent, row.transactions, *amounts)
            period.currencies.append(currency)
            continue
        volume.transactions += row.transactions
        if row.name is None:
            period.posted = row.transactions
        else:
            period.declined[row.name] = row.transactions
    volume.periods = [periods[number] for number in sorted(periods)]
    return volume


def _range(row: _Sum) -> AmountRange:
    """The first digit of a range, 1, 2 or 5, is in `amount_in`, the number of its digits beside."""
    at_least = row.amount_in * 10 ** (row.amount_out - 1)
    return AmountRange(str(row.name), row.exponent, at_least, row.transactions)
