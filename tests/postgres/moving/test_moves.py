"""A ledger moves to another shard: every row is the same, and there is one home at each step."""

import asyncio
from dataclasses import replace

import pytest

from ledgerservice.errors import LedgerMoving, MoveFault
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.contents import stored_tables
from ledgerservice.postgres.moving import homes
from ledgerservice.postgres.moving.aborting import abort
from ledgerservice.postgres.moving.fences import set_fence
from ledgerservice.postgres.moving.mover import move
from ledgerservice.postgres.moving.rows import AT_THE_END, BY_TRANSACTION, REMOVED, WEBHOOKS
from ledgerservice.postgres.schema import SCHEMA
from ledgerservice.postgres.verification.watching import Watch
from tests.databases import connect
from tests.postgres.moving.places import SAME, Shards, deposit, quiet, rows


def test_every_row_is_the_same(shards: Shards, lived: int, no_violations) -> None:
    before = rows(shards["main"], lived)
    assert all(before[table] for table in SAME if not table.startswith("webhook"))
    moved = move(shards, "shop", "b", quiet)
    assert rows(shards["b"], lived) == before == rows(shards["main"], lived)
    assert moved.rows >= sum(map(len, before.values()))
    for database in shards.values():
        no_violations(database)


ON_MAIN = {
    *(
        "approval_rules",
        "proposals",
        "decisions",
        "executions",
        "executions_due",
    ),  # what others approve
    *("account_grants", "grants", "audit"),  # who may do what, and who did it
    *(
        "homes",
        "fences",
        "arrivals",
        "ledgers",
        "currencies",
        "claims",
    ),  # the directory, and the move
}


def test_every_table_of_a_ledger_is_copied_or_stays(shards: Shards) -> None:
    with shards["main"].owner_engine().connect() as connection:
        tables = stored_tables(connection)
    of_ledgers = {name for name, table in tables.items() if "ledger_id" in table.columns}
    copied = {*BY_TRANSACTION, *AT_THE_END, *WEBHOOKS, "dated_entries"}
    assert of_ledgers == copied | ON_MAIN
    assert copied - {"webhook_secrets", "webhook_failures", "webhook_deliveries"} == {*REMOVED}


@pytest.mark.thorough
def test_moves_there_and_on_and_back(shards: Shards, lived: int, no_violations) -> None:
    """A new copy takes the place of the old one; ids and seqs go on rising."""
    asyncio.run(deposit(shards["main"], lived, "on main"))
    for home, target in (("main", "b"), ("b", "c"), ("c", "main"), ("main", "b")):
        before = rows(shards[home], lived)
        move(shards, "shop", target, quiet)
        assert rows(shards[target], lived) == before
        with pytest.raises(LedgerMoving):
            asyncio.run(deposit(shards[home], lived, f"late on {home}"))
        asyncio.run(deposit(shards[target], lived, f"on {target} after {home}"))
    for database in shards.values():
        no_violations(database)
    with connect(shards["b"]) as reading:
        ids = "SELECT id, lag(id) OVER (ORDER BY recorded_at, id) FROM ledger.transactions"
        assert all(before is None or before < one for one, before in reading.execute(ids))


@pytest.mark.parametrize(("name", "target", "fault"), [
    ("shop", "d", "There is no shard d"),
    ("default", "b", "stays on main"),
    ("nobody", "b", "There is no ledger"),
])  # fmt: skip
def test_what_cannot_be_moved(shards: Shards, lived: int, name: str, target: str, fault: str):
    with pytest.raises(MoveFault, match=fault):
        move(shards, name, target, quiet)
    assert asyncio.run(deposit(shards["main"], lived, "as before")) is None


@pytest.mark.thorough
def test_an_abort_leaves_everything_as_it_was(shards: Shards, lived: int, no_violations) -> None:
    before = rows(shards["main"], lived)
    for step in steps_of(shards, lived):
        if step == ("Changing the home", 1):
            break
        with pytest.raises(Ended):
            move(shards, "shop", "b", ending_at(*step))
        abort(shards, "shop", quiet)
        assert rows(shards["main"], lived) == before
        assert not any(rows(shards["b"], lived).values())
        asyncio.run(deposit(shards["main"], lived, f"after {step}"))
        before = rows(shards["main"], lived)
        for database in shards.values():
            no_violations(database)


