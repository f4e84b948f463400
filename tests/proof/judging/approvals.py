"""Approvals: what a rule catches is posted as others have approved it, once, and not otherwise."""

import json
from collections import defaultdict
from collections.abc import Iterator

from tests.proof.history import CROSSING, DECISIONS, PLAIN, Attempt, Request
from tests.proof.journal import Execution, Proposal, Rule, Transaction
from tests.proof.judging.evidence import (
    OK,
    OWN,
    PROPOSED,
    REFUSED,
    Case,
    Found,
    outcome,
)
from tests.proof.judging.matching import asks_for, is_written


def add_executions(case: Case) -> None:
    """Let what was carried out be asked for with the key of its request: by whom proposed it, not
    before enough others have approved it, and with the answer that was kept.
    """
    executions = {one.proposal: one for one in case.journal.executions}
    for proposal in case.journal.proposals:
        request = _request_of(case, proposal)
        if request is not None and len(_approvers(case, proposal)) >= proposal.approvals:
            made = _carried_out(case, proposal, request, executions.get(proposal.id))
            case.asked[proposal.account, proposal.key].append(made)


def _carried_out(
    case: Case, proposal: Proposal, request: Request, execution: Execution | None
) -> Attempt:
    made = Attempt(f"proposal {proposal.id}", _approved_ns(case, proposal), request)
    made.principal = proposal.principal
    if execution is not None and execution.status is not None:
        made.status, made.body = execution.status, json.loads(execution.answer or "null")
        shown = (
            one.completed_ns
            for one in case.shown[proposal.id]
            if one.completed_ns is not None and one.body["execution"] is not None
        )
        made.completed_ns = min(shown, default=None)
    return made


def _request_of(case: Case, proposal: Proposal) -> Request | None:
    """The request of a client whose bytes a proposal has; None: nobody has sent it."""
    attempts = case.asked.get((proposal.account, proposal.key), [])
    found = (one.request for one in attempts if is_written(proposal, one.request))
    return next(found, None)


def _approvers(case: Case, proposal: Proposal) -> set[int]:
    """Who has approved it, and not proposed it; nobody if somebody has ended it."""
    given = case.decided[proposal.id]
    if any(one.verdict != "approve" for one in given):
        return set()
    return {one.principal for one in given} - {proposal.principal, 0}


def _approved_ns(case: Case, proposal: Proposal) -> int:
    """Before which time not enough principals had begun to approve it."""
    begun: dict[int, int] = {}
    for attempt in case.deciding[proposal.id]:
        if attempt.request.kind == "approve":
            before = begun.get(attempt.principal, attempt.invoked_ns)
            begun[attempt.principal] = min(before, attempt.invoked_ns)
    times = sorted(begun.values())[: proposal.approvals]
    return max(times, default=0)


def caught(case: Case, request: Request) -> list[Rule]:
    """The rules that catch a request."""
    return [rule for rule in case.journal.rules if _catches(case, rule, request)]


def _catches(case: Case, rule: Rule, request: Request) -> bool:
    if rule.name == "force":
        return request.force
    if rule.name == "unfreeze":  # every change names what is frozen
        return request.kind == "policy" and request.frozen != "both"
    moved = dict(_moved(case, request)).get(rule.currency, 0)
    return rule.name == "amount" and rule.bound is not None and moved > rule.bound


