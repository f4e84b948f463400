"""Consuming commands: while a batch is posted, the next is read and the one before is answered.

A batch is posted when the outcomes of the one before are known, so commands of a partition stay in
order. At most three batches are in memory. A crash between the commit in PostgreSQL and that in
Kafka repeats the commands, which are replays then. After any fault of Kafka everything begins again
from the offsets that were committed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from confluent_kafka import KafkaException

from ledgerservice.commands.broker import LARGEST_BYTES, Batch, KafkaFault, Result, Sink, Source
from ledgerservice.commands.posting import Posting
from ledgerservice.feed.kafka import Address, Remarks, make_topics, text_of
from ledgerservice.feed.threads import call
from ledgerservice.runtime import Runtime

log = logging.getLogger(__name__)

REST_S = 1.0  # a batch is posted for so long before the partitions are paused
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0

T = TypeVar("T")


async def keep_consuming(
    runtime: Runtime, address: Address, instance: str, report: Callable[[int], None]
) -> None:
    """Consume until cancelled. `instance` is the same after a restart, and no other process's.

    `report` gets the number of commands of each batch that was answered.
    """
    pause_s, faults = FIRST_PAUSE_S, 0
    while True:
        try:
            async with _consuming(runtime, address, instance) as consuming:
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
    runtime: Runtime, address: Address, instance: str
) -> AsyncIterator["_Consuming"]:
    remarks = Remarks()
    prefix = address.prefix
    dead = {"max.message.bytes": str(LARGEST_BYTES)}
    topics = {f"{prefix}.commands": {}, f"{prefix}.results": {}, f"{prefix}.dead": dead}
    with ThreadPoolExecutor(1, "commands") as reader, ThreadPoolExecutor(1, "results") as writer:
        try:
            await call(writer, make_topics, address, remarks, topics)
            sink = await call(writer, Sink, address, remarks, instance)
            source = await call(reader, Source, address, remarks)
        except KafkaException as error:
            raise _fault(address, error, remarks) from error
        try:
            yield _Consuming(Posting(runtime), source, sink, reader, writer)
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
            batch, written = await self._next(), None
            while True:
                reading = self._start(self._next())
                results = await self._posted(batch, reading)
                if written is not None:
                    yield await written
                written = self._start(self._write(batch, results))
                if not reading.done():
                    await asyncio.wait([reading, written], return_when=asyncio.FIRST_COMPLETED)
                if written.done():
                    yield await written
                    written = None
                batch = await reading
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _next(self) -> Batch:
        while True:
            batch: Batch = await call(self._reader, self._source.read)
            if batch.commands:
                return batch

    async def _posted(self, batch: Batch, reading: "asyncio.Task[Batch]") -> Sequence[Result]:
        """The results of a batch. Nothing is fetched while they take long."""
        if batch.term != self._source.term:
            return []
        posting = self._start(self._posting.results(batch.commands))
        while not (await asyncio.wait([posting], timeout=REST_S))[0]:
            if reading.done():
                await call(self._reader, self._source.rest)
        results: list[Result] = await posting
        return results

    async def _write(self, batch: Batch, results: Sequence[Result]) -> int:
        """Answer a batch; not one whose partitions were taken away, which is read again."""
        if not results or batch.term != self._source.term:
            return 0
        await call(self._writer, self._sink.write, batch, results)
        return len(results)
