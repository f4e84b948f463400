"""Holds, their captures, releases and expiry."""

from datetime import timedelta

from tests.domain.rules.making import (
    DEBITS,
    USD,
    capture,
    capture_by_itself,
    deposit,
    hold,
    policy,
    release,
    transfer,
    withdraw,
)
from tests.domain.world import A_MINUTE, NOW

HOLDS = {
    "what is to be captured first does not expire before that": (
        [
            (hold(1, "60", 2, capture_at=NOW + A_MINUTE, expires_at=NOW + 2 * A_MINUTE), "posted"),
            (5 * A_MINUTE, None),
            (withdraw(1, "50"), "insufficient_funds"),
            (capture(1), "hold_closed"),  # of anybody else's it has expired
            (capture_by_itself(1), "posted"),
            (capture_by_itself(1), "replayed"),
            (withdraw(1, "50"), "insufficient_funds"),
            (withdraw(1, "40"), "posted"),
        ],
        {1: (0, 0), 2: (60_00, 0)},
    ),
    "and leaves nothing to try where somebody came first": (
        [
            (hold(1, "60", 2, capture_at=NOW + A_MINUTE), "posted"),
            (capture(1), "posted"),
            (5 * A_MINUTE, None),
            (capture_by_itself(1), "hold_not_found"),
        ],
        {1: (40_00, 0), 2: (60_00, 0)},
    ),
    "and expires when it was tried in vain": (
        [
            (hold(1, "60", 2, capture_at=NOW + A_MINUTE, expires_at=NOW + 2 * A_MINUTE), "posted"),
            (policy(1, frozen=DEBITS), "posted"),
            (5 * A_MINUTE, None),
            (capture_by_itself(1), "account_frozen"),
            (policy(1, frozen=0), "posted"),
            (withdraw(1, "100"), "posted"),
        ],
        {1: (0, 0), 2: (0, 0)},
    ),
    "a hold": ([(hold(1, "60"), "posted")], {1: (100_00, 60_00), -USD: (-200_00, 0)}),
    "of everything": ([(hold(1, "100"), "posted")], {1: (100_00, 100_00)}),
    "of a minor unit too much": ([(hold(1, "100.01"), "insufficient_funds")], {1: (100_00, 0)}),
    "holds add up": (
        [
            (hold(1, "60"), "posted"),
            (hold(1, "40.01"), "insufficient_funds"),
            (hold(1, "40"), "posted"),
        ],
        {1: (100_00, 100_00)},
    ),
    "what is held cannot be withdrawn": (
        [
            (hold(1, "60"), "posted"),
            (withdraw(1, "40.01"), "insufficient_funds"),
            (withdraw(1, "40"), "posted"),
        ],
        {1: (60_00, 60_00)},
    ),
    "on an unknown account": ([(hold(99, "1"), "account_not_found")], {}),
    "for an unknown account": ([(hold(1, "1", 99), "account_not_found")], {}),
    "for an external account": ([(hold(1, "1", -1), "account_not_found")], {}),
    "on an external account": ([(hold(-1, "1"), "account_not_found")], {}),
    "for itself": ([(hold(1, "1", 1), "same_account")], {}),
    "for another currency": ([(hold(1, "1", 3), "currency_mismatch")], {}),
    "existence before currency": ([(hold(3, "0.001", 99), "account_not_found")], {}),
    "of too many decimals": ([(hold(1, "0.001"), "amount_precision")], {}),
    "of too much": ([(hold(1, "10000000000000.01"), "amount_limit")], {}),
    "expired already": ([(hold(1, "1", expires_at=NOW), "expiry_passed")], {}),
    "a moment to go": ([(hold(1, "1", expires_at=NOW + timedelta(microseconds=1)), "posted")], {}),
    "captured": (
        [(hold(1, "60"), "posted"), (capture(1), "posted")],
        {1: (40_00, 0), -USD: (-140_00, 0)},
    ),
    "captured for another": (
        [(hold(1, "60", 2), "posted"), (capture(1), "posted")],
        {1: (40_00, 0), 2: (60_00, 0)},
    ),
    "captured in parts": (
        [
            (hold(1, "60", 2), "posted"),
            (capture(1, "10"), "posted"),
            (capture(1, "20"), "posted"),
            (capture(1), "posted"),
        ],
        {1: (40_00, 0), 2: (60_00, 0)},
    ),
    "a part leaves the rest held": (
        [(hold(1, "60", 2), "posted"), (capture(1, "10"), "posted")],
        {1: (90_00, 50_00), 2: (10_00, 0)},
    ),
    "captured to the unit": (
        [(hold(1, "60", 2), "posted"), (capture(1, "60"), "posted")],
        {1: (40_00, 0)},
    ),
    "captured by a unit too much": (
        [(hold(1, "60", 2), "posted"), (capture(1, "60.01"), "hold_exceeded")],
        {1: (100_00, 60_00)},
    ),
    "the rest is less": (
        [
            (hold(1, "60", 2), "posted"),
            (capture(1, "30"), "posted"),
            (capture(1, "30.01"), "hold_exceeded"),
            (capture(1, "30"), "posted"),
        ],
        {1: (40_00, 0)},
    ),
    "a final part releases the rest": (
        [
            (hold(1, "60", 2), "posted"),
            (capture(1, "10", final=True), "posted"),
            (capture(1, "1"), "hold_closed"),
        ],
        {1: (90_00, 0), 2: (10_00, 0)},
    ),
    "too much is not final": (
        [
            (hold(1, "60", 2), "posted"),
            (capture(1, "61", final=True), "hold_exceeded"),
            (capture(1), "posted"),
        ],
        {2: (60_00, 0)},
    ),
    "captured twice": (
        [(hold(1, "60"), "posted"), (capture(1), "posted"), (capture(1), "hold_closed")],
        {1: (40_00, 0)},
    ),
    "captured of nothing": ([(capture(1), "hold_not_found")], {}),
    "captured of a deposit": (
        [
            (deposit(1, "1"), "posted"),
            (capture(1), "hold_not_found"),
            (release(1), "hold_not_found"),
        ],
        {},
    ),
    "captured of a declined hold": (
        [(hold(1, "101"), "insufficient_funds"), (capture(1), "hold_not_found")],
        {},
    ),
    "captured with too many decimals": (
        [(hold(1, "60"), "posted"), (capture(1, "0.001"), "amount_precision")],
        {},
    ),
    "released with too much": (
        [(hold(1, "60"), "posted"), (release(1, "10000000000000.01"), "amount_limit")],
        {},
    ),
    "released": ([(hold(1, "60"), "posted"), (release(1), "posted")], {1: (100_00, 0)}),
    "released in part": (
        [
            (hold(1, "60", 2), "posted"),
            (release(1, "15"), "posted"),
            (capture(1, "45.01"), "hold_exceeded"),
            (release(1, "45.01"), "hold_exceeded"),
            (capture(1), "posted"),
        ],
        {1: (55_00, 0), 2: (45_00, 0)},
    ),
    "released twice": (
        [(hold(1, "60"), "posted"), (release(1), "posted"), (release(1), "hold_closed")],
        {1: (100_00, 0)},
    ),
    "captured, then released": (
        [(hold(1, "60"), "posted"), (capture(1), "posted"), (release(1, "1"), "hold_closed")],
        {},
    ),
    "a released hold's money is free": (
        [(hold(1, "60"), "posted"), (release(1), "posted"), (withdraw(1, "100"), "posted")],
        {1: (0, 0)},
    ),
    "not yet expired": (
        [
            (hold(1, "60", expires_at=NOW + A_MINUTE), "posted"),
            (A_MINUTE - timedelta(seconds=1), None),
            (withdraw(1, "41"), "insufficient_funds"),
            (capture(1), "posted"),
        ],
        {1: (40_00, 0)},
    ),
    "expired to the moment": (
        [
            (hold(1, "60", expires_at=NOW + A_MINUTE), "posted"),
            (A_MINUTE, None),
            (withdraw(1, "41"), "posted"),
        ],
        {1: (59_00, 0)},
    ),
    "expired, then captured": (
        [
            (hold(1, "60", expires_at=NOW + A_MINUTE), "posted"),
            (A_MINUTE, None),
            (capture(1, "1"), "hold_closed"),
            (release(1), "hold_closed"),
        ],
        {1: (100_00, 0)},
    ),
    "partly captured, then expired": (
        [
            (hold(1, "60", 2, expires_at=NOW + A_MINUTE), "posted"),
            (capture(1, "20"), "posted"),
            (A_MINUTE, None),
            (deposit(1, "1"), "posted"),
        ],
        {1: (81_00, 0), 2: (20_00, 0)},
    ),
    "captured to the end does not expire": (
        [
            (hold(1, "60", 2, expires_at=NOW + A_MINUTE), "posted"),
            (capture(1), "posted"),
            (A_MINUTE, None),
            (deposit(1, "1"), "posted"),
        ],
        {1: (41_00, 0)},
    ),
    "one of two expires": (
        [
            (hold(1, "60", expires_at=NOW + A_MINUTE), "posted"),
            (hold(1, "30"), "posted"),
            (A_MINUTE, None),
            (withdraw(1, "70.01"), "insufficient_funds"),
            (withdraw(1, "70"), "posted"),
        ],
        {1: (30_00, 30_00)},
    ),
    "it expires by a rejection too": (
        [
            (hold(1, "60", expires_at=NOW + A_MINUTE), "posted"),
            (A_MINUTE, None),
            (transfer(1, 3, "1"), "currency_mismatch"),
        ],
        {1: (100_00, 0)},
    ),
    "captured to a full account": (
        [
            (policy(2, ceiling="10"), "posted"),
            (hold(1, "60", 2), "posted"),
            (capture(2), "balance_ceiling"),
            (capture(2, "10", final=True), "posted"),
        ],
        {1: (90_00, 0), 2: (10_00, 0)},
    ),
}
