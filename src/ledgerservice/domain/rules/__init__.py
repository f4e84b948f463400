"""What each kind of transaction does to accounts, and when it is declined. Pure functions.

A rule takes an instruction and the book, which is everything that was locked, and returns a draft:
which accounts move by how much. It changes nothing. The planner asks the rules in turn, and makes
of each draft the transaction that is written. A new kind is a new rule.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from fractions import Fraction
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from ledgerservice.domain.amounts import MAX_AMOUNT_MINOR, MAX_BALANCE_MINOR, to_minor
from ledgerservice.domain.batch_state import Book, Live
from ledgerservice.domain.instructions import (
    OWN_KEY_MARK,
    Cancellation,
    Capture,
    Exchange,
    Execution,
    Frozen,
    General,
    Hold,
    Kind,
    Leg,
    PolicyChange,
    Release,
    Reversal,
    Schedule,
    Step,
)
from ledgerservice.domain.transactions import (
    Decline,
    HoldState,
    HoldTerms,
    Policy,
    Refusal,
    Reject,
    Rejected,
    ScheduleTerms,
)


class Move(NamedTuple):
    """What an account is to do: a signed amount, and a signed change of what is held."""

    live: Live
    amount: int
    held_change: int = 0


class Draft(msgspec.Struct):
    """What an instruction comes to, before it is recorded.

    `amount` is the transaction's own, in the currency of `own`. With a `refusal` nothing moves.
    `forced` accounts may be taken below their floors.
    """

    kind: Kind
    own: Live
    amount: int
    moves: list[Move]
    refusal: Refusal | None = None
    counterparty_id: int | None = None
    exchange: str | None = None
    hold: HoldTerms | None = None
    hold_left: int | None = None
    policy: Policy | None = None
    schedule: ScheduleTerms | None = None
    forced_by: Reversal | None = None


Drafted = Draft | Rejected


def refusal_of(
    live: Live, amount: int, held_change: int = 0, *, forced: bool = False
) -> Refusal | None:
    """Why the account's state does not allow the move, or None."""
    account = live.account
    if account.restricted and (
        reason := _frozen(account.restricted, amount < 0 or held_change > 0, amount > 0)
    ):
        return live.refuse(reason)
    balance, lowered = live.balance + amount, amount - held_change
    if lowered < 0:
        available = live.balance - live.held + lowered
        if account.floor is not None and available < account.floor and not forced:
            return live.refuse(Decline.INSUFFICIENT_FUNDS)
    elif account.ceiling is not None and amount > 0 and balance > account.ceiling:
        return live.refuse(Decline.BALANCE_CEILING)
    if -MAX_BALANCE_MINOR <= balance <= MAX_BALANCE_MINOR:
        return None
    return live.refuse(Decline.BALANCE_LIMIT)


def _frozen(restricted: int, debit: bool, credit: bool) -> Decline | None:
    """A hold counts as a debit; giving back what was held is always allowed."""
    if restricted & Frozen.CLOSED and (debit or credit):
        return Decline.ACCOUNT_CLOSED
    if (restricted & Frozen.DEBITS and debit) or (restricted & Frozen.CREDITS and credit):
        return Decline.ACCOUNT_FROZEN
    return None


def _first_refusal(moves: Iterable[Move], *, forced: bool = False) -> Refusal | None:
    """Why one of the accounts does not allow all that it is to do together, or None.

    What it is frozen for it may not do even if something else makes up for it.
    """
    together: dict[int, list[Move]] = {}
    for move in moves:
        together.setdefault(move.live.account.id, []).append(move)
    for own in together.values():
        live = own[0].live
        debit = any(move.amount < 0 or move.held_change > 0 for move in own)
        reason = _frozen(live.account.restricted, debit, any(move.amount > 0 for move in own))
        if reason is not None:
            return live.refuse(reason)
        net = sum(move.amount for move in own), sum(move.held_change for move in own)
        if (refusal := refusal_of(live, *net, forced=forced)) is not None:
            return refusal
    return None


