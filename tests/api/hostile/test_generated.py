"""Requests that the description allows, or forbids: each answer is one that it declares."""

import os
from copy import deepcopy
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from ledgerservice.domain.amounts import AMOUNT_PATTERN
from tests import examples
from tests.api.routes import API
from tests.processes import RunningService


# That two keys differ, or a cursor is of another list, no schema can say.
def excluded() -> list[Any]:
    return [schemathesis.checks.CHECKS.get_one("positive_data_acceptance")]


def accepted(document: dict[str, Any]) -> dict[str, Any]:
    """The description with what is accepted beyond it: a number as an amount, null for a field that
    is absent, and, by itself, an item that is not valid. Clients are not led to send those. The
    service has no keys, so it requires none; tests/access judges each route with every kind of key.
    """
    wide = deepcopy(document)
    del wide["components"]["securitySchemes"]
    for operation in (one for methods in wide["paths"].values() for one in methods.values()):
        operation["security"] = []
    schemas = wide["components"]["schemas"]
    schemas["Batch"]["properties"]["movements"]["items"] = {}
    schemas["OpenAccounts"]["properties"]["accounts"]["items"] = {}
    for schema in schemas.values():
        if schema.get("additionalProperties") is False:
            needed = schema.get("required", ())
            for name, field in schema["properties"].items():
                schema["properties"][name] = widened(field, optional=name not in needed)
    return wide


def widened(field: dict[str, Any], *, optional: bool) -> dict[str, Any]:
    numbers = [{"type": "number"}] if AMOUNT_PATTERN in field.get("pattern", "") else []
    nothing = [{"type": "null"}] if optional else []
    return {"anyOf": [field, *numbers, *nothing]} if numbers or nothing else field


DOCUMENT = API.openapi()
described = schemathesis.openapi.from_dict(accepted(DOCUMENT))


def test_the_description_is_served(service: RunningService) -> None:
    assert service.get("/openapi.json").json() == DOCUMENT


OTHER_TYPES = {"statement": {"text/csv", "text/html"}, "events": {"text/event-stream"}}
OF_METRICS = "text/plain"  # as Prometheus reads them


def test_every_described_refusal_is_a_problem() -> None:
    for path, methods in described.raw_schema["paths"].items():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                expected = "application/json" if status < "400" else "application/problem+json"
                if (path, status) == ("/metrics", "200"):
                    expected = OF_METRICS
                others = OTHER_TYPES.get(path.rpartition("/")[2], set())
                assert {expected} == set(response["content"]) - others, (path, status)
    assert "503" in described.raw_schema["paths"]["/health/ready"]["get"]["responses"]


def test_answers_to_the_usual_are_as_described(service: RunningService) -> None:
    """The generated requests seldom find an account; these do, and see most answers there are."""
    alice, bob, rupees = service.open(balance="5"), service.open(), service.open(currency="INR")
    [first] = [
        entry["transaction_id"] for entry in service.get(f"/accounts/{alice}/history").json()
    ]
    opening = {"owner": "Grace", "currency": "USD", "reference": "Grace's"}
    deposit = {"account_id": alice, "amount": "1.00", "idempotency_key": "d"}
    withdrawal = {"account_id": alice, "amount": 9, "idempotency_key": "w"}
    transfer = {"from_account_id": alice, "to_account_id": bob, "amount": 1}
    requests: list[tuple[int, str, str, dict[str, Any], Any]] = [
        (201, "POST", "/accounts/", {}, opening),
        (201, "POST", "/accounts/", {}, opening),
        (409, "POST", "/accounts/", {}, {**opening, "owner": "Mallory"}),
        (422, "POST", "/accounts/", {}, {"owner": "Grace", "currency": "XXX"}),
        (200, "POST", "/deposit/", {}, deposit),
        (200, "POST", "/deposit/", {}, deposit),
        (422, "POST", "/deposit/", {}, {**deposit, "amount": "2.00"}),
        (422, "POST", "/deposit/", {}, {**deposit, "amount": "0"}),
        (404, "POST", "/deposit/", {}, {**deposit, "account_id": 10**15}),
        (400, "POST", "/withdraw/", {}, withdrawal),
        (400, "POST", "/withdraw/", {}, withdrawal),
        (200, "POST", "/withdraw/", {}, {**withdrawal, "amount": 1, "idempotency_key": "x"}),
        (422, "POST", "/withdraw/", {}, {**withdrawal, "idempotency_key": None}),
        (200, "POST", "/transfer/", {}, {**transfer, "idempotency_key": "t"}),
        (400, "POST", "/transfer/", {}, {**transfer, "amount": 99, "idempotency_key": "u"}),
        (422, "POST", "/transfer/", {}, {**transfer, "to_account_id": alice}),
        (422, "POST", "/transfer/", {}, {**transfer, "to_account_id": rupees}),
        (200, "GET", "/accounts/", {}, None),
        (200, "GET", "/accounts/{account_id}", {"account_id": alice}, None),
        (404, "GET", "/accounts/{account_id}", {"account_id": 10**15}, None),
        (200, "GET", "/accounts/{account_id}/history", {"account_id": alice}, None),
        (404, "GET", "/accounts/{account_id}/history", {"account_id": 10**15}, None),
        (200, "GET", "/accounts/{account_id}/keys/{key}", {"account_id": alice, "key": "d"}, None),
        (200, "GET", "/accounts/{account_id}/keys/{key}", {"account_id": alice, "key": "w"}, None),
        (404, "GET", "/accounts/{account_id}/keys/{key}", {"account_id": alice, "key": "?"}, None),
        (201, "POST", "/currencies/", {}, {"code": "PTS", "exponent": 0, "name": "Points"}),
        (409, "POST", "/currencies/", {}, {"code": "USD", "exponent": 0, "name": "Dollars"}),
        (422, "POST", "/currencies/", {}, {"code": "pts", "exponent": 0, "name": "Points"}),
        (200, "GET", "/currencies/", {}, None),
        (200, "GET", "/currencies/{code}", {"code": "USD"}, None),
        (404, "GET", "/currencies/{code}", {"code": "NONE"}, None),
        (200, "GET", "/transactions/{transaction_id}", {"transaction_id": first}, None),
        (404, "GET", "/transactions/{transaction_id}", {"transaction_id": 10**15}, None),
        (200, "GET", "/health/live", {}, None),
        (200, "GET", "/health/ready", {}, None),
    ]
    for status, method, path, in_path, body in requests:
        content: dict[str, Any] = {"body": body, "media_type": "application/json"}
        sent = {} if body is None else content
        case = described[path][method].Case(path_parameters=in_path, **sent)
        assert case.call_and_validate(base_url=service.base).status_code == status


