"""The commands on the data: migrate and verify."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import MofNCompleteColumn

from ledgerservice import __version__
from ledgerservice.cli.output import AsJson, progress_bar, report
from ledgerservice.postgres import migrations
from ledgerservice.postgres.connections import Database, check_server, explained
from ledgerservice.postgres.verification import verify as find_violations
from ledgerservice.postgres.verification.watching import Watch
from ledgerservice.runtime import opened_database, shown, upgrade
from ledgerservice.settings import Settings
from ledgerservice.telemetry.exporter import listening

SHOWN_VIOLATIONS = 1_000
DEFAULT_INTERVAL_S = 60.0


def migrate(as_json: AsJson = False) -> None:
    """Create the schema of the database, or bring it up to date."""
    settings = Settings.load()
    with opened_database(settings) as (database, _), explained():
        check_server(database.of_owner())
        changed = upgrade(database)
    text = f"The schema is at revision {migrations.HEAD}{'.' if changed else ' already.'}"
    report(text, as_json=as_json, revision=migrations.HEAD, changed=changed)


def verify(
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until a signal comes, also on a standby.")
    ] = False,
    progress_file: Annotated[
        Path | None,
        typer.Option("--progress", help="Continue after the last run, which kept this file."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every invariant over the whole database. Exit code 1 if one is violated.

    With --progress only what is new is checked, and everything twice a day. With --watch both are
    done again and again, every LEDGER_VERIFY_INTERVAL_S.
    """
    if watch or progress_file is not None:
        _continue(progress_file, watch=watch, as_json=as_json)
        return
    count = 0
    existing = opened_database(Settings.load(), create=False)
    with existing as (database, _), explained(), _progress() as progress:
        check_schema(database)
        for violation in find_violations(
            database.owner_engine(), progress, database.settings.schema_name
        ):
            count += 1
            if count <= SHOWN_VIOLATIONS:
                report(str(violation), as_json=as_json, **violation._asdict())
    _conclude(count, as_json=as_json)


def _continue(file: Path | None, *, watch: bool, as_json: bool) -> None:
    existing = opened_database(Settings.load(), create=False)
    with existing as (database, _), explained():
        check_schema(database)
        verification = Watch(database.owner_engine(), database.settings.schema_name, file)
        try:
            if watch:
                _run(verification, database.settings)
            else:
                verification.verify_new()
                if verification.pass_is_due:
                    verification.verify_all()
        finally:
            verification.close()
    for line in verification.lines:
        report(escape(line), as_json=as_json, violation=line)
    _conclude(verification.violations, as_json=as_json, position=verification.position)


def _run(verification: Watch, settings: Settings) -> None:
    """Verify until SIGINT or SIGTERM."""
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()
        verification.interrupt()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with listening(settings, __version__), shown(verification):
        verification.run(stop, settings.verify_interval_s or DEFAULT_INTERVAL_S)


def _conclude(count: int, *, as_json: bool, **facts: int) -> None:
    text = "[bold green]All invariants hold.[/]"
    if count:
        text = (
            f"[bold red]{count} violations.[/] Balances may be wrong. Stop the service, then "
            "find the cause."
        )
    report(text, as_json=as_json, holds=not count, violations=count, **facts)
    if count:
        raise typer.Exit(1)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A progress bar, as a function of the steps done and their total."""
    with progress_bar(MofNCompleteColumn()) as bar:
        task = bar.add_task("Verifying", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def check_schema(database: Database) -> None:
    """Raise SchemaMissing or SchemaUnknown for a database that this release cannot read."""
    with database.owner_engine().connect() as connection:
        migrations.check(connection)
