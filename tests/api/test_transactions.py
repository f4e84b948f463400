"""Transactions of many legs, conditions, exchanges; and the detail of any transaction."""

import csv
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest

from ledgerservice.postgres.verification import verify
from tests.databases import connect, url_text
from tests.processes import RunningService, serving


def legs(*pairs: tuple[int, str], **first: Any) -> list[dict[str, Any]]:
    """Legs of account and amount; what else is given belongs to the first of them."""
    found: list[dict[str, Any]] = [{"account_id": a, "amount": amount} for a, amount in pairs]
    found[0] |= first
    return found


def balances(service: RunningService, *accounts: int) -> list[str]:
    return [service.get(f"/accounts/{account}").json()["balance"] for account in accounts]


def test_many_legs_move_at_once(service: RunningService) -> None:
    a, b, c = service.open(balance="100"), service.open(), service.open()
    done = service.send("/transactions", legs=legs((a, "-50"), (b, "30.5"), (c, "19.50")))
    assert done.status_code == 200
    answer = done.json()
    assert (answer["transaction_type"], answer["amount"]) == ("GENERAL", "50.00")
    assert [(e["account_id"], e["amount"], e["balance"]) for e in answer["entries"]] == [
        (a, "-50.00", "50.00"), (b, "30.50", "30.50"), (c, "19.50", "19.50"),
    ]  # fmt: skip
    looked_up = service.get(f"/transactions/{answer['transaction_id']}").json()
    assert looked_up["entries"] == answer["entries"]
    assert looked_up["account_id"] == a


def test_the_exact_answer_can_be_read_again(service: RunningService) -> None:
    a, b = service.open(balance="100"), service.open()
    metadata = {"rate": 1.50, "quote": "\u00e9 < '"}
    texts = {"metadata": metadata, "effective_at": "2026-01-01T00:00:00Z"}
    answers = [
        service.send("/transactions", legs=legs((a, "-50"), (b, "50")), **texts),
        service.send("/withdraw", account_id=a, amount="50.01"),
        service.send("/holds", account_id=a, amount="20"),
    ]
    answers.append(service.send(f"/holds/{answers[2].json()['hold_id']}/capture", amount="21"))
    assert [one.status_code for one in answers] == [200, 400, 200, 409]
    for one in answers:
        again = service.get(f"/transactions/{one.json()['transaction_id']}/answer")
        assert again.content == b'{"status":%d,"body":%s}' % (one.status_code, one.content)
    assert service.get("/transactions/1/answer").json()["code"] == "transaction_not_found"


def test_500_legs_and_an_account_twice(service: RunningService) -> None:
    a = service.open(balance="1000")
    others = [service.open() for _ in range(498)]
    many = legs((a, "-498"), *((other, "1") for other in others), (a, "0.01"))
    many[0]["amount"] = "-498.01"
    low = "-1000000000000.00"
    for leg in many:  # all that a leg can say, as wordy as json.dumps has it, is not too large
        leg |= {"currency": "USD", "available_at_least": low, "balance_at_least": low}
        leg["version"] = 1 if leg["account_id"] == a else 0
    metadata = {"note": "x" * 8_000}
    asked = {"legs": many, "metadata": metadata, "idempotency_key": "all of it"}
    kind = {"Content-Type": "application/json"}
    done = service.client.post("/transactions", content=json.dumps(asked), headers=kind)
    assert done.status_code == 200
    own = [e for e in done.json()["entries"] if e["account_id"] == a]
    assert [e["amount"] for e in own] == ["0.01", "-498.01"]  # never lower than at its end
    assert balances(service, a, others[0], others[-1]) == ["502.00", "1.00", "1.00"]
    refused = service.send("/transactions", legs=[*many, {"account_id": a, "amount": "1"}])
    assert refused.json()["code"] == "invalid_request"


def test_what_comes_in_with_a_leg_can_go_out_with_another(service: RunningService) -> None:
    empty, payer = service.open(), service.open(balance="5")
    passing = legs((empty, "-5"), (payer, "-5"), (empty, "5"), (payer, "5"))
    assert service.send("/transactions", legs=passing).status_code == 200
    over = legs((empty, "-5.01"), (payer, "0.01"), (empty, "5"))
    assert service.send("/transactions", legs=over).json()["code"] == "insufficient_funds"


