"""Calls that wait at the same time go out together.

There is no timer: what is called in one round of the event loop is sent at its end.
"""

import asyncio
from collections import deque
from copy import copy
from time import monotonic

from ledgerservice.client.connection import Connection
from ledgerservice.client.errors import (
    Answer,
    ClientClosed,
    ClientError,
    NoAnswer,
    error_of,
    no_answer,
)
from ledgerservice.client.items import Item
from ledgerservice.client.retries import pause_s
from ledgerservice.client.streams import Stream

OK = 200
MOST_ITEMS = 1_000
"""Of a piece of a stream, or of a batch."""
HEAD_S = 5.0
"""A stream without the head of an answer for so long is behind a proxy that keeps requests until
their end.
"""
IDLE_S, OLD_S = 2.0, 10.0
"""When a stream ends: an open one would keep the service from stopping."""
STEP_S = 0.5
FAREWELL_S = 1.0
"""To read the answer of a stream that can no longer be written."""
REFUSED_STREAMS = {"stream_not_signed", "length_required", "http_411", "http_501"}


class _Waiting:
    """An item, and the caller that waits for its answer until `end_s` of the clock."""

    __slots__ = ("answer", "end_s", "failures", "fault", "item")

    def __init__(self, item: Item, answer: "asyncio.Future[bytes]", end_s: float) -> None:
        self.item = item
        self.answer = answer
        self.end_s = end_s
        self.failures = 0
        self.fault: ClientError | None = None


