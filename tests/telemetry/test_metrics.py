"""What a real service shows to Prometheus while things happen to it."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import disk_usage

import httpx
import psutil
import pytest

from ledgerservice.postgres.connections import Database
from ledgerservice.telemetry.measures import Gauge
from tests.databases import connect, url_text, waiting_for_a_lock
from tests.feed.receiver import receiving
from tests.processes import cli, free_port, serving, wait_for
from tests.telemetry.scraping import families, scraped, value

CANARY = "canary-9d1e"
COUNT = "ledger_request_duration_seconds_count"
CANCEL_WAITING = """
SELECT pg_cancel_backend(pid) FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND datname = current_database()
"""


@pytest.fixture
def database(new_database: Callable[..., Database]) -> Database:
    return new_database()


def deposit(account: int, key: str, amount: str = "1") -> dict[str, object]:
    return {"account_id": account, "amount": amount, "idempotency_key": key}


def test_requests_and_outcomes_are_counted_once(database: Database) -> None:
    with scraped(database) as (service, port):
        account = service.open(balance="5")
        service.post("/withdraw", deposit(account, "too much", "9"))
        service.post("/ledgers/default/deposit/", deposit(account, "funding", "5"))
        service.post("/deposit/", deposit(999, "missing"))
        service.post("/deposit/", {"account_id": account})
        items = [{"type": "DEPOSIT", **deposit(one, f"b{one}")} for one in (account, 998)]
        service.post("/batches/", {"movements": items})
        service.get(f"/ledgers/default/accounts/{account}/")
        service.get("/ledgers/nobody/accounts/1")
        service.get("/no/such/route")

        def requests(method: str, route: str, status: int) -> float:
            return value(port, COUNT, method=method, route=route, status=str(status))

        assert requests("POST", "/accounts", 201) == 1
        assert requests("POST", "/deposit", 200) == 2
        assert requests("POST", "/deposit", 404) == 1
        assert requests("POST", "/withdraw", 400) == 1
        assert requests("POST", "/batches", 200) == 1
        assert requests("GET", "/accounts/{account_id}", 200) == 1
        assert requests("GET", "none", 404) == 2
        outcomes = {
            tuple(sorted(sample.labels.items())): sample.value
            for sample in families(port)["ledger_instructions_total"].samples
        }
        assert outcomes == {
            (("code", ""), ("outcome", "posted")): 2,
            (("code", ""), ("outcome", "replayed")): 1,
            (("code", "insufficient_funds"), ("outcome", "declined")): 1,
            (("code", "account_not_found"), ("outcome", "rejected")): 2,
        }
        refusals = {
            sample.labels["code"]: sample.value
            for sample in families(port)["ledger_refusals_total"].samples
        }
        assert refusals.pop("unavailable", 0) <= 100  # while the service was starting
        assert refusals == {
            "insufficient_funds": 1,
            "account_not_found": 2,
            "invalid_request": 1,
            "ledger_not_found": 1,
            "not_found": 1,
        }
        # The repeat is of a known account, and is planned again when the unique key has refused it.
        assert value(port, "ledger_batches_known_total", outcome="refused") == 1
        for phase, batches in {"lock": 5, "plan": 6, "write": 5, "commit": 5}.items():
            assert value(port, "ledger_batch_phase_seconds_count", phase=phase) == batches
        assert value(port, "ledger_batch_requests_sum", queue="movements") == 5


@pytest.mark.thorough
def test_a_queue_behind_a_lock_and_a_cancelled_statement(database: Database) -> None:
    services = scraped(database, LEDGER_REQUEST_DEADLINE_S="60")
    with services as (service, port), connect(database) as other:
        account = service.open()
        other.autocommit = False
        other.execute("SELECT * FROM ledger.accounts WHERE id = %s FOR UPDATE", [account])
        other.execute("SELECT pg_current_xact_id()")
        with ThreadPoolExecutor(4) as threads:
            bodies = [deposit(account, f"{n}") for n in range(4)]
            answers = [threads.submit(service.post, "/deposit/", bodies[0])]
            assert wait_for(lambda: waiting_for_a_lock(database))
            answers += [threads.submit(service.post, "/deposit/", body) for body in bodies[1:]]
            assert wait_for(lambda: value(port, "ledger_queue_requests", queue="movements") > 0)
            assert wait_for(lambda: value(port, "ledger_queue_age_seconds") > 0.2)
            assert wait_for(lambda: value(port, "ledger_requests_in_flight") >= 4)
            assert wait_for(lambda: value(port, "ledger_oldest_transaction_seconds") > 2, 20)
            with connect(database) as operator:
                operator.execute(CANCEL_WAITING)
            retried = "ledger_batch_retries_total"
            assert wait_for(lambda: value(port, retried, sqlstate="57014") == 1)
            other.rollback()
            assert {answer.result().status_code for answer in answers} == {200}
        assert value(port, "ledger_queue_age_seconds") == 0
        assert wait_for(lambda: value(port, "ledger_oldest_transaction_seconds") == 0, 20)


@pytest.mark.thorough
def test_each_process_has_a_port(database: Database) -> None:
    port = free_port()
    values = {"DATABASE_URL": url_text(database), "LEDGER_METRICS_PORT": str(port)}
    with serving(options=["--workers", "2"], **values) as service:
        account = service.open()
        bodies = [deposit(account, f"{n}") for n in range(20)]
        for body in bodies:
            assert httpx.post(f"{service.base}/deposit/", json=body).status_code == 200

        def is_listening(number: int) -> bool:
            try:
                return "ledger_build_info" in families(number)
            except httpx.TransportError:
                return False

        assert wait_for(lambda: is_listening(port) and is_listening(port + 1), 60)
        counts = [value(one, COUNT, route="/deposit") for one in (port, port + 1)]
        assert sum(counts) == 20
        for one in (port, port + 1):
            samples = families(one)["ledger_connections"].samples
            assert {sample.labels["state"] for sample in samples} == {"idle", "busy", "blocked"}


@pytest.mark.long
def test_a_server_that_is_frozen_is_not_up(workspace: Path) -> None:
    """Its connections stay, and its own limits on statements freeze with it."""
    port = free_port()
    values = {"LEDGER_DATA_FOLDER": str(workspace / "data"), "LEDGER_METRICS_PORT": str(port)}
    with serving(**values) as service:
        assert wait_for(lambda: value(port, "ledger_database_up") == 1)
        frozen = psutil.Process(service.process.pid).children(recursive=True)
        for one in frozen:
            one.suspend()
        try:
            assert wait_for(lambda: value(port, "ledger_database_up") == 0, 60)
        finally:
            for one in frozen:
                one.resume()
        assert wait_for(lambda: value(port, "ledger_database_up") == 1, 60)


def test_a_number_that_cannot_be_read_takes_no_other_away(tmp_path: Path) -> None:
    gauge = Gauge("g", "m", "place")
    gauge.set(1, "here")
    with gauge.reading(lambda: disk_usage(tmp_path / "gone").free, "gone"):
        now = gauge.now()
    assert now["here",] == 1 and math.isnan(now["gone",])


@pytest.mark.thorough
def test_webhooks_and_their_lag(database: Database, tmp_path: Path) -> None:
    receivers, services = (
        receiving(tmp_path / "receiver"),
        scraped(database, LEDGER_WEBHOOKS_PRIVATE="true"),
    )
    with receivers as receiver, services as (service, port):
        added = service.post("/webhooks/", {"url": receiver.url})
        assert added.status_code == 201, added.text
        account = service.open(balance="1")
        attempts, lag = "ledger_webhook_attempts_total", "ledger_feed_lag_seconds"
        assert wait_for(lambda: value(port, attempts, outcome="delivered") >= 2)
        assert wait_for(lambda: value(port, lag, reader="webhooks") == 0)
        assert value(port, "ledger_feed_reader_active", reader="webhooks") == 1
        assert value(port, "ledger_feed_position", reader="webhooks") > 0
        # An open transaction with an id from before holds everything back.
        with connect(database) as other:
            other.autocommit = False
            other.execute("SELECT pg_current_xact_id()")
            service.post("/deposit/", deposit(account, "held back"))
            assert wait_for(lambda: value(port, "ledger_oldest_transaction_seconds") > 1, 20)
            assert value(port, attempts, outcome="delivered") == 2


def test_no_label_has_a_text_of_a_caller_s(database: Database) -> None:
    with scraped(database) as (service, port):
        account = service.post(
            "/accounts/", {"owner": CANARY, "currency": "USD", "reference": CANARY}
        ).json()["id"]
        service.post("/ledgers/", {"name": CANARY})
        service.post("/deposit/", deposit(account, CANARY) | {"description": CANARY})
        service.get(f"/accounts/{account}/keys/{CANARY}")
        service.get(f"/ledgers/{CANARY}/accounts/1")
        service.get(f"/{CANARY}?{CANARY}={CANARY}")
        service.client.request(CANARY.upper(), "/accounts/1")
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert "ledger_build_info" in text
        assert CANARY not in text.lower()


def test_a_place_that_cannot_be_listened_on_is_named(database: Database) -> None:
    values = {"LEDGER_METRICS_HOST": "192.0.2.1", "LEDGER_METRICS_PORT": "9464"}
    done = cli("serve", "--port", str(free_port()), DATABASE_URL=url_text(database), **values)
    assert done.returncode != 0
    for part in ("Port 9464 on 192.0.2.1, for metrics", "LEDGER_METRICS_HOST"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr
