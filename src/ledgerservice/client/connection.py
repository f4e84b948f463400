"""The HTTP connection of a client: requests that are sent again until an answer is final."""

import asyncio
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from time import monotonic
from typing import Any
from urllib.parse import quote
from urllib.request import getproxies, proxy_bypass

import httpx
import msgspec

from ledgerservice.client.errors import Answer, ClientError, error_of, no_answer
from ledgerservice.client.retries import pause_s, retry_after_s
from ledgerservice.client.streams import Stream, Take

JSON, NDJSON = "application/json", "application/x-ndjson"
DEFAULT_LEDGER = "default"
BATCHES = "/batches/"


class _Result(msgspec.Struct, gc=False):
    index: int
    status: int
    body: msgspec.Raw


class _Results(msgspec.Struct):
    results: list[_Result]


_decode_results = msgspec.json.Decoder(_Results).decode


class Connection:
    """A service and a ledger of it. Its requests raise ClientError.

    A request is sent again, for `give_up_s` at most, as long as its answers say `same_key` or none
    arrives.
    """

    def __init__(
        self,
        url: str,
        *,
        ledger: str,
        api_key: str | None,
        signing_key: bytes | None,
        verify: ssl.SSLContext | bool,
        timeout_s: float,
        give_up_s: float,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._prefix = "" if ledger == DEFAULT_LEDGER else f"/ledgers/{quote(ledger, safe='')}"
        self.timeout_s, self.give_up_s = timeout_s, give_up_s
        self._tls = verify if isinstance(verify, ssl.SSLContext) else _context(verify=verify)
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            verify=self._tls,
            timeout=timeout_s,
            auth=None if signing_key is None else _signer(api_key, signing_key),
            transport=transport,
        )
        is_plain = signing_key is None and transport is None
        self._may_stream = is_plain and not _has_proxy(self._http.base_url)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        key: str | None = None,
        timeout_s: float | None = None,
    ) -> httpx.Response:
        """The answer to a request, when it is one of success. Raises ClientError."""
        request = self._http.build_request(
            method,
            self._prefix + path,
            content=None if body is None else msgspec.json.encode(body),
            params=params,
            headers=_headers(body, key),
            timeout=timeout_s or self.timeout_s,
        )
        end_s, failures = monotonic() + self.give_up_s, 0
        while True:
            try:
                return await self._answer(request)
            except ClientError as error:
                error.key = key
                wait_s = pause_s(failures, error.retry_after_s)
                if not error.passes or monotonic() + wait_s > end_s:
                    raise
            failures += 1
            await asyncio.sleep(wait_s)

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        try:
            response = await self._http.send(request)
        except httpx.TransportError as error:
            raise no_answer(error) from error
        if not response.is_success or response.status_code == HTTPStatus.ACCEPTED:
            raise error_of(_answer_of(response))
        return response

    @property
    def may_stream(self) -> bool:
        """Whether a stream can be tried. The digest of one is known at its end only, so it cannot
        be signed, and it does not go through httpx's proxies and transports.
        """
        return self._may_stream

    async def open_stream(self, take: Take) -> Stream:
        """Begin a stream of lines. Raises OSError."""
        request = self._http.build_request("POST", self._prefix + BATCHES)
        kept = ("user-agent", "authorization")
        headers = {name: request.headers[name] for name in kept if name in request.headers}
        headers["Content-Type"] = NDJSON
        return await Stream.open(request.url, headers, self._tls, take)

    async def post_batch(self, lines: list[bytes]) -> list[Answer]:
        """The answers to items that are sent as a batch in JSON. Raises ClientError."""
        body = b'{"movements":[%b]}' % b",".join(lines)
        headers = {"Content-Type": JSON}
        path = self._prefix + BATCHES
        response = await self._answer(
            self._http.build_request("POST", path, content=body, headers=headers)
        )
        request_id = _request_id(response)
        try:
            results = _decode_results(response.content).results
        except msgspec.MsgspecError as error:
            raise no_answer(error) from error
        return [Answer(one.status, bytes(one.body), request_id) for one in results]


def _context(*, verify: bool) -> ssl.SSLContext:
    return httpx.create_ssl_context(verify=verify)


def _has_proxy(url: httpx.URL) -> bool:
    """Whether the environment names a proxy for it, as httpx sees it."""
    proxies = getproxies()
    return bool(proxies.get(url.scheme) or proxies.get("all")) and not proxy_bypass(url.host)


def _headers(body: Any, key: str | None) -> dict[str, str]:
    headers = {} if body is None else {"Content-Type": JSON}
    return headers if key is None else headers | {"Idempotency-Key": key}


def _request_id(response: httpx.Response) -> str | None:
    request_id: str | None = response.headers.get("x-request-id")
    return request_id


def _answer_of(response: httpx.Response) -> Answer:
    after_s = retry_after_s(response.headers.get("retry-after"))
    return Answer(response.status_code, response.content, _request_id(response), after_s)


def _signer(api_key: str | None, pem: bytes) -> httpx.Auth:
    """What signs each request. It needs the libraries of the service's dependencies."""
    from ledgerservice.access.keys import id_of  # noqa: PLC0415
    from ledgerservice.access.signatures import Signer  # noqa: PLC0415

    return Signer(id_of(api_key or "") or "", pem)
