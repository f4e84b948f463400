"""Policies that were not kept or not requested, and declines without their reason."""

from collections.abc import Callable
from itertools import combinations

from tests.proof.doctored.doctor import Doctor, after_a_policy, another_account, ask_otherwise
from tests.proof.journal import Policy, Transaction
from tests.proof.judging.evidence import CLOSED, DEBITS


def above_its_ceiling(d: Doctor) -> None:
    policy, entry = after_a_policy(d, "deposit")
    policy.policy = (-(10**6), entry.balance - 1, 0)


def moved_while_frozen(d: Doctor) -> None:
    policy, _ = after_a_policy(d, "withdraw")
    policy.policy = (-(10**6), None, DEBITS)


def moved_after_it_was_closed(d: Doctor) -> None:
    policy, _ = after_a_policy(d, "deposit")
    policy.policy = (-(10**6), None, CLOSED)


def held_after_it_was_closed(d: Doctor) -> None:
    policy, _ = after_a_policy(d, "hold")
    policy.policy = (-(10**6), None, CLOSED)


def scheduled_after_it_was_closed(d: Doctor) -> None:
    policy, _ = after_a_policy(d, "schedule")
    policy.policy = (-(10**6), None, CLOSED)


def changed_after_it_was_closed(d: Doctor) -> None:
    changes = [t for t in d.journal.transactions if t.policy is not None]
    first, _ = next(two for two in combinations(changes, 2) if two[0].account == two[1].account)
    first.policy = (0, None, CLOSED)


def closed_with_money_on_it(d: Doctor) -> None:
    policy = d.step("policy")
    d.legs(policy)[0].balance = 7
    policy.policy = (0, None, CLOSED)


def a_policy_that_contradicts_itself(d: Doctor) -> None:
    d.step("policy").policy = (50, 20, 0)


def _change(d: Doctor) -> Policy:
    return d.chance.choice([change for change in d.journal.policies if change.lowest is None])


def changed_by_somebody_else(d: Doctor) -> None:
    _change(d).actor = "nobody"


def changed_for_no_reason(d: Doctor) -> None:
    _change(d).reason = None


def _declined(d: Doctor, reason: str, *kinds: str) -> Transaction:
    found = [t for t in d.journal.transactions if t.reason == reason and t.kind in kinds]
    return d.chance.choice(found)


def _open(row: Transaction) -> None:
    """It was decided before the account was closed."""
    row.deciding_version = row.deciding_available = 0


def called_closed_that_was_open(d: Doctor) -> None:
    _open(_declined(d, "account_closed", "deposit", "withdraw", "transfer"))


def called_closed_that_could_be_changed(d: Doctor) -> None:
    _open(_declined(d, "account_closed", "policy"))


def called_closed_that_could_be_scheduled(d: Doctor) -> None:
    _open(_declined(d, "account_closed", "schedule"))


def called_closed_that_is_for_somebody_else(d: Doctor) -> None:
    found = [t for t in d.journal.transactions if t.reason == "account_closed"]
    row = next(t for t in found if t.kind == "schedule" and t.account != t.deciding_account)
    ask_otherwise(d, row, other=another_account(row.account))


def called_frozen_that_was_closed(d: Doctor) -> None:
    row = _declined(d, "account_closed", "deposit", "withdraw", "transfer")
    for t in d.journal.transactions:
        if t.policy is not None and t.account == row.deciding_account:
            t.policy = (*t.policy[:2], t.policy[2] | 3)
    row.reason = "account_frozen"


def declined_to_close_what_stood_at_zero(d: Doctor) -> None:
    row = _declined(d, "balance_not_zero", "policy")
    row.deciding_version = row.deciding_available = 0


def declined_to_close_what_nobody_closed(d: Doctor) -> None:
    ask_otherwise(d, _declined(d, "balance_not_zero", "policy"), closed=False)


def declined_for_a_conflict_that_is_none(d: Doctor) -> None:
    ask_otherwise(d, _declined(d, "policy_conflict", "policy"), ceiling=30, floor=30)


DOCTORED: dict[Callable[[Doctor], None], str] = {
    above_its_ceiling: "above_ceiling",
    moved_while_frozen: "moved_while_frozen",
    moved_after_it_was_closed: "moved_after_closing",
    held_after_it_was_closed: "moved_after_closing",
    scheduled_after_it_was_closed: "moved_after_closing",
    changed_after_it_was_closed: "moved_after_closing",
    closed_with_money_on_it: "closed_with_money",
    a_policy_that_contradicts_itself: "policy_conflicts",
    changed_by_somebody_else: "content_differs",
    changed_for_no_reason: "content_differs",
    called_closed_that_was_open: "decline_unjust",
    called_closed_that_could_be_changed: "decline_unjust",
    called_closed_that_could_be_scheduled: "decline_unjust",
    called_closed_that_is_for_somebody_else: "decline_unjust",
    called_frozen_that_was_closed: "decline_unjust",
    declined_to_close_what_stood_at_zero: "decline_unjust",
    declined_to_close_what_nobody_closed: "decline_unjust",
    declined_for_a_conflict_that_is_none: "decline_unjust",
}
