"""POST /batches: many movements a request, as one JSON object or as a stream of lines.

Each item gets the answer that its own request would have got, in the order of the items.
"""

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType
from starlette.types import Send
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random

from ledgerservice.api.http.bodies import header_values, read_body, received
from ledgerservice.api.http.problems import ProblemError, problem, rejection
from ledgerservice.api.movements import answers as rendering
from ledgerservice.api.movements.parsing import fast_item, read_item
from ledgerservice.api.movements.posting import Call, Reply, check_force, problem_of
from ledgerservice.domain.instructions import Group, Instruction
from ledgerservice.domain.transactions import Failed, Outcome, Outcomes, Recorded, Rejected
from ledgerservice.errors import Overloaded

log = logging.getLogger(__name__)

NDJSON = "application/x-ndjson"
CHUNKS_IN_FLIGHT = 16
MAX_LINKED = 500  # of an item
PIECE = 500  # items at once, before other requests have a turn

Item = Instruction | ProblemError | list[Any]
"""What an item asks for, why it cannot be, or the items that it links."""
Answer = tuple[int, bytes, bool]
"""An item's status and body, and whether it is a replay."""


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    movements: list[Raw]
    mode: str | UnsetType = UNSET


class _Linked(msgspec.Struct, forbid_unknown_fields=True):
    linked: list[Raw]


async def post_batch(call: Call) -> Reply:
    """Post the batch of a JSON body; answer when all of it is durable."""
    settings = call.runtime.settings
    body = await read_body(call.headers, call.receive, settings, settings.max_batch_bytes)
    batch = _read(body, settings.max_batch_movements)
    items = await _read_items(call, [bytes(raw) for raw in batch.movements])
    if sum(len(item) if isinstance(item, list) else 1 for item in items) > (
        settings.max_batch_movements
    ):
        raise _too_many(settings.max_batch_movements)
    if batch.mode == "atomic":
        answers = await _post_linked(call, items)
    else:
        answers = await _enter(call, items)
    results = b",".join(await _results(b"index", range(len(items)), answers))
    return 200, b'{"results":[%b]}' % results, {"content-type": "application/json"}


def refuse_key(call: Call) -> None:
    """Whoever sends one for the whole takes it for what it is not."""
    if header_values(call.headers, b"idempotency-key"):
        raise _invalid("Idempotency-Key", "each item has its own key, in the item")


def _read(body: bytes, most: int) -> _Batch:
    """The batch of a body, its items still unread. Refuses what is not right."""
    try:
        batch = msgspec.json.decode(body, type=_Batch)
    except msgspec.ValidationError:
        raise _invalid("body", "must be {movements: [...], mode: independent or atomic}") from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise ProblemError("invalid_json") from None
    if not 1 <= len(batch.movements) <= most:
        raise _too_many(most)
    # Every colon that is not an item's belongs to a field; more of them are fields named twice.
    fields = body.count(b":") - sum(bytes(raw).count(b":") for raw in batch.movements)
    if fields != (1 if batch.mode is UNSET else 2):
        raise ProblemError("invalid_json")
    if batch.mode not in ("independent", "atomic", UNSET):
        raise _invalid("mode", "must be independent or atomic")
    return batch


def _too_many(most: int) -> ProblemError:
    return _invalid("movements", f"must be 1 to {most} items")


def _invalid(field: str, message: str) -> ProblemError:
    return ProblemError("invalid_request", errors=[{"field": field, "message": message}])


async def _read_items(call: Call, lines: Sequence[bytes]) -> list[Item]:
    items: list[Item] = []
    for start in range(0, len(lines), PIECE):
        items += [_read_item(call, line) for line in lines[start : start + PIECE]]
        await asyncio.sleep(0)
    return items


def _read_item(call: Call, line: bytes) -> Item:
    try:
        asked = fast_item(line)
        if asked is not None:
            return asked
        linked = _linked(line)
        if linked is not None:
            return [_read_linked(call, bytes(raw)) for raw in linked]
        return _read_linked(call, line)
    except ProblemError as refused:
        return refused


