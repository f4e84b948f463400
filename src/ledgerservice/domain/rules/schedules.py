"""Scheduled transfers: scheduled, executed when they are due, or cancelled before."""

from ledgerservice.domain.batch_state import BatchState
from ledgerservice.domain.instructions import Cancellation, Execution, Frozen, Kind, Schedule
from ledgerservice.domain.rules.drafts import Draft, Drafted, Move, amount_between, first_refusal
from ledgerservice.domain.transactions import DeclineReason, Rejected, Rejection, ScheduleTerms


def schedule(instruction: Schedule, state: BatchState) -> Drafted:
    """Record a transfer that is to be executed later."""
    own = state.customer(instruction.account_id)
    other = state.customer(instruction.counterparty_id)
    if own is None or other is None:
        missing = instruction.account_id if own is None else instruction.counterparty_id
        return Rejected(Rejection.ACCOUNT_NOT_FOUND, missing)
    amount = amount_between(own, other, instruction.amount)
    if isinstance(amount, Rejected):
        return amount
    terms = ScheduleTerms(own.account.id, other.account.id, amount, instruction.execute_at)
    closed = next((one for one in (own, other) if one.account.restricted & Frozen.CLOSED), None)
    refusal = None if closed is None else closed.refuse(DeclineReason.ACCOUNT_CLOSED)
    return Draft(Kind.SCHEDULE, own, amount, [Move(own, 0)], refusal, terms=terms)


def execute(instruction: Execution, state: BatchState) -> Drafted:
    """Make a scheduled transfer, whoever asks for it, but not before it is due."""
    terms = _terms_of(instruction.parent_id, state)
    if terms is None or instruction.parent_id not in state.open_schedules:
        return Rejected(Rejection.SCHEDULE_NOT_FOUND)
    if state.now < terms.execute_at:
        return Rejected(Rejection.SCHEDULE_NOT_FOUND)
    own, other = state.accounts[terms.account_id], state.accounts[terms.counterparty_id]
    moves = [Move(own, -terms.amount), Move(other, terms.amount)]
    refusal = first_refusal(moves)
    counterparty = other.account.id
    return Draft(Kind.TRANSFER, own, terms.amount, moves, refusal, counterparty_id=counterparty)


def cancel(instruction: Cancellation, state: BatchState) -> Drafted:
    """Cancel a scheduled transfer before it is due, even if nothing has executed it by then."""
    terms = _terms_of(instruction.parent_id, state)
    if terms is None:
        return Rejected(Rejection.SCHEDULE_NOT_FOUND)
    own, refusal = state.accounts[terms.account_id], None
    if instruction.parent_id not in state.open_schedules or terms.execute_at <= state.now:
        refusal = own.refuse(DeclineReason.SCHEDULE_SETTLED)
    return Draft(Kind.CANCELLATION, own, 0, [Move(own, 0)], refusal)


def _terms_of(transaction_id: int, state: BatchState) -> ScheduleTerms | None:
    extra = state.transactions[transaction_id].extra
    terms = None if extra is None else extra.terms
    return terms if isinstance(terms, ScheduleTerms) else None
