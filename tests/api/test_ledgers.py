"""Several ledgers in one database, dry runs, and linked items of a batch."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.verification import verify
from tests.access.approvals.proposing import PROPOSE
from tests.api.routes import ROUTES
from tests.databases import connect, url_text
from tests.processes import RunningService, serving


@pytest.fixture(scope="module")
def house(new_database) -> Iterator[tuple[RunningService, Database]]:
    """A service, and its database, in which `verify` finds nothing at the end."""
    database = new_database()
    with serving(DATABASE_URL=url_text(database)) as running:
        yield running, database
    assert list(verify(database.owner_engine())) == []


@pytest.fixture
def service(house) -> RunningService:
    return house[0]


def test_a_ledger_is_added_once(service) -> None:
    first = service.post("/ledgers/", {"name": "shop-1"})
    assert (first.status_code, first.json()["name"]) == (201, "shop-1")
    again = service.post("/ledgers", {"name": "shop-1"})
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotency-replayed"] == "true"
    assert service.get("/ledgers/shop-1/").json() == first.json()
    names = [ledger["name"] for ledger in service.get("/ledgers/").json()]
    assert names[0] == "default" and "shop-1" in names
    page = service.get("/ledgers/?limit=1")
    assert service.get(page.links["next"]["url"]).json()[0]["name"] == names[1]
    with ThreadPoolExecutor(8) as pool:
        bodies = [{"name": f"race{n % 2}"} for n in range(16)]
        statuses = {a.status_code for a in pool.map(lambda b: service.post("/ledgers", b), bodies)}
    assert statuses == {201}


def test_accounts_of_two_ledgers_never_meet(service) -> None:
    for name in ("one", "two"):
        service.post("/ledgers/", {"name": name})
    alice = {"owner": "Alice", "currency": "USD", "reference": "alice"}
    key = {"Idempotency-Key": "open"}
    default, one, two = (
        service.post(f"{prefix}/accounts/", alice, **key).json()["id"]
        for prefix in ("", "/ledgers/one", "/ledgers/two")
    )
    assert len({default, one, two}) == 3  # one key and reference a ledger
    body = {"amount": "5", "idempotency_key": "d"}
    for prefix, account in (("", default), ("/ledgers/one", one), ("/ledgers/two", two)):
        assert service.post(f"{prefix}/deposit", body | {"account_id": account}).status_code == 200
        others = {default, one, two} - {account}
        for other in others:
            assert service.get(f"{prefix}/accounts/{other}").status_code == 404
            refused = service.send(f"{prefix}/deposit", account_id=other, amount="1")
            assert refused.json()["code"] == "account_not_found"
            across = {"from_account_id": account, "to_account_id": other, "amount": "1"}
            assert service.send(f"{prefix}/transfer", **across).json()["code"] == (
                "account_not_found"
            )
            legs = [{"account_id": account, "amount": -1}, {"account_id": other, "amount": 1}]
            assert service.send(f"{prefix}/transactions", legs=legs).status_code == 404
            held = {"account_id": account, "to_account_id": other, "amount": "1"}
            assert service.send(f"{prefix}/holds", **held).status_code == 404
    hold = service.send("/ledgers/one/holds", account_id=one, amount="1").json()["hold_id"]
    for path in (f"/holds/{hold}", f"/ledgers/two/holds/{hold}", f"/transactions/{hold}"):
        assert service.get(path).status_code == 404
    for path in (f"/holds/{hold}/capture", f"/ledgers/two/transactions/{hold}/reverse"):
        assert service.send(path).status_code == 404
    assert service.send(f"/ledgers/one/holds/{hold}/capture").status_code == 200
    listed = service.get("/ledgers/one/accounts").json()
    assert [row["id"] for row in listed] == [one]


OWN = "/ledgers/all"


@pytest.fixture(scope="module")
def all_of_it(house) -> RunningService:
    """The service, with a ledger for the routes that are below its path."""
    assert house[0].post("/ledgers/", {"name": "all"}).status_code == 201
    assert house[0].post(f"{OWN}/webhooks", WEBHOOK).status_code == 201
    with connect(house[1]) as owner:
        owner.execute(PROPOSE)
    return house[0]


def one_of_each(service: RunningService) -> dict[str, Any]:
    """What a path may name, each new in the ledger."""
    accounts = f"{OWN}/accounts/"
    a, b = (service.post(accounts, {"owner": "o", "currency": "USD"}).json()["id"] for _ in "ab")
    paid = service.send(f"{OWN}/deposit", account_id=a, amount="9", idempotency_key="a/b c")
    between = {"from_account_id": a, "to_account_id": b, "amount": "1"}
    to_come = service.send(f"{OWN}/transfer", **between, execute_at="2099-01-01T00:00:00Z")
    return {
        "account_id": a,
        "transaction_id": paid.json()["transaction_id"],
        "hold_id": service.send(f"{OWN}/holds", account_id=a, amount="1").json()["hold_id"],
        "schedule_id": to_come.json()["schedule_id"],
        "key": "a/b%20c",
        "code": "USD",
        "name": "all",
        "webhook_id": service.get(f"{OWN}/webhooks").json()[0]["id"],
        "approval_id": service.get(f"{OWN}/approvals").json()[0]["id"],
        "between": between,
    }


WEBHOOK = {"url": "https://hooks.example/ledger"}


def bodies(ids: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is sent to each route that writes, but its key; a new one needs its own here."""
    own = {"account_id": ids["account_id"], "amount": "1"}
    move = {"type": "TRANSFER", "idempotency_key": "i", **ids["between"]}
    other = {"account_id": ids["between"]["to_account_id"], "amount": "1"}
    return {
        "/deposit": own,
        "/withdraw": own,
        "/transfer": ids["between"],
        "/transactions": {"legs": [own | {"amount": "-1"}, other]},
        "/transactions/{transaction_id}/reverse": {"amount": "1"},
        "/holds": own,
        "/holds/{hold_id}/capture": {},
        "/holds/{hold_id}/release": {},
        "/accounts": {"owner": "Alice", "currency": "USD"},
        "/accounts/batches": {"accounts": [{"owner": "A", "currency": "USD", "reference": "a"}]},
        "/accounts/{account_id}": {"floor": "-1", "actor": "me", "reason": "so"},
        "/schedules/{schedule_id}/cancel": {},
        "/batches": {"movements": [move]},
        "/currencies": {"code": "OWN", "exponent": 1, "name": "Own"},
        "/ledgers": {"name": "own"},
        "/webhooks": WEBHOOK,
        "/webhooks/{webhook_id}": {"state": "paused"},
        "/webhooks/{webhook_id}/secret": {},
        "/webhooks/{webhook_id}/replay": {"dead_letters": True},
        "/webhooks/{webhook_id}/test": {},
    }


