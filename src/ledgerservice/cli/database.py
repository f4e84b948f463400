"""The commands that lead to the database, and the settings: `psql`, `url`, `settings`."""

import os
import shutil
import subprocess
from typing import Annotated

import typer
from psycopg import pq
from rich.markup import escape

from ledgerservice.cli.output import AsJson, report
from ledgerservice.embedded.server import bundled_binaries
from ledgerservice.errors import EmbeddedServerError
from ledgerservice.postgres.connections import Database
from ledgerservice.runtime import opened_database
from ledgerservice.settings import Settings, variables

AsOwner = Annotated[
    bool, typer.Option("--owner", help="As the owner of the schema, not as the service's login.")
]


def url(as_owner: AsOwner = False, as_json: AsJson = False) -> None:
    """Print the URL of the database, for psql and other programs.

    The embedded server answers at it while a command or the service runs.
    """
    with opened_database(Settings.load(), create=False) as (database, _):
        text = _libpq_url(database, as_owner=as_owner)
    report(text, as_json=as_json, url=text)


def settings(as_json: AsJson = False) -> None:
    """Print every setting: its environment variable, value, default and meaning."""
    for row in variables():
        value = "" if row["value"] is None else f" = {row['value']}"
        default = "" if row["default"] is None else f" [{row['default']}]"
        text = f"[bold]{row['variable']}[/]{escape(value)}{escape(default)}: {row['description']}"
        report(text, as_json=as_json, **row)


def psql(context: typer.Context, as_owner: AsOwner = False) -> None:
    """Run psql on the database. Further arguments are psql's: `ledgerservice psql -c 'SELECT 1'`.

    The embedded server is started if nothing runs it, and stopped afterwards.
    """
    settings = Settings.load()
    with opened_database(settings, create=False) as (database, embedded):
        # The connection goes by the environment: other users see arguments. What the shell has set
        # is meant for another server than the embedded one.
        environment = {n: v for n, v in os.environ.items() if not (embedded and n.startswith("PG"))}
        environment |= _environment(database, as_owner=as_owner)
        environment["PGOPTIONS"] = f"-c search_path={settings.schema_name},public"
        done = subprocess.run([_program(settings), *context.args], env=environment, check=False)
    raise typer.Exit(done.returncode)


def _libpq_url(database: Database, *, as_owner: bool) -> str:
    url = (database.of_owner() if as_owner else database).url
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def _environment(database: Database, *, as_owner: bool) -> dict[str, str]:
    """The variables of libpq that name the database."""
    arguments = (database.of_owner() if as_owner else database).driver_arguments()
    return {
        option.envvar.decode(): str(arguments[option.keyword.decode()])
        for option in pq.Conninfo.get_defaults()
        if option.envvar and arguments.get(option.keyword.decode())
    }


def _program(settings: Settings) -> str:
    if settings.postgres_bin is not None:
        return str(settings.postgres_bin / "psql")
    program = shutil.which("psql")
    if program is not None:
        return program
    try:
        return str(bundled_binaries() / "psql")
    except EmbeddedServerError:
        raise EmbeddedServerError("Install PostgreSQL's client programs (psql).") from None
