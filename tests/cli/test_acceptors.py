"""`serve --acceptors`: the answers of one process, from several, whoever of them dies."""

import json
import re
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ledgerservice.postgres.connections import Database
from tests.cli.acceptors import ACCEPTORS, Depositors, all_answer, processes, socket_of
from tests.databases import connect, url_text
from tests.processes import RunningService, cli, free_port, serving, wait_for


def test_it_cannot_be_combined_with_workers() -> None:
    done = cli("serve", "--acceptors", "2", "--workers", "2", DATABASE_URL="postgresql://nobody")
    assert done.returncode == 1
    assert "--workers and --acceptors cannot be combined" in done.stderr


def money(**fields: Any) -> dict[str, Any]:
    return {"amount": "5", "idempotency_key": "k", **fields}


def movement(kind: str, key: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "idempotency_key": key, "amount": "1", **fields}


LATER = "2999-01-01T12:00:00.123456+05:30"
LINKED = [
    movement("deposit", "l1", account_id=1),
    movement("withdrawal", "l2", account_id=2, amount="999999"),
]
ITEMS = [
    movement("deposit", "b1", account_id=1),
    movement("transfer", "b2", from_account_id=1, to_account_id=99),
    movement("transfer", "b3", from_account_id=1, to_account_id=2, amount="999999"),
    movement("deposit", "b1", account_id=1),
    movement("deposit", "b1", account_id=1, amount="7"),
    {"linked": [movement("deposit", "b4", account_id=1), movement("deposit", "b5", account_id=2)]},
    {"linked": LINKED},
    {"type": "deposit"},
]
LEGS = [
    {"account_id": 1, "amount": "-3", "available_at_least": "1"},
    {"account_id": 2, "amount": "1"},
    {"account_id": 3, "amount": "2"},
]
REQUESTS: list[tuple[str, str, Any]] = [
    *(("POST", "/accounts/", {"owner": name, "currency": "USD"}) for name in ("A", "B", "C")),
    ("POST", "/accounts/", {"owner": "D", "currency": "INR"}),
    ("POST", "/deposit/", money(account_id=1, amount="100")),
    ("POST", "/deposit/", money(account_id=1, amount="100")),
    ("POST", "/deposit/", money(account_id=1, amount="100.0")),
    ("POST", "/deposit/", money(account_id=1, amount="101")),
    ("POST", "/deposit/", money(account_id=99)),
    ("POST", "/deposit/", money(account_id=1, amount="1.234")),
    ("POST", "/deposit/", money(account_id=1, amount="NaN")),
    ("POST", "/withdraw/", money(account_id=1, idempotency_key="w")),
    ("POST", "/withdraw/", money(account_id=2, idempotency_key="w")),
    ("POST", "/withdraw/", money(account_id=2, idempotency_key="w")),
    ("POST", "/transfer/", money(from_account_id=1, to_account_id=2, idempotency_key="t")),
    ("POST", "/transfer/", money(from_account_id=1, to_account_id=1, idempotency_key="t1")),
    ("POST", "/transfer/", money(from_account_id=1, to_account_id=4, idempotency_key="t4")),
    (
        "POST",
        "/transfer/",
        money(
            from_account_id=1,
            to_account_id=2,
            idempotency_key="texts",
            description="\u0000é🙂"[1:],
            reference="r",
            effective_at="2020-02-03T04:05:06.789012+05:30",
            metadata={"a": [1, 12345678901234567.89], "b": {"c": None}},
        ),
    ),
    ("POST", "/transfer/?dry_run=true", money(from_account_id=1, to_account_id=2)),
    ("POST", "/transactions/", {"legs": LEGS, "idempotency_key": "g"}),
    ("POST", "/transactions/", {"legs": LEGS[:2], "idempotency_key": "g2"}),
    ("POST", "/holds/", money(account_id=1, to_account_id=2, idempotency_key="h")),
    ("POST", "/holds/", money(account_id=1, idempotency_key="h2", expires_at=LATER)),
    (
        "POST",
        "/schedules/",
        money(from_account_id=1, to_account_id=2, execute_at=LATER, idempotency_key="s"),
    ),
    (
        "PATCH",
        "/accounts/2",
        {"floor": "-10", "idempotency_key": "p", "actor": "risk", "reason": "a test"},
    ),
    (
        "PATCH",
        "/accounts/3",
        {"frozen": "both", "idempotency_key": "p", "actor": "risk", "reason": "a test"},
    ),
    ("POST", "/deposit/", money(account_id=3, idempotency_key="frozen")),
    ("POST", "/batches/", {"movements": ITEMS}),
    ("POST", "/batches/", {"movements": ITEMS}),
    ("POST", "/batches/", {"movements": ITEMS[:1] + LINKED, "mode": "atomic"}),
    ("POST", "/batches/?dry_run=true", {"movements": ITEMS[:4]}),
    ("POST", "/ledgers/", {"name": "other", "idempotency_key": "l"}),
    ("POST", "/ledgers/other/deposit/", money(account_id=1)),
    ("GET", "/accounts/", None),
    ("GET", "/accounts/1/history", None),
    ("GET", "/health/ready", None),
]
# What differs between two ledgers: timestamps, the ids of transactions, and cursors.
VARYING = re.compile(
    r'"\d{4}-\d\d-\d\dT[^"]*Z"|"(?:transaction_id|hold_id|schedule_id|id)":\d{3,}|"next":"[^"]*"'
)


