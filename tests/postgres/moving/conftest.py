"""Shards, and a ledger that has everything."""

import asyncio
from collections.abc import Callable

import pytest

from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.moving import mover
from tests.postgres.moving.places import EVERYTHING, Shards, add_shards, live


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no process with an older directory."""
    monkeypatch.setattr(mover, "OLD_DIRECTORY_S", 0.1)


@pytest.fixture
def shards(new_database: Callable[..., Database]) -> Shards:
    made = {name: new_database() for name in ("main", "b", "c")}
    add_shards(made)
    return made


@pytest.fixture
def lived(shards: Shards) -> int:
    """The id of a ledger, `shop` on main, with transactions of every kind."""
    return asyncio.run(live(shards["main"], "shop", EVERYTHING))
