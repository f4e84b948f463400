"""Proposals as callers see them: with what was decided, and what came of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Row, text

from ledgerservice.domain.instructions import BIGGEST_ID
from ledgerservice.postgres.queries.structs import find_all
from ledgerservice.postgres.reader import Reader

STATES = ("open", "approved", "executed", "refused", "rejected", "withdrawn", "expired")
BUDGET_ROWS = 5_000
"""Rows that are read for a page of a list by state."""
WAITING_ROWS = 100


class Waiting(NamedTuple):
    """A proposal that is to be carried out."""

    ledger: int
    proposal: int
    approved_at: datetime | str


EARLIEST = Waiting(0, 0, "-infinity")


class ProposalView(msgspec.Struct, frozen=True):
    """A proposal, its state, and what came of it."""

    id: int
    proposed_by: int
    proposed_at: datetime
    expires_at: datetime
    rule: str
    approvals: int
    operation: str
    parent_id: int | None
    idempotency_key: str
    body: bytes
    state: str
    status: int | None
    transaction_id: int | None
    answer: bytes | None
    executed_at: datetime | None


class DecisionView(msgspec.Struct, frozen=True):
    """What somebody has decided on a proposal."""

    proposal_id: int
    decided_by: int
    verdict: str
    reason: str
    decided_at: datetime


_DECISIONS = """SELECT {} FROM ledger.decisions d
     WHERE d.ledger_id = p.ledger_id AND d.proposal_id = p.id AND d.verdict {}"""
_ENDED = _DECISIONS.format("d.verdict", "<> 'approve' LIMIT 1")
_APPROVED = _DECISIONS.format("count(*)", "= 'approve'")
_STATE = f"""CASE
    WHEN x.status < 400 THEN 'executed' WHEN x.status >= 400 THEN 'refused'
    WHEN ({_ENDED}) = 'reject' THEN 'rejected' WHEN ({_ENDED}) = 'withdraw' THEN 'withdrawn'
    WHEN ({_APPROVED}) >= p.approvals THEN 'approved'
    WHEN p.expires_at <= clock_timestamp() THEN 'expired' ELSE 'open' END"""
_VIEW = f"""
SELECT p.id, p.proposed_by, p.proposed_at, p.expires_at, p.rule, p.approvals, p.operation,
    p.parent_id, p.idempotency_key, p.body, {_STATE} AS state, x.status, x.transaction_id, x.answer,
    x.executed_at
FROM ledger.proposals p LEFT JOIN ledger.executions x
    ON x.ledger_id = p.ledger_id AND x.proposal_id = p.id
"""
FIND = text(f"{_VIEW} WHERE p.ledger_id = :ledger AND p.id = ANY (CAST(:ids AS bigint[]))")
FIND_BY_KEY = text("""
SELECT id FROM ledger.proposals
WHERE ledger_id = :ledger AND scope_id = :scope AND idempotency_key = :key
""")
# At most :budget rows are read. The last of them is returned even if it does not match, so that
# the next page begins there.
LIST = text(f"""
SELECT * FROM (
    SELECT v.*, row_number() OVER (ORDER BY id DESC) AS place,
           (CAST(:state AS text) IS NULL OR state = :state)
           AND (CAST(:proposer AS integer) IS NULL OR proposed_by = :proposer) AS matches
    FROM ({_VIEW} WHERE p.ledger_id = :ledger AND p.id < CAST(:before AS bigint)
          ORDER BY p.id DESC LIMIT :budget) v
) read
WHERE matches OR place = :budget ORDER BY id DESC LIMIT :rows
""")
LIST_DECISIONS = text("""
SELECT proposal_id, decided_by, verdict, reason, decided_at FROM ledger.decisions
WHERE ledger_id = :ledger AND proposal_id = ANY (CAST(:ids AS bigint[])) ORDER BY decided_at
""")
# Of all ledgers: what has its approvals, and was not carried out. It is read every second.
LIST_WAITING = text("""
SELECT ledger_id, proposal_id, approved_at FROM ledger.executions_due
WHERE (approved_at, ledger_id, proposal_id)
      > (CAST(:since AS timestamptz), CAST(:since_ledger AS integer),
         CAST(:since_proposal AS bigint))
ORDER BY approved_at, ledger_id, proposal_id LIMIT :rows
""")
# What a transaction has moved, by currency, in minor units.
LIST_MOVED = text("""
SELECT a.currency, a.exponent, sum(abs(e.amount)) / 2 AS moved
FROM ledger.entries e
JOIN ledger.accounts a ON a.ledger_id = e.ledger_id AND a.id = e.account_id
WHERE e.ledger_id = :ledger AND e.transaction_id = CAST(:transaction AS bigint)
GROUP BY a.currency, a.exponent
""")


async def find(reader: Reader, proposal_id: int) -> ProposalView | None:
    """The proposal with this id, or None."""
    rows = await reader.rows(FIND, ids=[proposal_id])
    return _view(rows[0]) if rows else None


async def find_by_key(reader: Reader, scope_id: int, key: str) -> int | None:
    """The id of the proposal of a key, or None."""
    rows = await reader.rows(FIND_BY_KEY, scope=scope_id, key=key)
    return rows[0][0] if rows else None


async def find_many(reader: Reader, ids: Sequence[int]) -> dict[int, ProposalView]:
    """The proposals with these ids, by them."""
    return {row.id: _view(row) for row in await reader.rows(FIND, ids=list(ids))}


async def list_page(
    reader: Reader, state: str | None, rows: int, before: int | None, proposer: int | None = None
) -> tuple[list[ProposalView], int | None]:
    """Up to `rows` proposals, of one proposer if one is given, the latest first, and the place
    where the next page begins; None: there is none. A page ends early after BUDGET_ROWS rows.
    """
    place = {"before": before or BIGGEST_ID, "budget": BUDGET_ROWS, "rows": rows}
    found_rows = await reader.rows(LIST, search=True, state=state, proposer=proposer, **place)
    views = [_view(row) for row in found_rows if row.matches]
    if not found_rows or (found_rows[-1].matches and len(found_rows) < rows):
        return views, None
    return views, found_rows[-1].id


async def list_decisions(reader: Reader, ids: Sequence[int]) -> list[DecisionView]:
    """The decisions on proposals, in the order in which they were made."""
    return await find_all(reader, DecisionView, LIST_DECISIONS, ids=list(ids))


async def list_waiting(reader: Reader, after: Waiting = EARLIEST) -> list[Waiting]:
    """Up to WAITING_ROWS proposals that are approved and were not carried out, in that order."""
    rows: list[Any] = await reader.rows(
        LIST_WAITING,
        since=after.approved_at,
        since_ledger=after.ledger,
        since_proposal=after.proposal,
        rows=WAITING_ROWS,
    )
    return [Waiting(*row) for row in rows]


async def list_moved(reader: Reader, transaction_id: int) -> list[tuple[str, int, int]]:
    """Currency, exponent, and what a transaction has moved in it, in minor units."""
    rows: list[Any] = await reader.rows(LIST_MOVED, transaction=transaction_id)
    return [(row[0], row[1], int(row[2])) for row in rows]


def _view(row: Row[Any]) -> ProposalView:
    values = {name: getattr(row, name) for name in ProposalView.__struct_fields__}
    for name in ("body", "answer"):
        if values[name] is not None:
            values[name] = bytes(values[name])
    return ProposalView(**values)
