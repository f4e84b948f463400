"""Timestamps of RFC 3339, as text: the only parser and the only writer.

Go, Java and .NET write 7 or 9 digits of a second. The ledger stores microseconds, so further digits
are cut off. T and Z may be small letters.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

EXAMPLE = "2026-12-31T23:59:59Z"

TimeOf = Literal["recorded", "effective"]
"""Which time of a transaction counts: that of its recording, or that at which it takes effect: its
`effective_at`, or else the same.
"""
EFFECTIVE_NEEDS_AT = "effective needs at: a balance as it stands has all that is recorded"
_1970 = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_PARTS = re.compile(
    r"(?P<day>[0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]"
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
    r"(?P<fraction>\.[0-9]{1,6})?(?(fraction)[0-9]*)"
    r"(?P<zone>[Zz]|[+-](?P<zone_hours>[0-9]{2}):(?P<zone_minutes>[0-9]{2}))?",
    re.ASCII,
)
_BOUNDS = {
    "hour": (23, "its hour must be 00 to 23"),
    "minute": (59, "its minute must be 00 to 59"),
    "second": (59, "its second must be 00 to 59; a leap second cannot be stored"),
    "zone_hours": (23, "the hours of its offset must be 00 to 23"),
    "zone_minutes": (59, "the minutes of its offset must be 00 to 59"),
}


def parse_timestamp(value: Any) -> datetime:
    """A timestamp of RFC 3339, in UTC. Raises ValueError, which says what is wrong."""
    parts = _PARTS.fullmatch(value) if isinstance(value, str) else None
    if parts is None:
        raise ValueError(f"must be a timestamp with time zone, such as {EXAMPLE}")
    if (fault := _fault_of(parts)) is not None:
        raise ValueError(f"must be a timestamp such as {EXAMPLE}: {fault}")
    zone = parts["zone"].upper()
    time = f"{parts['day']}T{parts['hour']}:{parts['minute']}:{parts['second']}"
    try:
        return datetime.fromisoformat(f"{time}{parts['fraction'] or ''}{zone}").astimezone(UTC)
    except ValueError:
        raise ValueError("must be a timestamp of a day that exists") from None
    except OverflowError:
        raise ValueError("must be a timestamp of the years 0001 to 9999 in UTC") from None


def _fault_of(parts: re.Match[str]) -> str | None:
    if parts["zone"] is None:
        return "it has no time zone; end it with Z or an offset such as +05:30"
    faults = (fault for name, (most, fault) in _BOUNDS.items() if int(parts[name] or 0) > most)
    return next(faults, None)


@lru_cache(maxsize=256)  # all transactions of a batch have the same timestamp
def timestamp(time: datetime) -> str:
    """RFC 3339, in UTC, to the microsecond."""
    utc = time.astimezone(UTC)
    return utc.isoformat(timespec="microseconds").replace("+00:00", "Z")


def optional_timestamp(time: datetime | None) -> str | None:
    """The same, or None."""
    return None if time is None else timestamp(time)


def microseconds(time: datetime) -> int:
    """The microseconds since 1970."""
    return (time - _1970) // _MICROSECOND


def of_microseconds(number: int) -> datetime:
    """The timestamp of `microseconds`, in UTC."""
    return _1970 + number * _MICROSECOND
