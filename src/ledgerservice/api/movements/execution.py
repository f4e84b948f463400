"""Carries out what was approved: once, whoever dies meanwhile.

It is posted with the key of the request, so any number of processes may try it. A proposal is
claimed while it is carried out; if a process dies, another one carries it out.
"""

import asyncio
import logging
from functools import partial
from typing import Any

import msgspec

from ledgerservice.api.http.bodies import fields_of
from ledgerservice.api.http.problems import ProblemError, problem_reply, rejection
from ledgerservice.api.movements import parsing
from ledgerservice.api.movements.answers import answer
from ledgerservice.api.movements.approving import ITEM
from ledgerservice.api.movements.forms import FORMS
from ledgerservice.domain.audit import AuditRecord
from ledgerservice.domain.instructions import Group, Instruction
from ledgerservice.domain.metadata import Number
from ledgerservice.domain.transactions import Outcome, Rejected
from ledgerservice.errors import LedgerMoving, ShardUnavailable, Unavailable
from ledgerservice.postgres.access.approvals import Executed, carry_out
from ledgerservice.postgres.queries import approvals as queries
from ledgerservice.postgres.queries.approvals import (
    EARLIEST,
    WAITING_ROWS,
    ProposalView,
    Waiting,
)
from ledgerservice.postgres.schema import DEFAULT_LEDGER
from ledgerservice.postgres.sharding.identity import MAIN
from ledgerservice.runtime import Runtime
from ledgerservice.shards import Shards

log = logging.getLogger(__name__)

PAGES = 10
SERVICE = "service"
"""The source of an execution in the audit log."""
PARENTS = {
    "reverse": "transaction_id",
    "capture": "hold_id",
    "release": "hold_id",
    "policy": "account_id",
    "cancel": "schedule_id",
}
"""By operation: the name of the id in the path."""


def instruction_of(proposal: ProposalView) -> Instruction:
    """The instruction that was proposed. Raises ProblemError."""
    if proposal.operation == ITEM:
        return parsing.read_item(proposal.body)
    fields: dict[str, Any] = fields_of(proposal.body) if proposal.body else {}
    if proposal.parent_id is not None:
        fields[PARENTS[proposal.operation]] = Number(str(proposal.parent_id))
    return parsing.instruct(fields, FORMS[proposal.operation], proposal.idempotency_key)


async def execute(shards: Shards, runtime: Runtime, ledger: int, proposal: ProposalView) -> None:
    """Carry out an approved proposal, unless that was done. Raises LedgerError, psycopg's errors
    and OSError: then another process, or this one, carries it out later.
    """
    work = partial(_execute, shards, runtime, ledger, proposal)
    await carry_out(runtime.main.connect, ledger, proposal.id, work)


async def _execute(
    shards: Shards, runtime: Runtime, ledger: int, proposal: ProposalView
) -> tuple[Executed, AuditRecord]:
    since = shards.directory.generation_of(ledger)
    try:
        executed = await _post(runtime, ledger, proposal)
    except ProblemError as error:
        # A former home does not have what the proposal builds on, and refuses for good.
        if ledger != DEFAULT_LEDGER and not shards.is_at(ledger, runtime, since):
            raise ShardUnavailable("The ledger has moved meanwhile.") from error
        status, body, _ = problem_reply(error.code, **error.facts)
        executed = Executed(status, body, None)
    return executed, _record(ledger, proposal, executed)


async def _post(runtime: Runtime, ledger: int, proposal: ProposalView) -> Executed:
    """Post it with the key of the request, which then moves nothing more at any door. The key may
    have been used meanwhile: by another request, or by this one, because the rule was lifted.
    """
    await runtime.parts_of(ledger)  # so that it is posted on the part
    facts = ledger, False, proposal.proposed_by
    outcome: Outcome
    (outcome,) = await runtime.movements.post(  # type: ignore[misc]
        Group((instruction_of(proposal),), False, *facts)
    )
    if isinstance(outcome, Rejected):
        raise rejection(outcome)
    transaction = outcome.transaction
    if transaction.principal_id != proposal.proposed_by:
        raise ProblemError("approval_superseded", transaction_id=transaction.id)
    return Executed(*answer(transaction), transaction.id)


def _record(ledger: int, proposal: ProposalView, executed: Executed) -> AuditRecord:
    facts = {"transaction_id": executed.transaction_id}
    return AuditRecord(
        event=f"execution-{proposal.id}",
        source=SERVICE,
        action="execute_approval",
        status=executed.status,
        principal_id=proposal.proposed_by,
        ledger_id=ledger,
        subject=f"/approvals/{proposal.id}",
        detail=msgspec.json.encode(facts).decode(),
    )


async def sweep(shards: Shards, after: Waiting = EARLIEST) -> Waiting:
    """Carry out what is approved and was not carried out, in PAGES pages at most; where the next
    sweep goes on. One that fails does not stop the others, and is tried again.

    Where a ledger or its shard is unavailable, the others of it are left to the next sweep.
    """
    away: set[int | str] = set()
    for _ in range(PAGES):
        waiting = await queries.list_waiting(shards.main.reader, after)
        for one in waiting:
            home = shards.directory.home_of(one.ledger) or MAIN
            if away.isdisjoint({one.ledger, home}) and (fault := await _try(shards, one)):
                away.update({one.ledger} if isinstance(fault, LedgerMoving) else {home})
        if len(waiting) < WAITING_ROWS:
            return EARLIEST
        after = waiting[-1]
    return after


async def _try(shards: Shards, one: Waiting) -> Unavailable | None:
    """Carry out a proposal; the fault if its ledger cannot be used now."""
    try:
        proposal = await queries.find(shards.main.reader.of(one.ledger), one.proposal)
        if proposal is not None:
            await execute(shards, await shards.runtime_of(one.ledger), one.ledger, proposal)
    except Exception as error:  # noqa: BLE001  (whatever it is, the others are carried out)
        log.warning("proposal %d was not carried out: %s", one.proposal, type(error).__name__)
        return error if isinstance(error, Unavailable) else None
    return None


async def keep_executing(shards: Shards) -> None:
    """Sweep until cancelled."""
    after = EARLIEST
    while True:
        await asyncio.sleep(shards.main.settings.sweep_interval_s)
        try:
            after = await sweep(shards, after)
        except Exception as error:  # noqa: BLE001  (the database may be away; it comes back)
            log.warning("what is approved could not be found: %s", type(error).__name__)
