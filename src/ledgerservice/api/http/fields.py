"""The fields of requests: how each is written in JSON, and what of it is taken."""

import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic import WithJsonSchema as Schema

from ledgerservice.domain.amounts import AMOUNT_PATTERN, is_amount, is_positive_amount
from ledgerservice.domain.currencies import CODE_PATTERN, MAX_EXPONENT
from ledgerservice.domain.instructions import BIGGEST_ID, KEY_PATTERN, MAX_RATE_CHARACTERS
from ledgerservice.domain.metadata import (
    MAX_METADATA_BYTES,
    MAX_METADATA_DEPTH,
    Number,
    metadata_text,
)

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


def _given(value: Any) -> str:
    text = value.text if isinstance(value, Number) else value
    return text if isinstance(text, str) else ""


def _signed(value: Any) -> str:
    text = _given(value)
    if is_positive_amount(text.removeprefix("-")):
        return text
    raise ValueError("must be a plain decimal other than zero, such as '-50.00'")


def _limit(value: Any) -> str:
    text = _given(value)
    if is_amount(text.removeprefix("-")):
        return text
    raise ValueError("must be a plain decimal, such as '-50.00' or 0")


def _rate(value: Any) -> str:
    text = _given(value)
    if is_positive_amount(text) and len(text) <= MAX_RATE_CHARACTERS:
        return text
    raise ValueError(
        f"must be a plain decimal above zero of at most {MAX_RATE_CHARACTERS} characters"
    )


_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
    r"(Z|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)


def moment(value: Any) -> datetime:
    """A moment of RFC 3339, in UTC. Raises ValueError where it is none."""
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        with suppress(ValueError, OverflowError):
            return datetime.fromisoformat(value).astimezone(UTC)
    raise ValueError("must be a moment with its zone, such as 2026-12-31T23:59:59Z")


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
Description = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_text)]
Code = Annotated[str, Field(pattern=f"^{CODE_PATTERN}$", examples=["USD"])]
Moment = Annotated[
    datetime,
    BeforeValidator(moment),
    Schema({"type": "string", "format": "date-time", "examples": ["2026-12-31T23:59:59Z"]}),
]
SignedAmount = Annotated[
    str,
    BeforeValidator(_signed),
    Schema(
        {
            "anyOf": [{"type": "string", "pattern": f"^-?{AMOUNT_PATTERN}$"}, {"type": "number"}],
            "examples": ["-50.00"],
        }
    ),
]
Limit = Annotated[
    str,
    BeforeValidator(_limit),
    Schema(
        {
            "anyOf": [{"type": "string", "pattern": f"^-?{AMOUNT_PATTERN}$"}, {"type": "number"}],
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
            "description": f"Up to {MAX_METADATA_BYTES} bytes of JSON, {MAX_METADATA_DEPTH} deep.",
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
            "description": "Digits after the point. It can never be changed.",
            "examples": [8],
        }
    ),
]
