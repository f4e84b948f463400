"""A history as CSV, for spreadsheets: a row for each record, and one for each entry and policy.

ENTRY and POLICY rows belong to the TRANSACTION above them. Amounts are decimals in major units.
A cell without a value is empty.
"""

import csv
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import msgspec

from ledgerservice.domain.amounts import is_amount, to_major, to_minor
from ledgerservice.domain.cells import guarded, row_of, unguarded
from ledgerservice.domain.history import (
    End,
    Header,
    Line,
    PastAccount,
    PastCurrency,
    PastEntry,
    PastPolicy,
    PastRefusal,
    PastTransaction,
)
from ledgerservice.domain.transactions import HoldTerms, ScheduleTerms
from ledgerservice.errors import ImportFault
from ledgerservice.files.decoding import MAX_LINE_BYTES, Decoder, has_undecoded

Cells = dict[str, Any]

LISTS: dict[str, tuple[str, type[msgspec.Struct]]] = {
    "ENTRY": ("entries", PastEntry),
    "POLICY": ("policies", PastPolicy),
}
"""The rows that belong to a transaction: its field, and what each row is."""
PARTS: dict[str, type[msgspec.Struct]] = {
    "refusal": PastRefusal,
    "hold": HoldTerms,
    "schedule": ScheduleTerms,
}
"""What is in columns of the same row: `hold.amount` and so on."""
AMOUNTS = {
    "TRANSACTION": {"amount", "remaining"},
    "ENTRY": {"amount", "held_change", "balance", "held"},
    "POLICY": {"floor", "ceiling", "lowest"},
    "refusal": {"available", "balance"},
    "hold": {"amount"},
    "schedule": {"amount"},
}
FIRST = (
    "type", "id", "kind", "recorded_at", "effective_at", "account_id", "amount", "balance",
    "held_change", "held", "version", "currency", "owner", "reference", "description", "key",
)  # fmt: skip
"""The columns that a person looks for."""


def _columns() -> tuple[str, ...]:
    own = [PastTransaction, PastEntry, PastPolicy, PastAccount, PastCurrency, Header, End]
    names = [name for struct in own for name in struct.__struct_fields__]
    parts = [f"{part}.{name}" for part, s in PARTS.items() for name in s.__struct_fields__]
    inside = {*PARTS, *(field for field, _ in LISTS.values())}
    return tuple(dict.fromkeys((*FIRST, *(n for n in names if n not in inside), *parts)))


COLUMNS = _columns()
csv.field_size_limit(MAX_LINE_BYTES)


class _Exponents:
    """The number of decimals of each account's currency, of the records so far."""

    def __init__(self) -> None:
        self._currencies: dict[str, int] = {}
        self._accounts: dict[Any, int] = {}

    def add(self, line: Line) -> None:
        """Note a currency or an account."""
        if isinstance(line, PastCurrency):
            self._currencies[line.code] = self._accounts[-line.number] = line.exponent
        elif isinstance(line, PastAccount):
            self._accounts[line.id] = self._currencies.get(line.currency, 0)

    def of(self, fields: Cells) -> int:
        """The decimals of the amounts beside an account's id."""
        return self._accounts.get(int(fields.get("account_id") or 0), 0)


