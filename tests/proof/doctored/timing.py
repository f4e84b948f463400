"""Holds and scheduled transfers that differ from the request, or are late."""

from collections.abc import Callable

from msgspec.structs import replace

from tests.proof.doctored.doctor import Doctor, ask_otherwise, settled
from tests.proof.journal import Transaction
from tests.proof.judging.evidence import OWN


def _partial(d: Doctor, kind: str) -> Transaction:
    left: dict[int, int] = {}
    found = []
    for t in d.journal.transactions:
        if t.reason is None and t.kind == "hold":
            left[t.id] = t.amount
        elif t.reason is None and t.kind in ("capture", "release"):
            parent = t.parent or 0
            left[parent] -= t.amount
            if t.kind == kind and left[parent] and not t.key.startswith(OWN):
                found.append(t)
    return d.chance.choice(found)


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
    row = next(t for t in d.journal.transactions if t.key.startswith("expiry"))
    hold = next(h for h in d.journal.holds if h.id == row.parent)
    hold.expires_at = f"{10**12:020}"


def captured_by_the_service_too_early(d: Doctor) -> None:
    row = d.step("capture", d.hold())
    row.key = f"capture {row.parent}"


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


def executed_twice(d: Doctor) -> None:
    _, row = settled(d, "transfer")
    d.post(row).parent = row.parent


def executed_though_cancelled(d: Doctor) -> None:
    schedule, _ = settled(d, "cancellation")
    row = next(t for t in d.journal.transactions if t.kind == "transfer" and not t.reason)
    key = f"execution {schedule.id}"
    again = replace(row, key=key, account=schedule.account, other=schedule.other)
    d.post(replace(again, amount=schedule.amount)).parent = schedule.id


def never_executed(d: Doctor) -> None:
    schedule, row = settled(d, "transfer")
    row.parent, schedule.settled_by = None, None


def executed_too_early(d: Doctor) -> None:
    schedule, _ = settled(d, "transfer")
    schedule.execute_at = f"{10**12:020}"


def executed_another_amount(d: Doctor) -> None:
    settled(d, "transfer")[1].amount += 1


def scheduled_another_amount(d: Doctor) -> None:
    settled(d, "cancellation")[0].amount += 1


def a_schedule_that_says_something_else(d: Doctor) -> None:
    settled(d, "cancellation")[0].settled_by = None


def a_schedule_that_moves_money(d: Doctor) -> None:
    d.legs(d.step("schedule"))[0].amount = 1


def a_cancellation_of_nothing(d: Doctor) -> None:
    settled(d, "cancellation")[1].parent = 10**9


def a_hold_that_never_expired(d: Doctor) -> None:
    hold = d.chance.choice([h for h in d.journal.holds if h.remaining])
    hold.expires_at = f"{1:020}"


def a_hold_that_was_never_captured(d: Doctor) -> None:
    hold = d.chance.choice([h for h in d.journal.holds if h.remaining])
    hold.capture_at = f"{1:020}"


def a_hold_for_another_customer(d: Doctor) -> None:
    ask_otherwise(d, d.step("hold"), other=None)


def a_hold_that_forgot_its_expiry(d: Doctor) -> None:
    hold = next(h for h in d.journal.holds if h.expires_at is None and not h.remaining)
    row = d.journal.transactions[hold.id - 1]
    ask_otherwise(d, row, expires_at=f"{1:020}")


def a_hold_that_expires_at_another_moment(d: Doctor) -> None:
    hold = next(h for h in d.journal.holds if h.expires_at is not None)
    ask_otherwise(d, d.journal.transactions[hold.id - 1], expires_at=f"{10**12:020}")


def scheduled_for_another_moment(d: Doctor) -> None:
    schedule, _ = settled(d, "transfer")
    ask_otherwise(d, d.journal.transactions[schedule.id - 1], execute_at=f"{10**12:020}")


def released_a_part_of_all(d: Doctor) -> None:
    ask_otherwise(d, _partial(d, "release"), amount=0)


DOCTORED: dict[Callable[[Doctor], None], str] = {
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
    executed_twice: "settled_twice",
    executed_though_cancelled: "settled_twice",
    never_executed: "forgotten",
    executed_too_early: "too_early",
    executed_another_amount: "content_broken",
    scheduled_another_amount: "content_broken",
    a_schedule_that_says_something_else: "schedule_differs",
    a_schedule_that_moves_money: "content_broken",
    a_cancellation_of_nothing: "content_broken",
    a_hold_that_never_expired: "forgotten",
    a_hold_that_was_never_captured: "forgotten",
    a_hold_for_another_customer: "content_differs",
    a_hold_that_forgot_its_expiry: "content_differs",
    a_hold_that_expires_at_another_moment: "content_differs",
    scheduled_for_another_moment: "content_differs",
    released_a_part_of_all: "content_differs",
}
