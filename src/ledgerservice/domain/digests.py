"""Keyed digests of instructions: they show whether a repeated key carries the same request.

The digest is an HMAC-SHA256 under a random salt of its own row. Once the salt and the texts are
erased, nobody can guess the texts from the digest.
"""

import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET

from ledgerservice.domain.instructions import FieldType, Instruction, field_types

SALT_BYTES = 16

_DECIMALS = {
    FieldType.AMOUNT,
    FieldType.SIGNED_AMOUNT,
    FieldType.LIMIT,
    FieldType.RATE,
}
_LEFT_OUT = {"key", "origin", "clearing_id"}


def digest_of(instruction: Instruction, salt: bytes) -> bytes:
    """The digest (32 bytes) of everything that an instruction says, except its key and origin, and
    the clearing account that the service chose.

    Equal amounts count as the same with any number of decimals, and so does metadata in any order
    of its members. Fields without a value do not count, so a field that a later release adds does
    not change a digest.
    """
    content = [type(instruction).__name__, _content(instruction)]
    return hmac.digest(salt, msgspec.json.encode(content), hashlib.sha256)


def is_digest_of(digest: bytes, salt: bytes | None, instruction: Instruction) -> bool:
    """Whether `digest` under `salt` is the digest of this instruction; never without a salt."""
    return salt is not None and hmac.compare_digest(digest, digest_of(instruction, salt))


def canonical_metadata(metadata: str) -> str:
    """The same text for the same JSON object, whatever the order of its members."""
    return json.dumps(
        json.loads(metadata, parse_float=_as_written, parse_int=_as_written), sort_keys=True
    )


def _as_written(number: str) -> dict[str, str]:
    return {"\0": number}  # metadata contains no NUL, so nothing else has this form


def _content(part: msgspec.Struct) -> dict[str, Any]:
    types = field_types(type(part))
    content: dict[str, Any] = {}
    for name in part.__struct_fields__:
        value = getattr(part, name)
        if (
            name not in _LEFT_OUT
            and value is not UNSET
            and (value is not None or name == "ceiling")
        ):
            content[name] = _canonical(types.get(name), value)
    return content


def _canonical(kind: FieldType | None, value: Any) -> Any:
    if kind in _DECIMALS and isinstance(value, str):
        return _shortest(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    if isinstance(value, msgspec.Struct):
        return _content(value)
    if isinstance(value, tuple):
        return [_content(leg) for leg in value]
    return canonical_metadata(value) if kind is FieldType.METADATA else value


def _shortest(amount: str) -> str:
    amount = amount.rstrip("0").rstrip(".") if "." in amount else amount
    return "0" if amount == "-0" else amount
