"""The examples of the description, sent as they stand and in its order to a new ledger.

So are they by a reader of /docs. An example that is named by a code gets that refusal.
"""

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
README_TOUR = ["alice", "bob", "deposit", "transfer", "insufficient_funds"]


def parameters(operation: dict[str, Any], place: str) -> dict[str, Any]:
    """The examples of the parameters in the path or in the query."""
    declared = operation["parameters"]
    return {p["name"]: p["example"] for p in declared if p["in"] == place and "example" in p}


def bodies(operation: dict[str, Any]) -> dict[str, Any]:
    """The bodies to send, by their names; an operation without a body has one that is None."""
    content = operation.get("requestBody", {}).get("content", {})
    examples = content.get("application/json", {}).get("examples", {"": {"value": None}})
    return {name: given["value"] for name, given in examples.items()}


def test_every_body_has_an_example() -> None:
    for method, path, operation in OPERATIONS:
        has_body = method in ("post", "patch") and path != "/verification/"
        assert has_body is (None not in bodies(operation).values()), path


def test_the_examples_follow_the_readme() -> None:
    named = [name for *_, operation in OPERATIONS for name in bodies(operation)]
    assert [name for name in named if name in README_TOUR] == README_TOUR


def test_the_examples_can_be_sent_as_they_stand(service: RunningService) -> None:
    known: dict[str, Any] = {}
    for method, path, operation in OPERATIONS:
        target = path.format(**known | parameters(operation, "path"))
        query = parameters(operation, "query")
        for name, body in bodies(operation).items():
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


def ids_of(answer: Any) -> dict[str, int]:
    """The ids that an answer names, as a reader copies them into the next path."""
    names = ("transaction_id", "hold_id", "schedule_id")
    is_object = isinstance(answer, dict)
    return {name: answer[name] for name in names if is_object and answer.get(name) is not None}
