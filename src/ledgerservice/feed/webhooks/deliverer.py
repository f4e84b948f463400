"""Delivering: one process for each ledger's database, a lane for each active endpoint."""

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta

import psycopg

from ledgerservice.feed.reading import Feed
from ledgerservice.feed.webhooks.addresses import LEDGER, Guard
from ledgerservice.feed.webhooks.lanes import Bounds, Lane
from ledgerservice.feed.webhooks.schedule import Schedule
from ledgerservice.feed.webhooks.sending import Sender
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.epochs import Witness
from ledgerservice.postgres.webhooks import Endpoint, Store, utc_now
from ledgerservice.settings import Settings
from ledgerservice.telemetry.backlog import Backlogs
from ledgerservice.telemetry.metrics import FEED_FAILURES

log = logging.getLogger(__name__)

POLL_S = 1.0  # for endpoints that were changed, and for the lock of the process that delivers
PRUNE_S = 3600.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
READER = "webhooks"
"""The name of the deliverer among the readers of the feed, in metrics."""


async def keep_delivering(database: Database, settings: Settings) -> None:
    """Deliver events to the active endpoints until cancelled. One process at a time does it.

    A failure of the database is logged once, and everything begins again from what is recorded.
    """
    pause_s, faulty = FIRST_PAUSE_S, False
    while True:
        try:
            wire = await database.connect_writer()
            try:
                store = Store(wire)
                await _wait_for_work(store)
                pause_s, faulty = FIRST_PAUSE_S, False
                deliverer = _Deliverer(database, settings, store)
                with deliverer.backlogs.exported(READER):
                    await deliverer.run()
            finally:
                with suppress(psycopg.Error, OSError):
                    await wire.close()
        except Exception as error:  # noqa: BLE001  (whatever it is, events must go on)
            FEED_FAILURES.add(1, READER)
            if not faulty:
                name = type(error).__name__
                log.warning("delivering webhooks stopped, and is tried again: %s %s", name, error)
            faulty = True
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


async def _wait_for_work(store: Store) -> None:
    """Return when there is an active endpoint, and no other process delivers."""
    while not (await store.active() and await store.lock()):  # noqa: ASYNC110  (other processes)
        await asyncio.sleep(POLL_S)


class _Deliverer:
    """The process that delivers, while its connection lives."""

    def __init__(self, database: Database, settings: Settings, store: Store) -> None:
        self._store = store
        self._feed = Feed(database.connect_writer)
        self._sender = Sender(Guard(settings), settings.webhooks_timeout_s)
        self._bounds = Bounds(Schedule.of(settings), settings.webhooks_dead_letters)
        self._kept = timedelta(days=settings.webhooks_log_days)
        self._lanes: dict[Endpoint, asyncio.Task[None]] = {}
        self.backlogs = Backlogs()

    async def run(self) -> None:
        """Deliver. Raises what ended a lane, or the connection."""
        pruning: asyncio.Task[None] | None = None
        try:
            self._feed.witness = _witness(await self._store.active())
            pruning = asyncio.create_task(self._keep_pruning())
            while True:
                await self._follow(await self._store.active())
                if pruning.done():
                    pruning.result()
                running = [pruning, *self._lanes.values()]
                await asyncio.wait(running, timeout=POLL_S, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            await _stop([*self._lanes.values(), *([pruning] if pruning else [])])
            await self._sender.close()
            await self._feed.close()

    async def _follow(self, endpoints: list[Endpoint]) -> None:
        """Have a lane for each endpoint as it is now."""
        for task in [task for task in self._lanes.values() if task.done()]:
            task.result()
        present = {_identity(endpoint): endpoint for endpoint in endpoints}
        gone = [known for known in self._lanes if _identity(known) not in present]
        ended = [known for known, task in self._lanes.items() if task.done()]
        await _stop([self._lanes.pop(known) for known in {*gone, *ended}])
        running = {_identity(known) for known in self._lanes}
        for identity, endpoint in present.items():
            if identity not in running:
                lane = Lane(endpoint, self._store, self._feed, self._sender, self._bounds)
                self._lanes[endpoint] = asyncio.create_task(self._run(lane))

    async def _run(self, lane: Lane) -> None:
        LEDGER.set(lane.endpoint.ledger_id)
        with self.backlogs.following(lane.backlog):
            await lane.run()

    async def _keep_pruning(self) -> None:
        while True:
            await self._store.prune(utc_now() - self._kept)
            await asyncio.sleep(PRUNE_S)


def _identity(endpoint: Endpoint) -> tuple[int, int, int]:
    return endpoint.ledger_id, endpoint.id, endpoint.revision


async def _stop(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _witness(endpoints: list[Endpoint]) -> Witness | None:
    """The last event that an endpoint has passed: it proves that the journal lost nothing."""
    known = [
        Witness(endpoint.epoch, endpoint.position, endpoint.digest)
        for endpoint in endpoints
        if endpoint.digest is not None
    ]
    return max(known, key=lambda witness: witness[:2], default=None)