def _minor(text: str, exponent: int, limit: int = MAX_AMOUNT_MINOR) -> int | Reject:
    """A signed decimal in minor units, or what is wrong with it."""
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    amount = to_minor(digits, exponent)
    if amount is None:
        return Reject.AMOUNT_PRECISION
    return Reject.AMOUNT_LIMIT if amount > limit else sign * amount


def _general(asked: General, book: Book) -> Drafted:
    drafted = _legs(asked.legs, book)
    if isinstance(drafted, Rejected):
        return drafted
    moves, refusal = drafted
    own = moves[0].live
    if asked.exchange is not None:
        fault = _exchanged(asked.exchange, moves, book)
        if fault is not None:
            return fault
    if not _balanced(moves):
        return Rejected(Reject.LEGS_UNBALANCED, own.account.id)
    rate = None
    if asked.exchange is not None:
        told = msgspec.structs.asdict(asked.exchange)
        if told["sold"] is None:
            del told["sold"]
        rate = msgspec.json.encode(told).decode()
    refusal = refusal or _first_refusal(moves)
    return Draft(Kind.GENERAL, own, abs(moves[0].amount), moves, refusal, exchange=rate)


def _legs(legs: Iterable[Leg], book: Book) -> tuple[list[Move], Refusal | None] | Rejected:
    """The legs as moves, and the first condition that is not met."""
    moves: list[Move] = []
    refusal: Refusal | None = None
    for leg in legs:
        live = book.customer(leg.account_id)
        if live is None:
            return Rejected(Reject.ACCOUNT_NOT_FOUND, leg.account_id)
        if leg.currency not in (None, live.account.currency):
            return Rejected(Reject.CURRENCY_MISMATCH, leg.account_id)
        amount = _minor(leg.amount, live.account.exponent)
        met = _meets(leg, live)
        for fault in (amount, met):
            if isinstance(fault, Reject):
                return Rejected(fault, leg.account_id)
        assert not isinstance(amount, Reject)
        moves.append(Move(live, amount))
        if not met and refusal is None:
            refusal = live.refuse(Decline.CONDITION_FAILED)
    return moves, refusal


def _meets(leg: Leg, live: Live) -> bool | Reject:
    """Whether the account is as the leg demands, before the transaction."""
    met = leg.version in (None, live.version)
    for demanded, found in (
        (leg.available_at_least, live.available),
        (leg.balance_at_least, live.balance),
    ):
        if demanded is not None:
            least = _minor(demanded, live.account.exponent, MAX_BALANCE_MINOR)
            if isinstance(least, Reject):
                return least
            met = met and found >= least
    return met


def _balanced(moves: Iterable[Move]) -> bool:
    totals: dict[int, int] = {}
    for live, amount, _ in moves:
        number = live.account.currency_number
        totals[number] = totals.get(number, 0) + amount
    return not any(totals.values())


def _exchanged(exchange: Exchange, moves: list[Move], book: Book) -> Rejected | None:
    """Put what rounding leaves over on its account, and compare the rate with the amounts.

    What is given of the bought currency differs from the rate by less than a minor unit, and what
    is left over is at most one for each account that gets some. Of what an account gives and gets
    only the difference counts.
    """
    buys, buys_exponent = _nets(moves, exchange.buy)
    sells, sells_exponent = _nets(moves, exchange.sell)
    if not buys or not sells or exchange.buy == exchange.sell:
        return Rejected(Reject.RATE_MISMATCH)
    sold = most = sum(net for net in sells if net > 0)
    if exchange.sold is not None:
        told = _minor(exchange.sold, sells_exponent)
        if isinstance(told, Reject):
            return Rejected(told)
        sold = told
    given = sum(-net for net in buys if net < 0)
    exact = Fraction(exchange.rate) * sold * 10**buys_exponent / 10**sells_exponent
    if sold > most or abs(given - exact) >= 1:
        return Rejected(Reject.RATE_MISMATCH)
    left = -sum(buys)
    if exchange.rounding_account_id is not None:
        rounding = book.customer(exchange.rounding_account_id)
        if rounding is None:
            return Rejected(Reject.ACCOUNT_NOT_FOUND, exchange.rounding_account_id)
        if rounding.account.currency != exchange.buy:
            return Rejected(Reject.CURRENCY_MISMATCH, exchange.rounding_account_id)
        if 0 < abs(left) <= sum(net > 0 for net in buys):
            moves.append(Move(rounding, left))
    return None


