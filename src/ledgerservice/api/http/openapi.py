"""How routes are declared: for the docs, with and without a trailing slash, and what they share."""

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, BeforeValidator

from ledgerservice.api.http import pages as cursors
from ledgerservice.api.http.fields import moment
from ledgerservice.api.http.problems import ProblemError
from ledgerservice.api.movements import answers as rendering
from ledgerservice.api.movements import models
from ledgerservice.api.movements.posting import LEDGER
from ledgerservice.domain.instructions import BIGGEST_ID
from ledgerservice.postgres.queries import as_of
from ledgerservice.postgres.queries.structs import TimePlace
from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.tables import DEFAULT_LEDGER
from ledgerservice.runtime import Runtime

Route = Callable[..., Any]
Row = TypeVar("Row")

_ID = re.compile(r"-?[1-9][0-9]{0,18}", re.ASCII)
DEFAULT_PAGE_ROWS = 100

_PLAIN_INTEGER = re.compile("-?[0-9]{1,20}", re.ASCII)


def plain_integer(text: str) -> int:
    """Digits and nothing else: pydantic would read 1_0 and ' 10' too."""
    if not _PLAIN_INTEGER.fullmatch(text):
        raise ValueError("must be an integer")
    return int(text)


Limit = Annotated[
    int,
    BeforeValidator(lambda value: value if isinstance(value, int) else plain_integer(value)),
    Query(ge=1, description="Rows in a page."),
]
Cursor = Annotated[str | None, Query(max_length=5_000, description="From the Link header.")]
IdempotencyKey = Annotated[
    str | None, Header(description="Names the request; a repeat gets the original answer.")
]


def both(router: APIRouter, method: str, path: str, **declared: Any) -> Callable[[Route], Route]:
    """Registers a route with and without its trailing slash; neither redirects.

    What answers GET answers HEAD too, which some who watch over a service send.
    """

    def register(route: Route) -> Route:
        declared.setdefault("operation_id", declared.get("name", route.__name__))
        router.add_api_route(path, route, methods=[method], response_model=None, **declared)
        other = path.rstrip("/") if path.endswith("/") else path + "/"
        undeclared = [(other, method)]
        if method == "GET":
            undeclared += [(path, "HEAD"), (other, "HEAD")]
        for place, by in undeclared:
            router.add_api_route(
                place, route, methods=[by], response_model=None, include_in_schema=False
            )
        return route

    return register


DryRun = Annotated[
    Literal["true", "false"] | None,
    Query(description="The exact answer it would give; nothing is written."),
]


_PROBLEM = models.ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
COMPONENTS = {**_PROBLEM.pop("$defs"), "ProblemDetails": _PROBLEM}
"""The schemas that the docs refer to, beside those that the framework finds."""


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Answers for the docs, each a problem."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    content = {"application/problem+json": {"schema": schema}}
    return {status: {"description": "Problem", "content": content} for status in statuses}


