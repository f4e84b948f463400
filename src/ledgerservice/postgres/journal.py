"""Everything that a batch writes, and its COMMIT.

A batch is one database transaction, READ COMMITTED, in two round trips: one reads under the locks
the state to decide on (`locking`), one writes the decisions and commits. BEGIN and COMMIT are sent
here, and the server's answers to them are checked.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from msgspec import Struct
from msgspec.structs import astuple
from psycopg.errors import IntegrityError, OperationalError, UniqueViolation

from ledgerservice.domain.accounts import Account
from ledgerservice.domain.instructions import Detail
from ledgerservice.domain.planner import Plan
from ledgerservice.domain.transactions import TERMS, Extra, Policy, Transaction
from ledgerservice.postgres.pipeline import (
    Request,
    Result,
    Wire,
    array,
    number,
    optional_array,
    text_array,
    timestamp,
    timestamp_array,
)
from ledgerservice.postgres.rows import (
    PLAIN_CONSTANTS,
    PLAIN_WRITTEN,
    WRITTEN,
    WRITTEN_ENTRY,
    are_plain,
    copied,
    copied_entries,
    copied_plain,
    plain_values_of,
    values_of,
)
from ledgerservice.telemetry import batches

# From here on COPY is cheaper than INSERT, though it takes more round trips.
COPY_FROM_TRANSACTIONS = 500
COPY_CHUNK_ROWS = 1000

BEGIN = "BEGIN"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

Encode = Callable[[Iterable[Any]], bytes]

ENCODERS: dict[str, Encode] = {
    "bigint": array,
    "bigint?": optional_array,
    "integer": array,
    "smallint": array,
    "boolean": array,
    "text": text_array,
    "json": text_array,
    "timestamptz": timestamp_array,
    "bytea": lambda values: text_array("\\x" + value.hex() for value in values),
}
"""An array parameter of each SQL type; `?` marks one that may contain NULL."""


class Insert:
    """An INSERT of whole columns.

    The values of `columns` are the same for all rows of a batch, those of `constants` for all
    batches; those of `types`, which has their SQL types, differ.
    """

    def __init__(
        self, table: str, columns: Sequence[str], types: dict[str, str], **constants: int
    ) -> None:
        self._encoders = [ENCODERS[kind] for kind in types.values()]
        names = ", ".join([*columns, *constants, *types])
        scalars = [f"${place}" for place in range(1, len(columns) + 1)]
        fixed = ", ".join([*scalars, *map(str, constants.values())])
        arrays = ", ".join(
            f"${place}::{kind.rstrip('?')}[]"
            for place, kind in enumerate(types.values(), start=len(columns) + 1)
        )
        self.statement = (
            f"INSERT INTO ledger.{table} ({names}) SELECT {fixed}, * FROM unnest({arrays})"
        )

    def request(self, same: Sequence[bytes], rows: Iterable[Sequence[Any]]) -> Request:
        """The INSERT of these rows, of which there is at least one."""
        return Request(self.statement, [*same, *self.encoded(rows)])

    def encoded(self, rows: Iterable[Sequence[Any]]) -> list[bytes]:
        """The arrays of these rows, of which there is at least one."""
        columns = zip(*rows, strict=True)
        return [encode(column) for encode, column in zip(self._encoders, columns, strict=True)]


def _copy(table: str, *columns: str) -> str:
    return f"COPY ledger.{table} ({', '.join(columns)}) FROM STDIN"


SAME = ("ledger_id", "recorded_at")
INSERT_TRANSACTIONS = Insert("transactions", SAME, WRITTEN)
INSERT_PLAIN = Insert("transactions", SAME, PLAIN_WRITTEN, **PLAIN_CONSTANTS)
INSERT_ENTRIES = Insert("entries", SAME, WRITTEN_ENTRY)
COPY_TRANSACTIONS = _copy("transactions", *SAME, *WRITTEN)
COPY_PLAIN = _copy("transactions", *SAME, *PLAIN_CONSTANTS, *PLAIN_WRITTEN)
COPY_ENTRIES = _copy("entries", *SAME, *WRITTEN_ENTRY)


def _insert_taken(
    table: str, number: str, types: dict[str, str], start: int, **constants: int
) -> str:
    """An INSERT with the time that was taken; `number` counts from the id that was taken."""
    names = ", ".join([*SAME, *constants, *types])
    values = [f"first_id + {name}" if name == number else name for name in types]
    arrays = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(types.values(), start))
    return (
        f"INSERT INTO ledger.{table} ({names})"
        f" SELECT {', '.join(['$1, recorded_at', *map(str, constants.values()), *values])}"
        f" FROM taken, unnest({arrays}) AS new_rows ({', '.join(types)})"
    )


# A whole batch of known accounts; nothing, if one of them has another version than in $4. They are
# locked in the order of $3, which ascends. A lock that was waited for has its condition checked
# again. The xid is taken before an id and the clock, as WHERE is evaluated before what is selected.
# The trigger on entries runs after both INSERTs.
RECORD_KNOWN = f"""
WITH locked AS MATERIALIZED (
    SELECT FROM unnest($3::bigint[], $4::bigint[]) AS ascending (known_id, known_version)
    CROSS JOIN LATERAL (
        SELECT FROM ledger.accounts
        WHERE ledger_id = $1 AND id = known_id AND version = known_version FOR NO KEY UPDATE) a
), taken AS MATERIALIZED (
    SELECT nextval('ledger.transaction_id') AS first_id,
           greatest(clock_timestamp(), transaction_timestamp(), $2::timestamptz) AS recorded_at
    WHERE (SELECT count(*) FROM locked) = cardinality($3::bigint[])
      AND pg_current_xact_id() IS NOT NULL
), written AS (
    {_insert_taken("transactions", "id", PLAIN_WRITTEN, 5, **PLAIN_CONSTANTS)}
), moved AS (
    {_insert_taken("entries", "transaction_id", WRITTEN_ENTRY, 5 + len(PLAIN_WRITTEN))}
)
SELECT first_id, recorded_at FROM taken
"""


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
        types = {"transaction_id": "bigint", **types}
        self._insert = Insert(table, ("ledger_id",), types)
        self._rows_of = rows_of

    def requests(self, ledger: int, transactions: Iterable[Transaction]) -> Iterator[Request]:
        """The INSERT of these rows; none if there are no rows."""
        detailed = [(t.id, t.extra) for t in transactions if t.extra is not None]
        rows = [(id_, *row) for id_, extra in detailed for row in self._rows_of(extra)]
        if rows:
            yield self._insert.request([number(ledger)], rows)


_TEXTS = {"description", "reference", "actor", "reason"}


def _types_of(part: type[Struct]) -> dict[str, str]:
    """The columns of a part of `Extra`, which are its fields, with their SQL types."""
    return {name: _type_of(name) for name in part.__struct_fields__}


def _type_of(name: str) -> str:
    if name.endswith("_at"):
        return "timestamptz"
    if name in _TEXTS:
        return "text"
    return {"metadata": "json", "restricted": "smallint"}.get(name, "bigint?")


def _details(extra: Extra) -> Iterator[tuple[Any, ...]]:
    texts = astuple(extra.detail)
    facts = extra.parent_id, extra.remaining, extra.digest, extra.salt
    yield (*facts, extra.exchange, extra.request, *texts)


def _terms(kind: type[Struct]) -> Callable[[Extra], Iterable[tuple[Any, ...]]]:
    return lambda extra: [astuple(extra.terms)] if isinstance(extra.terms, kind) else ()


SIDE_ROWS = (
    SideRows(
        "details",
        {
            "parent_id": "bigint?",
            "remaining": "bigint?",
            "digest": "bytea",
            "salt": "bytea",
            "exchange": "json",
            "request": "json",
            **_types_of(Detail),
        },
        _details,
    ),
    *(SideRows(table, _types_of(terms), _terms(terms)) for table, terms in TERMS.items()),
    SideRows("policies", _types_of(Policy), lambda extra: map(astuple, extra.policies)),
)
"""In the order in which they are written: details first, the entries after all."""

# From the rows that were just written, so that they cannot differ.
INSERT_DATED_ENTRIES = """
INSERT INTO ledger.dated_entries (ledger_id, account_id, effective_at, seq, transaction_id,
    amount, recorded_at)
