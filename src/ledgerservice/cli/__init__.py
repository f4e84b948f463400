"""The command line: serve, migrate, verify, backup, restore, import, export, demo."""

import asyncio
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TextIO

import typer
import uvicorn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from uvicorn.supervisors import Multiprocess

from ledgerservice import __version__
from ledgerservice.api.application import Service
from ledgerservice.api.http.protocol import BoundedHttp
from ledgerservice.domain.accounts import Opened
from ledgerservice.domain.amounts import to_major
from ledgerservice.domain.instructions import Movement
from ledgerservice.domain.transactions import Recorded
from ledgerservice.embedded.server import bundled_binaries
from ledgerservice.errors import BackupError, EmbeddedServerError, ImportFault, LedgerError
from ledgerservice.files.backup import backup as write_backup
from ledgerservice.files.backup import restore as read_backup
from ledgerservice.files.exporter import Span
from ledgerservice.files.exporter import export as write_entries
from ledgerservice.files.importer import Format, Row, Totals, import_rows, rows_of
from ledgerservice.ledger import Ledger, deposit, transfer, withdrawal
from ledgerservice.postgres import migrations
from ledgerservice.postgres.connections import Database, check_server, explained
from ledgerservice.postgres.verification import verify as find_violations
from ledgerservice.runtime import opened_database, started
from ledgerservice.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A transactional ledger on PostgreSQL. Without DATABASE_URL it runs its own server.",
    epilog="Every setting is an environment variable; the README lists them.",
)
console = Console()

SHOWN_VIOLATIONS = 1_000
STOP_GRACE_S = 5
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """The entry point: a fault is one line and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:     %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        app()
    except LedgerError as error:
        print(f"ledgerservice: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ledgerservice {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it and exit.")
    ] = False,
) -> None:
    pass


class _Server(uvicorn.Server):
    """Says that it is ready when its port is open."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            _announce(self.config.host, self.servers[0].sockets[0].getsockname()[1])


def _announce(host: str, port: int) -> None:
    shown = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104
    base = f"http://{shown}:{port}"
    console.print(
        f"[bold green]The ledger is ready on {base}[/]  ·  docs: [link]{base}/docs[/link]",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to serve on. [LEDGER_HOST]")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to serve on. [LEDGER_PORT]")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes to serve with.")] = 1,
) -> None:
    """Serve the API. Ctrl-C or SIGTERM stop it, once what is in flight is answered."""
    given = {name: v for name, v in {"host": host, "port": port}.items() if v is not None}
    settings = Settings.load().model_copy(update=given)
    with _stopped_by_signals(), started(settings) as database:
        # uvicorn raises a signal again when it has stopped; the stop was what it asked for.
        for number in STOP_SIGNALS:
            signal.signal(number, lambda *_: None)
        application = Service(database) if workers == 1 else "ledgerservice.cli:worker"
        config = uvicorn.Config(
            application,
            factory=workers > 1,
            workers=workers,
            http=BoundedHttp,
            host=settings.host,
            port=settings.port,
            lifespan="on",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_level="warning",
            timeout_graceful_shutdown=round(settings.request_deadline_s) + STOP_GRACE_S,
        )
        try:
            _serve(config)
        except SystemExit:
            # It has said why it could not start, in one line.
            raise typer.Exit(1) from None


def worker() -> Service:
    """The service in a process of `--workers`, which ends with the one that it is a child of."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return Service()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _serve(config: uvicorn.Config) -> None:
    if config.workers == 1:
        _Server(config).run()
        return
    # The processes have their settings from the environment, and attach to the embedded server.
    listener = config.bind_socket()
    _announce(config.host, listener.getsockname()[1])
    Multiprocess(config, sockets=[listener]).run()


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Before there is anything to be answered a signal simply ends the program."""

    def stop(number: int, _: object) -> None:
        sys.exit(128 + number)

    for number in STOP_SIGNALS:
        signal.signal(number, stop)
    yield


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date."""
    settings = Settings.load()
    with opened_database(settings) as (database, _), explained():
        check_server(database)
        changed = migrations.upgrade(
            database.owner_engine(), settings.service_role or None, settings.schema_name
        )
    console.print(f"The schema is at revision {migrations.HEAD}{'.' if changed else ' already.'}")


@app.command()
def verify() -> None:
    """Prove the ledger's invariants over the whole database. Exit code 1 if one is broken."""
    found = 0
    with opened_database(Settings.load()) as (database, _), explained(), _progress() as bar:
        _check_schema(database)
        task = bar.add_task("Verifying", total=None)
        engine = database.owner_engine()
        for violation in find_violations(
            engine,
            lambda done, of: bar.update(task, completed=done, total=of),
            database.settings.schema_name,
        ):
            found += 1
            if found <= SHOWN_VIOLATIONS:
                print(violation)
    if found:
        console.print(f"[bold red]{found} violations.[/] Money may be wrong: stop and look.")
        raise typer.Exit(1)
    console.print("[bold green]All invariants hold.[/]")


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar


