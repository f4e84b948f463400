"""Reports over the whole ledger, to read, to print, and as CSV."""

from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from markupsafe import Markup
from starlette.responses import Response, StreamingResponse

from ledgerservice.console.calls import Answer
from ledgerservice.console.months import Month, months_of
from ledgerservice.console.pages.raw import FORMAT, table
from ledgerservice.console.rendering import MONTHS
from ledgerservice.console.visits import PAGE_HEADERS, Visit

TABS = (("trial", ""), ("owners", "owners"), ("metadata", "metadata"), ("months", "months"))
"""The reports: a text `reports.NAME`, and the path below /reports."""
CSV_ROWS = 1_000
MONTHS_OF = ("begins_at", "currency", "posted", "declined", "amount_in", "amount_out", "moved",
             "customers")  # fmt: skip


async def trial_balance(visit: Visit) -> Response:
    """The balances of all accounts by currency, which sum to zero."""
    figure = partial(visit.figure, "/reports/trial-balance", **visit.as_of.query())
    if not _is_csv(visit):
        return _page(visit, "trial", await visit.costly(figure))
    answer = await figure()
    rows = answer.body["currencies"] if answer.is_good else []
    return _csv("trial-balance", _once(table(rows)))


async def owners(visit: Visit) -> Response:
    """The balances by owner and currency."""
    return await _listed(visit, "owners", "/reports/balances", visit.as_of.query())


async def metadata(visit: Visit) -> Response:
    """The amounts moved by the values of a metadata key, in a period or up to a time."""
    if not visit.query("key"):
        return _page(visit, "metadata", None, is_later=False)
    query = {"key": visit.query("key"), **_period(visit)}
    return await _listed(visit, "metadata", "/reports/totals", query)


def _period(visit: Visit) -> dict[str, Any]:
    """The time of a period: the as-of control ends it, if the reader has named no other end."""
    as_of = visit.as_of
    by = {"by": as_of.by} if as_of.is_effective else {}
    times = {"from": visit.query("from"), "to": visit.query("to") or as_of.period().get("to")}
    return {**times, "timezone": as_of.timezone, **by} if any(times.values()) else by


async def months(visit: Visit) -> Response:
    """What was recorded in each month, and what customers held at its end."""
    if _is_csv(visit):
        _, _, found_months = await _months(visit)
        return _csv("months", _once(table([_row(one) for one in found_months])))
    figures = await visit.costly(partial(_months, visit))
    if figures is None:
        return _page(visit, "months", None)
    answer, balance, found_months = figures
    return _page(visit, "months", answer, balance=balance, months=found_months)


async def _months(visit: Visit) -> tuple[Answer, Answer, list[Month]]:
    """The volume, the trial balance, and the months out of both."""
    as_of = visit.as_of
    query = {"by": "month", "to": as_of.period().get("to"), "timezone": as_of.timezone}
    if as_of.is_effective:
        query["basis"] = as_of.by
    balance = await visit.figure("/reports/trial-balance", **as_of.query())
    answer = await visit.figure("/reports/volume", **query)
    is_good = balance.is_good and answer.is_good
    return answer, balance, months_of(answer.body, balance.body) if is_good else []


def _row(month: Month) -> dict[str, Any]:
    return {name: getattr(month, name) for name in MONTHS_OF}


async def _listed(visit: Visit, name: str, path: str, query: dict[str, Any]) -> Response:
    """A page of a list of the API; as CSV all of it."""
    if _is_csv(visit):
        return _csv(name, _all_rows(visit, path, query))
    cursor = visit.query("cursor")
    return _page(
        visit, name, await visit.costly(partial(visit.figure, path, **query, cursor=cursor))
    )


async def _all_rows(visit: Visit, path: str, query: dict[str, Any]) -> AsyncIterator[str]:
    """A list as CSV, page after page. A page that fails cuts the download."""
    cursor: str | None = ""
    while cursor is not None:
        answer = await visit.get(path, **query, limit=CSV_ROWS, cursor=cursor)
        lines = table(answer.body)
        yield lines if not cursor else lines.partition("\r\n")[2]
        cursor = answer.next_cursor


async def _once(text: str) -> AsyncIterator[str]:
    yield text


def _is_csv(visit: Visit) -> bool:
    return visit.query("as") == FORMAT


def _csv(name: str, lines: AsyncIterator[str]) -> Response:
    headers = PAGE_HEADERS | {"content-disposition": f'attachment; filename="{name}.csv"'}
    return StreamingResponse(lines, 200, headers, "text/csv; charset=utf-8")


def _page(
    visit: Visit, name: str, answer: Answer | None, *, is_later: bool = True, **values: Any
) -> Response:
    """A report; without an answer it comes later, or the reader has to choose what it is of."""
    is_later = is_later and answer is None
    shared: dict[str, Any] = {"name": name, "tabs": TABS, "month": partial(_month, visit)}
    return visit.page("reports.html", answer=answer, is_later=is_later, **shared, **values)


def _month(visit: Visit, begins_at: str) -> Markup:
    """The month that begins at a time, in the zone of the as-of control."""
    local = datetime.fromisoformat(begins_at).astimezone(ZoneInfo(visit.as_of.timezone))
    name = MONTHS[visit.t.language].split()[local.month - 1]
    return Markup('<time datetime="{}">{} {}</time>').format(begins_at, name, local.year)
