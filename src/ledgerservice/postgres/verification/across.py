"""Whether both halves of transfers agree whose parts are on different databases.

There is no snapshot over databases, so what was there first is read first. A hold that has ended
was ended after its credit was recorded: the source is read, then the destination. A credit comes
after its hold: the destination is read, then the source. So transfers that go on meanwhile are no
violations. Each hold has one credit of its amount, and each credit one hold; so the clearing
accounts of a pair are equal and opposite but for the holds that are open.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, text

from ledgerservice.domain.instructions import Kind, Origin
from ledgerservice.domain.ledgers import credit_key
from ledgerservice.domain.transactions import Status
from ledgerservice.postgres.sharding.identity import MAIN
from ledgerservice.postgres.verification import (
    BIGGEST,
    PARTS,
    SMALLEST,
    TRANSACTIONS,
    Bounds,
    Violation,
)

INVARIANT = 8

_HOMES = text("""
SELECT l.ledger_id, coalesce(h.shard, 'main')
FROM ledger.ledgers l LEFT JOIN ledger.homes h USING (ledger_id)
WHERE l.part IS NOT NULL ORDER BY l.ledger_id
""")
_HOLDS = text(f"""
SELECT h.transaction_id AS id, h.to_ledger_id, h.to_account_id, h.amount, e.kind AS ended_by
FROM ledger.holds h
LEFT JOIN LATERAL (
    SELECT e.kind FROM ledger.details d
    JOIN ledger.transactions e ON e.ledger_id = d.ledger_id AND e.id = d.transaction_id
    WHERE d.ledger_id = h.ledger_id AND d.parent_id = h.transaction_id
      AND e.kind IN ({Kind.CROSS_DEBIT:d}, {Kind.CROSS_RELEASE:d}) LIMIT 1) e ON true
WHERE h.ledger_id = :ledger AND h.transaction_id BETWEEN :low AND :high
  AND h.to_ledger_id = ANY (CAST(:others AS integer[]))
""")
_CREDITS_OF = text(f"""
SELECT r.key, t.id, t.amount, t.status
FROM unnest(CAST(:accounts AS bigint[]), CAST(:keys AS text[])) AS r (account_id, key)
CROSS JOIN LATERAL (
    SELECT id, amount, status FROM ledger.transactions
    WHERE ledger_id = :ledger AND account_id = r.account_id AND origin = {Origin.CROSSING:d}
      AND idempotency_key BETWEEN r.key AND r.key ORDER BY idempotency_key LIMIT 1) t
""")
_CREDITS = text(f"""
SELECT id, account_id, idempotency_key AS key, split_part(idempotency_key, ':', 2)::integer AS
       from_ledger_id, split_part(idempotency_key, ':', 3)::bigint AS hold_id
FROM ledger.transactions
WHERE ledger_id = :ledger AND id BETWEEN :low AND :high AND kind = {Kind.CROSS_CREDIT:d}
  AND split_part(idempotency_key, ':', 2)::integer = ANY (CAST(:others AS integer[]))
""")
_HOLDS_OF = text("""
SELECT h.transaction_id AS id, h.to_ledger_id, h.to_account_id
FROM unnest(CAST(:ids AS bigint[])) AS r (id)
CROSS JOIN LATERAL (
    SELECT * FROM ledger.holds WHERE ledger_id = :ledger AND transaction_id BETWEEN r.id AND r.id
    ORDER BY transaction_id LIMIT 1) h
