"""Four eyes, whoever dies: each step of what others have approved, and the other doors."""

import asyncio
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from ledgerservice import Ledger
from ledgerservice.commands.broker import Command
from ledgerservice.commands.posting import Posting, results_of
from ledgerservice.postgres.connections import Database
from ledgerservice.rights import reading_keys
from ledgerservice.runtime import posting
from ledgerservice.shards import Shards
from tests.access.approvals.proposing import (
    WHY,
    World,
    as_service,
    decide,
    deposit,
    principal,
    transactions_of,
)
from tests.access.made import bearer
from tests.databases import url_text
from tests.processes import RunningService, serving, wait_for


@contextmanager
def locked(world: World, statement: str) -> Iterator[None]:
    """Somebody else holds a lock meanwhile."""
    with world.database.owner_engine().connect() as connection:
        connection.execute(text(statement))
        yield
        connection.rollback()


def is_waiting(world: World, words: str) -> bool:
    return bool(
        world.rows(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            f" AND datname = current_database() AND query LIKE '%{words}%'"
        )
    )


DEATHS = {
    "while it is posted": (
        "SELECT * FROM ledger.accounts WHERE id = {account} FOR UPDATE",
        "FOR NO KEY UPDATE",
    ),
    "after it was posted": ("SELECT pg_advisory_xact_lock(2020072)", "ledger.audit"),
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_process_that_dies_between_approval_and_answer(world: World, death: str) -> None:
    statement, words = DEATHS[death]
    account = world.account()
    place = deposit(world, account, "500")
    url = url_text(world.database)
    with serving(DATABASE_URL=url, LEDGER_SWEEP_INTERVAL_S="1000") as victim:
        dying = world._replace(service=victim)
        with locked(world, statement.format(account=account)):
            asking = threading.Thread(target=ignoring_faults, args=(dying, place))
            asking.start()
            assert wait_for(lambda: is_waiting(world, words))
            state = world.send("bob", "GET", place).json()["state"]
            victim.process.kill()
            asking.join()
            assert state == "approved"
    check_done_once(world, place, account)


def ignoring_faults(world: World, place: str) -> None:
    with suppress(httpx.HTTPError):
        world.send("bob", "POST", f"{place}/approve", WHY)


def check_done_once(world: World, place: str, account: int) -> None:
    assert wait_for(lambda: world.send("bob", "GET", place).json()["state"] == "executed", 30)
    assert world.balance(account) == "500.00"
    assert len(transactions_of(world, place)) == 1
    [(records,)] = world.rows(
        f"SELECT count(*) FROM ledger.audit WHERE subject = '{place}'"
        " AND action = 'execute_approval'"
    )
    assert records == 1


def test_a_process_that_dies_after_the_last_decision(world: World) -> None:
    """The decision is durable, and nobody has begun: any process carries it out, one of them."""
    account = world.account()
    place = deposit(world, account, "500")
    url = url_text(world.database)
    with (
        serving(DATABASE_URL=url, LEDGER_SWEEP_INTERVAL_S="0.05"),
        serving(DATABASE_URL=url, LEDGER_SWEEP_INTERVAL_S="0.05"),
    ):
        with as_service(world) as role:
            decide(role, place, principal(world, "alice"), principal(world, "bob"), "approve")
        check_done_once(world, place, account)


# A full queue.


def send_item(world: World, headers: dict[str, str], line: bytes) -> Any:
    """The answer to a stream of one line."""
    sent = headers | {"Content-Type": "application/x-ndjson"}
    answer = world.service.client.post("/batches", content=line, headers=sent, timeout=60)
    return json.loads(answer.text)


def test_a_stream_waits_for_room_for_its_proposals(world: World) -> None:
    """While the queue is full a single request is refused, and no line of a stream."""
    account, busy = world.account(), world.account()
    key = bearer(world.keys["poster"])
    item = {"type": "DEPOSIT", "account_id": account, "amount": "500", "idempotency_key": "line"}
    statuses: list[int] = []

    def crowd(full: World, n: int) -> None:
        body = {"account_id": busy, "amount": "1", "idempotency_key": f"crowd {n}"}
        with httpx.Client(base_url=full.service.base, timeout=60) as client:
            statuses.append(client.post("/deposit", json=body, headers=key).status_code)

    limits = {"LEDGER_QUEUE_LIMIT_REQUESTS": "2", "LEDGER_KEY_QUEUE_SHARE": "0"}
    with (
        serving(DATABASE_URL=url_text(world.database), **limits) as service,
        ThreadPoolExecutor(9) as pool,
    ):
        full = world._replace(service=service)
        with locked(world, f"SELECT FROM ledger.accounts WHERE id = {busy} FOR UPDATE"):
            for n in range(8):
                pool.submit(crowd, full, n)
            assert wait_for(lambda: 503 in statuses)
            streaming = pool.submit(send_item, full, key, json.dumps(item).encode())
            with pytest.raises(TimeoutError):
                streaming.result(1)
        answer = streaming.result(60)
    assert (answer["status"], answer["body"]["state"]) == (202, "open")


# Rules that could not be read.

DOORS: dict[str, tuple[str, dict[str, Any]]] = {
    "a money route": ("/deposit", {"account_id": 1, "amount": "1"}),
    "an instruction": ("/holds", {"account_id": 1, "amount": "1"}),
    "a batch": ("/batches", {}),
    "a stream": ("/batches", {}),
}
ITEM = {"type": "DEPOSIT", "account_id": 1, "amount": "1"}


def post_at(service: RunningService, door: str, n: int) -> Any:
    """The status and the code of an answer to a request with a new key."""
    path, body = DOORS[door]
    item = {**(ITEM if path == "/batches" else body), "idempotency_key": f"{door} {n}"}
    if door == "a stream":
        kind = {"Content-Type": "application/x-ndjson"}
        sent = service.client.post(path, content=json.dumps(item), headers=kind)
        line = json.loads(sent.text)
        return line["status"], line["body"].get("code")
    answer = service.post(path, {"movements": [item]} if door == "a batch" else item)
    return answer.status_code, answer.json().get("code")


@pytest.mark.thorough
def test_nothing_is_posted_by_stale_rules(new_database: Callable[..., Database]) -> None:
    """Also where callers have no keys, which would be stale too."""
    database = new_database()
    with serving(DATABASE_URL=url_text(database)) as service:
        service.open(balance="100")
        with database.owner_engine().connect() as owner:
            owner.execute(text("LOCK TABLE ledger.approval_rules"))
            numbers = itertools.count()

            def is_stale() -> bool:
                return post_at(service, "a money route", next(numbers)) == (503, "unavailable")

            assert wait_for(is_stale, 30, 0.2)
            for door in DOORS:
                assert post_at(service, door, -1) == (503, "unavailable"), door
            assert service.get("/accounts/1").status_code == 200
            owner.rollback()
        assert wait_for(lambda: not is_stale(), 30, 0.2)
        for door in DOORS:
            status, _ = post_at(service, door, -1)
            assert status == 200, door


# Other doors.


def test_commands_and_programs(world: World) -> None:
    """A command from Kafka is refused; a program that has the database is its operator's."""
    account = world.account()

    async def run() -> None:
        async with posting(world.database) as runtime, reading_keys(runtime, with_tokens=False):
            consumer = Posting(Shards(runtime), principal(world, "alice"))
            lines = [
                json.dumps(
                    {"type": "DEPOSIT", "account_id": account, "amount": amount,
                     "idempotency_key": f"command {amount}"}
                ).encode()
                for amount in ("500", "2")
            ]  # fmt: skip
            lines.append(b'{"linked": [%b]}' % lines[0])
            commands = [Command(b"", line, [], 0, n) for n, line in enumerate(lines)]
            prepared = consumer.prepared(commands, {}, {})
            big, small, linked = results_of(await consumer.post(prepared))
            assert (big.code, big.is_dead, small.code) == ("approval_required", True, "posted")
            assert linked.code == "batch_failed"

    asyncio.run(run())
    assert world.balance(account) == "2.00"
    outcome = asyncio.run(post_by_program(world.database, account))
    assert outcome.posted and world.balance(account) == "502.00"


async def post_by_program(database: Database, account: int) -> Any:
    async with Ledger.open(url_text(database)) as ledger:
        return await ledger.deposit(account, "500", key="by a program")
