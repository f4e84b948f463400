"""The ASGI application: FastAPI, its faults as problem+json, and the runtime's life."""

import gc
import logging
import traceback
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from ledgerservice import __version__
from ledgerservice.api.problems import CATALOGUE, Refused, problem_response
from ledgerservice.api.routes import router
from ledgerservice.errors import LedgerError, Overloaded, Unavailable
from ledgerservice.runtime import Runtime, running
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
    api.include_router(router)
    api.add_exception_handler(Refused, _refused)
    api.add_exception_handler(LedgerError, _fault)
    api.add_exception_handler(RequestValidationError, _invalid_query)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(Exception, _unforeseen)
    return api


async def _refused(_: Request, error: Any) -> Response:
    return problem_response(error.code, **error.facts)


async def _fault(_: Request, error: Exception) -> Response:
    if isinstance(error, Overloaded):
        return problem_response("overloaded")
    return problem_response("unavailable" if isinstance(error, Unavailable) else "internal_error")


async def _invalid_query(_: Request, error: Any) -> Response:
    faults = [{"field": str(fault["loc"][-1]), "message": fault["msg"]} for fault in error.errors()]
    return problem_response("invalid_request", errors=faults)


async def _http(_: Request, error: Any) -> Response:
    code = "method_not_allowed" if error.status_code == 405 else "not_found"
    response = problem_response(code)
    response.headers.update(error.headers or {})
    return response


async def _unforeseen(_request: Request, _error: Exception) -> Response:
    return problem_response("internal_error")


class Service:
    """The whole service as an ASGI application: starts the runtime, serves, stops it."""

    def __init__(
        self, settings: Settings | None = None, announce: Callable[[], None] = lambda: None
    ) -> None:
        """`settings`: None reads the environment at start-up. `announce` is called when ready."""
        self._settings = settings
        self._announce = announce
        self._api = create_api()
        self._life: AbstractAsyncContextManager[Runtime] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI call; the lifespan is answered here."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._api(scope, receive, send)

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
        self._announce()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        self._life = running(self._settings or Settings.load())
        self._api.state.runtime = await self._life.__aenter__()
        # What start-up has made stays: full collections that walk it took 77 ms, twice a second.
        gc.collect()
        gc.freeze()

    async def _stop(self) -> None:
        assert self._life is not None
        await self._life.__aexit__(None, None, None)
