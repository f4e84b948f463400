"""The metrics of the process that answers, for whoever does not reach its listener."""

from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ledgerservice import __version__
from ledgerservice.access.grants import everywhere
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.call import runtime_of
from ledgerservice.api.http.openapi import get
from ledgerservice.telemetry.exporter import CONTENT_TYPE, exposition

router = APIRouter(tags=["operations"])


@get(router, "/metrics", None, media_types=("text/plain",), need=everywhere(Scope.METRICS_READ))
async def get_metrics(request: Request) -> Response:
    """The metrics of the process that answers, in the text format of Prometheus.

    They are a second old at most. Each process has its own. With several, scrape their listeners
    instead (LEDGER_METRICS_PORT).
    """
    runtime = runtime_of(request)
    runtime.sample()
    page = await runtime.metrics_page.current(partial(exposition, __version__))
    return Response(page, media_type=CONTENT_TYPE)
