"""POST /accounts/batches: many accounts in one request, with the answers of single requests."""

import json

import pytest

PATH = "/accounts/batches/"


def items(service, *accounts, status: int = 200):
    answer = service.post(PATH, {"accounts": list(accounts)})
    assert answer.status_code == status, answer.text
    return answer.json().get("results")


def account(**fields):
    return {"owner": "Ada", "currency": "USD", **fields}


def test_each_item_has_the_answer_of_its_own_request(service):
    wrong = [
        (account(idempotency_key="w1", currency="XXY"), 422, "currency_unknown"),
        (account(), 422, "idempotency_key_missing"),
        (account(idempotency_key="w2", balance="5"), 422, "invalid_request"),
        (account(idempotency_key="w\n3"), 422, "invalid_request"),
        ("text", 422, "invalid_json"),
        (account(idempotency_key="m-1", owner="Eve"), 422, "idempotency_key_reused"),
        (account(reference="m-ref", owner="Eve"), 409, "reference_taken"),
    ]
    good = account(idempotency_key="m-1", metadata={"a": 1.50}, type="ACCOUNT")
    results = items(service, good, account(reference="m-ref"), *(item for item, *_ in wrong))
    assert [one["index"] for one in results] == list(range(9))
    first, second, *refused = results
    assert (first["status"], second["status"], first["replayed"]) == (201, 201, False)
    alone = service.post("/accounts/", account(metadata={"a": 1.50}), **{"Idempotency-Key": "m-1"})
    assert alone.headers["idempotency-replayed"] == "true"
    assert alone.json() == first["body"]
    answers = [(one["status"], one["body"]["code"]) for one in refused]
    expected = [(status, code) for _, status, code in wrong]
    assert [code for _, code in answers] == [code for _, code in expected]
    again = items(service, good, account(reference="m-ref"))
    assert [(one["replayed"], one["body"]["id"]) for one in again] == [
        (True, first["body"]["id"]),
        (True, second["body"]["id"]),
    ]


def test_ten_thousand_accounts_are_opened_once(service):
    many = [account(owner=f"o{n}", idempotency_key=f"many-{n}") for n in range(10_000)]
    opened = items(service, *many)
    ids = [one["body"]["id"] for one in opened]
    assert ids == sorted(set(ids)) and {one["status"] for one in opened} == {201}
    again = items(service, *many)
    assert [one["body"]["id"] for one in again] == ids
    assert all(one["replayed"] for one in again)
    items(service, *many, account(idempotency_key="one more"), status=422)


def test_a_dry_run_opens_nothing_and_a_ledger_has_accounts_of_its_own(service):
    body = {"accounts": [account(idempotency_key="dry", reference="dry")]}
    answer = service.post(f"{PATH}?dry_run=true", body)
    assert answer.headers["dry-run"] == "true"
    assert answer.json()["results"][0]["status"] == 201
    assert service.get("/accounts/?reference=dry").json() == []
    service.post("/ledgers/", {"name": "shop"})
    [opened] = service.post(f"/ledgers/shop{PATH}", body).json()["results"]
    assert service.get(f"/ledgers/shop/accounts/{opened['body']['id']}").status_code == 200
    assert service.get("/accounts/?reference=dry").json() == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("{", "invalid_json"),
        ("[]", "invalid_request"),
        ("{}", "invalid_request"),
        ('{"accounts": []}', "invalid_request"),
        ('{"accounts": [{}], "accounts": [{}]}', "invalid_json"),
        ('{"accounts": [{}], "mode": "atomic"}', "invalid_request"),
    ],
)
def test_a_body_that_is_no_batch_is_refused(service, body, code):
    headers = {"content-type": "application/json"}
    answer = service.client.post(PATH, content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_a_key_of_the_whole_request_is_refused(service):
    answer = service.post(PATH, json.loads('{"accounts": [{}]}'), **{"Idempotency-Key": "k"})
    assert answer.status_code == 422
