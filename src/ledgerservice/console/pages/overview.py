"""The overview of a ledger: what customers hold, and what was recorded last."""

import asyncio

from starlette.responses import Response

from ledgerservice.console.visits import Visit

RECENT = 12


async def page(visit: Visit) -> Response:
    """The trial balance by currency, and the latest transactions."""
    balance, transactions = await asyncio.gather(
        visit.figure("/reports/trial-balance", **visit.as_of.query()),
        visit.figure("/transactions/", limit=RECENT, **latest(visit)),
    )
    return visit.page("overview.html", balance=balance, transactions=transactions)


def latest(visit: Visit) -> dict[str, str]:
    """The filter of what counts by the time of the as-of control."""
    as_of = visit.as_of
    if not as_of.is_set:
        return {}
    return {"to": as_of.at, "timezone": as_of.timezone, "by": as_of.by}
