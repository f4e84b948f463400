"""Builders of accounts and instructions for the tables of examples, and their check."""

import itertools
from datetime import timedelta
from typing import Any

from ledgerservice.domain.accounts import Account
from ledgerservice.domain.instructions import (
    Cancellation,
    Capture,
    Exchange,
    Execution,
    General,
    Group,
    Hold,
    Kind,
    Leg,
    Movement,
    Origin,
    PolicyChange,
    Release,
    Reversal,
    Schedule,
    service_key,
)
from tests.domain.world import A_MINUTE, NOW, World, verdict

USD, INR, JPY = 1, 2, 3
DEBITS, CREDITS, BOTH = 1, 2, 3
CODES = {USD: ("USD", 2), INR: ("INR", 2), JPY: ("JPY", 0)}
LATER = NOW + 10 * A_MINUTE

_numbers = itertools.count(1)


def account(number: int, balance: int = 0, currency: int = USD, **limits: Any) -> Account:
    code, exponent = CODES[currency]
    floor = 0 if number > 0 else None
    figures = {"version": 0, "floor": floor, "last_recorded_at": NOW, "held": 0} | limits
    return Account(number, code, currency, exponent, balance, **figures)


def world(*customers: Account) -> World:
    totals = dict.fromkeys(CODES, 0)
    for one in customers:
        totals[one.currency_number] += one.balance
    return World(*customers, *(account(-number, -sum_, number) for number, sum_ in totals.items()))


def a_key() -> str:
    return f"key {next(_numbers)}"


def deposit(to: int, amount: str, key: str = "", **more: Any) -> Movement:
    return Movement(Kind.DEPOSIT, to, None, amount, key or a_key(), **more)


def withdraw(of: int, amount: str, key: str = "", **more: Any) -> Movement:
    return Movement(Kind.WITHDRAWAL, of, None, amount, key or a_key(), **more)


def transfer(of: int, to: int, amount: str, key: str = "", **more: Any) -> Movement:
    return Movement(Kind.TRANSFER, of, to, amount, key or a_key(), **more)


def general(*legs: tuple[int, str] | Leg, key: str = "", **more: Any) -> General:
    made = tuple(leg if isinstance(leg, Leg) else Leg(*leg) for leg in legs)
    return General(made, key or a_key(), **more)


def hold(of: int, amount: str, to: int | None = None, key: str = "", **more: Any) -> Hold:
    return Hold(of, to, amount, key or a_key(), **more)


def capture(of: int, amount: str | None = None, key: str = "", **more: Any) -> Capture:
    return Capture(of, key or a_key(), amount=amount, **more)


def release(of: int, amount: str | None = None, key: str = "", **more: Any) -> Release:
    return Release(of, key or a_key(), amount=amount, **more)


def reverse(of: int, amount: str | None = None, key: str = "", **more: Any) -> Reversal:
    return Reversal(of, key or a_key(), amount=amount, **more)


def by_leg(of: int, *legs: tuple[int, str], **more: Any) -> Reversal:
    return reverse(of, legs=tuple(Leg(*leg) for leg in legs), **more)


def policy(of: int, key: str = "", **more: Any) -> PolicyChange:
    return PolicyChange(of, key or a_key(), **more)


def schedule(of: int, to: int, amount: str, key: str = "", **more: Any) -> Schedule:
    return Schedule(of, to, amount, more.pop("at", NOW), key or a_key(), **more)


def execute(of: int) -> Execution:
    return Execution(of, service_key(Origin.EXECUTION, of), origin=Origin.EXECUTION)


def capture_by_itself(of: int) -> Capture:
    return Capture(of, service_key(Origin.CAPTURE, of), final=True, origin=Origin.CAPTURE)


def cancel(of: int, key: str = "") -> Cancellation:
    return Cancellation(of, key or a_key())


def check(customers: list[Account], steps: list[tuple[Any, Any]], after: dict[int, Any]) -> World:
    """Each step in a batch of its own gets its verdict; at the end accounts stand at (balance,
    held). A step is an instruction, a linked group as a tuple, a list of these in one batch, or the
    time that passes.
    """
    there = world(*customers)
    for number, (asked, expected) in enumerate(steps):
        if isinstance(asked, timedelta):
            there.now += asked
        elif isinstance(asked, list):
            (answer,) = there.post(Group(asked))
            assert verdict(answer) == expected
        else:
            (answer,) = there.post(Group([asked]))
            assert verdict(answer) == [expected], f"step {number}"
    found = {
        number: (there.accounts[number].balance, there.accounts[number].held) for number in after
    }
    assert found == after
    return there


# Dollars 1, 2 and 4, rupees 3, 5, 8 and 9, yen 6 and 7.
FUNDED = [
    account(1, 100_00),
    account(2),
    account(3, 100_00, INR),
    account(4, 100_00),
    account(5, 0, INR),
    account(6, 100, JPY),
    account(7, 0, JPY),
    account(8, 100_00, INR),
    account(9, 0, INR),
]

TO_RUPEES = Exchange("USD", "INR", "83.005")


def exchanged(
    dollars: str, given: str, taken: str, exchange: Exchange, *more: tuple[int, str], **rest: Any
) -> General:
    """Account 1 gives dollars to 4; 5 gets rupees that 3 gives."""
    legs = (1, f"-{dollars}"), (4, dollars), (3, f"-{taken}"), (5, given), *more
    return general(*legs, exchange=exchange, **rest)


def rate(text: str, rounding: int | None = None, sell: str = "USD", buy: str = "INR") -> Exchange:
    return Exchange(sell, buy, text, rounding)
