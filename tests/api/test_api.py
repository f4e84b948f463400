"""What the routes answer, to the byte where that is promised."""

import re
import shutil
import subprocess
from typing import Any

import pytest

from tests.processes import RunningService

POSTED = {
    "status", "transaction_id", "transaction_type", "amount", "currency", "recorded_at", "entries",
    "description", "reference", "effective_at", "metadata",
}  # fmt: skip


@pytest.fixture
def alice(service: RunningService) -> int:
    return service.open("Alice", balance="100")


@pytest.fixture
def bob(service: RunningService) -> int:
    return service.open("Bob")


def body(key: str = "k", amount: object = 50, **fields: object) -> dict:
    return {"amount": amount, "idempotency_key": key, **fields}


def test_an_account_is_opened_empty(service):
    answer = service.post("/accounts/", {"owner": "Alice", "currency": "INR"})
    assert answer.status_code == 201
    account = answer.json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", account.pop("created_at"))
    assert account == {
        "id": account["id"], "owner": "Alice", "currency": "INR", "reference": None,
        "metadata": None, "balance": "0.00", "held": "0.00", "available": "0.00", "version": 0,
        "status": "active", "floor": "0.00", "ceiling": None, "frozen": None, "closed": False,
        "principal_id": 0,
    }  # fmt: skip
    assert service.get(f"/accounts/{account['id']}").content == answer.content


def test_an_account_carries_metadata(service):
    """As it was given, for ever; another is another request."""
    wallet: dict[str, Any] = {"owner": "Alice", "currency": "USD"}
    wallet["metadata"] = {"ü": [1.5, None], "a": {"b": "c"}}
    first = service.post("/accounts/", wallet, **{"Idempotency-Key": "tagged"})
    assert '"metadata":{"ü":[1.5,null],"a":{"b":"c"}}' in first.text
    account = first.json()["id"]
    assert service.get(f"/accounts/{account}").content == first.content
    turned = {**wallet, "metadata": dict(reversed(wallet["metadata"].items()))}
    for same in (wallet, turned):
        again = service.post("/accounts/", same, **{"Idempotency-Key": "tagged"})
        assert (again.status_code, again.content) == (201, first.content)
    for other_metadata in ({"a": {"b": "c"}}, {}, None):
        other = {**wallet, "metadata": other_metadata}
        refused = service.post("/accounts/", other, **{"Idempotency-Key": "tagged"})
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    service.post("/deposit/", body(account_id=account))
    now = service.get(f"/accounts/{account}").json()
    then = service.get(f"/accounts/{account}?as_of={now['created_at']}").json()
    assert now["metadata"] == then["metadata"] == wallet["metadata"]
    preview = service.post("/accounts/?dry_run=true", {**wallet, "owner": "Bob"}).json()
    assert preview["metadata"] == wallet["metadata"]
    assert service.get("/accounts/?owner=Bob").json() == []
    refusable: list[Any] = [[], "x", {"a\0": 1}, {"x": "y" * 17_000}]
    for metadata in refusable:
        refused = service.post("/accounts/", {**wallet, "metadata": metadata})
        assert refused.status_code in (400, 422), metadata


