"""Currencies: the request that adds one, and the answer."""

import re

import msgspec

from ledgerservice.domain.instructions import FieldType
from ledgerservice.domain.validation import check
from ledgerservice.errors import InvalidField

CODE_PATTERN = r"[A-Z][A-Z0-9]{0,15}"
MAX_EXPONENT = 12

_is_code = re.compile(CODE_PATTERN, re.ASCII).fullmatch


class CurrencyRequest(msgspec.Struct, frozen=True, gc=False):
    """A request for a currency: its code, its decimals, which never change, and its name.

    `ledger` is the id of the only ledger that will have it; None: all have it.
    """

    code: str
    exponent: int
    name: str
    dry_run: bool = False
    principal_id: int = 0
    ledger: int | None = None


class Currency(msgspec.Struct, frozen=True, gc=False):
    """A currency. `replayed`: it existed before the request."""

    code: str
    exponent: int
    name: str
    ledger: int | None = None
    replayed: bool = False


def is_code(text: str) -> bool:
    """Whether `text` is a valid currency code: 1 to 16 capital letters and digits."""
    return _is_code(text) is not None


def fault_of(currency: CurrencyRequest) -> InvalidField | None:
    """What is wrong with a currency from Python, or None."""
    if not isinstance(currency.code, str) or not is_code(currency.code):
        return InvalidField("code", "must be 1 to 16 capital letters and digits, a letter first")
    if type(currency.exponent) is not int or not 0 <= currency.exponent <= MAX_EXPONENT:
        return InvalidField("exponent", f"must be the number of decimals, 0 to {MAX_EXPONENT}")
    fault = check(FieldType.NAME, currency.name)
    return None if fault is None else InvalidField("name", fault)
