"""A ledger with parts over HTTP: the same routes, and what is answered for all parts together."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.verification import verify
from tests.databases import connect, url_text
from tests.feed.endpoints import QUICK, Book, add, delivered
from tests.feed.receiver import receiving
from tests.processes import RunningService, cli, serving, wait_for

ON = "/ledgers/market"
PARTS = 3


@pytest.fixture(scope="module")
def database(new_database) -> Database:
    return new_database()


@pytest.fixture(scope="module")
def service(database) -> Iterator[RunningService]:
    with serving(DATABASE_URL=url_text(database), **QUICK) as running:
        added = running.post("/ledgers/", {"name": "market", "shards": PARTS})
        assert added.json().get("shards") == PARTS, added.text
        yield running
        with connect(database) as owner:
            open_holds = "SELECT count(*) FROM ledger.holds WHERE remaining > 0"
            assert wait_for(lambda: owner.execute(open_holds).fetchone() == (0,))
    assert list(verify(database.owner_engine())) == []


@pytest.fixture
def accounts(service) -> list[int]:
    """An account with 100 USD in each part."""
    numbers = []
    for part in range(PARTS):
        opened = service.post(f"{ON}/accounts/", {"owner": "o", "currency": "USD", "part": part})
        numbers.append(opened.json()["id"])
        assert numbers[-1] % PARTS == part
        body = {"account_id": numbers[-1], "amount": "100", "idempotency_key": "d"}
        assert service.post(f"{ON}/deposit/", body).status_code == 200
    return numbers


def body_of(one: int, other: int, key: str, amount: str = "30") -> dict[str, Any]:
    accounts = {"from_account_id": one, "to_account_id": other}
    return {**accounts, "amount": amount, "idempotency_key": key}


def test_a_ledger_of_parts_is_one_ledger(service):
    names = [one["name"] for one in service.get("/ledgers/").json()]
    assert names == ["default", "market"]
    assert service.get(ON).json()["shards"] == PARTS
    assert "shards" not in service.get("/ledgers/default").json()
    for path in ("/ledgers/market.0", "/ledgers/market.0/accounts/1"):
        assert service.get(path).json()["code"] == "ledger_not_found"
    other = service.post("/ledgers/", {"name": "market", "shards": 4})
    assert (other.status_code, other.json()["code"]) == (409, "ledger_taken")
    for shards in (1, 65, "3"):
        assert service.post("/ledgers/", {"name": "x", "shards": shards}).status_code == 422


def test_a_transfer_is_answered_and_read_with_both_halves(service, accounts):
    a, b, _ = accounts
    first = service.post(f"{ON}/transfer/", body_of(a, b, "k"))
    answer = first.json()
    assert (first.status_code, answer["transaction_type"]) == (200, "CROSSING")
    assert (answer["sender_new_balance"], answer["counterparty_id"]) == ("70.00", b)
    assert [(e["account_id"], e["amount"], e["balance"]) for e in answer["entries"]] == [
        (a, "-30.00", "70.00"), (b, "30.00", "130.00"),
    ]  # fmt: skip
    again = service.post(f"{ON}/transfer/", body_of(a, b, "k"))
    assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
    number = answer["transaction_id"]
    read = service.get(f"{ON}/transactions/{number}").json()
    assert answer.items() <= read.items()
    assert read["steps"] == [answer["debited_by"]]
    assert service.get(f"{ON}/accounts/{a}/keys/k").json()["entries"] == answer["entries"]
    credit = service.get(f"{ON}/transactions/{answer['credited_by']}").json()
    assert (credit["transaction_type"], credit["hold_id"]) == ("CROSS_CREDIT", number)
    for path in (f"/accounts/{b}/history", f"/transactions/?account_id={b}"):
        kinds = [
            one.get("transaction_type", one.get("kind")) for one in service.get(ON + path).json()
        ]
        assert kinds == ["CROSS_CREDIT", "DEPOSIT"]
    lines = service.get(f"{ON}/accounts/{a}/statement").json()
    assert lines["closing_balance"] == "70.00"
    for step in ("capture", "release"):
        refused = service.post(f"{ON}/holds/{number}/{step}", {"idempotency_key": "s"})
        assert refused.json()["code"] == "hold_not_found"
    back = service.post(f"{ON}/transactions/{number}/reverse", {"idempotency_key": "r"})
    assert [e["amount"] for e in back.json()["entries"]] == ["-30.00", "30.00"]
    assert back.json()["reverses"] == answer["credited_by"]


def test_what_crosses_or_does_not(service, accounts):
    a, b, _ = accounts
    hold = {"account_id": a, "to_account_id": b, "amount": "5", "idempotency_key": "h"}
    refused = service.post(f"{ON}/holds/", hold)
    assert (refused.status_code, refused.json()["code"]) == (422, "accounts_in_different_parts")
    dry = service.post(f"{ON}/transfer/?dry_run=true", body_of(a, b, "dry")).json()
    assert dry["sender_new_balance"] == "70.00"
    assert service.get(f"{ON}/accounts/{a}/keys/dry").status_code == 404
    too_much = service.post(f"{ON}/transfer/", body_of(a, b, "much", "300"))
    assert (too_much.status_code, too_much.json()["code"]) == (400, "insufficient_funds")
    change = {"frozen": "credits", "actor": "me", "reason": "x", "idempotency_key": "f"}
    assert service.send(f"{ON}/accounts/{b}", "PATCH", **change).status_code == 200
    frozen = service.post(f"{ON}/transfer/", body_of(a, b, "frozen"))
    assert (frozen.status_code, frozen.json()["decided_on"]["account_id"]) == (409, b)
    again = service.post(f"{ON}/transfer/", body_of(a, b, "frozen"))
    assert (again.content, again.headers["idempotency-replayed"]) == (frozen.content, "true")
    number = frozen.json()["transaction_id"]
    assert service.get(f"{ON}/transactions/{number}").json()["status"] == "declined"


def test_batches_and_streams(service, accounts):
    a, b, c = accounts
    items: list[Any] = [
        {"type": "TRANSFER", **body_of(a, b, "1", "1")},
        {"type": "TRANSFER", **body_of(b, c, "2", "1")},
        {"type": "TRANSFER", **body_of(b, 999_999, "3", "1")},
        {"linked": [{"type": "TRANSFER", **body_of(a, b, "4", "1")}]},
    ]
    statuses = [200, 200, 404, 409]
    answer = service.post(f"{ON}/batches/", {"movements": items}).json()
    assert [one["status"] for one in answer["results"]] == statuses
    cause = answer["results"][3]["body"]["cause"]
    assert cause["code"] == "accounts_in_different_parts"
    atomic = service.post(f"{ON}/batches/", {"movements": items[:2], "mode": "atomic"})
    assert atomic.json()["cause"]["code"] == "accounts_in_different_parts"
    lines = "".join(json.dumps(one) + "\n" for one in items)
    headers = {"content-type": "application/x-ndjson"}
    stream = service.client.post(f"{ON}/batches/", content=lines, headers=headers)
    answers = [json.loads(line) for line in stream.text.splitlines()]
    assert [one["status"] for one in answers] == statuses
    assert [one["replayed"] for one in answers] == [True, True, False, False]


def test_lists_go_through_all_parts(service, accounts):
    for path in ("/accounts/", "/transactions/"):
        seen, link, pages = [], f"{ON}{path}?limit=2", 0
        while link:
            page = service.get(link)
            assert page.status_code == 200
            assert len(page.json()) == 2 or "next" not in page.links
            seen += [one.get("id", one.get("transaction_id")) for one in page.json()]
            link = page.links.get("next", {}).get("url")
            pages += 1
        assert len(seen) == len(set(seen)) and pages > 1
        assert seen == sorted(seen, reverse=path == "/transactions/")
        if path == "/accounts/":
            assert set(accounts) <= set(seen)
    [row] = service.get(f"{ON}/reports/trial-balance").json()["currencies"]
    assert row["total"] == "0.00"
    assert service.get(f"{ON}/reports/open").json()["holds"] == {"complete": True, "currencies": []}
    owners = service.get(f"{ON}/reports/balances").json()
    assert [(one["owner"], one["currency"]) for one in owners] == [("o", "USD")]
    own = service.post(f"{ON}/currencies/", {"code": "PTS", "exponent": 0, "name": "Points"})
    assert (own.status_code, own.json()["code"]) == (501, "ledger_has_parts")


def test_the_events_of_each_part(service, accounts):
    """Each part has a feed: by its number, or by an account of it."""
    a, b, _ = accounts
    answer = service.post(f"{ON}/transfer/", body_of(a, b, "k")).json()
    numbers = {
        a: [answer["transaction_id"], answer["debited_by"]],
        b: [answer["credited_by"]],
    }
    for account, expected in numbers.items():
        for query in (f"part={account % PARTS}&limit=500", f"account_id={account}"):
            events = service.get(f"{ON}/events?{query}").json()["events"]
            assert {one["ledger"] for one in events} == {f"market.{account % PARTS}"}
            seen = [one["data"].get("transaction_id") for one in events]
            assert [number for number in seen if number in expected] == expected
    for path in (f"{ON}/events?part={PARTS}", "/events?part=0"):
        assert service.get(path).json()["code"] == "part_unknown"
    for after in ("1-1", "1-1,1-1", "1-1,1-1,1-1,1-1"):
        assert service.get(f"{ON}/events?after={after}").status_code == 422
    lost = service.get(f"{ON}/events?after=9-1,9-1,9-1")
    assert (lost.status_code, lost.json()["code"]) == (410, "position_lost")
    assert lost.json()["compare_from"].count(",") == PARTS - 1


def all_events(service: RunningService, limit: int, query: str = "") -> list[Any]:
    """Events page by page, until there are no more."""
    events: list[Any] = []
    after = ""
    while True:
        page = service.get(f"{ON}/events?limit={limit}{query}{after}").json()
        if not page["events"] and after == f"&after={page['next']}":
            return events
        events += page["events"]
        after = f"&after={page['next']}"


@pytest.mark.parametrize("limit", [2, 5, 1000])
def test_the_events_of_all_parts(service, accounts, limit):
    """Each event of each part once, in the order of its part, whatever the pages are."""
    a, b, _ = accounts
    service.post(f"{ON}/transfer/", body_of(a, b, f"k {limit}"))
    names = [f"market.{part}" for part in range(PARTS)]

    def agree() -> bool:
        """Events can come between two reads, until the last transfer has its end."""
        by_part = {
            name: [one["id"] for one in all_events(service, 1000, f"&part={part}")]
            for part, name in enumerate(names)
        }
        seen: dict[str, list[str]] = {name: [] for name in names}
        for one in all_events(service, limit):
            seen[one["ledger"]].append(one["id"])
        return seen == by_part

    assert wait_for(agree)
    few = service.get(f"{ON}/events?limit=6").json()["events"]
    assert {one["ledger"] for one in few} == set(names)  # none waits for the end of another


def test_webhooks_of_parts(service, accounts, tmp_path):
    """An endpoint gets the events of its part; each is found by its id."""
    a, b, _ = accounts
    book = Book(service)
    book.prefix = ON
    with receiving(tmp_path / "first") as first, receiving(tmp_path / "other") as other:
        for body, code in (({}, "ledger_has_parts"), ({"part": PARTS}, "part_unknown")):
            refused = book.post("/webhooks", {"url": first.url, **body})
            assert refused.json()["code"] == code
        one = add(book, first, part=a % PARTS)
        two = add(book, other, account_id=b)
        sent = service.post(f"{ON}/transfer/", body_of(a, b, "hooked")).json()
        assert delivered(first, [f"1-{sent[name]}" for name in ("transaction_id", "debited_by")])
        assert delivered(other, [f"1-{sent['credited_by']}"])
        assert not {f"1-{sent['credited_by']}"} & set(first.events())
    listed = book.get("/webhooks").json()
    assert [row["id"] for row in listed] == sorted([one["id"], two["id"]])
    assert all(row["keys"] for row in listed)
    page = book.get("/webhooks?limit=1")
    [last] = service.get(page.links["next"]["url"]).json()
    assert last["id"] == listed[1]["id"]
    for row in (one, two):
        path = f"/webhooks/{row['id']}"
        assert book.get(path).json()["url"] == row["url"]
        assert wait_for(partial(has_deliveries, book, path))
        assert book.patch(path, state="paused").json()["state"] == "paused"
        assert service.client.delete(ON + path).status_code == 200
        assert book.get(path).status_code == 404
    assert service.post("/webhooks", {"url": "https://a.example/", "part": 0}).status_code == 422


def has_deliveries(book: Book, path: str) -> bool:
    return bool(book.get(f"{path}/deliveries").json())


def test_files_of_a_ledger_with_parts(database, service, accounts, tmp_path):
    """An import crosses as requests do; an export has one part after another."""
    a, b, _ = accounts
    rows = tmp_path / "rows.csv"
    head = "type,from_account_id,to_account_id,amount,idempotency_key"
    rows.write_text(f"{head}\nTRANSFER,{a},{b},1,file-1\nTRANSFER,{b},{a},2,file-2\n")
    url = url_text(database)
    done = cli("import", "--ledger", "market", str(rows), DATABASE_URL=url)
    assert done.returncode == 0, done.stderr
    assert service.get(f"{ON}/accounts/{a}").json()["balance"] == "101.00"
    done = cli("export", "--ledger", "market", DATABASE_URL=url)
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head.startswith("transaction_id,") and head not in lines
    kinds = [line.split(",")[7] for line in lines if f",{a}," in line or f",{b}," in line]
    assert {"CROSSING", "CROSS_CREDIT", "CROSS_DEBIT", "DEPOSIT"} <= set(kinds)
    one = cli("export", "--ledger", "market", "--account", str(a), DATABASE_URL=url)
    assert {line.split(",")[3] for line in one.stdout.splitlines()[1:]} == {str(a)}
    refused = cli("export", "--history", "--ledger", "market", DATABASE_URL=url)
    assert refused.returncode != 0
    assert "has parts" in refused.stderr
