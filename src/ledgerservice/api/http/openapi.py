"""Declaring routes: with and without a trailing slash, and with their OpenAPI description.

The description is made when it is first asked for, which takes as long as a quarter of the start.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from functools import partial, wraps
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel
from starlette.convertors import Convertor, register_url_convertor

from ledgerservice.access.grants import Need
from ledgerservice.access.scopes import names_of
from ledgerservice.api.http.auditing import audited, is_audited
from ledgerservice.api.http.authentication import authorize, caller_of, check_shown
from ledgerservice.api.http.call import LEDGER
from ledgerservice.api.http.pages import Paging
from ledgerservice.api.http.parameters import Parameters, described
from ledgerservice.api.http.problems import ProblemDetails
from ledgerservice.api.http.schemas import answer_schema, request_schema
from ledgerservice.postgres.schema import DEFAULT_LEDGER
from ledgerservice.telemetry.exchanges import note_no_ledger


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

BEARER = "bearer"
SECURITY_SCHEMES = {
    BEARER: {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "lgk_",
        "description": "A key of the service. While no key was ever made, none is needed on the "
        "service's own machine.",
    }
}

Handler = Callable[..., Any]
Parameter = dict[str, Any]
Links = dict[str, dict[str, str]]
"""By operation: the fields of the answer that are its path parameters."""

Responses = dict[int | str, dict[str, Any]]
Examples = dict[str, Any]
"""Bodies of requests by name. One that is named by a code of a problem gets that answer."""

Operation = Callable[[], dict[str, Any]]
"""Makes members of the description of an operation."""
NO_BODY: Operation = dict
PROPOSED = 202

_undescribed: list[Callable[[], Any]] = []


def when_described(describe: Callable[[], Any]) -> None:
    """Have `describe` called once, before the description is made."""
    _undescribed.append(describe)


def describe_all() -> None:
    """Complete what the routes say of themselves."""
    while _undescribed:
        _undescribed.pop(0)()


class _Success(NamedTuple):
    """The answer of an operation; `proposal` is its answer to what others have to approve."""

    answer: Any
    headers: dict[str, Any]
    media_types: Sequence[str]
    links: Links
    proposal: Any = None

    @property
    def is_text(self) -> bool:
        """Whether it is never JSON."""
        return self.answer is None and bool(self.media_types)

    def described(self, status: int) -> Responses:
        """The answers by status."""
        content: dict[str, Any] = {}
        if self.answer is not None:
            content["application/json"] = {"schema": answer_schema(self.answer)}
        text = {"schema": {"type": "string"}}
        success = {
            "description": "Success",
            "content": content | dict.fromkeys(self.media_types, text),
            "headers": self.headers,
            "links": {name: _link(name, fields) for name, fields in self.links.items()},
        }
        answers: Responses = {status: {name: part for name, part in success.items() if part}}
        if self.proposal is not None:
            answers[PROPOSED] = _proposed(self.proposal)
        return answers


WRITTEN = {
    "Idempotency-Replayed": {
        "description": "true: this is the original answer to an earlier request.",
        "schema": {"type": "boolean"},
    },
    "Dry-Run": {"description": "true: nothing was written.", "schema": {"type": "boolean"}},
    "Approval-Required": {
        "description": "Of a dry run: the rule by which others would have to approve it.",
        "schema": {"type": "string"},
    },
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
    need: Need,
    refusals: Sequence[int] | None = None,
    media_types: Sequence[str] = (),
    links: Links | None = None,
    headers: dict[str, Any] | None = None,
) -> Callable[[Handler], Handler]:
    """Declares a route that reads. It answers HEAD too.

    `need` is what a caller must be allowed.

    `answer` is the type that the answer is encoded from; it can have other `media_types` than JSON,
    and only these if it is None.
    `refusals` are the statuses of the problems; None: those of its path, its query and the
    database. `links` lead to other operations.
    """
    if refusals is None:
        refusals = [*([404] if "{" in path else ()), *([422] if query else ()), 503]
    is_list = query is not None and issubclass(query, Paging)
    sent = (_NEXT_PAGE if is_list else {}) | (headers or {})
    success = _Success(answer, sent, media_types, links or {})

    def operation() -> dict[str, Any]:
        return {"parameters": described(query) if query else []}

    return _declare(router, "GET", path, 200, success, refusals, operation, need=need)


def post(
    router: APIRouter,
    path: str,
    answer: Any,
    body: Operation,
    *,
    need: Need,
    refusals: Sequence[int],
    parameters: Sequence[Parameter],
    status: int = 200,
    method: str = "POST",
    headers: dict[str, Any] = WRITTEN,
    links: Links | None = None,
    proposal: Any = None,
    **declared: Any,
) -> Callable[[Handler], Handler]:
    """Declares a route that writes. `body` is the body's `body_schema`; the rest is as in `get`.
    `proposal` is the answer with status 202 to a request that others have to approve.
    """
    success = _Success(answer, headers, (), links or {}, proposal)

    def operation() -> dict[str, Any]:
        return {"parameters": parameters, **body()}

    return _declare(
        router, method, path, status, success, refusals, operation, need=need, **declared
    )


def _declare(
    router: APIRouter,
    method: str,
    path: str,
    status: int,
    success: _Success,
    refusals: Sequence[int],
    operation: Operation,
    *,
    need: Need,
    **declared: Any,
) -> Callable[[Handler], Handler]:
    """Registers a route with and without its trailing slash; neither redirects.

    The first line of the handler's docstring is the summary, the rest is the description. Returns
    the handler with the check of its caller, so that whoever calls it by its name is checked too.
    """
    denials = () if need.is_open else (401, 403, 429)
    problems = sorted({*refusals, *denials})
    proposed = () if success.proposal is None else (PROPOSED,)
    # FastAPI keeps these objects, which are empty until the description is made.
    responses: Responses = {one: {} for one in (status, *proposed, *problems)}
    extra: dict[str, Any] = {}
    if success.is_text:
        declared["response_class"] = PlainTextResponse  # or FastAPI describes JSON too

    def describe() -> None:
        members = operation()
        parameters = [*_in_path(path), *members.pop("parameters")]
        extra.update({"parameters": parameters, **_security(need), **members})
        for one, answer in (success.described(status) | _problems(problems)).items():
            responses[one].update(answer)

    def register(handler: Handler) -> Handler:
        summary, _, description = inspect.cleandoc(handler.__doc__ or "").partition("\n\n")
        declared["summary"] = summary.rstrip(".").replace("`", "")  # no Markdown there
        declared["description"] = f"{description or summary.rstrip('.') + '.'}{_said_of(need)}"
        name = declared.setdefault("name", handler.__name__)
        guarded = handler if need.is_open else _guarded(handler, method, path, name, need)
        add = partial(router.add_api_route, endpoint=guarded, response_model=None)
        described_by = {"responses": responses, "openapi_extra": extra, "operation_id": name}
        add(path, methods=[method], status_code=status, **described_by, **declared)
        when_described(describe)
        for twin, by in _undeclared(path, method):
            add(twin, methods=[by], include_in_schema=False)
        return guarded

    return register


OF_NO_LEDGER = ("everywhere", "nowhere")
"""The places of operations that concern no single ledger, whatever their path names."""


def _guarded(handler: Handler, method: str, path: str, name: str, need: Need) -> Handler:
    """The handler, for callers who may do what it does; with the audit log."""
    is_sure = is_audited(method, need.scopes)
    is_of_account = method == "GET" and need.by_accounts and "{account_id" in path
    is_of_ledger, is_of_none = need.place == "ledger", need.place in OF_NO_LEDGER
    answer: Handler = partial(audited, action=name, handler=handler, is_sure=is_sure)
    if method == "GET" and not is_sure:
        answer = handler

    @wraps(handler)
    async def guarded(request: Request) -> Any:
        scope = request.scope
        caller, ledger = caller_of(scope), scope.get(LEDGER, DEFAULT_LEDGER)
        is_named = LEDGER in scope
        if not is_of_ledger and (is_of_none or not is_named):
            note_no_ledger()
        authorize(caller, ledger, need, is_named=is_named)
        if is_of_account and caller.by_accounts:
            check_shown(caller, ledger, need, request)
        return await answer(request)

    return guarded


def _security(need: Need) -> dict[str, Any]:
    """The scopes of an operation, as roles of its key: each alternative is enough."""
    if need.is_open:
        return {"security": []}
    roles = [[name] for name in names_of(need.scopes)] or [[]]
    return {"security": [{BEARER: role} for role in roles]}


def _said_of(need: Need) -> str:
    names = " or ".join(f"`{name}`" for name in names_of(need.scopes))
    place = {"everywhere": " on all ledgers", "named": "; without a ledger in the path, on all"}
    place_of = place.get(need.place, "")
    signed = " The request must be signed." if need.is_signed else ""
    return f"\n\nScope: {names}{place_of}.{signed}" if names else ""


def _undeclared(path: str, method: str) -> list[tuple[str, str]]:
    other = path.rstrip("/") if path.endswith("/") else path + "/"
    heads = [(path, "HEAD"), (other, "HEAD")] if method == "GET" else []
    return [(other, method), *heads]


def body_schema(
    model: type[BaseModel],
    examples: Examples,
    without: str | None = None,
) -> Operation:
    """The body of a request; `without` is a field that the path has instead.

    The examples can be sent as they stand, in the order of the description, to a new ledger.
    """

    def operation() -> dict[str, Any]:
        schema = request_schema(model, without=without)
        named = {
            name: {"summary": name.replace("_", " ").capitalize(), "value": value}
            for name, value in examples.items()
        }
        content = {"application/json": {"schema": schema, "examples": named}}
        return {"requestBody": {"required": True, "content": content}}

    return operation


# Answers.


def _proposed(answer: Any) -> dict[str, Any]:
    location = {"description": "The path of the proposal.", "schema": {"type": "string"}}
    return {
        "description": "Others have to approve it",
        "content": {"application/json": {"schema": answer_schema(answer)}},
        "headers": {"Location": location},
        "links": {"get_approval": _link("get_approval", {"approval_id": "id"})},
    }


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
    "approval_id": {"schema": _ID, "example": 1},
    "key": {"schema": _TEXT, "example": "dep1"},
    "code": {"schema": _TEXT, "example": "USD"},
    "name": {"schema": _TEXT, "example": "default"},
}
"""The parameters of paths. Transactions have ids that an example cannot know."""
