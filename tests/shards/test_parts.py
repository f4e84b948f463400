"""A ledger whose parts are on three databases is one ledger, and verified as one."""

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from tests.processes import RunningService, wait_for
from tests.shards.world import World

ON = "/ledgers/market"
PARTS = 3
FIND_HOMES = """
SELECT l.part, coalesce(h.shard, 'main')
FROM ledger.ledgers l LEFT JOIN ledger.homes h USING (ledger_id)
WHERE l.parent_id IS NOT NULL ORDER BY l.part
"""


@pytest.fixture(scope="module")
def market(service: RunningService) -> RunningService:
    added = service.post("/ledgers/", {"name": "market", "shards": PARTS})
    assert added.status_code == 201, added.text
    return service


@pytest.fixture(scope="module")
def verified(world: World, market: RunningService) -> Iterator[RunningService]:
    """Nothing is open at the end, and both halves agree over the databases."""
    yield market
    for shard in world.databases:
        assert wait_for(partial(is_empty, world, shard))
    done = world.command("verify")
    assert done.returncode == 0, done.stdout + done.stderr


def is_empty(world: World, shard: str) -> bool:
    return world.rows(shard, "SELECT count(*) FROM ledger.holds WHERE remaining > 0") == [(0,)]


@pytest.fixture
def accounts(verified: RunningService) -> list[int]:
    """An account with 100 USD in each part."""
    return [account_in(verified, part) for part in range(PARTS)]


def account_in(service: RunningService, part: int, currency: str = "USD") -> int:
    body = {"owner": "o", "currency": currency, "part": part}
    opened = service.post(f"{ON}/accounts/", body)
    assert opened.status_code == 201, opened.text
    number: int = opened.json()["id"]
    body = {"account_id": number, "amount": "100", "idempotency_key": "d"}
    answer = service.post(f"{ON}/deposit/", body)
    assert (answer.status_code, number % PARTS) == (200, part), answer.text
    return number


def transfer(service: RunningService, one: int, other: int, key: str, amount: str = "30") -> Any:
    accounts = {"from_account_id": one, "to_account_id": other}
    return service.post(f"{ON}/transfer/", {**accounts, "amount": amount, "idempotency_key": key})


def balances(service: RunningService, accounts: list[int]) -> list[str]:
    return [service.get(f"{ON}/accounts/{number}").json()["balance"] for number in accounts]


def test_the_parts_are_on_all_shards(world: World, verified: RunningService) -> None:
    homes = world.rows("main", FIND_HOMES)
    assert sorted(name for _, name in homes) == ["b", "c", "main"]
    for part, name in homes:
        number = account_in(verified, part)
        count = f"SELECT count(*) FROM ledger.accounts WHERE id = {number}"
        present = [shard for shard in world.databases if world.rows(shard, count) == [(1,)]]
        assert present == [name]


def test_transfers_between_databases(verified: RunningService, accounts: list[int]) -> None:
    for number, (one, other) in enumerate([(0, 1), (1, 2), (2, 0), (0, 2)]):
        a, b = accounts[one], accounts[other]
        first = transfer(verified, a, b, f"k{number}")
        answer = first.json()
        assert (first.status_code, answer["transaction_type"]) == (200, "CROSSING"), first.text
        again = transfer(verified, a, b, f"k{number}")
        assert (again.content, again.headers["idempotency-replayed"]) == (first.content, "true")
        read = verified.get(f"{ON}/transactions/{answer['transaction_id']}").json()
        assert read["entries"] == answer["entries"]
        credit = verified.get(f"{ON}/transactions/{answer['credited_by']}").json()
        assert credit["hold_id"] == answer["transaction_id"]
        [newest, *_] = verified.get(f"{ON}/accounts/{b}/history").json()
        assert newest["transaction_type"] == "CROSS_CREDIT"
    assert balances(verified, accounts) == ["70.00", "100.00", "130.00"]
    back = verified.post(
        f"{ON}/transactions/{answer['transaction_id']}/reverse", {"idempotency_key": "r"}
    )
    assert [entry["amount"] for entry in back.json()["entries"]] == ["-30.00", "30.00"]
    assert balances(verified, accounts) == ["100.00", "100.00", "100.00"]


