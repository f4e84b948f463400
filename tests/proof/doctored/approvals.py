"""Requests that were posted without the approvals that they need, or twice, or otherwise."""

import json
from collections.abc import Callable

from tests.proof.doctored.doctor import Doctor
from tests.proof.doctored.proposing import FATES, MAKER
from tests.proof.history import Request
from tests.proof.journal import Decision, Execution, Transaction
from tests.proof.judging.evidence import OK, PROPOSED, outcome


def _number(d: Doctor, *verdicts: str) -> int:
    """The id of the first proposal of that fate."""
    return next(n for n, fate in enumerate(FATES, 1) if fate[2] == verdicts)


def _executed(d: Doctor) -> Transaction:
    return next(t for t in d.journal.transactions if t.key == "big 1")


def _execute(d: Doctor, number: int) -> None:
    """Post a proposal, as if it had been approved."""
    row = d.post(_executed(d))
    row.key, row.amount = f"big {number}", FATES[number - 1][1]
    d.journal.executions.append(Execution(number, 200, row.id, "{}"))


def executed_twice(d: Doctor) -> None:
    d.post(_executed(d))


def executed_under_another_key_too(d: Doctor) -> None:
    d.post(_executed(d)).key = "approval-1"


def executed_on_two_accounts(d: Doctor) -> None:
    row = d.post(_executed(d))
    row.account = 1


def executed_though_rejected(d: Doctor) -> None:
    _execute(d, _number(d, "approve", "reject"))


def executed_with_one_approval_of_two(d: Doctor) -> None:
    _execute(d, _number(d, "approve"))


def executed_though_nobody_approved(d: Doctor) -> None:
    _execute(d, _number(d))


def posted_without_a_proposal(d: Doctor) -> None:
    """The service did not follow the rule."""
    del d.journal.proposals[0]
    d.attempts = [a for a in d.attempts if outcome(a) != PROPOSED or a.body["id"] != 1]
    request = Request(FATES[0][0], d.journal.proposals[0].account, None, FATES[0][1], "big 1")
    first = d.attempts[0]
    d.attempts.append(type(first)("client1", 0, request, None, None, None, principal=MAKER))


def approved_by_its_maker(d: Doctor) -> None:
    decision = d.journal.decisions[0]
    for attempt in d.attempts:
        if attempt.request.kind == "approve" and attempt.principal == decision.principal:
            attempt.principal = MAKER
    for one in d.journal.decisions:
        if one.principal == decision.principal:
            one.principal = MAKER


def approved_by_somebody_who_was_not_there(d: Doctor) -> None:
    d.journal.decisions[0].principal = 77


def an_approval_that_is_lost(d: Doctor) -> None:
    del d.journal.decisions[-1]


def a_rejection_that_is_lost(d: Doctor) -> None:
    number = _number(d, "approve", "reject")
    d.journal.decisions.remove(Decision(number, 3, "reject"))


def a_proposal_that_is_lost(d: Doctor) -> None:
    d.journal.proposals = [one for one in d.journal.proposals if one.id != _number(d)]


def never_carried_out(d: Doctor) -> None:
    """Neither the transaction nor the answer is there."""
    row = _executed(d)
    row.key = "somebody's"
    del d.journal.executions[0]


def carried_out_without_an_answer(d: Doctor) -> None:
    d.journal.executions[0].status = d.journal.executions[0].answer = None


def proposed_with_other_bytes(d: Doctor) -> None:
    one = d.journal.proposals[0]
    one.body = one.body.replace("70.00", "70.0")


def carried_out_otherwise(d: Doctor) -> None:
    """The transaction is not what was proposed."""
    for attempt in d.attempts:
        if outcome(attempt) == PROPOSED and attempt.body["id"] == 1:
            attempt.request = Request("deposit", attempt.request.account, None, 7_100, "big 1")
            attempt.body["request"]["amount"] = "71.00"
    d.journal.proposals[0].body = json.dumps(
        {"idempotency_key": "big 1", "amount": "71.00", "account_id": 203}, separators=(",", ":")
    )


def answered_another_execution(d: Doctor) -> None:
    shown = next(
        a for a in d.attempts if outcome(a) in (OK, PROPOSED) and _execution_of(a.body) is not None
    )
    shown.body["execution"]["transaction_id"] += 1


def _execution_of(body: object) -> object:
    return body.get("execution") if isinstance(body, dict) else None


def carried_out_before_it_was_approved(d: Doctor) -> None:
    """Somebody has read the account after it, and then the last approval was sent."""
    late = max(a.completed_ns or 0 for a in d.attempts)
    for attempt in d.attempts:
        if attempt.request == Request("approve", parent=1):
            attempt.invoked_ns, attempt.completed_ns = late, late + 1


def needing_fewer_approvals(d: Doctor) -> None:
    d.journal.proposals[-1].approvals = 1


def proposed_by_somebody_else(d: Doctor) -> None:
    d.journal.proposals[-1].principal = 9
    for attempt in d.attempts:
        if outcome(attempt) == PROPOSED and attempt.body["id"] == len(FATES):
            attempt.body["proposed_by"] = 9


DOCTORED: dict[Callable[[Doctor], None], str] = {
    executed_twice: "executed_twice",
    executed_under_another_key_too: "unasked",
    executed_on_two_accounts: "unasked",
    executed_though_rejected: "unapproved",
    executed_with_one_approval_of_two: "unapproved",
    executed_though_nobody_approved: "unapproved",
    posted_without_a_proposal: "unapproved",
    approved_by_its_maker: "unapproved",
    approved_by_somebody_who_was_not_there: "unasked",
    an_approval_that_is_lost: "lost",
    a_rejection_that_is_lost: "lost",
    a_proposal_that_is_lost: "lost",
    never_carried_out: "forgotten",
    carried_out_without_an_answer: "forgotten",
    proposed_with_other_bytes: "unasked",
    carried_out_otherwise: "unasked",
    answered_another_execution: "answers_differ",
    carried_out_before_it_was_approved: "real_time",
    needing_fewer_approvals: "rule_wrong",
    proposed_by_somebody_else: "principal_wrong",
}