SELECT e.ledger_id, e.account_id, d.effective_at, e.seq, e.transaction_id, e.amount, e.recorded_at
FROM unnest($2::bigint[]) AS requested (id)
CROSS JOIN LATERAL (
    SELECT effective_at FROM ledger.details
    WHERE ledger_id = $1 AND transaction_id BETWEEN requested.id AND requested.id
    ORDER BY transaction_id LIMIT 1) d
CROSS JOIN LATERAL (
    SELECT * FROM ledger.entries
    WHERE ledger_id = $1 AND transaction_id BETWEEN requested.id AND requested.id
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
    rest = await _write(wire, ledger, plan)
    batches.end_phase(batches.WRITE)
    await commit(wire, *rest)
    batches.end_phase(batches.COMMIT)


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


async def record_known(
    wire: Wire, ledger: int, accounts: Mapping[int, Account], plan: Plan
) -> bool:
    """Begin, write a plain plan that has no ids and no time yet, and commit, in one round trip.

    False, with nothing written, if one of the `accounts` that it was made on has moved, or if a key
    is there. Raises CommitUnconfirmed.
    """
    ids = sorted(accounts)
    parameters = [
        number(ledger),
        timestamp(plan.recorded_at),
        array(ids),
        array(accounts[one].version for one in ids),
        *INSERT_PLAIN.encoded(map(plain_values_of, plan.transactions)),
        *INSERT_ENTRIES.encoded(map(astuple, plan.entries())),
    ]
    try:
        _, taken = await commit(wire, Request(BEGIN), Request(RECORD_KNOWN, parameters))
    except IntegrityError:
        await abandon(wire)
        return False
    if taken.rows:
        plan.stamp(*taken.rows[0])
    batches.end_phase(batches.COMMIT)
    return bool(taken.rows)


async def begin_recording(wire: Wire, ledger: int, plan: Plan) -> None:
    """Copy the rows of a plain plan, but withhold the end of its entries: nothing is judged yet."""
    head = _head(ledger, plan)
    await _copy_transactions(wire, head, plan)
    await wire.begin_copy(COPY_ENTRIES, _copied_entries(head, plan))


async def finish_recording(wire: Wire) -> None:
    """End the entries, so that the trigger judges them, and commit. Raises CommitUnconfirmed."""
    await wire.end_copy()
    batches.end_phase(batches.WRITE)
    await commit(wire)
    batches.end_phase(batches.COMMIT)


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
    head = _head(ledger, plan)
    await _copy_transactions(wire, head, plan)
    if side_rows:
        await wire.exchange(*side_rows)
    await wire.copy(COPY_ENTRIES, _copied_entries(head, plan))
    return dated


def _head(ledger: int, plan: Plan) -> str:
    return f"{ledger}\t{plan.recorded_at.isoformat()}\t"


def _copied_entries(head: str, plan: Plan) -> Iterator[str]:
    return _in_chunks(copied_entries(head, plan.entries()))


async def _copy_transactions(wire: Wire, head: str, plan: Plan) -> None:
    if are_plain(plan.transactions):
        head += "".join(f"{value}\t" for value in PLAIN_CONSTANTS.values())
        await wire.copy(COPY_PLAIN, _in_chunks(copied_plain(head, plan.transactions)))
    else:
        await wire.copy(COPY_TRANSACTIONS, _in_chunks(copied(head, plan.transactions)))


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
    transactions = plan.transactions
    if are_plain(transactions):
        yield INSERT_PLAIN.request(same, map(plain_values_of, transactions))
    else:
        yield INSERT_TRANSACTIONS.request(same, map(values_of, transactions))
    entries = plan.entries()
    if entries:
        yield INSERT_ENTRIES.request(same, map(astuple, entries))


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
