"""HTTP/1.1 as uvicorn speaks it, with bounds on what one connection makes the process hold.

uvicorn takes a head of any length, and reads on while requests of the same connection wait: one
socket could make it grow by gigabytes.
"""

import asyncio
import ssl
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import unquote

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from ledgerservice.api.http.authentication import EXTENSIONS, TLS
from ledgerservice.api.http.connections import Connections
from ledgerservice.api.http.head import BOUNDED, MAX_HEAD_BYTES
from ledgerservice.api.http.problems import problem, problem_reply
from ledgerservice.settings import Settings
from ledgerservice.telemetry.exchanges import new_request_id

MAX_WAITING_REQUESTS = 256
CONTINUE = b"HTTP/1.1 100 "
TLS_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}


class _Joined:
    """A transport that sends an answer's head together with its body: one system call, not two.

    A head is what ends with an empty line; uvicorn writes it by itself.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.send = transport.write
        """Writes a whole answer; nothing of another one may wait."""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n") and not self._head and not data.startswith(CONTINUE):
            self._head = data
        else:
            self._transport.write(self._head + data)
            self._head = b""

    def flush(self) -> None:
        """Send a head that no body followed."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def connections_of(settings: Settings) -> Connections:
    """The connections of a process that is yet to start."""
    status, body, headers = problem_reply("overloaded")
    headers |= {"content-length": str(len(body)), "connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return Connections(settings, f"HTTP/1.1 {status} Busy\r\n{lines}\r\n".encode() + body)


def _tls_of(transport: asyncio.Transport) -> dict[str, Any] | None:
    """ASGI's extension for TLS; None without a certificate of the client, which was verified."""
    connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    certificate = None if connection is None else connection.getpeercert(binary_form=True)
    if connection is None or certificate is None:
        return None
    return {
        "server_cert": None,
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(certificate)],
        "client_cert_name": None,  # what stands for a principal is read from the chain
        "client_cert_error": None,
        "tls_version": TLS_VERSIONS.get(connection.version() or ""),
        "cipher_suite": None,
    }


Raw = tuple[bytes, bytes]
"""The name and the value of a header, as ASGI has them."""


@lru_cache(1_000)
def _line(header: Raw) -> bytes:
    """The line of a header. Raises RuntimeError where uvicorn does."""
    name, value = header
    if HEADER_RE.search(name):
        raise RuntimeError("Invalid HTTP header name.")
    if HEADER_VALUE_RE.search(value):
        raise RuntimeError("Invalid HTTP header value.")
    return b"%b: %b\r\n" % (name.lower(), value)


@lru_cache(1_000)
def _target_of(url: bytes) -> tuple[str, bytes, bytes]:
    """The path of a request's target, as text and as it was sent, and the query."""
    parsed = httptools.parse_url(url)
    path = parsed.path.decode("ascii")
    return unquote(path) if "%" in path else path, parsed.path, parsed.query or b""


class Cycle(RequestResponseCycle):
    """A request on a connection and its answer, as uvicorn has them.

    It is made in a fifth of the time, and `reply` writes a whole answer in a tenth of what two
    messages take. What it has before the request goes on stands in the class.
    """

    disconnected = False
    waiting_for_100_continue = False
    more_body = True
    response_started = False
    response_complete = False
    chunked_encoding = None
    expected_content_length = 0

    def __init__(self, connection: "BoundedHttp", *, keep_alive: bool) -> None:
        self.scope = connection.scope
        self.transport = connection.transport
        self.flow = connection.flow
        self.logger = connection.logger
        self.access_log = False
        self.loop, self.tasks = connection.loop, connection.tasks
        self.default_headers = connection.server_state.default_headers
        self.on_response = connection.on_response_complete
        self.keep_alive = keep_alive
        self.body = bytearray()

    @cached_property
    def message_event(self) -> asyncio.Event:  # type: ignore[override]
        """Set when there is something to receive. Most requests are whole and never wait."""
        event = asyncio.Event()
        if self.body or not self.more_body or self.disconnected or self.response_complete:
            event.set()
        return event

    def notify(self) -> None:
        """There is something to receive."""
        if (event := self.__dict__.get("message_event")) is not None:
            event.set()

    def can_reply(self) -> bool:
        """Whether `reply` can be called now."""
        return not (self.response_started or self.disconnected or self.flow.write_paused)

    def reply(self, status: int, headers: list[Raw], request_id: bytes, body: bytes) -> None:
        """Write a whole answer, with one system call: the same bytes as by `send`.

        `headers` have the length of the body, and none is about the connection.
        """
        self.response_started = self.response_complete = True
        lines = [STATUS_LINE[status], *map(_line, self.default_headers), *map(_line, headers)]
        lines.append(request_id)
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        if self.scope["method"] != "HEAD":
            lines.append(body)
        self.transport.send(b"".join(lines))  # type: ignore[attr-defined]
        self.notify()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


