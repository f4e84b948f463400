"""The state of the process."""

from typing import Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from ledgerservice.access.grants import NO_KEY
from ledgerservice.api.http.call import json_response, runtime_of
from ledgerservice.api.http.openapi import get
from ledgerservice.api.http.problems import ProblemError

router = APIRouter(tags=["health"])


class Health(msgspec.Struct):
    """The state of the process."""

    status: Literal["live", "ready"]


@get(router, "/health/live", Health, refusals=(), need=NO_KEY)
async def live() -> Response:
    """Whether the process answers."""
    return json_response(Health("live"))


@get(router, "/health/ready", Health, need=NO_KEY)
async def ready(request: Request) -> Response:
    """Whether the database answers within a second, accepts writes and has a schema that this
    release serves.

    It is 503 `unavailable` from SIGTERM on, while requests are still served for LEDGER_DRAIN_S.
    """
    if request.app.state.is_draining or not await runtime_of(request).ready():
        raise ProblemError("unavailable")
    return json_response(Health("ready"))
