"""`ledgerservice compare`: whether a store has what the journal has."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import MofNCompleteColumn

from ledgerservice.cli.data import chosen
from ledgerservice.cli.output import AsJson, console, progress_bar, report
from ledgerservice.errors import ConfigurationError
from ledgerservice.feed.compare import START, Difference, compare
from ledgerservice.feed.stores import Store, store_of
from ledgerservice.feed.targets import TargetFault
from ledgerservice.postgres.connections import Database, explained
from ledgerservice.postgres.entries import EntryPlace, count_entries
from ledgerservice.postgres.sharding.identity import MAIN
from ledgerservice.postgres.sharding.stores import stores_of
from ledgerservice.runtime import started
from ledgerservice.settings import Settings


def compare_store(
    url: Annotated[str, typer.Option("--store", help="The store, as in LEDGER_PUBLISH.")],
    after: Annotated[
        str | None, typer.Option("--from", help="Go on from here, as Ctrl-C prints it.")
    ] = None,
    shard: Annotated[str, typer.Option("--shard", help="The shard whose store it is.")] = MAIN,
    as_json: AsJson = False,
) -> None:
    """Compare every row of a store with the journal. Exit code 1 at the first that differs."""
    [settings] = chosen(Settings.load(), shard).values()
    store = store_of(url if shard == MAIN else stores_of(url, shard))
    progress = _Progress(_place_of(after))
    with started(settings, create=False, shard=shard) as database, explained():
        try:
            difference = _compared(database, store, progress)
        except (KeyboardInterrupt, TargetFault):
            place = ":".join(map(str, progress.place))
            console.print(f"Go on with --from={place}", highlight=False, soft_wrap=True)
            raise
        finally:
            store.close()
    name = escape(store.name)
    text = f"[bold green]{name} has what the journal has.[/] {progress.rows} rows compared."
    if difference is not None:
        text = f"[bold red]{name} differs.[/] {escape(str(difference))}"
    values = difference._asdict() if difference is not None else {}
    report(text, as_json=as_json, equal=difference is None, rows=progress.rows, **values)
    if difference is not None:
        raise typer.Exit(1)


class _Progress:
    """How far a comparison is."""

    def __init__(self, place: EntryPlace) -> None:
        self.place = place
        self.rows = 0


def _place_of(text: str | None) -> EntryPlace:
    if text is None:
        return START
    try:
        ledger, account, version = map(int, text.split(":"))
    except ValueError:
        raise ConfigurationError("--from is LEDGER:ACCOUNT:VERSION, in numbers.") from None
    return EntryPlace(ledger, account, version)


def _compared(database: Database, store: Store, progress: _Progress) -> Difference | None:
    with progress_bar(MofNCompleteColumn()) as bar:
        task = bar.add_task("Comparing", total=None)

        def show(total: int) -> None:
            bar.update(task, completed=progress.rows, total=total)

        return asyncio.run(_walk(database, store, progress, show))


async def _walk(
    database: Database, store: Store, progress: _Progress, show: Callable[[int], None]
) -> Difference | None:
    wire = await database.connect_writer()
    try:
        total = await count_entries(wire)
        async with aclosing(compare(wire, store, progress.place)) as steps:
            async for step in steps:
                if step.difference is not None:
                    return step.difference
                progress.place = step.place
                progress.rows += step.rows
                show(total)
    finally:
        await wire.close()
    return None
