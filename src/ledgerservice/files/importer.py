"""Movements out of a file, into the ledger, safely repeatable.

Every movement has a key of its own, so whatever an import that was killed had posted is found by
the next one, and nothing moves twice.
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

from ledgerservice.api.http.problems import CATALOGUE, Refused
from ledgerservice.api.movements.parsing import read_item
from ledgerservice.domain.instructions import Instruction, Reversal
from ledgerservice.domain.transactions import Outcome, Recorded
from ledgerservice.errors import ImportFault, Overloaded, Unavailable
from ledgerservice.ledger import Ledger

CHUNK_ROWS = 4_000
CHUNKS_IN_FLIGHT = 2  # one is posted while the next is read
PATIENCE_S = 300.0

COLUMNS = ("type", "account_id", "from_account_id", "to_account_id", "amount", "idempotency_key")
REJECT_COLUMNS = ("line", "outcome", "code", "idempotency_key", "detail")

log = logging.getLogger(__name__)


class Format(StrEnum):
    """How a file holds its movements."""

    CSV = "csv"
    NDJSON = "ndjson"


class Row(NamedTuple):
    """A movement of a file, or why the line is none."""

    line: int
    movement: Instruction | Refused
    end_bytes: int


@dataclass(slots=True)
class Totals:
    """What has become of the rows so far; `done_bytes` of the file are settled."""

    posted: int = 0
    replayed: int = 0
    declined: int = 0
    rejected: int = 0
    done_bytes: int = 0

    @property
    def rows(self) -> int:
        """All of them. A replayed decline counts as declined."""
        return self.posted + self.replayed + self.declined + self.rejected


def rows_of(lines: Iterable[str], form: Format, key_prefix: str | None) -> Iterator[Row]:
    """The rows of a file.

    `key_prefix`: for a file without keys, to which the line's number is added. Without it such a
    file raises ImportFault: tomorrow's file of the same name would be taken for replays.
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
        if isinstance(movement, Refused) and movement.code == "idempotency_key_missing":
            if key_prefix is None and line == 1:
                raise ImportFault(_NO_KEYS)
            if key_prefix is not None:
                key = json.dumps(f"{key_prefix}{line}")
                movement = _movement(f'{{"idempotency_key":{key},{item.strip()[1:]}')
        yield Row(line, movement, size)


def _movement(item: str) -> Instruction | Refused:
    try:
        asked = read_item(item.encode("utf-8", "surrogatepass"))
    except Refused as refused:
        return refused
    forced = isinstance(asked, Reversal) and asked.force
    return Refused("force_not_allowed") if forced else asked


def _json_items(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _csv_items(lines: Iterable[str], key_prefix: str | None) -> Iterator[tuple[int, str]]:
    """The rows as JSON, so that both kinds of file are judged by the same rules."""
    reader = csv.DictReader(lines, strict=True)
    names = [name.strip().lower() for name in reader.fieldnames or ()]
    unknown = sorted(set(names) - set(COLUMNS))
    if not names or unknown:
        raise ImportFault(f"The first line must name columns out of {', '.join(COLUMNS)}.")
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
    """A row's fields that are filled in; ids as the numbers they are."""
    fields: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, str) and value:
            number = name in ("account_id", "from_account_id", "to_account_id")
            fields[name or ""] = int(value) if number and _is_id(value) else value
        elif value:
            fields["more columns than the first line names"] = True
    if isinstance(kind := fields.get("type"), str):
        fields["type"] = kind.upper()
    return fields


_NO_KEYS = (
    "It has no idempotency_key. Name one a movement, or give --key-prefix with a name that no "
    "other file will ever have."
)


async def import_rows(
    ledger: Ledger, rows: Iterable[Row], rejects: TextIO, tell: Callable[[Totals], None]
) -> Totals:
    """Post `rows` in order; write what was not posted to `rejects`, as CSV.

    `tell` is called after each chunk. Raises Unavailable if the database stays away.
    """
    totals = Totals()
    writer = csv.writer(rejects, lineterminator="\n")
    writer.writerow(REJECT_COLUMNS)
    waiting: deque[tuple[list[Row], asyncio.Task[list[Outcome]]]] = deque()

    async def settle() -> None:
        chunk, task = waiting.popleft()
        _settle(totals, writer, chunk, await task)
        rejects.flush()
        tell(totals)

    try:
        for chunk in _chunks(rows):
            before = waiting[-1][1] if waiting else None
            waiting.append((chunk, asyncio.create_task(_post(ledger, chunk, before))))
            await asyncio.sleep(0)  # so that it is on its way while the next one is read
            if len(waiting) == CHUNKS_IN_FLIGHT:
                await settle()
        while waiting:
            await settle()
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
    """The outcomes of a chunk, which is posted when the one before it has been answered."""
    if before is not None:
        await before
    movements = [row.movement for row in chunk if not isinstance(row.movement, Refused)]
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


def _settle(totals: Totals, writer: Any, chunk: list[Row], outcomes: list[Outcome]) -> None:
    following = iter(outcomes)
    for row in chunk:
        if isinstance(row.movement, Refused):
            totals.rejected += 1
            faults = row.movement.facts.get("errors", [])
            detail = "; ".join(f"{fault['field']}: {fault['message']}" for fault in faults)
            code = row.movement.code
            writer.writerow((row.line, "rejected", code, "", detail or CATALOGUE[code].detail))
            continue
        outcome, key = next(following), row.movement.key
        if not isinstance(outcome, Recorded):
            totals.rejected += 1
            code = outcome.reason.value
            writer.writerow((row.line, "rejected", code, key, CATALOGUE[code].detail))
        elif (refusal := outcome.transaction.refusal) is not None:
            totals.declined += 1
            code = refusal.reason.value
            detail = f"decided on version {refusal.version} of account {refusal.account_id}"
            writer.writerow((row.line, "declined", code, key, detail))
        elif outcome.replayed:
            totals.replayed += 1
        else:
            totals.posted += 1
    totals.done_bytes = chunk[-1].end_bytes
