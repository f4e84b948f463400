"""The state of the process."""

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import UNSET, Meta, UnsetType

from ledgerservice.access.grants import NO_KEY
from ledgerservice.api.http.call import json_response, runtime_of, shards_of
from ledgerservice.api.http.openapi import get
from ledgerservice.api.http.problems import ProblemError

router = APIRouter(tags=["health"])


class Health(msgspec.Struct):
    """The state of the process."""

    status: Literal["live", "ready"]
    shards: (
        Annotated[
            dict[str, Literal["up", "down"]],
            Meta(description="Where several databases are: those that have some of the ledgers."),
        ]
        | UnsetType
    ) = UNSET


@get(router, "/health/live", Health, refusals=(), need=NO_KEY)
async def live() -> Response:
    """Whether the process answers."""
    return json_response(Health("live"))


@get(router, "/health/ready", Health, need=NO_KEY)
async def ready(request: Request) -> Response:
    """Whether the database answers within a second, accepts writes and has a schema that this
    release serves.

    It is 503 `unavailable` from SIGTERM on, while requests are still served for LEDGER_DRAIN_S.
    With several databases it is that of DATABASE_URL; `shards` has the others, whose ledgers get
    503 `shard_unavailable` while they are down.
    """
    if request.app.state.is_draining or not await runtime_of(request).ready():
        raise ProblemError("unavailable")
    shards: dict[str, Literal["up", "down"]] = {
        name: "up" if is_up else "down" for name, is_up in shards_of(request).states().items()
    }
    return json_response(Health("ready", shards or UNSET))
