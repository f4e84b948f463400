"""The commands backup and restore."""

import io
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, cast

import msgspec
import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ledgerservice.cli.data import OneShard, chosen
from ledgerservice.cli.output import AsJson, keep_output_for_file, report
from ledgerservice.domain.timestamps import parse_timestamp
from ledgerservice.errors import BackupError, BackupNotSound
from ledgerservice.files.backup import Report as Progressing
from ledgerservice.files.backup import backup as write_backup
from ledgerservice.files.backup import new_file, read_back, writable
from ledgerservice.files.drill import Proof, prove
from ledgerservice.files.recovery import recover
from ledgerservice.files.restore import checked_file
from ledgerservice.files.restore import restore as load_backup
from ledgerservice.postgres import migrations
from ledgerservice.postgres.connections import check_server, explained
from ledgerservice.postgres.sharding.identity import MAIN
from ledgerservice.runtime import opened_database
from ledgerservice.settings import Settings
from ledgerservice.telemetry.backups import BACKUP, DRILL, kept_result

STANDARD_OUTPUT = "-"


def backup(
    file: Annotated[
        str, typer.Argument(help="The file to write; it must not exist. - for standard output.")
    ],
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Restore FILE into a scratch server instead, and compare it."
        ),
    ] = False,
    shard: OneShard = None,
    as_json: AsJson = False,
) -> None:
    """Write the whole ledger to FILE. The service may keep running.

    FILE holds the secrets of the ledger too: who has it can read everything. Where there are
    shards, each is written to a file with its name behind FILE's, and main to FILE at last.

    With --verify nothing is written: FILE is restored into a scratch server, which is removed
    again. Exit code 1 if anything differs.
    """
    settings = Settings.load()
    files = _files(settings, file, shard)
    if verify:
        for name, one in files:
            _drill(one, Path(name), as_json=as_json)
        return
    with kept_result(settings.results_folder, BACKUP):
        for name, one in files:
            _back_up(one, name, as_json=as_json)


def _files(settings: Settings, file: str, shard: str | None) -> list[tuple[str, Settings]]:
    """The files of the shards, or of one of them. Raises BackupError.

    Main comes last, so that it knows all ledgers that the others have.
    """
    every = chosen(settings, shard)
    if len(every) == 1:
        return [(file, one) for one in every.values()]
    if file == STANDARD_OUTPUT:
        raise BackupError("Standard output takes one database: name it with --shard.")
    main = every.pop(MAIN)
    return [*((f"{file}.{name}", one) for name, one in every.items()), (file, main)]


def _back_up(settings: Settings, file: str, *, as_json: bool) -> None:
    if file == STANDARD_OUTPUT:
        keep_output_for_file()
        if sys.stdout.isatty():
            raise BackupError("Standard output is a terminal; send it to a file.")
        counted = _Counted(sys.stdout.buffer)
        with _progress() as progress, writable("standard output"):
            _write(settings, cast("IO[bytes]", counted), progress)
        _report_backup("", file, counted.size_bytes, as_json=as_json)
        return
    path = Path(file)
    with _progress() as progress, new_file(path) as target:
        _write(settings, target, progress)
        read_back(target)
    size = path.stat().st_size
    text = f"Wrote the backup to {escape(file)} ({size:,} bytes)."
    _report_backup(text, file, size, as_json=as_json)


def _drill(settings: Settings, file: Path, *, as_json: bool) -> None:
    with (
        kept_result(settings.results_folder, DRILL) as result,
        _progress() as progress,
        _ending(progress) as ending,
        explained(),
        _shown_violations(as_json=as_json),
    ):
        proof = prove(settings, file, ending)
        result.duration_s = proof.rto_s
    facts = proof._asdict() | {**_totals(proof)}
    report(_proven(file, proof), as_json=as_json, file=file, holds=True, **facts)


