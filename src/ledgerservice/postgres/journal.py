"""Everything that a batch writes, and its COMMIT.

A batch is one database transaction, READ COMMITTED, in two round trips: one reads under the locks
the state to decide on (`locking`), one writes the decisions and commits. BEGIN and COMMIT are sent
here, and the server's answers to them are checked.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from msgspec import Struct
from msgspec.structs import astuple
from psycopg.errors import OperationalError, UniqueViolation

from ledgerservice.domain.instructions import Detail
from ledgerservice.domain.planner import Plan
from ledgerservice.domain.transactions import Extra, HoldTerms, Policy, ScheduleTerms, Transaction
from ledgerservice.postgres.pipeline import (
    Request,
    Result,
    Wire,
    array,
    number,
    text_array,
    timestamp,
    timestamp_array,
)
from ledgerservice.postgres.rows import (
    WRITTEN,
    WRITTEN_ENTRY,
    copied_entries,
    copied_transactions,
    values_of,
)

# From here on COPY is cheaper than INSERT, though it takes more round trips.
COPY_FROM_TRANSACTIONS = 500
COPY_CHUNK_ROWS = 1000

BEGIN = "BEGIN"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

Encode = Callable[[Iterable[Any]], bytes]

ENCODERS: dict[str, Encode] = {
    "bigint": array,
    "smallint": array,
    "boolean": array,
    "text": text_array,
    "json": text_array,
    "timestamptz": timestamp_array,
    "bytea": lambda values: text_array("\\x" + value.hex() for value in values),
}
"""An array parameter of each SQL type."""


def _insert(table: str, same: Sequence[str], types: dict[str, str]) -> str:
    """INSERT of whole columns. The values of `same` are the same for all rows."""
    columns = ", ".join([*same, *types])
    scalars = ", ".join(f"${place}" for place in range(1, len(same) + 1))
    arrays = ", ".join(
        f"${place}::{kind}[]" for place, kind in enumerate(types.values(), start=len(same) + 1)
    )
    return f"INSERT INTO ledger.{table} ({columns}) SELECT {scalars}, * FROM unnest({arrays})"


def _encoded(types: dict[str, str], rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    for kind, column in zip(types.values(), zip(*rows, strict=True), strict=True):
        yield ENCODERS[kind](column)


SAME = ("ledger_id", "recorded_at")
INSERT_TRANSACTIONS = _insert("transactions", SAME, WRITTEN)
INSERT_ENTRIES = _insert("entries", SAME, WRITTEN_ENTRY)
COPY_TRANSACTIONS = f"COPY ledger.transactions ({', '.join([*SAME, *WRITTEN])}) FROM STDIN"
COPY_ENTRIES = f"COPY ledger.entries ({', '.join([*SAME, *WRITTEN_ENTRY])}) FROM STDIN"


class SideRows:
    """The rows of one table that transactions have beside their own rows and their entries.

    `rows_of` returns them without the transaction's id, in the order of `types`.
    """

    def __init__(
        self,
        table: str,
        types: dict[str, str],
        rows_of: Callable[[Extra], Iterable[tuple[Any, ...]]],
    ) -> None:
        self._types = {"transaction_id": "bigint", **types}
        self._statement = _insert(table, ("ledger_id",), self._types)
        self._rows_of = rows_of

    def requests(self, ledger: int, transactions: Iterable[Transaction]) -> Iterator[Request]:
        """The INSERT of these rows; none if there are no rows."""
        detailed = [(t.id, t.extra) for t in transactions if t.extra is not None]
        rows = [(id_, *row) for id_, extra in detailed for row in self._rows_of(extra)]
        if rows:
            yield Request(self._statement, [number(ledger), *_encoded(self._types, rows)])


_TEXTS = {"description", "reference", "actor", "reason"}


def _types_of(part: type[Struct]) -> dict[str, str]:
    """The columns of a part of `Extra`, which are its fields, with their SQL types."""
    return {name: _type_of(name) for name in part.__struct_fields__}


def _type_of(name: str) -> str:
    if name.endswith("_at"):
        return "timestamptz"
    if name in _TEXTS:
        return "text"
    return {"metadata": "json", "restricted": "smallint"}.get(name, "bigint")


def _details(extra: Extra) -> Iterator[tuple[Any, ...]]:
    texts = astuple(extra.detail)
    yield extra.parent_id, extra.remaining, extra.digest, extra.salt, extra.exchange, *texts


SIDE_ROWS = (
    SideRows(
        "details",
        {
            "parent_id": "bigint",
            "remaining": "bigint",
            "digest": "bytea",
            "salt": "bytea",
            "exchange": "json",
            **_types_of(Detail),
        },
        _details,
    ),
    SideRows(
        "holds",
        _types_of(HoldTerms),
        lambda extra: () if extra.hold is None else [astuple(extra.hold)],
    ),
    SideRows(
        "schedules",
        _types_of(ScheduleTerms),
        lambda extra: () if extra.schedule is None else [astuple(extra.schedule)],
    ),
    SideRows("policies", _types_of(Policy), lambda extra: map(astuple, extra.policies)),
)
"""In the order in which they are written: details first, the entries after all."""

# From the rows that were just written, so that they cannot differ.
INSERT_DATED_ENTRIES = """
INSERT INTO ledger.dated_entries (ledger_id, account_id, effective_at, seq, transaction_id,
    amount, recorded_at)
