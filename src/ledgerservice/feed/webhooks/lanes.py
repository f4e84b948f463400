"""The lane of one endpoint: its events in order, one request at a time, and its retries.

An event that fails stands aside, in the database, and the next one is sent. When MAX_WAITING events
stand aside, the endpoint itself is failing: then only they are tried, and the position waits. So
neither the memory nor the table grows with the time that an endpoint is away.
"""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from ledgerservice.domain.events import Event, position
from ledgerservice.feed.reading import Feed, Position, PositionLost
from ledgerservice.feed.webhooks.schedule import Schedule
from ledgerservice.feed.webhooks.sending import GONE, Attempt, Sender
from ledgerservice.postgres.webhooks import (
    Endpoint,
    Failure,
    Progress,
    Store,
    Tried,
    uninterrupted,
    utc_now,
)
from ledgerservice.telemetry.backlog import Backlog
from ledgerservice.telemetry.metrics import WEBHOOK_ATTEMPTS, WEBHOOK_DEAD_LETTERS

MAX_WAITING = 20
CHUNK_EVENTS = 100
WAIT_S = 1.0
RECORD_S = 0.5
"""What was delivered is recorded at least this often: a process that dies repeats less."""


class Bounds(NamedTuple):
    """When failures are tried again, and how many dead letters pause an endpoint."""

    schedule: Schedule
    dead_letters: int


class Lane:
    """Delivers to an endpoint, until that is changed."""

    def __init__(
        self, endpoint: Endpoint, store: Store, feed: Feed, sender: Sender, bounds: Bounds
    ) -> None:
        self.endpoint = endpoint
        self._store = store
        self._feed = feed
        self._sender = sender
        self._bounds = bounds
        self._types = None if endpoint.types is None else frozenset(endpoint.types.split(","))
        self._dead_letters = endpoint.dead_letters
        self._progress = Progress(endpoint.position, endpoint.digest)
        self._recorded_s = time.monotonic()
        self.backlog = Backlog(lambda: feed.safe_id)
        self.backlog.pass_events(endpoint.position)

    async def run(self) -> None:
        """Deliver until the endpoint was changed, by a caller or by what came of a delivery."""
        try:
            while await self._step():
                pass
        except PositionLost as lost:
            epoch = lost.epoch
            await self._store.move_epoch(self.endpoint, epoch.number, epoch.compare_from)

    async def _step(self) -> bool:
        """The first retry that is due, and then what is new. False if the endpoint was changed."""
        waiting = await self._store.waiting(self.endpoint, MAX_WAITING)
        left_s = WAIT_S
        if waiting:
            left_s = max(0.0, min(WAIT_S, _seconds_until(waiting[0])))
        if waiting and left_s == 0 and not await self._retry(waiting):
            return False
        if len(waiting) >= MAX_WAITING:
            await asyncio.sleep(left_s)
            return True
        return await self._deliver(left_s, MAX_WAITING - len(waiting))

    async def _retry(self, waiting: Sequence[Failure]) -> bool:
        failure = waiting[0]
        event = await self._event(failure.event_id)
        if event is None:  # the epoch before had it
            self._progress.done.append(failure.event_id)
            return await self._record()
        attempt = await self._send(event, failure.attempts + 1)
        if attempt.succeeded:
            self._progress.done.append(event.id)
            self._progress.wake = len(waiting) >= MAX_WAITING
        else:
            self._fail(event, attempt, failure)
        return await self._record()

    async def _event(self, event_id: int) -> Event | None:
        chunk = await self._read(event_id - 1, 1, 0)
        return next((event for event in chunk if event.id == event_id), None)

    async def _deliver(self, wait_s: float, room: int) -> bool:
        """Deliver what is new, until `room` events have failed."""
        safe_id = self._feed.safe_id
        events = await self._read(self._progress.position, CHUNK_EVENTS, wait_s)
        if not events:
            self.backlog.pass_all(safe_id)
        for event in events:
            if self._takes(event):
                attempt = await self._send(event, 1)
                if not attempt.succeeded:
                    room -= 1
                    self._fail(event, attempt, None)
            if self._progress.state != "disabled":  # what was answered with 410 is not passed
                self._progress.position = event.id
                self._progress.digest = hashlib.sha256(event.body).digest()
                self.backlog.pass_events(event.id)
            if self._has_to_record() and not await self._record():
                return False
            if room == 0:
                break
        return not self._progress.tried or await self._record()

    async def _read(self, after: int, rows: int, wait_s: float) -> list[Event]:
        place = Position(self.endpoint.epoch, after)
        ledger = self.endpoint.ledger_id
        read = self._feed.read(place, rows, ledger=ledger, wait_s=wait_s)
        return (await uninterrupted(read)).events

    def _takes(self, event: Event) -> bool:
        account = self.endpoint.account_id
        if account is not None and account not in event.accounts:
            return False
        return self._types is None or event.type in self._types

    async def _send(self, event: Event, number: int) -> Attempt:
        secrets = self.endpoint.secrets_at(utc_now())
        name = position(self.endpoint.epoch, event.id)
        attempt = await self._sender.send(self.endpoint.url, secrets, name, event.body)
        WEBHOOK_ATTEMPTS.add(1, "delivered" if attempt.succeeded else "failed")
        outcome = attempt.at, attempt.status, attempt.error, attempt.duration_ms
        self._progress.tried.append(Tried(event.id, number, *outcome))
        return attempt

    def _fail(self, event: Event, attempt: Attempt, before: Failure | None) -> None:
        """Put an event aside, and stop with the endpoint if it has to."""
        progress = self._progress
        if attempt.status == GONE:
            progress.state, progress.reason = "disabled", "gone"
            return
        attempts, failed_at = (1, attempt.at) if before is None else (before[1] + 1, before[2])
        next_at = self._next(attempts, failed_at, attempt.retry_after_s)
        progress.failures.append(Failure(event.id, attempts, failed_at, next_at))
        self._dead_letters += next_at is None
        WEBHOOK_DEAD_LETTERS.add(int(next_at is None))
        if next_at is None and self._dead_letters >= self._bounds.dead_letters:
            progress.state, progress.reason = "paused", "dead_letters"

    def _next(self, attempts: int, failed_at: datetime, least_s: float) -> datetime | None:
        return self._bounds.schedule.next(attempts, failed_at, utc_now(), least_s)

    def _has_to_record(self) -> bool:
        if self._progress.failures or self._progress.state is not None:
            return True
        return time.monotonic() - self._recorded_s > RECORD_S

    async def _record(self) -> bool:
        """Keep what was done; False if the endpoint is not what it was."""
        progress = self._progress
        self._progress = Progress(progress.position, progress.digest)
        self._recorded_s = time.monotonic()
        return await self._store.record(self.endpoint, progress) and progress.state is None


def _seconds_until(failure: Failure) -> float:
    assert failure.next_at is not None
    return (failure.next_at - utc_now()) / timedelta(seconds=1)
