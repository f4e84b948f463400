"""The bounds of a period, as timestamps or as days, months and years of a time zone."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from ledgerservice.api.http.parameters import QueryTimestamp

_CALENDAR = re.compile(r"([0-9]{4})(?:-([0-9]{2}))?(?:-([0-9]{2}))?", re.ASCII)


def zone_name(value: str) -> str:
    """The name of an IANA time zone. Raises ValueError."""
    _zone(value)
    return value


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise ValueError("must be an IANA time zone, such as Asia/Kolkata") from None


def beginning(value: str, info: ValidationInfo) -> datetime | str:
    """The beginning of a day, month or year in the zone of `timezone`; another text as it is."""
    return _bound(value, info, lambda first, _: first)


def end(value: str, info: ValidationInfo) -> datetime | str:
    """The end of a day, month or year, which is the beginning of the next one."""
    return _bound(value, info, _next)


def _bound(value: str, info: ValidationInfo, choose: Callable[[date, int], date]) -> datetime | str:
    match = _CALENDAR.fullmatch(value)
    if match is None:
        return value
    parts = [int(part) for part in match.groups() if part is not None]
    year, month, day = [*parts, 1, 1][:3]
    zone = _zone(info.data.get("timezone", "UTC"))
    try:
        first = choose(date(year, month, day), len(parts))
        return datetime(first.year, first.month, first.day, tzinfo=zone).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("must be a date of the calendar, of the years 1 to 9999") from None


def _next(first: date, parts: int) -> date:
    """The first day after the day, month or year that begins with `first`."""
    if parts == 3:
        return first + timedelta(days=1)
    if parts == 1 or first.month == 12:
        return date(first.year + 1, 1, 1)
    return date(first.year, first.month + 1, 1)


Zone = Annotated[
    str,
    Field(max_length=255, description="IANA name of the zone of days, months and years."),
    AfterValidator(zone_name),
]
PeriodStart = Annotated[QueryTimestamp, BeforeValidator(beginning)]
PeriodEnd = Annotated[QueryTimestamp, BeforeValidator(end)]
