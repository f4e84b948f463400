"""The checker on short histories, step by step: what is a violation, and what is not."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.proof.checker import check
from tests.proof.doctored.fabricated import STEP_NS, Fabricated
from tests.proof.doctored.proposing import RULES
from tests.proof.history import Attempt, Request
from tests.proof.journal import Proposal
from tests.proof.load.bodies import body_of


def _do_nothing(*_: object) -> None:
    pass


class Scene:
    """Movements one after another, a step apart; accounts 1 to 4."""

    def __init__(self) -> None:
        self.case = Fabricated(0, 7, accounts=4, spread=1)
        self.case.now_ns = 0
        self.count = 0

    def go(self, kind: str, account: int, amount: int = 0, other=None, **more):
        self.case.now_ns += STEP_NS
        self.count += 1
        request = Request(kind, account, other, amount, f"k{self.count}", **more)
        status, body = self.case.decide(request)
        self.case.attempt(request, status, body)
        asked = self.case.attempts[-1]
        asked.invoked_ns, asked.completed_ns = self.case.now_ns - 1, self.case.now_ns + 1
        return asked

    def later(self, steps: int) -> str:
        return f"{self.case.now_ns + steps * STEP_NS:020}"

    def codes(self) -> set[str]:
        return {
            v.code
            for v in check(
                self.case.attempts, self.case.journal, clock=lambda ns: (f"{ns:020}",) * 2
            ).violations
        }


def test_the_scene_is_clean() -> None:
    s = Scene()
    s.go("deposit", 1, 100)
    s.go("transfer", 1, 60, 2)
    assert s.go("withdraw", 1, 50).status == 400
    assert s.codes() == set()


def test_a_group_recorded_at_two_times_beside_others() -> None:
    """All answers are there: two of three came later. One had been asked for once more."""
    s = Scene()
    group = [s.go("deposit", 1, 5), s.go("deposit", 2, 5), s.go("deposit", 3, 5)]
    s.case.now_ns += STEP_NS
    row = {t.id: t for t in s.case.journal.transactions}[group[2].body["transaction_id"]]
    first = {t.id: t for t in s.case.journal.transactions}[group[1].body["transaction_id"]]
    row.recorded_at = first.recorded_at
    group[2].body["recorded_at"] = first.recorded_at
    for entry in s.case.journal.entries:
        if entry.transaction == row.id:
            entry.recorded_at = first.recorded_at
    for attempt in group:
        attempt.group, attempt.client = 0, "one"
        attempt.invoked_ns = 0
        attempt.completed_ns = s.case.now_ns
    again = group[0].request
    s.case.attempt(again, 200, group[0].body, replayed=True)
    s.case.attempts[-1].invoked_ns = s.case.now_ns + 5
    s.case.attempts[-1].completed_ns = s.case.now_ns + 6
    assert "torn_group" in s.codes()


def test_half_of_a_group_whose_first_request_was_in_two_groups() -> None:
    """The first of each was kept, though neither group was; one had no answer at first."""
    s = Scene()
    first = s.go("deposit", 1, 5)
    others = [Request("deposit", 2, None, 5, "b"), Request("deposit", 3, None, 5, "c")]
    failed = {"code": "batch_failed"}
    for number, other in enumerate(others):
        for request in (first.request, other):
            s.case.attempt(request, None, None, group=number)
            s.case.attempts[-1].client = "one"
            s.case.attempt(request, 409, failed, group=number + 10)
            s.case.attempts[-1].client = "one"
    s.case.attempts.remove(first)
    assert "torn_group" in s.codes()


def test_a_decline_that_an_expired_hold_was_the_cause_of() -> None:
    s = Scene()
    s.go("deposit", 1, 100)
    s.go("hold", 1, 80, 2, expires_at=s.later(5))
    decline = s.go("withdraw", 1, 50)
    assert decline.status == 400
    moment = s.later(10)  # the decline was decided long after the hold's time
    row = s.case.journal.transactions[decline.body["transaction_id"] - 1]
    row.recorded_at = decline.body["recorded_at"] = moment
    s.case.now_ns += 20 * STEP_NS
    decline.completed_ns = s.case.now_ns
    s.case.ledger.release(s.case.journal.holds[0], s.case.time())
    assert "released_late" in s.codes()


def test_a_decline_of_before_the_hold_when_the_clock_was_ahead() -> None:
    s = Scene()
    s.go("deposit", 1, 100)
    decline = s.go("withdraw", 1, 500)
    row = s.case.journal.transactions[decline.body["transaction_id"] - 1]
    row.recorded_at = decline.body["recorded_at"] = s.later(10)
    s.go("hold", 1, 80, 2, expires_at=s.later(5))
    s.case.now_ns += 6 * STEP_NS
    s.case.ledger.release(s.case.journal.holds[0], s.case.time())
    assert "released_late" not in s.codes()


def test_an_expired_hold_released_after_another_movement() -> None:
    s = Scene()
    s.go("deposit", 1, 100)
    s.go("hold", 1, 80, 2, expires_at=s.later(3))
    s.case.now_ns += 10 * STEP_NS
    s.case.ledger.release_expired = _do_nothing  # type: ignore[assignment, method-assign]
    s.go("withdraw", 1, 5)
    s.case.now_ns += STEP_NS
    s.case.ledger.release(s.case.journal.holds[0], s.case.time())
    assert "released_late" in s.codes()


def test_two_that_expired_are_given_back_together() -> None:
    s = Scene()
    s.go("deposit", 1, 100)
    s.go("hold", 1, 30, 2, expires_at=s.later(5))
    s.go("hold", 1, 30, 2, expires_at=s.later(5))
    s.case.now_ns += 10 * STEP_NS
    s.go("withdraw", 1, 90)
    assert s.codes() == set()


def test_the_service_tries_to_capture_too_early() -> None:
    """It is declined, so never asked for again, also when it is due."""
    s = Scene()
    s.go("deposit", 1, 100)
    hold = s.go("hold", 1, 80, 2, capture_at=f"{10**12:020}")
    s.case.journal.holds[0].capture_at = f"{10**12:020}"
    s.go("policy", 2, frozen="credits")
    key = f"capture {hold.body['transaction_id']}"
    request = Request("capture", 1, None, 0, key, parent=hold.body["transaction_id"])
    s.case.now_ns += STEP_NS
    status, _ = s.case.decide(request)
    assert status == 400
    assert "too_early" in s.codes()


@pytest.mark.parametrize("tried", [True, False])
def test_a_try_whose_time_had_to_be_later_than_the_clock(tried: bool) -> None:
    """An account of the same batch had a later one. The hold ends after it, by the order."""
    s = Scene()
    s.go("deposit", 1, 100)
    hold = s.go("hold", 1, 80, 2, capture_at=s.later(1), expires_at=s.later(5))
    s.go("policy", 2, frozen="credits")
    s.case.now_ns += 2 * STEP_NS
    number = hold.body["transaction_id"]
    if tried:
        status, body = s.case.decide(
            Request("capture", 1, None, 0, f"capture {number}", parent=number)
        )
        assert status == 400
        row = s.case.journal.transactions[body["transaction_id"] - 1]
        row.recorded_at = s.later(10)
    s.case.now_ns += 6 * STEP_NS
    s.case.ledger.release(s.case.journal.holds[0], s.case.time())
    assert ("too_early" in s.codes()) is not tried


def test_a_service_initiated_cancellation() -> None:
    s = Scene()
    s.go("deposit", 1, 100)
    asked = s.go("schedule", 1, 50, 2, execute_at=s.later(50))
    number = asked.body["transaction_id"]
    s.case.decide(Request("cancellation", 1, None, 0, f"execution {number}", parent=number))
    assert s.codes()


def test_a_service_initiated_transfer_for_a_hold() -> None:
    s = Scene()
    s.go("deposit", 1, 100)
    number = s.go("hold", 1, 50, 2).body["transaction_id"]
    s.case.decide(Request("transfer", 1, 3, 20, "bonus", parent=number))
    assert s.codes()


def test_a_service_initiated_capture_of_a_part() -> None:
    s = Scene()
    s.go("deposit", 1, 100)
    number = s.go("hold", 1, 50, 2, capture_at=s.later(3), expires_at=s.later(9)).body[
        "transaction_id"
    ]
    hold = s.case.journal.holds[0]
    hold.capture_at = s.later(2)
    s.case.now_ns += 5 * STEP_NS
    s.case.attempts[-1].request = Request(
        "hold", 1, 2, 50, "k2", capture_at=hold.capture_at, expires_at=hold.expires_at or ""
    )
    s.case.decide(Request("capture", 1, None, 20, f"capture {number}", parent=number))
    s.case.now_ns += 10 * STEP_NS
    s.case.ledger.release(hold, s.case.time())
    assert s.codes()


def test_a_reversal_that_moves_nothing() -> None:
    s = Scene()
    number = s.go("deposit", 1, 100).body["transaction_id"]
    attempt = s.go("reversal", 1, 40, parent=number)
    row = s.case.journal.transactions[-1]
    for entry in [e for e in s.case.journal.entries if e.transaction == row.id]:
        s.case.journal.entries.remove(entry)
        account = s.case.ledger.accounts[entry.account]
        account.balance -= entry.amount
        account.version -= 1
    attempt.body["entries"] = []
    assert s.codes()


def test_a_read_counts_what_expires_later() -> None:
    """The hold is to expire in a thousand steps: the read was long before."""
    s = Scene()
    s.go("deposit", 1, 100)
    s.go("hold", 1, 80, 2, expires_at=s.later(1000))
    state = s.case.state(1) | {"available": "1.00", "held": "0.00"}
    s.case.attempt(Request("account", 1), 200, state)
    s.case.now_ns += 2000 * STEP_NS
    s.case.ledger.release(s.case.journal.holds[0], s.case.time())
    assert s.codes()


def test_a_read_while_a_capture_waits_for_its_commit_is_right() -> None:
    """The service captures one hold; before that is committed another one expires, and is read."""
    s = Scene()
    s.go("deposit", 1, 100)
    captured, expires = s.later(4), s.later(10)
    one = s.go("hold", 1, 30, 2, capture_at=captured, expires_at=expires)
    s.case.journal.holds[0].capture_at = captured
    number = one.body["transaction_id"]
    soon = s.later(11)
    s.go("hold", 1, 20, 2, expires_at=soon)
    # Read at 15 steps: of the first nothing has expired, for its capture was not tried yet.
    state = s.case.state(1) | {"available": "0.70", "held": "0.30"}
    read = Attempt(
        "reader",
        s.case.now_ns + 12 * STEP_NS,
        Request("account", 1),
        s.case.now_ns + 13 * STEP_NS,
        200,
        state,
    )
    s.case.attempts.append(read)
    s.case.now_ns += 5 * STEP_NS  # recorded here, committed after the read
    s.case.decide(Request("capture", 1, None, 30, f"capture {number}", parent=number))
    s.case.now_ns += 20 * STEP_NS
    s.case.ledger.release(s.case.journal.holds[1], s.case.time())
    assert s.codes() == set()


def test_a_read_counts_what_has_expired_long_ago() -> None:
    s = Scene()
    s.go("deposit", 1, 100)
    s.go("hold", 1, 80, 2, expires_at=s.later(10))
    stale = s.case.state(1)
    s.case.now_ns += 20 * STEP_NS
    s.case.attempt(Request("account", 1), 200, stale)
    s.case.now_ns += 20 * STEP_NS
    s.case.ledger.release(s.case.journal.holds[0], s.case.time())
    assert s.codes()


FAILURES = {500: "internal_error", 401: "key_invalid", 403: "scope_missing"}


@pytest.mark.parametrize(("status", "code"), FAILURES.items())
def test_an_answer_that_no_fault_explains_is_a_violation(status: int, code: str) -> None:
    s = Scene()
    s.go("deposit", 1, 100)
    deposit = s.case.attempts[-1]
    s.case.attempts.append(Attempt("c", 0, deposit.request, 1, status, {"code": code}))
    assert s.codes()


@pytest.mark.parametrize(("amount", "codes"), [(7_000, {"reuse_unfounded"}), (8_000, set())])
def test_a_key_is_used_by_a_proposal_that_nobody_saw(amount: int, codes: set[str]) -> None:
    """Whoever had proposed it gave up, and was refused for another reason later."""
    s = Scene()
    proposed, other = (Request("deposit", 1, None, n, "k") for n in (amount, 7_000))
    body = msgspec.json.encode(body_of(proposed)).decode()
    s.case.journal.rules.extend(RULES)
    s.case.journal.proposals.append(Proposal(1, 1, "k", 0, "amount", 2, "deposit", None, body))
    overloaded, reused = {"code": "overloaded"}, {"code": "idempotency_key_reused"}
    s.case.attempts.append(Attempt("b", 0, proposed))
    s.case.attempts.append(Attempt("c", 0, proposed, 1, 503, overloaded))
    s.case.attempts.append(Attempt("d", 2, other, 3, 409, reused))
    assert s.codes() == codes


def test_a_capture_of_all_that_takes_a_part() -> None:
    s = Scene()
    s.go("deposit", 1, 100)
    number = s.go("hold", 1, 50, 2).body["transaction_id"]
    capture = s.go("capture", 1, 20, parent=number)
    capture.request = replace(capture.request, amount=0)
    assert "content_differs" in s.codes()


def test_a_final_capture_that_keeps_the_rest_held() -> None:
    s = Scene()
    s.go("deposit", 1, 100)
    number = s.go("hold", 1, 50, 2).body["transaction_id"]
    capture = s.go("capture", 1, 20, parent=number)
    capture.request = replace(capture.request, final=True)
    assert "content_differs" in s.codes()


def test_a_closed_account_takes_no_schedule_and_no_policy() -> None:
    """Neither scheduled from nor changed, though neither moves money."""
    for kind, more in (
        ("schedule", {"other": 1, "amount": 5, "execute_at": f"{10**12:020}"}),
        ("policy", {"floor": -5}),
    ):
        s = Scene()
        s.go("policy", 3, closed=True)
        assert s.go("policy", 3).status == 400
        assert s.codes() == set()
        s.case.ledger.model.accounts[3]["closed"] = False
        s.go(kind, 3, **more)
        assert "moved_after_closing" in s.codes()


def test_declined_legs_whose_key_came_with_other_legs_too() -> None:
    s = Scene()
    s.go("deposit", 1, 100)
    s.go("policy", 2, frozen="credits")
    declined = s.go("general", 1, 50, legs=((1, -50), (2, 50)))
    assert declined.status == 400
    others = replace(declined.request, legs=((1, -50), (3, 50)))
    s.case.attempt(others, 422, {"code": "idempotency_key_reused"})
    s.case.attempts.insert(0, s.case.attempts.pop())
    assert s.codes() == set()


def _three_legs(s: Scene) -> int:
    s.go("deposit", 1, 100)
    attempt = s.go("general", 1, 50, legs=((1, -50), (2, 30), (3, 20)))
    return attempt.body["transaction_id"]


def test_legs_are_reversed_beside_the_account_that_the_key_is_of() -> None:
    """What is left on the others is told by their versions, and by nothing of the first one's."""
    s = Scene()
    number = _three_legs(s)
    assert s.go("reversal", 1, parent=number, legs=((3, -20), (2, 20))).status == 400
    between = s.go("general", 1, 10, legs=((1, -10), (2, -5), (3, 15)))
    number = between.body["transaction_id"]
    assert s.go("reversal", 1, parent=number, legs=((2, 5), (3, -5))).status == 200
    assert s.go("reversal", 1, parent=number, legs=((2, 5), (3, -5))).status == 400
    assert s.go("reversal", 1, parent=number).status == 200
    assert s.go("reversal", 1, parent=number).status == 400
    assert s.codes() == set()