def test_every_answer_of_a_list_is_declared(service: RunningService) -> None:
    """What the models do not name is not sent, and what they name is."""
    account = service.open(balance="1")
    models = described.raw_schema["components"]["schemas"]
    for path, model in (
        (f"/accounts/{account}", "Account"),
        (f"/accounts/{account}/history", "HistoryEntry"),
        (f"/accounts/{account}/keys/funding", "Transaction"),
    ):
        body = service.get(path).json()
        sent = body[0] if isinstance(body, list) else body
        assert set(models[model]["required"]) <= sent.keys() <= models[model]["properties"].keys()


def without_wait(case: schemathesis.Case) -> None:
    """Take the wait for events away: up to a minute, in which an answer has nothing to say."""
    if isinstance(case.query, dict):
        case.query.pop("wait_s", None)


@described.parametrize()
@settings(
    max_examples=examples(6),
    deadline=None,
    derandomize="CI" in os.environ,
    suppress_health_check=list(HealthCheck),
)
@pytest.mark.thorough
def test_answers_are_as_described(case: schemathesis.Case, service: RunningService) -> None:
    without_wait(case)
    case.call_and_validate(
        base_url=service.base,
        excluded_checks=excluded(),
    )


def follow(links: Any, service: RunningService) -> set[str]:
    """Run chains along the links, judge each answer, and return the operations that were called."""
    links.config.update(base_url=service.base)
    machine: Any = links.as_state_machine()
    followed: set[str] = set()

    class Chain(machine):  # type: ignore[misc]
        def before_call(self, case: Any) -> None:
            without_wait(case)

        def validate_response(self, response: Any, case: Any, *_: object, **__: object) -> None:
            followed.add(case.operation.label)
            case.validate_response(response, excluded_checks=excluded())

    Chain.run(
        settings=settings(
            max_examples=examples(10),
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
    )
    return followed


@pytest.mark.thorough
def test_requests_that_follow_from_each_other_are_answered_as_described(
    service: RunningService,
) -> None:
    """Chains along the links of the description, and those that its names suggest."""
    links = schemathesis.openapi.from_dict(accepted(DOCUMENT))
    # A test of a webhook waits for an address that was made up.
    assert follow(links.exclude(path="/webhooks/{webhook_id}/test"), service)


@pytest.mark.thorough
def test_an_opened_account_is_read_along_the_links(service: RunningService) -> None:
    """Among all operations chance decides which links are followed; among three it does not."""
    paths = ["/accounts/", "/accounts/{account_id}", "/accounts/{account_id}/history"]
    links = schemathesis.openapi.from_dict(accepted(DOCUMENT)).include(path=paths)
    followed = follow(links, service)
    assert {"GET /accounts/{account_id}", "GET /accounts/{account_id}/history"} <= followed