CONDITIONS = [
    ({"available_at_least": "70"}, True),
    ({"available_at_least": "70.01"}, False),
    ({"balance_at_least": 100}, True),
    ({"balance_at_least": "100.01"}, False),
    ({"version": 2}, True),
    ({"version": 1}, False),
    ({"available_at_least": "-5", "version": 3}, False),
    ({"currency": "USD"}, True),
]


@pytest.mark.parametrize(("condition", "met"), CONDITIONS)
def test_a_leg_demands_what_must_be_true_before_it(
    service: RunningService, condition: dict[str, Any], met: bool
) -> None:
    a, b = service.open(balance="100"), service.open()
    assert service.send("/holds", account_id=a, amount="30").status_code == 200
    answer = service.send("/transactions", legs=legs((a, "-1"), (b, "1"), **condition))
    if met:
        assert answer.status_code == 200
        return
    assert (answer.status_code, answer.json()["code"]) == (409, "condition_failed")
    assert answer.json()["decided_on"] == {
        "account_id": a, "currency": "USD", "available": "70.00", "balance": "100.00", "version": 2,
    }  # fmt: skip
    assert balances(service, a, b) == ["100.00", "0.00"]
    record = service.get(f"/transactions/{answer.json()['transaction_id']}").json()
    assert (record["status"], record["code"]) == ("declined", "condition_failed")


def exchange(service: RunningService) -> tuple[int, int, int, int, int]:
    """Accounts of a customer and a dealer in dollars and yen, and one for roundings."""
    return (
        service.open("Alice", "USD", "100"),
        service.open("Alice", "JPY"),
        service.open("Dealer", "USD"),
        service.open("Dealer", "JPY", "100000"),
        service.open("Roundings", "JPY"),
    )


def test_two_currencies_are_exchanged_and_no_rounding_is_lost(service: RunningService) -> None:
    usd, jpy, dealer_usd, dealer_jpy, roundings = exchange(service)
    rate = {"sell": "USD", "buy": "JPY", "rate": "151.239", "rounding_account_id": roundings}
    # 10.01 dollars are 1513.90 yen: the customer gets 1513, the dealer gives 1514.
    swap = legs((usd, "-10.01"), (dealer_usd, "10.01"), (dealer_jpy, "-1514"), (jpy, "1513"))
    done = service.send("/transactions", legs=swap, exchange=rate)
    assert done.status_code == 200
    assert done.json()["exchange"] == rate
    assert balances(service, usd, jpy, roundings) == ["89.99", "1513", "1"]
    assert service.get(f"/transactions/{done.json()['transaction_id']}").json()["exchange"] == rate


