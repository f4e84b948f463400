"""Policies of accounts, and what they allow."""

from tests.domain.rules.making import (
    BOTH,
    CREDITS,
    DEBITS,
    capture,
    deposit,
    general,
    hold,
    policy,
    release,
    reverse,
    transfer,
    withdraw,
)
from tests.domain.world import A_MINUTE, NOW

POLICIES = {
    "an overdraft": (
        [
            (policy(1, floor="-50"), "posted"),
            (withdraw(1, "150.01"), "insufficient_funds"),
            (withdraw(1, "150"), "posted"),
        ],
        {1: (-50_00, 0)},
    ),
    "a hold in an overdraft": (
        [
            (policy(1, floor="-50"), "posted"),
            (hold(1, "150.01"), "insufficient_funds"),
            (hold(1, "150"), "posted"),
            (capture(3), "posted"),
        ],
        {1: (-50_00, 0)},
    ),
    "legs in an overdraft": (
        [(policy(1, floor="-50"), "posted"), (general((1, "-150"), (2, "150")), "posted")],
        {1: (-50_00, 0)},
    ),
    "a floor above nothing": (
        [
            (policy(1, floor="10"), "posted"),
            (withdraw(1, "90.01"), "insufficient_funds"),
            (withdraw(1, "90"), "posted"),
        ],
        {1: (10_00, 0)},
    ),
    "a floor above the balance": (
        [
            (policy(1, floor="120"), "posted"),
            (withdraw(1, "1"), "insufficient_funds"),
            (hold(1, "1"), "insufficient_funds"),
            (deposit(1, "10"), "posted"),
            (general((1, "-1"), (1, "1")), "posted"),
            (deposit(1, "11"), "posted"),
            (withdraw(1, "1"), "posted"),
        ],
        {1: (120_00, 0)},
    ),
    "a floor that is raised in debt": (
        [
            (policy(1, floor="-50"), "posted"),
            (withdraw(1, "140"), "posted"),
            (policy(1, floor="0"), "posted"),
            (withdraw(1, "1"), "insufficient_funds"),
            (deposit(1, "1"), "posted"),
        ],
        {1: (-39_00, 0)},
    ),
    "what was held before is captured below the floor": (
        [
            (hold(1, "100", 2), "posted"),
            (policy(1, floor="50"), "posted"),
            (capture(1, "40"), "posted"),
            (release(1, "10"), "posted"),
            (capture(1), "posted"),
        ],
        {1: (10_00, 0), 2: (90_00, 0)},
    ),
    "a ceiling": (
        [
            (policy(2, ceiling="50"), "posted"),
            (deposit(2, "50.01"), "balance_ceiling"),
            (transfer(1, 2, "50.01"), "balance_ceiling"),
            (general((1, "-50.01"), (2, "50.01")), "balance_ceiling"),
            (deposit(2, "50"), "posted"),
            (withdraw(2, "1"), "posted"),
        ],
        {2: (49_00, 0)},
    ),
    "a ceiling below the balance": (
        [
            (policy(1, ceiling="50"), "posted"),
            (withdraw(1, "1"), "posted"),
            (deposit(1, "1"), "balance_ceiling"),
            (hold(1, "99"), "posted"),
            (release(4), "posted"),
        ],
        {1: (99_00, 0)},
    ),
    "a ceiling is of the balance, not of what is available": (
        [
            (hold(1, "100"), "posted"),
            (policy(1, ceiling="100"), "posted"),
            (deposit(1, "0.01"), "balance_ceiling"),
        ],
        {1: (100_00, 100_00)},
    ),
    "a ceiling counts legs together": (
        [
            (policy(2, ceiling="10"), "posted"),
            (general((1, "-10"), (2, "20"), (2, "-10")), "posted"),
        ],
        {2: (10_00, 0)},
    ),
    "a ceiling taken away": (
        [
            (policy(2, ceiling="50"), "posted"),
            (policy(2, ceiling=None), "posted"),
            (deposit(2, "51"), "posted"),
        ],
        {2: (51_00, 0)},
    ),
    "what is not given stays": (
        [
            (policy(2, floor="-5", ceiling="50", frozen=0), "posted"),
            (policy(2, floor="-6"), "posted"),
            (deposit(2, "51"), "balance_ceiling"),
            (policy(2, ceiling="40"), "posted"),
            (withdraw(2, "6"), "posted"),
            (withdraw(2, "0.01"), "insufficient_funds"),
        ],
        {2: (-6_00, 0)},
    ),
    "a freeze stays when a limit changes": (
        [
            (policy(1, frozen=DEBITS), "posted"),
            (policy(1, floor="-6"), "posted"),
            (withdraw(1, "1"), "account_frozen"),
        ],
        {1: (100_00, 0)},
    ),
    "a ceiling below the floor": (
        [
            (policy(1, floor="10", ceiling="9.99"), "policy_conflict"),
            (policy(1, floor="10", ceiling="10"), "posted"),
            (policy(1, floor="10.01"), "policy_conflict"),
            (policy(1, ceiling="9.99"), "policy_conflict"),
        ],
        {},
    ),
    "a limit with too many decimals": (
        [
            (policy(1, floor="0.001"), "amount_precision"),
            (policy(1, ceiling="0.001"), "amount_precision"),
            (policy(6, floor="0.0"), "amount_precision"),
        ],
        {},
    ),
    "the farthest limits": (
        [
            (policy(1, floor="-10000000000000000", ceiling="10000000000000000"), "posted"),
            (policy(1, floor="-10000000000000000.01"), "amount_limit"),
            (policy(1, ceiling="10000000000000000.01"), "amount_limit"),
        ],
        {},
    ),
    "on an unknown account": ([(policy(99, floor="1"), "account_not_found")], {}),
    "on an external account": ([(policy(-1, ceiling="1"), "account_not_found")], {}),
    "frozen for debits": (
        [
            (policy(1, frozen=DEBITS), "posted"),
            (withdraw(1, "1"), "account_frozen"),
            (transfer(1, 2, "1"), "account_frozen"),
            (hold(1, "1"), "account_frozen"),
            (general((1, "-1"), (2, "1")), "account_frozen"),
            (deposit(1, "1"), "posted"),
            (transfer(4, 1, "1"), "posted"),
            (general((1, "-1"), (1, "2"), (4, "-1")), "account_frozen"),
        ],
        {1: (102_00, 0)},
    ),
    "closed, though legs make up for each other": (
        [
            (policy(2, closed=True), "posted"),
            (general((2, "5"), (2, "-5"), (1, "-1"), (4, "1")), "account_closed"),
        ],
        {1: (100_00, 0)},
    ),
    "frozen for credits": (
        [
            (policy(1, frozen=CREDITS), "posted"),
            (deposit(1, "1"), "account_frozen"),
            (transfer(4, 1, "1"), "account_frozen"),
            (general((4, "-1"), (1, "1")), "account_frozen"),
            (withdraw(1, "1"), "posted"),
            (hold(1, "1", 2), "posted"),
            (capture(6), "posted"),
        ],
        {1: (98_00, 0)},
    ),
    "frozen for both": (
        [
            (policy(1, frozen=BOTH), "posted"),
            (deposit(1, "1"), "account_frozen"),
            (withdraw(1, "1"), "account_frozen"),
            (hold(1, "1"), "account_frozen"),
        ],
        {1: (100_00, 0)},
    ),
    "thawed": (
        [
            (policy(1, frozen=BOTH), "posted"),
            (policy(1, frozen=0), "posted"),
            (withdraw(1, "1"), "posted"),
        ],
        {1: (99_00, 0)},
    ),
    "a frozen account's hold": (
        [
            (hold(1, "60"), "posted"),
            (policy(1, frozen=BOTH), "posted"),
            (capture(1, "10"), "account_frozen"),
            (release(1, "10"), "posted"),
            (policy(1, frozen=CREDITS), "posted"),
            (capture(1, "10"), "posted"),
        ],
        {1: (90_00, 40_00)},
    ),
    "a frozen account's hold expires": (
        [
            (hold(1, "60", expires_at=NOW + A_MINUTE), "posted"),
            (policy(1, frozen=BOTH), "posted"),
            (A_MINUTE, None),
            (withdraw(1, "1"), "account_frozen"),
        ],
        {1: (100_00, 0)},
    ),
    "frozen comes before funds": (
        [(policy(1, frozen=DEBITS), "posted"), (withdraw(1, "101"), "account_frozen")],
        {},
    ),
    "closed": (
        [
            (policy(2, closed=True), "posted"),
            (deposit(2, "1"), "account_closed"),
            (withdraw(2, "1"), "account_closed"),
            (transfer(1, 2, "1"), "account_closed"),
            (hold(2, "1"), "account_closed"),
            (general((1, "-1"), (2, "1")), "account_closed"),
            (hold(1, "1", 2), "posted"),
            (capture(7), "account_closed"),
        ],
        {1: (100_00, 1_00), 2: (0, 0)},
    ),
    "closed for ever": (
        [
            (policy(2, closed=True), "posted"),
            (policy(2, frozen=0), "account_closed"),
            (policy(2, closed=True), "account_closed"),
            (policy(2, floor="-5"), "account_closed"),
        ],
        {},
    ),
    "closed and frozen": (
        [
            (policy(2, closed=True, frozen=BOTH), "posted"),
            (deposit(2, "1"), "account_closed"),
        ],
        {},
    ),
    "closed with a balance": (
        [
            (policy(1, closed=True), "balance_not_zero"),
            (withdraw(1, "100"), "posted"),
            (policy(1, closed=True), "posted"),
        ],
        {1: (0, 0)},
    ),
    "closed in debt": (
        [
            (policy(2, floor="-5"), "posted"),
            (withdraw(2, "1"), "posted"),
            (policy(2, closed=True), "balance_not_zero"),
        ],
        {2: (-1_00, 0)},
    ),
    "closed with all of it held": (
        [(hold(1, "100"), "posted"), (policy(1, closed=True), "balance_not_zero")],
        {1: (100_00, 100_00)},
    ),
    "the giver is judged before the receiver": (
        [
            (policy(2, frozen=BOTH), "posted"),
            (transfer(1, 2, "101"), "insufficient_funds"),
            (general((1, "-101"), (2, "101")), "insufficient_funds"),
            (general((2, "1"), (1, "-1")), "account_frozen"),
        ],
        {1: (100_00, 0)},
    ),
    "closed with a hold": (
        [
            (policy(2, floor="-5"), "posted"),
            (hold(2, "5"), "posted"),
            (policy(2, closed=True), "balance_not_zero"),
            (release(2), "posted"),
            (policy(2, closed=True), "posted"),
        ],
        {2: (0, 0)},
    ),
    "closed with an expired hold": (
        [
            (policy(2, floor="-5"), "posted"),
            (hold(2, "5", expires_at=NOW + A_MINUTE), "posted"),
            (A_MINUTE, None),
            (policy(2, closed=True), "posted"),
        ],
        {2: (0, 0)},
    ),
    "a closed account's money comes not back": (
        [
            (transfer(1, 2, "10"), "posted"),
            (transfer(2, 4, "10"), "posted"),
            (policy(2, closed=True), "posted"),
            (reverse(1, force=True), "account_closed"),
            (reverse(2), "account_closed"),
        ],
        {2: (0, 0)},
    ),
}
