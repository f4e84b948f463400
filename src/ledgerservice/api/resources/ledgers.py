"""Ledgers."""

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from ledgerservice.access.grants import ANY_KEY, everywhere
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.authentication import caller_of
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
    need=everywhere(Scope.LEDGERS_WRITE),
)
async def add_ledger(request: Request) -> Response:
    """Add a ledger.

    The name is the key, so a repeat has no effect. Its routes are below `/ledgers/{name}/`.
    """
    call = call_of(request)
    body = await body_of(call, AddLedger)
    outcome = await call.runtime.ledgers.post(
        LedgerRequest(body.name, call.dry_run, call.caller.principal_id)
    )
    return created(Ledger.of_row(outcome), replayed=outcome.replayed)


@get(router, "/ledgers/", list[Ledger], Paging, need=ANY_KEY)
async def list_ledgers(request: Request) -> Response:
    """Ledgers in the order in which they were added: those that the caller may use."""

    async def read(filters: Paging, after: int | None) -> Page:
        caller = caller_of(request.scope)
        own = None if caller.everywhere else sorted({*caller.by_ledger, *caller.by_accounts})
        reader, limit = reader_of(request), filters.limit + 1
        rows = await catalogue.list_ledgers(reader, limit, after or 0, own)
        return first_rows(rows, filters.limit, Ledger.of_row, lambda last: last.id)

    return await listing(request, Paging, int, read)


@get(router, "/ledgers/{name}", Ledger, need=ANY_KEY)
async def get_ledger(request: Request) -> Response:
    """The ledger with this name.

    All other routes also exist below it: `/ledgers/{name}/accounts`.
    """
    name = request.path_params["name"]
    ledger, caller = None, caller_of(request.scope)
    if is_ledger_name(name) and (caller.everywhere or name in caller.ledgers):
        ledger = await catalogue.find_ledger(reader_of(request), name)
    if ledger is None:
        raise ProblemError("ledger_not_found")
    return json_response(Ledger.of_row(ledger))
