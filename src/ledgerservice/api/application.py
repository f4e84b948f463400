"""The FastAPI application: all routes, their description, and faults as problem+json."""

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import Scope

from ledgerservice import __version__
from ledgerservice.api.http.call import response
from ledgerservice.api.http.openapi import components
from ledgerservice.api.http.problems import CATALOGUE, ProblemError, problem, problem_of
from ledgerservice.api.movements import routes as movements
from ledgerservice.api.resources import (
    accounts,
    currencies,
    health,
    holds,
    ledgers,
    openings,
    reports,
    schedules,
    statements,
    transactions,
)
from ledgerservice.errors import LedgerError

ROUTERS = (
    movements.router,
    accounts.router,
    openings.router,
    transactions.router,
    statements.router,
    holds.router,
    schedules.router,
    currencies.router,
    ledgers.router,
    reports.router,
    health.router,
)

DESCRIPTION = """
Accounts, deposits, withdrawals and transfers, on PostgreSQL.

All routes work on the default ledger. For another ledger, the same routes are below its path:
`/ledgers/{name}/accounts`, `/ledgers/{name}/transfer`. Select it in the list of servers.

Every movement has an idempotency key. A repeated request gets the original answer and moves
nothing. Every refusal is problem+json with a stable `code`; `retry` says whether the request can be
sent again.

| code | status | retry | detail |
|---|---|---|---|
""" + "\n".join(
    f"| {code} | {p.status.value} | {p.retry} | {p.detail} |" for code, p in CATALOGUE.items()
)

ASSETS = "/docs/assets"
SERVERS = [
    {"url": "/", "description": "The default ledger."},
    {
        "url": "/ledgers/{ledger}",
        "description": "Another ledger.",
        "variables": {"ledger": {"default": "default"}},
    },
]


def create_api() -> FastAPI:
    """The FastAPI application. Its `state.runtime` is set by the code that runs it."""
    api = FastAPIOffline(
        docs_url=None,
        redoc_url=None,
        static_url=ASSETS,
        title="Ledger service",
        version=__version__,
        description=DESCRIPTION,
        redirect_slashes=False,
        servers=SERVERS,
    )
    for route in [route for route in api.routes if isinstance(route, Route)]:  # /openapi.json
        api.add_route(f"{route.path}/", route.endpoint, include_in_schema=False)
    for path in ("/docs", "/docs/"):
        api.add_route(path, _docs, include_in_schema=False)
    for router in ROUTERS:
        api.include_router(router)
    api.openapi = partial(_described, api.openapi)  # type: ignore[method-assign]
    for error in (ProblemError, LedgerError, Exception):
        api.add_exception_handler(error, _fault)
    api.add_exception_handler(HTTPException, _http)
    return api


async def _docs(request: Request) -> Response:
    """The description as a page, which loads nothing from other servers."""
    root = request.scope.get("root_path", "")
    return get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="Ledger service",
        swagger_js_url=f"{root}{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{root}{ASSETS}/favicon.png",
    )


def _described(describe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """FastAPI's description, with the schemas that it refers to."""
    description = describe()
    description["components"] = {"schemas": components()}
    return description


async def _fault(_: Request, error: Exception) -> Response:
    return response(*problem_of(error))


async def _http(request: Request, error: Any) -> Response:
    if error.status_code != 405:
        return response(*problem("not_found"))
    status, body, headers = problem("method_not_allowed")
    allowed = ", ".join(_methods_of(request.scope)) or error.headers["Allow"]
    return response(status, body, headers | {"allow": allowed})


def _methods_of(scope: Scope) -> list[str]:
    """All methods of a path; FastAPI reports only those of the first route with the path."""
    all_routes = [route for router in ROUTERS for route in router.routes]
    routes = [route for route in all_routes if route.matches(scope)[0] is not Match.NONE]
    return sorted({method for route in routes for method in getattr(route, "methods", ())})
