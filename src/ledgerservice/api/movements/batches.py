"""POST /batches: many movements in one request, as a JSON object or as a stream of lines.

Each item gets the answer that its own request would get, in the order of the items.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from ledgerservice.api.http.bodies import (
    MAX_BATCH_VALUES,
    check_items,
    has_too_many_values,
    read_body,
)
from ledgerservice.api.http.call import Call, header_values
from ledgerservice.api.http.fields import JsonObject
from ledgerservice.api.http.problems import (
    ProblemError,
    Reply,
    invalid,
    problem_of,
    rejection,
)
from ledgerservice.api.http.turns import in_turns
from ledgerservice.api.movements.answers import answer, decided_on
from ledgerservice.api.movements.approving import Proposed, put_aside
from ledgerservice.api.movements.parents import with_parents
from ledgerservice.api.movements.parsing import fast_item, read_item
from ledgerservice.api.movements.permissions import check_scopes
from ledgerservice.api.movements.queueing import enter, post
from ledgerservice.api.movements.showing import accounts_shown, shown_problem, shown_to
from ledgerservice.domain.instructions import Group, Instruction
from ledgerservice.domain.transactions import Failed, Outcome, Outcomes, Recorded, Rejected
from ledgerservice.telemetry.exchanges import note_refusal, note_replay

log = logging.getLogger(__name__)

MAX_LINKED = 500  # items of one
_MAY_NAME_PARENT = re.compile(rb"hold_id|transaction_id|schedule_id|\\").search

Item = Instruction | ProblemError | Proposed | list[Any]
"""The instruction of an item, or why it is refused, or its proposal, or the items that it links."""
Answer = tuple[int, bytes, bool]
"""Status and body of an item's answer, and whether it is a replay."""


class Result(msgspec.Struct, gc=False):
    """The answer to an item of a batch: the status and the body that its own request would get."""

    index: int
    status: int
    replayed: bool
    body: JsonObject


class Results(msgspec.Struct):
    """An answer for each item, in the order of the items."""

    results: list[Result]


class _Batch(msgspec.Struct, forbid_unknown_fields=True):
    movements: list[Raw]
    mode: str | UnsetType = UNSET


class _Linked(msgspec.Struct, forbid_unknown_fields=True):
    linked: list[Raw]


async def post_batch(call: Call) -> Reply:
    """Post the batch of a JSON body; answer when all of it is durable."""
    settings = call.runtime.settings
    body = await read_body(call, settings.max_batch_bytes)
    batch = _read(body, settings.max_batch_movements)
    lines = [bytes(raw) for raw in batch.movements]
    items = await read_items(call, lines)
    number = sum(len(item) if isinstance(item, list) else 1 for item in items)
    if number > settings.max_batch_movements:
        raise too_many(settings.max_batch_movements)
    call.caller.meter.take_items(number)
    items = await put_aside(call, items, lines, linked=batch.mode == "atomic")
    if batch.mode == "atomic":
        answers = await _post_linked(call, items)
    else:
        answers = await _enter(call, items)
    results = b",".join(await results_of(call, Result, range(len(items)), answers))
    body = b'{"results":[%b]}' % results
    return 200, body, {"content-type": "application/json"}


def refuse_key(call: Call) -> None:
    """Refuses a key of the whole request, because it would have no effect."""
    if header_values(call.headers, b"idempotency-key"):
        raise invalid("Idempotency-Key", "is not allowed; each item has its own key")


def refuse_signed(call: Call) -> None:
    """Refuses a stream with a key that requires signatures: its digest is known at its end only."""
    if call.caller.public_key is not None:
        raise ProblemError("stream_not_signed")


def _read(body: bytes, limit: int) -> _Batch:
    """The batch of a body, its items not yet parsed. Raises ProblemError."""
    if has_too_many_values(body, MAX_BATCH_VALUES):
        raise ProblemError("invalid_json")
    try:
        batch = msgspec.json.decode(body, type=_Batch)
    except msgspec.ValidationError:
        raise invalid("body", "must be {movements: [...], mode: independent or atomic}") from None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise ProblemError("invalid_json") from None
    fields = 1 if batch.mode is UNSET else 2
    check_items(body, "movements", batch.movements, limit, fields=fields)
    if batch.mode not in ("independent", "atomic", UNSET):
        raise invalid("mode", "must be independent or atomic")
    return batch


def too_many(limit: int) -> ProblemError:
    """The refusal of more items than one request may have."""
    return invalid("movements", f"must be 1 to {limit} items")


async def read_items(call: Call, lines: Sequence[bytes]) -> list[Item]:
    """The items from JSON; what one of them is refused for stands in its place."""
    if call.caller.by_accounts:
        steps = await in_turns(call.runtime.turn, _steps_of, lines)
        call = await with_parents(call, chain.from_iterable(steps))
    return await in_turns(call.runtime.turn, partial(read_one, call), lines)


def _steps_of(line: bytes) -> list[Instruction]:
    """The instructions of an item that may build on earlier transactions. What cannot be read is
    refused later.
    """
    steps: list[Instruction] = []
    if _MAY_NAME_PARENT(line):
        with suppress(ProblemError):
            steps.extend(read_item(bytes(one)) for one in _linked(line) or (line,))
    return steps


def read_one(call: Call, line: bytes) -> Item:
    """An item from JSON, or the refusal of it."""
    try:
        movement = fast_item(line)
        if movement is not None:
            check_scopes(call, movement)
            return movement
        linked = _linked(line)
        if linked is not None:
            return [_read_linked(call, bytes(raw)) for raw in linked]
        return _read_linked(call, line)
    except ProblemError as error:
        return error.bare()