def listed(model: Any, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Answers for the docs: a page of a list, or a problem."""
    link = {
        "description": "The next page (RFC 8288), `rel=next`; without it this is the last.",
        "schema": {"type": "string"},
    }
    return {200: {"model": list[model], "headers": {"Link": link}}, **problems(*statuses)}


WRITTEN = {
    "headers": {
        "Idempotency-Replayed": {
            "description": "true: this is the original answer to an earlier request.",
            "schema": {"const": "true"},
        },
        "Dry-Run": {
            "description": "true: nothing was written.",
            "schema": {"const": "true"},
        },
    }
}
"""The headers of an answer to a request that writes, for the docs."""

FORCE_TOKEN = {
    "name": "Ledger-Force-Token",
    "in": "header",
    "schema": {"type": "string"},
    "description": "For `force`: the token of LEDGER_FORCE_TOKEN.",
}


def body_of(
    model: type[BaseModel], others: dict[str, Any] | None = None, without: str | None = None
) -> dict[str, Any]:
    """A body for the docs; `without` the field that stands in the path."""
    schema = model.model_json_schema()
    if without is not None:
        del schema["properties"][without]
        schema["required"] = [name for name in schema["required"] if name != without]
    content = {"application/json": {"schema": schema}, **(others or {})}
    return {"requestBody": {"required": True, "content": content}}


def in_path(**schemas: dict[str, Any]) -> dict[str, Any]:
    """Path parameters for the docs. Read from the request: an id that is none is 404, not 422."""
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": schema}
            for name, schema in schemas.items()
        ]
    }


AN_ID = {"type": "integer", "format": "int64"}


def leads_to(**links: dict[str, str]) -> dict[str, Any]:
    """Links for the docs: operations, and where in an answer their path parameters stand."""
    return {
        "links": {
            name: {
                "operationId": name,
                "parameters": {place: f"$response.body#/{field}" for place, field in of.items()},
            }
            for name, of in links.items()
        }
    }


def runtime_of(request: Request) -> Runtime:
    """The running parts."""
    runtime: Runtime = request.app.state.runtime
    return runtime


def id_of(request: Request, name: str, code: str) -> int:
    """An id out of a path; what is not an id names nothing."""
    text = request.path_params[name]
    if _ID.fullmatch(text) and abs(number := int(text)) <= BIGGEST_ID:
        return number
    raise ProblemError(code)


def response(status: int, body: bytes, headers: dict[str, str]) -> Response:
    """A handler's reply as FastAPI sends it."""
    return Response(body, status, headers)


def json_response(body: bytes, headers: dict[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Response(body, headers=headers, media_type="application/json")


def reader_of(request: Request) -> Reader:
    """Reads the ledger that the path names."""
    ledger = request.scope.get(LEDGER, DEFAULT_LEDGER)
    return runtime_of(request).reader.of(ledger)


def after_of(request: Request, cursor: str | None, filters: list[Any], first: int) -> int:
    """Where a page begins: after its cursor's place, or at the `first` one."""
    if cursor is None:
        return first
    [place] = cursors.decode(request, cursor, filters)
    return int(place)


def page_response(
    request: Request,
    found: Sequence[Row],
    limit: int,
    filters: list[Any],
    place: Callable[[Row], list[Any]],
    body: Callable[[Row], Any],
) -> Response:
    """The first `limit` rows of what was found; one more says that there is a page after them."""
    headers = None
    if len(found) > limit:
        cursor = cursors.encode(request, place(found[limit - 1]), filters)
        headers = cursors.next_link(request, cursor, limit=limit)
    return json_response(rendering.encode([body(row) for row in found[:limit]]), headers)


def ending_of(request: Request, cursor: str | None, filters: list[Any]) -> TimePlace | None:
    """Where a page of what ends begins."""
    if cursor is None:
        return None
    text, number = cursors.decode(request, cursor, filters)
    return None if text is None else datetime.fromisoformat(text), number


A_MOMENT = "A moment with its zone, such as 2026-12-31T23:59:59Z."


def moment_of(name: str, text: str | None) -> datetime | None:
    """A moment of a query. A `+` that was not escaped has come as a space."""
    if text is None:
        return None
    try:
        return moment(text.replace(" ", "+"))
    except ValueError as error:
        raise invalid(name, str(error)) from None


async def account_at(request: Request, text: str, name: str) -> as_of.AccountAt:
    """The account of the path as of a moment of the query."""
    number = id_of(request, "account_id", "account_not_found")
    at = moment_of(name, text)
    assert at is not None
    found = await as_of.account_at(reader_of(request), number, at)
    if found is None:
        raise ProblemError("account_not_found")
    return found


def check_query(request: Request, limit: int | None, *filters: str) -> None:
    """A misspelt filter must not list everything; PostgreSQL takes no NUL in a text.

    `limit` is None for what is no list.
    """
    longest = runtime_of(request).settings.page_limit_rows
    names = [name for name, _ in request.query_params.multi_items()]
    faults = {}
    if limit is not None and limit > longest:
        faults["limit"] = f"must be at most {longest}"
    known = {*filters} if limit is None else {"limit", "cursor", *filters}
    for name in names:
        if name not in known:
            faults["unknown"] = f"there is no such parameter; there are {', '.join(sorted(known))}"
        elif names.count(name) > 1:
            faults[name] = "must be given once"
        elif name in filters and "\0" in request.query_params[name]:
            faults[name] = "must not contain NUL"
    if faults:
        errors = [{"field": field, "message": message} for field, message in faults.items()]
        raise ProblemError("invalid_request", errors=errors)


def invalid(field: str, message: str) -> ProblemError:
    """What is wrong with a parameter."""
    return ProblemError("invalid_request", errors=[{"field": field, "message": message}])
