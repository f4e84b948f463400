"""Export of the journal: one line per entry, from one snapshot."""

import csv
import json
from datetime import UTC, datetime
from typing import NamedTuple, TextIO

from sqlalchemy import Engine, text

from ledgerservice.domain.instructions import Kind
from ledgerservice.files.importer import Format


class Span(NamedTuple):
    """The entries to export: of one account or all, recorded in [since, until)."""

    account_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    ledger: str = "default"


_ENTRIES = """
SELECT e.transaction_id, e.recorded_at, e.account_id, e.seq AS version,
       CASE WHEN t.kind <> 3 THEN (CAST(:kinds AS text[]))[t.kind]
            WHEN e.amount < 0 THEN 'TRANSFER_OUT' ELSE 'TRANSFER_IN'
       END AS transaction_type,
       round(e.amount / 10::numeric ^ a.exponent, a.exponent)::text AS amount,
       round(e.balance / 10::numeric ^ a.exponent, a.exponent)::text AS balance,
       round(e.held_change / 10::numeric ^ a.exponent, a.exponent)::text AS held_change,
       round(e.held / 10::numeric ^ a.exponent, a.exponent)::text AS held,
       a.currency, t.idempotency_key
FROM ledger.entries e
JOIN ledger.transactions t ON t.ledger_id = e.ledger_id AND t.id = e.transaction_id
JOIN ledger.accounts a ON a.ledger_id = e.ledger_id AND a.id = e.account_id
WHERE e.ledger_id = (SELECT ledger_id FROM ledger.ledgers WHERE name = :ledger) AND {which}
ORDER BY {order}
"""

COLUMNS = (
    "transaction_id",
    "recorded_at",
    "account_id",
    "version",
    "transaction_type",
    "amount",
    "balance",
    "held_change",
    "held",
    "currency",
    "idempotency_key",
)


def export(engine: Engine, target: TextIO, form: Format, span: Span) -> None:
    """Write the entries of `span` to `target`. Rows are streamed, so memory does not grow."""
    conditions = {
        "e.account_id = :account_id": span.account_id,
        "e.recorded_at >= :since": span.since,
        "e.recorded_at < :until": span.until,
    }
    which = " AND ".join(c for c, value in conditions.items() if value is not None) or "true"
    order = "e.transaction_id, e.account_id" if span.account_id is None else "e.seq"
    query = text(_ENTRIES.format(which=which, order=order))
    writer = csv.writer(target, lineterminator="\n")
    if form is Format.CSV:
        writer.writerow(COLUMNS)
    with engine.connect().execution_options(yield_per=5_000) as connection:
        for number, recorded_at, *others in connection.execute(query, _values(span)):
            row = (number, recorded_at.astimezone(UTC).isoformat(timespec="microseconds"), *others)
            if form is Format.CSV:
                writer.writerow(row)
            else:
                target.write(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n")


def _values(span: Span) -> dict[str, object]:
    values = {name: value for name, value in span._asdict().items() if value is not None}
    return {"kinds": [kind.name for kind in Kind], **values}
