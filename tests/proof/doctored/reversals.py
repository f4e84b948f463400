"""Reversals of too much, of another transaction, or forced without a request."""

from collections.abc import Callable

from msgspec.structs import replace

from tests.proof.doctored.doctor import Doctor, ask_otherwise
from tests.proof.history import Request
from tests.proof.journal import Policy, Transaction
from tests.proof.judging.evidence import major


def reversed_twice(d: Doctor) -> None:
    row = d.step("reversal")
    for leg in d.legs(row):
        leg.amount *= 50


def reversed_forward(d: Doctor) -> None:
    for leg in d.legs(d.step("reversal")):
        leg.amount = -leg.amount


def a_reversal_of_nothing(d: Doctor) -> None:
    d.step("reversal").parent = 10**9


def reversed_a_part_of_all(d: Doctor) -> None:
    """The last reversal of what is not reversed whole."""
    back: dict[int, list[Transaction]] = {}
    for t in d.journal.transactions:
        if t.kind == "reversal" and t.reason is None:
            back.setdefault(t.parent or 0, []).append(t)
    parts = [
        steps[-1]
        for parent, steps in back.items()
        if sum(step.amount for step in steps) < d.journal.transactions[parent - 1].amount
    ]
    ask_otherwise(d, d.chance.choice(parts), amount=0, legs=())


def reversed_less_than_it_says(d: Doctor) -> None:
    row = d.step("reversal")
    for a in d.attempts:
        if isinstance(a.body, dict) and a.body.get("transaction_id") == row.id:
            a.body = {**a.body, "amount": major(row.amount + 1)}
    asked = [a for a in d.attempts if (a.request.account, a.request.key) == (row.account, row.key)]
    for a in asked:
        if a.request.amount == row.amount:
            a.request = replace(a.request, amount=row.amount + 1)
    row.amount += 1


def _asked(d: Doctor, *reasons: str | None) -> list[tuple[Transaction, Request]]:
    """Reversals, with what was asked for, of those that nothing else was asked for with."""
    by_key: dict[tuple[int, str], set[Request]] = {}
    for a in d.attempts:
        if a.request.kind == "reversal":
            by_key.setdefault((a.request.account, a.request.key), set()).add(a.request)
    return [
        (t, next(iter(by_key[t.account, t.key])))
        for t in d.journal.transactions
        if t.kind == "reversal" and t.reason in reasons and len(by_key[t.account, t.key]) == 1
    ]


def reversed_by_other_legs(d: Doctor) -> None:
    row, asked = d.chance.choice([two for two in _asked(d, None) if two[1].legs])
    (one, back), (other, again) = asked.legs
    ask_otherwise(d, row, legs=((one, back - 1), (other, again + 1)))


def reversed_by_legs_that_were_asked_for_whole(d: Doctor) -> None:
    whole = {t.parent for t, asked in _asked(d, None) if not asked.legs}
    found = [t for t, asked in _asked(d, None) if asked.legs and t.parent not in whole]
    back = {t.parent: abs(d.legs(t)[0].amount) for t in found}
    row = next(t for t in found if back[t.parent] < d.parent(t).amount)
    ask_otherwise(d, row, legs=())


def _forced(d: Doctor) -> tuple[Policy, Transaction]:
    kept = d.chance.choice([p for p in d.journal.policies if p.lowest is not None])
    return kept, d.journal.transactions[kept.transaction - 1]


def forced_by_nobody(d: Doctor) -> None:
    _, row = _forced(d)
    ask_otherwise(d, row, force=False)


def overdrawn_without_a_word(d: Doctor) -> None:
    kept, _ = _forced(d)
    d.journal.policies.remove(kept)


def forced_by_somebody_else(d: Doctor) -> None:
    _forced(d)[0].actor = "bob"


def forced_for_another_reason(d: Doctor) -> None:
    _forced(d)[0].reason = None


def forced_lower_than_it_says(d: Doctor) -> None:
    kept, _ = _forced(d)
    assert kept.lowest is not None
    kept.lowest += 1


def forced_under_another_policy(d: Doctor) -> None:
    _forced(d)[0].floor -= 1


def forced_where_there_was_enough(d: Doctor) -> None:
    """It is told of an account that gained."""
    _, row = _forced(d)
    leg = next(leg for leg in d.legs(row) if leg.amount > 0)
    changes = [p for p in d.journal.policies if p.account == leg.account and p.lowest is None]
    last = next((p for p in reversed(changes) if p.seq <= leg.seq), None)
    policy = (0, None, 0) if last is None else (last.floor, last.ceiling, last.restricted)
    told = "ann", "stolen", leg.balance - leg.held
    d.journal.policies.append(Policy(row.id, leg.account, leg.seq, *policy, *told))


def declined_though_it_was_forced(d: Doctor) -> None:
    row, _ = d.chance.choice(_asked(d, "insufficient_funds"))
    ask_otherwise(d, row, force=True)


def declined_to_reverse_legs_of_which_enough_was_left(d: Doctor) -> None:
    """A part of one minor unit, before anything was moved back."""
    row, asked = d.chance.choice([two for two in _asked(d, "reversal_exceeded") if two[1].legs])
    ask_otherwise(d, row, legs=tuple((a, 1 if n > 0 else -1) for a, n in asked.legs))
    row.deciding_version = next(
        e.seq for e in d.journal.entries if (e.transaction, e.account) == (row.parent, row.account)
    )
    state = d.rows(row.account)[row.deciding_version - 1]
    row.deciding_available, row.recorded_at = state.balance - state.held, state.recorded_at


DOCTORED: dict[Callable[[Doctor], None], str] = {
    reversed_twice: "reversal_exceeded",
    reversed_forward: "reversal_exceeded",
    a_reversal_of_nothing: "content_broken",
    reversed_a_part_of_all: "content_differs",
    reversed_less_than_it_says: "content_differs",
    reversed_by_other_legs: "content_differs",
    reversed_by_legs_that_were_asked_for_whole: "content_differs",
    forced_by_nobody: "forced_unasked",
    overdrawn_without_a_word: "overdrawn",
    forced_by_somebody_else: "content_differs",
    forced_for_another_reason: "content_differs",
    forced_lower_than_it_says: "forced_differs",
    forced_under_another_policy: "forced_differs",
    forced_where_there_was_enough: "forced_differs",
    declined_though_it_was_forced: "decline_unjust",
    declined_to_reverse_legs_of_which_enough_was_left: "decline_unjust",
}
