"""Reversals, whole, in part and by leg."""

from tests.domain.rules.legs import SPLIT
from tests.domain.rules.making import (
    LATER,
    USD,
    by_leg,
    cancel,
    capture,
    deposit,
    exchanged,
    execute,
    general,
    hold,
    policy,
    rate,
    release,
    reverse,
    schedule,
    transfer,
    withdraw,
)

TWO_LEGS = transfer(1, 2, "60")

REVERSALS = {
    "of a deposit": (
        [(deposit(1, "10"), "posted"), (reverse(1), "posted")],
        {1: (100_00, 0), -USD: (-200_00, 0)},
    ),
    "of a withdrawal": (
        [(withdraw(1, "10"), "posted"), (reverse(1), "posted")],
        {1: (100_00, 0), -USD: (-200_00, 0)},
    ),
    "of a transfer": (
        [(TWO_LEGS, "posted"), (reverse(1), "posted")],
        {1: (100_00, 0), 2: (0, 0)},
    ),
    "of legs": (
        [(SPLIT, "posted"), (reverse(1), "posted")],
        {1: (100_00, 0), 2: (0, 0), 4: (100_00, 0)},
    ),
    "of an exchange with its rounding": (
        [(exchanged("1", "83.01", "83", rate("83.005", 3)), "posted"), (reverse(1), "posted")],
        {1: (100_00, 0), 4: (100_00, 0), 3: (100_00, 0), 5: (0, 0)},
    ),
    "of a capture": (
        [(hold(1, "60", 2), "posted"), (capture(1, "50"), "posted"), (reverse(2), "posted")],
        {1: (100_00, 10_00), 2: (0, 0)},
    ),
    "of a capture for the outside": (
        [(hold(1, "60"), "posted"), (capture(1), "posted"), (reverse(2, "1"), "posted")],
        {1: (41_00, 0), -USD: (-141_00, 0)},
    ),
    "of a hold": ([(hold(1, "60"), "posted"), (reverse(1), "not_reversible")], {}),
    "of a release": (
        [(hold(1, "60"), "posted"), (release(1), "posted"), (reverse(2), "not_reversible")],
        {},
    ),
    "of a reversal": (
        [(TWO_LEGS, "posted"), (reverse(1), "posted"), (reverse(2), "not_reversible")],
        {},
    ),
    "of a policy": ([(policy(1, frozen=0), "posted"), (reverse(1), "not_reversible")], {}),
    "of a schedule and its end": (
        [
            (schedule(1, 2, "1", at=LATER), "posted"),
            (reverse(1), "not_reversible"),
            (cancel(1), "posted"),
            (reverse(2), "not_reversible"),
        ],
        {},
    ),
    "of an execution": (
        [(schedule(1, 2, "1"), "posted"), (execute(1), "posted"), (reverse(2), "posted")],
        {1: (100_00, 0), 2: (0, 0)},
    ),
    "of a decline": (
        [(withdraw(1, "101"), "insufficient_funds"), (reverse(1), "not_reversible")],
        {},
    ),
    "of a declined capture": (
        [
            (hold(1, "1"), "posted"),
            (capture(1, "2"), "hold_exceeded"),
            (reverse(2), "not_reversible"),
        ],
        {},
    ),
    "of nothing": ([(reverse(1), "transaction_not_found")], {}),
    "again": (
        [(TWO_LEGS, "posted"), (reverse(1), "posted"), (reverse(1), "reversal_exceeded")],
        {1: (100_00, 0)},
    ),
    "in parts": (
        [
            (TWO_LEGS, "posted"),
            (reverse(1, "10"), "posted"),
            (reverse(1, "50.01"), "reversal_exceeded"),
            (reverse(1, "20"), "posted"),
            (reverse(1), "posted"),
            (reverse(1, "0.01"), "reversal_exceeded"),
        ],
        {1: (100_00, 0), 2: (0, 0)},
    ),
    "of more than there was": (
        [(TWO_LEGS, "posted"), (reverse(1, "60.01"), "reversal_exceeded")],
        {2: (60_00, 0)},
    ),
    "in part, of a deposit": (
        [(deposit(1, "10"), "posted"), (reverse(1, "4"), "posted")],
        {1: (106_00, 0)},
    ),
    "in part, of a withdrawal": (
        [(withdraw(1, "10"), "posted"), (reverse(1, "4"), "posted")],
        {1: (94_00, 0)},
    ),
    "a part of three legs": (
        [(SPLIT, "posted"), (reverse(1, "1"), "legs_unbalanced")],
        {1: (90_00, 0)},
    ),
    "a part, where the receiver is named twice": (
        [
            (general((2, "50"), (2, "-20"), (1, "-30")), "posted"),
            (reverse(1, "10"), "posted"),
            (reverse(1, "20.01"), "reversal_exceeded"),
            (reverse(1), "posted"),
        ],
        {1: (100_00, 0), 2: (0, 0)},
    ),
    "a part, where the giver is named twice": (
        [(general((1, "-50"), (1, "20"), (2, "30")), "posted"), (reverse(1, "10"), "posted")],
        {1: (80_00, 0), 2: (20_00, 0)},
    ),
    "of nothing that moved": (
        [
            (general((1, "-10"), (1, "10")), "posted"),
            (reverse(1), "reversal_exceeded"),
            (reverse(1, "1"), "legs_unbalanced"),
        ],
        {1: (100_00, 0)},
    ),
    "of two accounts between which nothing moved": (
        [
            (general((1, "-10"), (1, "10"), (2, "-5"), (2, "5")), "posted"),
            (reverse(1), "reversal_exceeded"),
            (reverse(1, "1"), "reversal_exceeded"),
        ],
        {1: (100_00, 0)},
    ),
    "of too many decimals": (
        [(TWO_LEGS, "posted"), (reverse(1, "0.001"), "amount_precision")],
        {},
    ),
    "of too much": (
        [(TWO_LEGS, "posted"), (reverse(1, "10000000000000.01"), "amount_limit")],
        {},
    ),
    "by leg": (
        [
            (SPLIT, "posted"),
            (by_leg(1, (2, "-6"), (1, "6")), "posted"),
            (by_leg(1, (4, "-4.01"), (1, "4.01")), "reversal_exceeded"),
            (by_leg(1, (4, "-3"), (1, "3")), "posted"),
            (reverse(1), "posted"),
        ],
        {1: (100_00, 0), 2: (0, 0), 4: (100_00, 0)},
    ),
    "by leg, the wrong way": (
        [(SPLIT, "posted"), (by_leg(1, (2, "6"), (1, "-6")), "reversal_exceeded")],
        {1: (90_00, 0)},
    ),
    "by leg, one of them the wrong way": (
        [(SPLIT, "posted"), (by_leg(1, (2, "-1"), (4, "1")), "reversal_exceeded")],
        {4: (104_00, 0)},
    ),
    "by leg, of an account it did not move": (
        [
            (TWO_LEGS, "posted"),
            (by_leg(1, (4, "-6"), (1, "6")), "account_not_found"),
            (by_leg(1, (99, "-6"), (1, "6")), "account_not_found"),
        ],
        {},
    ),
    "by leg, of another account before its decimals": (
        [
            (TWO_LEGS, "posted"),
            ((by_leg(1, (4, "-0.001"), (1, "0.001")), deposit(4, "1")), (0, "account_not_found")),
        ],
        {},
    ),
    "by leg, of the external account": (
        [(deposit(1, "10"), "posted"), (by_leg(1, (1, "-1"), (-1, "1")), "account_not_found")],
        {},
    ),
    "by leg, unbalanced": (
        [(SPLIT, "posted"), (by_leg(1, (2, "-6"), (1, "5")), "legs_unbalanced")],
        {},
    ),
    "by leg, an account twice": (
        [(SPLIT, "posted"), (by_leg(1, (2, "-3"), (2, "-3"), (1, "6")), "legs_unbalanced")],
        {},
    ),
    "by leg, with too many decimals": (
        [(SPLIT, "posted"), (by_leg(1, (2, "-0.001"), (1, "0.001")), "amount_precision")],
        {},
    ),
    "by leg, that is not the transaction's own": (
        [(SPLIT, "posted"), (by_leg(1, (2, "-6"), (4, "6")), "reversal_exceeded")],
        {},
    ),
    "of what was spent": (
        [
            (TWO_LEGS, "posted"),
            (withdraw(2, "0.01"), "posted"),
            (reverse(1), "insufficient_funds"),
            (reverse(1, "59.99"), "posted"),
        ],
        {1: (99_99, 0), 2: (0, 0)},
    ),
    "of what is held": (
        [(TWO_LEGS, "posted"), (hold(2, "60"), "posted"), (reverse(1), "insufficient_funds")],
        {1: (40_00, 0)},
    ),
    "a declined one counts for nothing": (
        [
            (TWO_LEGS, "posted"),
            (withdraw(2, "60"), "posted"),
            (reverse(1), "insufficient_funds"),
            (deposit(2, "60"), "posted"),
            (reverse(1), "posted"),
        ],
        {1: (100_00, 0), 2: (0, 0)},
    ),
    "by force": (
        [
            (TWO_LEGS, "posted"),
            (withdraw(2, "50"), "posted"),
            (reverse(1, force=True), "posted"),
            (withdraw(2, "0.01"), "insufficient_funds"),
            (deposit(2, "49"), "posted"),
            (withdraw(2, "0.01"), "insufficient_funds"),
            (deposit(2, "2"), "posted"),
            (withdraw(2, "1"), "posted"),
        ],
        {1: (100_00, 0), 2: (0, 0)},
    ),
    "by force, twice below": (
        [
            (TWO_LEGS, "posted"),
            (withdraw(2, "60"), "posted"),
            (reverse(1, "30", force=True), "posted"),
            (reverse(1, "30", force=True), "posted"),
            (reverse(1, force=True), "reversal_exceeded"),
        ],
        {1: (100_00, 0), 2: (-60_00, 0)},
    ),
    "force does not open a frozen account": (
        [
            (TWO_LEGS, "posted"),
            (policy(2, frozen=1), "posted"),
            (reverse(1, force=True), "account_frozen"),
        ],
        {2: (60_00, 0)},
    ),
    "force does not pass a ceiling": (
        [
            (TWO_LEGS, "posted"),
            (policy(1, ceiling="99"), "posted"),
            (reverse(1, force=True), "balance_ceiling"),
        ],
        {2: (60_00, 0)},
    ),
    "with a frozen account": (
        [(TWO_LEGS, "posted"), (policy(1, frozen=2), "posted"), (reverse(1), "account_frozen")],
        {2: (60_00, 0)},
    ),
}