WITHOUT_KEY = {"/accounts", "/accounts/batches", "/batches", "/currencies", "/ledgers"}
WITHOUT_KEY |= {path for path in ROUTES if path.startswith("/webhooks")}
NEEDS = {"/accounts/{account_id}/balances": "?at=2099-01-01T00:00:00Z", "/reports/totals": "?key=k"}


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("path", ROUTES)
def test_every_route_is_below_a_ledger_s_path_too(all_of_it, path, slash) -> None:
    """What it answers there is of that ledger, and its key and legs are of accounts there."""
    service = all_of_it
    ids = one_of_each(service)
    target = OWN + path.format(**ids) + slash
    for method in ROUTES[path]:
        if method == "DELETE":
            number = service.post(f"{OWN}/webhooks", WEBHOOK).json()["id"]
            removed = service.client.delete(f"{OWN}/webhooks/{number}{slash}")
            assert removed.status_code == 200, removed.text
            continue
        if method in ("GET", "HEAD"):
            answer = service.client.request(method, target + NEEDS.get(path, ""))
            assert answer.status_code == 200, answer.text
            continue
        ids |= one_of_each(service)
        if path.startswith("/approvals"):  # which need keys
            decided = service.post(target, {"reason": "r"})
            assert decided.json()["code"] == "approval_without_keys"
            continue
        if path == "/verification":  # where nothing verifies before the first interval
            assert service.client.post(target).status_code in (202, 409)
            continue
        body = bodies(ids)[path]
        body |= {} if path in WITHOUT_KEY else {"idempotency_key": "k"}
        answer = service.client.request(method, target, json=body)
        assert answer.status_code in (200, 201), answer.text
        [told] = [r["body"] for r in answer.json().get("results", [{"body": answer.json()}])]
        if "transaction_id" in told:
            number = told["transaction_id"]
            assert service.get(f"{OWN}/transactions/{number}").status_code == 200
            assert service.get(f"/transactions/{number}").status_code == 404


