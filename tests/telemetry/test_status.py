"""What operators read of the service in one answer, compared with where each part comes from."""

import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
import pytest
from pydantic import SecretStr

from ledgerservice import __version__
from ledgerservice.access.keys import id_of
from ledgerservice.access.scopes import Scope
from ledgerservice.api.resources.status import settings_in_force
from ledgerservice.domain.timestamps import parse_timestamp
from ledgerservice.postgres.access.principals import GrantedAccounts
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.migrations import HEAD
from ledgerservice.settings import Settings
from ledgerservice.telemetry.backups import BACKUP, kept_result
from ledgerservice.telemetry.measures import Histogram
from ledgerservice.telemetry.summaries import Summary, summaries
from tests.access.made import add_ledger, alter_key, bearer, make_key
from tests.databases import connect, url_text
from tests.processes import RunningService, serving, wait_for

METRICS = int(Scope.METRICS_READ)
CANARY = "canary-7f3a"


class World(NamedTuple):
    service: RunningService
    database: Database
    keys: dict[str, str]


def soon(database: Database, name: str, days: float, **more: Any) -> str:
    """A key that expires in some days."""
    key = make_key(database, name, METRICS, **more)
    return alter_key(database, key, f"expires_at = now() + interval '{days} days'")


@pytest.fixture(scope="module")
def world(new_database: Callable[..., Database], tmp_path_factory: Any) -> Iterator[World]:
    database = new_database()
    for name in ("shop", "bank"):
        add_ledger(database, name)
    ledgers: list[str | None] = ["shop"]
    keys = {
        "admin": make_key(database, "admin"),
        "all": soon(database, "all", 12),
        "shop": soon(database, "shop", 29, ledgers=ledgers),
        "bank": soon(database, "bank", 3, ledgers=["bank"]),
        "later": soon(database, "later", 31, ledgers=ledgers),
        "revoked": alter_key(database, soon(database, "revoked", 5), "revoked_at = now()"),
    }
    part = GrantedAccounts([1])
    keys["part"] = soon(database, "part", 7, ledgers=ledgers, limited_to=part)
    folder = tmp_path_factory.mktemp("results")
    with kept_result(folder, BACKUP) as result:
        result.duration_s = 2.5
    values = {"LEDGER_API_KEY": CANARY, "LEDGER_BACKUP_RESULTS": str(folder)}
    values["LEDGER_VERIFY_INTERVAL_S"] = "0.2"
    with serving(DATABASE_URL=url_text(database), **values) as service:
        for name in ("shop", "bank"):
            hook = {"url": f"https://{name}.example/{CANARY}"}
            answer = service.client.post(
                f"/ledgers/{name}/webhooks", json=hook, headers=bearer(keys["admin"])
            )
            assert answer.status_code == 201
        yield World(service, database, keys)


def status(world: World, key: str = "all", prefix: str = "") -> Any:
    answer = world.service.client.get(f"{prefix}/status", headers=bearer(world.keys[key]))
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_process_and_its_server(world: World) -> None:
    found = status(world)
    assert (found["version"], found["ready"], found["faults"]) == (__version__, True, [])
    age = datetime.now(UTC) - parse_timestamp(found["started_at"])
    assert abs(age - timedelta(seconds=found["uptime_s"])) < timedelta(seconds=5)
    with connect(world.database) as owner:
        shown = ("server_version", "fsync", "full_page_writes", "data_checksums",
                 "synchronous_commit", "synchronous_standby_names")  # fmt: skip
        expected = {name: owner.execute(f"SHOW {name}").fetchall()[0][0] for name in shown}
    expected["version"] = expected.pop("server_version")
    assert found["server"] == expected | {"in_recovery": False, "revision": HEAD}


def test_the_queues_and_the_batches(world: World) -> None:
    """By what the metrics count."""
    admin = bearer(world.keys["admin"])
    opening = {"owner": "o", "currency": "USD"}
    opened = world.service.client.post("/accounts/", json=opening, headers=admin)
    body = {"account_id": opened.json()["id"], "amount": "5", "idempotency_key": "k"}
    assert world.service.client.post("/deposit/", json=body, headers=admin).status_code == 200
    found = status(world)["operations"]
    queues = {one["queue"]: one for one in found["queues"]}
    assert (queues["movements"]["requests"], queues["movements"]["age_s"]) == (0, 0)
    sizes, times = queues["movements"]["batch_requests"], queues["movements"]["batch_s"]
    assert (sizes["count"], sizes["mean"], sizes["p50"], sizes["p99"]) == (1, 1, 1, 1)
    assert times["count"] == 1 and times["mean"] <= times["p50"]
    assert set(found["phases_s"]) == {"lock", "plan", "write", "commit"}
    assert {one["count"] for one in found["phases_s"].values()} == {1}
    assert sum(one["mean"] for one in found["phases_s"].values()) <= times["mean"] * 1.01