def test_a_lost_answer_does_not_open_a_second_account(service):
    alice = {"owner": "Alice", "currency": "USD"}
    first = service.post("/accounts/", alice, **{"Idempotency-Key": "open-1"})
    service.post("/deposit/", body(account_id=first.json()["id"]))
    again = service.post("/accounts/", alice, **{"Idempotency-Key": "open-1"})
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    other = service.post("/accounts/", alice | {"owner": "Al"}, **{"Idempotency-Key": "open-1"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")

    named = service.post("/accounts/", alice | {"reference": "wallet-7"})
    again = service.post("/accounts/", alice | {"reference": "wallet-7"})
    assert (again.status_code, again.content) == (201, named.content)
    other = service.post("/accounts/", {**alice, "owner": "Al", "reference": "wallet-7"})
    assert (other.status_code, other.json()["code"]) == (409, "reference_taken")

    unnamed = [service.post("/accounts/", alice).json()["id"] for _ in range(2)]
    assert unnamed[0] != unnamed[1]


def test_a_deposit_a_withdrawal_and_a_transfer(service, alice, bob):
    deposited = service.post("/deposit/", body("d", "20.5", account_id=alice, type="DEPOSIT"))
    withdrawn = service.post("/withdraw/", body("w", 0.5, account_id=alice, type="WITHDRAWAL"))
    moved = service.post("/transfer/", body("t", from_account_id=alice, to_account_id=bob))
    for answer, kind, own in (
        (deposited, "DEPOSIT", {"new_balance"}),
        (withdrawn, "WITHDRAWAL", {"new_balance"}),
        (moved, "TRANSFER", {"sender_new_balance", "schedule_id"}),
    ):
        assert answer.status_code == 200
        assert set(answer.json()) == POSTED | own
        assert answer.json()["status"] == "posted"
        assert answer.json()["transaction_type"] == kind
        assert "Idempotency-Replayed" not in answer.headers
    assert deposited.json()["new_balance"] == "120.50"
    assert withdrawn.json()["new_balance"] == "120.00"
    assert moved.json()["sender_new_balance"] == "70.00"
    nothing_held = {"currency": "USD", "held_change": "0.00", "held": "0.00"}
    assert moved.json()["entries"] == [
        {"account_id": alice, "amount": "-50.00", "balance": "70.00", "version": 4} | nothing_held,
        {"account_id": bob, "amount": "50.00", "balance": "50.00", "version": 1} | nothing_held,
    ]
    types = [e["transaction_type"] for e in service.get(f"/accounts/{alice}/history").json()]
    assert types == ["TRANSFER_OUT", "WITHDRAWAL", "DEPOSIT", "DEPOSIT"]
    (received,) = service.get(f"/accounts/{bob}/history").json()
    assert received == {
        "transaction_id": moved.json()["transaction_id"], "transaction_type": "TRANSFER_IN",
        "amount": "50.00", "balance": "50.00", "held_change": "0.00", "held": "0.00",
        "version": 1, "origin": "caller", "idempotency_key": "t",
        "created_at": moved.json()["recorded_at"],
    }  # fmt: skip


def test_a_repeat_gets_the_original_answer_and_moves_nothing(service, alice, bob):
    transfer = {"from_account_id": alice, "to_account_id": bob}
    first = service.post("/transfer/", body("t", 50, **transfer))
    service.post("/deposit/", body("later", 7, account_id=alice))
    for amount in (50, "50", "50.0", "50.00", 50.0):
        again = service.post("/transfer", body("t", amount, **transfer))
        assert (again.status_code, again.content) == (200, first.content)
        assert again.headers["Idempotency-Replayed"] == "true"
    assert service.get(f"/accounts/{bob}").json()["balance"] == "50.00"
    for other in ({"amount": 51}, {"to_account_id": 1}):
        reused = service.post("/transfer/", {**body("t", 50, **transfer), **other})
        assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")


def test_a_decline_is_recorded_and_repeated_for_ever(service, bob):
    first = service.post("/withdraw/", body("w", 5, account_id=bob))
    problem = first.json()
    assert first.status_code == 400
    assert first.headers["Content-Type"] == "application/problem+json"
    assert (problem["code"], problem["retry"]) == ("insufficient_funds", "new_key")
    assert problem["decided_on"] == {
        "account_id": bob, "currency": "USD", "available": "0.00", "balance": "0.00", "version": 0,
    }  # fmt: skip
    service.post("/deposit/", body("d", 100, account_id=bob))
    again = service.post("/withdraw/", body("w", 5, account_id=bob))
    assert (again.status_code, again.content) == (400, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Content-Type"] == "application/problem+json"
    record = service.get(f"/transactions/{problem['transaction_id']}").json()
    assert (record["status"], record["code"]) == ("declined", "insufficient_funds")
    assert record["entries"] == []
    assert len(service.get(f"/accounts/{bob}/history").json()) == 1


def test_a_declined_transfer_tells_whom_it_was_for(service, alice, bob):
    declined = service.post("/transfer/", body("t", 1, from_account_id=bob, to_account_id=alice))
    record = service.get(f"/transactions/{declined.json()['transaction_id']}").json()
    assert (record["status"], record["counterparty_id"]) == ("declined", alice)


def test_the_answer_s_form_never_changes_for_a_renderer_version(service, alice, bob):
    """Stored answers are rendered again by the version they were stored with: these bytes."""
    posted = service.post("/transfer/", body("golden", 1, from_account_id=alice, to_account_id=bob))
    facts = posted.json()
    assert posted.text == (
        '{"status":"posted","transaction_id":%d,"transaction_type":"TRANSFER","amount":"1.00",'
        '"currency":"USD","recorded_at":"%s","entries":[{"account_id":%d,"currency":"USD",'
        '"amount":"-1.00","balance":"99.00","held_change":"0.00","held":"0.00","version":2},'
        '{"account_id":%d,"currency":"USD","amount":"1.00","balance":"1.00","held_change":"0.00",'
        '"held":"0.00","version":1}],"sender_new_balance":"99.00","schedule_id":null,'
        '"description":null,"reference":null,"effective_at":null,"metadata":null}'
        % (facts["transaction_id"], facts["recorded_at"], alice, bob)
    )
    declined = service.post("/withdraw/", body('"\\', "99.01", account_id=alice))
    facts = declined.json()
    assert declined.text == (
        '{"type":"urn:ledgerservice:problem:insufficient_funds","title":"Insufficient funds",'
        '"status":400,"code":"insufficient_funds","detail":"The available amount would '
        "fall below the account's floor, which is 0 unless the account's policy sets another one. "
        'Nothing was moved, and this key will always get this answer."'
        ',"retry":"new_key","idempotency_key":"\\"\\\\","transaction_id":%d,"transaction_type":'
        '"WITHDRAWAL","amount":"99.01","currency":"USD","recorded_at":"%s","decided_on":'
        '{"account_id":%d,"currency":"USD","available":"99.00","balance":"99.00","version":2}}'
        % (facts["transaction_id"], facts["recorded_at"], alice)
    )


REFUSALS = {
    "an unknown account": ("/deposit/", {"account_id": 10**9}, 404, "account_not_found"),
    "an external account": ("/deposit/", {"account_id": -1}, 404, "account_not_found"),
    "the same account": (
        "/transfer/",
        {"from_account_id": 1, "to_account_id": 1},
        422,
        "same_account",
    ),
    "a type of another route": (
        "/deposit/",
        {"account_id": 1, "type": "WITHDRAWAL"},
        422,
        "invalid_request",
    ),
    "too many decimals": (
        "/deposit/",
        {"account_id": 1, "amount": "0.001"},
        422,
        "amount_precision",
    ),
    "too much": ("/deposit/", {"account_id": 1, "amount": 10**15}, 422, "amount_limit"),
    "no key": (
        "/deposit/",
        {"account_id": 1, "idempotency_key": None},
        422,
        "idempotency_key_missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_be_is_rejected_and_not_recorded(service, alice, case):
    path, fields, status, code = case
    answer = service.post(path, {**body("reject"), **fields})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["retry"] == "corrected"
    assert service.get("/accounts/1/keys/reject").status_code == 404


def test_currencies_do_not_mix(service, alice):
    rupees = service.open("Ravi", "INR")
    answer = service.post("/transfer/", body(from_account_id=alice, to_account_id=rupees))
    assert (answer.status_code, answer.json()["code"]) == (422, "currency_mismatch")
    assert answer.json()["detail"].endswith(f"Account {alice} has USD, not INR.")
    assert (answer.json()["currency"], answer.json()["expected_currency"]) == ("USD", "INR")
    unknown = service.post("/accounts/", {"owner": "Eve", "currency": "XXX"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "currency_unknown")


def test_the_key_comes_in_the_body_or_the_header(service, bob):
    plain = {"account_id": bob, "amount": 5}
    first = service.post("/deposit/", plain, **{"Idempotency-Key": "h"})
    again = service.post("/deposit/", {**plain, "idempotency_key": "h"})
    both = service.post("/deposit/", {**plain, "idempotency_key": "h"}, **{"Idempotency-Key": "h"})
    assert first.content == again.content == both.content
    differ = service.post(
        "/deposit/", {**plain, "idempotency_key": "b"}, **{"Idempotency-Key": "h"}
    )
    assert (differ.status_code, differ.json()["code"]) == (422, "idempotency_key_mismatch")


def test_one_key_may_name_payments_of_two_accounts(service, alice, bob):
    assert service.post("/deposit/", body("shared", account_id=alice)).status_code == 200
    assert service.post("/deposit/", body("shared", account_id=bob)).status_code == 200


def test_the_outcome_of_a_key_can_be_asked_for(service, alice):
    posted = service.post("/withdraw/", body("a/b c?d#é"[:-1], account_id=alice)).json()
    found = service.get(f"/accounts/{alice}/keys/a%2Fb%20c%3Fd%23").json()
    looked_up = service.get(f"/transactions/{posted['transaction_id']}").json()
    assert found == looked_up
    more = {"account_id": alice, "idempotency_key": "a/b c?d#", "origin": "caller"}
    more |= {"principal_id": 0}
    assert posted | more == found
    unknown = service.get(f"/accounts/{alice}/keys/never")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "key_not_found")


def pages(service: RunningService, path: str) -> list[list[dict]]:
    """All pages of a list, by its Link headers."""
    found = []
    while path:
        answer = service.get(path)
        assert answer.status_code == 200
        found.append(answer.json())
        path = answer.links.get("next", {}).get("url", "")
    return found


def test_history_is_paged_newest_first(service, bob):
    for number in range(7):
        service.post("/deposit/", body(str(number), 1, account_id=bob))
    found = pages(service, f"/accounts/{bob}/history?limit=3")
    assert [len(page) for page in found] == [3, 3, 1]
    assert [e["version"] for page in found for e in page] == [7, 6, 5, 4, 3, 2, 1]
    link = service.get(f"/accounts/{bob}/history?limit=3").headers["Link"]
    assert re.fullmatch(r"</accounts/\d+/history\?limit=3&cursor=[\w-]+>; rel=\"next\"", link)
    assert [len(page) for page in pages(service, f"/accounts/{bob}/history/?limit=7")] == [7]
    assert service.get("/accounts/999999999/history").status_code == 404


def test_accounts_are_listed_by_owner_and_currency_over_all_pages(service):
    dollars = [service.open("Lister & Co", "USD") for _ in range(5)]
    rupees = [service.open("Lister & Co", "INR") for _ in range(2)]
    listed = pages(service, "/accounts/?owner=Lister+%26+Co&currency=USD&limit=2")
    assert [[a["id"] for a in page] for page in listed] == [dollars[:2], dollars[2:4], dollars[4:]]
    every = [a for page in pages(service, "/accounts?limit=1000") for a in page]
    assert {*dollars, *rupees} <= {a["id"] for a in every}
    assert all(a["id"] > 0 for a in every)


def test_a_cursor_belongs_to_its_list_and_filter(service, alice, bob):
    for number in range(3):
        service.post("/deposit/", body(str(number), 1, account_id=alice))
    cursor = (
        service.get(f"/accounts/{alice}/history?limit=1").links["next"]["url"].split("cursor=")[1]
    )
    for path in (f"/accounts/{bob}/history", "/accounts/", "/accounts/?owner=Bob"):
        answer = service.get(f"{path}{'&' if '?' in path else '?'}cursor={cursor}")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cursor")


@pytest.mark.parametrize(
    "path",
    ["/accounts", "/accounts/{a}", "/accounts/{a}/history", "/accounts/{a}/keys/funding",
     "/transactions/{t}", "/health/live", "/health/ready", "/docs", "/openapi.json"],
)  # fmt: skip
def test_every_route_answers_with_and_without_its_trailing_slash(service, alice, path):
    newest = service.get(f"/accounts/{alice}/history").json()[0]["transaction_id"]
    path = path.format(a=alice, t=newest)
    with_slash, without = service.get(f"{path}/"), service.get(path)
    assert with_slash.status_code == without.status_code == 200
    assert with_slash.content == without.content


@pytest.mark.parametrize("path", ["/deposit", "/deposit/", "/withdraw", "/withdraw/"])
def test_money_routes_answer_with_and_without_their_trailing_slash(service, alice, path):
    assert service.post(path, body(path, 1, account_id=alice)).status_code == 200


def test_the_documentation_is_there(service):
    assert service.get("/docs").status_code == 200
    description = service.get("/openapi.json").json()
    paths = description["paths"]
    assert {"/deposit/", "/withdraw/", "/transfer/", "/accounts/", "/accounts/{account_id}"} <= set(
        paths
    )
    body = paths["/transfer/"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/Transfer"}
    transfer = description["components"]["schemas"]["Transfer"]["properties"]
    assert {"from_account_id", "to_account_id", "amount", "idempotency_key"} <= set(transfer)


@pytest.mark.thorough
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_docs_are_shown_without_anybody_else_s_server(service, tmp_path):
    page = service.get("/docs").text
    assert not re.findall(r"(?:src|href)=\"https?://", page)
    chromium = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    chromium += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000"]
    shown = subprocess.run(
        [*chromium, "--dump-dom", f"{service.base}/docs/"],
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    assert shown.count('class="opblock ') > 30
    assert "insufficient_funds" in shown and "would fall below the account" in shown