def test_links_keys_and_streams_are_of_a_ledger_s_path_too(all_of_it) -> None:
    service = all_of_it
    account = one_of_each(service)["account_id"]
    body = {"account_id": account, "amount": "1", "idempotency_key": "a/b c/"}
    assert service.post(f"{OWN}/withdraw", body).status_code == 200
    assert service.get(f"{OWN}/accounts/{account}/keys/a/b%20c//").status_code == 200
    page = service.get(f"{OWN}/accounts/{account}/history?limit=3")
    following = page.links["next"]["url"]
    assert following.startswith(f"{OWN}/accounts/{account}/history?")
    assert service.get(following).json()[0]["transaction_type"] == "DEPOSIT"
    line = b'{"type":"DEPOSIT","account_id":%d,"amount":"1","idempotency_key":"s"}\n' % account
    headers = {"Content-Type": "application/x-ndjson"}
    stream = service.client.post(f"{OWN}/batches", content=line, headers=headers)
    assert '"status":200' in stream.text


HOSTILE = ["", "A", "a b", "-a", "_a", "a" * 64, "ü", "a\n", "a/b", "..", "a;drop", 7, None]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(service, name) -> None:
    refused = service.post("/ledgers/", {"name": name})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("name", ["nope", "A", "%00", "a%2Fb", "'", "x" * 5000])
def test_what_is_no_ledger_is_not_found(service, name) -> None:
    for path in (f"/ledgers/{name}/accounts", f"/ledgers/{name}/accounts/1/keys/k"):
        answer = service.get(path)
        assert answer.status_code == 404
        assert answer.json()["code"] in ("ledger_not_found", "not_found")
    body = {"account_id": 1, "amount": "1", "idempotency_key": "k"}
    assert service.post(f"/ledgers/{name}/deposit", body).status_code == 404


# Dry runs.


def counts(database: Database) -> list[Any]:
    tables = ("accounts", "transactions", "entries", "details", "holds", "policies", "schedules",
              "currencies", "ledgers")  # fmt: skip
    with connect(database) as owner:
        return [owner.execute(f"SELECT count(*) FROM ledger.{t}").fetchone() for t in tables]


def volatile(body: dict[str, Any]) -> dict[str, Any]:
    """An answer without what tells two times apart."""
    times = {"transaction_id", "recorded_at", "hold_id", "schedule_id", "created_at"}
    return {name: value for name, value in body.items() if name not in times}


def test_a_dry_run_gives_the_answer_and_writes_nothing(house) -> None:
    service, database = house
    a, b = service.open(balance="100"), service.open()
    hold = service.send("/holds", account_id=a, amount="9").json()["hold_id"]
    transfer = service.send("/transfer", from_account_id=a, to_account_id=b, amount="5").json()
    legs = [{"account_id": a, "amount": "-1"}, {"account_id": b, "amount": "1"}]
    to_come = {"execute_at": "2099-01-01T00:00:00Z", "from_account_id": a, "to_account_id": b}
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/deposit", {"account_id": a, "amount": "1"}),
        ("POST", "/withdraw/", {"account_id": a, "amount": "1000"}),
        ("POST", "/transfer", {"from_account_id": a, "to_account_id": b, "amount": "1"}),
        ("POST", "/transfer", {"amount": "1", **to_come}),
        ("POST", "/transactions", {"legs": legs, "description": "d"}),
        ("POST", "/holds", {"account_id": a, "amount": "1"}),
        ("POST", f"/holds/{hold}/capture", {"amount": "1"}),
        ("POST", f"/holds/{hold}/release", {}),
        ("POST", f"/transactions/{transfer['transaction_id']}/reverse", {"amount": "1"}),
        ("PATCH", f"/accounts/{b}", {"floor": "-1", "actor": "a", "reason": "r"}),
        ("POST", "/deposit", {"account_id": 10**12, "amount": "1"}),
    ]
    for number, (method, path, body) in enumerate(requests):
        keyed = {**body, "idempotency_key": f"dry {number}"}
        before = counts(database)
        rehearsed = service.client.request(method, f"{path}?dry_run=true", json=keyed)
        assert counts(database) == before
        done = service.client.request(method, f"{path}?dry_run=false", json=keyed)
        assert rehearsed.status_code == done.status_code
        assert volatile(rehearsed.json()) == volatile(done.json())
        assert rehearsed.headers["dry-run"] == "true"
        assert "dry-run" not in done.headers
        assert "idempotency-replayed" not in done.headers
        repeated = service.client.request(method, f"{path}?dry_run=true", json=keyed)
        if done.status_code != 404:
            assert repeated.content == done.content
            assert repeated.headers["idempotency-replayed"] == "true"


