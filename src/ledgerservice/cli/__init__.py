"""The command line: serve, migrate, verify, backup, restore, import, export, demo."""

import logging
import sys
from typing import Annotated

import typer

from ledgerservice import __version__
from ledgerservice.cli import data, demo, serve
from ledgerservice.cli.serve import worker
from ledgerservice.errors import LedgerError

__all__ = ["app", "main", "worker"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A transactional ledger on PostgreSQL. Without DATABASE_URL it starts its own server.",
    epilog="Every setting is an environment variable; docs/configuration.md lists them.",
)
app.command()(serve.serve)
app.command()(data.migrate)
app.command()(data.verify)
app.command()(data.backup)
app.command()(data.restore)
app.command("import")(data.import_file)
app.command("export")(data.export_file)
app.command()(demo.demo)


def main() -> None:
    """The entry point. A LedgerError is printed as one line, with exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:     %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        app()
    except LedgerError as error:
        print(f"ledgerservice: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"ledgerservice {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    pass
