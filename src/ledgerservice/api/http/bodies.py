"""Reading a body, in the order of DESIGN.md section 5: size, encoding, JSON, duplicates, model."""

import asyncio
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.types import Receive

from ledgerservice.api.http.problems import ProblemError
from ledgerservice.domain.metadata import decode_json
from ledgerservice.settings import Settings

Model = TypeVar("Model", bound=BaseModel)

Faults = list[dict[str, str]]
"""What is wrong with which field."""

Headers = Iterable[tuple[bytes, bytes]]
"""A request's headers as ASGI has them."""


def header_values(headers: Headers, name: bytes) -> list[str]:
    """All values of a header; `name` in lower case, as ASGI has the names."""
    return [value.decode("latin-1") for found, value in headers if found == name]


def media_type(headers: Headers) -> str:
    """The body's media type, without parameters."""
    values = header_values(headers, b"content-type")
    return values[0].partition(";")[0].strip().lower() if values else ""


def has_body(headers: Headers) -> bool:
    """Whether a request has a body, which its headers tell (RFC 9112, section 6)."""
    lengths = header_values(headers, b"content-length")
    return bool(header_values(headers, b"transfer-encoding")) or lengths not in ([], ["0"])


async def read_body(
    headers: Headers, receive: Receive, settings: Settings, max_bytes: int | None = None
) -> bytes:
    """The body's bytes. Refuses what is not JSON by its header, too large, or too slow.

    `max_bytes`: None is the setting for a request of one movement.
    """
    if media_type(headers) != "application/json":
        raise ProblemError("unsupported_media_type")
    limit = settings.max_body_bytes if max_bytes is None else max_bytes
    return await received(headers, receive, settings, limit)


async def received(headers: Headers, receive: Receive, settings: Settings, limit: int) -> bytes:
    """The body's bytes, whatever they are. Refuses what is larger than the limit, or too slow."""
    declared = header_values(headers, b"content-length")
    if declared and declared[0].isdigit() and int(declared[0][:12]) > limit:
        raise ProblemError("body_too_large", max_bytes=limit)
    return await _received_in_time(receive, limit, settings.body_timeout_s)


async def _received_in_time(receive: Receive, max_bytes: int, limit_s: float) -> bytes:
    """asyncio.timeout in a fifth of its time: a timer that cancels, and nothing else."""
    task = asyncio.current_task()
    assert task is not None
    late = False

    def cut() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(limit_s, cut)
    try:
        return await _received(receive, max_bytes)
    except asyncio.CancelledError:
        if late and task.uncancel() == 0:
            raise ProblemError("request_timeout") from None
        raise
    finally:
        timer.cancel()


async def _received(receive: Receive, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ProblemError("request_timeout")
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise ProblemError("body_too_large", max_bytes=max_bytes)
        if not message.get("more_body", False):
            return bytes(body)


def fields_of(body: bytes) -> dict[str, Any]:
    """The fields of a JSON object, numbers as they were written. Refuses with `invalid_json`."""
    try:
        fields = decode_json(body.decode())
    except (ValueError, RecursionError):
        raise ProblemError("invalid_json") from None
    if not isinstance(fields, dict):
        raise ProblemError("invalid_json")
    return fields


def validated(fields: dict[str, Any], model: type[Model]) -> Model:
    """`fields` as a `model`. Refuses with `invalid_request`."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise ProblemError("invalid_request", errors=_faults(error, fields, model)) from None


MOST_FAULTS = 20  # told of one body


def _faults(error: ValidationError, fields: dict[str, Any], model: type[BaseModel]) -> Faults:
    """What is wrong with which field, each once. An unknown field is not named: input is never
    echoed; what else there is to be given is.
    """
    faults: dict[tuple[str, str], None] = {}
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        *place, field = fault["loc"] or ("body",)  # it is of several fields
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            field, message = "unknown", "there is no such field"
            if not place:
                others = [name for name in model.model_fields if name not in fields]
                message += f"; there are also {', '.join(others)}" if others else ""
        faults[".".join(map(str, [*place, field])), message] = None
        if len(faults) == MOST_FAULTS:
            break
    return [{"field": field, "message": message} for field, message in faults]
