"""Decisions: groups are whole, declines are just, and a key has one outcome."""

from collections import defaultdict

from tests.proof.history import CROSSING, PLAIN, Attempt
from tests.proof.journal import Transaction
from tests.proof.judging.accounts import frozen
from tests.proof.judging.conditions import fails
from tests.proof.judging.evidence import (
    CLOSED,
    CREDITS,
    CROSS_CREDIT,
    CROSS_STEPS,
    DEBITS,
    DECLINED,
    OK,
    OWN,
    REFUSED,
    Case,
    Found,
    outcome,
)
from tests.proof.judging.exchanges import legs_of
from tests.proof.judging.matching import asks_for, moved_back, requests_of, to_move_back
from tests.proof.judging.timing import own_is_due


def groups_are_whole(case: Case) -> Found:
    """Of what was to be posted together all was, at one moment, or nothing; and no decline.

    Each transaction is what somebody asked for alone, or has the company it was asked for in, of
    which some can have been there before.
    """
    groups: dict[tuple[str, int], list[Attempt]] = defaultdict(list)
    for attempt in case.attempts:
        if attempt.group is not None:
            groups[attempt.client, attempt.group].append(attempt)
    whole = {group: _posted_at(case, members) for group, members in groups.items()}
    for (account, key), attempts in case.asked.items():
        for row in case.by_key.get((account, key), []):
            same = [a for a in attempts if asks_for(case, a.request, row)]
            known = [a for a in same if outcome(a) in (OK, DECLINED) and not a.replayed]
            explained = any(
                a.group is None
                or (row.reason is None and row.recorded_at == whole[a.client, a.group])
                for a in known or [a for a in same if outcome(a) != REFUSED]
            )
            if not explained and any(a.group is not None for a in same):
                yield "torn_group", f"transaction {row.id}, key {key} of account {account}"


def _posted_at(case: Case, members: list[Attempt]) -> str | None:
    """When the last of a group was posted; None if one is missing."""
    last = ""
    for attempt in members:
        request = attempt.request
        rows = case.by_key.get((request.account, request.key), [])
        moments = [
            row.recorded_at for row in rows if not row.reason and asks_for(case, request, row)
        ]
        if not moments:
            return None
        last = max(last, *moments)
    return last


def keys_have_one_outcome(case: Case) -> Found:
    for (account, key), rows in case.by_key.items():
        if len(rows) > 1:
            yield "key_twice", f"key {key} of account {account}: {len(rows)} transactions"
        for row in rows:
            if row.kind in CROSS_STEPS:  # each is judged with its hold
                continue
            if key.startswith(OWN):
                yield from own_is_due(case, row)
                continue
            same = [a for a in case.asked.get((account, key), []) if asks_for(case, a.request, row)]
            if not same:
                if case.strangers and (account, key) not in case.asked:
                    continue
                yield "unasked", f"transaction {row.id}: nobody asked for it"
            elif all(outcome(attempt) == REFUSED for attempt in same):
                yield "refused_but_applied", f"transaction {row.id}, key {key}"


def declines_are_just(case: Case) -> Found:
    for t in case.journal.transactions:
        if t.reason is None:
            continue
        state = case.state(t.deciding_account or 0, t.deciding_version or 0)
        if state is None or state[0] - state[1] != t.deciding_available:
            yield "decline_unjust", f"transaction {t.id} was decided on what never was"
            continue
        if not _is_just(case, t):
            yield "decline_unjust", f"transaction {t.id}: {t.deciding_available}, {t.reason}"


def _is_just(case: Case, t: Transaction) -> bool:
    """Whether what was asked for was indeed not to be had."""
    decider, version = t.deciding_account or 0, t.deciding_version or 0
    closed = bool(case.policy(decider, version)[2] & CLOSED)
    if t.kind in ("policy", "schedule"):
        return _is_not_to_be_changed(case, t, closed=closed)
    if t.reason == "account_frozen" and closed:
        return False
    if t.reason in MOVING:
        return decider > 0 and _is_not_allowed(case, t)
    if t.reason == "condition_failed":
        requests = requests_of(case, t)
        return not requests or any(fails(case, r, decider, version) for r in requests)
    if decider != t.account:
        return False
    if t.reason == "schedule_settled":
        settlers = case.settlers.get(t.parent or 0, [])
        schedule = case.schedules.get(t.parent or 0)
        if schedule is not None and schedule.execute_at <= t.recorded_at:
            return True
        return any(settler.recorded_at <= t.recorded_at for settler in settlers)
    if t.reason in ("hold_closed", "hold_exceeded"):
        steps = case.hold_steps.get(t.parent or 0, [])
        left = sum(e.held_change for e in steps if e.seq <= version)
        expires_at = case.holds[t.parent].expires_at if t.parent in case.holds else None
        expired = expires_at is not None and expires_at <= t.recorded_at
        if t.reason == "hold_closed":  # to all but the service it is, once it has expired
            return left == 0 or (t.kind == "capture" and expired and not t.key.startswith(OWN))
        return 0 < left < t.amount
    if t.reason == "reversal_exceeded":
        return _is_too_much(case, t)
    return False


