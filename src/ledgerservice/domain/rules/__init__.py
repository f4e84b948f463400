"""The table of kinds: each kind of transaction is one row here, and one rule beside it.

A rule takes an instruction and the state of the batch, which is everything that was locked, and
returns a draft: which accounts move by how much. It changes nothing. The planner asks the rules in
turn and records each draft. Plain movements have a path of their own in the planner.
"""

from collections.abc import Callable, Iterable, Iterator
from enum import Enum, auto
from typing import Any

import msgspec

from ledgerservice.domain.batch_state import BatchState
from ledgerservice.domain.instructions import (
    Cancellation,
    Capture,
    CrossCredit,
    CrossDebit,
    Crossing,
    CrossingBack,
    CrossRelease,
    Execution,
    General,
    Hold,
    Kind,
    PolicyChange,
    Release,
    Reversal,
    Schedule,
    Step,
)
from ledgerservice.domain.rules import crossings, holds, legs, policies, reversals, schedules
from ledgerservice.domain.rules.drafts import Drafted
from ledgerservice.domain.transactions import Rejection


class Lookup(Enum):
    """The state of its parent that an instruction needs under the locks, beside the accounts."""

    HOLD = auto()
    REVERSED_AMOUNTS = auto()
    OPEN_SCHEDULE = auto()
    MOVED_BACK = auto()


def _account(instruction: PolicyChange) -> Iterator[int]:
    yield instruction.account_id


def _two_accounts(instruction: Hold | Schedule) -> Iterator[int]:
    yield instruction.account_id
    if instruction.counterparty_id is not None:
        yield instruction.counterparty_id


def _parents_accounts(_: Step) -> Iterable[int]:
    """The accounts of the parent are locked anyway."""
    return ()


class Rule(msgspec.Struct, frozen=True):
    """A row of the table.

    `names`: the accounts that the instruction names, which are locked. `not_found`: the rejection
    if the parent does not exist. `parents`: the kinds that it builds on; an instruction without any
    stands alone. `parent_member`: the member of an answer that has the parent's id.
    """

    kind: Kind
    decide: Callable[[Any, BatchState], Drafted]
    names: Callable[[Any], Iterable[int]] = _parents_accounts
    lookup: Lookup | None = None
    not_found: Rejection = Rejection.TRANSACTION_NOT_FOUND
    parents: frozenset[Kind] = frozenset()
    parent_member: str | None = None


_NO_HOLD, _NO_SCHEDULE = Rejection.HOLD_NOT_FOUND, Rejection.SCHEDULE_NOT_FOUND
_HOLDS, _SCHEDULES = frozenset({Kind.HOLD}), frozenset({Kind.SCHEDULE})
_CROSSINGS, _CREDITS = frozenset({Kind.CROSSING}), frozenset({Kind.CROSS_CREDIT})

RULES: dict[type[Any], Rule] = {
    General: Rule(Kind.GENERAL, legs.decide, legs.named_accounts),
    Hold: Rule(Kind.HOLD, holds.place, _two_accounts),
    Capture: Rule(
        Kind.CAPTURE,
        holds.capture,
        lookup=Lookup.HOLD,
        not_found=_NO_HOLD,
        parents=_HOLDS,
        parent_member="hold_id",
    ),
    Release: Rule(
        Kind.RELEASE,
        holds.release,
        lookup=Lookup.HOLD,
        not_found=_NO_HOLD,
        parents=_HOLDS,
        parent_member="hold_id",
    ),
    Reversal: Rule(
        Kind.REVERSAL,
        reversals.decide,
        lookup=Lookup.REVERSED_AMOUNTS,
        parents=reversals.REVERSIBLE,
        parent_member="reverses",
    ),
    PolicyChange: Rule(Kind.POLICY, policies.decide, _account),
    Schedule: Rule(Kind.SCHEDULE, schedules.schedule, _two_accounts),
    Execution: Rule(
        Kind.TRANSFER,
        schedules.execute,
        lookup=Lookup.OPEN_SCHEDULE,
        not_found=_NO_SCHEDULE,
        parents=_SCHEDULES,
        parent_member="schedule_id",
    ),
    Cancellation: Rule(
        Kind.CANCELLATION,
        schedules.cancel,
        lookup=Lookup.OPEN_SCHEDULE,
        not_found=_NO_SCHEDULE,
        parents=_SCHEDULES,
        parent_member="schedule_id",
    ),
    Crossing: Rule(Kind.CROSSING, crossings.place, crossings.named_accounts),
    CrossingBack: Rule(
        Kind.CROSSING,
        crossings.place_back,
        crossings.clearing_account,
        lookup=Lookup.MOVED_BACK,
        parents=_CREDITS,
        parent_member="reverses",
    ),
    CrossCredit: Rule(Kind.CROSS_CREDIT, crossings.credit, crossings.named_accounts),
    CrossDebit: Rule(
        Kind.CROSS_DEBIT,
        crossings.debit,
        lookup=Lookup.HOLD,
        not_found=_NO_HOLD,
        parents=_CROSSINGS,
        parent_member="hold_id",
    ),
    CrossRelease: Rule(
        Kind.CROSS_RELEASE,
        crossings.release,
        lookup=Lookup.HOLD,
        not_found=_NO_HOLD,
        parents=_CROSSINGS,
        parent_member="hold_id",
    ),
}

PARENT_MEMBERS = {
    rule.kind: rule.parent_member for rule in RULES.values() if rule.parent_member is not None
}
"""By kind: the member of an answer that has the id of the transaction it builds on."""
