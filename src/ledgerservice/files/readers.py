"""The rows of CSV and NDJSON."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import BinaryIO

import msgspec

from ledgerservice.api.http.problems import ProblemError, invalid
from ledgerservice.domain.cells import row_of
from ledgerservice.domain.instructions import is_key
from ledgerservice.errors import ImportFault
from ledgerservice.files.columns import NO_KEYS, REJECT_COLUMNS, names_of
from ledgerservice.files.decoding import Decoder, has_undecoded
from ledgerservice.files.options import Format, Options
from ledgerservice.files.rows import (
    Item,
    Row,
    fields_of_cells,
    item_of,
    read_json,
    with_defaults,
)

REJECT = b'{"type":"REJECT"'
"""The beginning of a line that a file of rejects has before each of its lines."""


class Rejected(msgspec.Struct, tag="REJECT", tag_field="type"):
    """Why the line after it was not posted."""

    line: int
    outcome: str
    code: str
    detail: str


_decode_reject = msgspec.json.Decoder(Rejected).decode


class Table:
    """The rows of a file, and the head that a file of its rejects has."""

    def __init__(self, source: BinaryIO, options: Options) -> None:
        """Raises ImportFault if the first line of a CSV file does not name its columns."""
        if options.key_prefix is not None and not is_key(f"{options.key_prefix}0"):
            raise ImportFault("--key-prefix: keys are printable ASCII, of up to 255 characters.")
        self._options = options
        self._decoder = Decoder(source, options.encoding)
        self._texts = _Texts(self._decoder.lines())
        self.head = b""
        self._names: list[str] = []
        self._reader: Iterator[list[str]] = iter(())
        if options.form is Format.CSV:
            self._begin_csv()

    def rows(self) -> Iterator[Row]:
        """The rows, in order."""
        return self._csv_rows() if self._options.form is Format.CSV else self._json_rows()

    # CSV.

    def _begin_csv(self) -> None:
        delimiter = self._options.delimiter or ","
        self._reader = csv.reader(self._texts, delimiter=delimiter, strict=True)
        try:
            header = next(self._reader, [])
        except csv.Error as error:
            raise ImportFault(f"Its first line: {error}.") from None
        if has_undecoded("".join(header)):
            raise ImportFault(f"Its first line is not valid {self._decoder.encoding}.")
        if not header:
            raise ImportFault("It is empty: its first line must name the columns.")
        self._names = names_of(header, self._options)
        text = self._texts.taken()
        self._is_of_rejects = tuple(self._names[: len(REJECT_COLUMNS)]) == REJECT_COLUMNS
        mended = self._without_rejects(header, text)
        self.head = self._decoder.bom + self._encoded(delimiter.join(REJECT_COLUMNS)) + mended

    def _encoded(self, text: str) -> bytes:
        return self._decoder.encoded(text + (self._options.delimiter or ","))

    def _without_rejects(self, cells: Sequence[str], text: str) -> bytes:
        """The text of a row without the columns of an earlier file of rejects."""
        if self._is_of_rejects and len(cells) > len(REJECT_COLUMNS):
            delimiter = self._options.delimiter or ","
            text = row_of(cells[len(REJECT_COLUMNS) :], delimiter) + "\r\n"
        return self._decoder.encoded(text if text.endswith("\n") else text + "\n")

    def _csv_rows(self) -> Iterator[Row]:
        while True:
            cells: list[str] = []
            fault: ProblemError | None = None
            try:
                cells = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                fault = invalid("line", f"is not valid CSV: {error}")
            number, text = self._texts.number, self._texts.taken()
            if cells or fault:
                line = self._line_of(cells, number)
                item = fault or self._item(cells, line)
                mended = self._without_rejects(cells, text)
                yield Row(line, item, mended, self._decoder.done_bytes)

    def _line_of(self, cells: Sequence[str], number: int) -> int:
        """The number of a row; a row out of a file of rejects keeps the one that it had."""
        if self._is_of_rejects and cells and cells[0].isdecimal():
            return int(cells[0])
        return number

    def _item(self, cells: Sequence[str], line: int) -> Item:
        for name, cell in zip_longest(self._names, cells):
            if cell and has_undecoded(cell):
                return self._undecoded(name or "line", cell)
        if any(more := cells[len(self._names) :]):
            fault = f"has {len(cells)} fields, the first line has {len(self._names)}"
            return invalid("line", f"{fault}; the further ones are {', '.join(more)}")
        named = zip(self._names, cells, strict=False)
        kept = {n: cell for n, cell in named if n and n not in REJECT_COLUMNS and cell.strip()}
        try:
            fields = fields_of_cells(kept, self._options)
            return item_of(with_defaults(fields, line, self._options))
        except ProblemError as refused:
            return refused

    def _undecoded(self, name: str, text: str) -> ProblemError:
        match = has_undecoded(text)
        assert match is not None
        code = f"0x{ord(match[0]) & 0xFF:02x}"
        return invalid(name, f"has a byte that is not valid {self._decoder.encoding}: {code}")

    # NDJSON.

    def _json_rows(self) -> Iterator[Row]:
        kept_number: int | None = None
        has_key = False
        for text in self._texts:
            number, line = self._texts.number, self._decoder.encoded(text)
            self._texts.taken()
            if not text.strip():
                continue
            if line.startswith(REJECT):
                kept_number = _number_of(line)
                continue
            item = self._json_item(text, kept_number or number)
            missing = isinstance(item, ProblemError) and item.code == "idempotency_key_missing"
            if missing and not has_key and self._options.key_prefix is None:
                raise ImportFault(NO_KEYS)
            has_key = True
            whole = line if line.endswith(b"\n") else line + b"\n"
            yield Row(kept_number or number, item, whole, self._decoder.done_bytes)
            kept_number = None

    def _json_item(self, text: str, number: int) -> Item:
        if has_undecoded(text):
            return self._undecoded("line", text)
        return read_json(text.encode(), number, self._options)

    def reject(self, row: Row, outcome: str, code: str, detail: str) -> bytes:
        """A row as it stands in a file of rejects: why, and its own text."""
        if self._options.form is Format.NDJSON:
            reason = msgspec.json.encode(Rejected(row.line, outcome, code, detail))
            return reason + b"\n" + row.text
        reasons = row_of((row.line, outcome, code, detail), self._options.delimiter or ",")
        return self._encoded(reasons) + row.text


class _Texts:
    """Lines, and those that were read since they were last taken."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._read: list[str] = []
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self._read.append(line)
        self.number += 1
        return line

    def taken(self) -> str:
        text = "".join(self._read)
        self._read.clear()
        return text


def _number_of(line: bytes) -> int | None:
    try:
        return _decode_reject(line).line
    except msgspec.MsgspecError:
        return None
