"""Fixtures: databases that are shards, and services on them."""

from collections.abc import Callable, Iterator

import pytest

from ledgerservice.postgres.connections import Database
from tests.databases import empty_database
from tests.processes import RunningService
from tests.shards.world import World


@pytest.fixture(scope="module")
def world(new_database: Callable[..., Database]) -> World:
    """Main with two shards; the database of c had no schema before."""
    main = new_database()
    world = World({"main": main, "b": new_database(), "c": empty_database(main, "c")})
    for name in ("b", "c"):
        assert world.run("shards", "add", name) == [{"shard": name, "added": True}]
    return world


@pytest.fixture(scope="module")
def service(world: World) -> Iterator[RunningService]:
    """A service on all shards, for a module."""
    with world.serving() as running:
        yield running
