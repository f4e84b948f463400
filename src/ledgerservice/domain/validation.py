"""Checks of instructions that come from Python; those of the API are checked by its models."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, get_args

import msgspec
from msgspec import UNSET

from ledgerservice.domain.amounts import is_amount, is_positive_amount
from ledgerservice.domain.instructions import (
    BIGGEST_ID,
    MAX_LEGS,
    MAX_RATE_CHARACTERS,
    Crossing,
    CrossingBack,
    FieldType,
    Frozen,
    Hold,
    Initiated,
    Instruction,
    Movement,
    Origin,
    PolicyChange,
    Reversal,
    Schedule,
    field_types,
    is_key,
)
from ledgerservice.domain.metadata import MAX_METADATA_BYTES, decode_json, metadata_text
from ledgerservice.domain.timestamps import EFFECTIVE_NEEDS_AT, TimeOf
from ledgerservice.errors import InvalidField

MAX_NAME_CHARACTERS = 255
MAX_TEXT_CHARACTERS = 1_000

UNSTORABLE = "must not contain NUL or lone surrogates"
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\ud800-\udfff]")


def fault_of(instruction: Instruction) -> InvalidField | None:
    """What is wrong with an instruction, or None."""
    if (fault := check(FieldType.KEY, instruction.key)) is not None:
        return InvalidField("key", fault)
    if isinstance(instruction, Initiated) and instruction.origin is not Origin.CALLER:
        return InvalidField("origin", "is for the service's own requests")
    if isinstance(instruction, Crossing | CrossingBack):
        return InvalidField("type", "is for the service's own requests")
    return next(_faults(instruction), None) or _fault_between_fields(instruction)


def check(field_type: FieldType, value: Any) -> str | None:
    """What is wrong with a value, or None."""
    return _CHECKS[field_type](value)


def checked(**fields: tuple[FieldType, Any]) -> None:
    """Raises InvalidField for the first field whose value is not valid. None is no value."""
    for name, (field_type, value) in fields.items():
        if value is not None and (fault := check(field_type, value)) is not None:
            raise InvalidField(name, fault)


def _fault_between_fields(instruction: Instruction) -> InvalidField | None:
    if isinstance(instruction, Hold) and instruction.expires_at and instruction.capture_at:
        in_order = instruction.capture_at < instruction.expires_at
        return None if in_order else InvalidField("capture_at", "must be before expires_at")
    if isinstance(instruction, PolicyChange):
        name = "reason" if instruction.actor else "actor"
        authored = instruction.actor and instruction.reason
        return None if authored else InvalidField(name, "is required: who changes it, and why")
    if isinstance(instruction, Schedule) and instruction.detail is not None:
        if instruction.detail.effective_at is not None:
            return InvalidField("detail.effective_at", "cannot be combined with execute_at")
        return None
    return _reversal_fault(instruction) if isinstance(instruction, Reversal) else None


def _reversal_fault(reversal: Reversal) -> InvalidField | None:
    explained = reversal.detail is not None and reversal.detail.description
    if reversal.force and not reversal.actor:
        return InvalidField("actor", "is required by force (who)")
    if reversal.force and not explained:
        return InvalidField("detail.description", "is required by force (why)")
    if reversal.actor and not reversal.force:
        return InvalidField("actor", "is only for a forced reversal")
    return None


def _faults(part: msgspec.Struct, path: str = "") -> Iterator[InvalidField]:
    """The faults of the fields that have a value; `path` is that of the part, with a dot."""
    types = field_types(type(part))
    for name in part.__struct_fields__:
        value, field = getattr(part, name), path + name
        if value is None or value is UNSET:
            continue
        if isinstance(value, msgspec.Struct):
            yield from _faults(value, f"{field}.")
        elif name == "legs":
            yield from _leg_faults(value)
        elif name == "frozen" and not (type(value) is int and 0 <= value < Frozen.CLOSED):
            yield InvalidField(field, "must be 0 to 3")
        elif name in types and (fault := check(types[name], value)) is not None:
            yield InvalidField(field, fault)


def _leg_faults(legs: Any) -> Iterator[InvalidField]:
    if not 2 <= len(legs) <= MAX_LEGS:
        yield InvalidField("legs", f"must be 2 to {MAX_LEGS}")
    for place, leg in enumerate(legs):
        yield from _faults(leg, f"legs.{place}.")


Check = Callable[[Any], str | None]
"""What is wrong with a value, or None."""


def _must_be(description: str, is_valid: Callable[[Any], bool]) -> Check:
    return lambda value: None if is_valid(value) else f"must be {description}"


def _is_text(longest: int) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, str) and 1 <= len(value) <= longest and not _CONTROL.search(value)
    )


def _unsigned(value: Any) -> str:
    return value.removeprefix("-") if isinstance(value, str) else ""


def _is_id(value: Any) -> bool:
    return type(value) is int and abs(value) <= BIGGEST_ID


def _is_rate(value: Any) -> bool:
    return (
        isinstance(value, str) and is_positive_amount(value) and len(value) <= MAX_RATE_CHARACTERS
    )


def _metadata_fault(text: Any) -> str | None:
    """What is wrong with metadata, or None."""
    try:
        if len(text.encode()) > MAX_METADATA_BYTES:
            return f"must be at most {MAX_METADATA_BYTES} bytes"
        metadata_text(decode_json(text))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        return f"must be a dict, or the text of a JSON object ({error})"
    return None


_CHECKS: dict[FieldType, Check] = {
    FieldType.KEY: _must_be(
        "1 to 255 printable ASCII characters, without a blank at its ends",
        lambda value: isinstance(value, str) and is_key(value),
    ),
    FieldType.ID: _must_be("an integer of 64 bits", _is_id),
    FieldType.AMOUNT: _must_be(
        "a positive plain decimal, as text",
        lambda value: isinstance(value, str) and is_positive_amount(value),
    ),
    FieldType.SIGNED_AMOUNT: _must_be(
        "a plain decimal other than zero, as text",
        lambda value: is_positive_amount(_unsigned(value)),
    ),
    FieldType.LIMIT: _must_be(
        "a plain decimal, as text", lambda value: is_amount(_unsigned(value))
    ),
    FieldType.RATE: _must_be(
        f"a positive plain decimal, as text of at most {MAX_RATE_CHARACTERS} characters", _is_rate
    ),
    FieldType.TIME: _must_be(
        "a datetime with its zone, such as datetime.now(UTC)",
        lambda value: isinstance(value, datetime) and value.utcoffset() is not None,
    ),
    FieldType.NAME: _must_be(
        f"a text of 1 to {MAX_NAME_CHARACTERS} characters without control characters",
        _is_text(MAX_NAME_CHARACTERS),
    ),
    FieldType.TEXT: _must_be(
        f"a text of 1 to {MAX_TEXT_CHARACTERS} characters without control characters",
        _is_text(MAX_TEXT_CHARACTERS),
    ),
    FieldType.METADATA: _metadata_fault,
}


def check_by(by: str) -> None:
    """Raises InvalidField unless `by` names a time of transactions."""
    if by not in get_args(TimeOf):
        raise InvalidField("by", f"must be one of {', '.join(get_args(TimeOf))}")


def check_time(at: datetime | None, by: TimeOf) -> None:
    """Raises InvalidField for a time without a zone, or none where `by` needs it."""
    checked(at=(FieldType.TIME, at))
    check_by(by)
    if at is None and by == "effective":
        raise InvalidField("by", EFFECTIVE_NEEDS_AT)


def check_period(since: datetime | None, until: datetime | None) -> None:
    """Raises InvalidField unless [since, until) is a period."""
    checked(since=(FieldType.TIME, since), until=(FieldType.TIME, until))
    if since is not None and until is not None and until < since:
        raise InvalidField("until", "must not be before since")


def check_instructions(instructions: Sequence[Instruction]) -> None:
    """Raises InvalidField if one is not valid.

    Plain movements were checked as they were made; all else its maker has put together.
    """
    for one in instructions:
        plain = type(one) is Movement and one.detail is None
        if not plain and (fault := fault_of(one)) is not None:
            raise fault


def check_list(filters: Any, after: Iterable[Any] | None) -> None:
    """Raises InvalidField for filters, or a place after which a page begins, that are not valid."""
    check_period(filters.since, filters.until)
    checked(metadata=(FieldType.METADATA, filters.metadata))
    for name in filters.__struct_fields__:
        value = getattr(filters, name)
        for one in value if isinstance(value, list) else [value]:
            if (fault := _filter_fault(one)) is not None:
                raise InvalidField(name, fault)
    for part in after or ():
        if isinstance(part, datetime):
            checked(after=(FieldType.TIME, part))


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can have a text: it has no NUL and no lone surrogates."""
    return _UNSTORABLE.search(text) is None


def check_storable(**texts: str) -> None:
    """Raises InvalidField for the first text that is not."""
    for name, text in texts.items():
        if not is_storable(text):
            raise InvalidField(name, UNSTORABLE)


def _filter_fault(value: Any) -> str | None:
    """Why PostgreSQL could not compare a column with this value."""
    if isinstance(value, int) and abs(value) > BIGGEST_ID:
        return f"must be at most {BIGGEST_ID}"
    if isinstance(value, str) and not is_storable(value):
        return UNSTORABLE
    return None
