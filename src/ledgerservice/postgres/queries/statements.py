"""Statements: an account's entries of a period, between its opening and closing balance."""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import TextClause, text

from ledgerservice.domain.instructions import Kind, Origin
from ledgerservice.postgres.queries.as_of import recorded_by
from ledgerservice.postgres.queries.structs import EARLIEST, LATEST, find_all, find_one, select_list
from ledgerservice.postgres.reader import Reader

MICROSECOND = timedelta(microseconds=1)
CHUNK_ROWS = 1_000


class StatementPeriod(msgspec.Struct, frozen=True):
    """A statement without its lines: these are the account's entries with versions above `first`,
    up to `last`. `opening` and `closing` are the balances before and after them, in minor units.

    `final`: no entry can be added to it any more.
    """

    account_id: int
    owner: str
    currency: str
    exponent: int
    first: int
    last: int
    opening: int
    closing: int
    final: bool

    @property
    def entries_total(self) -> int:
        """The number of its lines."""
        return self.last - self.first


class StatementLine(msgspec.Struct, frozen=True):
    """An entry of a statement. `counterparty_id` is None if there is more than one."""

    version: int
    recorded_at: datetime
    transaction_id: int
    kind: Kind
    amount: int
    balance: int
    counterparty_id: int | None
    origin: Origin
    key: str
    description: str | None
    reference: str | None
    effective_at: datetime | None


def _period_between(first: str, last: str, final: str) -> TextClause:
    columns = select_list(
        StatementPeriod,
        "a",
        account_id="a.id",
        opening="coalesce(o.balance, 0)",
        closing="coalesce(c.balance, 0)",
    )
    return text(f"""
        WITH a AS MATERIALIZED (
            SELECT *, {first} AS first, {last} AS last, {final} AS final
            FROM ledger.accounts WHERE ledger_id = :ledger AND id = :account)
        SELECT {columns}
        FROM a
        LEFT JOIN ledger.entries o
          ON o.ledger_id = a.ledger_id AND o.account_id = a.id AND o.seq = a.first
        LEFT JOIN ledger.entries c
          ON c.ledger_id = a.ledger_id AND c.account_id = a.id AND c.seq = a.last
    """)


FIND_PERIOD = _period_between(
    "ledger.version_at(ledger_id, id, version, :opened_at)",
    "ledger.version_at(ledger_id, id, version, :closed_at)",
    "last_recorded_at > :closed_at",
)
FIND_PERIOD_OF_VERSIONS = _period_between(
    "CAST(:first AS bigint)", "CAST(:last AS bigint)", "CAST(:final AS boolean)"
)

LINE_COLUMNS = select_list(
    StatementLine,
    "e",
    version="e.seq",
    kind="t.kind",
    counterparty_id="""CASE WHEN t.account_id = e.account_id THEN t.counterparty_id
        WHEN t.counterparty_id = e.account_id THEN t.account_id END""",
    origin="t.origin",
    key="t.idempotency_key",
    description="d.description",
    reference="d.reference",
    effective_at="d.effective_at",
)
LIST_LINES = text(f"""
SELECT {LINE_COLUMNS}
FROM ledger.entries e
JOIN ledger.transactions t ON t.ledger_id = e.ledger_id AND t.id = e.transaction_id
LEFT JOIN ledger.details d ON d.ledger_id = e.ledger_id AND d.transaction_id = e.transaction_id
WHERE e.ledger_id = :ledger AND e.account_id = :account AND e.seq > :after AND e.seq <= :last
ORDER BY e.seq LIMIT :rows
""")


async def find_period(
    reader: Reader, account_id: int, since: datetime | None, until: datetime | None
) -> StatementPeriod | None:
    """The statement of what was recorded in [since, until), in one snapshot, or None.

    `since` None: from the first entry on; `until` None: up to the last.
    """
    opened_at, closed_at = _before(since or EARLIEST), _before(until or LATEST)
    values = {"account": account_id, "opened_at": opened_at, "closed_at": closed_at}
    fields = await recorded_by(reader, FIND_PERIOD, closed_at, **values)
    return None if fields is None else StatementPeriod(**fields)


async def find_period_of_versions(
    reader: Reader, account_id: int, first: int, last: int, final: bool
) -> StatementPeriod | None:
    """The statement with these versions, for its later pages; or None."""
    values = {"account": account_id, "first": first, "last": last, "final": final}
    return await find_one(reader, StatementPeriod, FIND_PERIOD_OF_VERSIONS, **values)


def _before(time: datetime) -> datetime:
    """The last time before `time`. Nothing was recorded at the earliest time of all."""
    return time if time == EARLIEST else time - MICROSECOND


async def list_lines(
    reader: Reader, period: StatementPeriod, after: int, rows: int
) -> list[StatementLine]:
    """Up to `rows` lines of a statement with versions above `after`, oldest first."""
    values = {"account": period.account_id, "after": after, "last": period.last, "rows": rows}
    return await find_all(reader, StatementLine, LIST_LINES, **values)


async def list_all_lines(
    reader: Reader, period: StatementPeriod
) -> AsyncIterator[list[StatementLine]]:
    """All lines, a chunk at a time. They never change, so each chunk can have a read of its own."""
    after = period.first
    while chunk := await list_lines(reader, period, after, CHUNK_ROWS):
        yield chunk
        after = chunk[-1].version
