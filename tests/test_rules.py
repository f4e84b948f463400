"""The rules of a whole ledger: tables of examples, and what transactions tell beside entries."""

import itertools
from datetime import timedelta, timezone
from typing import Any

import msgspec
import pytest

from ledgerservice.model import Account, Parents
from ledgerservice.money import MAX_BALANCE_MINOR
from ledgerservice.planner import DETAILED, RENDERER, plan
from ledgerservice.requests import (
    Cancellation,
    Capture,
    Detail,
    Exchange,
    Execution,
    General,
    Group,
    Hold,
    Kind,
    Leg,
    Movement,
    PolicyChange,
    Release,
    Reversal,
    Schedule,
)
from tests.model import BY_THE_SERVICE
from tests.world import A_MINUTE, NOW, World, verdict

USD, INR, JPY = 1, 2, 3
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
    return Execution(of, f"{BY_THE_SERVICE}execution {of}")


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


# Dollars 1, 2 and 4, rupees 3 and 5, yen 6.
FUNDED = [
    account(1, 100_00),
    account(2),
    account(3, 100_00, INR),
    account(4, 100_00),
    account(5, 0, INR),
    account(6, 100, JPY),
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


SPLIT = general((1, "-10"), (2, "6"), (4, "4"))

LEGS = {
    "two legs": ([(general((1, "-10"), (2, "10")), "posted")], {1: (90_00, 0), 2: (10_00, 0)}),
    "three legs": ([(SPLIT, "posted")], {1: (90_00, 0), 2: (6_00, 0), 4: (104_00, 0)}),
    "a receiver first": ([(general((2, "10"), (1, "-10")), "posted")], {2: (10_00, 0)}),
    "two currencies, each balanced": (
        [(general((1, "-10"), (2, "10"), (3, "-5"), (5, "5")), "posted")],
        {1: (90_00, 0), 5: (5_00, 0)},
    ),
    "not balanced": ([(general((1, "-10"), (2, "9.99")), "legs_unbalanced")], {1: (100_00, 0)}),
    "balanced only over two currencies": (
        [(general((1, "-10"), (3, "10")), "legs_unbalanced")],
        {1: (100_00, 0)},
    ),
    "one account twice, its sum counts": (
        [(general((1, "-150"), (1, "60"), (2, "90")), "posted")],
        {1: (10_00, 0), 2: (90_00, 0)},
    ),
    "one account twice, its sum is too much": (
        [(general((1, "-60"), (1, "-60"), (2, "120")), "insufficient_funds")],
        {1: (100_00, 0), 2: (0, 0)},
    ),
    "one account twice, for nothing": (
        [(general((2, "-10"), (2, "10")), "posted")],
        {2: (0, 0)},
    ),
    "one credit pays for another account's debit no more": (
        [(general((1, "-100"), (2, "100"), (2, "-100.01"), (4, "100.01")), "insufficient_funds")],
        {2: (0, 0)},
    ),
    "to the last": ([(general((1, "-100"), (2, "100")), "posted")], {1: (0, 0)}),
    "a minor unit too much": (
        [(general((1, "-100.01"), (2, "100.01")), "insufficient_funds")],
        {1: (100_00, 0)},
    ),
    "held money is not there": (
        [(hold(1, "40"), "posted"), (general((1, "-60.01"), (2, "60.01")), "insufficient_funds")],
        {1: (100_00, 40_00)},
    ),
    "an unknown account": ([(general((1, "-1"), (99, "1")), "account_not_found")], {}),
    "an external account": ([(general((-1, "-1"), (1, "1")), "account_not_found")], {}),
    "an unknown first account": ([(general((99, "-1"), (1, "1")), "account_not_found")], {}),
    "the right currency": ([(general(Leg(1, "-1", "USD"), (2, "1")), "posted")], {}),
    "another currency": ([(general(Leg(1, "-1", "INR"), (2, "1")), "currency_mismatch")], {}),
    "too many decimals": ([(general((1, "-0.001"), (2, "0.001")), "amount_precision")], {}),
    "yen have none": ([(general((6, "-1.0"), (2, "1")), "amount_precision")], {}),
    "the largest amount": (
        [(general((1, "-10000000000000"), (2, "10000000000000")), "insufficient_funds")],
        {},
    ),
    "a larger amount": (
        [(general((1, "-10000000000000.01"), (2, "10000000000000.01")), "amount_limit")],
        {},
    ),
    "the first fault, leg by leg": (
        [(general((1, "-0.001"), (99, "1")), "amount_precision")],
        {},
    ),
    "syntax before balance": ([(general((1, "-1"), (2, "0.001")), "amount_precision")], {}),
    "conditions met, to the unit": (
        [
            (hold(1, "40"), "posted"),
            (
                general(
                    Leg(1, "-10", None, "60", "100", 1), Leg(2, "10", None, "0", "-0.01", version=0)
                ),
                "posted",
            ),
        ],
        {1: (90_00, 40_00)},
    ),
    "less is available": (
        [
            (hold(1, "40"), "posted"),
            (general(Leg(1, "-10", available_at_least="60.01"), (2, "10")), "condition_failed"),
        ],
        {1: (100_00, 40_00)},
    ),
    "a lower balance": (
        [(general(Leg(1, "-10", balance_at_least="100.01"), (2, "10")), "condition_failed")],
        {1: (100_00, 0)},
    ),
    "a balance is not what is available": (
        [
            (hold(1, "40"), "posted"),
            (general(Leg(1, "-10", balance_at_least="100"), (2, "10")), "posted"),
        ],
        {},
    ),
    "another version": (
        [(general(Leg(1, "-10", version=1), (2, "10")), "condition_failed")],
        {1: (100_00, 0)},
    ),
    "a condition on a later leg": (
        [(general((1, "-10"), Leg(2, "10", balance_at_least="0.01")), "condition_failed")],
        {},
    ),
    "conditions are of the time before": (
        [
            (
                general((1, "-10"), (2, "10"), Leg(2, "-1", balance_at_least="10"), (1, "1")),
                "condition_failed",
            )
        ],
        {},
    ),
    "a condition comes before funds": (
        [(general(Leg(1, "-200", version=7), (2, "200")), "condition_failed")],
        {},
    ),
    "balance comes before a condition": (
        [(general(Leg(1, "-10", version=7), (2, "9")), "legs_unbalanced")],
        {},
    ),
    "a condition with too many decimals": (
        [(general(Leg(1, "-10", available_at_least="0.001"), (2, "10")), "amount_precision")],
        {},
    ),
    "a condition over the limit of a balance": (
        [
            (
                general(Leg(1, "-10", balance_at_least="10000000000000000.01"), (2, "10")),
                "amount_limit",
            )
        ],
        {},
    ),
    "a condition at the limit of a balance": (
        [
            (
                general(Leg(1, "-10", balance_at_least="10000000000000000"), (2, "10")),
                "condition_failed",
            )
        ],
        {},
    ),
    "a condition below nothing": (
        [(general(Leg(1, "-10", balance_at_least="-10000000000000000"), (2, "10")), "posted")],
        {},
    ),
}

EXCHANGES = {
    "the exact rate": (
        [(exchanged("1", "83", "83", rate("83")), "posted")],
        {1: (99_00, 0), 4: (101_00, 0), 3: (17_00, 0), 5: (83_00, 0)},
    ),
    "half a unit off": ([(exchanged("1", "83", "83", TO_RUPEES), "posted")], {}),
    # Two legs are of the currency bought, so less than two units may be off.
    "less than a unit a leg off": ([(exchanged("1", "83.02", "83.02", TO_RUPEES), "posted")], {}),
    "a unit a leg off": (
        [(exchanged("1", "83.02", "83.02", rate("83")), "rate_mismatch")],
        {1: (100_00, 0)},
    ),
    "a unit a leg off, below": (
        [(exchanged("1", "82.98", "82.98", rate("83")), "rate_mismatch")],
        {1: (100_00, 0)},
    ),
    "the other way round": ([(exchanged("83", "1", "1", TO_RUPEES), "rate_mismatch")], {}),
    "from rupees to dollars": (
        [(exchanged("1", "83", "83", rate("0.012048", None, "INR", "USD")), "posted")],
        {},
    ),
    "currencies with other decimals": (
        [
            (
                general(
                    (6, "-100"),
                    (6, "100"),
                    (1, "-0.69"),
                    (2, "0.69"),
                    exchange=Exchange("JPY", "USD", "0.0069"),
                ),
                "posted",
            )
        ],
        {2: (69, 0)},
    ),
    "to a currency with fewer decimals": (
        [
            (
                general(
                    (1, "-1"),
                    (2, "1"),
                    (6, "-99"),
                    (6, "99"),
                    exchange=Exchange("USD", "JPY", "99"),
                ),
                "posted",
            )
        ],
        {2: (1_00, 0)},
    ),
    "what is left over is rounding": (
        [(exchanged("1", "83.01", "83", rate("83.005", 5)), "posted")],
        {5: (83_00, 0), 3: (17_00, 0)},
    ),
    "what is short is rounding": (
        [(exchanged("1", "83", "83.01", rate("83.005", 5)), "posted")],
        {5: (83_01, 0)},
    ),
    "nothing is left over": (
        [(exchanged("1", "83", "83", rate("83.005", 5)), "posted")],
        {5: (83_00, 0)},
    ),
    "rounding without its account": (
        [(exchanged("1", "83", "83.01", TO_RUPEES), "legs_unbalanced")],
        {},
    ),
    "more than rounding": (
        [(exchanged("1", "83", "83.02", rate("83.005", 5)), "legs_unbalanced")],
        {},
    ),
    "rounding needs money too": (
        [
            (transfer(3, 5, "16.99"), "posted"),
            (exchanged("1", "83.01", "83", rate("83.005", 3)), "posted"),
            (reverse(2), "posted"),
            (transfer(3, 5, "0.01"), "posted"),
            (exchanged("1", "83.01", "83", rate("83.005", 3)), "insufficient_funds"),
        ],
        {3: (83_00, 0)},
    ),
    "an unknown rounding account": (
        [(exchanged("1", "83", "83", rate("83.005", 99)), "account_not_found")],
        {},
    ),
    "an external rounding account": (
        [(exchanged("1", "83", "83", rate("83.005", -2)), "account_not_found")],
        {},
    ),
    "a rounding account of the currency sold": (
        [(exchanged("1", "83", "83", rate("83.005", 4)), "currency_mismatch")],
        {},
    ),
    "one currency alone": (
        [(general((1, "-1"), (2, "1"), exchange=TO_RUPEES), "rate_mismatch")],
        {},
    ),
    "the other currency alone": (
        [(general((3, "-1"), (5, "1"), exchange=TO_RUPEES), "rate_mismatch")],
        {},
    ),
    "a currency for itself": (
        [(general((1, "-1"), (2, "1"), exchange=rate("1", None, "USD", "USD")), "rate_mismatch")],
        {},
    ),
    "an unknown currency": (
        [(exchanged("1", "83", "83", rate("83", None, "XXX")), "rate_mismatch")],
        {},
    ),
    "what is sold is not balanced": (
        [
            (
                general((1, "-1"), (3, "-83"), (5, "83"), (4, "1.01"), exchange=rate("82.18")),
                "legs_unbalanced",
            )
        ],
        {},
    ),
    "a third currency goes along": (
        [(exchanged("1", "83", "83", rate("83"), (6, "-1"), (6, "1")), "posted")],
        {},
    ),
    "a rate is no float": (
        [(exchanged("10", "1.02", "1.02", rate("0.1")), "rate_mismatch")],
        {},
    ),
    "a rate of many digits is exact": (
        [
            (
                general(
                    (1, "-100"),
                    (4, "100"),
                    (3, "-33.33"),
                    (5, "33.33"),
                    exchange=rate("0.33333333333333333333"),
                ),
                "posted",
            )
        ],
        {5: (33_33, 0)},
    ),
}

HOLDS = {
    "a hold": ([(hold(1, "60"), "posted")], {1: (100_00, 60_00), -USD: (-200_00, 0)}),
    "of everything": ([(hold(1, "100"), "posted")], {1: (100_00, 100_00)}),
    "of a minor unit too much": ([(hold(1, "100.01"), "insufficient_funds")], {1: (100_00, 0)}),
    "holds add up": (
        [
            (hold(1, "60"), "posted"),
            (hold(1, "40.01"), "insufficient_funds"),
            (hold(1, "40"), "posted"),
        ],
        {1: (100_00, 100_00)},
    ),
    "what is held cannot be withdrawn": (
        [
            (hold(1, "60"), "posted"),
            (withdraw(1, "40.01"), "insufficient_funds"),
            (withdraw(1, "40"), "posted"),
        ],
        {1: (60_00, 60_00)},
    ),
    "on an unknown account": ([(hold(99, "1"), "account_not_found")], {}),
    "for an unknown account": ([(hold(1, "1", 99), "account_not_found")], {}),
    "for an external account": ([(hold(1, "1", -1), "account_not_found")], {}),
    "on an external account": ([(hold(-1, "1"), "account_not_found")], {}),
    "for itself": ([(hold(1, "1", 1), "same_account")], {}),
    "for another currency": ([(hold(1, "1", 3), "currency_mismatch")], {}),
    "existence before currency": ([(hold(3, "0.001", 99), "account_not_found")], {}),
    "of too many decimals": ([(hold(1, "0.001"), "amount_precision")], {}),
    "of too much": ([(hold(1, "10000000000000.01"), "amount_limit")], {}),
    "expired already": ([(hold(1, "1", expires_at=NOW), "expiry_passed")], {}),
    "expired a moment before": (
        [(hold(1, "1", expires_at=NOW + timedelta(microseconds=1)), "expiry_passed")],
        {},
    ),
    "a moment to go": ([(hold(1, "1", expires_at=NOW + timedelta(microseconds=2)), "posted")], {}),
    "captured": (
        [(hold(1, "60"), "posted"), (capture(1), "posted")],
        {1: (40_00, 0), -USD: (-140_00, 0)},
    ),
    "captured for another": (
        [(hold(1, "60", 2), "posted"), (capture(1), "posted")],
        {1: (40_00, 0), 2: (60_00, 0)},
    ),
    "captured in parts": (
        [
            (hold(1, "60", 2), "posted"),
            (capture(1, "10"), "posted"),
            (capture(1, "20"), "posted"),
            (capture(1), "posted"),
        ],
        {1: (40_00, 0), 2: (60_00, 0)},
    ),
    "a part leaves the rest held": (
        [(hold(1, "60", 2), "posted"), (capture(1, "10"), "posted")],
        {1: (90_00, 50_00), 2: (10_00, 0)},
    ),
    "captured to the unit": (
        [(hold(1, "60", 2), "posted"), (capture(1, "60"), "posted")],
        {1: (40_00, 0)},
    ),
    "captured by a unit too much": (
        [(hold(1, "60", 2), "posted"), (capture(1, "60.01"), "hold_exceeded")],
        {1: (100_00, 60_00)},
    ),
    "the rest is less": (
        [
            (hold(1, "60", 2), "posted"),
            (capture(1, "30"), "posted"),
            (capture(1, "30.01"), "hold_exceeded"),
            (capture(1, "30"), "posted"),
        ],
        {1: (40_00, 0)},
    ),
    "a final part releases the rest": (
        [
            (hold(1, "60", 2), "posted"),
            (capture(1, "10", final=True), "posted"),
            (capture(1, "1"), "hold_closed"),
        ],
        {1: (90_00, 0), 2: (10_00, 0)},
    ),
    "too much is not final": (
        [
            (hold(1, "60", 2), "posted"),
            (capture(1, "61", final=True), "hold_exceeded"),
            (capture(1), "posted"),
        ],
        {2: (60_00, 0)},
    ),
    "captured twice": (
        [(hold(1, "60"), "posted"), (capture(1), "posted"), (capture(1), "hold_closed")],
        {1: (40_00, 0)},
    ),
    "captured of nothing": ([(capture(1), "hold_not_found")], {}),
    "captured of a deposit": (
        [
            (deposit(1, "1"), "posted"),
            (capture(1), "hold_not_found"),
            (release(1), "hold_not_found"),
        ],
        {},
    ),
    "captured of a declined hold": (
        [(hold(1, "101"), "insufficient_funds"), (capture(1), "hold_not_found")],
        {},
    ),
    "captured with too many decimals": (
        [(hold(1, "60"), "posted"), (capture(1, "0.001"), "amount_precision")],
        {},
    ),
    "released with too much": (
        [(hold(1, "60"), "posted"), (release(1, "10000000000000.01"), "amount_limit")],
        {},
    ),
    "released": ([(hold(1, "60"), "posted"), (release(1), "posted")], {1: (100_00, 0)}),
    "released in part": (
        [
            (hold(1, "60", 2), "posted"),
            (release(1, "15"), "posted"),
            (capture(1, "45.01"), "hold_exceeded"),
            (release(1, "45.01"), "hold_exceeded"),
            (capture(1), "posted"),
        ],
        {1: (55_00, 0), 2: (45_00, 0)},
    ),
    "released twice": (
        [(hold(1, "60"), "posted"), (release(1), "posted"), (release(1), "hold_closed")],
        {1: (100_00, 0)},
    ),
    "captured, then released": (
        [(hold(1, "60"), "posted"), (capture(1), "posted"), (release(1, "1"), "hold_closed")],
        {},
    ),
    "a released hold's money is free": (
        [(hold(1, "60"), "posted"), (release(1), "posted"), (withdraw(1, "100"), "posted")],
        {1: (0, 0)},
    ),
    "not yet expired": (
        [
            (hold(1, "60", expires_at=NOW + A_MINUTE), "posted"),
            (A_MINUTE - timedelta(seconds=1), None),
            (withdraw(1, "41"), "insufficient_funds"),
            (capture(1), "posted"),
        ],
        {1: (40_00, 0)},
    ),
    "expired to the moment": (
        [
            (hold(1, "60", expires_at=NOW + A_MINUTE), "posted"),
            (A_MINUTE, None),
            (withdraw(1, "41"), "posted"),
        ],
        {1: (59_00, 0)},
    ),
    "expired, then captured": (
        [
            (hold(1, "60", expires_at=NOW + A_MINUTE), "posted"),
            (A_MINUTE, None),
            (capture(1, "1"), "hold_closed"),
            (release(1), "hold_closed"),
        ],
        {1: (100_00, 0)},
    ),
    "partly captured, then expired": (
        [
            (hold(1, "60", 2, expires_at=NOW + A_MINUTE), "posted"),
            (capture(1, "20"), "posted"),
            (A_MINUTE, None),
            (deposit(1, "1"), "posted"),
        ],
        {1: (81_00, 0), 2: (20_00, 0)},
    ),
    "captured to the end does not expire": (
        [
            (hold(1, "60", 2, expires_at=NOW + A_MINUTE), "posted"),
            (capture(1), "posted"),
            (A_MINUTE, None),
            (deposit(1, "1"), "posted"),
        ],
        {1: (41_00, 0)},
    ),
    "one of two expires": (
        [
            (hold(1, "60", expires_at=NOW + A_MINUTE), "posted"),
            (hold(1, "30"), "posted"),
            (A_MINUTE, None),
            (withdraw(1, "70.01"), "insufficient_funds"),
            (withdraw(1, "70"), "posted"),
        ],
        {1: (30_00, 30_00)},
    ),
    "it expires by a rejection too": (
        [
            (hold(1, "60", expires_at=NOW + A_MINUTE), "posted"),
            (A_MINUTE, None),
            (transfer(1, 3, "1"), "currency_mismatch"),
        ],
        {1: (100_00, 0)},
    ),
    "captured to a full account": (
        [
            (policy(2, ceiling="10"), "posted"),
            (hold(1, "60", 2), "posted"),
            (capture(2), "balance_ceiling"),
            (capture(2, "10", final=True), "posted"),
        ],
        {1: (90_00, 0), 2: (10_00, 0)},
    ),
}

TWO_LEGS = transfer(1, 2, "60")

REVERSALS = {
    "of a deposit": (
        [(deposit(1, "10"), "posted"), (reverse(1), "posted")],
        {1: (100_00, 0), -USD: (-200_00, 0)},
    ),
    "of a withdrawal": (
        [(withdraw(1, "10"), "posted"), (reverse(1), "posted")],
        {1: (100_00, 0), -USD: (-200_00, 0)},
    ),
    "of a transfer": (
        [(TWO_LEGS, "posted"), (reverse(1), "posted")],
        {1: (100_00, 0), 2: (0, 0)},
    ),
    "of legs": (
        [(SPLIT, "posted"), (reverse(1), "posted")],
        {1: (100_00, 0), 2: (0, 0), 4: (100_00, 0)},
    ),
    "of an exchange with its rounding": (
        [(exchanged("1", "83.01", "83", rate("83.005", 3)), "posted"), (reverse(1), "posted")],
        {1: (100_00, 0), 4: (100_00, 0), 3: (100_00, 0), 5: (0, 0)},
    ),
    "of a capture": (
        [(hold(1, "60", 2), "posted"), (capture(1, "50"), "posted"), (reverse(2), "posted")],
        {1: (100_00, 10_00), 2: (0, 0)},
    ),
    "of a capture for the outside": (
        [(hold(1, "60"), "posted"), (capture(1), "posted"), (reverse(2, "1"), "posted")],
        {1: (41_00, 0), -USD: (-141_00, 0)},
    ),
    "of a hold": ([(hold(1, "60"), "posted"), (reverse(1), "not_reversible")], {}),
    "of a release": (
        [(hold(1, "60"), "posted"), (release(1), "posted"), (reverse(2), "not_reversible")],
        {},
    ),
    "of a reversal": (
        [(TWO_LEGS, "posted"), (reverse(1), "posted"), (reverse(2), "not_reversible")],
        {},
    ),
    "of a policy": ([(policy(1, frozen=0), "posted"), (reverse(1), "not_reversible")], {}),
    "of a schedule and its end": (
        [
            (schedule(1, 2, "1"), "posted"),
            (reverse(1), "not_reversible"),
            (cancel(1), "posted"),
            (reverse(2), "not_reversible"),
        ],
        {},
    ),
    "of an execution": (
        [(schedule(1, 2, "1"), "posted"), (execute(1), "posted"), (reverse(2), "posted")],
        {1: (100_00, 0), 2: (0, 0)},
    ),
    "of a decline": (
        [(withdraw(1, "101"), "insufficient_funds"), (reverse(1), "not_reversible")],
        {},
    ),
    "of a declined capture": (
        [
            (hold(1, "1"), "posted"),
            (capture(1, "2"), "hold_exceeded"),
            (reverse(2), "not_reversible"),
        ],
        {},
    ),
    "of nothing": ([(reverse(1), "transaction_not_found")], {}),
    "again": (
        [(TWO_LEGS, "posted"), (reverse(1), "posted"), (reverse(1), "reversal_exceeded")],
        {1: (100_00, 0)},
    ),
    "in parts": (
        [
            (TWO_LEGS, "posted"),
            (reverse(1, "10"), "posted"),
            (reverse(1, "50.01"), "reversal_exceeded"),
            (reverse(1, "20"), "posted"),
            (reverse(1), "posted"),
            (reverse(1, "0.01"), "reversal_exceeded"),
        ],
        {1: (100_00, 0), 2: (0, 0)},
    ),
    "of more than there was": (
        [(TWO_LEGS, "posted"), (reverse(1, "60.01"), "reversal_exceeded")],
        {2: (60_00, 0)},
    ),
    "in part, of a deposit": (
        [(deposit(1, "10"), "posted"), (reverse(1, "4"), "posted")],
        {1: (106_00, 0)},
    ),
    "in part, of a withdrawal": (
        [(withdraw(1, "10"), "posted"), (reverse(1, "4"), "posted")],
        {1: (94_00, 0)},
    ),
    "a part of three legs": (
        [(SPLIT, "posted"), (reverse(1, "1"), "legs_unbalanced")],
        {1: (90_00, 0)},
    ),
    "a part, where the receiver is named twice": (
        [
            (general((2, "50"), (2, "-20"), (1, "-30")), "posted"),
            (reverse(1, "10"), "posted"),
            (reverse(1, "20.01"), "reversal_exceeded"),
            (reverse(1), "posted"),
        ],
        {1: (100_00, 0), 2: (0, 0)},
    ),
    "a part, where the giver is named twice": (
        [(general((1, "-50"), (1, "20"), (2, "30")), "posted"), (reverse(1, "10"), "posted")],
        {1: (80_00, 0), 2: (20_00, 0)},
    ),
    "of nothing that moved": (
        [
            (general((1, "-10"), (1, "10")), "posted"),
            (reverse(1), "reversal_exceeded"),
            (reverse(1, "1"), "legs_unbalanced"),
        ],
        {1: (100_00, 0)},
    ),
    "of two accounts between which nothing moved": (
        [
            (general((1, "-10"), (1, "10"), (2, "-5"), (2, "5")), "posted"),
            (reverse(1), "reversal_exceeded"),
            (reverse(1, "1"), "reversal_exceeded"),
        ],
        {1: (100_00, 0)},
    ),
    "of too many decimals": (
        [(TWO_LEGS, "posted"), (reverse(1, "0.001"), "amount_precision")],
        {},
    ),
    "of too much": (
        [(TWO_LEGS, "posted"), (reverse(1, "10000000000000.01"), "amount_limit")],
        {},
    ),
    "by leg": (
        [
            (SPLIT, "posted"),
            (by_leg(1, (2, "-6"), (1, "6")), "posted"),
            (by_leg(1, (4, "-4.01"), (1, "4.01")), "reversal_exceeded"),
            (by_leg(1, (4, "-3"), (1, "3")), "posted"),
            (reverse(1), "posted"),
        ],
        {1: (100_00, 0), 2: (0, 0), 4: (100_00, 0)},
    ),
    "by leg, the wrong way": (
        [(SPLIT, "posted"), (by_leg(1, (2, "6"), (1, "-6")), "reversal_exceeded")],
        {1: (90_00, 0)},
    ),
    "by leg, one of them the wrong way": (
        [(SPLIT, "posted"), (by_leg(1, (2, "-1"), (4, "1")), "reversal_exceeded")],
        {4: (104_00, 0)},
    ),
    "by leg, of an account it did not move": (
        [
            (TWO_LEGS, "posted"),
            (by_leg(1, (4, "-6"), (1, "6")), "account_not_found"),
            (by_leg(1, (99, "-6"), (1, "6")), "account_not_found"),
        ],
        {},
    ),
    "by leg, of another account before its decimals": (
        [
            (TWO_LEGS, "posted"),
            ((by_leg(1, (4, "-0.001"), (1, "0.001")), deposit(4, "1")), (0, "account_not_found")),
        ],
        {},
    ),
    "by leg, of the external account": (
        [(deposit(1, "10"), "posted"), (by_leg(1, (1, "-1"), (-1, "1")), "account_not_found")],
        {},
    ),
    "by leg, unbalanced": (
        [(SPLIT, "posted"), (by_leg(1, (2, "-6"), (1, "5")), "legs_unbalanced")],
        {},
    ),
    "by leg, an account twice": (
        [(SPLIT, "posted"), (by_leg(1, (2, "-3"), (2, "-3"), (1, "6")), "legs_unbalanced")],
        {},
    ),
    "by leg, with too many decimals": (
        [(SPLIT, "posted"), (by_leg(1, (2, "-0.001"), (1, "0.001")), "amount_precision")],
        {},
    ),
    "by leg, that is not the transaction's own": (
        [(SPLIT, "posted"), (by_leg(1, (2, "-6"), (4, "6")), "reversal_exceeded")],
        {},
    ),
    "of what was spent": (
        [
            (TWO_LEGS, "posted"),
            (withdraw(2, "0.01"), "posted"),
            (reverse(1), "insufficient_funds"),
            (reverse(1, "59.99"), "posted"),
        ],
        {1: (99_99, 0), 2: (0, 0)},
    ),
    "of what is held": (
        [(TWO_LEGS, "posted"), (hold(2, "60"), "posted"), (reverse(1), "insufficient_funds")],
        {1: (40_00, 0)},
    ),
    "a declined one counts for nothing": (
        [
            (TWO_LEGS, "posted"),
            (withdraw(2, "60"), "posted"),
            (reverse(1), "insufficient_funds"),
            (deposit(2, "60"), "posted"),
            (reverse(1), "posted"),
        ],
        {1: (100_00, 0), 2: (0, 0)},
    ),
    "by force": (
        [
            (TWO_LEGS, "posted"),
            (withdraw(2, "50"), "posted"),
            (reverse(1, force=True), "posted"),
            (withdraw(2, "0.01"), "insufficient_funds"),
            (deposit(2, "49"), "posted"),
            (withdraw(2, "0.01"), "insufficient_funds"),
            (deposit(2, "2"), "posted"),
            (withdraw(2, "1"), "posted"),
        ],
        {1: (100_00, 0), 2: (0, 0)},
    ),
    "by force, twice below": (
        [
            (TWO_LEGS, "posted"),
            (withdraw(2, "60"), "posted"),
            (reverse(1, "30", force=True), "posted"),
            (reverse(1, "30", force=True), "posted"),
            (reverse(1, force=True), "reversal_exceeded"),
        ],
        {1: (100_00, 0), 2: (-60_00, 0)},
    ),
    "force does not open a frozen account": (
        [
            (TWO_LEGS, "posted"),
            (policy(2, frozen=1), "posted"),
            (reverse(1, force=True), "account_frozen"),
        ],
        {2: (60_00, 0)},
    ),
    "force does not pass a ceiling": (
        [
            (TWO_LEGS, "posted"),
            (policy(1, ceiling="99"), "posted"),
            (reverse(1, force=True), "balance_ceiling"),
        ],
        {2: (60_00, 0)},
    ),
    "with a frozen account": (
        [(TWO_LEGS, "posted"), (policy(1, frozen=2), "posted"), (reverse(1), "account_frozen")],
        {2: (60_00, 0)},
    ),
}

DEBITS, CREDITS, BOTH = 1, 2, 3

POLICIES = {
    "an overdraft": (
        [
            (policy(1, floor="-50"), "posted"),
            (withdraw(1, "150.01"), "insufficient_funds"),
            (withdraw(1, "150"), "posted"),
        ],
        {1: (-50_00, 0)},
    ),
    "a hold in an overdraft": (
        [
            (policy(1, floor="-50"), "posted"),
            (hold(1, "150.01"), "insufficient_funds"),
            (hold(1, "150"), "posted"),
            (capture(3), "posted"),
        ],
        {1: (-50_00, 0)},
    ),
    "legs in an overdraft": (
        [(policy(1, floor="-50"), "posted"), (general((1, "-150"), (2, "150")), "posted")],
        {1: (-50_00, 0)},
    ),
    "a floor above nothing": (
        [
            (policy(1, floor="10"), "posted"),
            (withdraw(1, "90.01"), "insufficient_funds"),
            (withdraw(1, "90"), "posted"),
        ],
        {1: (10_00, 0)},
    ),
    "a floor above the balance": (
        [
            (policy(1, floor="120"), "posted"),
            (withdraw(1, "1"), "insufficient_funds"),
            (hold(1, "1"), "insufficient_funds"),
            (deposit(1, "10"), "posted"),
            (general((1, "-1"), (1, "1")), "posted"),
            (deposit(1, "11"), "posted"),
            (withdraw(1, "1"), "posted"),
        ],
        {1: (120_00, 0)},
    ),
    "a floor that is raised in debt": (
        [
            (policy(1, floor="-50"), "posted"),
            (withdraw(1, "140"), "posted"),
            (policy(1, floor="0"), "posted"),
            (withdraw(1, "1"), "insufficient_funds"),
            (deposit(1, "1"), "posted"),
        ],
        {1: (-39_00, 0)},
    ),
    "what was held before is captured below the floor": (
        [
            (hold(1, "100", 2), "posted"),
            (policy(1, floor="50"), "posted"),
            (capture(1, "40"), "posted"),
            (release(1, "10"), "posted"),
            (capture(1), "posted"),
        ],
        {1: (10_00, 0), 2: (90_00, 0)},
    ),
    "a ceiling": (
        [
            (policy(2, ceiling="50"), "posted"),
            (deposit(2, "50.01"), "balance_ceiling"),
            (transfer(1, 2, "50.01"), "balance_ceiling"),
            (general((1, "-50.01"), (2, "50.01")), "balance_ceiling"),
            (deposit(2, "50"), "posted"),
            (withdraw(2, "1"), "posted"),
        ],
        {2: (49_00, 0)},
    ),
    "a ceiling below the balance": (
        [
            (policy(1, ceiling="50"), "posted"),
            (withdraw(1, "1"), "posted"),
            (deposit(1, "1"), "balance_ceiling"),
            (hold(1, "99"), "posted"),
            (release(4), "posted"),
        ],
        {1: (99_00, 0)},
    ),
    "a ceiling is of the balance, not of what is available": (
        [
            (hold(1, "100"), "posted"),
            (policy(1, ceiling="100"), "posted"),
            (deposit(1, "0.01"), "balance_ceiling"),
        ],
        {1: (100_00, 100_00)},
    ),
    "a ceiling counts legs together": (
        [
            (policy(2, ceiling="10"), "posted"),
            (general((1, "-10"), (2, "20"), (2, "-10")), "posted"),
        ],
        {2: (10_00, 0)},
    ),
    "a ceiling taken away": (
        [
            (policy(2, ceiling="50"), "posted"),
            (policy(2, ceiling=None), "posted"),
            (deposit(2, "51"), "posted"),
        ],
        {2: (51_00, 0)},
    ),
    "what is not given stays": (
        [
            (policy(2, floor="-5", ceiling="50", frozen=0), "posted"),
            (policy(2, floor="-6"), "posted"),
            (deposit(2, "51"), "balance_ceiling"),
            (policy(2, ceiling="40"), "posted"),
            (withdraw(2, "6"), "posted"),
            (withdraw(2, "0.01"), "insufficient_funds"),
        ],
        {2: (-6_00, 0)},
    ),
    "a freeze stays when a limit changes": (
        [
            (policy(1, frozen=DEBITS), "posted"),
            (policy(1, floor="-6"), "posted"),
            (withdraw(1, "1"), "account_frozen"),
        ],
        {1: (100_00, 0)},
    ),
    "a ceiling below the floor": (
        [
            (policy(1, floor="10", ceiling="9.99"), "policy_conflict"),
            (policy(1, floor="10", ceiling="10"), "posted"),
            (policy(1, floor="10.01"), "policy_conflict"),
            (policy(1, ceiling="9.99"), "policy_conflict"),
        ],
        {},
    ),
    "a limit with too many decimals": (
        [
            (policy(1, floor="0.001"), "amount_precision"),
            (policy(1, ceiling="0.001"), "amount_precision"),
            (policy(6, floor="0.0"), "amount_precision"),
        ],
        {},
    ),
    "the farthest limits": (
        [
            (policy(1, floor="-10000000000000000", ceiling="10000000000000000"), "posted"),
            (policy(1, floor="-10000000000000000.01"), "amount_limit"),
            (policy(1, ceiling="10000000000000000.01"), "amount_limit"),
        ],
        {},
    ),
    "on an unknown account": ([(policy(99, floor="1"), "account_not_found")], {}),
    "on an external account": ([(policy(-1, ceiling="1"), "account_not_found")], {}),
    "frozen for debits": (
        [
            (policy(1, frozen=DEBITS), "posted"),
            (withdraw(1, "1"), "account_frozen"),
            (transfer(1, 2, "1"), "account_frozen"),
            (hold(1, "1"), "account_frozen"),
            (general((1, "-1"), (2, "1")), "account_frozen"),
            (deposit(1, "1"), "posted"),
            (transfer(4, 1, "1"), "posted"),
            (general((1, "-1"), (1, "2"), (4, "-1")), "posted"),
        ],
        {1: (103_00, 0)},
    ),
    "frozen for credits": (
        [
            (policy(1, frozen=CREDITS), "posted"),
            (deposit(1, "1"), "account_frozen"),
            (transfer(4, 1, "1"), "account_frozen"),
            (general((4, "-1"), (1, "1")), "account_frozen"),
            (withdraw(1, "1"), "posted"),
            (hold(1, "1", 2), "posted"),
            (capture(6), "posted"),
        ],
        {1: (98_00, 0)},
    ),
    "frozen for both": (
        [
            (policy(1, frozen=BOTH), "posted"),
            (deposit(1, "1"), "account_frozen"),
            (withdraw(1, "1"), "account_frozen"),
            (hold(1, "1"), "account_frozen"),
        ],
        {1: (100_00, 0)},
    ),
    "thawed": (
        [
            (policy(1, frozen=BOTH), "posted"),
            (policy(1, frozen=0), "posted"),
            (withdraw(1, "1"), "posted"),
        ],
        {1: (99_00, 0)},
    ),
    "a frozen account's hold": (
        [
            (hold(1, "60"), "posted"),
            (policy(1, frozen=BOTH), "posted"),
            (capture(1, "10"), "account_frozen"),
            (release(1, "10"), "posted"),
            (policy(1, frozen=CREDITS), "posted"),
            (capture(1, "10"), "posted"),
        ],
        {1: (90_00, 40_00)},
    ),
    "a frozen account's hold expires": (
        [
            (hold(1, "60", expires_at=NOW + A_MINUTE), "posted"),
            (policy(1, frozen=BOTH), "posted"),
            (A_MINUTE, None),
            (withdraw(1, "1"), "account_frozen"),
        ],
        {1: (100_00, 0)},
    ),
    "frozen comes before funds": (
        [(policy(1, frozen=DEBITS), "posted"), (withdraw(1, "101"), "account_frozen")],
        {},
    ),
    "closed": (
        [
            (policy(2, closed=True), "posted"),
            (deposit(2, "1"), "account_closed"),
            (withdraw(2, "1"), "account_closed"),
            (transfer(1, 2, "1"), "account_closed"),
            (hold(2, "1"), "account_closed"),
            (general((1, "-1"), (2, "1")), "account_closed"),
            (hold(1, "1", 2), "posted"),
            (capture(7), "account_closed"),
        ],
        {1: (100_00, 1_00), 2: (0, 0)},
    ),
    "closed for ever": (
        [
            (policy(2, closed=True), "posted"),
            (policy(2, frozen=0), "account_closed"),
            (policy(2, closed=True), "account_closed"),
            (policy(2, floor="-5"), "account_closed"),
        ],
        {},
    ),
    "closed and frozen": (
        [
            (policy(2, closed=True, frozen=BOTH), "posted"),
            (deposit(2, "1"), "account_closed"),
        ],
        {},
    ),
    "closed with a balance": (
        [
            (policy(1, closed=True), "balance_not_zero"),
            (withdraw(1, "100"), "posted"),
            (policy(1, closed=True), "posted"),
        ],
        {1: (0, 0)},
    ),
    "closed in debt": (
        [
            (policy(2, floor="-5"), "posted"),
            (withdraw(2, "1"), "posted"),
            (policy(2, closed=True), "balance_not_zero"),
        ],
        {2: (-1_00, 0)},
    ),
    "closed with all of it held": (
        [(hold(1, "100"), "posted"), (policy(1, closed=True), "balance_not_zero")],
        {1: (100_00, 100_00)},
    ),
    "the giver is judged before the receiver": (
        [
            (policy(2, frozen=BOTH), "posted"),
            (transfer(1, 2, "101"), "insufficient_funds"),
            (general((1, "-101"), (2, "101")), "insufficient_funds"),
            (general((2, "1"), (1, "-1")), "account_frozen"),
        ],
        {1: (100_00, 0)},
    ),
    "closed with a hold": (
        [
            (policy(2, floor="-5"), "posted"),
            (hold(2, "5"), "posted"),
            (policy(2, closed=True), "balance_not_zero"),
            (release(2), "posted"),
            (policy(2, closed=True), "posted"),
        ],
        {2: (0, 0)},
    ),
    "closed with an expired hold": (
        [
            (policy(2, floor="-5"), "posted"),
            (hold(2, "5", expires_at=NOW + A_MINUTE), "posted"),
            (A_MINUTE, None),
            (policy(2, closed=True), "posted"),
        ],
        {2: (0, 0)},
    ),
    "a closed account's money comes not back": (
        [
            (transfer(1, 2, "10"), "posted"),
            (transfer(2, 4, "10"), "posted"),
            (policy(2, closed=True), "posted"),
            (reverse(1, force=True), "account_closed"),
            (reverse(2), "account_closed"),
        ],
        {2: (0, 0)},
    ),
}

SCHEDULES = {
    "executed": (
        [(schedule(1, 2, "60"), "posted"), (execute(1), "posted")],
        {1: (40_00, 0), 2: (60_00, 0)},
    ),
    "nothing is reserved": (
        [(schedule(1, 2, "60"), "posted"), (withdraw(1, "100"), "posted")],
        {1: (0, 0)},
    ),
    "without funds at the time it is asked for": (
        [
            (schedule(2, 1, "60"), "posted"),
            (deposit(2, "60"), "posted"),
            (execute(1), "posted"),
        ],
        {1: (160_00, 0), 2: (0, 0)},
    ),
    "without funds at its time": (
        [
            (schedule(2, 1, "60"), "posted"),
            (execute(1), "insufficient_funds"),
            (deposit(2, "60"), "posted"),
            (execute(1), "replayed"),
            (cancel(1), "schedule_settled"),
        ],
        {2: (60_00, 0)},
    ),
    "executed once": (
        [(schedule(1, 2, "6"), "posted"), (execute(1), "posted"), (execute(1), "replayed")],
        {2: (6_00, 0)},
    ),
    "cancelled": (
        [
            (schedule(1, 2, "6"), "posted"),
            (cancel(1), "posted"),
            (execute(1), "schedule_not_found"),
            (cancel(1), "schedule_settled"),
        ],
        {1: (100_00, 0), 2: (0, 0)},
    ),
    "too late to cancel": (
        [(schedule(1, 2, "6"), "posted"), (execute(1), "posted"), (cancel(1), "schedule_settled")],
        {2: (6_00, 0)},
    ),
    "a cancellation of nothing": ([(cancel(1), "schedule_not_found")], {}),
    "a cancellation of a transfer": (
        [
            (transfer(1, 2, "1"), "posted"),
            (cancel(1), "schedule_not_found"),
            (execute(1), "schedule_not_found"),
        ],
        {},
    ),
    "a cancellation of a hold": (
        [
            (hold(1, "1"), "posted"),
            (cancel(1), "schedule_not_found"),
            (execute(1), "schedule_not_found"),
        ],
        {},
    ),
    "a capture of a schedule": (
        [(schedule(1, 2, "6"), "posted"), (capture(1), "hold_not_found")],
        {},
    ),
    "to nobody": ([(schedule(1, 99, "6"), "account_not_found")], {}),
    "from nobody": ([(schedule(99, 1, "6"), "account_not_found")], {}),
    "to the outside": ([(schedule(1, -1, "6"), "account_not_found")], {}),
    "to itself": ([(schedule(1, 1, "6"), "same_account")], {}),
    "to another currency": ([(schedule(1, 3, "6"), "currency_mismatch")], {}),
    "with too many decimals": ([(schedule(1, 2, "0.001"), "amount_precision")], {}),
    "with too much": ([(schedule(1, 2, "10000000000000.01"), "amount_limit")], {}),
    "to a full account": (
        [
            (policy(2, ceiling="5"), "posted"),
            (schedule(1, 2, "6"), "posted"),
            (execute(2), "balance_ceiling"),
        ],
        {1: (100_00, 0)},
    ),
    "from a frozen account": (
        [
            (policy(1, frozen=DEBITS), "posted"),
            (schedule(1, 2, "6"), "posted"),
            (execute(2), "account_frozen"),
        ],
        {2: (0, 0)},
    ),
}

NOTED = Detail("rent", "r-1", NOW, '{"a":1}')
OTHERWISE = [
    Detail("rent!", "r-1", NOW, '{"a":1}'),
    Detail("rent", "r-2", NOW, '{"a":1}'),
    Detail("rent", "r-1", LATER, '{"a":1}'),
    Detail("rent", "r-1", NOW, '{"a":2}'),
    Detail("rent", "r-1", NOW),
    None,
]


def once_more(first: Any, *others: Any, before: tuple[Any, ...] = (), code: str = "posted") -> Any:
    """First, again, and then with the same key but otherwise."""
    steps = [*((one, "posted") for one in before), (first, code), (first, "replayed")]
    return [*steps, *((other, "idempotency_key_reused") for other in others)], {}


def all_details(make: Any) -> Any:
    """With a detail, again, and then with every other one."""
    return once_more(make(NOTED), *map(make, OTHERWISE))


IN_OTHER_ZONE = LATER.astimezone(timezone(timedelta(hours=5, minutes=30)))

KEYS = {
    "of legs": once_more(
        general((1, "-1"), (2, "1"), key="k"),
        general((1, "-2"), (2, "2"), key="k"),
        general((1, "-1"), (4, "1"), key="k"),
        general((1, "-1"), (2, "0.5"), (2, "0.5"), key="k"),
        general(Leg(1, "-1", "USD"), (2, "1"), key="k"),
        general(Leg(1, "-1", version=0), (2, "1"), key="k"),
        general(Leg(1, "-1", available_at_least="0"), (2, "1"), key="k"),
        general(Leg(1, "-1", balance_at_least="0"), (2, "1"), key="k"),
        general((1, "-1"), (2, "1"), key="k", exchange=TO_RUPEES),
        transfer(1, 2, "1", "k"),
        withdraw(1, "1", "k"),
        hold(1, "1", key="k"),
        policy(1, "k", frozen=0),
        schedule(1, 2, "1", "k"),
    ),
    "of an exchange": once_more(
        exchanged("1", "83", "83", rate("83"), key="k"),
        exchanged("1", "83", "83", rate("83.001"), key="k"),
        exchanged("1", "83", "83", rate("83", 5), key="k"),
        exchanged("1", "83", "83", rate("83", None, "INR", "USD"), key="k"),
    ),
    "of a hold": once_more(
        hold(1, "1", 2, "k", expires_at=LATER),
        hold(1, "2", 2, "k", expires_at=LATER),
        hold(1, "1", 4, "k", expires_at=LATER),
        hold(1, "1", None, "k", expires_at=LATER),
        hold(1, "1", 2, "k", expires_at=LATER + A_MINUTE),
        hold(1, "1", 2, "k"),
        hold(1, "1", 2, "k", expires_at=LATER, capture_at=NOW),
    ),
    "of a capture": once_more(
        capture(1, "1", "k"),
        capture(1, "2", "k"),
        capture(1, None, "k"),
        capture(1, "1", "k", final=True),
        release(1, "1", "k"),
        reverse(1, "1", "k"),
        withdraw(1, "1", "k"),
        capture(2, "1", "k"),
        before=(hold(1, "3"), hold(1, "3")),
    ),
    "of a release": once_more(
        release(1, "1", "k"),
        release(1, None, "k"),
        capture(1, "1", "k"),
        before=(hold(1, "3"),),
    ),
    "of a release of all of it": once_more(
        release(1, None, "k"),
        cancel(1, "k"),
        capture(1, None, "k"),
        before=(hold(1, "3"),),
    ),
    "of a reversal": once_more(
        reverse(1, "1", "k"),
        reverse(1, "2", "k"),
        reverse(1, None, "k"),
        reverse(1, "1", "k", force=True),
        reverse(1, "1", "k", actor="me"),
        by_leg(1, (1, "1"), (2, "-1"), key="k"),
        before=(transfer(1, 2, "5"),),
    ),
    "of a reversal by leg": once_more(
        by_leg(1, (1, "1"), (2, "-1"), key="k"),
        by_leg(1, (2, "-1"), (1, "1"), key="k"),
        before=(transfer(1, 2, "5"),),
    ),
    "of a policy": once_more(
        policy(1, "k", floor="0", ceiling="500", actor="me", reason="so"),
        policy(1, "k", floor="1", ceiling="500", actor="me", reason="so"),
        policy(1, "k", ceiling="500", actor="me", reason="so"),
        policy(1, "k", floor="0", ceiling="501", actor="me", reason="so"),
        policy(1, "k", floor="0", ceiling=None, actor="me", reason="so"),
        policy(1, "k", floor="0", actor="me", reason="so"),
        policy(1, "k", floor="0", ceiling="500", frozen=0, actor="me", reason="so"),
        policy(1, "k", floor="0", ceiling="500", closed=True, actor="me", reason="so"),
        policy(1, "k", floor="0", ceiling="500", actor="you", reason="so"),
        policy(1, "k", floor="0", ceiling="500", actor="me", reason="why"),
    ),
    "of a ceiling taken away": once_more(
        policy(1, "k", frozen=0, ceiling=None), policy(1, "k", frozen=0)
    ),
    "of a schedule": once_more(
        schedule(1, 2, "1", "k"),
        schedule(1, 2, "2", "k"),
        schedule(1, 4, "1", "k"),
        schedule(1, 2, "1", "k", at=LATER + A_MINUTE),
        transfer(1, 2, "1", "k"),
    ),
    "of a cancellation": once_more(
        cancel(1, "k"),
        cancel(2, "k"),
        before=(schedule(1, 2, "1"), schedule(1, 2, "1")),
    ),
    "of a decline": once_more(
        hold(1, "101", key="k"), hold(1, "1", key="k"), code="insufficient_funds"
    ),
    "of a movement": once_more(
        transfer(1, 2, "1", "k"),
        general((1, "-1"), (2, "1"), key="k"),
        schedule(1, 2, "1", "k"),
        hold(1, "1", 2, "k"),
        transfer(1, 2, "1", "k", detail=NOTED),
    ),
    "a decline stays when there is money": (
        [
            (hold(2, "1", key="k"), "insufficient_funds"),
            (deposit(2, "9"), "posted"),
            (hold(2, "1", key="k"), "replayed"),
        ],
        {2: (9_00, 0)},
    ),
    "a key comes before existence": once_more(
        hold(1, "1", 2, "k"), hold(1, "1", 99, "k"), hold(1, "0.001", 2, "k"), hold(1, "1", 1, "k")
    ),
    "a step's key is of its parent's account": (
        [
            (hold(1, "1", 2), "posted"),
            (capture(1, None, "k"), "posted"),
            (withdraw(2, "1", "k"), "posted"),
            (withdraw(1, "1", "k"), "idempotency_key_reused"),
        ],
        {},
    ),
    "equal legs in other digits": (
        [
            (general(Leg(1, "-1.50", None, "10.0", "-3.00"), (2, "1.5"), key="k"), "posted"),
            (general(Leg(1, "-1.5", None, "10", "-3"), (2, "1.500"), key="k"), "replayed"),
        ],
        {2: (1_50, 0)},
    ),
    "an equal rate in other digits": (
        [
            (exchanged("1", "83", "83", rate("83"), key="k"), "posted"),
            (exchanged("1.0", "83.00", "83", rate("83.000"), key="k"), "replayed"),
        ],
        {},
    ),
    "an equal hold in other digits": (
        [
            (hold(1, "10", 2, "k", expires_at=LATER), "posted"),
            (hold(1, "10.00", 2, "k", expires_at=IN_OTHER_ZONE), "replayed"),
            (hold(1, "1", 2, "k", expires_at=LATER), "idempotency_key_reused"),
        ],
        {},
    ),
    "an equal policy in other digits": (
        [
            (policy(1, "k", floor="-10.50", ceiling="100"), "posted"),
            (policy(1, "k", floor="-10.5", ceiling="100.0"), "replayed"),
        ],
        {},
    ),
    "nothing in other digits": (
        [
            (policy(1, "k", floor="0"), "posted"),
            (policy(1, "k", floor="0.00"), "replayed"),
            (policy(1, "k", floor="-0.0"), "replayed"),
        ],
        {},
    ),
    "the detail of a deposit": all_details(lambda d: deposit(1, "1", "k", detail=d)),
    "the detail of a transfer": all_details(lambda d: transfer(1, 2, "1", "k", detail=d)),
    "the detail of legs": all_details(lambda d: general((1, "-1"), (2, "1"), key="k", detail=d)),
    "the detail of a hold": all_details(lambda d: hold(1, "1", 2, "k", detail=d)),
    "the detail of a schedule": all_details(lambda d: schedule(1, 2, "1", "k", detail=d)),
    "the detail of a movement that is otherwise": once_more(
        transfer(1, 2, "1", "k", detail=NOTED),
        transfer(1, 2, "2", "k", detail=NOTED),
        transfer(1, 4, "1", "k", detail=NOTED),
        withdraw(1, "1", "k", detail=NOTED),
    ),
    "a detailed movement in other digits": (
        [
            (deposit(1, "1", "k", detail=NOTED), "posted"),
            (deposit(1, "1.00", "k", detail=NOTED), "replayed"),
        ],
        {},
    ),
    "a moment in another zone": (
        [
            (deposit(1, "1", "k", detail=Detail(effective_at=LATER)), "posted"),
            (deposit(1, "1", "k", detail=Detail(effective_at=IN_OTHER_ZONE)), "replayed"),
        ],
        {},
    ),
}

LINKED = {
    "all of them": (
        [((transfer(1, 2, "5"), hold(2, "5"), policy(2, frozen=BOTH)), ["posted"] * 3)],
        {1: (95_00, 0), 2: (5_00, 5_00)},
    ),
    "a hold is taken back": (
        [
            ((hold(1, "100"), withdraw(2, "1")), (1, "insufficient_funds")),
            (withdraw(1, "100"), "posted"),
        ],
        {1: (0, 0)},
    ),
    "a capture is taken back": (
        [
            (hold(1, "60", 2), "posted"),
            ((capture(1, "50"), withdraw(1, "50")), (1, "insufficient_funds")),
            (capture(1, "60"), "posted"),
        ],
        {1: (40_00, 0)},
    ),
    "a release is taken back": (
        [
            (hold(1, "60", 2), "posted"),
            ((release(1), withdraw(1, "101")), (1, "insufficient_funds")),
            (withdraw(1, "40.01"), "insufficient_funds"),
            (capture(1), "posted"),
        ],
        {1: (40_00, 0)},
    ),
    "an expiry stays": (
        [
            (hold(1, "60", expires_at=NOW + A_MINUTE), "posted"),
            (A_MINUTE, None),
            ((withdraw(1, "70"), withdraw(1, "31")), (1, "insufficient_funds")),
        ],
        {1: (100_00, 0)},
    ),
    "a reversal is taken back": (
        [
            (transfer(1, 2, "60"), "posted"),
            ((reverse(1), withdraw(2, "1")), (1, "insufficient_funds")),
            (reverse(1), "posted"),
        ],
        {1: (100_00, 0)},
    ),
    "a forced reversal is taken back": (
        [
            (transfer(1, 2, "60"), "posted"),
            (withdraw(2, "60"), "posted"),
            ((reverse(1, force=True), withdraw(2, "1")), (1, "insufficient_funds")),
            (deposit(2, "1"), "posted"),
        ],
        {2: (1_00, 0)},
    ),
    "a policy is taken back": (
        [
            ((policy(1, floor="-50"), withdraw(1, "151")), (1, "insufficient_funds")),
            (withdraw(1, "101"), "insufficient_funds"),
        ],
        {1: (100_00, 0)},
    ),
    "a cancellation is taken back": (
        [
            (schedule(1, 2, "1"), "posted"),
            ((cancel(1), withdraw(1, "101")), (1, "insufficient_funds")),
            (execute(1), "posted"),
        ],
        {2: (1_00, 0)},
    ),
    "a later one sees an earlier one": (
        [
            (hold(1, "60", 2), "posted"),
            ((capture(1, "30"), capture(1, "30.01")), (1, "hold_exceeded")),
            ((capture(1, "30"), capture(1, "30")), ["posted", "posted"]),
        ],
        {2: (60_00, 0)},
    ),
    "a reversal sees an earlier one": (
        [
            (transfer(1, 2, "60"), "posted"),
            ((reverse(1, "30"), reverse(1, "30.01")), (1, "reversal_exceeded")),
            ((reverse(1, "30"), reverse(1)), ["posted", "posted"]),
            ((reverse(1),), (0, "reversal_exceeded")),
        ],
        {1: (100_00, 0)},
    ),
    "a policy counts at once": (
        [
            ((policy(1, floor="-50"), withdraw(1, "150")), ["posted", "posted"]),
            ((policy(1, frozen=BOTH), deposit(1, "1")), (1, "account_frozen")),
            (
                (policy(1, floor="-60"), policy(1, floor="-70"), withdraw(1, "21")),
                (2, "insufficient_funds"),
            ),
            (withdraw(1, "0.01"), "insufficient_funds"),
        ],
        {1: (-50_00, 0)},
    ),
    "a ceiling counts at once": (
        [((policy(2, ceiling="10"), deposit(2, "11")), (1, "balance_ceiling"))],
        {2: (0, 0)},
    ),
    "an earlier policy is not taken back": (
        [
            ((policy(1, floor="-50"),), ["posted"]),
            ((policy(1, floor="-60"), withdraw(1, "161")), (1, "insufficient_funds")),
            (withdraw(1, "150.01"), "insufficient_funds"),
            (withdraw(1, "150"), "posted"),
        ],
        {1: (-50_00, 0)},
    ),
    "an earlier cancellation is not taken back": (
        [
            (schedule(1, 2, "1"), "posted"),
            ((cancel(1),), ["posted"]),
            ((cancel(1),), (0, "schedule_settled")),
            (execute(1), "schedule_not_found"),
        ],
        {2: (0, 0)},
    ),
    "an execution counts at once": (
        [
            (schedule(1, 2, "1"), "posted"),
            ((execute(1),), ["posted"]),
            (cancel(1), "schedule_settled"),
        ],
        {2: (1_00, 0)},
    ),
    "an execution in vain counts at once": (
        [
            (schedule(2, 1, "1"), "posted"),
            ((deposit(4, "1"),), ["posted"]),
            (execute(1), "insufficient_funds"),
            (cancel(1), "schedule_settled"),
        ],
        {},
    ),
    "an execution is taken back": (
        [
            (schedule(1, 2, "1"), "posted"),
            ((execute(1), withdraw(1, "100")), (1, "insufficient_funds")),
            (execute(1), "posted"),
        ],
        {2: (1_00, 0)},
    ),
    "a cancellation counts at once": (
        [
            (schedule(1, 2, "1"), "posted"),
            ((cancel(1), cancel(1)), (1, "schedule_settled")),
            (cancel(1), "posted"),
        ],
        {},
    ),
    "a rejection": (
        [((deposit(1, "1"), transfer(1, 99, "1")), (1, "account_not_found"))],
        {1: (100_00, 0)},
    ),
    "a repeat is no fault": (
        [
            (deposit(1, "1", "k"), "posted"),
            ((deposit(1, "1", "k"), deposit(1, "2")), ["replayed", "posted"]),
        ],
        {1: (103_00, 0)},
    ),
    "a repeat of a decline is": (
        [
            (withdraw(2, "1", "k"), "insufficient_funds"),
            ((deposit(2, "5"), withdraw(2, "1", "k")), (1, "replayed")),
        ],
        {2: (0, 0)},
    ),
    "a key is free again": (
        [
            ((hold(1, "1", key="k"), withdraw(1, "100")), (1, "insufficient_funds")),
            (hold(1, "2", key="k"), "posted"),
        ],
        {1: (100_00, 2_00)},
    ),
}

TABLES = {
    "legs": LEGS,
    "exchanges": EXCHANGES,
    "holds": HOLDS,
    "reversals": REVERSALS,
    "policies": POLICIES,
    "schedules": SCHEDULES,
    "keys": KEYS,
    "linked": LINKED,
}
CASES = {
    f"{table}, {name}": case for table, cases in TABLES.items() for name, case in cases.items()
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_step_gets_its_verdict(case):
    steps, after = case
    check(FUNDED, steps, after)


@pytest.mark.parametrize("case", LINKED.values(), ids=LINKED.keys())
def test_what_a_linked_group_leaves_is_seen_in_its_own_batch_too(case):
    steps, after = case
    begin = next(place for place, (asked, _) in enumerate(steps) if isinstance(asked, tuple))
    together = [asked for asked, _ in steps[begin:]], [expected for _, expected in steps[begin:]]
    check(FUNDED, [*steps[:begin], together], after)


@pytest.mark.parametrize(("legs", "expected"), [(2, "posted"), (500, "posted")])
def test_a_transaction_of_many_legs(legs, expected):
    customers = [account(n, 1_00) for n in range(1, legs + 1)]
    made = general((1, f"-0.{legs - 1:02}" if legs < 100 else f"-{(legs - 1) / 100}"), *(
        (n, "0.01") for n in range(2, legs + 1)
    ))  # fmt: skip
    there = world(*(account(1, 500_00), *customers[1:]))
    assert verdict(there.one(made)) == expected
    (transaction,) = there.transactions.values()
    assert [entry.account_id for entry in transaction.entries] == [*range(1, legs + 1)]
    assert transaction.amount == legs - 1


def test_entries_are_told_own_account_first_and_credits_were_made_first():
    there = world(*FUNDED)
    asked = general((4, "-100"), (4, "60"), (2, "30"), (1, "10"))
    entries = there.record(asked).entries
    assert [(e.account_id, e.seq, e.amount, e.balance) for e in entries] == [
        (4, 1, 60_00, 160_00), (4, 2, -100_00, 60_00), (1, 1, 10_00, 110_00), (2, 1, 30_00, 30_00),
    ]  # fmt: skip


def test_what_a_transaction_tells_beside_its_entries():
    there = world(*FUNDED)
    terms = {"expires_at": LATER, "capture_at": LATER - A_MINUTE}
    placed = there.record(hold(1, "60", 2, detail=NOTED, **terms))
    assert (placed.kind, placed.amount, placed.counterparty_id) == (Kind.HOLD, 60_00, None)
    assert placed.extra.detail is NOTED
    assert placed.extra.currencies == {USD: ("USD", 2)}
    hold_terms = msgspec.structs.asdict(placed.extra.hold)
    assert hold_terms == {"account_id": 1, "counterparty_id": 2, "amount": 60_00, **terms}
    steps = [capture(1, "10"), release(1, "5"), capture(1, "70"), capture(1, "1", final=True)]
    told = [(t.amount, t.extra.remaining, t.extra.parent_id) for t in map(there.record, steps)]
    assert told == [(10_00, 50_00, 1), (5_00, 45_00, 1), (70_00, 45_00, 1), (1_00, 0, 1)]
    closed = there.record(release(1))
    assert (closed.amount, closed.extra.remaining) == (60_00, 0)
    outside = there.record(hold(4, "1"))
    assert outside.extra.hold.counterparty_id == -USD
    planned = there.record(schedule(1, 2, "5"))
    done = there.record(execute(planned.id))
    assert (planned.kind, planned.amount, planned.extra.schedule.execute_at) == (
        Kind.SCHEDULE, 5_00, NOW,
    )  # fmt: skip
    assert (done.kind, done.counterparty_id, done.extra.parent_id) == (Kind.TRANSFER, 2, planned.id)
    another = there.record(schedule(1, 2, "5"))
    cancelled = there.record(cancel(another.id))
    assert (cancelled.kind, cancelled.amount, cancelled.extra.parent_id) == (
        Kind.CANCELLATION, 0, another.id,
    )  # fmt: skip
    rated = there.record(exchanged("1", "83.01", "83", rate("83.005", 3)))
    assert msgspec.json.decode(rated.extra.exchange) == {
        "sell": "USD", "buy": "INR", "rate": "83.005", "rounding_account_id": 3,
    }  # fmt: skip
    assert rated.extra.currencies == {USD: ("USD", 2), INR: ("INR", 2)}


def test_a_detail_asks_for_the_later_form_of_answer():
    there = world(*FUNDED)
    kinds = [deposit(1, "1"), deposit(1, "1", detail=NOTED), hold(1, "1")]
    assert [there.record(one).renderer for one in kinds] == [RENDERER, DETAILED, DETAILED]


def test_what_a_decline_tells():
    there = world(*FUNDED)
    there.one(hold(4, "40"))
    declined = there.record(general((1, "-70"), (2, "131"), (4, "-61"), detail=NOTED))
    refusal, extra = declined.refusal, declined.extra
    assert (refusal.account_id, refusal.version) == (4, 1)
    assert (refusal.available, refusal.balance) == (60_00, 100_00)
    assert (declined.account_id, declined.amount) == (1, 70_00)
    assert (extra.detail, extra.currencies, extra.policies) == (NOTED, {USD: ("USD", 2)}, ())
    unmet = there.record(general((1, "-1"), (2, "1"), Leg(3, "-1", version=9), (5, "1")))
    assert (unmet.refusal.account_id, unmet.extra.currencies) == (3, {INR: ("INR", 2)})
    first = there.record(general(Leg(1, "-1", version=9), Leg(2, "1", version=9)))
    assert first.refusal.account_id == 1
    conflict = there.record(policy(1, ceiling="-1"))
    assert (conflict.extra.policies, conflict.entries, conflict.amount) == ((), (), 0)
    too_much = there.record(hold(1, "101"))
    assert (too_much.extra.hold, too_much.amount) == (None, 101_00)


def test_a_policy_tells_what_it_became():
    there = world(*FUNDED)
    first = there.record(policy(1, floor="-5", frozen=CREDITS, actor="me", reason="so"))
    second = there.record(policy(1, ceiling="500"))
    told = [policy for t in (first, second) for policy in t.extra.policies]
    assert [msgspec.structs.astuple(one) for one in told] == [
        (1, 1, -5_00, None, CREDITS, "me", "so", None),
        (1, 2, -5_00, 500_00, CREDITS, None, None, None),
    ]
    closed = there.record(policy(2, closed=True, frozen=DEBITS)).extra.policies[0]
    assert closed.restricted == 4 + DEBITS
    (entry,) = second.entries
    assert (entry.seq, entry.amount, entry.held_change, entry.balance) == (2, 0, 0, 100_00)


def test_force_tells_whom_it_took_below_the_floor_and_who_did():
    there = world(*FUNDED)
    there.post(Group([SPLIT, withdraw(2, "5"), policy(4, floor="-20")]))
    original = next(t.id for t in there.transactions.values() if t.kind is Kind.GENERAL)
    undone = there.record(reverse(original, force=True, actor="me", detail=Detail("fraud")))
    (told,) = undone.extra.policies
    assert msgspec.structs.astuple(told) == (2, 3, 0, None, 0, "me", "fraud", -5_00)
    assert undone.amount == 10_00
    there.one(deposit(4, "1"))
    mild = there.record(reverse(there.record(deposit(4, "1")).id, force=True))
    assert mild.extra.policies == ()
    unforced = there.record(reverse(there.record(deposit(4, "1")).id))
    assert unforced.extra.policies == ()


def test_force_that_was_not_needed_tells_nothing():
    there = world(*FUNDED)
    paid = there.record(transfer(1, 2, "10")).id
    there.one(hold(2, "4"))
    assert there.record(reverse(paid, "6", force=True)).extra.policies == ()
    (told,) = there.record(reverse(paid, "1", force=True)).extra.policies
    assert told.lowest == -1_00
    taken = there.record(withdraw(1, "10")).id
    there.one(policy(1, floor="500"))
    assert there.record(reverse(taken, "1")).extra.policies == ()


def test_no_rounding_is_no_entry():
    there = world(*FUNDED)
    assert len(there.record(exchanged("1", "83", "83", rate("83.005", 5))).entries) == 4


def test_a_plan_changes_nothing_that_it_is_given():
    there = world(*FUNDED)
    original = there.record(transfer(1, 2, "10"))
    there.one(reverse(original.id, "1"))
    given = Parents({original.id: original}, reversed={original.id: {1: 1_00, 2: -1_00}})
    groups = [Group([reverse(original.id, "2")])]
    decided = plan(groups, there.accounts, {}, NOW, itertools.count(99), parents=given)
    assert verdict(decided.answers[0]) == ["posted"]
    assert given.reversed == {original.id: {1: 1_00, 2: -1_00}}


def test_a_reversal_by_leg_counts_what_its_own_account_moves():
    there = world(*FUNDED)
    original = there.record(general((1, "-10"), (2, "10"), (3, "-5"), (5, "5"))).id
    assert there.record(by_leg(original, (5, "-5"), (3, "5"))).amount == 0
    assert there.record(by_leg(original, (2, "-4"), (1, "4"))).amount == 4_00


def test_what_expired_is_released_first_by_the_service_itself():
    there = world(*FUNDED)
    there.post(Group([hold(1, "10", expires_at=LATER), hold(4, "20", expires_at=LATER)]))
    there.one(hold(1, "30", expires_at=LATER + A_MINUTE))
    there.now = LATER
    planned = there.plan([Group([transfer(1, 4, "1")])])
    assert planned.own == 2
    kinds = [t.kind for t in planned.transactions]
    assert kinds == [Kind.RELEASE, Kind.RELEASE, Kind.TRANSFER]
    assert [t.key for t in planned.transactions[:2]] == [
        f"{BY_THE_SERVICE}expiry 1",
        f"{BY_THE_SERVICE}expiry 2",
    ]
    there.write(planned)
    assert there.plan([Group([transfer(1, 4, "1")])]).own == 0
    assert verdict(there.one(Release(1, f"{BY_THE_SERVICE}expiry 1"))) == "replayed"
    assert there.plan([Group([deposit(2, "1")])]).own == 0


def test_a_hold_is_not_found_in_the_batch_that_makes_it():
    there = world(*FUNDED)
    (answer,) = there.post(Group([hold(1, "10"), capture(1)]))
    assert [verdict(one) for one in answer] == ["posted", "hold_not_found"]


def test_the_same_step_twice_in_a_batch_is_one():
    there = world(*FUNDED)
    there.one(hold(1, "60", 2))
    (answer,) = there.post(Group([capture(1, "60", "k"), capture(1, "60", "k"), capture(1, "1")]))
    assert [verdict(one) for one in answer] == ["posted", "replayed", "hold_closed"]


def test_the_largest_balance_holds_for_legs_and_captures():
    rich = account(1, MAX_BALANCE_MINOR)
    there = world(rich, account(2, 5), account(3, 5))
    assert verdict(there.one(general((2, "-0.01"), (1, "0.01")))) == "balance_limit"
    held = there.record(hold(2, "0.01", 1)).id
    assert verdict(there.one(capture(held))) == "balance_limit"
    assert verdict(there.one(general((1, "-0.01"), (1, "0.01"), (2, "-0.01"), (3, "0.01")))) == (
        "posted"
    )


def test_the_service_does_nothing_before_its_time_though_the_clock_is_put_back() -> None:
    there = world(account(1, 100_00), account(2))
    there.one(hold(1, "10", 2, expires_at=LATER + A_MINUTE, capture_at=LATER))
    there.one(schedule(1, 2, "5", at=LATER))
    early = [
        Release(1, f"{BY_THE_SERVICE}expiry 1"),
        Capture(1, f"{BY_THE_SERVICE}capture 1", final=True),
        Execution(2, f"{BY_THE_SERVICE}execution 2"),
    ]
    verdicts = [verdict(there.one(asked)) for asked in early]
    assert verdicts == ["hold_not_found", "hold_not_found", "schedule_not_found"]
    there.now = LATER
    assert [verdict(there.one(asked)) for asked in early[1:]] == ["posted", "posted"]
