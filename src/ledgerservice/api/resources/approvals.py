"""Approvals: what was proposed, and what others decide on it."""

from collections.abc import Sequence
from typing import Annotated, Literal

import psycopg
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import Raw
from pydantic import Field

from ledgerservice.access.grants import Need
from ledgerservice.access.scopes import POSTING, Scope
from ledgerservice.api.http.auditing import mark_request
from ledgerservice.api.http.authentication import caller_of, denied
from ledgerservice.api.http.bodies import Body, body_of
from ledgerservice.api.http.call import (
    Call,
    accounts_seen,
    call_of,
    directory_reader_of,
    id_of,
    json_response,
    ledger_of,
    runtime_of,
    shards_of,
)
from ledgerservice.api.http.fields import Text
from ledgerservice.api.http.openapi import body_schema, get, post
from ledgerservice.api.http.pages import Page, Paging, listing
from ledgerservice.api.http.problems import ProblemError, invalid
from ledgerservice.api.movements.execution import execute, instruction_of
from ledgerservice.api.movements.parents import with_parents
from ledgerservice.api.movements.permissions import is_covered
from ledgerservice.api.movements.proposals import Proposal, answers_of
from ledgerservice.api.movements.showing import Accounts, without_others
from ledgerservice.errors import Unavailable, UnfitConnection
from ledgerservice.postgres.access.approvals import NewDecision
from ledgerservice.postgres.queries import approvals as queries
from ledgerservice.postgres.queries.approvals import ProposalView

router = APIRouter(tags=["approvals"])

State = Literal["open", "approved", "executed", "refused", "rejected", "withdrawn", "expired"]
assert State.__args__ == queries.STATES  # type: ignore[attr-defined]
READS = Need(Scope.TRANSACTIONS_READ | Scope.APPROVALS_DECIDE, by_accounts=True)


class Decide(Body):
    """Decide on a proposal."""

    reason: Text = Field(description="Why.", examples=["checked with the customer"])


class ApprovalFilters(Paging):
    """Which proposals are listed."""

    state: Annotated[State | None, Field(description="Only proposals in this state.")] = None


@get(router, "/approvals", list[Proposal], ApprovalFilters, need=READS)
async def list_approvals(request: Request) -> Response:
    """Proposals, the latest first. A key that is limited to accounts gets its own.

    The Link header leads to the next page, also from a page with fewer rows than `limit`.
    """
    reader = directory_reader_of(request)

    seen = accounts_seen(request, READS.scopes)
    proposer = None if seen is None else caller_of(request.scope).principal_id

    async def read(filters: ApprovalFilters, before: int | None) -> Page:
        rows, end = await queries.list_page(reader, filters.state, filters.limit, before, proposer)
        if seen is not None:
            rows = await _covered(request, rows)
        answers = await answers_of(reader, rows)
        return Page([_shown(seen, one) for one in answers], end)

    return await listing(request, ApprovalFilters, int, read)


@get(router, "/approvals/{approval_id}", Proposal, need=READS)
async def get_approval(request: Request) -> Response:
    """A proposal, what was decided on it, and what came of it."""
    return await _answer(request, READS)


def _declare_decision(verdict: str, need: Need, about: str) -> None:
    async def decide(request: Request) -> Response:
        if call_of(request).dry_run:
            raise invalid("dry_run", "is not supported by this route")
        mark_request()  # withdrawing needs no scope that is always recorded
        body = await body_of(call_of(request), Decide)
        await _decide(request, verdict, body.reason, need)
        return await _answer(request, need)

    decide.__doc__ = about
    post(
        router,
        f"/approvals/{{approval_id}}/{verdict}",
        Proposal,
        body_schema(Decide, {"approval_not_found": {"reason": "checked with the customer"}}),
        need=need,
        refusals=(404, 408, 409, 413, 415, 422, 503),
        parameters=(),
        headers={},
        name=f"{verdict}_approval",
    )(decide)


_DECIDES = Need(Scope.APPROVALS_DECIDE, is_signed=True)
_declare_decision(
    "approve",
    _DECIDES,
    """Approve a proposal.

    With the last approval that it needs it is carried out, and the answer has what came of it.
    """,
)
_declare_decision("reject", _DECIDES, "Reject a proposal. Nothing comes of it.")
_declare_decision(
    "withdraw",
    Need(POSTING, by_accounts=True),
    "Withdraw a proposal that you have made. Nothing comes of it.",
)


async def _decide(request: Request, verdict: str, reason: str, need: Need) -> None:
    call, proposal = call_of(request), await _found(request, need)
    principal = call.caller.principal_id
    if not principal:
        raise ProblemError("approval_without_keys")
    if (principal == proposal.proposed_by) != (verdict == "withdraw"):
        raise ProblemError("approval_by_proposer")
    new = NewDecision(call.ledger, proposal.id, proposal.proposed_by, principal, verdict, reason)
    if not await runtime_of(request).approvals.post(new):
        raise ProblemError("approval_not_open")
    proposal = await _found(request, need)
    if proposal.state == "approved":
        await _execute(request, proposal)


async def _execute(request: Request, proposal: ProposalView) -> None:
    """Carry it out; if that fails, it is done later, and the same decision can be sent again."""
    try:
        await execute(shards_of(request), runtime_of(request), call_of(request).ledger, proposal)
    except (psycopg.Error, OSError, UnfitConnection) as error:
        raise Unavailable from error


def _id(request: Request) -> int:
    return id_of(request, "approval_id", "approval_not_found")


async def _found(request: Request, need: Need) -> ProposalView:
    """The proposal of the path. A key that is limited to accounts gets its own, and the same
    refusal for all others, whether they exist or not.
    """
    proposal = await queries.find(directory_reader_of(request), _id(request))
    is_limited = accounts_seen(request, need.scopes) is not None
    if is_limited and not (proposal and await _covered(request, [proposal])):
        raise denied("limited_to_accounts", need.scopes)
    if proposal is None:
        raise ProblemError("approval_not_found")
    return proposal


async def _covered(request: Request, rows: Sequence[ProposalView]) -> list[ProposalView]:
    """Those that the caller has proposed, and whose accounts its grants cover now."""
    caller, ledger = caller_of(request.scope), ledger_of(request)
    own = {row.id: row for row in rows if row.proposed_by == caller.principal_id}
    instructions = {number: instruction_of(row) for number, row in own.items()}
    call = Call(runtime_of(request), (), request.receive, ledger, False, caller)
    call = await with_parents(call, instructions.values())
    return [own[number] for number, one in instructions.items() if is_covered(call, one)]


async def _answer(request: Request, need: Need) -> Response:
    [answer] = await answers_of(directory_reader_of(request), [await _found(request, need)])
    return json_response(_shown(accounts_seen(request, need.scopes), answer))


def _shown(seen: Accounts | None, answer: Proposal) -> Proposal | Raw:
    """A proposal as the caller is shown it, without balances of accounts that it does not see."""
    return answer if seen is None else without_others(answer, seen)