def test_what_is_opened_in_a_dry_run_is_not_there(house) -> None:
    service, database = house
    for path, body, name in (
        ("/accounts/", {"owner": "Dry", "currency": "USD", "reference": "dry"}, "id"),
        ("/currencies/", {"code": "DRY", "exponent": 3, "name": "Dry"}, "code"),
        ("/ledgers/", {"name": "dry"}, "name"),
    ):
        before = counts(database)
        rehearsed = service.post(f"{path}?dry_run=true", body)
        assert (rehearsed.status_code, rehearsed.headers["dry-run"]) == (201, "true")
        assert "idempotency-replayed" not in rehearsed.headers
        assert counts(database) == before
        done = service.post(path, body)
        assert volatile(done.json()) == volatile(rehearsed.json())
        assert done.json()[name] == rehearsed.json()[name]
        again = service.post(f"{path}?dry_run=true", body)
        assert (again.content, again.headers["idempotency-replayed"]) == (done.content, "true")
    taken = {"code": "DRY", "exponent": 2, "name": "Dry"}
    assert service.post("/currencies?dry_run=true", taken).json()["code"] == "currency_taken"
    unknown = {"owner": "o", "currency": "NONE"}
    assert service.post("/accounts?dry_run=true", unknown).json()["code"] == "currency_unknown"


def test_a_batch_is_rehearsed_as_a_whole(house) -> None:
    service, database = house
    a, b = service.open(balance="5"), service.open()
    move = {"type": "TRANSFER", "from_account_id": a, "to_account_id": b, "amount": "5"}
    batch = {"movements": [{**move, "idempotency_key": f"x{n}"} for n in range(2)]}
    before = counts(database)
    rehearsed = service.post("/batches?dry_run=true", batch)
    assert [r["status"] for r in rehearsed.json()["results"]] == [200, 400]
    failed = service.post("/batches?dry_run=true", {**batch, "mode": "atomic"})
    assert failed.json()["code"] == "batch_failed"
    assert counts(database) == before


def test_a_stream_is_rehearsed_as_it_would_be_answered(house) -> None:
    """Line after line, each as if those before it were posted, however they are cut into pieces."""
    service, database = house
    a = service.open()
    line = '{"type":"%s","account_id":%d,"amount":%d,"idempotency_key":"%s"}'
    lines = [line % ("DEPOSIT", a, 1, f"line {n}") for n in range(3_000)]
    lines += ["", lines[0], line % ("WITHDRAWAL", a, 2_999, "out"), "{}"]
    headers = {"Content-Type": "application/x-ndjson"}
    before = counts(database)

    def answers(path: str) -> list[tuple[Any, ...]]:
        answer = service.client.post(path, content="\n".join(lines), headers=headers)
        told = [json.loads(text) for text in answer.text.splitlines()]
        return [(t["line"], t["status"], t["replayed"]) for t in told]

    rehearsed = answers("/batches?dry_run=true")
    assert counts(database) == before
    assert rehearsed == answers("/batches")
    assert rehearsed[-3:] == [(3_002, 200, True), (3_003, 200, False), (3_004, 422, False)]
    many = "\n".join(line % ("DEPOSIT", a, 1, "k") for _ in range(10_001))
    refused = service.client.post("/batches?dry_run=true", content=many, headers=headers)
    assert refused.json()["code"] == "invalid_request"


