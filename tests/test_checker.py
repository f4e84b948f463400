"""The checker of the proof, on histories that are known to be right, and doctored ones."""

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from msgspec.structs import replace

from tests.proof.checker import DECLINED, OK, OWN, check, outcome
from tests.proof.fabricated import OUTSIDE, Fabricated, major
from tests.proof.history import PLAIN, Attempt, Recorder, Request, read
from tests.proof.journal import Entry, Hold, Schedule, Transaction, load, save

OPERATIONS = 1_000


@pytest.mark.parametrize("seed", range(20))
def test_a_right_history_raises_no_alarm(seed: int) -> None:
    case = Fabricated(OPERATIONS, seed, accounts=2 + seed % 5)
    report = check(case.attempts, case.journal)
    assert report.violations == []
    assert report.outcomes[OK] > OPERATIONS / 3
    assert report.outcomes[DECLINED] > OPERATIONS / 50


def test_a_history_is_kept_on_disk(tmp_path) -> None:
    request = Request("transfer", 1, 2, 5, "k")
    recorder = Recorder(tmp_path, "client1")
    _, second = recorder.sent(request, Request("account", 1))
    recorder.got([(second, 200, b'{"id": 1}', False)])
    recorder.close()
    unknown, known = read(tmp_path)
    assert (unknown.request, unknown.status, unknown.completed_ns) == (request, None, None)
    assert (known.status, known.body) == (200, {"id": 1})
    assert known.completed_ns >= known.invoked_ns == unknown.invoked_ns
    journal = Fabricated(50, 1).journal
    save(journal, tmp_path / "journal")
    assert load(tmp_path / "journal") == journal


