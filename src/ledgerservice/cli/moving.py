"""`ledgerservice shards move`: a ledger moves to another database while others go on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn

from ledgerservice.cli.audit import note
from ledgerservice.cli.data import check_schema
from ledgerservice.cli.output import AsJson, progress_bar, report
from ledgerservice.errors import ConfigurationError
from ledgerservice.feed.stores import store_of
from ledgerservice.postgres.connections import Database, explained
from ledgerservice.postgres.moving import aborting, mover
from ledgerservice.postgres.sharding.databases import databases_of
from ledgerservice.postgres.sharding.identity import MAIN, identity_of
from ledgerservice.postgres.sharding.stores import stores_of
from ledgerservice.runtime import opened_database
from ledgerservice.settings import Settings


def move(
    ledger: Annotated[str, typer.Argument(help="Name of the ledger.")],
    shard: Annotated[
        str | None, typer.Argument(help="Where it goes: main, or a name in LEDGER_SHARDS.")
    ] = None,
    abort: Annotated[
        bool, typer.Option("--abort", help="Take back a move that has not reached its target.")
    ] = False,
    publishers: Annotated[
        list[str] | None,
        typer.Option(
            "--publisher",
            help="Wait until this target, as of `publish`, has all events of the former home. "
            "It may be given several times.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Move LEDGER to SHARD while all others go on. If it ends, run the same command again.

    For the last part LEDGER takes no requests: they get 503, and can be sent again.
    """
    if (shard is None) != abort:
        raise ConfigurationError("Name the shard that the ledger goes to, or use --abort.")
    with _shards(Settings.load()) as shards, _progress() as progress, explained():
        if shard is None:
            left = aborting.abort(shards, ledger, progress)
            _note(shards, "abort_move", ledger)
            text, facts = f"{ledger} stays on {left.shard}.{_unseen(left)}", left._asdict()
        else:
            moved = mover.move(shards, ledger, shard, progress, _late(publishers or []))
            _note(shards, "move_ledger", f"{ledger} {shard}")
            text = f"{ledger} is on {shard}: {moved.rows:,} rows copied, "
            text += f"no requests for {moved.paused_s:.1f} s."
            facts = moved._asdict()
    report(text, as_json=as_json, name=ledger, **facts)


def _unseen(left: aborting.Abandoned) -> str:
    if not left.not_seen:
        return ""
    names = ", ".join(left.not_seen)
    return f" {names} could not be used: a copy that is there is removed by the same command later."


def _note(shards: Mapping[str, Database], action: str, subject: str) -> None:
    with shards[MAIN].owner_engine().begin() as connection:
        note(connection, action, subject)


@contextmanager
def _shards(settings: Settings) -> Iterator[dict[str, Database]]:
    """The database of each shard, of which a connection raises WrongDatabase if it is another."""
    with opened_database(settings, create=False) as (main, _), explained():
        check_schema(main)
        with main.owner_engine().begin() as connection:
            identity = identity_of(connection)
        shards = {MAIN: main, **databases_of(settings)}
        if identity is not None:
            shards = {
                name: replace(database, identity=identity._replace(shard=name))
                for name, database in shards.items()
            }
        yield shards


def _late(urls: Sequence[str]) -> mover.Late:
    """Which of the targets do not have everything of a shard up to an id."""

    def late(shard: str, last_id: int) -> list[str]:
        named = urls if shard == MAIN else [stores_of(url, shard) for url in urls]
        return [name for name, published in map(_published, named) if published < last_id]

    return late


def _published(url: str) -> tuple[str, int]:
    """The address of a target, without passwords, and the id up to which it has everything."""
    with closing(store_of(url, "--publisher")) as store:
        published = store.open()
        return store.name, 0 if published is None else published.id


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    with progress_bar(MofNCompleteColumn()) as bar:
        task = bar.add_task("Beginning", total=None)
        yield lambda step, done, of: bar.update(task, description=step, completed=done, total=of)