@pytest.mark.parametrize(
    "query", ["dryrun=true", "dry_run=1", "dry_run", "dry_run=true&dry_run=true", "x=1",
              "dry_run=True", "DRY_RUN=true", "dry_run=true&x=1"],
)  # fmt: skip
def test_a_misspelt_dry_run_moves_nothing(service, query) -> None:
    a = service.open(balance="5")
    for path, body in (
        ("/deposit", {"account_id": a, "amount": "1", "idempotency_key": "k"}),
        ("/batches", {"movements": [{"type": "DEPOSIT", "account_id": a, "amount": "1",
                                     "idempotency_key": "k"}]}),
        ("/accounts", {"owner": "o", "currency": "USD", "reference": f"misspelt {query}"}),
    ):  # fmt: skip
        refused = service.post(f"{path}?{query}", body)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
    assert service.account(a, "balance") == ("5.00",)


# Linked items.


WHO = {"actor": "risk", "reason": "a test"}


def item(kind: str, key: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "idempotency_key": key, **fields}


def test_what_an_item_links_is_posted_together_or_not_at_all(service) -> None:
    a, b = service.open(balance="10"), service.open()
    hold = service.send("/holds", account_id=a, amount="2", to_account_id=b).json()["hold_id"]
    pay = {"from_account_id": a, "to_account_id": b}
    items = [
        item("TRANSFER", "1", amount="1", **pay),
        {"linked": [
            item("CAPTURE", "2", hold_id=hold, amount="1"),
            item("POLICY", "3", account_id=a, floor="-100", frozen="credits", **WHO),
            item("HOLD", "4", account_id=a, amount="50"),
            item("TRANSFER", "5", amount="500", **pay),
        ]},
        item("TRANSFER", "6", amount="8", **pay),
        {"linked": [
            item("CAPTURE", "8", hold_id=hold),
            item("WITHDRAWAL", "7", account_id=b, amount="3"),
        ]},
        {"linked": [item("TRANSFER", "1", amount="1", **pay)]},
        {"linked": [item("TRANSFER", "9", amount="x", **pay), item("TRANSFER", "1", **pay)]},
        item("TRANSFER", "10", amount="7", **pay),
    ]  # fmt: skip
    results = service.post("/batches", {"movements": items}).json()["results"]
    assert [r["status"] for r in results] == [200, 409, 400, 200, 200, 409, 200]
    failed = results[1]["body"]
    assert (failed["code"], failed["index"]) == ("batch_failed", 3)
    assert failed["cause"]["code"] == "insufficient_funds"
    inner = results[3]["body"]["results"]
    assert [(r["index"], r["status"], r["body"]["amount"]) for r in inner] == [
        (0, 200, "2.00"), (1, 200, "3.00"),
    ]  # fmt: skip
    assert results[4]["replayed"] is results[4]["body"]["results"][0]["replayed"] is True
    assert results[3]["replayed"] is False
    assert results[5]["body"]["cause"]["code"] == "invalid_request"
    # Nothing is left of what failed: no policy, no hold, no key.
    assert service.account(a, "floor", "frozen", "held") == ("0.00", None, "0.00")
    for key in "2345":
        assert service.get(f"/accounts/{a}/keys/{key}").status_code == 404
    again = service.post("/batches", {"movements": items}).json()["results"]
    assert [r["body"] for r in again[2:4]] == [results[2]["body"], again[3]["body"]]
    assert [r["body"] for r in again[3]["body"]["results"]] == [r["body"] for r in inner]


@pytest.mark.parametrize(
    "linked", ["[]", "7", "{}", "[[]]", '[{"linked":[]}]', "[1]", "null", '"x"',
               "[" + ",".join(["{}"] * 501) + "]"],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_hostile_links_are_refused(service, linked) -> None:
    body = f'{{"movements":[{{"linked":{linked}}}]}}'
    headers = {"Content-Type": "application/json"}
    answer = service.client.post("/batches", content=body, headers=headers)
    [result] = answer.json()["results"]
    assert result["body"]["code"] in ("invalid_request", "batch_failed")
    twice = '{"movements":[{"linked":[],"linked":[]}]}'
    [result] = service.client.post("/batches", content=twice, headers=headers).json()["results"]
    assert result["body"]["code"] == "invalid_json"


def test_an_atomic_batch_links_nothing_more(service) -> None:
    batch = {"movements": [{"linked": [item("DEPOSIT", "k", account_id=1, amount=1)]}]}
    refused = service.post("/batches", {**batch, "mode": "atomic"})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")