def _moved(case: Case, request: Request) -> Iterator[tuple[str, int]]:
    """Currencies, and how much of each a request moves or reserves."""
    totals: dict[str, int] = defaultdict(int)
    if request.kind == "general":
        for account, amount in request.legs:
            totals[case.currencies.get(account, "")] += max(0, amount)
    elif request.kind in (*PLAIN, CROSSING, "hold", "schedule"):
        totals[case.currencies.get(request.account, "")] = request.amount
    elif request.kind == "reversal":
        for leg in case.legs.get(request.parent, []):
            totals[case.currencies.get(leg.account, "")] += abs(leg.amount)
        totals = {code: request.amount or total // 2 for code, total in totals.items()}
    yield from totals.items()


def nothing_is_unapproved(case: Case) -> Found:
    """No transaction is what a rule catches, but with the key of a proposal that was approved."""
    approved = {
        (one.account, one.key)
        for one in case.journal.proposals
        if len(_approvers(case, one)) >= one.approvals
    }
    for (account, key), rows in case.by_key.items():
        for row in rows:
            if (account, key) not in approved and not key.startswith(OWN):
                attempts = case.asked.get((account, key), [])
                same = [a.request for a in attempts if asks_for(case, a.request, row)]
                if same and all(caught(case, request) for request in same):
                    yield "unapproved", f"transaction {row.id}, key {key} of account {account}"


def proposals_are_executed_once(case: Case) -> Found:
    """What was approved was carried out, by one transaction with the key of its request."""
    executions = {one.proposal: one for one in case.journal.executions}
    for one in case.journal.proposals:
        execution, rows = executions.get(one.id), list(_rows_of(case, one))
        kept = None if execution is None else execution.transaction
        # A row of a step can be another request's too.
        made = {row.id for row, is_certain in rows if is_certain} | ({kept} - {None})
        where = f"proposal {one.id}: transactions {made}, kept {kept}"
        if len(made) > 1:
            yield "executed_twice", where
        if made and kept not in {row.id for row, _ in rows}:
            yield "execution_differs", where
        is_approved = len(_approvers(case, one)) >= one.approvals
        if is_approved and (execution is None or execution.status is None):
            yield "forgotten", where


def _rows_of(case: Case, proposal: Proposal) -> Iterator[tuple[Transaction, bool]]:
    """The transactions that its request can have made, and whether no other one can."""
    place, request = (proposal.account, proposal.key), _request_of(case, proposal)
    for row in case.by_key.get(place, []):
        same = {a.request for a in case.asked[place] if asks_for(case, a.request, row)}
        if request in same:
            yield row, all(caught(case, one) for one in same)


def proposals_are_kept(case: Case) -> Found:
    """A proposal has the bytes of a request that a rule catches, and as many approvals to get."""
    keys = set()
    for one in case.journal.proposals:
        where, place = f"proposal {one.id}", (one.account, one.key)
        if place in keys:
            yield "proposed_twice", where
        keys.add(place)
        request = _request_of(case, one)
        if request is None:
            if not case.strangers or place in case.asked:
                yield "unasked", f"{where}: nobody has sent {one.body}"
            continue
        makers = {a.principal for a in case.asked[place] if a.request == request}
        if one.principal not in makers:
            yield "principal_wrong", f"{where}: {one.principal}"
        rules = caught(case, request)
        most = max((rule.approvals for rule in rules), default=0)
        if (one.rule, one.approvals) not in [(rule.name, most) for rule in rules]:
            yield "rule_wrong", f"{where}: {one.rule}, {one.approvals}, not {rules}"


def proposals_are_answered(case: Case) -> Found:
    """What clients were answered of proposals is what is kept of them."""
    proposals = {one.id: one for one in case.journal.proposals}
    executions = {one.proposal: one for one in case.journal.executions}
    for number, attempt in ((n, one) for n, shown in case.shown.items() for one in shown):
        one, execution, body = proposals.get(number), executions.get(number), attempt.body
        where = f"{attempt.client}'s {attempt.request.kind}, proposal {number}"
        if one is None:
            yield "lost", where
        elif body["request"] != json.loads(one.body) or body["proposed_by"] != one.principal:
            yield "content_differs", where
        elif outcome(attempt) == PROPOSED and not _is_its_key(attempt.request, one):
            yield "content_differs", f"{where}: it is another request's"
        told = body["execution"]
        if isinstance(told, dict) and (
            execution is None
            or (told["status"], told["transaction_id"]) != (execution.status, execution.transaction)
            or told["body"] != json.loads(execution.answer or "null")
        ):
            yield "answers_differ", f"{where}: {told}"


def _is_its_key(request: Request, proposal: Proposal) -> bool:
    return (request.account, request.key) == (proposal.account, proposal.key)


def decisions_are_kept(case: Case) -> Found:
    """Each decision was sent by whom it names, and what was acknowledged is kept. Nobody decides on
    what they have proposed.
    """
    makers = {one.id: one.principal for one in case.journal.proposals}
    kept = {(one.proposal, one.principal, one.verdict) for one in case.journal.decisions}
    sent: dict[tuple[int, int, str], set[str]] = defaultdict(set)
    for attempt in case.attempts:
        if attempt.request.kind in DECISIONS:
            place = attempt.request.parent, attempt.principal, attempt.request.kind
            sent[place].add(outcome(attempt))
            if outcome(attempt) == REFUSED and not _may_be_refused(attempt):
                yield "refusal_unjust", f"{place}: {attempt.status} {attempt.body}"
    for place in kept - sent.keys():
        if not case.strangers or place[2] in DECISIONS:
            yield "unasked", f"decision {place}"
    for place, outcomes in sent.items():
        if OK in outcomes and place not in kept:
            yield "lost", f"decision {place}"
        if outcomes == {REFUSED} and place in kept:
            yield "refused_but_applied", f"decision {place}"
    for number, principal, verdict in kept:
        if verdict in DECISIONS and makers.get(number) == principal:
            yield "unapproved", f"proposal {number}: {verdict} by its maker"


def _may_be_refused(attempt: Attempt) -> bool:
    """Somebody else has ended it, or it has expired."""
    return attempt.body.get("code") in ("overloaded", "approval_not_open")
