"""The verification over HTTP speaks of all databases."""

from collections.abc import Callable
from typing import Any

from ledgerservice.postgres.connections import Database
from tests.databases import empty_database, without_guards
from tests.processes import RunningService, wait_for
from tests.shards.world import World, add_ledger

OFTEN = {"LEDGER_VERIFY_INTERVAL_S": "0.2"}


def state(service: RunningService) -> dict[str, Any]:
    answer = service.get("/verification/")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_each_shard_is_verified_and_named(new_database: Callable[..., Database]) -> None:
    main = new_database()
    world = World({"main": main, "b": empty_database(main, "b")})
    world.run("shards", "add", "b")
    with world.serving(**OFTEN) as service:
        add_ledger(service, "far", "b")
        body = {"owner": "Alice", "currency": "USD"}
        assert service.post("/ledgers/far/accounts/", body).status_code == 201
        assert wait_for(lambda: state(service)["last_success_at"], 30)
        before = state(service)
        assert (before["running"], before["violations"], before["pass_ratio"]) == (True, [], 1)
        assert set(before["shards"]) == {"main", "b"}
        times = [one["last_success_at"] for one in before["shards"].values()]
        assert before["last_success_at"] == min(times)
        with world.connected("b") as owner, without_guards(owner):
            owner.execute("UPDATE ledger.accounts SET balance = balance + 1 WHERE id > 0")
        asked = service.client.post("/verification/")
        assert (asked.status_code, set(asked.json()["shards"])) == (202, {"main", "b"})
        assert wait_for(lambda: state(service)["violations"], 30)
        after = state(service)
        assert all(one.startswith("shard b: ") for one in after["violations"])
        assert after["shards"]["main"]["violations"] == []
    with world.serving(LEDGER_SHARDS="", **OFTEN) as service:
        assert wait_for(lambda: state(service)["shards"]["main"]["last_success_at"], 30)
        unknown = state(service)
        assert unknown["shards"]["b"] is None
        names = ("running", "last_success_at", "violations", "pass_ratio")
        assert [unknown[name] for name in names] == [False, None, None, None]
