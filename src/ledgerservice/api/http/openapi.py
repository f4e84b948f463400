"""Declaring routes: with and without a trailing slash, and with their OpenAPI description."""

import inspect
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel

from ledgerservice.api.http.pages import Paging
from ledgerservice.api.http.parameters import Parameters, described
from ledgerservice.api.http.problems import ProblemDetails

Handler = Callable[..., Any]
Parameter = dict[str, Any]
Links = dict[str, dict[str, str]]
"""By operation: the fields of the answer that are its path parameters."""

Responses = dict[int | str, dict[str, Any]]

_ANSWER_REF = "#/components/schemas/{name}"
_REQUEST_REF = "#/components/schemas/{model}"


WRITTEN = {
    "Idempotency-Replayed": {
        "description": "true: this is the original answer to an earlier request.",
        "schema": {"const": "true"},
    },
    "Dry-Run": {"description": "true: nothing was written.", "schema": {"const": "true"}},
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
) -> Callable[[Handler], Handler]:
    """Declares a route that reads. It answers HEAD too.

    `answer` is the type that the answer is encoded from; it can have other `media_types` than JSON.
    `refusals` are the statuses of the problems; None: those of its path, its query and the
    database. `links` lead to other operations.
    """
    if refusals is None:
        refusals = [*([404] if "{" in path else ()), *([422] if query else ()), 503]
    is_list = query is not None and issubclass(query, Paging)
    success = _success(answer, _NEXT_PAGE if is_list else {}, media_types, links or {})
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
        declared["summary"] = summary.rstrip(".")
        declared["openapi_extra"] = operation | {"description": description}
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


# Schemas.

_answers: list[Any] = [ProblemDetails]
_requests: dict[str, Any] = {}


def components() -> dict[str, Any]:
    """All schemas that the description refers to."""
    _, answers = msgspec.json.schema_components(_answers, ref_template=_ANSWER_REF)
    assert not answers.keys() & _requests.keys(), "two schemas have the same name"
    return answers | _requests


def _schema(answer: Any) -> dict[str, Any]:
    _answers.append(answer)
    [schema], _ = msgspec.json.schema_components([answer], ref_template=_ANSWER_REF)
    return schema


def body_schema(
    model: type[BaseModel], others: dict[str, Any] | None = None, without: str | None = None
) -> dict[str, Any]:
    """The body of a request; `others` are further media types, `without` is a field that the path
    has instead.
    """
    schema = model.model_json_schema(ref_template=_REQUEST_REF)
    _requests.update(schema.pop("$defs", {}))
    if without is not None:
        del schema["properties"][without]
        schema["required"] = [name for name in schema["required"] if name != without]
    content = {"application/json": {"schema": schema}, **(others or {})}
    return {"requestBody": {"required": True, "content": content}}


# Answers.


def _success(
    answer: Any, headers: dict[str, Any], media_types: Sequence[str], links: Links
) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": _schema(answer)}}
    return {
        "content": content | {media_type: {} for media_type in media_types},
        "headers": headers,
        "links": {name: _link(name, fields) for name, fields in links.items()},
    }


def _link(operation: str, fields: dict[str, str]) -> dict[str, Any]:
    parameters = {name: f"$response.body#/{field}" for name, field in fields.items()}
    return {"operationId": operation, "parameters": parameters}


def _problems(statuses: Sequence[int]) -> Responses:
    schema = {"$ref": _ANSWER_REF.format(name=ProblemDetails.__name__)}
    content = {"application/problem+json": {"schema": schema}}
    return {status: {"description": "Problem", "content": content} for status in statuses}


# Parameters that are not in a query model.

IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string"},
    "description": "Identifies the request. A repeat gets the original answer.",
}
DRY_RUN = {
    "name": "dry_run",
    "in": "query",
    "schema": {"enum": ["true", "false"]},
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
        {"name": name, "in": "path", "required": True, "schema": _path_schema(name)}
        for name in re.findall(r"{(\w+)(?::path)?}", path)
    ]


def _path_schema(name: str) -> dict[str, Any]:
    return {"type": "integer", "format": "int64"} if name.endswith("_id") else {"type": "string"}
