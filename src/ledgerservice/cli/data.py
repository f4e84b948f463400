"""The commands on the data: migrate and verify."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import MofNCompleteColumn

from ledgerservice import __version__
from ledgerservice.cli.output import AsJson, progress_bar, report
from ledgerservice.errors import ConfigurationError
from ledgerservice.postgres import migrations
from ledgerservice.postgres.connections import Database, check_server, explained
from ledgerservice.postgres.sharding.databases import databases_of, settings_of
from ledgerservice.postgres.sharding.identity import MAIN
from ledgerservice.postgres.verification import Violation
from ledgerservice.postgres.verification import verify as find_violations
from ledgerservice.postgres.verification.across import verify_across
from ledgerservice.postgres.verification.watching import Watch, nothing
from ledgerservice.posting.verifying import counted, shown
from ledgerservice.runtime import opened_database, upgrade
from ledgerservice.settings import Settings
from ledgerservice.telemetry.exporter import listening

SHOWN_VIOLATIONS = 1_000
DEFAULT_INTERVAL_S = 60.0


OneShard = Annotated[str | None, typer.Option("--shard", help="Only this shard. [all]")]


def chosen(settings: Settings, shard: str | None) -> dict[str, Settings]:
    """The settings of each shard by itself, or of one of them. Raises ConfigurationError.

    Main is among them under its name, also if it is the only database.
    """
    every = {MAIN: settings, **settings_of(settings)}
    if shard is None:
        return every
    if shard not in every:
        raise ConfigurationError(f"LEDGER_SHARDS does not name {shard!a}.")
    return {shard: every[shard]}


def migrate(shard: OneShard = None, as_json: AsJson = False) -> None:
    """Create the schema of the database and its shards, or bring it up to date."""
    every = chosen(Settings.load(), shard)
    for name, settings in every.items():
        with opened_database(settings) as (database, _), explained():
            check_server(database.of_owner())
            changed = upgrade(database)
        text = f"The schema is at revision {migrations.HEAD}{'.' if changed else ' already.'}"
        facts = _of_shard(name, every)
        report(
            _named(text, facts), as_json=as_json, revision=migrations.HEAD, changed=changed, **facts
        )


def _of_shard(name: str, every: Mapping[str, Settings]) -> dict[str, str]:
    """What JSON says of a shard, where there are several."""
    return {} if list(every) == [MAIN] else {"shard": name}


def _named(text: str, facts: Mapping[str, str]) -> str:
    return f"{facts['shard']}: {text}" if facts else text


def verify(
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until a signal comes, also on a standby.")
    ] = False,
    progress_file: Annotated[
        Path | None,
        typer.Option("--progress", help="Continue after the last run, which kept this file."),
    ] = None,
    shard: OneShard = None,
    as_json: AsJson = False,
) -> None:
    """Check every invariant over the whole database. Exit code 1 if one is violated.

    With --progress only what is new is checked, and everything twice a day. With --watch both are
    done again and again, every LEDGER_VERIFY_INTERVAL_S. Where there are shards, each is checked by
    itself; the file of one has its name behind FILE's. The parts of a ledger that are on different
    shards are compared at the end.
    """
    every = chosen(Settings.load(), shard)
    if watch or progress_file is not None:
        _continue(progress_file, every, watch=watch, as_json=as_json)
        return
    count = 0
    for facts, violation in _violations(every):
        count += 1
        if count <= SHOWN_VIOLATIONS:
            text = _named(str(violation), facts)
            report(text, as_json=as_json, **violation._asdict(), **facts)
    _conclude(count, as_json=as_json)


def _violations(every: Mapping[str, Settings]) -> Iterator[tuple[dict[str, str], Violation]]:
    """What is violated, and on which shard."""
    for name, settings in every.items():
        existing = opened_database(settings, create=False)
        with existing as (database, _), explained(), _progress() as progress:
            check_schema(database)
            engine = database.owner_engine()
            for violation in find_violations(engine, progress, settings.schema_name):
                yield _of_shard(name, every), violation
    if len(every) > 1:
        with opened_database(every[MAIN], create=False) as (main, _), explained():
            for violation in _across(main):
                yield {}, violation


def _across(main: Database) -> Iterator[Violation]:
    """What is violated between parts of a ledger that are on different shards."""
    databases = {MAIN: main, **databases_of(main.settings)}
    yield from verify_across({name: one.owner_engine() for name, one in databases.items()})


def _continue(
    file: Path | None, every: Mapping[str, Settings], *, watch: bool, as_json: bool
) -> None:
    with ExitStack() as stack:
        stack.enter_context(explained())
        verifications = {
            name: stack.enter_context(_verification(name, every, file)) for name in every
        }
        if watch:
            _run(list(verifications.values()), next(iter(every.values())))
        else:
            for one in verifications.values():
                one.verify_new()
                if one.pass_is_due:
                    one.verify_all()
    for name, one in verifications.items():
        facts = _of_shard(name, every)
        for line in one.lines:
            report(_named(escape(line), facts), as_json=as_json, violation=line, **facts)
    positions = {name: one.position for name, one in verifications.items()}
    position = positions if len(positions) > 1 else next(iter(positions.values()))
    count = sum(one.violations for one in verifications.values())
    _conclude(count, as_json=as_json, position=position)


@contextmanager
def _verification(name: str, every: Mapping[str, Settings], file: Path | None) -> Iterator[Watch]:
    """What verifies a shard, and keeps how far it is in a file of the shard's own."""
    if file is not None and name != MAIN:
        file = file.with_name(f"{file.name}.{name}")
    settings = every[name]
    with opened_database(settings, create=False) as (database, _):
        check_schema(database)
        also = partial(_across, database) if name == MAIN and len(every) > 1 else nothing
        watch = Watch(database.owner_engine(), settings.schema_name, file, also)
        try:
            yield watch
        finally:
            watch.close()


def _run(verifications: Sequence[Watch], settings: Settings) -> None:
    """Verify until SIGINT or SIGTERM, each shard in a thread of its own."""
    stop = threading.Event()

    def end(*_: object) -> None:
        stop.set()
        for one in verifications:
            one.interrupt()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    interval_s = settings.verify_interval_s or DEFAULT_INTERVAL_S
    first, *others = verifications
    threads = [threading.Thread(target=one.run, args=(stop, interval_s)) for one in others]
    with ExitStack() as stack:
        stack.enter_context(listening(settings, __version__))
        stack.enter_context(shown(first))
        for one, thread in zip(others, threads, strict=True):
            stack.enter_context(counted(one))
            thread.start()
        first.run(stop, interval_s)
        for thread in threads:
            thread.join()


def _conclude(count: int, *, as_json: bool, **facts: Any) -> None:
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