def answers(service: RunningService) -> list[tuple[Any, ...]]:
    return [
        (method, path, body, answer.status_code, VARYING.sub("*", answer.text), shown(answer))
        for method, path, body in REQUESTS
        for answer in [service.client.request(method, path, json=body)]
    ]


def shown(answer: httpx.Response) -> dict[str, str]:
    return {
        name: value
        for name, value in answer.headers.items()
        if name not in {"date", "content-length", "request-id", "x-request-id"}
    }


def stream(service: RunningService) -> list[str]:
    lines = [json.dumps({**one, "idempotency_key": f"s{n}"}) for n, one in enumerate(ITEMS[:4])]
    headers = {"content-type": "application/x-ndjson"}
    answer = service.client.post("/batches/", content="\n".join(lines), headers=headers)
    return [VARYING.sub("*", line) for line in answer.text.splitlines()]


@pytest.fixture
def databases(new_database: Callable[[], Database]) -> list[Database]:
    return [new_database(), new_database()]


@pytest.mark.thorough
def test_the_answers_are_those_of_one_process(databases: list[Database]) -> None:
    by_options = []
    for database, options in zip(databases, ((), ACCEPTORS), strict=True):
        with serving(DATABASE_URL=url_text(database), options=options) as service:
            by_options.append((answers(service), stream(service)))
    (one, lines), (several, other_lines) = by_options
    for expected, actual in zip(one, several, strict=True):
        assert actual == expected
    assert other_lines == lines
    statuses = {status for *_, status, _, _ in one}
    assert {200, 201, 404, 409, 422} <= statuses, "the table has too few kinds of answers"


@pytest.mark.thorough
def test_whoever_dies_nothing_is_lost_and_nothing_doubled(
    database: Database, no_violations: Callable[[Database], None]
) -> None:
    with serving(DATABASE_URL=url_text(database), options=ACCEPTORS) as service:
        account = service.open()
        depositors = Depositors(service.base, account, 8)
        try:
            for kill in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
                depositors.go_on()
                poster, acceptors = processes(service)
                poster.send_signal(kill)
                depositors.go_on()
                acceptors[0].kill()
                depositors.go_on()
        finally:
            deposits = depositors.stop()
        assert wait_for(lambda: service.get("/health/ready").status_code == 200, 60)
        assert service.account(account, "balance", "version") == (f"{deposits}.00", deposits)
        assert service.stop() == 0
    no_violations(database)


@pytest.mark.long
def test_it_is_not_ready_while_nobody_posts(database: Database) -> None:
    with serving(DATABASE_URL=url_text(database), options=ACCEPTORS) as service:
        processes(service)[0].suspend()  # after its time the supervisor takes it for dead
        poster = processes(service)[0]
        assert wait_for(lambda: service.get("/health/ready").status_code == 503, 60)
        assert service.get("/health/live").status_code == 200
        assert wait_for(lambda: service.get("/health/ready").status_code == 200, 120)
        assert not poster.is_running()
        service.open(balance="1")


def counted(port: int, name: str) -> float:
    """The sum of a sample of the queue of movements, over the processes of a service."""
    total = 0.0
    for number in range(port, port + 3):
        with httpx.Client(transport=httpx.HTTPTransport(retries=6)) as client:
            page = client.get(f"http://127.0.0.1:{number}/metrics").text
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name == name and sample.labels.get("queue") == "movements":
                    total += sample.value
    return total


