"""Declaring routes: with and without a trailing slash, and with their OpenAPI description."""

import inspect
import re
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.convertors import Convertor, register_url_convertor

from ledgerservice.api.http.pages import Paging
from ledgerservice.api.http.parameters import Parameters, described
from ledgerservice.api.http.problems import ProblemDetails
from ledgerservice.api.http.schemas import answer_schema, request_schema


class _RowId(Convertor[str]):
    """A part of a path that is not the name of a route beside it, such as /accounts/batches."""

    regex = "(?!batches(?:/|$))[^/]+"

    def convert(self, value: str) -> str:
        """The text; `id_of` says whether it is an id."""
        return value

    def to_string(self, value: str) -> str:
        """The same."""
        return value


register_url_convertor("row", _RowId())

Handler = Callable[..., Any]
Parameter = dict[str, Any]
Links = dict[str, dict[str, str]]
"""By operation: the fields of the answer that are its path parameters."""

Responses = dict[int | str, dict[str, Any]]
Examples = dict[str, Any]
"""Bodies of requests by name. One that is named by a code of a problem gets that answer."""

WRITTEN = {
    "Idempotency-Replayed": {
        "description": "true: this is the original answer to an earlier request.",
        "schema": {"type": "boolean"},
    },
    "Dry-Run": {"description": "true: nothing was written.", "schema": {"type": "boolean"}},
}
"""The headers of an answer to a request that writes."""
_NEXT_PAGE = {
    "Link": {
        "description": "The next page (RFC 8288), `rel=next`. The last page has none.",
        "schema": {"type": "string"},
    }
}


def get(
    router: APIRouter,
    path: str,
    answer: Any,
    query: type[Parameters] | None = None,
    *,
    refusals: Sequence[int] | None = None,
    media_types: Sequence[str] = (),
    links: Links | None = None,
    headers: dict[str, Any] | None = None,
) -> Callable[[Handler], Handler]:
    """Declares a route that reads. It answers HEAD too.

    `answer` is the type that the answer is encoded from; it can have other `media_types` than JSON.
    `refusals` are the statuses of the problems; None: those of its path, its query and the
    database. `links` lead to other operations.
    """
    if refusals is None:
        refusals = [*([404] if "{" in path else ()), *([422] if query else ()), 503]
    is_list = query is not None and issubclass(query, Paging)
    sent = (_NEXT_PAGE if is_list else {}) | (headers or {})
    success = _success(answer, sent, media_types, links or {})
    parameters = described(query) if query else ()
    return _declare(router, "GET", path, 200, success, refusals, parameters)


def post(
    router: APIRouter,
    path: str,
    answer: Any,
    body: dict[str, Any],
    *,
    refusals: Sequence[int],
    parameters: Sequence[Parameter],
    status: int = 200,
    method: str = "POST",
    headers: dict[str, Any] = WRITTEN,
    links: Links | None = None,
    **declared: Any,
) -> Callable[[Handler], Handler]:
    """Declares a route that writes. `body` is the body's `body_schema`; the rest is as in `get`."""
    success = _success(answer, headers, (), links or {})
    return _declare(router, method, path, status, success, refusals, parameters, body, **declared)


def _declare(
    router: APIRouter,
    method: str,
    path: str,
    status: int,
    success: dict[str, Any],
    refusals: Sequence[int],
    parameters: Sequence[Parameter],
    body: dict[str, Any] | None = None,
    **declared: Any,
) -> Callable[[Handler], Handler]:
    """Registers a route with and without its trailing slash; neither redirects.

    The first line of the handler's docstring is the summary, the rest is the description.
    """
    declared["responses"] = {status: success, **_problems(refusals)}
    operation = {"parameters": [*_in_path(path), *parameters], **(body or {})}

    def register(handler: Handler) -> Handler:
        summary, _, description = inspect.cleandoc(handler.__doc__ or "").partition("\n\n")
        declared["summary"] = summary.rstrip(".").replace("`", "")  # no Markdown there
        declared["openapi_extra"] = operation
        declared["description"] = description or f"{summary.rstrip('.')}."
        name = declared.setdefault("name", handler.__name__)
        add = partial(router.add_api_route, endpoint=handler, response_model=None)
        add(path, methods=[method], status_code=status, operation_id=name, **declared)
        for other, by in _undeclared(path, method):
            add(other, methods=[by], include_in_schema=False)
        return handler

    return register


def _undeclared(path: str, method: str) -> list[tuple[str, str]]:
    other = path.rstrip("/") if path.endswith("/") else path + "/"
    heads = [(path, "HEAD"), (other, "HEAD")] if method == "GET" else []
    return [(other, method), *heads]


def body_schema(
    model: type[BaseModel],
    examples: Examples,
    without: str | None = None,
) -> dict[str, Any]:
    """The body of a request; `without` is a field that the path has instead.

    The examples can be sent as they stand, in the order of the description, to a new ledger.
    """
    schema = request_schema(model, without=without)
    named = {
        name: {"summary": name.replace("_", " ").capitalize(), "value": value}
        for name, value in examples.items()
    }
    content = {"application/json": {"schema": schema, "examples": named}}
    return {"requestBody": {"required": True, "content": content}}


# Answers.


def _success(
    answer: Any, headers: dict[str, Any], media_types: Sequence[str], links: Links
) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": answer_schema(answer)}}
    text = {"schema": {"type": "string"}}
    success = {
        "description": "Success",
        "content": content | dict.fromkeys(media_types, text),
        "headers": headers,
        "links": {name: _link(name, fields) for name, fields in links.items()},
    }
    return {name: member for name, member in success.items() if member}


def _link(operation: str, fields: dict[str, str]) -> dict[str, Any]:
    parameters = {name: f"$response.body#/{field}" for name, field in fields.items()}
    return {"operationId": operation, "parameters": parameters}


def _problems(statuses: Sequence[int]) -> Responses:
    content = {"application/problem+json": {"schema": answer_schema(ProblemDetails)}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


# Parameters that are not in a query model.

IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Identifies the request. A repeat gets the original answer. Instead of "
    "idempotency_key in the body.",
}
DRY_RUN = {
    "name": "dry_run",
    "in": "query",
    "schema": {"type": "boolean"},
    "description": "Return the answer that the request would get, and write nothing.",
}
FORCE_TOKEN = {
    "name": "Ledger-Force-Token",
    "in": "header",
    "schema": {"type": "string"},
    "description": "Required by `force`: the token of LEDGER_FORCE_TOKEN.",
}


def _in_path(path: str) -> list[Parameter]:
    """The parameters of a path. Handlers read them from the request: a text that is not a valid id
    gets 404, not 422.
    """
    return [
        {"name": name, "in": "path", "required": True, **_IN_PATH[name]}
        for name in re.findall(r"{(\w+)(?::\w+)?}", path)
    ]


_ID = {"type": "integer", "format": "int64"}
_TEXT = {"type": "string"}
_IN_PATH: dict[str, Any] = {
    "account_id": {"schema": _ID, "example": 1},
    "transaction_id": {"schema": _ID},
    "hold_id": {"schema": _ID},
    "schedule_id": {"schema": _ID},
    "webhook_id": {"schema": _ID, "example": 1},
    "key": {"schema": _TEXT, "example": "dep1"},
    "code": {"schema": _TEXT, "example": "USD"},
    "name": {"schema": _TEXT, "example": "default"},
}
"""The parameters of paths. Transactions have ids that an example cannot know."""
