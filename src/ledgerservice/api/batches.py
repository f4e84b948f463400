"""POST /batches: many movements a request, as one JSON object or as a stream of lines.

Each item gets the answer that its own request would have got, in the order of the items.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import UNSET, Raw, UnsetType
from starlette.types import Receive, Send
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random

from ledgerservice.api import rendering
from ledgerservice.api.bodies import Headers, read_body
from ledgerservice.api.handlers import Reply, problem_of
from ledgerservice.api.movements import read_item
from ledgerservice.api.problems import Refused, problem
from ledgerservice.errors import Overloaded
from ledgerservice.model import Failed, Group, Movement, Outcome, Outcomes, Recorded, Rejected
from ledgerservice.runtime import Runtime

log = logging.getLogger(__name__)

NDJSON = "application/x-ndjson"
CHUNKS_IN_FLIGHT = 16
PIECE = 500  # items at once, before other requests have a turn

Item = Movement | Refused
Answer = tuple[int, bytes, bool]
"""An item's status and body, and whether it is a replay."""


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    movements: list[Raw]
    mode: str | UnsetType = UNSET


async def post_batch(runtime: Runtime, headers: Headers, receive: Receive) -> Reply:
    """Post the batch of a JSON body; answer when all of it is durable."""
    body = await read_body(headers, receive, runtime.settings, runtime.settings.max_batch_bytes)
    batch = _read(body, runtime.settings.max_batch_movements)
    items = await _read_items([bytes(raw) for raw in batch.movements])
    if batch.mode == "atomic":
        answers = await _post_linked(runtime, items)
    else:
        answers = await _post(runtime, items)
    results = b",".join(await _results(b"index", range(len(items)), answers))
    return 200, b'{"results":[%b]}' % results, {"content-type": "application/json"}


def _read(body: bytes, most: int) -> _Batch:
    """The batch of a body, its items still unread. Refuses what is not right."""
    try:
        batch = msgspec.json.decode(body, type=_Batch)
    except msgspec.ValidationError:
        raise _invalid("body", "must be {movements: [...], mode: independent or atomic}") from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise Refused("invalid_json") from None
    # Every colon that is not an item's belongs to a field; more of them are fields named twice.
    fields = body.count(b":") - sum(bytes(raw).count(b":") for raw in batch.movements)
    if fields != (1 if batch.mode is UNSET else 2):
        raise Refused("invalid_json")
    if batch.mode not in ("independent", "atomic", UNSET):
        raise _invalid("mode", "must be independent or atomic")
    if not 1 <= len(batch.movements) <= most:
        raise _invalid("movements", f"must be 1 to {most} items")
    return batch


def _invalid(field: str, message: str) -> Refused:
    return Refused("invalid_request", errors=[{"field": field, "message": message}])


async def _read_items(lines: Sequence[bytes]) -> list[Item]:
    items: list[Item] = []
    for start in range(0, len(lines), PIECE):
        items += map(_read_item, lines[start : start + PIECE])
        await asyncio.sleep(0)
    return items


def _read_item(line: bytes) -> Item:
    try:
        return read_item(line)
    except Refused as refused:
        return refused


async def _post(runtime: Runtime, items: Sequence[Item]) -> Iterator[Answer]:
    """The items' answers, each for itself."""
    movements = [item for item in items if isinstance(item, Movement)]
    outcomes: Outcomes = await runtime.movements.post(Group(movements)) if movements else []
    assert not isinstance(outcomes, Failed)
    following = iter(outcomes)
    return (_answer(next(following) if isinstance(item, Movement) else item) for item in items)


async def _post_linked(runtime: Runtime, items: Sequence[Item]) -> Iterator[Answer]:
    """The items' answers; if one fails none is posted, and the whole is refused."""
    for index, item in enumerate(items):
        if isinstance(item, Refused):
            raise Refused("batch_failed", index=index, cause={"code": item.code, **item.facts})
    movements = [item for item in items if isinstance(item, Movement)]
    outcomes = await runtime.movements.post(Group(movements, linked=True))
    if isinstance(outcomes, Failed):
        cause = rendering.cause(outcomes.outcome)
        raise Refused("batch_failed", index=outcomes.index, cause=cause)
    return map(_answer, outcomes)