@contextmanager
def _ending(progress: Progressing) -> Iterator[Progressing]:
    """Make SIGTERM raise SystemExit, so that the scratch server is removed.

    What a handler raises while Python forks is lost. Then the next report of progress raises it.
    """
    signals: list[int] = []

    def end(number: int, _frame: object) -> None:
        signals.append(number)
        sys.exit(128 + number)

    def show(step: str, done: int, total: int) -> None:
        if signals:
            sys.exit(128 + signals[0])
        progress(step, done, total)

    signal.signal(signal.SIGTERM, end)
    yield show


def _totals(proof: Proof) -> dict[str, Any]:
    return {} if proof.totals is None else {"totals": msgspec.to_builtins(proof.totals)}


def _proven(file: Path, proof: Proof) -> str:
    """What was proven, as text for a person."""
    lines = [f"{escape(str(file))} is a backup: {proof.tables} tables, {proof.rows:,} rows."]
    if proof.totals is not None:
        lines.append(f"Last transaction {proof.totals.last_transaction_id}. Trial balance:")
        lines += [
            f"  ledger {one.ledger_id}, {one.currency}: {one.accounts} accounts, "
            f"debit {one.debit}, credit {one.credit}, held {one.held} minor units"
            for one in proof.totals.trial_balance
            if one.debit != "0" or one.credit != "0"
        ]
    lines.append(
        f"Every row is the same, and all invariants hold. The ledger was back after "
        f"{proof.rto_s:.1f} s (RTO)."
    )
    return "\n".join(lines)


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


def _write(settings: Settings, target: IO[bytes], progress: Progressing) -> None:
    with opened_database(settings, create=False) as (database, _), explained():
        write_backup(database.owner_engine(), database.settings.schema_name, target, progress)
        target.flush()


def restore(
    file: Annotated[
        Path,
        typer.Argument(exists=True, help="A file that `backup` wrote, or an archive's folder."),
    ],
    until: Annotated[
        str | None,
        typer.Option(help="The time to restore of an archive, as 2026-01-31T12:00:00Z. [its end]"),
    ] = None,
    shard: Annotated[
        str, typer.Option("--shard", help="The shard whose backup it is, which must be empty.")
    ] = MAIN,
    as_json: AsJson = False,
) -> None:
    """Restore a backup into a database without a ledger, update its schema, and verify it.

    The file is checked before the database is touched. It is restored completely, or not at all.
    The folder of an archive becomes a new embedded server, as the ledger was at a time.
    """
    [settings] = chosen(Settings.load(), shard).values()
    if file.is_dir():
        _recover(settings, file, until, as_json=as_json)
        return
    if until is not None:
        raise BackupError("A backup is of one time; --until is for the folder of an archive.")
    with (
        _shown_violations(as_json=as_json),
        _progress() as progress,
        checked_file(file, progress) as archive,
        opened_database(settings) as (database, _),
        explained(),
    ):
        check_server(database.of_owner())
        load_backup(database, archive, progress)
    text = f"Restored {escape(str(file))}. All invariants hold."
    facts = {"file": file, "size_bytes": file.stat().st_size, "revision": migrations.HEAD}
    report(text, as_json=as_json, **facts, holds=True)


def _recover(settings: Settings, folder: Path, until: str | None, *, as_json: bool) -> None:
    try:
        timestamp = None if until is None else parse_timestamp(until)
    except ValueError as error:
        raise BackupError(f"--until is not a valid timestamp: {error}") from None
    with _shown_violations(as_json=as_json), explained():
        recovered = recover(settings, folder, timestamp)
    text = (
        f"Restored {escape(str(folder))} up to transaction {recovered.last_transaction_id}, "
        f"recorded at {recovered.last_recorded_at}. All invariants hold. A new epoch of the feed "
        f"has begun: {recovered.epoch}. It took {recovered.rto_s:.1f} s."
    )
    report(text, as_json=as_json, file=folder, holds=True, **recovered._asdict())


@contextmanager
def _shown_violations(*, as_json: bool) -> Iterator[None]:
    """Print the violations of a backup, which are a part of the problem in JSON."""
    try:
        yield
    except BackupNotSound as fault:
        if not as_json:
            print(*fault.violations, sep="\n")
        raise


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
