"""How the layers of the application send answers, and the headers that every answer has."""

from collections.abc import Awaitable, Callable

from fastapi.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ledgerservice.api.http.observing import note_answer, note_whole_answer
from ledgerservice.api.http.problems import Reply
from ledgerservice.api.http.protocol import Cycle

App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

PRIVATE: list[Header] = [
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
]
"""An answer has balances: no browser and no proxy keeps it, or takes it for another type."""
UNFRAMED: list[Header] = [
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
]
PROTECTED = [*UNFRAMED, PRIVATE[0]]


def sending(send: Send, added: list[Header]) -> Send:
    """Sends answers with headers that they do not have yet, and notes them."""

    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            names = {name for name, _ in headers}
            more = [header for header in added if header[0] not in names]
            message["headers"] = [*headers, *more, *note_answer(message["status"])]
        await send(message)

    return send_with


def _cycle_of(send: Send) -> Cycle | None:
    """What can write a whole answer now, unless another part of the application has put something
    in the place of its `send`.
    """
    cycle = getattr(send, "__self__", None)
    return cycle if type(cycle) is Cycle and cycle.can_reply() else None


async def send_response(
    response: Response, scope: Scope, receive: Receive, send: Send, added: list[Header]
) -> None:
    """Send an answer as FastAPI has it, with headers that it does not have yet."""
    cycle = _cycle_of(send)
    if cycle is None or type(response) is not Response or response.background is not None:
        await response(scope, receive, sending(send, added))
        return
    headers = response.raw_headers
    names = {name for name, _ in headers}
    headers = headers + [header for header in added if header[0] not in names]
    cycle.reply(
        response.status_code,
        headers,
        note_whole_answer(response.status_code),
        bytes(response.body),
    )


def write_reply(send: Send, reply: Reply) -> bool:
    """Send an answer at once, if that is possible."""
    cycle = _cycle_of(send)
    status, body, headers = reply
    if cycle is None or "connection" in headers:
        return False
    cycle.reply(status, _raw(reply), note_whole_answer(status), body)
    return True


def _raw(reply: Reply) -> list[Header]:
    _, body, headers = reply
    headers["content-length"] = str(len(body))
    return [(name.encode(), value.encode()) for name, value in headers.items()] + PRIVATE


async def send_reply(send: Send, reply: Reply) -> None:
    """Send an answer."""
    if write_reply(send, reply):
        return
    status, body, _ = reply
    raw = [*_raw(reply), *note_answer(status)]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
