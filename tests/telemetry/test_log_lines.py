"""The lines of the log of a real process: their form, and which requests have one."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledgerservice.access import keys
from ledgerservice.postgres.connections import Database
from tests.access.made import bearer, make_key
from tests.databases import connect, url_text
from tests.processes import (
    ROOT,
    RunningService,
    await_ready,
    environment,
    free_port,
    serving,
    wait_for,
)
from tests.telemetry.scraping import families

TEXT_LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING|ERROR): .+ logger=\S+"
)
TIMES = ("ms", "queue_ms", "commit_ms")


@pytest.fixture
def database(new_database: Callable[..., Database]) -> Database:
    return new_database()


Lines = Callable[[], list[dict[str, Any]]]


@contextmanager
def logging_as_json(
    database: Database, folder: Path, **values: str
) -> Iterator[tuple[RunningService, Lines]]:
    """A service, and what it has logged so far of requests."""
    log = folder / "log"

    def lines() -> list[dict[str, Any]]:
        logged = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in logged if line["event"] == "request"]

    values = {"LEDGER_LOG_FORMAT": "json", "DATABASE_URL": url_text(database), **values}
    with serving(LOGGED_TO=str(log), **values) as service:
        yield service, lines


def of_route(lines: Lines, route: str) -> list[dict[str, Any]]:
    return [line for line in lines() if line["route"] == route]


def deposit(account: int, key: str) -> dict[str, Any]:
    return {"account_id": account, "amount": "1", "idempotency_key": key}


def test_a_line_has_what_is_known_of_a_request(database: Database, tmp_path: Path) -> None:
    with logging_as_json(database, tmp_path, LEDGER_LOG_REQUESTS="all") as (service, lines):
        account = service.open()
        service.post("/ledgers/", {"name": "second"})
        service.client.post(
            "/deposit/", json=deposit(account, "k"), headers={"x-request-id": "from.the-caller_1"}
        )
        service.post("/withdraw", {**deposit(account, "w"), "amount": "9"})
        service.get("/ledgers/second/accounts/77")
        assert wait_for(lambda: len(of_route(lines, "/accounts/{account_id}")) == 1)
        [posted] = of_route(lines, "/deposit")
        assert posted["request_id"] == "from.the-caller_1"
        assert (posted["level"], posted["status"]) == ("INFO", 200)
        assert (posted["ledger"], posted["method"]) == ("default", "POST")
        assert posted["time"].endswith("Z") and "code" not in posted
        assert posted["ms"] >= posted["commit_ms"] > 0
        assert all(isinstance(posted[name], float) for name in TIMES)
        [declined] = of_route(lines, "/withdraw")
        assert (declined["status"], declined["code"]) == (400, "insufficient_funds")
        [missing] = of_route(lines, "/accounts/{account_id}")
        assert (missing["ledger"], missing["code"]) == ("second", "account_not_found")


IDS = {
    "abc-1.2_3": True,
    "a" * 64: True,
    "a" * 65: False,
    "": False,
    "a b": False,
    "a=b": False,
    'a"b': False,
    "é": False,
}


@pytest.mark.parametrize("path", ["/deposit/", "/accounts/1", "/nowhere", "/events?limit=x"])
def test_every_answer_has_a_request_id(service: RunningService, path: str) -> None:
    for sent, is_kept in IDS.items():
        headers = {b"x-request-id": sent.encode("latin-1")}
        got = service.client.get(path, headers=headers).headers.get_list("x-request-id")
        assert len(got) == 1
        assert (got[0] == sent) is is_kept, sent
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", got[0])
    assert len({service.client.get(path).headers["x-request-id"] for _ in range(20)}) == 20


BREAK = "ALTER TABLE ledger.account_details RENAME TO gone"


def test_errors_have_a_line_by_default_and_are_counted(database: Database, tmp_path: Path) -> None:
    with logging_as_json(database, tmp_path) as (service, lines):
        account = service.open()
        with connect(database) as owner:
            owner.execute(BREAK)
        answers = [service.get(f"/accounts/{account}") for _ in range(30)]
        assert {answer.status_code for answer in answers} == {500}
        service.post("/deposit/", deposit(account, "k"))
        service.get("/accounts/999")
        service.get("/nowhere")
    # The rest is written when the process ends.
    first, last = of_route(lines, "/accounts/{account_id}")
    assert (first["level"], first["status"], first["code"]) == ("ERROR", 500, "internal_error")
    assert first["request_id"] == answers[0].headers["x-request-id"]
    assert "repeated" not in first
    assert last["repeated"] == 30 - 1 + 1  # with the one for the account that is not there
    assert len(lines()) == 2


def test_slow_requests_have_a_line_and_long_polls_have_not(
    database: Database, tmp_path: Path
) -> None:
    with logging_as_json(database, tmp_path, LEDGER_LOG_SLOW_S="0.2") as (service, lines):
        account = service.open()
        service.get("/events?wait=1")
        last = service.get("/events").json()["next"]
        service.get(f"/events?after={last}&wait=1")
        with connect(database) as other:
            other.autocommit = False
            other.execute("SELECT FROM ledger.accounts WHERE id = %s FOR UPDATE", [account])
            with httpx.Client(base_url=service.base) as client, pytest.raises(httpx.ReadTimeout):
                client.post("/deposit/", json=deposit(account, "slow"), timeout=0.5)
            other.rollback()
        assert wait_for(lambda: len(of_route(lines, "/deposit")) == 1)
        [slow] = of_route(lines, "/deposit")
        assert slow["ms"] > 200 and slow["level"] == "WARNING"
        assert not of_route(lines, "/events")


def test_off_is_off(database: Database, tmp_path: Path) -> None:
    values = {"LEDGER_LOG_REQUESTS": "off", "LEDGER_LOG_SLOW_S": "0.000001"}
    with logging_as_json(database, tmp_path, **values) as (service, lines):
        account = service.open()
        with connect(database) as owner:
            owner.execute(BREAK)
        assert service.get(f"/accounts/{account}").status_code == 500
        service.get("/accounts/999")
    assert lines() == []


def test_text_is_a_line_each_too(database: Database, tmp_path: Path) -> None:
    log = tmp_path / "log"
    values = {"DATABASE_URL": url_text(database), "LEDGER_LOG_REQUESTS": "all"}
    with serving(LOGGED_TO=str(log), **values) as service:
        service.open()
        service.get("/accounts/1")
    lines = log.read_text().splitlines()
    assert len([line for line in lines if ": request logger=" in line]) >= 2
    assert [line for line in lines if not TEXT_LINE.match(line)] == []


@pytest.mark.processes
@pytest.mark.parametrize(
    "program", [pytest.param("workers", marks=pytest.mark.thorough), "uvicorn"]
)
def test_the_log_is_the_same_under_other_programs(
    database: Database, tmp_path: Path, program: str
) -> None:
    port = str(free_port())
    commands = {
        "workers": ["ledgerservice", "serve", "--workers", "2", "--port", port],
        "uvicorn": ["uvicorn", "app.main:app", "--port", port],
    }
    values = {
        "DATABASE_URL": url_text(database),
        "LEDGER_LOG_FORMAT": "json",
        "LEDGER_LOG_REQUESTS": "all",
    }
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *commands[program]],
            env=environment(**values),
            cwd=ROOT,
            stderr=file,
            stdout=subprocess.DEVNULL,
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        await_ready(client, process)
        client.get("/accounts?owner=canary-5d2c")
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    logged = log.read_text().splitlines()
    assert not [line for line in logged if "canary-5d2c" in line]
    requests = [json.loads(line) for line in logged if '"event":"request"' in line]
    assert [line for line in requests if line["route"] == "/accounts"]


def test_a_key_is_named_by_its_id(database: Database, tmp_path: Path) -> None:
    values = {"LEDGER_LOG_REQUESTS": "all", "LEDGER_METRICS_PORT": str(free_port())}
    key = make_key(database, "tests")
    secret = key.rpartition("_")[2]
    with logging_as_json(database, tmp_path, **values) as (service, lines):
        assert service.client.get("/accounts", headers=bearer(key)).status_code == 200
        assert service.client.get("/accounts").status_code == 401
        assert service.client.get("/accounts", headers=bearer(key[:-1])).status_code == 401
        port = int(values["LEDGER_METRICS_PORT"])
        results = {
            sample.labels["result"]: sample.value
            for sample in families(port)["ledger_authentications_total"].samples
        }
        assert (results["key"], results["key_missing"] >= 1) == (1, True)
        assert sum(results.values()) - results["key_missing"] == 2
    with_key, without, refused = of_route(lines, "/accounts")
    assert with_key["key_id"] and with_key["key_id"] == keys.id_of(key)
    assert "key_id" not in without and "key_id" not in refused
    assert secret not in (tmp_path / "log").read_text()