def _check_schema(database: Database) -> None:
    with database.owner_engine().connect() as connection:
        migrations.check(connection)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Where to write it; it must not exist yet.")],
) -> None:
    """Write the whole ledger into FILE, in pg_dump's custom format. The service may go on."""
    settings = Settings.load()
    if file.exists():
        raise BackupError(f"{file} exists already.")
    with opened_database(settings) as (database, _), explained():
        _check_schema(database)
        write_backup(_tools(settings), database.url, settings.schema_name, file)
    console.print(f"Backed up into {file} ({file.stat().st_size:,} bytes).")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A backup's file.")],
) -> None:
    """Read a backup into a database without a ledger, bring it up to date, and verify it."""
    settings = Settings.load()
    with opened_database(settings) as (database, _), explained():
        engine = database.owner_engine()
        read_backup(_tools(settings), database.url, engine, settings.schema_name, file)
        migrations.upgrade(engine, settings.service_role or None, settings.schema_name)
        broken = sum(1 for _ in find_violations(engine, schema=settings.schema_name))
    if broken:
        raise BackupError(f"Restored, but verify finds {broken} violations.")
    console.print(f"Restored from {file}; all invariants hold.")


def _tools(settings: Settings) -> Path:
    """The folder of pg_dump and pg_restore: chosen, the wheel's, or the PATH's.

    The wheel's speak no TLS: where that is demanded the PATH's come first.
    """
    if settings.postgres_bin is not None:
        return settings.postgres_bin
    found = shutil.which("pg_dump")
    url = settings.database_url
    if found is not None and url is not None and "sslmode=" in url.get_secret_value():
        return Path(found).parent
    try:
        return bundled_binaries()
    except EmbeddedServerError:
        raise BackupError("Install PostgreSQL's client programs (pg_dump).") from None


KEYLESS = "Keys for a file without: this, then the line's number. Never use the same again."


@app.command("import")
def import_(
    file: Annotated[str, typer.Argument(help="CSV or NDJSON; - for the standard input.")],
    form: Annotated[
        Format | None, typer.Option("--format", help="Else told by the file's name.")
    ] = None,
    key_prefix: Annotated[str | None, typer.Option(help=KEYLESS)] = None,
    rejects: Annotated[
        Path | None, typer.Option(help="What was not posted. [FILE.rejects.csv]")
    ] = None,
    ledger: Annotated[str, typer.Option(help="Another ledger of the database.")] = "default",
) -> None:
    """Post the movements of FILE. It may be killed and run again: nothing moves twice.

    CSV names its columns in the first line: type (DEPOSIT, WITHDRAWAL, TRANSFER), account_id or
    from_account_id and to_account_id, amount, idempotency_key. A line of NDJSON has the same
    fields, or is any other item of POST /batches. Exit code 1 if any line was declined or rejected.
    """
    path = Path("stdin" if file == "-" else file)
    form = form or _FORMATS.get(path.suffix.lower())
    if form is None:
        raise ImportFault("Its name does not tell what it is; give --format csv or ndjson.")
    rejects = rejects or Path(f"{path}.rejects.csv")
    started_s = time.monotonic()
    with ExitStack() as stack:
        try:
            source = sys.stdin if file == "-" else stack.enter_context(_opened(path))
            told = stack.enter_context(rejects.open("w", newline=""))
        except OSError as error:
            raise ImportFault(f"{error.filename}: {error.strerror}.") from None
        size = None if file == "-" else path.stat().st_size
        totals = asyncio.run(_import(rows_of(source, form, key_prefix), told, size, ledger))
    took_s = time.monotonic() - started_s
    console.print(
        f"{totals.rows:,} movements: [green]{totals.posted:,} posted[/], {totals.replayed:,} there "
        f"already, [yellow]{totals.declined:,} declined[/], [red]{totals.rejected:,} rejected[/], "
        f"in {took_s:.1f} s ({totals.rows / took_s:,.0f}/s).",
        highlight=False,
        soft_wrap=True,
    )
    if totals.declined or totals.rejected:
        console.print(f"What was not posted, and why: {rejects}", soft_wrap=True)
        raise typer.Exit(1)
    rejects.unlink()


