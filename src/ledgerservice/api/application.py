"""The FastAPI application: all routes, their description, and faults as problem+json."""

from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import Scope

from ledgerservice import __version__
from ledgerservice.api.http.call import response
from ledgerservice.api.http.documentation import ASSETS, TITLE, docs, index
from ledgerservice.api.http.openapi import SECURITY_SCHEMES, describe_all
from ledgerservice.api.http.problems import ProblemError, problem, problem_of
from ledgerservice.api.http.schemas import components
from ledgerservice.api.movements import routes as movements
from ledgerservice.api.resources import (
    accounts,
    approvals,
    audit,
    currencies,
    events,
    health,
    histories,
    holds,
    ledgers,
    metrics,
    openings,
    reports,
    schedules,
    statements,
    status,
    transactions,
    verification,
    volume,
    webhooks,
)
from ledgerservice.api.resources.access import me
from ledgerservice.errors import LedgerError

ROUTERS = (
    accounts.router,
    histories.router,
    openings.router,
    movements.router,
    transactions.router,
    statements.router,
    holds.router,
    schedules.router,
    currencies.router,
    ledgers.router,
    reports.router,
    volume.router,
    events.router,
    approvals.router,
    webhooks.router,
    audit.router,
    me.router,
    verification.router,
    metrics.router,
    status.router,
    health.router,
)
"""In the order of the description, which is that of the tour in the README."""

DESCRIPTION = """
Accounts, deposits, withdrawals and transfers, on PostgreSQL.

All routes work on the default ledger. For another ledger, the same routes are below its path:
`/ledgers/{name}/accounts`, `/ledgers/{name}/transfer`. Select it in the list of servers.

Every movement has an idempotency key. A repeated request gets the original answer and moves
nothing. Every refusal is problem+json with a stable `code` (see `ProblemCode`); `retry` says
whether the request can be sent again.
"""

TAGS = {
    "accounts": "Open accounts, find them, and read what happened to them.",
    "money": "Deposits, transfers and withdrawals, one by one or many at once.",
    "transactions": "Transactions of many legs, reversals, and what was recorded.",
    "holds": "Reserve money, and capture or release it later.",
    "schedules": "Transfers that are executed later.",
    "history": "Statements, and balances as of a time.",
    "approvals": "What others have to approve before it is posted.",
    "webhooks": "Events as signed requests to your own endpoints.",
    "currencies": "Currencies, and units of the caller's own.",
    "ledgers": "Closed books with accounts of their own.",
    "reports": "Sums over a whole ledger.",
    "audit": "Who did what, refusals included.",
    "events": "Everything that is recorded, as it is recorded.",
    "operations": "What is verified and measured.",
    "health": "The state of the process.",
}

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
        title=TITLE,
        version=__version__,
        description=DESCRIPTION,
        redirect_slashes=False,
        servers=SERVERS,
        license_info={"name": "Apache 2.0", "identifier": "Apache-2.0"},
        openapi_tags=[{"name": name, "description": about} for name, about in TAGS.items()],
    )
    for route in [route for route in api.routes if isinstance(route, Route)]:  # /openapi.json
        api.add_route(f"{route.path}/", route.endpoint, include_in_schema=False)
    for path, page in (("/", index), ("/docs", docs), ("/docs/", docs)):
        api.add_route(path, page, include_in_schema=False)
    for router in ROUTERS:
        api.include_router(router)
    api.openapi = partial(_described, api.openapi)  # type: ignore[method-assign]
    for error in (ProblemError, LedgerError, Exception):
        api.add_exception_handler(error, _fault)
    api.add_exception_handler(HTTPException, _http)
    return api


def _described(describe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """FastAPI's description, with the schemas that it refers to."""
    describe_all()
    description = describe()
    description["components"] = {"schemas": components(), "securitySchemes": SECURITY_SCHEMES}
    description["security"] = []
    return description


async def _fault(_: Request, error: Exception) -> Response:
    return response(*problem_of(error))


async def _http(request: Request, error: Any) -> Response:
    if error.status_code != 405:
        return response(*problem("not_found"))
    allowed = _methods_of(request.scope) or sorted(error.headers["Allow"].split(", "))
    status, body, headers = problem("method_not_allowed", allowed=allowed)
    return response(status, body, headers | {"allow": ", ".join(allowed)})


def _methods_of(scope: Scope) -> list[str]:
    """All methods of a path; FastAPI reports only those of the first route with the path."""
    all_routes = [route for router in ROUTERS for route in router.routes]
    routes = [route for route in all_routes if route.matches(scope)[0] is not Match.NONE]
    return sorted({method for route in routes for method in getattr(route, "methods", ())})