def has_verified(world: World) -> bool:
    """Whether both answers have the same pass, which goes on meanwhile."""
    admin = bearer(world.keys["admin"])
    full = world.service.client.get("/verification/", headers=admin).json()
    found = status(world)["verification"]
    full["violations"] = None if full["violations"] is None else len(full["violations"])
    return bool(found["running"] and found.items() <= full.items() and found["last_success_at"])


def test_what_runs_beside_it(world: World) -> None:
    assert wait_for(lambda: status(world)["sweeper"] is not None)
    found = status(world)
    assert parse_timestamp(found["sweeper"]["last_success_at"]) <= datetime.now(UTC)
    [backup] = found["operations"]["backups"]
    assert (backup["kind"], backup["failed"], backup["duration_s"]) == ("backup", False, 2.5)
    assert wait_for(lambda: has_verified(world), 30)
    assert wait_for(lambda: bool(status(world)["operations"]["feed"]), 30)
    [reader] = status(world)["operations"]["feed"]
    assert reader["reader"] == "webhooks" and reader["position"] <= reader["safe_id"]


def test_a_key_sees_what_is_of_its_ledgers(world: World) -> None:
    """Another tenant's webhooks, keys and movements are not in the answer to it."""
    names = {id_of(key): name for name, key in world.keys.items()}

    def seen(key: str, prefix: str) -> tuple[list[str], list[str]]:
        found = status(world, key, prefix)
        keys = [names[one["id"]] for one in found["expiring_keys"]]
        return keys, [one["ledger"] for one in found["webhooks"]]

    assert seen("shop", "/ledgers/shop") == (["part", "shop"], ["shop"])
    assert seen("bank", "/ledgers/bank") == (["bank"], ["bank"])
    assert seen("all", "") == (["bank", "part", "all", "shop"], ["shop", "bank"])
    of_one = status(world, "shop", "/ledgers/shop")
    assert (of_one["operations"], of_one["verification"]["violations"]) == (None, None)
    for key, code in (("bank", "ledger_not_found"), ("part", "limited_to_accounts")):
        answer = world.service.client.get("/ledgers/shop/status", headers=bearer(world.keys[key]))
        assert answer.json()["code"] == code


def test_nothing_of_it_is_a_secret(world: World) -> None:
    text = world.service.client.get("/status", headers=bearer(world.keys["all"])).text
    assert CANARY not in text and "whsec_" not in text and "postgresql://" not in text
    assert not any(key in text for key in world.keys.values())
    shown = {one["variable"]: one for one in msgspec.json.decode(text)["operations"]["settings"]}
    assert shown["DATABASE_URL"]["value"] == shown["LEDGER_API_KEY"]["value"] == "***"
    assert shown["LEDGER_CACHE"] == {
        "variable": "LEDGER_CACHE", "value": None, "is_default": True,
    }  # fmt: skip


def test_no_setting_shows_its_secret() -> None:
    """Whatever may be set: secrets, and passwords in what is none."""
    secrets = {
        name: SecretStr(CANARY)
        for name, field in Settings.model_fields.items()
        if "SecretStr" in str(field.annotation)
    }
    assert len(secrets) > 8
    values: dict[str, Any] = secrets | {
        "oidc_issuer": f"https://me:{CANARY}@idp.example/",
        "port": 8001,
    }
    shown = settings_in_force(Settings.model_construct(**values))
    assert len(shown) == len(Settings.model_fields)
    assert CANARY not in msgspec.json.encode(shown).decode()
    by_name = {one.variable: one for one in shown}
    assert by_name["LEDGER_OIDC_ISSUER"].value == "https://***@idp.example/"
    assert (by_name["LEDGER_PORT"].value, by_name["LEDGER_PORT"].is_default) == ("8001", False)
    assert by_name["LEDGER_HOST"].is_default


def test_a_service_that_is_not_ready_says_why(database: Database) -> None:
    values = {"DATABASE_URL": url_text(database), "LEDGER_DRAIN_S": "30"}
    with serving(**values) as service, connect(database) as owner:
        owner.execute("UPDATE ledger.alembic_version SET version_num = 'another'")
        found = service.get("/status").json()
        assert (found["ready"], found["faults"]) == (False, ["database_unavailable"])
        assert found["server"] is found["webhooks"] is found["verification"] is None
        owner.execute(f"UPDATE ledger.alembic_version SET version_num = '{HEAD}'")
        assert service.get("/status").json()["ready"] is True
        service.process.send_signal(signal.SIGTERM)
        assert wait_for(lambda: service.get("/status").json()["faults"] == ["draining"])


def test_a_summary_has_the_bounds_of_the_histogram() -> None:
    histogram = Histogram("h", "m", (1, 2, 5), "queue")
    for value in (1, 1, 2, 4):
        histogram.observe(value, "a")
    for value in (9, 9, 9):
        histogram.observe(value, "b")
    assert summaries(histogram) == {
        ("a",): Summary(4, 2.0, 1, 5),
        ("b",): Summary(3, 9.0, None, None),
    }
