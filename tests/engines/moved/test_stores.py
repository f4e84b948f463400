"""What publishers and stores of two shards have of a ledger that moves there and back."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from ledgerservice.domain.events import Event
from ledgerservice.feed.compare import compare
from ledgerservice.feed.stores import store_of
from ledgerservice.feed.targets import Published, Target, target_of
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.moving import mover
from ledgerservice.postgres.moving.mover import move
from ledgerservice.postgres.sharding.stores import stores_of
from tests.engines.stores import events_of
from tests.postgres.moving.places import EVERYTHING, add_shards, deposit, live, quiet

pytestmark = pytest.mark.processes


SLOW = [
    pytest.param(name, marks=pytest.mark.thorough) for name in ("kafka", "cassandra", "dynamodb")
]


@pytest.fixture(params=["valkey", *SLOW])
def stores(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The URLs of a store for each of two shards, as `publish` names them."""
    url: str = request.getfixturevalue(f"{request.param}_store").url
    return url, stores_of(url, "b")


def publish(database: Database, url: str) -> list[Event]:
    """Publish what is new, as a publisher does; the events."""
    target: Target = target_of(url)
    published = target.open()
    last_id = 0 if published is None else published.id
    events = [event for event in events_of(database) if event.id > last_id]
    if events:
        target.write(events, Published.after(1, events[-1]))
    target.close()
    return events


async def difference(database: Database, url: str) -> Any:
    opened, wire = store_of(url), await database.connect_writer()
    try:
        async with aclosing(compare(wire, opened)) as steps:
            return [step.difference async for step in steps][-1]
    finally:
        opened.close()
        await wire.close()


@pytest.mark.thorough
def test_each_store_has_what_its_shard_has_recorded(
    new_database: Callable[..., Database],
    stores: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The stores have each event once between them, and none of them lacks what it must have."""
    monkeypatch.setattr(mover, "OLD_DIRECTORY_S", 0.1)
    shards = {"main": new_database(), "b": new_database()}
    places = dict(zip(shards, stores, strict=True))
    add_shards(shards)
    ledger = asyncio.run(live(shards["main"], "shop", EVERYTHING))
    sent = [*publish(shards["main"], places["main"]), *publish(shards["b"], places["b"])]
    for target in ("b", "main", "b"):
        move(shards, "shop", target, quiet)
        for number in range(3):
            asyncio.run(deposit(shards[target], ledger, f"{target} {len(sent)} {number}"))
        sent += publish(shards[target], places[target])
        for name, database in shards.items():
            assert asyncio.run(difference(database, places[name])) is None, name
    of_ledger = [(event.id, event.type) for event in sent if event.ledger_id == ledger]
    assert len(set(of_ledger)) == len(of_ledger) > 9


def test_what_is_missing_since_a_move_is_found(
    new_database: Callable[..., Database],
    stores: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mover, "OLD_DIRECTORY_S", 0.1)
    shards = {"main": new_database(), "b": new_database()}
    add_shards(shards)
    ledger = asyncio.run(live(shards["main"], "shop", EVERYTHING))
    move(shards, "shop", "b", quiet)
    for number in range(3):
        asyncio.run(deposit(shards["b"], ledger, f"there {number}"))
    target: Target = target_of(stores[1])
    target.open()
    events = events_of(shards["b"])
    target.write(events[:-1], Published.after(1, events[-1]))
    target.close()
    found = asyncio.run(difference(shards["b"], stores[1]))
    assert (found.kind, found.ledger_id) in {("missing", ledger), ("gone back", ledger)}
