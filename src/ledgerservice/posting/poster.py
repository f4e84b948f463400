"""Group commit: the requests that arrive while a commit is in flight are the next batch.

A poster has one connection and one batch in flight. It posts at once when it is idle, and gathers
requests while it is busy. There is no timer. It answers after the COMMIT, never before.
"""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Generic, TypeVar

import psycopg
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    before_sleep_log,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from ledgerservice.errors import (
    InternalFault,
    LedgerMoving,
    Overloaded,
    Unavailable,
    UnfitConnection,
)
from ledgerservice.postgres.pipeline import Wire
from ledgerservice.telemetry import metrics, traces
from ledgerservice.telemetry.batches import COMMIT, RUNNING, BatchClock
from ledgerservice.telemetry.exchanges import CURRENT

log = logging.getLogger(__name__)

CUT_S = 0.1  # so that the writer notices that its connection was cut
NEVER = sys.maxsize

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Work = Callable[[Wire, list[Request]], Awaitable[list[Answer]]]


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of a poster: requests waiting, requests in a batch, seconds to an answer.

    A group counts as many requests as it has movements.
    """

    queue_requests: int
    batch_requests: int
    deadline_s: float


class Waiting(Generic[Request, Answer]):
    """A request in a queue."""

    __slots__ = ("answer", "clock", "entered_s", "request", "span", "weight")

    def __init__(self, request: Request, answer: asyncio.Future[Answer], weight: int) -> None:
        self.request = request
        self.answer = answer
        self.weight = weight
        self.entered_s = perf_counter()
        self.span: Any = None
        self.clock: BatchClock | None = None
        """That of its batch, when the request is answered."""

    def times(self) -> dict[str, float]:
        """The milliseconds in the queue and in the COMMIT."""
        if self.clock is None:
            return {}
        commit_s = self.clock.duration_s(COMMIT)
        queued_s = self.clock.began_s - self.entered_s
        return {"queue_ms": round(queued_s * 1000, 1), "commit_ms": round(commit_s * 1000, 1)}


class Deadlines:
    """Fails requests at their deadlines. One timer is enough, because deadlines are in order."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, patience_s: float, queue: str | None
    ) -> None:
        """`queue` is the name for metrics; None: another process counts."""
        self._loop = loop
        self._queue = queue
        self._patience_s = patience_s
        self._due: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, answer: asyncio.Future[Any]) -> None:
        """Fail `answer` with Unavailable at its deadline, which begins now."""
        while self._due and self._due[0][1].done():
            self._due.popleft()
        due = self._loop.time() + self._patience_s
        self._due.append((due, answer))
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._due and (self._due[0][1].done() or self._due[0][0] <= now):
            _, answer = self._due.popleft()
            if not answer.done():
                if self._queue is not None:
                    metrics.QUEUE_EXPIRED.add(1, self._queue)
                answer.set_exception(Unavailable())
        if self._due:
            self._timer = self._loop.call_at(self._due[0][0], self._expire)


