"""`shards move` beside a service that knows both shards, with its callers."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.moving.fences import set_fence
from ledgerservice.postgres.urls import parse_url
from tests.databases import connect, empty_database, url_text
from tests.feed.endpoints import QUICK, Book, add, delivered, pay
from tests.feed.receiver import receiving
from tests.processes import RunningService, cli, serving, wait_for

pytestmark = pytest.mark.processes


@pytest.fixture
def values(database: Database) -> dict[str, str]:
    """The environment of a service with the shard b."""
    b = empty_database(database, "b")
    values = {"DATABASE_URL": url_text(database), "LEDGER_SHARDS": f"b={url_text(b)}"}
    assert cli("shards", "add", "b", **values).returncode == 0
    return values


def shop(running: RunningService) -> list[int]:
    """A ledger on main, with two accounts."""
    assert running.post("/ledgers/", {"name": "shop", "shard": "main"}).status_code == 201
    body = {"owner": "o", "currency": "USD"}
    return [running.post("/ledgers/shop/accounts/", body).json()["id"] for _ in range(2)]


class Callers:
    """Threads that deposit, each request with its own key until it is answered."""

    def __init__(self, base: str, accounts: list[int]) -> None:
        self.answered: set[str] = set()
        self.codes: Counter[str] = Counter()
        self._base = base
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._deposit, args=(number, account))
            for number, account in enumerate(accounts * 2)
        ]

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(60)

    def _deposit(self, number: int, account: int) -> None:
        count = 0
        with httpx.Client(base_url=self._base, timeout=30) as client:
            while not self._ended.is_set():
                count += 1
                body = {"account_id": account, "amount": "0.01"}
                body["idempotency_key"] = key = f"caller {number} {count}"
                while (answer := client.post("/ledgers/shop/deposit/", json=body)).is_error:
                    self.codes[answer.json()["code"]] += 1
                    assert answer.status_code == 503, answer.text
                    self._ended.wait(0.05)
                self.answered.add(key)


@pytest.mark.thorough
def test_callers_lose_nothing(values: dict[str, str]) -> None:
    with serving(**values) as running:
        accounts = shop(running)
        for target in ("b", "main"):
            with Callers(running.base, accounts) as callers:
                moved = cli("shards", "move", "shop", target, "--json", **values)
                assert moved.returncode == 0, moved.stderr
                facts = json.loads(moved.stdout)
                assert (facts["shard"], facts["name"]) == (target, "shop")
                threading.Event().wait(1.5)
            assert set(callers.codes) <= {"ledger_moving"}, callers.codes
            listed = {one["name"]: one["shard"] for one in running.get("/ledgers/").json()}
            assert listed["shop"] == target
            assert callers.answered <= keys(running, accounts)
        assert len(keys(running, accounts)) == sum(
            running.get(f"/ledgers/shop/accounts/{one}").json()["version"] for one in accounts
        )
    done = cli("verify", **values)
    assert done.returncode == 0, done.stdout


class Streamed:
    """A thread that sends one long stream of deposits, and its answers."""

    def __init__(self, running: RunningService, account: int) -> None:
        self.sent: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self._running, self._account = running, account
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> "Streamed":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(60)

    def _lines(self) -> Iterator[bytes]:
        while not self._ended.wait(0.05):
            for _ in range(2):
                key = f"line {len(self.sent) + 1}"
                body = {"type": "DEPOSIT", "account_id": self._account, "amount": "0.01"}
                self.sent.append(body | {"idempotency_key": key})
                yield json.dumps(self.sent[-1]).encode() + b"\n"

    def _send(self) -> None:
        headers = {"Content-Type": "application/x-ndjson"}
        with httpx.Client(base_url=self._running.base, timeout=90) as client:
            path = "/ledgers/shop/batches/"
            answer = client.post(path, content=self._lines(), headers=headers)
        self.answers = [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.thorough
def test_a_stream_goes_on_at_the_new_home(values: dict[str, str]) -> None:
    """Each line is answered once. What was refused is sent again, with the same key."""
    with serving(**values) as running:
        [account, _] = shop(running)
        with Streamed(running, account) as stream:
            for target in ("b", "main"):
                assert wait_for(lambda: len(stream.sent) > 20)
                assert cli("shards", "move", "shop", target, **values).returncode == 0
            threading.Event().wait(2)
        answers = stream.answers
        assert [one["line"] for one in answers] == list(range(1, len(stream.sent) + 1))
        assert {one["status"] for one in answers} == {200, 503}
        assert answers[-1]["status"] == 200
        codes = {one["body"]["code"] for one in answers if one["status"] == 503}
        assert codes <= {"ledger_moving", "shard_unavailable"}
        recorded = dict[str, int]()
        for body, one in zip(stream.sent, answers, strict=True):
            again = running.post("/ledgers/shop/batches/", {"movements": [body]}).json()
            [result] = again["results"]
            assert (result["status"], result["replayed"]) == (200, one["status"] == 200)
            recorded[body["idempotency_key"]] = result["body"]["transaction_id"]
            if one["status"] == 200:
                assert result["body"]["transaction_id"] == one["body"]["transaction_id"]
        assert len(set(recorded.values())) == len(stream.sent)
        balance = running.get(f"/ledgers/shop/accounts/{account}").json()["balance"]
        assert balance == f"{len(stream.sent) / 100:.2f}"


def keys(running: RunningService, accounts: list[int]) -> set[str]:
    """The keys of all that was recorded, by the API."""
    found: set[str] = set()
    for account in accounts:
        path: str | None = f"/ledgers/shop/accounts/{account}/history?limit=100"
        while path:
            answer = running.get(path)
            found |= {one["idempotency_key"] for one in answer.json()}
            path = answer.links.get("next", {}).get("url")
    return found


@pytest.mark.thorough
def test_a_process_with_the_old_directory_is_refused(values: dict[str, str]) -> None:
    """One that knows no shards still has the ledger on main, and the database refuses."""
    alone = {"DATABASE_URL": values["DATABASE_URL"]}
    with serving(**values) as running:
        [account, _] = shop(running)
        assert cli("shards", "move", "shop", "b", **values).returncode == 0
        with serving(**alone) as old:
            body = {"account_id": account, "amount": "1", "idempotency_key": "old"}
            refused = old.post("/ledgers/shop/deposit/", body)
            assert refused.status_code == 503
        assert running.post("/ledgers/shop/deposit/", body).status_code == 200


@pytest.mark.parametrize("arguments", [["shop"], ["shop", "b", "--abort"]])
def test_it_says_what_it_needs(values: dict[str, str], arguments: list[str]) -> None:
    refused = cli("shards", "move", *arguments, **values)
    assert (refused.returncode, "or use --abort" in refused.stderr) == (1, True)


def test_an_abort_says_where_the_ledger_stays(values: dict[str, str], database: Database) -> None:
    with serving(**values) as running:
        [account, _] = shop(running)
        with connect(database) as directory:
            directory.execute(
                "INSERT INTO ledger.homes (ledger_id, shard, generation, state, target) "
                "SELECT ledger_id, 'main', 1, 'moving', 'b' FROM ledger.ledgers "
                "WHERE name = 'shop' "
                "ON CONFLICT (ledger_id) DO UPDATE SET state = 'moving', target = 'b'"
            )
        left = cli("shards", "move", "shop", "--abort", **values)
        assert (left.returncode, left.stdout) == (0, "shop stays on main.\n"), left.stderr
        body = {"account_id": account, "amount": "1", "idempotency_key": "k"}
        assert running.post("/ledgers/shop/deposit/", body).status_code == 200


def test_an_abort_while_the_target_is_down(values: dict[str, str], database: Database) -> None:
    """What has arrived there is shown when it is back, and removed by the same command."""
    with serving(**values) as running:
        shop(running)
    with connect(database) as directory:
        [(ledger,)] = directory.execute(
            "INSERT INTO ledger.homes (ledger_id, shard, generation, state, target) "
            "SELECT ledger_id, 'main', 1, 'moving', 'b' FROM ledger.ledgers "
            "WHERE name = 'shop' RETURNING ledger_id"
        ).fetchall()
    b = Database(parse_url(values["LEDGER_SHARDS"].removeprefix("b=")), database.settings)
    with b.owner_engine().connect() as target, target.begin():
        row = {"ledger": ledger}
        target.execute(
            text("INSERT INTO ledger.ledgers (ledger_id, name) VALUES (:ledger, 'shop')"), row
        )
    with b.owner_engine().connect() as target:
        set_fence(target, ledger, 1, "arriving")
    down = values | {"LEDGER_SHARDS": "b=postgresql://nobody@127.0.0.1:1/none"}
    left = cli("shards", "move", "shop", "--abort", **down)
    assert (left.returncode, "b could not be used" in left.stdout) == (0, True), left.stderr
    assert state_of_b(values) == "up, has what an aborted move has left: shop"
    left = cli("shards", "move", "shop", "--abort", **values)
    assert (left.returncode, left.stdout) == (0, "shop stays on main.\n"), left.stderr
    assert state_of_b(values) == "up"


def state_of_b(values: dict[str, str]) -> str:
    lines = cli("shards", "list", "--json", **values).stdout.splitlines()
    state: str = {one["name"]: one["state"] for one in map(json.loads, lines)}["b"]
    return state


@pytest.mark.long
def test_webhooks_go_on_from_the_new_home(values: dict[str, str], tmp_path: Path) -> None:
    with receiving(tmp_path / "receiver") as receiver, serving(**values, **QUICK) as running:
        [account, _] = shop(running)
        book = Book(running, "shop")
        add(book, receiver)
        ids = pay(book, account, 5)
        for number, target in enumerate(("b", "main")):
            assert cli("shards", "move", "shop", target, **values).returncode == 0
            assert wait_for(lambda: pay_one(book, account).status_code == 200, 10)
            ids += pay(book, account, 5, f"{number} ")
        assert delivered(receiver, ids)
        sent = [one.id for one in receiver.got()]
        assert [one for one in sent if one in ids] == ids


def pay_one(book: Book, account: int) -> httpx.Response:
    body = {"account_id": account, "amount": "1", "idempotency_key": f"{time.monotonic()}"}
    return book.post("/deposit/", body)