def _nets(moves: Iterable[Move], currency: str) -> tuple[list[int], int]:
    """What the accounts of a currency gain or lose, and the currency's exponent."""
    nets: dict[int, int] = {}
    exponent = 0
    for live, amount, _ in moves:
        if live.account.currency == currency:
            nets[live.account.id] = nets.get(live.account.id, 0) + amount
            exponent = live.account.exponent
    return list(nets.values()), exponent


def _hold(asked: Hold, book: Book) -> Drafted:
    own = book.customer(asked.account_id)
    if own is None:
        return Rejected(Reject.ACCOUNT_NOT_FOUND, asked.account_id)
    if asked.counterparty_id is None:
        other: Live | None = book.accounts[own.account.external_id]
    else:
        other = book.customer(asked.counterparty_id)
    if other is None:
        return Rejected(Reject.ACCOUNT_NOT_FOUND, asked.counterparty_id)
    amount = _amount_between(own, other, asked.amount)
    if isinstance(amount, Rejected):
        return amount
    if asked.expires_at is not None and asked.expires_at <= book.now:
        return Rejected(Reject.EXPIRY_PASSED, asked.account_id)
    terms = HoldTerms(own.account.id, other.account.id, amount, asked.expires_at, asked.capture_at)
    refusal = refusal_of(own, 0, amount)
    moves = [Move(own, 0, amount)]
    return Draft(Kind.HOLD, own, amount, moves, refusal, hold=terms, hold_left=amount)


def _amount_between(own: Live, other: Live, text: str) -> int | Rejected:
    """An amount that one account is to give to another."""
    if own is other:
        return Rejected(Reject.SAME_ACCOUNT, own.account.id)
    if own.account.currency_number != other.account.currency_number:
        return Rejected(Reject.CURRENCY_MISMATCH, own.account.id)
    amount = _minor(text, own.account.exponent)
    return Rejected(amount, own.account.id) if isinstance(amount, Reject) else amount


def _held(hold: HoldState, own: Live, text: str | None) -> tuple[int, Refusal | None] | Rejected:
    """How much of a hold is meant, and why it cannot be, or None."""
    if text is None:
        amount = hold.remaining
    else:
        given = _minor(text, own.account.exponent)
        if isinstance(given, Reject):
            return Rejected(given, own.account.id)
        amount = given
    if hold.remaining == 0:
        return amount or hold.terms.amount, own.refuse(Decline.HOLD_CLOSED)
    if amount > hold.remaining:
        return amount, own.refuse(Decline.HOLD_EXCEEDED)
    return amount, None


def _is_not_to_be(key: str, hold: HoldState, due: datetime | None, book: Book) -> bool:
    """Whether the service asks by itself for what is not due, as the clock may have been put back,
    or not any more, as somebody else came first: of that there is nothing to record.
    """
    if not key.startswith(OWN_KEY_MARK):
        return False
    return due is None or book.now < due or hold.remaining == 0


def _capture(asked: Capture, book: Book) -> Drafted:
    hold = book.holds.get(asked.parent_id)
    if hold is None or _is_not_to_be(asked.key, hold, hold.terms.capture_at, book):
        return Rejected(Reject.HOLD_NOT_FOUND)
    own, other = book.accounts[hold.terms.account_id], book.accounts[hold.terms.counterparty_id]
    meant = _held(hold, own, asked.amount)
    if isinstance(meant, Rejected):
        return meant
    amount, refusal = meant
    expires_at = hold.terms.expires_at
    if expires_at is not None and expires_at <= book.now and not asked.key.startswith(OWN_KEY_MARK):
        # It still reserves what the service is to capture, and nobody else may any more.
        refusal = refusal or own.refuse(Decline.HOLD_CLOSED)
    freed = hold.remaining if asked.final else amount
    moves = [Move(own, -amount, -freed), Move(other, amount)]
    refusal = refusal or _first_refusal(moves)
    left = hold.remaining if refusal else hold.remaining - freed
    return Draft(Kind.CAPTURE, own, amount, moves, refusal, hold_left=left)