def test_declines_and_rejections(verified: RunningService, accounts: list[int]) -> None:
    a, b, _ = accounts
    assert transfer(verified, a, b, "much", "300").json()["code"] == "insufficient_funds"
    assert transfer(verified, a, b + 3000, "none").json()["code"] == "account_not_found"
    change = {"frozen": "credits", "actor": "me", "reason": "x", "idempotency_key": "f"}
    assert verified.send(f"{ON}/accounts/{b}", "PATCH", **change).status_code == 200
    refused = transfer(verified, a, b, "frozen")
    assert (refused.status_code, refused.json()["decided_on"]["account_id"]) == (409, b)
    assert verified.get(f"{ON}/accounts/{a}").json()["available"] == "100.00"


def test_batches_lists_and_reports(verified: RunningService, accounts: list[int]) -> None:
    items = [
        {
            "type": "TRANSFER",
            "from_account_id": accounts[n % 3],
            "to_account_id": accounts[(n + 1 + n // 3 % 2) % 3],
            "amount": "1",
            "idempotency_key": f"b{n}",
        }
        for n in range(30)
    ]
    for is_replay in (False, True):
        answer = verified.post(f"{ON}/batches/", {"movements": items}).json()
        statuses = [(one["status"], one["replayed"]) for one in answer["results"]]
        assert statuses == [(200, is_replay)] * 30
    seen: list[int] = []
    link: Any = f"{ON}/accounts/?limit=2"
    while link:
        page = verified.get(link)
        assert page.status_code == 200
        seen += [one["id"] for one in page.json()]
        link = page.links.get("next", {}).get("url")
    assert len(seen) == len(set(seen)) and set(accounts) <= set(seen)
    [row] = verified.get(f"{ON}/reports/trial-balance").json()["currencies"]
    assert row["total"] == "0.00"
    [owner] = verified.get(f"{ON}/reports/balances").json()
    assert owner["accounts"] == len(seen)


def test_a_currency_that_only_main_has(verified: RunningService) -> None:
    added = {"code": "PTS", "exponent": 0, "name": "Points"}
    assert verified.post("/currencies/", added).status_code == 201
    a, b = account_in(verified, 1, "PTS"), account_in(verified, 2, "PTS")
    assert transfer(verified, a, b, "points").status_code == 200


def test_the_events_of_all_parts_come_in_one_stream(
    verified: RunningService, accounts: list[int]
) -> None:
    """Whoever connects again with the last id misses nothing, whichever database has it."""
    a, b, _ = accounts
    start = verified.get(f"{ON}/events?after=new").json()["next"]
    sent = [transfer(verified, *pair, f"s{n}").json() for n, pair in enumerate([(a, b), (b, a)])]
    steps = [one[name] for one in sent for name in ("transaction_id", "credited_by", "debited_by")]
    seen: list[int] = []
    last = after = start
    while len(seen) < len(steps):
        for name, event in itertools.islice(followed(verified, last), 2):
            seen.append(event["data"]["transaction_id"])
            after = name
        last = after
    assert sorted(seen) == sorted(steps)
    assert last.count(",") == PARTS - 1
    page = verified.get(f"{ON}/events?after={last}").json()
    assert page == {"events": [], "next": last}
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(verified.get, f"{ON}/events?after={last}&wait_s=20")
        number = transfer(verified, a, b, "last").json()["transaction_id"]
        first, *_ = waiting.result().json()["events"]
    assert first["data"]["transaction_id"] == number


def followed(service: RunningService, last: str) -> Iterator[tuple[str, Any]]:
    """The events of the stream after those that were read, each with its id."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": last}
    with service.client.stream("GET", f"{ON}/events", headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        name = ""
        for line in answer.iter_lines():
            name = line.removeprefix("id: ") if line.startswith("id: ") else name
            if line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))
