"""Answers that the journal does not keep, or that a repeat does not get."""

from collections.abc import Callable

from msgspec.structs import replace

from tests.proof.doctored.doctor import Doctor, another_account, ask_otherwise
from tests.proof.doctored.fabricated import STEP_NS
from tests.proof.history import DRY_RUN, Attempt, Request
from tests.proof.judging.evidence import OK, outcome


def _later(d: Doctor) -> int:
    return max(a.completed_ns or 0 for a in d.attempts) + STEP_NS


def lost_acknowledgement(d: Doctor) -> None:
    d.take_back_last()


def written_for_another(d: Doctor) -> None:
    d.row(d.write()).principal = 9


def written_for_who_repeated_it(d: Doctor) -> None:
    known = [a for a in d.attempts if outcome(a) == OK]
    first = {(a.request.account, a.request.key) for a in known if not a.replayed}
    repeat = d.one(
        lambda a: a.replayed and outcome(a) == OK and (a.request.account, a.request.key) in first
    )
    repeat.principal = d.row(repeat).principal = 9


def lost_decline(d: Doctor) -> None:
    d.journal.transactions.remove(d.row(d.decline()))


def answered_twice_as_the_first(d: Doctor) -> None:
    d.one(lambda a: a.replayed and outcome(a) == OK).replayed = False
    first = [a for a in d.attempts if a.status is None]
    for attempt in first:
        d.attempts.remove(attempt)
    for attempt in d.attempts:
        attempt.replayed = False


def other_content(d: Doctor) -> None:
    """More was moved than was asked for, and answered so."""
    attempt = d.write()
    attempt.request = replace(attempt.request, amount=attempt.request.amount + 1)


def answered_another_amount(d: Doctor) -> None:
    attempt = d.write()
    attempt.body = {**attempt.body, "amount": "99.99"}


def answered_another_version(d: Doctor) -> None:
    attempt = d.write()
    own, other = attempt.body["entries"]
    attempt.body = {**attempt.body, "entries": [own | {"version": own["version"] - 1}, other]}


def answered_another_decision(d: Doctor) -> None:
    attempt = d.decline()
    decided_on = {**attempt.body["decided_on"], "version": 0, "available": "0.00"}
    attempt.body = {**attempt.body, "decided_on": decided_on}


def answers_differ(d: Doctor) -> None:
    def sent_twice(a: Attempt) -> bool:
        return sum(b.request == a.request and outcome(b) == OK for b in d.attempts) > 1

    again = d.one(lambda a: a.replayed and outcome(a) == OK and sent_twice(a))
    again.body = {**again.body, "recorded_at": "another"}


def key_reused_for_another_body(d: Doctor) -> None:
    refused = d.one(lambda a: bool(a.body) and a.status == 422)
    row = next(t for t in d.journal.transactions if t.key == refused.request.key)
    answered = next(a for a in d.attempts if a.request.key == row.key and a.status in (200, 400))
    refused.status, refused.body, refused.replayed = answered.status, answered.body, True


def key_called_reused_that_is_not(d: Doctor) -> None:
    refused = d.one(lambda a: a.status == 422)
    refused.request = Request("deposit", refused.request.account, None, 5, "never used")


def never_resolved(d: Doctor) -> None:
    attempt = d.write()
    attempt.status = attempt.completed_ns = None


def a_policy_of_its_own(d: Doctor) -> None:
    d.step("policy").policy = (-77, None, 0)


def legs_on_another_account(d: Doctor) -> None:
    row = d.step("general")
    first, *others = sorted(
        ((e.account, e.amount) for e in d.legs(row)), key=lambda leg: leg[0] != row.account
    )
    stranger = another_account(first[0], *(account for account, _ in others))
    ask_otherwise(d, row, legs=(first, (stranger, others[0][1]), *others[1:]))


