"""Counts, times, traces and logs every request, and names it: the application's outermost layer."""

import re
from collections.abc import Iterable

from starlette.datastructures import State
from starlette.types import ASGIApp, Receive, Scope, Send

from ledgerservice.api.http.auditing import DENIED, record_replays, refuse
from ledgerservice.telemetry import requests, traces
from ledgerservice.telemetry.exchanges import CURRENT, Exchange, new_request_id
from ledgerservice.telemetry.metrics import IN_FLIGHT

REQUEST_ID = b"x-request-id"
_is_sane = re.compile(rb"[A-Za-z0-9._-]{1,64}").fullmatch


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The caller's X-Request-Id, if it is short and harmless, or a new one."""
    for name, value in headers:
        if name == REQUEST_ID:
            return value.decode() if _is_sane(value) else new_request_id()
    return new_request_id()


def note_answer(status: int) -> list[tuple[bytes, bytes]]:
    """The task's request is answered with this status; return the headers that name it.

    Called where answers begin, and not in a wrapper of `send`, which costs a microsecond.
    """
    exchange = CURRENT.get()
    if exchange is None:
        return []
    exchange.status = status
    return [(REQUEST_ID, exchange.request_id.encode())]


def note_whole_answer(status: int) -> bytes:
    """As `note_answer`, for an answer that is written as a whole: the header's line."""
    exchange = CURRENT.get()
    if exchange is None:
        return b""
    exchange.status = status
    return b"x-request-id: %b\r\n" % exchange.request_id.encode()


def observe(inner: ASGIApp, state: State) -> ASGIApp:
    """Observes what passes through this layer. What answers calls `note_answer`.

    Callers that are refused are in the audit log, and those that get the answers of others.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(request_id_of(scope["headers"]), scope["method"])
        CURRENT.set(exchange)
        traces.begin(exchange, scope["headers"])

        IN_FLIGHT.number += 1
        try:
            await inner(scope, receive, send)
        finally:
            IN_FLIGHT.number -= 1
            end(exchange, scope, state)

    return answer


def end(exchange: Exchange, scope: Scope, state: State) -> None:
    """Count, log and record a request that is answered."""
    duration_s = exchange.count()
    traces.end(exchange)
    if requests.CHOICE.has_line(exchange, duration_s):
        requests.write(exchange, duration_s)
    if exchange.status in DENIED or exchange.denial is not None:
        refuse(state.runtime, scope, exchange)
    if exchange.replays is not None:
        record_replays(state.runtime, scope, exchange)


def name_route(inner: ASGIApp, _: State) -> ASGIApp:
    """Lets the exchange know the scope in which the framework puts the route."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = CURRENT.get()
        if exchange is not None:
            exchange.scope = scope  # type: ignore[assignment]
        await inner(scope, receive, send)

    return answer
