"""Ledgers on shards: where they are, what is on which database, and what is the same as before."""

from tests.processes import RunningService, wait_for
from tests.shards.world import CHUNK_IDS, World, add_ledger


def test_new_ledgers_are_where_there_is_room(world: World, service: RunningService):
    assert add_ledger(service, "first")["shard"] == "b"
    assert wait_for(lambda: "first" in str(service.get("/ledgers/").json()))
    assert add_ledger(service, "here", "main")["shard"] == "main"
    assert add_ledger(service, "third", "c")["shard"] == "c"
    again = service.post("/ledgers/", {"name": "third", "shard": "b"})
    assert (again.status_code, again.json()["shard"]) == (201, "c")
    assert again.headers["idempotency-replayed"] == "true"
    listed = {one["name"]: one["shard"] for one in service.get("/ledgers/").json()}
    assert listed == {"default": "main", "first": "b", "here": "main", "third": "c"}
    assert service.get("/ledgers/third").json()["shard"] == "c"
    refusal = service.post("/ledgers/", {"name": "fourth", "shard": "d"})
    assert (refusal.status_code, refusal.json()["errors"][0]["field"]) == (422, "shard")


def test_money_moves_on_the_ledger_s_database_only(world: World, service: RunningService):
    add_ledger(service, "shop", "b")
    path = "/ledgers/shop"
    ids = [
        service.post(f"{path}/accounts/", {"owner": owner, "currency": "USD"}).json()["id"]
        for owner in ("Alice", "Bob")
    ]
    assert min(ids) >= CHUNK_IDS
    service.send(f"{path}/deposit/", account_id=ids[0], amount="10.00")
    moved = service.send(
        f"{path}/transfer/", from_account_id=ids[0], to_account_id=ids[1], amount="4.00"
    ).json()
    assert moved["transaction_id"] >= CHUNK_IDS
    assert service.get(f"{path}/accounts/{ids[1]}").json()["balance"] == "4.00"
    shown = service.get(f"{path}/transactions/{moved['transaction_id']}").json()
    assert shown["amount"] == "4.00"
    [total] = service.get(f"{path}/reports/trial-balance").json()["currencies"]
    assert (total["customers"], total["total"]) == ("10.00", "0.00")
    counts = {
        shard: world.rows(shard, "SELECT count(*) FROM ledger.transactions")[0][0]
        for shard in world.databases
    }
    assert counts == {"main": 0, "b": 2, "c": 0}
    assert service.get("/health/ready").json() == {
        "status": "ready",
        "shards": {"b": "up", "c": "up"},
    }
