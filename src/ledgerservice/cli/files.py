"""The commands on files of movements: import and export."""

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console
from rich.progress import Progress, TextColumn

from ledgerservice.cli.data import check_schema
from ledgerservice.cli.output import progress_bar
from ledgerservice.errors import ImportFault
from ledgerservice.files.exporter import Span
from ledgerservice.files.exporter import export as write_entries
from ledgerservice.files.importer import Format, Totals, import_rows, rows_of
from ledgerservice.ledger import Ledger
from ledgerservice.postgres.connections import explained
from ledgerservice.runtime import opened_database
from ledgerservice.settings import Settings

FORMATS = {".csv": Format.CSV, ".ndjson": Format.NDJSON, ".jsonl": Format.NDJSON}
STANDARD_INPUT = "-"

console = Console()

LedgerName = Annotated[str, typer.Option(help="Name of the ledger.")]
AnyFormat = Annotated[
    Format | None, typer.Option("--format", help="Format of the file; by default from its suffix.")
]

KEY_PREFIX = (
    "For a file without keys: the key of a line is this prefix and the line's number. Use a prefix "
    "once only."
)


def import_file(
    file: Annotated[str, typer.Argument(help="CSV or NDJSON; - for the standard input.")],
    form: AnyFormat = None,
    key_prefix: Annotated[str | None, typer.Option(help=KEY_PREFIX)] = None,
    rejects: Annotated[
        Path | None,
        typer.Option(help="File for the lines that were not posted. [FILE.rejects.csv]"),
    ] = None,
    ledger: LedgerName = "default",
) -> None:
    """Post the movements of FILE. A killed import can be run again: no movement is posted twice.

    The first line of a CSV file names its columns: type (DEPOSIT, WITHDRAWAL,
    TRANSFER), account_id or from_account_id and to_account_id, amount,
    idempotency_key. A line of NDJSON has the same fields, or is any other item
    of POST /batches. The exit code is 1 if a line was declined or rejected.
    """
    path = Path("stdin" if file == STANDARD_INPUT else file)
    form = form or FORMATS.get(path.suffix.lower())
    if form is None:
        raise ImportFault("Its suffix is not .csv, .ndjson or .jsonl. Add --format.")
    rejects = rejects or Path(f"{path}.rejects.csv")
    started_s = time.monotonic()
    totals = _import(file, form, key_prefix, rejects, ledger)
    _print_totals(totals, time.monotonic() - started_s)
    if totals.declined or totals.rejected:
        console.print(f"The lines that were not posted, with reasons: {rejects}", soft_wrap=True)
        raise typer.Exit(1)
    rejects.unlink()


def _import(file: str, form: Format, key_prefix: str | None, rejects: Path, ledger: str) -> Totals:
    with ExitStack() as stack:
        try:
            source = sys.stdin if file == STANDARD_INPUT else stack.enter_context(_opened(file))
            target = stack.enter_context(rejects.open("w", newline=""))
        except OSError as error:
            raise ImportFault(f"{error.filename}: {error.strerror}.") from None
        size = None if file == STANDARD_INPUT else Path(file).stat().st_size
        return asyncio.run(_post(source, form, key_prefix, target, size, ledger))


def _opened(file: str) -> TextIO:
    # A line that is not valid UTF-8 is rejected by itself; the rest of the file is posted.
    return Path(file).open(encoding="utf-8-sig", errors="surrogateescape", newline="")


async def _post(
    source: TextIO,
    form: Format,
    key_prefix: str | None,
    rejects: TextIO,
    size_bytes: int | None,
    name: str,
) -> Totals:
    async with Ledger.open() as default:
        ledger = await default.ledger(name)
        if ledger is None:
            raise ImportFault(f"There is no ledger {name}.")
        with progress_bar(TextColumn("{task.fields[counts]}")) as bar:
            report = _counter(bar, size_bytes)
            return await import_rows(ledger, rows_of(source, form, key_prefix), rejects, report)


def _counter(bar: Progress, size_bytes: int | None) -> Callable[[Totals], None]:
    task = bar.add_task("Importing", total=size_bytes, counts="")
    started_s = time.monotonic()

    def report(totals: Totals) -> None:
        rate = totals.rows / (time.monotonic() - started_s)
        counts = (
            f"{totals.rows:,} rows, {rate:,.0f}/s, {totals.declined:,} declined, "
            f"{totals.rejected:,} rejected"
        )
        bar.update(task, completed=totals.done_bytes, counts=counts)

    return report


def _print_totals(totals: Totals, took_s: float) -> None:
    console.print(
        f"{totals.rows:,} movements: [green]{totals.posted:,} posted[/], {totals.replayed:,} "
        f"posted before, [yellow]{totals.declined:,} declined[/], "
        f"[red]{totals.rejected:,} rejected[/], in {took_s:.1f} s ({totals.rows / took_s:,.0f}/s).",
        highlight=False,
        soft_wrap=True,
    )


def export_file(
    output: Annotated[
        Path | None, typer.Argument(help="The file to write; by default the standard output.")
    ] = None,
    form: AnyFormat = None,
    account: Annotated[int | None, typer.Option(help="Only the entries of this account.")] = None,
    since: Annotated[
        datetime | None, typer.Option(help="Only entries recorded at this time (UTC) or later.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(help="Only entries recorded before this time (UTC).")
    ] = None,
    ledger: LedgerName = "default",
) -> None:
    """Write the entries of the journal, one a line, in one snapshot. The service may keep running.

    The format is CSV unless the suffix or --format says NDJSON.
    """
    form = form or (FORMATS.get(output.suffix.lower()) if output else None) or Format.CSV
    since, until = (time and time.replace(tzinfo=UTC) for time in (since, until))
    with ExitStack() as stack:
        database, _ = stack.enter_context(opened_database(Settings.load(), create=False))
        stack.enter_context(explained())
        check_schema(database)
        target = stack.enter_context(output.open("w")) if output else sys.stdout
        write_entries(database.owner_engine(), target, form, Span(account, since, until, ledger))
