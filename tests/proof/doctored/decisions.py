"""Torn groups, unjust declines, and transactions that nobody requested."""

from collections.abc import Callable

from msgspec.structs import replace

from tests.proof.doctored.doctor import Doctor, another_account, ask_otherwise, whole_group
from tests.proof.journal import Transaction
from tests.proof.judging.evidence import DECLINED, OK, outcome


def applied_twice(d: Doctor) -> None:
    d.post(d.row(d.one(lambda a: a.request.kind == "deposit" and outcome(a) == OK)))


def nobody_asked(d: Doctor) -> None:
    deposits = [a for a in d.attempts if a.request.kind == "deposit" and outcome(a) == OK]
    d.post(d.row(deposits[0])).key = "nobody's"


def refused_but_applied(d: Doctor) -> None:
    attempt = d.write()
    attempt.status, attempt.body = 422, {"code": "amount_precision"}


def turned_away_but_applied(d: Doctor) -> None:
    attempt = d.write()
    attempt.status, attempt.body = 503, {"code": "overloaded"}


def declined_though_there_was_enough(d: Doctor) -> None:
    row = d.row(d.decline())
    row.amount = _above_floor(d, row)


def _above_floor(d: Doctor, row: Transaction) -> int:
    """By how much the available amount that a decline was decided on was above the floor."""
    assert row.deciding_account is not None
    assert row.deciding_available is not None
    before = [e.transaction for e in d.rows(row.deciding_account)[: row.deciding_version]]
    floors = [t.policy[0] for t in d.journal.transactions if t.policy and t.id in before]
    return row.deciding_available - (floors or [0])[-1]


def declined_on_what_never_was(d: Doctor) -> None:
    row = d.row(d.decline())
    assert row.deciding_available is not None
    row.deciding_available += 1


def declined_though_the_hold_had_enough(d: Doctor) -> None:
    d.declined("hold_exceeded").amount = 1


def closed_though_the_hold_was_open(d: Doctor) -> None:
    d.declined("hold_exceeded").reason = "hold_closed"


def declined_though_there_was_something_to_reverse(d: Doctor) -> None:
    row = d.declined("reversal_exceeded")
    row.amount = 1
    row.deciding_version = next(
        e.seq for e in d.journal.entries if (e.transaction, e.account) == (row.parent, row.account)
    )
    state = d.rows(row.account)[row.deciding_version - 1]
    row.deciding_available = state.balance - state.held


def declined_legs_that_there_was_enough_for(d: Doctor) -> None:
    row = next(
        t
        for t in d.journal.transactions
        if t.kind == "general" and t.reason not in (None, "condition_failed")
    )
    attempts = [a for a in d.attempts if a.request.key == row.key and a.status == 400]
    for attempt in attempts:
        legs = tuple((account, 0) for account, _ in attempt.request.legs)
        attempt.request = replace(attempt.request, legs=legs)


def declined_for_no_reason(d: Doctor) -> None:
    d.declined("insufficient_funds").reason = "bad_weather"


def called_settled_that_was_open(d: Doctor) -> None:
    row = d.declined("schedule_settled")
    next(s for s in d.journal.schedules if s.id == row.parent).execute_at = f"{10**12:020}"
    for settler in d.journal.transactions:
        if settler.parent == row.parent and settler.reason != row.reason:
            settler.recorded_at = f"{10**12:020}"


def half_a_group(d: Doctor) -> None:
    """The first of a group was never written; nobody has had an answer."""
    group = whole_group(d)
    row = d.row(group[0])
    d.journal.transactions.remove(row)
    for entry in d.legs(row):
        d.journal.entries.remove(entry)
    for attempt in group:
        attempt.status, attempt.body = 409, {"code": "batch_failed"}


def a_group_at_two_moments(d: Doctor) -> None:
    d.row(whole_group(d)[0]).recorded_at += "1"


def a_group_with_a_decline(d: Doctor) -> None:
    d.row(whole_group(d)[2]).reason = "insufficient_funds"


def frozen_that_was_not(d: Doctor) -> None:
    row = d.declined("account_frozen")
    for t in d.journal.transactions:
        if t.policy is not None and t.account == row.deciding_account:
            t.policy = (*t.policy[:2], 0)