class Poster(Generic[Request, Answer]):
    """Gathers requests into batches and posts them, one batch at a time.

    Requests come from the event loop that creates it. The writer runs in `writer_loop`, which may
    belong to another thread, so that a crowd of requests does not delay the database.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Wire]],
        work: Work[Request, Answer],
        limits: Limits,
        weigh: Callable[[Request], int] = lambda _: 1,
        writer_loop: asyncio.AbstractEventLoop | None = None,
        name: str = "movements",
    ) -> None:
        """`name` is that of the queue, for metrics."""
        self._connect = connect
        self._work = work
        self._limits = limits
        self._weigh = weigh
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._loop, limits.deadline_s, name)
        self.name = name
        self._closing = False
        # Shared by both loops: each is written by one of them only, or is a deque.
        self._queue: deque[Waiting[Request, Answer]] = deque()
        self._entered = 0
        self._taken = 0
        self._wake_at = NEVER  # waiting requests
        # Used by the writer only.
        self._writer_loop = writer_loop or self._loop
        self._arrived = asyncio.Event()
        self._ended = asyncio.Event()
        self._wire: Wire | None = None
        self._clock: BatchClock | None = None
        self._retrying = AsyncRetrying(
            retry=retry_if_exception(is_passing),
            stop=stop_after_delay(limits.deadline_s),
            wait=wait_random_exponential(multiplier=0.05, max=1),
            before_sleep=self._note_retry,
            reraise=True,
        )
        self._writer = asyncio.run_coroutine_threadsafe(self._write(), self._writer_loop)

    async def post(self, request: Request) -> Answer:
        """The durable answer to `request`.

        Raises Overloaded (nothing was done), Unavailable (the outcome is not known in time; the
        same key may be sent again) or InternalFault.
        """
        return await self.enter(request)

    def enter(self, request: Request) -> asyncio.Future[Answer]:
        """Queue `request`, in order of arrival; the future of its answer. Raises Overloaded."""
        waiting = self.place(request)
        if (exchange := CURRENT.get()) is not None:
            exchange.place, waiting.span = waiting, exchange.span
        return waiting.answer

    def place(self, request: Request) -> "Waiting[Request, Answer]":
        """As `enter`; the place of `request` in the queue, with the future. Raises Overloaded."""
        self.check_room()
        answer: asyncio.Future[Answer] = self._loop.create_future()
        waiting = Waiting(request, answer, self._weigh(request))
        self._entered += waiting.weight
        self._queue.append(waiting)
        # After the append: the writer checks the queue once more after it sets _wake_at.
        if self._entered - self._taken >= self._wake_at:
            self._wake()
        self._deadlines.add(answer)
        return waiting

    def check_room(self) -> None:
        """Raise Overloaded if a request would be refused now."""
        if self._closing or self._entered - self._taken >= self._limits.queue_requests:
            raise Overloaded

    def waiting_requests(self) -> int:
        """The requests that wait for a batch, in movements."""
        return max(0, self._entered - self._taken)

    def waiting_s(self) -> float:
        """How long the oldest of them has waited. Another thread may call it."""
        try:
            return perf_counter() - self._queue[0].entered_s
        except IndexError:
            return 0.0

    async def close(self) -> None:
        """Answer the waiting requests, then stop.

        A batch that the database withholds for longer than the deadline is left to the database;
        its requests have been answered with Unavailable by then.
        """
        self._closing = True
        self._wake()
        try:
            await asyncio.wait_for(self._ended.wait(), self._limits.deadline_s)
        except TimeoutError:
            log.warning("the database does not answer; the last batch is left to it")
            # Cut first: a cancelled psycopg call would cancel a COMMIT in the server.
            self._writer_loop.call_soon_threadsafe(self._cut)
            await asyncio.sleep(CUT_S)
            self._writer.cancel()
            await self._ended.wait()

    def _wake(self) -> None:
        self._wake_at = NEVER
        self._writer_loop.call_soon_threadsafe(self._arrived.set)

    def _cut(self) -> None:
        if self._wire is not None:
            self._wire.cut()

    async def _write(self) -> None:
        try:
            while batch := await self._gather():
                await self._run(batch)
            await self._disconnect()
        finally:
            self._loop.call_soon_threadsafe(self._ended.set)

    async def _run(self, batch: list[Waiting[Request, Answer]]) -> None:
        """Post a batch, which is then answered."""
        await self._answer_batch(batch)

    async def _gather(self) -> list[Waiting[Request, Answer]]:
        """The next batch, as soon as there is one; an empty list when the poster is closed."""
        while not (batch := self._next_batch()):
            self._arrived.clear()
            self._wake_at = 0
            # A request that came before _wake_at was set did not wake the writer.
            if not self._queue:
                if self._closing:
                    break
                await self._arrived.wait()
            self._wake_at = NEVER
        return batch

    def _next_batch(self) -> list[Waiting[Request, Answer]]:
        """The oldest requests whose callers still wait; one above the limit is posted alone."""
        batch: list[Waiting[Request, Answer]] = []
        room = self._limits.batch_requests
        while self._queue and (not batch or self._queue[0].weight <= room):
            waiting = self._queue.popleft()
            self._taken += waiting.weight
            if not waiting.answer.done():
                batch.append(waiting)
                room -= waiting.weight
        return batch

    async def _answer_batch(self, batch: list[Waiting[Request, Answer]]) -> None:
        self._clock = None  # a batch that finds no connection has none
        try:
            answers = await self._post([one.request for one in batch])
        except Exception as error:  # noqa: BLE001  (the writer must outlive every fault)
            waiting = [one for one in batch if not one.answer.done()]
            if parts := _split(error, waiting):
                for part in parts:
                    await self._answer_batch(part)
            else:
                fault = self._fault(error, len(batch))
                self._loop.call_soon_threadsafe(self._fail, batch, fault, self._clock)
            return
        self._loop.call_soon_threadsafe(self._answer, batch, answers, self._clock)

    async def _post(self, requests: list[Request]) -> list[Answer]:
        """Run the batch; after a temporary fault run it again, on a new connection.

        If an earlier run has committed, the later run gets replays, because the locks make it wait
        for the earlier one. The first run is outside of the retrying, which costs time.
        """
        try:
            return await self._attempt(requests)
        except Exception as error:
            if not is_passing(error):
                raise
            self._count_retry(error)
            log.warning("retrying a batch of %d: %s", len(requests), error)
        return await self._retrying(self._attempt, requests)

    async def _attempt(self, requests: list[Request]) -> list[Answer]:
        try:
            if self._wire is None:
                self._wire = await self._connect()
            return await self._timed(self._wire, requests)
        except BaseException:
            await self._disconnect()
            raise

    async def _timed(self, wire: Wire, requests: list[Request]) -> list[Answer]:
        clock = self._clock = BatchClock()
        RUNNING.set(clock)
        try:
            answers = await self._work(wire, requests)
        finally:
            clock.ended_s = perf_counter()
        self._observe(clock, len(requests))
        return answers

    def _observe(self, clock: BatchClock, requests: int) -> None:
        metrics.BATCH_REQUESTS.observe(requests, self.name)
        metrics.BATCH_DURATION.observe(clock.ended_s - clock.began_s, self.name)

    async def _disconnect(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()

    def _answer(
        self,
        batch: list[Waiting[Request, Answer]],
        answers: list[Answer],
        clock: BatchClock | None,
    ) -> None:
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.clock = clock
            if not waiting.answer.done():
                waiting.answer.set_result(answer)
        traces.batch_done(clock, self.name, len(batch), (one.span for one in batch))

    def _fail(
        self,
        batch: list[Waiting[Request, Answer]],
        fault: Exception,
        clock: BatchClock | None,
    ) -> None:
        for waiting in batch:
            waiting.clock = clock
            if not waiting.answer.done():
                waiting.answer.set_exception(fault)
        traces.batch_done(clock, self.name, len(batch), (one.span for one in batch))

    def _note_retry(self, state: RetryCallState) -> None:
        assert state.outcome is not None
        self._count_retry(state.outcome.exception())
        before_sleep_log(log, logging.WARNING)(state)

    def _count_retry(self, error: BaseException | None) -> None:
        metrics.RETRIES.add(1, self.name, getattr(error, "sqlstate", None) or "none")

    def _fault(self, error: Exception, requests: int) -> Exception:
        """The exception that the callers of a batch get for `error`, which is logged."""
        if is_fenced(error):
            return LedgerMoving()
        if is_passing(error):
            metrics.UNRESOLVED.add(1, self.name)
            log.error("gave up a batch of %d: %s", requests, error)
            return Unavailable()
        log.error("a batch of %d failed", requests, exc_info=error)
        return InternalFault()


# Frozen too long in a transaction; a standby; the ids of a shard are used up until it has more.
PASSING_STATES = frozenset({"25P03", "25006", "2200H"})


def is_passing(error: BaseException) -> bool:
    """Whether the same batch may succeed on a new connection.

    psycopg raises OperationalError for lost connections, shut-downs, cancelled statements,
    deadlocks, serialization failures and exhausted resources, some of them without a SQLSTATE. A
    key that exists already means that another run has won: the next run replays it. A connection
    that is not fit may be fit again when the operator has corrected its settings.
    """
    if isinstance(error, psycopg.errors.UniqueViolation):
        return error.diag.constraint_name == "transactions_idempotency_key"
    if isinstance(error, psycopg.OperationalError | UnfitConnection):
        return True
    return isinstance(error, psycopg.Error) and error.sqlstate in PASSING_STATES


FENCED = "LM001"


def is_fenced(error: BaseException) -> bool:
    """Whether the database refuses a ledger, because it is moving or has moved to another one."""
    return isinstance(error, psycopg.Error) and error.sqlstate == FENCED


def _split(error: BaseException, waiting: list[Waiting[Any, Any]]) -> list[list[Waiting[Any, Any]]]:
    """The parts in which a batch is tried again; none if it has failed.

    A fence refuses the requests of one ledger together, and no others. What has no ledger of its
    own, such as copies of the directory's rows, is split in halves.
    """
    if is_fenced(error):
        ledgers: dict[int | None, list[Waiting[Any, Any]]] = {}
        for one in waiting:
            ledgers.setdefault(getattr(one.request, "ledger", None), []).append(one)
        if len(ledgers) > 1:
            return list(ledgers.values())
        if None not in ledgers:
            return []
    if (is_poison(error) or is_fenced(error)) and len(waiting) > 1:
        half = len(waiting) // 2
        return [waiting[:half], waiting[half:]]
    return []


def is_poison(error: BaseException) -> bool:
    """Whether one request of a batch may be at fault: the database refuses it, or our code fails.

    The batch is then split, so that the other requests get their answers. A part that has been
    committed comes back as replays.
    """
    if isinstance(error, psycopg.Error):
        refused = isinstance(error, psycopg.DataError | psycopg.IntegrityError)
        return refused and not is_passing(error)
    return not isinstance(error, OSError)
