"""Approvals: what was proposed, and what others decide on it."""

from typing import Annotated, Literal

import psycopg
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from ledgerservice.access.grants import Need
from ledgerservice.access.scopes import POSTING, Scope
from ledgerservice.api.http.auditing import mark_request
from ledgerservice.api.http.bodies import Body, body_of
from ledgerservice.api.http.call import call_of, id_of, json_response, reader_of, runtime_of
from ledgerservice.api.http.fields import Text
from ledgerservice.api.http.openapi import body_schema, get, post
from ledgerservice.api.http.pages import Page, Paging, listing
from ledgerservice.api.http.problems import ProblemError, invalid
from ledgerservice.api.movements.execution import execute
from ledgerservice.api.movements.proposals import Proposal, answers_of
from ledgerservice.errors import Unavailable
from ledgerservice.postgres.access.approvals import NewDecision
from ledgerservice.postgres.queries import approvals as queries
from ledgerservice.postgres.queries.approvals import ProposalView

router = APIRouter(tags=["approvals"])

State = Literal["open", "approved", "executed", "refused", "rejected", "withdrawn", "expired"]
assert State.__args__ == queries.STATES  # type: ignore[attr-defined]
READS = Need(Scope.TRANSACTIONS_READ | Scope.APPROVALS_DECIDE)


class Decide(Body):
    """Decide on a proposal."""

    reason: Text = Field(description="Why.", examples=["checked with the customer"])


class ApprovalFilters(Paging):
    """Which proposals are listed."""

    state: Annotated[State | None, Field(description="Only proposals in this state.")] = None


@get(router, "/approvals", list[Proposal], ApprovalFilters, need=READS)
async def list_approvals(request: Request) -> Response:
    """Proposals, the latest first.

    The Link header leads to the next page, also from a page with fewer rows than `limit`.
    """
    reader = reader_of(request)

    async def read(filters: ApprovalFilters, before: int | None) -> Page:
        rows, end = await queries.list_page(reader, filters.state, filters.limit, before)
        return Page(await answers_of(reader, rows), end)

    return await listing(request, ApprovalFilters, int, read)


@get(router, "/approvals/{approval_id}", Proposal, need=READS)
async def get_approval(request: Request) -> Response:
    """A proposal, what was decided on it, and what came of it."""
    return await _answer(request)


def _declare_decision(verdict: str, need: Need, about: str) -> None:
    async def decide(request: Request) -> Response:
        if call_of(request).dry_run:
            raise invalid("dry_run", "is not supported by this route")
        mark_request()  # withdrawing needs no scope that is always recorded
        body = await body_of(call_of(request), Decide)
        await _decide(request, verdict, body.reason)
        return await _answer(request)

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
    "withdraw", Need(POSTING), "Withdraw a proposal that you have made. Nothing comes of it."
)


async def _decide(request: Request, verdict: str, reason: str) -> None:
    call, proposal = call_of(request), await _found(request)
    principal = call.caller.principal_id
    if not principal:
        raise ProblemError("approval_without_keys")
    if (principal == proposal.proposed_by) != (verdict == "withdraw"):
        raise ProblemError("approval_by_proposer")
    new = NewDecision(call.ledger, proposal.id, proposal.proposed_by, principal, verdict, reason)
    if not await runtime_of(request).approvals.post(new):
        raise ProblemError("approval_not_open")
    proposal = await _found(request)
    if proposal.state == "approved":
        await _execute(request, proposal)


async def _execute(request: Request, proposal: ProposalView) -> None:
    """Carry it out; if that fails, it is done later, and the same decision can be sent again."""
    try:
        await execute(runtime_of(request), call_of(request).ledger, proposal)
    except (psycopg.Error, OSError) as error:
        raise Unavailable from error


def _id(request: Request) -> int:
    return id_of(request, "approval_id", "approval_not_found")


async def _found(request: Request) -> ProposalView:
    proposal = await queries.find(reader_of(request), _id(request))
    if proposal is None:
        raise ProblemError("approval_not_found")
    return proposal


async def _answer(request: Request) -> Response:
    [answer] = await answers_of(reader_of(request), [await _found(request)])
    return json_response(answer)