def _release(asked: Release, book: Book) -> Drafted:
    hold = book.holds.get(asked.parent_id)
    if hold is None or _is_not_to_be(asked.key, hold, hold.ends_at, book):
        return Rejected(Reject.HOLD_NOT_FOUND)
    own = book.accounts[hold.terms.account_id]
    meant = _held(hold, own, asked.amount)
    if isinstance(meant, Rejected):
        return meant
    amount, refusal = meant
    left = hold.remaining if refusal else hold.remaining - amount
    moves = [Move(own, 0, -amount)]
    return Draft(Kind.RELEASE, own, amount, moves, refusal, hold_left=left)


REVERSIBLE = {Kind.DEPOSIT, Kind.WITHDRAWAL, Kind.TRANSFER, Kind.GENERAL, Kind.CAPTURE}


def _reversal(asked: Reversal, book: Book) -> Drafted:
    original = book.transactions[asked.parent_id]
    own = book.accounts[original.account_id]
    if original.kind not in REVERSIBLE or original.refusal is not None:
        return Rejected(Reject.NOT_REVERSIBLE, own.account.id)
    left: dict[int, int] = {}
    for entry in original.entries:
        left[entry.account_id] = left.get(entry.account_id, 0) + entry.amount
    whole = dict(left)
    for account_id, amount in book.reversed.get(original.id, {}).items():
        left[account_id] += amount
    moves = _moved_back(asked, book, own, whole, left)
    if isinstance(moves, Rejected):
        return moves
    exceeded = any(m.amount * -left[m.live.account.id] <= 0 for m in moves) or any(
        abs(m.amount) > abs(left[m.live.account.id]) for m in moves
    )
    if not moves or exceeded:
        refusal: Refusal | None = own.refuse(Decline.REVERSAL_EXCEEDED)
    else:
        refusal = _first_refusal(moves, forced=asked.force)
    amount = sum(abs(m.amount) for m in moves if m.live is own)
    forced_by = asked if asked.force else None
    return Draft(Kind.REVERSAL, own, amount, moves, refusal, forced_by=forced_by)


def _moved_back(
    asked: Reversal, book: Book, own: Live, whole: dict[int, int], left: dict[int, int]
) -> list[Move] | Rejected:
    """What a reversal is to move: all that is left, by legs, or an amount between two accounts.

    `whole` is what the original moved, by account, `left` what of it was not moved back.
    """
    if asked.legs is not None:
        return _legs_back(asked.legs, book, own, left)
    if asked.amount is None:
        return [Move(book.accounts[i], -amount) for i, amount in left.items() if amount]
    if len(whole) != 2:
        return Rejected(Reject.LEGS_UNBALANCED, own.account.id)
    amount = _minor(asked.amount, own.account.exponent)
    if isinstance(amount, Reject):
        return Rejected(amount, own.account.id)
    return [Move(book.accounts[i], -amount if was > 0 else amount) for i, was in whole.items()]


def _legs_back(
    legs: Iterable[Leg], book: Book, own: Live, left: dict[int, int]
) -> list[Move] | Rejected:
    # First: whether another account is locked depends on what else is in the batch.
    stranger = next((leg.account_id for leg in legs if leg.account_id not in left), None)
    if stranger is not None:
        return Rejected(Reject.ACCOUNT_NOT_FOUND, stranger)
    drafted = _legs(legs, book)
    if isinstance(drafted, Rejected):
        return drafted
    moves = drafted[0]
    twice = len({m.live.account.id for m in moves}) < len(moves)
    if twice or not _balanced(moves):
        return Rejected(Reject.LEGS_UNBALANCED, own.account.id)
    return moves


