"""JSON documents, read exactly: numbers do not pass through a float, repeated fields are refused.

Metadata is limited to what PostgreSQL and every JSON reader can keep: it is bounded in size and
depth, without NUL and lone surrogates, and its numbers are plain and have up to 38 digits.
"""

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

import msgspec

from ledgerservice.errors import InvalidField

MAX_METADATA_BYTES = 8_192
MAX_METADATA_DEPTH = 8

_METADATA_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,37})(\.[0-9]{1,38})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Number:
    """A JSON number as it was written."""

    text: str


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is named twice")
    return fields


def _no_constant(_: str) -> NoReturn:
    raise ValueError("not a JSON number")


decode_json = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=Number, parse_int=Number, parse_constant=_no_constant
).decode
"""Decode a document; numbers become `Number`. Raises ValueError or RecursionError."""


def metadata_text(value: Any) -> str:
    """The text of a JSON object as it is stored: in the given order, without white space.

    Raises ValueError, whose message says what is wrong.
    """
    if not isinstance(value, dict):
        raise ValueError("must be an object")  # noqa: TRY004  (pydantic takes ValueError)
    text = msgspec.json.encode(_kept(value, MAX_METADATA_DEPTH)).decode()
    if len(text.encode()) > MAX_METADATA_BYTES:
        raise ValueError(f"must be at most {MAX_METADATA_BYTES} bytes")
    return text


def text_of_metadata(value: dict[str, Any]) -> str:
    """The text of metadata from Python. Raises InvalidField."""
    try:
        return metadata_text(_exact(value))
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidField("metadata", str(error)) from None


def _exact(value: Any) -> Any:
    """A value from Python as `decode_json` decodes it."""
    if isinstance(value, dict):
        if not all(isinstance(name, str) for name in value):
            raise ValueError("must have texts as the names of its members")
        return {name: _exact(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_exact(part) for part in value]
    if isinstance(value, bool | str | None):
        return value
    if isinstance(value, int | float | Decimal):
        return Number(format(value, "f") if isinstance(value, Decimal) else repr(value))
    raise ValueError("must hold texts, numbers, booleans, None, lists and dicts only")


def _kept(value: Any, depth: int) -> Any:
    if depth == 0:
        raise ValueError(f"must be at most {MAX_METADATA_DEPTH} deep")
    if isinstance(value, Number):
        if not _METADATA_NUMBER.fullmatch(value.text):
            raise ValueError("must hold plain numbers only, of up to 38 digits")
        return msgspec.Raw(value.text.encode())
    if isinstance(value, dict):
        return {_storable(name): _kept(found, depth - 1) for name, found in value.items()}
    if isinstance(value, list):
        return [_kept(found, depth - 1) for found in value]
    return _storable(value) if isinstance(value, str) else value


def _storable(text: str) -> str:
    if "\0" in text or any("\ud800" <= character < "\ue000" for character in text):
        raise ValueError("must not contain NUL or lone surrogates")
    return text


def json_object(text: str | None) -> msgspec.Raw | None:
    """The text of a JSON object as a member of a larger one, or None."""
    return None if text is None else msgspec.Raw(text.encode())
