"""The overview of a ledger: what customers hold, and what was recorded last."""

import asyncio
from functools import partial
from typing import Any

from starlette.responses import Response

from ledgerservice.console.activity import activity
from ledgerservice.console.calls import Answer
from ledgerservice.console.durations import duration
from ledgerservice.console.visits import Visit

RECENT = 12


async def page(visit: Visit) -> Response:
    """The trial balance by currency, and the latest transactions."""
    figures, transactions, service = await asyncio.gather(
        visit.costly(partial(_figures, visit)),
        visit.figure("/transactions/", limit=RECENT, **visit.as_of.period()),
        _status(visit),
    )
    return visit.page(
        "overview.html",
        is_later=figures is None,
        transactions=transactions,
        service=service,
        duration=partial(duration, visit.t),
        **(figures or {}),
    )


async def _figures(visit: Visit) -> dict[str, Any]:
    """What is summed up over all accounts, and over many transactions."""
    balance, open_items = await asyncio.gather(
        visit.figure("/reports/trial-balance", **visit.as_of.query()), _open_items(visit)
    )
    return {"balance": balance, "open_items": open_items, **await activity(visit, balance)}


async def _open_items(visit: Visit) -> dict[str, dict[str, Any]] | None:
    """What is held and scheduled by currency, which is that of the present."""
    if visit.as_of.is_set:
        return None
    answer = await visit.peek("/reports/open")
    if not answer.is_good:
        return None
    return {
        name: {"complete": kind["complete"]} | {row["currency"]: row for row in kind["currencies"]}
        for name, kind in answer.body.items()
    }


async def _status(visit: Visit) -> Answer | None:
    """The state of the service, which is that of the present."""
    if visit.as_of.is_set:
        return None
    answer = await visit.peek("/status")
    return answer if answer.is_good else None
