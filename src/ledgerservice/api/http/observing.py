"""Counts and times every request. The outermost layer of the application."""

from starlette.datastructures import State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledgerservice.api.http.auditing import DENIED, refuse
from ledgerservice.telemetry.exchanges import CURRENT, Exchange, new_request_id
from ledgerservice.telemetry.metrics import IN_FLIGHT


def observe(inner: ASGIApp, state: State) -> ASGIApp:
    """Observes what passes through this layer. Callers that are refused are in the audit log."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(new_request_id(), scope["method"])
        CURRENT.set(exchange)

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
            await send(message)

        try:
            with IN_FLIGHT:
                await inner(scope, receive, send_on)
        finally:
            exchange.count()
            if exchange.status in DENIED:
                refuse(state.runtime, scope, exchange)

    return answer


def name_route(inner: ASGIApp, _: State) -> ASGIApp:
    """Lets the exchange know the scope in which the framework puts the route."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        exchange = CURRENT.get()
        if exchange is not None:
            exchange.scope = scope  # type: ignore[assignment]
        await inner(scope, receive, send)

    return answer
