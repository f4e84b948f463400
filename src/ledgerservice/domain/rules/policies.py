"""Policies: floor, ceiling, frozen, closed."""

from msgspec import UNSET, UnsetType

from ledgerservice.domain.accounts import Account
from ledgerservice.domain.amounts import MAX_BALANCE_MINOR
from ledgerservice.domain.batch_state import AccountState, BatchState
from ledgerservice.domain.instructions import Frozen, Kind, PolicyChange
from ledgerservice.domain.rules.drafts import Draft, Drafted, Move, minor_of, rejected_amount
from ledgerservice.domain.transactions import DeclineReason, Policy, Refusal, Rejected, Rejection


def decide(instruction: PolicyChange, state: BatchState) -> Drafted:
    """Change the limits of an account."""
    own = state.customer(instruction.account_id)
    if own is None:
        return Rejected(Rejection.ACCOUNT_NOT_FOUND, instruction.account_id)
    account = own.account
    floor = _limit(instruction.floor, account.floor, account)
    ceiling = _limit(instruction.ceiling, account.ceiling, account)
    for limit in (floor, ceiling):
        if isinstance(limit, Rejection):
            return rejected_amount(limit, account)
    assert isinstance(floor, int)
    assert not isinstance(ceiling, Rejection)
    restricted = account.restricted if instruction.frozen is UNSET else instruction.frozen
    if instruction.closed:
        restricted |= Frozen.CLOSED
    refusal = _refusal_of(instruction, own, floor, ceiling)
    seq = own.version + 1
    author = instruction.actor, instruction.reason
    policy = Policy(account.id, seq, floor, ceiling, int(restricted), *author)
    return Draft(Kind.POLICY, own, 0, [Move(own, 0)], refusal, policy=policy)


def _limit(
    text: str | UnsetType | None, present: int | None, account: Account
) -> int | Rejection | None:
    """A limit in minor units: the present one, none, or the new one."""
    if text is UNSET:
        return present
    if text is None:
        return None
    assert isinstance(text, str)
    return minor_of(text, account.exponent, MAX_BALANCE_MINOR)


def _refusal_of(
    instruction: PolicyChange, own: AccountState, floor: int, ceiling: int | None
) -> Refusal | None:
    if own.account.restricted & Frozen.CLOSED:
        return own.refuse(DeclineReason.ACCOUNT_CLOSED)
    if instruction.closed and (own.balance or own.held):
        return own.refuse(DeclineReason.BALANCE_NOT_ZERO)
    if ceiling is not None and ceiling < floor:
        return own.refuse(DeclineReason.POLICY_CONFLICT)
    return None