_FORMATS = {".csv": Format.CSV, ".ndjson": Format.NDJSON, ".jsonl": Format.NDJSON}


def _opened(path: Path) -> TextIO:
    # What is not UTF-8 is refused line by line, not with the whole file.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


async def _import(rows: Iterator[Row], rejects: TextIO, size: int | None, name: str) -> Totals:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(),
    )
    started_s = time.monotonic()
    async with Ledger.open() as default:
        ledger = await default.ledger(name)
        if ledger is None:
            raise ImportFault(f"There is no ledger {name}.")
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("Importing", total=size, told="")

            def tell(totals: Totals) -> None:
                rate = totals.rows / (time.monotonic() - started_s)
                told = (
                    f"{totals.rows:,} rows, {rate:,.0f}/s, {totals.declined:,} declined, "
                    f"{totals.rejected:,} rejected"
                )
                bar.update(task, completed=totals.done_bytes, told=told)

            return await import_rows(ledger, rows, rejects, tell)


@app.command("export")
def export(
    output: Annotated[Path | None, typer.Argument(help="The file. [the standard output]")] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="Else told by the file's name. [csv]")
    ] = None,
    account: Annotated[int | None, typer.Option(help="Only this account's entries.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Recorded then or later. UTC.")] = None,
    until: Annotated[datetime | None, typer.Option(help="Recorded before that. UTC.")] = None,
    ledger: Annotated[str, typer.Option(help="Another ledger of the database.")] = "default",
) -> None:
    """Write the journal's entries, one a line, in one snapshot. The service may go on."""
    form = form or (_FORMATS.get(output.suffix.lower()) if output else None) or Format.CSV
    since, until = (moment and moment.replace(tzinfo=UTC) for moment in (since, until))
    with ExitStack() as stack:
        database, _ = stack.enter_context(opened_database(Settings.load()))
        stack.enter_context(explained())
        _check_schema(database)
        target = stack.enter_context(output.open("w")) if output else sys.stdout
        write_entries(database.owner_engine(), target, form, Span(account, since, until, ledger))


@app.command()
def demo() -> None:
    """Open two accounts, move money between them, and show balances and a history."""
    asyncio.run(_demo())


async def _demo() -> None:
    async with Ledger.open() as ledger:
        alice, bob = [await _open(ledger, name) for name in ("Alice", "Bob")]
        for movement in (
            deposit(alice, "100.00", uuid.uuid4().hex),
            transfer(alice, bob, "50.00", uuid.uuid4().hex),
            withdrawal(bob, "20.00", uuid.uuid4().hex),
            transfer(bob, alice, "1000.00", uuid.uuid4().hex),
        ):
            await _move(ledger, movement)
        for account in (alice, bob):
            await _show(ledger, account)


async def _open(ledger: Ledger, owner: str) -> int:
    opened = await ledger.open_account(owner, "USD", key=f"demo-{uuid.uuid4()}")
    assert isinstance(opened, Opened)
    console.print(f"[cyan]{owner}[/] has account [bold]{opened.account_id}[/], in USD")
    return opened.account_id


async def _move(ledger: Ledger, movement: Movement) -> None:
    [outcome] = await ledger.post([movement])
    assert isinstance(outcome, Recorded)
    refusal = outcome.transaction.refusal
    verdict = "[green]posted[/]" if refusal is None else f"[red]declined: {refusal.reason}[/]"
    to = f" to {movement.counterparty_id}" if movement.counterparty_id else ""
    console.print(
        f"{movement.kind.name.capitalize():<10} {movement.amount:>8} USD, "
        f"account {movement.account_id}{to}: {verdict}"
    )


async def _show(ledger: Ledger, account_id: int) -> None:
    account = await ledger.account(account_id)
    assert account is not None
    table = Table("version", "what", "amount", "balance", title=f"{account.owner}'s history")
    for entry in await ledger.history(account_id, 10):
        colour = "red" if entry.amount < 0 else "green"
        table.add_row(
            str(entry.version),
            entry.kind.name.lower(),
            f"[{colour}]{to_major(entry.amount, entry.exponent)}[/]",
            to_major(entry.balance, entry.exponent),
        )
    console.print(table)
    balance = to_major(account.balance, account.exponent)
    console.print(f"{account.owner}'s balance: [bold]{balance} {account.currency}[/]")
