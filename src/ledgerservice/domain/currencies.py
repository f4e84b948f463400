"""Currencies: the request that adds one, and the answer."""

import re

import msgspec

CODE_PATTERN = r"[A-Z][A-Z0-9]{0,15}"
MAX_EXPONENT = 12
MAX_NAME_LENGTH = 255

_is_code = re.compile(CODE_PATTERN, re.ASCII).fullmatch


class CurrencyRequest(msgspec.Struct, frozen=True, gc=False):
    """A request for a currency: its code, its decimals, which never change, and its name."""

    code: str
    exponent: int
    name: str
    dry_run: bool = False


class Currency(msgspec.Struct, frozen=True, gc=False):
    """A currency. `replayed`: it existed before the request."""

    code: str
    exponent: int
    name: str
    replayed: bool = False


def is_code(text: str) -> bool:
    """Whether `text` is a valid currency code: 1 to 16 capital letters and digits."""
    return _is_code(text) is not None


def is_valid(currency: CurrencyRequest) -> bool:
    """Whether the code, the exponent and the name are valid, and PostgreSQL can keep the name."""
    return (
        is_code(currency.code)
        and type(currency.exponent) is int
        and 0 <= currency.exponent <= MAX_EXPONENT
        and 1 <= len(currency.name) <= MAX_NAME_LENGTH
        and "\0" not in currency.name
        and not any("\ud800" <= character <= "\udfff" for character in currency.name)
    )
