"""Requests and answers as Pydantic models: the requests are validated by them, /docs shows both."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic import WithJsonSchema as Schema

from ledgerservice.api.bodies import Number
from ledgerservice.model import BIGGEST_ID, CODE_PATTERN, KEY_PATTERN, MAX_EXPONENT
from ledgerservice.money import AMOUNT_PATTERN, is_positive_amount

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)


def _integer(value: Any) -> int:
    if isinstance(value, Number) and _INTEGER.fullmatch(value.text):
        return int(value.text)
    raise ValueError("must be an integer")


def _amount(value: Any) -> str:
    text = value.text if isinstance(value, Number) else value
    if isinstance(text, str) and is_positive_amount(text):
        return text
    raise ValueError(
        "must be a plain decimal above zero, such as 50 or '50.00', without sign, exponent or "
        "leading zeros, and with at most 18 digits before the point"
    )


def _text(value: str) -> str:
    if any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in value):
        raise ValueError("must not contain control characters or lone surrogates")
    return value


AccountId = Annotated[
    int,
    BeforeValidator(_integer),
    Field(ge=-BIGGEST_ID, le=BIGGEST_ID),
    Schema({"type": "integer", "format": "int64", "minimum": 1, "examples": [1]}),
]
Amount = Annotated[
    str,
    BeforeValidator(_amount),
    Schema(
        {
            "anyOf": [
                {"type": "string", "pattern": f"^{AMOUNT_PATTERN}$"},
                {"type": "number", "exclusiveMinimum": 0},
            ],
            "description": "Exact decimal in major units, within the currency's decimals.",
            "examples": ["50.00"],
        }
    ),
]
Key = Annotated[
    str,
    Field(
        min_length=1,
        max_length=255,
        pattern=f"^{KEY_PATTERN}$",
        description="Names the payment. Here or in the Idempotency-Key header.",
        examples=["dep1"],
    ),
]
Text = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_text)]


Exponent = Annotated[
    int,
    BeforeValidator(_integer),
    Field(ge=0, le=MAX_EXPONENT),
    Schema(
        {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_EXPONENT,
            "description": "Digits after the point. It can never be changed.",
            "examples": [8],
        }
    ),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OpenAccount(_Request):
    """Open an account."""

    owner: Text = Field(examples=["Alice"])
    currency: str = Field(min_length=1, max_length=16, pattern="^[A-Z0-9]+$", examples=["USD"])
    reference: Text | None = Field(
        default=None, description="Your own name for the account, unique in the ledger."
    )


class AddCurrency(_Request):
    """Add a currency, or a unit of your own: points, hours, BTC."""

    code: str = Field(pattern=f"^{CODE_PATTERN}$", examples=["BTC"])
    exponent: Exponent
    name: Text = Field(examples=["Bitcoin"])


class Deposit(_Request):
    """Money into an account, from outside."""

    account_id: AccountId
    amount: Amount
    type: Literal["DEPOSIT"] | None = None
    idempotency_key: Key | None = None


class Withdrawal(_Request):
    """Money out of an account, to the outside."""

    account_id: AccountId
    amount: Amount
    type: Literal["WITHDRAWAL", "WITHDRAW"] | None = None
    idempotency_key: Key | None = None


class Transfer(_Request):
    """Money from one account to another of the same currency."""

    from_account_id: AccountId
    to_account_id: AccountId
    amount: Amount
    type: Literal["TRANSFER"] | None = None
    idempotency_key: Key | None = None


_ITEMS = [
    {"type": "DEPOSIT", "account_id": 1, "amount": "50.00", "idempotency_key": "b-1"},
    {"type": "WITHDRAWAL", "account_id": 1, "amount": "20.00", "idempotency_key": "b-2"},
    {
        "type": "TRANSFER",
        "from_account_id": 1,
        "to_account_id": 2,
        "amount": "5.00",
        "idempotency_key": "b-3",
    },
]


class Batch(_Request):
    """Many movements: each for itself (independent), or all or none (atomic)."""

    movements: Annotated[
        list[Any],
        Schema(
            {
                "type": "array",
                "minItems": 1,
                "maxItems": 10_000,
                "items": {
                    "description": "The body of a money route, with its type and its key. An item "
                    "that is not right is refused by itself.",
                    "examples": _ITEMS,
                },
                "examples": [_ITEMS],
            }
        ),
    ]
    mode: Literal["independent", "atomic"] = "independent"


class Account(BaseModel):
    """An account as it stands; amounts are decimals in major units."""

    id: int
    owner: str
    currency: str
    reference: str | None
    balance: str
    held: str
    available: str
    version: int
    status: str
    created_at: str


class Entry(BaseModel):
    """One account's part in a transaction: its signed amount, and its balance and version after."""

    account_id: int
    amount: str
    balance: str
    version: int


class Posted(BaseModel):
    """A movement that was made."""

    status: Literal["posted"]
    transaction_id: int
    transaction_type: Literal["DEPOSIT", "WITHDRAWAL", "TRANSFER"]
    amount: str
    currency: str
    recorded_at: str
    entries: list[Entry]


class PostedOwn(Posted):
    """A deposit or withdrawal that was made."""

    new_balance: str


class PostedTransfer(Posted):
    """A transfer that was made."""

    sender_new_balance: str


class DecidedOn(BaseModel):
    """The state of the account that a decline was decided on."""

    account_id: int
    available: str
    version: int


class Result(BaseModel):
    """What an item of a batch got: the status and body that its own request would have got."""

    index: int
    status: int
    replayed: bool
    body: dict[str, Any]


class Results(BaseModel):
    """A result for every item, in the order of the items."""

    results: list[Result]


class Transaction(BaseModel):
    """A recorded transaction: posted, with its entries, or declined, with what decided it."""

    account_id: int
    idempotency_key: str
    status: Literal["posted", "declined"]
    transaction_id: int
    transaction_type: Literal["DEPOSIT", "WITHDRAWAL", "TRANSFER"]
    amount: str
    currency: str
    recorded_at: str
    entries: list[Entry]
    code: str | None = None
    decided_on: DecidedOn | None = None


class Currency(BaseModel):
    """A currency: its code, the digits after the point of its amounts, and its name."""

    code: str
    exponent: int
    name: str


class HistoryEntry(BaseModel):
    """One entry of an account's history."""

    transaction_id: int
    transaction_type: Literal["DEPOSIT", "WITHDRAWAL", "TRANSFER_OUT", "TRANSFER_IN"]
    amount: str
    balance: str
    version: int
    idempotency_key: str
    created_at: str


class ProblemDetails(BaseModel):
    """Why a request was refused, and whether sending it again is safe (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    retry: Literal["same_key", "new_key", "corrected"]
