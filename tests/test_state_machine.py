"""Random histories over HTTP, every answer compared with the sequential model's."""

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Set
from typing import Any, ClassVar
from urllib.parse import quote

import httpx
import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, text

from ledgerservice.database import Database
from ledgerservice.money import MAX_AMOUNT_MINOR, to_major
from ledgerservice.verifier import verify
from tests.conftest import serving, url_text
from tests.model import DECLINES, Movement, SequentialLedger

EXAMPLES = 40
STEPS = 30

STATUSES = {
    "posted": 200,
    "insufficient_funds": 400,
    "balance_limit": 409,
    "account_not_found": 404,
    "same_account": 422,
    "idempotency_key_reused": 422,
    "currency_mismatch": 422,
    "amount_limit": 422,
    "reference_taken": 409,
    "key_not_found": 404,
}

PATHS = {"DEPOSIT": "/deposit/", "WITHDRAWAL": "/withdraw", "TRANSFER": "/transfer/"}

# Few keys, so that they meet often; not all of them harmless in a path or a COPY.
keys = st.sampled_from(["k1", "k2", "k3", "a/b/", "\\N", '100% "sure"?', "#/keys/"])
amounts = st.integers(1, 500) | st.sampled_from([1, 50, 100, 5_000, 5_050, MAX_AMOUNT_MINOR])
unknown_accounts = st.sampled_from([0, -1, -2, 10**12, 2**63 - 1])

_numbers = itertools.count(1)


# HOURS is a unit of our own, which the test adds.
EXPONENTS = {"USD": 2, "INR": 2, "JPY": 0, "HOURS": 3}


def spellings(minor: int, exponent: int) -> list[str]:
    """Every JSON literal of an amount: 50, 50.0, 50.00, and the same as text."""
    texts = [to_major(minor, exponent)]
    while "." in texts[-1] and texts[-1][-1] in "0.":
        texts.append(texts[-1][:-1].removesuffix("."))
    return [literal for text in texts for literal in (text, f'"{text}"')]


def body_of(movement: Movement, amount: str) -> str:
    """The JSON body of a movement, with that literal as its amount."""
    own = "account_id" if movement.other is None else "from_account_id"
    fields = {own: movement.account, "idempotency_key": movement.key}
    if movement.other is not None:
        fields["to_account_id"] = movement.other
    return f'{{"amount": {amount}, {json.dumps(fields)[1:]}'


def check_problem(response: httpx.Response, code: str) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (body["code"], response.status_code) == (code, STATUSES[code])
    assert body["status"] == response.status_code
    assert {"type", "title", "detail", "retry"} <= body.keys()
    return body


