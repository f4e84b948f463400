"""Whether an instruction is well formed, for callers that are not checked by the API's models."""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET

from ledgerservice.domain.amounts import is_amount, is_positive_amount
from ledgerservice.domain.instructions import (
    BIGGEST_ID,
    MAX_LEGS,
    MAX_RATE_CHARACTERS,
    Detail,
    Frozen,
    Hold,
    Instruction,
    PolicyChange,
    Reversal,
    is_key,
)
from ledgerservice.domain.metadata import MAX_METADATA_BYTES, decode_json, metadata_text

_SIGNED = {"floor", "ceiling", "available_at_least", "balance_at_least"}
_IDS = {"account_id", "counterparty_id", "parent_id", "rounding_account_id", "version"}
_MOMENTS = {"expires_at", "capture_at", "execute_at", "effective_at"}
_TEXTS = {"actor": 255, "reference": 255, "reason": 1_000, "description": 1_000}
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")


def fault_of(asked: Instruction) -> str | None:
    """What is wrong with an instruction, in a sentence, or None."""
    if not is_key(asked.key):
        return "a key is 1 to 255 printable ASCII characters"
    return next(_faults(asked, type(asked).__name__), None) or _fault_of_several(asked)


def _fault_of_several(asked: Instruction) -> str | None:
    """What is wrong between the fields of an instruction, or None."""
    if isinstance(asked, Hold) and asked.expires_at and asked.capture_at:
        return (
            None if asked.capture_at < asked.expires_at else "capture_at must be before expires_at"
        )
    if isinstance(asked, PolicyChange) and not (asked.actor and asked.reason):
        return "a change of policy says who asks for it (actor), and why (reason)"
    if isinstance(asked, Reversal) and asked.force:
        why = asked.detail is not None and asked.detail.description
        return (
            None
            if asked.actor and why
            else "force says who asks for it (actor), and why (description)"
        )
    if isinstance(asked, Reversal) and asked.actor:
        return "actor is for a reversal that is forced"
    return None


def _faults(part: msgspec.Struct, kind: str) -> Iterator[str]:
    for name in part.__struct_fields__:
        value = getattr(part, name)
        if value is None or value is UNSET:
            continue
        if isinstance(value, Detail):
            yield from _detail_faults(value)
            if kind == "Schedule" and value.effective_at is not None:
                yield "effective_at: a transfer to come takes effect when it is executed"
        elif isinstance(value, msgspec.Struct):
            yield from _faults(value, type(value).__name__)
        elif name == "legs":
            if not 2 <= len(value) <= MAX_LEGS:
                yield f"a transaction has 2 to {MAX_LEGS} legs"
            for leg in value:
                yield from _faults(leg, "Leg")
        elif (fault := _field_fault(name, value, kind)) is not None:
            yield f"{name}: {fault}"


def _field_fault(name: str, value: Any, kind: str) -> str | None:
    """What is wrong with one field that is given, or None."""
    checks = (
        (name in _IDS, type(value) is int and abs(value) <= BIGGEST_ID, "an integer of 64 bits"),
        (name in _MOMENTS, _is_moment(value), "a datetime with its zone"),
        (name in {"amount", "rate", "sold"}, _is_amount(value, kind), "a plain decimal, as text"),
        (name == "rate", len(str(value)) <= MAX_RATE_CHARACTERS, "of at most 40 characters"),
        (name == "frozen", type(value) is int and 0 <= value < Frozen.CLOSED, "0 to 3"),
        (name in _SIGNED, _is_signed(value), "a plain decimal, as text"),
        (name in _TEXTS, _is_text(value, _TEXTS.get(name, 0)), "a text without control characters"),
    )
    return next((f"it must be {wanted}" for meant, right, wanted in checks if meant > right), None)


def _is_moment(value: Any) -> bool:
    return isinstance(value, datetime) and value.tzinfo is not None


def _is_amount(value: Any, kind: str) -> bool:
    if not isinstance(value, str):
        return False
    return is_positive_amount(value.removeprefix("-") if kind == "Leg" else value)


def _is_signed(value: Any) -> bool:
    return isinstance(value, str) and is_amount(value.removeprefix("-"))


def _is_text(value: Any, longest: int) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= longest and not _CONTROL.search(value)


def _detail_faults(detail: Detail) -> Iterator[str]:
    yield from _faults(msgspec.structs.replace(detail, metadata=None), "Detail")
    if detail.metadata is not None and (fault := metadata_fault(detail.metadata)) is not None:
        yield fault


def metadata_fault(text: str) -> str | None:
    """What is wrong with metadata, or None."""
    try:
        if len(text.encode()) > MAX_METADATA_BYTES:
            return f"metadata: it must be at most {MAX_METADATA_BYTES} bytes"
        metadata_text(decode_json(text))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        return f"metadata: it must be the text of a JSON object ({error})"
    return None
