"""The feed over HTTP: pages, long polls and server-sent events, and what ends an epoch."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from ledgerservice.domain.events import TYPES
from ledgerservice.postgres.connections import Database
from tests.databases import connect, url_text, without_guards
from tests.processes import RunningService, serving, wait_for

FAR = "2099-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def used(service: RunningService) -> RunningService:
    """A service whose ledger has an event of every type but those of the service itself."""
    a, b = service.open(balance="100"), service.open(owner="Bob")
    paid = service.send("/transfer", from_account_id=a, to_account_id=b, amount="5").json()
    service.send("/withdraw", account_id=b, amount="1000")
    service.send(f"/transactions/{paid['transaction_id']}/reverse", amount="1")
    hold = service.send("/holds", account_id=a, amount="20", expires_at=FAR).json()["hold_id"]
    service.send(f"/holds/{hold}/capture", amount="5")
    service.send(f"/holds/{hold}/release")
    later = {"from_account_id": a, "to_account_id": b, "amount": "1", "execute_at": FAR}
    schedule = service.send("/transfer", **later).json()["schedule_id"]
    service.send(f"/schedules/{schedule}/cancel")
    service.send(f"/accounts/{a}", "PATCH", floor="-9", actor="me", reason="so")
    service.post("/ledgers/", {"name": "other"})
    service.post("/ledgers/other/accounts/", {"owner": "Eve", "currency": "USD"})
    return service


def events(service: RunningService, query: str = "", prefix: str = "") -> list[dict[str, Any]]:
    """All events, page by page."""
    found: list[dict[str, Any]] = []
    after = ""
    while True:
        answer = service.get(f"{prefix}/events?limit=7{after}{query}")
        assert answer.status_code == 200, answer.text
        page = answer.json()
        if not page["events"] and after == f"&after={page['next']}":
            return found
        found += page["events"]
        after = f"&after={page['next']}"


def number(event: dict[str, Any]) -> int:
    return int(event["id"].partition("-")[2])


def test_each_event_comes_once_in_order_and_with_the_same_bytes(used: RunningService) -> None:
    found = events(used)
    numbers = [number(event) for event in found]
    assert numbers == sorted(set(numbers))
    assert {event["type"] for event in found} == set(TYPES) - {"hold.expired", "schedule.executed"}
    assert events(used) == found
    whole = used.get("/events?limit=1000").content
    assert whole == used.get("/events?limit=1000").content


def test_an_event_says_what_the_answer_said(used: RunningService) -> None:
    a, b = used.open(balance="3"), used.open()
    answer = used.send("/transfer", from_account_id=a, to_account_id=b, amount="1").json()
    query = f"?account_id={b}&type=transaction.posted&wait_s=30"
    [event] = used.get(f"/events{query}").json()["events"]
    shared = ("transaction_id", "transaction_type", "amount", "currency", "entries", "status")
    assert {name: event["data"][name] for name in shared} == {n: answer[n] for n in shared}
    assert event["recorded_at"] == answer["recorded_at"]


def test_filters_leave_out_and_pass(used: RunningService) -> None:
    found = events(used)
    kinds = events(used, "&type=hold.placed,hold.captured")
    assert kinds == [e for e in found if e["type"] in ("hold.placed", "hold.captured")]
    of_bob = events(used, "&account_id=2")
    assert of_bob[0]["data"]["owner"] == "Bob"
    assert all("2" in json.dumps(e["data"]) for e in of_bob)


def test_a_ledger_has_its_own_feed(used: RunningService) -> None:
    own = events(used, prefix="/ledgers/other")
    assert [event["type"] for event in own] == ["ledger.added", "account.opened"]
    assert {event["ledger"] for event in own} == {"other"}
    assert "other" not in {event["ledger"] for event in events(used)}


def test_a_poll_waits_for_an_event(used: RunningService) -> None:
    after = used.get("/events?after=new").json()["next"]
    answers: list[httpx.Response] = []

    def poll() -> None:
        answers.append(used.get(f"/events?after={after}&wait_s=30"))

    polling = threading.Thread(target=poll)
    polling.start()
    account = used.open()
    polling.join()
    [event] = answers[0].json()["events"]
    assert event["data"]["account_id"] == account
    assert used.get(f"/events?after={event['id']}&wait_s=1").json()["events"] == []


def test_what_a_filter_leaves_out_does_not_prolong_a_wait(used: RunningService) -> None:
    """One client posts all the time, and another one waits for a second for something else."""
    account, other = used.open(), used.open()
    after = used.get("/events?after=new").json()["next"]
    ended = threading.Event()

    def go_on() -> None:
        number = 0
        while not ended.wait(0.6):
            number += 1
            body = {"account_id": other, "amount": "1", "idempotency_key": f"go on {number}"}
            used.post("/deposit/", body)

    posting = threading.Thread(target=go_on)
    posting.start()
    try:
        url = f"{used.base}/events?after={after}&account_id={account}&wait_s=1"
        assert httpx.get(url, timeout=20).json()["events"] == []
    finally:
        ended.set()
        posting.join()


@contextmanager
def stream(service: RunningService, query: str = "", **headers: str) -> Iterator[Iterator[Any]]:
    """The events of a stream, as a client takes them: id and data."""
    accept = {"Accept": "text/event-stream", **headers}
    url = f"{service.base}/events{query}"
    with httpx.stream("GET", url, headers=accept, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream"), answer.read()
        yield _parsed(answer.iter_lines())


def _parsed(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    event: dict[str, str] = {}
    for line in lines:
        if not line:
            if "data" in event:
                yield event["id"], json.loads(event["data"])
            event = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value


def test_a_stream_that_is_taken_up_again_misses_nothing(used: RunningService) -> None:
    expected = events(used)
    found: list[Any] = []
    last: dict[str, str] = {}
    while len(found) < len(expected):
        with stream(used, **last) as sent:
            for _, (name, event) in zip(range(5), sent, strict=False):
                found.append(event)
                last = {"Last-Event-ID": name}
                if len(found) == len(expected):
                    break
    assert found == expected
    with stream(used, "?after=new") as sent:
        account = used.open()
        assert next(sent)[1]["data"]["account_id"] == account


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("after=5", "after"), ("after=0-5", "after"), ("after=1-", "after"), ("after= ", "after"),
        ("limit=0", "limit"), ("limit=1001", "limit"), ("wait_s=61", "wait_s"),
        ("wait_s=-1", "wait_s"), ("account_id=-1", "account_id"), ("type=x", "type"),
        ("type=", "type"), ("kind=HOLD", "kind"),
    ],
)  # fmt: skip
def test_a_bad_parameter_is_named(used: RunningService, query: str, field: str) -> None:
    answer = used.get(f"/events?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


@pytest.mark.parametrize("text", ["x", "1-1-1", "1-\u0661", "-1", "new"])
def test_a_bad_last_event_id_is_refused(used: RunningService, text: str) -> None:
    headers = {"Last-Event-ID": text.encode()}
    answer = used.client.get("/events", headers=headers)  # type: ignore[arg-type]
    assert answer.json()["errors"][0]["field"] == "Last-Event-ID"


def test_a_position_of_another_epoch_is_gone(used: RunningService) -> None:
    answer = used.get("/events?after=7-1")
    assert (answer.status_code, answer.json()["code"]) == (410, "position_lost")
    assert answer.json()["compare_from"].startswith("1-")


# What becomes of the epoch when the journal is found elsewhere.


def epoch_of(database: Database) -> str:
    with serving(DATABASE_URL=url_text(database)) as running:
        found: str = running.get("/events?limit=1").json()["next"]
        return found.partition("-")[0]


def test_a_restart_stays_in_its_epoch(database: Database) -> None:
    assert [epoch_of(database), epoch_of(database)] == ["1", "1"]


def test_a_copy_of_a_database_begins_an_epoch(
    database: Database, new_database: Callable[..., Database]
) -> None:
    epoch_of(database)
    assert epoch_of(new_database(database)) == "2"


@pytest.mark.parametrize("column", ["system_identifier", "timeline"])
def test_another_server_or_timeline_begins_an_epoch(database: Database, column: str) -> None:
    """A start has nothing that could show that a promotion has lost nothing."""
    epoch_of(database)
    with connect(database) as owner, without_guards(owner):
        owner.execute(f"UPDATE ledger.epochs SET {column} = {column} - 1")
    assert epoch_of(database) == "2"


def test_a_filter_fills_pages_and_its_position_passes_what_it_leaves_out(
    used: RunningService,
) -> None:
    account = used.open()
    for _ in range(5):
        used.send("/deposit", account_id=account, amount="1")
        used.send("/deposit", account_id=1, amount="1")
    query = f"/events?account_id={account}&type=transaction.posted"
    assert wait_for(lambda: len(used.get(query).json()["events"]) == 5)
    whole = used.get(query).json()["events"]
    pages = []
    after = ""
    while page := used.get(f"{query}&limit=2{after}").json():
        if not page["events"]:
            break
        pages.append(page["events"])
        after = f"&after={page['next']}"
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [event for page in pages for event in page] == whole
