"""Exchanges: the rate and the rounding. Without a rate a transaction is always fair."""

from collections import defaultdict
from collections.abc import Mapping
from fractions import Fraction

from tests.proof.history import Request
from tests.proof.judging.evidence import minor

Currencies = Mapping[int, str]
"""The currency of each account."""


def legs_of(request: Request, currencies: Currencies) -> tuple[tuple[int, int], ...]:
    """The legs, with that of the account which gets what rounding leaves over."""
    left = _left_over(request, currencies)
    exchange = request.exchange
    if exchange is None or exchange.rounding is None or not left:
        return request.legs
    return (*request.legs, (exchange.rounding, left))


def _left_over(request: Request, currencies: Currencies) -> int:
    return -sum(_nets(request, currencies, "" if not request.exchange else request.exchange.buy))


def is_at_its_rate(request: Request, currencies: Currencies) -> bool:
    """Whether all that is given for what is sold differs from the rate by less than one."""
    exchange = request.exchange
    if exchange is None:
        return True
    most = sum(n for n in _nets(request, currencies, exchange.sell) if n > 0)
    sold = minor(exchange.sold) if exchange.sold else most
    given = -sum(n for n in _nets(request, currencies, exchange.buy) if n < 0)
    return 0 < sold <= most and abs(given - Fraction(exchange.rate) * sold) < 1


def is_rounded(request: Request, currencies: Currencies) -> bool:
    """Whether what is left over is at most one for each that gets some, and has an account."""
    exchange, left = request.exchange, _left_over(request, currencies)
    if exchange is None or not left:
        return True
    receivers = sum(n > 0 for n in _nets(request, currencies, exchange.buy))
    there = exchange.rounding is not None and currencies.get(exchange.rounding) == exchange.buy
    return there and abs(left) <= receivers


def _nets(request: Request, currencies: Currencies, currency: str) -> list[int]:
    """What the accounts of a currency gain or lose."""
    nets: dict[int, int] = defaultdict(int)
    for account, amount in request.legs:
        if currencies.get(account) == currency:
            nets[account] += amount
    return list(nets.values())
