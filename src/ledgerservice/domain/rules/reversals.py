"""Reversals: whole, by an amount, by legs; never more than the original moved."""

from collections.abc import Iterable

from ledgerservice.domain.batch_state import AccountState, BatchState
from ledgerservice.domain.instructions import Kind, Leg, Reversal
from ledgerservice.domain.rules.drafts import (
    Draft,
    Drafted,
    Move,
    first_refusal,
    imbalance_of,
    minor_of,
    rejected_amount,
)
from ledgerservice.domain.rules.legs import moves_of
from ledgerservice.domain.transactions import (
    DeclineReason,
    Policy,
    Refusal,
    Rejected,
    Rejection,
    Transaction,
)

REVERSIBLE = frozenset({Kind.DEPOSIT, Kind.WITHDRAWAL, Kind.TRANSFER, Kind.GENERAL, Kind.CAPTURE})
"""The kinds that move money, and are not reversals."""


def decide(instruction: Reversal, state: BatchState) -> Drafted:
    """Move back what a transaction moved, as far as it was not moved back before."""
    original = state.transactions[instruction.parent_id]
    own = state.accounts[original.account_id]
    if original.kind not in REVERSIBLE or original.refusal is not None:
        return Rejected(Rejection.NOT_REVERSIBLE, own.account.id)
    moved = _moved_by(original)
    rest = {
        account_id: amount + state.reversed.get(original.id, {}).get(account_id, 0)
        for account_id, amount in moved.items()
    }
    moves = _moves_of(instruction, state, own, moved, rest)
    if isinstance(moves, Rejected):
        return moves
    refusal = _refusal_of(instruction, own, moves, rest)
    amount = sum(abs(move.amount) for move in moves if move.account is own)
    forced_by = instruction if instruction.force else None
    return Draft(Kind.REVERSAL, own, amount, moves, refusal, forced_by=forced_by)


def _moved_by(original: Transaction) -> dict[int, int]:
    """What a transaction moved, by account."""
    moved: dict[int, int] = {}
    for entry in original.entries:
        moved[entry.account_id] = moved.get(entry.account_id, 0) + entry.amount
    return moved


def _refusal_of(
    instruction: Reversal, own: AccountState, moves: list[Move], rest: dict[int, int]
) -> Refusal | None:
    if not moves or any(_exceeds(move, rest[move.account.account.id]) for move in moves):
        return own.refuse(DeclineReason.REVERSAL_EXCEEDED)
    return first_refusal(moves, forced=instruction.force)


def _exceeds(move: Move, rest: int) -> bool:
    """Whether a move goes the wrong way, or further back than the rest of the original."""
    return move.amount * -rest <= 0 or abs(move.amount) > abs(rest)


def _moves_of(
    instruction: Reversal,
    state: BatchState,
    own: AccountState,
    moved: dict[int, int],
    rest: dict[int, int],
) -> list[Move] | Rejected:
    """The moves of a reversal: the rest, the given legs, or an amount between two accounts."""
    if instruction.legs is not None:
        return _given_legs(instruction.legs, state, own, rest)
    if instruction.amount is None:
        return [Move(state.accounts[i], -amount) for i, amount in rest.items() if amount]
    if len(moved) != 2:
        return Rejected(Rejection.LEGS_UNBALANCED, own.account.id)
    amount = minor_of(instruction.amount, own.account.exponent)
    if isinstance(amount, Rejection):
        return rejected_amount(amount, own.account)
    return [Move(state.accounts[i], -amount if was > 0 else amount) for i, was in moved.items()]


def _given_legs(
    legs: Iterable[Leg], state: BatchState, own: AccountState, rest: dict[int, int]
) -> list[Move] | Rejected:
    # First, because whether another account is locked depends on what else is in the batch.
    stranger = next((leg.account_id for leg in legs if leg.account_id not in rest), None)
    if stranger is not None:
        return Rejected(Rejection.ACCOUNT_NOT_FOUND, stranger)
    drafted = moves_of(legs, state)
    if isinstance(drafted, Rejected):
        return drafted
    moves = drafted[0]
    repeated = len({move.account.account.id for move in moves}) < len(moves)
    imbalance = imbalance_of(moves)
    if repeated or imbalance is not None:
        return Rejected(Rejection.LEGS_UNBALANCED, own.account.id, imbalance or {})
    return moves


def forced_policies(draft: Draft, forced: Reversal) -> tuple[Policy, ...]:
    """The policy rows of a forced reversal, of the accounts that it leaves below their floors.

    To be called when the draft's moves are made.
    """
    reason = None if forced.detail is None else forced.detail.description
    changes: dict[AccountState, int] = {}
    for state, amount, held_change in draft.moves:
        changes[state] = changes.get(state, 0) + amount - held_change
    return tuple(
        _forced_policy(state, state.account.floor, forced.actor, reason)
        for state, change in changes.items()
        if change < 0 and state.account.floor is not None and state.available < state.account.floor
    )


def _forced_policy(
    state: AccountState, floor: int, actor: str | None, reason: str | None
) -> Policy:
    account = state.account
    limits = floor, account.ceiling, account.restricted
    return Policy(account.id, state.version, *limits, actor, reason, state.available)
