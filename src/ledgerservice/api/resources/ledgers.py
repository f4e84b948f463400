"""Ledgers."""

from functools import partial
from typing import Annotated, Any, Self

from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import UNSET, Meta, UnsetType
from pydantic import Field

from ledgerservice.access.grants import ANY_KEY, everywhere
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.authentication import caller_of
from ledgerservice.api.http.bodies import Body, body_of
from ledgerservice.api.http.call import (
    call_of,
    created,
    directory_reader_of,
    json_response,
    shards_of,
)
from ledgerservice.api.http.fields import Answer, Shards, TimestampText
from ledgerservice.api.http.openapi import DRY_RUN, body_schema, get, post
from ledgerservice.api.http.pages import Page, Paging, first_rows, listing
from ledgerservice.api.http.problems import ProblemError, invalid, rejection
from ledgerservice.domain.ledgers import (
    LEDGER_NAME_PATTERN,
    LedgerRequest,
    is_ledger_name,
)
from ledgerservice.domain.transactions import Rejected
from ledgerservice.postgres.queries import catalogue
from ledgerservice.postgres.sharding.identity import MAIN

router = APIRouter(tags=["ledgers"])


class Ledger(Answer):
    """A ledger: a closed book. Its accounts move money among themselves.

    `shards` is the number of its parts, if it has any.
    """

    name: str
    created_at: TimestampText
    shard: Annotated[
        str | UnsetType, Meta(description="The database that has it, where there are several.")
    ] = UNSET
    shards: int | UnsetType = UNSET

    @classmethod
    def of(cls, request: Request, row: Any) -> Self:
        """The ledger as it is answered: with its shard if there are several."""
        shard = row.shard if shards_of(request).states() else UNSET
        return cls.of_row(row, shard=shard, shards=UNSET if row.shards is None else row.shards)


class AddLedger(Body):
    """Add a ledger: a closed book with its own accounts."""

    name: str = Field(pattern=f"^{LEDGER_NAME_PATTERN}$", examples=["marketplace"])
    shard: str | None = Field(
        default=None,
        pattern=f"^{LEDGER_NAME_PATTERN}$",
        description="Where several databases are: which of them gets it. By default the one with "
        "the fewest ledgers.",
        examples=["main"],
    )
    shards: Shards | None = Field(
        default=None,
        description="The number of parts that its accounts are distributed to. Without it, one. "
        "The parts are on main.",
    )


@post(
    router,
    "/ledgers/",
    Ledger,
    body_schema(AddLedger, {"marketplace": {"name": "marketplace"}}),
    status=201,
    refusals=(408, 409, 413, 415, 422, 503),
    parameters=(DRY_RUN,),
    links={"get_ledger": {"name": "name"}},
    need=everywhere(Scope.LEDGERS_WRITE),
)
async def add_ledger(request: Request) -> Response:
    """Add a ledger.

    The name is the key, so a repeat has no effect. Its routes are below `/ledgers/{name}/`. With
    `shards` its accounts are in several parts, each with a journal of its own.
    """
    call, shards = call_of(request), shards_of(request)
    body = await body_of(call, AddLedger)
    if body.shard not in {None, MAIN, *shards.states()}:
        raise invalid("shard", "is not the name of a shard")
    if body.shards is not None and body.shard not in {None, MAIN}:
        raise invalid("shard", "must be main for a ledger with shards")
    shard = MAIN if body.shards is not None else body.shard or shards.roomiest()
    outcome = await shards.add_ledger(
        LedgerRequest(body.name, call.dry_run, call.caller.principal_id, shard, body.shards)
    )
    if isinstance(outcome, Rejected):
        raise rejection(outcome)
    return created(Ledger.of(request, outcome), replayed=outcome.replayed)


@get(router, "/ledgers/", list[Ledger], Paging, need=ANY_KEY)
async def list_ledgers(request: Request) -> Response:
    """Ledgers in the order in which they were added: those that the caller may use."""

    async def read(filters: Paging, after: int | None) -> Page:
        caller = caller_of(request.scope)
        own = None if caller.everywhere else sorted({*caller.by_ledger, *caller.by_accounts})
        reader, limit = directory_reader_of(request), filters.limit + 1
        rows = await catalogue.list_ledgers(reader, limit, after or 0, own)
        return first_rows(rows, filters.limit, partial(Ledger.of, request), lambda last: last.id)

    return await listing(request, Paging, int, read)


@get(router, "/ledgers/{name}", Ledger, need=ANY_KEY)
async def get_ledger(request: Request) -> Response:
    """The ledger with this name.

    All other routes also exist below it: `/ledgers/{name}/accounts`.
    """
    name = request.path_params["name"]
    ledger, caller = None, caller_of(request.scope)
    if is_ledger_name(name) and (caller.everywhere or name in caller.ledgers):
        ledger = await catalogue.find_ledger(directory_reader_of(request), name)
    if ledger is None:
        raise ProblemError("ledger_not_found")
    return json_response(Ledger.of(request, ledger))
