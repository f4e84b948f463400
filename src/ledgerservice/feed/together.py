"""Feeds that are read together: those of all parts of a ledger, each in its order.

Whoever reads has a position in each. Events of different parts have no order among each other; they
come by the times of their recording, so that no part has to wait until another one is read.
"""

import asyncio
import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from ledgerservice.domain.events import Event
from ledgerservice.feed.reading import Chunk, Feed, Position, PositionLost


class Source(NamedTuple):
    """The ledger, or the part of one, whose events are read, and the feed that has them."""

    feed: Feed
    ledger_id: int


class Passed(NamedTuple):
    """An event, and the positions of all sources after it."""

    event: Event
    positions: tuple[Position, ...]


class _Time(msgspec.Struct):
    recorded_at: str | None = None


class Feeds:
    """One reader of some feeds. Each method raises as those of `Feed`."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self.positions: tuple[Position, ...] = ()
        self._waiting: dict[int, asyncio.Task[Chunk]] = {}

    async def begin(self) -> None:
        """Go to the first event."""
        self.positions = tuple([await feed.start() for feed, _ in self._sources])

    async def end(self) -> None:
        """Go behind the newest event."""
        self.positions = tuple([await feed.head(ledger_id) for feed, ledger_id in self._sources])

    async def check(self) -> None:
        """Raise PositionLost if a position stands for what a database has lost."""
        for index in range(len(self._sources)):
            await self._read(index, 1, 0)

    def with_lost(self, lost: PositionLost) -> tuple[Position, ...]:
        """The positions from which what has been read is to be compared."""
        new = Position(lost.epoch.number, lost.epoch.compare_from)
        places = zip(self._sources, self.positions, strict=True)
        return tuple(new if one.feed is lost.feed else place for one, place in places)

    async def next(
        self, rows: int, limit: int, wait_s: float, take: Callable[[Event], bool]
    ) -> list[Passed]:
        """Up to `limit` events that are taken of the next `rows` of each source. The positions pass
        what is not taken, too. It waits up to `wait_s` seconds for an event.
        """
        chunks = await self._next_chunks(rows, wait_s)
        taken: list[Passed] = []
        for index, event in _merged(chunks):
            self._pass(index, Position(chunks[index].position.epoch, event.id))
            if take(event):
                taken.append(Passed(event, self.positions))
            if len(taken) == limit:
                return taken
        for index, chunk in chunks.items():
            self._pass(index, chunk.position)
        return taken

    def _pass(self, index: int, position: Position) -> None:
        self.positions = (*self.positions[:index], position, *self.positions[index + 1 :])

    async def _next_chunks(self, rows: int, wait_s: float) -> dict[int, Chunk]:
        """What some of the sources have next: those with events, if there are any."""
        if len(self._sources) == 1:
            return {0: await self._read(0, rows, wait_s)}
        idle = [index for index in range(len(self._sources)) if index not in self._waiting]
        chunks = await asyncio.gather(*(self._read(index, rows, 0) for index in idle))
        answered = dict(zip(idle, chunks, strict=True)) | self._answered()
        if not wait_s or any(chunk.events for chunk in answered.values()):
            return answered
        for index in range(len(self._sources)):
            if index not in self._waiting:
                self._waiting[index] = asyncio.create_task(self._read(index, rows, wait_s))
        # One that is left waiting is not cancelled, which would cost the feed its connection.
        waiting = self._waiting.values()
        await asyncio.wait(waiting, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        return self._answered()

    def _answered(self) -> dict[int, Chunk]:
        done = [index for index, task in self._waiting.items() if task.done()]
        return {index: self._waiting.pop(index).result() for index in done}

    async def _read(self, index: int, rows: int, wait_s: float) -> Chunk:
        feed, ledger_id = self._sources[index]
        return await feed.read(self.positions[index], rows, ledger=ledger_id, wait_s=wait_s)

    def close(self) -> None:
        """Give up what is waited for; it ends by itself."""
        for task in self._waiting.values():
            task.add_done_callback(lambda task: task.cancelled() or task.exception())


def _merged(chunks: dict[int, Chunk]) -> Iterator[tuple[int, Event]]:
    """The events of chunks, each with the number of its source."""
    if len(chunks) == 1:
        [(index, chunk)] = chunks.items()
        yield from ((index, event) for event in chunk.events)
        return
    timed = (
        [(_time_of(event), index, event) for event in chunk.events]
        for index, chunk in chunks.items()
    )
    for _, index, event in heapq.merge(*timed, key=lambda one: one[0]):
        yield index, event


def _time_of(event: Event) -> str:
    return msgspec.json.decode(event.body, type=_Time).recorded_at or ""