@pytest.mark.thorough
def test_the_requests_of_all_acceptors_are_one_batch(database: Database) -> None:
    port, number = free_port(), 24
    values = {"DATABASE_URL": url_text(database), "LEDGER_METRICS_PORT": str(port)}
    with serving(options=ACCEPTORS, **values) as service, connect(database) as other:
        account = service.open(balance="1")
        assert wait_for(lambda: all_answer(service), 60)
        before = counted(port, "ledger_batch_requests_count")
        other.autocommit = False
        other.execute("SELECT * FROM ledger.accounts WHERE id = %s FOR UPDATE", [account])

        def deposit(key: int) -> int:  # on a connection of its own
            body = {"account_id": account, "amount": "1", "idempotency_key": f"{key}"}
            return httpx.post(
                f"{service.base}/deposit/", json=body, timeout=60, verify=False
            ).status_code

        with ThreadPoolExecutor(number + 1) as threads:
            first = threads.submit(deposit, 0)
            in_flight = "ledger_batch_requests_count"
            assert wait_for(lambda: waiting_for_a_lock(database))
            others = [threads.submit(deposit, key) for key in range(1, number + 1)]
            queued = "ledger_queue_requests"
            assert wait_for(lambda: counted(port, queued) == number, 30)
            other.rollback()
            assert {one.result() for one in (first, *others)} == {200}
        assert counted(port, in_flight) - before == 2


def waiting_for_a_lock(database: Database) -> bool:
    with connect(database) as owner:
        found = owner.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        return found.fetchone() is not None


@pytest.mark.thorough
def test_the_queue_is_shared_out(database: Database) -> None:
    """An acceptor refuses what is more than its part, and the other one takes its own."""
    values = {"DATABASE_URL": url_text(database), "LEDGER_QUEUE_LIMIT_REQUESTS": "8"}
    with serving(options=ACCEPTORS, **values) as service, connect(database) as other:
        account = service.open(balance="1")
        assert wait_for(lambda: all_answer(service), 60)
        other.autocommit = False
        other.execute("SELECT * FROM ledger.accounts WHERE id = %s FOR UPDATE", [account])

        def deposit(key: int) -> int:
            body = {"account_id": account, "amount": "1", "idempotency_key": f"{key}"}
            return httpx.post(
                f"{service.base}/deposit/", json=body, timeout=60, verify=False
            ).status_code

        with ThreadPoolExecutor(40) as threads:
            posted = [threads.submit(deposit, key) for key in range(40)]
            assert wait_for(lambda: sum(one.done() for one in posted) == 32, 30)
            other.rollback()
            statuses = sorted(one.result() for one in posted)
        assert statuses == [200] * 8 + [503] * 32
        assert service.account(account, "balance") == ("9.00",)


@pytest.mark.thorough
def test_others_write_beside_it(
    database: Database, tmp_path: Path, no_violations: Callable[[Database], None]
) -> None:
    with serving(DATABASE_URL=url_text(database), options=ACCEPTORS) as service:
        account = service.open()
        rows = "".join(f"deposit,{account},1,import {number}\n" for number in range(2_000))
        file = tmp_path / "deposits.csv"
        file.write_text(f"type,account_id,amount,idempotency_key\n{rows}")
        depositors = Depositors(service.base, account, 4)
        try:
            depositors.go_on()
            done = cli("import", str(file), DATABASE_URL=url_text(database))
            assert done.returncode == 0, done.stderr
        finally:
            deposits = depositors.stop() + 2_000
        assert service.account(account, "balance", "version") == (f"{deposits}.00", deposits)
    no_violations(database)


@pytest.mark.thorough
def test_only_the_service_s_user_can_connect(database: Database) -> None:
    """The folder of the socket is closed to others."""
    with serving(DATABASE_URL=url_text(database), options=ACCEPTORS) as service:
        poster, _ = processes(service)
        place = socket_of(poster)
        assert place is not None
        assert place.parent.stat().st_mode & 0o777 == 0o700
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(30)
            stranger.connect(str(place))
            stranger.sendall(b"\0\0\0\x06\x91\xa4none")  # of another release
            while stranger.recv(100):
                pass
        service.open(balance="1")
        assert service.stop() == 0
        assert not place.parent.exists()
