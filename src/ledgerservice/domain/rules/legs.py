"""Transactions of many legs: conditions, balance, and the rate of an exchange."""

from collections.abc import Iterable, Iterator
from decimal import Decimal, localcontext
from fractions import Fraction

import msgspec

from ledgerservice.domain.amounts import MAX_BALANCE_MINOR, to_major
from ledgerservice.domain.batch_state import AccountState, BatchState
from ledgerservice.domain.instructions import Exchange, General, Kind, Leg
from ledgerservice.domain.rules.drafts import (
    Draft,
    Drafted,
    Move,
    first_refusal,
    imbalance_of,
    minor_of,
    precision,
    rejected_amount,
    rejected_currency,
)
from ledgerservice.domain.transactions import DeclineReason, Refusal, Rejected, Rejection


def named_accounts(instruction: General) -> Iterator[int]:
    """The accounts of the legs, and the one that takes the rounding difference."""
    yield from (leg.account_id for leg in instruction.legs)
    exchange = instruction.exchange
    if exchange is not None and exchange.rounding_account_id is not None:
        yield exchange.rounding_account_id


def decide(instruction: General, state: BatchState) -> Drafted:
    """Move all legs, or none."""
    drafted = moves_of(instruction.legs, state)
    if isinstance(drafted, Rejected):
        return drafted
    moves, refusal = drafted
    own = moves[0].account
    rate = None
    if instruction.exchange is not None:
        rejected = _apply_exchange(instruction.exchange, moves, state)
        if rejected is not None:
            return rejected
        rate = _stored_rate(instruction.exchange)
    if (imbalance := imbalance_of(moves)) is not None:
        return Rejected(Rejection.LEGS_UNBALANCED, own.account.id, imbalance)
    refusal = refusal or first_refusal(moves)
    return Draft(Kind.GENERAL, own, abs(moves[0].amount), moves, refusal, exchange=rate)


def _stored_rate(exchange: Exchange) -> str:
    fields = msgspec.structs.asdict(exchange)
    if fields["sold"] is None:
        del fields["sold"]
    return msgspec.json.encode(fields).decode()


def moves_of(
    legs: Iterable[Leg], state: BatchState
) -> tuple[list[Move], Refusal | None] | Rejected:
    """The legs as moves, and the refusal of the first condition that does not hold."""
    moves: list[Move] = []
    refusal: Refusal | None = None
    for leg in legs:
        account = state.customer(leg.account_id)
        if account is None:
            return Rejected(Rejection.ACCOUNT_NOT_FOUND, leg.account_id)
        if leg.currency is not None and leg.currency != account.account.currency:
            return rejected_currency(account.account, leg.currency)
        amount = minor_of(leg.amount, account.account.exponent)
        conditions = _conditions_hold(leg, account)
        for part in (amount, conditions):
            if isinstance(part, Rejection):
                return rejected_amount(part, account.account)
        assert not isinstance(amount, Rejection)
        moves.append(Move(account, amount))
        if not conditions and refusal is None:
            refusal = account.refuse(DeclineReason.CONDITION_FAILED)
    return moves, refusal


def _conditions_hold(leg: Leg, account: AccountState) -> bool | Rejection:
    """Whether the account meets the leg's conditions before the transaction."""
    hold = leg.version in (None, account.version)
    for demanded, actual in (
        (leg.available_at_least, account.available),
        (leg.balance_at_least, account.balance),
    ):
        if demanded is not None:
            least = minor_of(demanded, account.account.exponent, MAX_BALANCE_MINOR)
            if isinstance(least, Rejection):
                return least
            hold = hold and actual >= least
    return hold


def _apply_exchange(exchange: Exchange, moves: list[Move], state: BatchState) -> Rejected | None:
    """Compare the rate with the amounts, and add the move of the rounding difference.

    The amount given of the bought currency differs from the rate by less than a minor unit. The
    rounding difference is at most one minor unit for each account that receives. An account's
    moves count by their sum.
    """
    buys, buys_exponent = _nets(moves, exchange.buy)
    sells, sells_exponent = _nets(moves, exchange.sell)
    if not buys or not sells or exchange.buy == exchange.sell:
        return Rejected(Rejection.RATE_MISMATCH)
    sold = most = sum(net for net in sells if net > 0)
    if exchange.sold is not None:
        stated = minor_of(exchange.sold, sells_exponent)
        if isinstance(stated, Rejection):
            return Rejected(stated, None, precision(exchange.sell, sells_exponent))
        sold = stated
    bought = sum(-net for net in buys if net < 0)
    exact = Fraction(exchange.rate) * sold * 10**buys_exponent / 10**sells_exponent
    if sold > most or abs(bought - exact) >= 1:
        facts: dict[str, str | int] = {
            "currency": exchange.buy,
            "bought": to_major(bought, buys_exponent),
            "expected": _decimal(exact / 10**buys_exponent),
        }
        return Rejected(Rejection.RATE_MISMATCH, None, facts)
    if exchange.rounding_account_id is None:
        return None
    return _add_rounding(exchange, exchange.rounding_account_id, buys, moves, state)


def _decimal(number: Fraction) -> str:
    """A fraction of powers of ten as a plain decimal."""
    with localcontext(prec=120):
        return format(Decimal(number.numerator) / Decimal(number.denominator), "f")


def _add_rounding(
    exchange: Exchange, account_id: int, buys: list[int], moves: list[Move], state: BatchState
) -> Rejected | None:
    account = state.customer(account_id)
    if account is None:
        return Rejected(Rejection.ACCOUNT_NOT_FOUND, account_id)
    if account.account.currency != exchange.buy:
        return rejected_currency(account.account, exchange.buy)
    difference = -sum(buys)
    if 0 < abs(difference) <= sum(net > 0 for net in buys):
        moves.append(Move(account, difference))
    return None


def _nets(moves: Iterable[Move], currency: str) -> tuple[list[int], int]:
    """The gains and losses of the accounts in a currency, and the currency's exponent."""
    nets: dict[int, int] = {}
    exponent = 0
    for state, amount, _ in moves:
        if state.account.currency == currency:
            nets[state.account.id] = nets.get(state.account.id, 0) + amount
            exponent = state.account.exponent
    return list(nets.values()), exponent
