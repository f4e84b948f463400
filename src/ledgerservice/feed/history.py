"""Pages of an account's history out of a store, if they are provably what the journal has."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ledgerservice.domain.instructions import Kind, Origin
from ledgerservice.domain.timestamps import of_microseconds
from ledgerservice.feed.stores import Account, Row, Span, Store, history_of
from ledgerservice.feed.targets import TargetFault
from ledgerservice.postgres.queries.accounts import Extent, HistoryEntry, find_extent
from ledgerservice.postgres.reader import Reader

log = logging.getLogger(__name__)

THREADS = 4
TIMEOUT_S = 2.0
REST_S = 5.0  # after a fault, in which the store is not asked


class History:
    """The history in a store. PostgreSQL says which rows a page must have: one row is read there.

    The versions of an account have no gap, and its rows never change. So a page is complete if each
    of its versions is there, and right if each row has the checksum that it was written with.
    """

    def __init__(self, url: str) -> None:
        """Raises ConfigurationError. The store is connected when it is first used."""
        self._store: Store = history_of(url)
        self._threads = ThreadPoolExecutor(THREADS, "history")
        self._opening = threading.Lock()
        self._is_open = False
        self._rests_until_s = 0.0

    async def page(
        self, reader: Reader, account_id: int, rows: int, before: int
    ) -> list[HistoryEntry] | None:
        """The entries as the journal has them; None if the store cannot prove it."""
        if asyncio.get_running_loop().time() < self._rests_until_s:
            return None
        extent = await find_extent(reader, account_id)
        if extent is None or extent.epoch is None:
            return None
        first = min(before - 1, extent.version)
        last = max(1, first - rows + 1)
        if first < last:
            return []
        span = Span(Account(reader.ledger_id, account_id), last, first)
        found_rows = await self._rows(extent.epoch, span)
        if found_rows is None or not is_proven(extent, span, found_rows):
            return None
        return [_entry_of(row) for row in reversed(found_rows)]

    async def _rows(self, epoch: int, span: Span) -> list[Row] | None:
        """The rows of a span; None if the store does not answer in time."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                found_rows = await self._call(self._read, epoch, span)
        except (TargetFault, TimeoutError) as error:
            log.warning("history is read from PostgreSQL for a while: %s", error or "no answer")
            self._rests_until_s = asyncio.get_running_loop().time() + REST_S
            self._is_open = self._is_open and isinstance(error, TimeoutError)
            return None
        return None if found_rows is None else list(found_rows[0])

    def _call(self, function: Callable[..., Any], *arguments: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _read(self, epoch: int, span: Span) -> list[list[Row]] | None:
        with self._opening:
            if not self._is_open:
                self._store.open()
                self._is_open = True
        return self._store.rows(epoch, [span])

    async def close(self) -> None:
        """Disconnect; calls that are on their way end in time-outs of their own."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._store.close)


def is_proven(extent: Extent, span: Span, rows: Sequence[Row]) -> bool:
    """Whether the rows are all versions of the span, as they were written.

    The newest row of the account must also have its balances: rows of another journal, of which
    the epochs know nothing, have not.
    """
    if [row.version for row in rows] != list(range(span.first, span.last + 1)):
        return False
    assert extent.epoch is not None
    newest = rows[-1]
    if newest.version == extent.version and (newest.balance, newest.held) != extent[1:3]:
        return False
    return all(row.is_intact(extent.epoch, span.account) for row in rows)


def _entry_of(row: Row) -> HistoryEntry:
    return HistoryEntry(
        row.version,
        row.transaction_id,
        Kind(row.kind),
        row.amount,
        row.held_change,
        row.exponent,
        row.balance,
        row.held,
        row.key,
        Origin(row.origin),
        of_microseconds(row.recorded_at),
    )
