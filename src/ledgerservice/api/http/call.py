"""What a handler needs to know of a request, and how it returns an answer."""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Self

import msgspec
from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope

from ledgerservice.access.covering import NO_PARENTS, Parents
from ledgerservice.access.grants import Caller
from ledgerservice.api.http.authentication import caller_of
from ledgerservice.api.http.problems import ProblemError, Reply, invalid
from ledgerservice.domain.instructions import BIGGEST_ID, is_key
from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.schema import DEFAULT_LEDGER
from ledgerservice.runtime import Runtime
from ledgerservice.shards import Shards

LEDGER = "ledgerservice.ledger"
"""The entry of a request's scope with the id of the ledger that the path names."""
RUNTIME = "ledgerservice.runtime"
"""The entry of a request's scope with the running parts of the shard that has this ledger."""
PART = "ledgerservice.part"
"""The entry of a request's scope with the part of that ledger that has what the path names."""
OUTSIDE = "ledgerservice.outside"
"""The entry of a request's scope with the part of the path that names the ledger."""

A_DRY_RUN = b"dry_run=true"
_DRY_RUN = {b"": False, b"dry_run=false": False, A_DRY_RUN: True}

JSON = "application/json"
_JSON = (b"content-type", JSON.encode())

Headers = Collection[tuple[bytes, bytes]]
"""The headers of a request as ASGI has them."""


class Call(NamedTuple):
    """A request that writes, without its body. `parents`: what it builds on, where that decides
    whether its caller may give it.
    """

    runtime: Runtime
    headers: Headers
    receive: Receive
    ledger: int
    dry_run: bool
    caller: Caller
    scope: Mapping[str, Any] = {}
    """The ASGI scope; nothing where the request did not come over HTTP."""
    parents: Parents = NO_PARENTS

    @classmethod
    def of(cls, runtime: Runtime, scope: Scope, receive: Receive) -> Self:
        """Refuses any query but `dry_run`, because a misspelt dry run must not move money."""
        query = scope["query_string"]
        if query not in _DRY_RUN:
            raise invalid("query", "must be dry_run=true or empty")
        ledger = scope.get(LEDGER, DEFAULT_LEDGER)
        caller = caller_of(scope)
        return cls(runtime, scope["headers"], receive, ledger, _DRY_RUN[query], caller, scope)


def call_of(request: Request) -> Call:
    """A request to a route that writes."""
    return Call.of(runtime_of(request), request.scope, request.receive)


def header_values(headers: Headers, name: bytes) -> list[str]:
    """All values of a header; `name` in lower case, as ASGI has the names.

    Blanks and tabs around a value are not part of it (RFC 9110, section 5.5): a proxy may take them
    away.
    """
    return [value.strip(b" \t").decode("latin-1") for header, value in headers if header == name]


def media_type(headers: Headers) -> str:
    """The media type of the body, without parameters."""
    if _JSON in headers:  # most have it just so, and no second one
        return JSON
    values = header_values(headers, b"content-type")
    return values[0].partition(";")[0].strip().lower() if values else ""


def has_body(headers: Headers) -> bool:
    """Whether the request has a body, according to its headers (RFC 9112, section 6)."""
    lengths = header_values(headers, b"content-length")
    return bool(header_values(headers, b"transfer-encoding")) or lengths not in ([], ["0"])


def key_of(headers: Headers) -> str | None:
    """The idempotency key of the header, or None."""
    keys = {value.strip(b" \t") for name, value in headers if name == b"idempotency-key"}
    if len(keys) > 1:
        raise ProblemError("idempotency_key_mismatch")
    return keys.pop().decode("latin-1") if keys else None


def checked_key(body_key: str | None, header_key: str | None) -> str:
    """The idempotency key, from the body or from the header."""
    if body_key is not None:
        if header_key not in (None, body_key):
            raise ProblemError("idempotency_key_mismatch")
        return body_key
    if header_key is None:
        raise ProblemError("idempotency_key_missing")
    if not is_key(header_key):
        raise ProblemError("idempotency_key_invalid")
    return header_key


