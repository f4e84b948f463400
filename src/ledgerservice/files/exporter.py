"""Export of the journal for spreadsheets: one line per entry, from one snapshot."""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple

import msgspec
from msgspec import Raw
from sqlalchemy import Connection, Engine, text

from ledgerservice.domain.cells import guarded, row_of
from ledgerservice.domain.instructions import Kind, Origin
from ledgerservice.domain.timestamps import timestamp
from ledgerservice.errors import ExportFault
from ledgerservice.files.options import Format

ROWS_AT_ONCE = 5_000


class Span(NamedTuple):
    """The entries to export: of one account or all, recorded in [since, until)."""

    account_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    ledger: str = "default"


FIND_LEDGER = text("SELECT ledger_id FROM ledger.ledgers WHERE name = :ledger")
FIND_ACCOUNT = text("SELECT id FROM ledger.accounts WHERE ledger_id = :ledger AND id = :account")

_ENTRIES = """
SELECT e.transaction_id, e.recorded_at, coalesce(d.effective_at, e.recorded_at) AS effective_at,
       e.account_id, a.reference AS account_reference, a.owner, e.seq AS version,
       CASE WHEN t.kind <> 3 THEN (CAST(:kinds AS text[]))[t.kind]
            WHEN e.amount < 0 THEN 'TRANSFER_OUT' ELSE 'TRANSFER_IN'
       END AS transaction_type,
       round(e.amount / 10::numeric ^ a.exponent, a.exponent)::text AS amount,
       round(e.balance / 10::numeric ^ a.exponent, a.exponent)::text AS balance,
       round(e.held_change / 10::numeric ^ a.exponent, a.exponent)::text AS held_change,
       round(e.held / 10::numeric ^ a.exponent, a.exponent)::text AS held,
       a.currency,
       coalesce(CASE WHEN t.kind > 3 THEN NULL
                     WHEN t.account_id = e.account_id THEN t.counterparty_id
                     ELSE t.account_id END,
                (SELECT o.account_id FROM ledger.entries o
                 WHERE o.ledger_id = e.ledger_id AND o.transaction_id = e.transaction_id
                   AND o.account_id <> e.account_id
                 GROUP BY o.account_id
                 HAVING 2 = (SELECT count(DISTINCT account_id) FROM ledger.entries
                             WHERE ledger_id = e.ledger_id
                               AND transaction_id = e.transaction_id))) AS counterparty_id,
       d.parent_id, t.origin, t.principal_id, t.idempotency_key, d.description, d.reference,
       d.metadata::text AS metadata
FROM ledger.entries e
JOIN ledger.transactions t ON t.ledger_id = e.ledger_id AND t.id = e.transaction_id
JOIN ledger.accounts a ON a.ledger_id = e.ledger_id AND a.id = e.account_id
LEFT JOIN ledger.details d ON d.ledger_id = e.ledger_id AND d.transaction_id = e.transaction_id
WHERE e.ledger_id = :ledger AND {which}
ORDER BY {order}
"""

COLUMNS = (
    "transaction_id",
    "recorded_at",
    "effective_at",
    "account_id",
    "account_reference",
    "owner",
    "version",
    "transaction_type",
    "amount",
    "balance",
    "held_change",
    "held",
    "currency",
    "counterparty_id",
    "parent_id",
    "origin",
    "principal_id",
    "idempotency_key",
    "description",
    "reference",
    "metadata",
)
TEXTS = frozenset(
    {"account_reference", "owner", "idempotency_key", "description", "reference", "metadata"}
)
"""The columns whose cells a spreadsheet must not take for formulas. Numbers are never changed."""


def export(sources: Sequence[tuple[Engine, Span]], target: BinaryIO, form: Format) -> int:
    """Write the entries of each span to `target`, and return their number. A ledger with parts has
    a span for each part, which is a ledger of its own, and each is read in a snapshot.

    Rows are streamed, so memory does not grow. Raises ExportFault if there is no such ledger or
    account.
    """
    write: Callable[[dict[str, Any]], object] | None = None
    count = 0
    for engine, span in sources:
        repeatable = engine.execution_options(isolation_level="REPEATABLE READ")
        with repeatable.connect() as connection:
            ledger = _ledger_of(connection, span)
            if write is None:
                write = _csv_writer(target) if form is Format.CSV else _json_writer(target)
            for row in _entries(connection, ledger, span):
                write(row)
                count += 1
    return count


def _ledger_of(connection: Connection, span: Span) -> int:
    ledger = connection.scalar(FIND_LEDGER, {"ledger": span.ledger})
    if ledger is None:
        raise ExportFault(f"There is no ledger {span.ledger}.")
    if span.account_id is not None:
        named = {"ledger": ledger, "account": span.account_id}
        if connection.scalar(FIND_ACCOUNT, named) is None:
            raise ExportFault(f"Ledger {span.ledger} has no account {span.account_id}.")
    return int(ledger)


def _entries(connection: Connection, ledger: int, span: Span) -> Iterator[dict[str, Any]]:
    conditions = {
        "e.account_id = :account_id": span.account_id,
        "e.recorded_at >= :since": span.since,
        "e.recorded_at < :until": span.until,
    }
    which = " AND ".join(c for c, value in conditions.items() if value is not None) or "true"
    order = "e.transaction_id, e.account_id, e.seq" if span.account_id is None else "e.seq"
    values = {n: v for n, v in span._asdict().items() if v is not None} | {"ledger": ledger}
    values["kinds"] = [kind.name for kind in Kind]
    streaming = connection.execution_options(yield_per=ROWS_AT_ONCE)
    for row in streaming.execute(text(_ENTRIES.format(which=which, order=order)), values):
        fields = row._asdict()
        fields["recorded_at"] = timestamp(row.recorded_at)
        fields["effective_at"] = timestamp(row.effective_at)
        fields["origin"] = Origin(row.origin).name.lower()
        yield fields


def _csv_writer(target: BinaryIO) -> Callable[[dict[str, Any]], object]:
    target.write(f"{row_of(COLUMNS)}\n".encode())

    def write(row: dict[str, Any]) -> None:
        named = ((name, row[name]) for name in COLUMNS)
        cells = [guarded(v) if name in TEXTS and v else v for name, v in named]
        target.write(f"{row_of(cells)}\n".encode())

    return write


def _json_writer(target: BinaryIO) -> Callable[[dict[str, Any]], object]:
    encode = msgspec.json.Encoder().encode

    def write(row: dict[str, Any]) -> None:
        metadata = row["metadata"]
        # A line feed is white space in JSON, and none may be within a line.
        value = None if metadata is None else Raw(metadata.replace("\n", " ").encode())
        target.write(encode(row | {"metadata": value}) + b"\n")

    return write
