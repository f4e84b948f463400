"""Publishing: one active publisher for each target, from where the target is to the end of time."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

import msgspec
import psycopg

from ledgerservice.errors import LedgerError
from ledgerservice.feed.reading import Chunk, Feed, Position
from ledgerservice.feed.targets import Published, Target
from ledgerservice.feed.threads import call
from ledgerservice.postgres.changes import check_alive, try_to_publish
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.pipeline import Wire
from ledgerservice.telemetry.backlog import Backlog, Backlogs
from ledgerservice.telemetry.metrics import FEED_FAILURES

log = logging.getLogger(__name__)

WAIT_S = 1.0  # for events, and for the lock of an active publisher
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0


class Progress(msgspec.Struct):
    """How far a publisher is. `events` counts those that it has published since it started."""

    target: str
    active: bool = False
    epoch: int = 0
    id: int = 0
    last_id: int = 0
    """The id up to which there are events."""
    events: int = 0
    fault: str | None = None


async def keep_publishing(
    database: Database, target: Target, report: Callable[[Progress], None] = lambda _: None
) -> None:
    """Publish to a target until cancelled. Only one process at a time is active for it.

    A failure is logged once, and everything begins again from where the target is.
    """
    progress, pause_s = Progress(target.name), FIRST_PAUSE_S
    while True:
        try:
            async with _publishing(database, target) as publisher:
                progress.active, progress.fault = True, None
                async for published, chunk in publisher.chunks():
                    pause_s = FIRST_PAUSE_S
                    progress.epoch, progress.id = published.epoch, published.id
                    progress.last_id = max(publisher.feed.safe_id, published.id)
                    progress.events += len(chunk.events)
                    report(progress)
        except (LedgerError, psycopg.Error, OSError) as error:
            FEED_FAILURES.add(1, target.name)
            if progress.fault is None:
                log.warning("publishing to %s stopped, and is tried again: %s", target.name, error)
            progress.active, progress.fault = False, str(error)
            report(progress)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


@asynccontextmanager
async def _publishing(database: Database, target: Target) -> "AsyncIterator[_Publisher]":
    with ThreadPoolExecutor(1, f"publish {target.name}") as thread:
        async with _active(database, target.name) as lock:
            feed = Feed(database.connect_writer)
            publisher = _Publisher(target, feed, lock, thread)
            parts = Backlogs()
            try:
                with parts.exported(target.name), parts.following(publisher.backlog):
                    yield publisher
            finally:
                await feed.close()
                await call(thread, target.close)


@asynccontextmanager
async def _active(database: Database, name: str) -> AsyncIterator[Wire]:
    """Be the only active publisher of a target: for as long as the connection lives."""
    wire = await database.connect_writer()
    try:
        while not await try_to_publish(wire, name):  # noqa: ASYNC110  (another process has it)
            await asyncio.sleep(WAIT_S)
        yield wire
    finally:
        with suppress(psycopg.Error, OSError):
            await wire.close()


class _Publisher:
    """The active publisher of a target."""

    def __init__(self, target: Target, feed: Feed, lock: Wire, thread: ThreadPoolExecutor) -> None:
        self.feed = feed
        self.backlog = Backlog(lambda: feed.safe_id)
        self._target = target
        self._lock = lock
        self._thread = thread

    async def chunks(self) -> AsyncIterator[tuple[Published, Chunk]]:
        """Publish; after each chunk, how far the target is. The next is read meanwhile."""
        published = await self._first()
        read = asyncio.create_task(self._read(published))
        try:
            while True:
                chunk = await read
                # A publisher that was taken for dead has lost its lock, and must not go on.
                await check_alive(self._lock)
                if chunk.events:
                    published = Published.after(chunk.position.epoch, chunk.events[-1])
                read = asyncio.create_task(self._read(published))
                if chunk.events:
                    await call(self._thread, self._target.write, chunk.events, published)
                    self.backlog.pass_events(published.id)
                yield published, chunk
        finally:
            read.cancel()
            await asyncio.gather(read, return_exceptions=True)

    async def _first(self) -> Published:
        """Where the target is; the beginning of the present epoch, if it has nothing of it."""
        published: Published | None = await call(self._thread, self._target.open)
        if published is not None:
            self.feed.witness = published.witness
        epoch = (await self.feed.start()).epoch
        if published is None or published.epoch != epoch:
            log.warning(
                "%s has nothing of epoch %d: everything is published", self._target.name, epoch
            )
            return Published(epoch)
        return published

    async def _read(self, published: Published) -> Chunk:
        after, safe_id = Position(published.epoch, published.id), self.feed.safe_id
        chunk = await self.feed.read(after, self._target.rows, wait_s=WAIT_S)
        if not chunk.events:
            self.backlog.pass_all(safe_id)
        return chunk
