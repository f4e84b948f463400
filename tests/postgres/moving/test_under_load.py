"""A ledger moves while others write to it: nothing is lost, and nothing is recorded twice."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from ledgerservice.errors import MoveFault
from ledgerservice.postgres.moving import mover
from ledgerservice.postgres.moving.mover import move
from tests.databases import connect
from tests.postgres.moving.loads import OLD_S, Load
from tests.postgres.moving.places import Shards, home_of, quiet


def recorded_keys(shards: Shards, ledger: int) -> Counter[str]:
    query = "SELECT idempotency_key FROM ledger.transactions WHERE ledger_id = %s"
    with connect(shards[home_of(shards, ledger)]) as home:
        rows = home.execute(query + " AND idempotency_key LIKE 'writer %%'", [ledger]).fetchall()
    return Counter(key for (key,) in rows)


def there_and_back(shards: Shards) -> None:
    for target in ("b", "c", "main"):
        move(shards, "shop", target, quiet)


@pytest.fixture(autouse=True)
def _old_directories(_quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mover, "OLD_DIRECTORY_S", 2 * OLD_S)


@pytest.mark.thorough
def test_nothing_is_lost_and_nothing_is_recorded_twice(
    shards: Shards, lived: int, no_violations: Any
) -> None:
    load = Load(shards, lived)
    asyncio.run(load.run(lambda: there_and_back(shards)))
    assert recorded_keys(shards, lived) == Counter(load.answered)
    assert load.refused > 0
    for database in shards.values():
        no_violations(database)


@pytest.mark.thorough
def test_a_move_without_the_fence_is_found(
    shards: Shards, lived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the fence is for: without it, answered deposits are not in the new home."""
    monkeypatch.setattr(mover._Move, "_leave", lambda _: None)
    monkeypatch.setattr(mover._Move, "_copy_webhooks", lambda _: None)
    load = Load(shards, lived)
    try:
        asyncio.run(load.run(lambda: move(shards, "shop", "b", quiet)))
    except MoveFault:
        return  # the rows were not the same
    assert recorded_keys(shards, lived) != Counter(load.answered)
