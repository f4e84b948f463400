"""Query parameters. A model declares them; requests are parsed and OpenAPI is made from it."""

import re
from functools import lru_cache
from typing import Annotated, Any, TypeVar

from fastapi import Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.datastructures import QueryParams

from ledgerservice.api.http.bodies import names_of, validated
from ledgerservice.api.http.problems import Fault, ProblemError
from ledgerservice.api.http.schemas import normal
from ledgerservice.domain.amounts import is_amount
from ledgerservice.domain.metadata import decode_json, metadata_text

MAX_METADATA_VALUES = 20
KNOWN_BYTES = 100
"""The longest query whose parameters are remembered."""

Texts = dict[str, str]
"""Parameters as the caller wrote them."""


class Parameters(BaseModel):
    """The query parameters of a route; a subclass has a field for each."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class NoParameters(Parameters):
    """None. What another route takes is refused, instead of being overlooked."""


Model = TypeVar("Model", bound=Parameters)


def parameters_of(request: Request, model: type[Model]) -> Model:
    """The parameters of a request as a `model`. Refuses with `invalid_request`."""
    query = request.scope["query_string"]
    return _known(query, model) if len(query) <= KNOWN_BYTES else _parsed(query, model)


def _parsed(query: bytes, model: type[Model]) -> Model:
    return validated(_texts_of(query, model), model)


# Most requests have the same few queries. A model is frozen, so requests may share it.
_known = lru_cache(1_000)(_parsed)


def texts_of(request: Request, model: type[Parameters]) -> Texts:
    """The parameters as the caller wrote them. Refuses a parameter that occurs twice, and NUL,
    which PostgreSQL cannot store in a text.
    """
    return _texts_of(request.scope["query_string"], model)


def _texts_of(query: bytes, model: type[Parameters]) -> Texts:
    pairs = QueryParams(query).multi_items()
    names = [name for name, _ in pairs]
    texts = dict(pairs)
    faults = []
    for name in names_of(model):
        if names.count(name) > 1:
            faults.append(Fault(name, "must occur only once"))
        elif "\0" in texts.get(name, "") and name != "cursor":
            faults.append(Fault(name, "must not contain NUL"))
    if faults:
        raise ProblemError("invalid_request", errors=faults)
    return texts


def described(model: type[Parameters]) -> list[dict[str, Any]]:
    """The parameters for OpenAPI."""
    schema = model.model_json_schema()
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, **_described(field)}
        for name, field in schema["properties"].items()
    ]


def _described(field: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema and description. An optional parameter is absent, never null."""
    schema = next(s for s in field.get("anyOf", [field]) if s.get("type") != "null")
    about: dict[str, Any] = {n: field[n] for n in ("default", "description") if n in field}
    described = normal({**schema, **about})
    members: dict[str, Any] = {"description": described.pop("description", None)}
    [members["example"]] = described.pop("examples", [None])
    return {"schema": described} | {name: value for name, value in members.items() if value}


_INTEGER = re.compile("-?[0-9]{1,20}", re.ASCII)


def integer(value: str) -> int:
    """The integer of a parameter, written in digits only: Pydantic also accepts 1_0 and ' 10'."""
    if not _INTEGER.fullmatch(value):
        raise ValueError("must be an integer")
    return int(value)


def _bound(value: str) -> str:
    if not is_amount(value):
        raise ValueError("must be a decimal, such as 50.00")
    return value


def _signed_bound(value: str) -> str:
    if not is_amount(value.removeprefix("-")):
        raise ValueError("must be a decimal, such as -50.00")
    return value


def _metadata(value: str) -> str:
    try:
        document = decode_json(value)
        text = metadata_text(document)
    except (ValueError, RecursionError):
        raise ValueError("must be a JSON object") from None
    if _values_in(document) > MAX_METADATA_VALUES:
        raise ValueError(f"must have at most {MAX_METADATA_VALUES} values")
    return text


def _values_in(document: Any) -> int:
    """The number of values of a JSON document. Each is searched for in the arrays of each row."""
    if isinstance(document, dict):
        return sum(map(_values_in, document.values()))
    return sum(map(_values_in, document)) if isinstance(document, list) else 1


FilterText = Annotated[str, Field(max_length=255)]
FilterCode = Annotated[str, Field(max_length=16)]
Bound = Annotated[
    str, Field(max_length=255, description="In units of `currency`."), AfterValidator(_bound)
]
SignedBound = Annotated[
    str, Field(max_length=255, description="In units of `currency`."), AfterValidator(_signed_bound)
]
MetadataFilter = Annotated[
    str,
    Field(max_length=2048, description="Only rows whose metadata contains this JSON object."),
    AfterValidator(_metadata),
]
