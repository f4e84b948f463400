"""`verify` on holds, policies, schedules, legs and details that a superuser broke."""

from collections.abc import Callable

import pytest

from ledgerservice.domain.instructions import (
    General,
    Instruction,
    Kind,
    Leg,
    Movement,
    PolicyChange,
)
from ledgerservice.postgres.connections import Database
from tests.databases import connect
from tests.postgres.breaking import post_whole, violations
from tests.postings import post


@pytest.fixture
def whole(new_database: Callable[..., Database], whole_once: Database) -> Database:
    """Beside what `used` has: 7 a hold of account 1, 8 a capture of it, 9 a hold that is left; 10 a
    transaction of legs, 11 its reversal; 12 a floor of -1.00 for account 2, 13 a debit below zero;
    14 and 15 schedules, of which 16 cancels 14; 17 a deposit with detail, 18 what
    it paid for, and 19 its forced reversal; 20 a declined capture; 21 account 3's new policy.
    """
    return new_database(whole_once)


@pytest.fixture(scope="module")
def whole_once(new_database: Callable[..., Database]) -> Database:
    database = new_database()
    post_whole(database)
    return database


# The same for what only `whole` has.
WHOLE_BROKEN = {
    "a hold's remaining": (
        ["UPDATE ledger.holds SET remaining = 200 WHERE transaction_id = 9"],
        ["invariant 2: hold 9, ledger 1: remaining 200", "invariant 2: account 1, ledger 1: its h"],
    ),
    "what a hold captured": (
        ["UPDATE ledger.holds SET captured = 300 WHERE transaction_id = 7"],
        ["invariant 2: hold 7, ledger 1: remaining 0 and captured 300 of 1000"],
    ),
    "a hold's terms": (
        ["DELETE FROM ledger.holds WHERE transaction_id = 9"],
        ["invariant 2: hold 9, ledger 1: its terms are missing"],
    ),
    "a hold's counterparty": (
        ["UPDATE ledger.holds SET counterparty_id = 3 WHERE transaction_id = 7"],
        ["invariant 2: hold 7, ledger 1"],
    ),
    "a hold of nobody": (
        ["UPDATE ledger.holds SET transaction_id = 99 WHERE transaction_id = 9"],
        ["invariant 2: hold 99, ledger 1: no transaction reserved it"],
    ),
    "what a capture builds on": (
        ["UPDATE ledger.details SET parent_id = 9 WHERE transaction_id = 8"],
        ["invariant 2: hold 7, ledger 1", "invariant 2: hold 9, ledger 1"],
    ),
    "a capture of no hold": (
        ["UPDATE ledger.details SET parent_id = 10 WHERE transaction_id = 8"],
        ["invariant 5: transaction 8, ledger 1: what it builds on"],
    ),
    "a parent where none belongs": (
        ["UPDATE ledger.details SET parent_id = 1 WHERE transaction_id = 17"],
        ["invariant 5: transaction 17, ledger 1: what it builds on"],
    ),
    "details": (
        ["DELETE FROM ledger.details WHERE transaction_id = 10"],
        ["invariant 5: transaction 10, ledger 1: its details are missing"],
    ),
    "details of a plain transaction": (
        ["UPDATE ledger.details SET transaction_id = 1 WHERE transaction_id = 17"],
        ["invariant 5: transaction 1, ledger 1: it is plain, but has details"],
    ),
    "details of nothing": (
        ["UPDATE ledger.details SET transaction_id = 99 WHERE transaction_id = 17"],
        ["invariant 5: transaction 99, ledger 1: it has details, but does not exist"],
    ),
    "more reversed than there was": (
        [
            "UPDATE ledger.entries SET amount = amount * 3 WHERE transaction_id = 11",
        ],
        ["invariant 1: transaction 10, ledger 1: its reversals move 600 on account 1"],
    ),
    "a reversal in the wrong direction": (
        ["UPDATE ledger.entries SET amount = -amount WHERE transaction_id = 11"],
        ["invariant 1: transaction 10, ledger 1: its reversals move -200 on account 1"],
    ),
    "a hold that moves money": (
        ["UPDATE ledger.entries SET amount = 5 WHERE transaction_id = 9"],
        ["invariant 1: transaction 9, ledger 1"],
    ),
    "a transfer that holds": (
        ["UPDATE ledger.entries SET held_change = 5 WHERE transaction_id = 3"],
        ["invariant 1: transaction 3, ledger 1: its entries are not those of its kind"],
    ),
    "a policy that changes money": (
        ["UPDATE ledger.entries SET held_change = 5 WHERE transaction_id = 12"],
        ["invariant 1: transaction 12, ledger 1: its entries are not those of its kind"],
    ),
    "a floor in the past": (
        ["UPDATE ledger.policies SET floor = -10 WHERE transaction_id = 12"],
        ["invariant 3: account 2, ledger 1, seq 8: available -100 is below the floor -10"],
    ),
    "a policy that is gone": (
        ["DELETE FROM ledger.policies WHERE transaction_id = 12"],
        ["invariant 3: account 2, ledger 1, seq 8: available -100 is below the floor 0"],
    ),
    "a force that nobody wrote down": (
        ["UPDATE ledger.policies SET lowest = lowest + 1 WHERE transaction_id = 19"],
        ["invariant 3: account 2, ledger 1, seq 11: available -5100 is below the floor -100"],
    ),
    "a policy of another kind of transaction": (
        ["UPDATE ledger.policies SET lowest = NULL WHERE transaction_id = 19"],
        ["invariant 3: policy of account 2, ledger 1, seq 11"],
    ),
    "a policy without its entry": (
        ["UPDATE ledger.policies SET seq = 3 WHERE transaction_id = 21"],
        ["invariant 3: policy of account 3, ledger 1, seq 3"],
    ),
    "a ceiling": (
        ["UPDATE ledger.policies SET ceiling = 10, seq = 1 WHERE transaction_id = 21"],
        ["invariant 3: account 3, ledger 1, seq 1: balance 10000 is above the ceiling 10"],
    ),
    "a freeze": (
        ["UPDATE ledger.policies SET restricted = 2, seq = 1 WHERE transaction_id = 21"],
        ["invariant 3: account 3, ledger 1, seq 1: it is an entry that the account was frozen"],
    ),
    "an account's ceiling": (
        ["UPDATE ledger.accounts SET ceiling = 7 WHERE id = 3"],
        ["invariant 3: account 3, ledger 1: its floor is 0, its ceiling 7"],
    ),
    "an account's freeze": (
        ["UPDATE ledger.accounts SET restricted = 0 WHERE id = 3"],
        ["invariant 3: account 3, ledger 1: its floor is 0"],
    ),
    "how far an account is below": (
        ["UPDATE ledger.accounts SET below_floor = -1 WHERE id = 1"],
        ["invariant 3: account 1, ledger 1: its floor is 0"],
    ),
    "a schedule": (
        ["DELETE FROM ledger.schedules WHERE transaction_id = 15"],
        ["invariant 5: schedule 15, ledger 1"],
    ),
    "how a schedule ended": (
        ["UPDATE ledger.schedules SET settled_by = NULL WHERE transaction_id = 14"],
        ["invariant 5: schedule 14, ledger 1: it is settled by , where {16} did"],
    ),
    "a schedule that nobody settled": (
        ["UPDATE ledger.schedules SET settled_by = 16 WHERE transaction_id = 15"],
        ["invariant 5: schedule 15, ledger 1: it is settled by 16"],
    ),
    "a schedule's amount": (
        ["UPDATE ledger.schedules SET amount = 7 WHERE transaction_id = 15"],
        ["invariant 5: schedule 15, ledger 1"],
    ),
    "when an entry takes effect": (
        ["UPDATE ledger.dated_entries SET effective_at = now() WHERE account_id = 2"],
        ["invariant 5: transaction 17, ledger 1: its entries are not found by the time"],
    ),
    "a dated entry": (
        ["DELETE FROM ledger.dated_entries WHERE account_id = 2"],
        ["invariant 5: transaction 17, ledger 1: its entries are not found by the time"],
    ),
    "no external account": (
        ["DELETE FROM ledger.accounts WHERE id = -2"],
        ["invariant 5: ledger 1, currency INR: it has no external account"],
    ),
    "a capture that was never tried": (
        ["UPDATE ledger.holds SET capture_tried_at = now() WHERE transaction_id = 9"],
        ["invariant 2: hold 9, ledger 1: it does not say when the service tried"],
    ),
    "details of no account": (
        ["INSERT INTO ledger.account_details VALUES (1, 77, '{}')"],
        ["invariant 5: account 77, ledger 1: it has details"],
    ),
    "the balance of a decline": (
        ["UPDATE ledger.transactions SET deciding_balance = 5 WHERE id = 20"],
        ["invariant 6: transaction 20, ledger 1: it was declined"],
    ),
    "a closed account with money": (
        [
            "UPDATE ledger.accounts SET restricted = 4 WHERE id = 3",
            "UPDATE ledger.policies SET restricted = 4 WHERE account_id = 3",
        ],
        ["invariant 3: account 3, ledger 1: its floor is 0"],
    ),
    "a function that does nothing": (
        [
            (
                "CREATE OR REPLACE FUNCTION ledger.open_hold() RETURNS trigger"
                " LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$"
            )
        ],
        ["invariant 5: function open_hold"],
    ),
}  # fmt: skip


