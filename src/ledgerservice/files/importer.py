"""Import of movements from a file. It can be repeated safely.

Every movement has its own idempotency key. An import that runs after a killed one therefore finds
what that one had posted, and posts nothing twice.
"""

import asyncio
import csv
import json
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, TextIO

from tenacity import (
    AsyncRetrying,
    before_sleep_log,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from ledgerservice.api.http.problems import CATALOGUE, ProblemError
from ledgerservice.api.movements.parsing import read_item
from ledgerservice.domain.instructions import Instruction, Reversal
from ledgerservice.domain.transactions import Outcome, Recorded
from ledgerservice.errors import ImportFault, Overloaded, Unavailable
from ledgerservice.ledger import Ledger

CHUNK_ROWS = 4_000
CHUNKS_IN_FLIGHT = 2  # One is posted while the next one is read.
PATIENCE_S = 300.0

COLUMNS = ("type", "account_id", "from_account_id", "to_account_id", "amount", "idempotency_key")
REJECT_COLUMNS = ("line", "outcome", "code", "idempotency_key", "detail")

log = logging.getLogger(__name__)


class Format(StrEnum):
    """The format of a file of movements or entries."""

    CSV = "csv"
    NDJSON = "ndjson"


class Row(NamedTuple):
    """A line of a file: its movement, or why it is rejected."""

    line: int
    movement: Instruction | ProblemError
    end_bytes: int


@dataclass(slots=True)
class Totals:
    """The outcomes of the rows so far, which are the first `done_bytes` of the file."""

    posted: int = 0
    replayed: int = 0
    declined: int = 0
    rejected: int = 0
    done_bytes: int = 0

    @property
    def rows(self) -> int:
        """The number of rows. A replayed decline counts as declined."""
        return self.posted + self.replayed + self.declined + self.rejected


def rows_of(lines: Iterable[str], form: Format, key_prefix: str | None) -> Iterator[Row]:
    """The rows of a file.

    In a file without keys the key of a line is `key_prefix` and the line's number. Without a
    prefix such a file raises ImportFault: if keys were made from the file's name, the movements
    of the next file with the same name would be replays.
    """
    size = 0

    def counted() -> Iterator[str]:
        nonlocal size
        for line in lines:
            size += len(line.encode())
            yield line

    items = _csv_items(counted(), key_prefix) if form is Format.CSV else _json_items(counted())
    for line, item in items:
        movement = _movement(item)
        if isinstance(movement, ProblemError) and movement.code == "idempotency_key_missing":
            if key_prefix is None and line == 1:
                raise ImportFault(_NO_KEYS)
            if key_prefix is not None:
                key = json.dumps(f"{key_prefix}{line}")
                movement = _movement(f'{{"idempotency_key":{key},{item.strip()[1:]}')
        yield Row(line, movement, size)


def _movement(item: str) -> Instruction | ProblemError:
    try:
        instruction = read_item(item.encode("utf-8", "surrogatepass"))
    except ProblemError as refused:
        return refused
    forced = isinstance(instruction, Reversal) and instruction.force
    return ProblemError("force_not_allowed") if forced else instruction


def _json_items(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _csv_items(lines: Iterable[str], key_prefix: str | None) -> Iterator[tuple[int, str]]:
    """The rows as JSON, so that the same rules check both formats."""
    reader = csv.DictReader(lines, strict=True)
    names = [name.strip().lower() for name in reader.fieldnames or ()]
    unknown = sorted(set(names) - set(COLUMNS))
    if not names or unknown:
        raise ImportFault(f"Its first line must name columns from this list: {', '.join(COLUMNS)}.")
    if "idempotency_key" not in names and key_prefix is None:
        raise ImportFault(_NO_KEYS)
    reader.fieldnames = names
    try:
        for row in reader:
            yield reader.line_num, json.dumps(_fields(row))
    except csv.Error as error:
        raise ImportFault(f"Line {reader.reader.line_num}: {error}.") from None


_is_id = re.compile(r"-?[0-9]{1,19}", re.ASCII).fullmatch


def _fields(row: "dict[str | None, object]") -> dict[str, object]:
    """The fields of a row that are not empty, with ids as numbers."""
    fields: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, str) and value:
            number = name in ("account_id", "from_account_id", "to_account_id")
            fields[name or ""] = int(value) if number and _is_id(value) else value
        elif value:
            fields["more fields than the first line"] = True
    if isinstance(kind := fields.get("type"), str):
        fields["type"] = kind.upper()
    return fields


_NO_KEYS = (
    "It has no idempotency_key. Add that column, or the option --key-prefix with a prefix that no "
    "other file uses."
)


async def import_rows(
    ledger: Ledger, rows: Iterable[Row], rejects: TextIO, report: Callable[[Totals], None]
) -> Totals:
    """Post `rows` in order. Rows that are not posted are written to `rejects`, as CSV.

    `report` is called after each chunk. Raises Unavailable if the database does not answer within
    PATIENCE_S.
    """
    totals = Totals()
    writer = csv.writer(rejects, lineterminator="\n")
    writer.writerow(REJECT_COLUMNS)
    waiting: deque[tuple[list[Row], asyncio.Task[list[Outcome]]]] = deque()

    async def finish_oldest() -> None:
        chunk, task = waiting.popleft()
        _count(totals, writer, chunk, await task)
        rejects.flush()
        report(totals)

    try:
        for chunk in _chunks(rows):
            before = waiting[-1][1] if waiting else None
            waiting.append((chunk, asyncio.create_task(_post(ledger, chunk, before))))
            await asyncio.sleep(0)  # The chunk is sent before the next one is read.
            if len(waiting) == CHUNKS_IN_FLIGHT:
                await finish_oldest()
        while waiting:
            await finish_oldest()
    finally:
        for _, task in waiting:
            task.cancel()
    return totals


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def _post(
    ledger: Ledger, chunk: list[Row], before: "asyncio.Task[list[Outcome]] | None"
) -> list[Outcome]:
    """The outcomes of a chunk. It is posted after the chunk `before` has its outcomes."""
    if before is not None:
        await before
    movements = [row.movement for row in chunk if not isinstance(row.movement, ProblemError)]
    if not movements:
        return []
    retrying = AsyncRetrying(
        retry=retry_if_exception_type((Unavailable, Overloaded)),
        stop=stop_after_delay(PATIENCE_S),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        before_sleep=before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
    return await retrying(ledger.post, movements)


def _count(totals: Totals, writer: Any, chunk: list[Row], outcomes: list[Outcome]) -> None:
    following = iter(outcomes)
    for row in chunk:
        if isinstance(row.movement, ProblemError):
            key, (name, code, detail) = "", _rejection_of(row.movement)
        else:
            key, (name, code, detail) = row.movement.key, _described(next(following))
        setattr(totals, name, getattr(totals, name) + 1)
        if code:
            writer.writerow((row.line, name, code, key, detail))
    totals.done_bytes = chunk[-1].end_bytes


def _rejection_of(refused: ProblemError) -> tuple[str, str, str]:
    faults = refused.facts.get("errors", [])
    detail = "; ".join(f"{fault.field}: {fault.message}" for fault in faults)
    return "rejected", refused.code, detail or CATALOGUE[refused.code].detail


def _described(outcome: Outcome) -> tuple[str, str, str]:
    """The outcome's name in Totals, its code and its detail, which are empty if it is posted."""
    if not isinstance(outcome, Recorded):
        code = outcome.reason.value
        return "rejected", code, CATALOGUE[code].detail
    refusal = outcome.transaction.refusal
    if refusal is not None:
        place = f"version {refusal.version} of account {refusal.account_id}"
        return "declined", refusal.reason.value, f"decided at {place}"
    return "replayed" if outcome.replayed else "posted", "", ""