def _read_linked(call: Call, line: bytes) -> Instruction | ProblemError:
    most = call.runtime.settings.max_body_bytes
    if len(line) > most:
        return ProblemError("body_too_large", max_bytes=most)
    try:
        asked = read_item(line)
        check_force(call, asked)
    except ProblemError as refused:
        return refused
    return asked


def _linked(line: bytes) -> list[Raw] | None:
    """The items that an item links; None if it links none."""
    try:
        linked = msgspec.json.decode(line, type=_Linked).linked
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if line.count(b":") != 1 + sum(bytes(raw).count(b":") for raw in linked):
        raise ProblemError("invalid_json")
    if not 1 <= len(linked) <= MAX_LINKED:
        raise _invalid("linked", f"must be 1 to {MAX_LINKED} items")
    return linked


def _enter(call: Call, items: Sequence[Item]) -> Awaitable[Iterator[Answer]]:
    """The items' answers to come, each for itself; what an item links is posted together or not at
    all. Their place is that of this call: raises Overloaded.
    """
    refused = [_first_refused(item) for item in items]
    asked = [
        tuple(item) if isinstance(item, list) else item
        for item, fault in zip(items, refused, strict=True)
        if fault is None
    ]
    group = Group(asked, ledger=call.ledger, dry_run=call.dry_run)  # type: ignore[arg-type]
    return _answers(refused, call.runtime.movements.enter(group) if asked else None)


async def _answers(
    refused: Sequence[ProblemError | None], coming: Awaitable[Outcomes] | None
) -> Iterator[Answer]:
    outcomes: Outcomes = [] if coming is None else await coming
    assert not isinstance(outcomes, Failed)
    following = iter(outcomes)
    return (_answer(next(following) if fault is None else fault) for fault in refused)


def _first_refused(item: Item) -> ProblemError | None:
    """Why an item cannot be posted, or None. Of what is linked nothing can, if one cannot."""
    if isinstance(item, ProblemError):
        return item
    for index, one in enumerate(item if isinstance(item, list) else ()):
        if isinstance(one, ProblemError):
            cause = {"code": one.code, **one.facts}
            return ProblemError("batch_failed", index=index, cause=cause)
    return None


async def _post_linked(call: Call, items: Sequence[Item]) -> Iterator[Answer]:
    """The items' answers; if one fails none is posted, and the whole is refused."""
    for index, item in enumerate(items):
        if isinstance(item, list):
            raise _invalid("movements", "an atomic batch is linked already")
        if isinstance(item, ProblemError):
            raise ProblemError("batch_failed", index=index, cause={"code": item.code, **item.facts})
    group = Group(items, linked=True, ledger=call.ledger, dry_run=call.dry_run)  # type: ignore[arg-type]
    outcomes = await call.runtime.movements.post(group)
    if isinstance(outcomes, Failed):
        raise _failed(outcomes)
    return map(_answer, outcomes)


def _failed(failed: Failed) -> ProblemError:
    return ProblemError("batch_failed", index=failed.index, cause=rendering.cause(failed.outcome))


def _answer(outcome: Outcome | Failed | list[Outcome] | ProblemError) -> Answer:
    if isinstance(outcome, Recorded):
        return *rendering.answer(outcome.transaction), outcome.replayed
    if isinstance(outcome, list):
        results = b",".join(_result(b"index", n, _answer(one)) for n, one in enumerate(outcome))
        replayed = all(one.replayed for one in outcome if isinstance(one, Recorded))
        return 200, b'{"results":[%b]}' % results, replayed
    if isinstance(outcome, Failed):
        refused = _failed(outcome)
    else:
        refused = rejection(outcome) if isinstance(outcome, Rejected) else outcome
    status, body, _ = problem(refused.code, **refused.facts)
    return status, body, False