def called_above_a_ceiling_that_is_none(d: Doctor) -> None:
    row = d.declined("balance_ceiling")
    for t in d.journal.transactions:
        if t.policy is not None and t.account == row.deciding_account:
            t.policy = (t.policy[0], None, t.policy[2])


def declined_on_a_stranger(d: Doctor) -> None:
    """An account is frozen that has no part in it."""
    row = next(
        t
        for t in d.journal.transactions
        if t.reason == "account_frozen" and t.kind == "transfer" and t.deciding_account == t.other
    )
    other = another_account(row.account, row.other)
    ask_otherwise(d, row, other=other)
    row.other = other


def declined_to_reverse_what_there_was_enough_for(d: Doctor) -> None:
    row = next(
        t
        for t in d.journal.transactions
        if t.reason == "insufficient_funds"
        and t.kind == "reversal"
        and len(d.legs(d.parent(t))) == 2
        and _above_floor(d, t) >= 1
    )
    ask_otherwise(d, row, amount=1, legs=())
    for a in d.attempts:
        if isinstance(a.body, dict) and a.body.get("transaction_id") == row.id:
            a.body = {**a.body, "amount": "0.01"}
    row.amount = 1


def _demanding(d: Doctor, *, declined: bool) -> Transaction:
    """A transaction of legs that demanded something, and was the only one with its key."""
    in_question = [
        a
        for a in d.attempts
        if a.request.conditions and outcome(a) == (DECLINED if declined else OK) and not a.replayed
    ]
    rows = map(d.row, in_question)
    return d.chance.choice([t for t in rows if t.reason in (None, "condition_failed")])


def posted_with_less_available_than_demanded(d: Doctor) -> None:
    row = _demanding(d, declined=False)
    ask_otherwise(d, row, conditions=((row.account, "available_at_least", 10**9),))


def posted_at_a_lower_balance_than_demanded(d: Doctor) -> None:
    row = _demanding(d, declined=False)
    ask_otherwise(d, row, conditions=((row.account, "balance_at_least", 10**9),))


def posted_at_another_version_than_demanded(d: Doctor) -> None:
    """At the one after: what the transaction itself made of the account."""
    row = _demanding(d, declined=False)
    own = next(leg for leg in d.legs(row) if leg.account == row.account)
    ask_otherwise(d, row, conditions=((row.account, "version", own.seq),))


def declined_for_a_condition_that_was_met(d: Doctor) -> None:
    row = _demanding(d, declined=True)
    conditions = (
        (row.deciding_account, "available_at_least", row.deciding_available),
        (row.deciding_account, "version", row.deciding_version),
    )
    ask_otherwise(d, row, conditions=conditions)


def declined_for_a_condition_of_another_account(d: Doctor) -> None:
    row = _demanding(d, declined=True)
    stranger = another_account(row.deciding_account or 0)
    ask_otherwise(d, row, conditions=((stranger, "balance_at_least", 10**9),))


DOCTORED: dict[Callable[[Doctor], None], str] = {
    applied_twice: "key_twice",
    nobody_asked: "unasked",
    refused_but_applied: "refused_but_applied",
    turned_away_but_applied: "refused_but_applied",
    declined_though_there_was_enough: "decline_unjust",
    declined_on_what_never_was: "decline_unjust",
    declined_though_the_hold_had_enough: "decline_unjust",
    closed_though_the_hold_was_open: "decline_unjust",
    declined_though_there_was_something_to_reverse: "decline_unjust",
    declined_legs_that_there_was_enough_for: "decline_unjust",
    declined_for_no_reason: "decline_unjust",
    called_settled_that_was_open: "decline_unjust",
    half_a_group: "torn_group",
    a_group_at_two_moments: "torn_group",
    a_group_with_a_decline: "torn_group",
    frozen_that_was_not: "decline_unjust",
    called_above_a_ceiling_that_is_none: "decline_unjust",
    declined_on_a_stranger: "decline_unjust",
    declined_to_reverse_what_there_was_enough_for: "decline_unjust",
    posted_with_less_available_than_demanded: "condition_not_met",
    posted_at_a_lower_balance_than_demanded: "condition_not_met",
    posted_at_another_version_than_demanded: "condition_not_met",
    declined_for_a_condition_that_was_met: "decline_unjust",
    declined_for_a_condition_of_another_account: "decline_unjust",
}
