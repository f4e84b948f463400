"""The transactions of a ledger by any filter of the API, with their volume and their declines."""

import asyncio
from collections import Counter
from functools import partial
from typing import Any

from starlette.responses import Response

from ledgerservice.console.calls import Answer
from ledgerservice.console.visits import Visit

PAGE_ROWS = "50"
FILTERS = (
    "account_id",
    "owner",
    "kind",
    "status",
    "currency",
    "min_amount",
    "max_amount",
    "reference",
    "metadata",
    "from",
    "to",
)
"""The filters of the API, which the URL has by the same names."""
OF_VOLUME = {"currency", "from", "to", "timezone", "by"}
"""Those that the report of the volume has too: with any other it would show something else."""
KINDS = (
    "DEPOSIT",
    "WITHDRAWAL",
    "TRANSFER",
    "GENERAL",
    "HOLD",
    "CAPTURE",
    "RELEASE",
    "REVERSAL",
    "POLICY",
    "SCHEDULE",
    "CANCELLATION",
    "CROSSING",
    "CROSS_CREDIT",
    "CROSS_DEBIT",
    "CROSS_RELEASE",
)


async def page(visit: Visit) -> Response:
    """The list, and the figures that these filters allow."""
    filters = filters_of(visit)
    query = {"limit": visit.query("limit", PAGE_ROWS), "cursor": visit.query("cursor")}
    transactions, figures = await asyncio.gather(
        visit.figure("/transactions/", **query, **filters),
        visit.costly(partial(_figures, visit, filters)),
    )
    return visit.page(
        "transactions.html",
        transactions=transactions,
        is_later=figures is None,
        **(figures or {"volume": None, "declines": [], "amounts": {}}),
        kinds=KINDS,
        filtered=[name for name in FILTERS if visit.query(name)],
    )


async def _figures(visit: Visit, filters: dict[str, Any]) -> dict[str, Any]:
    """What is counted over many transactions."""
    volume = await _volume(visit, filters)
    return {
        "volume": volume,
        "declines": _declines(volume),
        "amounts": _amounts(volume, visit.query("currency")),
    }


def filters_of(visit: Visit) -> dict[str, Any]:
    """The filters of the URL as the API has them. The as-of control is the end of the time."""
    filters: dict[str, Any] = {name: visit.query(name) for name in FILTERS if visit.query(name)}
    if visit.as_of.is_set:
        filters["to"] = visit.as_of.at
    if visit.as_of.by != "recorded":
        filters["by"] = visit.as_of.by
    if "from" in filters or "to" in filters:
        filters["timezone"] = visit.as_of.timezone
    return filters


async def _volume(visit: Visit, filters: dict[str, Any]) -> Answer | None:
    """The report of the volume, which calls `basis` what a list calls `by`; None if it does not
    have one of the filters.
    """
    if not filters.keys() <= OF_VOLUME:
        return None
    query = {name: value for name, value in filters.items() if name != "by"}
    return await visit.figure("/reports/volume", **query, basis=filters.get("by"))


def _declines(volume: Answer | None) -> list[tuple[str, int]]:
    """How often each code was the reason, the most frequent first."""
    counts: Counter[str] = Counter()
    if volume is not None and volume.is_good:
        for period in volume.body["periods"]:
            counts.update(period["declined"])
    return counts.most_common()


def _amounts(volume: Answer | None, currency: str) -> dict[str, list[dict[str, Any]]]:
    """The sizes of the amounts by currency. The currency with the most transactions is the first,
    and the page shows one: amounts of two currencies do not compare.
    """
    ranges: dict[str, list[dict[str, Any]]] = {}
    if volume is not None and volume.is_good:
        for row in volume.body["amounts"]:
            ranges.setdefault(row["currency"], []).append(row)
    ordered = sorted(ranges, key=lambda code: -sum(row["transactions"] for row in ranges[code]))
    return {code: ranges[code] for code in ordered if currency in {"", code}}
