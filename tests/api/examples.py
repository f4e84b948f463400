"""The examples of the description, as requests in its order."""

from typing import Any

from ledgerservice.api.http.catalogue import CATALOGUE
from tests.api.routes import API
from tests.processes import RunningService

DOCUMENT = API.openapi()
OPERATIONS = [
    (method, path, operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
MADE_BY_KEYS = {"/approvals/{approval_id}": "approval_not_found"}
"""Without keys nothing is proposed."""


def parameters(operation: dict[str, Any], place: str) -> dict[str, Any]:
    """The examples of the parameters in the path or in the query."""
    declared = operation["parameters"]
    return {p["name"]: p["example"] for p in declared if p["in"] == place and "example" in p}


def bodies(operation: dict[str, Any]) -> dict[str, Any]:
    """The bodies to send, by their names; an operation without a body has one that is None."""
    content = operation.get("requestBody", {}).get("content", {})
    examples = content.get("application/json", {}).get("examples", {"": {"value": None}})
    return {name: given["value"] for name, given in examples.items()}


def send_all(service: RunningService, prefix: str = "", first_id: int = 1) -> int:
    """Send every example to a new ledger below a prefix; the number of requests.

    `first_id` is that of its first account and of its first webhook. An example that is named by a
    code gets that refusal.
    """
    known: dict[str, Any] = {}
    count = 0
    for method, path, operation in OPERATIONS:
        in_path = moved(parameters(operation, "path"), first_id)
        target = prefix + path.format(**known | in_path)
        query = parameters(operation, "query")
        for name, example in bodies(operation).items():
            body = moved(example, first_id)
            answer = service.client.request(method, target, params=query, json=body)
            if name in CATALOGUE or path in MADE_BY_KEYS:
                assert answer.json()["code"] == (name or MADE_BY_KEYS[path])
                assert str(answer.status_code) in operation["responses"]
            elif path == "/verification/":  # where nothing verifies before the first interval
                assert answer.status_code in (200, 202, 409)
            else:
                assert answer.is_success, (method, target, name, answer.text)
                assert "idempotency-replayed" not in answer.headers
            if answer.headers["content-type"].endswith("json"):
                known |= ids_of(answer.json())
            count += 1
    return count


def moved(example: Any, first_id: int) -> Any:
    """An example whose accounts and webhooks begin with `first_id` instead of 1."""
    if isinstance(example, list):
        return [moved(one, first_id) for one in example]
    if not isinstance(example, dict):
        return example
    return {
        name: value + first_id - 1
        if name.endswith(("account_id", "webhook_id")) and isinstance(value, int)
        else moved(value, first_id)
        for name, value in example.items()
    }


def ids_of(answer: Any) -> dict[str, int]:
    """The ids that an answer names, as a reader copies them into the next path."""
    names = ("transaction_id", "hold_id", "schedule_id")
    is_object = isinstance(answer, dict)
    return {name: answer[name] for name in names if is_object and answer.get(name) is not None}
