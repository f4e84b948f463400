"""People whose claims limit them to accounts, and what they may use of a process."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from ledgerservice.postgres.connections import Database
from tests.access.made import bearer, make_key
from tests.access.oidc.people import Place, at
from tests.access.oidc.provider import Provider
from tests.access.single_accounts import OURS, OUTSIDE, PAYEE, hidden, item, legs, pay
from tests.processes import wait_for

RULES = """
[[grants]]
claim = "groups"
value = "till"
role = ["poster"]
ledger = ["default"]
account = [1]
credit_to = [1, 2]
max_amount = { USD = "100.00" }

[[grants]]
claim = "groups"
value = "owners"
role = ["poster"]
ledger = ["default"]
owner = "Alice"
debit_from = []

[[grants]]
claim = "groups"
value = "elsewhere"
role = ["poster"]
ledger = ["not yet"]
owner = "Alice"

[[grants]]
claim = "groups"
value = "all"
role = ["admin"]

[[limits]]
claim = "groups"
value = "slow"
rate = 0.001
burst = 3

[[limits]]
claim = "groups"
value = "small"
queue_share = 0.0001
streams = 1
body_bytes_s = 100
rate = 0
""".replace("not yet", "later")


@pytest.fixture(scope="module")
def place(new_database: Callable[..., Database], tmp_path_factory: Any) -> Iterator[Place]:
    """A service with three accounts."""
    provider, database = Provider(), new_database()
    folder = tmp_path_factory.mktemp("people")
    admin = bearer(make_key(database, "admin"))
    limits = {"LEDGER_KEY_RATE": "0.001", "LEDGER_KEY_BURST": "1000"}
    with at(provider, database, folder, "grants = []") as first:
        for number in (OURS, PAYEE, OUTSIDE):
            made = {"owner": "Alice" if number == PAYEE else "o", "currency": "USD"}
            assert wait_for(lambda: first.outcome(admin["Authorization"].split()[1]) == 200)
            answer = first.service.client.post("/accounts", json=made, headers=admin)
            assert answer.json()["id"] == number
            funding = item(account_id=number, amount="5000")
            assert first.service.client.post("/deposit", json=funding, headers=admin).is_success
    with at(provider, database, folder, RULES, **limits) as made_place:
        assert wait_for(lambda: made_place.outcome(token(made_place, "all")) == 200)
        yield made_place
    provider.stop()


def token(place: Place, *groups: str, sub: str = "alice") -> str:
    return place.provider.token(groups=[*groups], sub=sub)


def send(place: Place, sent: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    method = "GET" if body is None else "POST"
    content: dict[str, Any] = {"content": body} if isinstance(body, bytes) else {"json": body}
    return place.service.client.request(method, path, headers=bearer(sent) | headers, **content)


CASES: list[tuple[str, str, str, Any, Any]] = [
    ("its account", "till", "/accounts/1", None, 200),
    ("another's", "till", "/accounts/3", None, "account_not_found"),
    ("the payee's", "till", "/accounts/2", None, "account_not_found"),
    ("its transactions", "till", "/transactions?account_id=1", None, 200),
    ("all transactions", "till", "/transactions", None, "limited_to_accounts"),
    ("a deposit", "till", "/deposit", item(account_id=1, amount="100"), 200),
    ("too much", "till", "/deposit", item(account_id=1, amount="100.01"), "amount_not_granted"),
    ("too much in legs", "till", "/transactions", legs((1, "-60"), (1, "-60"), (2, "120")),
     "amount_not_granted"),
    ("to the payee", "till", "/transfer", pay(1, 2), 200),
    ("to another", "till", "/transfer", pay(1, 3), "account_not_found"),
    ("from the payee", "till", "/transfer", pay(2, 1), "account_not_found"),
    ("to open", "till", "/accounts", {"owner": "o", "currency": "USD"}, "limited_to_accounts"),
    ("the owner's account", "owners", "/accounts/2", None, 200),
    ("nobody else's", "owners", "/accounts/1", None, "account_not_found"),
    ("into the owner's", "owners", "/deposit", item(account_id=2), 200),
    ("out of none", "owners", "/withdraw", item(account_id=2), "account_not_found"),
    ("a ledger that does not exist", "elsewhere", "/accounts/1", None, "ledger_not_found"),
    ("everything", "all", "/accounts/3", None, 200),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_what_is_limited_to_accounts(place: Place, case: Any) -> None:
    _, group, path, body, outcome = case
    answer = send(place, token(place, group, sub=group), path, body)
    assert (200 if answer.status_code == 200 else answer.json()["code"]) == outcome, answer.text


def test_by_every_door(place: Place) -> None:
    """In batches and streams too, and without the balance of the payee."""
    till = token(place, "till", sub="till")
    items = [{"type": "TRANSFER", **pay(1, 2)}, {"type": "TRANSFER", **pay(1, 3)}]
    batch = send(place, till, "/batches", {"movements": items}).json()["results"]
    lines = b"".join(json.dumps({"type": "TRANSFER", **one}).encode() + b"\n"
                     for one in (pay(1, 2), pay(1, 3)))  # fmt: skip
    stream = send(place, till, "/batches", lines, **{"Content-Type": "application/x-ndjson"})
    for first, second in (batch, map(json.loads, stream.text.splitlines())):
        assert hidden(first["body"]["entries"]) == {2}
        assert second["body"]["code"] == "account_not_found"


def test_an_owner_that_gets_a_new_account(place: Place) -> None:
    opened = send(place, token(place, "all"), "/accounts", {"owner": "Alice", "currency": "EUR"})
    path, owner = f"/accounts/{opened.json()['id']}", token(place, "owners", sub="owners")
    assert wait_for(lambda: send(place, owner, path).status_code == 200)


def test_a_person_has_a_rate(place: Place) -> None:
    """Whatever token it sends, from its first request on; others have their own."""
    statuses = [
        send(place, place.provider.token(groups=["all", "slow"], sub="slow", jti=str(n)),
             "/accounts/1").status_code
        for n in range(6)
    ]  # fmt: skip
    assert statuses == [200] * 3 + [429] * 3
    again = place.provider.token(groups=["slow", "all"], sub="slow")
    answer = send(place, again, "/accounts/1")
    assert (answer.status_code, answer.json()["limit"]) == (429, "requests")
    other = token(place, "all", "slow", sub="other")
    assert send(place, other, "/accounts/1").status_code == 200
    # Claims with other limits have a meter of their own, and the first one is as it was.
    assert send(place, token(place, "all", sub="slow"), "/accounts/1").status_code == 200
    assert send(place, again, "/accounts/1").status_code == 429


def test_a_person_has_the_other_limits(place: Place) -> None:
    small = token(place, "all", "small", sub="small")
    large = item(account_id=1, metadata={"x": "y" * 60_000})
    assert send(place, small, "/deposit", large).status_code == 422  # it was read
    assert send(place, small, "/deposit", large).json()["limit"] == "bytes"
    follow = bearer(small) | {"Accept": "text/event-stream"}
    with place.service.client.stream("GET", "/events", headers=follow) as stream:
        assert stream.status_code == 200
        answer = place.service.client.get("/events", headers=follow)
        assert (answer.status_code, answer.json()["limit"]) == (429, "streams")


def test_people_have_the_defaults_of_the_settings(place: Place) -> None:
    """LEDGER_KEY_BURST, which takes a batch into debt."""
    person = token(place, "all", sub="default")
    items = [{"type": "DEPOSIT", **item(account_id=1)} for _ in range(1100)]
    answers = [send(place, person, "/batches?dry_run=true", {"movements": items}) for _ in "ab"]
    assert [one.status_code for one in answers] == [200, 429]