class Doctor:
    """Changes a right history so that it breaks one promise."""

    def __init__(self, seed: int) -> None:
        self.case = Fabricated(OPERATIONS, seed)
        self.journal = self.case.journal
        self.attempts = self.case.attempts
        self.chance = random.Random(seed)

    def one(self, what: Callable[[Attempt], bool]) -> Attempt:
        """One of the attempts, of the later half."""
        later = self.attempts[len(self.attempts) // 2 :]
        return self.chance.choice([attempt for attempt in later if what(attempt)])

    def write(self) -> Attempt:
        """The only attempt of a posted movement."""
        sent = [(a.request.account, a.request.key) for a in self.attempts]
        return self.one(
            lambda a: (
                a.request.kind in PLAIN
                and outcome(a) == OK
                and sent.count((a.request.account, a.request.key)) == 1
            )
        )

    def decline(self) -> Attempt:
        kinds = ("withdraw", "transfer")
        return self.one(
            lambda a: (
                outcome(a) == DECLINED
                and not a.replayed
                and a.request.kind in kinds
                and a.body["code"] == "insufficient_funds"
            )
        )

    def hold(self, captured: bool = True) -> Hold:
        """A hold that was captured in part or whole, or one of which nothing was."""
        return self.chance.choice([h for h in self.journal.holds if bool(h.captured) == captured])

    def step(self, kind: str, of: Hold | None = None) -> Transaction:
        """A posted step of that kind, of that hold if one is given."""
        return self.chance.choice(
            [
                t
                for t in self.journal.transactions
                if t.kind == kind and t.reason is None and (of is None or t.parent == of.id)
            ]
        )

    def declined(self, reason: str) -> Transaction:
        return next(t for t in self.journal.transactions if t.reason == reason)

    def legs(self, row: Transaction) -> list[Entry]:
        return [entry for entry in self.journal.entries if entry.transaction == row.id]

    def reading(self, kind: str) -> Attempt:
        return self.one(lambda a: a.request.kind == kind and outcome(a) == OK)

    def row(self, attempt: Attempt) -> Transaction:
        return self.journal.transactions[attempt.body["transaction_id"] - 1]

    def account(self, number: int):
        return next(account for account in self.journal.accounts if account.id == number)

    def rows(self, number: int) -> list[Entry]:
        return [entry for entry in self.journal.entries if entry.account == number]

    def post(self, row: Transaction) -> Transaction:
        """Write another movement like that of `row` to the end of the journal, rightly."""
        new = Transaction(
            len(self.journal.transactions) + 1, row.kind, row.account, row.other, row.amount,
            row.key, f"{10**12:020}", None, None, None, None,
        )  # fmt: skip
        self.journal.transactions.append(new)
        change = new.amount if new.kind == "deposit" else -new.amount
        for number, amount in ((new.account, change), (new.other, -change)):
            self.enter(number, amount, new.id)
        return new

    def enter(self, number: int, amount: int, transaction: int) -> None:
        account = self.account(number)
        account.balance += amount
        account.version += 1
        self.journal.entries.append(
            Entry(
                number, account.version, transaction, 1, amount, account.balance, 0, f"{10**12:020}"
            )
        )

    def take_back_last(self) -> Transaction:
        """Remove the last posted plain movement of a client's, as if it had never been."""
        last = max(
            t.id
            for t in self.journal.transactions
            if t.kind in PLAIN and t.reason is None and t.parent is None
        )
        for entry in [e for e in self.journal.entries if e.transaction == last]:
            self.journal.entries.remove(entry)
        row = self.journal.transactions[last - 1]
        self.journal.transactions.remove(row)
        return row


def lost_acknowledgement(d: Doctor) -> None:
    d.take_back_last()


def lost_decline(d: Doctor) -> None:
    d.journal.transactions.remove(d.row(d.decline()))


def applied_twice(d: Doctor) -> None:
    d.post(d.row(d.one(lambda a: a.request.kind == "deposit" and outcome(a) == OK)))


def answered_twice_as_the_first(d: Doctor) -> None:
    d.one(lambda a: a.replayed and outcome(a) == OK).replayed = False
    first = [a for a in d.attempts if a.status is None]
    for attempt in first:
        d.attempts.remove(attempt)
    for attempt in d.attempts:
        attempt.replayed = False


def unbalanced(d: Doctor) -> None:
    d.chance.choice(d.journal.entries).amount += 1


def total_not_zero(d: Doctor) -> None:
    d.rows(OUTSIDE)[-1].amount += 1
    d.rows(OUTSIDE)[-1].balance += 1
    d.account(OUTSIDE).balance += 1


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
    middle = len(rows) // 2
    amount = rows[middle].balance + 1
    rows[middle].amount -= amount
    rows[middle].balance -= amount
    rows[middle + 1].amount += amount


def account_differs_from_its_journal(d: Doctor) -> None:
    d.account(3).balance += 1
    d.account(4).balance -= 1


def time_runs_backwards(d: Doctor) -> None:
    rows = d.rows(OUTSIDE)
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


def nobody_asked(d: Doctor) -> None:
    deposits = [a for a in d.attempts if a.request.kind == "deposit" and outcome(a) == OK]
    d.post(d.row(deposits[0])).key = "nobody's"


def other_content(d: Doctor) -> None:
    """More was moved than was asked for, and answered so."""
    attempt = d.write()
    attempt.request = replace(attempt.request, amount=attempt.request.amount + 1)


def answered_another_amount(d: Doctor) -> None:
    attempt = d.write()
    attempt.body = {**attempt.body, "amount": "99.99"}


def answered_another_version(d: Doctor) -> None:
    attempt = d.write()
    own, other = attempt.body["entries"]
    attempt.body = {**attempt.body, "entries": [own | {"version": own["version"] - 1}, other]}


def answered_another_decision(d: Doctor) -> None:
    attempt = d.decline()
    decided_on = {**attempt.body["decided_on"], "version": 0, "available": "0.00"}
    attempt.body = {**attempt.body, "decided_on": decided_on}


def answers_differ(d: Doctor) -> None:
    def sent_twice(a: Attempt) -> bool:
        return sum(b.request == a.request and outcome(b) == OK for b in d.attempts) > 1

    again = d.one(lambda a: a.replayed and outcome(a) == OK and sent_twice(a))
    again.body = {**again.body, "recorded_at": "another"}


def key_reused_for_another_body(d: Doctor) -> None:
    refused = d.one(lambda a: (a.body or {}) and a.status == 422)
    row = next(t for t in d.journal.transactions if t.key == refused.request.key)
    answered = next(a for a in d.attempts if a.request.key == row.key and a.status in (200, 400))
    refused.status, refused.body, refused.replayed = answered.status, answered.body, True


def key_called_reused_that_is_not(d: Doctor) -> None:
    refused = d.one(lambda a: a.status == 422)
    refused.request = Request("deposit", refused.request.account, None, 5, "never used")


def refused_but_applied(d: Doctor) -> None:
    attempt = d.write()
    attempt.status, attempt.body = 422, {"code": "amount_precision"}


def turned_away_but_applied(d: Doctor) -> None:
    attempt = d.write()
    attempt.status, attempt.body = 503, {"code": "overloaded"}


def declined_but_moved(d: Doctor) -> None:
    row = d.row(d.decline())
    d.enter(row.account, -row.amount, row.id)
    d.enter(row.other, row.amount, row.id)


def declined_though_there_was_enough(d: Doctor) -> None:
    row = d.row(d.decline())
    before = [e.transaction for e in d.rows(row.deciding_account)[: row.deciding_version]]
    floors = [t.policy[0] for t in d.journal.transactions if t.policy and t.id in before]
    row.amount = row.deciding_available - (floors or [0])[-1]


def declined_on_what_never_was(d: Doctor) -> None:
    d.row(d.decline()).deciding_available += 1


def never_resolved(d: Doctor) -> None:
    attempt = d.write()
    attempt.status = attempt.completed_ns = None


def stale_read(d: Doctor) -> None:
    reading = d.reading("account")
    row = d.rows(reading.request.account)[0]
    reading.body = {**reading.body, "version": 1, "available": major(row.balance)}


def stale_history(d: Doctor) -> None:
    reading = d.reading("history")
    reading.body = reading.body[-1:]


def read_of_the_future(d: Doctor) -> None:
    row = d.rows(1)[-1]
    body = {"id": 1, "version": row.seq, "available": major(row.balance)}
    d.attempts.append(Attempt("seer", 1, Request("account", 1), 2, 200, body))


def dirty_read(d: Doctor) -> None:
    reading = d.reading("account")
    reading.body = {**reading.body, "available": "777.77"}


def dirty_read_of_a_version(d: Doctor) -> None:
    reading = d.reading("account")
    reading.body = {**reading.body, "version": reading.body["version"] + 10_000}


def torn_history(d: Doctor) -> None:
    reading = d.one(lambda a: a.request.kind == "history" and len(a.body) > 5)
    reading.body = reading.body[:2] + reading.body[3:]


def _views(d: Doctor, *views: dict[int, int]) -> None:
    """Reads of all accounts that took for ever, with these versions."""
    for view in views:
        body = [
            {"id": a, "version": v, "available": major(d.rows(a)[v - 1].balance if v else 0)}
            for a, v in view.items()
        ]
        attempt = Attempt("onlooker", 0, Request("accounts"), 10**15, 200, body)
        d.attempts.append(attempt)


def torn_read(d: Doctor) -> None:
    """The debit of a transfer without its credit."""
    row = d.row(d.one(lambda a: a.request.kind == "transfer" and outcome(a) == OK))
    own, other = (e for e in d.journal.entries if e.transaction == row.id)
    _views(d, {own.account: own.seq, other.account: other.seq - 1})


def long_fork(d: Doctor) -> None:
    """Two who saw two independent writes in opposite orders."""
    one, two = d.rows(1)[10].seq, d.rows(2)[10].seq
    _views(d, {1: one, 2: two - 1}, {1: one - 1, 2: two})


def key_missing_after_its_answer(d: Doctor) -> None:
    attempt = d.write()
    at = attempt.completed_ns + 1
    body = {"code": "key_not_found"}
    request = Request("key", attempt.request.account, key=attempt.request.key)
    d.attempts.append(Attempt("asker", at, request, at + 1, 404, body))


def write_before_it_was_asked_for(d: Doctor) -> None:
    """Of two writes to one account the later one was completed before the earlier was invoked."""
    attempt = d.write()
    attempt.invoked_ns = 10**15
    attempt.completed_ns = 10**15 + 1


def captured_beyond_the_hold(d: Doctor) -> None:
    """The last entry of a hold gives more back than there was."""
    row = d.step("capture", d.hold())
    next(leg for leg in d.legs(row) if leg.held_change).held_change -= 10_000


def more_captured_than_held(d: Doctor) -> None:
    hold = d.hold()
    hold.amount = hold.captured - 1


def a_hold_that_is_not_its_steps(d: Doctor) -> None:
    d.hold().remaining += 1


def captured_after_it_expired(d: Doctor) -> None:
    d.hold().expires_at = f"{0:020}"


def released_before_it_expired(d: Doctor) -> None:
    row = next(t for t in d.journal.transactions if t.key.startswith(f"{OWN}expiry"))
    hold = next(h for h in d.journal.holds if h.id == row.parent)
    hold.expires_at = f"{10**12:020}"


def captured_by_the_service_too_early(d: Doctor) -> None:
    row = d.step("capture", d.hold())
    row.key = f"{OWN}capture {row.parent}"


def held_is_not_the_holds(d: Doctor) -> None:
    d.chance.choice([a for a in d.journal.accounts if a.id > 0]).held += 1


def held_does_not_continue(d: Doctor) -> None:
    row = d.step("hold")
    d.legs(row)[0].held += 1


def a_hold_that_moves_money(d: Doctor) -> None:
    d.legs(d.step("hold"))[0].amount = 1


def a_release_of_something_else(d: Doctor) -> None:
    d.step("release").amount += 1


def a_capture_for_somebody_else(d: Doctor) -> None:
    hold = d.hold()
    hold.other = next(n for n in range(1, 7) if n not in (hold.account, hold.other))


def a_transfer_that_holds(d: Doctor) -> None:
    d.legs(d.row(d.write()))[0].held_change = 1


def legs_that_hold(d: Doctor) -> None:
    d.legs(d.step("general"))[0].held_change = 1


def a_transaction_of_one_leg(d: Doctor) -> None:
    d.journal.entries.remove(d.legs(d.step("general"))[0])


def reversed_twice(d: Doctor) -> None:
    row = d.step("reversal")
    for leg in d.legs(row):
        leg.amount *= 50


def reversed_forward(d: Doctor) -> None:
    for leg in d.legs(d.step("reversal")):
        leg.amount = -leg.amount


def a_reversal_of_nothing(d: Doctor) -> None:
    d.step("reversal").parent = 10**9


def declined_though_the_hold_had_enough(d: Doctor) -> None:
    d.declined("hold_exceeded").amount = 1


def closed_though_the_hold_was_open(d: Doctor) -> None:
    d.declined("hold_exceeded").reason = "hold_closed"


def declined_though_there_was_something_to_reverse(d: Doctor) -> None:
    row = d.declined("reversal_exceeded")
    row.amount = 1
    row.deciding_version = next(
        e.seq for e in d.journal.entries if (e.transaction, e.account) == (row.parent, row.account)
    )
    state = d.rows(row.account)[row.deciding_version - 1]
    row.deciding_available = state.balance - state.held


def declined_legs_that_there_was_enough_for(d: Doctor) -> None:
    row = next(t for t in d.journal.transactions if t.kind == "general" and t.reason)
    attempts = [a for a in d.attempts if a.request.key == row.key and a.status == 400]
    for attempt in attempts:
        (first, _), (second, _) = attempt.request.legs
        attempt.request = replace(attempt.request, legs=((first, 0), (second, 0)))


def declined_for_no_reason(d: Doctor) -> None:
    d.declined("insufficient_funds").reason = "bad_weather"


def read_of_held_money(d: Doctor) -> None:
    """A read says that what is held is available."""
    attempt = d.one(
        lambda a: (
            a.request.kind == "history"
            and outcome(a) == OK
            and a.body
            and a.body[0]["held"] > "0.0"
        )
    )
    first, *rest = attempt.body
    attempt.body = [{**first, "held": major(-1)}, *rest]


def _settled(d: Doctor, kind: str) -> tuple[Schedule, Transaction]:
    """A schedule that is not a group's, and what settled it."""
    in_groups = {a.request.key for a in d.attempts if a.group is not None}
    rows = {t.id: t for t in d.journal.transactions}
    return d.chance.choice(
        [
            (schedule, rows[schedule.settled_by])
            for schedule in d.journal.schedules
            if schedule.settled_by
            and rows[schedule.settled_by].kind == kind
            and rows[schedule.id].key not in in_groups
        ]
    )


def executed_twice(d: Doctor) -> None:
    _, row = _settled(d, "transfer")
    d.post(row).parent = row.parent


def executed_though_cancelled(d: Doctor) -> None:
    schedule, _ = _settled(d, "cancellation")
    row = next(t for t in d.journal.transactions if t.kind == "transfer" and not t.reason)
    key = f"{OWN}execution {schedule.id}"
    again = replace(row, key=key, account=schedule.account, other=schedule.other)
    d.post(replace(again, amount=schedule.amount)).parent = schedule.id


def never_executed(d: Doctor) -> None:
    schedule, row = _settled(d, "transfer")
    row.parent, schedule.settled_by = None, None


def executed_too_early(d: Doctor) -> None:
    schedule, _ = _settled(d, "transfer")
    schedule.execute_at = f"{10**12:020}"


def executed_another_amount(d: Doctor) -> None:
    _settled(d, "transfer")[1].amount += 1


def scheduled_another_amount(d: Doctor) -> None:
    _settled(d, "cancellation")[0].amount += 1


def a_schedule_that_says_something_else(d: Doctor) -> None:
    _settled(d, "cancellation")[0].settled_by = None


def a_schedule_that_moves_money(d: Doctor) -> None:
    d.legs(d.step("schedule"))[0].amount = 1


def a_cancellation_of_nothing(d: Doctor) -> None:
    _settled(d, "cancellation")[1].parent = 10**9


def called_settled_that_was_open(d: Doctor) -> None:
    row = d.declined("schedule_settled")
    next(s for s in d.journal.schedules if s.id == row.parent).execute_at = f"{10**12:020}"
    for settler in d.journal.transactions:
        if settler.parent == row.parent and settler.reason != row.reason:
            settler.recorded_at = f"{10**12:020}"


def a_hold_that_never_expired(d: Doctor) -> None:
    hold = d.chance.choice([h for h in d.journal.holds if h.remaining])
    hold.expires_at = f"{1:020}"


def a_hold_that_was_never_captured(d: Doctor) -> None:
    hold = d.chance.choice([h for h in d.journal.holds if h.remaining])
    hold.capture_at = f"{1:020}"


def _group(d: Doctor, first: Callable[[list[Attempt]], bool] = lambda _: True) -> list[Attempt]:
    groups: dict[int, list[Attempt]] = {}
    for attempt in d.attempts:
        if attempt.group is not None and outcome(attempt) == OK:
            groups.setdefault(attempt.group, []).append(attempt)
    return d.chance.choice([group for group in groups.values() if first(group)])


def half_a_group(d: Doctor) -> None:
    """The first of a group was never written; nobody has had an answer."""
    group = _group(d)
    row = d.row(group[0])
    d.journal.transactions.remove(row)
    for entry in d.legs(row):
        d.journal.entries.remove(entry)
    for attempt in group:
        attempt.status, attempt.body = 409, {"code": "batch_failed"}


def a_group_at_two_moments(d: Doctor) -> None:
    d.row(_group(d)[0]).recorded_at += "1"


def a_group_with_a_decline(d: Doctor) -> None:
    d.row(_group(d)[2]).reason = "insufficient_funds"


def a_policy_of_its_own(d: Doctor) -> None:
    d.step("policy").policy = (-77, None, 0)


def a_policy_that_moves_money(d: Doctor) -> None:
    d.legs(d.step("policy"))[0].amount = 1


def a_policy_that_was_not_kept(d: Doctor) -> None:
    d.account(2).ceiling = 10**6


def _after_a_policy(d: Doctor, kind: str) -> tuple[Transaction, Entry]:
    """A policy, and an entry of an account's own transaction of that kind soon after it."""
    rows = {t.id: t for t in d.journal.transactions}
    for account in range(1, 7):
        policy = None
        for entry in d.rows(account)[10:]:
            t = rows[entry.transaction]
            policy = t if t.kind == "policy" else policy
            if policy is not None and (t.kind, t.account) == (kind, account):
                return policy, entry
    raise AssertionError("there is none")


def above_its_ceiling(d: Doctor) -> None:
    policy, entry = _after_a_policy(d, "deposit")
    policy.policy = (-(10**6), entry.balance - 1, 0)


def moved_while_frozen(d: Doctor) -> None:
    policy, _ = _after_a_policy(d, "withdraw")
    policy.policy = (-(10**6), None, 1)


def frozen_that_was_not(d: Doctor) -> None:
    row = d.declined("account_frozen")
    for t in d.journal.transactions:
        if t.policy is not None and t.account == row.deciding_account:
            t.policy = (*t.policy[:2], 0)


def called_above_a_ceiling_that_is_none(d: Doctor) -> None:
    row = d.declined("balance_ceiling")
    for t in d.journal.transactions:
        if t.policy is not None and t.account == row.deciding_account:
            t.policy = (t.policy[0], None, t.policy[2])


DOCTORED = {
    executed_twice: "settled_twice",
    executed_though_cancelled: "settled_twice",
    never_executed: "forgotten",
    executed_too_early: "too_early",
    executed_another_amount: "content_broken",
    scheduled_another_amount: "content_broken",
    a_schedule_that_says_something_else: "schedule_differs",
    a_schedule_that_moves_money: "content_broken",
    a_cancellation_of_nothing: "content_broken",
    called_settled_that_was_open: "decline_unjust",
    a_hold_that_never_expired: "forgotten",
    a_hold_that_was_never_captured: "forgotten",
    half_a_group: "torn_group",
    a_group_at_two_moments: "torn_group",
    a_group_with_a_decline: "torn_group",
    a_policy_of_its_own: "content_differs",
    a_policy_that_moves_money: "content_broken",
    a_policy_that_was_not_kept: "account_differs",
    above_its_ceiling: "above_ceiling",
    moved_while_frozen: "moved_while_frozen",
    frozen_that_was_not: "decline_unjust",
    called_above_a_ceiling_that_is_none: "decline_unjust",
    captured_beyond_the_hold: "hold_exceeded",
    more_captured_than_held: "hold_exceeded",
    a_hold_that_is_not_its_steps: "hold_differs",
    captured_after_it_expired: "captured_late",
    released_before_it_expired: "too_early",
    captured_by_the_service_too_early: "too_early",
    held_is_not_the_holds: "held_broken",
    held_does_not_continue: "held_broken",
    a_hold_that_moves_money: "content_broken",
    a_release_of_something_else: "content_broken",
    a_capture_for_somebody_else: "content_broken",
    a_transfer_that_holds: "content_broken",
    legs_that_hold: "content_broken",
    a_transaction_of_one_leg: "content_broken",
    reversed_twice: "reversal_exceeded",
    reversed_forward: "reversal_exceeded",
    a_reversal_of_nothing: "content_broken",
    declined_though_the_hold_had_enough: "decline_unjust",
    closed_though_the_hold_was_open: "decline_unjust",
    declined_though_there_was_something_to_reverse: "decline_unjust",
    declined_legs_that_there_was_enough_for: "decline_unjust",
    declined_for_no_reason: "decline_unjust",
    read_of_held_money: "read_of_nothing",
    lost_acknowledgement: "lost",
    lost_decline: "decline_lost",
    applied_twice: "key_twice",
    answered_twice_as_the_first: "applied_twice",
    unbalanced: "unbalanced",
    total_not_zero: "total_not_zero",
    lost_update: "balance_broken",
    version_gap: "version_gap",
    overdraft_in_mid_history: "overdrawn",
    account_differs_from_its_journal: "account_differs",
    time_runs_backwards: "time_backwards",
    entry_of_another_moment: "other_moment",
    entry_of_another_account: "content_broken",
    entry_of_no_transaction: "orphan_entries",
    entry_of_no_account: "orphan_entries",
    nobody_asked: "unasked",
    other_content: "content_differs",
    answered_another_amount: "content_differs",
    answered_another_version: "content_differs",
    answered_another_decision: "content_differs",
    answers_differ: "answers_differ",
    key_reused_for_another_body: "reuse_accepted",
    key_called_reused_that_is_not: "reuse_unfounded",
    refused_but_applied: "refused_but_applied",
    turned_away_but_applied: "refused_but_applied",
    declined_but_moved: "decline_moved",
    declined_though_there_was_enough: "decline_unjust",
    declined_on_what_never_was: "decline_unjust",
    never_resolved: "unresolved",
    stale_read: "real_time",
    stale_history: "real_time",
    read_of_the_future: "real_time",
    dirty_read: "read_of_nothing",
    dirty_read_of_a_version: "read_of_nothing",
    torn_history: "history_torn",
    torn_read: "cycle",
    long_fork: "cycle",
    key_missing_after_its_answer: "real_time",
    write_before_it_was_asked_for: "real_time",
}


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("doctor", DOCTORED, ids=lambda doctor: doctor.__name__)
def test_a_doctored_history_is_found_out(doctor: Callable[[Doctor], None], seed: int) -> None:
    patient = Doctor(seed)
    doctor(patient)
    report = check(patient.attempts, patient.journal)
    assert DOCTORED[doctor] in {violation.code for violation in report.violations}
