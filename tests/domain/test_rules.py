"""The rules of a whole ledger: tables of examples, and what transactions tell beside entries."""

import itertools
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from ledgerservice.domain.amounts import MAX_BALANCE_MINOR
from ledgerservice.domain.instructions import (
    Capture,
    Detail,
    Execution,
    Group,
    Instruction,
    Kind,
    Leg,
    Origin,
    Release,
)
from ledgerservice.domain.planner import plan
from ledgerservice.domain.transactions import Parents
from tests.domain.rules.holds import HOLDS
from tests.domain.rules.keys import KEYS, NOTED
from tests.domain.rules.legs import EXCHANGES, LEGS, SPLIT
from tests.domain.rules.linked import LINKED
from tests.domain.rules.making import (
    CREDITS,
    DEBITS,
    FUNDED,
    INR,
    LATER,
    USD,
    account,
    by_leg,
    cancel,
    capture,
    check,
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
    world,
)
from tests.domain.rules.policies import POLICIES
from tests.domain.rules.reversals import REVERSALS
from tests.domain.rules.schedules import SCHEDULES
from tests.domain.world import A_MINUTE, NOW, SALTS, verdict

TABLES = {
    "legs": LEGS,
    "exchanges": EXCHANGES,
    "holds": HOLDS,
    "reversals": REVERSALS,
    "policies": POLICIES,
    "schedules": SCHEDULES,
    "keys": KEYS,
    "linked": LINKED,
}
CASES = {
    f"{table}, {name}": case for table, cases in TABLES.items() for name, case in cases.items()
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_step_gets_its_verdict(case):
    steps, after = case
    check(FUNDED, steps, after)


@pytest.mark.parametrize("case", LINKED.values(), ids=LINKED.keys())
def test_what_a_linked_group_leaves_is_seen_in_its_own_batch_too(case):
    steps, after = case
    begin = next(place for place, (asked, _) in enumerate(steps) if isinstance(asked, tuple))
    together = [asked for asked, _ in steps[begin:]], [expected for _, expected in steps[begin:]]
    check(FUNDED, [*steps[:begin], together], after)


def test_a_clock_that_was_ahead_ends_nothing_before_its_time():
    """Its moment stays on the accounts that met it, and goes on to those that meet them."""
    a_year = timedelta(days=365)
    ahead = [msgspec.structs.replace(one, last_recorded_at=NOW + a_year) for one in FUNDED]
    there = check(
        ahead,
        [
            (hold(1, "60", 2, expires_at=LATER), "posted"),
            (schedule(1, 2, "5", at=LATER), "posted"),
            (withdraw(1, "100"), "insufficient_funds"),
            (cancel(2), "posted"),
            (capture(1), "posted"),
        ],
        {1: (40_00, 0), 2: (60_00, 0)},
    )
    assert all(t.recorded_at > NOW + a_year for t in there.transactions.values())


@pytest.mark.parametrize(("legs", "expected"), [(2, "posted"), (500, "posted")])
def test_a_transaction_of_many_legs(legs, expected):
    customers = [account(n, 1_00) for n in range(1, legs + 1)]
    made = general((1, f"-0.{legs - 1:02}" if legs < 100 else f"-{(legs - 1) / 100}"), *(
        (n, "0.01") for n in range(2, legs + 1)
    ))  # fmt: skip
    there = world(*(account(1, 500_00), *customers[1:]))
    assert verdict(there.one(made)) == expected
    (transaction,) = there.transactions.values()
    assert [entry.account_id for entry in transaction.entries] == [*range(1, legs + 1)]
    assert transaction.amount == legs - 1


def test_entries_are_told_own_account_first_and_credits_were_made_first():
    there = world(*FUNDED)
    asked = general((4, "-100"), (4, "60"), (2, "30"), (1, "10"))
    entries = there.record(asked).entries
    assert [(e.account_id, e.seq, e.amount, e.balance) for e in entries] == [
        (4, 1, 60_00, 160_00), (4, 2, -100_00, 60_00), (1, 1, 10_00, 110_00), (2, 1, 30_00, 30_00),
    ]  # fmt: skip


def test_a_transaction_says_more_than_its_entries():
    there = world(*FUNDED)
    terms: dict[str, Any] = {"expires_at": LATER, "capture_at": LATER - A_MINUTE}
    placed = there.record(hold(1, "60", 2, detail=NOTED, **terms))
    assert (placed.kind, placed.amount, placed.counterparty_id) == (Kind.HOLD, 60_00, None)
    assert placed.extra.detail is NOTED
    assert placed.extra.currencies == {USD: ("USD", 2)}
    assert placed.extra is not None and placed.extra.terms is not None
    hold_terms = msgspec.structs.asdict(placed.extra.terms)
    assert hold_terms == {"account_id": 1, "counterparty_id": 2, "amount": 60_00, **terms,
                          "to_ledger_id": None, "to_account_id": None}  # fmt: skip
    steps: list[Instruction] = [capture(1, "10"), release(1, "5"), capture(1, "70")]
    steps.append(capture(1, "1", final=True))
    told = [(t.amount, t.extra.remaining, t.extra.parent_id) for t in map(there.record, steps)]
    assert told == [(10_00, 50_00, 1), (5_00, 45_00, 1), (70_00, 45_00, 1), (1_00, 0, 1)]
    closed = there.record(release(1))
    assert (closed.amount, closed.extra.remaining) == (60_00, 0)
    outside = there.record(hold(4, "1"))
    assert outside.extra.terms.counterparty_id == -USD
    planned = there.record(schedule(1, 2, "5"))
    done = there.record(execute(planned.id))
    assert (planned.kind, planned.amount, planned.extra.terms.execute_at) == (
        Kind.SCHEDULE, 5_00, NOW,
    )  # fmt: skip
    assert (done.kind, done.counterparty_id, done.extra.parent_id) == (Kind.TRANSFER, 2, planned.id)
    another = there.record(schedule(1, 2, "5"))
    cancelled = there.record(cancel(another.id))
    assert (cancelled.kind, cancelled.amount, cancelled.extra.parent_id) == (
        Kind.CANCELLATION, 0, another.id,
    )  # fmt: skip
    rated = there.record(exchanged("1", "83.01", "83", rate("83.005", 3)))
    assert msgspec.json.decode(rated.extra.exchange or "") == {
        "sell": "USD", "buy": "INR", "rate": "83.005", "rounding_account_id": 3,
    }  # fmt: skip
    assert rated.extra.currencies == {USD: ("USD", 2), INR: ("INR", 2)}


def test_all_but_plain_movements_have_side_rows():
    there = world(*FUNDED)
    kinds: list[Any] = [deposit(1, "1"), deposit(1, "1", detail=NOTED), hold(1, "1")]
    assert [there.record(one).extra is None for one in kinds] == [True, False, False]


def test_a_decline_says_what_it_was_decided_on():
    there = world(*FUNDED)
    there.one(hold(4, "40"))
    declined = there.record(general((1, "-70"), (2, "131"), (4, "-61"), detail=NOTED))
    refusal, extra = declined.refusal, declined.extra
    assert (refusal.account_id, refusal.version) == (4, 1)
    assert (refusal.available, refusal.balance) == (60_00, 100_00)
    assert (declined.account_id, declined.amount) == (1, 70_00)
    assert (extra.detail, extra.currencies, extra.policies) == (NOTED, {USD: ("USD", 2)}, ())
    unmet = there.record(general((1, "-1"), (2, "1"), Leg(3, "-1", version=9), (5, "1")))
    assert (unmet.refusal.account_id, unmet.extra.currencies) == (3, {INR: ("INR", 2)})
    first = there.record(general(Leg(1, "-1", version=9), Leg(2, "1", version=9)))
    assert first.refusal.account_id == 1
    conflict = there.record(policy(1, ceiling="-1"))
    assert (conflict.extra.policies, conflict.entries, conflict.amount) == ((), (), 0)
    too_much = there.record(hold(1, "101"))
    assert (too_much.extra.terms, too_much.amount) == (None, 101_00)


def test_a_policy_tells_what_it_became():
    there = world(*FUNDED)
    first = there.record(policy(1, floor="-5", frozen=CREDITS, actor="me", reason="so"))
    second = there.record(policy(1, ceiling="500"))
    told = [policy for t in (first, second) for policy in t.extra.policies]
    assert [msgspec.structs.astuple(one) for one in told] == [
        (1, 1, -5_00, None, CREDITS, "me", "so", None),
        (1, 2, -5_00, 500_00, CREDITS, None, None, None),
    ]
    closed = there.record(policy(2, closed=True, frozen=DEBITS)).extra.policies[0]
    assert closed.restricted == 4 + DEBITS
    (entry,) = second.entries
    assert (entry.seq, entry.amount, entry.held_change, entry.balance) == (2, 0, 0, 100_00)


def test_force_tells_whom_it_took_below_the_floor_and_who_did():
    there = world(*FUNDED)
    there.post(Group([SPLIT, withdraw(2, "5"), policy(4, floor="-20")]))
    original = next(t.id for t in there.transactions.values() if t.kind is Kind.GENERAL)
    undone = there.record(reverse(original, force=True, actor="me", detail=Detail("fraud")))
    (told,) = undone.extra.policies
    assert msgspec.structs.astuple(told) == (2, 3, 0, None, 0, "me", "fraud", -5_00)
    assert undone.amount == 10_00
    there.one(deposit(4, "1"))
    mild = there.record(reverse(there.record(deposit(4, "1")).id, force=True))
    assert mild.extra.policies == ()
    unforced = there.record(reverse(there.record(deposit(4, "1")).id))
    assert unforced.extra.policies == ()


def test_force_that_was_not_needed_tells_nothing():
    there = world(*FUNDED)
    paid = there.record(transfer(1, 2, "10")).id
    there.one(hold(2, "4"))
    assert there.record(reverse(paid, "6", force=True)).extra.policies == ()
    (told,) = there.record(reverse(paid, "1", force=True)).extra.policies
    assert told.lowest == -1_00
    taken = there.record(withdraw(1, "10")).id
    there.one(policy(1, floor="500"))
    assert there.record(reverse(taken, "1")).extra.policies == ()


def test_no_rounding_is_no_entry():
    there = world(*FUNDED)
    assert len(there.record(exchanged("1", "83", "83", rate("83.005", 5))).entries) == 4


def test_a_plan_changes_nothing_that_it_is_given():
    there = world(*FUNDED)
    original = there.record(transfer(1, 2, "10"))
    there.one(reverse(original.id, "1"))
    given = Parents({original.id: original}, reversed={original.id: {1: 1_00, 2: -1_00}})
    groups = [Group([reverse(original.id, "2")])]
    decided = plan(groups, there.accounts, {}, NOW, itertools.count(99), salts=SALTS, parents=given)
    assert verdict(decided.answers[0]) == ["posted"]
    assert given.reversed == {original.id: {1: 1_00, 2: -1_00}}


def test_a_reversal_by_leg_counts_what_its_own_account_moves():
    there = world(*FUNDED)
    original = there.record(general((1, "-10"), (2, "10"), (3, "-5"), (5, "5"))).id
    assert there.record(by_leg(original, (5, "-5"), (3, "5"))).amount == 0
    assert there.record(by_leg(original, (2, "-4"), (1, "4"))).amount == 4_00


def test_what_expired_is_released_first_by_the_service_itself():
    there = world(*FUNDED)
    there.post(Group([hold(1, "10", expires_at=LATER), hold(4, "20", expires_at=LATER)]))
    there.one(hold(1, "30", expires_at=LATER + A_MINUTE))
    there.now = LATER
    planned = there.plan([Group([transfer(1, 4, "1")])])
    assert planned.service_initiated == 2
    kinds = [t.kind for t in planned.transactions]
    assert kinds == [Kind.RELEASE, Kind.RELEASE, Kind.TRANSFER]
    assert [(t.origin, t.key) for t in planned.transactions[:2]] == [
        (Origin.EXPIRY, "expiry 1"),
        (Origin.EXPIRY, "expiry 2"),
    ]
    there.write(planned)
    assert there.plan([Group([transfer(1, 4, "1")])]).service_initiated == 0
    assert verdict(there.one(Release(1, "expiry 1", origin=Origin.EXPIRY))) == "replayed"
    assert there.plan([Group([deposit(2, "1")])]).service_initiated == 0


def test_a_hold_is_not_found_in_the_batch_that_makes_it():
    there = world(*FUNDED)
    (answer,) = there.post(Group([hold(1, "10"), capture(1)]))
    assert [verdict(one) for one in answer] == ["posted", "hold_not_found"]


def test_the_same_step_twice_in_a_batch_is_one():
    there = world(*FUNDED)
    there.one(hold(1, "60", 2))
    (answer,) = there.post(Group([capture(1, "60", "k"), capture(1, "60", "k"), capture(1, "1")]))
    assert [verdict(one) for one in answer] == ["posted", "replayed", "hold_closed"]


def test_the_largest_balance_holds_for_legs_and_captures():
    rich = account(1, MAX_BALANCE_MINOR)
    there = world(rich, account(2, 5), account(3, 5))
    assert verdict(there.one(general((2, "-0.01"), (1, "0.01")))) == "balance_limit"
    held = there.record(hold(2, "0.01", 1)).id
    assert verdict(there.one(capture(held))) == "balance_limit"
    assert verdict(there.one(general((1, "-0.01"), (1, "0.01"), (2, "-0.01"), (3, "0.01")))) == (
        "posted"
    )


def test_the_service_does_nothing_before_its_time_though_the_clock_is_put_back() -> None:
    there = world(account(1, 100_00), account(2))
    there.one(hold(1, "10", 2, expires_at=LATER + A_MINUTE, capture_at=LATER))
    there.one(schedule(1, 2, "5", at=LATER))
    early: list[Instruction] = [
        Release(1, "expiry 1", origin=Origin.EXPIRY),
        Capture(1, "capture 1", final=True, origin=Origin.CAPTURE),
        Execution(2, "execution 2", origin=Origin.EXECUTION),
    ]
    verdicts = [verdict(there.one(asked)) for asked in early]
    assert verdicts == ["hold_not_found", "hold_not_found", "schedule_not_found"]
    there.now = LATER
    assert [verdict(there.one(asked)) for asked in early[1:]] == ["posted", "posted"]
