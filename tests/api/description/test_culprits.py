"""A refusal names the culprit: the field, the figures, the methods."""

import pytest

from tests.processes import RunningService


@pytest.fixture(scope="module")
def accounts(service: RunningService) -> dict[str, int]:
    yen = service.open(currency="JPY", balance="1000")
    return {"a": service.open(balance="100"), "b": service.open(balance="100"), "yen": yen}


def legs(accounts: dict[str, int], **amounts: str) -> list[dict]:
    return [{"account_id": accounts[name], "amount": text} for name, text in amounts.items()]


def refused(answer, code: str, **facts: object) -> str:
    """The detail of a problem with this code and these members."""
    body = answer.json()
    assert body["code"] == code
    assert {name: body[name] for name in facts} == facts
    return body["detail"]


def test_legs_that_do_not_balance(service, accounts) -> None:
    sent = legs(accounts, a="-5.00", b="4.99", yen="0")[:2]
    answer = service.send("/transactions", legs=sent)
    said = refused(answer, "legs_unbalanced", currency="USD", difference="-0.01")
    assert said.endswith("The legs in USD sum to -0.01.")


def test_legs_of_a_reversal_that_do_not_balance(service, accounts) -> None:
    moved = service.send("/transactions", legs=legs(accounts, a="-5", b="5")).json()
    path = f"/transactions/{moved['transaction_id']}/reverse"
    answer = service.send(path, legs=legs(accounts, a="2", b="-1"))
    refused(answer, "legs_unbalanced", currency="USD", difference="1.00")


def test_a_rate_that_does_not_fit(service, accounts) -> None:
    dealer, dealer_yen = service.open(), service.open(currency="JPY", balance="9000")
    both = accounts | {"dealer": dealer, "dealer_yen": dealer_yen}
    sent = legs(both, a="-10.01", dealer="10.01", dealer_yen="-1500", yen="1500")
    exchange = {"sell": "USD", "buy": "JPY", "rate": "151.239"}
    answer = service.send("/transactions", legs=sent, exchange=exchange)
    figures = {"currency": "JPY", "bought": "1500", "expected": "1513.90239"}
    said = refused(answer, "rate_mismatch", **figures)
    assert "1500 JPY is bought" in said and "1513.90239" in said


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/deposit", {"account_id": "yen", "amount": "1.0"}),
        ("/withdraw", {"account_id": "yen", "amount": "1.5"}),
        ("/holds", {"account_id": "yen", "amount": "1.5"}),
        ("/transactions", {"legs": [{"account_id": "yen", "amount": "-1.5"},
                                    {"account_id": "yen", "amount": "1.5"}]}),
    ],
)  # fmt: skip
def test_decimals_that_a_currency_does_not_have(service, accounts, path, body) -> None:
    sent = {
        name: [leg | {"account_id": accounts["yen"]} for leg in value] if name == "legs" else value
        for name, value in body.items()
    } | ({} if "legs" in body else {"account_id": accounts["yen"]})
    said = refused(service.send(path, **sent), "amount_precision", currency="JPY", decimals=0)
    assert said.endswith("JPY has 0 decimals.")


def test_decimals_of_a_limit(service, accounts) -> None:
    answer = service.send(f"/accounts/{accounts['yen']}", "PATCH", ceiling="1.5")
    refused(answer, "amount_precision", currency="JPY", decimals=0)


def test_items_of_a_batch_say_the_same(service, accounts) -> None:
    item = {"type": "DEPOSIT", "account_id": accounts["yen"], "amount": "1.0"}
    sent = {"movements": [item | {"idempotency_key": "i"}]}
    [result] = service.post("/batches", sent).json()["results"]
    assert result["body"]["decimals"] == 0
    cause = service.post("/batches", sent | {"mode": "atomic"}).json()["cause"]
    assert (cause["code"], cause["decimals"]) == ("amount_precision", 0)


def test_the_methods_of_a_route(service, accounts) -> None:
    answer = service.client.delete(f"/accounts/{accounts['a']}")
    said = refused(answer, "method_not_allowed", allowed=["GET", "HEAD", "PATCH"])
    assert answer.headers["allow"] == "GET, HEAD, PATCH"
    assert said.endswith("It supports GET, HEAD, PATCH.")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("amonut", "amonut"), ("Account_Id", "Account_Id"), ("x" * 40, "x" * 40)]
    + [(name, "unknown") for name in ("x" * 41, "a b", "<script>", "é", "1", "", "a\n", "a.b")],
)
def test_an_unknown_field_is_named_if_it_is_an_identifier(service, name, shown) -> None:
    answer = service.post("/deposit", {"account_id": 1, "amount": 1, name: "secret"})
    faults = {fault["field"]: fault["message"] for fault in answer.json()["errors"]}
    assert "the name is not known" in faults[shown]
    assert "secret" not in answer.text


def test_an_unknown_parameter_is_named(service) -> None:
    [fault] = service.get("/accounts?ownr=a").json()["errors"]
    assert fault["field"] == "ownr"
    assert "owner" in fault["message"]
