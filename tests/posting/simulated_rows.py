"""The rows of the simulated database, and the parameters that they come in."""

from collections.abc import Iterable
from dataclasses import asdict, make_dataclass, replace
from datetime import datetime
from typing import Any

from msgspec import structs

from ledgerservice.domain.transactions import Entry
from ledgerservice.postgres import journal, rows
from ledgerservice.postgres.rows import PLAIN_CONSTANTS, PLAIN_WRITTEN, WRITTEN

CURRENCY = ("USD", 1, 2)

Row: Any = make_dataclass("Row", ["recorded_at", *WRITTEN], frozen=True)
"""A stored transaction, without its ledger."""


def numbers(array: bytes | None) -> list[Any]:
    inside = (array or b"{}").decode()[1:-1]
    return [None if item == "NULL" else int(item) for item in inside.split(",")] if inside else []


def texts_of(array: bytes | None) -> list[Any]:
    """Only keys without quotes, commas and backslashes are used here."""
    inside = (array or b"{}").decode()[1:-1]
    items = inside.split(",") if inside else []
    return [None if item == "NULL" else item.strip('"') for item in items]


def lines(parameters: Any) -> list[str]:
    return str(parameters[0].decode()).splitlines()


COPIED = {
    journal.COPY_TRANSACTIONS: tuple(WRITTEN),
    journal.COPY_PLAIN: (*PLAIN_CONSTANTS, *PLAIN_WRITTEN),
}
INSERTED = {
    journal.INSERT_TRANSACTIONS.statement: tuple(WRITTEN),
    journal.INSERT_PLAIN.statement: tuple(PLAIN_WRITTEN),
}


def row_of(names: tuple[str, ...], texts: list[str]) -> Any:
    """A row of its columns in COPY's text format; the others have their defaults."""
    moment, *rest = texts
    values: dict[str, Any] = {"origin": 0, "has_details": False, **PLAIN_CONSTANTS}
    values |= {n: _value(WRITTEN[n], text) for n, text in zip(names, rest, strict=True)}
    return Row(datetime.fromisoformat(moment), *(values.get(name) for name in WRITTEN))


def _value(kind: str, text: str) -> Any:
    if text == "\\N":
        return None
    if kind == "boolean":
        return text == "t"
    return text if kind == "text" else int(text)


def inserted_rows(names: tuple[str, ...], parameters: Any) -> Iterable[Any]:
    moment = parameters[1].decode()
    columns = [texts_of(values) for values in parameters[2:]]
    for texts in zip(*columns, strict=True):
        yield row_of(names, [moment, *("\\N" if text is None else text for text in texts)])


def known_rows(
    parameters: Any, first_id: int, recorded_at: datetime
) -> tuple[list[Any], list[Entry]]:
    """The rows and entries of RECORD_KNOWN."""
    end = 4 + len(PLAIN_WRITTEN)
    head = [parameters[0], recorded_at.isoformat().encode()]
    rows = inserted_rows(tuple(PLAIN_WRITTEN), [*head, *parameters[4:end]])
    columns = zip(*map(numbers, parameters[end:]), strict=True)
    entries = [Entry(*values) for values in columns]
    return (
        [replace(row, id=first_id + row.id) for row in rows],
        [structs.replace(e, transaction_id=first_id + e.transaction_id) for e in entries],
    )


def found_row(row: Any) -> tuple[Any, ...]:
    values = asdict(row) | {
        "key": row.idempotency_key,
        "currency": CURRENCY[0],
        "exponent": CURRENCY[2],
    }
    return tuple(values[name] for name in rows.TransactionRow._fields)


def entry_row(e: Entry) -> tuple[Any, ...]:
    return (e.account_id, e.seq, e.transaction_id, e.currency_number, e.amount, e.held_change,
            e.balance, e.held)  # fmt: skip
