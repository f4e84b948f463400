"""The ASGI application: FastAPI, its faults as problem+json, and the runtime's life."""

import gc
import logging
import re
import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from starlette.types import Message, Receive, Scope, Send

from ledgerservice import __version__
from ledgerservice.api.http.openapi import COMPONENTS, response
from ledgerservice.api.http.pages import OUTSIDE
from ledgerservice.api.http.problems import CATALOGUE, ProblemError, problem
from ledgerservice.api.movements import routes as writes
from ledgerservice.api.movements.forms import FORMS, Form
from ledgerservice.api.movements.posting import A_DRY_RUN, LEDGER, Call, Reply, move, problem_of
from ledgerservice.api.resources import accounts as routes
from ledgerservice.api.resources import statements as reading
from ledgerservice.api.resources import transactions as lists
from ledgerservice.errors import LedgerError
from ledgerservice.postgres.connections import Database
from ledgerservice.runtime import Runtime, posting, running
from ledgerservice.settings import Settings

log = logging.getLogger(__name__)

ROUTERS = (writes.router, lists.router, routes.router, reading.router)

DESCRIPTION = """
Accounts, deposits, withdrawals and transfers, on PostgreSQL.

All routes work on the default ledger, and on another one below its path:
`/ledgers/{name}/accounts`, `/ledgers/{name}/transfer`; choose it among the servers.

Every movement carries an idempotency key: sent again, it gets the original answer and moves
nothing. Every refusal is problem+json with a stable `code`, and says in `retry` whether sending
again is safe.

| code | status | retry | what it says |
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
    """The FastAPI application; its state.runtime is set by whoever runs it."""
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
    for route in [route for route in api.routes if isinstance(route, Route)]:  # the description's
        api.add_route(f"{route.path}/", route.endpoint, include_in_schema=False)
    for path in ("/docs", "/docs/"):
        api.add_route(path, _docs, include_in_schema=False)
    for router in ROUTERS:
        api.include_router(router)
    api.openapi = partial(_described, api.openapi)  # type: ignore[method-assign]
    api.add_exception_handler(ProblemError, _fault)
    api.add_exception_handler(LedgerError, _fault)
    api.add_exception_handler(Exception, _fault)
    api.add_exception_handler(RequestValidationError, _invalid_query)
    api.add_exception_handler(HTTPException, _http)
    return api


async def _docs(request: Request) -> Response:
    """The description as a page, with nothing of another server's."""
    root = request.scope.get("root_path", "")
    return get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="Ledger service",
        swagger_js_url=f"{root}{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{root}{ASSETS}/favicon.png",
    )


def _described(describe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The framework's description, with the schemas that it refers to and does not know."""
    description = describe()
    description["components"]["schemas"] |= COMPONENTS
    return description


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
    every = [route for router in ROUTERS for route in router.routes]
    routes = [route for route in every if route.matches(scope)[0] is not Match.NONE]
    return sorted({method for route in routes for method in getattr(route, "methods", ())})


# The money routes by path. FastAPI has the same routes, for /docs, with the same handler.
MONEY_PATHS = {
    path: form
    for name, form in FORMS.items()
    if form.kind is not None
    for path in (f"/{name}", f"/{name}/")
}

_LEDGER_PATH = re.compile(r"/ledgers/([^/]+)(/[^/].*)")


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
            return
        if scope["type"] == "http":
            if scope["query_string"] == A_DRY_RUN:
                send = _marked(send)
            if scope["path"].startswith("/ledgers/") and (
                within := _LEDGER_PATH.fullmatch(scope["path"])
            ):
                try:
                    scope = await self._within(scope, *within.groups())
                except Exception as error:  # noqa: BLE001  (every request is answered)
                    await _send(send, problem_of(error))
                    return
            if scope["method"] == "POST" and (form := MONEY_PATHS.get(scope["path"])):
                await self._move(form, scope, receive, send)
                return
        await self._api(scope, receive, send)

    async def _within(self, scope: Scope, name: str, path: str) -> Scope:
        """The same request, to the ledger that its path names."""
        ledger = await self._api.state.runtime.ledger_id(name)
        if ledger is None:
            raise ProblemError("ledger_not_found")
        _, slash, inner = scope["raw_path"].partition(b"?")[0][len(b"/ledgers/") :].partition(b"/")
        if not slash:  # it was an encoded one
            raise ProblemError("not_found")
        outside = scope.get("root_path", "") + f"/ledgers/{name}"
        return {**scope, LEDGER: ledger, "path": path, "raw_path": slash + inner, OUTSIDE: outside}

    async def _move(self, form: Form, scope: Scope, receive: Receive, send: Send) -> None:
        """A money route without the framework, which costs more than the movement."""
        try:
            call = Call.of(self._api.state.runtime, scope, receive)
            reply = await move(call, form)
        except Exception as error:  # noqa: BLE001  (every request is answered)
            reply = problem_of(error)
        await _send(send, reply)

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


def _marked(send: Send) -> Send:
    """Every answer to a dry run says that it is one, refusals and streams too."""

    async def send_marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"dry-run", b"true")]
        await send(message)

    return send_marked


async def _send(send: Send, reply: Reply) -> None:
    status, body, headers = reply
    headers["content-length"] = str(len(body))
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
