"""The audit log: adding to it, and reading it."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, insert, text

from ledgerservice.domain.audit import AuditRecord, ChainedRecord
from ledgerservice.domain.instructions import BIGGEST_ID
from ledgerservice.postgres import tables
from ledgerservice.postgres.journal import BEGIN, WRITE_BARRIER, commit
from ledgerservice.postgres.pipeline import Request, Wire, array, optional_array, text_array
from ledgerservice.postgres.queries.structs import EARLIEST, LATEST
from ledgerservice.postgres.reader import Reader

ADD_RECORDS = """
INSERT INTO ledger.audit (event, source, action, status, principal_id, key_id, request_id,
                          ledger_id, subject, code, repeats, detail)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::smallint[], $5::integer[], $6::text[],
                     $7::text[], $8::integer[], $9::text[], $10::text[], $11::integer[],
                     $12::text[])
ON CONFLICT (event) DO NOTHING
"""
_NUMBERS = {"status", "principal_id", "repeats"}


async def add_records(wire: Wire, records: list[AuditRecord]) -> list[None]:
    """Add records, durable. Those that are there already are left as they are."""
    await commit(wire, Request(BEGIN), adding(records), Request(WRITE_BARRIER))
    return [None] * len(records)


def adding(records: Sequence[AuditRecord]) -> Request:
    """What adds records in a transaction that is open."""
    return Request(ADD_RECORDS, [_column(name, records) for name in AuditRecord.__struct_fields__])


def _column(name: str, records: Sequence[AuditRecord]) -> bytes:
    values = [getattr(record, name) for record in records]
    if name in _NUMBERS:
        return array(values)
    return optional_array(values) if name == "ledger_id" else text_array(values)


def add_record(connection: Connection, record: AuditRecord) -> int:
    """Add a record in the connection's transaction, which should end soon: other records wait for
    it. Returns the record's number.
    """
    statement = insert(tables.audit).returning(tables.audit.c.id)
    return int(connection.execute(statement, msgspec.structs.asdict(record)).scalar_one())


ALL_RECORDS = text(f"""
SELECT {", ".join(ChainedRecord.__struct_fields__)} FROM ledger.audit
WHERE recorded_at >= CAST(:since AS timestamptz) AND id <= :last ORDER BY recorded_at, id
""")
ROWS_AT_ONCE = 1_000


def all_records(
    connection: Connection, since: datetime | None, last_id: int
) -> Iterator[ChainedRecord]:
    """The records from a time on, if one is given, up to a number, the oldest first. They are not
    held together.
    """
    streamed = connection.execution_options(yield_per=ROWS_AT_ONCE)
    for row in streamed.execute(ALL_RECORDS, {"since": since or EARLIEST, "last": last_id}):
        yield _record(row)


class AuditFilter(msgspec.Struct, frozen=True):
    """Which records are listed. Filters add up. `everywhere`: those of all ledgers, and of none."""

    everywhere: bool = False
    principal_id: int | None = None
    key_id: str | None = None
    action: str | None = None
    status: int | None = None
    since: datetime | None = None
    until: datetime | None = None


# At most :budget records are read. The last of them is returned even if it does not match, so that
# the next page begins there.
LIST_RECORDS = text(f"""
SELECT {", ".join(ChainedRecord.__struct_fields__)}, matches
FROM (
    SELECT a.*, row_number() OVER (ORDER BY a.recorded_at DESC, a.id DESC) AS place,
           (a.ledger_id = :ledger OR CAST(:everywhere AS boolean))
           AND (CAST(:principal_id AS integer) IS NULL OR a.principal_id = :principal_id)
           AND (CAST(:key_id AS text) IS NULL OR a.key_id = :key_id)
           AND (CAST(:action AS text) IS NULL OR a.action = :action)
           AND (CAST(:status AS smallint) IS NULL OR a.status = :status) AS matches
    FROM (
        SELECT * FROM ledger.audit
        WHERE (recorded_at, id) < (CAST(:before_time AS timestamptz), CAST(:before_id AS bigint))
          AND recorded_at >= CAST(:since AS timestamptz)
        ORDER BY recorded_at DESC, id DESC LIMIT :budget) a
) read
WHERE matches OR place = :budget
ORDER BY recorded_at DESC, id DESC LIMIT :rows
""")
BUDGET_ROWS = 20_000
AuditPlace = tuple[datetime, int]


async def list_records(
    reader: Reader, filters: AuditFilter, rows: int, after: AuditPlace | None = None
) -> tuple[list[ChainedRecord], AuditPlace | None]:
    """Up to `rows` records, the latest first, and the place where the next page begins; None: there
    is none. A page ends early after BUDGET_ROWS records that do not match.
    """
    time, number = after or (filters.until or LATEST, 0 if filters.until else BIGGEST_ID)
    values = msgspec.structs.asdict(filters) | {"since": filters.since or EARLIEST}
    del values["until"]
    place = {"before_time": time, "before_id": number, "budget": BUDGET_ROWS, "rows": rows}
    found_rows = await reader.rows(LIST_RECORDS, search=True, **values, **place)
    records = [_record(row) for row in found_rows if row.matches]
    if not found_rows or (found_rows[-1].matches and len(found_rows) < rows):
        return records, None
    return records, (found_rows[-1].recorded_at, found_rows[-1].id)


def _record(row: Row[Any]) -> ChainedRecord:
    return ChainedRecord(**dict(zip(ChainedRecord.__struct_fields__, row, strict=False)))
