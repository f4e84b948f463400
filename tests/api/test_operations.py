"""What operators read and request over HTTP: metrics, and the verification."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ledgerservice.postgres.connections import Database
from tests.databases import connect, url_text, without_guards
from tests.processes import Fork, RunningService, environment, free_port, serving, wait_for
from tests.telemetry.scraping import families

EVERY = {"LEDGER_VERIFY_INTERVAL_S": "0.2"}


def parsed(service: RunningService) -> set[str]:
    answer = service.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    return {
        one.name + "_total" * (one.type == "counter")
        for one in text_string_to_metric_families(answer.text)
        if one.samples
    }


def test_the_metrics_are_those_of_the_listener(database: Database) -> None:
    port = free_port()
    values = {"DATABASE_URL": url_text(database), "LEDGER_METRICS_PORT": str(port)}
    with serving(**values) as service:
        service.open(balance="5")
        listed = set(families(port))
        assert "ledger_instructions_total" in listed
        assert {name for name in listed if families(port)[name].samples} <= parsed(service) | {
            "ledger_database_bytes"
        }


def test_the_database_is_sampled_without_a_listener(service: RunningService) -> None:
    parsed(service)
    assert wait_for(lambda: "ledger_database_up" in parsed(service), 30)


def state(service: RunningService) -> Any:
    answer = service.get("/verification/")
    assert answer.status_code == 200, answer.text
    return answer.json()


def has_passed(service: RunningService, since: str = "") -> bool:
    """Whether a pass has ended without a violation since."""
    return (state(service)["last_success_at"] or "") > since


def has_found(service: RunningService) -> bool:
    return any("invariant 2: " in one for one in state(service)["violations"])


@contextmanager
def processes(number: int, database: Database, **values: str) -> Iterator[list[RunningService]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(serving(DATABASE_URL=url_text(database), **values))
            for _ in range(number)
        ]


def break_account(database: Database) -> None:
    """Past the guards, in a row that is not new."""
    with connect(database) as superuser, without_guards(superuser):
        superuser.execute("UPDATE ledger.accounts SET balance = balance + 1 WHERE id = 1")


@pytest.mark.thorough
def test_a_pass_on_request(database: Database, tmp_path: Path) -> None:
    """It finds what the next pass would have found in half a day, whichever process is asked."""
    file = {"LEDGER_VERIFY_PROGRESS": str(tmp_path / "progress")}
    with processes(2, database, **EVERY, **file) as services:
        services[0].open(balance="5")
        for service in services:
            assert wait_for(partial(has_passed, service), 30)
        for asked in services:
            before = state(asked)
            assert (before["running"], before["violations"], before["pass_ratio"]) == (True, [], 1)
            answer = asked.client.post("/verification/")
            assert (answer.status_code, answer.json()["running"]) == (202, True)
            for service in services:
                assert wait_for(partial(has_passed, service, before["last_success_at"]), 30)
                assert state(service)["pass_began_at"] > before["pass_began_at"]
        break_account(database)
        services[1].client.post("/verification/")
        for service in services:
            assert wait_for(partial(has_found, service), 30)


def test_passes_are_requested_one_at_a_time(database: Database) -> None:
    """The next request is taken when the pass of the last one has begun."""
    waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'ledger.entries'::regclass"
    with processes(1, database, **EVERY) as [service], connect(database) as owner:
        service.open(balance="5")
        assert wait_for(partial(has_passed, service), 30)
        with owner.transaction():
            owner.execute("LOCK TABLE ledger.entries")
            assert service.client.post("/verification/").status_code == 202
            assert wait_for(lambda: owner.execute(waiting).fetchone() is not None, 30)
            refused = service.client.post("/verification/")
            assert (refused.status_code, refused.json()["limit"]) == (429, "verification")
            assert 0 < int(refused.headers["retry-after"]) <= 60
        assert wait_for(lambda: service.client.post("/verification/").status_code == 202, 30)


def test_the_page_of_metrics_is_made_once_for_many(service: RunningService) -> None:
    with ThreadPoolExecutor(8) as pool:
        pages = {one.text for one in pool.map(lambda _: service.get("/metrics"), range(40))}
    assert len(pages) < 40


def test_what_another_process_keeps_to_itself(database: Database) -> None:
    """Without a file that both have, one of them does not know how far it is."""
    with processes(2, database, **EVERY) as services:
        assert wait_for(lambda: any(map(has_passed, services)), 30)
        known, unknown = sorted(map(state, services), key=lambda one: one["position"] is None)
        assert known["violations"] == [] and known["position"] is not None
        assert unknown == {**dict.fromkeys(known), "running": True}


def test_verify_watch_hears_of_it(database: Database, tmp_path: Path) -> None:
    """A process of its own, beside a service that does not verify."""
    values = {"LEDGER_VERIFY_PROGRESS": str(tmp_path / "progress")}
    with processes(1, database, LEDGER_VERIFY_INTERVAL_S="0", **values) as [service]:
        service.open(balance="5")
        assert state(service) == {**dict.fromkeys(state(service)), "running": False}
        answer = service.client.post("/verification/")
        assert (answer.status_code, answer.json()["code"]) == (409, "not_verifying")
        with watching(database, tmp_path / "progress"):
            assert wait_for(partial(has_passed, service), 60)
            before = state(service)
            assert service.client.post("/verification/").status_code == 202
            assert wait_for(partial(has_passed, service, before["last_success_at"]), 30)
            assert state(service)["pass_began_at"] > before["pass_began_at"]
        assert wait_for(lambda: not state(service)["running"], 30)


@contextmanager
def watching(database: Database, file: Path) -> Iterator[None]:
    process = Fork(
        ["verify", "--watch", "--progress", str(file)],
        environment(DATABASE_URL=url_text(database), **EVERY),
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize("query", ["?dry_run=true", "?x=1"])
def test_a_request_that_means_something_else(service: RunningService, query: str) -> None:
    assert service.client.post(f"/verification/{query}").status_code == 422


def test_another_database_is_left_alone(new_database: Callable[..., Database]) -> None:
    """Of another database nothing is heard, and nothing is known."""
    first, second = new_database(), new_database()
    with processes(1, first, **EVERY) as [one]:
        assert wait_for(lambda: state(one)["running"], 30)
        with processes(1, second, LEDGER_VERIFY_INTERVAL_S="0") as [other]:
            assert state(other)["running"] is False
            assert other.client.post("/verification/").status_code == 409