class Gathering:
    """The queue of a client, of at most `limit` items, those in flight included.

    An item keeps its place until its answer is final, and is sent again with its key meanwhile:
    perhaps twice on the wire, once in the ledger. Items go as lines of one stream; or in batches if
    the requests are signed, or if something between client and service does not let streams pass.
    """

    def __init__(self, connection: Connection, *, limit: int) -> None:
        self._connection = connection
        self._queue: deque[_Waiting] = deque()
        self._places = asyncio.Semaphore(limit)
        self._in_flight: dict[int, _Waiting] = {}
        self._lines = 0
        self._since_s = 0.0  # something has been in flight
        self._sender: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._calls = 0
        self._no_calls = asyncio.Event()
        self._no_calls.set()
        self._failures = 0
        self._fault: ClientError | None = None  # of the last stream or batch as a whole
        self._resume_s = 0.0
        self._streams = connection.may_stream
        self._is_closed = False

    async def post(self, item: Item) -> bytes:
        """The body of the answer to an item. Waits for a place in the queue. Raises ClientError."""
        if self._is_closed:
            raise ClientClosed
        end_s = monotonic() + self._connection.give_up_s
        await self._enter()
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._enqueue(_Waiting(item, answer, end_s))
        return await answer

    async def aclose(self) -> None:
        """Take no further items, and return when all have their answers."""
        self._is_closed = True
        await self._no_calls.wait()
        self._wake.set()
        if self._sender is not None:
            await self._sender

    async def _enter(self) -> None:
        """Wait for a place. Who waits counts as a call, so that closing waits for it too."""
        self._calls += 1
        self._no_calls.clear()
        try:
            await self._places.acquire()
        except BaseException:
            self._count_out()
            raise

    def _leave(self) -> None:
        self._places.release()
        self._count_out()

    def _count_out(self) -> None:
        self._calls -= 1
        if not self._calls:
            self._no_calls.set()

    def _enqueue(self, waiting: _Waiting) -> None:
        self._queue.append(waiting)
        self._wake.set()
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())

    async def _send_all(self) -> None:
        """Send what is queued, until nothing is. Nothing is in flight between two streams."""
        try:
            while self._queue:
                if (wait_s := self._resume_s - monotonic()) > 0:
                    await asyncio.sleep(wait_s)
                elif batch := self._next():
                    await (self._stream(batch) if self._streams else self._post(batch))
        except BaseException as error:  # such as the end of the event loop
            for waiting in (*self._in_flight.values(), *self._queue):
                self._fail(waiting, error)
            self._in_flight.clear()
            self._queue.clear()
            raise
        finally:
            self._sender = None

    def _next(self) -> list[_Waiting]:
        """The items that are sent next, without those whose caller has gone or gives up."""
        batch: list[_Waiting] = []
        now_s = monotonic()
        while self._queue and len(batch) < MOST_ITEMS:
            waiting = self._queue.popleft()
            fault = waiting.fault or self._fault
            if waiting.answer.done():
                self._leave()
            elif fault is not None and waiting.end_s <= now_s:
                self._fail(waiting, fault)
            else:
                batch.append(waiting)
        return batch

    def _depart(self, batch: list[_Waiting]) -> list[bytes]:
        """Note items as in flight; their lines."""
        if not self._in_flight:
            self._since_s = monotonic()
        for number, waiting in enumerate(batch, self._lines + 1):
            self._in_flight[number] = waiting
        self._lines += len(batch)
        return [waiting.item.line for waiting in batch]

    async def _post(self, batch: list[_Waiting]) -> None:
        """Send items as a batch in JSON."""
        self._lines, fault = 0, None
        try:
            answers = await self._connection.post_batch(self._depart(batch))
            for number, answer in enumerate(answers, 1):
                self._take(number, answer)
        except ClientError as error:
            # It was not the stream, then.
            self._streams, fault = self._connection.may_stream, error
        self._finish(fault)

    async def _stream(self, batch: list[_Waiting]) -> None:
        """Send items as lines, and what is queued meanwhile, while the stream is not old."""
        self._lines = 0
        lines = self._depart(batch)
        try:
            async with asyncio.timeout(self._connection.timeout_s):
                stream = await self._connection.open_stream(self._take)
        except OSError as error:  # TimeoutError is one
            self._finish(no_answer(error))
            return
        stream.reading.add_done_callback(lambda _: self._wake.set())
        try:
            await self._feed(stream, lines)
        except OSError as error:
            await asyncio.wait([stream.reading], timeout=FAREWELL_S)
            stream.fault = stream.fault or no_answer(error)
        finally:
            stream.close()
        self._finish(stream.fault)

    async def _feed(self, stream: Stream, lines: list[bytes]) -> None:
        """Write lines until the stream ends. Raises OSError."""
        begun_s = idle_since_s = monotonic()
        while not stream.reading.done():
            if lines:
                async with asyncio.timeout(self._connection.timeout_s):
                    await stream.send(lines)
            now_s = monotonic()
            if self._in_flight:
                idle_since_s = now_s
                self._check(stream, begun_s, now_s)
            if now_s - idle_since_s > IDLE_S or now_s - begun_s > OLD_S or self._is_closing:
                stream.end()
                async with asyncio.timeout(self._connection.timeout_s):
                    await asyncio.wait([stream.reading])
                return
            lines = await self._more_lines()

    @property
    def _is_closing(self) -> bool:
        return self._is_closed and not self._calls

    async def _more_lines(self) -> list[bytes]:
        """The lines that are sent next; none after STEP_S, or when the stream has ended."""
        if not self._queue:
            self._wake.clear()
            try:
                async with asyncio.timeout(STEP_S):
                    await self._wake.wait()
            except TimeoutError:
                return []
        return self._depart(self._next())

    def _check(self, stream: Stream, begun_s: float, now_s: float) -> None:
        """Raise TimeoutError if what is in flight gets no answer."""
        if not stream.is_answered and now_s - begun_s > HEAD_S:
            self._streams = False
            raise TimeoutError("the stream was not answered")
        if now_s - max(stream.active_s, self._since_s) > self._connection.timeout_s:
            raise TimeoutError("the stream stands still")

    def _take(self, number: int, answer: Answer) -> None:
        """Give an answer to its caller, or send the item again a little later. Raises NoAnswer."""
        waiting = self._in_flight.pop(number, None)
        if waiting is None:
            raise NoAnswer("no_answer", "A line was answered that was not sent, or twice.")
        if answer.status == OK:
            self._leave()
            if not waiting.answer.done():
                waiting.answer.set_result(answer.body)
            return
        waiting.fault = error_of(answer)
        wait_s = pause_s(waiting.failures)
        if not waiting.fault.passes or monotonic() + wait_s > waiting.end_s:
            self._fail(waiting, waiting.fault)
            return
        waiting.failures += 1
        asyncio.get_running_loop().call_later(wait_s, self._enqueue, waiting)

    def _finish(self, fault: ClientError | None) -> None:
        """The end of a stream or batch. What has no answer is put in front of the queue, or gets
        the fault; all others wait too, because the fault is not of one item.
        """
        self._fault = fault
        if fault is None and self._in_flight:
            fault = NoAnswer("no_answer", "The answer ended before its end.")
        if fault is None:
            return
        remaining = [*self._in_flight.values()]
        self._in_flight.clear()
        if fault.code in REFUSED_STREAMS and self._streams:
            self._streams = False
        elif fault.passes:
            wait_s = pause_s(self._failures, fault.retry_after_s)
            self._failures += 1
            self._fault = fault
            self._resume_s = monotonic() + min(wait_s, self._connection.give_up_s)
        else:
            for waiting in remaining:
                self._fail(waiting, fault)
            return
        self._queue.extendleft(reversed(remaining))

    def _fail(self, waiting: _Waiting, fault: BaseException) -> None:
        """Raise a copy of the fault in the caller."""
        self._leave()
        if waiting.answer.done():
            return
        if not isinstance(fault, Exception):
            waiting.answer.cancel()
            return
        error = copy(fault)
        if isinstance(error, ClientError):
            error.key = waiting.item.key
        waiting.answer.set_exception(error)
