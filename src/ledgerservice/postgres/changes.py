"""What was recorded, in the order of transaction ids: the change feed's rows.

Only rows up to the safe id are read (see `feed.horizon`): no other row can come before them.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from ledgerservice.domain.events import AddedCurrency, AddedLedger, Change, OpenedAccount
from ledgerservice.domain.transactions import Transaction
from ledgerservice.postgres.locking import ID_BLOCK
from ledgerservice.postgres.pipeline import Request, Rows, Wire, array, number
from ledgerservice.postgres.rows import FIND_DETAILS, FIND_ENTRIES, TRANSACTION, transactions_of
from ledgerservice.postgres.schema import DEFAULT_LEDGER

# One index range for each span, whatever the statistics say: only the key has this order.
_SPANS = """unnest($1::integer[], $2::bigint[], $3::bigint[])
        AS span (ledger_id, after_id, until_id)"""
LIST_TRANSACTIONS = f"""
SELECT t.ledger_id, t.has_details, {TRANSACTION}
FROM (
    SELECT t.* FROM {_SPANS}
    CROSS JOIN LATERAL (
        SELECT * FROM ledger.transactions
        WHERE ledger_id = span.ledger_id AND id > span.after_id AND id <= span.until_id
        ORDER BY ledger_id, id LIMIT $4) t
    ORDER BY t.id LIMIT $4) t
CROSS JOIN LATERAL (
    SELECT currency, exponent FROM ledger.accounts
    WHERE ledger_id = t.ledger_id AND id BETWEEN t.account_id AND t.account_id
    ORDER BY id LIMIT 1) a
ORDER BY t.id
"""
LIST_ACCOUNTS = f"""
SELECT a.change_id, a.ledger_id, a.id, a.owner, a.currency, a.reference, a.created_at,
       d.metadata::text
FROM {_SPANS}
CROSS JOIN LATERAL (
    SELECT * FROM ledger.accounts
    WHERE ledger_id = span.ledger_id AND id > 0
      AND change_id > span.after_id AND change_id <= span.until_id
    ORDER BY ledger_id, change_id LIMIT $4) a
LEFT JOIN LATERAL (
    SELECT metadata FROM ledger.account_details
    WHERE ledger_id = a.ledger_id AND account_id BETWEEN a.id AND a.id
    ORDER BY account_id LIMIT 1) d ON true
ORDER BY a.change_id LIMIT $4
"""
LIST_CURRENCIES = f"""
SELECT c.change_id, span.ledger_id, c.code, c.exponent, c.name
FROM {_SPANS}
JOIN ledger.currencies c ON coalesce(c.ledger_id, {DEFAULT_LEDGER}) = span.ledger_id
    AND c.change_id > span.after_id AND c.change_id <= span.until_id
ORDER BY c.change_id LIMIT $4
"""
LIST_LEDGERS = f"""
SELECT l.change_id, l.ledger_id, l.name, l.created_at
FROM {_SPANS}
JOIN ledger.ledgers l ON l.ledger_id = span.ledger_id
    AND l.change_id > span.after_id AND l.change_id <= span.until_id
ORDER BY l.change_id LIMIT $4
"""
LIST_ARRIVALS = """
SELECT ledger_id, after_id, last_id, epoch FROM ledger.arrivals ORDER BY ledger_id, last_id
"""
FIND_LAST = """
SELECT greatest(max(t.id), max(a.change_id), max(l.change_id) FILTER (WHERE l.change_id <= $2),
    (SELECT max(change_id) FROM ledger.currencies
     WHERE change_id <= $2 AND coalesce(ledger_id, $3) = ANY ($1::integer[])))
FROM unnest($1::integer[]) AS listed (ledger_id)
JOIN ledger.ledgers l ON l.ledger_id = listed.ledger_id
LEFT JOIN LATERAL (
    SELECT id FROM ledger.transactions
    WHERE ledger_id = listed.ledger_id AND id <= $2
    ORDER BY ledger_id DESC, id DESC LIMIT 1) t ON true
LEFT JOIN LATERAL (
    SELECT change_id FROM ledger.accounts
    WHERE ledger_id = listed.ledger_id AND id > 0 AND change_id <= $2
    ORDER BY ledger_id DESC, change_id DESC LIMIT 1) a ON true
"""
# The sequence counts blocks of ids. Where it begins in another chunk, all below was given out.
LOOK_AT_IDS = f"""
SELECT last_value + CASE WHEN is_called THEN {ID_BLOCK - 1} ELSE -1 END,
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint
FROM ledger.transaction_id
"""
TAKE_NUMBER = "SELECT pg_current_xact_id()::text::bigint"
TRY_TO_PUBLISH = "SELECT pg_try_advisory_lock(2020070, hashtext($1))"
STILL_THERE = "SELECT 1"
NAME_LEDGERS = "SELECT ledger_id, name FROM ledger.ledgers"


class Span(NamedTuple):
    """The ids of a ledger in (after, until]."""

    ledger: int
    after: int
    until: int


class Arrival(NamedTuple):
    """The ids of a ledger in (after, last] have come from another shard, where `epoch` was."""

    ledger: int
    after: int
    last: int
    epoch: int


class Recorded(NamedTuple):
    """A change, its place in the order of the feed, and its ledger."""

    id: int
    ledger_id: int
    change: Change


async def look_at_ids(wire: Wire) -> tuple[int, int]:
    """The last transaction id that was handed out, and the oldest open transaction's number."""
    [looked] = await wire.exchange(Request(LOOK_AT_IDS))
    [(last_id, oldest)] = looked.rows
    return last_id, oldest