def _result(name: bytes, number: int, answer: Answer) -> bytes:
    """What an item got, as JSON; `name` and `number` tell which item."""
    status, body, replayed = answer
    told = b"true" if replayed else b"false"
    return b'{"%b":%d,"status":%d,"replayed":%b,"body":%b}' % (name, number, status, told, body)


async def _results(name: bytes, numbers: Iterable[int], answers: Iterator[Answer]) -> list[bytes]:
    results: list[bytes] = []
    for number in numbers:
        if len(results) % PIECE == PIECE - 1:
            await asyncio.sleep(0)
        results.append(_result(name, number, next(answers)))
    return results


async def rehearse_stream(call: Call) -> Reply:
    """The answers that the lines of a body would get if they came now, one after another. They are
    rehearsed together, so there may be no more of them than of a batch in JSON.
    """
    settings = call.runtime.settings
    body = await received(call.headers, call.receive, settings, settings.max_batch_bytes)
    lines = body.split(b"\n")
    if sum(1 for line in lines if line.strip()) > settings.max_batch_movements:
        raise _too_many(settings.max_batch_movements)
    answers = await (await _enter_lines(call, 1, lines))
    return 200, answers, {"content-type": NDJSON}


async def post_stream(call: Call, send: Send) -> None:
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
    reading = asyncio.create_task(_read_stream(call, chunks))
    try:
        while (chunk := await chunks.get()) is not None:
            await send({"type": "http.response.body", "body": await chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    finally:
        reading.cancel()


async def _read_stream(call: Call, chunks: "asyncio.Queue[asyncio.Task[bytes] | None]") -> None:
    """Post what comes, as it comes; at the end None."""
    number, rest, more = 1, b"", True
    settings = call.runtime.settings
    try:
        while more:
            async with asyncio.timeout(settings.stream_idle_s):
                message = await call.receive()
            more = message.get("more_body", False)
            *lines, rest = (rest + message.get("body", b"")).split(b"\n")
            if not more or len(rest) > settings.max_body_bytes:
                lines.append(rest)
                more = False
            if lines:
                task = asyncio.create_task(await _enter_lines(call, number, lines))
                await chunks.put(task)
                number += len(lines)
    except TimeoutError:
        log.info("a stream was silent for %s s and is ended", settings.stream_idle_s)
    except Exception:
        log.exception("a stream could not be read on")
    await chunks.put(None)


async def _enter_lines(call: Call, first: int, lines: list[bytes]) -> Coroutine[Any, Any, bytes]:
    """The answers to come to lines, the first of which has the number `first`; blank ones get
    none. When this returns they have their place in the queue, before all lines after them.
    """
    numbers = [first + place for place, line in enumerate(lines) if line.strip()]
    items = await _read_items(call, [line for line in lines if line.strip()])
    most = call.runtime.settings.max_body_bytes
    items = [
        ProblemError("body_too_large", max_bytes=most)
        if len(lines[number - first]) > most
        else item
        for number, item in zip(numbers, items, strict=True)
    ]
    try:
        coming = await _patiently(call, items)
    except Exception as error:  # noqa: BLE001  (every line is answered)
        coming = _failing(error)
    return _answer_lines(numbers, coming)


async def _failing(error: Exception) -> Iterator[Answer]:
    raise error


async def _answer_lines(numbers: list[int], coming: Awaitable[Iterator[Answer]]) -> bytes:
    try:
        answers = await coming
    except Exception as error:  # noqa: BLE001  (every line is answered)
        status, body, _ = problem_of(error)
        answers = iter([(status, body, False)] * len(numbers))
    return b"".join(line + b"\n" for line in await _results(b"line", numbers, answers))


async def _patiently(call: Call, items: Sequence[Item]) -> Awaitable[Iterator[Answer]]:
    """A stream waits where a single request is refused: nobody reads on meanwhile."""
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(Overloaded),
        stop=stop_after_delay(call.runtime.settings.request_deadline_s),
        wait=wait_random(0.02, 0.1),
        reraise=True,
    )

    async def enter() -> Awaitable[Iterator[Answer]]:
        return _enter(call, items)

    return await retrying(enter)
