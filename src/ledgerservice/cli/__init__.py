"""The command line. The module of a command is imported when the command is used."""

import ast
import importlib
import logging
import os
import sys
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ledgerservice import __version__
from ledgerservice.cli.output import print_fault
from ledgerservice.errors import LedgerError
from ledgerservice.installation import DOCUMENTATION, command
from ledgerservice.telemetry import logs

__all__ = ["app", "main"]

COMMANDS = {
    "serve": ("serve", "serve"),
    "consume": ("consume", "consume"),
    "migrate": ("data", "migrate"),
    "verify": ("data", "verify"),
    "backup": ("backup", "backup"),
    "restore": ("backup", "restore"),
    "archive": ("archive", "archive"),
    "import": ("files", "import_file"),
    "export": ("files", "export_file"),
    "publish": ("publish", "publish"),
    "events": ("events", "events"),
    "compare": ("compare", "compare_store"),
    "demo": ("demo", "demo"),
    "accounts": ("accounts", "accounts"),
    "balance": ("accounts", "balance"),
    "statement": ("accounts", "statement"),
    "transfer": ("accounts", "transfer"),
    "key": ("accounts", "key"),
    "keys": ("keys", "app"),
    "approvals": ("approvals", "app"),
    "shards": ("shards", "app"),
    "psql": ("database", "psql"),
    "audit": ("audit", "audit"),
    "url": ("database", "url"),
    "settings": ("database", "settings"),
}
"""Each command's module, and its function there, or the application of a group of commands."""
UNPARSED = {"psql": {"allow_extra_args": True, "ignore_unknown_options": True}}
"""The commands that pass their arguments on to another program."""


class _Commands(TyperGroup):
    """The commands. Only the one that is used is imported: all of them take a second."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  (the base class names it)
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        """A command as the help lists it."""
        if cmd_name not in COMMANDS:
            return None
        return TyperCommand(cmd_name, help=_help_of(*COMMANDS[cmd_name]))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is used."""
        name, listed, arguments = super().resolve_command(ctx, args)
        return name, listed and _imported(str(name)), arguments


def _help_of(module: str, name: str) -> str | None:
    """What the source of a module says of a command or of a group of commands."""
    spec = find_spec(f"ledgerservice.cli.{module}")
    assert spec is not None
    for node in ast.parse(spec.loader.get_source(spec.name)).body:  # type: ignore[union-attr]
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return ast.get_docstring(node)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            options = node.value.keywords  # type: ignore[attr-defined]
            return str(next(ast.literal_eval(one.value) for one in options if one.arg == "help"))
    return None


def _imported(command_name: str) -> Any:
    module, name = COMMANDS[command_name]
    part = getattr(importlib.import_module(f"ledgerservice.cli.{module}"), name)
    if isinstance(part, typer.Typer):
        return typer.main.get_command(part)
    one = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    one.command(command_name, context_settings=UNPARSED.get(command_name))(part)
    return typer.main.get_command(one)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A transactional ledger on PostgreSQL. Without DATABASE_URL it starts its own server.",
    epilog=f"Every setting is an environment variable; `{command('settings')}` lists them. "
    f"Documentation: {DOCUMENTATION}",
)


def main() -> None:
    """The entry point. A LedgerError is printed as one line, or as JSON, with exit code 1."""
    # Before the settings are read, because that can fail.
    logs.configure(os.environ.get("LEDGER_LOG_FORMAT", logs.TEXT))
    try:
        app()
    except LedgerError as error:
        print_fault(error)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        logging.shutdown()  # with the numbers of repeated lines


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