def _answer(outcome: Outcome | Refused) -> Answer:
    if isinstance(outcome, Recorded):
        return *rendering.answer(outcome.transaction), outcome.replayed
    refused = Refused(outcome.reason.value) if isinstance(outcome, Rejected) else outcome
    status, body, _ = problem(refused.code, **refused.facts)
    return status, body, False


async def _results(name: bytes, numbers: Iterable[int], answers: Iterator[Answer]) -> list[bytes]:
    """What each item got, as JSON; `name` and `numbers` tell which item."""
    results: list[bytes] = []
    for number in numbers:
        status, body, replayed = next(answers)
        if len(results) % PIECE == PIECE - 1:
            await asyncio.sleep(0)
        told = b"true" if replayed else b"false"
        results.append(
            b'{"%b":%d,"status":%d,"replayed":%b,"body":%b}' % (name, number, status, told, body)
        )
    return results


async def post_stream(runtime: Runtime, receive: Receive, send: Send) -> None:
    """Post the movements of a body of lines, and answer line by line as they are durable.

    Reading stops while so many chunks are in flight, or while the answers are not taken.
    """
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", NDJSON.encode())],
        }
    )
    await send({"type": "http.response.body", "body": b"", "more_body": True})
    chunks: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(CHUNKS_IN_FLIGHT)
    reading = asyncio.create_task(_read_stream(runtime, receive, chunks))
    try:
        while (chunk := await chunks.get()) is not None:
            await send({"type": "http.response.body", "body": await chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        reading.cancel()


async def _read_stream(
    runtime: Runtime, receive: Receive, chunks: "asyncio.Queue[asyncio.Task[bytes] | None]"
) -> None:
    """Post what comes, as it comes; at the end None."""
    number, rest, more = 1, b"", True
    try:
        while more:
            async with asyncio.timeout(runtime.settings.stream_idle_s):
                message = await receive()
            more = message.get("more_body", False)
            *lines, rest = (rest + message.get("body", b"")).split(b"\n")
            if not more or len(rest) > runtime.settings.max_body_bytes:
                lines.append(rest)
                more = False
            if lines:
                task = asyncio.create_task(_post_lines(runtime, number, lines))
                await chunks.put(task)
                number += len(lines)
    except TimeoutError:
        log.info("a stream was silent for %s s and is ended", runtime.settings.stream_idle_s)
    except Exception:
        log.exception("a stream could not be read on")
    await chunks.put(None)


async def _post_lines(runtime: Runtime, first: int, lines: list[bytes]) -> bytes:
    """The answers to lines, the first of which has the number `first`; blank ones get none."""
    numbers = [first + place for place, line in enumerate(lines) if line.strip()]
    items = await _read_items([line for line in lines if line.strip()])
    most = runtime.settings.max_body_bytes
    items = [
        Refused("body_too_large", max_bytes=most) if len(lines[number - first]) > most else item
        for number, item in zip(numbers, items, strict=True)
    ]
    try:
        answers = await _patiently(runtime, items)
    except Exception as error:  # noqa: BLE001  (every line is answered)
        status, body, _ = problem_of(error)
        answers = iter([(status, body, False)] * len(items))
    return b"".join(line + b"\n" for line in await _results(b"line", numbers, answers))


async def _patiently(runtime: Runtime, items: Sequence[Item]) -> Iterator[Answer]:
    """A stream waits where a single request is refused: nobody reads on meanwhile."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(Overloaded),
        stop=stop_after_delay(runtime.settings.request_deadline_s),
        wait=wait_random(0.02, 0.1),
        reraise=True,
    )
    return await retrying(_post, runtime, items)
