"""The items of a batch, as OpenAPI describes them: one schema for each type."""

from ledgerservice.api.http.schemas import component, request_schema
from ledgerservice.api.movements.batches import MAX_LINKED
from ledgerservice.api.movements.forms import BY_TYPE


def declare_items() -> None:
    """Adds the components BatchItem, which `type` discriminates, and LinkedItems."""
    mapping = {}
    for kind, form in BY_TYPE.items():
        name = f"{form.model.__name__}Item"
        item = request_schema(form.model, name, required=("type", "idempotency_key"))
        mapping[kind] = item["$ref"]
    item = component(
        "BatchItem",
        {
            "description": "The body of a money route, with its type and its key.",
            "oneOf": [{"$ref": target} for target in dict.fromkeys(mapping.values())],
            "discriminator": {"propertyName": "type", "mapping": mapping},
        },
    )
    linked = {"type": "array", "items": item, "minItems": 1, "maxItems": MAX_LINKED}
    component(
        "LinkedItems",
        {
            "description": "Items that are posted together or not at all.",
            "type": "object",
            "properties": {"linked": linked},
            "required": ["linked"],
            "additionalProperties": False,
        },
    )