class LedgerOverHttp(RuleBasedStateMachine):
    """The service on one side, the model on the other."""

    client: ClassVar[httpx.Client]
    engine: ClassVar[Engine]

    accounts: "Bundle[int]" = Bundle("accounts")

    def __init__(self) -> None:
        super().__init__()
        self.model = SequentialLedger()
        self.answers: dict[tuple[int, str], httpx.Response] = {}

    # Openings

    @initialize(target=accounts)
    def open_funded(self) -> int:
        account, _ = self.opened({"owner": "Alice", "currency": "USD"}, None)
        self.move(Movement("DEPOSIT", account, None, 10_000, "funding"), '"100"')
        return account

    @initialize(target=accounts)
    def open_empty(self) -> int:
        return self.opened({"owner": "Bob", "currency": "USD"}, None)[0]

    @rule(
        target=accounts,
        owner=st.sampled_from(["Zoë", "Robert'); --", "\u202eecilA"]),
        currency=st.sampled_from(["INR", "JPY", "HOURS"]),
    )
    def open_another(self, owner: str, currency: str) -> int:
        return self.opened({"owner": owner, "currency": currency}, None)[0]

    @rule(
        target=accounts,
        name=st.sampled_from(["reference", "key", "both"]),
        change=st.sampled_from([{}, {"owner": "Mallory"}, {"currency": "INR"}]),
    )
    def open_twice(self, name: str, change: dict[str, str]) -> int:
        """Opened, then asked for again by its name: the same answer, or a refusal if changed."""
        body = {"owner": "Carol", "currency": "USD"}
        if name != "key":
            body["reference"] = f"reference {next(_numbers)}"
        key = None if name == "reference" else f"opening {next(_numbers)}"
        account, content = self.opened(body, key)
        again = self.open({**body, **change}, key)
        if change:
            check_problem(again, "idempotency_key_reused" if key else "reference_taken")
        else:
            assert (again.status_code, again.content) == (201, content)
            assert again.headers["idempotency-replayed"] == "true"
        return account

    def open(self, body: dict[str, Any], key: str | None) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.client.post("/accounts/", json=body, headers=headers)

    def opened(self, body: dict[str, Any], key: str | None) -> tuple[int, bytes]:
        response = self.open(body, key)
        assert response.status_code == 201
        assert "idempotency-replayed" not in response.headers
        account = response.json()
        nothing = to_major(0, EXPONENTS[body["currency"]])
        assert account["balance"] == account["available"] == account["held"] == nothing
        assert account["version"] == 0
        assert [account[name] for name in ("owner", "currency", "reference")] == [
            body["owner"],
            body["currency"],
            body.get("reference"),
        ]
        assert account["id"] not in self.model.currencies
        self.model.currencies[account["id"]] = body["currency"]
        return account["id"], response.content

    def exponent(self, account: int) -> int:
        return EXPONENTS[self.model.currencies.get(account, "USD")]

    def major(self, account: int, minor: int) -> str:
        """An amount as it is answered."""
        return to_major(minor, self.exponent(account))

    # Movements

    @rule(account=accounts, amount=amounts, key=keys, data=st.data())
    def deposit(self, account: int, amount: int, key: str, data: st.DataObject) -> None:
        self.spell(Movement("DEPOSIT", account, None, amount, key), data)

    @rule(account=accounts, amount=amounts, key=keys, data=st.data())
    def withdraw(self, account: int, amount: int, key: str, data: st.DataObject) -> None:
        self.spell(Movement("WITHDRAWAL", account, None, amount, key), data)

    @rule(account=accounts, other=accounts, amount=amounts, key=keys, data=st.data())
    def transfer(
        self, account: int, other: int, amount: int, key: str, data: st.DataObject
    ) -> None:
        self.spell(Movement("TRANSFER", account, other, amount, key), data)

    @rule(account=accounts, other=accounts, sums=st.lists(st.integers(1, 900), max_size=12))
    def pass_on(self, account: int, other: int, sums: list[int]) -> None:
        """A run of deposits, each passed on in part, every one with a key of its own."""
        for sum_ in sums:
            key = f"run {len(self.answers)}"
            amount = self.major(account, sum_)
            self.move(Movement("DEPOSIT", account, None, sum_, key), amount)
            if sum_ % 3 and account != other:
                self.move(Movement("TRANSFER", account, other, sum_, f"{key} on"), amount)

    @rule(
        account=accounts,
        stranger=unknown_accounts,
        way=st.sampled_from(["DEPOSIT", "WITHDRAWAL", "to", "from", "too much"]),
        key=keys,
    )
    def ask_amiss(self, account: int, stranger: int, way: str, key: str) -> None:
        """An account that is not there or not a customer's, or an amount over the limit."""
        amiss = {
            "to": Movement("TRANSFER", account, stranger, 100, key),
            "from": Movement("TRANSFER", stranger, account, 100, key),
            "too much": Movement("DEPOSIT", account, None, MAX_AMOUNT_MINOR + 1, key),
        }
        movement = amiss.get(way, Movement(way, stranger, None, 100, key))
        self.move(movement, self.major(movement.account, movement.amount))

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        self.spell(self.recorded(data), data)

    @precondition(lambda self: self.answers)
    @rule(data=st.data(), stranger=accounts, change=st.sampled_from(["amount", "kind", "other"]))
    def reuse(self, data: st.DataObject, stranger: int, change: str) -> None:
        first = self.recorded(data, {"TRANSFER"} if change == "other" else PATHS.keys())
        assume(change != "other" or stranger not in (first.account, first.other))
        kind = "WITHDRAWAL" if first.kind == "DEPOSIT" else "DEPOSIT"
        changed = {
            "amount": first._replace(amount=first.amount + 1),
            "kind": first._replace(kind=kind, other=None),
            "other": first._replace(other=stranger),
        }[change]
        assert self.spell(changed, data) == "idempotency_key_reused"

    def recorded(self, data: st.DataObject, kinds: Set[str] = PATHS.keys()) -> Movement:
        found = [first for first, _ in self.model.outcomes.values() if first.kind in kinds]
        assume(found)
        movement: Movement = data.draw(st.sampled_from(found))
        return movement

    def spell(self, movement: Movement, data: st.DataObject) -> str:
        return self.move(
            movement,
            data.draw(st.sampled_from(spellings(movement.amount, self.exponent(movement.account)))),
        )

    def move(self, movement: Movement, amount: str) -> str:
        """Both sides decide, and must agree; `amount` is its JSON literal. Returns the code."""
        place = movement.account, movement.key
        expected = self.model.move(movement)
        response = self.client.post(
            PATHS[movement.kind],
            content=body_of(movement, amount).encode(),
            headers={"Content-Type": "application/json"},
        )
        assert response.status_code == STATUSES[expected.code], response.text
        assert ("idempotency-replayed" in response.headers) is expected.replayed
        if expected.replayed:
            self.check_replay(self.answers[place], response)
        elif expected.code == "posted":
            self.check_posted(movement, response.json())
        else:
            problem = check_problem(response, expected.code)
            if expected.code in DECLINES:
                self.check_declined(movement, problem)
        if expected.code in {"posted", *DECLINES}:
            self.answers.setdefault(place, response)
        return expected.code

    def check_replay(self, first: httpx.Response, again: httpx.Response) -> None:
        assert again.headers["idempotency-replayed"] == "true"
        assert (again.status_code, again.content) == (first.status_code, first.content)
        assert again.headers["content-type"] == first.headers["content-type"]

    def check_posted(self, movement: Movement, body: dict[str, Any]) -> None:
        name = "new_balance" if movement.other is None else "sender_new_balance"
        assert body["status"] == "posted"
        assert body["transaction_type"] == movement.kind
        amount = self.major(movement.account, movement.amount)
        assert body["amount"] == amount
        assert body["currency"] == self.model.currencies[movement.account]
        assert body[name] == self.major(movement.account, self.model.balance(movement.account))
        own, other = body["entries"]
        assert own == self.last_entry(movement.account)
        if movement.other is not None:
            assert other == self.last_entry(movement.other)
        assert (other["account_id"] < 0) is (movement.other is None)
        assert {own["amount"], other["amount"]} == {
            amount,
            self.major(movement.account, -movement.amount),
        }

    def last_entry(self, account: int) -> dict[str, Any]:
        lines = self.model.lines[account]
        return {
            "account_id": account,
            "amount": self.major(account, lines[-1].change),
            "balance": self.major(account, lines[-1].balance),
            "version": len(lines),
        }

    def check_declined(self, movement: Movement, problem: dict[str, Any]) -> None:
        assert problem["retry"] == "new_key"
        assert problem["decided_on"] == {
            "account_id": movement.account,
            "available": self.major(movement.account, self.model.balance(movement.account)),
            "version": len(self.model.lines[movement.account]),
        }

    # Reads

    @rule(account=accounts, limit=st.integers(1, 6))
    def read(self, account: int, limit: int) -> None:
        """The account and its whole history are the model's."""
        found = self.client.get(f"/accounts/{account}").json()
        assert found["id"] == account
        assert (
            found["balance"]
            == found["available"]
            == self.major(account, self.model.balance(account))
        )
        assert found["version"] == len(self.model.lines[account])
        history = self.pages(f"/accounts/{account}/history?limit={limit}", limit)
        expected = [
            (
                version,
                line.key,
                self.major(account, line.change),
                self.major(account, line.balance),
                direction(line),
            )
            for version, line in enumerate(self.model.lines[account], 1)
        ]
        columns = ("version", "idempotency_key", "amount", "balance", "transaction_type")
        assert [tuple(entry[c] for c in columns) for entry in reversed(history)] == expected
        times = [entry["created_at"] for entry in history]
        assert times == sorted(times, reverse=True)

    @rule(currency=st.sampled_from(list(EXPONENTS)))
    def list_accounts(self, currency: str) -> None:
        found = self.pages(f"/accounts/?currency={currency}&limit=1000", 1000)
        listed = [account["id"] for account in found]
        assert listed == sorted(set(listed))
        assert all(account > 0 for account in listed)
        assert {a for a, c in self.model.currencies.items() if c == currency} <= set(listed)

    @rule(account=accounts, key=keys)
    def look_up(self, account: int, key: str) -> None:
        """A key's record, if it has one, is also its transaction's."""
        by_key = self.client.get(f"/accounts/{account}/keys/{quote(key, safe='')}")
        if (account, key) not in self.answers:
            check_problem(by_key, "key_not_found")
            return
        first = self.model.outcomes[account, key][0]
        answer = self.answers[first.account, first.key].json()
        by_id = self.client.get(f"/transactions/{answer['transaction_id']}")
        assert by_id.status_code == by_key.status_code == 200
        assert by_id.content == by_key.content
        record = by_id.json()
        assert record["account_id"] == first.account
        assert record["idempotency_key"] == first.key
        for name in ("transaction_id", "transaction_type", "amount", "currency", "recorded_at"):
            assert record[name] == answer[name]
        declined = answer["status"] != "posted"
        assert record["status"] == ("declined" if declined else "posted")
        assert record["entries"] == ([] if declined else answer["entries"])
        assert record.get("code") == answer.get("code")

    def pages(self, target: str, limit: int) -> list[dict[str, Any]]:
        """All rows of a list, by following its Link headers."""
        rows: list[dict[str, Any]] = []
        while len(rows) < 10_000:
            response = self.client.get(target)
            assert response.status_code == 200
            page = response.json()
            rows += page
            link = response.headers.get("link")
            if link is None:
                return rows
            assert len(page) == limit
            following = re.fullmatch(r'<(/[^>]*)>; rel="next"', link)
            assert following is not None
            target = following[1]
        raise AssertionError("the pages do not end")

    def teardown(self) -> None:
        """The books of both sides are the same, and `verify` finds nothing in them."""
        for account in self.model.currencies:
            self.read(account, 5)
        with self.engine.connect() as connection:
            assert connection.scalar(text("SELECT sum(balance) FROM ledger.accounts")) == 0
        assert list(verify(self.engine)) == []


def direction(line: Any) -> str:
    if line.kind != "TRANSFER":
        return str(line.kind)
    return "TRANSFER_OUT" if line.change < 0 else "TRANSFER_IN"


@pytest.fixture
def machine(new_database: Callable[..., Database]) -> Iterator[type[LedgerOverHttp]]:
    """The machine with a service and its database."""
    database = new_database()
    engine = database.owner_engine()
    with serving(DATABASE_URL=url_text(database)) as service:
        hours = {"code": "HOURS", "exponent": 3, "name": "Hours of work"}
        assert service.post("/currencies/", hours).status_code == 201
        yield type("Machine", (LedgerOverHttp,), {"client": service.client, "engine": engine})
    engine.dispose()


# A failing history is shrunk for up to five minutes.
@pytest.mark.timeout(900)
def test_the_service_agrees_with_the_sequential_model(machine: type[LedgerOverHttp]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize="CI" in os.environ,
        ),
    )
