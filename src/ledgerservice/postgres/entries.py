"""The journal's entries by account, for the comparison with a store."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ledgerservice.domain.events import Line
from ledgerservice.domain.instructions import Kind, Origin
from ledgerservice.postgres.pipeline import Request, Rows, Wire, array, number

_LINE = """e.ledger_id, e.account_id, e.seq, e.transaction_id, t.kind, e.amount, e.held_change,
       e.balance, e.held, a.currency, a.exponent, t.idempotency_key, t.origin, t.recorded_at"""
_BESIDE = """
CROSS JOIN LATERAL (
    SELECT kind, origin, idempotency_key, recorded_at FROM ledger.transactions
    WHERE ledger_id = e.ledger_id AND id BETWEEN e.transaction_id AND e.transaction_id
    ORDER BY id LIMIT 1) t
CROSS JOIN LATERAL (
    SELECT currency, exponent FROM ledger.accounts
    WHERE ledger_id = e.ledger_id AND id BETWEEN e.account_id AND e.account_id
    ORDER BY id LIMIT 1) a
ORDER BY e.ledger_id, e.account_id, e.seq
"""
LIST_ENTRIES = f"""
SELECT {_LINE}
FROM (SELECT * FROM ledger.entries
      WHERE (ledger_id, account_id, seq) > ($1::integer, $2::bigint, $3::bigint)
      ORDER BY ledger_id, account_id, seq LIMIT $4) e
{_BESIDE}
"""
FIND_ENTRIES = f"""
SELECT {_LINE}
FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS listed (ledger_id, account_id, seq)
CROSS JOIN LATERAL (
    SELECT * FROM ledger.entries
    WHERE ledger_id = listed.ledger_id AND account_id = listed.account_id AND seq = listed.seq) e
{_BESIDE}
"""
FIND_VERSIONS = """
SELECT a.ledger_id, a.id, a.version
FROM unnest($1::integer[], $2::bigint[]) AS listed (ledger_id, id)
JOIN ledger.accounts a USING (ledger_id, id)
"""
COUNT_ENTRIES = "SELECT coalesce(sum(version), 0)::bigint FROM ledger.accounts"


class Entered(NamedTuple):
    """An entry and its ledger."""

    ledger_id: int
    line: Line


class EntryPlace(NamedTuple):
    """Where an entry is. The journal is walked in this order."""

    ledger_id: int
    account_id: int
    version: int


async def list_entries(wire: Wire, after: EntryPlace, rows: int) -> list[Entered]:
    """Up to `rows` entries after a place, by ledger, account and version."""
    values = [*map(number, after), number(rows)]
    [found] = await wire.exchange(Request(LIST_ENTRIES, values))
    return _entered(found.rows)


async def find_entries(wire: Wire, places: Sequence[EntryPlace]) -> list[Entered]:
    """The entries at these places."""
    values = [array(part) for part in zip(*places, strict=True)] if places else [b"{}"] * 3
    [found] = await wire.exchange(Request(FIND_ENTRIES, values))
    return _entered(found.rows)


async def find_versions(
    wire: Wire, accounts: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], int]:
    """The versions of accounts by ledger and id; of those that there are."""
    values = [array(part) for part in zip(*accounts, strict=True)] or [b"{}"] * 2
    [found] = await wire.exchange(Request(FIND_VERSIONS, values))
    return {(ledger, account): version for ledger, account, version in found.rows}


async def count_entries(wire: Wire) -> int:
    """The number of entries of all ledgers."""
    [found] = await wire.exchange(Request(COUNT_ENTRIES))
    return int(found.rows[0][0])


def _entered(rows: Rows) -> list[Entered]:
    return [Entered(row[0], _line(*row[1:])) for row in rows]


def _line(
    account: int,
    version: int,
    transaction: int,
    kind: int,
    amount: int,
    held_change: int,
    balance: int,
    held: int,
    *beside: object,
) -> Line:
    currency, exponent, key, origin, recorded_at = beside
    return Line(
        account, version, transaction, Kind(kind), amount, held_change, balance, held,
        currency, exponent, key, Origin(origin), recorded_at,  # type: ignore[arg-type]
    )  # fmt: skip
