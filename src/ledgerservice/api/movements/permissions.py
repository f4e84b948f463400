"""What an instruction needs of its caller beyond its route: the items of a batch have no route."""

from collections.abc import Iterator, Sequence

from msgspec import UNSET

from ledgerservice.access.covering import parent_of, uses_of
from ledgerservice.access.grants import signature_denial
from ledgerservice.access.scopes import ALL, POLICIES, Scope
from ledgerservice.api.http.auditing import mark
from ledgerservice.api.http.authentication import denied
from ledgerservice.api.http.call import Call
from ledgerservice.api.http.problems import ProblemError
from ledgerservice.api.movements.parents import not_found
from ledgerservice.domain.instructions import (
    Cancellation,
    Capture,
    General,
    Hold,
    Instruction,
    Kind,
    Movement,
    PolicyChange,
    Release,
    Reversal,
    Schedule,
)

# Plain numbers: the arithmetic of flags takes a microsecond.
_EVERYTHING, _BACKDATE, _FORCE = int(ALL), int(Scope.BACKDATE), int(Scope.REVERSALS_FORCE)
_FREEZE, _POLICIES = int(POLICIES), int(Scope.POLICIES_WRITE)
_MOVEMENTS = {
    Kind.DEPOSIT: int(Scope.DEPOSIT),
    Kind.WITHDRAWAL: int(Scope.WITHDRAW),
    Kind.TRANSFER: int(Scope.TRANSFER),
}
_KINDS: dict[type[Instruction], int] = {
    General: int(Scope.TRANSACTIONS),
    Hold: int(Scope.HOLDS),
    Capture: int(Scope.HOLDS),
    Release: int(Scope.HOLDS),
    Reversal: int(Scope.REVERSALS),
    Schedule: int(Scope.SCHEDULES),
    Cancellation: int(Scope.SCHEDULES),
}


def check_scopes(call: Call, instruction: Instruction) -> None:
    """Raise ProblemError if the caller may not give this instruction on its ledger."""
    is_plain = type(instruction) is Movement
    if not is_plain:
        mark(instruction)
    scopes = call.caller.scopes_on(call.ledger)
    if scopes & _EVERYTHING != _EVERYTHING:
        if call.caller.refusal is not None:
            raise denied(call.caller.refusal, 0)
        missing = [needed for needed in _needed(instruction) if not scopes & needed]
        if missing:
            _check_accounts(call, instruction, missing)
    if not is_plain:
        _check_signed(call, instruction)


def _check_signed(call: Call, instruction: Instruction) -> None:
    """Raise ProblemError if the instruction overdraws by force, and nobody has signed it."""
    if isinstance(instruction, Reversal) and instruction.force:
        code = signature_denial(call.caller)
        if code is not None:
            raise denied(code, 0)


def _check_accounts(call: Call, instruction: Instruction, missing: Sequence[int]) -> None:
    """Raise ProblemError if no grant has all missing scopes and covers all accounts. An account
    outside the grants does not exist for the caller, nor what has one.
    """
    grants = call.caller.by_accounts.get(call.ledger, ())
    able = [one for one in grants if all(one.scopes & needed for needed in missing)]
    if not able:
        raise denied("scope_missing", missing[0])
    parent, uses = parent_of(instruction), uses_of(instruction, call.parents)
    outside = [0] if uses is None else [one.outside(uses) for one in able]
    if uses is None or None not in outside:
        if parent is not None:
            raise not_found(parent)
        raise ProblemError("account_not_found", account_id=outside[0])
    covering = [one for one, account in zip(able, outside, strict=True) if account is None]
    if all(one.is_too_much(uses) for one in covering):
        raise denied("amount_not_granted", 0)


def is_covered(call: Call, instruction: Instruction) -> bool:
    """Whether one of the caller's grants covers all accounts of an instruction, by any scope."""
    uses = uses_of(instruction, call.parents)
    grants = call.caller.by_accounts.get(call.ledger, ())
    return uses is not None and any(one.outside(uses) is None for one in grants)


def _needed(instruction: Instruction) -> Iterator[int]:
    """Sums of scopes: one of each is needed."""
    if isinstance(instruction, Movement):
        yield _MOVEMENTS[instruction.kind]
    elif isinstance(instruction, PolicyChange):
        yield _FREEZE if _only_freezes(instruction) else _POLICIES
    else:
        yield _KINDS[type(instruction)]
    if isinstance(instruction, Schedule):
        yield _MOVEMENTS[Kind.TRANSFER]
    if isinstance(instruction, Reversal) and instruction.force:
        yield _FORCE
    if instruction.detail is not None and instruction.detail.effective_at is not None:
        yield _BACKDATE


def _only_freezes(change: PolicyChange) -> bool:
    """Whether it freezes or unfreezes the account, and nothing else."""
    return change.floor is UNSET and change.ceiling is UNSET and not change.closed
