"""Every route on a ledger of another shard than main."""

from tests.api.examples import OPERATIONS, send_all
from tests.shards.world import CHUNK_IDS, World, add_ledger


def test_every_route_works_on_a_shard(world: World) -> None:
    """The examples of the description, below the path of a ledger of a shard that is still new."""
    with world.serving() as service:
        add_ledger(service, "shop", "b")
        assert send_all(service, "/ledgers/shop", CHUNK_IDS) > len(OPERATIONS)
        at_home = service.get("/transactions/").json()
        assert at_home == []
    assert world.rows("main", "SELECT count(*) FROM ledger.transactions") == [(0,)]
    for shard in world.databases:
        [holds] = world.run("verify", "--shard", shard)
        assert holds["holds"] is True
