"""The state of a page, which is in its URL: filters, the place in a list, and the as-of control."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

UTC = "UTC"
RECORDED, EFFECTIVE = "recorded", "effective"


@dataclass(frozen=True)
class AsOf:
    """As of which time the figures of a page are, and by which order of events.

    `at` is a timestamp, or a day, month or year of the zone; empty is now. `is_set`: the reader has
    chosen a time, so a figure that knows only the present has to be left out.
    """

    at: str = ""
    by: str = RECORDED
    timezone: str = UTC

    @property
    def is_set(self) -> bool:
        """Whether it is a time of the past."""
        return bool(self.at)

    @property
    def is_effective(self) -> bool:
        """Whether a transaction counts at the time at which it takes effect."""
        return self.is_set and self.by == EFFECTIVE

    def query(self, name: str = "at") -> dict[str, Any]:
        """The parameters of the API, which has the time as `at` or as `as_of`."""
        if not self.is_set:
            return {}
        by = {"by": self.by} if self.by == EFFECTIVE else {}
        return {name: self.at, "timezone": self.timezone, **by}

    def period(self) -> dict[str, Any]:
        """The parameters of a list of what had counted by then. Its end is not in the list, so a
        timestamp becomes the one after it; a day, month or year is included.
        """
        if not self.is_set:
            return {}
        try:
            end = (datetime.fromisoformat(self.at) + timedelta(microseconds=1)).isoformat()
        except (ValueError, OverflowError):  # the API says what is wrong with it
            end = self.at
        until = end if "T" in self.at or " " in self.at else self.at
        return {"to": until, "timezone": self.timezone, "by": self.by}

    @property
    def url(self) -> dict[str, Any]:
        """The parameters of the page, which every link to another page keeps."""
        if not self.is_set:
            return {}
        zone = {"timezone": self.timezone} if self.timezone != UTC else {}
        return {"at": self.at, **({"by": self.by} if self.by == EFFECTIVE else {}), **zone}


PARAMETERS = ("at", "by", "timezone")


def as_of(query: Mapping[str, str], reader_zone: str) -> AsOf:
    """The as-of control of a URL. The API refuses what is not a time."""
    by = EFFECTIVE if query.get("by") == EFFECTIVE else RECORDED
    return AsOf(query.get("at", "").strip(), by, query.get("timezone") or reader_zone)


def zone_of(name: str) -> str:
    """The name of a time zone, or UTC for one that does not exist."""
    try:
        ZoneInfo(name)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        return UTC
    return name or UTC
