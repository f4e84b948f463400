"""Linked groups: all movements are posted or none."""

from tests.domain.rules.making import (
    BOTH,
    LATER,
    cancel,
    capture,
    deposit,
    execute,
    hold,
    policy,
    release,
    reverse,
    schedule,
    transfer,
    withdraw,
)
from tests.domain.world import A_MINUTE, NOW

LINKED = {
    "all of them": (
        [((transfer(1, 2, "5"), hold(2, "5"), policy(2, frozen=BOTH)), ["posted"] * 3)],
        {1: (95_00, 0), 2: (5_00, 5_00)},
    ),
    "a hold is taken back": (
        [
            ((hold(1, "100"), withdraw(2, "1")), (1, "insufficient_funds")),
            (withdraw(1, "100"), "posted"),
        ],
        {1: (0, 0)},
    ),
    "a capture is taken back": (
        [
            (hold(1, "60", 2), "posted"),
            ((capture(1, "50"), withdraw(1, "50")), (1, "insufficient_funds")),
            (capture(1, "60"), "posted"),
        ],
        {1: (40_00, 0)},
    ),
    "a release is taken back": (
        [
            (hold(1, "60", 2), "posted"),
            ((release(1), withdraw(1, "101")), (1, "insufficient_funds")),
            (withdraw(1, "40.01"), "insufficient_funds"),
            (capture(1), "posted"),
        ],
        {1: (40_00, 0)},
    ),
    "an expiry stays": (
        [
            (hold(1, "60", expires_at=NOW + A_MINUTE), "posted"),
            (A_MINUTE, None),
            ((withdraw(1, "70"), withdraw(1, "31")), (1, "insufficient_funds")),
        ],
        {1: (100_00, 0)},
    ),
    "a reversal is taken back": (
        [
            (transfer(1, 2, "60"), "posted"),
            ((reverse(1), withdraw(2, "1")), (1, "insufficient_funds")),
            (reverse(1), "posted"),
        ],
        {1: (100_00, 0)},
    ),
    "a forced reversal is taken back": (
        [
            (transfer(1, 2, "60"), "posted"),
            (withdraw(2, "60"), "posted"),
            ((reverse(1, force=True), withdraw(2, "1")), (1, "insufficient_funds")),
            (deposit(2, "1"), "posted"),
        ],
        {2: (1_00, 0)},
    ),
    "a policy is taken back": (
        [
            ((policy(1, floor="-50"), withdraw(1, "151")), (1, "insufficient_funds")),
            (withdraw(1, "101"), "insufficient_funds"),
        ],
        {1: (100_00, 0)},
    ),
    "a cancellation is taken back": (
        [
            (schedule(1, 2, "1", at=LATER), "posted"),
            ((cancel(1), withdraw(1, "101")), (1, "insufficient_funds")),
            (cancel(1), "posted"),
        ],
        {2: (0, 0)},
    ),
    "a later one sees an earlier one": (
        [
            (hold(1, "60", 2), "posted"),
            ((capture(1, "30"), capture(1, "30.01")), (1, "hold_exceeded")),
            ((capture(1, "30"), capture(1, "30")), ["posted", "posted"]),
        ],
        {2: (60_00, 0)},
    ),
    "a reversal sees an earlier one": (
        [
            (transfer(1, 2, "60"), "posted"),
            ((reverse(1, "30"), reverse(1, "30.01")), (1, "reversal_exceeded")),
            ((reverse(1, "30"), reverse(1)), ["posted", "posted"]),
            ((reverse(1),), (0, "reversal_exceeded")),
        ],
        {1: (100_00, 0)},
    ),
    "a policy counts at once": (
        [
            ((policy(1, floor="-50"), withdraw(1, "150")), ["posted", "posted"]),
            ((policy(1, frozen=BOTH), deposit(1, "1")), (1, "account_frozen")),
            (
                (policy(1, floor="-60"), policy(1, floor="-70"), withdraw(1, "21")),
                (2, "insufficient_funds"),
            ),
            (withdraw(1, "0.01"), "insufficient_funds"),
        ],
        {1: (-50_00, 0)},
    ),
    "a ceiling counts at once": (
        [((policy(2, ceiling="10"), deposit(2, "11")), (1, "balance_ceiling"))],
        {2: (0, 0)},
    ),
    "an earlier policy is not taken back": (
        [
            ((policy(1, floor="-50"),), ["posted"]),
            ((policy(1, floor="-60"), withdraw(1, "161")), (1, "insufficient_funds")),
            (withdraw(1, "150.01"), "insufficient_funds"),
            (withdraw(1, "150"), "posted"),
        ],
        {1: (-50_00, 0)},
    ),
    "an earlier cancellation is not taken back": (
        [
            (schedule(1, 2, "1", at=LATER), "posted"),
            ((cancel(1),), ["posted"]),
            ((cancel(1),), (0, "schedule_settled")),
            (execute(1), "schedule_not_found"),
        ],
        {2: (0, 0)},
    ),
    "an execution counts at once": (
        [
            (schedule(1, 2, "1"), "posted"),
            ((execute(1),), ["posted"]),
            (cancel(1), "schedule_settled"),
        ],
        {2: (1_00, 0)},
    ),
    "an execution in vain counts at once": (
        [
            (schedule(2, 1, "1"), "posted"),
            ((deposit(4, "1"),), ["posted"]),
            (execute(1), "insufficient_funds"),
            (cancel(1), "schedule_settled"),
        ],
        {},
    ),
    "an execution is taken back": (
        [
            (schedule(1, 2, "1"), "posted"),
            ((execute(1), withdraw(1, "100")), (1, "insufficient_funds")),
            (execute(1), "posted"),
        ],
        {2: (1_00, 0)},
    ),
    "a cancellation counts at once": (
        [
            (schedule(1, 2, "1", at=LATER), "posted"),
            ((cancel(1), cancel(1)), (1, "schedule_settled")),
            (cancel(1), "posted"),
        ],
        {},
    ),
    "a rejection": (
        [((deposit(1, "1"), transfer(1, 99, "1")), (1, "account_not_found"))],
        {1: (100_00, 0)},
    ),
    "a repeat is no fault": (
        [
            (deposit(1, "1", "k"), "posted"),
            ((deposit(1, "1", "k"), deposit(1, "2")), ["replayed", "posted"]),
        ],
        {1: (103_00, 0)},
    ),
    "a repeat of a decline is": (
        [
            (withdraw(2, "1", "k"), "insufficient_funds"),
            ((deposit(2, "5"), withdraw(2, "1", "k")), (1, "replayed")),
        ],
        {2: (0, 0)},
    ),
    "a key is free again": (
        [
            ((hold(1, "1", key="k"), withdraw(1, "100")), (1, "insufficient_funds")),
            (hold(1, "2", key="k"), "posted"),
        ],
        {1: (100_00, 2_00)},
    ),
}
