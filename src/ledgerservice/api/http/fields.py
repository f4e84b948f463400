"""The fields of requests and of answers: how each is written in JSON.

The types for requests are Pydantic's: they parse and validate. The types for answers are msgspec's:
they only describe, since an answer is made of valid values.
"""

import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Literal, Self, get_args, get_type_hints

import msgspec
from msgspec import Meta, Raw
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic import WithJsonSchema as Schema

from ledgerservice.domain.amounts import (
    AMOUNT_PATTERN,
    is_amount,
    is_positive_amount,
    optional_amount,
)
from ledgerservice.domain.currencies import CODE_PATTERN, MAX_EXPONENT
from ledgerservice.domain.instructions import (
    BIGGEST_ID,
    KEY_PATTERN,
    MAX_RATE_CHARACTERS,
    Kind,
)
from ledgerservice.domain.ledgers import MAX_PARTS, MIN_PARTS
from ledgerservice.domain.metadata import (
    MAX_METADATA_BYTES,
    MAX_METADATA_DEPTH,
    Number,
    json_object,
    metadata_text,
)
from ledgerservice.domain.timestamps import EXAMPLE, optional_timestamp, parse_timestamp

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
        "must be a decimal above zero, such as 50 or '50.00', without sign, exponent or leading "
        "zeros, and with at most 18 digits before the point"
    )


def _text(value: str) -> str:
    if any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in value):
        raise ValueError("must not contain control characters or lone surrogates")
    return value


def _number_text(value: Any) -> str:
    text = value.text if isinstance(value, Number) else value
    return text if isinstance(text, str) else ""


def _signed(value: Any) -> str:
    text = _number_text(value)
    if is_positive_amount(text.removeprefix("-")):
        return text
    raise ValueError("must be a decimal other than zero, such as '-50.00'")


def _limit(value: Any) -> str:
    text = _number_text(value)
    if is_amount(text.removeprefix("-")):
        return text
    raise ValueError("must be a decimal, such as '-50.00' or 0")


def _rate(value: Any) -> str:
    text = _number_text(value)
    if is_positive_amount(text) and len(text) <= MAX_RATE_CHARACTERS:
        return text
    raise ValueError(f"must be a decimal above zero of at most {MAX_RATE_CHARACTERS} characters")


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
            "type": "string",
            "pattern": f"^{AMOUNT_PATTERN}$",
            "description": "An exact decimal in major units, with at most the currency's decimals. "
            "A JSON number is accepted, too.",
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
        description="Identifies the payment. Send it here or in the header Idempotency-Key.",
        examples=["dep1"],
    ),
]
Text = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_text)]
Description = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_text)]
Code = Annotated[str, Field(pattern=f"^{CODE_PATTERN}$", examples=["USD"])]
Timestamp = Annotated[
    datetime,
    BeforeValidator(parse_timestamp),
    Schema({"type": "string", "format": "date-time", "examples": [EXAMPLE]}),
]
SignedAmount = Annotated[
    str,
    BeforeValidator(_signed),
    Schema(
        {
            "type": "string",
            "pattern": f"^-?{AMOUNT_PATTERN}$",
            "description": "An exact decimal in major units, with its sign and not zero. A JSON "
            "number is accepted, too.",
            "examples": ["-50.00"],
        }
    ),
]
Limit = Annotated[
    str,
    BeforeValidator(_limit),
    Schema(
        {
            "type": "string",
            "pattern": f"^-?{AMOUNT_PATTERN}$",
            "description": "An exact decimal in major units, with its sign. A JSON number is "
            "accepted, too.",
            "examples": ["-100.00"],
        }
    ),
]
Rate = Annotated[
    str,
    BeforeValidator(_rate),
    Schema({"type": "string", "pattern": f"^{AMOUNT_PATTERN}$", "examples": ["0.92173"]}),
]
Version = Annotated[
    int,
    BeforeValidator(_integer),
    Field(ge=0, le=BIGGEST_ID),
    Schema({"type": "integer", "format": "int64", "minimum": 0}),
]
Metadata = Annotated[
    str,
    BeforeValidator(metadata_text),
    Schema(
        {
            "type": "object",
            "description": f"At most {MAX_METADATA_BYTES} bytes of JSON, nested at most "
            f"{MAX_METADATA_DEPTH} levels.",
            "examples": [{"order": "77"}],
        }
    ),
]

Exponent = Annotated[
    int,
    BeforeValidator(_integer),
    Field(ge=0, le=MAX_EXPONENT),
    Schema(
        {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_EXPONENT,
            "description": "The number of decimals. It can never be changed.",
            "examples": [8],
        }
    ),
]
Shards = Annotated[
    int,
    BeforeValidator(_integer),
    Field(ge=MIN_PARTS, le=MAX_PARTS),
    Schema({"type": "integer", "minimum": MIN_PARTS, "maximum": MAX_PARTS}),
]
PartNumber = Annotated[
    int,
    BeforeValidator(_integer),
    Field(ge=0, lt=MAX_PARTS),
    Schema({"type": "integer", "minimum": 0, "maximum": MAX_PARTS - 1}),
]


# Fields of answers.

AmountText = Annotated[
    str, Meta(description="An exact decimal in major units.", examples=["50.00"])
]
TimestampText = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
JsonObject = Annotated[Raw, Meta(extra_json_schema={"type": "object"})]
OriginName = Annotated[
    Literal["caller", "expiry", "capture", "execution"],
    Meta(description="Who made the request: a caller, or the service for what is due."),
]
PrincipalId = Annotated[
    int, Meta(description="The principal whose key it was; 0 if there was none.", examples=[0])
]
TransactionType = Annotated[
    str,
    Meta(extra_json_schema={"x-name": "TransactionType", "enum": [kind.name for kind in Kind]}),
]


_WRITERS: tuple[tuple[Any, Callable[[Any, int], Any]], ...] = (
    (AmountText, optional_amount),
    (TimestampText, lambda time, _: optional_timestamp(time)),
    (JsonObject, lambda text, _: json_object(text)),
)


@lru_cache
def _writers(struct: type[msgspec.Struct]) -> list[tuple[str, Callable[[Any, int], Any] | None]]:
    """The fields of a struct that have no default, and how the value of each is written."""
    hints = get_type_hints(struct, include_extras=True)
    required = [f.name for f in msgspec.structs.fields(struct) if f.required]
    return [
        (name, next((write for text, write in _WRITERS if _is_of(hints[name], text)), None))
        for name in required
    ]


def _is_of(hint: Any, text: Any) -> bool:
    return bool(hint == text or text in get_args(hint))


class Answer(msgspec.Struct, kw_only=True):
    """The body of an answer, or a part of one: what is encoded, and what OpenAPI describes."""

    @classmethod
    def of_row(cls, row: Any, exponent: int = 0, **computed: Any) -> Self:
        """The answer that shows a row: its amounts, timestamps and JSON objects as text, everything
        else as it is. `computed` are the fields that the row does not have.
        """
        exponent = getattr(row, "exponent", exponent)
        for name, write in _writers(cls):
            if name not in computed:
                value = getattr(row, name)
                computed[name] = value if write is None else write(value, exponent)
        return cls(**computed)
