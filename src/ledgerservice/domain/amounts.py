"""Amounts: exact decimals in major units outside, whole minor units inside.

An amount arrives as text (`"50.00"`), so that no float ever stands near money, and is kept as an
integer of minor units (5000 for USD, whose exponent is 2).
"""

import re

AMOUNT_PATTERN = r"(0|[1-9][0-9]{0,17})(\.[0-9]+)?"
MAX_AMOUNT_MINOR = 10**15
MAX_BALANCE_MINOR = 10**18

_is_amount = re.compile(AMOUNT_PATTERN, re.ASCII).fullmatch
_is_zero = re.compile(r"[0.]+", re.ASCII).fullmatch


def is_amount(text: str) -> bool:
    """Whether `text` is a plain decimal: ASCII digits, at most 18 of them before the point."""
    return _is_amount(text) is not None


def is_positive_amount(text: str) -> bool:
    """Whether `text` is a plain decimal above zero: ASCII digits, at most 18 before the point."""
    return _is_amount(text) is not None and _is_zero(text) is None


def to_minor(text: str, exponent: int) -> int | None:
    """`text` in whole minor units of a currency with `exponent` digits after the point.

    None if it has more digits after the point than that. `text` is a plain decimal
    (`is_positive_amount`).
    """
    whole, _, fraction = text.partition(".")
    if len(fraction) > exponent:
        return None
    return int(whole + fraction.ljust(exponent, "0"))


def is_same_amount(text: str, minor: int, exponent: int) -> bool:
    """Whether `text` has the value of `minor` units, however many zeros it ends with."""
    whole, _, fraction = text.partition(".")
    return to_minor(f"{whole}.{fraction.rstrip('0')}", exponent) == minor


def to_major(minor: int, exponent: int) -> str:
    """`minor` units as a decimal in major units: 5000 with exponent 2 is "50.00"."""
    digits = str(minor)
    if exponent == 0:
        return digits
    if minor > 0 and len(digits) > exponent:  # most of them
        return f"{digits[:-exponent]}.{digits[-exponent:]}"
    if minor == 0:
        return f"0.{'0' * exponent}"
    sign = "-" if minor < 0 else ""
    digits = str(abs(minor)).rjust(exponent + 1, "0")
    return f"{sign}{digits[:-exponent]}.{digits[-exponent:]}"


def optional_amount(minor: int | None, exponent: int) -> str | None:
    """An amount in major units, or None."""
    return None if minor is None else to_major(minor, exponent)
