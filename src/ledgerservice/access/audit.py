"""The audit log of a process: what is added before an answer, and what is counted.

Who is refused again and again must not fill the log, nor who sends the keys of others. The first
record of its kind is added at once; those that follow within WINDOW_S are one more, with their
number.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable

import msgspec

from ledgerservice.domain.audit import AuditRecord
from ledgerservice.errors import LedgerError

log = logging.getLogger(__name__)

WINDOW_S = 60.0
KINDS = 1_000
"""In a window. All further ones are one kind, without a source."""

Kind = tuple[str, int, str, str | None]
"""An action, a principal, a source, and what happened to it."""


class AuditLog:
    """Adds records. `post` makes them durable; it raises LedgerError."""

    def __init__(self, post: Callable[[AuditRecord], Awaitable[None]]) -> None:
        self._post = post
        self._repeats: dict[Kind, AuditRecord] = {}
        self._adding: set[asyncio.Task[None]] = set()

    async def add(self, record: AuditRecord) -> None:
        """Add a record; it is durable then. Raises LedgerError."""
        await self._post(record)

    def count(self, record: AuditRecord, what: str | None) -> None:
        """Add a record later, and one record for all that are like it. `what` happened is a code of
        a refusal, or another short text.
        """
        kind = record.action, record.principal_id, record.source, what
        if kind not in self._repeats and len(self._repeats) >= KINDS:
            record = AuditRecord(
                event=record.event, source="many", action="refusals", status=record.status
            )
            kind = record.action, 0, record.source, None
        before = self._repeats.get(kind)
        if before is None:
            self._repeats[kind] = msgspec.structs.replace(record, event=new_event(), repeats=0)
            self.add_later(record)
        else:
            self._repeats[kind] = msgspec.structs.replace(before, repeats=before.repeats + 1)

    async def keep_flushing(self) -> None:
        """Add what was counted, once in a window, until cancelled."""
        while True:
            await asyncio.sleep(WINDOW_S)
            self._flush()

    async def close(self) -> None:
        """Add what is left."""
        self._flush()
        await asyncio.gather(*self._adding)

    def _flush(self) -> None:
        counted, self._repeats = self._repeats, {}
        for record in counted.values():
            if record.repeats:
                self.add_later(record)

    def add_later(self, record: AuditRecord) -> None:
        """Add a record without waiting for it. A failure is logged."""
        task = asyncio.create_task(self._try_to_add(record))
        self._adding.add(task)
        task.add_done_callback(self._adding.discard)

    async def _try_to_add(self, record: AuditRecord) -> None:
        try:
            await self._post(record)
        except LedgerError as error:
            name = type(error).__name__
            log.warning("a record of %s is not in the audit log: %s", record.action, name)


def new_event() -> str:
    """An id that no other record has."""
    return uuid.uuid4().hex
