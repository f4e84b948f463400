"""The ASGI application: FastAPI, its faults as problem+json, and the runtime's life."""

import gc
import logging
import traceback
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from ledgerservice import __version__
from ledgerservice.api.handlers import move, problem_of
from ledgerservice.api.movements import MONEY_ROUTES, MoneyRoute
from ledgerservice.api.problems import CATALOGUE, Refused, problem
from ledgerservice.api.routes import response, router
from ledgerservice.database import Database
from ledgerservice.errors import LedgerError
from ledgerservice.runtime import Runtime, posting, running
from ledgerservice.settings import Settings

log = logging.getLogger(__name__)

DESCRIPTION = """
Accounts, deposits, withdrawals and transfers, on PostgreSQL.

Every movement carries an idempotency key: sent again, it gets the original answer and moves
nothing. Every refusal is problem+json with a stable `code`, and says in `retry` whether sending
again is safe.

| code | status | retry |
|---|---|---|
""" + "\n".join(f"| {code} | {p.status.value} | {p.retry} |" for code, p in CATALOGUE.items())


def create_api() -> FastAPI:
    """The FastAPI application; its state.runtime is set by whoever runs it."""
    api = FastAPI(
        title="Ledger service",
        version=__version__,
        description=DESCRIPTION,
        redirect_slashes=False,
    )
    for route in [route for route in api.routes if isinstance(route, Route)]:  # /docs and others
        api.add_route(f"{route.path}/", route.endpoint, include_in_schema=False)
    api.include_router(router)
    api.add_exception_handler(Refused, _fault)
    api.add_exception_handler(LedgerError, _fault)
    api.add_exception_handler(Exception, _fault)
    api.add_exception_handler(RequestValidationError, _invalid_query)
    api.add_exception_handler(HTTPException, _http)
    return api


async def _fault(_: Request, error: Exception) -> Response:
    return response(*problem_of(error))


async def _invalid_query(_: Request, error: Any) -> Response:
    faults = [{"field": str(fault["loc"][-1]), "message": fault["msg"]} for fault in error.errors()]
    return response(*problem("invalid_request", errors=faults))


async def _http(request: Request, error: Any) -> Response:
    if error.status_code != 405:
        return response(*problem("not_found"))
    status, body, headers = problem("method_not_allowed")
    allowed = ", ".join(_methods_of(request.scope)) or error.headers["Allow"]
    return response(status, body, headers | {"allow": allowed})


def _methods_of(scope: Scope) -> list[str]:
    """All methods of a path; the framework names those of the first route that has it only."""
    routes = [route for route in router.routes if route.matches(scope)[0] is not Match.NONE]
    return sorted({method for route in routes for method in getattr(route, "methods", ())})


# The money routes by path. FastAPI has the same routes, for /docs, with the same handler.
MONEY_PATHS = {
    path: route for name, route in MONEY_ROUTES.items() for path in (f"/{name}", f"/{name}/")
}


class Service:
    """The whole service as an ASGI application: starts the runtime, serves, stops it."""

    def __init__(self, database: Database | None = None) -> None:
        """`database`: already prepared; None: started at start-up, as the environment says."""
        self._database = database
        self._api = create_api()
        self._life: AbstractAsyncContextManager[Runtime] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI call; the lifespan and the money routes are answered here."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and (route := MONEY_PATHS.get(scope["path"]))
        ):
            await self._move(route, scope, receive, send)
        else:
            await self._api(scope, receive, send)

    async def _move(self, route: MoneyRoute, scope: Scope, receive: Receive, send: Send) -> None:
        """A money route without the framework, which costs more than the movement."""
        try:
            runtime = self._api.state.runtime
            status, body, headers = await move(runtime, route, scope["headers"], receive)
        except Exception as error:  # noqa: BLE001  (every request is answered)
            status, body, headers = problem_of(error)
        headers["content-length"] = str(len(body))
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._start()
        except LedgerError as error:
            # One clear line instead of a stack of frames.
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        except Exception:  # noqa: BLE001  (sent on as text)
            # uvicorn takes an exception for an application without a lifespan, and serves it.
            await send({"type": "lifespan.startup.failed", "message": traceback.format_exc()})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        database = self._database
        self._life = posting(database) if database else running(Settings.load())
        self._api.state.runtime = await self._life.__aenter__()
        # What start-up has made stays: full collections that walk it took 77 ms, twice a second.
        gc.collect()
        gc.freeze()

    async def _stop(self) -> None:
        assert self._life is not None
        await self._life.__aexit__(None, None, None)
