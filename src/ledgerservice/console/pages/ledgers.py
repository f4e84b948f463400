"""The ledgers that the reader may use."""

from starlette.responses import Response

from ledgerservice.console.visits import Visit


async def page(visit: Visit) -> Response:
    """The list; each leads to its overview."""
    ledgers = await visit.get("/ledgers/", cursor=visit.query("cursor"))
    return visit.page("ledgers.html", ledgers=ledgers)
