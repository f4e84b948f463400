"""Reading and validating a body, in this order: size, encoding, JSON, repeated fields, model."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any, TypeVar

from msgspec import Raw
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.types import Receive
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from ledgerservice.api.http.call import JSON, Call, header_values, media_type
from ledgerservice.api.http.problems import Fault, ProblemError, invalid
from ledgerservice.domain.metadata import decode_json
from ledgerservice.posting.bounds import Budget, Share

MAX_FAULTS = 20  # reported for one request
# The largest transaction has fewer: 500 legs with all that a leg can have, and the longest
# metadata. A value costs a microsecond or two, while nobody else is answered.
MAX_VALUES = 12_000
# 10,000 transfers have a tenth of it.
MAX_BATCH_VALUES = 500_000
_DELIMITERS = (b",", b":", b"[", b"{")
SMALL_BYTES = 4_096
"""A body that arrives whole and is not larger is not counted in the budget."""


class Body(BaseModel):
    """The body of a request; a subclass has a field for each of its fields."""

    # Built when it is first used: all models together take a tenth of a second.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)


Model = TypeVar("Model", bound=BaseModel)


async def read_body(call: Call, max_bytes: int | None = None) -> bytes:
    """The bytes of a JSON body. Refuses another media type, and what `received` refuses.

    `max_bytes`: None is the limit for a request with one movement.
    """
    if media_type(call.headers) != JSON:
        raise ProblemError("unsupported_media_type")
    return await received(call, max_bytes or call.runtime.settings.max_body_bytes)


async def received(call: Call, max_bytes: int) -> bytes:
    """The bytes of any body. Refuses a body that is too large or arrives too slowly."""
    meter = call.caller.meter
    meter.take_bytes(0)  # before a body is read that would be refused
    body = _arrived(call.receive, max_bytes)
    if body is None:
        body = await _awaited(call, max_bytes)
    meter.take_bytes(len(body))
    return body


def _arrived(receive: Receive, max_bytes: int) -> bytes | None:
    """A small body that uvicorn has already; None: it has to be waited for.

    Most bodies come in one packet with their heads. A `receive` that another part of the
    application has put in the place of uvicorn's is not passed over.
    """
    cycle = getattr(receive, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle) or cycle.more_body or cycle.disconnected:
        return None
    if len(cycle.body) > min(max_bytes, SMALL_BYTES):
        return None
    body = bytes(cycle.body)
    cycle.body.clear()
    return body


async def _awaited(call: Call, max_bytes: int) -> bytes:
    lengths = header_values(call.headers, b"content-length")
    if lengths and lengths[0].isdigit() and int(lengths[0][:12]) > max_bytes:
        raise ProblemError("body_too_large", max_bytes=max_bytes)
    limit_s = call.runtime.settings.body_timeout_s
    return await _received_in_time(call.receive, max_bytes, limit_s, call.runtime.body_budget)


async def _received_in_time(
    receive: Receive, max_bytes: int, limit_s: float, budget: Budget
) -> bytes:
    """Does what asyncio.timeout does in a fifth of its time: one timer that cancels the task."""
    task = asyncio.current_task()
    assert task is not None
    is_late = False

    def cancel() -> None:
        nonlocal is_late
        is_late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(limit_s, cancel)
    try:
        return await _received(receive, max_bytes, budget)
    except asyncio.CancelledError:
        if is_late and task.uncancel() == 0:
            raise ProblemError("request_timeout") from None
        raise
    finally:
        timer.cancel()


async def _received(receive: Receive, max_bytes: int, budget: Budget) -> bytes:
    body, share = bytearray(), None
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ProblemError("request_timeout")
        piece, more = message.get("body", b""), message.get("more_body", False)
        if share is None and (more or len(piece) > SMALL_BYTES):
            share = Share(budget)
        if share is not None:
            share.take(len(piece))
        body += piece
        if len(body) > max_bytes:
            raise ProblemError("body_too_large", max_bytes=max_bytes)
        if not more:
            return bytes(body)


def has_too_many_values(body: bytes, limit: int = MAX_VALUES) -> bool:
    """Whether the body may have more values than `limit`, by its delimiters.

    Nothing is built for that. A short body is not even searched.
    """
    return len(body) > limit and sum(map(body.count, _DELIMITERS)) > limit


def check_items(
    body: bytes, field: str, items: Sequence[Raw], limit: int, *, fields: int = 1
) -> None:
    """Refuses a list of no or of more than `limit` items, and a field that stands twice.

    `fields` is the number of the body's own fields. Each colon outside the items belongs to one of
    them; a further colon is from a repeated field, of which the parser keeps the last.
    """
    count = len(items)
    if count <= limit and body.count(b":") != fields + sum(
        bytes(item).count(b":") for item in items
    ):
        raise ProblemError("invalid_json")
    if not 1 <= count <= limit:
        raise invalid(field, f"must be 1 to {limit} items")


def fields_of(body: bytes) -> dict[str, Any]:
    """The fields of a JSON object, numbers as they were written. Refuses with `invalid_json`."""
    if has_too_many_values(body):
        raise ProblemError("invalid_json")
    try:
        fields = decode_json(body.decode())
    except (ValueError, RecursionError):
        raise ProblemError("invalid_json") from None
    if not isinstance(fields, dict):
        raise ProblemError("invalid_json")
    return fields


async def body_of(call: Call, model: type[Model]) -> Model:
    """The body of a request with one object, as a `model`."""
    return validated(fields_of(await read_body(call)), model)


def validated(fields: dict[str, Any], model: type[Model]) -> Model:
    """`fields` as a `model`. Refuses with `invalid_request`."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise ProblemError("invalid_request", errors=_faults(error, fields, model)) from None


_IS_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}", re.ASCII).fullmatch


def names_of(model: type[BaseModel]) -> list[str]:
    """The public names of a model's fields."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _faults(error: ValidationError, fields: dict[str, Any], model: type[BaseModel]) -> list[Fault]:
    """The faults, each once. Input is never echoed, except the name of an unknown field that is a
    short identifier. The accepted fields that the request does not have are named, too.
    """
    faults: dict[Fault, None] = {}
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        *path, field = fault["loc"] or ("body",)  # a fault of several fields has no location
        message = fault["msg"].removeprefix("Value error, ")
        if fault["type"] == "extra_forbidden":
            field = field if _IS_NAME(str(field)) else "unknown"
            message = "the name is not known"
            others = [name for name in names_of(model) if name not in fields]
            if others and not path:
                message += f"; also accepted: {', '.join(others)}"
        faults[Fault(".".join(map(str, [*path, field])), message)] = None
        if len(faults) == MAX_FAULTS:
            break
    return list(faults)
