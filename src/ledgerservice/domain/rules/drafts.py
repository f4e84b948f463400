"""Drafts: the result of a rule before it is recorded; and the checks that all rules share."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from ledgerservice.domain.accounts import Account
from ledgerservice.domain.amounts import MAX_AMOUNT_MINOR, MAX_BALANCE_MINOR, to_major, to_minor
from ledgerservice.domain.batch_state import AccountState
from ledgerservice.domain.instructions import Frozen, Kind, Reversal
from ledgerservice.domain.transactions import (
    DeclineReason,
    Policy,
    Refusal,
    Rejected,
    Rejection,
    Terms,
)


class Move(NamedTuple):
    """A signed amount on an account, and a signed change of its held amount."""

    account: AccountState
    amount: int
    held_change: int = 0


class Draft(msgspec.Struct):
    """A decision before it is recorded.

    `amount` is the transaction's own, in the currency of `own`. With a `refusal` nothing moves.
    `forced_by` is a reversal that may take accounts below their floors.
    """

    kind: Kind
    own: AccountState
    amount: int
    moves: list[Move]
    refusal: Refusal | None = None
    counterparty_id: int | None = None
    exchange: str | None = None
    terms: Terms | None = None
    hold_remaining: int | None = None
    policy: Policy | None = None
    forced_by: Reversal | None = None


Drafted = Draft | Rejected


def refusal_of(
    state: AccountState, amount: int, held_change: int = 0, *, forced: bool = False
) -> Refusal | None:
    """Why the account's state does not allow the move, or None."""
    account = state.account
    if account.restricted and (
        reason := _restriction(account.restricted, amount < 0 or held_change > 0, amount > 0)
    ):
        return state.refuse(reason)
    balance, lowered = state.balance + amount, amount - held_change
    if lowered < 0:
        available = state.balance - state.held + lowered
        if account.floor is not None and available < account.floor and not forced:
            return state.refuse(DeclineReason.INSUFFICIENT_FUNDS)
    elif account.ceiling is not None and amount > 0 and balance > account.ceiling:
        return state.refuse(DeclineReason.BALANCE_CEILING)
    if -MAX_BALANCE_MINOR <= balance <= MAX_BALANCE_MINOR:
        return None
    return state.refuse(DeclineReason.BALANCE_LIMIT)


def _restriction(restricted: int, debit: bool, credit: bool) -> DeclineReason | None:
    """The reason of a frozen or closed account. A hold counts as a debit; releasing is allowed."""
    if restricted & Frozen.CLOSED and (debit or credit):
        return DeclineReason.ACCOUNT_CLOSED
    if (restricted & Frozen.DEBITS and debit) or (restricted & Frozen.CREDITS and credit):
        return DeclineReason.ACCOUNT_FROZEN
    return None


def first_refusal(moves: Iterable[Move], *, forced: bool = False) -> Refusal | None:
    """Why one of the accounts does not allow the sum of its moves, or None.

    A move that a frozen account refuses is refused even if other moves make up for it.
    """
    by_account: dict[int, list[Move]] = {}
    for move in moves:
        by_account.setdefault(move.account.account.id, []).append(move)
    for account_moves in by_account.values():
        state = account_moves[0].account
        debit = any(move.amount < 0 or move.held_change > 0 for move in account_moves)
        credit = any(move.amount > 0 for move in account_moves)
        reason = _restriction(state.account.restricted, debit, credit)
        if reason is not None:
            return state.refuse(reason)
        net = sum(m.amount for m in account_moves), sum(m.held_change for m in account_moves)
        if (refusal := refusal_of(state, *net, forced=forced)) is not None:
            return refusal
    return None


def minor_of(text: str, exponent: int, limit: int = MAX_AMOUNT_MINOR) -> int | Rejection:
    """A signed decimal in minor units, or the reason to reject it."""
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    amount = to_minor(digits, exponent)
    if amount is None:
        return Rejection.AMOUNT_PRECISION
    return Rejection.AMOUNT_LIMIT if amount > limit else sign * amount


def amount_between(own: AccountState, other: AccountState, text: str) -> int | Rejected:
    """An amount, in minor units, that one account is to give to another."""
    if own is other:
        return Rejected(Rejection.SAME_ACCOUNT, own.account.id)
    if own.account.currency_number != other.account.currency_number:
        return rejected_currency(own.account, other.account.currency)
    amount = minor_of(text, own.account.exponent)
    return rejected_amount(amount, own.account) if isinstance(amount, Rejection) else amount


def rejected_amount(reason: Rejection, account: Account) -> Rejected:
    """The rejection of an amount on an account."""
    if reason is not Rejection.AMOUNT_PRECISION:
        return Rejected(reason, account.id)
    return Rejected(reason, account.id, precision(account.currency, account.exponent))


def rejected_currency(account: Account, expected: str) -> Rejected:
    """The rejection of an account whose currency is not the expected one."""
    facts = {"currency": account.currency, "expected_currency": expected}
    return Rejected(Rejection.CURRENCY_MISMATCH, account.id, facts)


def precision(currency: str, exponent: int) -> dict[str, str | int]:
    """How many decimals are allowed."""
    return {"currency": currency, "decimals": exponent}


def imbalance_of(moves: Iterable[Move]) -> dict[str, str | int] | None:
    """The first currency in which the moves do not sum to zero, with their sum; or None."""
    totals: dict[int, int] = {}
    accounts: dict[int, Account] = {}
    for state, amount, _ in moves:
        number = state.account.currency_number
        accounts.setdefault(number, state.account)
        totals[number] = totals.get(number, 0) + amount
    for number, total in totals.items():
        if total:
            account = accounts[number]
            difference = to_major(total, account.exponent)
            return {"currency": account.currency, "difference": difference}
    return None