SELECT e.ledger_id, e.account_id, d.effective_at, e.seq, e.transaction_id, e.amount, e.recorded_at
FROM unnest($2::bigint[]) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT effective_at FROM ledger.details
    WHERE ledger_id = $1 AND transaction_id BETWEEN wanted.id AND wanted.id
    ORDER BY transaction_id LIMIT 1) d
CROSS JOIN LATERAL (
    SELECT * FROM ledger.entries
    WHERE ledger_id = $1 AND transaction_id BETWEEN wanted.id AND wanted.id
    ORDER BY transaction_id) e
WHERE e.amount <> 0
"""

# With a synchronous standby a commit that writes nothing does not wait for it, and a replay must
# not be answered before the standby has what it replays.
WRITE_BARRIER = "SELECT pg_logical_emit_message(true, 'ledger', '')"


class CommitUnconfirmed(OperationalError):
    """The server did not confirm the COMMIT, or only with a warning."""


async def record(wire: Wire, ledger: int, plan: Plan) -> None:
    """Write the plan's rows and commit.

    The trigger on entries checks them and moves the accounts. Raises CommitUnconfirmed.
    """
    await commit(wire, *await _write(wire, ledger, plan))


async def record_new(wire: Wire, ledger: int, plan: Plan, movements: int) -> bool:
    """`record` for a plan of `movements` instructions that was made without looking up their keys.

    The unique key judges each movement that writes a row. False, with everything rolled back, if
    it objects, or if a movement writes no row: its key may have an earlier outcome then.
    """
    if len(plan.transactions) - plan.service_initiated == movements:
        with suppress(UniqueViolation):
            await record(wire, ledger, plan)
            return True
    await abandon(wire)
    return False


async def abandon(wire: Wire) -> None:
    """Roll back the open transaction."""
    await wire.exchange(Request(ROLLBACK))


async def write(wire: Wire, ledger: int, plan: Plan) -> None:
    """Write the plan's rows in a transaction that the caller commits."""
    await wire.exchange(*await _write(wire, ledger, plan))


async def _write(wire: Wire, ledger: int, plan: Plan) -> list[Request]:
    """Copy the rows if they are many; return the requests that are still to be sent."""
    if not plan.transactions:
        return [Request(WRITE_BARRIER)]
    side_rows = [r for table in SIDE_ROWS for r in table.requests(ledger, plan.transactions)]
    dated = list(_dated_entries(ledger, plan))
    if len(plan.transactions) < COPY_FROM_TRANSACTIONS:
        transactions, *entries = _inserts(ledger, plan)
        return [transactions, *side_rows, *entries, *dated]
    rows = copied_transactions(ledger, plan.recorded_at, plan.transactions)
    await wire.copy(COPY_TRANSACTIONS, _in_chunks(rows))
    if side_rows:
        await wire.exchange(*side_rows)
    entry_rows = copied_entries(ledger, plan.recorded_at, plan.entries())
    await wire.copy(COPY_ENTRIES, _in_chunks(entry_rows))
    return dated


async def commit(wire: Wire, *writes: Request) -> list[Result]:
    """Write and commit in one round trip; the results of the writes.

    On an aborted transaction the server answers ROLLBACK, without an error. A wait for a
    synchronous standby that was cut short answers COMMIT with a warning. Raises CommitUnconfirmed
    for both.
    """
    *results, committed = await wire.exchange(*writes, Request(COMMIT))
    if committed.tag != "COMMIT" or wire.warnings:
        raise CommitUnconfirmed(f"COMMIT answered {committed.tag} {' '.join(wire.warnings)}")
    assert wire.idle
    return results


def _inserts(ledger: int, plan: Plan) -> Iterator[Request]:
    same = [number(ledger), timestamp(plan.recorded_at)]
    rows = map(values_of, plan.transactions)
    yield Request(INSERT_TRANSACTIONS, [*same, *_encoded(WRITTEN, rows)])
    entries = plan.entries()
    if entries:
        columns = _encoded(WRITTEN_ENTRY, map(astuple, entries))
        yield Request(INSERT_ENTRIES, [*same, *columns])


def _dated_entries(ledger: int, plan: Plan) -> Iterator[Request]:
    """Copies of the entries that take effect at another time than they are recorded at."""
    ids = [
        t.id
        for t in plan.transactions
        if t.extra is not None and t.extra.detail.effective_at is not None and t.entries
    ]
    if ids:
        yield Request(INSERT_DATED_ENTRIES, [number(ledger), array(ids)])


def _in_chunks(rows: Iterable[str]) -> Iterator[str]:
    remaining = iter(rows)
    while chunk := "".join(islice(remaining, COPY_CHUNK_ROWS)):
        yield chunk
