"""The accounts of a ledger, by any filter."""

from starlette.responses import Response

from ledgerservice.console.visits import Visit

FILTERS = (
    *("owner", "currency", "reference", "status", "min_balance", "max_balance", "metadata"),
    *("from", "to"),
)
STATUSES = ("active", "frozen", "closed")
COLUMNS = (
    *("id", "owner", "currency", "reference", "metadata", "status", "version", "floor", "ceiling"),
    *("created_at", "principal_id", "held", "available", "balance"),
)
"""All columns, in their order."""
SHOWN = ("id", "owner", "status", "held", "available", "balance")
"""Those that are shown if the reader has not chosen others."""
PRESENT = {"status", "version", "floor", "ceiling", "held", "available", "balance"}
"""What an account has now: as of another time a list does not know it."""
ROWS = 50


async def page(visit: Visit) -> Response:
    """A page of the list. What is of the present only is left out as of another time."""
    filters = visit.chosen(*FILTERS)
    zone = {"timezone": visit.zone} if {"from", "to"} & filters.keys() else {}
    accounts = await visit.get(
        "/accounts/", limit=ROWS, cursor=visit.query("cursor"), **filters, **zone
    )
    own = visit.request.query_params.getlist("column")
    chosen = own or SHOWN
    is_past = visit.as_of.is_set
    columns = [c for c in COLUMNS if c in chosen and not (is_past and c in PRESENT)]
    return visit.page(
        "accounts.html",
        accounts=accounts,
        columns=columns,
        is_chosen=bool(own),
        all_columns=COLUMNS,
        filters=filters,
        statuses=STATUSES,
    )
