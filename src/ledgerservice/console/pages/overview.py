"""The overview of a ledger: what customers hold, and what was recorded last."""

import asyncio

from starlette.responses import Response

from ledgerservice.console.visits import Visit

RECENT = 12


async def page(visit: Visit) -> Response:
    """The trial balance by currency, and the latest transactions."""
    balance, transactions = await asyncio.gather(
        visit.figure("/reports/trial-balance", **visit.as_of.query()),
        visit.figure("/transactions/", limit=RECENT, **visit.as_of.period()),
    )
    return visit.page("overview.html", balance=balance, transactions=transactions)
