"""Import of movements and accounts from a file. It can be repeated safely.

Every movement has its own idempotency key. An import that runs after a killed one therefore finds
what that one had posted, and posts nothing twice.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tenacity import (
    AsyncRetrying,
    before_sleep_log,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from ledgerservice.api.http.problems import ProblemError, detail_of, rejection
from ledgerservice.api.movements.answers import decided_on
from ledgerservice.domain.accounts import Opened, Opening
from ledgerservice.domain.instructions import Instruction
from ledgerservice.domain.transactions import Outcome, Rejected
from ledgerservice.errors import Overloaded, Unavailable
from ledgerservice.files.accounts import Accounts
from ledgerservice.files.rejects import Rejects
from ledgerservice.files.rows import Row
from ledgerservice.ledger import Ledger

CHUNK_ROWS = 4_000
DRY_RUN_ROWS = 50_000  # rows that are rehearsed together, each after those before it
CHUNKS_IN_FLIGHT = 2  # One is posted while the next one is read.
PATIENCE_S = 300.0
LAST_ANSWERS_S = 10.0  # for what is in flight when the import is interrupted

log = logging.getLogger(__name__)

Result = Outcome | Opened | ProblemError | None
"""The answer to a row; None: in a dry run, of a movement on an account that the file opens."""
Task = asyncio.Task[list[Result]]


@dataclass(slots=True)
class Totals:
    """The outcomes of the rows so far, which are the first `done_bytes` of the file."""

    posted: int = 0
    opened: int = 0
    replayed: int = 0
    declined: int = 0
    rejected: int = 0
    done_bytes: int = 0

    @property
    def rows(self) -> int:
        """The number of rows. A replayed decline counts as declined."""
        return self.posted + self.opened + self.replayed + self.declined + self.rejected


@dataclass(slots=True)
class Importing:
    """An import: where to, where the rows go that are not posted, and what was done so far.

    `report` is called after each chunk.
    """

    ledger: Ledger
    rejects: Rejects
    report: Callable[[Totals], None]
    dry_run: bool = False
    totals: Totals = field(default_factory=Totals)


class _Waiting(NamedTuple):
    chunk: list[Row]
    task: Task


async def import_rows(importing: Importing, rows: Iterable[Row]) -> None:
    """Post `rows` in order.

    Raises Unavailable if the database does not answer within PATIENCE_S. If it is cancelled, it
    waits for the answers to what is in flight, and counts them.
    """
    accounts = Accounts(importing.ledger)
    waiting: deque[_Waiting] = deque()
    try:
        for chunk in _chunks(rows, DRY_RUN_ROWS if importing.dry_run else CHUNK_ROWS):
            before = waiting[-1].task if waiting else None
            task = asyncio.create_task(_post(importing, accounts, chunk, before))
            waiting.append(_Waiting(chunk, task))
            await asyncio.sleep(0)  # The chunk is sent before the next one is read.
            if len(waiting) == CHUNKS_IN_FLIGHT:
                await _finish_oldest(importing, waiting)
        while waiting:
            await _finish_oldest(importing, waiting)
    except BaseException:
        async with asyncio.timeout(LAST_ANSWERS_S):
            while waiting:
                await _finish_oldest(importing, waiting)
        raise
    finally:
        for one in waiting:
            one.task.cancel()


async def _finish_oldest(importing: Importing, waiting: deque[_Waiting]) -> None:
    oldest = waiting[0]
    results = await asyncio.shield(oldest.task)
    waiting.popleft()
    _count(importing, oldest.chunk, results)
    importing.rejects.flush()
    importing.report(importing.totals)


def _chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def _post(
    importing: Importing, accounts: Accounts, chunk: list[Row], before: Task | None
) -> list[Result]:
    """The answers to a chunk. It is posted after the chunk `before` has its answers.

    The accounts that it opens are open before it moves anything.
    """
    if before is not None:
        await before
    openings = [row.item for row in chunk if isinstance(row.item, Opening)]
    opened: Iterator[Opened | Rejected] = iter(())
    if openings:
        opened = iter(await _retried(accounts.open, openings, dry_run=importing.dry_run))
    fields = [row.item for row in chunk if isinstance(row.item, dict)]
    if fields:
        await _retried(accounts.find, fields)
    items = [accounts.instruction(i) if isinstance(i := row.item, dict) else i for row in chunk]
    movements = [one for one in items if not isinstance(one, Opening | ProblemError | None)]
    outcomes: Iterator[Outcome] = iter(())
    if movements:
        post = importing.ledger.post
        outcomes = iter(await _retried(post, movements, dry_run=importing.dry_run))
    return [_result(item, opened, outcomes) for item in items]


def _result(
    item: Instruction | Opening | ProblemError | None,
    opened: Iterator[Opened | Rejected],
    outcomes: Iterator[Outcome],
) -> Result:
    if item is None or isinstance(item, ProblemError):
        return item
    return next(opened) if isinstance(item, Opening) else next(outcomes)


async def _retried(call: Callable[..., Awaitable[Any]], *values: Any, **options: Any) -> Any:
    retrying = AsyncRetrying(
        retry=retry_if_exception_type((Unavailable, Overloaded)),
        stop=stop_after_delay(PATIENCE_S),
        wait=wait_random_exponential(multiplier=0.2, max=5),
        before_sleep=before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
    return await retrying(call, *values, **options)


def _count(importing: Importing, chunk: list[Row], results: list[Result]) -> None:
    totals = importing.totals
    for row, result in zip(chunk, results, strict=True):
        name, code, detail = _described(result)
        setattr(totals, name, getattr(totals, name) + 1)
        if code:
            importing.rejects.add(row, name, code, detail)
    totals.done_bytes = chunk[-1].end_bytes


def _described(result: Result) -> tuple[str, str, str]:
    """The result's name in Totals, its code and its detail, which are empty if it is posted."""
    if isinstance(result, ProblemError):
        return _rejection_of(result)
    if isinstance(result, Rejected):
        return _rejection_of(rejection(result))
    if result is None:
        return "posted", "", ""
    if isinstance(result, Opened):
        return "replayed" if result.replayed else "opened", "", ""
    refusal = result.transaction.refusal
    if refusal is not None:
        on = decided_on(result.transaction, refusal)
        state = f"available {on.available}, balance {on.balance} {on.currency}"
        place = f"decided at version {on.version} of account {on.account_id}: {state}"
        return "declined", refusal.reason.value, place
    return "replayed" if result.replayed else "posted", "", ""


def _rejection_of(refused: ProblemError) -> tuple[str, str, str]:
    faults = refused.facts.get("errors", [])
    detail = "; ".join(f"{fault.field}: {fault.message}" for fault in faults)
    if not detail:
        detail = detail_of(refused.code, refused.facts)
        if "account_id" in refused.facts:
            detail += f" It is account {refused.facts['account_id']}."
    return "rejected", refused.code, detail
