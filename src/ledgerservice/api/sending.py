"""How the layers of the application send answers, and the headers that every answer has."""

from collections.abc import Awaitable, Callable

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


async def send_reply(send: Send, reply: Reply) -> None:
    """Send an answer."""
    status, body, headers = reply
    headers["content-length"] = str(len(body))
    raw = [(name.encode(), value.encode()) for name, value in headers.items()] + PRIVATE
    # What another part of the application has put in the place of the cycle's `send` comes first.
    cycle = getattr(send, "__self__", None)
    if type(cycle) is Cycle and cycle.can_reply() and "connection" not in headers:
        cycle.reply(status, raw, note_whole_answer(status), body)
        return
    raw += note_answer(status)
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
