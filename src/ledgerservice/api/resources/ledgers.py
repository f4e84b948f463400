"""Ledgers."""

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from ledgerservice.api.http.bodies import Body, body_of
from ledgerservice.api.http.call import call_of, created, json_response, reader_of
from ledgerservice.api.http.fields import Answer, TimestampText
from ledgerservice.api.http.openapi import DRY_RUN, body_schema, get, post
from ledgerservice.api.http.pages import Page, Paging, first_rows, listing
from ledgerservice.api.http.problems import ProblemError
from ledgerservice.domain.ledgers import (
    LEDGER_NAME_PATTERN,
    LedgerRequest,
    is_ledger_name,
)
from ledgerservice.postgres.queries import catalogue

router = APIRouter(tags=["ledgers"])


class Ledger(Answer):
    """A ledger: a closed book. Its accounts move money among themselves."""

    name: str
    created_at: TimestampText


class AddLedger(Body):
    """Add a ledger: a closed book with its own accounts."""

    name: str = Field(pattern=f"^{LEDGER_NAME_PATTERN}$", examples=["marketplace"])


@post(
    router,
    "/ledgers/",
    Ledger,
    body_schema(AddLedger, {"marketplace": {"name": "marketplace"}}),
    status=201,
    refusals=(408, 413, 415, 422, 503),
    parameters=(DRY_RUN,),
    links={"get_ledger": {"name": "name"}},
)
async def add_ledger(request: Request) -> Response:
    """Add a ledger.

    The name is the key, so a repeat has no effect. Its routes are below `/ledgers/{name}/`.
    """
    call = call_of(request)
    body = await body_of(call, AddLedger)
    outcome = await call.runtime.ledgers.post(LedgerRequest(body.name, dry_run=call.dry_run))
    return created(Ledger.of_row(outcome), replayed=outcome.replayed)


@get(router, "/ledgers/", list[Ledger], Paging)
async def list_ledgers(request: Request) -> Response:
    """Ledgers in the order in which they were added."""

    async def read(filters: Paging, after: int | None) -> Page:
        rows = await catalogue.list_ledgers(reader_of(request), filters.limit + 1, after or 0)
        return first_rows(rows, filters.limit, Ledger.of_row, lambda last: last.id)

    return await listing(request, Paging, int, read)


@get(router, "/ledgers/{name}", Ledger)
async def get_ledger(request: Request) -> Response:
    """The ledger with this name.

    All other routes also exist below it: `/ledgers/{name}/accounts`.
    """
    name = request.path_params["name"]
    ledger = None
    if is_ledger_name(name):
        ledger = await catalogue.find_ledger(reader_of(request), name)
    if ledger is None:
        raise ProblemError("ledger_not_found")
    return json_response(Ledger.of_row(ledger))
