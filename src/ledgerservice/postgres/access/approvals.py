"""What is proposed, decided and carried out, as it is written: each in a transaction of its own."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

import msgspec
import psycopg

from ledgerservice.domain.audit import AuditRecord
from ledgerservice.postgres.access.audit import adding
from ledgerservice.postgres.journal import BEGIN, WRITE_BARRIER, abandon, commit
from ledgerservice.postgres.pipeline import Request, Wire, number, timestamp


class NewProposal(msgspec.Struct, frozen=True):
    """A request that others have to approve. `operation` is the name of its form, `parent_id` the
    id in its path, `scope_id` the account that its key belongs to.
    """

    ledger_id: int
    proposed_by: int
    expires_at: datetime
    rule: str
    approvals: int
    operation: str
    parent_id: int | None
    scope_id: int
    idempotency_key: str
    body: bytes
    digest: bytes


class NewDecision(msgspec.Struct, frozen=True):
    """What somebody has decided: approve, reject or withdraw."""

    ledger_id: int
    proposal_id: int
    proposed_by: int
    decided_by: int
    verdict: str
    reason: str


class Executed(NamedTuple):
    """What came of a proposal: the status and the body of its answer, and its transaction."""

    status: int
    body: bytes
    transaction_id: int | None


PROPOSE = """
INSERT INTO ledger.proposals (ledger_id, proposed_by, expires_at, rule, approvals, operation,
                              parent_id, scope_id, idempotency_key, body, digest)
VALUES ($1::integer, $2::integer, $3::timestamptz, $4::text, $5::smallint, $6::text, $7::bigint,
        $8::bigint, $9::text, $10::bytea, $11::bytea)
ON CONFLICT ON CONSTRAINT proposals_key DO NOTHING
"""
# A later statement, so that it sees what another process has added meanwhile.
FIND_PROPOSED = """
SELECT CASE WHEN digest = $4::bytea THEN id END FROM ledger.proposals
WHERE ledger_id = $1::integer AND scope_id = $2::bigint AND idempotency_key = $3::text
"""
DECIDE = """
INSERT INTO ledger.decisions (ledger_id, proposal_id, proposed_by, decided_by, verdict, reason)
VALUES ($1::integer, $2::bigint, $3::integer, $4::integer, $5::text, $6::text)
"""
FIND_DECISION = """
SELECT verdict = $4::text FROM ledger.decisions
WHERE ledger_id = $1::integer AND proposal_id = $2::bigint AND decided_by = $3::integer
"""
# Waits for another process that carries the proposal out.
CLAIM = """
INSERT INTO ledger.executions (ledger_id, proposal_id) VALUES ($1::integer, $2::bigint)
ON CONFLICT DO NOTHING RETURNING true
"""
FINISH = """
UPDATE ledger.executions SET status = $3::smallint, transaction_id = $4::bigint, answer = $5::bytea
WHERE ledger_id = $1::integer AND proposal_id = $2::bigint
"""


async def record_approvals(
    wire: Wire, requests: list[NewProposal | NewDecision]
) -> list[int | bool | None]:
    """The id of each proposal, None if its key was used for another one; whether each decision
    stands: it does not if the proposal was not open any more.
    """
    return [
        await _propose(wire, one) if isinstance(one, NewProposal) else await _decide(wire, one)
        for one in requests
    ]


async def _propose(wire: Wire, new: NewProposal) -> int | None:
    *numbers, scope = map(number, (new.ledger_id, new.proposed_by, new.approvals, new.scope_id))
    ledger, proposer, approvals = numbers
    parent = None if new.parent_id is None else number(new.parent_id)
    key, digest = new.idempotency_key.encode(), _bytea(new.digest)
    values: list[bytes | None] = [
        ledger,
        proposer,
        timestamp(new.expires_at),
        new.rule.encode(),
        approvals,
    ]
    values += [new.operation.encode(), parent, scope, key, _bytea(new.body), digest]
    insert = Request(PROPOSE, values)
    find = Request(FIND_PROPOSED, [ledger, scope, key, digest])
    _, _, rows, _ = await commit(wire, Request(BEGIN), insert, find, Request(WRITE_BARRIER))
    found_id: int | None = rows.rows[0][0]
    return found_id


async def _decide(wire: Wire, new: NewDecision) -> bool:
    ledger, proposal, proposer, decider = map(
        number, (new.ledger_id, new.proposal_id, new.proposed_by, new.decided_by)
    )
    verdict = new.verdict.encode()
    values = [ledger, proposal, proposer, decider, verdict, new.reason.encode()]
    try:
        await commit(wire, Request(BEGIN), Request(DECIDE, values))
    except psycopg.IntegrityError:  # it is not open, or this principal has decided
        await abandon(wire)
    else:
        return True
    [before] = await wire.exchange(Request(FIND_DECISION, [ledger, proposal, decider, verdict]))
    return bool(before.rows and before.rows[0][0])


def _bytea(value: bytes) -> bytes:
    return b"\\x" + value.hex().encode()


async def carry_out(
    connect: Callable[[], Awaitable[Wire]],
    ledger_id: int,
    proposal_id: int,
    work: Callable[[], Awaitable[tuple[Executed, AuditRecord]]],
) -> bool:
    """Carry out an approved proposal by `work`, which is harmless to repeat, and keep what came of
    it; False if another process has done so.

    The claim is held while the work is done, and nobody else begins meanwhile. If this process
    dies, the claim is gone and another one takes the proposal. Raises psycopg's errors: of the
    class IntegrityError if it is not approved.
    """
    wire = await connect()
    key = [number(ledger_id), number(proposal_id)]
    try:
        _, claimed = await wire.exchange(Request(BEGIN), Request(CLAIM, key))
        if not claimed.rows:
            return False
        executed, record = await work()
        transaction = executed.transaction_id
        values = [
            number(executed.status),
            None if transaction is None else number(transaction),
            _bytea(executed.body),
        ]
        await commit(wire, Request(FINISH, [*key, *values]), adding([record]))
        return True
    finally:
        with suppress(psycopg.Error, OSError):
            await wire.close()
