"""One request to an endpoint, and what came of it."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from ssl import SSLContext
from typing import Any

import httpcore
import httpx
import msgspec
from httpcore import AsyncNetworkBackend, AsyncNetworkStream

from ledgerservice.feed.webhooks.addresses import PORTS, Guard, HostUnknown, UrlRefused, parsed
from ledgerservice.feed.webhooks.signing import signed_headers

TIMEOUT_S = 15.0
KEEP_ALIVE_S = 5.0
MAX_ANSWER_BYTES = 65_536
GONE = 410


class Attempt(msgspec.Struct, frozen=True):
    """What came of a request. `error` is a class of errors; None if there was an answer."""

    at: datetime
    duration_ms: int
    status: int | None = None
    error: str | None = None
    retry_after_s: float = 0

    @property
    def succeeded(self) -> bool:
        """Whether the endpoint has the event."""
        return self.status is not None and 200 <= self.status <= 299


class _CheckedBackend(AsyncNetworkBackend):
    """Connects to addresses that were checked by the connection itself."""

    def __init__(self, guard: Guard, scheme: str) -> None:
        self._guard = guard
        self._scheme = scheme
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  (httpcore's)
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> AsyncNetworkStream:
        """A connection to the first address of the host that accepts one."""
        fault: Exception = UrlRefused()
        for address in await self._guard.addresses_of(self._scheme, host, port):
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                fault = error
        raise fault


class Sender:
    """Sends requests. It follows no redirect, and takes no proxy from the environment."""

    def __init__(self, guard: Guard, timeout_s: float = TIMEOUT_S) -> None:
        self._guard = guard
        self._timeout_s = timeout_s
        self._pools = {
            scheme: httpcore.AsyncConnectionPool(
                ssl_context=_trusted(),
                max_connections=None,
                keepalive_expiry=KEEP_ALIVE_S,
                network_backend=_CheckedBackend(guard, scheme),
            )
            for scheme in PORTS
        }

    async def send(self, url: str, secrets: Sequence[str], message_id: str, body: bytes) -> Attempt:
        """Send an event once. All failures are attempts."""
        at, begun_s = datetime.now(UTC), time.monotonic()
        headers = {
            **signed_headers(secrets, message_id, at, body),
            "content-type": "application/json",
            "user-agent": "ledgerservice",
        }
        try:
            async with asyncio.timeout(self._timeout_s):
                outcome = await self._post(url, headers, body)
        except Exception as error:  # noqa: BLE001  (whatever an endpoint does stops no other one)
            outcome = {"error": _name_of(error)}
        return Attempt(at, round((time.monotonic() - begun_s) * 1000), **outcome)

    async def _post(self, text: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
        url = parsed(text)
        target = httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )
        sent = [(b"host", url.netloc), *((n.encode(), v.encode()) for n, v in headers.items())]
        sent.append((b"content-length", str(len(body)).encode()))
        async with self._pools[url.scheme].stream(
            "POST", target, headers=sent, content=body
        ) as answer:
            await _read(answer)
            return {"status": answer.status, "retry_after_s": _retry_after_s(answer.headers)}

    async def check(self, url: str) -> None:
        """Raises UrlRefused for a URL that nothing is sent to."""
        await self._guard.check(url)

    async def close(self) -> None:
        """Close the connections."""
        for pool in self._pools.values():
            await pool.aclose()


@lru_cache
def _trusted() -> SSLContext:
    return httpx.create_ssl_context()


async def _read(answer: httpcore.Response) -> None:
    """Read an answer to its end, so that the connection can be used again; but not a long one."""
    size = 0
    async for piece in answer.aiter_stream():
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            return


def _retry_after_s(headers: Iterable[tuple[bytes, bytes]]) -> float:
    values = [value for name, value in headers if name.lower() == b"retry-after"]
    return float(values[0]) if values and values[0].isdigit() and len(values[0]) < 9 else 0.0


def _name_of(error: Exception) -> str:
    """The class of an error, without its text: that may have a part of the URL or of an answer."""
    if isinstance(error, HostUnknown):
        return "host_unknown"
    if isinstance(error, UrlRefused):
        return "address_refused"
    if isinstance(error, TimeoutError | httpcore.TimeoutException):
        return "timeout"
    if isinstance(error, httpcore.ConnectError):
        return "connect_failed"
    if isinstance(error, httpcore.ProtocolError):
        return "invalid_answer"
    return "connection_lost" if isinstance(error, httpcore.NetworkError) else "failed"
