"""Publishers, readers and webhooks get each event of a ledger that moves once, and in order."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from ledgerservice.domain.events import Event
from ledgerservice.errors import MoveFault
from ledgerservice.feed.publisher import keep_publishing
from ledgerservice.feed.reading import Feed, Position, PositionLost
from ledgerservice.feed.targets import Published
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.epochs import RECOVER_EPOCH
from ledgerservice.postgres.moving import mover
from ledgerservice.postgres.moving.mover import move
from tests.databases import connect
from tests.postgres.moving.loads import Load
from tests.postgres.moving.places import Shards, home_of, quiet
from tests.processes import wait_for


class Kept:
    """A target that keeps what was written to it."""

    rows = 50

    def __init__(self, name: str, events: list[Event]) -> None:
        self.name = name
        self.published: Published | None = None
        self._events = events

    def open(self) -> Published | None:
        return self.published

    def write(self, events: Sequence[Event], published: Published) -> None:
        self._events += events
        self.published = published

    def close(self) -> None:
        """Nothing is open."""


class Publishers:
    """A publisher for each shard; what all of them have published, in that order."""

    def __init__(self, shards: Shards) -> None:
        self.events: list[Event] = []
        self._shards = shards
        self._kept = {name: Kept(name, self.events) for name in shards}

    def late(self, shard: str, last_id: int) -> list[str]:
        published = self._kept[shard].published
        return [] if published is not None and published.id >= last_id else ["kept"]

    async def run(self) -> None:
        tasks = [keep_publishing(self._shards[name], kept) for name, kept in self._kept.items()]
        await asyncio.gather(*tasks)


def versions(events: Sequence[Event]) -> dict[int, list[int]]:
    """Of each account the versions, in the order of the events."""
    found = defaultdict(list)
    for event in events:
        for line in event.lines:
            found[line.account_id].append(line.version)
    return found


@pytest.mark.thorough
def test_publishers_have_each_event_once_and_in_order(shards: Shards, lived: int) -> None:
    publishers = Publishers(shards)

    def there_and_back() -> None:
        for target in ("b", "main", "b"):
            move(shards, "shop", target, quiet, publishers.late)

    async def run() -> None:
        publishing = asyncio.create_task(publishers.run())
        await Load(shards, lived).run(there_and_back)
        with connect(shards["b"]) as home:
            query = "SELECT max(id) FROM ledger.transactions WHERE ledger_id = %s"
            [(last_id,)] = home.execute(query, [lived]).fetchall()
        assert await asyncio.to_thread(wait_for, lambda: not publishers.late("b", last_id))
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)

    asyncio.run(run())
    events = [event for event in publishers.events if event.ledger_id == lived]
    assert len({(event.id, event.type) for event in events}) == len(events)
    assert all(seqs == list(range(1, len(seqs) + 1)) for seqs in versions(events).values())
    with connect(shards["b"]) as home:
        query = "SELECT count(*) FROM ledger.transactions WHERE ledger_id = %s"
        [(count,)] = home.execute(query, [lived]).fetchall()
    assert sum(event.type != "account.opened" for event in events) >= count


def test_a_publisher_that_stands_still_holds_the_move_up(
    shards: Shards, lived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mover, "PUBLISHERS_S", 0.1)
    with pytest.raises(MoveFault, match="have not passed"):
        move(shards, "shop", "b", quiet, lambda *_: ["kafka://host"])
    assert home_of(shards, lived) == "main"
    move(shards, "shop", "b", quiet)
    assert home_of(shards, lived) == "b"


@asynccontextmanager
async def reading(database: Database):
    feed = Feed(database.connect_writer)
    try:
        yield feed
    finally:
        await feed.close()


async def read_all(feed: Feed, after: Position, ledger: int | None) -> list[Event]:
    events = []
    while (chunk := await feed.read(after, 20, ledger=ledger)).events:
        events += chunk.events
        after = chunk.position
    return events


async def contents(database: Database, after: Position | None, ledger: int | None) -> list[Any]:
    """The events after a position, by their ids and data."""
    async with reading(database) as feed:
        events = await read_all(feed, after or await feed.start(), ledger)
    return [(event.id, msgspec.json.decode(event.body)["data"]) for event in events]


@pytest.mark.parametrize("other_epoch", [False, True])
def test_a_reader_goes_on_from_before_the_move(
    shards: Shards, lived: int, *, other_epoch: bool
) -> None:
    """Its position is one of the former home, also if the new one is in another epoch."""

    async def run() -> None:
        before = await contents(shards["main"], None, lived)
        if other_epoch:
            with connect(shards["b"]) as shard:
                shard.execute(RECOVER_EPOCH)
        await asyncio.to_thread(move, shards, "shop", "b", quiet)
        assert await contents(shards["b"], None, lived) == before
        middle = Position(1, before[20][0])
        assert await contents(shards["b"], middle, lived) == before[21:]
        # Of all ledgers only what was recorded there is published.
        assert not {one for one, _ in await contents(shards["b"], None, None)} & {
            one for one, _ in before
        }
        for position, ledger in ((Position(2, before[20][0]), lived), (middle, None)):
            if ledger is None and not other_epoch:
                continue
            with pytest.raises(PositionLost):
                await contents(shards["b"], position, ledger)

    asyncio.run(run())
