"""kill -9 of the mover at every step: one home at any time, and the same command completes."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ledgerservice.errors import LedgerMoving
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.moving.mover import move
from tests.postgres.moving.dying import killed_move
from tests.postgres.moving.places import (
    EVERYTHING,
    Shards,
    add_shards,
    deposit,
    home_of,
    live,
    quiet,
    rows,
)

STEPS = [
    *(("Beginning", False), ("Fencing the target", False), ("Fencing the target", True)),
    *(("Removing what was there", False), ("Removing what was there", True)),
    *(("Expecting the ledger", False), ("Expecting the ledger", True)),
    *(("Copying", False), ("Copying", True), ("Waiting for publishers", False)),
    *(("Fencing the source", False), ("Fencing the source", True)),
    *(
        ("Copying the accounts", False),
        ("Copying the accounts", True),
        ("Verifying", True),
        ("Verifying the copy", False),
        ("Verifying the copy", True),
    ),
    *(("Waiting for webhooks", False), ("Fencing the webhooks", False)),
    *(("Fencing the webhooks", True), ("Copying the webhooks", False)),
    *(("Copying the webhooks", True), ("Changing the home", False), ("Changing the home", True)),
    *(("Waiting for all processes", False), ("Opening", False), ("Opening", True)),
]


@pytest.fixture(scope="module")
def shards(new_database: Callable[..., Database]) -> Shards:
    made = {name: new_database() for name in ("main", "b")}
    add_shards(made)
    return made


@pytest.fixture(scope="module")
def lived(shards: Shards) -> int:
    return asyncio.run(live(shards["main"], "shop", EVERYTHING))


def taking(shards: Shards, ledger: int, key: str) -> list[str]:
    """The shards that take a deposit."""
    takers = []
    for name, database in shards.items():
        try:
            asyncio.run(deposit(database, ledger, f"{key} {name}"))
        except (LedgerMoving, LookupError):  # without a copy there is no account
            continue
        takers.append(name)
    return takers


@pytest.mark.thorough
@pytest.mark.parametrize(("step", "at_end"), STEPS)
def test_a_killed_move_completes(
    shards: Shards, lived: int, no_violations: Any, step: str, *, at_end: bool
) -> None:
    home = home_of(shards, lived)
    target = "b" if home == "main" else "main"
    killed_move(shards, "shop", target, step, at_end=at_end)
    key = f"{home} {step} {at_end}"
    assert taking(shards, lived, key) in ([], [home_of(shards, lived)])
    before = rows(shards[home_of(shards, lived)], lived)
    move(shards, "shop", target, quiet)
    assert (home_of(shards, lived), rows(shards[target], lived)) == (target, before)
    assert taking(shards, lived, f"then {key}") == [target]
    for database in shards.values():
        no_violations(database)


def test_these_are_all_steps(shards: Shards, lived: int) -> None:
    reported = set()
    target = "b" if home_of(shards, lived) == "main" else "main"
    move(shards, "shop", target, lambda step, done, _: reported.add((step, done > 0)))
    assert reported - {("Verifying", False)} <= set(STEPS) | {("Waiting for all processes", True)}
    assert {step for step, _ in STEPS} == {step for step, _ in reported}
