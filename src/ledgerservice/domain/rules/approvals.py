"""Which instructions of a ledger others have to approve. Pure.

A rule on a limit or an amount has a bound in a currency. The currency of an account never changes,
so it is known before the account is locked.
"""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple

import msgspec
from msgspec import UNSET

from ledgerservice.domain.instructions import (
    Frozen,
    General,
    Hold,
    Instruction,
    Movement,
    PolicyChange,
    Reversal,
    Schedule,
)

RULES = ("force", "close", "unfreeze", "floor", "amount")
BOUNDED = frozenset({"floor", "amount"})
"""The rules that have a bound in a currency."""
MOST_APPROVALS = 9

EVERYTHING_FROZEN = Frozen.DEBITS | Frozen.CREDITS

Bounds = Mapping[str, tuple[Decimal, int]]
"""By currency: a bound in major units, and the approvals that a request beyond it needs."""
NO_BOUNDS: Bounds = MappingProxyType({})


class Rule(NamedTuple):
    """A rule that catches an instruction, and the approvals that it demands."""

    name: str
    approvals: int


class Rules(msgspec.Struct, frozen=True):
    """The rules of a ledger. `plain` has the approvals by the rules that have no bound.

    `smallest` is the whole part of the smallest bound of an amount: no amount with a smaller whole
    part is above any bound.
    """

    plain: Mapping[str, int]
    floors: Bounds = NO_BOUNDS
    amounts: Bounds = NO_BOUNDS
    smallest: int | None = None


FORCE_ALWAYS = Rules({"force": 1})
"""The rules of a ledger that has none of its own."""


class RuleRow(NamedTuple):
    """A rule as it is stored. `currency` and `bound` are empty for a rule without a bound."""

    ledger_id: int
    rule: str
    currency: str
    bound: str | None
    approvals: int


def rules_of(rows: Iterable[RuleRow]) -> dict[int, Rules]:
    """The rules by ledger."""
    by_ledger: dict[int, list[RuleRow]] = {}
    for row in rows:
        by_ledger.setdefault(row.ledger_id, []).append(row)
    return {ledger: _rules(own) for ledger, own in by_ledger.items()}


def _rules(rows: list[RuleRow]) -> Rules:
    plain = {row.rule: row.approvals for row in rows if row.bound is None}
    floors, amounts = (_bounds(rows, rule) for rule in ("floor", "amount"))
    smallest = min((int(bound) for bound, _ in amounts.values()), default=None)
    return Rules(FORCE_ALWAYS.plain | plain, floors, amounts, smallest)  # type: ignore[operator]


def _bounds(rows: list[RuleRow], rule: str) -> Bounds:
    return {
        row.currency: (Decimal(row.bound), row.approvals)
        for row in rows
        if row.rule == rule and row.bound is not None
    }


def is_above(rules: Rules, amount: str) -> bool:
    """Whether an amount can be above a bound: its currency decides then."""
    return rules.smallest is not None and int(amount.partition(".")[0]) >= rules.smallest


def may_catch(rules: Rules, instruction: Instruction) -> bool:
    """Whether a rule can catch an instruction. Most movements are below every bound."""
    return type(instruction) is not Movement or is_above(rules, instruction.amount)


def caught(rules: Rules, instruction: Instruction) -> Rule | None:
    """The rule without a bound that catches an instruction."""
    return max(_caught(rules, instruction), key=lambda rule: rule.approvals, default=None)


def _caught(rules: Rules, instruction: Instruction) -> Iterator[Rule]:
    if isinstance(instruction, Reversal):
        if instruction.force:
            yield Rule("force", rules.plain["force"])
    elif isinstance(instruction, PolicyChange):
        if instruction.closed and "close" in rules.plain:
            yield Rule("close", rules.plain["close"])
        if _may_unfreeze(instruction) and "unfreeze" in rules.plain:
            yield Rule("unfreeze", rules.plain["unfreeze"])


def _may_unfreeze(change: PolicyChange) -> bool:
    """Whether it names what is frozen, and not everything: something else may be frozen now."""
    return change.frozen is not UNSET and change.frozen != EVERYTHING_FROZEN


class Amount(NamedTuple):
    """An amount in major units, of the currency of an account; `account_id` None: of `parent_id`,
    a transaction that is reversed; `text` None: all that it moved.
    """

    account_id: int | None
    text: str | None
    parent_id: int | None = None


def amounts_of(rules: Rules, instruction: Instruction) -> list[Amount]:
    """What an instruction moves or reserves, as far as it can be above a bound of an amount."""
    if rules.smallest is None:
        return []
    if isinstance(instruction, Movement | Hold | Schedule):
        if not is_above(rules, instruction.amount):
            return []
        return [Amount(instruction.account_id, instruction.amount)]
    if isinstance(instruction, General):
        gains = [leg for leg in instruction.legs if not leg.amount.startswith("-")]
        # No currency's part is larger than the whole, so most transactions need no currencies.
        can_be_above = sum(Decimal(leg.amount) for leg in gains) >= rules.smallest
        return [Amount(leg.account_id, leg.amount) for leg in gains if can_be_above]
    if isinstance(instruction, Reversal):
        return [Amount(None, instruction.amount, instruction.parent_id)]
    return []


def floor_of(rules: Rules, instruction: Instruction) -> Amount | None:
    """The floor that a change of a policy sets, if it can be below a bound."""
    if rules.floors and isinstance(instruction, PolicyChange) and instruction.floor is not UNSET:
        return Amount(instruction.account_id, instruction.floor)
    return None


def beyond(bounds: Bounds, currency: str, amount: Decimal, rule: str) -> Rule | None:
    """The rule, if an amount is above the bound of its currency; a floor: below it."""
    if currency not in bounds:
        return None
    bound, approvals = bounds[currency]
    is_beyond = amount < bound if rule == "floor" else amount > bound
    return Rule(rule, approvals) if is_beyond else None
