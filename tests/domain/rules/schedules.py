"""Scheduled transfers."""

from ledgerservice.domain.instructions import Execution
from tests.domain.rules.making import (
    DEBITS,
    LATER,
    cancel,
    capture,
    deposit,
    execute,
    hold,
    policy,
    schedule,
    transfer,
    withdraw,
)
from tests.domain.world import NOW

SCHEDULES = {
    "executed": (
        [(schedule(1, 2, "60"), "posted"), (execute(1), "posted")],
        {1: (40_00, 0), 2: (60_00, 0)},
    ),
    "nothing is reserved": (
        [(schedule(1, 2, "60"), "posted"), (withdraw(1, "100"), "posted")],
        {1: (0, 0)},
    ),
    "without funds at the time it is asked for": (
        [
            (schedule(2, 1, "60"), "posted"),
            (deposit(2, "60"), "posted"),
            (execute(1), "posted"),
        ],
        {1: (160_00, 0), 2: (0, 0)},
    ),
    "without funds at its time": (
        [
            (schedule(2, 1, "60"), "posted"),
            (execute(1), "insufficient_funds"),
            (deposit(2, "60"), "posted"),
            (execute(1), "replayed"),
            (cancel(1), "schedule_settled"),
        ],
        {2: (60_00, 0)},
    ),
    "executed once": (
        [(schedule(1, 2, "6"), "posted"), (execute(1), "posted"), (execute(1), "replayed")],
        {2: (6_00, 0)},
    ),
    "cancelled": (
        [
            (schedule(1, 2, "6", at=LATER), "posted"),
            (cancel(1), "posted"),
            (execute(1), "schedule_not_found"),
            (cancel(1), "schedule_settled"),
        ],
        {1: (100_00, 0), 2: (0, 0)},
    ),
    "not before its time, whoever asks": (
        [
            (schedule(1, 2, "6", at=LATER), "posted"),
            (execute(1), "schedule_not_found"),
            (Execution(1, "a caller's"), "schedule_not_found"),
            (cancel(1), "posted"),
        ],
        {2: (0, 0)},
    ),
    "due, though nothing has come by to execute it": (
        [
            (schedule(1, 2, "6", at=LATER), "posted"),
            (LATER - NOW, None),
            (cancel(1), "schedule_settled"),
            (execute(1), "posted"),
        ],
        {2: (6_00, 0)},
    ),
    "too late to cancel": (
        [(schedule(1, 2, "6"), "posted"), (execute(1), "posted"), (cancel(1), "schedule_settled")],
        {2: (6_00, 0)},
    ),
    "a cancellation of nothing": ([(cancel(1), "schedule_not_found")], {}),
    "a cancellation of a transfer": (
        [
            (transfer(1, 2, "1"), "posted"),
            (cancel(1), "schedule_not_found"),
            (execute(1), "schedule_not_found"),
        ],
        {},
    ),
    "a cancellation of a hold": (
        [
            (hold(1, "1"), "posted"),
            (cancel(1), "schedule_not_found"),
            (execute(1), "schedule_not_found"),
        ],
        {},
    ),
    "a capture of a schedule": (
        [(schedule(1, 2, "6"), "posted"), (capture(1), "hold_not_found")],
        {},
    ),
    "to nobody": ([(schedule(1, 99, "6"), "account_not_found")], {}),
    "from nobody": ([(schedule(99, 1, "6"), "account_not_found")], {}),
    "to the outside": ([(schedule(1, -1, "6"), "account_not_found")], {}),
    "to itself": ([(schedule(1, 1, "6"), "same_account")], {}),
    "to another currency": ([(schedule(1, 3, "6"), "currency_mismatch")], {}),
    "with too many decimals": ([(schedule(1, 2, "0.001"), "amount_precision")], {}),
    "with too much": ([(schedule(1, 2, "10000000000000.01"), "amount_limit")], {}),
    "to a full account": (
        [
            (policy(2, ceiling="5"), "posted"),
            (schedule(1, 2, "6"), "posted"),
            (execute(2), "balance_ceiling"),
        ],
        {1: (100_00, 0)},
    ),
    "from a frozen account": (
        [
            (policy(1, frozen=DEBITS), "posted"),
            (schedule(1, 2, "6"), "posted"),
            (execute(2), "account_frozen"),
        ],
        {2: (0, 0)},
    ),
}
