"""The schemas of the OpenAPI description: of answers by msgspec, of requests by Pydantic.

Both are brought into one form, which code generators read: every object has a name, an optional
field of a request is absent and not null, and numbers have a format. A schema with the member
`x-name` becomes a component of that name, one with `x-ref` is a reference to a component.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pydantic import BaseModel

Schema = dict[str, Any]

REF = "#/components/schemas/{name}"
_PYDANTIC_REF = "#/components/schemas/{model}"

_answers: list[Any] = []
_requests: dict[str, Schema] = {}


def components() -> dict[str, Schema]:
    """All schemas that the description refers to, by name."""
    _, answers = msgspec.json.schema_components(_answers, ref_template=REF)
    assert not answers.keys() & _requests.keys(), "two schemas have the same name"
    named: dict[str, Schema] = {}
    schemas = {name: _normal(schema, named) for name, schema in (answers | _requests).items()}
    return schemas | named


def ref(name: str) -> Schema:
    """A reference to a component."""
    return {"$ref": REF.format(name=name)}


def answer_schema(answer: Any) -> Schema:
    """The schema of the type that an answer is encoded from."""
    _answers.append(answer)
    [schema], _ = msgspec.json.schema_components([answer], ref_template=REF)
    return schema


def request_schema(
    model: type[BaseModel],
    name: str | None = None,
    *,
    without: str | None = None,
    required: Sequence[str] = (),
) -> Schema:
    """The schema of a request's model, as the component `name`; None is the name of the model.

    `without` is a field that the path has instead, `required` are further fields that a request
    must have.
    """
    schema = model.model_json_schema(ref_template=_PYDANTIC_REF)
    _requests.update({key: _without_null(part) for key, part in schema.pop("$defs", {}).items()})
    schema = _without_null(schema, getattr(model, "nullable", ()))
    if without is not None:
        del schema["properties"][without]
    names = dict.fromkeys((*schema.pop("required", ()), *required))
    if needed := [field for field in names if field != without]:
        schema["required"] = needed
    return component(name or model.__name__, schema)


def component(name: str, schema: Schema) -> Schema:
    """A reference to `schema`, as the component `name`."""
    _requests[name] = schema
    return ref(name)


def normal(schema: Schema) -> Schema:
    """A schema outside of the components, such as that of a parameter, in the same form."""
    return _normal(schema, {})


def _without_null(schema: Schema, nullable: Sequence[str] = ()) -> Schema:
    """An object whose fields may be absent, and null only where that has a meaning."""
    fields = {
        name: field if name in nullable else _not_null(field)
        for name, field in schema.get("properties", {}).items()
    }
    return schema | {"properties": fields}


def _not_null(field: Schema) -> Schema:
    """The field without null. Its default is in words: generators would require a default."""
    others = {name: value for name, value in field.items() if name not in ("anyOf", "default")}
    options = [option for option in field.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) == 1:
        others = options[0] | others
    elif options:
        others["anyOf"] = options
    if (default := field.get("default")) is not None:
        words = f"By default {str(default).lower()}."
        others["description"] = f"{field.get('description', '')} {words}".lstrip()
    return others


def _normal(schema: Schema, named: dict[str, Schema]) -> Schema:
    """The same schema without generated titles; its named parts are added to `named`."""
    if "x-ref" in schema:
        return ref(schema["x-ref"])
    parts = {name: _part(name, value, named) for name, value in schema.items() if name != "title"}
    if parts.get("default", ...) is None:
        del parts["default"]
    if parts.get("type") == "object" and "properties" not in parts:
        parts.setdefault("additionalProperties", True)
    if isinstance(constant := parts.pop("const", None), str):  # a boolean enum is not generated
        parts["enum"] = [constant]
    if "enum" in parts:
        parts.setdefault("type", "string")
    for field in parts.get("required", ()):
        parts["properties"][field] = _required(parts["properties"][field])
    if parts.get("type") == "integer":
        parts.setdefault("format", "int32" if parts.get("maximum", 2**31) < 2**31 else "int64")
    name = parts.pop("x-name", None)
    if name is None:
        return _nullable(parts)
    named[name] = parts
    return ref(name)


def _part(name: str, value: Any, named: dict[str, Schema]) -> Any:
    if name == "properties":
        return {field: _normal(schema, named) for field, schema in value.items()}
    if name in ("items", "additionalProperties") and isinstance(value, Mapping):
        return _normal(dict(value), named)
    if name in ("anyOf", "oneOf", "allOf"):
        return [_normal(schema, named) for schema in value]
    return value


def _nullable(schema: Schema) -> Schema:
    """A value or null, written as one type where the value has one."""
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    if len(options) != 1 or "type" not in options[0]:
        return schema
    [option] = options
    others = {name: value for name, value in schema.items() if name != "anyOf"}
    values = {"enum": [*option["enum"], None]} if "enum" in option else {}
    nullable: Schema = option | others | values | {"type": [option["type"], "null"]}
    return nullable


def _required(schema: Schema) -> Schema:
    """A member that is always there. Generated Java refuses null for an enum that is required, so
    such values are described.
    """
    if None not in schema.get("enum", ()):
        return schema
    *values, _ = schema["enum"]
    words = f"One of {', '.join(values)}; or null."
    others = {name: value for name, value in schema.items() if name != "enum"}
    return others | {"description": f"{schema.get('description', '')} {words}".lstrip()}
