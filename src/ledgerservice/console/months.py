"""The months of a ledger, out of its volume and a trial balance."""

from collections.abc import Iterator
from decimal import Decimal, localcontext
from typing import Any, NamedTuple

DIGITS = 60
"""More than any sum of amounts has, with its decimals: no amount is rounded."""


class Month(NamedTuple):
    """What was recorded in a month, in a currency. Amounts are exact texts, as the API's are.

    `customers` is what customers held at its end: what they hold, less what came in and went out in
    the months after it.
    """

    begins_at: str
    currency: str
    posted: int
    declined: int
    amount_in: str
    amount_out: str
    moved: str
    customers: str


def months_of(volume: dict[str, Any], balance: dict[str, Any]) -> list[Month]:
    """The months of which everything was counted, the latest first. The counts are those of all
    currencies.
    """
    with localcontext(prec=DIGITS):
        return list(_months(volume, balance))


def _months(volume: dict[str, Any], balance: dict[str, Any]) -> Iterator[Month]:
    held = {row["currency"]: Decimal(row["customers"]) for row in balance["currencies"]}
    for period in reversed(volume["periods"]):
        if volume["since"] is not None and period["begins_at"] < volume["since"]:
            break  # a part of it is missing
        amounts = {row["currency"]: row for row in period["currencies"]}
        for currency, total in held.items():
            yield _month(period, currency, amounts.get(currency), total)
        for currency, row in amounts.items():
            change = Decimal(row["amount_out"]) - Decimal(row["amount_in"])
            held[currency] = held.get(currency, Decimal(0)) + change


def _month(
    period: dict[str, Any], currency: str, row: dict[str, Any] | None, held: Decimal
) -> Month:
    zero = str(held - held)
    amounts: tuple[str, str, str] = (
        (zero, zero, zero) if row is None else (row["amount_in"], row["amount_out"], row["moved"])
    )
    declined = sum(period["declined"].values())
    counts = period["posted"], declined
    return Month(period["begins_at"], currency, *counts, *amounts, f"{held:f}")
