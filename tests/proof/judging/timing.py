"""Holds, scheduled transfers, and service-initiated transactions: each in time, and once."""

from bisect import bisect_left
from collections import defaultdict

from tests.proof.history import Request
from tests.proof.journal import NO_DETAIL, Hold, Schedule, Transaction
from tests.proof.judging.evidence import OWN, Case, Found
from tests.proof.judging.matching import inherited, is_done


def holds_are_kept(case: Case) -> Found:
    """No hold is captured beyond itself, or after its time; what is held is the holds'."""
    held: dict[int, int] = defaultdict(int)
    for hold in case.journal.holds:
        where = f"hold {hold.id}"
        remaining = captured = 0
        for entry in case.hold_steps[hold.id]:
            remaining += entry.held_change
            captured -= entry.amount
            t = case.transactions[entry.transaction]
            if remaining < 0 or captured > hold.amount:
                yield "hold_exceeded", where
            # What the service is to capture it may capture later; nobody else may.
            late = hold.expires_at is not None and entry.recorded_at >= hold.expires_at
            in_time = t.key.startswith(OWN) or entry.recorded_at in case.pushed
            if late and t.kind == "capture" and not in_time:
                yield "captured_late", f"{where}: transaction {t.id}"
        if _is_given_back_late(case, hold):
            yield "released_late", where
        if remaining and _is_forgotten(case, hold):
            yield "forgotten", where
        if (hold.remaining, hold.captured) != (remaining, captured):
            yield "hold_differs", f"{where} is not what its steps say"
        held[hold.account] += remaining
    for account in case.journal.accounts:
        if account.held != held[account.id]:
            yield "held_broken", f"account {account.id}: {account.held}, not {held[account.id]}"


def _is_given_back_late(case: Case, hold: Hold) -> bool:
    """Whether anything was decided on its account, after its time, that found it open."""
    ends_at, steps = case.ends_at(hold), case.hold_steps[hold.id]
    if ends_at is None or not steps or case.left(hold, steps[-1].seq):
        return False
    placed, closed = steps[0], steps[-1]
    declines = case.declines[hold.account]
    # A decline from before it was placed says nothing, even if the clock was ahead of its time.
    places = [bisect_left(declines, (step.seq, "")) for step in (placed, closed)]
    moments = [moment for _, moment in declines[slice(*places)][-1:]]
    before = case.entries[hold.account][closed.seq - 2]  # it was placed before it was closed
    if before.recorded_at < closed.recorded_at:
        moments.append(before.recorded_at)
    # In the batch of the service's own try it counts until that.
    moments = [m for m in moments if m != case.tried_at(hold) and m not in case.pushed]
    return any(moment >= ends_at for moment in moments)


def _is_forgotten(case: Case, hold: Hold) -> bool:
    """Whether the service was to end it by itself. A capture that it declined it has done."""
    if hold.expires_at is not None:
        return is_ours(case, hold.id)
    capture = f"capture {hold.id}"
    declined = any(t.reason for t in case.by_key.get((hold.account, capture), []))
    return hold.capture_at is not None and not declined and is_ours(case, hold.id)


def is_ours(case: Case, number: int) -> bool:
    """Whether a client asked for it, whose moments have all come by the end."""
    t = case.transactions.get(number)
    return t is not None and (t.account, t.key) in case.asked


def is_due(case: Case, hold: Hold, t: Transaction) -> bool:
    """Whether the service did by itself what was to be done, when it was time."""
    what = {"release": "expiry", "capture": "capture"}.get(t.kind)
    due = hold.expires_at if t.kind == "release" else hold.capture_at
    if t.key != f"{what} {hold.id}" or due is None or t.recorded_at < due:
        return False
    # A try has a later recorded_at than the clock showed, if an account of its batch had one.
    return t.kind == "capture" or not case.is_captured_first(hold) or case.was_tried(hold, t.id)


def schedules_are_settled_once(case: Case) -> Found:
    """Each is executed or cancelled, once, as it was asked for and not before its time."""
    for schedule in case.journal.schedules:
        where = f"schedule {schedule.id}"
        settlers = case.settlers[schedule.id]
        if len(settlers) > 1:
            yield "settled_twice", f"{where}: transactions {[t.id for t in settlers]}"
        elif not settlers and is_ours(case, schedule.id):
            yield "forgotten", where
        found: list[int | None] = [t.id for t in settlers]
        if schedule.settled_by not in (found or [None]):
            yield "schedule_differs", f"{where} says that {schedule.settled_by} settled it"
        for t in settlers:
            if t.kind == "transfer" and not _is_executed_as_asked(schedule, t):
                yield "content_broken", f"{where}: transaction {t.id} is another transfer"
            if t.kind == "transfer" and t.recorded_at < schedule.execute_at:
                yield "too_early", f"{where}: transaction {t.id}"
        asked = case.transactions.get(schedule.id)
        if asked is None or (asked.account, asked.other, asked.amount) != _terms(schedule):
            yield "content_broken", f"{where} is not what was asked for"


def _terms(schedule: Schedule) -> tuple[int, int, int]:
    return schedule.account, schedule.other, schedule.amount


def _is_executed_as_asked(schedule: Schedule, t: Transaction) -> bool:
    same = (t.account, t.other, t.amount) == _terms(schedule)
    return same and t.key == f"execution {schedule.id}"


def own_is_due(case: Case, row: Transaction) -> Found:
    """What the service does by itself is to end a hold, or what was scheduled, and all of it."""
    hold, where = case.holds.get(row.parent or 0), f"transaction {row.id}, {row.key}"
    if hold is None:
        execution = row.parent in case.schedules and row.kind == "transfer"
        if not execution or row.key != f"execution {row.parent}":
            yield "unasked", where
        elif row.detail != inherited(case, row):
            yield "content_broken", f"{where}: {row.detail}"
    elif not is_due(case, hold, row):
        yield "too_early", where
    elif row.detail != (inherited(case, row) if row.kind == "capture" else NO_DETAIL):
        yield "content_broken", f"{where}: {row.detail}"
    elif row.reason is None and not is_done(case, Request(row.kind, final=True), row):
        yield "content_broken", f"{where}: it is not all that was left"
