"""Exchanges at another rate, and roundings that went elsewhere."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from tests.proof.doctored.doctor import Doctor, ask_otherwise
from tests.proof.history import Attempt, Exchange
from tests.proof.journal import Transaction
from tests.proof.judging.evidence import OK, outcome


def _exchanged(d: Doctor, what: Callable[[Exchange], Any] = bool) -> tuple[Transaction, Exchange]:
    """A transaction at a rate, which is not one of two by the same key."""
    row = d.chance.choice(
        [t for t in d.journal.transactions if t.exchange is not None and what(t.exchange)]
    )
    assert row.exchange is not None
    return row, row.exchange


def _rounded(d: Doctor) -> tuple[Transaction, Exchange]:
    """One of which rounding left something over."""
    rows = [t for t in d.journal.transactions if t.exchange is not None]
    row = next(t for t in rows if any(t.exchange.rounding == leg.account for leg in d.legs(t)))
    assert row.exchange is not None
    return row, row.exchange


def _told_otherwise(d: Doctor, row: Transaction, **terms: Any) -> None:
    """Another rate was asked for and kept."""
    assert row.exchange is not None
    row.exchange = replace(row.exchange, **terms)
    ask_otherwise(d, row, exchange=row.exchange)


def exchanged_at_another_rate(d: Doctor) -> None:
    row, _ = _exchanged(d)
    _told_otherwise(d, row, rate="190")


def exchanged_more_than_was_moved(d: Doctor) -> None:
    row, exchange = _exchanged(d, lambda exchange: exchange.sold)
    rate = f"{float(exchange.rate) / 100:.5f}"
    _told_otherwise(d, row, rate=rate, sold=exchange.sold.replace(".", "") + ".00")


def exchanged_a_fee_too(d: Doctor) -> None:
    row, _ = _exchanged(d, lambda exchange: exchange.sold)
    _told_otherwise(d, row, sold="")


def a_rate_that_is_not_kept(d: Doctor) -> None:
    _exchanged(d)[0].exchange = None


def a_rate_that_is_not_to_the_letter(d: Doctor) -> None:
    row, exchange = _exchanged(d)
    row.exchange = replace(exchange, rate=exchange.rate + "0")


def rounding_for_another_account(d: Doctor) -> None:
    row, exchange = _rounded(d)
    legs = {leg.account for leg in d.legs(row)}
    stranger = next(n for n in range(301, 305) if n not in legs)
    row.exchange = replace(exchange, rounding=stranger)
    ask_otherwise(d, row, exchange=row.exchange)


def rounding_that_is_lost(d: Doctor) -> None:
    row, exchange = _rounded(d)
    leg = next(leg for leg in d.legs(row) if leg.account == exchange.rounding)
    d.journal.entries.remove(leg)


def rounding_of_more_than_rounding_leaves(d: Doctor) -> None:
    """What the buyer does not get is called rounding."""
    row, exchange = _rounded(d)
    legs = {leg.account: leg for leg in d.legs(row)}
    rounding = legs[exchange.rounding or 0]
    buyer = next(leg for leg in legs.values() if leg.currency_number == 2 and leg.amount > 1)
    buyer.amount, rounding.amount = buyer.amount - 7, rounding.amount + 7
    asked = next(a.request for a in d.attempts if a.request.key == row.key and a.request.exchange)
    changed = {account: leg.amount for account, leg in legs.items()}
    ask_otherwise(d, row, legs=tuple((account, changed[account]) for account, _ in asked.legs))


def an_entry_in_another_currency(d: Doctor) -> None:
    d.legs(d.step("transfer"))[0].currency_number = 2


def refused_at_a_fair_rate(d: Doctor) -> None:
    asked = d.one(lambda a: a.request.exchange is not None and outcome(a) == OK).request
    body = {"code": "rate_mismatch"}
    d.attempts.append(Attempt("late", 1, replace(asked, key="fair"), 2, 422, body))


DOCTORED: dict[Callable[[Doctor], None], str] = {
    exchanged_at_another_rate: "rate_broken",
    exchanged_more_than_was_moved: "rate_broken",
    exchanged_a_fee_too: "rate_broken",
    a_rate_that_is_not_kept: "content_differs",
    a_rate_that_is_not_to_the_letter: "content_differs",
    rounding_for_another_account: "content_differs",
    rounding_that_is_lost: "unbalanced",
    rounding_of_more_than_rounding_leaves: "rounding_broken",
    an_entry_in_another_currency: "currency_broken",
    refused_at_a_fair_rate: "refusal_unjust",
}