def _read_linked(call: Call, line: bytes) -> Instruction | ProblemError:
    limit = call.runtime.settings.max_body_bytes
    if len(line) > limit:
        return ProblemError("body_too_large", max_bytes=limit)
    try:
        instruction = read_item(line)
        check_scopes(call, instruction)
    except ProblemError as error:
        return error.bare()
    return instruction


def _linked(line: bytes) -> list[Raw] | None:
    """The items that an item links, or None."""
    if has_too_many_values(line, MAX_BATCH_VALUES):
        raise ProblemError("invalid_json")
    try:
        linked = msgspec.json.decode(line, type=_Linked).linked
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    check_items(line, "linked", linked, MAX_LINKED)
    return linked


def _enter(call: Call, items: Sequence[Item]) -> Awaitable[Iterator[Answer]]:
    """Enter the items into the queue, and return their future answers. Raises Overloaded.

    Each item is posted by itself; the items that one links are posted together or not at all. Their
    place in the queue is that of this call.
    """
    refusals = [refusal_of(item) for item in items]
    instructions = [
        tuple(item) if isinstance(item, list) else item
        for item, refusal in zip(items, refusals, strict=True)
        if refusal is None
    ]
    facts = call.ledger, call.dry_run, call.caller.principal_id
    group = Group(instructions, False, *facts)  # type: ignore[arg-type]
    return _answers(refusals, enter(call, group) if instructions else None)


async def entered(call: Call, items: Sequence[Item]) -> Awaitable[Iterator[Answer]]:
    """Enter the items into the queue, and return their future answers. Raises Overloaded."""
    return _enter(call, items)


async def _answers(
    refusals: Sequence[ProblemError | Proposed | None], future: Awaitable[Outcomes] | None
) -> Iterator[Answer]:
    outcomes: Outcomes = [] if future is None else await future
    assert not isinstance(outcomes, Failed)
    remaining = iter(outcomes)
    return (answer_of(next(remaining) if refusal is None else refusal) for refusal in refusals)


def refusal_of(item: Item) -> ProblemError | Proposed | None:
    """Why an item is not posted, or None. If one of linked items is not, none of them is."""
    if isinstance(item, list):
        refusals = (_batch_failed(n, one) for n, one in enumerate(item))
        return next((refusal for refusal in refusals if refusal is not None), None)
    return item if isinstance(item, ProblemError | Proposed) else None


def _batch_failed(index: int, item: Item) -> ProblemError | None:
    """The refusal of all linked items because of one of them, or None."""
    if not isinstance(item, ProblemError):
        return None
    return ProblemError("batch_failed", index=index, cause={"code": item.code, **item.facts})


async def _post_linked(call: Call, items: Sequence[Item]) -> Iterator[Answer]:
    """The answers of an atomic batch. If one item fails, none is posted and all are refused."""
    for index, item in enumerate(items):
        if isinstance(item, list):
            raise invalid("movements", "items of an atomic batch cannot link further items")
        if (refusal := _batch_failed(index, item)) is not None:
            raise refusal
    facts = call.ledger, call.dry_run, call.caller.principal_id
    group = Group(items, True, *facts)  # type: ignore[arg-type]
    outcomes = await post(call, group)
    if isinstance(outcomes, Failed):
        raise shown_problem(call, _failed(outcomes))
    return map(answer_of, outcomes)


def _failed(failed: Failed) -> ProblemError:
    return ProblemError("batch_failed", index=failed.index, cause=_cause(failed.outcome))


def _cause(outcome: Outcome) -> dict[str, Any]:
    """Why an item failed its batch. Its decline is not recorded, so it has no id and no timestamp,
    unless it is a replay.
    """
    if isinstance(outcome, Rejected):
        return {"code": outcome.reason.value, "account_id": outcome.account_id, **outcome.facts}
    transaction, refusal = outcome.transaction, outcome.transaction.refusal
    assert refusal is not None
    cause: dict[str, Any] = {
        "code": refusal.reason.value,
        "decided_on": decided_on(transaction, refusal),
    }
    if outcome.replayed:
        cause |= {"replayed": True, "retry": "new_key", "transaction_id": transaction.id}
    return cause


def answer_of(outcome: Outcome | Failed | list[Outcome] | ProblemError | Proposed) -> Answer:
    """The answer to an item."""
    if isinstance(outcome, Proposed):
        return outcome
    if isinstance(outcome, Recorded):
        if (refusal := outcome.transaction.refusal) is not None:
            note_refusal(refusal.reason.value)
        if outcome.replayed:
            note_replay(outcome.transaction.principal_id, outcome.transaction.id)
        return *answer(outcome.transaction), outcome.replayed
    if isinstance(outcome, list):
        results = b",".join(_result(Result, n, answer_of(one)) for n, one in enumerate(outcome))
        replayed = all(one.replayed for one in outcome if isinstance(one, Recorded))
        return 200, b'{"results":[%b]}' % results, replayed
    if isinstance(outcome, Failed):
        error = _failed(outcome)
    else:
        error = rejection(outcome) if isinstance(outcome, Rejected) else outcome
    status, body, _ = problem_of(error)
    return status, body, False


async def results_of(
    call: Call,
    result: Callable[..., msgspec.Struct],
    numbers: Sequence[int],
    answers: Iterator[Answer],
) -> list[bytes]:
    """The answers in JSON as the caller may see them, each with its number."""
    accounts = accounts_shown(call)

    def encode(number: int) -> bytes:
        return shown_to(accounts, _result(result, number, next(answers)))

    return await in_turns(call.runtime.turn, encode, numbers)


def _result(result: Callable[..., msgspec.Struct], number: int, answer: Answer) -> bytes:
    status, body, replayed = answer
    return msgspec.json.encode(result(number, status, replayed, Raw(body)))