def test_legs_are_reversed_beyond_what_is_left() -> None:
    """The service forgets what was moved back already."""
    s = Scene()
    number = _three_legs(s)
    s.go("reversal", 1, parent=number, legs=((1, 15), (3, -15)))
    s.go("deposit", 3, 50)
    for record in s.case.ledger.model.records.values():
        record["moves"] = record["moves"] if record["kind"] != "REVERSAL" else []
    assert s.go("reversal", 1, parent=number, legs=((1, 15), (3, -15))).status == 200
    assert "reversal_exceeded" in s.codes()


def test_what_was_forced_gives_nothing_until_it_is_back() -> None:
    s = Scene()
    number = s.go("deposit", 1, 100).body["transaction_id"]
    s.go("transfer", 1, 80, 2)
    assert s.go("reversal", 1, parent=number).status == 400
    forced: dict[str, Any] = {"force": True, "actor": "ann", "description": "stolen"}
    assert s.go("reversal", 1, parent=number, **forced).status == 200
    assert s.go("withdraw", 1, 1).status == 400
    s.go("deposit", 1, 50)
    assert s.codes() == set()
    s.case.ledger.model.accounts[1]["floor"] = None
    s.go("withdraw", 1, 1)
    assert s.codes() == {"overdrawn"}


def _captured_at(moment_of_expiry: int) -> Scene:
    """A hold is captured; then it is made to have expired so many steps after its placing."""
    s = Scene()
    s.go("deposit", 1, 100)
    hold = s.go("hold", 1, 80, 2, expires_at=s.later(moment_of_expiry))
    s.go("capture", 1, 80, parent=hold.body["transaction_id"])
    return s


def test_a_capture_before_and_after_the_hold_has_expired() -> None:
    assert _captured_at(9).codes() == set()
    s = _captured_at(9)
    s.case.journal.holds[0].expires_at = s.later(-1)
    assert "captured_late" in s.codes()


def test_a_timestamp_pushed_past_another_shows_no_clock_time() -> None:
    """The clock was ahead, left its moment on the account, and was put right."""
    s = _captured_at(9)
    placed, captured = s.case.journal.entries[-3], s.case.journal.entries[-2:]
    ahead = f"{int(placed.recorded_at) + 10**15:020}"
    pushed = f"{int(ahead) + 1:020}"
    for entry, moment in ((placed, ahead), *((entry, pushed) for entry in captured)):
        entry.recorded_at = moment
    codes = s.codes()
    assert "captured_late" not in codes