class BoundedHttp(HttpToolsProtocol):
    """Ends a connection with too long a head or trailer, or too many requests at once, and one
    that waits for too long.
    """

    _head_bytes = 0
    _is_further = False
    _is_quiet = False
    _undecided: Cycle | None = None
    """A request that `door` may take, if its body has come with its head."""
    _tls: dict[str, Any] | None = None

    def __init__(self, *, bounds: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.bounds = bounds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Joined(transport))  # type: ignore[arg-type]
        self._tls = _tls_of(transport)
        self._door = getattr(self.config.loaded_app, "door", None)
        self._is_further = not self.bounds.open(self)
        if self._is_further:
            self.app = self._answer_health

    def connection_lost(self, exc: Exception | None) -> None:
        self.bounds.close(self)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self.bounds.block(self)
        super().pause_writing()

    def resume_writing(self) -> None:
        self.bounds.unblock(self)
        super().resume_writing()

    async def _answer_health(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application on a connection beyond the limit."""
        if scope["path"].startswith("/health/"):
            await self.config.loaded_app(scope, receive, send)
            return
        self.bounds.refuse()
        status, body, headers = problem("overloaded")
        headers["content-length"] = str(len(body))
        headers["x-request-id"] = new_request_id()
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._undecided is not None:
            self._decide(self._undecided)
        if self._is_quiet:
            self._is_quiet = False
            self.bounds.begin(self)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_WAITING_REQUESTS:
            raise ValueError("too many requests wait on one connection")
        super().on_message_begin()
        self.scope[BOUNDED] = True  # type: ignore[literal-required]
        if self._tls is not None:
            self.scope[EXTENSIONS] = {TLS: self._tls}  # type: ignore[literal-required]

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        self._is_quiet = False
        self.bounds.answer(self)
        if self.expect_100_continue or self.root_path or self.parser.should_upgrade():
            super().on_headers_complete()
        else:
            self._begin_cycle()
        self.headers = []  # for trailers, which nobody reads: they must not join the headers
        if self._is_further:
            self.cycle.keep_alive = False

    def _begin_cycle(self) -> None:
        """Does what uvicorn does for a request without an Expect, Upgrade or root path."""
        scope, version = self.scope, self.parser.get_http_version()
        scope["method"] = self.parser.get_method().decode("ascii")
        if version != "1.1":
            scope["http_version"] = version
        scope["path"], scope["raw_path"], scope["query_string"] = _target_of(self.url)
        is_lasting = version != "1.0" and self.parser.should_keep_alive()
        before, self.cycle = self.cycle, Cycle(self, keep_alive=is_lasting)
        if before is None or before.response_complete:
            if self._door is not None and scope["method"] == "POST" and not self._is_further:
                self._undecided = self.cycle
            else:
                self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _decide(self, cycle: Cycle) -> None:
        """Begin a request when what has come with its head is known."""
        self._undecided = None
        is_whole = not (cycle.more_body or self.transport.is_closing())
        if not (is_whole and self._door is not None and self._door.take(cycle)):
            self._start_asgi_task(cycle, self.app)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        cycle = self.cycle
        if type(cycle) is not Cycle:
            super().on_body(body)
        elif not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.notify()

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        cycle = self.cycle
        if type(cycle) is not Cycle:
            super().on_message_complete()
        elif not cycle.response_complete:
            cycle.more_body = False
            cycle.notify()

    def on_response_complete(self) -> None:
        """Begins the next request. Reads on only when every request that was read was taken up."""
        transport = self.transport
        transport.flush()  # type: ignore[attr-defined]
        self.server_state.total_requests += 1
        if not transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
        # `bounds` ends a connection that waits, without a timer for each answer.
        if self.cycle.response_complete:
            self._is_quiet = True
            self.bounds.wait(self)
        if self.pipeline and not transport.is_closing():
            self.flow.pause_reading()

    def send_400_response(self, msg: str) -> None:
        """An answer only where none is due: it would be taken for that of the request before."""
        if self.cycle is None or self.cycle.response_complete:
            super().send_400_response(msg)
        else:
            self.transport.close()