async def take_number(wire: Wire) -> int:
    """A new number of a database transaction (xid), which ends with this statement."""
    [taken] = await wire.exchange(Request(TAKE_NUMBER))
    return int(taken.rows[0][0])


async def try_to_publish(wire: Wire, name: str) -> bool:
    """Become the only publisher of a target, for as long as the connection lives."""
    [locked] = await wire.exchange(Request(TRY_TO_PUBLISH, [name.encode()]))
    return bool(locked.rows[0][0])


async def check_alive(wire: Wire) -> None:
    """Raises psycopg's error if the connection is lost."""
    await wire.exchange(Request(STILL_THERE))


async def ledger_names(wire: Wire) -> dict[int, str]:
    """The names of all ledgers by id."""
    [named] = await wire.exchange(Request(NAME_LEDGERS))
    return dict(named.rows)


async def last_id(wire: Wire, ledgers: Iterable[int], until: int) -> int:
    """The id of the last change of the ledgers up to `until`, which is not above the safe id."""
    values = [array(ledgers), number(until), number(DEFAULT_LEDGER)]
    [last] = await wire.exchange(Request(FIND_LAST, values))
    return int(last.rows[0][0] or 0)


async def list_arrivals(wire: Wire) -> list[Arrival]:
    """What has come from other shards, in order of the ledgers and their ids."""
    [listed] = await wire.exchange(Request(LIST_ARRIVALS))
    return [Arrival(*row) for row in listed.rows]


def spans_of(
    ledgers: Iterable[int], after: int, until: int, arrivals: Iterable[Arrival] = ()
) -> list[Span]:
    """The ids of ledgers in (after, until], without those of the arrivals, which are in order."""
    begins = dict.fromkeys(ledgers, after)
    spans = []
    for one in arrivals:
        if one.ledger in begins:
            spans.append(Span(one.ledger, begins[one.ledger], min(until, one.after)))
            begins[one.ledger] = max(begins[one.ledger], one.last)
    spans += [Span(ledger, begin, until) for ledger, begin in begins.items()]
    return [span for span in spans if span.after < span.until]


async def list_changes(wire: Wire, spans: Sequence[Span], rows: int) -> list[Recorded]:
    """The first `rows` changes in the spans, by id.

    Currencies that all ledgers have are listed with the default ledger. No span ends above the
    safe id.
    """
    values = [
        array(span.ledger for span in spans),
        array(span.after for span in spans),
        array(span.until for span in spans),
        number(rows),
    ]
    transactions, accounts, currencies, added = await wire.exchange(
        Request(LIST_TRANSACTIONS, values),
        Request(LIST_ACCOUNTS, values),
        Request(LIST_CURRENCIES, values),
        Request(LIST_LEDGERS, values),
    )
    changes = [
        *(Recorded(row[0], row[1], OpenedAccount(*row)) for row in accounts.rows),
        *(Recorded(row[0], row[1], AddedCurrency(row[0], *row[2:])) for row in currencies.rows),
        *(Recorded(row[0], row[1], AddedLedger(*row)) for row in added.rows),
    ]
    last = _last_id(transactions.rows, changes, rows)
    changes += await _transactions(wire, [row for row in transactions.rows if row[2] <= last])
    changes.sort(key=itemgetter(0))
    return changes[:rows]


def _last_id(transactions: Rows, changes: Sequence[Recorded], rows: int) -> int:
    """The id of the last of the first `rows` changes, so that nothing is read in vain."""
    ids = sorted([row[2] for row in transactions] + [one.id for one in changes])
    return int(ids[:rows][-1]) if ids else 0


async def _transactions(wire: Wire, rows: Rows) -> list[Recorded]:
    by_ledger: Mapping[int, list[tuple[object, ...]]] = {
        ledger: list(group) for ledger, group in groupby(sorted(rows), key=itemgetter(0))
    }
    recorded: list[Recorded] = []
    for ledger, of_ledger in by_ledger.items():
        transactions = await _completed(wire, ledger, of_ledger)
        recorded += [Recorded(one.id, ledger, one) for one in transactions]
    return recorded


async def _completed(
    wire: Wire, ledger: int, rows: Sequence[Sequence[object]]
) -> list[Transaction]:
    """The transactions of rows, with what they have beside these."""
    ids = array(str(row[2]) for row in rows)
    detailed = array(str(row[2]) for row in rows if row[1])
    entries, details = await wire.exchange(
        Request(FIND_ENTRIES, [number(ledger), ids]),
        Request(FIND_DETAILS, [number(ledger), detailed]),
    )
    return list(transactions_of([row[2:] for row in rows], entries.rows, details.rows))
