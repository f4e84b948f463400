"""Holds: placed, captured in parts or whole, released."""

from datetime import datetime

from ledgerservice.domain.batch_state import AccountState, BatchState
from ledgerservice.domain.instructions import Capture, Hold, Kind, Origin, Release, Step
from ledgerservice.domain.rules.drafts import (
    Draft,
    Drafted,
    Move,
    amount_between,
    first_refusal,
    minor_of,
    refusal_of,
    rejected_amount,
)
from ledgerservice.domain.transactions import (
    DeclineReason,
    HoldState,
    HoldTerms,
    Refusal,
    Rejected,
    Rejection,
)


def place(instruction: Hold, state: BatchState) -> Drafted:
    """Reserve an amount on an account."""
    own = state.customer(instruction.account_id)
    if own is None:
        return Rejected(Rejection.ACCOUNT_NOT_FOUND, instruction.account_id)
    if instruction.counterparty_id is None:
        other: AccountState | None = state.accounts[own.account.external_id]
    else:
        other = state.customer(instruction.counterparty_id)
    if other is None:
        return Rejected(Rejection.ACCOUNT_NOT_FOUND, instruction.counterparty_id)
    amount = amount_between(own, other, instruction.amount)
    if isinstance(amount, Rejected):
        return amount
    expires_at = instruction.expires_at
    if expires_at is not None and expires_at <= state.now:
        return Rejected(Rejection.EXPIRY_PASSED, instruction.account_id)
    terms = HoldTerms(own.account.id, other.account.id, amount, expires_at, instruction.capture_at)
    refusal = refusal_of(own, 0, amount)
    moves = [Move(own, 0, amount)]
    return Draft(Kind.HOLD, own, amount, moves, refusal, terms=terms, hold_remaining=amount)


def capture(instruction: Capture, state: BatchState) -> Drafted:
    """Move held money to the counterparty of the hold."""
    hold = state.holds.get(instruction.parent_id)
    if hold is None or _is_unreachable(instruction, hold, hold.terms.capture_at, state):
        return Rejected(Rejection.HOLD_NOT_FOUND)
    terms = hold.terms
    own, other = state.accounts[terms.account_id], state.accounts[terms.counterparty_id]
    chosen = _amount_of(hold, own, instruction.amount)
    if isinstance(chosen, Rejected):
        return chosen
    amount, refusal = chosen
    if _is_over_for(instruction, terms.expires_at, state.now):
        refusal = refusal or own.refuse(DeclineReason.HOLD_CLOSED)
    freed = hold.remaining if instruction.final else amount
    moves = [Move(own, -amount, -freed), Move(other, amount)]
    refusal = refusal or first_refusal(moves)
    remaining = hold.remaining if refusal else hold.remaining - freed
    return Draft(Kind.CAPTURE, own, amount, moves, refusal, hold_remaining=remaining)


def _is_over_for(instruction: Capture, expires_at: datetime | None, now: datetime) -> bool:
    """After its expiry a hold reserves only for the capture that the service must still try."""
    return instruction.origin is Origin.CALLER and expires_at is not None and expires_at <= now


def release(instruction: Release, state: BatchState) -> Drafted:
    """Return held money to its account."""
    hold = state.holds.get(instruction.parent_id)
    if hold is None or _is_unreachable(instruction, hold, hold.ends_at, state):
        return Rejected(Rejection.HOLD_NOT_FOUND)
    own = state.accounts[hold.terms.account_id]
    chosen = _amount_of(hold, own, instruction.amount)
    if isinstance(chosen, Rejected):
        return chosen
    amount, refusal = chosen
    remaining = hold.remaining if refusal else hold.remaining - amount
    moves = [Move(own, 0, -amount)]
    return Draft(Kind.RELEASE, own, amount, moves, refusal, hold_remaining=remaining)


def _amount_of(
    hold: HoldState, own: AccountState, text: str | None
) -> tuple[int, Refusal | None] | Rejected:
    """The amount of a hold that an instruction names, and the refusal if it is not there."""
    if text is None:
        amount = hold.remaining
    else:
        minor = minor_of(text, own.account.exponent)
        if isinstance(minor, Rejection):
            return rejected_amount(minor, own.account)
        amount = minor
    if hold.remaining == 0:
        return amount or hold.terms.amount, own.refuse(DeclineReason.HOLD_CLOSED)
    if amount > hold.remaining:
        return amount, own.refuse(DeclineReason.HOLD_EXCEEDED)
    return amount, None


def _is_unreachable(
    instruction: Step, hold: HoldState, due: datetime | None, state: BatchState
) -> bool:
    """Whether the hold is one of a transfer to another part, which only the service ends; or the
    service acts on its own initiative on something that is not due, or done already.

    The clock may have been put back, or a caller may have come first. Nothing is recorded then.
    """
    if hold.terms.to_ledger_id is not None:
        return True
    if instruction.origin is Origin.CALLER:
        return False
    return due is None or state.now < due or hold.remaining == 0
