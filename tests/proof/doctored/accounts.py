"""Entries that do not balance, continue, or stay within policies."""

from collections.abc import Callable
from itertools import pairwise

from tests.proof.doctored.doctor import Doctor
from tests.proof.doctored.ledger import EXTERNAL
from tests.proof.judging.evidence import OK, outcome


def unbalanced(d: Doctor) -> None:
    d.chance.choice(d.journal.entries).amount += 1


def total_not_zero(d: Doctor) -> None:
    d.rows(EXTERNAL["USD"])[-1].amount += 1
    d.rows(EXTERNAL["USD"])[-1].balance += 1
    d.account(EXTERNAL["USD"]).balance += 1


def lost_update(d: Doctor) -> None:
    """A write that did not see the one before it."""
    before, after = next(two for two in pairwise(d.rows(1)[20:]) if two[0].amount)
    after.balance -= before.amount


def version_gap(d: Doctor) -> None:
    for entry in d.rows(2)[5:]:
        entry.seq += 1
    d.account(2).version += 1


def overdraft_in_mid_history(d: Doctor) -> None:
    rows = d.rows(1)
    middle = next(n for n in range(len(rows) // 2, len(rows) - 1) if rows[n].amount < 0)
    amount = 10**6
    rows[middle].amount -= amount
    rows[middle].balance -= amount
    rows[middle + 1].amount += amount


def account_differs_from_its_journal(d: Doctor) -> None:
    d.account(3).balance += 1
    d.account(4).balance -= 1


def time_runs_backwards(d: Doctor) -> None:
    rows = d.rows(EXTERNAL["USD"])
    row = d.journal.transactions[rows[-1].transaction - 1]
    for entry in d.journal.entries:
        if entry.transaction == row.id:
            entry.recorded_at = f"{1:020}"


def entry_of_another_moment(d: Doctor) -> None:
    d.rows(1)[-1].recorded_at += "1"


def entry_of_another_account(d: Doctor) -> None:
    """Balanced, but not what the transaction says."""
    row = d.post(d.row(d.one(lambda a: a.request.kind == "withdraw" and outcome(a) == OK)))
    row.amount += 1


def entry_of_no_account(d: Doctor) -> None:
    d.journal.accounts.remove(d.account(2))


def entry_of_no_transaction(d: Doctor) -> None:
    d.enter(1, 5, 10**9)
    d.enter(2, -5, 10**9)


def declined_but_moved(d: Doctor) -> None:
    row = d.row(d.decline())
    d.enter(row.account, -row.amount, row.id)
    d.enter(row.other, row.amount, row.id)


def a_transaction_of_one_leg(d: Doctor) -> None:
    for leg in d.legs(d.step("general"))[1:]:
        d.journal.entries.remove(leg)


def a_policy_that_moves_money(d: Doctor) -> None:
    d.legs(d.step("policy"))[0].amount = 1


def a_policy_that_was_not_kept(d: Doctor) -> None:
    d.account(2).ceiling = 10**6


DOCTORED: dict[Callable[[Doctor], None], str] = {
    unbalanced: "unbalanced",
    total_not_zero: "total_not_zero",
    lost_update: "balance_broken",
    version_gap: "version_gap",
    overdraft_in_mid_history: "overdrawn",
    account_differs_from_its_journal: "account_differs",
    time_runs_backwards: "time_backwards",
    entry_of_another_moment: "other_moment",
    entry_of_another_account: "content_broken",
    entry_of_no_account: "orphan_entries",
    entry_of_no_transaction: "orphan_entries",
    declined_but_moved: "decline_moved",
    a_transaction_of_one_leg: "content_broken",
    a_policy_that_moves_money: "content_broken",
    a_policy_that_was_not_kept: "account_differs",
}
