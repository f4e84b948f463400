"""Calls of the API in this process, through the same layers that answer HTTP.

A call has the connection of the request that it is made for: its client, its certificate and its
host. So the API authenticates, limits and audits it as if the reader had sent it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import msgspec
from starlette.types import Message, Receive, Scope, Send

App = Callable[[Scope, Receive, Send], Awaitable[None]]
Query = Mapping[str, Any]

LIMITED = "limited_to_accounts"
"""The problem of a key that has a scope on single accounts only."""
_KEPT = (b"host", b"forwarded", b"traceparent")
_KEPT_PREFIX = b"x-forwarded-"
_NEXT = 'rel="next"'


@dataclass(frozen=True)
class Answer:
    """What the API answered."""

    status: int
    headers: dict[str, str]
    content: bytes

    @cached_property
    def body(self) -> Any:
        """The JSON of the answer; None for one of another type."""
        kind = self.headers.get("content-type", "")
        return msgspec.json.decode(self.content) if "json" in kind else None

    @property
    def is_good(self) -> bool:
        """Whether it is what was asked for."""
        return self.status < 400

    @property
    def request_id(self) -> str:
        """The id of the call, which the log and the audit log have."""
        return self.headers.get("x-request-id", "")

    @property
    def code(self) -> str:
        """The code of the problem, or nothing."""
        return "" if self.is_good or not isinstance(self.body, dict) else self.body.get("code", "")

    @property
    def missing_scope(self) -> str | None:
        """The scope that the caller would need; None if that is not what is wrong."""
        return self.body.get("scope") if self.code == "scope_missing" else None

    @property
    def is_withheld(self) -> bool:
        """Whether the caller may not read it, by its scopes or because it has single accounts."""
        return self.missing_scope is not None or self.code == LIMITED

    @property
    def next_cursor(self) -> str | None:
        """The cursor of the next page of a list; None on the last one."""
        link, _, relation = self.headers.get("link", "").partition(">")
        if _NEXT not in relation:
            return None
        return dict(parse_qsl(urlsplit(link.lstrip("<")).query)).get("cursor")


class RefusedError(Exception):
    """The API refused a call that the page cannot do without."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.code)
        self.answer = answer


@dataclass
class Api:
    """The API as the reader of a page reaches it. `ledger`: None is the default one."""

    app: App
    scope: Scope
    authorization: str | None
    ledger: str | None = None

    def path(self, path: str) -> str:
        """A path of the API, on the ledger."""
        return path if self.ledger is None else f"/ledgers/{self.ledger}{path}"

    def url(self, path: str) -> str:
        """The URL of a call, as a signature of the request covers it."""
        host = next((value for name, value in self.scope["headers"] if name == b"host"), b"")
        return f"{self.scope['scheme']}://{host.decode('latin-1')}{_raw(self.path(path)).decode()}"

    async def send(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        signature: Mapping[str, str] | None = None,
    ) -> Answer:
        """Call the API. `body` is sent as JSON, bytes as they are; a query's empty values are left
        out. `signature` has the headers that sign the request.
        """
        is_json = body is not None and not isinstance(body, bytes)
        content = msgspec.json.encode(body) if is_json else body or b""
        exchange = _Exchange(content)
        scope = self._scope(method, path, query, content)
        for name, value in (signature or {}).items():
            scope["headers"].append((name.encode(), value.encode("latin-1", "replace")))
        await self._run(scope, exchange.receive, exchange.send)
        return exchange.answer()

    async def stream(self, path: str, query: Query, receive: Receive, send: Send) -> None:
        """Let the API answer the reader itself: a stream of events."""
        scope = self._scope("GET", path, query, b"", accept=b"text/event-stream")
        await self._run(scope, receive, send)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """In a task of its own: the layers keep what they know of a request in its context."""

        async def run() -> None:
            await self.app(scope, receive, send)

        await asyncio.create_task(run())

    def _scope(
        self,
        method: str,
        path: str,
        query: Query | None,
        content: bytes,
        accept: bytes = b"application/json",
    ) -> Scope:
        path = self.path(path)
        return {
            **self.scope,
            "method": method,
            "path": path,
            "raw_path": _raw(path),
            "query_string": encoded(query).encode(),
            "headers": self._headers(content, accept),
        }

    def _headers(self, content: bytes, accept: bytes) -> list[tuple[bytes, bytes]]:
        headers = [
            (name, value)
            for name, value in self.scope["headers"]
            if name in _KEPT or name.startswith(_KEPT_PREFIX)
        ]
        headers.append((b"accept", accept))
        if self.authorization is not None:
            headers.append((b"authorization", self.authorization.encode("latin-1", "replace")))
        if content:
            headers.append((b"content-type", b"application/json"))
            headers.append((b"content-length", str(len(content)).encode()))
        for name, value in self.scope["headers"]:
            if name == b"last-event-id":
                headers.append((name, value))
        return headers


def _raw(path: str) -> bytes:
    return quote(path, safe="/:@!$&'()*+,;=~-._").encode()


def encoded(query: Query | None) -> str:
    """A query as it stands in a URL, without its empty values. A list has one name many times."""
    kept = {name: value for name, value in (query or {}).items() if value not in (None, "", [])}
    return urlencode(kept, doseq=True)


@dataclass
class _Exchange:
    """The body of a call, and what is answered to it."""

    content: bytes
    parts: list[bytes] = field(default_factory=list)
    start: Message = field(default_factory=lambda: {"status": 500, "headers": []})
    is_sent: bool = False

    async def receive(self) -> Message:
        """The whole body, and then nothing for ever: the reader is still there."""
        if self.is_sent:
            await asyncio.Event().wait()
        self.is_sent = True
        return {"type": "http.request", "body": self.content, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
        elif message["type"] == "http.response.body":
            self.parts.append(message.get("body", b""))

    def answer(self) -> Answer:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in self.start["headers"]
        }
        return Answer(self.start["status"], headers, b"".join(self.parts))
