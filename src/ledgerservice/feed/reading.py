"""Reading the feed: events after a position, and waiting for more."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import psycopg

from ledgerservice.domain.events import Event, event_of
from ledgerservice.errors import LedgerError, Unavailable
from ledgerservice.feed.horizon import Horizon
from ledgerservice.postgres.changes import (
    Arrival,
    Recorded,
    last_id,
    ledger_names,
    list_arrivals,
    list_changes,
    spans_of,
)
from ledgerservice.postgres.epochs import Epoch, Witness, current_epoch, witness_of
from ledgerservice.postgres.pipeline import Wire

log = logging.getLogger(__name__)

PAUSE_S = 0.01  # between two looks at the horizon; also what an event is late by, on average
CATCH_UP_S = 1.0
IDLE_S = 70.0  # after the last call, until the connection is closed; longer than a reader waits
RETRY_S = 0.5

ALL_LEDGERS = None
NOTHING = Witness(0, 0, b"")


class Position(NamedTuple):
    """The place after an event, in an epoch of the feed."""

    epoch: int
    id: int


class PositionLost(LedgerError):
    """The position belongs to an epoch that has ended: some of what was read may not be there."""

    def __init__(self, epoch: Epoch, feed: "Feed | None" = None) -> None:
        self.epoch, self.feed = epoch, feed
        super().__init__()


class Chunk(NamedTuple):
    """Events in order, and the position after the last one that was passed."""

    events: list[Event]
    position: Position


class Feed:
    """The feed of a database, for all readers of one event loop.

    One connection reads, in turn. It is opened for the first reader, and closed when nobody has
    read for a while. Each method raises Unavailable if the database is away, and PositionLost.
    """

    def __init__(self, connect: Callable[[], Awaitable[Wire]]) -> None:
        self._connect = connect
        self._wire: Wire | None = None
        self._using = asyncio.Lock()
        self._horizon = Horizon()
        self._epoch = Epoch(0, 0)
        self.witness: Witness | None = None
        """The last event that was read: it proves, after a reconnect, that nothing is lost."""
        self._names: dict[int, str] = {}
        self._arrivals: list[Arrival] = []
        self._looked = asyncio.Condition()
        self._looks = 0
        self._finished = 0
        self._caught_up = 0
        self._fault: Exception | None = None
        self._watching: asyncio.Task[None] | None = None
        self._last_used_s = 0.0

    @property
    def safe_id(self) -> int:
        """The id up to which all events are known, when the horizon was looked at last."""
        return self._horizon.safe_id

    async def start(self) -> Position:
        """The position before the first event, in the present epoch."""
        await self._catch_up(0)
        return Position(self._epoch.number, 0)

    async def head(self, ledger: int | None = ALL_LEDGERS) -> Position:
        """The position after the newest event of a ledger, or of all."""
        await self._catch_up(CATCH_UP_S)
        async with self._reading() as wire:
            ledgers = await self._ledgers(wire, ledger)
            last = await last_id(wire, ledgers, self._horizon.safe_id)
        return Position(self._epoch.number, last)

    async def read(
        self,
        after: Position,
        limit: int,
        *,
        ledger: int | None = ALL_LEDGERS,
        wait_s: float = 0,
    ) -> Chunk:
        """Up to `limit` events of a ledger, or of all, after a position.

        If there are none it waits for them, `wait_s` at most. What was committed before the call is
        among them or comes after them, unless an open transaction holds the feed back.
        """
        end_s = asyncio.get_running_loop().time() + wait_s
        if self._wire is None or self._horizon.safe_id <= after.id:
            await self._catch_up(max(CATCH_UP_S, wait_s))
        while True:
            self._watch()
            if after.epoch != self._epoch.number:
                after = await self._arrived(after, ledger)
            events = await self._events(after.id, limit, ledger)
            left_s = end_s - asyncio.get_running_loop().time()
            if events or left_s <= 0:
                last = events[-1].id if events else after.id
                return Chunk(events, Position(after.epoch, last))
            await self._wait_for_more(left_s)

    async def close(self) -> None:
        """Close the connection. Waiting readers get Unavailable."""
        if (watching := self._watching) is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _events(self, after: int, limit: int, ledger: int | None) -> list[Event]:
        async with self._reading() as wire:
            safe_id, epoch = self._horizon.safe_id, self._epoch.number
            if safe_id <= after:
                return []
            ledgers = await self._ledgers(wire, ledger)
            if ledger is ALL_LEDGERS:
                changes = await self._changes_here(wire, after, safe_id, limit)
            else:
                changes = await list_changes(wire, spans_of(ledgers, after, safe_id), limit)
            events = [
                event_of(epoch, one.ledger_id, self._names[one.ledger_id], one.change)
                for one in changes
            ]
            if events and (epoch, events[-1].id) > (self.witness or NOTHING)[:2]:
                self.witness = witness_of(epoch, events[-1])
            return events

    async def _changes_here(self, wire: Wire, after: int, until: int, rows: int) -> list[Recorded]:
        """The changes of all ledgers, without what has come from another shard: that was published
        there. A ledger that begins to arrive while they are read has them read again.
        """
        while True:
            spans = spans_of(self._names, after, until, self._arrivals)
            changes = await list_changes(wire, spans, rows)
            known, self._arrivals = self._arrivals, await list_arrivals(wire)
            if known == self._arrivals:
                return changes

    async def _arrived(self, after: Position, ledger: int | None) -> Position:
        """A position of the shard that a ledger has come from, in the epoch of this one.

        Raises PositionLost for any other one.
        """
        if ledger is not ALL_LEDGERS:
            async with self._reading() as wire:
                arrivals = await list_arrivals(wire)
            if any(
                (one.ledger, one.epoch) == (ledger, after.epoch) and after.id <= one.last
                for one in arrivals
            ):
                return Position(self._epoch.number, after.id)
        raise PositionLost(self._epoch, self)

    async def _ledgers(self, wire: Wire, ledger: int | None) -> Iterable[int]:
        if ledger is ALL_LEDGERS or ledger not in self._names:
            self._names = await ledger_names(wire)
        return self._names if ledger is ALL_LEDGERS else [ledger]

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Wire]:
        """The connection, for one reader at a time."""
        async with self._using:
            if self._wire is None:
                raise Unavailable from self._fault
            try:
                yield self._wire
            except (psycopg.Error, OSError) as error:
                await self._drop(error)
                raise Unavailable from error
            except BaseException:
                # The exchange was left in its middle.
                await self._drop(None)
                raise

    # The horizon is watched by a task while there are readers.

    async def _catch_up(self, limit_s: float) -> None:
        """Wait until all ids that were handed out before are safe, but not longer than `limit_s`
        after the horizon was looked at.
        """
        begun = self._looks
        self._watch()
        async with self._looked:
            await self._looked.wait_for(lambda: self._finished > begun)
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    await self._looked.wait_for(lambda: self._caught_up > begun or self._fault)
        if self._fault is not None:
            raise Unavailable from self._fault

    async def _wait_for_more(self, limit_s: float) -> None:
        safe_id = self._horizon.safe_id
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s), self._looked:
                await self._looked.wait_for(
                    lambda: self._horizon.safe_id != safe_id or self._fault is not None
                )

    def _watch(self) -> None:
        self._last_used_s = asyncio.get_running_loop().time()
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._keep_looking())

    async def _keep_looking(self) -> None:
        now_s = asyncio.get_running_loop().time
        try:
            while now_s() - self._last_used_s < IDLE_S:
                await self._look()
                async with self._looked:
                    self._looked.notify_all()
                await asyncio.sleep(PAUSE_S if self._fault is None else RETRY_S)
        finally:
            self._watching = None
            async with self._using:
                await self._drop(None)

    async def _look(self) -> None:
        self._looks += 1
        look = self._looks
        async with self._using:
            try:
                wire = await self._connected()
                if await self._horizon.step(wire):
                    self._caught_up = look
                self._fault = None
            except (psycopg.Error, OSError, LedgerError) as error:
                if self._fault is None:
                    log.warning("the feed is not available: %s", error)
                await self._drop(error)
        self._finished = look

    async def _connected(self) -> Wire:
        if self._wire is None:
            wire = await self._connect()
            try:
                self._epoch = await current_epoch(wire, self.witness)
            except BaseException:
                await wire.close()
                raise
            self._wire, self._horizon = wire, Horizon()
        return self._wire

    async def _drop(self, error: Exception | None) -> None:
        self._fault = error
        wire, self._wire = self._wire, None
        if wire is not None:
            with suppress(psycopg.Error, OSError):
                await wire.close()
