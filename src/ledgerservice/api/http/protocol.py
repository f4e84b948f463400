"""HTTP/1.1 as uvicorn speaks it, with bounds on what one connection makes the process hold.

uvicorn takes a head of any length, and reads on while requests of the same connection wait: one
socket could make it grow by gigabytes.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ledgerservice.api.http.head import BOUNDED, MAX_HEAD_BYTES

MAX_WAITING_REQUESTS = 256
CONTINUE = b"HTTP/1.1 100 "


class _Joined:
    """A transport that sends an answer's head together with its body: one system call, not two.

    A head is what ends with an empty line; uvicorn writes it by itself.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""

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


class BoundedHttp(HttpToolsProtocol):
    """Ends a connection with too long a head or trailer, or too many requests at once."""

    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Joined(transport))  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_WAITING_REQUESTS:
            raise ValueError("too many requests wait on one connection")
        super().on_message_begin()
        self.scope[BOUNDED] = True  # type: ignore[literal-required]

    def on_headers_complete(self) -> None:
        self._head_bytes = 0
        super().on_headers_complete()
        self.headers = []  # for trailers, which nobody reads: they must not join the headers

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Reads on only when every request that was read has been taken up."""
        self.transport.flush()  # type: ignore[attr-defined]
        super().on_response_complete()
        if self.pipeline and not self.transport.is_closing():
            self.flow.pause_reading()

    def send_400_response(self, msg: str) -> None:
        """An answer only where none is due: it would be taken for that of the request before."""
        if self.cycle is None or self.cycle.response_complete:
            super().send_400_response(msg)
        else:
            self.transport.close()