@pytest.mark.parametrize("down", ["b", "c"])
@pytest.mark.parametrize("step", ["Copying", "Copying the accounts", "Copying the webhooks"])
def test_an_abort_needs_main_and_the_home_only(
    shards: Shards, lived: int, step: str, down: str, no_violations
) -> None:
    """The copy is removed later: by the same again, or by the next move."""
    with pytest.raises(Ended):
        move(shards, "shop", "b", ending_at(step, 1))
    left = abort({**shards, down: away(shards[down])}, "shop", quiet)
    assert (left.shard, left.not_seen) == ("main", (down,))
    asyncio.run(deposit(shards["main"], lived, "after"))
    before = rows(shards["main"], lived)
    if step == "Copying":
        assert abort(shards, "shop", quiet).not_seen == ()
        assert not any(rows(shards["b"], lived).values())
    elif down == "b":
        with connect(shards["b"]) as target:  # as if it were of another journal
            target.execute("UPDATE ledger.arrivals SET epoch = 7")
    move(shards, "shop", "b", quiet)
    assert rows(shards["b"], lived) == before
    with connect(shards["b"]) as target:
        assert target.execute("SELECT epoch FROM ledger.arrivals").fetchall() == [(1,)]
    for database in shards.values():
        no_violations(database)


def test_a_new_move_removes_what_an_earlier_one_has_copied(shards: Shards, lived: int) -> None:
    steps: list[str] = []
    with pytest.raises(Ended):
        move(shards, "shop", "b", ending_at("Copying the accounts", 1))
    abort({**shards, "b": away(shards["b"])}, "shop", quiet)
    move(shards, "shop", "b", lambda step, *_: steps.append(step))
    assert "Removing what was there" in steps


def test_an_abort_refuses_a_mover_that_comes_back(shards: Shards, lived: int) -> None:
    """Also one that had not fenced the source yet."""
    with pytest.raises(Ended):
        move(shards, "shop", "b", ending_at("Fencing the source", 0))
    with shards["main"].owner_engine().connect() as directory:
        generation = homes.find_home(directory, "shop").generation
    abort(shards, "shop", quiet)
    with shards["main"].owner_engine().connect() as source, pytest.raises(MoveFault):
        set_fence(source, lived, generation, "leaving")
    asyncio.run(deposit(shards["main"], lived, "after"))


def away(database: Database) -> Database:
    """The same database, when nothing listens at its address."""
    return replace(database, url=database.url.set(host="127.0.0.1", port=1, query={}))


class Ended(Exception):
    pass


def ending_at(name: str, done: int):
    """A report that ends the mover at a step, once."""

    def report(step: str, at: int, of: int) -> None:
        if step == name and (at > 0) == (done > 0):
            raise Ended

    return report


def steps_of(shards: Shards, lived: int) -> list[tuple[str, int]]:
    """Every place at which a move reports."""
    steps: list[tuple[str, int]] = []
    move(shards, "shop", "c", lambda step, done, of: steps.append((step, min(done, 1))))
    move(shards, "shop", "main", quiet)
    return list(dict.fromkeys(steps))


def test_what_verifies_all_the_time_leaves_out_what_arrives(shards: Shards, lived: int) -> None:
    """Also in the middle of a pass over the copy of before."""
    move(shards, "shop", "b", quiet)
    watch = Watch(shards["main"].owner_engine(), SCHEMA, None)
    try:
        watch.verify_new()
        for _ in range(4):  # the default ledger, and the accounts of the copy
            watch.step()
        with pytest.raises(Ended):
            move(shards, "shop", "main", ending_at("Fencing the source", 0))
        watch.verify_new()
        watch.verify_all()
        assert watch.lines == []
    finally:
        watch.close()