class Sheet:
    """Writes records as rows."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self._write_row(COLUMNS)
        self._exponents = _Exponents()

    def write(self, line: Line) -> None:
        """Write a record."""
        self._exponents.add(line)
        fields: Cells = msgspec.to_builtins(line)
        rows = [
            self._cells(kind, {"type": kind, **one})
            for kind, (field, _) in LISTS.items()
            for one in fields.pop(field, ())
        ]
        parts = {part: self._cells(part, fields.pop(part, None) or {}) for part in PARTS}
        cells = self._cells(fields["type"], fields)
        cells |= {f"{part}.{name}": v for part, own in parts.items() for name, v in own.items()}
        for row in (cells, *rows):
            self._write_row(row.get(name) for name in COLUMNS)

    def _write_row(self, cells: Iterable[Any]) -> None:
        self._target.write(f"{row_of(cells)}\n".encode())

    def _cells(self, kind: str, fields: Cells) -> Cells:
        exponent, amounts = self._exponents.of(fields), AMOUNTS.get(kind, ())
        return {
            name: to_major(value, exponent) if name in amounts else _cell(value)
            for name, value in fields.items()
            if value is not None
        }


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else ""
    return guarded(value) if isinstance(value, str) else value


class SheetLines:
    """The records of a table; `number` is the line of the last row. Raises ImportFault."""

    def __init__(self, source: BinaryIO) -> None:
        self._reader = csv.reader(Decoder(source, None).lines(), strict=True)
        self._exponents = _Exponents()
        self.number = 0

    def __iter__(self) -> Iterator[Line]:
        line: Cells | None = None
        begun_at = 0
        for cells in self._rows():
            kind = cells.get("type", "")
            if kind in LISTS:
                self._append(line, kind, cells)
                continue
            if line is not None:
                yield self._line(line, begun_at)
            line, begun_at = cells, self.number
        if line is not None:
            yield self._line(line, begun_at)

    def _rows(self) -> Iterator[Cells]:
        try:
            names = next(self._reader, [])
            self._check(names)
            for cells in self._reader:
                self.number = self._reader.line_num
                if has_undecoded("".join(cells)):
                    raise self._fault("it has a byte that is not valid in its encoding")
                if any(cells):
                    yield {n: c for n, c in zip(names, cells, strict=False) if c != ""}
        except csv.Error as error:
            self.number = self._reader.line_num
            raise self._fault(str(error)) from None

    def _check(self, names: list[str]) -> None:
        unknown = [name or "(empty)" for name in names if name not in COLUMNS]
        if unknown or "type" not in names or len(set(names)) < len(names):
            what = f"Unknown are {', '.join(unknown)}." if unknown else "Each is named once."
            raise ImportFault(
                f"Its first line does not name the columns of a history. {what} `export --history "
                "--format csv` writes such a file."
            )

    def _append(self, line: Cells | None, kind: str, cells: Cells) -> None:
        if line is None or line.get("type") != "TRANSACTION":
            raise self._fault(f"there is no TRANSACTION above this {kind}")
        field, struct = LISTS[kind]
        del cells["type"]
        line.setdefault(field, []).append(self._part(kind, struct, cells, self.number))

    def _line(self, cells: Cells, number: int) -> Line:
        fields = {name: cells.pop(name) for name, _ in LISTS.values() if name in cells}
        for part, struct in PARTS.items():
            own = {n.partition(".")[2]: v for n, v in cells.items() if n.startswith(f"{part}.")}
            if own:
                fields[part] = self._part(part, struct, own, number)
        plain = {name: cell for name, cell in cells.items() if "." not in name}
        kind = plain.get("type", "")
        required: Cells = {"entries": []} if kind == "TRANSACTION" else {}
        values = required | self._values(kind, plain, number) | fields
        line: Line = self._converted(values, Line, number)
        self._exponents.add(line)
        return line

    def _part(self, kind: str, struct: type[msgspec.Struct], cells: Cells, number: int) -> Any:
        missing = dict.fromkeys(struct.__struct_fields__)
        return self._converted(missing | self._values(kind, cells, number), struct, number)

    def _values(self, kind: str, cells: Cells, number: int) -> Cells:
        amounts = AMOUNTS.get(kind, set())
        return {
            name: self._minor(name, cell, cells, number) if name in amounts else unguarded(cell)
            for name, cell in cells.items()
        }

    def _minor(self, name: str, cell: str, cells: Cells, number: int) -> int:
        account = cells.get("account_id", "")
        exponent = self._exponents.of(cells) if account.lstrip("-").isdecimal() else 0
        digits = cell.removeprefix("-")
        minor = to_minor(digits, exponent) if is_amount(digits) else None
        if minor is None:
            raise _fault(number, f"{name}: {cell} is not an amount with {exponent} decimals")
        return minor if digits == cell else -minor

    def _converted(self, values: Cells, form: Any, number: int) -> Any:
        try:
            return msgspec.convert(values, form, strict=False)
        except msgspec.ValidationError as error:
            raise _fault(number, str(error)) from None

    def _fault(self, text: str) -> ImportFault:
        return _fault(self.number, text)


def _fault(number: int, text: str) -> ImportFault:
    return ImportFault(f"Line {number} is not a line of a history ({text}).")
