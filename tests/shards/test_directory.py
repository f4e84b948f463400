"""What a process knows of the homes of ledgers, and when it does not trust it."""

import time
from types import SimpleNamespace
from typing import Any

from ledgerservice.postgres.sharding.directory import STALE_S, Directory
from ledgerservice.shards import Shards
from tests.processes import RunningService, wait_for
from tests.shards.world import World, add_ledger

ROWS = [
    ("main", None, None),
    ("b", [2, 3], [0, 0]),
    ("c", [4], [7]),
    ("d", None, None),
]


def test_a_directory_is_used_while_it_is_new() -> None:
    directory = Directory()
    assert directory.is_usable  # without shards there is nothing to be wrong about
    directory.update(ROWS, time.monotonic())
    assert directory.is_usable
    assert [directory.home_of(ledger) for ledger in (2, 4, 5)] == ["b", "c", None]
    directory.update(ROWS, time.monotonic() - STALE_S)
    assert not directory.is_usable


def test_a_ledger_that_came_back_is_not_where_it_was() -> None:
    """A move that has begun raises the generation by one; to come back takes two."""
    directory = Directory()
    crossings = SimpleNamespace(find_with=lambda _: None)
    runtime: Any = SimpleNamespace(directory=directory, shard="b", crossings=crossings)
    shards = Shards(runtime)
    directory.update([("main", None, None), ("b", [2], [4])], time.monotonic())
    assert [shards.is_at(2, runtime, since) for since in (None, 4, 3, 2, 0)] == [
        *(True, True, True),
        *(False, False),
    ]
    directory.update([("main", [2], [4]), ("b", None, None)], time.monotonic())
    assert not shards.is_at(2, runtime, 4)
    assert directory.generation_of(3) == 0


def test_what_was_read_counts_more_than_a_first_home() -> None:
    directory = Directory()
    directory.first.update({2: "main", 9: "d"})
    directory.update(ROWS, time.monotonic())
    assert (directory.home_of(2), directory.home_of(9)) == ("b", "d")


def test_a_new_ledger_is_where_there_are_fewest() -> None:
    directory = Directory()
    assert directory.emptiest({"b"}) == "main"
    directory.update(ROWS, time.monotonic())
    assert directory.emptiest({"b", "c"}) == "c"
    assert directory.emptiest({"b", "c", "d"}) == "d"
    assert directory.emptiest(set()) == "main"


def test_a_process_follows_the_directory_within_a_second(
    world: World, service: RunningService
) -> None:
    """Here the home is changed by hand; a move copies the ledger first."""
    add_ledger(service, "wandering", "b")
    path = "/ledgers/wandering/accounts/"
    body = {"owner": "Alice", "currency": "USD"}
    first = service.post(path, body).json()["id"]
    change = "UPDATE ledger.homes SET shard = '{}', generation = {} WHERE ledger_id = {}"
    [(ledger,)] = world.rows(
        "main", "SELECT ledger_id FROM ledger.ledgers WHERE name = 'wandering'"
    )
    with world.connected("main") as owner:
        owner.execute(change.format("c", 1, ledger))
        assert wait_for(lambda: service.get(path).json() == [])
        owner.execute(change.format("b", 2, ledger))
    assert wait_for(lambda: service.get(path).json() != [])
    assert [one["id"] for one in service.get(path).json()] == [first]


def test_a_process_without_the_setting_serves_main_only(world: World) -> None:
    with world.serving() as service:
        add_ledger(service, "hidden", "b")
    with world.serving(LEDGER_SHARDS="") as service:
        answer = service.get("/ledgers/hidden/accounts/")
        assert (answer.status_code, answer.json()["code"]) == (503, "shard_unavailable")
        assert service.get("/accounts/").status_code == 200
        assert service.get("/ledgers/hidden").json()["shard"] == "b"
