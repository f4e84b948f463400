"""Whether a transaction is what a request asked for."""

from collections import Counter

import msgspec

from tests.proof.history import CROSSING, STEPS, Request
from tests.proof.journal import NO_DETAIL, Detail, Proposal, Transaction
from tests.proof.judging.evidence import CLOSED, DECLINED, FROZEN, OK, Case, Policy, outcome
from tests.proof.judging.exchanges import legs_of
from tests.proof.load.bodies import body_of, item_of

ITEM = "item"


def asks_for(case: Case, request: Request, row: Transaction) -> bool:
    return (
        request.kind == row.kind
        and request.amount in (row.amount, 0)
        and (request.amount != 0 or request.kind in (*STEPS, "policy"))
        and (row.policy is None or row.policy == asked_policy(request))
        and (
            request.other in (None, row.other)
            or (row.kind in ("hold", "schedule", CROSSING) and row.other == 0)
        )
        and (request.parent or None) == row.parent
        and is_told(case, request, row)
        and (row.reason is not None or is_done(case, request, row))
    )


def is_written(proposal: Proposal, request: Request) -> bool:
    """Whether the proposal has the bytes of this request, and the id of its path."""
    if proposal.operation == ITEM:
        return proposal.body == msgspec.json.encode(item_of(request)).decode()
    parent = request.account if request.kind == "policy" else request.parent or None
    same = proposal.body == msgspec.json.encode(body_of(request)).decode()
    return same and proposal.parent == parent


def is_told(case: Case, request: Request, row: Transaction) -> bool:
    """Whether what was added is kept to the letter; a capture without any has its hold's."""
    asked = request.description, request.reference, request.metadata, request.effective_at
    inherits = asked == NO_DETAIL and row.kind == "capture"
    return row.detail == (inherited(case, row) if inherits else asked)


def inherited(case: Case, row: Transaction) -> Detail:
    """What a transaction has from the one that it builds on, which was effective by itself."""
    parent = case.transactions.get(row.parent or 0)
    return NO_DETAIL if parent is None else (*parent.detail[:3], "")


def requests_of(case: Case, row: Transaction) -> set[Request]:
    """The requests that a transaction was the answer to; where there is none, all that it can be.

    A row does not tell all that was asked for, and some keys are used for another request too.
    """
    asked = case.asked.get((row.account, row.key), [])
    same = [attempt for attempt in asked if asks_for(case, attempt.request, row)]
    told = {attempt.request for attempt in same if outcome(attempt) in (OK, DECLINED)}
    return told or {attempt.request for attempt in same}


def is_done(case: Case, request: Request, row: Transaction) -> bool:
    """Whether a posted transaction did what the row does not tell: by its entries and terms."""
    legs = case.legs.get(row.id, [])
    if row.kind in ("deposit", "withdraw"):
        return row.other < 0
    if row.kind == "general":
        asked_legs = Counter(legs_of(request, case.currencies))
        moved = asked_legs == Counter((leg.account, leg.amount) for leg in legs)
        return moved and row.exchange == request.exchange
    if row.kind == "hold":
        hold = case.holds.get(row.id)
        asked = request.expires_at or None, request.capture_at or None
        return (
            hold is not None
            and (hold.expires_at, hold.capture_at) == asked
            and (request.other is not None or hold.other < 0)
        )
    if row.kind == "schedule":
        schedule = case.schedules.get(row.id)
        return schedule is not None and schedule.execute_at == request.execute_at
    own = next((leg for leg in legs if leg.account == row.account), None)
    if row.kind in ("capture", "release") and row.parent in case.holds and own is not None:
        left = case.left(case.holds[row.parent], own.seq - 1)
        amount = request.amount or left
        freed = left if request.final else amount
        return (row.amount, own.held_change) == (amount, -freed)
    if row.kind == "reversal":
        back = {leg.account: leg.amount for leg in legs}
        asked_for = back == to_move_back(case, request, row)
        return asked_for and abs(back.get(row.account, 0)) == row.amount
    if row.kind == "policy":
        change = case.changes.get(row.id)
        asked_by = request.actor or None, request.reason or None
        return change is not None and (change.actor, change.reason) == asked_by
    return row.kind in ("transfer", CROSSING, "cancellation")


def asked_policy(request: Request) -> Policy:
    restricted = FROZEN[request.frozen] | (CLOSED if request.closed else 0)
    return request.floor, request.ceiling, restricted


def to_move_back(case: Case, request: Request, row: Transaction) -> dict[int, int]:
    """What a request to reverse moves, when `row` was decided: its legs, or of what was left."""
    return dict(request.legs) or moved_back(case.to_reverse(row), request.amount)


def moved_back(left: dict[int, int], amount: int) -> dict[int, int]:
    """What a reversal moves: an amount between two accounts, or, of more than two, all."""
    if amount and len(left) == 2:
        return {account: -amount if n > 0 else amount for account, n in left.items()}
    return {account: -n for account, n in left.items() if n}