def withdrawn_to_another_customer(d: Doctor) -> None:
    attempt = d.one(lambda a: a.request.kind == "transfer" and outcome(a) == OK)
    row = d.row(attempt)
    ask_otherwise(d, row, kind="withdraw", other=None)
    for a in d.attempts:
        if isinstance(a.body, dict) and a.body.get("transaction_id") == row.id:
            a.body = {**a.body, "transaction_type": "WITHDRAWAL"}
    row.kind = "withdraw"


def a_hold_that_is_not_found(d: Doctor) -> None:
    """Its acknowledgement came before."""
    at, hold = _later(d), d.hold()
    request = Request("capture", hold.account, None, 1, "late", parent=hold.id)
    body = {"code": "hold_not_found"}
    d.attempts.append(Attempt("late", at, request, at + 1, 404, body))


def refused_after_it_was_acknowledged(d: Doctor) -> None:
    at = _later(d)
    body = {"code": "account_not_found"}
    d.attempts.append(Attempt("late", at, d.write().request, at + 1, 404, body))


def a_step_called_another_after_it_was_acknowledged(d: Doctor) -> None:
    at = _later(d)
    step = d.one(lambda a: a.request.kind == "hold" and outcome(a) == OK).request
    body = {"code": "idempotency_key_reused"}
    another = replace(step, amount=step.amount + 1)
    for request in (another, step):
        d.attempts.append(Attempt("late", at, request, at + 1, 422, body))


def answered_another_reason(d: Doctor) -> None:
    declined = d.decline().body["transaction_id"]
    for a in d.attempts:
        if isinstance(a.body, dict) and a.body.get("transaction_id") == declined:
            a.body = {**a.body, "code": "account_frozen"}


def a_dry_run_that_wrote(d: Doctor) -> None:
    asked = d.write().request
    d.attempts.append(Attempt("rehearsing", 1, replace(asked, kind=DRY_RUN)))


def answered_another_balance(d: Doctor) -> None:
    declined = d.decline().body["transaction_id"]
    for a in d.attempts:
        if isinstance(a.body, dict) and a.body.get("transaction_id") == declined:
            decided_on = {**a.body["decided_on"], "balance": "77.77"}
            a.body = {**a.body, "decided_on": decided_on}


def answered_another_held_amount(d: Doctor) -> None:
    attempt = d.write()
    own, other = attempt.body["entries"]
    attempt.body = {**attempt.body, "entries": [own | {"held": "77.77"}, other]}


def answered_in_another_currency(d: Doctor) -> None:
    attempt = d.write()
    own, other = attempt.body["entries"]
    attempt.body = {**attempt.body, "entries": [own | {"currency": "none"}, other]}


def declined_in_another_currency(d: Doctor) -> None:
    declined = d.decline().body["transaction_id"]
    for a in d.attempts:
        if isinstance(a.body, dict) and a.body.get("transaction_id") == declined:
            decided_on = {**a.body["decided_on"], "currency": "none"}
            a.body = {**a.body, "decided_on": decided_on}


DOCTORED: dict[Callable[[Doctor], None], str] = {
    lost_acknowledgement: "lost",
    written_for_another: "principal_wrong",
    written_for_who_repeated_it: "principal_wrong",
    lost_decline: "decline_lost",
    answered_twice_as_the_first: "applied_twice",
    other_content: "content_differs",
    answered_another_amount: "content_differs",
    answered_another_version: "content_differs",
    answered_another_decision: "content_differs",
    answers_differ: "answers_differ",
    key_reused_for_another_body: "reuse_accepted",
    key_called_reused_that_is_not: "reuse_unfounded",
    never_resolved: "unresolved",
    a_policy_of_its_own: "content_differs",
    legs_on_another_account: "content_differs",
    withdrawn_to_another_customer: "content_differs",
    a_hold_that_is_not_found: "refusal_unjust",
    refused_after_it_was_acknowledged: "answers_differ",
    a_step_called_another_after_it_was_acknowledged: "answers_differ",
    answered_another_reason: "content_differs",
    answered_another_balance: "content_differs",
    answered_another_held_amount: "content_differs",
    answered_in_another_currency: "content_differs",
    declined_in_another_currency: "content_differs",
    a_dry_run_that_wrote: "dry_run_written",
}
