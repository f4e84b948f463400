"""An epoch ends when the journal may have lost something that a reader has passed."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledgerservice.domain.events import Event
from ledgerservice.errors import Unavailable
from ledgerservice.feed.reading import Feed, Position, PositionLost
from ledgerservice.postgres.connections import Database, usable_role
from ledgerservice.postgres.epochs import Witness, current_epoch, witness_of
from ledgerservice.postgres.migrations import upgrade
from ledgerservice.postgres.pipeline import Wire
from ledgerservice.postgres.urls import parse_url
from tests.databases import (
    connect,
    empty_database,
    url_text,
    without_guards,
)
from tests.engines.stores import events_of
from tests.postings import deposit, open_accounts, post
from tests.processes import cli, wait_for
from tests.proof.servers.cluster import PostgreSQL
from tests.replicas import START_LIMIT_S, ledger_on, primary_and_standby


def on_wire(database: Database, work: Callable[[Wire], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        wire = await database.connect_writer()
        try:
            return await work(wire)
        finally:
            await wire.close()

    return asyncio.run(run())


def epoch_of(database: Database, witness: Witness | None = None) -> int:
    async def look(wire: Wire) -> int:
        return (await current_epoch(wire, witness)).number

    number: int = on_wire(database, look)
    return number


@pytest.fixture
def used(database: Database) -> tuple[Database, list[Event]]:
    open_accounts(database, "USD", "USD")
    post(database, [deposit(1, 100)], [deposit(1, 1, "second")], numbered=False)
    return database, events_of(database)


MOVES = {
    "nothing": "SELECT",
    "the timeline": "UPDATE ledger.epochs SET timeline = timeline - 1",
    "the server": "UPDATE ledger.epochs SET system_identifier = system_identifier - 1",
    "the database": "UPDATE ledger.epochs SET database_id = database_id - 1",
    "the table": "UPDATE ledger.epochs SET journal_id = journal_id - 1",
}
WITNESSES: dict[str, Callable[[Event], Witness | None]] = {
    "none": lambda _: None,
    "there": lambda event: witness_of(1, event),
    "another": lambda event: Witness(1, event.id, b"another body"),
    "gone": lambda event: Witness(1, event.id + 1_000, witness_of(1, event).digest),
}
SAME = {("nothing", "none"), ("nothing", "there"), ("the timeline", "there")}
"""Where the journal moved, and what the caller knows: the epoch goes on only in these."""


@pytest.mark.parametrize("witness", WITNESSES)
@pytest.mark.parametrize("move", MOVES)
def test_an_epoch_goes_on_only_if_nothing_can_be_lost(
    used: tuple[Database, list[Event]], move: str, witness: str
) -> None:
    database, events = used
    with connect(database) as owner, without_guards(owner):
        owner.execute(MOVES[move])
    known = WITNESSES[witness](events[-1])
    number = epoch_of(database, known)
    assert number == (1 if (move, witness) in SAME else 2)
    assert epoch_of(database) == number


def test_the_id_to_compare_from_is_older_than_a_transaction_can_be(
    used: tuple[Database, list[Event]],
) -> None:
    database, events = used
    ids = [event.id for event in events[-2:]]

    async def compare_from(wire: Wire) -> int:
        return (await current_epoch(wire)).compare_from

    with connect(database) as owner, without_guards(owner):
        for number, minutes in zip(ids, (30, 5), strict=True):
            for table, name in (("transactions", "id"), ("entries", "transaction_id")):
                owner.execute(
                    f"UPDATE ledger.{table} SET recorded_at = recorded_at - interval"
                    f" '{minutes} minutes' WHERE {name} = {number}"
                )
        owner.execute(MOVES["the server"])
    post(database, [deposit(1, 1, "third")], numbered=False)
    assert on_wire(database, compare_from) == ids[0]


# A real promotion.


@pytest.mark.thorough
@pytest.mark.parametrize("loses", [False, True], ids=["all is there", "the last is lost"])
def test_a_promotion_ends_the_epoch_only_if_it_lost_something(workspace: Path, loses: bool) -> None:
    with primary_and_standby(workspace, synchronous=not loses) as (primary, standby):
        database = ledger_on(primary)
        upgrade(database.owner_engine(), database.settings.service_role)
        database = replace(database, role=usable_role(database))
        open_accounts(database, "USD")
        post(database, [deposit(1, 100)], numbered=False)
        asyncio.run(_fail_over(database, primary, standby, loses=loses))


async def _fail_over(
    database: Database, primary: PostgreSQL, standby: PostgreSQL, *, loses: bool
) -> None:
    place = database

    async def connect_writer() -> Wire:
        return await place.connect_writer()

    feed = Feed(connect_writer)
    after = (await feed.read(await feed.start(), 10_000)).position
    if loses:
        await asyncio.to_thread(_stop_receiving, standby)
    await asyncio.to_thread(post, database, [deposit(1, 5, "last")], numbered=False)
    after = (await feed.read(after, 10, wait_s=10)).position
    await asyncio.to_thread(primary.kill)
    await asyncio.to_thread(standby.ask, "SELECT pg_promote(true)")
    place = replace(database, url=parse_url(standby.url))
    await asyncio.to_thread(post, place, [deposit(1, 7, "after")], numbered=False)
    if loses:
        with pytest.raises(PositionLost):
            await _read_again(feed, after)
        assert (await feed.start()).epoch == 2
    else:
        events = await _read_again(feed, after)
        assert [event.type for event in events] == ["transaction.posted"]
    await feed.close()


def _stop_receiving(standby: PostgreSQL) -> None:
    """It gets nothing more, as behind a network that is cut."""
    standby.ask("ALTER SYSTEM SET primary_conninfo = ''")
    standby.ask("SELECT pg_reload_conf()")
    assert wait_for(lambda: not standby.ask("SELECT FROM pg_stat_wal_receiver"), START_LIMIT_S)


async def _read_again(feed: Feed, after: Position) -> list[Event]:
    while True:
        with suppress(Unavailable):
            chunk = await feed.read(after, 10, wait_s=1)
            if chunk.events:
                return chunk.events
        await asyncio.sleep(0.1)


def test_a_restored_backup_begins_an_epoch_that_its_original_has_not(
    used: tuple[Database, list[Event]], tmp_path: Path
) -> None:
    """The original may have begun epochs after the backup, which the backup cannot know."""
    database, _ = used
    file = tmp_path / "ledger.backup"
    assert cli("backup", str(file), DATABASE_URL=url_text(database)).returncode == 0
    copy = empty_database(database, f"restored_{os.getpid()}")
    done = cli("restore", str(file), DATABASE_URL=url_text(copy))
    assert done.returncode == 0, done.stderr
    assert epoch_of(database) == 1
    assert epoch_of(copy) > 10_000_000