def runtime_of(request: Request) -> Runtime:
    """The running parts of the shard that has the ledger of the request."""
    runtime: Runtime = request.scope.get(RUNTIME) or request.app.state.runtime
    return runtime


def shards_of(request: Request) -> Shards:
    """The shards of the service."""
    shards: Shards = request.app.state.shards
    return shards


def ledger_of(request: Request) -> int:
    """The id of the ledger that the path names."""
    ledger: int = request.scope.get(LEDGER, DEFAULT_LEDGER)
    return ledger


def home_of(request: Request) -> int:
    """The id of the ledger, or of the part of it, that has what the path names.

    Raises ProblemError if the path names nothing, and the ledger has parts.
    """
    scope = request.scope
    home: int = scope.get(PART) or scope.get(LEDGER, DEFAULT_LEDGER)
    if home in runtime_of(request).crossings.parts:
        raise ProblemError("ledger_has_parts")
    return home


def accounts_seen(request: Request, scope: int) -> frozenset[int] | None:
    """The accounts that the caller's grants of a scope cover; None: all of the ledger."""
    return caller_of(request.scope).sees(ledger_of(request), int(scope))


def directory_reader_of(request: Request) -> Reader:
    """A reader of what the directory has of the ledger that the path names."""
    return runtime_of(request).main.reader.of(ledger_of(request))


def reader_of(request: Request) -> Reader:
    """A reader of the ledger that the path names, or of the part that has what it names."""
    return runtime_of(request).reader.of(home_of(request))


async def readers_of(request: Request, account_id: int | None = None) -> list[Reader]:
    """The readers of all parts of the ledger that the path names, or of the one that has an
    account. Raises Unavailable.
    """
    runtime, ledger = runtime_of(request), ledger_of(request)
    parts = await runtime.parts_of(ledger)
    if parts is None or account_id is None or account_id < 0:
        return await runtime.readers_of(ledger)
    return [await runtime.crossings.reader_of(parts.home(account_id))]


async def go_to_part(request: Request, number: int | None, account_id: int | None) -> None:
    """Do the rest of a request on the part of this number, or on the one that has an account.

    Of a ledger without parts nothing is to be named. Raises ProblemError and Unavailable.
    """
    parts = runtime_of(request).crossings.parts.get(ledger_of(request))
    if number is None and account_id is not None and parts is not None:
        number = parts.number_of(account_id)
    if parts is None and number is None:
        return
    if number is None:
        raise ProblemError("ledger_has_parts")
    if parts is None or number >= len(parts.ids):
        raise ProblemError("part_unknown")
    request.scope[PART] = parts.ids[number]
    request.scope[RUNTIME] = await shards_of(request).runtime_of(parts.ids[number])


_ID = re.compile(r"-?[1-9][0-9]{0,18}", re.ASCII)


def id_of(request: Request, name: str, code: str) -> int:
    """An id of the path. Raises the problem `code` for a text that is not a valid id."""
    text = request.path_params[name]
    if _ID.fullmatch(text) and abs(number := int(text)) <= BIGGEST_ID:
        return number
    raise ProblemError(code)


def reply(status: int, body: bytes, *, replayed: bool) -> Reply:
    """An answer in JSON to a request that writes."""
    headers = {"content-type": "application/json" if status < 400 else "application/problem+json"}
    if replayed:
        headers["idempotency-replayed"] = "true"
    return status, body, headers


def response(status: int, body: bytes, headers: dict[str, str]) -> Response:
    """A reply as FastAPI sends it."""
    return Response(body, status, headers)


def created(answer: Any, *, replayed: bool) -> Response:
    """The answer to a request that adds something."""
    return response(*reply(201, msgspec.json.encode(answer), replayed=replayed))


def json_response(answer: Any, headers: dict[str, str] | None = None) -> Response:
    """The answer to a request that reads."""
    return Response(msgspec.json.encode(answer), headers=headers, media_type="application/json")
