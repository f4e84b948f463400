"""POST /batches as a stream of lines, each of which is answered when it is durable."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import msgspec
from starlette.types import Send

from ledgerservice.access.grants import Caller
from ledgerservice.api.http.bodies import received
from ledgerservice.api.http.call import Call
from ledgerservice.api.http.fields import JsonObject
from ledgerservice.api.http.problems import ProblemError, Reply, problem, problem_of
from ledgerservice.api.http.streams import log_departure
from ledgerservice.api.movements.approving import put_aside
from ledgerservice.api.movements.batches import (
    Answer,
    entered,
    read_items,
    results_of,
    too_many,
)
from ledgerservice.api.movements.queueing import patiently
from ledgerservice.errors import LedgerError, Overloaded
from ledgerservice.posting.bounds import Share
from ledgerservice.shards import Home

log = logging.getLogger(__name__)

NDJSON = "application/x-ndjson"
CHUNKS_IN_FLIGHT = 16
BLANK_LINES = 5  # of a rehearsed body, for each line that it may have
STEP_S = 1.0
LINES_AT_ONCE = 2_000  # of a stream, however many arrive together
REFUSED = range(400, 500)

Find = Callable[[], Awaitable[Home]]
"""Where the ledger of a stream is. Raises LedgerError if it cannot be used now."""
Chunks = asyncio.Queue[tuple[asyncio.Task[bytes], int] | None]
"""The future answers of each chunk of a stream, and the bytes of the chunk."""


class LineResult(msgspec.Struct, gc=False):
    """The answer to a line: the status and the body that its own request would get."""

    line: int
    status: int
    replayed: bool
    body: JsonObject


def _unless_refused(answer: Answer) -> Answer:
    """The answer of a place that the ledger has left: what it has recorded counts."""
    status, body, _ = answer
    if status not in REFUSED:
        return answer
    status, body, _ = problem("ledger_moving")
    return status, body, False


async def rehearse_stream(call: Call) -> Reply:
    """The answers that the lines of a body would get if they were posted now, one after another.

    They are rehearsed together, so their number is limited like that of a batch in JSON.
    """
    settings = call.runtime.settings
    body = await received(call, settings.max_batch_bytes)
    if body.count(b"\n") > BLANK_LINES * settings.max_batch_movements:
        raise too_many(settings.max_batch_movements)
    lines = body.split(b"\n")
    number = sum(1 for line in lines if line.strip())
    if number > settings.max_batch_movements:
        raise too_many(settings.max_batch_movements)
    call.caller.meter.take_items(max(1, number))
    answers = await (await _enter_lines(call, 1, lines))
    return 200, answers, {"content-type": NDJSON}


async def post_stream(call: Call, now: Callable[[], Caller], find: Find, send: Send) -> None:
    """Post the lines of a body, and answer each line when it is durable.

    `now` is the caller as it is now: the lines that come after its key has ended are refused.
    `find` is where the ledger is now: it may move in the middle of a stream.

    Reading pauses while CHUNKS_IN_FLIGHT chunks are in flight, while the client does not read, and
    while the limits of its key say so: no line is refused for them.
    """
    headers = [(b"content-type", NDJSON.encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": True})
    chunks: Chunks = asyncio.Queue(CHUNKS_IN_FLIGHT)
    share = Share(call.runtime.body_budget)
    reading = asyncio.create_task(_read_stream(call, now, find, chunks, share))
    try:
        while (chunk := await chunks.get()) is not None:
            answers, size = chunk
            await send({"type": "http.response.body", "body": await answers, "more_body": True})
            share.give(size)
        await send({"type": "http.response.body", "body": b""})
    finally:
        reading.cancel()


async def _read_stream(
    call: Call, now: Callable[[], Caller], find: Find, chunks: Chunks, share: Share
) -> None:
    """Post each chunk when it arrives, and queue its future answers; None ends the queue.

    A stream that finds no room in the budget ends there, and its last lines are refused.
    """
    number, rest, more = 1, b"", True
    settings = call.runtime.settings
    try:
        while more:
            await _pay_debt(now)
            async with asyncio.timeout(settings.stream_idle_s):
                message = await call.receive()
            if message["type"] == "http.disconnect":
                log_departure()
            call = call._replace(caller=now())
            call.caller.meter.owe(0, len(message.get("body", b"")))
            body, more = message.get("body", b""), message.get("more_body", False)
            size, fault = len(rest) + len(body), _no_room(share, len(body))
            *lines, rest = (rest + body).split(b"\n")
            if not more or len(rest) > settings.max_body_bytes or fault:
                lines.append(rest)
                rest, more = b"", False
            taken = 0 if fault else size - len(rest)
            for start in range(0, len(lines), LINES_AT_ONCE):
                part = lines[start : start + LINES_AT_ONCE]
                is_last = start + LINES_AT_ONCE >= len(lines)
                call.caller.meter.owe(sum(map(bool, map(bytes.strip, part))), 0)
                answers = await _enter_at_home(call, find, number, part, fault)
                await chunks.put((asyncio.create_task(answers), taken if is_last else 0))
                number += len(part)
    except TimeoutError:
        log.info("a stream was idle for %s s and is ended", settings.stream_idle_s)
    except Exception:
        log.exception("reading a stream failed")
    await chunks.put(None)


async def _pay_debt(now: Callable[[], Caller]) -> None:
    """Wait until the key of a stream may send more. Its limits may change meanwhile."""
    while (wait_s := now().meter.debt_s()) > 0:  # noqa: ASYNC110  (time is what it waits for)
        await asyncio.sleep(min(wait_s, STEP_S))


def _no_room(share: Share, number: int) -> Overloaded | None:
    try:
        share.take(number)
    except Overloaded as error:
        return error
    return None


async def _enter_at_home(
    call: Call, find: Find, first: int, lines: list[bytes], fault: Exception | None
) -> Coroutine[Any, Any, bytes]:
    """Enter lines where the ledger is now. What a place refuses that it has left since may be
    right at its home: such a line can be sent again.
    """
    try:
        home = await find()
    except LedgerError as error:  # it is away, or not known
        return await _enter_lines(call, first, lines, fault or error)
    call = call._replace(runtime=home.runtime)
    return await _enter_lines(call, first, lines, fault, home.is_left)


async def _enter_lines(
    call: Call,
    first: int,
    lines: list[bytes],
    fault: Exception | None = None,
    is_left: Callable[[], bool] = bool,
) -> Coroutine[Any, Any, bytes]:
    """Enter lines into the queue, and return their future answers; `first` is the number of the
    first line. Blank lines get no answer. With a `fault` all are answered with it instead, and
    those that are refused get 503 if the ledger `is_left` meanwhile.
    """
    numbers = [first + place for place, line in enumerate(lines) if line.strip()]
    if fault is not None:
        return _answer_lines(call, numbers, _failing(fault))
    try:
        items = await read_items(call, [line for line in lines if line.strip()])
    except LedgerError as error:  # what they build on could not be read
        return _answer_lines(call, numbers, _failing(error))
    limit = call.runtime.settings.max_body_bytes
    items = [
        ProblemError("body_too_large", max_bytes=limit)
        if len(lines[number - first]) > limit
        else item
        for number, item in zip(numbers, items, strict=True)
    ]
    try:
        bodies = [line for line in lines if line.strip()]
        items = await put_aside(call, items, bodies, is_patient=True)
        future = await patiently(call, partial(entered, call, items))
    except Exception as error:  # noqa: BLE001  (every line is answered)
        future = _failing(error)
    return _answer_lines(call, numbers, future, is_left)


async def _failing(error: Exception) -> Iterator[Answer]:
    raise error


async def _answer_lines(
    call: Call,
    numbers: list[int],
    future: Awaitable[Iterator[Answer]],
    is_left: Callable[[], bool] = bool,
) -> bytes:
    try:
        answers = await future
        if is_left():
            answers = map(_unless_refused, answers)
    except Exception as error:  # noqa: BLE001  (every line is answered)
        status, body, _ = problem_of(error)
        answers = iter([(status, body, False)] * len(numbers))
    results = await results_of(call, LineResult, numbers, answers)
    return b"".join(line + b"\n" for line in results)
