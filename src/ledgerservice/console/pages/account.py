"""One account: its balances, their course, its entries, and what is open on it."""

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from starlette.responses import Response

from ledgerservice.console.calls import Answer
from ledgerservice.console.pages.actions import permitted
from ledgerservice.console.visits import Visit

ROWS = 50
DAYS = (14, 30, 90)
"""How many days the course of the balance can have; the first is the default."""
MAX_DAYS = DAYS[-1]


async def page(visit: Visit) -> Response:
    """The account as it is, or as of the time of the as-of control."""
    place = f"/accounts/{visit.parameters['id']}"
    as_of = visit.as_of
    at = {"as_of": as_of.at, "timezone": as_of.timezone} if as_of.is_set else {}
    account = await visit.get(place, **at)
    course = visit.costly(partial(_course, visit, place))
    read = [_balances(visit, place), course, _entries(visit, place)]
    read += [visit.figure(f"{place}/policies", limit=ROWS)]
    if not as_of.is_set:
        read += [visit.figure(f"{place}/{name}", limit=ROWS) for name in ("holds", "schedules")]
    names = ("balances", "course", "entries", "policies", "holds", "schedules")
    figures: dict[str, Any] = dict(zip(names, await asyncio.gather(*read), strict=False))
    return visit.page(
        "account.html",
        account=account.body,
        place=place,
        actions=permitted(visit, ["freeze"]),
        days=DAYS,
        chosen_days=_days(visit),
        **({"holds": None, "schedules": None} | figures),
    )


async def _balances(visit: Visit, place: str) -> Answer | None:
    """Both balances as of a time: as recorded, and as effective."""
    if not visit.as_of.is_set:
        return None
    at = {"at": visit.as_of.at, "timezone": visit.as_of.timezone}
    return await visit.figure(f"{place}/balances", **at)


async def _entries(visit: Visit, place: str) -> Answer:
    """The entries, newest first; as of a time, the transactions that had counted by then."""
    cursor = visit.query("cursor")
    if not visit.as_of.is_set:
        return await visit.figure(f"{place}/history", limit=ROWS, cursor=cursor)
    return await visit.figure(
        "/transactions/",
        account_id=visit.parameters["id"],
        status="posted",
        limit=ROWS,
        cursor=cursor,
        **visit.as_of.period(),
    )


# The course of the balance.


def _days(visit: Visit) -> int:
    text = visit.query("days")
    return min(int(text), MAX_DAYS) if text.isdecimal() and text != "0" else DAYS[0]


async def _course(visit: Visit, place: str) -> list[dict[str, Any]]:
    """The balances at the ends of days, the last one of today or of the chosen time."""
    times = _ends(visit, _days(visit))
    answers = await asyncio.gather(
        *(visit.api.send("GET", f"{place}/balances", {"at": time}) for time in times)
    )
    return [answer.body for answer in answers if answer.is_good]


def _ends(visit: Visit, days: int) -> list[str]:
    """Timestamps: the ends of days in the reader's zone, and the last of them."""
    zone = ZoneInfo(visit.zone)
    last = min(_last(visit), datetime.now(UTC)).astimezone(zone)
    today = last.replace(hour=0, minute=0, second=0, microsecond=0)
    ends = [today - timedelta(days=number) for number in reversed(range(days))]
    return [end.astimezone(UTC).isoformat() for end in (*ends, last)]


def _last(visit: Visit) -> datetime:
    """The end of the course; now for what is no time, which the API refuses elsewhere."""
    text = visit.as_of.at
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC)
    if time.tzinfo is None:  # a day
        return time.replace(tzinfo=ZoneInfo(visit.as_of.timezone)) + timedelta(days=1)
    return time
