"""A ledger's whole history as NDJSON or CSV: from one snapshot, imported whole or not at all.

The first line is a HISTORY, the last an END, so a file that was cut is noticed.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import BinaryIO

import msgspec
from sqlalchemy import Engine, text

from ledgerservice.domain.currencies import Currency
from ledgerservice.domain.history import (
    FORMAT,
    End,
    Header,
    HistoryFault,
    Line,
    PastAccount,
    PastCurrency,
    PastTransaction,
)
from ledgerservice.errors import ExportFault, ImportFault
from ledgerservice.files.options import Format
from ledgerservice.files.sheets import Sheet, SheetLines
from ledgerservice.ledger import Ledger
from ledgerservice.postgres.queries.history import read_history
from ledgerservice.posting.history import Counts, parts_of

MAX_LINE_BYTES = 2**20

_encode = msgspec.json.Encoder().encode
_decode: Callable[[bytes], Line] = msgspec.json.Decoder(Line).decode

FIND_LEDGER = text("SELECT ledger_id FROM ledger.ledgers WHERE name = :name")


def export_history(
    engine: Engine, target: BinaryIO, ledger: str, form: Format = Format.NDJSON
) -> Counts:
    """Write the history of a ledger to `target`. Raises ExportFault if there is no such ledger."""
    accounts = transactions = 0
    repeatable = engine.execution_options(isolation_level="REPEATABLE READ")
    with repeatable.connect() as connection:
        number = connection.scalar(FIND_LEDGER, {"name": ledger})
        if number is None:
            raise ExportFault(f"There is no ledger {ledger}.")
        write = Sheet(target).write if form is Format.CSV else _json_writer(target)
        write(Header(FORMAT, ledger, datetime.now(UTC)))
        for line in read_history(connection, number):
            write(line)
            accounts += isinstance(line, PastAccount)
            transactions += isinstance(line, PastTransaction)
        write(End(accounts, transactions))
    return Counts(accounts, transactions)


def _json_writer(target: BinaryIO) -> Callable[[Line], object]:
    return lambda line: target.write(_encode(line) + b"\n")


async def import_history(
    ledger: Ledger, source: BinaryIO, form: Format = Format.NDJSON, *, dry_run: bool = False
) -> Counts:
    """Import a history into an empty ledger, whole or not at all. Raises ImportFault.

    The currencies of the file are added first; they stay if the import fails. A dry run adds none,
    and takes everything else back.
    """
    lines = _Lines(SheetLines(source) if form is Format.CSV else _JsonLines(source))
    try:
        currencies = lines.currencies()
        for one in currencies if not dry_run else ():
            added = await ledger.add_currency(one.code, one.exponent, one.name, own=one.own)
            if not isinstance(added, Currency):
                raise ImportFault(f"Currency {one.code} exists with other decimals or name.")
        parts = parts_of(lines.records())
        return await ledger.import_history(currencies, parts, dry_run=dry_run)
    except HistoryFault as fault:
        text = str(fault)
        raise ImportFault(f"{text[:1].upper()}{text[1:]}. Nothing was imported.") from fault


class _JsonLines:
    """The lines of NDJSON; `number` is that of the last one. Raises ImportFault."""

    def __init__(self, source: BinaryIO) -> None:
        self.number = 0
        self._source = source

    def __iter__(self) -> Iterator[Line]:
        while text := self._source.readline(MAX_LINE_BYTES):
            self.number += 1
            if text.strip():
                yield self._decoded(text.removeprefix(b"\xef\xbb\xbf"))

    def _decoded(self, text: bytes) -> Line:
        try:
            return _decode(text)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise ImportFault(
                f"Line {self.number} is not a line of a history ({error}). `export --history` "
                "writes such a file."
            ) from None


class _Lines:
    """The records of a history in their order. Raises ImportFault."""

    def __init__(self, source: _JsonLines | SheetLines) -> None:
        self._source = source
        self._lines = iter(source)
        self._next: Line | None = None

    def currencies(self) -> list[PastCurrency]:
        """The header is read, and the currencies after it."""
        header = next(self._lines, None)
        if not isinstance(header, Header) or header.format != FORMAT:
            raise ImportFault(f"Its first line is not the header of a history (format {FORMAT}).")
        currencies: list[PastCurrency] = []
        for line in self._lines:
            if not isinstance(line, PastCurrency):
                self._next = line
                break
            currencies.append(line)
        return currencies

    def records(self) -> Iterator[PastAccount | PastTransaction]:
        """The accounts and transactions up to the end, which has their numbers."""
        counts = {PastAccount: 0, PastTransaction: 0}
        for line in self._rest():
            if isinstance(line, End):
                self._check_end(line, list(counts.values()))
                return
            if not isinstance(line, PastAccount | PastTransaction):
                raise ImportFault(f"Line {self._source.number} is out of place.")
            counts[type(line)] += 1
            yield line
        raise ImportFault("Its last line is not an END: the file was cut. Nothing was imported.")

    def _check_end(self, end: End, counts: list[int]) -> None:
        if [end.accounts, end.transactions] != counts:
            raise ImportFault(
                f"Its END has {end.accounts} accounts and {end.transactions} transactions, the "
                f"file {counts[0]} and {counts[1]}. Nothing was imported."
            )
        if next(self._lines, None) is not None:
            raise ImportFault("There are lines after its END. Nothing was imported.")

    def _rest(self) -> Iterable[Line]:
        if self._next is not None:
            yield self._next
        yield from self._lines
