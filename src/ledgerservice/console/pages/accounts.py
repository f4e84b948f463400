"""The accounts of a ledger, by any filter."""

import asyncio
from typing import Any

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
AT_A_TIME = ("held", "available", "balance")
"""Those of them that are known as of a time of recording; as effective only the balance is."""
ROWS, PAST_ROWS = 50, 25
"""As of a time each account of the page is asked for its balances."""


async def page(visit: Visit) -> Response:
    """A page of the list. As of another time it has the balances of that time, and what is of the
    present only is left out.
    """
    filters = visit.chosen(*FILTERS)
    zone = {"timezone": visit.zone} if {"from", "to"} & filters.keys() else {}
    accounts = await visit.get(
        "/accounts/",
        limit=PAST_ROWS if visit.as_of.is_set else ROWS,
        cursor=visit.query("cursor"),
        **filters,
        **zone,
    )
    own = visit.request.query_params.getlist("column")
    chosen = own or SHOWN
    columns = [name for name in COLUMNS if name in chosen and name not in _unknown(visit)]
    return visit.page(
        "accounts.html",
        accounts=accounts,
        rows=await _rows(visit, accounts.body),
        columns=columns,
        is_chosen=bool(own),
        all_columns=COLUMNS,
        filters=filters,
        statuses=STATUSES,
    )


def _unknown(visit: Visit) -> set[str]:
    """The columns that are not known as of the time of the page."""
    if not visit.as_of.is_set:
        return set()
    return PRESENT - set(AT_A_TIME[-1:] if visit.as_of.is_effective else AT_A_TIME)


async def _rows(visit: Visit, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The accounts, as of the time of the page."""
    if not visit.as_of.is_set:
        return rows
    at = {"at": visit.as_of.at, "timezone": visit.as_of.timezone}
    answers = await asyncio.gather(
        *(visit.api.send("GET", f"/accounts/{row['id']}/balances", at) for row in rows)
    )
    nothing = dict.fromkeys(AT_A_TIME)
    return [
        {**row, **nothing, **(answer.body[visit.as_of.by] if answer.is_good else {})}
        for row, answer in zip(rows, answers, strict=True)
    ]
