"""Reading a body, in the order of DESIGN.md section 5: size, encoding, JSON, duplicates, model."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.types import Receive

from ledgerservice.api.problems import Refused
from ledgerservice.settings import Settings

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Number:
    """A JSON number as it was written, so that none passes through a float."""

    text: str


async def read_body(headers: Headers, receive: Receive, settings: Settings) -> bytes:
    """The body's bytes. Refuses what is not JSON by its header, too large, or too slow."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Refused("unsupported_media_type")
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared[:12]) > settings.max_body_bytes:
        raise Refused("body_too_large", max_bytes=settings.max_body_bytes)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await _receive(receive, settings.max_body_bytes)
    except TimeoutError:
        raise Refused("request_timeout") from None


async def _receive(receive: Receive, max_bytes: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused("request_timeout")
        body += message.get("body", b"")
        if len(body) > max_bytes:
            raise Refused("body_too_large", max_bytes=max_bytes)
        if not message.get("more_body", False):
            return bytes(body)


def parse(body: bytes, model: type[Model]) -> Model:
    """`body` as a `model`. Refuses with `invalid_json` or `invalid_request`."""
    try:
        fields = _decode(body.decode())
    except (ValueError, RecursionError):
        raise Refused("invalid_json") from None
    if not isinstance(fields, dict):
        raise Refused("invalid_json")
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise Refused("invalid_request", errors=_faults(error, model)) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is named twice")
    return fields


def _no_constant(_: str) -> NoReturn:
    raise ValueError("not a JSON number")


_decode = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=Number, parse_int=Number, parse_constant=_no_constant
).decode


def _faults(error: ValidationError, model: type[BaseModel]) -> list[dict[str, str]]:
    """What is wrong with which field. An unknown field is not named: input is never echoed."""
    return [
        {
            "field": field if (field := str(fault["loc"][0])) in model.model_fields else "unknown",
            "message": fault["msg"],
        }
        for fault in error.errors(include_url=False, include_input=False, include_context=False)
        if fault["loc"]
    ]
