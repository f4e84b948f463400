"""The feed: every change once, in one order, whoever writes and however late they commit."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import create_async_engine

from ledgerservice.domain.events import Event
from ledgerservice.domain.instructions import Movement
from ledgerservice.feed.reading import Feed
from ledgerservice.ledger import Ledger, transfer
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.schema import DEFAULT_LEDGER
from ledgerservice.runtime import posting
from ledgerservice.shards import Shards
from tests.databases import connect

ACCOUNTS = 6
SECONDS = 3.0


def journal(database: Database) -> list[int]:
    """The ids of everything that is recorded in the default ledger, in order."""
    with connect(database) as owner:
        return [
            row[0]
            for row in owner.execute(
                "SELECT id FROM ledger.transactions WHERE ledger_id = 1"
                " UNION ALL SELECT change_id FROM ledger.accounts WHERE ledger_id = 1 AND id > 0"
                " UNION ALL SELECT change_id FROM ledger.ledgers WHERE ledger_id = 1"
                " UNION ALL SELECT change_id FROM ledger.currencies ORDER BY 1"
            )
        ]


def recorded_transactions(database: Database) -> int:
    with connect(database) as owner:
        [(number,)] = owner.execute("SELECT count(*) FROM ledger.transactions").fetchall()
        return number


@asynccontextmanager
async def writers(database: Database, number: int) -> AsyncIterator[list[Ledger]]:
    """Ledgers with posters of their own, as several processes have them."""
    async with posting(database) as first:
        others = [posting(database) for _ in range(number - 1)]
        runtimes = [first, *[await other.__aenter__() for other in others]]
        try:
            yield [Ledger(Shards(runtime)) for runtime in runtimes]
        finally:
            for other in others:
                await other.__aexit__(None, None, None)


async def read_all(feed: Feed, seen: list[Event], stop: asyncio.Event, rows: int) -> None:
    """Read until `stop`, and then to the end."""
    after = await feed.start()
    while True:
        stopping = stop.is_set()
        chunk = await feed.read(after, rows, ledger=DEFAULT_LEDGER, wait_s=0.05)
        seen += chunk.events
        after = chunk.position
        if stopping and not chunk.events:
            return


SHARED = range(1, ACCOUNTS + 1)
APART = range(ACCOUNTS + 1, ACCOUNTS + 3)
"""Accounts of one late writer, whom nobody waits for."""


def a_transfer(draw: random.Random, key: str, accounts: range = SHARED) -> Movement:
    account, other = draw.sample(accounts, 2)
    return transfer(account, other, "0.01", key)


async def write(ledger: Ledger, name: str, end_s: float) -> None:
    """Transfers, batches and openings, one after another."""
    loop, draw = asyncio.get_running_loop(), random.Random(name)
    for number in itertools.count():
        if loop.time() > end_s:
            return
        key = f"{name}-{number}"
        if draw.random() < 0.1:
            await ledger.open_account("o", "USD", key=key)
        size = draw.choice((1, 1, 3, 150))
        await ledger.post([a_transfer(draw, f"{key}-{i}") for i in range(size)])


async def write_late(
    database: Database, ledger: Ledger, name: str, end_s: float, accounts: range = SHARED
) -> None:
    """Transactions of a caller's own: of each other one nothing remains."""
    engine = create_async_engine(database.url, poolclass=NullPool)
    loop, draw = asyncio.get_running_loop(), random.Random(name)
    for number in itertools.count():
        if loop.time() > end_s:
            return
        async with engine.connect() as connection:
            movement = a_transfer(draw, f"{name}-{number}", accounts)
            await ledger.post_in(connection, [movement])
            await asyncio.sleep(draw.random() * 0.02)
            await (connection.commit() if number % 2 else connection.rollback())


async def storm(
    database: Database, read: Callable[[list[Event], asyncio.Event], Coroutine[Any, Any, None]]
) -> list[Event]:
    """What a reader gets while many write."""
    seen: list[Event] = []
    async with writers(database, 3) as ledgers:
        for number in range(APART.stop - 1):
            await ledgers[0].open_account("o", "USD", key=f"a{number}")
            await ledgers[0].deposit(number + 1, "1000", key=f"d{number}")
        stop = asyncio.Event()
        reader = asyncio.create_task(read(seen, stop))
        end_s = asyncio.get_running_loop().time() + SECONDS
        await asyncio.gather(
            *(write(ledger, f"w{i}", end_s) for i, ledger in enumerate(ledgers)),
            *(write_late(database, ledgers[i % 3], f"l{i}", end_s) for i in range(3)),
            write_late(database, ledgers[0], "apart", end_s, APART),
        )
        stop.set()
        await reader
    return seen


def test_everything_comes_once_and_in_one_order(database):
    feed = Feed(database.connect_writer)

    async def read(seen: list[Event], stop: asyncio.Event) -> None:
        await read_all(feed, seen, stop, 200)
        await feed.close()

    seen = asyncio.run(storm(database, read))
    assert [event.id for event in seen] == journal(database)
    assert len(seen) > 1_000


NEXT = "SELECT id FROM ledger.transactions WHERE id > %s ORDER BY id"


def test_a_poller_by_the_last_id_loses_events(database):
    """The canary of the test above: what most outboxes do."""
    ids: list[int] = []

    async def read(_: list[Event], stop: asyncio.Event) -> None:
        last = 0
        while not stop.is_set():
            with connect(database) as owner:
                rows = owner.execute(NEXT, [last]).fetchall()
            ids.extend(row[0] for row in rows)
            last = ids[-1] if ids else 0
            await asyncio.sleep(0)

    asyncio.run(storm(database, read))
    assert len(ids) < recorded_transactions(database)
