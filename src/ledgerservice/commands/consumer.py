"""Consuming commands: while a batch is posted, the next is parsed and the one before is answered.

Each of the three has a thread: PostgreSQL never waits for a parser or an answer. A batch is posted
when the outcomes of the one before are known, so commands of a partition stay in order. At most
three batches are in memory. A crash between the commit in PostgreSQL and that in
Kafka repeats the commands, which are replays then. After any fault of Kafka everything begins again
from the offsets that were committed.
"""

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from confluent_kafka import KafkaException

from ledgerservice.commands.broker import LARGEST_BYTES, Batch, KafkaFault, Sink, Source, Topics
from ledgerservice.commands.posting import Decided, Posting, Prepared, named, results_of
from ledgerservice.feed.kafka import Address, Remarks, make_topics, text_of
from ledgerservice.feed.threads import call
from ledgerservice.shards import Shards

log = logging.getLogger(__name__)

REST_S = 1.0  # a batch is posted for so long before the partitions are paused
SWITCH_S = 0.0005  # for which a thread waits for another one; Python has 0.005
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0

T = TypeVar("T")


def tune_process() -> None:
    """For a process that only consumes: its threads and its garbage collector wait less."""
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()


async def keep_consuming(
    shards: Shards,
    address: Address,
    instance: str,
    report: Callable[[int], None],
    principal_id: int = 0,
) -> None:
    """Consume until cancelled. `instance` is the same after a restart, and no other process's.

    `report` gets the number of commands of each batch that was answered. `principal_id` is who they
    are written by.
    """
    pause_s, faults = FIRST_PAUSE_S, 0
    while True:
        try:
            async with _consuming(shards, address, instance, principal_id) as consuming:
                async for number in consuming.batches():
                    report(number)
                    pause_s, faults = FIRST_PAUSE_S, 0
        except KafkaFault as error:
            faults += 1
            if faults == 1:
                log.warning("%s", error)
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


@asynccontextmanager
async def _consuming(
    shards: Shards, address: Address, instance: str, principal_id: int
) -> AsyncIterator["_Consuming"]:
    remarks = Remarks()
    commands, answers, dead = Topics.of(address.prefix)
    topics = {commands: {}, answers: {}, dead: {"max.message.bytes": str(LARGEST_BYTES)}}
    with ThreadPoolExecutor(1, "commands") as reader, ThreadPoolExecutor(1, "results") as writer:
        try:
            await call(writer, make_topics, address, remarks, topics)
            sink = await call(writer, Sink, address, remarks, instance)
            source = await call(reader, Source, address, remarks)
        except KafkaException as error:
            raise _fault(address, error, remarks) from error
        try:
            yield _Consuming(Posting(shards, principal_id), source, sink, reader, writer)
        except KafkaException as error:
            raise _fault(address, error, remarks) from error
        finally:
            await call(reader, source.close)


def _fault(address: Address, error: KafkaException, remarks: Remarks) -> KafkaFault:
    return KafkaFault(f"{address.name}: {text_of(error, remarks)}.")


class _Consuming:
    """A connected consumer."""

    def __init__(
        self,
        posting: Posting,
        source: Source,
        sink: Sink,
        reader: ThreadPoolExecutor,
        writer: ThreadPoolExecutor,
    ) -> None:
        self._posting = posting
        self._source = source
        self._sink = sink
        self._reader = reader
        self._writer = writer
        self._tasks: set[asyncio.Task[Any]] = set()

    async def batches(self) -> AsyncIterator[int]:
        """Post batches and answer them; after each, its number of commands."""
        try:
            (batch, prepared), written = await self._next(), None
            while True:
                reading = self._start(self._next())
                decided = await self._posted(batch, prepared, reading)
                if written is not None:
                    yield await written
                written = self._start(self._write(batch, decided))
                if not reading.done():
                    await asyncio.wait([reading, written], return_when=asyncio.FIRST_COMPLETED)
                if written.done():
                    yield await written
                    written = None
                batch, prepared = await reading
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _next(self) -> tuple[Batch, Prepared]:
        """The next commands, parsed."""
        batch: Batch | None = None
        while batch is None or not batch.commands:
            batch = await call(self._reader, self._source.read)
        names = await call(self._reader, named, batch.commands)
        known: dict[str, int | None] = {}
        if names:
            finding = self._start(self._posting.ledgers(set().union(*names.values())))
            known = await self._resting(finding)
        posting = self._posting
        return batch, await call(self._reader, posting.prepared, batch.commands, names, known)

    async def _posted(
        self, batch: Batch, prepared: Prepared, reading: "asyncio.Task[Any]"
    ) -> Sequence[Decided]:
        """What is decided of a batch."""
        if batch.term != self._source.term:
            return []
        return await self._resting(self._start(self._posting.post(prepared)), reading)

    async def _resting(
        self, work: "asyncio.Task[T]", reading: "asyncio.Task[Any] | None" = None
    ) -> T:
        """The result of work. Nothing is fetched while it takes long, once `reading` is done."""
        while not (await asyncio.wait([work], timeout=REST_S))[0]:
            if reading is None or reading.done():
                await call(self._reader, self._source.rest)
        return await work

    async def _write(self, batch: Batch, decided: Sequence[Decided]) -> int:
        """Answer a batch; not one whose partitions were taken away, which is read again."""
        if not decided or batch.term != self._source.term:
            return 0
        await call(self._writer, self._answer, batch, decided)
        return len(decided)

    def _answer(self, batch: Batch, decided: Sequence[Decided]) -> None:
        self._sink.write(batch, results_of(decided))