EXCHANGES = {
    "no account for the rounding": ({"rounding_account_id": None}, {}, "legs_unbalanced"),
    "another rate": ({"rate": "150"}, {}, "rate_mismatch"),
    "a rate the other way": ({"sell": "JPY", "buy": "USD"}, {}, "rate_mismatch"),
    "a currency that is not there": ({"buy": "EUR"}, {}, "rate_mismatch"),
    "one currency": ({"buy": "USD"}, {}, "rate_mismatch"),
    "more than a rounding": ({}, {3: "1510"}, "legs_unbalanced"),
    "an unbalanced currency": ({}, {0: "-10.02"}, "legs_unbalanced"),
    "a rate of zero": ({"rate": "0"}, {}, "invalid_request"),
    "a rate below zero": ({"rate": "-1"}, {}, "invalid_request"),
    "too exact a rate": ({"rate": "1." + "1" * 40}, {}, "invalid_request"),
    "a rounding account that is not there": (
        {"rounding_account_id": 10**12}, {}, "account_not_found",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", EXCHANGES.values(), ids=EXCHANGES.keys())
def test_an_exchange_is_what_it_says(service: RunningService, case: Any) -> None:
    changes, amounts, code = case
    usd, jpy, dealer_usd, dealer_jpy, roundings = exchange(service)
    rate = {"sell": "USD", "buy": "JPY", "rate": "151.239", "rounding_account_id": roundings}
    swap = legs((usd, "-10.01"), (dealer_usd, "10.01"), (dealer_jpy, "-1514"), (jpy, "1513"))
    for place, amount in amounts.items():
        swap[place]["amount"] = amount
    refused = service.send("/transactions", legs=swap, exchange=rate | changes)
    assert refused.json()["code"] == code
    assert balances(service, usd, jpy, roundings) == ["100.00", "0", "0"]


def test_the_rounding_account_is_of_the_currency_bought(service: RunningService) -> None:
    usd, jpy, dealer_usd, dealer_jpy, _ = exchange(service)
    rate = {"sell": "USD", "buy": "JPY", "rate": "151.239", "rounding_account_id": usd}
    swap = legs((usd, "-10.01"), (dealer_usd, "10.01"), (dealer_jpy, "-1514"), (jpy, "1513"))
    problem = service.send("/transactions", legs=swap, exchange=rate).json()
    assert problem["code"] == "currency_mismatch"
    assert (problem["currency"], problem["expected_currency"]) == ("USD", "JPY")


def test_what_is_wrong_says_where(service: RunningService) -> None:
    a, b = service.open(), service.open(currency="JPY")
    for change, field in (
        ({"amount": "x"}, "legs.1.amount"),
        ({"memo": "x"}, "legs.1.memo"),
        ({"version": "x"}, "legs.1.version"),
    ):
        asked = legs((a, "-1"), (b, "1"))
        asked[1] |= change
        [fault] = service.send("/transactions", legs=asked).json()["errors"]
        assert fault["field"] == field
    [fault] = service.send("/transactions", legs=legs((a, "-1"), (b, "1")), memo=1).json()["errors"]
    assert (fault["field"], fault["message"].partition("; ")[2]) == (
        "memo", "also accepted: description, reference, effective_at, metadata, exchange, type",
    )  # fmt: skip
    for other, amount, code in (
        (10**12, "1", "account_not_found"), (b, "1.5", "amount_precision"),
    ):  # fmt: skip
        refused = service.send("/transactions", legs=legs((a, "-1"), (other, amount))).json()
        assert (refused["code"], refused["account_id"]) == (code, other)
    [fault] = service.get("/transactions?kid=HOLD").json()["errors"]
    assert (fault["field"], "kind" in fault["message"]) == ("kid", True)


REFUSED = {
    "one leg": ([(0, "-1")], "invalid_request"),
    "no legs": ([], "invalid_request"),
    "not zero": ([(0, "-1"), (1, "2")], "legs_unbalanced"),
    "zero in sum over two currencies": ([(0, "-1"), (2, "1")], "legs_unbalanced"),
    "an amount of zero": ([(0, "-1"), (1, "1"), (1, "0.00")], "invalid_request"),
    "a plus sign": ([(0, "-1"), (1, "+1")], "invalid_request"),
    "an exponent": ([(0, "-1"), (1, "1e0")], "invalid_request"),
    "two signs": ([(0, "--1"), (1, "1")], "invalid_request"),
    "no number": ([(0, "-NaN"), (1, "1")], "invalid_request"),
    "too many decimals": ([(0, "-1.001"), (1, "1.001")], "amount_precision"),
    "too large": ([(0, "-10000000000000.01"), (1, "10000000000000.01")], "amount_limit"),
    "an account that is not there": ([(0, "-1"), (10**12, "1")], "account_not_found"),
    "an external account": ([(0, "-1"), (-1, "1")], "account_not_found"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_legs_that_are_not_right_are_refused(service: RunningService, case: Any) -> None:
    pairs, code = case
    known = [service.open(balance="10"), service.open(), service.open(currency="INR")]
    wanted = [(known[a] if 0 <= a < 3 else a, amount) for a, amount in pairs]
    refused = service.send("/transactions/", legs=legs(*wanted) if wanted else [])
    assert refused.json()["code"] == code
    assert refused.json()["retry"] == "corrected"
    assert "transaction_id" not in refused.json()


def test_a_leg_of_another_currency_than_it_says(service: RunningService) -> None:
    a, b = service.open(balance="10"), service.open()
    refused = service.send("/transactions", legs=legs((a, "-1"), (b, "1"), currency="INR"))
    assert refused.json()["code"] == "currency_mismatch"


def test_the_key_is_of_the_first_leg_s_account(service: RunningService) -> None:
    a, b = service.open(balance="10"), service.open(balance="10")
    body = {"legs": legs((a, "-1.0"), (b, "1")), "idempotency_key": "mine"}
    first = service.post("/transactions", body)
    same = service.post("/transactions", body | {"legs": legs((a, "-1.00"), (b, "1.0"))})
    assert (same.content, same.headers["idempotency-replayed"]) == (first.content, "true")
    assert (
        service.get(f"/accounts/{a}/keys/mine").json()["transaction_id"]
        == first.json()["transaction_id"]
    )
    turned = service.post("/transactions", body | {"legs": legs((b, "1"), (a, "-1"))})
    assert turned.status_code == 200  # the same legs, but another account's key
    for change in (
        {"legs": legs((a, "-2"), (b, "2"))},
        {"legs": legs((a, "-1"), (b, "1"), version=9)},
        {"description": "another"},
    ):
        reused = service.post("/transactions", body | change)
        assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")
    plain = {"account_id": a, "amount": "1", "idempotency_key": "mine"}
    assert service.post("/withdraw", plain).json()["code"] == "idempotency_key_reused"


# Detail.

DETAIL = {
    "description": 'Rent, "May" ünd \\ more',
    "reference": "invoice 2026/77",
    "effective_at": "2026-05-01T00:00:00.000000Z",
    "metadata": {"order": "77", "tags": ["a", "b"], "n": 1, "deep": {"x": None, "ok": True}},
}


def test_detail_is_kept_with_any_transaction_and_told_again(service: RunningService) -> None:
    a, b = service.open(balance="100"), service.open()
    hold = service.send("/holds", account_id=a, amount="3", **DETAIL)
    answers = [
        service.send("/deposit/", account_id=a, amount="1", **DETAIL),
        service.send("/withdraw/", account_id=a, amount="1", **DETAIL),
        service.send("/transfer/", from_account_id=a, to_account_id=b, amount="1", **DETAIL),
        service.send("/transactions", legs=legs((a, "-1"), (b, "1")), **DETAIL),
        hold,
        service.send(f"/holds/{hold.json()['hold_id']}/capture", amount="1", **DETAIL),
        service.send(f"/holds/{hold.json()['hold_id']}/release", amount="1", **DETAIL),
    ]
    number = answers[2].json()["transaction_id"]
    answers.append(service.send(f"/transactions/{number}/reverse", **DETAIL))
    for answer in answers:
        assert answer.status_code == 200
        kept = service.get(f"/transactions/{answer.json()['transaction_id']}").json()
        for name, value in DETAIL.items():
            assert answer.json()[name] == kept[name] == value
    assert answers[0].json()["new_balance"]
    assert answers[2].json()["sender_new_balance"]
    declined = service.send("/withdraw/", account_id=a, amount="1000", **DETAIL)
    assert (declined.status_code, declined.json()["code"]) == (400, "insufficient_funds")
    kept = service.get(f"/transactions/{declined.json()['transaction_id']}").json()
    assert {name: kept[name] for name in DETAIL} == DETAIL


def test_a_key_is_of_its_detail_too(service: RunningService) -> None:
    a = service.open()
    body = {"account_id": a, "amount": "1", "idempotency_key": "k", "description": "one"}
    assert service.post("/deposit/", body).status_code == 200
    changes: list[dict[str, Any]] = [{"description": "two"}, {"reference": "r"}, {"metadata": {}}]
    for change in changes:
        assert service.post("/deposit/", body | change).json()["code"] == "idempotency_key_reused"
    plain = {name: value for name, value in body.items() if name != "description"}
    assert service.post("/deposit/", plain).json()["code"] == "idempotency_key_reused"
    plain["idempotency_key"] = "p"
    assert service.post("/deposit/", plain).status_code == 200
    later = service.post("/deposit/", plain | {"description": "added"})
    assert later.json()["code"] == "idempotency_key_reused"


HOSTILE = [
    {"description": ""}, {"description": "d" * 1001}, {"description": "nul \0"},
    {"description": 7}, {"reference": ""}, {"reference": "r" * 256}, {"reference": "a\nb"},
    {"effective_at": "2026-05-01"}, {"effective_at": "2026-05-01T00:00:00"},
    {"effective_at": "2026-13-01T00:00:00Z"}, {"effective_at": "2026-02-30T00:00:00Z"},
    {"effective_at": "0001-01-01T00:00:00+23:00"}, {"effective_at": "9999-12-31T23:59:59-23:00"},
    {"effective_at": "2026-05-01T00:00:00+00:60"}, {"effective_at": "2026-05-01T24:00:00Z"},
    {"effective_at": 1777777777}, {"effective_at": "now"}, {"effective_at": "infinity"},
    {"metadata": []}, {"metadata": "x"}, {"metadata": {"a": "nul \0"}}, {"metadata": {"\0": 1}},
    {"metadata": {"a": "x" * 8200}}, {"metadata": {"a": 10**39}}, {"metadata": {"a": 1e300}},
    {"metadata": {"a": [[[[[[[[1]]]]]]]]}}, {"meta": {}}, {"transaction_id": 1},
]  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: str(change)[:60])
def test_hostile_detail_is_refused(service: RunningService, change: dict[str, Any]) -> None:
    body = {"account_id": 1, "amount": "1", "idempotency_key": "hostile"} | change
    refused = service.post("/deposit/", body)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    "metadata",
    ['{"a":1,"a":2}', '{"a":"\\ud800"}', '{"a":NaN}', '{"a":1e400}', '{"a":1e131071}', "{'a':1}"],
)
def test_hostile_json_in_metadata_is_refused(service: RunningService, metadata: str) -> None:
    body = f'{{"account_id":1,"amount":"1","idempotency_key":"h","metadata":{metadata}}}'
    headers = {"Content-Type": "application/json"}
    refused = service.client.post("/deposit/", content=body, headers=headers)
    assert refused.status_code == 422
    assert refused.json()["code"] in ("invalid_request", "invalid_json")


def test_metadata_keeps_its_numbers_as_they_were_written(service: RunningService) -> None:
    account = service.open()
    exact = '{"z":1.50,"a":12345678901234567890123456789.10,"n":-0}'
    body = f'{{"account_id":{account},"amount":1,"idempotency_key":"m","metadata":{exact}}}'
    headers = {"Content-Type": "application/json"}
    first = service.client.post("/deposit/", content=body, headers=headers)
    assert f'"metadata":{exact}' in first.text
    again = service.client.post("/deposit/", content=body, headers=headers)
    assert again.content == first.content
    number = first.json()["transaction_id"]
    assert f'"metadata":{exact}' in service.get(f"/transactions/{number}").text


def test_nobody_changes_detail_afterwards(new_database) -> None:
    database = new_database()
    with serving(DATABASE_URL=url_text(database)) as service:
        account = service.open()
        assert service.send("/deposit", account_id=account, amount="1", **DETAIL).status_code == 200
    for change in ("description = 'x'", "metadata = '{}'", "effective_at = now()"):
        with connect(database) as owner, pytest.raises(Exception, match="immutable"):
            owner.execute(f"UPDATE ledger.details SET {change}")
    assert list(verify(database.owner_engine())) == []


def test_a_caller_s_key_that_looks_like_the_service_s(service: RunningService) -> None:
    """Both have the key; histories, statements and look-ups say whose each line is."""
    a = service.open(balance="100")
    soon = (datetime.now(UTC) + timedelta(seconds=0.2)).isoformat()
    placed = service.send("/holds/", account_id=a, amount="60", expires_at=soon).json()
    time.sleep(0.4)
    key = f"expiry {placed['hold_id']}"
    mine = service.send("/withdraw", account_id=a, amount="1", idempotency_key=key).json()
    expected = [(key, "caller", "WITHDRAWAL"), (key, "expiry", "RELEASE")]
    for lines in (
        service.get(f"/accounts/{a}/history?limit=2").json(),
        service.get(f"/accounts/{a}/statement").json()["entries"][:-3:-1],
        csv.DictReader(service.get(f"/accounts/{a}/statement?format=csv").text.splitlines()),
    ):
        shown = [(line["idempotency_key"], line["origin"], line["transaction_type"])
                 for line in lines]  # fmt: skip
        assert [line for line in sorted(shown) if line[0] == key] == expected
    seen = service.get(f"/accounts/{a}/keys/{quote(key)}").json()
    assert seen["transaction_id"] == mine["transaction_id"]
