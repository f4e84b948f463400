"""The commands on the data: migrate and verify."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.progress import MofNCompleteColumn

from ledgerservice.cli.output import AsJson, progress_bar, report
from ledgerservice.postgres import migrations
from ledgerservice.postgres.connections import Database, check_server, explained
from ledgerservice.postgres.verification import verify as find_violations
from ledgerservice.runtime import opened_database, upgrade
from ledgerservice.settings import Settings

SHOWN_VIOLATIONS = 1_000


def migrate(as_json: AsJson = False) -> None:
    """Create the schema of the database, or bring it up to date."""
    settings = Settings.load()
    with opened_database(settings) as (database, _), explained():
        check_server(database.of_owner())
        changed = upgrade(database)
    text = f"The schema is at revision {migrations.HEAD}{'.' if changed else ' already.'}"
    report(text, as_json=as_json, revision=migrations.HEAD, changed=changed)


def verify(as_json: AsJson = False) -> None:
    """Check every invariant over the whole database. Exit code 1 if one is violated."""
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
    text = "[bold green]All invariants hold.[/]"
    if count:
        text = (
            f"[bold red]{count} violations.[/] Balances may be wrong. Stop the service, then "
            "find the cause."
        )
    report(text, as_json=as_json, holds=not count, violations=count)
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
