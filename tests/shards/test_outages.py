"""Shards that are down, that were named wrongly, that have no ids left, and processes that die."""

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledgerservice.embedded.server import EmbeddedServer
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.urls import parse_url
from tests.databases import (
    quick_place,
    reachable_folder,
    settings_for_tests,
    url_text,
)
from tests.processes import RunningService, wait_for
from tests.shards.world import CHUNK_IDS, World, add_ledger

QUICK = {"LEDGER_REQUEST_DEADLINE_S": "1"}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with reachable_folder(quick_place()) as folder:
        yield folder / "data"


@pytest.fixture(scope="module")
def apart(new_database: Callable[..., Database], folder: Path) -> World:
    """Main, and b on a server of its own, which does not run."""
    with EmbeddedServer(folder) as server:
        b = Database(parse_url(server.url), settings_for_tests())
        world = World({"main": new_database(), "b": b})
        world.run("shards", "add", "b")
    return world


def deposit(service: RunningService, ledger: str, account: int, key: str) -> tuple[int, str]:
    """The status and the code of a deposit."""
    body = {"account_id": account, "amount": "1.00", "idempotency_key": key}
    answer = service.post(f"/ledgers/{ledger}/deposit/", body)
    return answer.status_code, answer.json().get("code", "")


def opened(service: RunningService, ledger: str, currency: str = "USD") -> int:
    body = {"owner": "Alice", "currency": currency}
    answer = service.post(f"/ledgers/{ledger}/accounts/", body)
    assert answer.status_code == 201, answer.text
    number: int = answer.json()["id"]
    return number


def shards_of(service: RunningService) -> object:
    answer = service.get("/health/ready")
    assert answer.status_code == 200
    return answer.json()["shards"]


@pytest.mark.thorough
def test_a_shard_that_is_down_takes_only_its_ledgers(apart: World, folder: Path) -> None:
    with apart.serving(**QUICK) as service:
        assert shards_of(service) == {"b": "down"}  # down at the start
        assert service.post("/ledgers/", {"name": "far"}).json()["code"] == "shard_unavailable"
        add_ledger(service, "near", "main")
        near = opened(service, "near")
        with EmbeddedServer(folder):
            assert wait_for(lambda: shards_of(service) == {"b": "up"}, 30)
            far = opened(service, "far")  # it was added to main only
            assert deposit(service, "far", far, "first") == (200, "")
            assert deposit(service, "near", near, "first") == (200, "")
        assert wait_for(lambda: shards_of(service) == {"b": "down"}, 30)
        assert deposit(service, "far", far, "second") == (503, "shard_unavailable")
        answer = service.get(f"/ledgers/far/accounts/{far}")
        assert (answer.status_code, answer.json()["retry"]) == (503, "same_key")
        assert deposit(service, "near", near, "second") == (200, "")
        with EmbeddedServer(folder):
            assert wait_for(lambda: deposit(service, "far", far, "second") == (200, ""), 30)
            assert service.get(f"/ledgers/far/accounts/{far}").json()["balance"] == "2.00"


@pytest.mark.thorough
def test_a_currency_does_not_wait_for_a_shard(world: World) -> None:
    """One that stands still has it when it goes on."""
    with world.serving(LEDGER_REQUEST_DEADLINE_S="100") as service:
        add_ledger(service, "slow", "b")
        path = "/ledgers/slow/currencies/"
        with world.connected("b") as owner, owner.transaction():
            owner.execute("LOCK TABLE ledger.currencies")
            for below, code in (("/currencies/", "MILES"), (path, "HOURS")):
                body = {"code": code, "exponent": 0, "name": code}
                assert service.post(below, body).status_code == 201
            assert service.get("/currencies/MILES").status_code == 200
            assert opened(service, "default", "MILES")
            assert shards_of(service) == {"b": "up", "c": "up"}
        assert opened(service, "slow", "MILES")
        assert opened(service, "slow", "HOURS")


@pytest.mark.thorough
def test_swapped_urls_are_refused(world: World, tmp_path: Path) -> None:
    with world.serving() as service:
        for shard in ("b", "c"):
            add_ledger(service, f"of-{shard}", shard)
    swapped = f"b={url_text(world.databases['c'])} c={url_text(world.databases['b'])}"
    log = tmp_path / "log"
    with world.serving(LEDGER_SHARDS=swapped, LOGGED_TO=str(log)) as service:
        assert shards_of(service) == {"b": "down", "c": "down"}
        for shard in ("b", "c"):
            answer = service.get(f"/ledgers/of-{shard}/accounts/")
            assert (answer.status_code, answer.json()["code"]) == (503, "shard_unavailable")
    assert "It is the shard c, not b." in log.read_text()
    failed = world.command("serve", "--port", "1", DATABASE_URL=url_text(world.databases["b"]))
    assert failed.returncode == 1
    assert "It is the shard b, not main." in failed.stderr
    again = world.command("shards", "add", "b", LEDGER_SHARDS=swapped)
    assert "The database of b is the shard c already." in again.stderr
    itself = f"d={url_text(world.main)}"
    refused = world.command("shards", "add", "d", LEDGER_SHARDS=itself)
    assert "is the shard main already" in refused.stderr


