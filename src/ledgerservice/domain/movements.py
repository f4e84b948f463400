"""Plain movements from Python, checked as they are made."""

from decimal import Decimal

from ledgerservice.domain.amounts import is_positive_amount
from ledgerservice.domain.instructions import (
    BIGGEST_ID,
    Detail,
    FieldType,
    Kind,
    Movement,
    is_key,
)
from ledgerservice.domain.validation import check, checked
from ledgerservice.errors import InvalidField

Amount = str | int | Decimal
"""A positive amount in major units: "50.00", 50 or Decimal("50.00"); never a float."""


def deposit(account_id: int, amount: Amount, key: str, detail: Detail | None = None) -> Movement:
    """Money into an account, from outside. Raises InvalidField."""
    return _movement(Kind.DEPOSIT, account_id, None, amount, key, detail)


def withdrawal(account_id: int, amount: Amount, key: str, detail: Detail | None = None) -> Movement:
    """Money out of an account, to the outside. Raises InvalidField."""
    return _movement(Kind.WITHDRAWAL, account_id, None, amount, key, detail)


def transfer(
    from_account_id: int, to_account_id: int, amount: Amount, key: str, detail: Detail | None = None
) -> Movement:
    """Money from one account to another. Raises InvalidField."""
    return _movement(Kind.TRANSFER, from_account_id, to_account_id, amount, key, detail)


def _movement(
    kind: Kind,
    account: int,
    other: int | None,
    amount: Amount,
    key: str,
    detail: Detail | None,
) -> Movement:
    plain = format(amount, "f") if isinstance(amount, Decimal) else amount
    if isinstance(plain, int) and not isinstance(plain, bool):
        plain = str(plain)
    if not isinstance(plain, str) or not is_positive_amount(plain):
        raise InvalidField("amount", "must be a positive plain decimal; a float is not exact")
    if not isinstance(key, str) or not is_key(key):
        raise InvalidField("key", str(check(FieldType.KEY, key)))
    if any(type(i) is not int or abs(i) > BIGGEST_ID for i in (account, other or 0)):
        first = "account_id" if kind is not Kind.TRANSFER else "from_account_id"
        checked(**{first: (FieldType.ID, account), "to_account_id": (FieldType.ID, other)})
    return Movement(kind, account, other, plain, key, detail)
