"""The commands on files: import and export."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.markup import escape
from rich.progress import Progress, TextColumn
from sqlalchemy import Engine

from ledgerservice.cli.data import check_schema
from ledgerservice.cli.output import AsJson, keep_output_for_file, progress_bar, report
from ledgerservice.domain.timestamps import parse_timestamp
from ledgerservice.errors import ExportFault, ImportFault, LedgerError
from ledgerservice.files.bank import BankFile
from ledgerservice.files.columns import REJECT_COLUMNS
from ledgerservice.files.exporter import Span
from ledgerservice.files.exporter import export as write_entries
from ledgerservice.files.history import export_history, import_history
from ledgerservice.files.importer import Importing, Totals, import_rows
from ledgerservice.files.options import (
    BANK_FORMATS,
    SUFFIXES,
    Format,
    Options,
    columns_of,
    format_of,
    zone_of,
)
from ledgerservice.files.readers import Table
from ledgerservice.files.rejects import Rejects, path_of_rejects
from ledgerservice.files.values import time_of
from ledgerservice.ledger import Ledger
from ledgerservice.postgres.access.principals import ledger_id, parts_of
from ledgerservice.postgres.connections import Database, explained
from ledgerservice.postgres.sharding.databases import home_of
from ledgerservice.posting.history import Counts
from ledgerservice.runtime import opened_database
from ledgerservice.settings import Settings

STANDARD_INPUT = "-"
INTERRUPTED = 130
REJECTS_HEAD = f"{','.join(REJECT_COLUMNS)},".encode()

LedgerName = Annotated[str, typer.Option(help="Name of the ledger.")]
AnyFormat = Annotated[
    Format | None, typer.Option("--format", help="Format of the file; by default from its suffix.")
]
Source = Annotated[str, typer.Argument(help="The file; - for the standard input.")]
KeyPrefix = Annotated[
    str | None,
    typer.Option(
        help="For a file without keys: the key of a line is this prefix and the line's number. Use "
        "a prefix once only."
    ),
]
RejectsFile = Annotated[
    Path | None,
    typer.Option(
        help="New file for the rows that were not posted. [FILE.rejects.csv; if it exists, .2.csv]"
    ),
]
Account = Annotated[
    str | None, typer.Option(help="Account, by id or reference, of rows that name none.")
]
Encoding = Annotated[
    str | None, typer.Option(help="Encoding. [that of its byte order mark, or utf-8]")
]
Delimiter = Annotated[
    str | None, typer.Option(help="Character between the columns, or tab. [a comma]")
]
DecimalComma = Annotated[
    bool, typer.Option("--decimal-comma", help="Amounts are written like 1.234,50.")
]
DateFormat = Annotated[
    str | None, typer.Option(help="Form of its dates, such as %d.%m.%Y. [ISO 8601]")
]
Timezone = Annotated[str, typer.Option(help="Time zone of dates and times that have none.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="A column of another name, such as amount=Betrag. Repeatable."),
]
Ignored = Annotated[
    list[str] | None, typer.Option("--ignore", help="A column to leave out. Repeatable.")
]
BankAccount = Annotated[
    str | None, typer.Option(help="The account of a bank's file that has several.")
]
Opening = Annotated[
    str | None,
    typer.Option(help="Balance before a bank's file; needed for OFX, which does not have it."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be posted.")]
AsHistory = Annotated[
    bool, typer.Option("--history", help="A whole ledger, into an empty one; NDJSON or CSV.")
]


Principal = Annotated[
    str | None, typer.Option(help="The principal that what is imported is written by.")
]


def import_file(
    file: Source,
    form: AnyFormat = None,
    key_prefix: KeyPrefix = None,
    rejects: RejectsFile = None,
    account: Account = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    decimal_comma: DecimalComma = False,
    date_format: DateFormat = None,
    timezone: Timezone = "UTC",
    columns: Columns = None,
    ignored: Ignored = None,
    bank_account: BankAccount = None,
    opening: Opening = None,
    dry_run: DryRun = False,
    history: AsHistory = False,
    ledger: LedgerName = "default",
    principal: Principal = None,
    as_json: AsJson = False,
) -> None:
    """Post the movements of FILE. A killed import can be run again: no movement is posted twice.

    Formats: CSV, whose first line names its columns; NDJSON, whose lines are
    items of POST /batches; and statements of banks, OFX, CAMT.053 and MT940.
    The page files.md of the documentation describes them. The exit code is 1
    if a row was declined or rejected.
    """
    place = ledger, principal
    if history:
        others = (key_prefix, rejects, account, columns, ignored, bank_account, opening)
        forms = (encoding, delimiter, decimal_comma, date_format, timezone != "UTC")
        _refuse_beside_history(*others, *forms)
        form = _form_of_history(None if file == STANDARD_INPUT else Path(file), form)
        _import_history(file, form, place, as_json=as_json, dry_run=dry_run)
        return
    options = Options(
        format_of(_path(file), form),
        encoding,
        _delimiter(delimiter),
        decimal_comma,
        date_format,
        zone_of(timezone),
        columns_of(columns or []),
        frozenset(ignored or ()),
        account,
        key_prefix,
        bank_account,
    )
    ending = _Ending(Totals(), as_json, dry_run)
    with _opened(file) as source, _reporting(ending):
        table = _table(source, options, _decimal(opening))
        _post_all(file, table, _rejects(file, rejects, table, options.form), ending, place)
    if ending.rejects is not None:
        raise typer.Exit(1)


def _refuse_beside_history(*options: object) -> None:
    if any(options):
        raise ImportFault(
            "--history can be combined with --format, --ledger, --principal, --dry-run and "
            "--json only."
        )


def _path(file: str) -> Path:
    return Path("stdin" if file == STANDARD_INPUT else file)


def _rejects(file: str, path: Path | None, table: Table | BankFile, form: Format) -> Rejects:
    suffix = ".ndjson" if form is Format.NDJSON else ".csv"
    return Rejects(path or path_of_rejects(_path(file), suffix), table.head, table.reject)


def _delimiter(text: str | None) -> str | None:
    delimiter = "\t" if text in ("tab", "\\t") else text
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '\r\n" '):
        raise ImportFault("--delimiter: it must be one character, or tab.")
    return delimiter


def _decimal(text: str | None) -> Decimal | None:
    try:
        return None if text is None else Decimal(text)
    except InvalidOperation:
        raise ImportFault("--opening: it must be a decimal, such as 100.00.") from None


def _table(source: BinaryIO, options: Options, opening: Decimal | None) -> Table | BankFile:
    if options.form in BANK_FORMATS:
        if not source.peek(len(REJECTS_HEAD)).startswith(REJECTS_HEAD):  # type: ignore[attr-defined]
            return BankFile(source, options, opening)
        # The rows of a statement that were not posted are a table of our own.
        options = Options(account=options.account)
    return Table(source, options)


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == STANDARD_INPUT:
        yield sys.stdin.buffer
        return
    try:
        descriptor = os.open(file, os.O_RDONLY)
        source = os.fdopen(descriptor, "rb")
    except OSError as error:
        raise ImportFault(f"{file}: {error.strerror}.") from None
    with source:
        yield source


def _size(file: str) -> int | None:
    return None if file == STANDARD_INPUT else Path(file).stat().st_size


@dataclass
class _Ending:
    """What an import says at its end."""

    totals: Totals
    as_json: bool
    dry_run: bool
    rejects: Path | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """Everything, for a program."""
        return {"dry_run": self.dry_run, **asdict(self.totals), "rejects": self.rejects}


@contextmanager
def _reporting(ending: _Ending) -> Iterator[None]:
    """Report at the end what was done, also if the import ends early."""
    started_s = time.monotonic()
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        _print_totals(ending, time.monotonic() - started_s, interrupted=True)
        print("Interrupted. Run the same import again: nothing is posted twice.", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    except LedgerError as fault:
        if ending.as_json:
            fault.facts |= ending.facts
        elif ending.totals.rows:
            _print_totals(ending, time.monotonic() - started_s)
        raise
    _print_totals(ending, time.monotonic() - started_s)


def _post_all(
    file: str,
    table: Table | BankFile,
    rejects: Rejects,
    ending: _Ending,
    place: tuple[str, str | None],
) -> None:
    """Post the rows of a table, and keep those that were not posted, also if it ends early."""
    totals, dry_run = ending.totals, ending.dry_run
    try:
        asyncio.run(_post(table, rejects, totals, _size(file), place, dry_run=dry_run))
    finally:
        rejects.close()
        ending.rejects = rejects.path if rejects.count else None


async def _post(
    table: Table | BankFile,
    rejects: Rejects,
    totals: Totals,
    size_bytes: int | None,
    place: tuple[str, str | None],
    *,
    dry_run: bool,
) -> None:
    async with _ledger(*place) as ledger:
        with progress_bar(TextColumn("{task.fields[counts]}")) as bar:
            counter = _counter(bar, size_bytes)
            importing = Importing(ledger, rejects, counter, dry_run, totals)
            await import_rows(importing, table.rows())


@asynccontextmanager
async def _ledger(name: str, principal: str | None) -> AsyncIterator[Ledger]:
    """The ledger of that name, as written by a principal. Raises ImportFault if there is none."""
    async with Ledger.open(principal=principal) as default:
        ledger = await default.ledger(name)
        if ledger is None:
            raise ImportFault(f"There is no ledger {name}.")
        yield ledger


def _counter(bar: Progress, size_bytes: int | None) -> Callable[[Totals], None]:
    task = bar.add_task("Importing", total=size_bytes, counts="")
    started_s = time.monotonic()

    def show(totals: Totals) -> None:
        rate = totals.rows / (time.monotonic() - started_s)
        counts = (
            f"{totals.rows:,} rows, {rate:,.0f}/s, {totals.declined:,} declined, "
            f"{totals.rejected:,} rejected"
        )
        bar.update(task, completed=totals.done_bytes, counts=counts)

    return show


def _print_totals(ending: _Ending, took_s: float, *, interrupted: bool = False) -> None:
    totals = ending.totals
    opened = f"{totals.opened:,} opened, " if totals.opened else ""
    text = (
        f"{'Dry run, nothing was posted. ' if ending.dry_run else ''}"
        f"{totals.rows:,} rows: [green]{totals.posted:,} posted[/], {opened}{totals.replayed:,} "
        f"posted before, [yellow]{totals.declined:,} declined[/], "
        f"[red]{totals.rejected:,} rejected[/], in {took_s:.1f} s ({totals.rows / took_s:,.0f}/s)."
    )
    if ending.rejects is not None:
        text += f"\nThe rows that were not posted, with reasons: {escape(str(ending.rejects))}"
    report(text, as_json=ending.as_json, **ending.facts, interrupted=interrupted)


def _form_of_history(file: Path | None, form: Format | None) -> Format:
    """CSV if it is chosen, or the suffix is one of a table; else NDJSON."""
    form = form or (SUFFIXES.get(file.suffix.lower()) if file else None)
    if form in BANK_FORMATS:
        raise ImportFault("A history is NDJSON or CSV.")
    return form or Format.NDJSON


def _import_history(
    file: str,
    form: Format,
    place: tuple[str, str | None],
    *,
    as_json: bool,
    dry_run: bool,
) -> None:
    async def run() -> Counts:
        async with _ledger(*place) as ledger:
            return await import_history(ledger, source, form, dry_run=dry_run)

    with _opened(file) as source:
        try:
            counts = asyncio.run(run())
        except (KeyboardInterrupt, asyncio.CancelledError):
            report("", as_json=as_json, dry_run=dry_run, interrupted=True)
            print("Interrupted. Nothing was imported.", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
    text = f"{counts.accounts:,} accounts and {counts.transactions:,} transactions"
    text = f"Dry run: {text} can be imported." if dry_run else f"Imported {text}."
    report(text, as_json=as_json, dry_run=dry_run, **counts._asdict(), interrupted=False)


Output = Annotated[
    Path | None, typer.Argument(help="The file to write; by default the standard output.")
]
Since = Annotated[
    str | None,
    typer.Option(help="Only entries recorded at this time or later. Without an offset it is UTC."),
]
Until = Annotated[str | None, typer.Option(help="Only entries recorded before this time.")]
OnlyAccount = Annotated[int | None, typer.Option(help="Only the entries of this account.")]


def export_file(
    output: Output = None,
    form: AnyFormat = None,
    account: OnlyAccount = None,
    since: Since = None,
    until: Until = None,
    history: AsHistory = False,
    ledger: LedgerName = "default",
    as_json: AsJson = False,
) -> None:
    """Write the entries of the journal, one a line, in one snapshot. The service may keep running.

    Those of a ledger with parts come part by part, each in a snapshot of its own.
    The format is CSV unless the suffix or --format says NDJSON. With --history
    it is the whole ledger, for `import --history`, as NDJSON unless the suffix
    or --format says CSV. The file is readable by its owner only.
    """
    if output is None:
        keep_output_for_file()
    form = _form_of_history(output, form) if history else _form_of(output, form)
    if history and (account is not None or since or until):
        raise ExportFault("--history is of a whole ledger: no --account, --since or --until.")
    span = Span(account, _time("--since", since), _time("--until", until), ledger)
    with ExitStack() as stack:
        database, _ = stack.enter_context(opened_database(Settings.load(), create=False))
        stack.enter_context(explained())
        check_schema(database)
        target = stack.enter_context(_written(output)) if output else sys.stdout.buffer
        sources = _sources(database, span)
        if not history:
            facts = {"entries": write_entries(sources, target, form)}
        elif len(sources) > 1:
            raise ExportFault(f"The ledger {ledger} has parts, each with a history of its own.")
        else:
            facts = export_history(sources[0][0], target, ledger, form)._asdict()
        target.flush()
    report("", as_json=as_json, file=output, format=form, ledger=ledger, **facts)


def _sources(main: Database, span: Span) -> list[tuple[Engine, Span]]:
    """The database that has the ledger, main if there is none of the name; of a ledger with parts
    that of each, or of the one that has the account.
    """
    with main.owner_engine().connect() as connection:
        number = ledger_id(connection, span.ledger)
        if number is None:
            return [(main.owner_engine(), span)]
        ledgers = parts_of(connection, number) or [(number, span.ledger)]
        if span.account_id is not None and span.account_id > 0:
            ledgers = [ledgers[span.account_id % len(ledgers)]]
        return [
            (home_of(connection, main, one).owner_engine(), span._replace(ledger=name))
            for one, name in ledgers
        ]


def _form_of(output: Path | None, form: Format | None) -> Format:
    form = form or (format_of(output, None) if output and output.suffix else Format.CSV)
    if form in BANK_FORMATS:
        raise ExportFault("It writes CSV and NDJSON only.")
    return form


def _time(option: str, text: str | None) -> datetime | None:
    """A timestamp of RFC 3339; one without an offset, or a date, is in UTC. Raises ExportFault."""
    if text is None:
        return None
    try:
        return parse_timestamp(time_of(text, Options()))
    except ValueError as error:
        raise ExportFault(f"{option} {error}.") from None


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """A file that is readable by its owner only, and appears when it is whole.

    What is not a plain file, such as a pipe, is written as it is.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    part = path.with_name(f"{path.name}.part")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
        file = os.fdopen(os.open(part, flags, 0o600), "wb")
    except OSError as error:
        raise ExportFault(f"{part}: {error.strerror}.") from None
    try:
        with file:
            os.fchmod(file.fileno(), 0o600)
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