def test_a_database_with_ledgers_is_no_shard(
    world: World, new_database: Callable[..., Database]
) -> None:
    used = new_database()
    with World({"main": used}).connected("main") as owner:
        owner.execute("INSERT INTO ledger.ledgers (name) VALUES ('other')")
    refused = world.command("shards", "add", "d", LEDGER_SHARDS=f"d={url_text(used)}")
    assert refused.returncode == 1
    assert "has ledgers of its own" in refused.stderr


NEXT_CHUNK = "SELECT max(number) FROM ledger.chunks WHERE sequence = '{}' AND shard = 'b'"


@pytest.mark.thorough
def test_a_chunk_that_is_used_up_is_followed_by_another(world: World) -> None:
    """First nobody leases: 503, and nothing is posted. Then the same request is."""
    with world.serving(**QUICK) as service:
        add_ledger(service, "busy", "b")
        account = opened(service, "busy")
        with world.connected("b") as owner:
            for sequence in ("transaction_id", "account_id"):
                end = "seqmax - (seqmax - seqstart) % seqincrement"
                [(last,)] = owner.execute(
                    f"SELECT {end} FROM pg_sequence WHERE seqrelid = 'ledger.{sequence}'::regclass"
                ).fetchall()
                owner.execute("SELECT setval(%s, %s)", [f"ledger.{sequence}", last])
        assert deposit(service, "busy", account, "late") == (503, "unavailable")
        answer = service.post("/ledgers/busy/accounts/", {"owner": "B", "currency": "USD"})
        assert answer.status_code == 503
        assert deposit(service, "default", account, "late")[0] == 404
        [before] = world.rows("main", NEXT_CHUNK.format("transaction_id"))[0]
        world.run("shards", "add", "b")
        [after] = world.rows("main", NEXT_CHUNK.format("transaction_id"))[0]
        assert after > before
        assert deposit(service, "busy", account, "late") == (200, "")
        assert opened(service, "busy") >= after * CHUNK_IDS > account
    ids = world.rows("b", f"SELECT id FROM ledger.transactions WHERE id >= {after * CHUNK_IDS}")
    assert len(ids) == 1


def test_the_service_leases_the_next_chunk_in_time(world: World) -> None:
    most = "SELECT setval('ledger.account_id', seqmax - (1::bigint << 33)) FROM pg_sequence"
    with world.connected("b") as owner:
        owner.execute(f"{most} WHERE seqrelid = 'ledger.account_id'::regclass")
        [(last,)] = owner.execute("SELECT last_value FROM ledger.account_id").fetchall()
    with world.serving() as service:
        add_ledger(service, "growing", "b")
        assert opened(service, "growing") // CHUNK_IDS > last // CHUNK_IDS


def test_no_id_is_given_out_twice(world: World) -> None:
    """Accounts and movements of ledgers of every shard, by two processes at once."""
    with world.serving() as one, world.serving() as other:
        for shard in world.databases:
            add_ledger(one, f"ids-{shard}", shard)

        def use(service: RunningService, shard: str, who: str) -> None:
            for number in range(5):
                account = opened(service, f"ids-{shard}")
                assert deposit(service, f"ids-{shard}", account, f"{who}-{number}")[0] == 200

        threads = [
            threading.Thread(target=use, args=(service, shard, who))
            for shard in world.databases
            for who, service in (("one", one), ("other", other))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for table, condition in (("accounts", "id > 0"), ("transactions", "true")):
        statement = f"SELECT id FROM ledger.{table} WHERE {condition}"
        ids = [row[0] for shard in world.databases for row in world.rows(shard, statement)]
        assert len(ids) >= 30
        assert len(ids) == len(set(ids))


def test_a_new_ledger_whose_process_was_killed_is_finished(world: World) -> None:
    """Main has it, its shard does not: the first who uses it adds it there, with the same id."""
    here = "SELECT ledger_id FROM ledger.ledgers WHERE name = 'half'"
    with world.serving() as service, world.connected("b") as owner:
        add_ledger(service, "whole", "b")
        with owner.transaction():
            owner.execute("LOCK TABLE ledger.ledgers IN SHARE MODE")
            body = {"name": "half", "shard": "b"}
            waiting = threading.Thread(target=_try_to_post, args=(service, body))
            waiting.start()
            assert wait_for(lambda: bool(world.rows("main", here)), 30)
            service.process.send_signal(signal.SIGKILL)
            service.process.wait(30)
            waiting.join()
            owner.execute(END_WAITING)
    assert world.rows("b", here) == []
    with world.serving() as service:
        assert service.get("/ledgers/half").json()["shard"] == "b"
        account = opened(service, "half")
        assert deposit(service, "half", account, "k") == (200, "")
    assert world.rows("b", here) == world.rows("main", here)


WAITING = """
FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
END_WAITING = f"SELECT pg_terminate_backend(pid, 10000) {WAITING}"
"""What the process has sent would still be carried out when the lock is gone."""


def _try_to_post(service: RunningService, body: dict[str, str]) -> None:
    try:
        service.post("/ledgers/", body)
    except Exception:
        return
    raise AssertionError("the process answered")