def _policy(asked: PolicyChange, book: Book) -> Drafted:
    own = book.customer(asked.account_id)
    if own is None:
        return Rejected(Reject.ACCOUNT_NOT_FOUND, asked.account_id)
    account = own.account
    assert account.floor is not None
    limits: list[int | None] = [account.floor, account.ceiling]
    for place, text in enumerate((asked.floor, asked.ceiling)):
        if text is UNSET:
            continue
        limit = None if text is None else _minor(text, account.exponent, MAX_BALANCE_MINOR)
        if isinstance(limit, Reject):
            return Rejected(limit, account.id)
        limits[place] = limit
    floor, ceiling = limits
    assert floor is not None
    restricted = account.restricted if asked.frozen is UNSET else asked.frozen
    if asked.closed:
        restricted |= Frozen.CLOSED
    refusal = None
    if account.restricted & Frozen.CLOSED:
        refusal = own.refuse(Decline.ACCOUNT_CLOSED)
    elif asked.closed and (own.balance or own.held):
        refusal = own.refuse(Decline.BALANCE_NOT_ZERO)
    elif ceiling is not None and ceiling < floor:
        refusal = own.refuse(Decline.POLICY_CONFLICT)
    policy = Policy(
        account.id, own.version + 1, floor, ceiling, int(restricted), asked.actor, asked.reason
    )
    return Draft(Kind.POLICY, own, 0, [Move(own, 0)], refusal, policy=policy)


def _schedule(asked: Schedule, book: Book) -> Drafted:
    own, other = book.customer(asked.account_id), book.customer(asked.counterparty_id)
    if own is None or other is None:
        missing = asked.account_id if own is None else asked.counterparty_id
        return Rejected(Reject.ACCOUNT_NOT_FOUND, missing)
    amount = _amount_between(own, other, asked.amount)
    if isinstance(amount, Rejected):
        return amount
    terms = ScheduleTerms(own.account.id, other.account.id, amount, asked.execute_at)
    closed = next((live for live in (own, other) if live.account.restricted & Frozen.CLOSED), None)
    refusal = None if closed is None else closed.refuse(Decline.ACCOUNT_CLOSED)
    return Draft(Kind.SCHEDULE, own, amount, [Move(own, 0)], refusal, schedule=terms)


def _execution(asked: Execution, book: Book) -> Drafted:
    terms = _schedule_of(asked.parent_id, book)
    if terms is None or asked.parent_id not in book.open_schedules:
        return Rejected(Reject.SCHEDULE_NOT_FOUND)
    if book.now < terms.execute_at:  # whoever asks
        return Rejected(Reject.SCHEDULE_NOT_FOUND)
    own, other = book.accounts[terms.account_id], book.accounts[terms.counterparty_id]
    moves = [Move(own, -terms.amount), Move(other, terms.amount)]
    refusal = _first_refusal(moves)
    counterparty = other.account.id
    return Draft(Kind.TRANSFER, own, terms.amount, moves, refusal, counterparty_id=counterparty)


def _cancellation(asked: Cancellation, book: Book) -> Drafted:
    terms = _schedule_of(asked.parent_id, book)
    if terms is None:
        return Rejected(Reject.SCHEDULE_NOT_FOUND)
    own, refusal = book.accounts[terms.account_id], None
    # From its moment on it is to be executed, also if nothing has come by to do it.
    if asked.parent_id not in book.open_schedules or terms.execute_at <= book.now:
        refusal = own.refuse(Decline.SCHEDULE_SETTLED)
    return Draft(Kind.CANCELLATION, own, 0, [Move(own, 0)], refusal)


def _schedule_of(transaction_id: int, book: Book) -> ScheduleTerms | None:
    extra = book.transactions[transaction_id].extra
    return None if extra is None else extra.schedule


RULES: dict[type[Any], Callable[[Any, Book], Drafted]] = {
    General: _general,
    Hold: _hold,
    Capture: _capture,
    Release: _release,
    Reversal: _reversal,
    PolicyChange: _policy,
    Schedule: _schedule,
    Execution: _execution,
    Cancellation: _cancellation,
}

NOT_FOUND: dict[type[Step], Reject] = {
    Capture: Reject.HOLD_NOT_FOUND,
    Release: Reject.HOLD_NOT_FOUND,
    Reversal: Reject.TRANSACTION_NOT_FOUND,
    Execution: Reject.SCHEDULE_NOT_FOUND,
    Cancellation: Reject.SCHEDULE_NOT_FOUND,
}
"""What an instruction is rejected with whose parent does not exist."""
