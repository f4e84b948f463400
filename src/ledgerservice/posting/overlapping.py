"""The schedule of batches that overlap, on two connections in turn.

    batch N    lock, plan | write, COMMIT |
    batch N+1             | plan, write   | end of the entries, COMMIT |
    batch N+2                             | plan, write                | ...

While a large batch is written, the next one is planned on the states that it leaves, and written
but for the end of its entries. That is sent when the COMMIT before has been answered: then the
journal's trigger judges it. What it refuses, and all that cannot overlap, is posted as any other
batch.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter

from ledgerservice.domain.instructions import Group
from ledgerservice.domain.transactions import Outcomes
from ledgerservice.postgres import journal
from ledgerservice.postgres.pipeline import Wire
from ledgerservice.posting.movements import Ahead, MovementBatch, Overlap, weight_of
from ledgerservice.posting.poster import NEVER, Limits, Poster, Waiting
from ledgerservice.telemetry import metrics
from ledgerservice.telemetry.batches import RUNNING, BatchClock

log = logging.getLogger(__name__)

BATCHES_UNDER_LOCKS = 20  # after a refusal: what was written in vain is left for a VACUUM to remove
PATIENCE_S = 1.0
"""How long a written batch waits for the one before it.

That one may wait, through another process, for the rows of this one. PostgreSQL does not see such a
deadlock, because the wait in between is ours.
"""

Batch = list[Waiting[Group, Outcomes]]


@dataclass(slots=True)
class Flight:
    """A batch in flight: its task, and the plan that it is about to commit, once that is known."""

    task: "asyncio.Task[None]"
    ahead: Ahead | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """A batch that waits for the one before it."""

    overlap: Overlap
    clock: BatchClock


class OverlappingPoster(Poster[Group, Outcomes]):
    """Posts movements. A batch commits after the one before it, and is answered after that."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Wire]],
        limits: Limits,
        writer_loop: asyncio.AbstractEventLoop | None = None,
        name: str = "movements",
    ) -> None:
        self._batches = MovementBatch()
        self._batches.announce = self._announce
        self._flight: Flight | None = None
        self._spare: Wire | None = None
        self._ahead_wire: Wire | None = None  # of the batch that overlaps the flight
        self._under_locks = 0
        super().__init__(connect, self._batches, limits, weight_of, writer_loop, name)

    async def _run(self, batch: Batch) -> None:
        """Post a batch, and those that overlap it, one after another."""
        if sum(one.weight for one in batch) < journal.COPY_FROM_TRANSACTIONS:
            await self._answer_batch(batch)
            return
        flight = self._launch(batch, None)
        try:
            while batch := await self._following(flight):
                ready = await self._landed(flight, await self._prepare(batch, flight))
                flight = self._launch(batch, ready)
            await flight.task
        finally:
            await self._drop()
            if not flight.task.done():
                flight.task.cancel()
                await asyncio.wait({flight.task})
            self._flight = None

    def _launch(self, batch: Batch, ready: Ready | None) -> Flight:
        if ready is None:
            self._under_locks = max(0, self._under_locks - 1)
        else:
            self._spare, self._wire, self._ahead_wire = self._wire, ready.overlap.wire, None
        task = asyncio.create_task(self._land(batch, ready))
        task.add_done_callback(lambda _: self._arrived.set())
        self._flight = Flight(task, None if ready is None else ready.overlap.ahead)
        return self._flight

    async def _land(self, batch: Batch, ready: Ready | None) -> None:
        """Commit a batch and answer it."""
        if ready is not None:
            try:
                answers = await ready.overlap.finish()
            except Exception as error:  # noqa: BLE001  (whatever it is, the next run meets it too)
                self._refused(error)
                await self._disconnect()
            else:
                ready.clock.ended_s = perf_counter()
                self._observe(ready.clock, len(batch))
                metrics.OVERLAPS.add(1, self.name, "committed")
                self._loop.call_soon_threadsafe(self._answer, batch, answers, ready.clock)
                return
        await self._answer_batch(batch)

    async def _following(self, flight: Flight) -> Batch:
        """The next batch, if it is large and can overlap; empty when `flight` has landed."""
        many = journal.COPY_FROM_TRANSACTIONS
        while not flight.task.done():
            self._arrived.clear()
            self._wake_at = many
            can = flight.ahead is not None and not self._under_locks
            if can and self.waiting_requests() >= many:
                self._wake_at = NEVER
                return self._next_batch()
            await self._arrived.wait()
        self._wake_at = NEVER
        return []

    async def _prepare(self, batch: Batch, flight: Flight) -> Ready | None:
        """Write a batch but for its end; None if it is to be posted under locks."""
        ahead = flight.ahead
        if ahead is None:
            return None
        RUNNING.set(clock := BatchClock())
        try:
            wire, self._spare = self._spare or await self._connect(), None
            self._ahead_wire = wire
            overlap = await self._batches.overlap(wire, [one.request for one in batch], ahead)
        except BaseException as error:
            await self._drop()
            if not isinstance(error, Exception):
                raise
            self._refused(error)
            return None
        if overlap is None:
            self._spare, self._ahead_wire = wire, None
            return None
        return Ready(overlap, clock)

    async def _landed(self, flight: Flight, ready: Ready | None) -> Ready | None:
        """Wait for `flight`; None if what is ready was planned on what it has not committed."""
        if ready is None:
            await flight.task
            return None
        await asyncio.wait({flight.task}, timeout=PATIENCE_S)
        if flight.task.done() and flight.ahead is ready.overlap.before:
            return ready
        await self._drop()
        self._refused("the batch before it was not committed in time")
        await flight.task
        return None

    async def _drop(self) -> None:
        """Close the connection of the overlapping batch; the server rolls it back."""
        wire, self._ahead_wire = self._ahead_wire, None
        if wire is not None:
            await wire.close()

    def _announce(self, ahead: Ahead | None) -> None:
        """What the flight is about to commit; None if that was withdrawn."""
        if self._flight is None:
            return
        if self._flight.ahead is not None and self._ahead_wire is not None:
            self._ahead_wire.cut()  # at once: the next run may wait for its rows
        self._flight.ahead = ahead
        self._arrived.set()

    def _refused(self, reason: object) -> None:
        log.info("a batch is posted again under locks: %s", reason)
        metrics.OVERLAPS.add(1, self.name, "refused")
        self._under_locks = BATCHES_UNDER_LOCKS

    async def _disconnect(self) -> None:
        self._announce(None)
        await super()._disconnect()
        spare, self._spare = self._spare, None
        if spare is not None:
            await spare.close()

    def _cut(self) -> None:
        super()._cut()
        if self._ahead_wire is not None:
            self._ahead_wire.cut()