def _is_too_much(case: Case, t: Transaction) -> bool:
    """Whether more was to be moved back than was left, on any account; or nothing is left."""
    left = case.to_reverse(t)
    requests = requests_of(case, t)
    asked = [to_move_back(case, request, t) for request in requests]
    return any(
        not moves or any(n * left.get(a, 0) >= 0 or abs(n) > abs(left[a]) for a, n in moves.items())
        for moves in asked or [moved_back(left, t.amount)]
    )


MOVING = ("insufficient_funds", "balance_ceiling", "account_frozen", "account_closed")


def _is_not_to_be_changed(case: Case, t: Transaction, *, closed: bool) -> bool:
    """Whether a policy, or a transfer to come, is rightly declined."""
    decider = t.deciding_account or 0
    requests = requests_of(case, t)
    if t.kind == "schedule" or t.reason == "account_closed":
        takes_part = decider in {t.account, *(request.other for request in requests)}
        return t.reason == "account_closed" and takes_part and closed
    if decider != t.account or closed:
        return False
    if not requests:
        return t.reason in ("balance_not_zero", "policy_conflict")  # a stranger's
    if t.reason == "balance_not_zero":
        has_some = case.state(decider, t.deciding_version or 0) != (0, 0)
        return has_some and any(request.closed for request in requests)
    conflicts = (r.ceiling is not None and r.ceiling < r.floor for r in requests)
    return t.reason == "policy_conflict" and any(conflicts)


def _is_not_allowed(case: Case, t: Transaction) -> bool:
    """Whether the policy of the account that decided it forbids what it was to do.

    The row does not tell the legs, and keys are used for other legs too.
    """
    decider, version = t.deciding_account or 0, t.deciding_version or 0
    floor, ceiling, restricted = case.policy(decider, version)
    requests = requests_of(case, t)
    if not requests and t.kind in ("general", "reversal"):
        return t.reason != "balance_ceiling" or ceiling is not None  # a stranger's
    balance, _ = case.state(decider, version) or (0, 0)
    asked = {(legs_of(r, case.currencies), r.force) for r in requests} or {((), False)}
    for legs, forced in asked:
        amount, held_change = _changes(case, t, legs).get(decider, (0, 0))
        lowered = amount - held_change
        # Of legs that make up for each other either may be what it is frozen for.
        parts = [(n, 0) for account, n in legs if account == decider] or [(amount, held_change)]
        if t.reason == "account_frozen":
            just = any(frozen(restricted, *part) for part in parts)
        elif t.reason == "account_closed":
            moves = any(frozen(DEBITS | CREDITS, *part) for part in parts)
            just = moves and restricted & CLOSED > 0
        elif t.reason == "insufficient_funds":
            just = not forced and lowered < 0 and (t.deciding_available or 0) + lowered < floor
        else:
            just = ceiling is not None and amount > 0 and balance + amount > ceiling
        if just:
            return True
    return False


def _changes(
    case: Case, t: Transaction, legs: tuple[tuple[int, int], ...]
) -> dict[int, tuple[int, int]]:
    """What a declined transaction would have done, by account: by how much it would have changed
    the balance, and what is held.
    """
    if legs:
        nets: dict[int, int] = defaultdict(int)
        for account, n in legs:
            nets[account] += n
        return {account: (n, 0) for account, n in nets.items()}
    if t.kind == "reversal":
        left = case.to_reverse(t)
        return {account: (n, 0) for account, n in moved_back(left, t.amount).items()}
    if t.kind in ("hold", CROSSING, "release"):
        return {t.account: (0, -t.amount if t.kind == "release" else t.amount)}
    if t.kind == CROSS_CREDIT:
        return {t.account: (t.amount, 0)}
    if t.kind == "capture" and t.parent in case.holds:
        return {t.account: (-t.amount, -t.amount), case.holds[t.parent].other: (t.amount, 0)}
    if t.kind in PLAIN:
        amount = t.amount if t.kind == "deposit" else -t.amount
        return {t.account: (amount, 0), t.other: (-amount, 0)}
    return {}
