"""Transfers between two parts of a ledger, in three steps: hold, credit, and the end of the hold.

The first two are decided by the states of their accounts. The third follows the second, whatever
the policy of the account is by then: the money has arrived, or it has not.
"""

from collections.abc import Iterator

from ledgerservice.domain.amounts import MAX_BALANCE_MINOR
from ledgerservice.domain.batch_state import AccountState, BatchState
from ledgerservice.domain.instructions import (
    CrossCredit,
    CrossDebit,
    Crossing,
    CrossingBack,
    CrossRelease,
    Kind,
)
from ledgerservice.domain.rules.drafts import (
    Draft,
    Drafted,
    Move,
    amount_between,
    minor_of,
    refusal_of,
    rejected_amount,
)
from ledgerservice.domain.transactions import (
    DeclineReason,
    HoldState,
    HoldTerms,
    Rejected,
    Rejection,
)


def named_accounts(instruction: Crossing | CrossCredit) -> Iterator[int]:
    """The account and the clearing account, which is beside it."""
    yield instruction.account_id
    yield instruction.clearing_id


def clearing_account(instruction: CrossingBack) -> Iterator[int]:
    """The other one is the parent's."""
    yield instruction.clearing_id


def place(instruction: Crossing, state: BatchState) -> Drafted:
    """Reserve an amount for an account of another part."""
    own = state.customer(instruction.account_id)
    if own is None:
        return Rejected(Rejection.ACCOUNT_NOT_FOUND, instruction.account_id)
    clearing = state.accounts[instruction.clearing_id]
    amount = amount_between(own, clearing, instruction.amount)
    if isinstance(amount, Rejected):
        return amount
    return _hold(instruction, own, clearing, amount)


def place_back(instruction: CrossingBack, state: BatchState) -> Drafted:
    """Reserve what a credit brought, as far as it was not moved back before."""
    credit = state.transactions[instruction.parent_id]
    own, clearing = state.accounts[credit.account_id], state.accounts[instruction.clearing_id]
    if credit.kind is not Kind.CROSS_CREDIT or credit.refusal is not None:
        return Rejected(Rejection.NOT_REVERSIBLE, own.account.id)
    moved_back = -state.reversed.get(credit.id, {}).get(own.account.id, 0)
    rest = credit.amount - moved_back
    amount = rest
    if instruction.amount is not None:
        minor = minor_of(instruction.amount, own.account.exponent)
        if isinstance(minor, Rejection):
            return rejected_amount(minor, own.account)
        amount = minor
    draft = _hold(instruction, own, clearing, amount or credit.amount)
    if amount > rest or rest == 0:
        draft.refusal = own.refuse(DeclineReason.REVERSAL_EXCEEDED)
    return draft


def _hold(
    instruction: Crossing | CrossingBack, own: AccountState, clearing: AccountState, amount: int
) -> Draft:
    refusal = refusal_of(own, 0, amount)
    if refusal is None and clearing.balance + amount > MAX_BALANCE_MINOR:
        refusal = own.refuse(DeclineReason.BALANCE_LIMIT)
    place = instruction.to_ledger_id, instruction.counterparty_id
    terms = HoldTerms(own.account.id, clearing.account.id, amount, None, None, *place)
    moves = [Move(own, 0, amount)]
    return Draft(Kind.CROSSING, own, amount, moves, refusal, terms=terms, hold_remaining=amount)


def credit(instruction: CrossCredit, state: BatchState) -> Drafted:
    """Move the amount of a hold of another part to its account, or decline it."""
    own = state.customer(instruction.account_id)
    if own is None:
        return Rejected(Rejection.ACCOUNT_NOT_FOUND, instruction.account_id)
    clearing = state.accounts[instruction.clearing_id]
    amount = amount_between(own, clearing, instruction.amount)
    if isinstance(amount, Rejected):
        return amount
    refusal = refusal_of(own, amount) or refusal_of(clearing, -amount)
    moves = [Move(clearing, -amount), Move(own, amount)]
    return Draft(Kind.CROSS_CREDIT, own, amount, moves, refusal)


def debit(instruction: CrossDebit, state: BatchState) -> Drafted:
    """Move the held amount to the clearing account. It is never declined."""
    hold = _open_hold(instruction, state)
    if hold is None:
        return Rejected(Rejection.HOLD_NOT_FOUND)
    own, clearing = (state.accounts[i] for i in (hold.terms.account_id, hold.terms.counterparty_id))
    moves = [Move(own, -hold.remaining, -hold.remaining), Move(clearing, hold.remaining)]
    return Draft(Kind.CROSS_DEBIT, own, hold.remaining, moves, hold_remaining=0)


def release(instruction: CrossRelease, state: BatchState) -> Drafted:
    """Return the held amount to its account. It is never declined."""
    hold = _open_hold(instruction, state)
    if hold is None:
        return Rejected(Rejection.HOLD_NOT_FOUND)
    own = state.accounts[hold.terms.account_id]
    moves = [Move(own, 0, -hold.remaining)]
    return Draft(Kind.CROSS_RELEASE, own, hold.remaining, moves, hold_remaining=0)


def _open_hold(instruction: CrossDebit | CrossRelease, state: BatchState) -> HoldState | None:
    hold = state.holds.get(instruction.parent_id)
    is_open = hold is not None and hold.terms.to_ledger_id is not None and hold.remaining > 0
    return hold if is_open else None
