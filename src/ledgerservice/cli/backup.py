"""The commands backup and restore."""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, cast

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ledgerservice.cli.output import AsJson, keep_output_for_file, report
from ledgerservice.errors import BackupError, BackupNotSound
from ledgerservice.files.backup import Report as Progressing
from ledgerservice.files.backup import backup as write_backup
from ledgerservice.files.backup import new_file, writable
from ledgerservice.files.restore import checked_file
from ledgerservice.files.restore import restore as load_backup
from ledgerservice.postgres import migrations
from ledgerservice.postgres.connections import check_server, explained
from ledgerservice.runtime import opened_database
from ledgerservice.settings import Settings

STANDARD_OUTPUT = "-"


def backup(
    file: Annotated[
        str, typer.Argument(help="The file to write; it must not exist. - for standard output.")
    ],
    as_json: AsJson = False,
) -> None:
    """Write the whole ledger to FILE. The service may keep running.

    FILE holds the secrets of the ledger too: who has it can read everything.
    """
    if file == STANDARD_OUTPUT:
        keep_output_for_file()
        if sys.stdout.isatty():
            raise BackupError("Standard output is a terminal; send it to a file.")
        counted = _Counted(sys.stdout.buffer)
        with _progress() as progress, writable("standard output"):
            _write(cast("IO[bytes]", counted), progress)
        _report_backup("", file, counted.size_bytes, as_json=as_json)
        return
    path = Path(file)
    with _progress() as progress, new_file(path) as target:
        _write(target, progress)
    size = path.stat().st_size
    text = f"Wrote the backup to {escape(file)} ({size:,} bytes)."
    _report_backup(text, file, size, as_json=as_json)


def _report_backup(text: str, file: str, size_bytes: int, *, as_json: bool) -> None:
    report(text, as_json=as_json, file=file, size_bytes=size_bytes, revision=migrations.HEAD)


class _Counted(io.RawIOBase):
    """A stream, and the number of bytes that were written to it."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self.size_bytes = 0

    def writable(self) -> bool:
        """It takes bytes."""
        return True

    def write(self, chunk: Any) -> int:
        """Write all of `chunk`."""
        self._target.write(chunk)
        self.size_bytes += len(chunk)
        return len(chunk)

    def flush(self) -> None:
        """Hand over what was written."""
        self._target.flush()


def _write(target: IO[bytes], progress: Progressing) -> None:
    with opened_database(Settings.load(), create=False) as (database, _), explained():
        write_backup(database.owner_engine(), database.settings.schema_name, target, progress)
        target.flush()


def restore(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A file that `backup` wrote.")
    ],
    as_json: AsJson = False,
) -> None:
    """Restore a backup into a database without a ledger, update its schema, and verify it.

    The file is checked before the database is touched. It is restored completely, or not at all.
    """
    settings = Settings.load()
    try:
        with (
            _progress() as progress,
            checked_file(file, progress) as archive,
            opened_database(settings) as (database, _),
            explained(),
        ):
            check_server(database.of_owner())
            load_backup(database, archive, progress)
    except BackupNotSound as fault:
        if not as_json:
            print(*fault.violations, sep="\n")
        raise
    text = f"Restored {escape(str(file))}. All invariants hold."
    facts = {"file": file, "size_bytes": file.stat().st_size, "revision": migrations.HEAD}
    report(text, as_json=as_json, **facts, holds=True)


@contextmanager
def _progress() -> Iterator[Progressing]:
    """A progress bar, as a function of what is being done and how much of it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
    )
    screen = Console(stderr=True, emoji=False)
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, amount="")
            amount = f"{done}/{total}" if step == "Verifying" else decimal(done)
            bar.update(tasks[step], completed=done, total=total, amount=amount)

        yield show