def test_what_a_transaction_does_to_an_account_is_judged_together(whole):
    """An account that a transaction names twice may be above its ceiling in between, and so on."""

    def twice(account: int, key: str, *amounts: str) -> list[Instruction]:
        other = Leg(1, str(-sum(map(int, amounts))))
        return [General((*(Leg(account, amount) for amount in amounts), other), key)]

    post(
        whole,
        [Movement(Kind.DEPOSIT, 2, None, "51", "to nothing")],
        [PolicyChange(2, "p1", floor="0", ceiling="11", frozen=0)],
        twice(2, "g1", "30", "-20"),
        [PolicyChange(2, "p3", floor="100", ceiling=None, frozen=0)],
        twice(2, "g3", "3", "-2"),
    )
    with connect(whole) as owner:
        rows = owner.execute("SELECT balance FROM ledger.entries WHERE account_id = 2 ORDER BY seq")
        assert [balance for (balance,) in rows][-5:] == [3000, 1000, 1000, 1300, 1100]
    assert violations(whole) == []


def test_a_whole_ledger_that_nobody_broke_has_no_violations(whole):
    with connect(whole) as owner:
        kinds = owner.execute("SELECT kind, status FROM ledger.transactions ORDER BY id").fetchall()
    expected = [1, 1, 3, 3, 2, 2, 5, 6, 5, 4, 8, 9, 2, 10, 10, 11, 1]
    assert [kind for kind, _ in kinds[:17]] == expected
    assert violations(whole) == []


@pytest.mark.parametrize("case", WHOLE_BROKEN.values(), ids=WHOLE_BROKEN.keys())
def test_verify_names_the_broken_invariant_of_side_rows(whole, case):
    statements, expected = case
    found = violations(whole, *statements)
    for start in expected:
        assert any(start in line for line in found), (start, found)
