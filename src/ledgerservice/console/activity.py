"""What went on in a ledger: by day, and in the last hour by minute."""

import asyncio
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from ledgerservice.console.calls import Answer
from ledgerservice.console.filters import AsOf
from ledgerservice.console.months import months_of
from ledgerservice.console.visits import Visit

DAYS, MINUTES = 30, 60
MOST_TRANSACTIONS = 5_000
"""Those that the plots of a page read, which loads itself again whenever something is recorded."""
_CALENDAR = re.compile(r"([0-9]{4})(?:-([0-9]{2}))?(?:-([0-9]{2}))?", re.ASCII)


async def activity(visit: Visit, balance: Answer) -> dict[str, Any]:
    """The values of the template `activity.html`. `balance` is the trial balance of the page."""
    days, minutes = await asyncio.gather(_days(visit), _minutes(visit))
    currencies = [row["currency"] for row in balance.body["currencies"]] if balance.is_good else []
    chosen = visit.query("currency") or _busiest(days, currencies)
    is_good = days.is_good and balance.is_good
    return {
        "days": days,
        "minutes": minutes,
        "codes": _codes(minutes),
        "currencies": currencies,
        "chosen": chosen,
        "by_day": [one for one in months_of(days.body, balance.body) if one.currency == chosen][
            ::-1
        ]
        if is_good
        else [],
    }


async def _days(visit: Visit) -> Answer:
    as_of = visit.as_of
    query = {"from": first_day(as_of), "timezone": as_of.timezone, "to": as_of.period().get("to")}
    if as_of.is_effective:
        query["basis"] = as_of.by
    return await visit.figure("/reports/volume", by="day", limit=MOST_TRANSACTIONS, **query)


async def _minutes(visit: Visit) -> Answer | None:
    """The last hour; None where the page is of another time."""
    if visit.as_of.is_set:
        return None
    since = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=MINUTES)
    query = {"from": since.isoformat(), "by": "minute", "limit": MOST_TRANSACTIONS}
    return await visit.figure("/reports/volume", **query)


def first_day(as_of: AsOf) -> str:
    """The first of the days that are shown; nothing where the API will refuse the time."""
    try:
        last = _day_of(as_of)
        return (last - timedelta(days=DAYS - 1)).isoformat()
    except (ValueError, OverflowError, OSError, KeyError):  # of a zone that does not exist
        return ""


def _day_of(as_of: AsOf) -> date:
    """The day that the as-of control ends in."""
    zone = ZoneInfo(as_of.timezone)
    match = _CALENDAR.fullmatch(as_of.at)
    if match is None:
        time = datetime.fromisoformat(as_of.at) if as_of.is_set else datetime.now(UTC)
        return time.astimezone(zone).date()
    year, month, day = match.groups()
    if day is not None:
        return date(int(year), int(month), int(day))
    following = date(int(year) + (month in (None, "12")), int(month or 12) % 12 + 1, 1)
    return following - timedelta(days=1)


def _busiest(days: Answer, currencies: list[str]) -> str:
    """The currency that most transactions moved."""
    counts = dict.fromkeys(currencies, 0)
    for period in days.body["periods"] if days.is_good else ():
        for row in period["currencies"]:
            counts[row["currency"]] = counts.get(row["currency"], 0) + row["transactions"]
    return max(counts, key=lambda one: counts[one], default="")


def _codes(minutes: Answer | None) -> list[str]:
    """The codes of declines, the most frequent first."""
    if minutes is None or not minutes.is_good:
        return []
    counts: dict[str, int] = {}
    periods: Iterable[dict[str, Any]] = minutes.body["periods"]
    for code, number in (item for one in periods for item in one["declined"].items()):
        counts[code] = counts.get(code, 0) + number
    return sorted(counts, key=lambda code: (-counts[code], code))