""")

Rows = Sequence[Any]


class _Part(NamedTuple):
    """A part of a ledger, and the parts that are on other databases."""

    ledger_id: int
    others: list[int]


def verify_across(engines: Mapping[str, Engine]) -> Iterator[Violation]:
    """Every violation between parts on different shards; `engines` by the names of the shards.

    A part that moves meanwhile could be read where it is no more, so what is found is looked at
    again by the directory as it is then.
    """
    with ExitStack() as stack:
        options = {"isolation_level": "AUTOCOMMIT", "postgresql_readonly": True}
        connections = {
            name: stack.enter_context(engine.connect()).execution_options(**options)
            for name, engine in engines.items()
        }
        for ledger_id in _homes(connections):
            for check in (_find_halves, _find_strays):
                yield from _verify(connections, ledger_id, check)


Check = Callable[["_Places", _Part, Bounds], Iterator[Violation]]


def _verify(
    connections: Mapping[str, Connection], ledger_id: int, check: Check
) -> Iterator[Violation]:
    low = SMALLEST
    while low <= BIGGEST:
        places = _Places(connections)
        part = places.part(ledger_id)
        bounds = PARTS[TRANSACTIONS].next_range(places.at(ledger_id), ledger_id, low)
        violations = list(check(places, part, bounds))
        if violations:
            places = _Places(connections)
            again = set(check(places, places.part(ledger_id), bounds))
            yield from (one for one in violations if one in again)
        low = bounds["high"] + 1


def _homes(connections: Mapping[str, Connection]) -> dict[int, str]:
    return {row[0]: row[1] for row in connections[MAIN].execute(_HOMES)}


class _Places:
    """Where the parts are by the directory, and the connections to their databases."""

    def __init__(self, connections: Mapping[str, Connection]) -> None:
        self._connections = connections
        self._homes = _homes(connections)

    def at(self, ledger_id: int) -> Connection:
        return self._connections[self._homes[ledger_id]]

    def part(self, ledger_id: int) -> _Part:
        own = self._homes[ledger_id]
        return _Part(ledger_id, [one for one, home in self._homes.items() if home != own])

    def find(self, ledger_id: int, query: Any, **values: Any) -> Rows:
        return self.at(ledger_id).execute(query, {"ledger": ledger_id, **values}).all()


def _by(rows: Rows, name: str) -> dict[int, list[Any]]:
    groups: dict[int, list[Any]] = {}
    for row in rows:
        groups.setdefault(getattr(row, name), []).append(row)
    return groups


def _find_halves(places: _Places, part: _Part, bounds: Bounds) -> Iterator[Violation]:
    """What ended a hold says what its credit was."""
    holds = places.find(part.ledger_id, _HOLDS, others=part.others, **_range(bounds))
    for to_ledger_id, some in _by(holds, "to_ledger_id").items():
        keys = [credit_key(part.ledger_id, hold.id) for hold in some]
        accounts = [hold.to_account_id for hold in some]
        found_rows = places.find(to_ledger_id, _CREDITS_OF, accounts=accounts, keys=keys)
        credits_ = {row.key: row for row in found_rows}
        for hold, key in zip(some, keys, strict=True):
            what = _fault_of(hold, credits_.get(key))
            if what is not None:
                where = f"transaction {hold.id}, ledger {part.ledger_id}"
                yield Violation(INVARIANT, where, what)


def _fault_of(hold: Any, credit: Any) -> str | None:
    if credit is None:
        return None if hold.ended_by is None else "its hold was ended, and there is no credit"
    if credit.amount != hold.amount:
        return f"its credit {credit.id} is of {credit.amount}, not of {hold.amount}"
    is_posted = credit.status == Status.POSTED
    if hold.ended_by is not None and is_posted != (hold.ended_by == Kind.CROSS_DEBIT):
        return (
            f"its hold was ended by kind {hold.ended_by}, and the status of its credit "
            f"{credit.id} is {credit.status}"
        )
    return None


def _find_strays(places: _Places, part: _Part, bounds: Bounds) -> Iterator[Violation]:
    """A credit belongs to a hold for its account, and has the one key that it can have."""
    credits_ = places.find(part.ledger_id, _CREDITS, others=part.others, **_range(bounds))
    for from_ledger_id, some in _by(credits_, "from_ledger_id").items():
        ids = [credit.hold_id for credit in some]
        found_rows = places.find(from_ledger_id, _HOLDS_OF, ids=ids)
        holds = {row.id: (row.to_ledger_id, row.to_account_id) for row in found_rows}
        for credit in some:
            is_known = holds.get(credit.hold_id) == (part.ledger_id, credit.account_id)
            if not is_known or credit.key != credit_key(from_ledger_id, credit.hold_id):
                where = f"transaction {credit.id}, ledger {part.ledger_id}"
                yield Violation(INVARIANT, where, "it is the credit of no hold for its account")


def _range(bounds: Bounds) -> dict[str, int]:
    return {"low": bounds["low"], "high": bounds["high"]}
