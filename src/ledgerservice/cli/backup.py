"""The commands backup and restore."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ledgerservice.errors import BackupError, BackupNotSound
from ledgerservice.files.backup import Report, new_file, writable
from ledgerservice.files.backup import backup as write_backup
from ledgerservice.files.restore import checked_file
from ledgerservice.files.restore import restore as load_backup
from ledgerservice.postgres.connections import check_server, explained
from ledgerservice.runtime import opened_database
from ledgerservice.settings import Settings

STANDARD_OUTPUT = "-"

console = Console()


def backup(
    file: Annotated[
        str, typer.Argument(help="The file to write; it must not exist. - for standard output.")
    ],
) -> None:
    """Write the whole ledger to FILE. The service may keep running.

    FILE holds the secrets of the ledger too: who has it can read everything.
    """
    if file == STANDARD_OUTPUT:
        if sys.stdout.isatty():
            raise BackupError("Standard output is a terminal; send it to a file.")
        with _progress() as report, writable("standard output"):
            _write(sys.stdout.buffer, report)
        return
    path = Path(file)
    with _progress() as report, new_file(path) as target:
        _write(target, report)
    console.print(f"Wrote the backup to {path} ({path.stat().st_size:,} bytes).", soft_wrap=True)


def _write(target: IO[bytes], report: Report) -> None:
    with opened_database(Settings.load(), create=False) as (database, _), explained():
        write_backup(database.owner_engine(), database.settings.schema_name, target, report)
        target.flush()


def restore(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A file that `backup` wrote.")
    ],
) -> None:
    """Restore a backup into a database without a ledger, update its schema, and verify it.

    The file is checked before the database is touched. It is restored completely, or not at all.
    """
    settings = Settings.load()
    try:
        with (
            _progress() as report,
            checked_file(file, report) as archive,
            opened_database(settings) as (database, _),
            explained(),
        ):
            check_server(database.of_owner())
            load_backup(database, archive, report)
    except BackupNotSound as fault:
        print(*fault.violations, sep="\n")
        raise
    console.print(f"Restored {file}. All invariants hold.", soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Report]:
    """A progress bar, as a function of what is being done and how much of it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
    )
    screen = Console(stderr=True)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def report(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, amount="")
            amount = f"{done}/{total}" if step == "Verifying" else decimal(done)
            bar.update(tasks[step], completed=done, total=total, amount=amount)

        yield report
