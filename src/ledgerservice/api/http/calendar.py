"""Times in queries: timestamps, or days, months and years of a time zone."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo
from pydantic import WithJsonSchema as Schema

from ledgerservice.domain.timestamps import EXAMPLE, TimeOf, parse_timestamp, timestamp

MICROSECOND = timedelta(microseconds=1)
_CALENDAR = re.compile(r"([0-9]{4})(?:-([0-9]{2}))?(?:-([0-9]{2}))?", re.ASCII)
_SPACE = re.compile(" (?=[0-9]{2}:[0-9]{2}$)", re.ASCII)


def zone_of(name: str) -> ZoneInfo:
    """An IANA time zone. Raises ValueError."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise ValueError("must be an IANA time zone, such as Asia/Kolkata") from None


def zone_name(value: str) -> str:
    """The name of an IANA time zone. Raises ValueError."""
    zone_of(value)
    return value


def local_timestamp(time: datetime, zone: str) -> str:
    """RFC 3339 with the offset of a zone; in UTC where a zone's offset then had seconds, which it
    cannot write, or where the zone's year is not 1 to 9999.
    """
    try:
        local = time.astimezone(zone_of(zone))
    except OverflowError:
        return timestamp(time)
    offset = local.utcoffset() or timedelta()
    if zone == "UTC" or offset % timedelta(minutes=1):
        return timestamp(time)
    return local.isoformat(timespec="microseconds")


Unit = Literal["month", "day", "hour", "minute"]


def period_begin(time: datetime, unit: Unit, zone: str) -> datetime:
    """The beginning of the month, day, hour or minute of a zone that a time is in, in UTC."""
    local = time.astimezone(zone_of(zone))
    if unit in ("month", "day"):  # where the day begins, which may not be midnight
        day = 1 if unit == "month" else local.day
        return datetime(local.year, local.month, day, tzinfo=local.tzinfo).astimezone(UTC)
    local = local.replace(second=0, microsecond=0)
    if unit == "hour":
        local = local.replace(minute=0)
    return min(local.astimezone(UTC), time)


def beginning(value: str, info: ValidationInfo) -> datetime:
    """A timestamp, or the beginning of a day, month or year in the zone of `timezone`."""
    return _time(value, info, is_end=False)


def end(value: str, info: ValidationInfo) -> datetime:
    """A timestamp, or the end of a day, month or year, which is the beginning of the next one."""
    return _time(value, info, is_end=True)


def last(value: str, info: ValidationInfo) -> datetime:
    """A timestamp, or the last microsecond of a day, month or year."""
    time = _time(value, info, is_end=True)
    return time - MICROSECOND if _CALENDAR.fullmatch(value) else time


def _time(value: str, info: ValidationInfo, *, is_end: bool) -> datetime:
    match = _CALENDAR.fullmatch(value)
    if match is None:
        return _timestamp(value)
    parts = [int(part) for part in match.groups() if part is not None]
    year, month, day = [*parts, 1, 1][:3]
    zone = zone_of(info.data.get("timezone", "UTC"))
    try:
        first = date(year, month, day)
        first = _next(first, len(parts)) if is_end else first
        return datetime(first.year, first.month, first.day, tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a date of the calendar, of the years 1 to 9999") from None


def _timestamp(value: str) -> datetime:
    """A `+` that is not escaped arrives as a space."""
    try:
        return parse_timestamp(_SPACE.sub("+", value))
    except ValueError as fault:
        raise ValueError(f"{fault}; or a day, month or year, such as 2026-11") from None


def _next(first: date, parts: int) -> date:
    """The first day after the day, month or year that begins with `first`."""
    if parts == 3:
        return first + timedelta(days=1)
    if parts == 1 or first.month == 12:
        return date(first.year + 1, 1, 1)
    return date(first.year, first.month + 1, 1)


def _described(meaning: str, example: str = EXAMPLE) -> Any:
    text = f"A timestamp with time zone, or a day, month or year such as 2026-11: {meaning}"
    return Schema({"type": "string", "description": text, "examples": [example]})


Zone = Annotated[
    str,
    Field(
        max_length=255,
        description="IANA name of the zone of days, months and years, such as Asia/Kolkata.",
        exclude=True,  # not a filter: it says how the times after it are read
    ),
    AfterValidator(zone_name),
]
PeriodStart = Annotated[datetime, BeforeValidator(beginning), _described("its beginning.")]
PeriodEnd = Annotated[
    datetime, BeforeValidator(end), _described("its end. The time itself is not included.")
]
AsOf = Annotated[datetime, BeforeValidator(last), _described("its end.", "2099-01-01T00:00:00Z")]
By = Annotated[
    TimeOf,
    Field(
        description="Whether a transaction counts at its recorded_at, or at its effective_at if it "
        "has one."
    ),
]
